"""The files in tests/files are real: TensorFlow 2.3 and Keras 3.15 saved them (tools/fixtures/*.py)."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from emo.errors import UserError
from emo.experiments import get_experiment
from emo.inference.classifier import load_classifier
from emo.models.backbones import BACKBONES, Backbone, build_backbone
from emo.models.build import build_model, preprocess
from emo.models.loading import load_model, read_model
from emo.models.saved_config import parse
from emo.models.saving import save_model
from tests.fixtures import picture
from tools.fixtures.keras2 import small_backbone

DATA = Path(__file__).parents[1] / "files"
FLATTEN_NESTED = "emo_classificator_best_201219121553_resnet50_e10_aug0_acc34"
CONV5_NESTED = "emo_classificator_best_210105121553_resnet50_e20_aug1_acc44"
FLATTEN_FLAT = "emo_classificator_best_201222121553_vgg16_e10_aug0_acc14"
DENSE_FLAT = "emo_classificator_best_201230121553_xception_e20_aug1_acc34"
TWO_DENSE_CALLED = "emo_classificator_best_201228121553_xception_e17_aug1_acc26"
ORIGINAL = [FLATTEN_NESTED, CONV5_NESTED, FLATTEN_FLAT, DENSE_FLAT, TWO_DENSE_CALLED]
NINE = ["anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise", "uncertain"]
SEVEN = [name for name in NINE if name not in ("contempt", "uncertain")]


@pytest.fixture
def project(paths):
    """Gives a copy of a file of tests/files in the model/ of a project whose class_names.txt is there."""
    paths.class_names.write_text("\n".join(NINE))

    def copy(name: str, under: str | None = None) -> Path:
        return Path(shutil.copy(DATA / f"{name}.h5", paths.model / f"{under or name}.h5"))

    return copy


@pytest.fixture
def small_backbones(monkeypatch):
    """The registry's names for the few layers that the fixtures have of each backbone."""
    for name in ("resnet50", "vgg16", "xception"):
        module = types.ModuleType(f"small_{name}")
        module.Small = lambda include_top, weights, input_shape, name=name: small_backbone(
            name, input_shape[0]
        )
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entry = Backbone(module.__name__, "Small", BACKBONES[name].preprocessing, 12, ("block",), False)
        monkeypatch.setitem(BACKBONES, name, entry)


def assert_answers(classifier, name: str, tolerance=1e-4):
    """The probabilities are those of the Keras that saved the file."""
    known = np.load(DATA / f"{name}.npz")
    pictures = known["pictures"]
    if pictures.shape[-1] == 1:
        pictures = np.repeat(pictures, 3, axis=-1)
    answers = classifier.probabilities(pictures)
    np.testing.assert_allclose(answers, known["probabilities"], atol=tolerance)
    assert np.ptp(answers, axis=0).max() > 1e-3  # or any network would do


def change_config(file: Path, change) -> Path:
    """`change(config)` alters the network's config in the file, or gives another."""
    if Path(file).suffix == ".keras":
        config = json.loads(member(file, "config.json"))
        return with_members(file, **{"config.json": json.dumps(change(config) or config)})
    with h5py.File(file, "a") as h5:
        config = json.loads(h5.attrs["model_config"])
        config = change(config) or config
        h5.attrs["model_config"] = json.dumps(config)
    return file


def member(file: Path, name: str) -> bytes:
    """What a `.keras` has under that name."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(name)


def with_members(file: Path, **changed: str | bytes | None) -> Path:
    """Gives other content to members of a `.keras`, adds them, or leaves out what is None."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()} | changed
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(name, data)
    return file


def layer_of(config: dict, name: str) -> dict:
    """The layer of that name or class, in the network or one inside it."""
    for layer in config["config"]["layers"]:
        if name in (layer["class_name"], layer["config"]["name"]):
            return layer
        if "layers" in layer["config"]:
            try:
                return layer_of(layer, name)
            except StopIteration:
                pass
    raise StopIteration


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (FLATTEN_NESTED, "backbone resnet50 (from its layers), caffe"),
        (CONV5_NESTED, "backbone resnet50 (from its layers), caffe"),
        (FLATTEN_FLAT, "backbone vgg16 (from the file name), caffe"),
        (DENSE_FLAT, "backbone xception (from the file name), tf"),
        (TWO_DENSE_CALLED, "backbone xception (from its layers), tf"),
    ],
)
def test_the_original_projects_files_open_as_they_are_and_answer_as_keras_2_did(project, name, told):
    classifier = load_classifier(project(name))
    assert_answers(classifier, name)
    assert classifier.class_names == tuple(NINE)
    assert repr(classifier) == (
        f"{name}.h5: 9 classes, 12 px; {told} preprocessing outside the model (assumed), "
        "classes from data/class_names.txt"
    )
    assert classifier.predict(picture((200, 40, 40), 0)).emotion[0] in NINE


def test_a_file_of_a_newer_keras_opens_and_answers_the_same(project):
    classifier = load_classifier(project("newer_keras"))
    assert_answers(classifier, "newer_keras")
    assert repr(classifier) == "newer_keras.h5: 3 classes, 16 px, validation accuracy 50.0%"


def test_a_grey_network_answers_for_colour_pictures(project):
    file = project("keras2_grey")
    with pytest.raises(UserError, match=r"keras2_grey\.h5 .* pass preprocessing=, how they were .*rescale"):
        load_classifier(file)
    with pytest.raises(UserError, match="'caffe' is for RGB, but"):
        load_classifier(file, preprocessing="caffe")
    classifier = load_classifier(file, SEVEN, preprocessing="tf")
    assert_answers(classifier, "keras2_grey")
    photo = picture((200, 40, 40), 0, size=48)
    answers = classifier.predict([photo, photo.convert("L")])[SEVEN].to_numpy()
    np.testing.assert_allclose(answers[0], answers[1], atol=0.01)  # Pillow rounds its grey to whole levels


def test_a_network_that_scales_inside_and_gives_logits(project):
    classifier = load_classifier(project("keras2_logits"), class_names=NINE[:5])
    assert_answers(classifier, "keras2_logits")
    assert "no preprocessing outside the model (its first layer scales), classes as given" in repr(classifier)


def test_what_a_third_partys_file_does_not_say_is_asked_at_once(project, paths):
    paths.class_names.unlink()
    file = change_config(project("keras2_grey", "any"), any_size)
    with pytest.raises(
        UserError, match=r"any\.h5 .*pass class_names=.*; image_size=.*; preprocessing="
    ) as told:
        load_classifier(file)
    assert str(told.value).count("\n") == 0
    with pytest.raises(UserError, match=r"image_size='big': any\.h5 takes 1 to 1024 px"):
        load_classifier(file, SEVEN, "big", "tf")
    assert_answers(load_classifier(file, SEVEN, 48, "tf"), "keras2_grey")


def any_size(config):
    for layer in config["config"]["layers"]:
        if "batch_input_shape" in layer["config"]:
            layer["config"]["batch_input_shape"][1:3] = None, None


def test_everything_that_is_found_can_be_given(project, tmp_path):
    file = project(DENSE_FLAT, "model")  # whose name tells no backbone
    pictures = np.load(DATA / f"{DENSE_FLAT}.npz")["pictures"]
    with pytest.raises(UserError, match=r"pass preprocessing="):
        load_classifier(file)
    assert_answers(load_classifier(file, backbone="xception"), DENSE_FLAT)
    (tmp_path / "names.txt").write_text("\n".join(reversed(NINE)))
    rescaled = load_classifier(file, tmp_path / "names.txt", 12, "rescale")
    assert rescaled.class_names == tuple(reversed(NINE))
    prepared = load_classifier(file, preprocessing="none").probabilities(pictures / 255)
    np.testing.assert_allclose(rescaled.probabilities(pictures), prepared, atol=1e-6)
    assert "rescale preprocessing outside the model (as given), classes from " in repr(rescaled)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"class_names": NINE[:7]}, "has 9 outputs but 7 class names.*pass class_names=, 9 names"),
        ({"class_names": ["a"] * 9}, "each once"),
        ({"class_names": "nowhere.txt"}, "class_names='nowhere.txt': there is no such file"),
        ({"class_names": 9}, "to be a list of names"),
        ({"image_size": 224}, "image_size=224: .* takes 12 px"),
        (
            {"preprocessing": "imagenet"},
            "preprocessing='imagenet' is unknown.*none, tf, rescale, caffe, grey, torch",
        ),
        ({"backbone": "resnet18"}, "backbone='resnet18' is unknown"),
    ],
)
def test_what_is_given_wrong(project, given, says):
    with pytest.raises(UserError, match=says):
        load_classifier(project(CONV5_NESTED), **given)


@pytest.mark.parametrize(
    "given",
    [
        np.array(SEVEN),
        np.array(SEVEN, dtype=object),
        pd.Index(SEVEN),
        pd.Series(SEVEN),
        pd.Categorical(SEVEN, SEVEN).categories,
        tuple(SEVEN),
        {name: number for number, name in enumerate(SEVEN)},
        dict(reversed([(name, np.int64(number)) for number, name in enumerate(SEVEN)])),
        dict(enumerate(SEVEN)),
        {str(number): name for number, name in enumerate(SEVEN)},
        (name for name in SEVEN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_class_names_in_any_form(project, given):
    assert load_classifier(project("keras2_grey"), given, preprocessing="tf").class_names == tuple(SEVEN)


@pytest.mark.parametrize(
    "given",
    [
        *(
            np.arange(7),
            {"a": 0, "b": 2},
            {"a": "x"},
            dict.fromkeys(SEVEN, 1),
            dict.fromkeys(SEVEN),
            set(SEVEN),
        ),
        *(b"anger", [SEVEN], 7.0, [None] * 7, pd.DataFrame({"a": SEVEN, "b": SEVEN}).to_numpy()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_class_names_in_no_form(project, given):
    with pytest.raises(UserError, match="to be a list of names, each once"):
        load_classifier(project("keras2_grey"), given, preprocessing="tf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("".join(f"{number} {name}\n" for number, name in enumerate(SEVEN)), SEVEN),  # Teachable Machine
        ("".join(f"{number} {name}\r\n" for number, name in enumerate(SEVEN)), SEVEN),
        ("\n".join(f"{number}: {name}" for number, name in enumerate(SEVEN)), SEVEN),
        ("\n".join(f"{number}\t{name}" for number, name in enumerate(SEVEN, 1)), SEVEN),
        (
            "\n".join(f"{number}, very {name}" for number, name in enumerate(SEVEN)),
            [f"very {n}" for n in SEVEN],
        ),
        ("\n".join(SEVEN), SEVEN),
        (
            "\n".join(f"{number * 10} years" for number in range(7)),
            [f"{number * 10} years" for number in range(7)],
        ),
    ],
)
def test_labels_with_running_numbers(project, tmp_path, text, expected):
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    classifier = load_classifier(project("keras2_grey"), tmp_path / "labels.txt", preprocessing="tf")
    assert classifier.class_names == tuple(expected)


def test_class_indices_in_a_file(project, tmp_path):
    (tmp_path / "class_indices.json").write_text(
        json.dumps({name: number for number, name in enumerate(SEVEN)})
    )
    file = project("keras2_grey")
    assert load_classifier(file, tmp_path / "class_indices.json", preprocessing="tf").class_names == tuple(
        SEVEN
    )
    (tmp_path / "class_indices.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_classifier(file, tmp_path / "class_indices.json", preprocessing="tf")


@pytest.mark.parametrize(("name", "count"), [("keras2_grey", 3), (DENSE_FLAT, 6)])
def test_every_preprocessing_that_the_question_offers_works(project, name, count):
    file = project(name, "asked")
    names = SEVEN if name == "keras2_grey" else NINE
    with pytest.raises(UserError, match="pass preprocessing=") as asked:
        load_classifier(file, names)
    offered = str(asked.value).rstrip(".").rpartition(": ")[2].split(", ")
    assert len(offered) == count
    for mode in offered:
        answers = load_classifier(file, names, preprocessing=mode).predict(picture((200, 40, 40), 0))
        assert answers.emotion[0] in names


def test_names_in_the_project_that_are_another_datasets(project, paths):
    paths.class_names.write_text("\n".join(SEVEN))
    with pytest.raises(
        UserError, match=r"9 outputs but 7 class names \(from data/class_names.txt\): pass class"
    ):
        load_classifier(project(CONV5_NESTED))


def test_what_train_saved_says_it_all_itself(project, paths):
    file = project("newer_keras")
    assert load_classifier(file, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(UserError, match=r"newer_keras\.h5 has its preprocessing inside"):
        load_classifier(file, preprocessing="caffe")
    with h5py.File(file, "a") as h5:
        del h5.attrs["emo_classificator"]  # as Keras does when it saves a model again
    paths.class_names.write_text("anger\nhappy\nsad")
    again = load_classifier(file)
    assert "no preprocessing outside the model (its first layer scales)" in repr(again)
    assert_answers(again, "newer_keras")


def test_a_sequential_as_keras_wrote_it_before_tensorflow_had_it(project):
    def as_list(config):
        return {"class_name": "Sequential", "config": config["config"]["layers"][1:]}

    file = change_config(project("keras2_grey"), as_list)
    assert_answers(load_classifier(file, SEVEN, preprocessing="tf"), "keras2_grey")


def test_layers_renamed_after_training_get_their_own_weights(project):
    def rename(config):
        return json.loads(json.dumps(config).replace("conv1_", "my_").replace("conv5_block3_", "mine_"))

    file = change_config(project(CONV5_NESTED), rename)
    assert_answers(load_classifier(file), CONV5_NESTED)


def test_a_model_of_this_project_is_rebuilt_layer_by_layer(tmp_path):
    experiment = get_experiment("10", backbone="vgg16", unfreeze="block5", weights=None, image_size=32)
    model = build_model(experiment, 3)
    save_model(model, tmp_path / "model.h5", {"class_names": ["a", "b", "c"]})
    again, metadata = load_model(tmp_path / "model.h5")
    assert metadata == {"class_names": ["a", "b", "c"]}
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert [weight.path for weight in again.trainable_weights] == [w.path for w in model.trainable_weights]
    assert len(again.non_trainable_weights) == len(model.non_trainable_weights)
    save_model(again, tmp_path / "again.h5", {})  # it is a plain Keras model still
    assert (
        keras.models.load_model(tmp_path / "again.h5", compile=False).count_params() == again.count_params()
    )


@pytest.mark.parametrize(
    "application",
    [
        *(
            "MobileNet",
            "MobileNetV2",
            "MobileNetV3Small",
            "EfficientNetB0",
            "EfficientNetV2B0",
            "DenseNet121",
        ),
        *("NASNetMobile", "InceptionV3", "InceptionResNetV2", "ConvNeXtTiny"),
    ],
)
@pytest.mark.slow
def test_other_networks_of_keras_applications_open(application, tmp_path):
    network = getattr(keras.applications, application)(
        weights=None, input_shape=(80, 80, 3), include_top=False, pooling="avg"
    )
    outputs = keras.layers.Dense(3, activation="softmax")(network.output)
    model = keras.Model(network.input, outputs)
    rng = np.random.default_rng(1)  # none may be at its start: ConvNeXt's scales begin near 0
    model.set_weights([weight + rng.uniform(0, 0.05, weight.shape) for weight in model.get_weights()])
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # else it would go on with the mean and variance of before
    model.save(tmp_path / "model.h5")
    classifier = load_classifier(tmp_path / "model.h5", ["a", "b", "c"], preprocessing="none")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3))
    expected = model.predict(pictures, verbose=0)
    np.testing.assert_allclose(classifier.probabilities(pictures), expected, atol=1e-5)


def test_rescale_is_the_division_by_255():
    images = keras.Input((4, 4, 3))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3))
    inside = keras.Model(images, preprocess(images, "rescale")).predict(pictures, verbose=0)
    np.testing.assert_allclose(inside, pictures / 255, atol=1e-6)


# files that cannot be opened


def test_files_that_are_no_model(project, tmp_path):
    with pytest.raises(UserError, match=r"no model file .*missing\.h5"):
        load_classifier(tmp_path / "missing.h5")
    with pytest.raises(UserError, match=r"is a folder: give the path of a \.h5 or \.keras in it"):
        load_classifier(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UserError, match=r"text\.h5.*damaged"):
        load_classifier(tmp_path / "text.h5")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(UserError, match=r"data\.h5 is an HDF5 file without a Keras model"):
        load_classifier(tmp_path / "data.h5")
    whole = project(CONV5_NESTED).read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half\.h5"):
        load_classifier(tmp_path / "half.h5")


def test_weights_without_their_network(project, tmp_path):
    says = "holds weights without their network: .*load_weights"
    with pytest.raises(UserError, match=says):
        load_classifier(project("keras2_weights_only"))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "new.weights.h5")
    with pytest.raises(UserError, match=says):
        load_classifier(tmp_path / "new.weights.h5")


def tanh(config):
    layer_of(config, "dense_2")["config"]["activation"] = "tanh"


def output_of_nobody(config):
    layer_of(config, "resnet50")["config"]["output_layers"] = [["nobody", 0, 0]]


def one_layer_twice(config):
    inner = layer_of(config, "resnet50")
    relu = layer_of(inner, "conv1_relu")
    relu["inbound_nodes"].append(relu["inbound_nodes"][0])


def in_a_circle(config):
    layer_of(config, "conv1_pad")["inbound_nodes"][0][0][0] = "conv5_block3_out"


def channels_first(config):
    layer_of(config, "conv1_conv")["config"]["data_format"] = "channels_first"


def newer_argument(config):
    layer_of(config, "conv1_bn")["config"]["renorm"] = True


def other_filters(config):
    layer_of(config, "conv1_conv")["config"]["filters"] = 9


def enormous(config):
    layer_of(config, "dense_2")["config"]["units"] = 2**60


def input_of(*shape):
    def change(config):
        config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, *shape]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (tanh, "ends in 'dense_2', which gives no probabilities"),
        (output_of_nobody, "is damaged: it has no layer 'nobody', which is to make its output"),
        (one_layer_twice, "calls its layer 'conv1_relu' 2 times"),
        (in_a_circle, "nothing feeds its layer 'conv1_pad'"),
        (channels_first, "channels_first"),
        (newer_argument, "has renorm=True in a BatchNormalization layer"),
        (other_filters, r"'conv1_conv' wants weights of \(7, 7, 3, 9\), the file has \(7, 7, 3, 8\)"),
        (enormous, "has units='1152921504606846976'"),
        (input_of(12, 20, 3), "takes pictures of 12 × 20 px"),
        (input_of(12, 12, 4), "takes input of 12 × 12 × 4;"),
        (input_of(3, 12, 12), r"takes input of 3 × 12 × 12 \(channels_first\)"),
        (input_of(12), r"takes input of shape \(None, 12\), which is not a picture"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_networks_that_are_no_classifiers_of_pictures(project, change, says):
    with pytest.raises(UserError, match=says):
        load_classifier(change_config(project(CONV5_NESTED), change))


def test_a_picture_that_a_network_leaves_nothing_of(tmp_path):
    images = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="third")(images))
    model = keras.Model(images, keras.layers.Dense(2, activation="softmax")(x))
    model.save(tmp_path / "any.h5")
    options = {"class_names": ["a", "b"], "preprocessing": "none"}
    assert load_classifier(tmp_path / "any.h5", image_size=3, **options).image_size == 3
    with pytest.raises(UserError, match="leaves nothing of such small pictures in its layer 'third'"):
        load_classifier(tmp_path / "any.h5", image_size=2, **options)


# files that would run code


@pytest.fixture
def canary(tmp_path):
    """A file that exists as soon as code from a model file has run."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


class _Writes:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_not_read(canary, tmp_path):
    (tmp_path / "model.h5").write_bytes(pickle.dumps(_Writes(canary)))
    with pytest.raises(
        UserError, match=r"model\.h5 is a Python pickle, which can run code and was not opened"
    ):
        load_classifier(tmp_path / "model.h5", NINE)


@pytest.mark.parametrize("nested", [False, True])
def test_a_lambda_does_not_run(canary, tmp_path, nested):
    place = str(canary)
    evil = keras.layers.Lambda(lambda x: (Path(place).touch(), x)[1], output_shape=(12, 12, 3))
    network = [keras.Input((12, 12, 3)), evil, keras.layers.Flatten()]
    if nested:
        network = [keras.Input((12, 12, 3)), keras.Sequential(network)]
    model = keras.Sequential([*network, keras.layers.Dense(9, activation="softmax")])
    model.save(tmp_path / "model.h5")
    model(np.zeros((1, 12, 12, 3)))
    canary.unlink()  # it is there: the lambda does what it is to be kept from
    with pytest.raises(UserError, match="'Lambda', which can run code from the file: it was not opened"):
        load_classifier(tmp_path / "model.h5", NINE, preprocessing="none")


@keras.saving.register_keras_serializable("mine")
class _Registered(keras.layers.Dense):
    """What a notebook may have registered: a file must not reach it."""

    def __init__(self, *args, **kwargs):
        raise AssertionError("a class that the file names was called")


EVIL = {
    "module": "os",
    "class_name": "system",
    "config": {"command": "touch {}"},
    "registered_name": "system",
}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"class_name": "Lambda", "config": {"name": "x", "function": ["4wAAAA=="]}}, "'Lambda'"),
        ({"class_name": "mine>_Registered", "config": {"name": "x", "units": 9}}, "'mine>_Registered'"),
        (
            {
                "class_name": "Dense",
                "config": {"name": "x", "units": 9},
                "registered_name": "mine>_Registered",
            },
            "'mine>_Registered'",
        ),
        ({"class_name": "Dense", "config": {"name": "x", "units": 9}, "module": "os"}, r"'os\.Dense'"),
        ({"class_name": "eval", "config": {"name": "x"}, "module": "builtins"}, r"'builtins\.eval'"),
        ({"class_name": "TFOpLambda", "config": {"name": "x", "function": "io.write"}}, "'io.write'"),
        ({"class_name": "TFSMLayer", "config": {"name": "x", "filepath": "/"}}, "'TFSMLayer'"),
        ({"class_name": "Dense", "config": {"name": "x", "units": 9, "activation": EVIL}}, "activation="),
        (
            {"class_name": "Dense", "config": {"name": "x", "units": 9, "activation": "os.abort"}},
            "activation=",
        ),
        ({"class_name": "Dense", "config": {"name": "x", "units": EVIL}}, "units="),
        ({"class_name": "__lambda__", "config": {"value": ""}}, "'__lambda__'"),
        ({"class_name": "TimeDistributed", "config": {"name": "x", "layer": EVIL}}, "'TimeDistributed'"),
    ],
    ids=lambda value: value["class_name"] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("inside", [False, True])
def test_only_listed_layers_are_built(project, entry, says, inside):
    def add(config):
        network = config["config"]
        if inside:
            entry_ = {"class_name": "Sequential", "config": {"name": "inner", "layers": [entry]}}
        else:
            entry_ = entry
        network["layers"].insert(2, entry_)

    with pytest.raises(UserError, match=says):
        load_classifier(change_config(project(CONV5_NESTED), add))


def test_initializers_and_the_like_are_not_looked_at(project):
    def poison(config):
        for key in ("kernel_initializer", "bias_regularizer", "kernel_constraint"):
            layer_of(config, "dense_2")["config"][key] = EVIL
        layer_of(config, "dense_2")["build_config"] = EVIL
        config["config"]["compile_config"] = EVIL

    assert_answers(load_classifier(change_config(project(CONV5_NESTED), poison)), CONV5_NESTED)


def test_weights_are_taken_from_no_other_file(project, tmp_path):
    other = project(CONV5_NESTED, "other")
    weights = "model_weights/dense_2/dense_2"
    for link in (h5py.ExternalLink(other, weights), h5py.SoftLink("model_weights/elsewhere")):
        file = project(CONV5_NESTED)
        with h5py.File(file, "a") as h5:
            h5.move(weights, "model_weights/elsewhere")
            h5[weights] = link
        with pytest.raises(UserError, match="could not be opened"):
            load_classifier(file)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(36))
    with h5py.File(file, "a") as h5:
        del h5[weights]
        h5.create_dataset(f"{weights}/bias:0", (9,), "f4", external=[(str(secret), 0, 36)])
    with pytest.raises(UserError, match="takes weights from other files"):
        load_classifier(file)


def test_more_weights_than_bytes(project):
    file = project(CONV5_NESTED)
    with h5py.File(file, "a") as h5:
        h5.create_dataset("model_weights/huge", (2**40,), "f4")  # a terabyte that HDF5 never wrote
    with pytest.raises(UserError, match="names more weights than it holds"):
        load_classifier(file)


# damage of any kind


def mutated_bytes(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    # half of them in the first kilobytes, where HDF5 keeps its tree and Keras its config
    reach = rng.choice([len(content), 6_000])
    for _ in range(rng.choice([1, 1, 4, 16, 64])):
        at = rng.randrange(reach)
        content[at] = rng.choice([0, 255, content[at] ^ (1 << rng.randrange(8)), rng.randrange(256)])
    if rng.random() < 0.1:
        del content[rng.randrange(len(content)) :]
    file.write_bytes(content)


STRANGE = [
    None,
    True,
    False,
    0,
    -1,
    2,
    10**6,
    10**30,
    1e308,
    float("nan"),
    0.5,
    "",
    "same",
    "softmax",
    "Dense",
]
STRANGE += ["Lambda", "Sequential", "../x", [], {}, [1], [None], [[[]]], EVIL, "channels_first", [2] * 5000]


def mutated_config(file: Path, rng: random.Random) -> None:
    def places(tree):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield tree, key
            if isinstance(value, (dict, list)):
                yield from places(value)

    def change(config):
        for _ in range(rng.choice([1, 1, 1, 3])):
            found = list(places(config))
            tree, key = rng.choice(found)
            other, other_key = rng.choice(found)
            kind = rng.random()
            if kind < 0.5:
                tree[key] = json.loads(json.dumps(rng.choice(STRANGE)))
            elif kind < 0.7:
                del tree[key]
            else:
                copied = json.loads(json.dumps(other[other_key]))
                tree.insert(key, copied) if isinstance(tree, list) else tree.update({key: copied})

    change_config(file, change)


def mutated_metadata(file: Path, rng: random.Random) -> None:
    metadata = {
        "class_names": ["anger", "happy", "sad"],
        "image_size": 16,
        "val_accuracy": 0.5,
        "best_epoch": 3,
        "preprocessing": "inside",
        "experiment": {"face_margin": 0.3, "image_size": 16, "backbone": "xception"},
        "date": "2026-11-26",
    }
    for _ in range(rng.choice([1, 1, 2])):
        table = rng.choice([metadata, metadata, metadata.get("experiment")])
        table = table if isinstance(table, dict) and table else metadata
        table[rng.choice(list(table))] = rng.choice(
            [*STRANGE, 1e9, -5, {"a": 1}, ["a", "b"], "\udcff", "x" * 20_000]
        )
    with h5py.File(file, "a") as h5:
        h5.attrs["emo_classificator"] = json.dumps(metadata)


def opens_as_classifier(file: Path, rng: random.Random) -> None:
    ours = file.stem == "newer_keras"
    mode = None if ours else rng.choice([None, "tf"])
    classifier = load_classifier(file, None if ours else NINE, preprocessing=mode)
    if ours:  # and what it says can be used
        repr(classifier)
        classifier.predict(np.zeros((8, 8, 3), np.uint8), faces=[None])
        assert classifier.face_margin is None or 0 <= classifier.face_margin <= 2


def gives_its_weights(file: Path, rng: random.Random) -> None:
    build_backbone(next((name for name in ("resnet50", "xception") if name in file.stem), "vgg16"), 12, file)


WHOLE = [file.stem for file in sorted(DATA.glob("*.h5")) if file.stem != "keras2_weights_only"]
FUZZ = {
    "bytes": (mutated_bytes, opens_as_classifier, WHOLE),
    "config": (mutated_config, opens_as_classifier, WHOLE),
    "metadata": (mutated_metadata, opens_as_classifier, ["newer_keras"]),
    "weights_bytes": (mutated_bytes, gives_its_weights, [*ORIGINAL, "keras2_weights_only"]),
    "weights_config": (mutated_config, gives_its_weights, ORIGINAL),
}


def fuzz(project, how: tuple, seeds) -> list[str]:
    mutate, use, names = how
    refused = []
    for seed in seeds:
        rng = random.Random(seed)
        file = project(rng.choice(names))
        mutate(file, rng)
        try:
            use(file, rng)
        except UserError as error:  # any other exception fails the test, and its traceback shows the seed
            refused.append(str(error))
    for sentence in refused:
        assert sentence.endswith(".")
        assert "\n" not in sentence
        sentence.encode()  # printing it will
    return refused


@pytest.mark.parametrize("kind", FUZZ)
def test_damaged_files_open_or_are_refused_in_a_sentence(project, small_backbones, kind):
    assert 15 < len(fuzz(project, FUZZ[kind], range(40))) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", FUZZ)
def test_thousands_of_damaged_files(project, small_backbones, kind):
    fuzz(project, FUZZ[kind], range(1000, 3000))


def test_a_config_that_is_nested_without_end(project):
    deep = '{"class_name": "Sequential", "config": {"name": "x", "layers": [' * 5000
    file = project(CONV5_NESTED)
    for text in (deep, deep + "]}}" * 5000, "[" * 100_000):
        with h5py.File(file, "a") as h5:
            h5.attrs["model_config"] = text
        with pytest.raises(UserError, match="could not be opened"):
            load_classifier(file)


def test_more_layers_than_any_network_has():
    layer = {"class_name": "Flatten", "config": {"name": "{}"}}
    layers = [layer | {"config": {"name": f"flatten_{index}"}} for index in range(3000)]
    with pytest.raises(Exception, match="more than 2,000 layers"):
        parse({"class_name": "Sequential", "config": {"name": "long", "layers": layers}})


# with the packages that saved such files


def installed(requirement: str, folder: Path) -> Path:
    """A folder for PYTHONPATH with one package, which the project's own environment is not to have."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, requirement]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{requirement} could not be installed: {done.stderr.strip()[-200:]}")
    return folder


def run_tool(tool: str, *arguments, package: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(package), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", f"tools.{tool}", *map(str, arguments)]
    subprocess.run(command, env=environment, cwd=DATA.parent.parent, check=True, capture_output=True)


@pytest.fixture(scope="session")
def tf_keras(tmp_path_factory):
    minor = ".".join(tf.__version__.split(".")[:2])
    return installed(f"tf_keras=={minor}.*", tmp_path_factory.mktemp("tf_keras"))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "emo_mini"])
def test_the_original_projects_heads_on_whole_backbones(tf_keras, backbone, tmp_path):
    run_tool("fixtures.keras2", tmp_path, backbone, package=tf_keras)
    files = sorted(tmp_path.glob("*.h5"))
    assert len(files) == 8
    for file in files:
        classifier = load_classifier(file, NINE)
        assert f"backbone {backbone} (from its layers)" in repr(classifier)
        known = np.load(file.with_suffix(".npz"))
        answers = classifier.probabilities(known["pictures"])
        np.testing.assert_allclose(answers, known["probabilities"], atol=1e-4, err_msg=file.name)
        assert_same_backbone(build_backbone(backbone, network_size(file), file), file)
        file.unlink()  # a hundred megabytes each


def network_size(file: Path) -> int:
    return read_model(file).input_shape[0]


def assert_same_backbone(network: keras.Model, file: Path) -> None:
    """Each of its weights is in the file, bit for bit."""
    known = set()
    with h5py.File(file) as h5:
        h5.visititems(
            lambda _, item: known.add(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        )
    assert all(weight.tobytes() in known for weight in network.get_weights())


@pytest.mark.slow
def test_whole_models_of_a_newer_keras(tmp_path_factory, tmp_path):
    newer = installed("keras==3.15.1", tmp_path_factory.mktemp("newer_keras"))
    run_tool("fixtures.newer_keras", tmp_path, "whole", package=newer)
    files = sorted(tmp_path.glob("*.h5"))
    assert len(files) == 3
    for file in files:
        known = np.load(file.with_suffix(".npz"))
        answers = load_classifier(file).probabilities(known["pictures"])
        np.testing.assert_allclose(answers, known["probabilities"], atol=1e-4, err_msg=file.name)
        file.unlink()
