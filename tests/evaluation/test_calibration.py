import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from emo.errors import UserError
from emo.evaluation.calibration import (
    apply_temperature,
    coverage_curve,
    coverage_table,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from tests.fixtures import COLORS, answers, random_answers

NAMES = tuple(COLORS)
TABLE = random_answers(400)
RIGHT = (TABLE.label == TABLE.emotion).to_numpy()


def table_of(confidences, correct) -> pd.DataFrame:
    """Answers "anger" with these confidences, right or wrong."""
    probabilities = [(c, 1 - c, 0) for c in confidences]
    return answers(["anger" if c else "sad" for c in correct], probabilities).assign(
        emotion="anger", confidence=confidences
    )


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_reliability_is_sklearns_calibration_curve(bins):
    table = reliability(TABLE, bins)
    accuracy, confidence = calibration_curve(RIGHT, TABLE.confidence, n_bins=bins)
    np.testing.assert_allclose(table.accuracy, accuracy)
    np.testing.assert_allclose(table.confidence, confidence)
    assert table.photos.sum() == 400
    assert (table.low < table.confidence).all()
    assert (table.confidence <= table.high).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_calibration_error_is_that_of_a_plain_loop(photos, bins):
    expected = 0.0
    for number in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[[number, number + 1]]
        inside = [(c, r) for c, r in photos if low < c <= high or (number == 0 and c == 0)]
        if inside:
            sure, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            expected += len(inside) / len(photos) * abs(right - sure)
    assert expected_calibration_error(table_of(*zip(*photos, strict=True)), bins) == pytest.approx(expected)


def test_calibration_error_by_hand():
    table = table_of([0.95, 0.95, 0.55, 0.55, 1.0], [True, False, True, True, True])
    # three photos in 0.9–1.0: 2.9 / 3 sure, 2 / 3 right; two in 0.5–0.6
    expected = (3 * abs(2 / 3 - 2.9 / 3) + 2 * abs(1 - 0.55)) / 5
    assert expected_calibration_error(table, bins=10) == pytest.approx(expected)


def test_the_temperature_that_made_a_model_too_sure_is_found():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (20_000, 3))
    honest = softmax(logits, axis=1)
    labels = [
        NAMES[(row.cumsum() < draw).sum()] for row, draw in zip(honest, rng.random(20_000), strict=True)
    ]
    too_sure = answers(labels, softmax(2.5 * logits, axis=1))
    assert fit_temperature(too_sure) == pytest.approx(2.5, rel=0.03)
    assert fit_temperature(answers(labels, honest)) == pytest.approx(1, rel=0.03)
    calibrated = apply_temperature(too_sure, 2.5)
    np.testing.assert_allclose(calibrated[list(NAMES)], honest, atol=1e-6)
    assert expected_calibration_error(calibrated) < 0.02 < expected_calibration_error(too_sure)


def test_the_temperature_has_the_least_loss_of_a_grid():
    def loss(temperature):
        table = apply_temperature(TABLE, temperature)
        return log_loss(table.label, table[list(NAMES)], labels=list(NAMES))

    grid = np.geomspace(0.5, 5, 100)
    best = min(grid, key=loss)
    assert fit_temperature(TABLE) == pytest.approx(best, rel=0.02)
    assert loss(fit_temperature(TABLE)) <= loss(best) + 1e-9


def test_a_temperature_changes_confidence_and_no_answer():
    table = TABLE.drop(columns="label")  # as `Classifier.predict` gives it
    calibrated = apply_temperature(table, 1.7)
    assert list(calibrated[list(NAMES)].idxmax(axis=1)) == list(table.emotion)
    np.testing.assert_allclose(calibrated[list(NAMES)].sum(axis=1), 1)
    np.testing.assert_allclose(calibrated.confidence, calibrated[list(NAMES)].max(axis=1))
    assert calibrated.confidence.mean() < table.confidence.mean()
    pd.testing.assert_frame_equal(apply_temperature(TABLE, 1.0), TABLE)


@pytest.mark.parametrize(
    "labels", [["anger"], ["sad"], ["anger"] * 3, ["sad"] * 3, ["anger", "happy", "sad"]]
)
@pytest.mark.parametrize("row", [(1, 0, 0), (0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3)])
def test_a_temperature_of_few_photos_all_right_or_all_wrong_stays_in_bounds(labels, row):
    assert 0.05 <= fit_temperature(answers(labels, [row] * len(labels))) <= 20


def test_photos_that_were_not_read_have_no_say():
    unread = answers(["sad"], [[np.nan] * 3])
    assert fit_temperature(pd.concat([TABLE, unread])) == fit_temperature(TABLE)
    assert np.isnan(apply_temperature(unread, 2.0).confidence[0])
    with pytest.raises(UserError, match="no readable photo"):
        fit_temperature(unread)


def test_labels_and_sources_that_were_added_at_the_end_are_no_classes():
    table = TABLE.drop(columns="label").assign(label=TABLE.label, source="mine")
    assert fit_temperature(table) == fit_temperature(TABLE)
    calibrated = apply_temperature(table, 1.7)
    pd.testing.assert_frame_equal(calibrated[TABLE.columns], apply_temperature(TABLE, 1.7))
    assert list(calibrated.source) == ["mine"] * 400


def test_a_label_that_is_no_class_is_told_and_not_taken_for_the_last_one():
    with pytest.raises(UserError, match=r"labelled joy, but the classes are anger, happy, sad\.$"):
        fit_temperature(TABLE.replace({"label": {"happy": "joy"}}))


def test_a_temperature_without_labels_or_of_zero():
    with pytest.raises(UserError, match="needs labelled photos"):
        fit_temperature(TABLE.drop(columns="label"))
    for wrong in (0, -1.0, float("nan"), "2", None):
        with pytest.raises(UserError, match="above 0"):
            apply_temperature(TABLE, wrong)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.4, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30))
def test_coverage_is_that_of_each_threshold(photos):
    curve = coverage_curve(table_of(*zip(*photos, strict=True)))
    thresholds = sorted({c for c, _ in photos}, reverse=True)
    assert list(curve.threshold) == thresholds
    for row in curve.itertuples():
        answered = [right for c, right in photos if c >= row.threshold]
        assert row.photos == len(answered)
        assert row.coverage == pytest.approx(len(answered) / len(photos))
        assert row.accuracy == pytest.approx(sum(answered) / len(answered))
        assert row.low <= row.accuracy <= row.high


def test_the_coverage_table_answers_at_least_its_share():
    table = coverage_table(coverage_curve(TABLE))
    assert list(table.index) == [1, 0.9, 0.8, 0.5]
    assert list(table.photos) == [400, 360, 320, 200]
    assert table.accuracy[1] == RIGHT.mean()
    surest = TABLE.nlargest(200, "confidence")
    assert table.accuracy[0.5] == (surest.label == surest.emotion).mean()
    tied = coverage_table(coverage_curve(table_of([0.9, 0.5, 0.5], [True, True, False])))
    assert list(tied.photos) == [3, 3, 3, 3]
    single = coverage_table(coverage_curve(table_of([0.9], [True])))
    assert list(single.coverage) == [1, 1, 1, 1]
