"""A saved network's config, of Keras 2 or 3, as a checked description. Nothing in it is built or run.

A config names classes and functions, and Keras imports and calls them: a file from elsewhere could run code.
Here it is read as data: what LAYERS does not list, argument by argument, is refused. Initializers,
regularizers and constraints serve training alone and are left out. What no layer of Keras 3 is, but a few
of them compute (operations, Keras 2's hard_sigmoid, layers of keras.applications), is told in those.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from emo.models.saved_file import Unusable
from emo.models.saved_operations import Step, Tensor, is_operation, steps

_CONVOLUTION = "kernel_size strides padding dilation_rate activation use_bias"
# class name → its arguments that matter in prediction, as Keras 3 names them; LeakyReLU's alpha is Keras 2's.
# LayerScale (ConvNeXt's), Channels and Slice (of operations) are not layers of Keras: the loader makes them
LAYERS: dict[str, str] = {
    "Activation": "activation",
    "Add": "",
    "Average": "",
    "AveragePooling2D": "pool_size strides padding",
    "BatchNormalization": "axis momentum epsilon center scale",
    "CenterCrop": "height width",
    "Channels": "picked",
    "Concatenate": "axis",
    "Conv2D": f"filters groups {_CONVOLUTION}",
    "Conv2DTranspose": f"filters output_padding {_CONVOLUTION}",
    "Cropping2D": "cropping",
    "Dense": "units activation use_bias",
    "DepthwiseConv2D": f"depth_multiplier {_CONVOLUTION}",
    "Dot": "axes normalize",
    "Dropout": "rate",
    "ELU": "alpha",
    "Flatten": "",
    "GlobalAveragePooling1D": "keepdims",
    "GlobalAveragePooling2D": "keepdims",
    "GlobalMaxPooling1D": "keepdims",
    "GlobalMaxPooling2D": "keepdims",
    "GroupNormalization": "groups axis epsilon center scale",
    "LayerNormalization": "axis epsilon center scale",
    "LayerScale": "",
    "LeakyReLU": "negative_slope alpha",
    "MaxPooling2D": "pool_size strides padding",
    "Maximum": "",
    "Minimum": "",
    "MultiHeadAttention": "num_heads key_dim value_dim use_bias output_shape attention_axes",
    "Multiply": "",
    "Normalization": "axis mean variance invert",
    "PReLU": "shared_axes",
    "Permute": "dims",
    "ReLU": "max_value negative_slope threshold",
    "Rescaling": "scale offset",
    "Reshape": "target_shape",
    "Resizing": "height width interpolation crop_to_aspect_ratio pad_to_aspect_ratio",
    "SeparableConv2D": f"filters depth_multiplier {_CONVOLUTION}",
    "Slice": "places",
    "Softmax": "axis",
    "Subtract": "",
    "UnitNormalization": "axis",
    "UpSampling2D": "size interpolation",
    "ZeroPadding2D": "padding",
}
INTERNAL = ("Channels", "Slice")
NETWORKS = ("Functional", "Model", "Sequential")
# in prediction these pass their input on as it is
IDENTITIES = frozenset(
    {"ActivityRegularization", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Identity"}
    | {"AugMix", "CutMix", "MixUp", "RandAugment"}
    | {"SpatialDropout1D", "SpatialDropout2D", "StochasticDepth"}
    | {f"Random{what}" for what in ("Brightness", "Contrast", "Flip", "Rotation", "Translation", "Zoom")}
    | {f"Random{what}" for what in ("ColorDegeneration", "ColorJitter", "ElasticTransform", "Erasing")}
    | {f"Random{what}" for what in ("GaussianBlur", "Grayscale", "Height", "Hue", "Invert", "Perspective")}
    | {f"Random{what}" for what in ("Posterization", "Saturation", "Sharpness", "Shear", "Width")}
)
ACTIVATIONS = frozenset(
    {"elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear", "log_softmax"}
    | {"mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"}
    | {"celu", "hard_shrink", "hard_tanh", "log_sigmoid", "soft_shrink", "squareplus", "tanh_shrink"}
)
RENAMED = {"hard_swish": "hard_silu", "swish": "silu"}
ACTIVATION_LAYERS = ("ELU", "LeakyReLU", "ReLU", "Softmax")  # given as another layer's activation
STRINGS = {
    "activation": ACTIVATIONS,
    "padding": frozenset({"valid", "same"}),
    "places": frozenset({"..."}),
    "interpolation": frozenset({"nearest", "bilinear", "bicubic", "area", "lanczos3", "lanczos5"}),
}
DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"})
# a layer's weights in the order in which Keras creates and saves them
WEIGHTS: dict[str, tuple[str, ...]] = {
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Conv2D": ("kernel", "bias"),
    "Conv2DTranspose": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "DepthwiseConv2D": ("depthwise", "bias"),
    "GroupNormalization": ("gamma", "beta"),
    "LayerNormalization": ("gamma", "beta"),
    "LayerScale": ("gamma",),
    "MultiHeadAttention": tuple(
        f"{part}_{weight}"
        for part in ("query", "key", "value", "output")
        for weight in ("kernel", "attention_bias")
    ),
    "Normalization": ("mean", "variance", "count"),
    "PReLU": ("alpha",),
    "SeparableConv2D": ("depthwise", "pointwise", "bias"),
}
SWITCHES = {"bias": "use_bias", "beta": "center", "gamma": "scale"}
SWITCHES |= {name: "use_bias" for name in WEIGHTS["MultiHeadAttention"] if name.endswith("bias")}
MAX_LAYERS = 2_000  # EfficientNetB7, the longest of keras.applications, has 814
MAX_INTEGER = 2**20


@dataclass(frozen=True, eq=False)
class Layer:
    """`kind` is a key of LAYERS or in IDENTITIES; `inputs` names the layers that feed it, in order."""

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
    kind: str = "Functional"  # or "Sequential", or "Model"

    def __post_init__(self):
        if self.output not in [layer.name for layer in self.layers]:
            raise Unusable(f"is damaged: it has no layer {self.output!r}, which is to make its output")

    def walk(self, x, call: Callable):
        """What comes out where `x` goes in: `call(layer, given)` makes each layer's output of its input.

        `given` lists the outputs of the layers that feed it. An inner network is called as a whole.
        """
        made = {self.input: x}
        for layer in self.layers:
            given = [made[name] for name in layer.inputs]
            made[layer.name] = call(layer, given)
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


def parse(config: dict, keras_version: str = "3") -> Network:
    """The network that a `model_config` describes, as the Keras of that version understands it.

    Raises Unusable where it holds what could run code, or what this project cannot rebuild; other
    exceptions (KeyError, TypeError, …) where it is damaged.
    """
    if _count(config, MAX_LAYERS) < 0:
        raise Unusable(f"has more than {MAX_LAYERS:,} layers, which no network of this project's kind has")
    network = _network(config, (), True, 2 if keras_version.startswith(("1.", "2.")) else 3)
    if network is None:
        raise Unusable("holds a single layer and no network")
    return network


def _count(entry: dict, left: int) -> int:
    """`left` less its layers, those of inner networks included; negative as soon as they are more."""
    settings = entry.get("config") if isinstance(entry, dict) else None
    inner = settings.get("layers") if isinstance(settings, dict) else settings
    for layer in inner if isinstance(inner, list) else ():
        left = _count(layer, left - 1)
        if left < 0:
            break
    return left


def _kind(entry: dict) -> str:
    """Its class; with its package where that is none of Keras's, which no list here holds."""
    kind, registered = entry["class_name"], entry.get("registered_name")
    custom = str(entry.get("module") or "keras").partition(".")[0] not in ("keras", "tf_keras")
    if custom or registered not in (None, kind):
        return registered or f"{entry['module']}.{kind}"
    return kind


def _network(entry: dict, inputs: tuple[str, ...], trainable: bool, keras: int) -> Network | None:
    """None for a layer that is not a network."""
    kind, settings = _kind(entry), entry["config"]
    if kind not in NETWORKS:
        return None
    inner = settings if isinstance(settings, dict) else {"layers": settings}  # a list before Keras 2.2.3
    trainable = trainable and inner.get("trainable") is not False
    parse_inner = _sequential if kind == "Sequential" else _functional
    name = str(inner.get("name", entry.get("name", "network")))
    return replace(parse_inner(inner, inputs, name, trainable, keras), kind=kind)


def _layers(entry: dict, args: list, kwargs: dict, trainable: bool, keras: int) -> list[Layer]:
    """The plain layers that compute what an entry calls: one, or several that feed each other."""
    kind, settings = _kind(entry), entry["config"]
    of_applications = kind in ("CustomScaleLayer", "RandomCrop")
    known = kind in IDENTITIES or (kind in LAYERS and kind not in INTERNAL)
    if not known and not of_applications and not is_operation(kind, settings):
        danger = (
            "which can run code from the file" if kind == "Lambda" else "which this project does not know"
        )
        raise Unusable(
            f"holds a layer of the class {str(kind)[:60]!r}, {danger}: it was not opened and nothing in it "
            "was run; use a model of Keras's own plain layers"
        )
    # an operation of Keras 3.10 has its name outside of its config alone
    name = settings["name"] if "name" in settings else entry["name"]
    dtype = _dtype(settings.get("dtype"))
    trainable = trainable and settings.get("trainable") is not False
    if is_operation(kind, settings):
        return _chain(name, steps(kind, settings, args, kwargs), dtype)
    if of_applications:
        return _chain(name, _of_applications(kind, settings, _inputs(kind, name, args, kwargs)), dtype)
    inputs = _inputs(kind, name, args, kwargs)
    arguments = {} if kind in IDENTITIES else _arguments(kind, settings)
    after = _activation_after(arguments, keras)
    layer = Layer(name, kind, arguments, inputs, trainable, dtype)
    return [layer, *_chain(f"{name}_activation", after, dtype, name)]


def _chain(name: str, made: Sequence[Step], dtype: str, before: str | None = None) -> list[Layer]:
    """Layers that feed each other, the first of them `before`; the last has the name."""
    chain = []
    for number, step in enumerate(made, start=1):
        own = name if number == len(made) else f"{name}_{number}_of_{len(made)}"
        inputs = tuple(before if source is None else source for source in step.inputs)
        arguments = {key: _plain(step.kind, key, value) for key, value in step.arguments.items()}
        chain.append(Layer(own, step.kind, arguments, inputs, True, dtype))
        before = own
    return chain


def _of_applications(kind: str, settings: dict, inputs: tuple[str, ...]) -> list[Step]:
    if (
        kind == "RandomCrop"
    ):  # as documented, and as Keras 2 has it: Keras 3.13 predicts from the whole picture
        size = {key: settings[key] for key in ("height", "width")}
        return [Step("Resizing", size | {"crop_to_aspect_ratio": True}, inputs)]
    shortcut, residual = inputs  # InceptionResNetV2's
    scaled = Step("Rescaling", {"scale": settings["scale"], "offset": 0.0}, (residual,))
    return [scaled, Step("Add", {}, (shortcut, None))]


def _activation_after(arguments: dict, keras: int) -> list[Step]:
    """The layers that an activation is when it is not a function of Keras 3; it is then linear itself."""
    said = arguments.get("activation")
    if isinstance(said, Step):
        arguments["activation"] = "linear"
        return [said]
    if said == "hard_sigmoid" and keras == 2:  # Keras 3 divides by 6
        arguments["activation"] = "linear"
        return [Step("Rescaling", {"scale": 0.2, "offset": 0.5}), Step("ReLU", {"max_value": 1.0})]
    return []


def _sequential(settings: dict, inputs: tuple, name: str, trainable: bool, keras: int) -> Network:
    entries = list(settings["layers"])
    shape = settings.get("build_input_shape")
    first = source = f"{name}_input"
    if entries[0]["class_name"] == "InputLayer":
        first = source = entries[0]["config"]["name"]
        shape = _shape(entries.pop(0))
    layers = []
    for entry in entries:
        inner = _network(entry, (source,), trainable, keras)
        layers += [inner] if inner else _layers(entry, [Tensor(source)], {}, trainable, keras)
        source = layers[-1].name
    if shape is None:
        shape = layers[0].input_shape if isinstance(layers[0], Network) else _shape(entries[0])
    return Network(name, _in_order(layers, first), first, source, _dimensions(shape), inputs)


def _functional(settings: dict, inputs: tuple, name: str, trainable: bool, keras: int) -> Network:
    first, output = (_only(settings[key], key) for key in ("input_layers", "output_layers"))
    groups, shape, ends = [], None, {}  # the layers of an entry, the last of which is what it makes
    for entry in settings["layers"]:
        if entry["class_name"] == "InputLayer":
            shape = _shape(entry) if entry["config"]["name"] == first else shape
            continue
        args, kwargs = _call(entry)
        called = entry["name"]
        sources = _inputs("", called, args, kwargs) if _kind(entry) in NETWORKS else ()
        inner = _network(entry, sources, trainable, keras)
        groups.append([inner] if inner else _layers(entry, args, kwargs, trainable, keras))
        ends[groups[-1][0].name] = groups[-1][-1].name
    layers = []
    for group in groups:
        own = {layer.name for layer in group[:-1]}
        for layer in group:
            sources = tuple(name if name in own else ends.get(name, name) for name in layer.inputs)
            layers.append(replace(layer, inputs=sources))
    layers = _in_order(_with_channels(layers), first)
    return Network(name, layers, first, ends.get(output, output), _dimensions(shape), inputs)


def _with_channels(layers: list[Layer | Network]) -> list[Layer | Network]:
    """x[..., 2], x[..., 1], x[..., 0], stacked, are Channels of x: so keras.applications turn to BGR."""
    by_name = {layer.name: layer for layer in layers if isinstance(layer, Layer)}
    picks, changed = set(), []
    for layer in layers:
        if isinstance(layer, Layer) and layer.kind == "Stack":
            slices = [by_name.get(name) for name in layer.inputs]
            picked = [each.arguments["places"] for each in slices if each and each.kind == "Slice"]
            sources = {each.inputs for each in slices if each}
            channels = len(picked) == len(slices) and all(
                len(places) == 2 and places[0] == "..." and type(places[1]) is int for places in picked
            )
            if not channels or len(sources) != 1 or layer.arguments["axis"] not in (-1, 3):
                raise Unusable(f"stacks tensors in {layer.name!r}, which this project cannot rebuild")
            picks |= set(layer.inputs)
            arguments = {"picked": [places[1] for places in picked]}
            layer = replace(layer, kind="Channels", arguments=arguments, inputs=sources.pop())
        changed.append(layer)
    used = {name for layer in changed for name in layer.inputs}
    return [layer for layer in changed if layer.name not in picks or layer.name in used]


def _only(references: list, key: str) -> str:
    """The name in [[name, 0, 0]], as Keras 2 writes it, or [name, 0, 0]."""
    references = [references] if isinstance(references[0], str) else references
    if len(references) != 1:
        raise Unusable(f"has {len(references)} {key.replace('_layers', 's')}; a classifier has one")
    return references[0][0]


def _call(entry: dict) -> tuple[list, dict]:
    """What an entry is called with, once, in either Keras's writing, as `Tensor`s and plain data.

    Keras 2: [[name, 0, 0, keywords], …], or one such; Keras 3: args and kwargs.
    """
    calls, name = entry["inbound_nodes"], entry["name"]
    if len(calls) != 1:
        raise Unusable(f"calls its layer {name!r} {len(calls)} times, which this project cannot rebuild")
    if isinstance(calls[0], dict):
        return [_said(each) for each in calls[0]["args"]], _said(calls[0]["kwargs"])
    single = isinstance(calls[0][0], str)
    references = [calls[0]] if single else calls[0]
    first = [
        _said(index) if source == "_CONSTANT_VALUE" else _reference(source, index)
        for source, _, index, *_ in references
    ]
    keywords = references[0][3] if len(references[0]) > 3 else {}
    if any(len(each) > 3 and each[3] != keywords for each in references):
        raise Unusable(f"calls its layer {name!r} with arguments, which this project cannot rebuild")
    return [first[0] if len(first) == 1 else first], _said(keywords, keras_2=True)


def _said(value, keras_2: bool = False):
    """JSON → numbers, strings, lists, slices, `Tensor`s; a dict that is none of these stays one."""
    if isinstance(value, list):
        if keras_2 and len(value) == 3 and isinstance(value[0], str) and type(value[1]) is int:
            return _reference(value[0], value[2])
        return [_said(each, keras_2) for each in value]
    if not isinstance(value, dict):
        return value
    kind, settings = value.get("class_name"), value.get("config")
    if kind == "__keras_tensor__":
        return _reference(settings["keras_history"][0], settings["keras_history"][2])
    if kind == "__ellipsis__":
        return ...
    if kind in ("__tensor__", "__numpy__", "__tuple__"):
        return _said(settings["value"] if kind != "__tuple__" else value["items"])
    if kind == "__slice__" or value.keys() == {"start", "stop", "step"}:
        bounds = settings if kind == "__slice__" else value
        return slice(*(bounds[key] for key in ("start", "stop", "step")))
    return {key: _said(each, keras_2) for key, each in value.items()}


def _reference(source: str, index: int) -> Tensor:
    if index:
        raise Unusable(f"takes output {index} of its layer {source!r}, which this project cannot rebuild")
    return Tensor(source)


def _inputs(kind: str, name: str, args: list, kwargs: dict) -> tuple[str, ...]:
    """The layers that feed this one: in training only may it be called with more."""
    given, more = args[:1], [*args[1:], *kwargs.values()]
    if kind == "MultiHeadAttention":
        keys = ("query", "value", "key")
        said = dict(zip(keys, args, strict=False)) | kwargs
        given = [[said.pop(key) for key in keys if said.get(key) is not None]]
        more = [*args[3:], *said.values()]
    elif kind in IDENTITIES or kind in ("CenterCrop", "RandomCrop", "Resizing"):
        more = [*args[1:], *(value for key, value in kwargs.items() if key != "training")]
    tensors = given[0] if given and isinstance(given[0], list) else given
    plain = tensors and all(isinstance(tensor, Tensor) for tensor in tensors)
    if not plain or any(value is not None and value is not False for value in more):
        raise Unusable(f"calls its layer {name!r} with arguments, which this project cannot rebuild")
    return tuple(tensor.name for tensor in tensors)


def _in_order(layers: list[Layer | Network], first: str) -> tuple[Layer | Network, ...]:
    """Each after what feeds it, otherwise as in the file. Raises Unusable where something feeds none."""
    place = {layer.name: number for number, layer in enumerate(layers)}
    if len(place) < len(layers) or first in place:
        raise Unusable("is damaged: two of its layers have one name")
    waits, feeds = {}, {}
    for number, layer in enumerate(layers):
        sources = set(layer.inputs) - {first}
        waits[number] = len(sources)
        for source in sources:
            feeds.setdefault(source, []).append(number)
    ready, ordered = [number for number, count in waits.items() if not count], []
    while ready:
        layer = layers[heapq.heappop(ready)]
        ordered.append(layer)
        for number in feeds.get(layer.name, ()):
            waits[number] -= 1
            if not waits[number]:
                heapq.heappush(ready, number)
    if len(ordered) < len(layers):
        stuck = next(layer.name for number, layer in enumerate(layers) if waits[number])
        raise Unusable(f"is damaged: nothing feeds its layer {stuck!r}")
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
    """`value` where it is None, a number, a list of such, one of the STRINGS, or an activation."""
    if key == "activation" and isinstance(value, dict):
        return _activation(kind, value)
    if isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__"):
        value = value["config"]["value"]
    if isinstance(value, (list, tuple)):
        return [_plain(kind, key, part) for part in value]
    number = isinstance(value, (int, float)) and math.isfinite(value)
    if value is None or (number and (isinstance(value, float) or abs(value) <= MAX_INTEGER)):
        return value
    if isinstance(value, str) and (value := RENAMED.get(value, value)) in STRINGS.get(key, ()):
        return value
    raise Unusable(f"has {key}={str(value)[:60]!r} in a {kind} layer, which this project does not know")


def _activation(kind: str, said: dict) -> str | Step:
    """A function of Keras by its name, or a layer that has no weights."""
    name, settings = (
        _kind(said | {"module": said.get("module", "").replace("builtins", "keras")}),
        said["config"],
    )
    if name == "function" and isinstance(settings, str):
        return _plain(kind, "activation", settings)
    if name in ACTIVATION_LAYERS:
        return Step(name, _arguments(name, settings))
    raise Unusable(f"has activation={str(name)[:60]!r} in a {kind} layer, which this project does not know")


def _dtype(said: str | dict | None) -> str:
    """Keras 2: a name, or a policy of that name; Keras 3: a DTypePolicy."""
    name = said.get("config", {}).get("name") if isinstance(said, dict) else said
    return name if name in DTYPES else "float32"


def _shape(entry: dict) -> list | None:
    return entry["config"].get("batch_shape") or entry["config"].get("batch_input_shape")


def _dimensions(shape: list | None) -> tuple | None:
    return None if shape is None else tuple(shape)
