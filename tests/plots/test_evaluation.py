"""What a reader would take from the figures of a report."""

import itertools
import warnings
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from emo.environment import PLOT_STYLE
from emo.evaluation.calibration import apply_temperature, reliability
from emo.evaluation.evaluate import report
from emo.experiments import get_experiment
from emo.plots.curves import plot_curve
from emo.plots.data import plot_class_balance, plot_photos, plot_sizes
from emo.plots.evaluation import plot_confusion, plot_coverage, plot_mistakes, plot_reliability, plot_report
from tests.fixtures import COLORS, answers, random_answers

NAMES = tuple(COLORS)


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_reliability_shows_both_series_against_the_diagonal():
    table = random_answers(300)
    before, after = reliability(table), reliability(apply_temperature(table, 2.0))
    upper, lower = plot_reliability(before, after).axes
    diagonal = upper.lines[0]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    points = [c.get_offsets() for c in upper.collections if len(c.get_offsets()) > 1]
    for drawn, series in zip(points, (before, after), strict=True):
        np.testing.assert_allclose(drawn, series[["confidence", "accuracy"]])
    labels = [text.get_text() for text in upper.get_legend().get_texts()]
    assert labels == ["as predicted", "temperature-scaled"]
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(2)
    alone = plot_reliability(before).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in alone] == ["as predicted"]


def test_coverage_names_the_accuracy_at_its_marks():
    figures = report(random_answers(300), NAMES)
    (axis,) = plot_coverage(figures.coverage_curve, figures.coverage).axes
    assert texts(axis) == [f"{share:.0%}" for share in figures.coverage.accuracy]
    curve = axis.lines[0]
    assert (curve.get_xdata()[-1], curve.get_ydata()[-1]) == (1, figures.accuracy)


@plt.rc_context(PLOT_STYLE)
def test_dots_at_full_accuracy_and_confidence_are_not_cut():
    figures = report(answers(["sad"] * 20, [(0, 0, 1)] * 20), NAMES)
    upper = plot_reliability(figures.reliability).axes[0]
    upper.figure.canvas.draw()
    (dots,) = (drawn for drawn in upper.collections if isinstance(drawn, PathCollection))
    radius = np.sqrt(dots.get_sizes()[0]) / 2 * upper.figure.dpi / 72
    seen = upper.bbox if dots.get_clip_on() else upper.figure.bbox
    x, y = upper.transData.transform((1, 1))
    assert x + radius <= seen.x1 and y + radius <= seen.y1


def test_a_learning_curve_tells_accuracy_in_percent_and_the_best_epoch():
    history = pd.DataFrame(
        {
            "accuracy": [0.5, 0.7, 0.9],
            "val_accuracy": [0.4, 0.625, 0.6],
            "loss": [1, 1, 1],
            "val_loss": [1, 1, 1],
        },
        index=[1, 2, 3],
    )
    accuracy, loss = plot_curve(history, get_experiment("6").title).axes
    accuracy.figure.canvas.draw()
    assert accuracy.get_title() == "best validation accuracy: 62.5% (epoch 2)"
    assert all(label.get_text().endswith("%") for label in accuracy.get_yticklabels())
    assert not [label for label in loss.get_yticklabels() if "%" in label.get_text()]
    assert accuracy.figure.get_suptitle() == "experiment 6 · Xception"


@plt.rc_context(PLOT_STYLE)
def test_labels_of_equal_accuracies_do_not_cover_each_other():
    figures = report(
        answers(["sad"] * 20, [(0, 0.01 * number, 1 - 0.01 * number) for number in range(20)]), NAMES
    )
    assert list(figures.coverage.accuracy) == [1, 1, 1, 1]
    for figure in (plot_coverage(figures.coverage_curve, figures.coverage), plot_report(figures)):
        figure.canvas.draw()
        labels = figure.axes[-1].texts
        assert [label.get_text() for label in labels] == ["100%"] * 4
        assert not [pair for pair in itertools.combinations(labels, 2) if overlaps(*pair)]


def test_figures_of_a_single_photo_are_drawn():
    figures = report(answers(["sad"], [(0, 0, 1)]), NAMES)
    (axis,) = plot_coverage(figures.coverage_curve, figures.coverage).axes
    assert texts(axis) == ["100%"]
    plot_reliability(reliability(figures.predictions)).canvas.draw()


def test_mistakes_are_titled_true_predicted_and_confidence():
    mistakes = report(answers(["sad", "anger"], [(0.1, 0.9, 0), (0, 0, 1)]), NAMES).mistakes
    axes = plot_mistakes([np.zeros((8, 8, 3))] * 2, mistakes).axes
    assert [axis.get_title() for axis in axes[:3]] == [
        "anger → sad\nconfidence 100%",
        "sad → happy\nconfidence 90%",
        "",
    ]


def overlaps(one, other) -> bool:
    one, other = one.get_window_extent(), other.get_window_extent()
    return one.overlaps(other)


@plt.rc_context(PLOT_STYLE)
def test_legends_stand_beside_what_they_explain():
    history = pd.DataFrame(
        {name: [0.9, 0.9] for name in ("accuracy", "loss", "val_accuracy", "val_loss")}, index=[1, 2]
    )
    for figure in (plot_class_balance(train=["a"] * 9 + ["b"] * 9, val=["a"] * 9), plot_curve(history)):
        figure.canvas.draw()
        legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
        assert len(legends) == 1
        assert not [1 for axis in figure.axes if overlaps(legends[0], axis.patch)]
        assert figure.bbox.x1 >= legends[0].get_window_extent().x1
    for figure in (plot_sizes([48] * 9, [48] * 9), plot_sizes([48, 96], [48, 64])):
        assert [axis.get_legend() for axis in figure.axes] == [None, None]


def test_equal_sizes_are_one_bar_and_others_a_histogram():
    side, shape = plot_sizes([48] * 7, [48] * 7).axes
    for axis, value in ((side, "48"), (shape, "1")):
        (bar,) = axis.patches
        assert bar.get_height() == 7
        assert 0.05 < bar.get_width() / np.ptp(axis.get_xlim()) < 0.5  # seen as a bar
        assert [label.get_text() for label in axis.get_xticklabels()] == [value]
    side, shape = plot_sizes([48, 96, 200], [48, 96, 100]).axes
    assert len(side.patches) == len(shape.patches) == 30
    assert side.get_title() == "median 96"


def test_a_report_is_drawn_below_the_name_of_its_model():
    made = report(random_answers(30), NAMES, model="mine$.h5")
    assert plot_report(made).get_suptitle() == r"mine\$.h5"


NASTY = ("$$", "_", r"$\frac{$", "$a$", r"\$", "x" * 300, "a\nb", "грусть", "\udce9", "%s {0}", "$")


def drawn(figure):
    """As it is saved; raises what matplotlib cannot draw, and warnings of figures without room."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(BytesIO(), format="png")
    plt.close(figure)


def test_any_class_name_is_drawn_as_it_is():
    truth = [NASTY[place % len(NASTY)] for place in range(66)]
    made = report(answers(truth, np.random.default_rng(0).dirichlet(np.ones(len(NASTY)), 66), NASTY), NASTY)
    figure = plot_confusion(made.confusion)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:5] == [r"\$\$", "_", r"\$\frac{\$", r"\$a\$", r"\\$"]  # matplotlib shows \\$ as $
    assert len(labels[5]) == 24 and labels[5].endswith("…")
    assert labels[6] == "a b"
    drawn(figure)
    drawn(plot_report(made))
    drawn(plot_mistakes([np.zeros((8, 8, 3))] * 9, made.mistakes.head(9)))
    drawn(plot_class_balance(train=truth, val=truth[:9]))
    drawn(plot_photos([np.zeros((8, 8, 3))] * len(NASTY), NASTY))
    history = pd.DataFrame(
        {name: [0.1, 0.2] for name in ("accuracy", "loss", "val_accuracy", "val_loss")}, index=[1, 2]
    )
    for name in NASTY:
        drawn(plot_curve(history, f"{name}: emo_mini"))
