"""The optimizer and the loss that an experiment names."""

from __future__ import annotations

import keras
from keras import ops

from emo.experiments import Experiment


class _WarmingUp:
    """The moving average of the weights warms up: at step t it keeps min(ema, (1 + t) / (10 + t)) of itself.

    As in `tf.train.ExponentialMovingAverage(num_updates=t)`: it then reaches back over the last ninth of the
    steps at most, and does not hold on to a random start where a run is short.
    """

    @property
    def ema_momentum(self):
        step = ops.cast(self.iterations, "float32")
        return ops.minimum(self._ema_momentum, (1 + step) / (10 + step))

    @ema_momentum.setter
    def ema_momentum(self, value: float):
        self._ema_momentum = value


class SGD(_WarmingUp, keras.optimizers.SGD):
    """Keras's, its average warming up."""


class Adam(_WarmingUp, keras.optimizers.Adam):
    """Keras's, its average warming up."""


class AdamW(_WarmingUp, keras.optimizers.AdamW):
    """Keras's, its average warming up."""


def build_optimizer(experiment: Experiment, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer that the experiment names, with its numbers and its learning rate's schedule."""
    e, rate = experiment, experiment.learning_rate
    if e.schedule == "cosine":
        warmup = round(e.warmup_epochs * steps_per_epoch)
        steps = max(1, e.epochs * steps_per_epoch - warmup)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate, steps, warmup_target=rate if warmup else None, warmup_steps=warmup
        )
    average = {"use_ema": True, "ema_momentum": e.ema} if e.ema else {}
    if e.optimizer == "sgd":
        optimizer = SGD(rate, momentum=e.momentum, **average)
    elif e.optimizer == "adam":
        optimizer = Adam(rate, **average)
    else:
        optimizer = AdamW(rate, weight_decay=e.weight_decay, **average)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])  # they multiply no input
    # each fit() would end with the average in the weights' place, also one that another is to go on from
    optimizer.finalize_variable_values = lambda variables: None
    return optimizer


def build_loss(experiment: Experiment) -> keras.losses.Loss:
    """Cross-entropy of probabilities and one-hot labels, smoothed as the experiment says."""
    return keras.losses.CategoricalCrossentropy(label_smoothing=experiment.label_smoothing)
