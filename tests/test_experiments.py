import contextlib
import dataclasses
import json
import re

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo.errors import UserError
from emo.experiments import (
    CROSSENTROPY,
    EXPERIMENTS,
    RENAMED,
    Experiment,
    describe_experiment,
    experiment_menu,
    get_experiment,
    parse_changes,
)
from emo.models.backbones import BACKBONES, get_backbone
from emo.models.build import build_model
from emo.models.saving import save_model
from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.training.optimizer import build_loss, build_optimizer

SMALLEST = {"resnet50": 32, "vgg16": 32, "xception": 71}


@pytest.mark.parametrize("row", ORIGINAL_ROWS, ids=lambda row: str(row["number"]))
def test_the_eleven_are_those_of_the_original_table(row):
    """Builds each, and compares layers, optimizer and the rest with the original table's words."""
    experiment = EXPERIMENTS[str(row["number"])]
    assert experiment.backbone == row["base_model"].lower()
    assert experiment.epochs == int(row["epochs"])
    assert experiment.augment == (str(row["augmentation"]).startswith("да") or row["augmentation"] is True)
    assert row["loss"].strip("'") == CROSSENTROPY

    small = dataclasses.replace(experiment, weights=None, image_size=SMALLEST[experiment.backbone])
    model = build_model(small, class_count=9)
    network = model.get_layer(experiment.backbone)
    built = model.layers[model.layers.index(network) + 1 :]
    written = re.findall(r"layers\.(\w+)\(([^)]*)\)", row["extra_layers"])
    assert [type(layer).__name__ for layer in built] == [name for name, _ in written]
    for layer, (name, arguments) in zip(built, written, strict=True):
        if name == "Dense":
            units, activation = re.fullmatch(r"(\w+), activation='(\w+)'", arguments).groups()
            assert layer.units == (9 if units == "p_num_classes" else int(units))
            assert layer.activation.__name__ == activation
        elif name == "Dropout":
            assert layer.rate == float(arguments)

    trained = {layer.name for layer in network.layers if layer.trainable}
    if "conv5" in row["extra_layers"]:
        assert trained == {layer.name for layer in network.layers if layer.name.startswith("conv5")}
    else:
        assert not trained

    optimizer = build_optimizer(experiment, steps_per_epoch=10)
    assert type(optimizer).__name__ == re.search(r"optimizers\.(\w+)\(", row["optimizer"]).group(1)
    for field, value in re.findall(r"(\w+)=([\d.]+)", row["optimizer"]):
        assert float(keras.ops.convert_to_numpy(getattr(optimizer, field))) == pytest.approx(float(value))


def test_there_are_eleven_and_no_third():
    assert list(EXPERIMENTS)[:11] == ["1", "2", *map(str, range(4, 13))]


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"epoch": 2}, "did you mean 'epochs'"),
        ({"backbone": "resnet"}, "resnet50, vgg16, xception"),
        ({"backbone": ["vgg16"]}, "resnet50, vgg16, xception"),
        ({"head": 5}, "tuple"),
        ({"unfreeze": "conv6"}, "conv1, conv2, conv3, conv4, conv5"),
        ({"head": ("avg_pool", "dense x")}, "dense UNITS"),
        ({"head": ("dropout 0.5",)}, "'flatten' or 'avg_pool'"),
        ({"head": ("avg_pool", "dropout 1.5")}, "dropout RATE"),
        ({"head": "flatten"}, "tuple"),
        ({"optimizer": "sdg"}, "sgd, adam"),
        ({"optimizer": "adam"}, "set it to 0"),
        ({"loss": "mse"}, "its fields are name, backbone"),
        ({"imagesize": 96}, "did you mean 'image_size'"),
        ({"average": 0.9}, "it is called 'ema' now"),
        ({"image_size": 64, "backbone": "xception", "unfreeze": "none"}, "from 71 on for xception"),
        ({"warmup_epochs": 11, "schedule": "cosine", "epochs": 10}, "from 0 to epochs=10"),
        ({"learning_rate": 0}, "above 0"),
        ({"learning_rate": float("nan")}, "a number"),
        ({"epochs": 2.5}, "whole number"),
        ({"epochs": True}, "whole number"),
        ({"image_size": 16}, "from 32"),
        ({"batch_size": "32"}, "whole number"),
        ({"augment": "no"}, "True, False"),
        ({"weights": ""}, "imagenet"),
        ({"teacher": ""}, "a .h5 or None"),
        ({"teacher": "a.h5"}, "a weight above 0"),
        ({"teacher_weight": 0.5}, "None and 0"),
        ({"teacher": "a.h5", "teacher_weight": 1.5}, "0 to 1"),
        ({"teacher": "a.h5", "teacher_weight": 0.5, "views": 1}, "set views=0"),
        ({"precision": "half"}, "mixed_float16"),
        ({"color_jitter": 1.5}, "to 1"),
        ({"color_jitter": 0.3, "augment": False}, "set augment=True, or color_jitter=0"),
        ({"random_erasing": 1}, "from 0"),
        ({"random_erasing": 0.5, "augment": False, "views": 2}, "set augment=True, or random_erasing=0"),
        ({"mix": "mixcut"}, "none, mixup, cutmix"),
        ({"mix": "cutmix", "augment": False}, "set augment=True, or mix='none'"),
        ({"mix": "mixup", "views": 2}, "set views=0"),
        ({"batch_size": 31, "mix": "mixup"}, "even"),
        ({"class_balance": -0.5}, "from 0"),
        ({"views": -1}, "from 0"),
        ({"views": True}, "whole number"),
        ({"views": 2, "unfreeze": "all"}, "freezes nothing"),
        ({"face_margin": -0.1}, "from 0"),
        ({"face_margin": True}, "a number"),
        ({"face_margin": 0.3, "use_augmented_copy": True}, "augment=True"),
    ],
)
def test_wrong_values_name_the_field_and_what_is_allowed(changes, allowed):
    with pytest.raises(UserError) as raised:
        dataclasses.replace(EXPERIMENTS["12"], **changes)
    assert next(iter(changes)) in str(raised.value)
    assert allowed in str(raised.value)


def test_get_experiment_changes_fields_and_names_the_others():
    assert get_experiment("6", epochs=2, name="mine").epochs == 2
    assert get_experiment(6) == EXPERIMENTS["6"]  # a command line makes a number of it
    with pytest.raises(UserError, match="1, 2, 4"):
        get_experiment("3")


def test_a_whole_number_is_a_learning_rate_too():
    assert build_optimizer(get_experiment("6", learning_rate=1), 10).learning_rate == 1


def test_json_round_trip():
    experiment = get_experiment("8", weights=None, image_size=96, face_margin=0.3)
    assert Experiment.from_json(experiment.to_json()) == experiment


def test_what_was_written_before_fields_were_renamed_is_read():
    """A `.h5` of that time (row 17's), and a row with each of the older names."""
    old = json.loads(
        '{"name": "emo_mini", "backbone": "emo_mini", "head": ["avg_pool", "dropout 0.4"], '
        '"optimizer": "adamw", "learning_rate": 0.002, "momentum": 0.0, "weight_decay": 0.05, '
        '"schedule": "cosine", "warmup_epochs": 1, "loss": "categorical_crossentropy", '
        '"label_smoothing": 0.1, "average": 0.998, "augment": true, "augment_strength": 0.7, '
        '"use_augmented_copy": false, "relabel": true, "views": 0, "epochs": 32, "unfreeze": "all", '
        '"weights": null, "face_margin": null, "image_size": 48, "batch_size": 64, "precision": '
        '"auto", "seed": 42}'
    )
    experiment = Experiment.from_json(json.dumps(old))
    assert experiment.ema == old["average"] > 0
    old |= {"color": 0.25, "erase": 0.5, "balance": 1.0}
    experiment = Experiment.from_json(json.dumps(old))
    assert [getattr(experiment, new) for new in RENAMED.values()] == [old[name] for name in RENAMED]
    with pytest.raises(UserError, match="loss='categorical_focal_crossentropy' is no longer supported"):
        Experiment.from_json(json.dumps(old | {"loss": "categorical_focal_crossentropy"}))


@pytest.mark.parametrize(
    "text",
    [
        "epochs=3, unfreeze=conv5, augment=False, weights=None, learning_rate=1e-3",
        "epochs = 3,unfreeze='conv5', augment=False,weights=None,learning_rate=0.001",
        '{"epochs": 3, "unfreeze": "conv5", "augment": false, "weights": null, "learning_rate": 1e-3}',
        "{'epochs': 3, 'unfreeze': 'conv5', 'augment': False, 'weights': None, 'learning_rate': 0.001}",
        {"epochs": 3, "unfreeze": "conv5", "augment": False, "weights": None, "learning_rate": 1e-3},
    ],
)
def test_changes_are_a_dict_its_json_or_text(text):
    """As a form, a command line or papermill hands them over."""
    expected = {"epochs": 3, "unfreeze": "conv5", "augment": False, "weights": None, "learning_rate": 1e-3}
    assert parse_changes(text) == expected
    assert get_experiment("12", **parse_changes(text)).epochs == 3


@pytest.mark.parametrize(
    "file", ["model/emo mini-2.h5", "/content/drive/13.h5", r"C:\models\mine.h5", "~/a.h5"]
)
def test_a_file_alone_needs_no_quotes(file):
    """The shell takes them away: `--set teacher=model/mine.h5`."""
    assert (
        parse_changes(f"teacher={file}")
        == parse_changes(f'teacher="{file}"'.replace("\\", "\\\\"))
        == {"teacher": file}
    )


@pytest.mark.parametrize("nothing", ["", "  ", None, {}, "{}"])
def test_no_changes(nothing):
    assert parse_changes(nothing) == {}


@pytest.mark.parametrize(
    "text",
    [
        "epochs",
        "3",
        "epochs=",
        "{epochs: 3}",
        "{1: 2}",
        "{1}",
        "[1]",
        5,
        "f(**x)",
        "a=open('x')",
        "(",
        "epochs=3, epochs=4",
    ],
)
def test_changes_that_cannot_be_read_are_a_sentence(text):
    with pytest.raises(UserError, match="cannot be read; give a dict"):
        parse_changes(text)


@given(st.text(max_size=40))
def test_no_text_of_changes_runs_anything_or_crashes(text):
    with contextlib.suppress(UserError):
        assert isinstance(parse_changes(text), dict)


def test_every_entry_of_the_menu_is_an_experiment_and_finetune_comes_first():
    chosen = [get_experiment(entry).name for entry in experiment_menu()]
    assert chosen[0] == "finetune"
    assert sorted(chosen) == sorted(EXPERIMENTS)


def test_what_differs_from_the_defaults_is_told_with_its_meaning():
    table = describe_experiment(get_experiment("emo_mini", epochs=5, momentum=0.0))
    assert table.value["epochs"] == 5 and table.default["epochs"] == 10
    assert "moving average of the weights" in table.meaning["ema"]
    assert "momentum" not in table.index and "seed" not in table.index


@pytest.mark.parametrize("backbone", BACKBONES)
def test_finetune_lets_every_layer_of_every_backbone_learn(backbone):
    size = get_backbone(backbone).min_size
    model = build_model(get_experiment("finetune", backbone=backbone, weights=None, image_size=size), 7)
    learning = {layer.name for layer in model.get_layer(backbone).layers if layer.trainable}
    assert learning == {layer.name for layer in model.get_layer(backbone).layers}


def test_cosine_rises_over_the_warm_up_and_falls_to_nothing():
    recipe = get_experiment("finetune", epochs=10, warmup_epochs=2)
    rate = build_optimizer(recipe, steps_per_epoch=100)._learning_rate
    steps = [float(rate(step)) for step in (0, 100, 200, 600, 1000)]
    np.testing.assert_allclose(np.divide(steps, recipe.learning_rate), [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_label_smoothing_is_in_the_loss():
    answers, truth = np.float32([[0.7, 0.2, 0.1]]), np.float32([[1, 0, 0]])
    smooth = (1 - 0.3) * truth + 0.3 / 3
    loss = build_loss(get_experiment("6", label_smoothing=0.3))
    assert float(loss(truth, answers)) == pytest.approx(-(smooth * np.log(answers)).sum(), rel=1e-5)


def test_what_belongs_to_another_optimizer_is_refused():
    with pytest.raises(UserError, match=r"weight_decay=0.1 belongs to optimizer='adamw'"):
        get_experiment("6", weight_decay=0.1)
    with pytest.raises(UserError, match="warmup_epochs=1 belongs to schedule='cosine'"):
        get_experiment("6", warmup_epochs=1)


def test_emo_mini_is_small_and_sees_colours_as_their_grey(tmp_path):
    model = build_model(get_experiment("emo_mini"), 7)
    save_model(model, tmp_path / "emo_mini.h5", {})
    assert (tmp_path / "emo_mini.h5").stat().st_size <= 4e6
    colours = np.random.default_rng(0).uniform(0, 255, (2, 48, 48, 3)).astype(np.float32)
    grey = np.repeat(colours @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=3)
    np.testing.assert_allclose(model(colours), model(grey), atol=1e-5)
