"""Figures of a report; each is drawn into `figure` where one is given, else into one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter

from emo.evaluation.intervals import wilson
from emo.plots.data import plot_photos
from emo.plots.style import BAD, TRAIN, VAL, plain, short

if TYPE_CHECKING:
    from emo.evaluation.evaluate import Report


def plot_report(report: Report) -> Figure:
    """Confusion matrix, calibration and accuracy with abstention side by side, below the model's name."""
    side = _confusion_side(report.confusion)
    figure = plt.figure(figsize=(side + 9.2, max(side, 4.8)), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(side, 4.3, 4.3))
    plot_confusion(report.confusion, left)
    plot_reliability(report.reliability, report.calibrated_reliability, middle)
    plot_coverage(report.coverage_curve, report.coverage, right)
    for part, title in ((left, "Confusion matrix"), (middle, "Calibration"), (right, "Coverage")):
        part.suptitle(title, fontsize=11)
    if report.model:
        figure.suptitle(plain(report.model, 90))
    return figure


def _confusion_side(confusion: pd.DataFrame) -> float:
    return 2.3 + 0.6 * len(confusion)


def plot_confusion(confusion: pd.DataFrame, figure: Figure | SubFigure | None = None) -> Figure | SubFigure:
    """Rows: true class; columns: predicted. Colour is the share of the true class, numbers are photos."""
    counts = confusion.to_numpy()
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = _confusion_side(confusion)
    figure = figure or plt.figure(figsize=(side, side - 0.8))
    axis = figure.subplots()
    image = axis.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(counts)), map(plain, confusion.columns), rotation=45, ha="right")
    axis.set_yticks(range(len(counts)), map(plain, confusion.index))
    axis.set(xlabel="predicted", ylabel="true")
    axis.grid(visible=False)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if rates[row, column] > 0.5 else "black"
        axis.text(column, row, int(count), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, label="share of the true class", shrink=0.8, format=PercentFormatter(1))
    return figure


def plot_mistakes(images: Sequence[np.ndarray], mistakes: pd.DataFrame) -> Figure:
    """A grid titled true → predicted and confidence; `mistakes`: the pictures' rows of `Report.mistakes`."""
    titles = [
        f"{short(row.label, 16)} → {short(row.emotion, 16)}\nconfidence {row.confidence:.0%}"
        for row in mistakes.itertuples()
    ]
    return plot_photos(images, titles, [BAD] * len(titles))


def plot_reliability(
    bins: pd.DataFrame, calibrated: pd.DataFrame | None = None, figure: Figure | SubFigure | None = None
) -> Figure | SubFigure:
    """Accuracy by confidence: `Report.reliability`, and `calibrated_reliability`.

    On the diagonal a confidence means what it says, below it the model is overconfident. A dot's size is its
    bin's share of the photos, as are the columns underneath; lines are 95% intervals.
    """
    figure = figure or plt.figure(figsize=(4.6, 5.2))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    for table, color, label in ((bins, TRAIN, "as predicted"), (calibrated, VAL, "temperature-scaled")):
        if table is None:
            continue
        share = table.photos / table.photos.sum()
        low, high = wilson(table.accuracy * table.photos, table.photos)
        upper.vlines(table.confidence, low, high, color=color, lw=1, alpha=0.4)
        upper.scatter(
            table.confidence,
            table.accuracy,
            16 + 300 * share,
            color=color,
            lw=0,
            label=label,
            clip_on=False,  # a dot at 100% is whole
        )
        lower.bar(table.low, share, table.high - table.low, align="edge", color=color, alpha=0.5)
    upper.set(ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
    key = upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, handletextpad=0.2)
    for mark in key.legend_handles:
        mark.set_sizes([30])
    lower.set(xlabel="confidence", ylabel="share\nof photos")
    for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def plot_coverage(
    curve: pd.DataFrame, marked: pd.DataFrame, figure: Figure | SubFigure | None = None
) -> Figure | SubFigure:
    """Accuracy by the share of photos answered: `Report.coverage_curve`, and `Report.coverage` as marks.

    The band is the 95% interval.
    """
    figure = figure or plt.figure(figsize=(4.6, 3.6))
    axis = figure.subplots()
    # more points than pixels would only swell the file
    curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 400).astype(int))]
    axis.fill_between(curve.coverage, curve.low, curve.high, color=TRAIN, alpha=0.15, lw=0)
    axis.plot(curve.coverage, curve.accuracy, color=TRAIN)
    axis.plot(marked.coverage, marked.accuracy, "o", ms=5, color=TRAIN)
    for number, row in enumerate(marked.drop_duplicates("coverage").itertuples()):
        # in turn: equal ones, side by side, would cover each other
        offset, va = ((0, 7), "bottom") if number % 2 == 0 else ((0, -7), "top")
        place, told = (row.coverage, row.accuracy), f"{row.accuracy:.0%}"
        axis.annotate(told, place, offset, textcoords="offset points", ha="center", va=va)
    axis.set(
        xlabel="share of photos answered, most confident first",
        ylabel="accuracy",
        xlim=(0, 1.06),
        ylim=(0, 1.04),
    )
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure
