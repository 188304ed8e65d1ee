"""Keras imported in a hurry: for one answer, imports are most of the time."""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

# what TensorFlow 2.20 and Keras 3.13 import wherever it is installed, for parts that no prediction uses
OPTIONAL = ("IPython", "cv2", "jax", "matplotlib", "sklearn")


def import_keras() -> None:
    """Imports Keras on TensorFlow as if OPTIONAL were not installed: two thirds of the time.

    They can be imported afterwards. Where Keras computes with JAX, nothing is done.
    """
    if _backend() != "tensorflow" or "keras" in sys.modules:
        return
    hidden = [name for name in OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None: Python takes it for missing
    gc.disable()  # hundreds of thousands of new objects, none of them garbage
    try:
        import keras  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
        for name in hidden:
            del sys.modules[name]


def _backend() -> str:
    """Keras's backend by its own rule, asked before Keras is imported."""
    file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "keras.json")
    configured = {}
    with suppress(OSError, ValueError):
        configured = json.loads(file.read_text(encoding="utf-8"))
    return os.environ.get("KERAS_BACKEND") or configured.get("backend", "tensorflow")
