"""train(): from an experiment and a dataset to a saved model, its curve and its row in the table."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.keras import TqdmCallback

from emo.data.manifest import class_names
from emo.data.split import training_manifests
from emo.environment import device_name, dtype_policy, git_commit, versions
from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.augmentation import RandomAugmentation, augmentation, augmented_copies
from emo.models.backbones import get_backbone
from emo.models.build import (
    build_loss,
    build_model,
    build_optimizer,
    computing_in,
    read_metadata,
    split_model,
)
from emo.paths import Paths
from emo.plots import evaluation as plots
from emo.tracking import table as runlog
from emo.training.batches import Batches, class_weights, one_hot
from emo.training.checkpoint import Checkpoint, Progress, RunState, Writer, find_state, run_key, this_process
from emo.training.distillation import load_teacher, with_teacher
from emo.training.feature_cache import frozen_features, load_photos
from emo.training.precise_batch_norm import PreciseBatchNorm

FINISHED = "finished"
# a head alone takes a step in less time than Python takes to ask for it
STEPS_A_CALL = 16


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
    exception, which is raised again. A run that was killed goes on where it was, when the same experiment is
    trained on the same photos again. Raises UserError for what the user can mend.
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
    devices, mixes = strategy.num_replicas_in_sync, experiment.mix != "none"
    if experiment.batch_size % (multiple := devices * (2 if mixes else 1)):
        raise UserError(  # a device with fewer photos than another would give them more weight
            f"batch_size={experiment.batch_size} cannot be shared equally by {devices} devices"
            f"{', in pairs that mix' if mixes else ''}; choose a multiple of {multiple}."
        )
    with strategy.scope(), computing_in(policy):
        network = build_model(experiment, len(names))
        if devices > 1:
            normalize_over_all_devices(network.get_layer(experiment.backbone))
        trainer, train_set, val_set = prepare(network, experiment, train_files, val_files, names, paths)
        compile_trainer(trainer, experiment, train_set)
    key = run_key(experiment, names, train_files, val_files, root=paths.data)
    recorder = Recorder(network, trainer, experiment, names, paths, key, started)
    recorder.comment = corrections(train_files, val_files)
    state, failure = fit(trainer, train_set, val_set, experiment, recorder)

    if recorder.checkpoint.saved is None:
        if not (failure and recorder.resumed_at > (0, 0)):  # what an earlier session did is worth another one
            recorder.discard()
        raise failure or UserError(
            f"The loss became NaN in the first epoch: learning_rate={experiment.learning_rate} is too high "
            f"for {experiment.optimizer}; try a tenth of it."
        )
    run = recorder.finish(state)
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
    teacher = load_teacher(experiment, names) if experiment.teacher else None  # before the photos are read
    train_labels, val_labels = (one_hot(files.label, names) for files in (train_files, val_files))
    size, seed = experiment.batch_size, experiment.seed
    weights = class_weights(train_labels, experiment.balance) if experiment.balance else None
    if experiment.views:
        frozen, rest = split_model(network, experiment)
        views = experiment.views if experiment.augment else 0
        features = frozen_features(frozen, [(train_files, views), (val_files, 0)], experiment, paths)
        if features:
            train_set = Batches(features[0], train_labels, size, seed, class_weights=weights)
            return rest, train_set, Batches(features[1], val_labels, size)

    images = load_photos(train_files, experiment, paths, "reading training photos")
    val_images = load_photos(val_files, experiment, paths, "reading validation photos")
    layer = augmentation(experiment)
    train_set = Batches([images], train_labels, size, seed, layer, weights)
    val_set = Batches([val_images], val_labels, size, augmentation=layer)
    trainer = with_augmentation(network, layer, val_set) if layer else network
    if teacher:
        trainer = with_teacher(trainer, layer, teacher, experiment.teacher_weight)
    return trainer, train_set, val_set


def compile_trainer(trainer: keras.Model, experiment: Experiment, train_set: Batches) -> None:
    """Makes what `prepare` gave ready to fit, the optimizer's variables included."""
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1  # Keras 3.13 fails to loop over these
    head_alone = experiment.unfreeze == "none" and train_set.views[0].dtype == np.float16
    trainer.compile(
        build_optimizer(experiment, len(train_set)),
        loss=build_loss(experiment),
        metrics=["accuracy"],
        steps_per_execution=STEPS_A_CALL if head_alone and not several else 1,
    )
    trainer.optimizer.build(trainer.trainable_variables)


def with_augmentation(network: keras.Model, layer: RandomAugmentation, batches: Batches) -> keras.Model:
    """The network behind the layer: it takes the pictures of such batches and what is random with them."""
    inputs = [keras.Input(array.shape[1:]) for array in batches[0][0]]
    return keras.Model(inputs, network(layer(*inputs)))


def fit(
    trainer: keras.Model,
    train_set: Batches,
    val_set: Batches,
    experiment: Experiment,
    recorder: Recorder,
) -> tuple[str, BaseException | None]:
    """Trains; gives the run's state in words and the exception that ended it early, if one did."""
    done = recorder.epochs
    by_batches = int(trainer.steps_per_execution == 1)  # the bar would count calls
    begin, step = recorder.resumed_at
    # the rest of an epoch that was cut short is one of its own to Keras
    spans = [(begin, begin + 1, step), (begin + 1, experiment.epochs, 0)] if step else []
    try:
        try:
            callbacks = [
                keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: train_set.shuffle(epoch)),
                recorder,
                *([AverageInValidation()] if experiment.average else []),
                *([precise(trainer, train_set)] if experiment.precise_batch_norm else []),
                keras.callbacks.TerminateOnNaN(),
            ]
            for first, last, train_set.start in spans or [(begin, experiment.epochs, 0)]:
                if first < last and not trainer.stop_training:
                    trainer.fit(
                        train_set.dataset(),
                        validation_data=val_set.dataset(),
                        initial_epoch=first,
                        epochs=last,
                        verbose=0,
                        callbacks=[*callbacks, TqdmCallback(verbose=by_batches)],
                    )
        finally:
            recorder.writer.close()
    except KeyboardInterrupt as error:
        return f"stopped by the user after epoch {len(done)}", error
    except Exception as error:
        return f"failed after epoch {len(done)}: {type(error).__name__}: {_first_words(error)}", error
    if len(done) < experiment.epochs:
        return f"stopped: the loss became NaN in epoch {len(done) + 1}", None
    return FINISHED, None


def precise(trainer: keras.Model, train_set: Batches) -> PreciseBatchNorm:
    """The callback for what `prepare` gave: photos pass through what lies behind the augmentation."""
    last = trainer.layers[-1]
    return PreciseBatchNorm(last if isinstance(last, keras.Model) else trainer, train_set)


def with_augmented_copy(train_files: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The manifest with the augmented copies of these photos added; copies of validation photos stay out."""
    copies = augmented_copies(train_files, paths)
    if copies.empty:
        raise UserError(
            f"use_augmented_copy=True, but {paths.train_aug} holds no copies of the training photos; "
            "write them with emo_classificator_prep_data.ipynb, or set it to False."
        )
    return pd.concat([train_files, copies.assign(given=copies["label"])], ignore_index=True)


def _first_words(error: Exception) -> str:
    """What it says, without the places in the graph that TensorFlow puts before."""
    places = (" ", "\t", "Graph execution error", "Detected at", "<stack traces")
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(places)]
    return lines[0][:200] if lines else ""


class AverageInValidation(keras.callbacks.SwapEMAWeights):
    """Puts the weights' average in their place from validation until the recorder before it has kept it."""

    def on_test_end(self, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        super().on_test_end(logs)


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
            self.date, self.running = _reserve(experiment, paths)
        self.curve = plots.LiveCurve(f"{experiment.name}: {experiment.backbone}")
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
