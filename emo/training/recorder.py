"""What a run leaves on disk while it trains, and its row when it ends."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd

from emo.environment import device_name, git_commit, versions
from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.backbones import get_backbone
from emo.models.saving import read_metadata
from emo.paths import Paths
from emo.plots.curves import LiveCurve
from emo.tracking import table as runlog
from emo.training.async_writer import Writer
from emo.training.checkpoint import Checkpoint, Progress, RunState, find_state, this_process


@dataclass(frozen=True)
class Run:
    """One finished, stopped or failed training. Accuracies are fractions; `history` has a row an epoch."""

    number: int
    history: pd.DataFrame
    val_accuracy: float
    best_epoch: int
    model_path: Path
    curve_path: Path
    seconds: float
    state: str

    def __str__(self) -> str:
        return (
            f"Run {self.number} {self.state}: validation accuracy {self.val_accuracy:.1%} "
            f"(epoch {self.best_epoch} of {len(self.history)}), {self.seconds:.0f} s, {self.model_path.name}"
        )


class Recorder(keras.callbacks.Callback):
    """Keeps the best model, the curve and the run's state on disk, then names them and logs the run.

    `trainer` is what is fitted, it shares `network`'s layers. Where there is a state of an unfinished run of
    that `key`, it is restored, and `resumed_at` is its (epoch, step). `started` is on `time.monotonic`.
    """

    def __init__(
        self,
        network: keras.Model,
        trainer: keras.Model,
        experiment: Experiment,
        names: tuple[str, ...],
        paths: Paths,
        key: str,
        started: float,
    ):
        super().__init__()
        self.network, self.experiment, self.paths = network, experiment, paths
        self.key, self.started, self.comment = key, started, ""
        self.epochs: list[dict[str, float]] = []
        self.best, self.resumed_at, self.before, self.means = -1.0, (0, 0), 0, {}
        found = find_state(paths.model, key)
        if found:
            progress = found[1]
            self.date, self.running = datetime.fromisoformat(progress.date), paths.model / progress.model_file
        else:
            self.date, self.running = reserve(experiment, paths)
        self.curve = LiveCurve(f"{experiment.name}: {experiment.backbone}")
        self.writer = Writer()
        self.checkpoint = Checkpoint(network, self.running, trainer.weights, self.writer)
        variables = [*trainer.variables, *trainer.optimizer.variables]
        self.state = RunState(self.running, variables, self.writer)
        if found:
            self._resume(*found)
        # what a `.h5` must tell to be used and judged without our table
        self.story = {
            "class_names": names,
            "image_size": experiment.image_size,
            "preprocessing": f"inside the model ({get_backbone(experiment.backbone).preprocessing}); "
            "feed RGB in 0–255",
            "experiment": asdict(experiment),
            "computed_in": network.dtype_policy.name,
            "date": self.date.isoformat(timespec="seconds"),
            "versions": versions(),
            "commit": git_commit(),
        }

    def _resume(self, file: Path, progress: Progress) -> None:
        anew = f"to begin anew, delete {self.running.stem}.* in {self.paths.model}"
        if not self.state.restore(file):
            raise UserError(
                f"The run of {self.date:%Y-%m-%d %H:%M} cannot go on here: it was computed in another "
                "precision, or its frozen layers' outputs do not fit on this disk; train where it began or, "
                f"{anew}."
            )
        self.epochs, self.before, self.means = progress.epochs, progress.step, progress.means
        self.resumed_at, self.started = (progress.epoch, progress.step), self.started - progress.seconds
        for finished in self.paths.model.glob(f"{self.running.stem.removesuffix('_running')}_acc*.h5"):
            finished.rename(self.running)  # the run came to its end, but not into the table
        if progress.best >= 0 and self.running.is_file() and h5py.is_hdf5(self.running):
            self.best, self.checkpoint.saved = progress.best, read_metadata(self.running)
        print(
            f"Going on with the run of {self.date:%Y-%m-%d %H:%M} in epoch {progress.epoch + 1} of "
            f"{self.experiment.epochs} ({anew})."
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if epoch != self.resumed_at[0]:
            self.before, self.means = 0, {}
        if self.before == 0 and self.state.due:  # at an epoch's end the weights may be their average
            self._save_state(0, {})

    def on_train_batch_end(self, batch, logs=None):
        if self.state.due and batch + 1 < self.params["steps"]:
            self._save_state(self.before + batch + 1, self._means(logs, batch + 1))

    def _means(self, logs: dict[str, float], steps: int) -> dict[str, float]:
        """Over this epoch's batches before it was cut short and the `steps` after, of which `logs` are."""
        done, before = self.before, self.means
        return {
            name: (done * before.get(name, 0.0) + steps * float(logs[name])) / (done + steps)
            for name in ("loss", "accuracy")
        }

    def _save_state(self, step: int, means: dict[str, float]) -> None:
        self.state.save(
            Progress(
                key=self.key,
                process=this_process(),
                date=self.date.isoformat(),
                model_file=self.running.name,
                seconds=time.monotonic() - self.started,
                epoch=self.epoch,
                step=step,
                means=means,
                epochs=self.epochs,
                best=self.best,
            )
        )

    def on_epoch_end(self, epoch, logs=None):
        logs = logs | self._means(logs, self.params["steps"])
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            self.model.stop_training = True
            return  # a broken epoch has no place in the curve, nor its weights in a file
        accuracy = float(logs["val_accuracy"])
        if accuracy > self.best:
            self.checkpoint.save(self.story | {"val_accuracy": accuracy, "best_epoch": epoch + 1})
            self.best = accuracy
        self.epochs.append({"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()})
        self.curve.update(self.history, self.running.with_suffix(".png"))

    @property
    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self.epochs).set_index("epoch")

    def discard(self) -> None:
        self.state.remove()
        for file in (self.running, self.running.with_suffix(".png")):
            file.unlink(missing_ok=True)

    def finish(self, state: str) -> Run:
        """Names the files and logs the run by what the file holds: a write may have been cut short."""
        seconds = time.monotonic() - self.started
        accuracy, best_epoch = (self.checkpoint.saved[key] for key in ("val_accuracy", "best_epoch"))
        stem = self.running.stem.removesuffix("_running") + f"_acc{100 * accuracy:.0f}"
        model_path = self.running.rename(self.paths.model / f"{stem}.h5")
        curve_path = self.paths.model / f"{stem}.png"
        self.curve.draw(self.history, curve_path)
        row = self._row(state, seconds, accuracy, model_path, curve_path)
        number = runlog.log_run(row, self.paths)
        self.running.with_suffix(".png").unlink(missing_ok=True)
        self.state.remove()  # last: what fails before can be done again
        return Run(number, self.history, accuracy, best_epoch, model_path, curve_path, seconds, state)

    def _row(self, state: str, seconds: float, accuracy: float, model_path: Path, curve_path: Path) -> dict:
        e = self.experiment
        head = [f"unfrozen: {e.unfreeze}"] if e.unfreeze != "none" else []
        numbers = {
            name: getattr(e, name) for name in ("learning_rate", "momentum", "weight_decay", "average")
        }
        optimizer = [f"{name}={value:g}" for name, value in numbers.items() if value]
        if e.schedule != "constant":
            optimizer.append(e.schedule + (f" after {e.warmup_epochs:g} warm-up" if e.warmup_epochs else ""))
        extras = ("label_smoothing", "balance", "teacher_weight")
        loss = [f"{name}={getattr(e, name):g}" for name in extras if getattr(e, name)]
        return {
            "date": self.date.strftime("%d.%m.%y"),
            "base_model": e.backbone,
            "extra_layers": ", ".join([*head, *e.head, "softmax"]),
            "optimizer": f"{e.optimizer}({', '.join(optimizer)})",
            "loss": e.loss + (f"({', '.join(loss)})" if loss else ""),
            "augmentation": e.augment or e.use_augmented_copy,
            "epochs": e.epochs,
            "val_accuracy": round(100 * accuracy, 1),
            "learning_curve": curve_path.relative_to(self.paths.results).as_posix(),
            "state": state,
            "image_size": e.image_size,
            "batch_size": e.batch_size,
            "seed": e.seed,
            "seconds": round(seconds),
            "device": device_name(),
            "versions": self.story["versions"],
            "commit": self.story["commit"],
            "model_file": model_path.name,
            "settings": e.to_json(),
            "comment": self.comment,
        }


def reserve(experiment: Experiment, paths: Paths) -> tuple[datetime, Path]:
    """The run's date and the `.h5` it writes until its accuracy is known; no other run has that name."""
    date = datetime.now()
    while True:
        stem = (
            f"emo_classificator_best_{date:%y%m%d%H%M%S}_{experiment.backbone}"
            f"_e{experiment.epochs}_aug{int(experiment.augment or experiment.use_augmented_copy)}"
        )
        running = paths.model / f"{stem}_running.h5"
        taken = any(paths.model.glob(f"{stem}_*"))
        if not taken:
            try:
                running.touch(exist_ok=False)
                return date, running
            except FileExistsError:  # another process took it in this instant
                pass
        date += timedelta(seconds=1)
