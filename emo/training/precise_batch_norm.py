"""BatchNormalization's statistics, computed again before each validation."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from emo.backend import normalizing
from emo.training.batches import Batches

PHOTOS = 2048


class PreciseBatchNorm(keras.callbacks.Callback):
    """Statistics that fit the weights as they are when validation begins, and unaugmented training images.

    The moving ones of training lag behind the weights, know nothing of their average, and are of augmented
    pictures. These are the mean and variance over batches of `PHOTOS` of the first view of `train_set`, drawn
    by its seed: PreciseBN of Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm". Training itself, which
    uses each batch's own, is as without.

    `model` is one layer behind the other, a backbone being one, and takes what that view holds. Nothing
    happens where no BatchNormalization learns.
    """

    def __init__(self, model: keras.Model, train_set: Batches):
        super().__init__()
        learning = [_learning(layer) for layer in model.layers]
        last = max((place for place, norms in enumerate(learning) if norms), default=0)
        self.norms = [norm for norms in learning for norm in norms]
        if not self.norms:
            return
        self._inputs, size = train_set.views[0], train_set.batch_size
        chosen = np.random.default_rng(train_set.seed).permutation(len(self._inputs))[:PHOTOS]
        whole = max(size, len(chosen) - len(chosen) % size)  # a short batch would count as much as the others
        self._batches = [np.sort(chosen[start : start + size]) for start in range(0, whole, size)]
        # without the head, whose dropout would draw numbers that training is to draw
        x = pictures = keras.Input(model.input_shape[1:], dtype=model.input.dtype)
        for layer in model.layers[1 : last + 1]:
            x = layer(x)
        kept = [norm.moving_mean for norm in self.norms] + [norm.moving_variance for norm in self.norms]
        self._statistics = normalizing(keras.Model(pictures, x), kept)

    def on_test_begin(self, logs=None):
        if not self.norms:
            return
        _ = self.model  # Keras on JAX then brings its variables up to date
        momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0  # when the function is compiled: what a batch leaves is its own
        # read when all are computed: a GPU would stand still for each
        found = [self._statistics(self._inputs[batch]) for batch in self._batches]
        means, variances = np.split(np.stack([np.asarray(each, np.float64) for each in found]), 2, axis=1)
        mean = means.mean(axis=0)
        variance = np.maximum((variances + means**2).mean(axis=0) - mean**2, 0.0)
        ends = np.cumsum([norm.moving_mean.shape[0] for norm in self.norms])[:-1]
        parts = zip(self.norms, momenta, np.split(mean, ends), np.split(variance, ends), strict=True)
        for norm, momentum, its_mean, its_variance in parts:
            norm.momentum = momentum
            norm.moving_mean.assign(its_mean)
            norm.moving_variance.assign(its_variance)


def _learning(layer: keras.Layer) -> list[layers.BatchNormalization]:
    """The BatchNormalization layers in it, or itself, that are not frozen."""
    inner = layer.layers if isinstance(layer, keras.Model) else [layer]
    return [each for each in inner if isinstance(each, layers.BatchNormalization) and each.trainable]
