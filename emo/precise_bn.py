"""BatchNormalization's statistics, taken anew from photos as they are."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

PHOTOS, BATCH = 2048, 64


class PreciseBatchNorm(keras.callbacks.Callback):
    """Before each validation, statistics that fit the weights as they then are, and pictures as they come.

    The moving ones of training lag behind the weights, know nothing of their average, and are of augmented
    pictures. These are the mean over batches of `PHOTOS` of the `inputs` of `model`, (n, …), drawn by `seed`:
    Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", sections 3 and 5. Training itself, which uses each
    batch's own, is as without. `model` is one layer behind the other, a backbone being one. Nothing happens
    where no BatchNormalization learns.
    """

    def __init__(self, model: keras.Model, inputs: np.ndarray, seed: int):
        super().__init__()
        normalizing = [place for place, layer in enumerate(model.layers) if _learning(layer)]
        learning = [norm for place in normalizing for norm in _learning(model.layers[place])]
        self._statistics = [
            statistic for norm in learning for statistic in (norm.moving_mean, norm.moving_variance)
        ]
        if not learning:
            return
        chosen = np.random.default_rng(seed).permutation(len(inputs))[:PHOTOS]
        # a short last batch would count as much as a whole one
        batches = np.split(chosen, range(BATCH, len(chosen), BATCH))
        self._inputs, self._batches = inputs, [b for b in batches if len(b) == len(batches[0])]
        # without the head, whose dropout would draw numbers that training is to draw
        x = pictures = keras.Input(model.input_shape[1:], dtype=model.input.dtype)
        for layer in model.layers[1 : normalizing[-1] + 1]:
            x = layer(x)
        body = keras.Model(pictures, x)
        spec = tf.TensorSpec((None, *pictures.shape[1:]), pictures.dtype)
        momenta = [norm.momentum for norm in learning]
        for norm in learning:
            norm.momentum = 0.0  # in this graph: what a batch leaves is its own
        self._normalize = tf.function(lambda batch: body(batch, training=True)).get_concrete_function(spec)
        for norm, momentum in zip(learning, momenta, strict=True):
            norm.momentum = momentum

    def on_test_begin(self, logs=None):
        if not self._statistics:
            return
        sums = [np.zeros(statistic.shape) for statistic in self._statistics]
        for batch in self._batches:
            self._normalize(tf.cast(self._inputs[np.sort(batch)], self._normalize.inputs[0].dtype))
            for total, statistic in zip(sums, self._statistics, strict=True):
                total += statistic.numpy()
        for total, statistic in zip(sums, self._statistics, strict=True):
            statistic.assign(total / len(self._batches))


def _learning(layer: keras.Layer) -> list[layers.BatchNormalization]:
    """The BatchNormalization layers in it, or itself, that are not frozen."""
    inner = layer.layers if isinstance(layer, keras.Model) else [layer]
    return [each for each in inner if isinstance(each, layers.BatchNormalization) and each.trainable]
