"""`weights=` of an experiment: what it takes, and that it reads nothing but arrays."""

import json
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from emo.errors import UserError
from emo.models.backbones import build_backbone
from emo.models.loading import load_model
from tests.models.test_loading import (
    CONV5_NESTED,
    DATA,
    DENSE_FLAT,
    FLATTEN_FLAT,
    FLATTEN_NESTED,
    TWO_DENSE_CALLED,
    change_config,
    small_backbones,  # noqa: F401
)
from tools.fixtures.keras2 import small_backbone

ORIGINAL = {"resnet50": (FLATTEN_NESTED, CONV5_NESTED), "vgg16": (FLATTEN_FLAT,)}
ORIGINAL["xception"] = (DENSE_FLAT, TWO_DENSE_CALLED)


pytestmark = pytest.mark.usefixtures("small_backbones")


def arrays_in(file: Path) -> list[np.ndarray]:
    found = []
    with h5py.File(file) as h5:
        h5.visititems(lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_taken_from(network, file):
    """Every weight of the network is one of the file's."""
    known = {array.tobytes() for array in arrays_in(file)}
    assert len(network.get_weights()) > 3
    for weight in network.get_weights():
        assert weight.tobytes() in known


@pytest.mark.parametrize(("name", "file"), [(name, file) for name in ORIGINAL for file in ORIGINAL[name]])
def test_the_original_projects_files_give_their_backbones(name, file):
    path = DATA / f"{file}.h5"
    network = build_backbone(name, 12, path)
    assert_taken_from(network, path)
    whole, _ = load_model(path)  # and each layer has its own
    pictures = np.random.default_rng(0).normal(0, 50, (2, 12, 12, 3)).astype("float32")
    inner = next((layer for layer in whole.layers if isinstance(layer, keras.Model)), None)
    if inner is None:
        last = {"vgg16": "block5_pool", "xception": "add"}[name]
        inner = keras.Model(whole.input, whole.get_layer(last).output)
    np.testing.assert_allclose(
        network.predict(pictures, verbose=0), inner.predict(pictures, verbose=0), rtol=1e-5
    )


def test_weights_alone_as_keras_2_saved_them():
    path = DATA / "keras2_weights_only.h5"  # of a Sequential, the backbone its first layer
    assert_taken_from(build_backbone("vgg16", 12, path), path)


def test_weights_alone_as_keras_3_saves_them(tmp_path):
    for name in ORIGINAL:
        source = small_backbone(name, 12)
        source.set_weights(
            [np.random.default_rng(3).normal(size=each.shape) for each in source.get_weights()]
        )
        path = tmp_path / f"{name}.weights.h5"
        source.save_weights(path)
        for ours, theirs in zip(
            build_backbone(name, 12, path).get_weights(), source.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        head = layers.Dense(2)(layers.Flatten()(source.output))
        keras.Model(source.input, head).save_weights(path)  # what follows the backbone is passed over
        for ours, theirs in zip(
            build_backbone(name, 12, path).get_weights(), source.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_layers_that_keras_numbered_are_told_by_the_order_of_their_numbers(tmp_path):
    """Keras counts on: the same residual convolution is conv2d in one process and conv2d_7 in another."""

    def rename(config):
        text = (
            json.dumps(config)
            .replace('"conv2d"', '"conv2d_41"')
            .replace('"batch_normalization"', '"batch_normalization_9"')
        )
        return json.loads(text)

    file = change_config(shutil.copy(DATA / f"{TWO_DENSE_CALLED}.h5", tmp_path / "m.h5"), rename)
    assert_taken_from(build_backbone("xception", 12, file), DATA / f"{TWO_DENSE_CALLED}.h5")


@pytest.mark.parametrize(
    ("name", "file"), [("vgg16", CONV5_NESTED), ("resnet50", FLATTEN_FLAT), ("xception", CONV5_NESTED)]
)
def test_another_networks_file_is_refused(name, file):
    with pytest.raises(
        UserError, match=rf"weights='.*{file}\.h5 does not fit Small\(include_top=False\)"
    ) as told:
        build_backbone(name, 12, DATA / f"{file}.h5")
    assert str(told.value).count("\n") == 0


def test_weights_of_another_shape_are_named(tmp_path):
    images = keras.Input((12, 12, 3))
    other = layers.Conv2D(8, 3, name="block1_conv1")(images)
    other = keras.Model(images, layers.Conv2D(8, 5, name="block5_conv1")(other))
    other.save(tmp_path / "other.h5")
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(
        UserError, match=r"'block5_conv1' has weights of \(5, 5, 8, 8\), \(8,\), the network takes"
    ):
        build_backbone("vgg16", 12, tmp_path / "other.h5")
    with pytest.raises(UserError, match=r"does not fit Small"):
        build_backbone("vgg16", 12, tmp_path / "other.weights.h5")


FILES = {"nested": CONV5_NESTED, "flat": FLATTEN_FLAT, "weights": "keras2_weights_only"}
ARRAY = {
    "nested": "model_weights/resnet50/conv1_conv/bias:0",
    "flat": "model_weights/block1_conv1/block1_conv1/bias:0",
    "weights": "vgg16/block1_conv1/bias:0",
    "keras3": "layers/conv2d/vars/1",
}


@pytest.fixture(params=ARRAY)
def form(request, tmp_path):
    """A file of each form, its name in the registry, and a path to one of its arrays, of 8 numbers."""
    path = tmp_path / f"{request.param}.weights.h5"
    if request.param == "keras3":
        small_backbone("vgg16", 12).save_weights(path)
    else:
        shutil.copy(DATA / f"{FILES[request.param]}.h5", path)
    return path, "resnet50" if request.param == "nested" else "vgg16", ARRAY[request.param]


@pytest.mark.parametrize(
    "trick", ["external_storage", "external_link", "soft_link", "virtual", "never_written"]
)
def test_no_other_file_becomes_weights(form, trick, tmp_path):
    path, name, array = form
    build_backbone(name, 12, path)  # as it is, it fits
    (tmp_path / "secret").write_bytes(bytes(32))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["bias"] = np.ones(8, "f4")
    with h5py.File(path, "a") as h5:
        del h5[array]
        if trick == "external_storage":
            h5.create_dataset(array, (8,), "f4", external=[(str(tmp_path / "secret"), 0, 32)])
        elif trick == "external_link":
            h5[array] = h5py.ExternalLink(tmp_path / "other.h5", "bias")
        elif trick == "soft_link":
            h5["elsewhere"] = np.ones(8, "f4")
            h5[array] = h5py.SoftLink("/elsewhere")
        elif trick == "virtual":
            layout = h5py.VirtualLayout((8,), "f4")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "bias", (8,))
            h5.create_virtual_dataset(array, layout)
        else:
            h5.create_dataset(array, (8,), "f4")
    with pytest.raises(UserError, match=r"weights='.*'"):
        build_backbone(name, 12, path)


@pytest.mark.parametrize("nested", [False, True])
def test_a_lambda_in_weights_does_not_run(nested, tmp_path):
    canary = tmp_path / "canary"
    place = str(canary)
    evil = layers.Lambda(lambda x: (Path(place).touch(), x)[1], output_shape=(12, 12, 3))
    inner = [keras.Input((12, 12, 3)), evil, layers.Conv2D(8, 3, name="block1_conv1")]
    model = keras.Sequential([keras.Input((12, 12, 3)), keras.Sequential(inner)] if nested else inner)
    model.save(tmp_path / "model.h5")
    canary.unlink(missing_ok=True)
    with pytest.raises(UserError, match="'Lambda', which can run code from the file: it was not opened"):
        build_backbone("vgg16", 12, tmp_path / "model.h5")
    assert not canary.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(form, value):
    path, name, array = form
    with h5py.File(path, "a") as h5:
        h5[array][3] = value
    with pytest.raises(UserError, match=r"NaN or infinite, as its training diverged"):
        build_backbone(name, 12, path)
    if "nested" in path.name:
        with pytest.raises(UserError, match=r"its layer 'conv1_conv' are NaN"):
            load_model(path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x04pickle"])
def test_weights_that_are_no_h5_are_named(content, tmp_path):
    (tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"weights='.*w\.h5': w\.h5 is "):
        build_backbone("vgg16", 12, tmp_path / "w.h5")
