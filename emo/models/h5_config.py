"""A saved network's config, of Keras 2 or 3, as a checked description. Nothing in it is built or run.

A config names classes and functions, and Keras imports and calls them: a file from elsewhere could run code.
Here it is read as data: what LAYERS does not list, argument by argument, is refused. Initializers,
regularizers and constraints serve training alone and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_CONVOLUTION = "kernel_size strides padding dilation_rate activation use_bias"
# class name → its arguments that matter in prediction, as Keras 3 names them; LeakyReLU's alpha is Keras 2's
LAYERS: dict[str, str] = {
    "Activation": "activation",
    "Add": "",
    "Average": "",
    "AveragePooling2D": "pool_size strides padding",
    "BatchNormalization": "axis momentum epsilon center scale",
    "Concatenate": "axis",
    "Conv2D": f"filters groups {_CONVOLUTION}",
    "Cropping2D": "cropping",
    "Dense": "units activation use_bias",
    "DepthwiseConv2D": f"depth_multiplier {_CONVOLUTION}",
    "Dropout": "rate",
    "ELU": "alpha",
    "Flatten": "",
    "GlobalAveragePooling2D": "keepdims",
    "GlobalMaxPooling2D": "keepdims",
    "LayerNormalization": "axis epsilon center scale",
    "LeakyReLU": "negative_slope alpha",
    "MaxPooling2D": "pool_size strides padding",
    "Maximum": "",
    "Multiply": "",
    "Normalization": "axis mean variance invert",
    "PReLU": "shared_axes",
    "ReLU": "max_value negative_slope threshold",
    "Rescaling": "scale offset",
    "Reshape": "target_shape",
    "Resizing": "height width interpolation",
    "SeparableConv2D": f"filters depth_multiplier {_CONVOLUTION}",
    "Softmax": "axis",
    "UpSampling2D": "size interpolation",
    "ZeroPadding2D": "padding",
}
NETWORKS = ("Functional", "Model", "Sequential")
# in prediction these pass their input on as it is
IDENTITIES = frozenset(
    {"ActivityRegularization", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Identity"}
    | {"SpatialDropout2D"}
    | {f"Random{what}" for what in ("Brightness", "Contrast", "Flip", "Rotation", "Translation", "Zoom")}
)
# those that Keras 2 and Keras 3 compute alike: hard_sigmoid, for one, is another function now
ACTIVATIONS = frozenset(
    {"elu", "exponential", "gelu", "linear", "relu", "relu6", "selu", "sigmoid", "silu", "softmax"}
    | {"softplus", "softsign", "swish", "tanh"}
)
STRINGS = {
    "activation": ACTIVATIONS,
    "padding": frozenset({"valid", "same"}),
    "interpolation": frozenset({"nearest", "bilinear", "bicubic", "area", "lanczos3", "lanczos5"}),
}
DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"})
# a layer's weights in the order in which Keras creates and saves them
WEIGHTS: dict[str, tuple[str, ...]] = {
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "DepthwiseConv2D": ("depthwise", "bias"),
    "LayerNormalization": ("gamma", "beta"),
    "Normalization": ("mean", "variance", "count"),
    "PReLU": ("alpha",),
    "SeparableConv2D": ("depthwise", "pointwise", "bias"),
}
SWITCHES = {"bias": "use_bias", "beta": "center", "gamma": "scale"}
MAX_LAYERS = 2_000  # EfficientNetB7, the longest of keras.applications, has 814
MAX_INTEGER = 2**20


class Unusable(Exception):
    """Why a file cannot be opened: the rest of a sentence that begins with its name."""


@dataclass(frozen=True, eq=False)
class Layer:
    """`kind` is a key of LAYERS or in IDENTITIES; `inputs` names the layers that feed it."""

    name: str
    kind: str
    arguments: dict
    inputs: tuple[str, ...]
    trainable: bool
    dtype: str

    @property
    def weights(self) -> tuple[str, ...]:
        """Its weights by Keras's names of their initializers, in the order of the file."""
        if self.kind == "Normalization" and self.arguments.get("mean") is not None:
            return ()
        names = WEIGHTS.get(self.kind, ())
        return tuple(name for name in names if self.arguments.get(SWITCHES.get(name), True))

    @property
    def activation(self) -> str:
        """What its output has gone through: a name in ACTIVATIONS."""
        return "softmax" if self.kind == "Softmax" else self.arguments.get("activation", "linear")


@dataclass(frozen=True, eq=False)
class Network:
    """`layers` in an order in which each follows what feeds it; `input` names what none of them makes."""

    name: str
    layers: tuple[Layer | Network, ...]
    input: str
    output: str
    input_shape: tuple | None
    inputs: tuple[str, ...] = ()

    def walk(self, x, call: Callable):
        """What comes out where `x` goes in: `call(layer, given)` makes each layer's output of its input.

        `given` is a list where several layers feed one. An inner network is called as a whole.
        """
        made = {self.input: x}
        for layer in self.layers:
            given = [made[name] for name in layer.inputs]
            made[layer.name] = call(layer, given[0] if len(given) == 1 else given)
        return made[self.output]

    def leaves(self) -> Iterator[Layer]:
        """Every layer, those of inner networks in their place."""
        for layer in self.layers:
            if isinstance(layer, Network):
                yield from layer.leaves()
            else:
                yield layer

    def names(self) -> set[str]:
        """The names of all layers and inner networks."""
        inner = (layer.names() for layer in self.layers if isinstance(layer, Network))
        return {layer.name for layer in self.layers}.union(*inner)

    @property
    def last(self) -> Layer:
        """The layer that makes the output."""
        last = next(layer for layer in self.layers if layer.name == self.output)
        return last.last if isinstance(last, Network) else last


def parse(config: dict) -> Network:
    """The network that a `model_config` describes.

    Raises Unusable where it holds what could run code, or what this project cannot rebuild; other
    exceptions (KeyError, TypeError, …) where it is damaged.
    """
    network = _parse(config, (), trainable=True)
    if not isinstance(network, Network):
        raise Unusable("holds a single layer and no network")
    if sum(1 for _ in network.leaves()) > MAX_LAYERS:
        raise Unusable(f"has more than {MAX_LAYERS:,} layers, which no network of this project's kind has")
    return network


def _parse(entry: dict, inputs: tuple[str, ...], trainable: bool) -> Layer | Network:
    kind, settings = entry["class_name"], entry["config"]
    custom = not str(entry.get("module", "keras")).startswith("keras")
    if custom or entry.get("registered_name") not in (None, kind):
        kind = entry.get("registered_name") or f"{entry['module']}.{kind}"
    if kind in NETWORKS:
        inner = settings if isinstance(settings, dict) else {"layers": settings}  # a list before Keras 2.2.3
        trainable = trainable and inner.get("trainable") is not False
        parse_inner = _sequential if kind == "Sequential" else _functional
        return parse_inner(inner, inputs, str(inner.get("name", entry.get("name", "network"))), trainable)
    if kind not in LAYERS and kind not in IDENTITIES:
        danger = (
            "which can run code from the file" if kind == "Lambda" else "which this project does not know"
        )
        raise Unusable(
            f"holds a layer of the class {kind!r}, {danger}: it was not opened and nothing in it was run; "
            "use a model of Keras's own plain layers"
        )
    trainable = trainable and settings.get("trainable") is not False
    arguments = {} if kind in IDENTITIES else _arguments(kind, settings)
    return Layer(settings["name"], kind, arguments, inputs, trainable, _dtype(settings.get("dtype")))


def _sequential(settings: dict, inputs: tuple[str, ...], name: str, trainable: bool) -> Network:
    entries = list(settings["layers"])
    shape = settings.get("build_input_shape")
    first = source = f"{name}_input"
    if entries[0]["class_name"] == "InputLayer":
        first = source = entries[0]["config"]["name"]
        shape = _shape(entries.pop(0))
    layers = []
    for entry in entries:
        layers.append(_parse(entry, (source,), trainable))
        source = layers[-1].name
    if shape is None:
        shape = layers[0].input_shape if isinstance(layers[0], Network) else _shape(entries[0])
    return Network(name, _in_order(layers, first), first, source, _dimensions(shape), inputs)


def _functional(settings: dict, inputs: tuple[str, ...], name: str, trainable: bool) -> Network:
    first, output = (_only(settings[key], key) for key in ("input_layers", "output_layers"))
    layers, shape = [], None
    for entry in settings["layers"]:
        if entry["class_name"] != "InputLayer":
            layers.append(_parse(entry, _sources(entry), trainable))
        elif entry["config"]["name"] == first:
            shape = _shape(entry)
    return Network(name, _in_order(layers, first), first, output, _dimensions(shape), inputs)


def _only(references: list, key: str) -> str:
    """The name in [[name, 0, 0]], as Keras 2 writes it, or [name, 0, 0]."""
    references = [references] if isinstance(references[0], str) else references
    if len(references) != 1:
        raise Unusable(f"has {len(references)} {key.replace('_layers', 's')}; a classifier has one")
    return references[0][0]


def _sources(entry: dict) -> tuple[str, ...]:
    """The layers that feed this one. Keras 2: [[[name, 0, 0, keywords], …]]; Keras 3: args and kwargs."""
    calls = entry["inbound_nodes"]
    name = entry["name"]
    if len(calls) != 1:
        raise Unusable(f"calls its layer {name!r} {len(calls)} times, which this project cannot rebuild")
    if isinstance(calls[0], dict):
        tensors = calls[0]["args"][0]
        tensors = [tensors] if isinstance(tensors, dict) else tensors
        references = [tensor["config"]["keras_history"] for tensor in tensors]
        keywords = [calls[0]["kwargs"]] + [{"more": True}] * (len(calls[0]["args"]) > 1)
    else:
        references = calls[0]
        keywords = [reference[3] for reference in references if len(reference) > 3]
    said = [value for keyword in keywords for value in keyword.values()]
    if any(value not in (None, False) for value in said) or any(reference[2] for reference in references):
        raise Unusable(f"calls its layer {name!r} with arguments, which this project cannot rebuild")
    return tuple(reference[0] for reference in references)


def _in_order(layers: list[Layer | Network], first: str) -> tuple[Layer | Network, ...]:
    known, ordered = {first}, []
    if len({layer.name for layer in layers} | known) <= len(layers):
        raise Unusable("is damaged: two of its layers have one name")
    while layers:
        later = []
        for layer in layers:
            if known.issuperset(layer.inputs):
                ordered.append(layer)
                known.add(layer.name)
            else:
                later.append(layer)
        if len(later) == len(layers):
            raise Unusable(f"is damaged: nothing feeds its layer {later[0].name!r}")
        layers = later
    return tuple(ordered)


def _arguments(kind: str, settings: dict) -> dict:
    if settings.get("data_format") == "channels_first":
        raise Unusable("keeps its colours first (channels_first); only channels_last models can be opened")
    allowed = LAYERS[kind].split()
    for key, value in settings.items():
        # a newer Keras may know more: what is switched off does not matter
        if value is True and key not in (*allowed, "trainable", "synchronized"):
            raise Unusable(f"has {key}=True in a {kind} layer, which this project cannot rebuild")
    arguments = {key: _plain(kind, key, settings[key]) for key in allowed if key in settings}
    if isinstance(arguments.get("axis"), list) and len(arguments["axis"]) == 1:
        arguments["axis"] = arguments["axis"][0]  # Keras 2's BatchNormalization
    if "alpha" in arguments and kind == "LeakyReLU":
        arguments["negative_slope"] = arguments.pop("alpha")
    return arguments


def _plain(kind: str, key: str, value):
    """`value` where it is None, a number, a list of such, or one of the STRINGS."""
    if isinstance(value, (list, tuple)):
        return [_plain(kind, key, part) for part in value]
    number = isinstance(value, (int, float)) and math.isfinite(value)
    if value is None or (number and (isinstance(value, float) or abs(value) <= MAX_INTEGER)):
        return value
    if isinstance(value, str) and value in STRINGS.get(key, ()):
        return value
    raise Unusable(f"has {key}={str(value)[:60]!r} in a {kind} layer, which this project does not know")


def _dtype(said: str | dict | None) -> str:
    """Keras 2: a name, or a policy of that name; Keras 3: a DTypePolicy."""
    name = said.get("config", {}).get("name") if isinstance(said, dict) else said
    return name if name in DTYPES else "float32"


def _shape(entry: dict) -> list | None:
    return entry["config"].get("batch_shape") or entry["config"].get("batch_input_shape")


def _dimensions(shape: list | None) -> tuple | None:
    return None if shape is None else tuple(shape)
