"""input → preprocessing → backbone → head; and the `.h5` that holds such a model with its story."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from emo.experiments import Experiment, parse_head
from emo.models.backbones import build_backbone, first_of_block, get_backbone, trainable_layers

METADATA_ATTRIBUTE = "emo_classificator"
PREPROCESSING_LAYER = "preprocessing"
LUMINANCE = np.array([[0.299], [0.587], [0.114]])  # ITU-R BT.601, as Pillow and OpenCV turn RGB to grey
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])
# keras.applications.imagenet_utils' modes: (scale, offset) of RGB in 0–255, or (matrix, bias)
RESCALING = {"tf": (1 / 127.5, -1.0), "rescale": (1 / 255, 0.0)}
CONVOLUTION = {
    "caffe": (np.eye(3)[::-1], -np.array([103.939, 116.779, 123.68])),
    "grey": (np.tile(LUMINANCE / 127.5, 3), -np.ones(3)),
    "torch": (np.diag(1 / 255 / _IMAGENET_STD), -np.array([0.485, 0.456, 0.406]) / _IMAGENET_STD),
}
PREPROCESSING = ("none", *RESCALING, *CONVOLUTION)  # the modes of `preprocess`


def build_model(experiment: Experiment, class_count: int) -> keras.Model:
    """An uncompiled model: RGB pictures in 0–255, (n, size, size, 3) → probabilities, (n, class_count).

    Preprocessing is inside. What `experiment.unfreeze` leaves frozen is not trainable, its
    BatchNormalization layers included, so their statistics do not move; with `freeze_batch_norm` no
    BatchNormalization's do. Raises UserError where the weights cannot be had.
    """
    keras.utils.set_random_seed(experiment.seed)  # the initial weights are part of the run
    network = build_backbone(experiment.backbone, experiment.image_size, experiment.weights)
    train = trainable_layers(network, experiment.backbone, experiment.unfreeze)
    for layer in network.layers:
        keeps = experiment.freeze_batch_norm and isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer.name in train and not keeps

    images = keras.Input((experiment.image_size, experiment.image_size, 3), name="rgb_0_255")
    x = network(preprocess(images, get_backbone(experiment.backbone).preprocessing))
    for kind, value in parse_head(experiment.head):
        x = _head_layer(kind, value)(x)
    probabilities = layers.Dense(class_count, activation="softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(images, probabilities, name=f"emo_{experiment.backbone}")


def split_model(model: keras.Model, experiment: Experiment) -> tuple[keras.Model, keras.Model]:
    """The model of `build_model` cut where its frozen layers end: (frozen, rest), made of its own layers.

    `rest(frozen(pictures))` is `model(pictures)`, and what is trained in `rest` is trained in `model`. Where
    the whole backbone is frozen, the head's first layer (avg_pool or flatten) belongs to the frozen part.
    """
    network = model.get_layer(experiment.backbone)
    position = model.layers.index(network)
    head = model.layers[position + 1 :]
    if experiment.unfreeze == "none":
        return keras.Model(model.input, head[0].output), keras.Model(head[0].output, model.output)
    cut = first_of_block(network, experiment.unfreeze).input
    frozen = keras.Model(network.inputs, cut)(model.layers[position - 1].output)
    x = inputs = keras.Input(cut.shape[1:], dtype=cut.dtype)
    for layer in (keras.Model(cut, network.output), *head):
        x = layer(x)
    return keras.Model(model.input, frozen), keras.Model(inputs, x)


def float32_copy(model: keras.Model) -> keras.Model:
    """The same network with the same weights, computing in float32 whatever `model` computes in."""

    def copied(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=copied, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


@contextmanager
def computing_in(policy: str) -> Iterator[None]:
    """What is built inside computes in that Keras dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def preprocess(images, mode: str):
    """`keras.applications`' `preprocess_input` as layers that a saved `.h5` can load again.

    `mode` is one of its names, "rescale" (to 0–1), "grey" (luminance in −1…1, three times) or "none".
    """
    if mode == "none":
        return images
    if mode in RESCALING:
        scale, offset = RESCALING[mode]
        return layers.Rescaling(scale, offset, dtype="float32", name=PREPROCESSING_LAYER)(images)
    matrix, bias = CONVOLUTION[mode]
    convolution = layers.Conv2D(3, 1, trainable=False, dtype="float32", name=PREPROCESSING_LAYER)
    preprocessed = convolution(images)
    convolution.set_weights([matrix.reshape(1, 1, 3, 3), bias])
    return preprocessed


def _head_layer(kind: str, value: float | None) -> keras.Layer:
    if kind == "flatten":
        return layers.Flatten()
    if kind == "avg_pool":
        return layers.GlobalAveragePooling2D(dtype="float32")  # half precision would round the mean
    if kind == "dropout":
        return layers.Dropout(value)
    return layers.Dense(value, activation="relu")


def build_optimizer(experiment: Experiment, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer that the experiment names, with its numbers and its learning rate's schedule."""
    e, rate = experiment, experiment.learning_rate
    if e.schedule == "cosine":
        warmup = round(e.warmup_epochs * steps_per_epoch)
        steps = max(1, e.epochs * steps_per_epoch - warmup)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate, steps, warmup_target=rate if warmup else None, warmup_steps=warmup
        )
    average = {"use_ema": True, "ema_momentum": e.average} if e.average else {}
    if e.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=e.momentum, **average)
    elif e.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, **average)
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=e.weight_decay, **average)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])  # they multiply no input
    # each fit() would end with the average in the weights' place, also one that another is to go on from
    optimizer.finalize_variable_values = lambda variables: None
    return optimizer


def build_loss(experiment: Experiment) -> keras.losses.Loss:
    """The loss that the experiment names, on probabilities and one-hot labels."""
    kinds = {
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
        "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    }
    return kinds[experiment.loss](label_smoothing=experiment.label_smoothing)


def save_model(model: keras.Model, path: Path, metadata: dict) -> None:
    """Writes `path` (.h5) with `metadata` as JSON inside. The file appears whole or not at all."""
    unfinished = path.with_name(f".{path.stem}.unfinished.h5")
    try:
        with _quiet_about_h5():
            # without the optimizer: it cannot be resumed from a .h5, and may double the file
            model.save(unfinished, include_optimizer=False)
        write_metadata(unfinished, metadata)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_metadata(path: Path, metadata: dict) -> None:
    """Puts `metadata` into the `.h5` as one JSON attribute."""
    with h5py.File(path, "a") as file:
        file.attrs[METADATA_ATTRIBUTE] = json.dumps(metadata)


def read_metadata(path: Path) -> dict:
    """What `save_model` put beside the weights; {} for a file that is not ours."""
    with h5py.File(path, "r") as file:
        return json.loads(file.attrs.get(METADATA_ATTRIBUTE, "{}"))


@contextmanager
def _quiet_about_h5():
    """Keras calls .h5 legacy at every save and load; the project's users have chosen it."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
