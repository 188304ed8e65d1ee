"""A `.h5` is written whole or not at all, and what it says is checked once, on reading."""

import errno
import json
import shutil
import subprocess
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from emo.errors import UserError
from emo.inference.classifier import load_classifier
from emo.models.saving import read_metadata, save_model
from tests.fixtures import write_metadata
from tests.models.test_loading import DATA

GOOD = {"class_names": ["anger", "happy", "sad"], "val_accuracy": 0.5, "experiment": {"face_margin": 0.3}}


@pytest.fixture
def ours(tmp_path):
    """Gives a file of `train` with other metadata."""

    def write(metadata, as_text=False) -> Path:
        file = Path(shutil.copy(DATA / "newer_keras.h5", tmp_path / "model.h5"))
        write_metadata(file, metadata if as_text else json.dumps(metadata))
        return file

    return write


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


WRONG = [
    *(
        ("class_names", value)
        for value in ("anger", 3, [], [1, 2, 3], ["a", "a", "b"], ["a", "", "b"], {"a": 0})
    ),
    *(("class_names", value) for value in (None, [["a"], "b", "c"], ["a\nb", "c", "d"], True)),
    *(("val_accuracy", value) for value in ("high", -0.1, 1.5, 10**30, [0.5], {}, True)),
    *(("experiment", value) for value in (3, "12", [], [["face_margin", 1]], None, True)),
    *(("image_size", value) for value in (0, -1, 10**6, 16.0, "16", [16, 16], True, None)),
    *(("best_epoch", value) for value in ("last", -3, 1.5, [], 10**9)),
    *(
        (key, value)
        for key in ("date", "versions", "commit", "preprocessing")
        for value in (3, ["x"], {}, "x" * 10**5)
    ),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda value: repr(value)[:20])
def test_metadata_of_a_wrong_kind_are_refused_on_reading(ours, key, value):
    with pytest.raises(
        UserError, match=rf"model\.h5 is damaged: its metadata have {key}=.*, which is to be "
    ) as told:
        load_classifier(ours(GOOD | {key: value}))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("margin", [1e9, -0.5, 2.1, "0.3", [0.3], True, {}])
def test_a_face_margin_of_a_wrong_kind_is_refused_on_reading(ours, margin):
    with pytest.raises(UserError, match=r"have experiment\.face_margin=.*between 0 and 2, or null"):
        load_classifier(ours(GOOD | {"experiment": {"face_margin": margin}}))


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", "null", '{"val_accuracy": NaN}', '{"val_accuracy": 1e999}', "[" * 10**5]
)
def test_metadata_that_are_no_table(ours, text):
    with pytest.raises(UserError, match=r"model\.h5 "):
        load_classifier(ours(text, as_text=True))
    for other in (3, [1.0, 2.0], np.zeros((2, 2)), h5py.Empty("f")):
        with pytest.raises(UserError, match=r"model\.h5 "):
            load_classifier(ours(other, as_text=True))


def test_metadata_that_are_right_or_unknown_are_taken(ours):
    for face_margin in (None, 0, 0.3, 2):
        file = ours(
            GOOD | {"experiment": {"face_margin": face_margin, "new": [1]}, "later": {"any": "thing"}}
        )
        assert load_classifier(file).face_margin == face_margin
    assert read_metadata(ours({})) == {}


def test_a_saved_file_is_what_keras_writes(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="one"), keras.layers.Flatten()]
    )
    save_model(model, tmp_path / "ours.h5", GOOD)
    again = keras.models.load_model(tmp_path / "ours.h5", compile=False)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [file.name for file in tmp_path.iterdir()] == ["ours.h5"]


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
    save_model(model, tmp_path / "m.h5", GOOD)
    before = (tmp_path / "m.h5").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tmp_path / "m.h5", {})
    assert (tmp_path / "m.h5").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.h5"]


def test_a_small_file_system_that_fills_up(tmp_path):
    """On a real one of 1 MB: h5py writing there itself ends the process."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1000)])
        with pytest.raises(OSError, match="No space left"):
            save_model(model, place / "m.h5", GOOD)
        assert not list(place.iterdir())
    finally:
        subprocess.run(["umount", place], check=True)


def test_reading_metadata_names_what_is_no_model(tmp_path):
    (tmp_path / "m.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"m\.h5 is empty"):
        read_metadata(tmp_path / "m.h5")
