"""Follows `fit`: what it leaves goes to those that write it, and into the table when the run ends."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

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
from emo.training.checkpoint import (
    BestModel,
    Progress,
    RunState,
    find_states,
    first_line,
    run_key,
    run_of,
    take_up,
)
from emo.training.claim import Claim, claims
from emo.training.hints import chance_hint
from emo.training.plan import Plan
from emo.training.run import Outcome, Run
from emo.training.run_files import RunFiles, clear_leftovers, keep_model, saved_accuracy


class Recorder(keras.callbacks.Callback):
    """Keeps a run's history, its best model, its curve and its state, and logs it.

    Where there is the state of an unfinished run of the same plan, it is restored, and `resumed_at` is its
    (epoch, step). The run is claimed until `finish` or `discard`; `close` gives up what neither has ended.
    Raises UserError where that state does not fit, and where another process trains the same.
    """

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan, self.key, self.started = plan, run_key(plan), time.monotonic() - plan.seconds
        self.epochs: list[dict[str, float]] = []
        self.best, self.resumed_at, self.diverged = -1.0, (0, 0), False
        self.done, self.means = 0, {}  # steps of this epoch before it was cut short, their mean metrics
        self.files: RunFiles | None = None
        self.claim = Claim(plan.paths.model, self.key)
        try:
            self._begin()
        except BaseException:
            if self.files and not self.files.model.stat().st_size:
                self.files.discard()
            self.claim.give_back()
            raise
        self.metadata = self._metadata()

    def _begin(self) -> None:
        """Takes up what a run of the same plan has left, or reserves new files."""
        plan, trainer = self.plan, self.plan.trainer
        folder = plan.paths.model
        clear_leftovers(folder, {holder.model_file for _, holder in claims(folder) if holder} - {""})
        self.curve = LiveCurve(f"{plan.experiment.title} · {plan.experiment.image_size} px")
        self.writer = Writer(spare=["state"])
        variables = [*trainer.variables, *trainer.optimizer.variables]
        states, damaged = find_states(folder, self.key)
        progress, arrays = None, None
        for file, said in states:
            self.state = RunState(folder / said.model_file, variables, self.writer)
            try:
                arrays = self.state.read(file) if self._within_plan(said) else None
            except Exception as error:  # as in find_states
                damaged[file] = first_line(error)
                continue
            if arrays is None:
                raise UserError(
                    f"The run of {said.began:%Y-%m-%d %H:%M} cannot be resumed here: it was computed in "
                    "another precision, or its frozen layers' outputs do not fit on this disk; train where "
                    f"it began or, {start_over(folder / said.model_file)}."
                )
            progress = said
            break
        if progress:
            self.claim.name(progress.model_file, progress.began)
            self.files = RunFiles.resume(folder, progress.model_file, progress.began)
        else:
            self.files = self._new_files(damaged)
            self.state = RunState(self.files.model, variables, self.writer)
        take_up(variables, progress, arrays)
        self.best_model = BestModel(plan.network, self.files.model, trainer.weights, self.writer)
        if progress:
            self._go_on(progress)

    def _within_plan(self, progress: Progress) -> bool:
        if progress.epoch >= self.plan.experiment.epochs or progress.step >= len(self.plan.train_set):
            raise ValueError("it is beyond the end of the run")
        return True

    def _new_files(self, damaged: dict[Path, str]) -> RunFiles:
        """Those of a run that begins: of one that was killed before its first state the same names again."""
        folder, before = self.plan.paths.model, self.claim.before
        name = before.model_file if before else ""
        mine = [file for file in damaged if run_of(file) == name]
        if name and not mine:
            began = datetime.fromisoformat(before.date)
            self.claim.name(name, began)
            return RunFiles.new(folder, name, began)
        files = RunFiles.reserve(self.plan.experiment, folder, self.claim.name)
        alike = files.model.name.split("_", 4)[4]  # without the date
        for file in mine or [file for file in damaged if run_of(file).endswith(alike)]:
            print(f"{file.name} is damaged ({damaged[file]}): the run that it is of cannot go on.")
        if mine:
            keep_model(folder / name)
            RunFiles(folder / name, files.date).discard()
            for file in mine:
                file.unlink(missing_ok=True)
        return files

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

    def _go_on(self, progress: Progress) -> None:
        """From the state that was restored."""
        self.epochs, self.done, self.means = progress.epochs, progress.step, progress.means
        self.resumed_at, self.started = (progress.epoch, progress.step), self.started - progress.seconds
        saved = saved_accuracy(self.files.model)
        if progress.best >= 0 and saved is not None:
            # a disk that refused the better model may have taken the state behind it
            self.best, self.best_model.saved = min(progress.best, saved), read_metadata(self.files.model)
        print(
            f"Resuming the run of {progress.began:%Y-%m-%d %H:%M} in epoch {progress.epoch + 1} of "
            f"{self.plan.experiment.epochs} ({start_over(self.files.model)})."
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
        if self.claim.lost_to:
            self.writer.abandon()
            self.claim.check()
        if self.state.due and batch + 1 < self.params["steps"]:
            self._save_state(self.done + batch + 1, self._epoch_means(logs, batch + 1))

    def on_epoch_end(self, epoch, logs=None):
        logs |= self._epoch_means(
            logs, self.params["steps"]
        )  # in place: later callbacks see all of the epoch
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            self.diverged = self.model.stop_training = True
            return  # a broken epoch has no place in the curve, nor its weights in a file
        accuracy = float(logs["val_accuracy"])
        if accuracy > self.best:
            self.best_model.save(self.metadata | {"val_accuracy": accuracy, "best_epoch": epoch + 1})
            self.best = accuracy
        self.epochs.append({"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()})
        self.curve.update(self.history, self.files.curve)
        hint = chance_hint(
            self.plan.experiment,
            epoch + 1,
            self.best,
            float(logs["accuracy"]),
            self.plan.val_set.labels,
        )
        if hint:
            print(f"\n{hint}")  # below the progress bar

    def _epoch_means(self, logs: dict[str, float], steps: int) -> dict[str, float]:
        """Over this epoch's steps before it was cut short and the `steps` after, of which `logs` are."""
        done, before = self.done, self.means
        return {
            name: (done * before.get(name, 0.0) + steps * float(logs[name])) / (done + steps)
            for name in ("loss", "accuracy")
        }

    def _save_state(self, step: int, means: dict[str, float]) -> None:
        _ = self.model  # Keras on JAX then brings the variables up to date
        self.state.save(
            Progress(
                key=self.key,
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

    def settle(self) -> None:
        """Waits until what was begun to be written is."""
        self.writer.close()

    def discard(self) -> None:
        """Removes what the run has left."""
        self.state.remove()
        self.files.discard()
        self.claim.release()

    def close(self) -> None:
        """Another process may go on with what neither `finish` nor `discard` has ended."""
        self.claim.leave()

    def finish(self, outcome: Outcome) -> Run:
        """Names the files and logs the run by what the model file holds: a write may have been cut short."""
        self.claim.check()
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
        self.claim.release()
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


def start_over(model: Path) -> str:
    """How a user has a run begin again that would go on."""
    return f"to start over, delete {model.stem}.* in {model.parent}"


def relabelling(train_photos: pd.DataFrame, val_photos: pd.DataFrame) -> str:
    """How many labels `data/relabel.csv` changed, for the table; "" where none."""
    train, val = (int((photos["given"] != photos["label"]).sum()) for photos in (train_photos, val_photos))
    return f"relabel.csv: {train} training and {val} validation labels" if train or val else ""
