"""A saved model, of Keras 2 or 3, ours or not → the network it describes, rebuilt with its weights.

`keras.models.load_model` of Keras 3 opens few files of Keras 2 and none with what a newer Keras added, and it
imports what a file names. Here only the layers of `saved_config` are built, each with its own weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from emo.backend import accelerators
from emo.errors import UserError
from emo.models.build import LUMINANCE, preprocess
from emo.models.saved_config import IDENTITIES, Layer, Network
from emo.models.saved_file import (
    Unusable,
    check_memory,
    holds_weights_alone,
    network_beside,
    numbers,
    open_model,
    sentences,
)
from emo.models.saved_weights import network_in, weights_of
from emo.models.saving import metadata_of


@dataclass(frozen=True)
class SavedModel:
    """A checked file; `metadata` is what `save_model` put in, {} for a file that is not ours."""

    path: Path
    network: Network
    metadata: dict

    @property
    def input_shape(self) -> tuple[int | None, int | None, int]:
        """(height, width, channels); a size is None where the network takes any."""
        return self.network.input_shape[1:]


def read_model(path: str | Path) -> SavedModel:
    """Checks a `.h5`, a `.keras`, or a network's JSON with its weights, and describes it; builds nothing.

    Raises UserError for a file that is missing, damaged, of another kind, holds what could run code, or what
    cannot be rebuilt.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"There is no model file {path}; give the path of a .h5 from the folder model/.")
    with sentences(path), open_model(path) as opened:
        if holds_weights_alone(opened) and (network := network_beside(path)):
            return read_model(network)
        network = network_in(opened)
        shape = network.input_shape
        if not shape or len(shape) != 4 or any(not (side is None or type(side) is int) for side in shape):
            raise Unusable(f"takes input of shape {shape}, which is not a picture")
        return SavedModel(path, network, metadata_of(opened))


def rebuild(saved: SavedModel, image_size: int | None = None, preprocessing: str = "none") -> keras.Model:
    """The network with its weights, uncompiled: RGB in 0–255, (n, size, size, 3) → probabilities.

    What its pictures went through before (`preprocess`'s modes, and to grey for a network of one
    channel) becomes its first layers. `image_size` in pixels, for a network that takes any. Raises UserError.
    """
    height, width, channels = saved.input_shape
    network, end = _without_sigmoid(saved.network)
    as_saved = preprocessing == "none" and channels == 3
    with sentences(saved.path), open_model(saved.path) as opened:
        size = (height or image_size, width or image_size, 3)
        check_memory(4 * math.prod(size))
        images = x = keras.Input(size, name=network.input if as_saved else "rgb_0_255")
        if channels == 1:
            grey = layers.Conv2D(1, 1, use_bias=False, trainable=False, name="grey")
            x = grey(x)
            grey.set_weights([LUMINANCE.reshape(1, 1, 3, 1)])
        x = preprocess(x, preprocessing)
        outputs = _connect(network, x, weights_of(opened, network))
        outputs = _probabilities(outputs, network.last, end, saved.path.name)
        return keras.Model(images, outputs, name=_keras_name(network.name))


def load_model(path: str | Path) -> tuple[keras.Model, dict]:
    """The network in a file as it was saved, and its metadata. Raises UserError."""
    saved = read_model(path)
    return rebuild(saved), saved.metadata


def _without_sigmoid(network: Network) -> tuple[Network, str]:
    """The network with logits for its last sigmoid, and what its outputs have gone through as saved."""
    last, end = network.last, network.last.activation
    if end != "sigmoid":
        return network, end
    return _replaced(network, last, replace(last, arguments=last.arguments | {"activation": "linear"})), end


def _replaced(network: Network, old: Layer, new: Layer) -> Network:
    changed = [
        _replaced(layer, old, new) if isinstance(layer, Network) else new if layer is old else layer
        for layer in network.layers
    ]
    return replace(network, layers=tuple(changed))


def _probabilities(outputs, last: Layer, end: str, file: str):
    """(n, classes), rows that add up to 1. Raises Unusable where the outputs tell no classes apart."""
    softmax = layers.Softmax(name="probabilities_of_logits", dtype="float32")
    if end == "log_softmax" or (end == "linear" and last.kind == "Dense"):
        return softmax(outputs)
    if end == "sigmoid" and outputs.shape[-1] == 1:
        print(f"{file} has one output, a sigmoid: it is taken as the probability of the second class.")
        two = layers.Dense(2, "softmax", use_bias=False, name="probabilities_of_sigmoid", dtype="float32")
        outputs = two(outputs)  # of 0 and the logit
        two.set_weights([np.array([[0.0, 1.0]])])
        return outputs
    if end == "sigmoid":
        print(f"{file} ends in sigmoids: its answers are divided by their sum, to be probabilities.")
        return softmax(layers.Activation("log_sigmoid", name="log_sigmoid", dtype="float32")(outputs))
    if end != "softmax":
        raise Unusable(f"ends in {last.name!r}, which gives no probabilities that add up to 1 (no softmax)")
    return outputs


def _connect(network: Network, x, weights: dict[Layer, list[h5py.Dataset]]):
    def call(layer: Layer | Network, given: list):
        if isinstance(layer, Network):
            inner = keras.Input(given[0].shape[1:], name=_keras_name(layer.input))
            outputs = _connect(layer, inner, weights)
            made = keras.Model(inner, outputs, name=_keras_name(layer.name))(*given)
        else:
            made = _call(layer, given, weights.get(layer, []))
        if 0 in made.shape[1:]:
            raise Unusable(f"leaves nothing of such small pictures in its layer {layer.name!r}")
        check_memory(4 * math.prod(made.shape[1:]))  # of one picture; nothing is computed yet
        return made

    return network.walk(x, call)


def _call(described: Layer, given: list, arrays: list[h5py.Dataset]):
    """The layer built on the tensors that feed it, with its weights."""
    common = {"name": _keras_name(described.name), "dtype": _dtype(described.dtype)}
    x = given[0] if len(given) == 1 else given
    if described.kind == "Slice":
        return _slice(x, described.arguments["places"], common)
    if described.kind == "Channels":
        return _channels(x, described.arguments["picked"], common)
    if described.kind == "LayerScale":
        (gamma,) = arrays
        layer = layers.DepthwiseConv2D(1, use_bias=False, **common)
        return _built(layer, described, x, [lambda shape, dtype=None: _checked(described, gamma, shape)])
    if described.kind == "MultiHeadAttention":
        return _attention(described, given, arrays, common)
    kind = layers.Identity if described.kind in IDENTITIES else getattr(layers, described.kind)
    layer = kind(**described.arguments, **common)
    if described.kind == "Normalization":
        layer.build(x.shape)
        if arrays:
            layer.set_weights([numbers(array, described.name) for array in arrays])
            layer.finalize_state()
        return layer(x)
    return _built(layer, described, x, [_saved(described, array) for array in arrays])


def _built(layer: keras.Layer, described: Layer, x, saved: list[Callable]):
    """`layer(x)` with the weights that `saved` gives: no random start is drawn, none of another size made."""
    layer.trainable = described.trainable
    names = ("depthwise",) if described.kind == "LayerScale" else described.weights
    initializers = [f"{name}_initializer" for name in names]
    usual = [getattr(layer, name) for name in initializers]
    for name, initializer in zip(initializers, saved, strict=True):
        setattr(layer, name, initializer)
    y = layer(x)
    for name, initializer in zip(initializers, usual, strict=True):
        setattr(layer, name, initializer)
    return y


def _saved(described: Layer, array: h5py.Dataset) -> Callable:
    return lambda shape, dtype=None: keras.ops.convert_to_tensor(_checked(described, array, shape), dtype)


def _checked(described: Layer, array: h5py.Dataset, shape: tuple) -> np.ndarray:
    """The array in the shape that the layer takes."""
    wanted = (shape[2],) if described.kind == "LayerScale" else tuple(shape)
    if wanted != array.shape:
        raise Unusable(
            f"is damaged: its layer {described.name!r} wants weights of {wanted}, the file has {array.shape}"
        )
    return numbers(array, described.name).reshape(shape)


def _attention(described: Layer, given: list, arrays: list[h5py.Dataset], common: dict):
    """`MultiHeadAttention` makes its weights in layers of its own: their sizes are checked before."""
    settings = described.arguments
    query, value, key = given[0].shape, given[1].shape, given[-1 if len(given) == 3 else 1].shape
    heads, size = settings["num_heads"], settings["key_dim"]
    value_size = settings.get("value_dim") or size
    output = settings.get("output_shape") or query[-1]
    output = tuple(output) if isinstance(output, (list, tuple)) else (output,)
    kernels = [(query[-1], heads, size), (key[-1], heads, size), (value[-1], heads, value_size)]
    kernels.append((heads, value_size, *output))
    biases = [(heads, size), (heads, size), (heads, value_size), output]
    shapes = (
        kernels
        if not settings.get("use_bias", True)
        else [shape for pair in zip(kernels, biases, strict=True) for shape in pair]
    )
    values = [_checked(described, array, shape) for array, shape in zip(arrays, shapes, strict=True)]
    layer = layers.MultiHeadAttention(**settings, **common)
    layer.trainable = described.trainable
    y = layer(*given)
    layer.set_weights(values)
    return y


def _channels(x, picked: list[int], common: dict):
    """Those channels of (n, h, w, channels), in that order: a 1 × 1 convolution does that."""
    layer = layers.Conv2D(len(picked), 1, use_bias=False, trainable=False, **common)
    y = layer(x)
    layer.set_weights([np.eye(x.shape[-1])[:, picked].reshape(1, 1, x.shape[-1], len(picked))])
    return y


def _slice(x, places: list, common: dict):
    """x[places] of (n, h, w, channels), by layers that crop, stride and pick."""
    if "..." in places:
        at = places.index("...")
        places = [*places[:at], *[(None, None, None)] * (5 - len(places)), *places[at + 1 :]]
    places = [*places, *[(None, None, None)] * (4 - len(places))]
    sizes = x.shape
    if len(sizes) != 4 or len(places) != 4 or not all(isinstance(place, (list, tuple)) for place in places):
        raise Unusable(f"cuts out places in {common['name']!r}, which this project cannot rebuild")
    _, *ranges = [range(*slice(*place).indices(size or 1)) for place, size in zip(places, sizes, strict=True)]
    rows, columns, channels = ranges
    if list(places[0]) != [None] * 3 or min(map(len, ranges)) < 1 or min(rows.step, columns.step) < 1:
        raise Unusable(f"cuts out places in {common['name']!r}, which this project cannot rebuild")
    cropping = [
        (each[0], size - 1 - each[-1]) for each, size in zip((rows, columns), sizes[1:3], strict=True)
    ]
    name = common["name"]
    if cropping != [(0, 0), (0, 0)]:
        x = layers.Cropping2D(cropping, **common | {"name": f"{name}_cropped"})(x)
    if (rows.step, columns.step) != (1, 1):
        strides = (rows.step, columns.step)
        x = layers.MaxPooling2D(1, strides, **common | {"name": f"{name}_strided"})(x)
    if channels == range(sizes[3]):
        return layers.Identity(**common)(x)
    return _channels(x, list(channels), common)


def _dtype(name: str) -> str:
    """The policy that a layer computes in here: a CPU computes float16 slowly, and may hang in it."""
    return "float32" if name in ("float16", "mixed_float16") and not accelerators() else name


def _keras_name(name: str) -> str:
    return name.replace("/", "_")  # which Keras 3 allows in no name
