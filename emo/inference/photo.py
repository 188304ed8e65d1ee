"""My photo: a picture from anywhere, the faces in it, and what a classifier says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from emo.data.faces import find_all_faces
from emo.data.geometry import Crop
from emo.data.image_io import whole_image
from emo.data.web import read_url
from emo.errors import UserError
from emo.files import user_path
from emo.inference.predictor import Predictor
from emo.inference.webcam import is_upload_button

ADDRESSES = ("http://", "https://")  # with which what is fetched from the web begins
MAX_SIDE = 2048  # pixels; a face of a thirtieth of it still has 68
ROW = 0.75  # of a face's side: how much lower a face may be and still stand in the same row
MAX_DOWNLOAD = 32 * 2**20  # bytes


@dataclass(frozen=True)
class AnsweredPhoto:
    """`photo` is RGB and upright; `faces` say where the face of each row of `answers` is, None for all of it.

    `answers` has the face's number as its index, from 1 on, in the order of reading (0: the whole photo), and
    the columns box (left, top, right, bottom in pixels of `photo`), emotion, confidence, and a probability
    per class.
    """

    photo: Image.Image
    faces: tuple[Crop | None, ...]
    answers: pd.DataFrame


def open_photo(source, limit: int = MAX_SIDE) -> Image.Image | None:
    """A photo from anywhere: RGB, upright, no side over `limit` pixels.

    `source` is a path, an http(s) URL, the content of a file, a PIL image, an array of one picture as
    `as_pictures` takes it, or the button of `upload_photo`. Gives None, and says so, where nothing was chosen
    yet: "", or no file at the button. Raises UserError for what is not a picture or cannot be fetched.
    """
    name = ""
    if is_upload_button(source):
        if not source.value:
            print("No photo chosen yet: choose one above, then run this cell again.")
            return None
        name, source = source.value[-1]["name"], bytes(source.value[-1]["content"])
    if isinstance(source, str):
        if not source.strip():
            print("No photo: its path or URL is empty.")
            return None
        name = source = source.strip()
        on_the_web = source.lower().startswith(ADDRESSES)
        source = read_url(source, MAX_DOWNLOAD) if on_the_web else user_path(source)
    return whole_image(source, limit, name)


def classify_faces(classifier: Predictor, photo) -> AnsweredPhoto:
    """What the classifier says of every face that stands out in a photo; `photo` as for `open_photo`.

    Each face is cropped as the model was trained (`Predictor.crops`). Where there is none, or mtcnn is not
    installed, the whole photo is classified, and a sentence says so. Raises UserError for what is no photo.
    """
    picture = open_photo(photo)
    if picture is None:
        raise UserError("There is no photo to look at; give a path or a URL.")
    try:
        faces: tuple[Crop | None, ...] = tuple(in_reading_order(find_all_faces(picture)))
        if not faces:
            print("No face was found: this is the prediction for the whole photo.")
    except UserError as error:  # mtcnn is missing
        faces = ()
        print(f"{error} Without it, this is the prediction for the whole photo.")
    numbers, faces = (range(1, len(faces) + 1), faces) if faces else ((0,), (None,))
    answers = classifier.predict([picture] * len(faces), faces).drop(columns="path")
    answers.insert(0, "box", [_box(face, picture.size) for face in faces])
    answers.index = pd.Index(numbers, name="face")
    return AnsweredPhoto(picture, faces, answers)


def in_reading_order(faces: Sequence[Crop]) -> list[Crop]:
    """Row by row from the top, each from left to right, as the people in a group photo are named."""
    rows: list[list[Crop]] = []
    for face in sorted(faces, key=lambda face: face.y):
        if rows and face.y - rows[-1][0].y < ROW * max(face.side, rows[-1][0].side):
            rows[-1].append(face)
        else:
            rows.append([face])
    return [face for row in rows for face in sorted(row, key=lambda face: face.x)]


def _box(face: Crop | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels, within the picture, around the face as it is turned."""
    bounds = (0, 0, *size) if face is None else face.bounds(size)
    return tuple(np.clip(bounds, 0, (*size, *size)).round().astype(int).tolist())
