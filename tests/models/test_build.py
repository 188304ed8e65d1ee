import subprocess
import sys

import keras
import numpy as np
import pytest

from emo.experiments import get_experiment
from emo.models.build import build_model, preprocess
from emo.models.loading import load_model
from emo.models.saving import read_metadata, save_model

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)


def small(name="10", **changes):
    return get_experiment(name, **({"weights": None, "image_size": 32} | changes))


@pytest.mark.parametrize(
    ("backbone", "mode"),
    [
        ("resnet50", "caffe"),
        ("vgg16", "caffe"),
        ("xception", "tf"),
        ("densenet", "torch"),
    ],
)
def test_preprocessing_inside_equals_keras_applications(backbone, mode):
    images = keras.Input((32, 32, 3))
    inside = keras.Model(images, preprocess(images, mode)).predict(PICTURES, verbose=0)
    outside = getattr(keras.applications, backbone).preprocess_input(PICTURES.astype("float32"))
    np.testing.assert_allclose(inside, outside, atol=2e-5)


@pytest.mark.parametrize(
    "experiment",
    [small("12"), small("2"), small("8", image_size=71)],
    ids=lambda e: e.backbone,
)
def test_a_saved_model_opens_here_and_with_plain_keras_and_predicts_the_same(experiment, tmp_path):
    model = build_model(experiment, 3)
    pictures = np.random.default_rng(0).integers(0, 256, (4, *model.input_shape[1:])).astype(np.uint8)
    expected = model.predict(pictures, verbose=0)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    save_model(model, tmp_path / "model.h5", {"class_names": ["a", "b", "c"]})
    np.save(tmp_path / "pictures.npy", pictures)
    code = (
        "import sys, keras, numpy as np; model = keras.models.load_model('model.h5');"
        "np.save('answers.npy', model.predict(np.load('pictures.npy'), verbose=0));"
        "sys.exit(any(name.startswith('emo') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, atol=1e-6)
    again, metadata = load_model(tmp_path / "model.h5")
    np.testing.assert_allclose(again.predict(pictures, verbose=0), expected, atol=1e-6)
    assert metadata == {"class_names": ["a", "b", "c"]}


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float64"])
def test_pictures_of_any_dtype_give_the_same_answers(dtype):
    model = build_model(small("2"), 3)
    expected = model.predict(PICTURES.astype("float32"), verbose=0)
    np.testing.assert_allclose(model.predict(PICTURES.astype(dtype), verbose=0), expected, atol=1e-6)


def test_frozen_batch_normalization_does_not_move_and_the_unfrozen_does():
    model = build_model(small("12"), 3)
    network = model.get_layer("resnet50")
    before = {layer.name: layer.get_weights() for layer in network.layers}
    model.compile("sgd", "categorical_crossentropy")
    model.fit(PICTURES, np.eye(3)[[0, 1, 2, 0]], epochs=1, verbose=0)
    moved = {
        layer.name
        for layer in network.layers
        if any((old != new).any() for old, new in zip(before[layer.name], layer.get_weights(), strict=True))
    }
    assert moved
    assert all(name.startswith("conv5") for name in moved)
    assert any(name.endswith("_bn") for name in moved)


@pytest.mark.parametrize("kept", [False, True])
def test_batch_normalization_can_keep_its_statistics_where_all_else_learns(kept):
    model = build_model(small("12", unfreeze="all", freeze_batch_norm=kept), 3)
    network = model.get_layer("resnet50")
    before = {layer.name: layer.get_weights() for layer in network.layers}
    model.compile("sgd", "categorical_crossentropy")
    model.fit(PICTURES, np.eye(3)[[0, 1, 2, 0]], epochs=1, verbose=0)
    moved = {
        type(layer).__name__
        for layer in network.layers
        if any((old != new).any() for old, new in zip(before[layer.name], layer.get_weights(), strict=True))
    }
    assert moved == {"Conv2D"} | (set() if kept else {"BatchNormalization"})


def test_metadata_travels_in_the_file_and_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = build_model(small("2"), 3)
    path = tmp_path / "model.h5"
    metadata = {"class_names": ["злость", "b", "c"], "val_accuracy": 0.5}
    save_model(model, path, metadata)
    assert read_metadata(path) == metadata
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_model(model, path, {"not": object()})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.h5"]
