"""train(): from an experiment and a dataset to a saved model, its curve and its row in the table."""

from __future__ import annotations

import time

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.keras import TqdmCallback

from emo.data.manifest import class_names
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.augmentation import RandomAugmentation, augmentation
from emo.models.build import build_model, computing_in, split_model
from emo.paths import Paths
from emo.precision import dtype_policy
from emo.training.augmented_copy import augmented_copies
from emo.training.batches import Batches, class_weights, one_hot
from emo.training.checkpoint import run_key
from emo.training.distillation import load_teacher, with_teacher
from emo.training.feature_cache import frozen_features, load_photos
from emo.training.optimizer import build_loss, build_optimizer
from emo.training.precise_batch_norm import PreciseBatchNorm
from emo.training.recorder import Recorder, Run

FINISHED = "finished"
# a head alone takes a step in less time than Python takes to ask for it
STEPS_A_CALL = 16


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
