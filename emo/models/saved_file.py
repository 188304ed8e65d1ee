"""A file that should be a Keras model: told from what else people have, and opened without any other.

A model is a network's description, JSON, and its weights, HDF5. A `.h5` has the one within the other, a
`.keras` has both in a zip file, and `model.to_json` with `save_weights` leaves them side by side.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from emo.errors import UserError

OURS = "emo_classificator"  # under which the metadata of `train` lie, in a `.h5` and in a `.keras`
CONFIG, SAVED_BY, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"  # what a .keras holds
TREES = ("layers", "_layer_checkpoint_dependencies")  # what Keras 3, and Keras 2 at last, keep layers in
LARGEST_TEXT = 16_000_000  # bytes of JSON: the longest of keras.applications has 1.2 million
HEAP = b"GCOL\x01"
LARGEST_COMPRESSION = 1_000  # of HDF5's gzip filter
MEMORY = "EMO_MODEL_MEMORY_GB"  # the environment variable that raises the limit of what a file may ask for
MEMORY_GB = 2.0  # the largest of keras.applications, ConvNeXtXLarge, asks for 1.4
ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")
RESAVE = "open it where it was saved, and save it with model.save('name.h5')"


class Unusable(Exception):
    """Why a file cannot be opened: the rest of a sentence that begins with its name."""


@dataclass(frozen=True)
class Opened:
    """A model file that is being read.

    `file` has the weights. `config`, JSON, is the network, None where the weights are alone; `version` the
    Keras that saved it, "" where it does not say; `metadata`, JSON, what `train` told of it.
    """

    file: h5py.File
    config: str | bytes | None
    version: str = ""
    metadata: str = "{}"

    @property
    def has_weights(self) -> bool:
        return "model_weights" in self.file or _are_weights(self.file)


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """A file from elsewhere may be wrong in any way: whatever that raises becomes a sentence, a UserError."""
    try:
        yield
    except UserError:
        raise
    except Unusable as error:
        raise UserError(f"{path.name} {_printable(str(error))}.") from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:150]
        if "truncated file" in reason:
            raise UserError(
                f"{path.name} is cut off: a copy or download broke off; fetch it again."
            ) from None
        raise UserError(
            f"{path.name} could not be opened as a Keras model: it is damaged or of a kind unknown here "
            f"({type(error).__name__}: {_printable(reason)}); copy it again, or save it again where it opens."
        ) from error


@contextmanager
def open_model(path: Path) -> Iterator[Opened]:
    """The file, to be read, after the checks that need its bytes alone. Raises Unusable.

    It is known by its content: a `.h5`, of a whole model or of weights, a `.keras`, or a network's JSON,
    whose weights are looked for beside it; so is a `.keras` that was saved as a folder, or unpacked.
    """
    if (path / CONFIG).is_file():
        path = path / CONFIG
    if not path.is_file():
        raise Unusable(_no_file(path))
    if h5py.is_hdf5(path):
        with _open_h5(path) as file:
            config, version = attribute(file, "model_config"), attribute(file, "keras_version", b"")
            version = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
            yield Opened(file, config, version, attribute(file, OURS, "{}"))
    elif _is_keras(path):
        with _open_keras(path) as opened:
            yield opened
    elif network := _network_json(path):
        with _open_h5(_weights_beside(path)) as file:
            yield Opened(file, json.dumps(network), str(network.get("keras_version") or ""))
    else:
        raise Unusable(_something_else(path))


@contextmanager
def _open_h5(path: Path) -> Iterator[h5py.File]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check_heaps(content)
    with h5py.File(path, "r") as file:
        yield file


def holds_weights_alone(opened: Opened) -> bool:
    """Whether it was written by `save_weights` of Keras 2 or 3."""
    return opened.config is None and _are_weights(opened.file)


def network_beside(path: Path) -> Path | None:
    """The JSON, under the same name, of the network whose weights are in `path`; None where there is none."""
    stem = path.name.removesuffix(path.suffix).removesuffix(".weights")
    found = path.with_name(CONFIG if path.name == WEIGHTS else f"{stem}.json")
    return found if found.is_file() and _network_json(found) else None


def _are_weights(file: h5py.File) -> bool:
    return "layer_names" in file.attrs or not set(TREES).isdisjoint(file)


@contextmanager
def _open_keras(path: Path) -> Iterator[Opened]:
    """A `.keras`: of its files three are read, each by its name and whole, and none is unpacked."""
    with zipfile.ZipFile(path) as archive:
        config = _member(archive, CONFIG, "its network", LARGEST_TEXT)
        said = json.loads(
            _member(archive, SAVED_BY, "", LARGEST_TEXT) if SAVED_BY in archive.namelist() else "{}"
        )
        weights = _member(archive, WEIGHTS, "its weights")
    if not isinstance(said, dict):
        raise Unusable(f"is damaged: its {SAVED_BY} is not a table; copy it again")
    _check_heaps(weights)
    with h5py.File(io.BytesIO(weights), "r") as file:
        yield Opened(file, config, str(said.get("keras_version") or ""), json.dumps(said.get(OURS, {})))


def _member(archive: zipfile.ZipFile, name: str, what: str, most: int | None = None) -> bytes:
    """What a `.keras` has under a name, of at most so many bytes (None: as many as a model may ask for)."""
    if name not in archive.namelist():
        raise Unusable(f"is a .keras file without {name}, {what}: copy it again, or save it again")
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise Unusable(f"is encrypted, and no .keras file is: {RESAVE}")
    if most is None:
        check_memory(info.file_size)
    elif info.file_size > most:
        raise Unusable(f"is damaged: its {name} is {info.file_size / 1e6:,.0f} MB long")
    return archive.read(info)  # of which no more comes than its size says


def _network_json(path: Path) -> dict | None:
    """The network that a JSON file describes, as `model.to_json` writes it; None for any other file."""
    with path.open("rb") as file:
        text = file.read(LARGEST_TEXT + 1)
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or len(text) > LARGEST_TEXT:
        return None
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return described if described.keys() >= {"class_name", "config"} else None


def _weights_beside(network: Path) -> Path:
    """The HDF5 file of the network in a JSON file: by its name, or the only one there. Raises Unusable."""
    stem = network.name.removesuffix(network.suffix)
    near = [file for file in network.parent.iterdir() if file.is_file() and h5py.is_hdf5(file)]
    same = [file for file in near if file.name.removesuffix(file.suffix).removesuffix(".weights") == stem]
    found = same or near
    if len(found) == 1:
        return found[0]
    beside = f"{len(found)} files that could be its weights" if found else "no weights"
    raise Unusable(
        f"is a network's description, and beside it are {beside}: put what save_weights() wrote there as "
        f"{stem}.h5, or save the whole model with model.save('name.h5')"
    )


def contents(file: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    """Every group and array by its path; plain `file[path]` would follow a link of HDF5 into another file.

    Raises Unusable where arrays lie in other files, or are larger than what the file can hold.
    """
    items: dict[str, h5py.Group | h5py.Dataset] = {}
    file.visititems(lambda path, item: items.update({path: item}))
    arrays = [item for item in items.values() if isinstance(item, h5py.Dataset)]
    if any(array.external or array.is_virtual for array in arrays):
        raise Unusable("takes weights from other files: it was not opened")
    for array in arrays:
        # what HDF5 never wrote reads as zeros of any size
        packed = LARGEST_COMPRESSION if array.chunks else 1
        if array.nbytes > packed * array.id.get_storage_size():
            raise Unusable("is damaged: it names more weights than it holds")
    check_memory(sum(array.nbytes for array in arrays))
    return items


def numbers(array: h5py.Dataset, layer: str) -> np.ndarray:
    """The array of a layer's weights. Raises Unusable where they are not finite numbers."""
    if array.dtype.kind not in "fiu":
        raise Unusable(f"is damaged: the weights of its layer {layer!r} are not numbers")
    values = array[()]
    if not np.isfinite(values).all():
        raise Unusable(
            f"cannot answer: weights of its layer {layer!r} are NaN or infinite, as its training diverged; "
            "retrain it with a smaller learning rate, or take an earlier file"
        )
    return values


def attribute(item: h5py.Group, name: str, default=None):
    """The value of an attribute, text or numbers. Raises Unusable for one that would end the process.

    Text of any length and sequences of any length differ in one bit of the file; where damage makes one of
    the other, or of neither, HDF5 (2.0 and before) reads from anywhere in memory.
    """
    if name not in item.attrs:
        return default
    kind = h5py.h5a.open(item.id, name.encode()).get_type()
    if kind.get_class() == h5py.h5t.VLEN and not kind.is_variable_str():
        raise Unusable("is damaged; copy it again")
    return item.attrs[name]


def strings(group: h5py.Group, name: str) -> list[str]:
    """A list in an attribute; HDF5 holds 64 KB in one, so Keras numbers the parts of a longer one."""
    values, part = list(attribute(group, name, ())), 0
    while f"{name}{part}" in group.attrs:
        values += list(attribute(group, f"{name}{part}"))
        part += 1
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def check_memory(needed: float) -> None:
    """Raises Unusable where `needed` bytes are more than a model file may ask for here."""
    said = os.environ.get(MEMORY, "")
    try:
        limit = float(said) if said else MEMORY_GB
    except ValueError:
        raise UserError(
            f"The environment variable {MEMORY} is {said!r}; set it to gigabytes, say 8."
        ) from None
    if needed > limit * 1e9:
        raise Unusable(
            f"asks for {needed / 1e9:.3g} GB, for its weights or for a single picture, and the limit is "
            f"{limit:g} GB: if you trust the file, raise the limit by the environment variable {MEMORY}"
        )


def _no_file(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return f"is a folder with a SavedModel: {RESAVE}"
    if path.is_dir():
        return "is a folder: give the path of a .h5 or .keras in it"
    return "is not a file that could be read: give the path of a .h5 or .keras"


def _something_else(path: Path) -> str:
    """What a file is that holds no model, and what to do with it; its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(4096)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty: a copy or download broke off; fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return (
            "is a Git LFS pointer and not the model: run git lfs pull in its repository, or download the file"
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<script")):
        return (
            "is a web page and not the model: a login or a quota answered the download; fetch it in a browser"
        )
    if head.startswith(b"PK"):
        return _zip(path)
    if head[4:8] == b"TFL3" or path.suffix == ".tflite":
        return f"is a TensorFlow Lite model, which cannot be turned back: {RESAVE}"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and (b"onnx" in text or b"pytorch" in text)):
        return "is an ONNX model, which is not read here: give the Keras .h5 that it was made from"
    if path.suffix in (".pt", ".pth", ".safetensors", ".ckpt") or b"torch" in text:
        return "is a PyTorch file, which is not read here: give a Keras .h5"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "is a Python pickle, which can run code and was not opened: give a Keras .h5"
    if path.suffix == ".pb":
        return f"is a part of a SavedModel: {RESAVE}"
    if text.startswith((b"{", b"[")):
        return "is JSON text and describes no network of Keras's: give the path of a .h5 or .keras"
    kind = next((kind for magic, kind in ARCHIVES.items() if head.startswith(magic)), None)
    kind = "tar" if head[257:262] == b"ustar" else kind
    if kind:
        return f"is packed ({kind}): unpack it and give the .h5 inside"
    if head.startswith(PICTURES):
        return "is a picture and no model: give the path of a .h5"
    return "is not a .h5 model: it is damaged or of another kind; copy it again or retrain it"


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # BadZipFile, struct.error, UnicodeDecodeError, …
        return "is a damaged zip file: fetch it again"
    if any(name.endswith("data.pkl") for name in names):
        return "is a PyTorch file, which is not read here: give a Keras .h5"
    if inside := next((name for name in names if name.lower().endswith((".h5", ".hdf5"))), None):
        return f"is a zip file: unpack it and give {inside[-80:]}"
    if any(name.endswith("saved_model.pb") for name in names):
        return f"is a zip file with a SavedModel: {RESAVE}"
    if names and all(name.endswith(".npy") for name in names):
        return "holds NumPy arrays and no network: give a Keras .h5"
    return "is a zip file without a .h5 in it: give the path of a .h5"


def _is_keras(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return not {CONFIG, WEIGHTS}.isdisjoint(archive.namelist())
    except Exception:  # of a damaged zip file, or of none: BadZipFile, struct.error, UnicodeDecodeError, …
        return False


def _check_heaps(content: bytes | mmap.mmap) -> None:
    """Refuses the one damage that HDF5 (2.0 and before) does not see, and would read for ever.

    Attributes lie in heaps, as objects one behind the other: index (2 bytes), count (2), reserved (4),
    size (8), content; index 0 is free space, its size includes this header. HDF5's File Format
    Specification, "Global Heap".
    """
    heap = content.find(HEAP)
    while heap >= 0:
        end = min(heap + int.from_bytes(content[heap + 8 : heap + 16], "little"), len(content) - 16)
        at = heap + 16
        while at < end:
            index, size = struct.unpack_from("<H6xQ", content, at)
            if not index and not size:
                raise Unusable("is damaged; copy it again")
            at += size if not index else 16 + (size + 7) // 8 * 8
        heap = content.find(HEAP, max(min(at, end), heap + 16))


def _printable(text: str) -> str:
    """Without the halves of characters that h5py makes of bytes that are not UTF-8: printing them fails."""
    return text.encode(errors="replace").decode()
