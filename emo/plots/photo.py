"""The figure of one photo: its faces, and for each the Grad-CAM heat map and the top three classes."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Polygon

from emo.data.image_io import read_image
from emo.inference.grad_cam import SHOWN, crop_and_map, laid_over
from emo.inference.photo import AnsweredPhoto
from emo.inference.predictor import Predictor
from emo.plots.style import plain

ROWS = 4  # faces that have a row each; of more there is a grid, as rows would leave the photo no room
COLUMNS = 8  # of that grid
CONTOUR = 0.5  # of the map's largest value: half of what speaks for the answer at its strongest
FACES = colormaps["Dark2"].colors  # one after the other


def plot_my_photo(classifier: Predictor, answered: AnsweredPhoto) -> Figure:
    """The photo with its faces numbered, and a row per face: its crop, the heat map, the top 3.

    `answered` is what `classify_faces` gave with the same classifier. The heat map is Grad-CAM for the
    answer, laid over the face, its contour at half of the maximum. For more than four faces there is a grid
    below the photo: crop, number, answer, confidence.
    """
    if len(answered.faces) > ROWS:
        return _plot_many(classifier, answered)
    faces = answered.faces
    figure = plt.figure(figsize=(10, max(3.0, 1.65 * len(faces) + 0.3)))
    left, right = figure.subfigures(1, 2, width_ratios=(4.4, 5.6))
    _draw_photo(left, answered)
    # the photo itself is not shown a second time where it is taken whole
    columns = 3 if faces[0] else 2
    rows = right.subplots(len(faces), columns, width_ratios=(1, 1, 1.3)[-columns:], squeeze=False)
    for index, (axes, face) in enumerate(zip(rows, faces, strict=True)):
        answer, color = answered.answers.iloc[index], FACES[index % len(FACES)]
        picture, seen = crop_and_map(classifier, answered.photo, answer.emotion, face)
        if face:
            axes[0].set_ylabel(answer.name, rotation=0, color=color, fontsize=16, weight="bold", labelpad=12)
            axes[0].imshow(picture)
        _draw_map(axes[-2], picture, seen)
        for axis in axes[:-1]:
            _no_frame(axis)
        _draw_top(axes[-1], answer[list(classifier.class_names)].astype(float), color)
    if faces[0]:
        rows[0, 0].set_title("face", fontsize=9, color="grey")
    rows[0, -2].set_title("Grad-CAM", fontsize=9, color="grey")
    return figure


def _plot_many(classifier: Predictor, answered: AnsweredPhoto) -> Figure:
    """The photo over all of the width, and below it a grid of its faces in the order of their numbers."""
    count, (width, height) = len(answered.faces), answered.photo.size
    lines = math.ceil(count / COLUMNS)
    tall = min(10 * height / width, 9.0)
    figure = plt.figure(figsize=(10, tall + 1.65 * lines))
    upper, lower = figure.subfigures(2, 1, height_ratios=(tall, 1.65 * lines))
    _draw_photo(upper, answered)
    axes = lower.subplots(lines, COLUMNS, squeeze=False).ravel()
    crops = classifier.crops([answered.photo] * count, answered.faces)
    for index, (axis, crop) in enumerate(zip(axes, crops, strict=False)):
        answer = answered.answers.iloc[index]
        axis.imshow(read_image(answered.photo, SHOWN, crop))
        title = f"{answer.name} {plain(answer.emotion, 12)}\n{answer.confidence:.0%}"
        axis.set_title(title, fontsize=9, color=FACES[index % len(FACES)])
    for axis in axes:
        axis.axis("off")
    return figure


def _draw_photo(figure: SubFigure, answered: AnsweredPhoto) -> None:
    """The whole photo, its faces framed and numbered."""
    axis = figure.subplots()
    axis.imshow(answered.photo)
    axis.axis("off")
    axis.set_anchor("N" if len(answered.faces) > 1 else "C")
    for index, face in enumerate(answered.faces):
        if face:
            number, color = answered.answers.index[index], FACES[index % len(FACES)]
            _draw_face(axis, face.corners(answered.photo.size), number, color)


def _draw_map(axis: Axes, picture: np.ndarray, seen: np.ndarray) -> None:
    """The map over the picture, as opaque as it is strong, with its contour."""
    axis.imshow(laid_over(picture, seen))
    if seen.max() > 0:
        level = [CONTOUR * seen.max()]
        axis.contour(seen, level, colors="black", linewidths=2.4, alpha=0.5)
        axis.contour(seen, level, colors="white", linewidths=1.2)
    else:
        axis.set_xlabel("no evidence for it", fontsize=8, color="grey")


def _no_frame(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _draw_face(axis: Axes, corners: np.ndarray, number: int, color: tuple) -> None:
    axis.add_patch(Polygon(corners, fill=False, edgecolor="white", lw=3.5))
    axis.add_patch(Polygon(corners, fill=False, edgecolor=color, lw=2))
    badge = {"boxstyle": "round,pad=0.15", "facecolor": color, "edgecolor": "white"}
    style = {"color": "white", "weight": "bold", "fontsize": 9, "va": "bottom", "ha": "left"}
    # above the face, which it would hide where that is small
    axis.annotate(str(number), corners[0], (0, 4), textcoords="offset points", bbox=badge, **style)


def _draw_top(axis: Axes, probabilities: pd.Series, color: tuple, count: int = 3) -> None:
    """Bars of the likeliest classes, the first one at the top, each named and numbered."""
    top = probabilities.sort_values(ascending=False).head(count)
    places = range(len(top))
    axis.barh(places, top, color=[color, *[to_rgba(color, 0.35)] * (len(top) - 1)], height=0.32)
    for place, (name, share) in enumerate(top.items()):
        axis.text(
            0, place - 0.26, plain(name), va="bottom", fontsize=10, weight="normal" if place else "bold"
        )
        axis.text(1, place - 0.26, f"{share:.0%}", va="bottom", ha="right", fontsize=10)
    axis.set(xlim=(0, 1), ylim=(count - 0.6, -0.8), box_aspect=0.7)
    axis.axis("off")
