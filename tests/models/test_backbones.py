import dataclasses
import subprocess
import sys
import urllib.error

import keras
import numpy as np
import pytest

from emo.errors import UserError
from emo.experiments import Experiment, get_experiment
from emo.models import backbones
from emo.models.backbones import BACKBONES, Backbone, build_backbone, trainable_layers
from emo.models.build import build_model
from emo.models.saving import save_model


def test_conv5_of_resnet_is_the_last_block_with_its_shortcut():
    network = build_backbone("resnet50", 32, None)
    train = trainable_layers(network, "resnet50", "conv5")
    assert "conv5_block1_0_conv" in train
    assert {name.split("_")[0] for name in train} == {"conv5"}


def test_block14_of_xception_is_not_block1_and_residual_convolutions_go_with_their_block():
    network = build_backbone("xception", 71, None)
    last = trainable_layers(network, "xception", "block14")
    assert {name.split("_")[0] for name in last} == {"block14"}
    unnamed = [layer.name for layer in network.layers if layer.name.startswith("conv2d")]
    assert len(unnamed) == 4  # the residual convolutions of blocks 2, 3, 4 and 13
    assert len(trainable_layers(network, "xception", "block13") & set(unnamed)) == 1
    assert len(trainable_layers(network, "xception", "block2") & set(unnamed)) == 4
    assert (
        len(trainable_layers(network, "xception", "block1")) == len(network.layers) - 1
    )  # all but the input


@pytest.mark.parametrize(("unfreeze", "share"), [("none", 0), ("all", 1)])
def test_none_and_all(unfreeze, share):
    network = build_backbone("vgg16", 32, None)
    assert len(trainable_layers(network, "vgg16", unfreeze)) == share * len(network.layers)


def test_a_further_backbone_is_one_entry(monkeypatch):
    blocks = tuple(f"block_{i}" for i in range(1, 17))
    entry = Backbone("keras.applications.mobilenet_v2", "MobileNetV2", "tf", 32, blocks)
    monkeypatch.setitem(BACKBONES, "mobilenetv2", entry)
    experiment = Experiment("mine", "mobilenetv2", ("avg_pool",), "adam", 0.001, weights=None, image_size=32)
    probabilities = build_model(experiment, 3).predict(np.zeros((1, 32, 32, 3)), verbose=0)
    assert probabilities.shape == (1, 3)
    train = trainable_layers(build_backbone("mobilenetv2", 32, None), "mobilenetv2", "block_16")
    assert {name.split("_")[1] for name in train if name.startswith("block_")} == {"16"}


def test_weights_from_a_file(tmp_path):
    source = build_backbone("vgg16", 32, None)
    source.save_weights(tmp_path / "vgg.weights.h5")
    loaded = build_backbone("vgg16", 48, str(tmp_path / "vgg.weights.h5"))
    for ours, theirs in zip(loaded.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_backbone_of_a_saved_model_serves_other_classes(tmp_path):
    experiment = get_experiment("emo_mini")
    model = build_model(experiment, 7)
    save_model(model, tmp_path / "faces.h5", {})
    other = build_model(dataclasses.replace(experiment, weights=str(tmp_path / "faces.h5"), seed=1), 9)
    learned, taken = (each.get_layer("emo_mini").get_weights() for each in (model, other))
    for ours, theirs in zip(taken, learned, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match=r"faces\.h5.*does not fit VGG16.*trained with vgg16"):
        build_backbone("vgg16", 32, str(tmp_path / "faces.h5"))


def test_a_backbone_without_imagenet_weights_says_what_to_set():
    with pytest.raises(UserError, match=r"emo_mini has none; set weights to a \.h5"):
        build_backbone("emo_mini", 48, "imagenet")


def test_weights_that_do_not_fit_or_do_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*no such file"):
        build_backbone("vgg16", 32, str(tmp_path / "nowhere.weights.h5"))
    build_backbone("resnet50", 32, None).save_weights(tmp_path / "resnet.weights.h5")
    with pytest.raises(UserError, match=r"resnet\.weights\.h5.*does not fit VGG16"):
        build_backbone("vgg16", 32, str(tmp_path / "resnet.weights.h5"))


def test_imagenet_without_internet_says_what_to_do(tmp_path, monkeypatch):
    def no_network(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", no_network)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.config, "keras_home", lambda: str(tmp_path), raising=False)
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"imagenet.*connect to the internet"):
        build_backbone("xception", 71, "imagenet")


def test_reading_names_and_experiments_imports_no_tensorflow():
    modules = ", ".join(
        f"emo.{name}"
        for name in ("paths", "experiments", "models.backbones", "tracking.table", "data.manifest")
    )
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_backbone():
    with pytest.raises(UserError, match="resnet50, vgg16, xception"):
        backbones.get_backbone("resnet51")
