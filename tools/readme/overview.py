"""The picture at the top of README, images/overview.png: `python -m tools.readme.overview`.

Trains what `make demo` trains, in a temporary folder, and draws what the model says of one face of each class
of the sample set's test photos, the learning curve, and the confusion matrix of all test photos. A minute or
two on two cores; drawn faces alone, never a photo of a person.
"""

import tempfile
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from emo.data.download import fetch_dataset
from emo.environment import PLOT_STYLE
from emo.evaluation.evaluate import Report, evaluate, percent
from emo.experiments import get_experiment
from emo.inference.classifier import load_classifier
from emo.paths import PROJECT_ROOT, get_paths
from emo.plots.style import BAD, GOOD, TRAIN, VAL
from emo.training.train import train
from tools.demo import CHANGES

FIGURE = PROJECT_ROOT / "images" / "overview.png"
SIZE, DPI = (16, 6.4), 100  # 1,600 × 640 px
COLUMNS, LIKELIEST = 3, 3  # of faces; emotions shown for each
FAINT = "#c8ccd2"
TITLE = {"fontsize": 14, "weight": "bold", "y": 0.965}
NOTE = "Drawn faces of the sample set (make demo): accuracy on drawings says nothing about photos."


def plot_faces(predictions: pd.DataFrame, classes: list[str], figure: SubFigure) -> None:
    """A face of each class, the first by name, and the emotions that the model finds likeliest in it.

    `predictions` is `Report.predictions`. The right answer is green, a wrong first one red.
    """
    rows = -(-len(classes) // COLUMNS)
    widths = (1.5, 1.05) * COLUMNS
    place = {"left": 0.025, "right": 0.985, "top": 0.88, "bottom": 0.07, "wspace": 0.07, "hspace": 0.09}
    axes = figure.subplots(rows, 2 * COLUMNS, width_ratios=widths, gridspec_kw=place).reshape(-1, 2)
    for (face, bars), name in zip(axes, classes, strict=True):
        photo = predictions[predictions.label == name].sort_values("path").iloc[0]
        face.imshow(Image.open(photo.path).convert("RGB"), interpolation="lanczos")
        likeliest = photo[classes].astype(float).nlargest(LIKELIEST)
        for line, (emotion, probability) in enumerate(likeliest.items()):
            color = GOOD if emotion == name else FAINT if line else BAD
            weight, ink = ("normal", "#555") if line else ("bold", "black")
            bars.barh(line + 0.2, probability, 0.3, color=color)
            bars.text(0, line - 0.16, emotion, va="center", fontsize=11, weight=weight, color=ink)
            bars.text(
                probability + 0.05, line + 0.21, f"{probability:.0%}", va="center", fontsize=9, color=ink
            )
        bars.set(xlim=(0, 1.4), ylim=(LIKELIEST - 0.25, -0.75))
        for axis in (face, bars):
            axis.set_axis_off()
    figure.suptitle("Predictions for test faces", **TITLE)
    figure.text(0.025, 0.025, NOTE, fontsize=9.5, color="#555")


def plot_learning(history: pd.DataFrame, figure: SubFigure) -> None:
    """Accuracy by epoch."""
    axis = figure.subplots(gridspec_kw={"left": 0.17, "right": 0.97, "top": 0.88, "bottom": 0.13})
    for column, color, label in (("accuracy", TRAIN, "training"), ("val_accuracy", VAL, "validation")):
        axis.plot(history.index, history[column], "o-", ms=5, lw=2, color=color, label=label)
    best = history.val_accuracy.idxmax()
    axis.axvline(best, color="grey", lw=1, ls=":")
    axis.set(xlabel="epoch", xticks=history.index, ylim=(0, 1.02))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(loc="center right", frameon=False, fontsize=12)
    figure.suptitle(f"Validation accuracy: {history.val_accuracy[best]:.1%}", **TITLE)


def plot_errors(report: Report, figure: SubFigure) -> None:
    """The confusion matrix, without its colour bar."""
    counts = report.confusion.to_numpy()
    axis = figure.subplots(gridspec_kw={"left": 0.21, "right": 0.98, "top": 0.88, "bottom": 0.2})
    axis.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    axis.set_anchor("N")
    axis.set_xticks(range(len(counts)), report.confusion.columns, rotation=45, ha="right")
    axis.set_yticks(range(len(counts)), report.confusion.index)
    axis.set(xlabel="predicted", ylabel="true")
    axis.grid(visible=False)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if 2 * count > counts[row].sum() else "black"
            axis.text(column, row, int(count), ha="center", va="center", color=color)
    figure.suptitle(f"Test accuracy: {report.accuracy:.1%} ({percent(report.interval)})", **TITLE)


def plot_overview(history: pd.DataFrame, report: Report) -> Figure:
    """The three side by side; `history` as for `plot_curve`, `report` of the sample set's test photos."""
    with plt.rc_context({**PLOT_STYLE, "figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=SIZE, dpi=DPI, facecolor="white")
        faces, learning, errors = figure.subfigures(1, 3, width_ratios=(7.5, 3.8, 4.7))
        plot_faces(report.predictions, list(report.confusion.columns), faces)
        plot_learning(history, learning)
        plot_errors(report, errors)
    return figure


def main() -> None:
    """Trains, tests and draws."""
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(folder)
        fetch_dataset("sample", paths)
        run = train(get_experiment("emo_mini", **CHANGES), paths)
        report = evaluate(load_classifier(run.model_path), paths.test)
        picture = BytesIO()
        plot_overview(run.history, report).savefig(picture, dpi=DPI)
    Image.open(picture).convert("RGB").quantize(256).save(FIGURE, optimize=True)  # a third of the bytes
    print(f"{FIGURE.relative_to(PROJECT_ROOT)}: {FIGURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
