"""Operations that a saved network calls between its layers, told in Keras's own plain layers.

`x / 255.`, `x + y`, `tf.nn.relu6(x)` or `x[..., ::-1]` become entries of a saved network: `TFOpLambda` and
`SlicingOpLambda` in Keras 2, a class of `keras.ops` in Keras 3. Neither is called here: each has a plain
layer that computes the same, so that the rebuilt network is saved, exported and explained like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from emo.models.saved_file import Unusable


@dataclass(frozen=True)
class Tensor:
    """What the layer or operation of that name makes."""

    name: str


@dataclass(frozen=True)
class Step:
    """One plain layer: a key of `saved_config.LAYERS`, its arguments, the tensors that feed it."""

    kind: str
    arguments: dict = field(default_factory=dict)
    inputs: tuple[str | None, ...] = (None,)  # None: what the step before makes


# what Keras 3 (class names of keras.ops) and Keras 2 (names below tf) call an operation → its name here
NAMES = {
    **{f"math.{name}": name for name in ("abs", "add", "multiply", "subtract", "negative", "square", "pow")},
    **{f"math.{name}": name for name in ("maximum", "minimum", "sigmoid", "tanh", "softplus", "exp")},
    **{f"nn.{name}": name for name in ("relu", "relu6", "elu", "selu", "gelu", "leaky_relu", "softmax")},
    **{f"nn.{name}": name for name in ("log_softmax", "sigmoid", "softplus", "softsign", "silu", "tanh")},
    **{f"__operators__.{name}": name for name in ("add", "getitem")},
    **{"math.truediv": "divide", "math.divide": "divide", "realdiv": "divide", "RealDiv": "divide"},
    **{"math.reduce_mean": "mean", "math.reduce_max": "max", "nn.swish": "silu", "nn.bias_add": "add"},
    **{"concat": "concatenate", "reshape": "reshape", "squeeze": "squeeze", "stack": "stack"},
    **{"transpose": "transpose", "identity": "identity", "cast": "cast", "stop_gradient": "identity"},
    **{"clip_by_value": "clip", "image.resize": "resize", "compat.v1.transpose": "transpose"},
    **{"Absolute": "abs", "Abs": "abs", "Add": "add", "Multiply": "multiply", "Subtract": "subtract"},
    **{"Divide": "divide", "TrueDivide": "divide", "Negative": "negative", "Square": "square"},
    **{"Power": "pow", "Maximum": "maximum", "Minimum": "minimum", "Clip": "clip", "GetItem": "getitem"},
    **{"Relu": "relu", "Relu6": "relu6", "Elu": "elu", "Selu": "selu", "Gelu": "gelu", "Silu": "silu"},
    **{"LeakyRelu": "leaky_relu", "Softmax": "softmax", "LogSoftmax": "log_softmax", "Mish": "mish"},
    **{"Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Softsign": "softsign"},
    **{"HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "HardSwish": "hard_silu", "Exp": "exp"},
    **{"Mean": "mean", "Max": "max", "Concatenate": "concatenate", "Reshape": "reshape", "Cast": "cast"},
    **{"Squeeze": "squeeze", "Stack": "stack", "Transpose": "transpose", "StopGradient": "identity"},
    **{"Identity": "identity", "Resize": "resize"},
}
# arguments by position after the first, as Keras 2 and Keras 3 name them
ARGUMENTS = {
    **dict.fromkeys(("add", "multiply", "subtract", "divide", "pow", "maximum", "minimum"), ("y",)),
    **dict.fromkeys(("mean", "max"), ("axis", "keepdims")),
    **{"clip": ("x_min", "x_max"), "getitem": ("slice_spec",), "leaky_relu": ("negative_slope",)},
    **{"softmax": ("axis",), "log_softmax": ("axis",), "concatenate": ("axis",), "stack": ("axis",)},
    **{"reshape": ("newshape",), "squeeze": ("axis",), "transpose": ("axes",), "cast": ("dtype",)},
    **{"elu": ("alpha",), "gelu": ("approximate",), "resize": ("size",)},
}
# one meaning under several names
SAME = {
    "x2": "y",
    "bias": "y",
    "alpha": "negative_slope",
    "clip_value_min": "x_min",
    "clip_value_max": "x_max",
}
SAME |= {"shape": "newshape", "perm": "axes", "key": "slice_spec", "method": "interpolation"}
FIRST = ("x", "x1", "xs", "features", "logits", "value", "values", "input", "inputs", "tensor", "images", "t")
FIRST += ("input_tensor", "a", "input_data")
IGNORED = (
    "name",
    "data_format",
    "dtype_hint",
    "preserve_aspect_ratio",
    "trainable",
    "dtype",
    "function",
    "fill_mode",
    "fill_value",
)
MERGES = {"add": "Add", "multiply": "Multiply", "subtract": "Subtract", "maximum": "Maximum"}
MERGES |= {"minimum": "Minimum"}
POOLS = {"mean": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}
PLACES = ([1, 2], [-3, -2])  # the axes of rows and columns
# operation → activation of Keras
ACTIVATIONS = {
    name: name
    for name in ("hard_sigmoid", "hard_silu", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus")
} | {"exp": "exponential", "softsign": "softsign", "tanh": "tanh"}


def is_operation(kind: str, settings: dict) -> bool:
    """Whether an entry is an operation: some share their names with layers, which say what trains."""
    return kind in ("TFOpLambda", "SlicingOpLambda") or (kind in NAMES and "trainable" not in settings)


def steps(kind: str, settings: dict, args: list, kwargs: dict) -> list[Step]:
    """The plain layers that compute an operation: each feeds the next, the last gives the result.

    `args` and `kwargs` hold `Tensor`s, numbers, strings, lists, slices and `...`, nothing that runs. Raises
    Unusable for what no plain layer computes.
    """
    said = str(settings.get("function", kind))
    name = NAMES.get(said)
    if name is None:
        raise Unusable(
            f"calls the operation {said[:60]!r}, which this project does not know: it was not opened and "
            "nothing in it was run; use a model of Keras's own plain layers"
        )
    given = _arguments(name, settings, args, kwargs)
    x = given.pop("x", None)
    made = _steps(name, x, given) if x is not None else None
    if made is None or given:
        raise Unusable(f"calls the operation {said[:60]!r} in a way that no plain layer of Keras computes")
    return made


def _arguments(name: str, settings: dict, args: list, kwargs: dict) -> dict:
    """What was given, by the names of ARGUMENTS; "x" is the first."""
    args = list(args)
    if len(args) == 1 and isinstance(args[0], list) and name in MERGES:
        args = args[0]  # as a layer takes them
    given = dict(zip(("x", *ARGUMENTS.get(name, ())), args, strict=False))
    if len(given) < len(args):
        given["more"] = True
    for key, value in {**settings, **kwargs}.items():
        if key in IGNORED and (key != "dtype" or name != "cast"):
            continue
        key = "x" if key in FIRST and "x" not in given else SAME.get(key, key)
        if key == "negative_slope" and name == "elu":
            key = "alpha"
        if value is not None and value is not False:
            given[key] = value
    return given


def _steps(name: str, x, given: dict) -> list[Step] | None:
    """None for what cannot be told in layers; what is taken of `given` is taken out."""
    if ARGUMENTS.get(name) == ("y",):
        return _arithmetic(name, x, given.pop("y", None))
    if name in ("concatenate", "stack"):
        parts, axis = x if isinstance(x, list) else [None], given.pop("axis", 0)
        if not all(isinstance(part, Tensor) for part in parts) or not isinstance(axis, int):
            return None
        return [Step(name.capitalize(), {"axis": axis}, tuple(part.name for part in parts))]
    if not isinstance(x, Tensor):
        return None
    made = _of_each_number(name, (x.name,), given)
    return made if made is not None else _reshaped(name, (x.name,), given)


def _of_each_number(name: str, one: tuple[str], given: dict) -> list[Step] | None:
    """Operations that keep the shape."""
    if name in ACTIVATIONS:
        return [Step("Activation", {"activation": ACTIVATIONS[name]}, one)]
    if name == "gelu" and not given.pop("approximate", False):  # keras.ops approximates it by default
        return [Step("Activation", {"activation": "gelu"}, one)]
    if name == "softmax":
        return [Step("Softmax", {"axis": given.pop("axis", -1)}, one)]
    if name == "log_softmax" and given.pop("axis", -1) == -1:
        return [Step("Activation", {"activation": "log_softmax"}, one)]
    if name == "leaky_relu":
        return [Step("LeakyReLU", {"negative_slope": given.pop("negative_slope", 0.2)}, one)]
    if name == "elu":
        return [Step("ELU", {"alpha": given.pop("alpha", 1.0)}, one)]
    if name == "negative":
        return [_rescaling(-1.0, 0.0, one)]
    if name == "square":
        return [Step("Multiply", {}, one * 2)]
    if name == "abs":  # max(x, −x)
        return [_rescaling(-1.0, 0.0, one), Step("Maximum", {}, (*one, None))]
    if name == "clip":
        low, high = _constant(given.pop("x_min", None)), _constant(given.pop("x_max", None))
        if isinstance(low, float) and isinstance(high, float) and low < high:
            relu = Step("ReLU", {"max_value": high - low})
            return [_rescaling(1.0, -low, one), relu, _rescaling(1.0, low)]
    if name == "identity" or (name == "cast" and "float" in str(given.pop("dtype", ""))):
        return [Step("Identity", {}, one)]
    return None


def _reshaped(name: str, one: tuple[str], given: dict) -> list[Step] | None:
    """Operations that change the shape."""
    if name in POOLS:
        axis, keepdims = given.pop("axis", None), bool(given.pop("keepdims", False))
        return [Step(POOLS[name], {"keepdims": keepdims}, one)] if axis in PLACES else None
    if name == "squeeze":  # of 1 × 1 places, as any other raises
        return [Step("Flatten", {}, one)] if given.pop("axis", None) in PLACES else None
    if name == "reshape":
        batch, *target = given.pop("newshape", None) or [0]
        return [Step("Reshape", {"target_shape": target}, one)] if batch in (-1, None) else None
    if name == "transpose":
        axes = given.pop("axes", None) or [0]
        return [Step("Permute", {"dims": axes[1:]}, one)] if axes[0] == 0 and len(axes) > 1 else None
    if name == "resize":
        size, interpolation = given.pop("size", None), given.pop("interpolation", "bilinear")
        if not isinstance(size, list) or len(size) != 2:
            return None
        size = dict(zip(("height", "width"), size, strict=True))
        return [Step("Resizing", size | {"interpolation": interpolation}, one)]
    if name == "getitem":
        return [Step("Slice", {"places": _places(given.pop("slice_spec", []))}, one)]
    return None


def _arithmetic(name: str, x, y) -> list[Step] | None:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return [Step(MERGES[name], {}, (x.name, y.name))] if name in MERGES else None
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        return None
    turned = not isinstance(x, Tensor)
    one, c = ((y.name,), _constant(x)) if turned else ((x.name,), _constant(y))
    if c is None:
        return None
    if name == "add":
        return [_rescaling(1.0, c, one)]
    if name == "subtract":
        scale, offset = (-1.0, c) if turned else (1.0, _each(c, lambda each: -each))
        return [_rescaling(scale, offset, one)]
    if name == "multiply":
        return [_rescaling(c, 0.0, one)]
    if name == "divide":
        zero = 0 in (c if isinstance(c, list) else [c])
        return None if turned or zero else [_rescaling(_each(c, lambda each: 1 / each), 0.0, one)]
    if name == "pow":
        return [Step("Multiply", {}, one * 2)] if c == 2 and not turned else None
    if name == "maximum" and c == 0:
        return [Step("ReLU", {}, one)]
    # max(x, c) = c + relu(x − c), min(x, c) = c − relu(c − x)
    sign = 1.0 if name == "maximum" else -1.0
    return [
        _rescaling(sign, _each(c, lambda each: -sign * each), one),
        Step("ReLU"),
        _rescaling(sign, c),
    ]


def _rescaling(scale, offset, inputs: tuple[str | None, ...] = (None,)) -> Step:
    return Step("Rescaling", {"scale": scale, "offset": offset}, inputs)


def _constant(value) -> float | list[float] | None:
    """A number, or one a channel; None for any other."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]  # [[[[a, b, c]]]]
    if isinstance(value, list):
        channels = [_constant(each) for each in value]
        return channels if channels and all(isinstance(each, float) for each in channels) else None
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def _each(c, change):
    return [change(each) for each in c] if isinstance(c, list) else change(c)


def _places(spec) -> list:
    """(start, stop, step) or a number an axis, `...` for those in between; raises Unusable for any other."""
    places = []
    for place in spec if isinstance(spec, list) else [spec]:
        if isinstance(place, slice):
            place = (place.start, place.stop, place.step)
        parts = place if isinstance(place, tuple) else (place,)
        if place is not ... and not all(part is None or type(part) is int for part in parts):
            raise Unusable("cuts out places that it computes, which no plain layer of Keras does")
        places.append("..." if place is ... else place)
    return places
