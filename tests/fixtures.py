"""Small real pictures for the tests: coloured squares that a network can tell apart."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"anger": (200, 40, 40), "happy": (230, 200, 40), "sad": (40, 70, 190)}


def picture(color: tuple[int, int, int], seed: int, size: int = 40) -> Image.Image:
    """A noisy square of a colour, the same for the same seed."""
    noise = np.random.default_rng(seed).normal(0, 25, (size, size, 3))
    return Image.fromarray(np.clip(noise + color, 0, 255).astype(np.uint8))


def write_photos(folder: Path, count: int, classes=tuple(COLORS), seed: int = 0, size: int = 40) -> None:
    """`count` JPEGs a class in `folder/<class>/`."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image = picture(COLORS[name], seed * 100_000 + number * 1_000 + index, size)
            image.save(folder / name / f"{name}_{index:03d}.jpg", quality=95)
