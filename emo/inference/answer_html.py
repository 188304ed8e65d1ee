"""What the live page shows of answers: boxes over a picture as SVG, and a card with bars for each face."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image

from emo.data.geometry import Crop
from emo.inference.video import COLORS

UNSURE, GREY = "not sure", "#6b7280"  # what is said of a face that gets no emotion, and its colour
TOP = 3  # emotions shown of each face
NAMED = 4  # faces whose boxes have room for more than a number
SHOWN = 1024  # pixels of the longer side of a picture on the page
LETTERS = 1 / 24  # of the picture's width: the height of a label


def boxes(faces: Sequence[Crop], answers: pd.DataFrame, size: tuple[int, int], limit: float) -> str:
    """An SVG of the faces' boxes and labels, in pixels of a picture of `size`; scaled to the place it gets.

    `answers` is `Predictor.predict`'s table, a row per face; below the confidence `limit` none is named.
    """
    width, height = size
    drawn = []
    letters = LETTERS * width
    for number, (face, answer) in enumerate(zip(faces, answers.itertuples(), strict=True), 1):
        name, color = _said(answer, answers, limit)
        corners = face.corners(size)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        text = str(number) if len(faces) > NAMED else name
        wide = (0.58 * len(text) + 0.6) * letters
        left, top = corners.min(axis=0)
        # above the box, in it where there is no room; within the picture
        x = min(max(left, 0), width - wide)
        y = top - 1.35 * letters if top > 1.35 * letters else max(top, 0)
        place = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{1.35 * letters:.1f}"'
        middle = f'x="{x + wide / 2:.1f}" y="{y + letters:.1f}" style="font-size: {letters:.1f}px"'
        drawn.append(
            f'<g style="--face: {color}"><polygon points="{points}"/><rect {place}/>'
            f"<text {middle}>{escape(text)}</text></g>"
        )
    return f'<svg class="faces" viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>'


def picture(photo: Image.Image, over: str = "") -> str:
    """The photo itself with an SVG over it: in the page, so that no file is left."""
    small = photo.copy()
    small.thumbnail((SHOWN, SHOWN))
    return f'<div class="picture">{_image(small, "the photo")}{over}</div>'


def cards(answers: pd.DataFrame, limit: float, maps: Sequence[np.ndarray | str] = ()) -> str:
    """A card per face: its emotion, the likeliest three with bars, and a map's picture, or why there is none.

    `answers` and `limit` as for `boxes`; `maps` are (h, w, 3) uint8, one per face, or none at all.
    """
    emotions = answers.columns[list(answers.columns).index("confidence") + 1 :]
    drawn = []
    for index, answer in enumerate(answers.itertuples()):
        name, color = _said(answer, answers, limit)
        number = f"{index + 1} · " if len(answers) > 1 else ""
        top = answers.iloc[index][emotions].astype(float).nlargest(TOP)
        bars = "".join(
            f'<div class="bar" style="--share: {share:.1%}"><span>{escape(emotion)}</span><i></i>'
            f"<b>{share:.0%}</b></div>"
            for emotion, share in top.items()
        )
        seen = _map(maps[index]) if len(maps) else ""
        drawn.append(
            f'<div class="card" style="--face: {color}"><h3>{number}{escape(name)}</h3>{bars}{seen}</div>'
        )
    return f'<div class="cards">{"".join(drawn)}</div>'


def sentence(text: str) -> str:
    """A line of the page's own words."""
    return f'<p class="said">{escape(text)}</p>'


def _said(answer, answers: pd.DataFrame, limit: float) -> tuple[str, str]:
    """What a row of `answers` is called, and its colour."""
    if answer.confidence < limit:
        return UNSURE, GREY
    place = answers.columns.get_loc(answer.emotion) - answers.columns.get_loc("confidence") - 1
    return answer.emotion, COLORS[place % len(COLORS)]


def _map(seen: np.ndarray | str) -> str:
    return sentence(seen) if isinstance(seen, str) else _image(Image.fromarray(seen), "where the model looks")


def _image(image: Image.Image, alt: str) -> str:
    file = BytesIO()
    image.save(file, "JPEG", quality=88)
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}">'
