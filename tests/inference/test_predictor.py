"""What people hand to `predict`, and what it says where that is not all photos, or does not fit."""

import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from emo.data import faces
from emo.data.geometry import Crop
from emo.errors import UserError
from emo.inference.classifier import Classifier, find_model, load_classifier
from emo.inference.ensemble import Ensemble
from emo.inference.grad_cam import grad_cam
from emo.inference.photo import classify_faces, open_photo
from emo.inference.video import classify_video
from emo.paths import EMO_MINI
from tests.data.test_faces import FLOWER, HOPPER
from tests.fixtures import COLORS, picture

NAMES = ("dark", "bright")
layers = keras.layers


def brightness(inner=lambda x: x, size: int = 16) -> Classifier:
    """It says "bright" for a mean over 100, surer the farther it is from that."""
    pictures = keras.Input((size, size, 3))
    dense = layers.Dense(2, activation="softmax")
    model = keras.Model(pictures, dense(layers.GlobalAveragePooling2D()(inner(pictures))))
    dense.set_weights([np.array([[0, 0.02]] * 3), np.array([0, -6.0])])
    return Classifier(model, NAMES, {}, Path("brightness.h5"))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return brightness()


def answers(table: pd.DataFrame) -> np.ndarray:
    return table[list(NAMES)].to_numpy()


# ---------------------------------------------------------------- in memory


def test_every_way_to_hand_over_pictures_gives_the_same_answers(classifier, tmp_path, capsys):
    pictures = np.stack([np.full((20, 20, 3), level, np.uint8) for level in (3, 60, 140, 250)])
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    expected = classifier.predict(tmp_path)
    assert list(expected.emotion) == ["dark", "dark", "bright", "bright"]
    files = sorted(tmp_path.iterdir())
    ways = [
        pictures,
        pictures[..., 0],
        list(pictures),
        pictures.tolist(),
        tf.constant(pictures),
        pictures / 255,
        tf.constant(pictures / 127.5 - 1, tf.float32),
        [Image.fromarray(pixels) for pixels in pictures],
        files,
        map(str, files),
        pd.Series(files),
        expected.path,
    ]
    for given in ways:
        np.testing.assert_allclose(answers(classifier.predict(given)), answers(expected), atol=1e-6)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "0–1" in said[0] and "−1–1" in said[1]


def test_faces_are_one_for_each_picture(classifier):
    pictures = np.zeros((3, 20, 20, 3), np.uint8)
    assert len(classifier.predict(pictures, [Crop()] * 3)) == 3
    for model in (classifier, Ensemble([classifier])):
        with pytest.raises(UserError, match=r"3 pictures were given with 2 faces"):
            model.predict(pictures, [Crop()] * 2)


def test_a_model_of_nan_is_the_models_fault_and_no_unreadable_photo(tmp_path):
    broken = brightness()
    broken.model.set_weights([weights * np.nan for weights in broken.model.get_weights()])
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    picture((90, 90, 90), 0).save(tmp_path / "good.jpg")
    for model in (broken, Ensemble([broken, brightness()])):
        with pytest.raises(UserError, match=r"brightness\.h5 gives no numbers \(NaN\) for 1 of 2 readable"):
            model.predict(tmp_path)


# ---------------------------------------------------------------- folders and paths


def test_what_a_folder_holds_besides_photos_is_counted(classifier, tmp_path, capsys):
    for number, color in enumerate(COLORS.values()):
        picture(color, number).save(tmp_path / f"{number}.png")
    assert len(classifier.predict(tmp_path)) == 3
    assert capsys.readouterr().out == ""
    for name in ("a.TXT", "b.txt", "c.mp4", "README", ".hidden", "Thumbs.db"):
        (tmp_path / name).write_text("no photo")
    assert len(classifier.predict(tmp_path)) == 3
    said = capsys.readouterr().out
    assert "4 of 7 files" in said and said.endswith("are not photos: 2 .txt, 1 .mp4, 1 without suffix.\n")
    for file in tmp_path.glob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match=r"holds no photos .* but other files: 2 \.txt"):
        classifier.predict(tmp_path)


def test_find_model_says_what_it_passed_over(tmp_path, capsys):
    for name in ("notes.txt", ".hidden.keras", "a_running.h5", "mine.weights.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.h5").symlink_to(tmp_path / "nowhere.h5")
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    (tmp_path / "folder.h5").mkdir()
    assert find_model("", tmp_path) == EMO_MINI
    said = capsys.readouterr().out
    assert "folder.h5, gone.h5, loop.h5; give a file's name to open it" in said
    (tmp_path / "new.keras").write_bytes(b"")  # an export of new.h5
    for age, name in enumerate(("new.h5", "mine.keras", "mine.hdf5", "old.H5")):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert find_model("", tmp_path).name == "new.h5"
    assert "gone.h5" in capsys.readouterr().out
    assert find_model("new.keras", tmp_path) == tmp_path / "new.keras"
    (tmp_path / "folder.h5" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UserError, match=r"folder\.h5 is a folder with a SavedModel"):
        load_classifier(find_model(tmp_path / "folder.h5", tmp_path))
    (tmp_path / "new.h5").unlink()
    (tmp_path / "new.keras").unlink()
    assert find_model("", tmp_path).name == "mine.keras"
    capsys.readouterr()
    assert find_model("mine.hdf5", tmp_path) == tmp_path / "mine.hdf5"
    assert capsys.readouterr().out == ""


def test_the_newest_model_is_that_of_the_newest_run_whatever_was_rewritten_since(tmp_path):
    first, second = (
        tmp_path / f"emo_classificator_best_2611{day}120000_emo_mini_e3_aug1_acc60.h5" for day in (20, 21)
    )
    first.write_bytes(b"")
    second.write_bytes(b"")
    os.utime(second, (1e9, 1e9))  # calibrated, or copied back from Drive, is only the first
    assert find_model("", tmp_path) == second
    no_date = tmp_path / "emo_classificator_best_999999999999_emo_mini_e3_aug1_acc60.h5"
    no_date.write_bytes(b"")
    os.utime(no_date, (2e9, 2e9))
    assert find_model("", tmp_path) == no_date


def test_find_model_knows_the_embedded_one_from_anywhere_and_others_without_h5(tmp_path):
    for given in ("emo_mini", "emo_mini.h5", "model/emo_mini.h5"):
        assert find_model(given, tmp_path).resolve() == EMO_MINI
    (tmp_path / "best.v2.h5").write_bytes(b"")
    for given in ("best.v2", "best.v2.h5", "model/best.v2", tmp_path / "best.v2"):
        assert find_model(given, tmp_path) == tmp_path / "best.v2.h5"
    mine = tmp_path / "emo_mini.h5"
    mine.write_bytes(b"")
    assert find_model("emo_mini", tmp_path) == mine


def test_a_path_to_another_folder_never_opens_a_file_of_the_same_name_unsaid(tmp_path, capsys):
    mine = tmp_path / "best.h5"
    mine.write_bytes(b"")
    assert find_model("best", tmp_path) == mine
    assert capsys.readouterr().out == ""
    assert find_model("old/best.h5", tmp_path) == mine
    assert capsys.readouterr().out == f"There is no old/best.h5: this is {mine}.\n"
    for name in ("best.h5", "emo_mini.h5"):
        with pytest.raises(UserError, match="There is no model"):
            find_model(tmp_path / "old" / name, tmp_path)


def test_the_embedded_model_opens_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_classifier("emo_mini").path == EMO_MINI


def test_find_model_lists_what_there_is_where_nothing_fits(tmp_path):
    with pytest.raises(UserError, match=r"no model x, .*; choose one of emo_mini\.h5\.$"):
        find_model("x", tmp_path)
    for age in range(9):
        (tmp_path / f"{age}.h5").write_bytes(b"")
        os.utime(tmp_path / f"{age}.h5", (1e9 - age, 1e9 - age))
    (tmp_path / "a_running.h5").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for given in ("x.h5", "folder", "."):
        with pytest.raises(UserError, match="There is no model") as told:
            find_model(given, tmp_path)
        assert "choose one of 0.h5, 1.h5, 2.h5" in str(told.value)
        assert str(told.value).endswith("7.h5, …, emo_mini.h5.")


@pytest.mark.parametrize("ask", ["predict", "find_model", "open_photo", "classify_video"])
def test_a_path_where_nothing_can_lie_is_one_short_sentence(ask, classifier, tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    calls = {
        "predict": classifier.predict,
        "find_model": lambda path: find_model(path, tmp_path),
        "open_photo": lambda path: open_photo(str(path)),
        "classify_video": lambda path: classify_video(classifier, path),
    }
    for path, says in (
        (tmp_path / "gone.jpg", r"is a link to .*nowhere\.jpg, which does not exist"),
        (tmp_path / "loop.jpg", "symbolic links"),
        ("~nosuch/x.jpg", "home folder"),
        ("long" * 2000 + ".jpg", "too long"),
        ("null\0.jpg", "null"),
    ):
        with pytest.raises(UserError, match=says) as told:
            calls[ask](path)
        assert "\n" not in str(told.value) and len(str(told.value)) < 400


# ---------------------------------------------------------------- photos that are not faces


def told_of_faces(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "Faces were not looked for" in line]


def test_a_photo_with_a_small_face_is_told_once_and_a_face_is_not(classifier, tmp_path, capsys):
    photo, face = HOPPER, tmp_path / "face.png"
    with Image.open(photo) as picture:
        picture.crop((170, 90, 360, 310)).save(face)
        for given in (photo, [photo, face, photo], picture.copy()):
            for model in (brightness(), Ensemble([brightness(), classifier])):
                model.predict(given)
                (said,) = told_of_faces(capsys)
                assert "emo.classify_faces" in said
                assert said.count(str(photo)) == (
                    len(given) - 1 if isinstance(given, list) else given is photo
                )
    for given in (face, FLOWER, np.asarray(Image.open(photo))):
        brightness().predict(given)
        assert told_of_faces(capsys) == []


def test_where_faces_are_looked_for_or_named_nothing_is_told(tmp_path, capsys):
    cropping = brightness()
    cropping.metadata = {"experiment": {"face_margin": 0.3}}
    cropping.predict(HOPPER)
    classify_faces(brightness(), HOPPER)
    brightness().predict(HOPPER, [None])
    assert told_of_faces(capsys) == []


def test_a_folder_and_a_loop_are_not_slowed_by_faces(tmp_path, capsys):
    for number in range(5):
        (tmp_path / f"{number}.jpg").symlink_to(HOPPER)
    brightness().predict(tmp_path)
    assert told_of_faces(capsys) == []
    looping = brightness()
    for _ in range(looping.looks + 2):
        looping.predict(HOPPER)
    assert len(told_of_faces(capsys)) == brightness().looks


def test_without_mtcnn_nothing_is_told_of_faces(classifier, monkeypatch, capsys):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(faces, "version", not_installed)
    assert len(classifier.predict(HOPPER)) == 1
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- memory


@keras.saving.register_keras_serializable("tests")
class NeedsMemory(layers.Layer):
    """Passes pictures on, but has no memory for more than `most` at a time."""

    most = 5

    def call(self, x):
        def pass_on(x):
            if len(x) > self.most:
                raise MemoryError("as TensorFlow says it")  # which it makes a ResourceExhaustedError
            return x

        y = tf.py_function(pass_on, [x], x.dtype)
        y.set_shape(x.shape)
        return y


def test_where_a_batch_does_not_fit_fewer_pictures_go_at_a_time(classifier):
    pictures = np.random.default_rng(0).integers(0, 256, (150, 16, 16, 3), np.uint8)
    tight = brightness(NeedsMemory())
    for model in (tight, Ensemble([tight, classifier])):
        np.testing.assert_allclose(
            answers(model.predict(pictures)), answers(classifier.predict(pictures)), atol=1e-6
        )


def test_where_one_picture_does_not_fit_it_is_said():
    """3 PB for one feature map, which no machine can even address."""
    large = brightness(lambda x: layers.UpSampling2D(2**16)(layers.Conv2D(3, 3, padding="same")(x)), 256)
    large.batch_size = 1  # else halved from 64: TensorFlow waits 10 s for memory each time
    for ask in (large.predict, lambda image: grad_cam(large, image, "dark")):
        with pytest.raises(UserError, match=r"more memory than is free for one picture of 256 px") as told:
            ask(np.zeros((20, 20, 3), np.uint8))
        assert "half that image_size (128)" in str(told.value) and "\n" not in str(told.value)
