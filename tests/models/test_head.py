"""A finished model's head as the start of a new one's."""

import dataclasses

import numpy as np
import pytest

from emo.experiments import get_experiment
from emo.models.build import build_model
from emo.models.head import bring_head
from emo.models.loading import load_model
from emo.models.saving import save_model
from emo.paths import EMO_MINI
from emo.training.train import train
from tests.fixtures import write_photos

MINI = get_experiment("finetune_mini")


def outputs(model):
    return model.get_layer("probabilities").get_weights()


def test_classes_of_the_same_emotion_start_from_the_file_whatever_they_are_called(capsys):
    names = ("Happiness", "bored", "anger", "грусть")
    model = build_model(MINI, len(names))
    (before, _), known = outputs(model), load_model(EMO_MINI)[0]
    bring_head(model, MINI, names)
    kernel, bias = outputs(model)
    # angry, disgust, fear, happy, neutral, sad, surprise
    for place, theirs in ((0, 3), (2, 0), (3, 5)):
        np.testing.assert_array_equal(kernel[:, place], outputs(known)[0][:, theirs])
        assert bias[place] == outputs(known)[1][theirs]
    np.testing.assert_array_equal(kernel[:, 1], before[:, 1])
    assert "emo_mini.h5, too, which knows 3 of the 4 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"weights": None}, ("happy", "sad")),
        ({}, ("cat", "dog")),
        ({"head": ("avg_pool", "dense 8")}, ("happy", "sad")),
    ],
)
def test_a_head_that_does_not_fit_stays_as_it_is(changes, names, capsys):
    experiment = dataclasses.replace(MINI, **changes)
    model = build_model(experiment, 2)
    before = model.get_weights()
    bring_head(model, experiment, names)
    for mine, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, was)
    assert capsys.readouterr().out == ""


def test_hidden_layers_of_a_head_come_along(tmp_path):
    experiment = dataclasses.replace(MINI, head=("avg_pool", "dense 8", "dropout 0.1", "dense 4"))
    taught = build_model(dataclasses.replace(experiment, seed=7), 2)
    metadata = {"class_names": ["happy", "sad"], "experiment": dataclasses.asdict(experiment)}
    save_model(taught, tmp_path / "taught.h5", metadata)
    experiment = dataclasses.replace(experiment, weights=str(tmp_path / "taught.h5"))
    model = build_model(experiment, 2)
    bring_head(model, experiment, ("sad", "happy"))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3)).astype("f4")
    np.testing.assert_allclose(model(pictures), np.asarray(taught(pictures))[:, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        (("flatten", "dense 8"), {"image_size": 64}),
        (("flatten",), {"image_size": 64}),
        (("flatten", "dense 8"), {"head": ("avg_pool", "dense 8")}),
    ],
)
def test_a_head_whose_layers_take_another_number_of_inputs_begins_again(head, changes, tmp_path, capsys):
    experiment = dataclasses.replace(MINI, head=head)
    metadata = {"class_names": ["happy", "sad"], "experiment": dataclasses.asdict(experiment)}
    save_model(build_model(experiment, 2), tmp_path / "taught.h5", metadata)
    experiment = dataclasses.replace(experiment, weights=str(tmp_path / "taught.h5"), **changes)
    model = build_model(experiment, 2)
    before = model.get_weights()
    capsys.readouterr()
    bring_head(model, experiment, ("happy", "sad"))
    for mine, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, was)
    assert capsys.readouterr().out == ""


def test_weights_alone_have_no_head(tmp_path):
    build_model(MINI, 2).get_layer("emo_mini").save_weights(tmp_path / "alone.weights.h5")
    experiment = dataclasses.replace(MINI, weights=str(tmp_path / "alone.weights.h5"))
    bring_head(build_model(experiment, 2), experiment, ("happy", "sad"))


def test_a_run_from_the_weights_that_come_with_the_project_knows_faces_at_once(paths, capsys):
    write_photos(paths.train, 4, ("happy", "sad"))
    write_photos(paths.val, 2, ("happy", "sad"), seed=1)
    run = train(dataclasses.replace(MINI, epochs=1, batch_size=4), paths)
    assert "knows 2 of the 2 classes" in capsys.readouterr().out
    assert run.model_path.exists()
