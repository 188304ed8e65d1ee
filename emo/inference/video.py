"""A video → a table with a row per frame and face, and a copy with boxes and emotions drawn in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice, pairwise
from math import ceil, isfinite
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from emo.data.faces import glance_for_faces
from emo.data.geometry import Crop
from emo.data.image_io import read_ahead
from emo.errors import UserError
from emo.files import BOM, user_path, write_text
from emo.inference.predictor import Predictor, answer_table
from emo.paths import numbered

# before OpenCV's first video: what FFmpeg prints of damaged ones
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

RATES = (0.1, 1000.0)  # frames per second that can be
LOOKS = 4  # for faces, per second of video; in between they move along straight lines
SAME = 0.6  # of its side: how far a face moves at most between two looks
CHUNK, CHUNK_BYTES = 64, 2**27  # frames at a time; four chunks are in memory at once
BOX = ["left", "top", "width", "height"]
COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#e000a0")


@dataclass
class Chunk:
    """Frames in a row: RGB pictures, their numbers and seconds, and the faces seen at every `step`-th."""

    numbers: list[int]
    times: list[float]
    frames: list[Image.Image]
    looks: list[list[Crop]] = field(default_factory=list)


def classify_video(classifier: Predictor, video: str | Path) -> pd.DataFrame:
    """The emotion of every face in every frame, kept beside the video in a CSV and in an annotated copy.

    A row per frame and face: frame (from 0), time (seconds), face (its number in that frame, from 1), left,
    top, width, height (of the face, in the frame's pixels), emotion, confidence, a probability per class.
    Faces are looked for four times per second and followed in between; with no face a model that was trained
    without `face_margin` answers for the whole frame, as face 0, another gives no row. `<name>_emotions.mp4`
    has the video's size, frames and duration, without sound: at a constant rate, the mean one, and below one
    per second with each frame repeated. Where it or `<name>_emotions.csv` exists, both get a number; the
    table's `attrs` hold the paths, as "copy" and "csv". Ctrl-C keeps what is done, whole. Raises UserError
    for what is not a video that can be read.
    """
    path = user_path(video)
    fps, total = _measure(path)
    reader = _open(path)
    step = max(1, min(round(fps / LOOKS), CHUNK))
    parts, writer, copy, table_path = [], None, None, None
    try:
        # decoding, the search for faces, and the model with the encoder: each in a thread
        chunks = read_ahead(_looked_at(read_ahead(_chunks(reader, fps, step)), step))
        # closed before the reader is: its threads read on
        with closing(chunks), tqdm(total=total or None, desc="frames", unit="frame") as bar:
            for chunk, following in _with_next(chunks):
                if writer is None:
                    copy, table_path = _free_pair(path)
                    writer = _Writer(copy, fps, chunk.frames[0].size)
                rows = _answers(classifier, chunk, _follow(chunk, following, step))
                writer.write(chunk, rows, classifier.class_names)
                parts.append(rows)
                bar.update(len(chunk.frames))
    except KeyboardInterrupt:
        if writer is None:  # nothing is done yet
            raise
        print("Stopped: what is done is kept.")
    finally:
        reader.release()
        if writer:
            writer.close()
            table = pd.concat(parts, ignore_index=True) if parts else _no_rows(classifier)
            text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
            write_text(table_path, BOM + text)
    if writer is None:
        raise UserError(
            f"{path.name} holds no frame that can be read: it is not a video, or damaged; copy it again."
        )
    if total and writer.count < 0.9 * total:
        print(f"{path.name} tells of {total:,} frames; {writer.count:,} of them were classified.")
    print(
        f"Written to {copy.parent}: {table_path.name} ({len(table):,} rows) and {copy.name} "
        f"({writer.count:,} frames, {fps:.3g} per second, MPEG-4 without sound: VLC and the like play it, "
        "browsers do not)."
    )
    table.attrs = {"copy": str(copy), "csv": str(table_path)}
    return table


def _open(path: Path):
    cv2 = _cv2()
    if not path.is_file():
        raise UserError(f"There is no video {path}; check the path.")
    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)  # else a photo would be a video of one frame
    if not reader.isOpened():
        raise UserError(f"{path.name} is not a video that can be read: it is damaged or of another kind.")
    return reader


def _measure(path: Path) -> tuple[float, int]:
    """(mean frames per second, frames by the file's own account, 0 where it gives none).

    By the time of every frame: what a file says of its rate is its clock's where a browser recorded it, and
    an estimate from its first seconds where the rate varies.
    """
    cv2, reader = _cv2(), _open(path)
    fps, total = reader.get(cv2.CAP_PROP_FPS), reader.get(cv2.CAP_PROP_FRAME_COUNT)
    total = int(total) if 0 < total < 1e9 else 0
    times = []
    try:
        with tqdm(total=total or None, desc="measuring", unit="frame", leave=False) as bar:
            while reader.grab():
                times.append(reader.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                bar.update()
    finally:
        reader.release()
    lasts = times[-1] - times[0] if len(times) > 1 else 0.0
    if isfinite(lasts) and lasts > 0:
        fps = min(max((len(times) - 1) / lasts, RATES[0]), RATES[1])
    elif not RATES[0] <= fps <= RATES[1]:  # no times, and no rate or its clock's
        fps = 25.0
    return fps, total


@cache
def _cv2():
    try:
        import cv2
    except ImportError:
        raise UserError("A video needs OpenCV; run `pip install opencv-python-headless`.") from None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _chunks(reader, fps: float, step: int) -> Iterator[Chunk]:
    frames = _frames(reader, fps)
    first = next(frames, None)
    if first is None:
        return
    fitting = min(CHUNK, CHUNK_BYTES // (3 * first[1].width * first[1].height))
    size = max(1, fitting // step) * step
    part = [first, *islice(frames, size - 1)]
    number = 0
    while part:
        times, pictures = zip(*part, strict=True)
        yield Chunk(list(range(number, number + len(part))), list(times), list(pictures))
        number += len(part)
        part = list(islice(frames, size))


def _frames(reader, fps: float) -> Iterator[tuple[float, Image.Image]]:
    """(seconds, picture) of each frame; turned upright by OpenCV where the camera was turned."""
    cv2 = _cv2()
    number, last = 0, -1.0
    while True:
        there, frame = reader.read()
        if not there:
            return
        time = reader.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not (isfinite(time) and time > last):  # a file without time stamps
            time = last + 1 / fps if number else 0.0
        number, last = number + 1, time
        yield time, Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _looked_at(chunks: Iterable[Chunk], step: int) -> Iterator[Chunk]:
    for chunk in chunks:
        chunk.looks = glance_for_faces(chunk.frames[::step])
        yield chunk


def _with_next(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Chunk | None]]:
    waiting = None
    for chunk in chunks:
        if waiting:
            yield waiting, chunk
        waiting = chunk
    if waiting:
        yield waiting, None


def _follow(chunk: Chunk, following: Chunk | None, step: int) -> list[list[Crop]]:
    """The faces in every frame of a chunk, from the looks before and after it."""
    looks = [*chunk.looks, following.looks[0] if following else chunk.looks[-1]]
    every = []
    for before, after in pairwise(looks):
        pairs = _pairs(before, after)
        for position in range(step):
            share = position / step
            moved = [face.towards(then, share) for face, then in pairs if face and then]
            alone = [face or then for face, then in pairs if not (face and then)]
            gone, came = set(map(id, before)), set(map(id, after))
            seen = [face for face in alone if id(face) in (gone if share < 0.5 else came)]
            every.append(moved + seen)
    return every[: len(chunk.frames)]


def _pairs(before: list[Crop], after: list[Crop]) -> list[tuple[Crop | None, Crop | None]]:
    """The same face in two looks; None where it was not, or is no longer, there."""
    left, pairs = list(after), []
    for face in before:
        then = min(left, key=face.distance, default=None)
        if then and face.distance(then) <= SAME * max(face.side, then.side):
            left.remove(then)
            pairs.append((face, then))
        else:
            pairs.append((face, None))
    return pairs + [(None, face) for face in left]


def _answers(classifier: Predictor, chunk: Chunk, found: list[list[Crop]]) -> pd.DataFrame:
    places, pictures, crops = [], [], []
    whole = classifier.face_margin is None
    for number, time, frame, in_frame in zip(chunk.numbers, chunk.times, chunk.frames, found, strict=True):
        for place, face in [*enumerate(in_frame, 1)] or [(0, None)] * whole:
            places.append((number, time, place, *_box(face, *frame.size)))
            pictures.append(frame)
            crops.append(face)
    if not pictures:
        return _no_rows(classifier)
    probabilities = classifier.answer(classifier.load(pictures, crops))
    return _table(places, probabilities, classifier.class_names)


def _box(face: Crop | None, width: int, height: int) -> tuple[int, int, int, int]:
    if face is None:
        return 0, 0, width, height
    left, top, right, bottom = replace(face, angle=0).bounds((width, height))
    side = round(right - left)
    return round((left + right - side) / 2), round((top + bottom - side) / 2), side, side


def _table(places: Sequence[tuple], probabilities: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    where = pd.DataFrame(places, columns=["frame", "time", "face", *BOX])
    return pd.concat([where, answer_table(probabilities, class_names)], axis=1)


def _no_rows(classifier: Predictor) -> pd.DataFrame:
    return _table([], np.empty((0, len(classifier.class_names))), classifier.class_names)


def _free_pair(video: Path) -> tuple[Path, Path]:
    """Where the copy and the table go: of the same number, and nothing there yet."""
    for copy in numbered(video.with_name(f"{video.stem}_emotions.mp4")):
        if not copy.exists() and not copy.with_suffix(".csv").exists():
            return copy, copy.with_suffix(".csv")


class _Writer:
    """The annotated copy; `count` frames so far."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]):
        cv2 = _cv2()
        self.size, self.count = size, 0
        # OpenCV rounds rates to 0.001, and MPEG-4 has no more than 65,535 steps in one of its seconds
        self.repeats = max(1, ceil(1 / fps))
        rate = round(self.repeats * fps, 3 if fps < 65 else 2 if fps < 655 else 1)
        self.video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
        if not self.video.isOpened():
            raise UserError(f"{path} cannot be written; check that its folder may be written to.")
        self.line = max(2, round(min(size) / 240))
        self.font = ImageFont.truetype(_font(), max(11, round(min(size) / 30)))

    def write(self, chunk: Chunk, rows: pd.DataFrame, class_names: Sequence[str]) -> None:
        by_frame = {number: list(of.itertuples(index=False)) for number, of in rows.groupby("frame")}
        cv2 = _cv2()
        for number, frame in zip(chunk.numbers, chunk.frames, strict=True):
            for row in by_frame.get(number, []):
                self._draw(frame, row, COLORS[class_names.index(row.emotion) % len(COLORS)])
            pixels = cv2.cvtColor(np.asarray(frame), cv2.COLOR_RGB2BGR)
            for _ in range(self.repeats):
                self.video.write(pixels)
            self.count += 1

    def _draw(self, frame: Image.Image, row, color: str) -> None:
        draw = ImageDraw.Draw(frame)
        right, bottom = row.left + row.width - 1, row.top + row.height - 1
        draw.rectangle((row.left, row.top, right, bottom), outline=color, width=self.line)
        text = f"{row.emotion} {row.confidence:.0%}"
        _, _, wide, high = draw.textbbox((0, 0), text, self.font)
        pad = self.line
        # above the box, below it where there is no room, in it where there is none either; never cut off
        wide, high = wide + 2 * pad, high + 2 * pad
        x = min(max(row.left, 0), max(0, frame.width - wide))
        places = (row.top - high, bottom + 1, max(row.top, 0))
        y = next((y for y in places if 0 <= y <= frame.height - high), places[-1])
        draw.rectangle((x, y, x + wide, y + high), fill=color)
        draw.text((x + pad, y + pad), text, "white", self.font)

    def close(self) -> None:
        self.video.release()


@cache
def _font() -> str:
    from matplotlib.font_manager import findfont  # it brings a font with letters of most alphabets

    return findfont("DejaVu Sans")
