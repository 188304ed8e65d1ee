"""A saved model, ready to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from emo.errors import UserError
from emo.faces import face_crops, find_faces
from emo.model import load_model
from emo.paths import IMAGE_SUFFIXES
from emo.pipeline import load_images, read_image

CHUNK = 512  # photos decoded at a time, so that memory does not grow with the folder


class Classifier:
    """`model` takes RGB in 0–255, (n, image_size, image_size, 3), and gives a probability a class."""

    def __init__(self, model: keras.Model, class_names: Sequence[str], metadata: dict, path: Path):
        self.model, self.metadata, self.path = model, metadata, path
        self.class_names = tuple(class_names)
        self.image_size = model.input_shape[1]

    def __repr__(self) -> str:
        said = self.metadata.get("val_accuracy")
        accuracy = f", validation accuracy {said:.1%}" if said is not None else ""
        return f"{self.path.name}: {len(self.class_names)} classes, {self.image_size} px{accuracy}"

    def probabilities(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """(n, size, size, 3) in 0–255 → (n, classes), rows that add up to 1."""
        return self.model.predict(images, batch_size=batch_size, verbose=0)

    def predict(self, images) -> pd.DataFrame:
        """A row a picture: path, emotion, confidence, then a probability a class.

        `images`: a file, a folder (searched through, in the order of names), an array, a PIL image, or a
        list of files, arrays or PIL images. A picture that cannot be read keeps its row, with emotion
        empty, and is named in one sentence. Raises UserError where there is nothing to predict.
        """
        sources = as_sources(images)
        parts, unreadable = [], []
        with tqdm(total=len(sources), desc="predicting", unit="photo", disable=len(sources) < CHUNK) as bar:
            for start in range(0, len(sources), CHUNK):
                chunk = sources[start : start + CHUNK]
                pixels, bad = self._load(chunk)
                part = self.probabilities(pixels)
                part[bad] = np.nan
                parts.append(part)
                unreadable += [str(chunk[index]) for index in bad]
                bar.update(len(chunk))
        if unreadable:
            named = ", ".join(unreadable[:3]) + (" …" if len(unreadable) > 3 else "")
            print(
                f"{len(unreadable)} of {len(sources)} photos could not be read and have no emotion: {named}"
            )
        return self._table(sources, np.concatenate(parts))

    def _load(self, chunk: Sequence) -> tuple[np.ndarray, list[int]]:
        margin = self.metadata.get("experiment", {}).get("face_margin")
        crops = [None] * len(chunk) if margin is None else face_crops(find_faces(chunk), margin)
        try:
            return load_images(chunk, self.image_size, crops=crops), []
        except UserError:  # at least one is unreadable: find out which, and go on with the rest
            pixels, bad = np.zeros((len(chunk), self.image_size, self.image_size, 3), np.uint8), []
            for index, (source, crop) in enumerate(zip(chunk, crops, strict=True)):
                try:
                    pixels[index] = read_image(source, self.image_size, crop)
                except UserError:
                    bad.append(index)
            return pixels, bad

    def _table(self, sources: Sequence, probabilities: np.ndarray) -> pd.DataFrame:
        readable = ~np.isnan(probabilities[:, 0])
        best = np.where(readable, np.nan_to_num(probabilities).argmax(axis=1), 0)
        table = pd.DataFrame(
            {
                "path": [str(source) if isinstance(source, (str, Path)) else "" for source in sources],
                "emotion": np.where(readable, np.array(self.class_names, dtype=object)[best], None),
                "confidence": probabilities[np.arange(len(best)), best],
            }
        )
        return pd.concat([table, pd.DataFrame(probabilities, columns=list(self.class_names))], axis=1)


def as_sources(images) -> list:
    """What `Classifier.predict` takes as a flat list of files, arrays or PIL images."""
    if isinstance(images, (str, Path)):
        path = Path(images).expanduser()
        if path.is_dir():
            found = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
            images = sorted(file for file in found if not file.name.startswith("."))
            if not images:
                raise UserError(f"The folder {path} holds no photos ({', '.join(IMAGE_SUFFIXES)}).")
        else:
            images = [path]
    elif isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    sources = list(images)
    if not sources:
        raise UserError("There are no photos to predict: the list is empty.")
    if len(sources) == 1 and isinstance(sources[0], Path) and not sources[0].exists():
        raise UserError(f"There is no photo or folder {sources[0]}; check the path.")
    return sources


def load_classifier(path: str | Path) -> Classifier:
    """Opens a `.h5` that `train` saved. Raises UserError where the file cannot be used."""
    model, metadata = load_model(path)
    names = metadata.get("class_names")
    if not names:
        raise UserError(
            f"{Path(path).name} does not say its class names: it was not saved by this project's train()."
        )
    if len(names) != model.output_shape[-1]:
        raise UserError(
            f"{Path(path).name} has {model.output_shape[-1]} outputs but names {len(names)} classes: "
            "it is damaged; copy or train it anew."
        )
    return Classifier(model, names, metadata, Path(path))


def find_model(model: str, folder: Path) -> Path:
    """`model` as a path, or a file name in `folder`; where it is empty, the newest finished `.h5` there.

    Raises UserError where there is none.
    """
    if model:
        given = Path(model).expanduser()
        return given if given.exists() else folder / given.name
    models = [
        file for file in folder.glob("*.h5") if not file.stem.endswith("_running") and file.name[0] != "."
    ]
    if not models:
        raise UserError(f"{folder} holds no .h5 yet; train one with emo_classificator_train.ipynb.")
    return max(models, key=lambda file: file.stat().st_mtime)
