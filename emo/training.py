"""train(): from an experiment and a dataset to a saved model, its curve and its row in the table."""

from __future__ import annotations

import time
from collections.abc import Iterable
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
from emo.checkpoint import Checkpoint
from emo.dataset import class_names
from emo.environment import device_name, dtype_policy, git_commit, versions
from emo.errors import UserError
from emo.experiments import Experiment
from emo.frozen import frozen_features, load_photos
from emo.model import build_model, build_optimizer, computing_in, split_model
from emo.paths import Paths
from emo.pipeline import Batches, one_hot
from emo.split import training_manifests

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
    train_files, val_files = training_manifests(paths, relabel=experiment.relabel)
    if experiment.use_augmented_copy:
        train_files = with_augmented_copy(train_files, paths)

    policy = dtype_policy(experiment.precision)
    strategy = all_devices()
    if experiment.batch_size % (devices := strategy.num_replicas_in_sync):
        raise UserError(  # a device with fewer photos than another would give them more weight
            f"batch_size={experiment.batch_size} cannot be shared equally by {devices} devices; "
            f"choose a multiple of {devices}."
        )
    with strategy.scope(), computing_in(policy):
        network = build_model(experiment, len(names))
        if strategy.num_replicas_in_sync > 1:
            normalize_over_all_devices(network.get_layer(experiment.backbone))
        trainer, train_set, val_set = prepare(network, experiment, train_files, val_files, names, paths)
        trainer.compile(build_optimizer(experiment), loss=experiment.loss, metrics=["accuracy"])
    recorder = Recorder(network, experiment, names, paths, changing=trainer.weights)
    recorder.comment = corrections(train_files, val_files)
    state, failure = fit(trainer, train_set, val_set, experiment, recorder)

    if recorder.checkpoint.saved is None:
        recorder.discard()
        raise failure or UserError(
            f"The loss became NaN in the first epoch: learning_rate={experiment.learning_rate} is too high "
            f"for {experiment.optimizer}; try a tenth of it."
        )
    run = recorder.finish(state, time.monotonic() - started)
    if failure and not isinstance(failure, KeyboardInterrupt):
        raise failure
    return run


def corrections(train_files: pd.DataFrame, val_files: pd.DataFrame) -> str:
    """How many labels `data/relabel.csv` changed, for the table; "" where none."""
    train, val = (int((files["given"] != files["label"]).sum()) for files in (train_files, val_files))
    return f"relabel.csv: {train} training and {val} validation labels" if train or val else ""


def all_devices() -> tf.distribute.Strategy:
    """Every GPU at once where there are several; inside a strategy's scope, that strategy."""
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1 and not tf.distribute.has_strategy():
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    return tf.distribute.get_strategy()


def normalize_over_all_devices(backbone: keras.Model) -> None:
    """BatchNormalization then takes its statistics from the whole batch, as on one device."""
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def prepare(
    network: keras.Model,
    experiment: Experiment,
    train_files: pd.DataFrame,
    val_files: pd.DataFrame,
    names: tuple[str, ...],
    paths: Paths,
) -> tuple[keras.Model, Batches, Batches]:
    """What to fit, and the batches to train and to validate on: (trainer, train_set, val_set).

    The trainer shares the network's layers. It is the part behind the frozen layers where the experiment
    asks for views and they fit on the disk, else the whole.
    """
    train_labels, val_labels = (one_hot(files.label, names) for files in (train_files, val_files))
    size, seed = experiment.batch_size, experiment.seed
    if experiment.views:
        frozen, rest = split_model(network, experiment)
        views = experiment.views if experiment.augment else 0
        val_features = frozen_features(frozen, val_files, experiment, paths)
        features = val_features and frozen_features(frozen, train_files, experiment, paths, views)
        if features:
            return rest, Batches(features, train_labels, size, seed), Batches(val_features, val_labels, size)

    images = load_photos(train_files, experiment, paths, "reading training photos")
    val_images = load_photos(val_files, experiment, paths, "reading validation photos")
    augment = experiment.augment
    return (
        with_augmentation(network) if augment else network,
        Batches([images], train_labels, size, seed, augment),
        Batches([val_images], val_labels, size, augment=augment),
    )


def with_augmentation(network: keras.Model) -> keras.Model:
    """The network behind `RandomAffine`: it takes (pictures, draws)."""
    pictures, draws = keras.Input(network.input_shape[1:]), keras.Input((6,))
    return keras.Model([pictures, draws], network(RandomAffine()(pictures, draws)))


def fit(
    trainer: keras.Model,
    train_set: Batches,
    val_set: Batches,
    experiment: Experiment,
    recorder: Recorder,
) -> tuple[str, BaseException | None]:
    """Trains; gives the run's state in words and the exception that ended it early, if one did."""
    done = recorder.epochs
    try:
        try:
            trainer.fit(
                train_set,
                validation_data=val_set,
                epochs=experiment.epochs,
                verbose=0,
                callbacks=[
                    keras.callbacks.LambdaCallback(
                        on_epoch_begin=lambda epoch, logs: train_set.shuffle(epoch)
                    ),
                    recorder,
                    keras.callbacks.TerminateOnNaN(),
                    TqdmCallback(verbose=1, leave=True),
                ],
            )
        finally:
            recorder.checkpoint.close()
    except KeyboardInterrupt as error:
        return f"stopped by the user after epoch {len(done)}", error
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return f"failed after epoch {len(done)}: {type(error).__name__}: {reason[0][:200]}", error
    if len(done) < experiment.epochs:
        return f"stopped: the loss became NaN in epoch {len(done) + 1}", None
    return FINISHED, None


def with_augmented_copy(train_files: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The manifest with the augmented copies of these photos added; copies of validation photos stay out."""
    copies = augmented_copies(train_files, paths)
    if copies.empty:
        raise UserError(
            f"use_augmented_copy=True, but {paths.train_aug} holds no copies of the training photos; "
            "write them with emo_classificator_prep_data.ipynb, or set it to False."
        )
    return pd.concat([train_files, copies.assign(given=copies["label"])], ignore_index=True)


class Recorder(keras.callbacks.Callback):
    """Keeps the best model and the curve on disk as epochs end, then names them and logs the run."""

    def __init__(
        self,
        network: keras.Model,
        experiment: Experiment,
        names: tuple[str, ...],
        paths: Paths,
        changing: Iterable[keras.Variable],
    ):
        super().__init__()
        self.network, self.experiment, self.paths = network, experiment, paths
        self.epochs: list[dict[str, float]] = []
        self.best, self.comment = -1.0, ""
        self.date, self.running = _reserve(experiment, paths)
        self.curve = plots.LiveCurve(f"{experiment.name}: {experiment.backbone}")
        self.checkpoint = Checkpoint(network, self.running, changing)
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

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
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
        for file in (self.running, self.running.with_suffix(".png")):
            file.unlink(missing_ok=True)

    def finish(self, state: str, seconds: float) -> Run:
        """Names the files and logs the run by what the file holds: a write may have been cut short."""
        accuracy, best_epoch = (self.checkpoint.saved[key] for key in ("val_accuracy", "best_epoch"))
        stem = self.running.stem.removesuffix("_running") + f"_acc{100 * accuracy:.0f}"
        model_path = self.running.rename(self.paths.model / f"{stem}.h5")
        curve_path = self.paths.model / f"{stem}.png"
        plots.save_curve(self.history, self.curve.title, curve_path)
        self.running.with_suffix(".png").unlink(missing_ok=True)
        row = self._row(state, seconds, accuracy, model_path, curve_path)
        number = runlog.log_run(row, self.paths)
        return Run(number, self.history, accuracy, best_epoch, model_path, curve_path, seconds, state)

    def _row(self, state: str, seconds: float, accuracy: float, model_path: Path, curve_path: Path) -> dict:
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
