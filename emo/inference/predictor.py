"""What every predictor does alike, whether it is one network or several: pictures in, a table out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from emo.data.arrays import as_pictures
from emo.data.faces import GLANCE_VIEW, glance_for_faces
from emo.data.geometry import Crop
from emo.data.image_io import read_ahead, whole_image
from emo.data.manifest import is_photo
from emo.errors import UserError
from emo.files import files_below, user_path
from emo.paths import IMAGE_SUFFIXES

CHUNK = 128  # photos in memory at a time, and as many again that are decoded meanwhile
HANDFUL = 4  # photos at most: more are a folder, whose owner knows what is in it
LARGE = 3  # times what the network sees: most smaller pictures are faces already cropped
SMALL = 0.5  # of the photo's longer side: a face that the network hardly sees


class Predictor(ABC):
    """Gives each picture a probability per class: a `Classifier`, or an `Ensemble` of several.

    `class_names` are in the order of the probabilities; `image_size` is the height and width in pixels that
    the network sees, of several the largest; `metadata` is what a model's file says of itself.
    """

    class_names: tuple[str, ...]
    image_size: int
    metadata: dict
    looks = 8  # photos in which `predict` may look for faces, a tenth of a second each: no loop is slowed

    @property
    @abstractmethod
    def name(self) -> str:
        """Its file or files, and what is done beyond asking each once."""

    @property
    @abstractmethod
    def face_margin(self) -> float | None:
        """The margin around the face that it was trained with; None where it saw whole photos."""

    @abstractmethod
    def with_flip(self) -> Self:
        """The same with test-time augmentation: the mean over each picture and its horizontal flip."""

    @abstractmethod
    def crops(self, images: Sequence, faces: Sequence[Crop | None] | None = None) -> list[Crop | None]:
        """What it sees of each picture, None where that is all of it; `faces` says where the faces are."""

    @abstractmethod
    def load(self, sources: Sequence, faces: Sequence[Crop | None] | None = None) -> Any:
        """The pictures decoded for `answer`, in memory at once; `faces` as for `crops`."""

    @abstractmethod
    def answer(self, loaded: Any) -> np.ndarray:
        """What `load` gave → (n, classes), rows that add up to 1, or NaN where a picture was unreadable."""

    def predict(self, images, faces: Sequence[Crop | None] | None = None) -> pd.DataFrame:
        """One row per picture: path, emotion, confidence, then a probability per class.

        `images`: a file, a folder (searched through, in the order of names), or what `as_pictures` takes:
        arrays, tensors, PIL images, a list of files or of these; `faces`: as for `crops`. A picture that
        cannot be read keeps its row, with emotion empty, and is named in one sentence, as are the files in a
        folder that are not photos, and large photos of small faces, where there are few and `faces` is None.
        Raises UserError where there is nothing to predict.
        """
        sources = as_sources(images)
        faces = None if faces is None else list(faces)
        if faces is not None and len(faces) != len(sources):
            raise UserError(f"{len(sources)} pictures were given with {len(faces)} faces; give one for each.")
        answers = []
        with tqdm(total=len(sources), desc="predicting", unit="photo", disable=len(sources) < CHUNK) as bar:
            chunks = [slice(start, start + CHUNK) for start in range(0, len(sources), CHUNK)]
            loading = (self.load(sources[part], faces and faces[part]) for part in chunks)
            for loaded in read_ahead(loading):
                answers.append(self.answer(loaded))
                bar.update(len(answers[-1]))
        table = answer_table(np.concatenate(answers), self.class_names)
        files = [str(source) if isinstance(source, (str, Path)) else "" for source in sources]
        table.insert(0, "path", files)
        unread = [files[row] or f"picture {row + 1}" for row in np.flatnonzero(table.emotion.isna())]
        if unread:
            named = ", ".join(unread[:3]) + (" …" if len(unread) > 3 else "")
            print(f"{len(unread)} of {len(sources)} photos could not be read and have no emotion: {named}")
        if faces is None and self.face_margin is None and len(sources) <= HANDFUL:
            self._tell_of_small_faces(sources)
        return table

    def _tell_of_small_faces(self, sources: Sequence) -> None:
        """Says of which photos the answer is for much more than a face; arrays come from programs."""
        names = []
        for number, source in enumerate(sources, 1):
            if isinstance(source, np.ndarray) or not self.looks:
                continue
            with suppress(UserError):  # it cannot be read, which was said, or mtcnn is not installed
                picture = whole_image(source, max(LARGE * self.image_size, GLANCE_VIEW))
                if max(picture.size) < LARGE * self.image_size:
                    continue
                self.looks -= 1
                (faces,) = glance_for_faces([picture])
                if faces and faces[0].side < SMALL:
                    names.append(f"picture {number}" if isinstance(source, Image.Image) else str(source))
        if names:
            print(
                f"Faces were not looked for, and those in {', '.join(names)} take up less than half of the "
                "photo: emo.classify_faces(classifier, photo) finds each face and answers for it."
            )


def answer_table(probabilities: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """(n, classes) → emotion, confidence, and a column per class; NaN rows have no emotion."""
    known = ~np.isnan(probabilities[:, 0])
    best = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), 0)
    head = {
        "emotion": np.where(known, np.array(class_names, dtype=object)[best], None),
        "confidence": probabilities[np.arange(len(best)), best],
    }
    return pd.concat([pd.DataFrame(head), pd.DataFrame(probabilities, columns=list(class_names))], axis=1)


def as_sources(images) -> list[str | Path | Image.Image | np.ndarray]:
    """What `predict` takes, as a flat list of files, PIL images and uint8 arrays."""
    if isinstance(images, (str, Path)):
        path = user_path(images)
        if path.is_dir():
            return _photos_in(path)
        images = [path]
    sources = as_pictures(images)
    if not sources:
        raise UserError("There are no photos to predict: the list is empty.")
    if len(sources) == 1 and isinstance(sources[0], Path) and not sources[0].exists():
        raise UserError(f"There is no photo or folder {sources[0]}; check the path.")
    return sources


def _photos_in(folder: Path) -> list[Path]:
    """The photos below a folder; prints how many of its files are none."""
    files = sorted(files_below(folder))
    photos = list(filter(is_photo, files))
    suffixes = Counter(
        sorted(file.suffix.lower() or "without suffix" for file in files if not is_photo(file))
    )
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5))
    others = kinds + (" …" if len(suffixes) > 5 else "")
    if not photos:
        held = f", but other files: {others}" if others else ""
        raise UserError(f"The folder {folder} holds no photos ({', '.join(IMAGE_SUFFIXES)}){held}.")
    if others:
        print(f"{suffixes.total():,} of {len(files):,} files in {folder} are not photos: {others}.")
    return photos
