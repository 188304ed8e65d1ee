import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emo.errors import UserError
from emo.evaluation.evaluate import evaluate
from emo.inference import predictor
from emo.inference.classifier import Classifier, load_classifier
from emo.inference.ensemble import Ensemble
from emo.paths import EMO_MINI

NAMES = ("anger", "happy", "sad")


def constant(probabilities, names=NAMES, size: int = 32, file: str = "constant.h5") -> Classifier:
    """A real model that gives the same probabilities for every picture."""
    pictures = keras.Input((size, size, 3))
    dense = keras.layers.Dense(len(names), activation="softmax")
    model = keras.Model(pictures, dense(keras.layers.GlobalAveragePooling2D()(pictures)))
    dense.set_weights([np.zeros((3, len(names))), np.log(probabilities)])
    return Classifier(model, names, {}, Path(file))


@pytest.fixture(scope="module")
def sided() -> Classifier:
    """A model that looks at the red of the upper left pixel: white 0.9 / 0.1, black 0.5 / 0.5."""
    pictures = keras.Input((32, 32, 3))
    dense = keras.layers.Dense(2, activation="softmax")
    model = keras.Model(pictures, dense(keras.layers.Flatten()(pictures)))
    weights = np.zeros((32 * 32 * 3, 2))
    weights[0, 0] = np.log(9) / 255
    dense.set_weights([weights, np.zeros(2)])
    return Classifier(model, ("left", "right"), {}, Path("sided.h5"))


def half_white(side: str) -> np.ndarray:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16] = 255
    return picture if side == "left" else picture[:, ::-1]


def row(table: pd.DataFrame) -> list[float]:
    return table.iloc[0, 3:].tolist()


def test_flip_is_the_mean_over_the_picture_and_its_flip(sided):
    assert row(sided.predict(half_white("left"))) == pytest.approx([0.9, 0.1], abs=1e-6)
    assert row(sided.predict(half_white("right"))) == pytest.approx([0.5, 0.5], abs=1e-6)
    for side in ("left", "right"):
        table = sided.with_flip().predict(half_white(side))
        assert row(table) == pytest.approx([0.7, 0.3], abs=1e-6)
        assert (table.emotion[0], table.confidence[0]) == ("left", pytest.approx(0.7))
    assert sided.name == "sided.h5"  # it stays as it was
    assert repr(sided.with_flip()).startswith("sided.h5 + flip: 2 classes")


def test_members_may_be_given_as_files(tmp_path):
    copied = shutil.copy(EMO_MINI, tmp_path / "mine.h5")
    ensemble = Ensemble([EMO_MINI, str(copied)])
    assert ensemble.name == "mean of 2: emo_mini.h5, mine.h5"
    assert ensemble.class_names == load_classifier(EMO_MINI).class_names
    assert Ensemble(str(copied)).name == "mean of 1: mine.h5"
    with pytest.raises(UserError, match=r"gone\.h5"):
        Ensemble([EMO_MINI, tmp_path / "gone.h5"])


def test_an_ensemble_gives_the_mean_of_its_members():
    given = ([0.6, 0.3, 0.1], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6])
    members = [constant(each, file=f"{number}.h5") for number, each in enumerate(given)]
    table = Ensemble(members).predict(half_white("left"))
    assert list(table.columns) == ["path", "emotion", "confidence", *NAMES]
    assert row(table) == pytest.approx([0.3, 0.4, 0.3], abs=1e-6)
    assert (table.emotion[0], table.confidence[0]) == ("happy", pytest.approx(0.4))


def test_members_may_differ_in_the_order_of_classes_and_in_size():
    first = constant([0.6, 0.3, 0.1], size=32)
    second = constant([0.2, 0.7, 0.1], names=("sad", "anger", "happy"), size=48)
    table = Ensemble([first, second]).predict(half_white("left"))
    assert row(table) == pytest.approx([(0.6 + 0.7) / 2, (0.3 + 0.1) / 2, (0.1 + 0.2) / 2], abs=1e-6)


def test_members_of_other_classes_or_none_at_all():
    other = constant([0.5, 0.5], names=("anger", "joy"), file="other.h5")
    with pytest.raises(UserError, match=r"other\.h5 and constant\.h5 .* happy, joy, sad"):
        Ensemble([constant([0.6, 0.3, 0.1]), other])
    with pytest.raises(UserError, match="needs members"):
        Ensemble([])


def test_a_file_that_is_given_twice_counts_once(tmp_path, monkeypatch, capsys):
    """As the newest model does in the test notebook, where MODEL is empty and ENSEMBLE names it, too."""
    monkeypatch.chdir(tmp_path)
    given = {
        "newest.h5": [0.6, 0.3, 0.1],
        "other.h5": [0.2, 0.7, 0.1],
        f"{tmp_path}/newest.h5": [0.6, 0.3, 0.1],
    }
    ensemble = Ensemble([constant(each, file=file) for file, each in given.items()])
    assert ensemble.name == "mean of 2: newest.h5, other.h5"
    assert row(ensemble.predict(half_white("left"))) == pytest.approx([0.4, 0.5, 0.1], abs=1e-6)
    said = capsys.readouterr().out
    assert said.startswith("newest.h5 is given twice and counts once") and said.count("\n") == 1
    flipped = ensemble.with_flip()
    # with another size or with flip a file answers otherwise, as does one of that name elsewhere
    members = [*ensemble.members, *flipped.members, constant([0.6, 0.3, 0.1], size=48, file="newest.h5")]
    members.append(constant([0.6, 0.3, 0.1], file="elsewhere/newest.h5"))
    assert len(Ensemble(members).members) == 6
    assert capsys.readouterr().out == ""


def test_an_unreadable_photo_keeps_its_row_in_an_ensemble(dataset, capsys):
    (dataset.test / "sad" / "broken.jpg").write_bytes(b"no picture")
    table = Ensemble([constant([0.6, 0.3, 0.1], size=s) for s in (32, 48)]).predict(dataset.test)
    assert table.emotion.isna().sum() == 1
    assert table[table.emotion.isna()].path.item().endswith("broken.jpg")
    assert table[table.emotion.isna()][list(NAMES)].isna().to_numpy().all()
    assert "1 of 13 photos could not be read" in capsys.readouterr().out


def test_an_ensemble_is_evaluated_and_flipped_as_one_classifier(dataset, sided):
    members = [constant([0.6, 0.3, 0.1], file="a.h5"), constant([0.6, 0.2, 0.2], file="b.h5")]
    figures = evaluate(Ensemble(members), dataset.test)
    assert figures.model == "mean of 2: a.h5, b.h5"
    assert (figures.photos, figures.accuracy) == (12, pytest.approx(1 / 3))
    again = Classifier(sided.model, sided.class_names, {}, Path("again.h5"))
    flipped = Ensemble([sided, again]).with_flip()
    assert flipped.name == "mean of 2: sided.h5 + flip, again.h5 + flip"
    assert row(flipped.predict(half_white("right"))) == pytest.approx([0.7, 0.3], abs=1e-6)
    nested = Ensemble([Ensemble(members), members[0]])
    assert row(nested.predict(half_white("left"))) == pytest.approx([0.6, 0.275, 0.125], abs=1e-6)


def test_a_folder_of_several_chunks_is_answered_as_each_photo_alone(tmp_path, sided, monkeypatch):
    for number in range(11):
        side = "left" if number % 3 else "right"
        Image.fromarray(half_white(side)).save(tmp_path / f"{number:02}.png")
    (tmp_path / "05.png").write_bytes(b"no picture")
    monkeypatch.setattr(predictor, "CHUNK", 4)
    for model in (sided, Ensemble([sided, sided.with_flip()])):
        table = model.predict(tmp_path)
        assert [Path(path).name for path in table.path] == [f"{number:02}.png" for number in range(11)]
        assert list(table.index[table.emotion.isna()]) == [5]
        for number in (0, 1, 4, 10):
            alone = model.predict(tmp_path / f"{number:02}.png")
            assert row(table.iloc[number:]) == pytest.approx(row(alone), abs=1e-6)
    picture = half_white("left")
    expected = sided.model.predict(picture[None], verbose=0)[0]
    assert row(sided.predict(picture)) == pytest.approx(expected.tolist(), abs=1e-6)
