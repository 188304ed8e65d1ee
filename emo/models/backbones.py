"""The backbones that an experiment can name: one entry each. Imports no TensorFlow until one is built."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emo.errors import UserError
from emo.paths import EMO_MINI

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Backbone:
    """A network without its top: `application` of `module`, called as those of keras.applications are.

    `preprocessing` is what its ImageNet weights expect of an RGB picture in 0–255, by the names of
    keras.applications: "tf" (to −1…1), "caffe" (BGR, minus the ImageNet mean), "torch" (to 0–1, then
    normalized), "none" (the network scales by itself), or "grey" (luminance in −1…1, three times).
    `blocks` are the beginnings of layer names, up to an underscore, from input to output, that `unfreeze`
    may name.
    """

    module: str
    application: str
    preprocessing: Literal["tf", "caffe", "torch", "none", "grey"]
    min_size: int
    blocks: tuple[str, ...]
    imagenet: bool = True  # whether ImageNet weights can be fetched


BACKBONES: dict[str, Backbone] = {
    "resnet50": Backbone(
        "keras.applications.resnet",
        "ResNet50",
        "caffe",
        32,
        ("conv1", "conv2", "conv3", "conv4", "conv5"),
    ),
    "vgg16": Backbone(
        "keras.applications.vgg16",
        "VGG16",
        "caffe",
        32,
        ("block1", "block2", "block3", "block4", "block5"),
    ),
    "xception": Backbone(
        "keras.applications.xception", "Xception", "tf", 71, tuple(f"block{i}" for i in range(1, 15))
    ),
    "emo_mini": Backbone(
        "emo.models.emo_mini", "EmoMini", "grey", 48, ("block1", "block2", "block3", "block4"), imagenet=False
    ),
}


def get_backbone(name: str) -> Backbone:
    """The registry's entry. Raises UserError for an unknown name."""
    if not isinstance(name, str) or name not in BACKBONES:
        raise UserError(f"backbone={name!r} is unknown; choose one of {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def weights_file(weights: str | Path | None) -> Path | None:
    """The file that `Experiment.weights` names; None for ImageNet's and for a random start."""
    if weights is None or weights == "imagenet":
        return None
    return EMO_MINI if weights == "emo_mini" else Path(weights).expanduser()


def build_backbone(name: str, image_size: int, weights: str | Path | None) -> keras.Model:
    """The network on (image_size, image_size, 3) pictures that are already preprocessed → feature maps.

    `weights` is "imagenet" (fetched by Keras once, then cached in ~/.keras), "emo_mini" (those of the model
    that comes with the project), a file (a `.h5` of a whole
    model with the same backbone, or weights saved from the same network with include_top=False, of Keras 2
    or 3; it is read as data, nothing in it runs), or None for a random start. Raises UserError where they
    cannot be had.
    """
    entry = get_backbone(name)
    application = getattr(importlib.import_module(entry.module), entry.application)
    shape = (image_size, image_size, 3)
    if weights == "imagenet" and not entry.imagenet:
        raise UserError(
            f"weights='imagenet': {name} has none; set weights to a .h5 that was trained with it, or to None "
            "to train from scratch with unfreeze='all'."
        )
    if weights == "imagenet":
        try:
            return application(include_top=False, weights="imagenet", input_shape=shape)
        except Exception as error:  # Keras raises a bare Exception when the download fails
            if "URL fetch failure" not in str(error) and not isinstance(error, OSError):
                raise
            raise UserError(
                f"weights='imagenet': the ImageNet weights of {entry.application} are not in ~/.keras/models "
                "and could not be downloaded; connect to the internet once, or set weights to a .h5 file, "
                "or to None to train from scratch with unfreeze='all'."
            ) from error
    network = application(include_top=False, weights=None, input_shape=shape)
    if weights is None:
        _forget_initial_statistics_sooner(network)
    else:
        file = weights_file(weights)
        if not file.exists():
            raise UserError(
                f"weights={str(weights)!r}: there is no such file; give a path, 'imagenet' or None."
            )
        _load_weights(network, file, name, weights)
    return network


def _load_weights(network: keras.Model, file: Path, name: str, said: str | Path) -> None:
    from emo.models.saved_file import sentences
    from emo.models.saved_weights import load_backbone

    try:
        with sentences(file):
            load_backbone(network, file, name, f"{get_backbone(name).application}(include_top=False)")
    except UserError as error:
        raise UserError(f"weights={str(said)!r}: {error}") from error.__cause__


def _forget_initial_statistics_sooner(network: keras.Model) -> None:
    """From a random start, Keras's momentum of 0.99 keeps BatchNormalization's initial variance of 1 for
    hundreds of steps: a small dataset then trains well and validates at chance (seen: 96% and 11%)."""
    import keras

    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def trainable_layers(network: keras.Model, name: str, unfreeze: str) -> set[str]:
    """Names of the layers to train when `unfreeze` names a block: it and all that follows it.

    "none" and "all" are what they say. Frozen is exactly what feeds the block's first layer, so
    layers that carry no block name (Xception's residual convolutions) fall on the right side, and
    "block1" is not mistaken for "block14".
    """
    import keras

    if unfreeze in ("none", "all"):
        return set() if unfreeze == "none" else {layer.name for layer in network.layers}
    check_unfreeze(name, unfreeze)
    first = first_of_block(network, unfreeze)
    frozen = {layer.name for layer in keras.Model(network.inputs, first.input).layers}
    return {layer.name for layer in network.layers} - frozen


def first_of_block(network: keras.Model, block: str) -> keras.Layer:
    """The layer that a block begins with; what feeds it is what lies before the block."""
    return next(layer for layer in network.layers if layer.name.startswith(f"{block}_"))


def check_unfreeze(name: str, unfreeze: str) -> None:
    """Raises UserError unless `unfreeze` is "none", "all" or a block of the backbone."""
    allowed = ("none", "all", *get_backbone(name).blocks)
    if unfreeze not in allowed:
        raise UserError(f"unfreeze={unfreeze!r} is unknown for {name}; choose one of {', '.join(allowed)}.")
