from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.errors import UserError
from emo.evaluation.comparison import compare
from emo.evaluation.evaluate import Report, report
from emo.evaluation.intervals import paired_difference
from tests.fixtures import COLORS, answers

NAMES = tuple(COLORS)


def made(right, model="", folder="photos") -> Report:
    """A report on photos that are named right or not, of "anger" and "sad" in turn."""
    rows = [[(0.8, 0.2, 0), (0, 0.2, 0.8)][i % 2] if r else (0.2, 0.8, 0) for i, r in enumerate(right)]
    table = answers(["anger" if i % 2 == 0 else "sad" for i in range(len(rows))], rows)
    return report(table.assign(path=table.path.str.replace("photos", folder)), NAMES, model=model)


def pair(both, only_first, only_second, neither):
    cases = [(1, 1)] * both + [(1, 0)] * only_first + [(0, 1)] * only_second + [(0, 0)] * neither
    first, second = zip(*cases, strict=True)
    return made(first, "A.h5"), made(second, "B.h5")


def test_counts_difference_and_interval_are_those_of_the_paired_table():
    found = compare(*pair(20, 2, 12, 16))
    assert (found.both, found.only_first, found.only_second, found.neither) == (20, 2, 12, 16)
    assert found.difference == pytest.approx(10 / 50)
    assert found.interval == paired_difference(20, 12, 2, 16)
    # Armitage and Berry 1994, p. 127: two media for tuberculosis, exact two-sided p = 0.0129
    assert found.p == pytest.approx(0.0129, abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(*[st.integers(0, 12)] * 2)
def test_mcnemar_is_the_exact_binomial_sum(only_first, only_second):
    differing = only_first + only_second
    tail = sum(comb(differing, k) for k in range(min(only_first, only_second) + 1)) / 2**differing
    found = compare(*pair(3, only_first, only_second, 4))
    assert found.p == pytest.approx(min(1, 2 * tail))


def test_the_sentence_names_the_better_model_whichever_comes_first():
    first, second = pair(500, 20, 60, 420)
    said = "B.h5 is better than A.h5 by 4.0 points (95% 2.3–5.7, McNemar p < 0.001)."
    assert str(compare(first, second)) == said
    assert str(compare(second, first)) == said


def test_the_table_names_both_models():
    table = compare(*pair(20, 2, 12, 16)).table
    assert table.loc["A.h5: right", "B.h5: wrong"] == 2
    assert table.loc["A.h5: wrong", "B.h5: right"] == 12
    assert table.to_numpy().sum() == 50


def test_no_clear_difference_is_said_so():
    said = str(compare(*pair(50, 5, 6, 39)))
    assert said.startswith("No clear difference: +1.0 points (95% -")
    assert said.endswith("McNemar p = 1) from A.h5 to B.h5.")
    one = made([1], "A.h5")
    assert ": +0.0 points" in str(compare(one, made([1], "B.h5")))
    # a newer file of the same name, and reports that do not name their model
    assert "from A.h5 (the first) to A.h5 (the second)" in str(compare(one, one))
    assert "from the first to the second" in str(compare(made([1]), made([1])))


def test_neither_order_nor_place_of_the_photos_matters():
    first, second = pair(5, 1, 9, 3)
    moved = second.predictions.assign(path="/elsewhere/" + second.predictions.path)
    shuffled = report(moved.sample(frac=1, random_state=0), NAMES, model="B.h5")
    assert compare(first, shuffled) == compare(first, second)


def test_other_photos_or_labels_cannot_be_compared():
    first, second = pair(3, 1, 1, 1)
    with pytest.raises(UserError, match="on 6 and 5 photos, 1 of them in one report only"):
        compare(first, report(second.predictions.iloc[1:], NAMES))
    with pytest.raises(UserError, match="12 of them"):
        compare(first, made([1] * 6, folder="val"))
    relabelled = second.predictions.copy()
    relabelled.loc[0, "label"] = "sad"
    with pytest.raises(UserError, match="labelled otherwise, such as photos/anger/0000"):
        compare(first, report(relabelled, NAMES))
    twice = pd.concat([second.predictions, second.predictions.iloc[:1]])
    with pytest.raises(UserError, match="on 6 and 7 photos, 0 of them"):
        compare(first, report(twice, NAMES))


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    shares = np.array([0.35, 0.06, 0.1, 0.49])  # a true difference of 4 points
    hits = 0
    for table in rng.multinomial(400, shares, size=1000):
        low, high = paired_difference(table[0], table[2], table[1], table[3])
        hits += low <= 0.04 <= high
    assert 930 <= hits <= 975
