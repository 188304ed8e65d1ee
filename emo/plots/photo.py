"""The figure of one photo: its faces, where the answer is seen in each, the top three."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from emo.data.image_io import read_image
from emo.inference.grad_cam import grad_cam
from emo.inference.photo import AnsweredPhoto
from emo.inference.predictor import Predictor

CROP = 224  # height and width in pixels of a face that is shown
FACES = colormaps["Dark2"].colors  # one after the other


def plot_my_photo(classifier: Predictor, answered: AnsweredPhoto, most: int = 12) -> Figure:
    """The photo with its faces numbered, and a row per face: its crop, where the answer is seen, the top 3.

    `answered` is what `classify_faces` gave with the same classifier. "Where" is Grad-CAM for the answer. Of
    more than `most` faces the first have a row.
    """
    photo, size = answered.photo, answered.photo.size
    faces = answered.faces[:most]
    height = max(3.0, 1.65 * len(faces) + 0.3)
    figure = plt.figure(figsize=(10, height))
    left, right = figure.subfigures(1, 2, width_ratios=(4.4, 5.6))
    whole = left.subplots()
    whole.imshow(photo)
    whole.axis("off")
    whole.set_anchor("N" if len(faces) > 1 else "C")
    rows = right.subplots(len(faces), 3, width_ratios=(1, 1, 1.3), squeeze=False)
    for index, (axes, face) in enumerate(zip(rows, faces, strict=True)):
        answer = answered.answers.iloc[index]
        color = FACES[index % len(FACES)]
        seen = grad_cam(classifier, photo, answer.emotion, face)
        (crop,) = classifier.crops([photo], [face])
        if crop is None:
            picture = np.asarray(photo)
        else:
            picture, grey = read_image(photo, CROP, crop), np.uint8(np.round(255 * seen))
            seen = read_image(grey, CROP, crop)[..., 0] / 255
            _draw_face(whole, face.corners(size), answer.name, color)
            axes[0].set_ylabel(answer.name, rotation=0, color=color, fontsize=16, weight="bold", labelpad=12)
        axes[0].imshow(picture)
        axes[1].imshow(picture)
        axes[1].imshow(seen, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * seen)
        if not seen.any():
            axes[1].set_xlabel("nothing speaks for it", fontsize=8, color="grey")
        for axis in axes[:2]:
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
        _draw_top(axes[2], answer[list(classifier.class_names)].astype(float), color)
    rows[0, 0].set_title("face" if faces[0] else "photo", fontsize=9, color="grey")
    rows[0, 1].set_title("where it looks", fontsize=9, color="grey")
    if len(answered.faces) > most:
        whole.set_title(f"{most} of {len(answered.faces)} faces", fontsize=9, color="grey")
    return figure


def _draw_face(axis: Axes, corners: np.ndarray, number: int, color: tuple) -> None:
    axis.add_patch(Polygon(corners, fill=False, edgecolor="white", lw=3.5))
    axis.add_patch(Polygon(corners, fill=False, edgecolor=color, lw=2))
    badge = {"boxstyle": "round,pad=0.2", "facecolor": color, "edgecolor": "white"}
    axis.text(*corners[0], str(number), color="white", weight="bold", ha="center", va="center", bbox=badge)


def _draw_top(axis: Axes, probabilities: pd.Series, color: tuple, count: int = 3) -> None:
    """Bars of the likeliest classes, the first one at the top, each named and numbered."""
    top = probabilities.sort_values(ascending=False).head(count)
    places = range(len(top))
    axis.barh(places, top, color=[color, *[to_rgba(color, 0.35)] * (len(top) - 1)], height=0.32)
    for place, (name, share) in enumerate(top.items()):
        axis.text(0, place - 0.26, name, va="bottom", fontsize=10, weight="normal" if place else "bold")
        axis.text(1, place - 0.26, f"{share:.0%}", va="bottom", ha="right", fontsize=10)
    axis.set(xlim=(0, 1), ylim=(count - 0.6, -0.8), box_aspect=0.7)
    axis.axis("off")
