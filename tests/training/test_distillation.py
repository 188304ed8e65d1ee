"""A run taught by a finished model."""

import dataclasses

import keras
import numpy as np
import pytest

import tests.tiny  # noqa: F401 -- a backbone
from emo.data.image_io import load_images
from emo.data.manifest import class_names
from emo.errors import UserError
from emo.experiments import Experiment
from emo.inference.classifier import load_classifier
from emo.models.augmentation import augmentation
from emo.models.build import build_model
from emo.models.saving import read_metadata
from emo.paths import get_paths
from emo.training.batches import Batches
from emo.training.checkpoint import run_key
from emo.training.distillation import load_teacher, soft_labels
from emo.training.optimizer import build_loss
from emo.training.plan import prepare_run
from emo.training.train import train
from emo.training.trainer import Trainer
from tests.fixtures import COLORS, write_metadata, write_photos

NAMES = tuple(COLORS)
TINY = Experiment(
    "tiny", "tiny", ("avg_pool",), "adam", 3e-4, weights=None, unfreeze="all", augment=True, image_size=32,
    batch_size=4, epochs=6, precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model that tells the colours apart, and the photos that it learned from."""
    paths = get_paths(tmp_path_factory.mktemp("teacher"))
    write_photos(paths.train, 12)
    run = train(TINY, paths)
    assert run.val_accuracy > 0.6
    return run.model_path, paths


def test_a_student_learns_from_the_teacher_what_the_labels_hide(teacher, tmp_path):
    file, _ = teacher
    paths = get_paths(tmp_path)
    write_photos(paths.train, 12, seed=1)
    write_photos(paths.val, 4, seed=2)
    # every training photo has the label of another colour
    folders = [paths.train / name for name in NAMES]
    for folder in folders:
        folder.rename(folder.with_name(f".{folder.name}"))
    for folder, name in zip(folders, (*NAMES[1:], NAMES[0]), strict=True):
        folder.with_name(f".{name}").rename(folder)
    alone = train(TINY, paths)
    taught = train(dataclasses.replace(TINY, teacher=str(file), teacher_weight=1.0), paths)
    assert taught.val_accuracy >= 0.6 > 0.4 > alone.history["val_accuracy"].iloc[-1]
    # what is saved is the student alone, as a run without a teacher saves it
    models = [keras.models.load_model(run.model_path) for run in (alone, taught)]
    assert len({tuple(weight.shape for weight in model.weights) for model in models}) == 1


def test_the_loss_shares_the_label_with_the_teacher_on_the_same_picture(teacher):
    file, paths = teacher
    experiment = dataclasses.replace(TINY, teacher=str(file), teacher_weight=0.4, label_smoothing=0.1)
    photos = sorted(paths.train.rglob("*.jpg"))[::5]
    pictures, labels = load_images(photos, 32), np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0, 1]]
    layer, network = augmentation(experiment), build_model(experiment, 3)
    inputs, _ = Batches([pictures], labels, 8, seed=1, augmentation=layer)[0]
    student = Trainer(network, layer, soft_labels(load_teacher(experiment, NAMES)), experiment.teacher_weight)
    student.compile("sgd", build_loss(experiment))
    # its states and files hold nothing of the teacher
    assert {id(weight) for weight in student.weights} == {id(weight) for weight in network.weights}

    seen = np.asarray(layer(*inputs, training=True))
    said = load_classifier(file).probabilities(seen)
    answers, soft = student(inputs, training=True)  # both of the picture augmented once
    np.testing.assert_allclose(soft, said, atol=1e-5)
    np.testing.assert_allclose(answers, network(seen, training=True), atol=1e-5)
    assert np.ptp(said, axis=0).max() > 0.05  # else it would not matter what it sees
    target = 0.9 * (0.6 * labels + 0.4 * said) + 0.1 / 3
    by_hand = -(target * np.log(answers)).sum(axis=1).mean()
    loss = student.compute_loss(inputs, labels, (answers, soft))
    assert float(loss) == pytest.approx(by_hand, rel=1e-4)
    # validation is measured on the labels
    by_hand = -((0.9 * labels + 0.1 / 3) * np.log(answers)).sum(axis=1).mean()
    loss = student.compute_loss(inputs, labels, answers, training=False)
    assert float(loss) == pytest.approx(by_hand, rel=1e-4)


def test_a_teacher_sees_pictures_in_its_own_size(teacher):
    file, paths = teacher
    experiment = dataclasses.replace(
        TINY, teacher=str(file), teacher_weight=0.5, augment=False, image_size=64
    )
    photos = paths.train.rglob("*.jpg")
    pictures = load_images(sorted(photos)[:6], 64)
    answer = soft_labels(load_teacher(experiment, NAMES))
    small = keras.ops.image.resize(pictures.astype(np.float32), (32, 32), antialias=True)
    expected = load_classifier(file).probabilities(np.asarray(small))
    np.testing.assert_allclose(answer(pictures), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "classes", "words"),
    [
        ({}, ("anger", "happy"), "answers with anger, happy, sad, the photos have anger, happy"),
        ({"face_margin": 0.3}, NAMES, "face_margin=None, this run has 0.3"),
        ({"teacher": "nowhere.h5"}, NAMES, r"^teacher='nowhere\.h5': .*no model file nowhere\.h5"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_in_a_sentence(teacher, changed, classes, words):
    experiment = dataclasses.replace(TINY, **({"teacher": str(teacher[0]), "teacher_weight": 0.5} | changed))
    with pytest.raises(UserError, match=words):
        load_teacher(experiment, classes)


def test_a_teacher_without_class_names_is_refused(teacher, tmp_path):
    file, paths = teacher
    nameless = tmp_path / "nameless.h5"
    nameless.write_bytes(file.read_bytes())
    write_metadata(nameless, "{}")
    assert read_metadata(nameless) == {}
    experiment = dataclasses.replace(TINY, teacher=str(nameless), teacher_weight=0.5)
    with pytest.raises(UserError, match="classes that it does not name"):
        load_teacher(experiment, class_names(paths))


def test_a_model_of_the_project_teaches_and_is_a_start_by_the_name_that_the_pages_give(
    teacher, tmp_path, monkeypatch, capsys
):
    file, trained = teacher
    paths = get_paths(trained.root, tmp_path / "drive")  # as with USE_DRIVE
    (paths.model / "mine.h5").write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    named = {"teacher": "model/mine.h5", "teacher_weight": 0.5, "weights": "mine.h5", "epochs": 1}
    run = train(dataclasses.replace(TINY, **named), paths)
    said = capsys.readouterr().out
    assert f"teacher='model/mine.h5' is {paths.model / 'mine.h5'}." in said and "head starts from" in said
    kept = read_metadata(run.model_path)["experiment"]
    assert (kept["teacher"], kept["weights"]) == ("model/mine.h5", "mine.h5")


def test_a_run_has_the_same_key_wherever_its_teacher_lies(teacher, tmp_path, monkeypatch):
    file, trained = teacher
    paths = get_paths(trained.root, tmp_path / "drive")
    experiment = dataclasses.replace(TINY, teacher="model/mine.h5", teacher_weight=0.5)
    keys = []
    for folder in (tmp_path, paths.results):
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model/mine.h5").write_bytes(file.read_bytes())
        monkeypatch.chdir(tmp_path)
        keys.append(run_key(prepare_run(experiment, paths)))
        (folder / "model/mine.h5").unlink()
    assert keys[0] == keys[1]
    with pytest.raises(UserError, match=r"^teacher='model/mine\.h5': there is no such file in "):
        prepare_run(experiment, paths)


def test_a_run_on_other_photos_of_the_same_names_has_another_key(dataset):
    def key():
        return run_key(prepare_run(TINY, dataset))

    before, photo = key(), next(dataset.train.rglob("*.jpg"))
    assert key() == before
    photo.write_bytes(photo.read_bytes() + b"\0")
    assert key() != before


def test_emo_mini_teaches_by_its_name():
    experiment = dataclasses.replace(TINY, teacher="emo_mini", teacher_weight=0.5)
    names = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert load_teacher(experiment, names).output_shape == (None, 7)
