"""Follows `fit`: what it leaves goes to those that write it, and into the table when the run ends."""

from __future__ import annotations

import time
from dataclasses import asdict

import h5py
import keras
import numpy as np
import pandas as pd

from emo.environment import git_commit, versions
from emo.errors import UserError
from emo.models.backbones import get_backbone
from emo.models.saving import read_metadata
from emo.plots.curves import LiveCurve
from emo.tracking.run_row import run_row
from emo.tracking.table import log_run
from emo.training.async_writer import Writer
from emo.training.checkpoint import BestModel, Progress, RunState, find_state, run_key, this_process
from emo.training.plan import Plan
from emo.training.run import Outcome, Run
from emo.training.run_files import RunFiles


class Recorder(keras.callbacks.Callback):
    """Keeps a run's history, its best model, its curve and its state, and logs it.

    Where there is the state of an unfinished run of the same plan, it is restored, and `resumed_at` is its
    (epoch, step). Raises UserError where that state does not fit.
    """

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan, self.key, self.started = plan, run_key(plan), time.monotonic() - plan.seconds
        self.epochs: list[dict[str, float]] = []
        self.best, self.resumed_at = -1.0, (0, 0)
        self.done, self.means = 0, {}  # steps of this epoch before it was cut short, their mean metrics
        found = find_state(plan.paths.model, self.key)
        if found:
            _, progress = found
            self.files = RunFiles.resume(plan.paths.model, progress.model_file, progress.began)
        else:
            self.files = RunFiles.reserve(plan.experiment, plan.paths.model)
        self.curve = LiveCurve(f"{plan.experiment.name}: {plan.experiment.backbone}")
        self.writer = Writer()
        trainer = plan.trainer
        self.best_model = BestModel(plan.network, self.files.model, trainer.weights, self.writer)
        variables = [*trainer.variables, *trainer.optimizer.variables]
        self.state = RunState(self.files.model, variables, self.writer)
        if found:
            self._resume(*found)
        self.metadata = self._metadata()

    def _metadata(self) -> dict:
        """What a `.h5` must tell to be used and judged without our table."""
        e = self.plan.experiment
        return {
            "class_names": self.plan.class_names,
            "image_size": e.image_size,
            "preprocessing": f"inside the model ({get_backbone(e.backbone).preprocessing}); "
            "feed RGB in 0–255",
            "experiment": asdict(e),
            "computed_in": self.plan.network.dtype_policy.name,
            "date": self.files.date.isoformat(timespec="seconds"),
            "versions": versions(),
            "commit": git_commit(),
        }

    def _resume(self, file, progress: Progress) -> None:
        began, folder = f"{progress.began:%Y-%m-%d %H:%M}", self.plan.paths.model
        anew = f"to begin anew, delete {self.files.model.stem}.* in {folder}"
        if not self.state.restore(file):
            raise UserError(
                f"The run of {began} cannot go on here: it was computed in another precision, or its frozen "
                f"layers' outputs do not fit on this disk; train where it began or, {anew}."
            )
        self.epochs, self.done, self.means = progress.epochs, progress.step, progress.means
        self.resumed_at, self.started = (progress.epoch, progress.step), self.started - progress.seconds
        if progress.best >= 0 and self.files.model.is_file() and h5py.is_hdf5(self.files.model):
            self.best, self.best_model.saved = progress.best, read_metadata(self.files.model)
        print(
            f"Going on with the run of {began} in epoch {progress.epoch + 1} of "
            f"{self.plan.experiment.epochs} ({anew})."
        )

    @property
    def history(self) -> pd.DataFrame:
        """A row per complete epoch, from 1 on."""
        return pd.DataFrame(self.epochs).set_index("epoch")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if epoch != self.resumed_at[0]:
            self.done, self.means = 0, {}
        if self.done == 0 and self.state.due:  # at an epoch's end the weights may be their average
            self._save_state(0, {})

    def on_train_batch_end(self, batch, logs=None):
        if self.state.due and batch + 1 < self.params["steps"]:
            self._save_state(self.done + batch + 1, self._epoch_means(logs, batch + 1))

    def on_epoch_end(self, epoch, logs=None):
        logs = logs | self._epoch_means(logs, self.params["steps"])
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            self.model.stop_training = True
            return  # a broken epoch has no place in the curve, nor its weights in a file
        accuracy = float(logs["val_accuracy"])
        if accuracy > self.best:
            self.best_model.save(self.metadata | {"val_accuracy": accuracy, "best_epoch": epoch + 1})
            self.best = accuracy
        self.epochs.append({"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()})
        self.curve.update(self.history, self.files.curve)

    def _epoch_means(self, logs: dict[str, float], steps: int) -> dict[str, float]:
        """Over this epoch's steps before it was cut short and the `steps` after, of which `logs` are."""
        done, before = self.done, self.means
        return {
            name: (done * before.get(name, 0.0) + steps * float(logs[name])) / (done + steps)
            for name in ("loss", "accuracy")
        }

    def _save_state(self, step: int, means: dict[str, float]) -> None:
        self.state.save(
            Progress(
                key=self.key,
                process=this_process(),
                date=self.files.date.isoformat(),
                model_file=self.files.model.name,
                seconds=time.monotonic() - self.started,
                epoch=self.epoch,
                step=step,
                means=means,
                epochs=self.epochs,
                best=self.best,
            )
        )

    def discard(self) -> None:
        """Removes what the run has left."""
        self.state.remove()
        self.files.discard()

    def finish(self, outcome: Outcome) -> Run:
        """Names the files and logs the run by what the model file holds: a write may have been cut short."""
        seconds = time.monotonic() - self.started
        accuracy, best_epoch = (self.best_model.saved[key] for key in ("val_accuracy", "best_epoch"))
        running, self.files = self.files, self.files.finish(accuracy)
        self.curve.draw(self.history, self.files.curve)
        row = run_row(
            self.plan.experiment,
            began=self.files.date,
            val_accuracy=accuracy,
            curve=self.files.curve.relative_to(self.plan.paths.results),
            model=self.files.model,
            state=str(outcome),
            seconds=seconds,
            versions=self.metadata["versions"],
            commit=self.metadata["commit"],
            comment=relabelling(self.plan.train_photos, self.plan.val_photos),
        )
        number = log_run(row, self.plan.paths)
        running.curve.unlink(missing_ok=True)
        self.state.remove()  # last: what fails before can be done again
        return Run(
            number,
            self.history,
            accuracy,
            best_epoch,
            self.files.model,
            self.files.curve,
            seconds,
            outcome,
        )


def relabelling(train_photos: pd.DataFrame, val_photos: pd.DataFrame) -> str:
    """How many labels `data/relabel.csv` changed, for the table; "" where none."""
    train, val = (int((photos["given"] != photos["label"]).sum()) for photos in (train_photos, val_photos))
    return f"relabel.csv: {train} training and {val} validation labels" if train or val else ""
