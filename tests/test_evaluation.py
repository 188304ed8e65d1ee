import csv
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from emo.classifier import Classifier, find_model, load_classifier
from emo.errors import UserError
from emo.evaluation import (
    evaluate,
    expected_calibration_error,
    labelled_photos,
    log_test,
    report,
    write_submission,
)
from emo.experiments import get_experiment
from emo.model import build_model, save_model
from emo.runlog import log_run, read_table
from tests.fixtures import picture, write_photos

NAMES = ("anger", "happy", "sad")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """An untrained but whole model."""
    experiment = get_experiment("10", backbone="vgg16", weights=None, image_size=32)
    path = tmp_path_factory.mktemp("model") / "emo_classificator_best_1_vgg16_e1_aug0_acc33.h5"
    metadata = {"class_names": NAMES, "val_accuracy": 1 / 3, "experiment": {"seed": 42}}
    save_model(build_model(experiment, 3), path, metadata)
    return path


@pytest.fixture(scope="module")
def classifier(model_file) -> Classifier:
    return load_classifier(model_file)


def test_predict_takes_files_folders_arrays_and_pil_images_alike(classifier, dataset):
    files = sorted(dataset.test.rglob("*.jpg"))
    table = classifier.predict(dataset.test)
    assert list(table.columns) == ["path", "emotion", "confidence", *NAMES]
    assert list(table.path) == [str(file) for file in files]
    np.testing.assert_allclose(table[list(NAMES)].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(table.confidence, table[list(NAMES)].max(axis=1))
    assert list(table.emotion) == list(table[list(NAMES)].idxmax(axis=1))
    one = table.iloc[[0]].drop(columns="path").reset_index(drop=True)
    pd.testing.assert_frame_equal(classifier.predict(str(files[0])).drop(columns="path"), one)
    photo = picture((10, 200, 30), 0)
    from_pil, from_array, from_list = (
        classifier.predict(given) for given in (photo, np.asarray(photo), [np.asarray(photo)])
    )
    pd.testing.assert_frame_equal(from_pil, from_array)
    pd.testing.assert_frame_equal(from_pil, from_list)


def test_an_unreadable_photo_keeps_its_row_and_is_named(classifier, dataset, capsys):
    (dataset.test / "sad" / "broken.jpg").write_bytes(b"no picture")
    table = classifier.predict(dataset.test)
    assert len(table) == 13
    broken = table[table.path.str.endswith("broken.jpg")].iloc[0]
    assert broken.emotion is None
    assert math.isnan(broken.confidence)
    assert table.emotion.notna().sum() == 12
    assert "1 of 13 photos could not be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"), [("nowhere", "no photo or folder"), ([], "empty"), ("empty", "no photos")]
)
def test_nothing_to_predict(classifier, tmp_path, given, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=says):
        classifier.predict(str(tmp_path / given) if isinstance(given, str) else given)


def test_a_file_without_class_names_or_with_too_many(tmp_path):
    model = build_model(get_experiment("10", backbone="vgg16", weights=None, image_size=32), 3)
    save_model(model, tmp_path / "bare.h5", {})
    with pytest.raises(
        UserError, match=r"bare\.h5 does not say all that is needed, .*: pass class_names=[^;]*\."
    ):
        load_classifier(tmp_path / "bare.h5")
    save_model(model, tmp_path / "four.h5", {"class_names": ["a", "b", "c", "d"]})
    with pytest.raises(UserError, match=r"3 outputs but 4 class names \(from the file itself\)"):
        load_classifier(tmp_path / "four.h5")


def test_a_model_is_found_by_path_by_name_or_as_the_newest_finished_one(tmp_path, model_file):
    with pytest.raises(UserError, match=r"no \.h5 yet"):
        find_model("", tmp_path)
    (tmp_path / "old.h5").touch()
    (tmp_path / "new_running.h5").touch()
    assert find_model("", tmp_path).name == "old.h5"
    assert find_model("old.h5", tmp_path) == tmp_path / "old.h5"
    assert find_model(str(model_file), tmp_path) == model_file


def test_a_photo_that_cannot_be_read_counts_in_no_figure(classifier, dataset):
    (dataset.test / "sad" / "broken.jpg").write_bytes(b"no picture")
    manifest = pd.DataFrame(
        [(str(file), file.parent.name) for file in dataset.test.rglob("*.jpg")], columns=["path", "label"]
    )
    assert evaluate(classifier, manifest).photos == 12


def predictions(true: str, predicted: str, confidence: float = 0.8) -> pd.DataFrame:
    names = {"a": "anger", "h": "happy", "s": "sad"}
    return pd.DataFrame(
        {
            "path": [f"{index}.jpg" for index in range(len(true))],
            "label": [names[letter] for letter in true],
            "emotion": [names[letter] for letter in predicted],
            "confidence": confidence,
        }
    )


def test_figures_of_a_report_recomputed_by_hand():
    figures = report(predictions("aaaahhhhss", "aaahhhhsss"), NAMES)
    assert figures.accuracy == 0.8
    # Wilson's interval, from its formula
    z, n, p = 1.959964, 10, 0.8
    centre, half = (p + z**2 / 2 / n), z * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    bounds = [(centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert figures.interval == pytest.approx(bounds, abs=1e-6)
    f1 = {"anger": 6 / 7, "happy": 6 / 8, "sad": 4 / 5}
    assert figures.macro_f1 == pytest.approx(sum(f1.values()) / 3)
    assert dict(figures.per_class.f1) == pytest.approx(f1)
    assert figures.per_class.loc["sad", "precision"] == pytest.approx(2 / 3)
    assert figures.confusion.to_numpy().tolist() == [[3, 1, 0], [0, 3, 1], [0, 0, 2]]
    assert figures.ece == pytest.approx(0)  # 0.8 sure, 0.8 right
    assert "80.0%" in str(figures)


def test_macro_f1_counts_the_classes_that_are_there():
    table = predictions("aahh", "ahhs")
    assert report(table, NAMES).macro_f1 == pytest.approx(
        f1_score(table.label, table.emotion, labels=["anger", "happy"], average="macro")
    )


def test_calibration_error_recomputed():
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    correct = np.array([True, False, True, True, True])
    expected = (2 * abs(0.5 - 0.95) + 2 * abs(1 - 0.55) + 0) / 5
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(expected)


def test_evaluate_on_a_folder_counts_as_predict_answers(classifier, dataset):
    figures = evaluate(classifier, dataset.test)
    table = classifier.predict(dataset.test)
    labels = [path.rsplit("/", 2)[1] for path in table.path]
    assert figures.photos == 12
    assert figures.accuracy == pytest.approx(np.mean(table.emotion == labels))


def test_folders_that_do_not_fit_the_model(classifier, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        evaluate(classifier, tmp_path / "nowhere")
    write_photos(tmp_path / "test", 1)
    (tmp_path / "test" / "sad").rename(tmp_path / "test" / "joy")
    with pytest.raises(UserError, match=r"labelled joy, but .* knows only anger, happy, sad"):
        evaluate(classifier, tmp_path / "test")


def test_which_photos_are_tested_on(classifier, dataset, tmp_path):
    write_photos(tmp_path / "mine", 2)
    manifest, kind = labelled_photos(str(tmp_path / "mine"), classifier, dataset)
    assert (len(manifest), kind) == (6, "test")
    manifest, kind = labelled_photos("", classifier, dataset)
    assert (len(manifest), kind) == (12, "test")
    assert labelled_photos(str(dataset.train), classifier, dataset)[1] == "training"
    dataset.test.rename(tmp_path / "away")
    dataset.test.mkdir()
    manifest, kind = labelled_photos("", classifier, dataset)
    assert kind == "validation"
    assert 0 < len(manifest) < 12


def test_no_labelled_photos_is_said_and_no_mistake(classifier, paths, capsys):
    manifest, kind = labelled_photos("", classifier, paths)
    assert (len(manifest), kind) == (0, "no")
    assert "no labelled photos" in capsys.readouterr().out


def test_test_figures_go_into_the_row_of_the_run(classifier, dataset):
    number = log_run({"base_model": "vgg16", "model_file": classifier.path.name}, dataset)
    log_run({"base_model": "another"}, dataset)
    figures = report(predictions("aaah", "aahh"), NAMES)
    assert log_test(figures, classifier, dataset) == number
    table = read_table(dataset).set_index("number")
    assert table.loc[number, "test_accuracy"] == 75
    assert table.loc[number, "macro_f1"] == pytest.approx(0.733)


def test_submission_has_the_competitions_form_and_overwrites_nothing(tmp_path):
    table = predictions("aah", "ahs").assign(path=["/x/1.jpg", "/x/2.jpg", "/x/3.jpg"])
    first = write_submission(table, tmp_path / "predictions.csv")
    second = write_submission(table.iloc[:1], tmp_path / "predictions.csv")
    assert (first.name, second.name) == ("predictions.csv", "predictions_2.csv")
    with first.open() as file:
        rows = list(csv.reader(file))
    assert rows == [["image_path", "emotion"], ["1.jpg", "anger"], ["2.jpg", "happy"], ["3.jpg", "sad"]]
