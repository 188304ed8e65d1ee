"""The optimizer and the loss that an experiment names."""

from __future__ import annotations

import keras

from emo.experiments import Experiment


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
        optimizer = keras.optimizers.SGD(rate, momentum=e.momentum, **average)
    elif e.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, **average)
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=e.weight_decay, **average)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])  # they multiply no input
    # each fit() would end with the average in the weights' place, also one that another is to go on from
    optimizer.finalize_variable_values = lambda variables: None
    return optimizer


def build_loss(experiment: Experiment) -> keras.losses.Loss:
    """Cross-entropy of probabilities and one-hot labels, smoothed as the experiment says."""
    return keras.losses.CategoricalCrossentropy(label_smoothing=experiment.label_smoothing)
