"""The file, `.h5` or `.keras`, that holds a model and what it must tell to be used."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras

from emo.files import write_bytes
from emo.models.saved_file import OURS, SAVED_BY, Opened, Unusable, open_model, sentences
from emo.models.saved_weights import network_in, weights_of

MAX_SIDE = 1024  # pixels, as for an experiment
MAX_MARGIN = 2.0  # around a face, in its sides


class _InMemory(h5py.File):
    """A file that `model.save` takes for a path: Keras asks for the path's ending alone."""

    def __str__(self) -> str:
        return "memory.h5"


class _ZipInMemory(io.BytesIO):
    """The same of a `.keras`."""

    def __str__(self) -> str:
        return "memory.keras"


def save_model(model: keras.Model, path: Path, metadata: dict) -> None:
    """Writes `path`, a `.keras` or a `.h5`, with `metadata` inside. The file appears whole or not at all.

    It is made in memory: a disk that fills up while HDF5 writes would end the process. Raises OSError.
    """
    write_bytes(path, (_as_keras if path.suffix == ".keras" else _as_h5)(model, metadata))


def _as_h5(model: keras.Model, metadata: dict) -> memoryview:
    buffer = io.BytesIO()
    with _InMemory(buffer, "w") as file, _quiet_about_h5():
        # without the optimizer: it cannot be resumed from a .h5, and may double the file
        model.save(file, include_optimizer=False)
        file.attrs[OURS] = json.dumps(metadata)
    return buffer.getbuffer()


def _as_keras(model: keras.Model, metadata: dict) -> memoryview:
    """With `metadata` beside what Keras tells of the file, which it writes and does not read."""
    saved, buffer = _ZipInMemory(), io.BytesIO()
    model.save(saved)
    with zipfile.ZipFile(saved) as made, zipfile.ZipFile(buffer, "w") as archive:
        for name in made.namelist():
            content = made.read(name)
            if name == SAVED_BY:
                content = json.dumps(json.loads(content) | {OURS: metadata})
            archive.writestr(name, content)
    return buffer.getbuffer()


def divide_logits(path: Path, temperature: float, metadata: dict) -> None:
    """Divides what the softmax of a `.h5` of ours takes by `temperature`, and puts `metadata` into the file.

    The last layer's weights are what changes, so whatever opens the file gives the calibrated probabilities,
    stock Keras and exports too. The file is changed whole or not at all.
    """
    if not h5py.is_hdf5(path):
        raise Unusable("is not a .h5: calibrate the .h5 that train saved, and export it again")
    with open_model(path) as opened:
        network = network_in(opened)
        if network.last.activation != "softmax":
            raise Unusable("does not end in a softmax layer, whose weights a temperature divides")
        names = [array.name for array in weights_of(opened, network)[network.last]]
    buffer = io.BytesIO(path.read_bytes())
    with h5py.File(buffer, "r+") as file:
        for name in names:
            file[name][...] = file[name][()] / temperature
        file.attrs[OURS] = json.dumps(metadata)
    write_bytes(path, buffer.getbuffer())


def read_metadata(path: Path) -> dict:
    """What `save_model` put beside the weights; {} for a file that is not ours.

    Raises UserError for a damaged file, and for what `metadata_of` refuses.
    """
    with sentences(path), open_model(path) as opened:
        return metadata_of(opened)


def metadata_of(opened: Opened) -> dict:
    """As `read_metadata`, of an open file. Raises Unusable where a value is none that `train` writes."""
    metadata = json.loads(opened.metadata)
    if not isinstance(metadata, dict):
        raise Unusable("is damaged: its metadata are not a table; copy it again or retrain it")
    for key, value in metadata.items():
        _check(key, value, CHECKS.get(key))
    for key, value in metadata.get("experiment", {}).items():
        _check(f"experiment.{key}", value, EXPERIMENT_CHECKS.get(key))
    return metadata


def _check(key: str, value, check: tuple[Callable, str] | None) -> None:
    if check and not check[0](value):
        raise Unusable(f"is damaged: its metadata have {key}={str(value)[:60]!r}, which is to be {check[1]}")


def _text(value) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 10_000)


def _whole(low: int, high: int) -> Callable:
    return lambda value: type(value) is int and low <= value <= high


def _between(low: float, high: float) -> Callable:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _names(value) -> bool:
    names = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    return (
        bool(names) and all(each and each.isprintable() for each in value) and len(set(value)) == len(value)
    )


# what is read of the metadata: (is it so?, in words)
CHECKS: dict[str, tuple[Callable, str]] = {
    "class_names": (_names, "a list of names, each once"),
    "image_size": (_whole(1, MAX_SIDE), f"1 to {MAX_SIDE}"),
    "val_accuracy": (_between(0, 1), "between 0 and 1"),
    "temperature": (_between(1e-3, 1e3), "a number above 0"),
    "abstain_below": (_between(0, 1), "between 0 and 1"),
    "best_epoch": (_whole(1, 10**6), "a number of an epoch"),
    "experiment": (lambda value: isinstance(value, dict), "a table of settings"),
    **dict.fromkeys(("preprocessing", "computed_in", "date", "versions", "commit"), (_text, "text")),
}
EXPERIMENT_CHECKS: dict[str, tuple[Callable, str]] = {
    "face_margin": (
        lambda value: value is None or _between(0, MAX_MARGIN)(value),
        f"between 0 and {MAX_MARGIN:g}, or null",
    ),
    "image_size": CHECKS["image_size"],
    "backbone": (_text, "text"),
}


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
