"""Class names in the wrong order are told from a model that is merely bad."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.evaluation.class_order import better_order
from emo.evaluation.evaluate import report
from emo.evaluation.report_file import read_report, save_report
from tests.fixtures import answers

ALPHABETICAL = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
FER2013 = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
# photos of FER2013's test set by class, in its order
PHOTOS = [491, 55, 528, 879, 594, 416, 626]


def confused(truth, right, photos, seed=0, bias=None):
    """A confusion matrix, drawn: `right` is each class's recall, the rest of its photos falls by `bias`."""
    random, count = np.random.default_rng(seed), len(truth)
    bias = np.ones(count) / count if bias is None else bias
    rows = []
    for place, (recall, size) in enumerate(zip(np.broadcast_to(right, count), photos, strict=True)):
        shares = (1 - recall) * bias
        shares[place] += recall
        rows.append(random.multinomial(size, shares / shares.sum()))
    return pd.DataFrame(rows, index=truth, columns=truth)


def misnamed(confusion, assumed):
    """What evaluation sees of a model whose outputs are called by `assumed` instead: column by column."""
    seen = confusion.set_axis(assumed, axis=1)
    return seen.reindex(index=assumed, columns=assumed)


def test_the_order_of_fer2013_in_an_alphabetical_project_is_found():
    for seed in range(20):
        truth = confused(FER2013, [0.45, 0.3, 0.35, 0.8, 0.45, 0.7, 0.5], PHOTOS, seed)
        assert better_order(misnamed(truth, ALPHABETICAL)) == FER2013
        assert better_order(truth) is None


@pytest.mark.parametrize("classes", [2, 3, 5, 7, 9, 12])
def test_any_order_of_a_fair_model_is_found_with_photos_enough(classes):
    names = [f"class {place}" for place in range(classes)]
    for seed in range(20):
        assumed = list(np.random.default_rng(seed).permutation(names))
        truth = confused(names, 0.6, [100] * classes, seed)
        found = better_order(misnamed(truth, assumed))
        assert found == (None if assumed == names else names)


@pytest.mark.parametrize("swapped", [(0, 1), (4, 6), (1, 5)])
def test_two_names_in_each_others_place_are_found_and_the_rest_stays(swapped):
    assumed = list(FER2013)
    assumed[swapped[0]], assumed[swapped[1]] = assumed[swapped[1]], assumed[swapped[0]]
    truth = confused(FER2013, 0.6, [200] * 7)
    assert better_order(misnamed(truth, assumed)) == FER2013


@pytest.mark.parametrize(
    "bias",
    [
        None,
        [0.94, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01],  # one answer for everything
        [0.5, 0.5, 0, 0, 0, 0, 0],
        [0.3, 0, 0.3, 0, 0.2, 0.1, 0.1],
    ],
    ids=["even", "one answer", "two answers", "four answers"],
)
@pytest.mark.parametrize("right", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("photos", [[3] * 7, [20] * 7, [100] * 7, PHOTOS, [5000] * 7])
def test_a_merely_bad_model_never_triggers_it(photos, right, bias):
    bias = None if bias is None else np.array(bias, float)
    for seed in range(25):
        assert better_order(confused(FER2013, right, photos, seed, bias)) is None


def test_a_model_that_takes_one_class_for_another_is_bad_and_not_misnamed():
    counts = np.diag([50.0] * 7) + 5
    counts[0] = [2, 0, 0, 0, 0, 90, 0]  # angry is taken for surprise, which is found, too
    assert better_order(pd.DataFrame(counts, index=FER2013, columns=FER2013)) is None
    counts[5] = [0, 0, 0, 0, 60, 30, 0]  # and surprise mostly for sad
    assert better_order(pd.DataFrame(counts, index=FER2013, columns=FER2013)) is None


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 9).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 60), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_it_answers_for_any_table_and_its_order_is_one(rows):
    names = [f"class {place}" for place in range(len(rows))]
    table = pd.DataFrame(rows, index=names, columns=names)
    found = better_order(table)
    assert found is None or (sorted(found) == names and found != names)
    if found:
        renamed = table.set_axis(found, axis=1)[names]
        assert np.trace(renamed) / max(table.to_numpy().sum(), 1) > 0


def test_few_photos_or_classes_without_any_say_nothing():
    truth = confused(FER2013, 0.9, [2] * 7)
    assert better_order(misnamed(truth, ALPHABETICAL)) is None
    nothing = pd.DataFrame(0, index=FER2013, columns=FER2013)
    assert better_order(nothing) is None


@pytest.fixture
def misnamed_report():
    """Of 60 photos a class, named right but for two names in each other's place."""
    truth, said = ["anger", "happy", "sad"] * 60, {"anger": 1, "happy": 0, "sad": 2}
    probabilities = np.full((len(truth), 3), 0.05)
    probabilities[np.arange(len(truth)), [said[name] for name in truth]] = 0.9
    return report(
        answers(truth, probabilities), ("anger", "happy", "sad"), model="fer.hdf5", names_assumed=True
    )


def test_the_report_says_it_and_shows_it_everywhere(misnamed_report, tmp_path):
    assert misnamed_report.better_order == ["happy", "anger", "sad"]
    told = "the names in the order happy, anger, sad give 100.0% on these photos instead of 33.3%"
    assert told in str(misnamed_report)
    page = save_report(misnamed_report, tmp_path, photos=0)
    assert told.replace("'", "&#39;") in page.read_text()
    assert told in str(read_report(page.with_suffix(".json")))


def test_of_names_that_the_file_tells_nothing_is_said(misnamed_report):
    assert "class_names" not in str(dataclasses.replace(misnamed_report, names_assumed=False))
