"""Where the face is in a photo: found once, kept in `data/faces.csv`, cropped and aligned everywhere alike.

The detector is MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment Using Multi-task Cascaded
Convolutional Networks") of the package mtcnn, which holds its weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm
from tqdm.contrib.concurrent import thread_map

from emo.backend import need_tensorflow
from emo.data.arrays import as_pictures
from emo.data.geometry import Crop
from emo.data.image_io import Unusable, read_bytes, read_image, thread_pool
from emo.errors import UserError
from emo.files import write_text
from emo.paths import Paths

RECIPE = 3  # counts the changes of how faces are found: those kept by an older one are found again
WHOLE = Crop(side=1.25)  # the photo with room around it, as a face may fill it
VIEW = 160  # pixels a side of what the detector sees; it finds faces from 20 on: a sixth of the photo's side
ALL_VIEW = 800  # the same where every face is wanted: a thirtieth of the photo's side
TURNS = (30, -30)  # degrees, tried where no face was upright: MTCNN misses many tilted by more than 20
CLOSE, CLOSE_VIEW = 0.5, 96  # margin and pixels of a second look, aligned: a third of the angle's error
SAME = 0.5  # of a face's side: what a closer look finds farther away is another face
SEVERAL = 0.5  # a face of this share of the largest one's side is more than background
ALL_SEVERAL = 0.25  # the same where every face is wanted
GLANCE_VIEW = 256  # pixels a side in one quick look: faces from a thirteenth of the frame's longer side on
FILLS = 0.8  # of the photo's longer side: a face beyond it gets smaller by a crop with any usual margin
FRAME = Crop()  # without room around it: a face fills no frame as it fills a photo
BATCH = 64  # views at a time
# Of the detector's last network: the package's own, and what is enough where that shows no face. Chosen by
# `tools.bench.embedded`, which counts the faces that are found and what is wrongly taken for one.
SURE, LESS_SURE = 0.8, 0.4
SIDES = (None, 24, 48)  # pixels a side of what MTCNN's three networks take
CHUNK = 256  # photos after which those found are kept
Found = tuple[int, float, float, float, float, str]  # a row of `find_faces` without its path
FOUND = ["faces", "x", "y", "side", "angle", "problem"]
KEPT = {"path": str, "faces": int, "x": float, "y": float, "side": float, "angle": float} | {
    "sha256": str, "detector": str
}  # fmt: skip


def find_faces(photos: Sequence, paths: Paths | None = None) -> pd.DataFrame:
    """Where the one face of each photo is: a row per photo, in their order.

    Columns: path ("" for a picture in memory); faces: 0, 1, or the largest and those at least half its size;
    x, y, side and angle as in `Crop`, of the one face, else missing; problem: why the photo cannot be read,
    or "". A face smaller than a sixth of the photo's longer side is not seen.

    `photos` is what `as_pictures` takes. With `paths` it is files: their faces are kept in `data/faces.csv`,
    and a file is looked at again only when its content or the detector has changed. Raises UserError where
    mtcnn is not installed.
    """
    detector = _detector_name()
    photos = as_pictures(photos)
    found, keys = {}, range(len(photos))
    if paths:
        kept = _read(paths.faces, detector)
        found = {row.sha256: (row.faces, row.x, row.y, row.side, row.angle, "") for row in kept.itertuples()}
        keys = thread_map(_key, photos, keys, desc="looking for changed photos", unit="photo")
    new = {key: photo for key, photo in zip(keys, photos, strict=True) if key not in found}
    with tqdm(total=len(new), desc="looking for faces", disable=len(new) < BATCH, leave=bool(paths)) as bar:
        for start in range(0, len(new), CHUNK):
            part = dict(islice(new.items(), start, start + CHUNK))
            rows = map(_row, *_find(list(part.values())))
            found |= zip(part, rows, strict=True)
            if paths:
                kept = _keep(kept, part, found, detector, paths)
            bar.update(len(part))
    faces = pd.DataFrame([found[key] for key in keys], columns=FOUND)
    faces.insert(0, "path", [str(photo) if isinstance(photo, (str, Path)) else "" for photo in photos])
    return faces


def find_all_faces(photo) -> list[Crop]:
    """Every face that stands out in one photo (`read_image` takes it), from left to right.

    That is those of at least a quarter of the largest one's side and a thirtieth of the photo's longer side.
    Raises UserError for a photo that cannot be read, or where mtcnn is not installed.
    """
    _detector_name()
    (faces,), (problem,) = _find([photo], ALL_VIEW, ALL_SEVERAL, closer_to_all=True)
    if problem:
        raise UserError(problem)
    return sorted(faces, key=lambda face: face.x)


def glance_for_faces(frames: Sequence[Image.Image]) -> list[list[Crop]]:
    """Every upright face that stands out in each frame of a video, in one look instead of three.

    Raises UserError where mtcnn is not installed.
    """
    _detector_name()
    with thread_pool() as pool:
        views = list(pool.map(lambda frame: read_image(frame, GLANCE_VIEW, FRAME), frames))
    return [
        _outstanding(faces, ALL_SEVERAL, SURE) for faces in _detect(np.stack(views), [FRAME] * len(views))
    ]


def find_crops(photos: Sequence, margin: float | None, paths: Paths) -> list[Crop | None]:
    """The crops of training, one a photo, with `find_faces`; prints how many. `margin` None: no crops."""
    if margin is None:
        return [None] * len(photos)
    faces = find_faces(photos, paths)
    print(f"Faces: {summarize_faces(faces)} ({paths.faces.relative_to(paths.results)}).")
    return face_crops(faces, margin)


def face_crops(faces: pd.DataFrame, margin: float) -> list[Crop | None]:
    """The crops for `load_images` from the rows of `find_faces`, None where there is not exactly one face.

    `margin`: the share of the face's side that is added on each of its sides, e.g. 0.3.
    """
    return [
        Crop(row.x, row.y, row.side, row.angle).with_margin(margin) if row.faces == 1 else None
        for row in faces.itertuples()
    ]


def summarize_faces(faces: pd.DataFrame) -> str:
    """The rows of `find_faces` counted, in half a sentence; a second one where most photos need no crop."""
    unreadable = int((faces["problem"] != "").sum())
    one, several = int((faces["faces"] == 1).sum()), int((faces["faces"] > 1).sum())
    none = len(faces) - unreadable - one - several
    said = f"{one:,} cropped, {none:,} without a face and {several:,} with several kept whole"
    said += f", {unreadable:,} unreadable" if unreadable else ""
    if one and faces["side"].median() > FILLS:
        said += (
            "; most faces fill their photo already, and a crop with a margin shows them smaller: "
            "leave face_margin at None"
        )
    return said


def _find(
    pictures: Sequence, size: int = VIEW, several: float = SEVERAL, closer_to_all: bool = False
) -> tuple[list[list[Crop]], list[str]]:
    """The faces of each picture, the largest first, and why the picture cannot be read, or "".

    Where no face is surely there, one that may be is taken.
    """
    views = _Views(pictures)
    found = _search(views, range(len(pictures)), size, several, closer_to_all, SURE)
    missing = [i for i, problem in enumerate(views.problems) if not (found[i] or problem)]
    again = _search(views, missing, size, several, closer_to_all, LESS_SURE)
    return [first or second for first, second in zip(found, again, strict=True)], views.problems


class _Views:
    """What the detector sees of some pictures: each view of one is looked at once.

    `problems`: why a picture cannot be read, or "", as far as it has been looked at.
    """

    def __init__(self, pictures: Sequence):
        self.pictures, self.problems = pictures, [""] * len(pictures)
        self._seen: dict[tuple[int, Crop, int], list[tuple[Crop, float]]] = {}

    def faces(self, indices: Sequence[int], crops: list[Crop], size: int) -> list[list[tuple[Crop, float]]]:
        """As `_detect`, of the pictures with these numbers, each cropped and `size` pixels a side."""
        keys = [(index, crop, size) for index, crop in zip(indices, crops, strict=True)]
        new = [key for key in keys if key not in self._seen]
        with thread_pool() as pool:  # for the decoding; TensorFlow uses all cores by itself
            pixels = list(pool.map(self._pixels, new))
        for start in range(0, len(new), BATCH):
            part = slice(start, start + BATCH)
            faces = _detect(np.stack(pixels[part]), [crop for _, crop, _ in new[part]])
            self._seen |= zip(new[part], faces, strict=True)
        return [self._seen[key] for key in keys]

    def _pixels(self, key: tuple[int, Crop, int]) -> np.ndarray:
        index, crop, size = key
        try:
            return read_image(self.pictures[index], size, crop)
        except UserError as error:
            self.problems[index] = str(error)
            return np.zeros((size, size, 3), np.uint8)


def _search(
    views: _Views, wanted: Sequence[int], size: int, several: float, closer_to_all: bool, sure: float
) -> list[list[Crop]]:
    """The faces of the wanted pictures that the detector is so sure of; of the others none.

    Three looks: at the whole picture, at it turned where no face was seen, and at the face itself; at each of
    several only with `closer_to_all`.
    """

    def look(indices: Sequence[int], crops: list[Crop], size: int) -> list[list[Crop]]:
        return [_outstanding(faces, several, sure) for faces in views.faces(indices, crops, size)]

    found: list[list[Crop]] = [[] for _ in views.pictures]
    for index, faces in zip(wanted, look(wanted, [WHOLE] * len(wanted), size), strict=True):
        found[index] = faces
    upright = [bool(faces) for faces in found]
    for turn in TURNS:
        missing = [index for index in wanted if not found[index]]
        turned = look(missing, [replace(WHOLE, angle=turn)] * len(missing), size)
        for index, faces in zip(missing, turned, strict=True):
            found[index] = faces
    seen = [(i, face) for i, faces in enumerate(found) if len(faces) == 1 or closer_to_all for face in faces]
    closer = look([i for i, _ in seen], [face.with_margin(CLOSE) for _, face in seen], CLOSE_VIEW)
    aligned = [[] for _ in found]
    for (index, face), faces in zip(seen, closer, strict=True):
        # the closer look may show a neighbour as well, or instead
        same = [near for near in faces if face.distance(near) < SAME * face.side]
        # what only a turned view showed is often no face
        aligned[index] += sorted(same, key=face.distance)[:1] or [face] * upright[index]
    for index, _ in seen:
        found[index] = aligned[index]
    return found


def _row(faces: list[Crop], problem: str) -> Found:
    if len(faces) != 1:
        return len(faces), math.nan, math.nan, math.nan, math.nan, problem
    # further digits depend on which photos were looked at together
    x, y, side = (round(length, 4) for length in (faces[0].x, faces[0].y, faces[0].side))
    return 1, x, y, side, round(faces[0].angle, 1), problem


def _outstanding(faces: list[tuple[Crop, float]], several: float, sure: float) -> list[Crop]:
    """The sure ones of a view's faces, from `several` times the side of the largest of them on."""
    kept = [face for face, confidence in faces if confidence > sure]
    return [face for face in kept if face.side >= several * kept[0].side]


def _detect(views: np.ndarray, crops: list[Crop]) -> list[list[tuple[Crop, float]]]:
    """Each view's faces and how sure the detector is of them, from LESS_SURE on, the largest first.

    `views`: (n, size, size, 3) uint8, each what `crops` tells of its picture; the faces are crops of these.
    """
    size = views.shape[1]
    boxes, shapes = None, [view.shape for view in views]
    normalized = (views.astype(np.float32) - 127.5) / 128
    tf = need_tensorflow("Faces are found")
    with tf.device("CPU"):  # the same faces on every machine
        for stage in _detector().stages:  # MTCNN.detect_faces fails where a stage leaves no candidate
            boxes = stage(
                bboxes_batch=boxes,
                images_normalized=normalized,
                images_oshapes=shapes,
                threshold_onet=LESS_SURE,
            )
            if not len(boxes):
                break
    found = [[] for _ in views]
    for view, left, top, right, bottom, confidence, *marks in boxes.tolist():
        eyes = math.degrees(math.atan2(marks[6] - marks[5], marks[1] - marks[0]))  # five x, then five y
        face = Crop(
            x=(left + right) / (2 * size) - 0.5,
            y=(top + bottom) / (2 * size) - 0.5,
            side=max(right - left, bottom - top) / size,
            angle=eyes,
        )
        found[int(view)].append((crops[int(view)].part(face), confidence))
    for faces in found:
        faces.sort(key=lambda seen: -seen[0].side)
    return found


@cache
def _detector():
    from mtcnn import MTCNN  # half a second, and not everybody crops faces

    detector, tf = MTCNN(), need_tensorflow("Faces are found")
    for stage, side in zip(detector.stages, SIDES, strict=True):
        # run layer by layer, one view takes Python five times as long as the arithmetic
        views = tf.TensorSpec((None, side, side, 3), tf.float32)
        stage._model = tf.function(stage.model, input_signature=[views])
        stage.model.get_concrete_function()  # now, not at the first face
    return detector


def _detector_name() -> str:
    try:
        return f"mtcnn {version('mtcnn')}, recipe {RECIPE}"
    except PackageNotFoundError:
        raise UserError("Faces are found by the package mtcnn; run `pip install mtcnn`.") from None


def _key(photo: str | Path, number: int) -> str | int:
    """The hash of the file's content; of one that cannot be read, its number."""
    try:
        return hashlib.sha256(read_bytes(Path(photo))).hexdigest()
    except (Unusable, OSError):
        return number


def _read(file: Path, detector: str) -> pd.DataFrame:
    """The faces kept in `file` that this detector found; none where the file is missing or mangled."""
    try:
        kept = pd.read_csv(file, dtype=KEPT, float_precision="round_trip")[list(KEPT)]
    except (OSError, ValueError, KeyError):
        kept = pd.DataFrame(columns=list(KEPT)).astype(KEPT)
    return kept[kept["detector"] == detector]


def _keep(kept: pd.DataFrame, photos: dict, found: dict, detector: str, paths: Paths) -> pd.DataFrame:
    """`kept` with what was found in `photos`; it is written to `data/faces.csv`, whole or not at all."""
    rows = []
    for key, photo in photos.items():
        *face, problem = found[key]
        if not problem:
            file = Path(photo).absolute()
            name = file.relative_to(paths.data) if file.is_relative_to(paths.data) else file
            rows.append((name.as_posix(), *face, key, detector))
    kept = pd.concat([kept, pd.DataFrame(rows, columns=list(KEPT)).astype(KEPT)])
    kept = kept.drop_duplicates("path", keep="last").sort_values("path")
    write_text(paths.faces, kept.to_csv(index=False, lineterminator="\n"))
    return kept
