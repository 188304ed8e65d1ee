"""Each file is opened by its own runtime, as whoever is handed it would."""

import dataclasses
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from emo.errors import UserError
from emo.experiments import get_experiment
from emo.inference import export as exporting
from emo.inference.classifier import Classifier, load_classifier
from emo.inference.ensemble import Ensemble
from emo.inference.export import export_model, export_table
from emo.models.build import build_model
from emo.models.saving import save_model
from emo.precision import computing_in

KINDS = ("tflite", "onnx", "savedmodel")  # for other runtimes
NAMES = ("anger", "happy", "грусть")


def small(folder: Path, scale: float = 1.0, policy: str = "float32") -> Classifier:
    """A network that looks at edges and colours in places, so that a flip is another picture."""
    keras.utils.set_random_seed(1)
    with computing_in(policy):
        pictures = keras.Input((32, 32, 3))
        x = keras.layers.Rescaling(scale / 127.5, -1.0)(pictures)
        x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.Flatten()(x)
        dense = keras.layers.Dense(3, activation="softmax", dtype="float32", kernel_initializer="he_normal")
        model = keras.Model(pictures, dense(x))
    return Classifier(model, NAMES, {}, folder / "small.h5")


@pytest.fixture
def classifier(tmp_path) -> Classifier:
    return small(tmp_path)


@pytest.fixture
def photos() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3)).astype(np.float32)


def answers(path: Path, photos: np.ndarray) -> np.ndarray:
    if path.is_dir():
        network = tf.saved_model.load(str(path)).signatures["serving_default"]
        return network(rgb_0_255=tf.constant(photos))["probabilities"].numpy()
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["probabilities"], {"rgb_0_255": photos})[0]
    return Interpreter(str(path)).get_signature_runner()(rgb_0_255=photos)["probabilities"]


def class_names(path: Path) -> list[str]:
    if path.is_dir():
        return (path / "assets" / "class_names.txt").read_text(encoding="utf-8").splitlines()
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    with zipfile.ZipFile(path) as archive:
        return archive.read("class_names.txt").decode().splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_answers_as_the_model_does(kind, classifier, photos, tmp_path, capfd, recwarn):
    written = export_model(classifier, kind)
    told = capfd.readouterr()
    assert written.path.parent == tmp_path and written.path.name.startswith("small")
    assert f"Written: {written.path}" in told.out and "32 × 32 px" in told.out
    assert told.err == "" and not [w for w in recwarn if issubclass(w.category, UserWarning)]
    assert 0 <= written.difference < 1e-5
    expected = classifier.probabilities(photos)
    assert np.ptp(expected, axis=0).max() > 0.1  # it does tell the photos apart
    np.testing.assert_allclose(answers(written.path, photos), expected, atol=1e-5)
    np.testing.assert_allclose(answers(written.path, photos[:1]), expected[:1], atol=1e-5)
    assert class_names(written.path) == list(NAMES)
    assert [file.name for file in tmp_path.iterdir()] == [written.path.name]  # no draft is left


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_overwritten(kind, classifier, tmp_path):
    mine = tmp_path / f"small{exporting.ENDINGS[kind]}"
    mine.write_text("mine")
    written = export_model(classifier, kind)
    assert mine.read_text() == "mine"
    assert written.path.stem.endswith("_2") and written.path.exists()
    again = export_model(classifier, kind, written.path)
    assert again.path != written.path and class_names(written.path) == class_names(again.path)


def test_into_a_folder_that_is_there_it_goes_by_its_usual_name(classifier, tmp_path):
    folder = tmp_path / "phones"
    folder.mkdir()
    for name in ("small.tflite", "small_2.tflite"):
        assert export_model(classifier, "tflite", folder).path == folder / name
    written = export_model(classifier, "savedmodel", str(folder)).path
    assert written == folder / "small_savedmodel"
    again = export_model(classifier, "savedmodel", written).path  # an export is not a folder to write into
    assert again == folder / "small_savedmodel_2" and [*tmp_path.iterdir()] == [folder]


def test_flip_and_float32_go_with_it(tmp_path, photos):
    half = small(tmp_path, policy="mixed_bfloat16")
    full = small(tmp_path).with_flip()
    full.model.set_weights(half.model.get_weights())
    written = export_model(half.with_flip(), "tflite", photos=list(photos))
    np.testing.assert_allclose(answers(written.path, photos), full.probabilities(photos), atol=1e-5)
    assert np.abs(full.probabilities(photos) - half.probabilities(photos)).max() > 0.01


def test_what_plain_keras_opens_knows_what_the_h5_knows(tmp_path, photos, capsys):
    model = small(tmp_path)
    save_model(model.model, model.path, {"class_names": NAMES, "val_accuracy": 0.5})
    classifier = load_classifier(model.path)
    written = export_model(classifier.with_flip(), "keras")
    assert written.path == tmp_path / "small.keras" and "the flip is not in it" in capsys.readouterr().out
    plain = keras.models.load_model(written.path)
    np.testing.assert_allclose(plain.predict(photos, verbose=0), classifier.probabilities(photos), atol=1e-6)
    again = load_classifier(written.path)
    assert repr(again) == repr(classifier).replace(".h5", ".keras")
    np.testing.assert_allclose(again.probabilities(photos), classifier.probabilities(photos), atol=1e-6)


def test_pictures_to_compare_on_are_drawn_from_the_whole_folder(classifier, photos, tmp_path, capsys):
    for name in ("anger", "happy"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(32):
            file = tmp_path / "photos" / name / f"{number:02d}.png"
            Image.fromarray(photos[0].astype(np.uint8)).save(file)
            if name == "anger":
                file.write_bytes(b"no picture")
    export_model(classifier, "keras", photos=tmp_path / "photos")
    assert "16 of 32 photos to compare on cannot be read" in capsys.readouterr().out


def test_eight_bits_are_calibrated_on_photos_and_judged_by_labels(classifier, photos, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    many = np.concatenate([photos] * 8)
    for number, photo in enumerate(many):
        Image.fromarray(photo.astype(np.uint8)).save(folder / f"{number:02d}.png")
    said = classifier.predict(folder)
    table = said[["path"]].assign(label=said.emotion)
    table.loc[0, "label"] = NAMES[(NAMES.index(table.label[0]) + 1) % 3]  # one that it has wrong
    small(tmp_path)
    save_model(classifier.model, classifier.path, {})
    floats = export_model(classifier, "tflite", photos=table)
    eights = export_model(classifier, "tflite_int8", photos=table, calibration=folder)
    assert eights.path.name == "small_int8.tflite" and class_names(eights.path) == list(NAMES)
    assert eights.megabytes < 0.7 * floats.megabytes
    assert floats.difference < 1e-5 < eights.difference < 0.1
    assert floats.accuracy == (39 / 40, 39 / 40) and floats.agreement == 1
    assert eights.accuracy[0] == 39 / 40
    same = answers(eights.path, many).argmax(axis=1) == classifier.probabilities(many).argmax(axis=1)
    assert eights.agreement == same.mean()
    assert f"accuracy 97.5% before and {eights.accuracy[1]:.1%} after" in capsys.readouterr().out
    compared = export_table(classifier, [floats, eights], repeats=2)
    assert list(compared.format) == ["h5", "tflite", "tflite_int8"]
    assert list(compared.accuracy) == [39 / 40, 39 / 40, eights.accuracy[1]]
    types = {detail["dtype"] for detail in Interpreter(str(eights.path)).get_tensor_details()}
    assert np.int8 in types and np.float16 not in types


def test_unreadable_photos_are_left_out_and_it_is_said(classifier, photos, tmp_path, monkeypatch, capsys):
    for number, photo in enumerate(photos):
        Image.fromarray(photo.astype(np.uint8)).save(tmp_path / f"{number}.png")
    broken = [tmp_path / f"{name}.png" for name in "abcd"]
    for file in broken:
        file.write_bytes(b"no picture")
    table = classifier.predict(list(photos))[["emotion"]].rename(columns={"emotion": "label"})
    table["path"] = [str(tmp_path / f"{number}.png") for number in range(len(photos))]
    unreadable = pd.DataFrame({"path": map(str, broken), "label": "happy"})
    table = pd.concat([table[:3], unreadable, table[3:]], ignore_index=True)
    with monkeypatch.context() as few:
        few.setattr(exporting, "CHUNK", 2)  # one chunk without a readable photo
        written = export_model(classifier, "keras", photos=table)
    assert written.accuracy == (1, 1) and written.agreement == 1
    told = capsys.readouterr().out
    assert "4 of 9 photos to compare on cannot be read and are left out." in told and "on 5 pictures" in told
    seen, write = [], exporting.WRITERS["tflite_int8"]

    def noted(model, classifier, path, shown):
        seen.append(shown)
        write(model, classifier, path, shown)

    monkeypatch.setitem(exporting.WRITERS, "tflite_int8", noted)
    export_model(classifier, "tflite_int8", calibration=table)
    np.testing.assert_array_equal(seen, [photos])
    assert "4 of 9 photos to calibrate on cannot be read and are left out." in capsys.readouterr().out
    for given, use in (({"photos": broken}, "compare"), ({"calibration": broken}, "calibrate")):
        with pytest.raises(UserError, match=f"^None of 4 photos to {use} on can be read; give others.$"):
            export_model(classifier, "tflite_int8" if "calibration" in given else "keras", **given)
    assert not [*tmp_path.glob(".export_*")]


def test_a_model_that_gives_no_numbers_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"small\.tflite was not written"):
        export_model(small(tmp_path, scale=np.inf), "tflite")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told_in_a_sentence(classifier, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="'coreml'; choose one of keras, tflite, tflite_int8, onnx, savedm"):
        export_model(classifier, "coreml")
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        export_model(classifier, "tflite", tmp_path / "nowhere" / "a.tflite")
    with pytest.raises(UserError, match=r"/proc .*give another path"):  # where nobody can write
        export_model(classifier, "tflite", "/proc/a.tflite")
    with pytest.raises(UserError, match=r"by its name alone: call it model\.keras\.$"):
        export_model(classifier, "keras", tmp_path / "model.h5")
    with pytest.raises(UserError, match="pass calibration=, a folder or list of training photos"):
        export_model(classifier, "tflite_int8")
    with pytest.raises(UserError, match=r"^Export to tflite is not calibrated, .* leave out calibration=\.$"):
        export_model(classifier, "tflite", calibration=[np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(
        UserError, match="needs the columns path and label; labels must be the model's classes"
    ):
        export_model(classifier, "keras", photos=pd.DataFrame({"path": ["a.jpg"], "label": ["joy"]}))
    with pytest.raises(UserError, match="each of its members"):
        export_model(Ensemble([classifier]), "tflite")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tf2onnx onnxruntime"):
        export_model(classifier, "onnx")


def test_the_table_says_how_large_and_how_fast(classifier, tmp_path):
    save_model(classifier.model, classifier.path, {})
    written = [export_model(classifier, kind) for kind in KINDS]
    table = export_table(classifier, written, repeats=3)
    assert list(table.format) == ["h5", *KINDS] and "accuracy" not in table
    assert list(table["same answer"]) == [1.0] * 4
    assert table.MB[0] == pytest.approx(classifier.path.stat().st_size / 1e6)
    assert table.MB[1] == pytest.approx(written[0].path.stat().st_size / 1e6)
    assert table["ms per photo"].between(0.001, 10_000).all()
    assert list(table["max difference"][1:]) == [one.difference for one in written]


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2", "6"])  # ResNet50, VGG16, Xception
def test_the_original_projects_backbones_export(number, tmp_path):
    experiment = get_experiment(number, weights=None, image_size=96)
    model = build_model(experiment, len(NAMES))
    file = tmp_path / f"{experiment.backbone}.h5"
    save_model(model, file, {"class_names": NAMES, "experiment": dataclasses.asdict(experiment)})
    for kind in KINDS:
        assert export_model(load_classifier(file), kind).difference < 1e-4
