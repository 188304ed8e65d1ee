"""Pictures in arrays, tensors and nested lists: one by one as 8-bit arrays, whatever range they lie in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from emo.errors import UserError

CHANNELS = (1, 3, 4)
SMALLEST = 8  # pixels a side of a picture in a batch of grey ones: (48, 48, 2) is not a batch
DARKEST = 10.0  # a float photo in 0–255 that is nowhere brighter would be black: its range is another
SLACK = 0.01  # of rounding, and of those who divide by 127 or 128
# the range of floats → what is added, and by what that is multiplied, to bring it to 0–255
RANGES = {"0–255": (0, 1), "0–1": (0, 255), "−1–1": (1, 127.5)}
SHAPES = "give (h, w), (h, w, 3) or (h, w, 4)"


def as_pictures(given) -> list[str | Path | Image.Image | np.ndarray]:
    """What somebody gave as pictures, as a flat list of files, PIL images and uint8 arrays.

    `given` is a file, a PIL image, an array or tensor of one picture ((h, w), (h, w, 1), (h, w, 3) or
    (h, w, 4)) or of several ((n, h, w) or (n, h, w, channels)), the same in nested lists, or an iterable of
    files, PIL images, and arrays, tensors or nested lists of one picture each. Values are integers or floats
    in 0–255, or booleans. Floats in 0–1 or −1–1 are brought there, and a sentence is printed; the range is
    that of all of them together. Raises UserError where it is unclear, and for what is not a picture.
    """
    if isinstance(given, (str, Path, Image.Image)):
        return [given]
    if hasattr(given, "__array__"):
        array = _array(given)
        if array.ndim != 1 or array.dtype.kind in "buif":
            return _eight_bits([_batch(array)])
        given = array  # a column of files
    elif isinstance(given, (list, tuple)) and given and isinstance(given[0], (list, tuple, int, float)):
        try:
            return _eight_bits([_batch(np.asarray(given))])
        except ValueError as error:  # lists of several sizes: pictures of several sizes
            if isinstance(error, UserError):
                raise
    elif isinstance(given, (bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise UserError(f"{_kind(given)} holds no pictures; give files, PIL images or arrays.")
    return _eight_bits([_item(item) for item in given])


def _kind(given) -> str:
    return f"What was given (of the type {type(given).__name__})"


def _array(given) -> np.ndarray:
    try:
        array = np.asarray(given)
        # a type of the package ml_dtypes, which NumPy itself does not know
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    except Exception as error:  # a tensor on a GPU or without values, lists of unequal lengths, …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        raise UserError(f"{_kind(given)} cannot be read as an array ({reason}); give NumPy arrays.") from None


def _item(given) -> str | Path | Image.Image | np.ndarray:
    """One picture of several; of an array, a batch of it alone."""
    if isinstance(given, (str, Path, Image.Image)):
        return given
    if not hasattr(given, "__array__") and not isinstance(given, (list, tuple)):
        raise UserError(f"{_kind(given)} is not a picture; give files, PIL images or arrays.")
    array = _array(given)
    if not _is_one(array.shape):
        first = array.ndim == 3 and array.shape[0] in CHANNELS
        hint = ": np.moveaxis(array, 0, -1) puts the channels last" if first else ""
        raise UserError(f"An array of shape {array.shape} is not a picture; {SHAPES}{hint}.")
    return _filled(array[None])


def _batch(array: np.ndarray) -> np.ndarray:
    """An array of one or several pictures as (n, h, w) or (n, h, w, channels)."""
    shape = array.shape
    if _is_one(shape):
        return _filled(array[None])
    if len(shape) == 4 and shape[-1] in CHANNELS:
        return _filled(array)
    if len(shape) == 4 and shape[1] in CHANNELS:
        raise UserError(
            f"An array of shape {shape} has its channels first; give np.moveaxis(array, 1, -1), which has "
            "them last."
        )
    if len(shape) == 3 and min(shape[1:]) >= SMALLEST:
        if shape[0] != 3:
            return array
        raise UserError(
            f"An array of shape {shape} may be three grey pictures, or one whose channels come first; "
            "give list(array) for the former, np.moveaxis(array, 0, -1) for the latter."
        )
    raise UserError(f"An array of shape {shape} is not a picture; {SHAPES}, or several of one size.")


def _filled(batch: np.ndarray) -> np.ndarray:
    if 0 in batch.shape[1:]:
        raise UserError(f"An array of pictures of shape {batch.shape[1:]} is empty; {SHAPES}.")
    return batch


def _is_one(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in CHANNELS)


def _eight_bits(groups: list) -> list:
    """The single pictures of files, PIL images and batches."""
    batches = [group for group in groups if isinstance(group, np.ndarray)]
    ranges = {_range(batch) for batch in batches if batch.dtype != np.uint8} - {None}
    if ranges == {"0–1", "−1–1"}:  # the first is a picture without shadows
        ranges = {"−1–1"}
    if len(ranges) > 1:
        raise UserError(
            f"Some arrays hold values in {' and some in '.join(sorted(ranges))}; give all of them in 0–255."
        )
    values = next(iter(ranges), "0–255")
    if values != "0–255":
        added, factor = RANGES[values]
        how = f"(value + {added}) × {factor}" if added else f"value × {factor}"
        print(f"The pictures hold values in {values}: they were brought to 0–255 by {how}.")
    pictures = []
    for group in groups:
        if not isinstance(group, np.ndarray):
            pictures.append(group)
        elif group.dtype == np.uint8:
            pictures += list(group)
        elif group.dtype == bool:
            pictures += list(group * np.uint8(255))
        else:
            added, factor = RANGES[values] if group.dtype.kind == "f" else RANGES["0–255"]
            for picture in group:
                levels = (picture.astype(np.float32) + added) * factor
                pictures.append(levels.round().clip(0, 255).astype(np.uint8))
    return pictures


def _range(batch: np.ndarray) -> str | None:
    """The key of RANGES that a batch lies in; None where any would do: booleans, black pictures."""
    shape = batch.shape[1:] if len(batch) == 1 else batch.shape
    if batch.dtype.kind not in "buif":
        raise UserError(f"An array of {batch.dtype} holds no pictures; give numbers in 0–255.")
    if not batch.size or batch.dtype == bool:
        return None
    low, high = float(batch.min()), float(batch.max())
    if not np.isfinite(low + high):
        raise UserError(f"An array of shape {shape} holds NaN or infinite values; give numbers in 0–255.")
    if low == high == 0:
        return None
    if batch.dtype.kind != "f":
        if low >= 0 and 1 < high <= 255:
            return "0–255"
    elif low >= -SLACK and high <= 1 + SLACK:
        return "0–1"
    elif low >= -1 - SLACK and high <= 1 + SLACK:
        return "−1–1"
    elif low > -1 and DARKEST <= high < 256:
        return "0–255"
    raise UserError(
        f"An array of shape {shape} and type {batch.dtype} holds values from {low:.6g} to {high:.6g}, which "
        "are not a picture's; give numbers in 0–255."
    )
