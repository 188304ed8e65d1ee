"""A saved model, ready to predict."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from emo.backend import forward
from emo.data.faces import face_crops, find_faces
from emo.data.geometry import Crop
from emo.data.image_io import load_images, read_image
from emo.errors import UserError, is_out_of_memory
from emo.files import first_file, told, user_path
from emo.inference.hub import LISTED, SUFFIXES, fetch, is_address
from emo.inference.predictor import Predictor
from emo.models.loading import read_model, rebuild
from emo.models.saved_facts import find_facts
from emo.models.saved_file import sentences
from emo.models.saving import divide_logits
from emo.paths import EMO_MINI

# of a model trained on whole photos: FER2013's are as large as the face that find_faces sees in them
# (371 of 400 drawn at random: median of photo / face 0.98, half of them 0.89–1.06)
FACE_MARGIN = 0.0
# of the folder that a .keras may be instead of a zip file, and of TensorFlow's, which is not a model here
MODEL_FOLDERS = ("config.json", "saved_model.pb")
EMO_MINI_NAMES = (EMO_MINI.name, EMO_MINI.stem)
STAMP = re.compile(r"emo_classificator_best_(\d{12})_")  # of `RunFiles.reserve`: yymmddHHMMSS
BATCH = 64  # pictures that the network answers at a time, where they fit into memory


class Loaded(NamedTuple):
    """(n, size, size, 3) uint8 pictures, and the numbers of those that could not be read, which are black."""

    pixels: np.ndarray
    unreadable: list[int]


class Classifier(Predictor):
    """`model` takes RGB in 0–255, (n, image_size, image_size, 3), and gives a probability per class."""

    def __init__(self, model: keras.Model, class_names: Sequence[str], metadata: dict, path: Path):
        self.model, self.metadata, self.path = model, metadata, path
        self.class_names = tuple(class_names)
        self.image_size = model.input_shape[1]
        self.flip = False
        self.batch_size = BATCH
        self._forward = forward(model)

    @property
    def name(self) -> str:
        return f"{self.path.name} + flip" if self.flip else self.path.name

    def __repr__(self) -> str:
        said = self.metadata.get("val_accuracy")
        accuracy = f", validation accuracy {said:.1%}" if isinstance(said, float) else ""
        assumed = f"; {self.metadata['assumed']}" if "assumed" in self.metadata else ""
        return f"{self.name}: {len(self.class_names)} classes, {self.image_size} px{accuracy}{assumed}"

    @property
    def face_margin(self) -> float | None:
        return self.metadata.get("experiment", {}).get("face_margin")

    def with_flip(self) -> Classifier:
        flipping = copy.copy(self)
        flipping.flip = True
        flipping._forward = forward(self.model, flip=True)
        return flipping

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) in 0–255 → (n, classes), rows that add up to 1.

        Where `batch_size` pictures do not fit into memory, it is halved. Raises UserError where one does not.
        """
        while True:
            starts = range(0, len(images), self.batch_size)
            try:
                answers = [self._forward(images[start : start + self.batch_size]) for start in starts]
                return np.concatenate([np.asarray(batch) for batch in answers])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise no_memory(self) from None
                self.batch_size //= 2

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

    def load(self, sources: Sequence, faces: Sequence[Crop | None] | None = None) -> Loaded:
        crops = self.crops(sources, faces)
        try:
            return Loaded(load_images(sources, self.image_size, crops=crops), [])
        except UserError:  # at least one is unreadable: find out which, and go on with the rest
            pixels, bad = np.zeros((len(sources), self.image_size, self.image_size, 3), np.uint8), []
            for index, (source, crop) in enumerate(zip(sources, crops, strict=True)):
                try:
                    pixels[index] = read_image(source, self.image_size, crop)
                except UserError:
                    bad.append(index)
            return Loaded(pixels, bad)

    def answer(self, loaded: Loaded) -> np.ndarray:
        """What `load` gave → (n, classes), NaN where a picture was unreadable.

        Raises UserError where the model gives no number for one that was not: NaN would pass for unreadable.
        """
        probabilities = self.probabilities(loaded.pixels)
        lost = np.isnan(probabilities).any(axis=1)
        lost[loaded.unreadable] = False
        if lost.any():
            raise UserError(
                f"{self.name} gives no numbers (NaN) for {lost.sum()} of {len(lost)} readable pictures: its "
                "weights are damaged, or too large for its precision; copy it again or retrain it."
            )
        probabilities[loaded.unreadable] = np.nan
        return probabilities


def no_memory(classifier: Classifier) -> UserError:
    """What to raise where a single picture is too much."""
    size = classifier.image_size
    return UserError(
        f"{classifier.name} needs more memory than is free for one picture of {size} px; free some, or load "
        f"it with half that image_size ({size // 2}) where it takes any."
    )


def load_classifier(
    path: str | Path,
    class_names: Sequence[str] | str | Path | None = None,
    image_size: int | None = None,
    preprocessing: str | None = None,
    backbone: str | None = None,
) -> Classifier:
    """Opens a model: a `.h5` that `train` saved, an older one of Keras 2, a third party's, a `.keras` too.

    Also the JSON of a network beside a file with its weights, `hf://owner/name`, a model on the Hub, and
    "emo_mini", the model that comes with the project. What `train` saved knows all of this; for another
    file, what is not given is found or asked for:

    - class_names, in the order of the outputs: a list, or a file of one per line; else the
      `data/class_names.txt` of the project in whose `model/` the file lies.
    - image_size: height and width in pixels, for a network that takes any.
    - preprocessing, which was outside the network and is put before it: "none" (RGB in 0–255, or it is
      inside), "rescale" (to 0–1), "tf", "caffe" or "torch" as keras.applications has them; else what the
      ImageNet weights of the backbone expect.
    - backbone: a key of BACKBONES; else by the network's layers, else by the file's name.

    The classifier's repr tells what was assumed. Raises UserError where the file cannot be used, or naming
    what to pass.
    """
    file = fetch(path) if is_address(path) else EMO_MINI if path == EMO_MINI.stem else path
    saved = read_model(file)
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


def store_temperature(classifier: Classifier, temperature: float, abstain_below: float) -> Classifier:
    """Divides the log-probabilities of a `.h5` of ours by `temperature`, in the file, and opens it again.

    The file then tells its temperature, all in all, and `abstain_below`, a confidence in 0–1. Raises
    UserError where it does not end in a softmax, or cannot be written.
    """
    path = classifier.path
    said = {
        "temperature": classifier.metadata.get("temperature", 1.0) * temperature,
        "abstain_below": abstain_below,
    }
    with sentences(path), told(path):
        divide_logits(path, temperature, classifier.metadata | said)
    return load_classifier(path)


def find_model(model: str | Path, folder: Path) -> Path:
    """`model` as a path, an address on the Hub, or a name in `folder`; if empty, the newest finished there.

    Its ending may be left out. A relative path that leads to no file counts by its name in `folder`, which is
    printed. "emo_mini" is the model that comes with the project; it is taken, which is printed, where
    `model` is empty and the folder has none. Prints which links to nothing were passed over. Raises UserError
    for what is not a path, and with the models that there are where none has that name.
    """
    if is_address(model):
        return fetch(model)
    if model:
        given = user_path(model)
        if file := first_file([given], SUFFIXES):
            return file
        if any((given / file).is_file() for file in MODEL_FOLDERS):
            return given
        if not given.is_absolute():
            named = EMO_MINI if given.name in EMO_MINI_NAMES else None
            if file := first_file([folder / given.name], SUFFIXES) or named:
                if len(given.parts) > 1:
                    print(f"There is no {given}: this is {file}.")
                return file
    found, passed_over = _models_in(folder)
    if model:
        names = [*(file.name for file in found[:LISTED]), *["…"] * (len(found) > LISTED), EMO_MINI.name]
        raise UserError(
            f"There is no model {model}, as a path or in {folder}; choose one of {', '.join(names)}."
        )
    if passed_over:
        print(f"Passed over in {folder}: {', '.join(passed_over)}; give a file's name to open it.")
    if not found:
        print(f"No model of yours in {folder} yet: this is {EMO_MINI.name}, which comes with the project.")
        return EMO_MINI
    return found[0]


def _models_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Finished models, the newest first; the names of links to nothing."""
    found, passed_over = [], []
    for file in sorted(folder.glob("*")):
        if file.name[0] == "." or file.suffix.lower() not in SUFFIXES or file.name == EMO_MINI.name:
            continue
        if not file.is_file():
            passed_over.append(file.name)
        elif not file.stem.endswith("_running") and (
            file.suffix.lower() == ".h5" or not file.with_suffix(".h5").is_file()  # else an export of that
        ):
            found.append(file)
    return sorted(found, key=_made, reverse=True), passed_over


def _made(file: Path) -> float:
    """When its run began, by its name, else when it was written: copying or calibrating it renews that."""
    if stamp := STAMP.match(file.name):
        with suppress(ValueError):  # twelve digits that are not a date
            return datetime.strptime(stamp[1], "%y%m%d%H%M%S").timestamp()
    return file.stat().st_mtime
