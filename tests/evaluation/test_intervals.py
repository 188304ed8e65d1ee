import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from emo.evaluation.intervals import paired_difference, wilson

counts = st.integers(0, 300)


@settings(deadline=None)
@given(st.integers(1, 5000), st.data())
def test_wilson_is_scipys(photos, data):
    hits = data.draw(st.integers(0, photos))
    expected = binomtest(hits, photos).proportion_ci(method="wilson")
    assert wilson(hits, photos) == pytest.approx(tuple(expected), abs=1e-12)
    assert wilson(hits, photos)[0] <= hits / photos <= wilson(hits, photos)[1]


def test_wilson_takes_arrays():
    low, high = wilson(np.array([0, 4, 10]), np.array([1, 5, 10]))
    assert (low[1], high[1]) == wilson(4, 5)
    assert (low[0], high[2]) == (0, 1)


@pytest.mark.parametrize(
    ("table", "published"),
    [  # Newcombe 1998, method 10, as the R package propint quotes it
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((18, 12, 2, 18), (0.0562, 0.3290)),
        ((53, 0, 0, 1), (-0.0729, 0.0729)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
        # Fagerland, Lydersen, Laake 2017, "Statistical Analysis of Contingency Tables", chapter 8
        ((59, 6, 16, 80), (-0.1186, -0.0046)),
    ],
)
def test_paired_difference_gives_the_published_examples(table, published):
    assert paired_difference(*table) == pytest.approx(published, abs=6e-5)


@settings(deadline=None)
@given(counts, counts, counts, counts)
def test_paired_difference_holds_the_difference_and_mirrors(both, first, second, neither):
    if not (photos := both + first + second + neither):
        return
    low, high = paired_difference(both, first, second, neither)
    assert -1 <= low <= (first - second) / photos + 1e-12
    assert (first - second) / photos - 1e-12 <= high <= 1
    mirrored = paired_difference(both, second, first, neither)
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)
    # counting what went wrong instead of right turns the sign, too
    assert paired_difference(neither, second, first, both) == pytest.approx((-high, -low), abs=1e-9)
