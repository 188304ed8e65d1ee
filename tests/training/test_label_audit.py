"""The label audit: wrong labels come first, nothing is dropped, a person's corrections are kept."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tests.tiny  # noqa: F401 -- a backbone
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import get_experiment
from emo.models.build import build_model
from emo.models.saving import save_model
from emo.training.label_audit import audit_labels, out_of_fold, rank_labels
from tests.fixtures import write_photos

RANDOM = get_experiment("6", backbone="tiny", weights=None, image_size=32)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """One that starts from weights of a file."""
    file = tmp_path_factory.mktemp("weights") / "tiny.h5"
    save_model(build_model(RANDOM, 2), file, {"class_names": ["a", "b"]})
    return dataclasses.replace(RANDOM, weights=str(file))


@pytest.fixture
def mislabelled(paths):
    """40 photos in each of three classes, a colour a class; three happy ones lie in sad."""
    write_photos(paths.train, 40)
    write_photos(paths.test, 2, seed=1)
    for n in range(3):
        (paths.train / f"happy/happy_{n:03d}.jpg").rename(paths.train / f"sad/wrong_{n}.jpg")
    return paths


def test_wrong_labels_come_first_and_a_person_can_mend_them(mislabelled, experiment, capsys):
    paths = mislabelled
    suspects = audit_labels(paths, experiment)
    first = suspects.head(3)
    assert sorted(first["path"]) == [f"train/sad/wrong_{n}.jpg" for n in range(3)]
    assert set(first["label"]) == {"sad"}
    assert set(first["suggested"]) == {"happy"}
    assert len(suspects) == 120
    assert suspects["quality"].is_monotonic_increasing
    told = capsys.readouterr().out
    assert "120 labels ranked, most doubtful first" in told
    assert f"A label that {experiment.weights} was trained with looks right to it" in told
    written = pd.read_csv(paths.suspects)
    assert list(written["path"]) == list(suspects["path"])
    with Image.open(paths.suspects_sheet) as sheet:
        assert sheet.width > 1000
    assert len(list(paths.train.rglob("*.jpg"))) == 120

    before = pd.concat(training_manifests(paths))
    assert (before["label"] == before["path"].str.split("/").str[-2]).all()  # the empty lines change nothing
    lines = pd.read_csv(paths.relabel, keep_default_na=False)
    assert list(lines["path"].head(3)) == list(first["path"])
    lines.loc[:2, "label"] = lines.loc[:2, "suggested"]
    lines.to_csv(paths.relabel, index=False)
    edited = paths.relabel.read_text()
    after = pd.concat(training_manifests(paths)).set_index("path")["label"]
    assert set(after[[path for path in after.index if "/wrong_" in path]]) == {"happy"}
    again = audit_labels(paths, experiment)
    corrected = again.set_index("path").loc[first["path"]]
    assert set(corrected["label"]) == {"happy"}
    assert corrected["quality"].min() > first["quality"].max()
    assert paths.relabel.read_text() == edited


def test_duplicates_do_not_vouch_for_one_another():
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 20)).astype(np.float16)
    features[30:] = features[:30]  # every photo twice, with labels that its content does not tell
    labels = pd.Series(np.tile(random.choice(["a", "b"], 30), 2))
    groups = pd.Series(np.tile(np.arange(1, 31), 2))
    apart = out_of_fold(features, labels, groups)
    together = out_of_fold(features, labels, groups * 0)
    right = [np.mean(table.idxmax(axis=1) == labels) for table in (apart, together)]
    assert right[0] < 0.65 < 0.75 < right[1]
    np.testing.assert_allclose(apart.sum(axis=1), 1)


def test_a_class_of_duplicates_alone_is_named():
    """What never saw a class would doubt all its labels."""
    features = np.random.default_rng(0).normal(size=(65, 8)).astype(np.float16)
    labels = pd.Series(["a"] * 30 + ["b"] * 30 + ["c"] * 5)
    one_photo, two_photos = (pd.Series([0] * 60 + copies) for copies in ([1] * 5, [1] * 3 + [2] * 2))
    with pytest.raises(UserError, match="'c' has 5 photos, too few of them different"):
        out_of_fold(features, labels, one_photo)
    np.testing.assert_allclose(out_of_fold(features, labels, two_photos).sum(axis=1), 1)


def test_a_dataset_of_duplicates_alone_is_told():
    labels, groups = pd.Series(["happy", "sad"] * 6), pd.Series([1, 2] * 6)
    with pytest.raises(UserError, match="Only 2 of 12 photos are different"):
        out_of_fold(np.zeros((12, 3)), labels, groups)


def test_the_rank_is_by_the_probability_of_the_given_label():
    photos = pd.DataFrame({"path": list("abcdefgh"), "label": ["x", "y"] * 4})
    certain = np.array([0.9, 0.1, 0.05, 0.2, 0.8, 0.3, 0.7, 0.25])  # of x; c is doubtful
    ranked = rank_labels(photos, pd.DataFrame({"x": certain, "y": 1 - certain}))
    assert ranked["path"].iloc[0] == "c"
    assert ranked["suggested"].iloc[0] == "y"


def test_a_class_too_small_to_judge_is_named(paths, experiment):
    write_photos(paths.train, 4)
    with pytest.raises(UserError, match=r"'anger' has 4 photos; 5 are needed"):
        audit_labels(paths, experiment)


def test_random_numbers_judge_no_labels(paths):
    write_photos(paths.train, 8)
    for untrained in (get_experiment("emo_mini"), RANDOM):
        with pytest.raises(UserError, match=f"^{untrained.name} starts .* random .* take finetune_mini"):
            audit_labels(paths, untrained)
    assert not any(file.exists() for file in (paths.split, paths.suspects, paths.relabel))
