"""The weights in a model file, by the layer that they belong to: of a whole model, or of no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from emo.models.saved_config import Layer, Network, parse
from emo.models.saved_file import (
    TREES,
    Opened,
    Unusable,
    contents,
    holds_weights_alone,
    numbers,
    open_model,
    strings,
)

if TYPE_CHECKING:
    import keras

Arrays = list[h5py.Dataset]


def network_in(opened: Opened) -> Network:
    """The network that the open file describes. Raises Unusable where there is none that can be rebuilt."""
    if holds_weights_alone(opened):
        raise Unusable(
            "holds weights without their network: build the network as it was trained, "
            "load_weights() this file into it, and save it whole with model.save('name.h5'), or put the "
            "network's JSON, by model.to_json(), beside it under the same name"
        )
    if opened.config is None or not opened.has_weights:
        raise Unusable("is an HDF5 file without a Keras model: it is damaged or of another kind")
    described, version = json.loads(opened.config), opened.version
    if not version:  # Keras 2 named the shape of a layer's input so, Keras 3 does not
        version = "2." if "batch_input_shape" in json.dumps(described) else "3."
    return parse(described, version)


def weights_of(opened: Opened, network: Network) -> dict[Layer, Arrays]:
    """Each layer's arrays in the order of its `weights`, from a file that holds the whole model."""
    items = contents(opened.file)
    if "model_weights" in items:
        found = _by_name(network, items, "model_weights/")
    elif "layer_names" in opened.file.attrs:
        found = _by_name(network, items, "")
    else:
        found = _by_number(network, items)
    for leaf, of_leaf in found.items():
        if len(of_leaf) != len(leaf.weights) or not all(isinstance(each, h5py.Dataset) for each in of_leaf):
            raise Unusable(f"is damaged: the layer {leaf.name!r} lacks weights")
    return found


def load_backbone(network: keras.Model, path: Path, name: str, title: str) -> None:
    """Puts a file's weights into the backbone `name`: of a whole model that has it, or its weights alone.

    Raises Unusable, with `title` for the network, where they do not fit; the network is then as it was. Where
    the same file is to give the head as well, `weights_of` has its arrays beside the backbone's.
    """
    with open_model(path) as opened:
        try:
            pairs = _arrays_for(network, opened, name)
            for layer, arrays in pairs:
                _check_shapes(layer, arrays)
        except _Misfit as error:
            raise Unusable(
                f"does not fit {title}: {error}; give weights saved from the same network, or a .h5 that was "
                f"trained with {name}"
            ) from None
        values = [[numbers(array, layer.name) for array in arrays] for layer, arrays in pairs]
    for (layer, _), of_layer in zip(pairs, values, strict=True):
        layer.set_weights(of_layer)


class _Misfit(Exception):
    """Why a file's weights are not those of a network."""


def _arrays_for(network: keras.Model, opened: Opened, name: str) -> list[tuple[keras.Layer, Arrays]]:
    """Each of the network's layers with the arrays that the file has for it."""
    wanted = list(_weighted(network))
    if not holds_weights_alone(opened):
        whole = network_in(opened)
        part, arrays = _find(whole, name) or whole, weights_of(opened, whole)
        return _matched(wanted, [(leaf.name, arrays[leaf]) for leaf in part.leaves() if leaf in arrays])
    if "layer_names" in opened.file.attrs:
        return _matched(wanted, _keras_2(opened.file, name))
    return _keras_3(network, contents(opened.file))


def _check_shapes(layer: keras.Layer, arrays: Arrays) -> None:
    takes = [tuple(weight.shape) for weight in layer.weights]
    has = [array.shape for array in arrays]
    if takes != has:
        takes, has = (", ".join(map(str, shapes)) for shapes in (takes, has))
        raise _Misfit(f"its layer {layer.name!r} has weights of {has}, the network takes {takes}")


def _by_name(network: Network, items: dict, root: str) -> dict[Layer, Arrays]:
    """As a `.h5` has them: a group for each of the outer layers, by its name."""
    found: dict[Layer, Arrays] = {}
    for layer in network.layers:
        leaves = [leaf for leaf in _leaves(layer) if leaf.weights]
        if leaves:
            group = f"{root}{layer.name}"
            arrays = [(name, items[f"{group}/{name}"]) for name in strings(items[group], "weight_names")]
            found |= _shared_out(layer.name, arrays, leaves)
    return found


def _by_number(network: Network, items: dict, root: str = "") -> dict[Layer, Arrays]:
    """As a `.keras` has them: layers/conv2d_2 is the third of its class, in it vars/0 is the first array.

    The order of the numbers tells, not the number: not all that are counted have arrays, and Keras 2 counted
    some layers twice.
    """
    tree = next(f"{root}{name}" for name in TREES if f"{root}{name}" in items)
    holders = _holders(items, f"{tree}/")
    weighted = [layer for layer in network.layers if any(leaf.weights for leaf in _leaves(layer))]
    found: dict[Layer, Arrays] = {}
    for kind in dict.fromkeys(layer.kind for layer in weighted):
        ours = [layer for layer in weighted if layer.kind == kind]
        numbers_of = {name: _number(name, _snake_case(kind)) for name in holders}
        theirs = sorted((name for name in holders if numbers_of[name] is not None), key=numbers_of.get)
        if len(theirs) != len(ours):
            raise Unusable(
                f"is damaged: it has weights for {len(theirs)} layers of the class {kind}, its network has "
                f"{len(ours)}"
            )
        for layer, name in zip(ours, theirs, strict=True):
            if isinstance(layer, Network):
                found |= _by_number(layer, items, f"{tree}/{name}/")
            else:
                found[layer] = _variables(items, f"{tree}/{name}", kind)
    return found


def _holders(items: dict, tree: str) -> set[str]:
    """The groups right below `tree` with weights in them: the state of a layer that draws numbers is none."""
    arrays = (path for path, item in items.items() if isinstance(item, h5py.Dataset))
    below = (path.removeprefix(tree) for path in arrays if path.startswith(tree))
    return {path.partition("/")[0] for path in below if "/seed_generator/" not in path}


def _variables(items: dict, group: str, kind: str) -> Arrays:
    """A layer's arrays in their order; those of attention are in layers of its own."""
    groups = [group]
    if kind == "MultiHeadAttention":
        parts = [f"{part}_dense" for part in ("query", "key", "value", "output")]
        old = f"{group}/_{parts[0]}" in items
        groups = [f"{group}/{'_' * old}{part}" for part in parts]
    return [
        items[f"{each}/vars/{number}"] for each in groups for number in sorted(items[f"{each}/vars"], key=int)
    ]


def _leaves(layer: Layer | Network) -> list[Layer]:
    return list(layer.leaves()) if isinstance(layer, Network) else [layer]


def _shared_out(group: str, arrays: list[tuple[str, h5py.Dataset]], leaves: list[Layer]) -> dict:
    """A group's arrays, one after the other, → its layers'. Their names are paths, in Keras 2 maybe short."""
    if len(leaves) == 1:
        return {leaves[0]: [array for _, array in arrays]}
    named = {leaf.name: leaf for leaf in leaves}
    found: dict[Layer, Arrays] = {}
    paths: dict[str, Arrays] = {}
    for name, array in arrays:
        parts = name.split("/")[:-1]
        leaf = next((named[part] for part in reversed(parts) if part in named), None)
        found.setdefault(leaf, []).append(array)
        paths.setdefault("/".join(parts), []).append(array)
    if len(named) == len(leaves) and all(len(found.get(leaf, ())) == len(leaf.weights) for leaf in leaves):
        return {leaf: found[leaf] for leaf in leaves}
    if len(paths) != len(leaves):
        raise Unusable(f"is damaged: the weights of {group!r} do not fit its layers")
    # layers renamed since they were made: Keras saves those that train first
    leaves = sorted(leaves, key=lambda leaf: not leaf.trainable)
    return dict(zip(leaves, paths.values(), strict=True))


def _find(network: Network, name: str) -> Network | None:
    for layer in network.layers:
        if isinstance(layer, Network):
            found = layer if layer.name == name else _find(layer, name)
            if found:
                return found
    return None


def _weighted(network: keras.Model) -> Iterator[keras.Layer]:
    """Every layer with weights, those of inner networks in their place."""
    for layer in network.layers:
        if hasattr(layer, "layers"):
            yield from _weighted(layer)
        elif layer.weights:
            yield layer


def _keras_2(file: h5py.File, name: str) -> list[tuple[str, Arrays]]:
    """Layers and their arrays; where a group `name` is a whole network, the layers in it."""
    items = contents(file)
    groups = strings(file, "layer_names")
    layers: dict[str, Arrays] = {}
    for group in [name] if name in groups else groups:
        for weight in strings(items[group], "weight_names"):
            layer = weight.split("/")[-2] if name in groups and "/" in weight else group
            layers.setdefault(layer, []).append(items[f"{group}/{weight}"])
    return list(layers.items())


def _keras_3(network: keras.Model, items: dict) -> list[tuple[keras.Layer, Arrays]]:
    """The arrays of each layer, wherever in the file's tree those of the whole network lie."""
    import keras

    described = parse(json.loads(network.to_json()), keras.__version__)
    layers = {layer.name: layer for layer in _weighted(network)}
    for path in sorted(path for path in items if path.rpartition("/")[2] in TREES):
        with suppress(Unusable):
            found = _by_number(described, items, path.removesuffix(path.rpartition("/")[2]))
            return [(layers[leaf.name], arrays) for leaf, arrays in found.items()]
    raise _Misfit("it holds the weights of another network")


def _snake_case(name: str) -> str:
    """As Keras 3 names a class in a file: SeparableConv2D → separable_conv2d."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _matched(wanted: list[keras.Layer], found: list[tuple[str, Arrays]]) -> list[tuple[keras.Layer, Arrays]]:
    """Each layer with its arrays: by name, by number where Keras named it, else all in their order."""
    by_name = dict(found)
    kinds = {layer: _snake_case(type(layer).__name__) for layer in wanted}
    named = [layer for layer in wanted if _number(layer.name, kinds[layer]) is None]
    if len(by_name) < len(found) or not named or not by_name.keys() >= {layer.name for layer in named}:
        if len(wanted) != len(found):
            raise _Misfit(f"it holds {len(found)} layers with weights, the network has {len(wanted)}")
        return [(layer, arrays) for layer, (_, arrays) in zip(wanted, found, strict=True)]
    pairs = {layer: by_name[layer.name] for layer in named}
    for kind in dict.fromkeys(kinds[layer] for layer in wanted if layer not in pairs):
        # Keras counts on from network to network: the order is theirs, the numbers are not
        ours = [layer for layer in wanted if kinds[layer] == kind and layer not in pairs]
        ours.sort(key=lambda layer: _number(layer.name, kinds[layer]))
        theirs = [(place, each) for name, each in found if (place := _number(name, kind)) is not None]
        theirs = [each for _, each in sorted(theirs, key=lambda place_and: place_and[0])]
        if len(theirs) < len(ours):
            raise _Misfit(f"it holds {len(theirs)} of the network's {len(ours)} layers of the class {kind}")
        pairs |= dict(zip(ours, theirs, strict=False))
    return [(layer, pairs[layer]) for layer in wanted]


def _number(name: str, kind: str) -> int | None:
    """5 in conv2d_5, where `kind` is conv2d; 0 for conv2d alone; None for a name that somebody gave."""
    number = name.removeprefix(kind).removeprefix("_")
    if name == kind:
        return 0
    return int(number) if name == f"{kind}_{number}" and number.isdecimal() else None
