"""A saved model, ready to predict."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image
from tqdm.auto import tqdm

from emo.data.faces import face_crops, find_faces
from emo.data.geometry import Crop
from emo.data.image_io import load_images, read_ahead, read_image
from emo.data.manifest import is_photo
from emo.errors import UserError
from emo.files import files_below
from emo.models.h5_loader import read_model, rebuild
from emo.models.h5_metadata import find_facts
from emo.paths import EMO_MINI, IMAGE_SUFFIXES

if TYPE_CHECKING:
    from emo.inference.export import Export

# of a model trained on whole photos: FER2013's are as large as the face that find_faces sees in them
# (371 of 400 drawn at random: median of photo / face 0.98, half of them 0.89–1.06)
FACE_MARGIN = 0.0
CHUNK = 128  # photos in memory at a time, and as many again that are decoded meanwhile


class Classifier:
    """`model` takes RGB in 0–255, (n, image_size, image_size, 3), and gives a probability a class."""

    def __init__(self, model: keras.Model, class_names: Sequence[str], metadata: dict, path: Path):
        self.model, self.metadata, self.path = model, metadata, path
        self.class_names = tuple(class_names)
        self.image_size = model.input_shape[1]
        self.flip = False
        self._forward = compiled(model)

    @property
    def name(self) -> str:
        """The file's name, and what is done beyond asking the model once."""
        return f"{self.path.name} + flip" if self.flip else self.path.name

    def with_flip(self) -> Classifier:
        """The same model, but each answer is the mean over the picture and its mirror image."""
        flipping = copy.copy(self)
        flipping.flip = True
        flipping._forward = compiled(self.model, flip=True)
        return flipping

    def __repr__(self) -> str:
        said = self.metadata.get("val_accuracy")
        accuracy = f", validation accuracy {said:.1%}" if isinstance(said, float) else ""
        assumed = f"; {self.metadata['assumed']}" if "assumed" in self.metadata else ""
        return f"{self.name}: {len(self.class_names)} classes, {self.image_size} px{accuracy}{assumed}"

    def probabilities(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """(n, size, size, 3) in 0–255 → (n, classes), rows that add up to 1."""
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        # uint8 goes to the device, a quarter of the bytes
        answers = [self._forward(tf.cast(batch, tf.float32)) for batch in batches]
        return np.concatenate([batch.numpy() for batch in answers])

    def crops(self, images: Sequence, faces: Sequence[Crop | None] | None = None) -> list[Crop | None]:
        """What the model sees of each picture, None where that is all of it.

        That is the one face, looked for where the model was trained on faces. `faces` says where they are
        instead: each is cropped as in training, or with FACE_MARGIN for a model of whole photos.
        """
        if faces is None:
            whole = self.face_margin is None
            return [None] * len(images) if whole else face_crops(find_faces(images), self.face_margin)
        margin = FACE_MARGIN if self.face_margin is None else self.face_margin
        return [face and face.with_margin(margin) for face in faces]

    def predict(self, images, faces: Sequence[Crop | None] | None = None) -> pd.DataFrame:
        """A row a picture: path, emotion, confidence, then a probability a class.

        `images`: a file, a folder (searched through, in the order of names), an array, a PIL image, or a
        list of files, arrays or PIL images; `faces`: as for `crops`. A picture that cannot be read keeps its
        row, with emotion empty, and is named in one sentence. Raises UserError where there is nothing to
        predict.
        """
        sources = as_sources(images)
        faces = None if faces is None else list(faces)
        parts, unreadable = [], []
        with tqdm(total=len(sources), desc="predicting", unit="photo", disable=len(sources) < CHUNK) as bar:
            chunks = [slice(start, start + CHUNK) for start in range(0, len(sources), CHUNK)]
            loading = (self._load(sources[part], faces and faces[part]) for part in chunks)
            for part, loaded in zip(chunks, read_ahead(loading), strict=True):
                chunk = sources[part]
                answers, bad = self._answers(loaded)
                parts.append(answers)
                unreadable += [str(chunk[index]) for index in bad]
                bar.update(len(chunk))
        if unreadable:
            named = ", ".join(unreadable[:3]) + (" …" if len(unreadable) > 3 else "")
            print(
                f"{len(unreadable)} of {len(sources)} photos could not be read and have no emotion: {named}"
            )
        return self._table(sources, np.concatenate(parts))

    def export(self, kind: str, path: str | Path | None = None, pictures=None) -> Export:
        """Writes the model as "tflite", "onnx" or "savedmodel" and checks it: see `emo.export.export`."""
        from emo.inference.export import export  # which stands on this module

        return export(self, kind, path, pictures)

    @property
    def face_margin(self) -> float | None:
        """The margin around the face that it was trained with; None where it saw whole photos."""
        return self.metadata.get("experiment", {}).get("face_margin")

    def _load(self, chunk: Sequence, faces: Sequence[Crop | None] | None = None) -> tuple[np.ndarray, list]:
        """The pictures as the model takes them, `faces` as for `crops`; the numbers of the unreadable."""
        crops = self.crops(chunk, faces)
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

    def _answers(self, loaded: tuple[np.ndarray, list[int]]) -> tuple[np.ndarray, list[int]]:
        """What `_load` gives → (n, classes), NaN where a picture cannot be read, and those numbers."""
        pixels, bad = loaded
        probabilities = self.probabilities(pixels)
        probabilities[bad] = np.nan
        return probabilities, bad

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


def compiled(model: keras.Model, flip: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """(n, size, size, 3) float32 in 0–255 → (n, classes), as one graph for any n; `flip` as in `with_flip`.

    `model.predict` builds a dataset and its callbacks at every call, longer than a photo takes.
    """

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, "rgb_0_255")])
    def probabilities(images):
        answers = model(images, training=False)
        if flip:
            answers = (answers + model(images[:, :, ::-1], training=False)) / 2
        return answers

    return probabilities


def as_sources(images) -> list:
    """What `Classifier.predict` takes as a flat list of files, arrays or PIL images."""
    if isinstance(images, (str, Path)):
        path = Path(images).expanduser()
        if path.is_dir():
            images = sorted(filter(is_photo, files_below(path)))
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


def load_classifier(
    path: str | Path,
    class_names: Sequence[str] | str | Path | None = None,
    image_size: int | None = None,
    preprocessing: str | None = None,
    backbone: str | None = None,
) -> Classifier:
    """Opens a `.h5`: one that `train` saved, an older one of Keras 2, or a stranger's.

    What `train` saved knows all of this; for another file, what is not given is found or asked for:

    - class_names, in the order of the outputs: a list, or a file of one a line; else the
      `data/class_names.txt` of the project in whose `model/` the file lies.
    - image_size: pixels a side, for a network that takes any.
    - preprocessing, which was outside the network and is put before it: "none" (RGB in 0–255, or it is
      inside), "rescale" (to 0–1), "tf", "caffe" or "torch" as keras.applications has them; else what the
      ImageNet weights of the backbone expect.
    - backbone: a key of BACKBONES; else by the network's layers, else by the file's name.

    The classifier's repr tells what was assumed. Raises UserError where the file cannot be used, or naming
    what to pass.
    """
    saved = read_model(path)
    facts = find_facts(saved, class_names, image_size, preprocessing, backbone)
    model = rebuild(saved, facts.image_size, facts.preprocessing)
    shape, count = model.output_shape, len(facts.class_names)
    if len(shape) != 2 or shape[1] < 2:
        raise UserError(f"{saved.path.name} gives outputs of shape {shape}: it tells no classes apart.")
    if count != shape[1]:
        raise UserError(
            f"{saved.path.name} has {shape[1]} outputs but {count} class names ({facts.class_names_from}): "
            f"pass class_names=, {shape[1]} names in the order of its outputs."
        )
    return Classifier(model, facts.class_names, facts.metadata, saved.path)


def find_model(model: str, folder: Path) -> Path:
    """`model` as a path, or a file name in `folder`; where it is empty, the newest finished `.h5` there.

    Where that folder has none, the model that comes with the project, and says so.
    """
    if model:
        given = Path(model).expanduser()
        return given if given.exists() else folder / given.name
    models = [
        file
        for file in folder.glob("*.h5")
        if not (file.stem.endswith("_running") or file.name[0] == "." or file.name == EMO_MINI.name)
    ]
    if not models:
        print(f"No model of yours in {folder} yet: this is {EMO_MINI.name}, trained on FER2013's faces.")
        return EMO_MINI
    return max(models, key=lambda file: file.stat().st_mtime)
