"""Every figure. Functions give the figure back; notebooks show it, scripts save it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import PercentFormatter

from emo.environment import in_notebook
from emo.evaluation.intervals import wilson
from emo.inference.classifier import Classifier
from emo.inference.grad_cam import grad_cam
from emo.inference.photo import AnsweredPhoto, face_corners
from emo.paths import Paths
from emo.training.batches import load_images, read_image

TRAIN, VAL, GOOD, BAD = "#4c72b0", "#dd8452", "#2e8b57", "#c0392b"
CROP = 224  # pixels a side of a face that is shown
FACES = colormaps["Dark2"].colors  # one after the other


def plot_curve(history: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy and loss by epoch, training and validation, the best epoch marked.

    `history`: a row an epoch (1, 2, …) with accuracy, loss, val_accuracy and val_loss.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    best = history.val_accuracy.idxmax()
    for axis, metric in zip(axes, ("accuracy", "loss"), strict=True):
        axis.plot(history.index, history[metric], "o-", ms=3, color=TRAIN, label="training")
        axis.plot(history.index, history[f"val_{metric}"], "o-", ms=3, color=VAL, label="validation")
        axis.axvline(best, color="grey", lw=1, ls=":")
        axis.set(xlabel="epoch", ylabel=metric)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_title(f"best: {history.val_accuracy[best]:.1%} in epoch {best}", fontsize=10)
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    return figure


class LiveCurve:
    """A learning curve that a notebook redraws in place while training goes on, and a PNG of it."""

    def __init__(self, title: str):
        self.title, self.display = title, None
        self.not_before = time.monotonic() + 30  # a shorter run has its curve at its end

    def update(self, history: pd.DataFrame, path: Path) -> None:
        """Redraws it, unless that would take more than a hundredth of the time."""
        started = time.monotonic()
        if started >= self.not_before:
            self.draw(history, path)
            self.not_before = time.monotonic() + 100 * (time.monotonic() - started)

    def draw(self, history: pd.DataFrame, path: Path) -> None:
        """Redraws it and writes the PNG; a disk that takes none stops nobody."""
        figure = plot_curve(history, self.title)
        try:
            figure.savefig(path, dpi=100)
        except OSError as error:
            print(f"{path.name} cannot be written ({error.strerror or error}).")
        plt.close(figure)
        if in_notebook():
            from IPython.display import display

            if self.display is None:
                self.display = display(figure, display_id=True)
            else:
                self.display.update(figure)


def plot_class_balance(**labels: Sequence[str]) -> Figure:
    """Photos a class, a bar for each named list of labels: `plot_class_balance(train=…, val=…)`."""
    counts = pd.DataFrame({name: pd.Series(values).value_counts() for name, values in labels.items()})
    figure, axis = plt.subplots(figsize=(9, 3))
    counts.fillna(0).sort_index().plot.bar(
        ax=axis, rot=30, xlabel="", ylabel="photos", color=[TRAIN, VAL, GOOD]
    )
    axis.grid(axis="x", visible=False)
    return figure


def plot_sizes(width: Sequence[int], height: Sequence[int]) -> Figure:
    """How large photos are: a histogram of their shorter side in pixels, and of width / height."""
    width, height = np.asarray(width), np.asarray(height)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
    for axis, values, label in (
        (axes[0], np.minimum(width, height), "shorter side, px"),
        (axes[1], width / height, "width / height"),
    ):
        axis.hist(values, bins=30, color=TRAIN)
        axis.set(xlabel=label, ylabel="photos")
        axis.axvline(np.median(values), color=VAL, label=f"median {np.median(values):.4g}")
        axis.legend(frameon=False)
    return figure


def plot_photos(
    images: Sequence[np.ndarray], titles: Sequence[str] = (), colors: Sequence[str] = (), columns: int = 8
) -> Figure:
    """A grid of pictures, (h, w, 3) each in 0–255, with a title and its colour above each."""
    rows = max(1, math.ceil(len(images) / columns))
    figure, axes = plt.subplots(rows, columns, figsize=(1.45 * columns, 1.6 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(np.clip(image, 0, 255).astype(np.uint8))
        if index < len(titles):
            axis.set_title(titles[index], fontsize=8, color=colors[index] if colors else "black")
    return figure


def plot_suspects(suspects: pd.DataFrame, paths: Paths, columns: int = 8) -> Figure:
    """Photos of `audit_labels`' table in its order, titled with rank (from 1), label and what it may be."""
    images = load_images([paths.data / path for path in suspects["path"]], 96)
    rows = zip(suspects.index + 1, suspects["label"], suspects["suggested"], strict=True)
    return plot_photos(
        images, [f"{rank}. {label}\n→ {other}?" for rank, label, other in rows], columns=columns
    )


def plot_confusion(confusion: pd.DataFrame) -> Figure:
    """Rows: true class; columns: predicted. Colour is the share of the true class, numbers are photos."""
    counts = confusion.to_numpy()
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.5 + 0.6 * len(counts)
    figure, axis = plt.subplots(figsize=(side + 0.8, side))
    image = axis.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(counts)), confusion.columns, rotation=45, ha="right")
    axis.set_yticks(range(len(counts)), confusion.index)
    axis.set(xlabel="predicted", ylabel="true")
    axis.grid(visible=False)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if rates[row, column] > 0.5 else "black"
        axis.text(column, row, int(count), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure


def plot_predictions(images: Sequence[np.ndarray], true: Sequence[str], predicted: Sequence[str]) -> Figure:
    """A grid titled true / predicted, green where they agree and red where not."""
    titles = [f"{t} / {p}" for t, p in zip(true, predicted, strict=True)]
    colors = [GOOD if t == p else BAD for t, p in zip(true, predicted, strict=True)]
    return plot_photos(images, titles, colors)


def plot_mistakes(images: Sequence[np.ndarray], mistakes: pd.DataFrame) -> Figure:
    """A grid titled true → predicted and how sure; `mistakes` are the pictures' rows of `Report.mistakes`."""
    titles = [f"{row.label} → {row.emotion}\n{row.confidence:.0%} sure" for row in mistakes.itertuples()]
    return plot_photos(images, titles, [BAD] * len(titles))


def plot_reliability(bins: pd.DataFrame, calibrated: pd.DataFrame | None = None) -> Figure:
    """How often the model is right by how sure it is: `Report.reliability`, and `calibrated_reliability`.

    On the diagonal a confidence means what it says, below it the model is too sure. Marks grow with their
    photos, whose shares are the columns underneath; lines are 95% intervals.
    """
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(4.6, 5.2), sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    for table, color, label in ((bins, TRAIN, "as the model says"), (calibrated, VAL, "at the temperature")):
        if table is None:
            continue
        share = table.photos / table.photos.sum()
        low, high = wilson(table.accuracy * table.photos, table.photos)
        upper.vlines(table.confidence, low, high, color=color, lw=1, alpha=0.4)
        upper.scatter(table.confidence, table.accuracy, 16 + 300 * share, color=color, lw=0, label=label)
        lower.bar(table.low, share, table.high - table.low, align="edge", color=color, alpha=0.5)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    key = upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, handletextpad=0.2)
    for mark in key.legend_handles:
        mark.set_sizes([30])
    lower.set(xlabel="confidence", ylabel="photos")
    for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def plot_coverage(curve: pd.DataFrame, marked: pd.DataFrame) -> Figure:
    """Accuracy by the share of photos answered: `Report.coverage_curve`, and `Report.coverage` as marks.

    The band is the 95% interval.
    """
    figure, axis = plt.subplots(figsize=(4.6, 3.6))
    # more points than pixels would only swell the file
    curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 400).astype(int))]
    axis.fill_between(curve.coverage, curve.low, curve.high, color=TRAIN, alpha=0.15, lw=0)
    axis.plot(curve.coverage, curve.accuracy, color=TRAIN)
    axis.plot(marked.coverage, marked.accuracy, "o", ms=5, color=TRAIN)
    for row in marked.drop_duplicates("coverage").itertuples():
        place = (row.coverage, row.accuracy)
        axis.annotate(f"{row.accuracy:.0%}", place, (0, 7), textcoords="offset points", ha="center")
    axis.set(
        xlabel="share of photos answered, the surest first", ylabel="accuracy", xlim=(0, 1.06), ylim=(0, 1.04)
    )
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def plot_my_photo(classifier: Classifier, answered: AnsweredPhoto, most: int = 12) -> Figure:
    """The photo with its faces numbered, and a row a face: its crop, where the answer is seen, the top 3.

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
            _draw_face(whole, face_corners(face, size), answer.name, color)
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
