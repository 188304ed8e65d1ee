"""Keras on JAX, in processes of their own: without TensorFlow, on several devices, in several processes."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emo.experiments import get_experiment
from emo.inference.classifier import load_classifier
from emo.paths import get_paths
from emo.tracking.table import read_table
from emo.training.train import train
from tests.fixtures import write_photos

PROJECT = Path(__file__).resolve().parents[1]
MINI = get_experiment("emo_mini", epochs=2, batch_size=8, precision="float32", ema=0.9)
# Adam's first steps turn rounding into whole ones, and dropout draws on each device for itself
ALIKE = dataclasses.replace(MINI, optimizer="sgd", learning_rate=0.01, weight_decay=0.0, head=("avg_pool",))
WITHOUT_TENSORFLOW = 'import sys; sys.modules["tensorflow"] = None\n'  # as where it is not installed


def start(code, **environment):
    """A Python of its own whose Keras computes with JAX."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code, **environment) -> str:
    process = start(code, **environment)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors[-3000:]
    return output


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """What one process has compiled the others take from a folder: most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    paths = get_paths(tmp_path_factory.mktemp("jax"))
    write_photos(paths.train, 16)
    write_photos(paths.val, 3, seed=1)
    write_photos(paths.test, 3, seed=2)
    return paths


def training(experiment, paths, before="", after="", callbacks="[]"):
    return f"""
{before}
import json
import keras
import emo_utils as emo
from emo.experiments import Experiment
paths = emo.get_paths({str(paths.root)!r})
run = emo.train(Experiment.from_json({experiment.to_json()!r}), paths, {callbacks})
{after}
"""


def test_everything_runs_on_jax_where_there_is_no_tensorflow(photos, capsys):
    experiment = dataclasses.replace(
        MINI, precise_batch_norm=True, color_jitter=0.3, random_erasing=0.5, mix="cutmix", class_balance=0.5
    )
    after = """
import dataclasses
import numpy as np
emo.setup()
small, file = {"epochs": 1, "batch_size": 8}, str(run.model_path)
emo.train(emo.get_experiment("emo_mini", teacher=file, teacher_weight=0.5, image_size=64, **small), paths)
emo.train(emo.get_experiment(
    "emo_mini", weights=file, unfreeze="block4", views=1, **small), paths)
classifier = emo.load_classifier(run.model_path).with_flip()
table = classifier.predict(paths.test)
report = emo.evaluate(classifier, paths.test)
cam = emo.grad_cam(classifier, table.path[0])
assert cam.shape == (40, 40) and cam.max() > 0
emo.classify_faces(classifier, table.path[0])
try:
    emo.export_model(emo.load_classifier(file), "onnx")
except emo.UserError as error:
    print(error)
print(json.dumps({"model": str(run.model_path), "answers": table.iloc[:, 3:].to_numpy().tolist()}))
"""
    output = run(training(experiment, photos, WITHOUT_TENSORFLOW, after))
    assert " · JAX 0." in output and "TensorFlow 2" not in output
    assert "Models are exported by TensorFlow alone" in output
    assert "Faces are found by TensorFlow alone, and Keras computes with JAX here" in output
    said = json.loads(output.splitlines()[-1])
    here = load_classifier(said["model"]).with_flip().predict(photos.test)
    np.testing.assert_allclose(here.iloc[:, 3:].to_numpy(), said["answers"], atol=1e-4)
    assert list(read_table(photos).state[-3:]) == ["finished"] * 3


def test_a_model_of_tensorflow_answers_the_same_on_jax(photos):
    model = train(MINI, photos).model_path
    here = load_classifier(model).predict(photos.test)
    output = run(f"""
import json
import emo_utils as emo
table = emo.load_classifier({str(model)!r}).predict({str(photos.test)!r})
print(json.dumps(table.iloc[:, 3:].to_numpy().tolist()))
""")
    np.testing.assert_allclose(here.iloc[:, 3:].to_numpy(), json.loads(output.splitlines()[-1]), atol=1e-4)


def histories(experiment, root, callbacks="[]", **environment):
    """The curve of a run in a project of its own."""
    paths = get_paths(root)
    write_photos(paths.train, 16)
    write_photos(paths.val, 3, seed=1)
    after = 'print(json.dumps(run.history.to_dict(orient="list")))'
    code = training(experiment, paths, after=after, callbacks=callbacks)
    return json.loads(run(code, **environment).splitlines()[-1])


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(tmp_path):
    experiment = dataclasses.replace(ALIKE, mix="cutmix", batch_size=16)
    one = histories(experiment, tmp_path / "one", "[keras.callbacks.TensorBoard(paths.root / 'curves')]")
    assert {file.parent.name for file in tmp_path.rglob("events*")} == {"train", "validation"}
    flags = "--xla_force_host_platform_device_count=8"
    eight = histories(experiment, tmp_path / "eight", XLA_FLAGS=flags)
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    experiment = dataclasses.replace(MINI, epochs=3, precise_batch_norm=True)
    unbroken = histories(experiment, tmp_path / "unbroken")
    killed = """
import os, signal
from emo.training import checkpoint, recorder
checkpoint.STATE_SECONDS = 0.0
before = recorder.Recorder.on_train_batch_end
def dying(self, batch, logs=None):
    before(self, batch, logs)
    if (self.epoch, batch) == (1, 3):
        self.writer.close()
        os.kill(os.getpid(), signal.SIGKILL)
recorder.Recorder.on_train_batch_end = dying
"""
    paths = get_paths(tmp_path / "killed")
    write_photos(paths.train, 16)
    write_photos(paths.val, 3, seed=1)
    assert start(training(experiment, paths, killed)).wait(timeout=400) == -signal.SIGKILL
    after = 'print(json.dumps(run.history.to_dict(orient="list")))'
    output = run(training(experiment, paths, after=after))
    assert "Resuming the run" in output and "in epoch 2 of 3" in output
    went_on = json.loads(output.splitlines()[-1])
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        np.testing.assert_allclose(went_on[name], unbroken[name], rtol=1e-4, err_msg=name)


def together(paths, count=2, **environment):
    """The processes of one run by the command line, the first one first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    changes = (
        "epochs",
        "batch_size",
        "precision",
        "ema",
        "optimizer",
        "learning_rate",
        "weight_decay",
        "head",
    )
    settings = [f"{name}={getattr(ALIKE, name)!r}" for name in changes]
    command = [
        sys.executable,
        "-m",
        "emo",
        "train",
        "emo_mini",
        "--root",
        str(paths.root),
        "--set",
        *settings,
    ]
    return [
        subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ
            | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address}
            | {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(number)}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def test_two_processes_give_the_losses_of_one_and_one_row(tmp_path):
    one = histories(ALIKE, tmp_path / "one")
    paths = get_paths(tmp_path / "two")
    write_photos(paths.train, 16)
    write_photos(paths.val, 3, seed=1)
    processes = together(paths)
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "Process 1 of 2" in outputs[0][1] and "Process 2 of 2" in outputs[1][1]
    rows = read_table(paths)
    assert list(rows.state[rows.state != ""]) == ["finished"]
    files = [file.name for file in paths.model.iterdir()]
    assert len(files) == 2  # model and curve
    lines = outputs[0][0].splitlines()
    at = next(place for place, line in enumerate(lines) if line.strip().startswith("accuracy"))
    curve = [line.split()[1:] for line in lines[at + 2 : at + 4]]  # the second line names the index
    for name, two in zip(lines[at].split(), zip(*curve, strict=True), strict=True):
        np.testing.assert_allclose(np.array(two, float), one[name], rtol=1e-3, err_msg=name)  # rounded sums


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_a_sentence_and_the_run_goes_on(tmp_path):
    paths = get_paths(tmp_path)
    write_photos(paths.train, 200)
    write_photos(paths.val, 3, seed=1)
    first, second = together(paths)
    for line in iter(first.stderr.readline, ""):
        if "loss=" in line:
            break
    second.kill()
    output, errors = first.communicate(timeout=200)
    assert first.returncode == 2, output + errors[-2000:]
    assert "Another process of this run has ended" in errors and "Traceback" not in errors
