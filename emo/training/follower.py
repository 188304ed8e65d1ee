"""The processes beside the first one of a run on several machines: they compute, and write nothing."""

from __future__ import annotations

import keras
import numpy as np

from emo.training.checkpoint import Progress, take_up
from emo.training.plan import Plan


class Follower(keras.callbacks.Callback):
    """Begins, goes on and stops as the first process's Recorder does.

    `resumed_at` is the (epoch, step) of the unfinished run that it takes up, and `epochs` its curve.
    """

    def __init__(self, plan: Plan):
        super().__init__()
        said = take_up([*plan.trainer.variables, *plan.trainer.optimizer.variables], None, None)
        progress = Progress.read(said) if said else None
        self.epochs = progress.epochs if progress else []
        self.diverged = False
        self.resumed_at = (progress.epoch, progress.step) if progress else (0, 0)

    def on_epoch_end(self, epoch, logs=None):
        if np.isfinite([logs["loss"], logs["val_loss"]]).all():
            self.epochs.append({"epoch": epoch + 1})
        else:
            self.diverged = self.model.stop_training = True

    def settle(self) -> None:
        """Nothing was begun to be written."""
