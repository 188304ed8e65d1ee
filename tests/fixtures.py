"""Small real pictures for the tests: coloured squares that a network can tell apart."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy.special import softmax

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


def answers(labels, probabilities, names=tuple(COLORS)) -> pd.DataFrame:
    """`Classifier.predict`'s table with the true labels; a row of NaN is a photo that was not read."""
    probabilities = np.asarray(probabilities, float)
    read = ~np.isnan(probabilities[:, 0])
    best = np.nan_to_num(probabilities).argmax(axis=1)
    head = {
        "path": [f"photos/{label}/{index:04d}.jpg" for index, label in enumerate(labels)],
        "label": list(labels),
        "emotion": [names[place] if there else None for place, there in zip(best, read, strict=True)],
        "confidence": probabilities[np.arange(len(best)), best],
    }
    return pd.concat([pd.DataFrame(head), pd.DataFrame(probabilities, columns=list(names))], axis=1)


def random_answers(count: int, seed: int = 0, names=tuple(COLORS), skill: float = 2.0) -> pd.DataFrame:
    """`answers` of a model that leans towards the truth by `skill` (in logits) and is too sure."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(len(names), size=count)
    logits = rng.normal(0, 1.5, (count, len(names))) + skill * np.eye(len(names))[truth]
    return answers([names[place] for place in truth], softmax(2 * logits, axis=1), names)


def write_metadata(file: Path, metadata) -> None:
    """What the `.h5` then says of itself: a text, most often JSON, or what else HDF5 takes."""
    with h5py.File(file, "a") as h5:
        h5.attrs["emo_classificator"] = metadata


def scene(seed: int, size: int = 120) -> Image.Image:
    """A photo of its own: soft spots of light and some hard shapes."""
    random = np.random.default_rng(seed)
    rough = random.integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, width, height = random.integers(0, size, 4)
        draw.ellipse(
            (x, y, x + width // 2, y + height // 2), fill=tuple(map(int, random.integers(0, 256, 3)))
        )
    return image
