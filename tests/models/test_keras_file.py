"""A `.keras`, as Keras saves it and as nobody should, and a network's JSON beside its weights."""

import json
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from emo.errors import UserError
from emo.experiments import get_experiment
from emo.inference.classifier import find_model, load_classifier
from emo.models.backbones import BACKBONES, build_backbone
from emo.models.build import build_model
from emo.models.loading import load_model
from emo.models.saving import read_metadata, save_model
from tests.models.test_loading import (
    CONV5_NESTED,
    DATA,
    EVIL,
    FLATTEN_FLAT,
    NINE,
    assert_answers,
    change_config,
    fuzz,
    installed,
    layer_of,
    member,
    mutated_bytes,
    mutated_config,
    opens_as_classifier,
    small_backbones,  # noqa: F401
    with_members,
)

NAMES = ["anger", "happy", "sad"]


def shaken(model: keras.Model) -> keras.Model:
    """The model with weights that no start gives, so that each must come to its own layer."""
    rng = np.random.default_rng(1)
    model.set_weights([weight + rng.uniform(0, 0.1, weight.shape) for weight in model.get_weights()])
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def assert_opens_the_same(file: Path, model: keras.Model, **options) -> None:
    pictures = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:]))
    answers = load_classifier(file, NAMES, preprocessing="none", **options).probabilities(pictures)
    np.testing.assert_allclose(answers, model.predict(pictures, verbose=0), atol=1e-5)
    assert np.ptp(answers) > 1e-3


@pytest.mark.parametrize(
    "backbone",
    [name if name == "emo_mini" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES],
)
def test_every_weight_of_this_projects_networks_comes_to_its_layer(backbone, tmp_path):
    experiment = get_experiment("12", backbone=backbone, unfreeze="all", weights=None, image_size=72)
    model = shaken(build_model(experiment, 3))
    model.save(tmp_path / "model.keras")
    again, _ = load_model(tmp_path / "model.keras")
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours, theirs)


def nested() -> keras.Model:
    """Inner networks, several layers of a class, and such that keep numbers of their own."""
    pictures = keras.Input((16, 16, 3))
    x = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1), layers.Rescaling(1 / 255)])(
        pictures
    )
    x = layers.Conv2D(4, 3)(x)
    inside = keras.Input(x.shape[1:])
    y = layers.BatchNormalization()(inside)
    y = layers.Add()(
        [layers.Conv2D(4, 3, padding="same")(y), layers.SeparableConv2D(4, 3, padding="same")(y)]
    )
    x = keras.Model(inside, layers.PReLU()(y), name="block")(x)
    x = layers.Conv2DTranspose(4, 2)(layers.Conv2D(4, 3)(x))
    x = layers.Reshape((-1, 4))(layers.Normalization()(x))
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 3)(x, x))
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    head = keras.Sequential([layers.Dense(5), layers.Dropout(0.2), layers.Dense(3, activation="softmax")])
    return shaken(keras.Model(pictures, head(x)))


def sequential() -> keras.Model:
    base = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3), layers.Conv2D(5, 3)], name="base")
    end = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    augmentation = keras.Sequential([layers.RandomFlip(), layers.RandomZoom(0.1)])
    return shaken(keras.Sequential([keras.Input((16, 16, 3)), augmentation, base, *end]))


@pytest.fixture
def saved(tmp_path) -> tuple[Path, keras.Model]:
    model = sequential()
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras", model


@pytest.mark.parametrize("build", [nested, sequential])
def test_inner_networks_and_layers_with_a_state(build, tmp_path):
    model = build()
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)  # whose state goes with it
    model.save(tmp_path / "model.keras")
    assert_opens_the_same(tmp_path / "model.keras", model)
    renamed = shutil.copy(tmp_path / "model.keras", tmp_path / "model.h5")  # content decides, not the name
    assert_opens_the_same(renamed, model)


def test_a_folder_and_an_unpacked_file_open_too(saved, tmp_path):
    file, model = saved
    keras.saving.save_model(model, tmp_path / "folder", zipped=False)
    assert_opens_the_same(tmp_path / "folder", model)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert_opens_the_same(tmp_path / "unpacked" / "config.json", model)
    assert_opens_the_same(tmp_path / "unpacked" / "model.weights.h5", model)


def test_hdf5_is_another_name_of_h5(saved, tmp_path):
    saved[1].save(tmp_path / "model.hdf5")
    assert_opens_the_same(tmp_path / "model.hdf5", saved[1])


@pytest.mark.parametrize("name", [CONV5_NESTED, FLATTEN_FLAT, "newer_keras"])
def test_what_this_project_saves_opens_here_and_with_plain_keras(name, tmp_path):
    source = load_classifier(DATA / f"{name}.h5", *([] if name == "newer_keras" else [NINE]))
    metadata = {"class_names": list(source.class_names), "image_size": source.image_size, "val_accuracy": 0.5}
    file = tmp_path / f"{name}.keras"
    save_model(source.model, file, metadata)
    assert read_metadata(file) == metadata
    classifier = load_classifier(file)
    assert classifier.class_names == source.class_names
    assert_answers(classifier, name)
    pictures = np.load(DATA / f"{name}.npz")["pictures"]
    plain = keras.models.load_model(file, compile=False).predict(pictures, verbose=0)
    np.testing.assert_allclose(plain, source.probabilities(pictures), atol=1e-6)


def test_a_backbone_takes_its_weights_from_it(small_backbones, tmp_path):  # noqa: F811
    model, _ = load_model(DATA / f"{CONV5_NESTED}.h5")
    model.save(tmp_path / "model.keras")
    ours = build_backbone("resnet50", 12, tmp_path / "model.keras").get_weights()
    for weight, theirs in zip(ours, model.get_layer("resnet50").get_weights(), strict=True):
        np.testing.assert_array_equal(weight, theirs)


def test_models_of_a_folder_are_listed_and_found(saved, paths):
    model = Path(shutil.copy(saved[0], paths.model / "mine.keras"))
    assert find_model("", paths.model) == model
    assert find_model("mine", paths.model) == find_model("mine.keras", paths.model) == model


# a network's JSON beside its weights


@pytest.mark.parametrize("weights", ["fer.h5", "fer.weights.h5", "best_epoch.weights.h5"])
def test_json_and_weights(weights, saved, tmp_path):
    _, model = saved
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "fer.json").write_text(model.to_json())
    model.save_weights(folder / "w.weights.h5")
    (folder / "w.weights.h5").rename(folder / weights)
    assert_opens_the_same(folder / "fer.json", model)
    if weights.startswith("fer"):
        assert_opens_the_same(folder / weights, model)
    else:
        with pytest.raises(UserError, match=r"holds weights without .*to_json\(\), beside it under the same"):
            load_classifier(folder / weights)


def test_json_without_weights_or_with_too_many(saved, tmp_path):
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "fer.json").write_text(saved[1].to_json())
    says = r"fer\.json is a network's description, and beside it are "
    with pytest.raises(UserError, match=f"{says}no weights: .*as fer.h5"):
        load_classifier(folder / "fer.json")
    (folder / "fer.h5").write_text(saved[1].to_json())  # whose content decides
    with pytest.raises(UserError, match=f"{says}no weights"):
        load_classifier(folder / "fer.json")
    for name in ("a", "b"):
        saved[1].save_weights(folder / f"{name}.weights.h5")
    with pytest.raises(UserError, match=f"{says}2 files that could be"):
        load_classifier(folder / "fer.json")
    (folder / "fer.json").write_text('{"name": "a table"}')
    with pytest.raises(UserError, match="JSON text and describes no network"):
        load_classifier(folder / "fer.json")


@pytest.mark.slow
def test_files_of_keras_2(tmp_path_factory, tmp_path):
    """In a process of its own: TensorFlow's Keras 2 and Keras 3 do not mix."""
    package = installed("tf_keras==2.20.*", tmp_path_factory.mktemp("tf_keras"))
    code = f"""
import sys; sys.path.insert(0, {str(package)!r})
import numpy as np, tf_keras as keras
from tf_keras import layers
x = images = keras.Input((16, 16, 3))
x = layers.Conv2D(4, 3, name="first")(x)
inside = keras.Input((14, 14, 4))
x = keras.Model(inside, layers.Conv2D(4, 3)(layers.BatchNormalization()(layers.Conv2D(4, 3)(inside))))(x)
x = layers.Reshape((-1, 4))(layers.Conv2D(4, 3, name="last")(x))
x = layers.Flatten()(layers.MultiHeadAttention(2, 3)(x, x))
head = keras.Sequential([layers.Dense(4), layers.Dropout(0.5), layers.Dense(3, "softmax")])
model = keras.Model(images, head(x))
rng = np.random.default_rng(1)
model.set_weights([weight + rng.uniform(0, 0.1, weight.shape) for weight in model.get_weights()])
pictures = np.random.default_rng(0).uniform(0, 2, (2, 16, 16, 3))
np.savez("answers.npz", pictures=pictures, answers=model.predict(pictures, verbose=0))
model.save("model.keras")
open("pair.json", "w").write(model.to_json())
model.save_weights("pair.h5")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    known = np.load(tmp_path / "answers.npz")
    for name in ("model.keras", "pair.json", "pair.h5"):
        answers = load_classifier(tmp_path / name, NAMES, preprocessing="none").probabilities(
            known["pictures"]
        )
        np.testing.assert_allclose(answers, known["answers"], atol=1e-5, err_msg=name)


# files that nobody should send


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model.weights.h5": None}, r"without model\.weights\.h5, its weights"),
        ({"config.json": None}, r"without config\.json, its network"),
        ({"model.weights.h5": b"no HDF5"}, "could not be opened"),
        ({"config.json": b"{"}, "could not be opened"),
        ({"config.json": b"[]"}, "could not be opened"),
        pytest.param({"config.json": b" " * 16_000_001}, r"its config\.json is 16 MB long", id="long"),
        ({"metadata.json": b"[]"}, r"its metadata\.json is not a table"),
        ({"metadata.json": json.dumps({"emo_classificator": {"val_accuracy": 7}})}, "its metadata have val_"),
        ({"metadata.json": json.dumps({"emo_classificator": 7})}, "its metadata are not a table"),
    ],
    ids=repr,
)
def test_members_that_are_missing_or_wrong(saved, changed, says):
    with pytest.raises(UserError, match=rf"^model\.keras .*{says}") as told:
        load_classifier(with_members(saved[0], **changed), NAMES, preprocessing="none")
    assert "\n" not in str(told.value)


def test_what_else_lies_in_it_is_not_touched(saved, tmp_path):
    file, model = saved
    escape = {"../escaped": b"x", "/tmp/escaped_of_emo": b"x", "assets/layers/evil.py": b"raise SystemExit"}
    before = sorted(tmp_path.rglob("*"))
    assert_opens_the_same(with_members(file, **escape, **{"metadata.json": None}), model)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/escaped_of_emo").exists()


def test_a_zip_bomb_is_not_unpacked(saved, monkeypatch):
    file, _ = saved
    bomb = zipfile.ZipInfo("model.weights.h5")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(bomb, bytes(30_000_000))  # the last of a name counts
    assert file.stat().st_size < 200_000
    monkeypatch.setenv("EMO_MODEL_MEMORY_GB", "0.02")
    with pytest.raises(UserError, match=r"asks for 0\.03 GB, .*the limit is 0\.02 GB"):
        load_classifier(file, NAMES, preprocessing="none")


def test_a_member_that_says_less_than_it_is(saved):
    """Of a member whose size is a lie no more is read than it says, and its checksum is then wrong."""
    file, _ = saved
    file.write_bytes(
        file.read_bytes().replace(struct.pack("<I", len(member(file, "config.json"))), b"\x20\0\0\0")
    )
    with pytest.raises(UserError, match=r"^model\.keras "):
        load_classifier(file, NAMES, preprocessing="none")


def test_encrypted_members_are_named(saved):
    file, _ = saved
    content = bytearray(file.read_bytes())
    at = content.index(b"PK\x01\x02")
    while at >= 0:  # the flag of every entry of the directory
        content[at + 8] |= 1
        at = content.find(b"PK\x01\x02", at + 1)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"is encrypted, and no \.keras file is"):
        load_classifier(file, NAMES, preprocessing="none")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"class_name": "Lambda", "config": {"name": "x", "function": ["4wAAAA=="]}},
            "'Lambda', which can run",
        ),
        ({"class_name": "Dense", "config": {"name": "x", "units": 3}, "module": "os"}, r"'os\.Dense'"),
        ({"class_name": "Dense", "config": {"name": "x", "units": EVIL}}, "units="),
        (
            {"class_name": "Dense", "config": {"name": "x", "units": 3}, "registered_name": "mine>Dense"},
            "'mine>Dense'",
        ),
    ],
)
def test_nothing_but_listed_layers_is_built(saved, entry, says):
    file = change_config(saved[0], lambda config: config["config"]["layers"].insert(2, entry))
    with pytest.raises(UserError, match=says):
        load_classifier(file, NAMES, preprocessing="none")


def test_weights_of_another_network(saved):
    def more(config):
        layer = json.loads(json.dumps(layer_of(config, "Dense")))
        layer["config"]["name"] = "another"
        config["config"]["layers"].append(layer)

    with pytest.raises(UserError, match="weights for 1 layers of the class Dense, its network has 2"):
        load_classifier(change_config(saved[0], more), NAMES, preprocessing="none")


# damage of any kind


def mutated_weights(file: Path, rng: random.Random) -> None:
    inside = file.with_suffix(".inside")
    inside.write_bytes(member(file, "model.weights.h5"))
    mutated_bytes(inside, rng)
    with_members(file, **{"model.weights.h5": inside.read_bytes()})


MUTATIONS = {"archive": mutated_bytes, "config": mutated_config, "weights": mutated_weights}


@pytest.fixture(scope="session")
def archives(tmp_path_factory) -> Path:
    """Real files of both Keras, saved again as `.keras`."""
    folder = tmp_path_factory.mktemp("archives")
    for name in (CONV5_NESTED, FLATTEN_FLAT, "newer_keras"):
        model, metadata = load_model(DATA / f"{name}.h5")
        save_model(model, folder / f"{name}.keras", metadata)
    return folder


@pytest.fixture
def copied(archives, tmp_path):
    return lambda name: Path(shutil.copy(archives / f"{name}.keras", tmp_path / f"{name}.keras"))


FILES = [CONV5_NESTED, FLATTEN_FLAT, "newer_keras"]


@pytest.mark.parametrize("kind", MUTATIONS)
def test_damaged_files_open_or_are_refused_in_a_sentence(copied, kind):
    assert 10 < len(fuzz(copied, (MUTATIONS[kind], opens_as_classifier, FILES), range(40))) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", MUTATIONS)
def test_thousands_of_damaged_files(copied, kind):
    fuzz(copied, (MUTATIONS[kind], opens_as_classifier, FILES), range(1000, 3000))
