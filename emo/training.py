"""train(): from an experiment and a dataset to a saved model, its curve and its row in the table."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.keras import TqdmCallback

from emo import plots, runlog
from emo.augment import RandomAffine, augmented_copies
from emo.backbones import get_backbone
from emo.dataset import class_names, training_manifests
from emo.environment import device_name, git_commit, versions
from emo.errors import UserError
from emo.experiments import Experiment
from emo.faces import find_crops
from emo.model import build_model, build_optimizer, save_model
from emo.paths import Paths
from emo.pipeline import Batches, load_images, one_hot

FINISHED = "finished"


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


def train(experiment: Experiment, paths: Paths) -> Run:
    """Trains `experiment` on `paths.train`, validates on `paths.val` or on a part split off from training.

    The model of the best epoch by validation accuracy goes to `model/` with its learning curve, the run
    to the table. Ctrl-C or a NaN loss after the first epoch end the run early and keep both; so does an
    exception, which is raised again. Raises UserError for what the user can mend.
    """
    started = time.monotonic()
    if tf.config.list_physical_devices("GPU"):
        # same seed, same machine → same result: GPU kernels add up in any order unless told otherwise
        tf.config.experimental.enable_op_determinism()
    names = class_names(paths)
    train_files, val_files = training_manifests(paths, seed=experiment.seed)
    if experiment.use_augmented_copy:
        train_files = with_augmented_copy(train_files, paths)
    size, batch, count = experiment.image_size, experiment.batch_size, len(train_files)
    crops = find_crops([*train_files.path, *val_files.path], experiment.face_margin, paths)
    train_set = Batches(
        load_images(train_files.path, size, "reading training photos", crops[:count]),
        one_hot(train_files.label, names),
        batch,
        seed=experiment.seed,
    )
    val_set = Batches(
        load_images(val_files.path, size, "reading validation photos", crops[count:]),
        one_hot(val_files.label, names),
        batch,
    )

    model = build_model(experiment, len(names))
    trainer = keras.Sequential([RandomAffine(experiment.seed), model]) if experiment.augment else model
    trainer.compile(build_optimizer(experiment), loss=experiment.loss, metrics=["accuracy"])

    recorder = Recorder(model, experiment, names, paths)
    state = FINISHED
    failure = None
    try:
        trainer.fit(
            train_set,
            validation_data=val_set,
            epochs=experiment.epochs,
            verbose=0,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: train_set.shuffle(epoch)),
                recorder,
                keras.callbacks.TerminateOnNaN(),
                TqdmCallback(verbose=1, leave=True),
            ],
        )
        if len(recorder.epochs) < experiment.epochs:
            state = f"stopped: the loss became NaN in epoch {len(recorder.epochs) + 1}"
    except KeyboardInterrupt as error:
        state, failure = f"stopped by the user after epoch {len(recorder.epochs)}", error
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        state = f"failed after epoch {len(recorder.epochs)}: {type(error).__name__}: {reason[0][:200]}"
        failure = error
    if not recorder.epochs:
        recorder.discard()
        if failure:
            raise failure
        raise UserError(
            f"The loss became NaN in the first epoch: learning_rate={experiment.learning_rate} is too high "
            f"for {experiment.optimizer}; try a tenth of it."
        )
    run = recorder.finish(state, time.monotonic() - started)
    if failure and not isinstance(failure, KeyboardInterrupt):
        raise failure
    return run


def with_augmented_copy(train_files: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The manifest with the augmented copies of these photos added; copies of validation photos stay out."""
    copies = augmented_copies(train_files, paths)
    if copies.empty:
        raise UserError(
            f"use_augmented_copy=True, but {paths.train_aug} holds no copies of the training photos; "
            "write them with emo_classificator_prep_data.ipynb, or set it to False."
        )
    return pd.concat([train_files, copies], ignore_index=True)


class Recorder(keras.callbacks.Callback):
    """Keeps the best model and the curve on disk as epochs end, then names them and logs the run."""

    def __init__(self, network: keras.Model, experiment: Experiment, names: tuple[str, ...], paths: Paths):
        super().__init__()
        self.network, self.experiment, self.names, self.paths = network, experiment, names, paths
        self.epochs: list[dict[str, float]] = []
        self.best_epoch, self.best = 0, -1.0
        self.date, self.running = _reserve(experiment, paths)
        self.curve = plots.LiveCurve(f"{experiment.name}: {experiment.backbone}")

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            return  # a broken epoch has no place in the curve, nor its weights in a file
        accuracy = float(logs["val_accuracy"])
        if accuracy > self.best:
            # first the file, then what is said of it: a save may be cut short by Ctrl-C or a full disk
            save_model(self.network, self.running, self.metadata(epoch + 1, accuracy))
            self.best, self.best_epoch = accuracy, epoch + 1
        self.epochs.append({"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()})
        self.curve.update(self.history, self.running.with_suffix(".png"))

    @property
    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self.epochs).set_index("epoch")

    def metadata(self, epoch: int, accuracy: float) -> dict:
        """What a `.h5` must tell to be used and judged without our table."""
        return {
            "class_names": self.names,
            "image_size": self.experiment.image_size,
            "preprocessing": f"inside the model ({get_backbone(self.experiment.backbone).preprocessing}); "
            "feed RGB in 0–255",
            "experiment": asdict(self.experiment),
            "val_accuracy": accuracy,
            "best_epoch": epoch,
            "date": self.date.isoformat(timespec="seconds"),
            "versions": versions(),
            "commit": git_commit(),
        }

    def discard(self) -> None:
        self.running.unlink()

    def finish(self, state: str, seconds: float) -> Run:
        stem = self.running.stem.removesuffix("_running") + f"_acc{100 * self.best:.0f}"
        model_path = self.running.rename(self.paths.model / f"{stem}.h5")
        curve_path = self.paths.model / f"{stem}.png"
        plots.save_curve(self.history, self.curve.title, curve_path)
        self.running.with_suffix(".png").unlink(missing_ok=True)
        number = runlog.log_run(self._row(state, seconds, model_path, curve_path), self.paths)
        return Run(number, self.history, self.best, self.best_epoch, model_path, curve_path, seconds, state)

    def _row(self, state: str, seconds: float, model_path: Path, curve_path: Path) -> dict:
        e = self.experiment
        head = [f"unfrozen: {e.unfreeze}"] if e.unfreeze != "none" else []
        return {
            "date": self.date.strftime("%d.%m.%y"),
            "base_model": e.backbone,
            "extra_layers": ", ".join([*head, *e.head, "softmax"]),
            "optimizer": f"{e.optimizer}(learning_rate={e.learning_rate:g}"
            + (f", momentum={e.momentum:g})" if e.momentum else ")"),
            "loss": e.loss,
            "augmentation": e.augment or e.use_augmented_copy,
            "epochs": e.epochs,
            "val_accuracy": round(100 * self.best, 1),
            "learning_curve": curve_path.relative_to(self.paths.results).as_posix(),
            "state": state,
            "image_size": e.image_size,
            "batch_size": e.batch_size,
            "seed": e.seed,
            "seconds": round(seconds),
            "device": device_name(),
            "versions": versions(),
            "commit": git_commit(),
            "model_file": model_path.name,
            "settings": e.to_json(),
        }


def _reserve(experiment: Experiment, paths: Paths) -> tuple[datetime, Path]:
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
