"""Figures of a dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emo.data.image_io import load_images
from emo.paths import Paths
from emo.plots.style import GOOD, TRAIN, VAL, plain, short


def plot_class_balance(**labels: Sequence[str]) -> Figure:
    """Photos per class, a bar for each named list of labels: `plot_class_balance(train=…, val=…)`."""
    counts = pd.DataFrame({name: pd.Series(values).value_counts() for name, values in labels.items()})
    figure, axis = plt.subplots(figsize=(9, 3))
    counts = counts.fillna(0).sort_index()
    counts.index = list(map(plain, counts.index))
    counts.plot.bar(ax=axis, rot=30, xlabel="", ylabel="photos", color=[TRAIN, VAL, GOOD])
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axis.grid(axis="x", visible=False)
    return figure


def plot_sizes(width: Sequence[int], height: Sequence[int]) -> Figure:
    """How large photos are: a histogram of their shorter side in pixels, and of width / height.

    Where all are equal, they are one bar with its value below.
    """
    width, height = np.asarray(width), np.asarray(height)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
    for axis, values, label in (
        (axes[0], np.minimum(width, height), "shorter side, px"),
        (axes[1], width / height, "width / height"),
    ):
        median = np.median(values)
        if np.ptp(values):
            axis.hist(values, bins=30, color=TRAIN)
            axis.axvline(median, color=VAL)
            axis.set_title(f"median {median:.4g}", fontsize=9, color=VAL)
        else:
            axis.bar([f"{median:.4g}"], [len(values)], width=0.2, color=TRAIN)
            axis.set(xlim=(-1, 1))
            axis.set_title("the same for all photos", fontsize=9, color="grey")
            axis.grid(axis="x", visible=False)
        axis.set(xlabel=label, ylabel="photos")
        axis.yaxis.get_major_locator().set_params(integer=True)
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
            title = "\n".join(plain(line, 60) for line in titles[index].split("\n"))
            axis.set_title(title, fontsize=8, color=colors[index] if colors else "black")
    return figure


def plot_suspects(suspects: pd.DataFrame, paths: Paths, columns: int = 8) -> Figure:
    """Photos of `audit_labels`' table in its order, titled with rank (from 1), label and what it may be."""
    images = load_images([paths.data / path for path in suspects["path"]], 96)
    rows = zip(suspects.index + 1, suspects["label"], suspects["suggested"], strict=True)
    return plot_photos(
        images, [f"{rank}. {short(label)}\n→ {short(other)}?" for rank, label, other in rows], columns=columns
    )
