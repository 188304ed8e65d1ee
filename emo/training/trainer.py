"""What `fit` trains: a network behind its augmentation, perhaps beside a teacher."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from emo.models.augmentation import RandomAugmentation


class Trainer(keras.Model):
    """`network` as `Batches` feed it. It shares the network's weights and has none of its own.

    With `augmentation` its inputs are (pictures, draws) or (pictures, draws, mixtures), else pictures or
    cached features. `soft_labels` turns the pictures that the network sees into a teacher's probabilities,
    (n, classes); they make up `teacher_weight` of what the loss takes for the label, the label the rest.
    Metrics, and the loss in validation, know the labels alone.
    """

    def __init__(
        self,
        network: keras.Model,
        augmentation: RandomAugmentation | None = None,
        soft_labels: Callable | None = None,
        teacher_weight: float = 0.0,
    ):
        # the network's policy, by which `compile` sees that float16 needs its loss scaled; but no cast of
        # the inputs: half precision would round the draws, and features are float16 already
        super().__init__(dtype=network.dtype_policy, autocast=False)
        self.network, self.augmentation = network, augmentation
        self.soft_labels, self.teacher_weight = soft_labels, teacher_weight

    def call(self, inputs, training=False):
        pictures = self.augmentation(*inputs, training=training) if self.augmentation else inputs
        probabilities = self.network(pictures, training=training)
        if training and self.soft_labels:
            return probabilities, ops.stop_gradient(self.soft_labels(pictures))
        return probabilities

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training and self.soft_labels:
            y_pred, soft = y_pred
            y = y + self.teacher_weight * (soft - y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        probabilities = y_pred[0] if isinstance(y_pred, (tuple, list)) else y_pred
        if sample_weight is not None:  # whatever photos weigh in the loss, each counts as one, or not at all
            sample_weight = ops.cast(ops.greater(sample_weight, 0), "float32")
        return super().compute_metrics(x, y, probabilities, sample_weight)
