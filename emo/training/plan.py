"""What a run fits on what: decided once, before its first step. The rest of the room reads it here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum

import keras
import pandas as pd

from emo.backend import is_jax, process_count
from emo.data.manifest import class_names
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.augmentation import augmentation
from emo.models.build import build_model, split_model
from emo.models.head import bring_head
from emo.models.named_files import located
from emo.paths import Paths
from emo.precision import computing_in, dtype_policy
from emo.training.augmented_copy import with_augmented_copy
from emo.training.batches import Batches, class_weights, one_hot
from emo.training.devices import Devices, all_devices, check_batch_size, normalize_over_all_devices, use_xla
from emo.training.distillation import load_teacher, soft_labels
from emo.training.feature_cache import frozen_features, load_photos
from emo.training.hints import few_photos_hint, random_start_hint
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
    given (the folder's label). `xla` is whether XLA compiles its steps. `seconds` is what making the plan
    took.
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
    devices: Devices
    xla: bool
    seconds: float

    @property
    def steps_per_call(self) -> int:
        """Steps that Keras runs in one call of the graph (`steps_per_execution`)."""
        head_alone = self.reads is Reads.FEATURES and self.experiment.unfreeze == "none"
        return STEPS_PER_CALL if head_alone and self.devices.count == 1 else 1  # Keras 3.13 loops over one


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
    used = located(experiment, paths)  # the plan keeps what its user wrote
    names = class_names(paths)
    train_photos, val_photos = training_manifests(paths, relabel=experiment.relabel)
    hints = few_photos_hint(experiment, len(train_photos)), random_start_hint(experiment)
    if experiment.use_augmented_copy:
        train_photos = with_augmented_copy(train_photos, paths)
    devices = all_devices()
    check_batch_size(experiment, devices.count)
    if experiment.views and process_count() > 1:
        raise UserError(
            f"views={experiment.views} caches features on the disk of one process; set views=0 to train on "
            "several machines."
        )
    steps = experiment.epochs * (len(train_photos) // experiment.batch_size)
    xla = use_xla(experiment, steps, devices.count)
    if xla and not is_jax():
        print(f"XLA compiles the step first, which takes about a minute: {steps:,} steps pay for it.")
    for hint in filter(None, hints):
        print(hint)
    # before the photos are read, which takes longer
    teacher = load_teacher(used, names) if experiment.teacher else None

    with devices.scope(), computing_in(dtype_policy(experiment.precision)):
        network = build_model(used, len(names))
        bring_head(network, used, names)
        if devices.count > 1:
            normalize_over_all_devices(network.get_layer(experiment.backbone))
        learning, views, reads = _inputs(network, experiment, train_photos, val_photos, paths)
        layer = augmentation(experiment, xla) if reads is Reads.PHOTOS else None
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
        Batches(views[1], val_labels, size, augmentation=layer, multiple=devices.count if is_jax() else 1),
        reads,
        devices,
        xla,
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
