import csv
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from emo.data.duplicates import find_duplicates
from emo.data.manifest import scan_splits
from emo.data.split import (
    Split,
    held_out_manifest,
    leaked_photos,
    load_split,
    split_photos,
    training_manifests,
)
from emo.errors import UserError
from emo.evaluation.calibration import apply_temperature, fit_temperature
from emo.evaluation.evaluate import (
    calibrate,
    evaluate,
    labelled_photos,
    log_test,
    report,
    report_on,
    shown_paths,
    validation_temperature,
)
from emo.evaluation.submission import write_submission
from emo.experiments import get_experiment
from emo.inference.classifier import Classifier, find_model, load_classifier
from emo.inference.ensemble import Ensemble
from emo.models.build import build_model
from emo.models.saving import save_model
from emo.paths import EMO_MINI, get_paths
from emo.tracking.table import log_run, read_table
from tests.fixtures import COLORS, answers, picture, random_answers, write_photos

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


def test_a_folder_is_read_as_training_reads_it(classifier, dataset, tmp_path):
    (dataset.test / ".ipynb_checkpoints").mkdir()
    first = next(dataset.test.glob("*/*.jpg"))
    shutil.copy(first, dataset.test / ".ipynb_checkpoints" / "1-checkpoint.jpg")
    (dataset.test / "a folder.jpg").mkdir()
    shutil.move(dataset.test / "sad", tmp_path / "sad")
    (dataset.test / "sad").symlink_to(tmp_path / "sad")  # a class on another disk
    assert len(classifier.predict(dataset.test)) == 12


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


def test_a_model_is_found_by_path_by_name_or_as_the_newest_finished_one(tmp_path, model_file, capsys):
    assert find_model("", tmp_path) == EMO_MINI
    assert "No model of yours" in capsys.readouterr().out
    (tmp_path / EMO_MINI.name).touch()
    assert find_model("", tmp_path) == EMO_MINI
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


LETTERS = {"a": "anger", "h": "happy", "s": "sad"}


def predictions(true: str, predicted: str, confidence: float = 0.8) -> pd.DataFrame:
    """A letter a photo: the first of its class, and of the class it was given."""
    rest = (1 - confidence) / 2
    rows = [[confidence if name[0] == letter else rest for name in NAMES] for letter in predicted]
    return answers([LETTERS[letter] for letter in true], rows)


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
    assert figures.balanced_accuracy == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    assert figures.per_class.loc["sad", "precision"] == pytest.approx(2 / 3)
    assert figures.confusion.to_numpy().tolist() == [[3, 1, 0], [0, 3, 1], [0, 0, 2]]
    assert figures.rates.to_numpy().tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25], [0, 0, 1]]
    assert figures.ece == pytest.approx(0)  # 0.8 sure, 0.8 right
    assert list(figures.mistakes.path) == ["photos/anger/0003.jpg", "photos/happy/0007.jpg"]
    assert "accuracy 80.0% (95% interval 49.0–94.3%) · balanced accuracy 83.3%" in str(figures)


@st.composite
def tables(draw) -> pd.DataFrame:
    """Answers for 1–25 photos, some not read, of models that may never name a class, be sure, or wrong."""
    count = draw(st.integers(1, 25))
    classes = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    labels = draw(st.lists(st.sampled_from(classes), min_size=count, max_size=count))
    weights = st.one_of(
        st.sampled_from(list(np.eye(3))), st.lists(st.floats(0.01, 1), min_size=3, max_size=3)
    )
    rows = np.array(draw(st.lists(weights, min_size=count, max_size=count)), float)
    unread = draw(st.sets(st.integers(1, count)))  # the first one is always read
    rows[[index for index in unread if index < count]] = np.nan
    return answers(labels, rows / rows.sum(axis=1, keepdims=True))


@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label")
@settings(max_examples=40, deadline=None)
@given(tables())
def test_every_figure_is_scikit_learns(table):
    figures = report(table, NAMES, temperature=1.5)
    read = table[table.emotion.notna()]
    truth, answer = list(read.label), list(read.emotion)
    present = [name for name in NAMES if name in truth]
    assert figures.photos == len(read)
    assert figures.accuracy == pytest.approx(metrics.accuracy_score(truth, answer))
    assert figures.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, answer))
    each = {
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
        "f1": metrics.f1_score,
    }
    assert list(figures.per_class.index) == present
    for column, score in each.items():
        expected = score(truth, answer, labels=present, average=None, zero_division=0)
        np.testing.assert_allclose(figures.per_class[column], expected)
    assert figures.macro_f1 == pytest.approx(
        metrics.f1_score(truth, answer, labels=present, average="macro", zero_division=0)
    )
    for counts, normalize in ((figures.confusion, None), (figures.rates, "true")):
        expected = metrics.confusion_matrix(truth, answer, labels=NAMES, normalize=normalize)
        np.testing.assert_allclose(counts, expected)
    assert len(figures.mistakes) == sum(t != a for t, a in zip(truth, answer, strict=True))
    assert figures.mistakes.confidence.is_monotonic_decreasing
    assert figures.coverage.accuracy[1] == figures.accuracy
    assert figures.interval[0] <= figures.accuracy <= figures.interval[1]
    assert 0 <= figures.ece <= 1
    assert 0 <= figures.calibrated_ece <= 1
    assert "nan" not in str(figures)


def test_photos_of_which_none_was_read_are_no_report():
    table = predictions("a", "a").assign(emotion=None, confidence=np.nan)
    with pytest.raises(UserError, match="Not one of these photos could be read"):
        report(table, NAMES)


def test_without_duplicates_counts_the_other_photos_alone():
    table = predictions("aahhs", "ahhss")
    figures = report(table, NAMES, leaked=[table.path[1], Path(table.path[3]), "elsewhere.jpg"])
    assert figures.accuracy == 0.6
    rest = figures.without_duplicates
    assert (rest.photos, rest.accuracy) == (3, 1.0)
    assert rest.interval == report(table.iloc[[0, 2, 4]], NAMES).interval
    assert "without the 2 with a duplicate in training: accuracy 100.0% (43.9–100.0%)" in str(figures)
    assert report(table, NAMES).without_duplicates is None
    assert report(table, NAMES, leaked=[]).without_duplicates.photos == 5
    assert str(report(table, NAMES, leaked=[])).endswith("5 photos · none has a duplicate in training")
    everything = report(table, NAMES, leaked=table.path)
    assert everything.accuracy == 0.6 and everything.without_duplicates is None
    assert str(everything).endswith("5 photos · every photo has a duplicate in training")


def test_photos_with_a_duplicate_in_training_are_left_out(classifier, dataset):
    training_manifests(dataset)
    text = dataset.split.read_text().splitlines()
    source = dataset.data / next(line for line in text if ",train,0" in line).split(",")[0]
    copied = dataset.test / source.parent.name / "copy.jpg"
    copied.write_bytes(source.read_bytes())
    figures = evaluate(classifier, dataset.test, leaked=leaked_photos(dataset))
    assert (figures.photos, figures.without_duplicates.photos) == (13, 12)
    assert str(copied) not in set(figures.without_duplicates.predictions.path)


def test_without_the_training_photos_nobody_says_that_none_has_a_duplicate(classifier, dataset):
    shutil.rmtree(dataset.train)
    assert leaked_photos(dataset) is None
    dataset.train.mkdir()
    assert leaked_photos(dataset) is None
    photos, _ = labelled_photos("", classifier, dataset)
    assert "duplicate" not in str(evaluate(classifier, photos, leaked=leaked_photos(dataset)))


def test_calibrated_error_is_that_of_the_scaled_table():
    table = random_answers(300)
    figures = report(table, NAMES, temperature=2.0)
    scaled = report(apply_temperature(table, 2.0), NAMES)
    assert figures.calibrated_ece == scaled.ece < figures.ece
    assert figures.accuracy == scaled.accuracy
    assert f"calibration error {figures.ece:.3f} ({scaled.ece:.3f} at temperature 2.00)" in str(figures)


def test_evaluate_on_a_folder_counts_as_predict_answers(classifier, dataset):
    figures = evaluate(classifier, dataset.test)
    table = classifier.predict(dataset.test)
    labels = [path.rsplit("/", 2)[1] for path in table.path]
    assert figures.photos == 12
    assert figures.accuracy == pytest.approx(np.mean(table.emotion == labels))


def test_a_table_without_labels_is_one_sentence(classifier, dataset):
    with pytest.raises(UserError, match=r"^A table of photos needs the columns path and label\.$"):
        evaluate(classifier, classifier.predict(dataset.test))


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
    assert (len(manifest), kind) == (6, Split.TEST)
    manifest, kind = labelled_photos("", classifier, dataset)
    assert (len(manifest), kind) == (12, Split.TEST)
    assert labelled_photos(str(dataset.train), classifier, dataset)[1] is Split.TRAIN
    dataset.test.rename(tmp_path / "away")
    dataset.test.mkdir()
    manifest, kind = labelled_photos("", classifier, dataset)
    assert kind is Split.VAL
    assert 0 < len(manifest) < 12


def test_the_temperature_comes_from_the_validation_photos(classifier, dataset, tmp_path):
    _, validation = training_manifests(dataset)
    expected = fit_temperature(evaluate(classifier, validation).predictions)
    assert validation_temperature(classifier, dataset) == pytest.approx(expected)
    other = get_paths(tmp_path / "other")
    write_photos(other.train, 4, classes=("sad", "happy"))
    (other.train / "sad").rename(other.train / "joy")
    assert validation_temperature(classifier, other) is None
    assert validation_temperature(classifier, get_paths(tmp_path / "empty")) is None


@pytest.fixture
def colours(paths):
    """A project whose classes are colours, a fifth of its photos under a wrong one."""
    write_photos(paths.train, 40)
    write_photos(paths.test, 4, seed=1)
    for name, wrong in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True):
        for file in sorted((paths.train / name).iterdir())[:10]:
            file.rename(paths.train / wrong / f"wrong_{file.name}")
    return paths


@pytest.fixture
def too_sure(tmp_path):
    """It tells the colours, and is far surer than a fifth of wrong labels leaves it right."""
    head = keras.layers.Dense(3, "softmax")
    pooled = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *pooled, head])
    colours = np.array([COLORS[name] for name in NAMES], float) / 255
    # (3, 3): each class leans to its own colour
    head.set_weights([30 * (colours - colours.mean(axis=0)).T, np.zeros(3)])
    save_model(model, tmp_path / "too_sure.h5", {"class_names": NAMES, "val_accuracy": 0.8})
    return load_classifier(tmp_path / "too_sure.h5")


def test_calibrating_changes_confidences_and_no_answer_wherever_the_file_is_opened(too_sure, colours, capsys):
    before = too_sure.predict(colours.test)
    temperature = validation_temperature(too_sure, colours)
    assert 1.5 < temperature < 15
    calibrated = calibrate(too_sure, colours)
    assert f"divided by {temperature:.2f}; calibration error" in capsys.readouterr().out
    after = calibrated.predict(colours.test)
    pd.testing.assert_frame_equal(after, apply_temperature(before, temperature), check_dtype=False, atol=1e-4)
    assert list(after.emotion) == list(before.emotion)
    pictures = calibrated.load(list(before.path)).pixels
    stock = keras.models.load_model(calibrated.path, compile=False)
    np.testing.assert_allclose(stock.predict(pictures, verbose=0), after[list(NAMES)], atol=1e-4)
    assert calibrated.metadata["temperature"] == pytest.approx(temperature)
    assert 0 < calibrated.metadata["abstain_below"] < 1
    assert calibrated.metadata["val_accuracy"] == too_sure.metadata["val_accuracy"]
    again = calibrate(calibrated, colours)
    assert again.metadata["temperature"] == pytest.approx(temperature, rel=0.02)


def test_nine_of_ten_validation_photos_are_answered_above_abstain_below(too_sure, colours):
    calibrated = calibrate(too_sure, colours)
    _, validation = training_manifests(colours)
    confidence = calibrated.predict(list(validation.path)).confidence
    assert (confidence >= calibrated.metadata["abstain_below"] - 1e-5).mean() >= 0.9


def test_what_cannot_be_calibrated_is_a_sentence_and_the_file_stays(too_sure, classifier, colours, tmp_path):
    content = too_sure.path.read_bytes()
    with pytest.raises(UserError, match=r"is not a \.h5 of this project"):
        calibrate(Ensemble([too_sure, classifier]), colours)
    with pytest.raises(UserError, match="has no photos of the classes"):
        calibrate(too_sure, get_paths(tmp_path / "empty"))
    foreign = tmp_path / "foreign.h5"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]).save(
        foreign
    )
    with pytest.raises(UserError, match=r"is not a \.h5 of this project"):
        calibrate(load_classifier(foreign, class_names=NAMES, preprocessing="none"), colours)
    assert too_sure.path.read_bytes() == content


def test_photos_of_several_datasets_are_measured_apart(classifier, dataset):
    files = sorted(dataset.test.rglob("*.jpg"))
    photos = pd.DataFrame({"path": list(map(str, files)), "label": [file.parent.name for file in files]})
    assert evaluate(classifier, photos.assign(source="first")).by_source is None
    photos["source"] = ["first", "second", "second"] * 4
    made = evaluate(classifier, photos)
    assert list(made.by_source.photos) == [4, 8]
    for source, row in made.by_source.iterrows():
        alone = evaluate(classifier, photos[photos.source == source])
        expected = (alone.accuracy, alone.ece, alone.macro_f1)
        assert (row.accuracy, row.ece, row.macro_f1) == pytest.approx(expected, abs=1e-6)
        assert f"{source} {row.accuracy:.1%} (" in str(made)


def test_shown_paths_begin_at_the_folder_that_holds_all_photos(tmp_path):
    files = [str(tmp_path / "test" / name) for name in ("sad/1.jpg", "happy/2.jpg")]
    assert shown_paths(files) == ["test/sad/1.jpg", "test/happy/2.jpg"]
    assert shown_paths(shown_paths(files)) == shown_paths(files)
    assert shown_paths(files[:1]) == ["sad/1.jpg"]


def test_photos_of_other_labels_are_told_and_what_needs_none_goes_on(classifier, dataset, tmp_path, capsys):
    (dataset.train / "sad").rename(dataset.train / "joy")
    write_photos(tmp_path / "mine", 1)
    (tmp_path / "mine" / "happy").rename(tmp_path / "mine" / "joy")
    for folder in ("", str(tmp_path / "mine")):
        photos, split = labelled_photos(folder, classifier, dataset)
        assert list(photos.columns) == ["path", "label"] and photos.empty and split is None
        said = capsys.readouterr().out
        assert "labelled joy, but" in said and "no accuracy is measured" in said and said.count("\n") == 1
        assert report_on(classifier, photos, split, dataset) is None
    assert not dataset.split.exists() and not dataset.class_names.exists()  # nothing was read for it
    write_photos(tmp_path / "theirs", 1)
    photos, split = labelled_photos(str(tmp_path / "theirs"), classifier, dataset)
    assert report_on(classifier, photos, split, dataset, leaks=False).temperature is None


def test_photos_to_train_on_are_not_said_to_have_no_duplicate_in_training(classifier, dataset):
    made = report_on(classifier, *labelled_photos(dataset.train, classifier, dataset), dataset)
    assert made.split is Split.TRAIN and "duplicate" not in str(made)


def test_a_report_on_photos_that_the_model_knows_says_so():
    table = random_answers(9)
    told = {split: str(report(table, NAMES, split=split)) for split in (None, *Split)}
    assert "chose its best epoch" in told[Split.VAL] and "it has seen these photos" in told[Split.TRAIN]
    assert told[None] == told[Split.TEST] == told[Split.VAL].splitlines()[0]


def test_no_labelled_photos_is_said_and_no_mistake(classifier, paths, capsys):
    manifest, kind = labelled_photos("", classifier, paths)
    assert (len(manifest), kind) == (0, None)
    assert "no labelled photos" in capsys.readouterr().out


def test_test_figures_go_into_the_row_of_the_run(classifier, dataset, capsys):
    number = log_run({"base_model": "vgg16", "model_file": classifier.path.name}, dataset)
    log_run({"base_model": "another"}, dataset)

    def on_photos_of(folder, truth, answered):
        table = predictions(3 * truth, 3 * answered)
        files = [folder / file.relative_to(dataset.test) for file in sorted(dataset.test.rglob("*.jpg"))]
        return report(table.assign(path=list(map(str, files))), NAMES)

    assert log_test(on_photos_of(dataset.test, "aaah", "aahh"), classifier, dataset) == number
    # answers that are more than the model's own have no row, and other photos are another test
    wrong = on_photos_of(dataset.test, "aaaa", "hhhh")
    assert log_test(wrong, classifier.with_flip(), dataset) is None
    assert log_test(wrong, Ensemble([classifier]), dataset) is None
    assert log_test(on_photos_of(dataset.root / "mine", "aaaa", "hhhh"), classifier, dataset) is None
    assert "Not logged" not in capsys.readouterr().out
    table = read_table(dataset).set_index("number")
    assert table.loc[number, "test_accuracy"] == 75
    assert table.loc[number, "macro_f1"] == pytest.approx(0.733)


def test_photos_that_the_split_holds_out_are_tested_on_and_logged(classifier, dataset):
    shutil.rmtree(dataset.test)
    photos = scan_splits(dataset)
    split_photos(photos, find_duplicates(photos), dataset, test=0.25)
    number = log_run({"model_file": classifier.path.name}, dataset)
    train, val = training_manifests(dataset)
    assert (len(train), len(val)) == (21, 6)
    assert log_test(evaluate(classifier, train), classifier, dataset) is None
    manifest, kind = labelled_photos("", classifier, dataset)
    made = report_on(classifier, manifest, kind, dataset)
    assert (kind, made.photos) == (Split.TEST, 9)
    assert not set(manifest.path) & {*train.path, *val.path}
    assert read_table(dataset).set_index("number").test_accuracy[number] == round(100 * made.accuracy, 1)


def test_a_part_of_the_photos_held_out_is_not_logged(classifier, dataset, capsys):
    """Such as the folder data/test, where a second dataset has its own share."""
    number = log_run({"model_file": classifier.path.name, "test_accuracy": 12.3}, dataset)
    load_split(dataset)
    table = pd.read_csv(dataset.split, keep_default_na=False)
    second = table["path"].str.contains("train/.*_00[01]")
    table.loc[second, ["split", "source"]] = "test", "second"
    table.to_csv(dataset.split, index=False)
    whole = held_out_manifest(dataset)
    assert len(whole) == 18

    def logged():
        return read_table(dataset).set_index("number").test_accuracy[number]

    alone, split = labelled_photos(str(dataset.test), classifier, dataset)
    capsys.readouterr()
    for part, count in ((alone, 12), (whole.head(3), 3), (whole.tail(1), 1)):
        assert report_on(classifier, part, split, dataset).photos == count
        assert f"Not logged: {count} of the 18 photos held out to test;" in capsys.readouterr().out
    train, _ = training_manifests(dataset)
    assert log_test(evaluate(classifier, pd.concat([whole, train.head(1)])), classifier, dataset) is None
    assert "Not logged: 18 of the 18 photos held out to test and 1 other;" in capsys.readouterr().out
    assert logged() == 12.3
    made = report_on(classifier, whole, split, dataset)
    assert "Not logged" not in capsys.readouterr().out
    assert logged() == round(100 * made.accuracy, 1)


def test_photos_held_out_that_cannot_be_read_are_no_part_of_the_test(classifier, dataset, capsys):
    number = log_run({"model_file": classifier.path.name}, dataset)
    load_split(dataset)
    shutil.rmtree(dataset.train)  # only what lies in data/test is known then
    (dataset.test / "sad" / "broken.jpg").write_bytes(b"no picture")
    photos, split = labelled_photos("", classifier, dataset)
    assert len(photos) == 13
    made = report_on(classifier, photos, split, dataset)
    assert made.photos == 12 and "Not logged" not in capsys.readouterr().out
    assert read_table(dataset).set_index("number").test_accuracy[number] == round(100 * made.accuracy, 1)
    report_on(classifier, photos.head(5), split, dataset)
    assert "Not logged: 5 of the 13 photos held out to test;" in capsys.readouterr().out


def test_submission_has_the_competitions_form_and_overwrites_nothing(tmp_path):
    table = predictions("aah", "ahs").assign(path=["/x/1.jpg", "/x/2.jpg", "/x/3.jpg"])
    first = write_submission(table, tmp_path / "predictions.csv")
    second = write_submission(table.iloc[:1], tmp_path / "predictions.csv")
    assert (first.name, second.name) == ("predictions.csv", "predictions_2.csv")
    assert first.read_bytes().startswith("\ufeffimage_path".encode())  # for Excel
    with first.open(encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    assert rows == [["image_path", "emotion"], ["1.jpg", "anger"], ["2.jpg", "happy"], ["3.jpg", "sad"]]


def test_a_name_in_another_encoding_does_not_lose_the_submission(tmp_path):
    table = predictions("aa", "ah").assign(path=["/x/1.jpg", "/x/\udcef\udcf0.jpg"])
    file = write_submission(table, tmp_path / "predictions.csv")
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    assert lines == ["image_path,emotion", "1.jpg,anger", "\\udcef\\udcf0.jpg,happy"]


def competition(tmp_path, text: str, encoding: str = "utf-8"):
    """Answers for three photos, and the competition's own example."""
    (tmp_path / "sample_submission.csv").write_text(text, encoding=encoding)
    table = predictions("aah", "ahs").assign(path=["/x/1.jpg", "/x/2.jpg", "/x/3.jpg"])
    return table, tmp_path / "answers.csv", tmp_path / "sample_submission.csv"


def test_a_submission_has_the_rows_order_and_header_of_the_sample(tmp_path):
    table, file, sample = competition(tmp_path, "Id,mood\ntest/3.jpg,sad\ntest/1.jpg,sad\ntest/2.jpg,sad\n")
    written = write_submission(table, file, sample)
    assert written.read_text() == "Id,mood\ntest/3.jpg,sad\ntest/1.jpg,anger\ntest/2.jpg,happy\n"
    alone = write_submission(table, file, tmp_path / "none.csv").read_text(encoding="utf-8-sig")
    assert alone.startswith("image_path,emotion\n")


def test_a_submission_has_a_byte_order_mark_where_the_sample_has_one(tmp_path):
    text = "Id,mood\n3.jpg,sad\n1.jpg,sad\n2.jpg,sad\n"
    for encoding, mark in (("utf-8", ""), ("utf-8-sig", "\ufeff")):
        written = write_submission(*competition(tmp_path, text, encoding))
        assert written.read_text(encoding="utf-8") == f"{mark}Id,mood\n3.jpg,sad\n1.jpg,anger\n2.jpg,happy\n"


def test_on_a_full_disk_no_submission_is_begun(full_disk):
    table = random_answers(2000)
    full_disk.fill(leave=8192)
    with pytest.raises(UserError, match=r"predictions\.csv cannot be written \(No space left on device\)"):
        write_submission(table, full_disk.folder / "predictions.csv")
    assert [file.name for file in full_disk.folder.iterdir()] == ["filler"]
    full_disk.empty()
    assert len(write_submission(table, full_disk.folder / "predictions.csv").read_text().splitlines()) == 2001


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_path,emotion\n1.jpg,a\n2.jpg,a\n", r"has 2 rows and there are 3 answers: 3\.jpg too many;"),
        (
            "image_path,emotion\n" + "".join(f"{number}.jpg,a\n" for number in range(2, 9)),
            r"7 rows and there are 3 answers: 4\.jpg, 5\.jpg, 6\.jpg and 2 more missing, 1\.jpg too many;",
        ),
        ("image_path,emotion\n1.jpg,a\n1.jpg,a\n2.jpg,a\n3.jpg,a\n", r"1\.jpg missing;"),
        ("image_path\n1.jpg\n", "has the columns image_path, where a submission has two"),
        ("", "is not a CSV"),
        ("image_path,emotion\n1.jpg,a\n2.jpg,a,b\n", r"is not a CSV \(.*line 3.*\);"),
    ],
)
def test_a_sample_of_other_photos_is_told_by_name_and_nothing_written(tmp_path, text, says):
    table, file, sample = competition(tmp_path, text)
    with pytest.raises(UserError, match=says) as told:
        write_submission(table, file, sample)
    assert str(sample) in str(told.value) and "\n" not in str(told.value)
    assert not file.exists()


def test_photos_of_one_name_in_two_folders_do_not_fit_a_sample(tmp_path):
    table, file, sample = competition(tmp_path, "image_path,emotion\n1.jpg,a\n2.jpg,a\n")
    table["path"] = ["/x/1.jpg", "/y/1.jpg", "/x/2.jpg"]
    with pytest.raises(UserError, match=r"1\.jpg twice among the photos"):
        write_submission(table, file, sample)


@pytest.mark.parametrize("with_sample", [False, True])
def test_a_photo_that_was_not_read_keeps_its_row_and_is_named(tmp_path, capsys, with_sample):
    table, file, sample = competition(tmp_path, "image_path,emotion\n3.jpg,a\n2.jpg,a\n1.jpg,a\n")
    table.loc[1, "emotion"] = None
    written = write_submission(table, file, sample if with_sample else None)
    rows = written.read_text(encoding="utf-8-sig").splitlines()
    assert sorted(rows) == ["1.jpg,anger", "2.jpg,", "3.jpg,sad", "image_path,emotion"]
    assert "2.jpg could not be read: the emotion is empty in answers.csv" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["label", "confidence"])
def test_a_model_with_a_class_named_as_a_column_is_refused(tmp_path, name):
    model = build_model(get_experiment("10", backbone="vgg16", weights=None, image_size=32), 3)
    save_model(model, tmp_path / "ours.h5", {"class_names": ["anger", name, "sad"]})
    says = rf"ours\.h5 \(class names from the file itself\) has a class named '{name}', which is a column"
    with pytest.raises(UserError, match=says):
        load_classifier(tmp_path / "ours.h5")


def damaged(model_file, tmp_path, value, layer=-1):
    """The model with `value` in a weight of one of its layers."""
    import keras

    model = keras.models.load_model(model_file, compile=False)
    weights = model.layers[layer].get_weights()
    weights[0].flat[0] = value
    model.layers[layer].set_weights(weights)
    save_model(model, tmp_path / "damaged.h5", {"class_names": list(NAMES)})
    return tmp_path / "damaged.h5"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_the_models_fault_and_not_the_photos(model_file, dataset, tmp_path, value):
    (dataset.test / "sad" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"damaged\.h5.*(NaN|not finite)"):
        evaluate(load_classifier(damaged(model_file, tmp_path, value)), dataset.test)


def test_memory_that_runs_out_in_evaluation_is_one_sentence(model_file, dataset, monkeypatch):
    classifier = load_classifier(model_file)

    def greedy(*_):
        np.empty((10**9, 10**9))

    monkeypatch.setattr(classifier, "_forward", greedy)
    with pytest.raises(UserError, match="needs more memory than is free for one picture"):
        evaluate(classifier, dataset.test)
