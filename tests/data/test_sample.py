"""The sample set as a stranger would check it: sizes, classes, and no picture shared between splits."""

import hashlib
import io
import zipfile
from collections import Counter
from itertools import combinations
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from emo.paths import SAMPLE_ZIP

CLASSES = {"anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise", "uncertain"}
COUNT = {"train": 100, "val": 20, "test": 20}
# The tool asks for 56 bits of 240; four are left for another JPEG decoder's rounding.
MIN_DISTANCE = 52


@pytest.fixture(scope="module")
def pictures() -> dict[PurePosixPath, bytes]:
    with zipfile.ZipFile(SAMPLE_ZIP) as archive:
        return {PurePosixPath(n): archive.read(n) for n in archive.namelist() if n.endswith(".jpg")}


def dhash(encoded: bytes) -> np.ndarray:
    """240 bits: is a block (a 16th of the side) over 2 grey levels darker than its right neighbour?"""
    rgb = np.asarray(Image.open(io.BytesIO(encoded)), dtype=float)
    block = len(rgb) // 16
    blocks = (rgb @ [0.299, 0.587, 0.114]).reshape(16, block, 16, block).mean(axis=(1, 3))
    return (np.diff(blocks, axis=1) > 2).ravel()


def test_small_enough_to_keep_in_git():
    assert SAMPLE_ZIP.stat().st_size <= 5_000_000


def test_every_split_has_every_class_in_full(pictures):
    counts = Counter(path.parts[:2] for path in pictures)
    assert counts == {(split, name): count for split, count in COUNT.items() for name in CLASSES}
    assert all(path.name.startswith(f"{path.parent.name}_") for path in pictures)


def test_pictures_are_square_rgb_jpegs(pictures):
    for path, encoded in pictures.items():
        image = Image.open(io.BytesIO(encoded))
        assert (image.format, image.mode) == ("JPEG", "RGB"), path
        assert 112 <= image.width == image.height <= 128, path


def test_no_picture_twice(pictures):
    assert len({hashlib.sha256(encoded).digest() for encoded in pictures.values()}) == len(pictures)


def test_no_near_copies_between_splits(pictures):
    hashes = {
        split: np.array([dhash(e) for p, e in pictures.items() if p.parts[0] == split], dtype=int)
        for split in COUNT
    }
    for one, other in combinations(COUNT, 2):
        a, b = hashes[one], hashes[other]
        distance = a @ (1 - b).T + (1 - a) @ b.T
        assert distance.min() >= MIN_DISTANCE, (one, other)


def test_source_and_licence_travel_with_the_pictures():
    with zipfile.ZipFile(SAMPLE_ZIP) as archive:
        readme = archive.read("README.txt").decode()
    assert "Pablo Stanley" in readme
    assert "CC0 1.0" in readme
