"""The picture at the top of README, images/overview.png: `python -m tools.readme.overview`.

Trains what `make demo` trains, in a temporary folder, and draws what the model says of one face of each class
of the sample set's test photos, the learning curve, and the confusion matrix of all test photos. A minute or
two on two cores; drawn faces alone, never a photo of a person.
"""

import tempfile

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure, SubFigure
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
LIKELIEST = 3  # emotions shown for a face


def plot_faces(predictions: pd.DataFrame, classes: list[str], figure: SubFigure) -> None:
    """A face of each class, the first by name, and the emotions that the model finds likeliest in it.

    `predictions` is `Report.predictions`. The right answer is green, a wrong first one red.
    """
    grid = figure.add_gridspec(3, 6, wspace=0.06, hspace=0.3, left=0.02, right=0.98, top=0.86, bottom=0.03)
    for place, name in enumerate(classes):
        photo = predictions[predictions.label == name].sort_values("path").iloc[0]
        row, column = divmod(place, 3)
        face = figure.add_subplot(grid[row, 2 * column])
        face.imshow(Image.open(photo.path).convert("RGB"), interpolation="lanczos")
        face.set_axis_off()
        bars = figure.add_subplot(grid[row, 2 * column + 1])
        likeliest = photo[classes].astype(float).nlargest(LIKELIEST)
        for line, (emotion, probability) in enumerate(likeliest.items()):
            color = GOOD if emotion == name else "#c8ccd2" if line else BAD
            bars.barh(line + 0.28, probability, 0.34, color=color)
            weight = "normal" if line else "bold"
            bars.text(0, line - 0.12, emotion, va="center", fontsize=11, weight=weight)
            bars.text(1, line - 0.12, f"{probability:.0%}", va="center", ha="right", fontsize=10, weight=weight)
        bars.set(xlim=(0, 1.25), ylim=(LIKELIEST - 0.3, -0.6))
        bars.set_axis_off()
    figure.suptitle("What it says of a face", fontsize=14, weight="bold", y=0.96)


def plot_learning(history: pd.DataFrame, figure: SubFigure) -> None:
    """Accuracy by epoch."""
    axis = figure.subplots()
    figure.subplots_adjust(left=0.16, right=0.97, top=0.86, bottom=0.13)
    for column, color, label in (("accuracy", TRAIN, "training"), ("val_accuracy", VAL, "validation")):
        axis.plot(history.index, history[column], "o-", ms=4, lw=2, color=color)
        axis.annotate(
            label,
            (history.index[1], history[column].iloc[1]),
            (8, -16),
            textcoords="offset points",
            color=color,
            fontsize=12,
        )
    best = history.val_accuracy.idxmax()
    axis.axvline(best, color="grey", lw=1, ls=":")
    axis.set(xlabel="epoch", ylabel="accuracy", ylim=(None, 1.02))
    axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    figure.suptitle(f"How it learned: {history.val_accuracy[best]:.0%}", fontsize=14, weight="bold", y=0.96)


def plot_errors(report: Report, figure: SubFigure) -> None:
    """The confusion matrix, without its colour bar."""
    counts = report.confusion.to_numpy()
    axis = figure.subplots()
    figure.subplots_adjust(left=0.2, right=0.98, top=0.86, bottom=0.2)
    axis.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(counts)), report.confusion.columns, rotation=45, ha="right")
    axis.set_yticks(range(len(counts)), report.confusion.index)
    axis.set(xlabel="the model says", ylabel="the label")
    axis.grid(visible=False)
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if count:
                color = "white" if 2 * count > line.sum() else "black"
                axis.text(column, row, int(count), ha="center", va="center", color=color)
    title = f"How often it is right: {report.accuracy:.0%} ({percent(report.interval)})"
    figure.suptitle(title, fontsize=14, weight="bold", y=0.96)


def plot_overview(history: pd.DataFrame, report: Report) -> Figure:
    """The three side by side; `history` as for `plot_curve`, `report` of the sample set's test photos."""
    with plt.rc_context({**PLOT_STYLE, "figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=SIZE, dpi=DPI, facecolor="white")
        faces, learning, errors = figure.subfigures(1, 3, width_ratios=(7.2, 3.8, 5))
        plot_faces(report.predictions, list(report.confusion.columns), faces)
        plot_learning(history, learning)
        plot_errors(report, errors)
    return figure


def main() -> None:
    """Trains, tests and draws."""
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(folder)
        fetch_dataset("sample", paths)
        changes = CHANGES | {"weights": str(PROJECT_ROOT / CHANGES["weights"])}
        run = train(get_experiment("emo_mini", **changes), paths)
        report = evaluate(load_classifier(run.model_path), paths.test)
        plot_overview(run.history, report).savefig(FIGURE, dpi=DPI)
    print(f"{FIGURE.relative_to(PROJECT_ROOT)}: {FIGURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
