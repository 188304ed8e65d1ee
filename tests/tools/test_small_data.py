"""The measurement of recipes on few photos: what each starts from, and a dataset that is too small."""

import sys

import pytest

from emo.errors import UserError
from tests.fixtures import write_photos
from tools.bench import small_data


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the tool on a dataset of 15 photos, 6 of which test."""
    write_photos(tmp_path / "photos" / "train", 5)
    monkeypatch.setattr(small_data, "TEST", 6)

    def called(*options):
        line = ["small_data", "--dataset", f"{tmp_path / 'photos'}", "--folder", f"{tmp_path / 'kept'}"]
        monkeypatch.setattr(sys, "argv", [*line, *options])
        small_data.main()

    return called


@pytest.mark.parametrize(
    ("recipe", "weights"), [("finetune_mini", "row17.h5"), ("finetune", "xception.h5"), ("emo_mini", None)]
)
def test_each_recipe_starts_from_what_is_given_for_its_kind(call, monkeypatch, recipe, weights):
    trained = []

    def started(experiment, paths):
        trained.append(experiment)
        raise UserError("not here")

    monkeypatch.setattr(small_data, "train", started)
    with pytest.raises(UserError, match="not here"):
        call("--photos", "9", "--recipes", recipe, "--weights", "xception.h5", "--start", "row17.h5")
    assert [(each.name, each.weights) for each in trained] == [(recipe, weights)]


def test_a_dataset_with_too_few_photos_is_refused(call, tmp_path):
    for _ in range(2):  # also where it has been fetched before
        with pytest.raises(UserError, match=r"has 15 photos, and 16 are needed: 6 to test on and 10 to"):
            call("--photos", "3", "10")
    assert [folder.name for folder in (tmp_path / "kept").iterdir()] == ["whole"]
