"""What to change, told while a run is made and while it trains."""

from __future__ import annotations

import math

import numpy as np

from emo.experiments import Experiment

FEW = 5000  # photos: with fewer, weights that know faces did better (`tools.bench.small_data`)


def few_photos_hint(experiment: Experiment, photos: int) -> str:
    """One sentence where so many photos are few for the weights that a run starts from; "" else."""
    if photos >= FEW or experiment.weights not in (None, "imagenet"):
        return ""
    start = "a random start" if experiment.weights is None else "ImageNet's weights"
    return (
        f"{photos:,} training photos are few for {start}: the recipe finetune_mini starts from weights "
        "that know faces."
    )


def random_start_hint(experiment: Experiment) -> str:
    """One sentence where layers that start from random numbers stay frozen; "" else."""
    if experiment.weights is not None or experiment.unfreeze == "all":
        return ""
    return "weights=None: the frozen layers keep their random numbers; set unfreeze='all', or give weights."


def chance_hint(
    experiment: Experiment,
    epoch: int,
    best: float,
    train_accuracy: float,
    val_labels: np.ndarray,
) -> str:
    """One sentence after half of the epochs where validation is no better than chance; "" else.

    `epoch` (from 1) has just ended; `best` is the best validation accuracy so far, `train_accuracy` this
    epoch's, both fractions; `val_labels` are one-hot. Chance is the share of the largest class, and no better
    is within its one-sided 95% interval.
    """
    e = experiment
    if e.epochs < 2 or epoch != math.ceil(e.epochs / 2):
        return ""
    chance = float(val_labels.mean(axis=0).max())
    margin = 1.645 * math.sqrt(chance * (1 - chance) / len(val_labels))
    if best > chance + margin:
        return ""
    if train_accuracy > chance + margin:
        told = "the training photos are told apart better"
        advice = f"{told}: take more photos, or the recipe finetune_mini, whose weights know faces"
        advice += "" if e.augment or e.use_augmented_copy else ", or augment=True"
    elif e.unfreeze == "none" and e.weights:
        advice = "the frozen layers may not fit these photos: try the recipe finetune, which trains them too"
    else:
        advice = (
            f"it does not learn yet: try learning_rate={e.learning_rate / 10:.0e} or "
            f"{e.learning_rate * 10:.0e}, more epochs, or the recipe finetune_mini, whose weights know faces"
        )
    return (
        f"After {epoch} of {e.epochs} epochs validation accuracy is {best:.1%} at best, no better than "
        f"chance ({chance:.1%}): {advice}."
    )
