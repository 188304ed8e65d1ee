"""The `.h5` that holds a model and what it must tell to be used."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras

METADATA_ATTRIBUTE = "emo_classificator"


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
