"""The learning curve, as a figure and redrawn in a notebook while training goes on."""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from emo.environment import in_notebook
from emo.files import atomic
from emo.plots.style import TRAIN, VAL, plain


def plot_curve(history: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy in percent and loss by epoch, training and validation; a dotted line at the best epoch.

    `history`: a row per epoch (1, 2, …) with accuracy, loss, val_accuracy and val_loss, as Keras gives them.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    best = history.val_accuracy.idxmax()
    for axis, metric in zip(axes, ("accuracy", "loss"), strict=True):
        axis.plot(history.index, history[metric], "o-", ms=3, color=TRAIN, label="training")
        axis.plot(history.index, history[f"val_{metric}"], "o-", ms=3, color=VAL, label="validation")
        axis.axvline(best, color="grey", lw=1, ls=":")
        axis.set(xlabel="epoch", ylabel=metric)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    told = f"best validation accuracy: {history.val_accuracy[best]:.1%} (epoch {best})"
    axes[0].set_title(told, fontsize=10)
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)  # beside, over no line
    figure.suptitle(plain(title, 90))
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
            with atomic(path, sync=False) as draft:
                figure.savefig(draft, dpi=100)
        except OSError as error:
            print(f"{path.name} cannot be written ({error.strerror or error}).")
        plt.close(figure)
        if in_notebook():
            from IPython.display import display

            if self.display is None:
                self.display = display(figure, display_id=True)
            else:
                self.display.update(figure)
