"""A saved `.h5`, of Keras 2 or 3, ours or not → the network it describes, rebuilt with its weights.

`keras.models.load_model` of Keras 3 opens few files of Keras 2 and none with what a newer Keras added, and it
imports what a file names. Here only the layers of `emo.architecture` are built, each with its own weights.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
from keras import layers

from emo.errors import UserError
from emo.models.build import LUMINANCE, preprocess
from emo.models.h5_config import IDENTITIES, Layer, Network, Unusable, parse
from emo.models.saving import read_metadata

HEAP = b"GCOL\x01"
LARGEST_COMPRESSION = 1_000  # of HDF5's gzip filter


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
    """Checks a `.h5` and describes what it holds; builds nothing.

    Raises UserError for a file that is missing, damaged, of another kind, holds what could run code, or what
    cannot be rebuilt.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no model file {path}; give the path of a .h5 from the folder model/.")
    with _sentences(path):
        if not h5py.is_hdf5(path):
            if path.suffix == ".keras":
                raise Unusable(
                    "is no .h5: open it where it was saved, and save it with model.save('name.h5')"
                )
            raise Unusable("is no .h5 model: it is damaged or of another kind; copy or train it anew")
        _check_heaps(path)
        with h5py.File(path, "r") as file:
            config, groups = file.attrs.get("model_config"), list(file)
            if config is None and ("layer_names" in file.attrs or "layers" in groups):
                raise Unusable(
                    "holds weights without their network: build the network as it was trained, "
                    "load_weights() this file into it, and save it whole with model.save('name.h5')"
                )
            if config is None or "model_weights" not in groups:
                raise Unusable("is an HDF5 file without a Keras model: it is damaged or of another kind")
        network = parse(json.loads(config))
        shape = network.input_shape
        if not shape or len(shape) != 4 or any(not (side is None or type(side) is int) for side in shape):
            raise Unusable(f"takes input of shape {shape}, which is no picture")
        metadata = read_metadata(path)
        if not isinstance(metadata, dict):
            raise Unusable("is damaged: its metadata are no table; copy or train it anew")
        return SavedModel(path, network, metadata)


def rebuild(saved: SavedModel, image_size: int | None = None, preprocessing: str = "none") -> keras.Model:
    """The network with its weights, uncompiled: RGB in 0–255, (n, size, size, 3) → probabilities.

    What its pictures went through before (`preprocess`'s modes, and to grey for a network of one
    channel) becomes its first layers. `image_size` in pixels, for a network that takes any. Raises UserError.
    """
    height, width, channels = saved.input_shape
    network = saved.network
    as_saved = preprocessing == "none" and channels == 3
    with _sentences(saved.path):
        size = (height or image_size, width or image_size, 3)
        images = x = keras.Input(size, name=network.input if as_saved else "rgb_0_255")
        if channels == 1:
            grey = layers.Conv2D(1, 1, use_bias=False, trainable=False, name="grey")
            x = grey(x)
            grey.set_weights([LUMINANCE.reshape(1, 1, 3, 1)])
        x = preprocess(x, preprocessing)
        with h5py.File(saved.path, "r") as file:
            outputs = _connect(network, x, _weights(file, network))
        if network.last.kind == "Dense" and network.last.activation == "linear":
            outputs = layers.Softmax(name="probabilities_of_logits")(outputs)
        elif network.last.activation != "softmax":
            raise Unusable(
                f"ends in {network.last.name!r}, which gives no probabilities that add up to 1 (no softmax)"
            )
        return keras.Model(images, outputs, name=_keras_name(network.name))


def load_model(path: str | Path) -> tuple[keras.Model, dict]:
    """The network in a `.h5` as it was saved, and its metadata. Raises UserError."""
    saved = read_model(path)
    return rebuild(saved), saved.metadata


def _check_heaps(path: Path) -> None:
    """Refuses the one damage that HDF5 (2.0 and before) does not see, and would read for ever.

    Attributes lie in heaps, as objects one behind the other: index (2 bytes), count (2), reserved (4),
    size (8), content; index 0 is free space, its size includes this header. HDF5's File Format
    Specification, "Global Heap".
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heap = content.find(HEAP)
        while heap >= 0:
            end = min(heap + int.from_bytes(content[heap + 8 : heap + 16], "little"), len(content) - 16)
            at = heap + 16
            while at < end:
                index, size = struct.unpack_from("<H6xQ", content, at)
                if not index and not size:
                    raise Unusable("is damaged; copy it anew")
                at += size if not index else 16 + (size + 7) // 8 * 8
            heap = content.find(HEAP, max(min(at, end), heap + 16))


@contextmanager
def _sentences(path: Path):
    """A file from elsewhere may be wrong in any way: whatever that raises becomes a sentence."""
    try:
        yield
    except UserError:
        raise
    except Unusable as error:
        raise UserError(f"{path.name} {_printable(str(error))}.") from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:150]
        raise UserError(
            f"{path.name} could not be opened as a Keras model: it is damaged or of a kind unknown here "
            f"({type(error).__name__}: {_printable(reason)}); copy it anew, or save it anew where it opens."
        ) from error


def _printable(text: str) -> str:
    """Without the halves of characters that h5py makes of bytes that are no UTF-8: printing them fails."""
    return text.encode(errors="replace").decode()


def _weights(file: h5py.File, network: Network) -> dict[Layer, list[h5py.Dataset]]:
    """Each layer's arrays in the order of its `weights`."""
    items = _contents(file)
    found = {}
    for layer in network.layers:
        leaves = [leaf for leaf in _leaves(layer) if leaf.weights]
        if not leaves:
            continue
        group = f"model_weights/{layer.name}"
        arrays: dict[
            str, list[h5py.Dataset]
        ] = {}  # of an inner layer's path, in Keras 2 maybe its name alone
        for name in _strings(items[group], "weight_names"):
            arrays.setdefault(name.rpartition("/")[0], []).append(items[f"{group}/{name}"])
        by_name = {path.rpartition("/")[2]: of_path for path, of_path in arrays.items()}
        if len(by_name) == len(arrays) and by_name.keys() >= {leaf.name for leaf in leaves}:
            found |= {leaf: by_name[leaf.name] for leaf in leaves}
        elif len(arrays) == len(leaves):
            # layers renamed since they were made: Keras saves those that train first
            leaves.sort(key=lambda leaf: not leaf.trainable)
            found |= dict(zip(leaves, arrays.values(), strict=True))
        else:
            raise Unusable(f"is damaged: the weights of {layer.name!r} do not fit its layers")
    for leaf, of_leaf in found.items():
        if len(of_leaf) != len(leaf.weights):
            raise Unusable(f"is damaged: the layer {leaf.name!r} lacks weights")
    return found


def _contents(file: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    """Every group and array by its path; plain `file[path]` would follow a link of HDF5 into another file."""
    items: dict[str, h5py.Group | h5py.Dataset] = {}
    file.visititems(lambda path, item: items.update({path: item}))
    arrays = [item for item in items.values() if isinstance(item, h5py.Dataset)]
    if any(array.external or array.is_virtual for array in arrays):
        raise Unusable("takes weights from other files: it was not opened")
    if sum(array.nbytes for array in arrays) > LARGEST_COMPRESSION * Path(file.filename).stat().st_size:
        raise Unusable("is damaged: it names more weights than it holds")
    return items


def _leaves(layer: Layer | Network) -> list[Layer]:
    return list(layer.leaves()) if isinstance(layer, Network) else [layer]


def _strings(group: h5py.Group, attribute: str) -> list[str]:
    """A list in an attribute; HDF5 holds 64 KB in one, so Keras numbers the parts of a longer one."""
    values, part = list(group.attrs.get(attribute, ())), 0
    while f"{attribute}{part}" in group.attrs:
        values += list(group.attrs[f"{attribute}{part}"])
        part += 1
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _connect(network: Network, x, weights: dict[Layer, list[h5py.Dataset]]):
    def call(layer: Layer | Network, given):
        if not isinstance(layer, Network):
            return _call(layer, given, weights.get(layer, []))
        inner = keras.Input(given.shape[1:], name=_keras_name(layer.input))
        outputs = _connect(layer, inner, weights)
        return keras.Model(inner, outputs, name=_keras_name(layer.name))(given)

    return network.walk(x, call)


def _call(described: Layer, x, arrays: list[h5py.Dataset]):
    kind = layers.Identity if described.kind in IDENTITIES else getattr(layers, described.kind)
    layer = kind(**described.arguments, name=_keras_name(described.name), dtype=described.dtype)
    layer.trainable = described.trainable
    if described.kind == "Normalization":
        layer.build(x.shape)
        if arrays:
            layer.set_weights([array[()] for array in arrays])
            layer.finalize_state()
        return layer(x)
    # the saved arrays as initializers: no random start is drawn, and no array of another size is ever made
    initializers = [f"{name}_initializer" for name in described.weights]
    usual = [getattr(layer, name) for name in initializers]
    for name, array in zip(initializers, arrays, strict=True):
        setattr(layer, name, _saved(described.name, array))
    y = layer(x)
    for name, initializer in zip(initializers, usual, strict=True):
        setattr(layer, name, initializer)
    return y


def _saved(layer: str, array: h5py.Dataset) -> Callable:
    def read(shape, dtype=None):
        if tuple(shape) != array.shape:
            raise Unusable(
                f"is damaged: its layer {layer!r} wants weights of {tuple(shape)}, the file has {array.shape}"
            )
        return keras.ops.convert_to_tensor(array[()], dtype)

    return read


def _keras_name(name: str) -> str:
    return name.replace("/", "_")  # which Keras 3 allows in no name
