"""A run that learns from a finished model's answers as well as from the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.augmentation import RandomAugmentation
from emo.models.h5_loader import load_model


def load_teacher(experiment: Experiment, class_names: Sequence[str]) -> keras.Model:
    """The experiment's. Raises UserError where it does not open, or does not fit the photos or the run."""
    teacher, metadata = load_model(experiment.teacher)
    said = f"teacher={experiment.teacher!r}"
    known = tuple(metadata.get("class_names", ()))
    if known != tuple(class_names):
        raise UserError(
            f"{said} answers with {', '.join(known) or 'classes that it does not name'}, the photos have "
            f"{', '.join(class_names)}: give a model that was trained here on the same classes."
        )
    margin = metadata.get("experiment", {}).get("face_margin")
    if margin != experiment.face_margin:
        raise UserError(
            f"{said} was trained with face_margin={margin}, this run has {experiment.face_margin}: both must "
            "see the same of a photo, so give them the same."
        )
    return teacher


class Student(keras.Model):
    """A model of `inputs` and `outputs` that in training has its labels shared with a teacher.

    `teach` turns a batch's inputs into the teacher's probabilities, (n, classes). They make up `weight` of
    what the loss takes for the label, the label the rest: that is Hinton, Vinyals and Dean 2015 at
    temperature 1. Metrics, and the loss in validation, know the labels alone.
    """

    def __init__(self, inputs, outputs, teach: Callable, weight: float):
        super().__init__(inputs, outputs)
        self.teach, self.weight = teach, weight

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            y = y + self.weight * (ops.stop_gradient(self.teach(x)) - y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)


def with_teacher(
    trainer: keras.Model, layer: RandomAugmentation | None, teacher: keras.Model, weight: float
) -> Student:
    """`trainer`, which augments by `layer`, taught by `teacher`, whose layers are no part of the result.

    The teacher sees each picture as the student does, augmented alike ("consistent", Beyer et al. 2022), in
    its own size.
    """
    size = teacher.input_shape[1:3]

    def teach(inputs):
        pictures = inputs if layer is None else layer(*inputs, training=True)
        pictures = ops.cast(pictures, "float32")
        if tuple(pictures.shape[1:3]) != size:
            pictures = ops.image.resize(pictures, size, antialias=True)
        return teacher(pictures, training=False)

    return Student(trainer.input, trainer.output, teach, weight)
