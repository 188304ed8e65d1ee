"""What people give for a model, and what a small file may ask for."""

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from emo.errors import UserError
from emo.inference.classifier import load_classifier
from emo.models.loading import load_model
from emo.models.saved_config import parse
from tests.models.test_loading import CONV5_NESTED, FLATTEN_FLAT, change_config, layer_of, project  # noqa: F401

FILES = Path(__file__).resolve().parents[1] / "files"


def zipped(**files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.h5"))
    return out.getvalue()


def arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, weights=np.ones(3))
    return out.getvalue()


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


KERAS = {"config_dot_json": "{}", "metadata_dot_json": "{}", "model_dot_weights_dot_h5": ""}
TORCH = {"archive__data_dot_pkl": "", "archive__version": "3"}
KINDS = {
    "empty": (b"", "is empty: .*fetch it again"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 83\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "page": (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "web page and not the model"),
    "page_with_bom": ("\ufeff\n <HTML><head>".encode(), "web page and not the model"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page and not the model"),
    "keras_without_content": (zipped(**KERAS), r"could not be opened as a Keras model"),
    "torch_zip": (zipped(**TORCH), "PyTorch file"),
    "torch_old": (pickle.dumps({"torch": "state_dict"}), "PyTorch file"),
    "zip_with_h5": (zipped(best__model_dot_h5=""), r"is a zip file: unpack it and give best/model\.h5"),
    "zip_saved_model": (zipped(m__saved_model_dot_pb=""), "zip file with a SavedModel"),
    "zip_of_others": (zipped(readme_dot_txt=""), r"is a zip file without a \.h5"),
    "zip_empty": (zipped(), r"is a zip file without a \.h5"),
    "zip_cut": (zipped(**KERAS)[:60], "damaged zip file"),
    "npz": (arrays(), "holds NumPy arrays and no network"),
    "json": (
        json.dumps({"class_name": "Sequential"}).encode(),
        "JSON text and describes no network",
    ),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite model"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x05onnx", "ONNX model"),
    "pickle": (pickle.dumps([1, 2]), "Python pickle, which can run code and was not opened"),
    "gzip": (gzip.compress(b"hello"), r"is packed \(gzip\): unpack it"),
    "tar": (tarred(), r"is packed \(tar\): unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(40), r"is packed \(7-Zip\)"),
    "rar": (b"Rar!\x1a\x07" + bytes(40), r"is packed \(RAR\)"),
    "picture": (png(), "is a picture and no model"),
    "text": (b"hello", r"is not a \.h5 model"),
    "noise": (np.random.default_rng(0).bytes(5000), r"is not a \.h5 model"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_named_for_what_they_are(kind, tmp_path):
    content, says = KINDS[kind]
    for name in ("model.h5", "model.hdf5", "model"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=says) as told:
            load_classifier(tmp_path / name)
        assert str(told.value).startswith(f"{name} ")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m.tflite", "TensorFlow Lite"),
        ("m.onnx", "ONNX"),
        ("m.pt", "PyTorch"),
        ("m.pb", "part of a SavedModel"),
    ],
)
def test_endings_tell_where_bytes_do_not(name, says, tmp_path):
    (tmp_path / name).write_bytes(b"\x0a\x0b\x0c")
    with pytest.raises(UserError, match=says):
        load_classifier(tmp_path / name)


def test_folders_and_what_is_no_file(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(UserError, match=r"export is a folder: give the path of a \.h5 or \.keras in it"):
        load_classifier(tmp_path / "export")
    (tmp_path / "export" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UserError, match=r"export is a folder with a SavedModel: .*model\.save"):
        load_classifier(tmp_path / "export")
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(UserError, match=r"pipe\.h5 is not a file"):
        load_classifier(tmp_path / "pipe.h5")


def test_a_file_that_is_cut_off_says_so(project):  # noqa: F811
    file = project(CONV5_NESTED)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"is cut off: a copy or download broke off"):
        load_classifier(file)


# memory


def large_upsampling(config):
    layer = {"class_name": "UpSampling2D", "config": {"name": "up", "size": [2**20, 2**20]}}
    config["config"]["layers"].insert(2, layer)


def many_upsamplings(config):
    for number in range(12):
        layer = {"class_name": "UpSampling2D", "config": {"name": f"up{number}", "size": [4, 4]}}
        config["config"]["layers"].insert(2, layer)


def large_padding(config):
    layer_of(config, "conv1_pad")["config"]["padding"] = [[2**20, 0], [0, 2**20]]


def large_input(config):
    layer_of(config, "resnet50")["config"]["layers"][0]["config"]["batch_input_shape"] = [None, None, None, 3]
    config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, 10**6, 10**6, 3]


@pytest.mark.parametrize("change", [large_upsampling, many_upsamplings, large_padding, large_input])
def test_a_small_file_does_not_ask_for_all_memory(project, change):  # noqa: F811
    file = change_config(project(CONV5_NESTED), change)
    with pytest.raises(UserError, match=r"asks for \S+ GB, .*the limit is 2 GB: .*EMO_MODEL_MEMORY_GB"):
        load_model(file)


@pytest.mark.parametrize("packed", [False, True])
def test_weights_that_are_declared_and_not_stored(project, packed):  # noqa: F811
    file = project(FLATTEN_FLAT)
    with h5py.File(file, "a") as h5:
        group = next(name for name in h5["model_weights"] if name.startswith("dense"))
        kernel = f"model_weights/{group}/{group}/kernel:0"
        del h5[kernel]
        how = {"compression": "gzip", "chunks": (1024, 1024)} if packed else {}
        h5.create_dataset(kernel, (25_000, 25_000), "f4", **how)  # 2.5 GB
    with pytest.raises(UserError, match="names more weights than it holds"):
        load_classifier(file)


def test_the_limit_can_be_raised_and_lowered(project, monkeypatch):  # noqa: F811
    file = project(FLATTEN_FLAT)
    monkeypatch.setenv("EMO_MODEL_MEMORY_GB", "0.000001")
    with pytest.raises(UserError, match=r"asks for \S+ GB, .*the limit is 1e-06 GB"):
        load_classifier(file)
    monkeypatch.setenv("EMO_MODEL_MEMORY_GB", "much")
    with pytest.raises(UserError, match="EMO_MODEL_MEMORY_GB is 'much'; set it to gigabytes"):
        load_classifier(file)
    monkeypatch.setenv("EMO_MODEL_MEMORY_GB", "8")
    load_classifier(file)


def test_twenty_thousand_layers_backwards_are_counted_first():
    layers = [
        {
            "class_name": "Flatten",
            "config": {"name": f"f{index}"},
            "name": f"f{index}",
            "inbound_nodes": [[[f"f{index - 1}" if index else "in", 0, 0, {}]]],
        }
        for index in reversed(range(20_000))
    ]
    config = {"name": "m", "input_layers": [["in", 0, 0]], "output_layers": [["f19999", 0, 0]]}
    with pytest.raises(Exception, match="more than 2,000 layers"):
        parse({"class_name": "Functional", "config": config | {"layers": layers}})
    few = [layer for layer in layers if int(layer["name"][1:]) < 2000]
    config["output_layers"] = [["f1999", 0, 0]]
    network = parse({"class_name": "Functional", "config": config | {"layers": few}})
    assert [layer.name for layer in network.layers] == [f"f{index}" for index in range(2000)]


def test_float16_is_computed_in_float32_on_a_cpu(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        images = keras.Input((12, 12, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
        model = keras.Model(images, keras.layers.Dense(3, "softmax", dtype="float32")(x))
        model.save(tmp_path / "model.h5")
    finally:
        keras.config.set_dtype_policy(before)
    opened, _ = load_model(tmp_path / "model.h5")
    assert {layer.compute_dtype for layer in opened.layers} == {"float32"}
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3))
    np.testing.assert_allclose(
        opened.predict(pictures, verbose=0), model.predict(pictures, verbose=0), atol=0.05
    )


@pytest.mark.parametrize("kind", [0, 2, 5, 15])
def test_text_that_damage_makes_a_sequence_is_refused_and_python_lives(tmp_path, kind):
    file = Path(shutil.copy(FILES / "keras2_activations.h5", tmp_path / "damaged.h5"))
    data = bytearray(file.read_bytes())
    name = data.index(b"model_config\0")
    text = data.index(b"\x19\x01", name)  # HDF5's type "of variable length", of the kind "string"
    data[text + 1] = kind
    file.write_bytes(data)
    code = f"from emo.models.loading import read_model\nread_model({str(file)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "damaged.h5" in done.stderr.splitlines()[-1], done.stderr[-500:]
    assert "damaged" in done.stderr.splitlines()[-1].replace("damaged.h5", "")
