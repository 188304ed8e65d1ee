"""What a run fits on what: decided once, before its first step. The rest of the room reads it here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum

import keras
import pandas as pd
import tensorflow as tf

from emo.data.manifest import class_names
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.augmentation import augmentation
from emo.models.build import build_model, split_model
from emo.paths import Paths
from emo.precision import computing_in, dtype_policy
from emo.training.augmented_copy import with_augmented_copy
from emo.training.batches import Batches, class_weights, one_hot
from emo.training.distillation import load_teacher, soft_labels
from emo.training.feature_cache import frozen_features, load_photos
from emo.training.memory import in_words
from emo.training.trainer import Trainer

# a head alone takes a step in less time than Python takes to ask for it
STEPS_PER_CALL = 16


class Reads(Enum):
    """What batches hold: photos, or what the frozen layers made of them."""

    PHOTOS = "photos"
    FEATURES = "cached features"


@dataclass(frozen=True)
class Plan:
    """A run before its first step.

    `network` is what will be saved; `learning` is the part of it that is fitted: all of it, or what lies
    behind its frozen layers where these ran once (`reads`). `trainer` is what Keras fits: `learning` behind
    its augmentation and beside its teacher. `train_photos` and `val_photos` are manifests: path, label,
    given (the folder's label). `seconds` is what making the plan took.
    """

    experiment: Experiment
    paths: Paths
    class_names: tuple[str, ...]
    train_photos: pd.DataFrame
    val_photos: pd.DataFrame
    network: keras.Model
    learning: keras.Model
    trainer: Trainer
    train_set: Batches
    val_set: Batches
    reads: Reads
    strategy: tf.distribute.Strategy
    seconds: float

    @property
    def steps_per_call(self) -> int:
        """Steps that Keras runs in one call of the graph (`steps_per_execution`)."""
        head_alone = self.reads is Reads.FEATURES and self.experiment.unfreeze == "none"
        several = self.strategy.num_replicas_in_sync > 1  # Keras 3.13 fails to loop over these
        return STEPS_PER_CALL if head_alone and not several else 1


def prepare_run(experiment: Experiment, paths: Paths) -> Plan:
    """Reads the photos, or the frozen layers' outputs of them, and builds the network of a run.

    Photos come from `data/train` and `data/val`, or a part split off from training. Raises UserError for
    what the user can repair.
    """
    try:
        return _prepare(experiment, paths)
    except Exception as error:
        failure = in_words(error, experiment, preparing=True)
        if failure is error:
            raise
    raise failure


def _prepare(experiment: Experiment, paths: Paths) -> Plan:
    started = time.monotonic()
    if tf.config.list_physical_devices("GPU"):
        # same seed, same machine → same result: GPU kernels add up in any order unless told otherwise
        tf.config.experimental.enable_op_determinism()
    names = class_names(paths)
    train_photos, val_photos = training_manifests(paths, relabel=experiment.relabel)
    if experiment.use_augmented_copy:
        train_photos = with_augmented_copy(train_photos, paths)
    strategy = all_devices()
    check_batch_size(experiment, strategy.num_replicas_in_sync)
    # before the photos are read, which takes longer
    teacher = load_teacher(experiment, names) if experiment.teacher else None

    with strategy.scope(), computing_in(dtype_policy(experiment.precision)):
        network = build_model(experiment, len(names))
        if strategy.num_replicas_in_sync > 1:
            normalize_over_all_devices(network.get_layer(experiment.backbone))
        learning, views, reads = _inputs(network, experiment, train_photos, val_photos, paths)
        layer = augmentation(experiment) if reads is Reads.PHOTOS else None
        soft = soft_labels(teacher) if teacher else None
        trainer = Trainer(learning, layer, soft, experiment.teacher_weight)
    train_labels, val_labels = (one_hot(photos.label, names) for photos in (train_photos, val_photos))
    weights = class_weights(train_labels, experiment.class_balance) if experiment.class_balance else None
    size, seed = experiment.batch_size, experiment.seed
    return Plan(
        experiment,
        paths,
        names,
        train_photos,
        val_photos,
        network,
        learning,
        trainer,
        Batches(views[0], train_labels, size, seed, layer, weights),
        Batches(views[1], val_labels, size, augmentation=layer),
        reads,
        strategy,
        time.monotonic() - started,
    )


def _inputs(
    network: keras.Model,
    experiment: Experiment,
    train_photos: pd.DataFrame,
    val_photos: pd.DataFrame,
    paths: Paths,
) -> tuple[keras.Model, list, Reads]:
    """The part of the network to fit, and what it takes of the photos to train and to validate on."""
    if experiment.views:
        frozen, rest = split_model(network, experiment)
        views = experiment.views if experiment.augment else 0
        features = frozen_features(frozen, [(train_photos, views), (val_photos, 0)], experiment, paths)
        if features:  # else the disk has too little room for them
            return rest, features, Reads.FEATURES
    titles = "reading training photos", "reading validation photos"
    photos = zip((train_photos, val_photos), titles, strict=True)
    return network, [[load_photos(part, experiment, paths, title)] for part, title in photos], Reads.PHOTOS


def all_devices() -> tf.distribute.Strategy:
    """Every GPU at once where there are several; inside a strategy's scope, that strategy."""
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1 and not tf.distribute.has_strategy():
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    return tf.distribute.get_strategy()


def check_batch_size(experiment: Experiment, devices: int) -> None:
    """Raises UserError where a device would get fewer photos than another, which would weigh more."""
    mixes = experiment.mix != "none"
    if experiment.batch_size % (multiple := devices * (2 if mixes else 1)):
        raise UserError(
            f"batch_size={experiment.batch_size} cannot be shared equally by {devices} devices"
            f"{', in pairs that mix' if mixes else ''}; choose a multiple of {multiple}."
        )


def normalize_over_all_devices(backbone: keras.Model) -> None:
    """BatchNormalization then takes its statistics from the whole batch, as on one device."""
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
