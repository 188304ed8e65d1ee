import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tests.tiny  # noqa: F401 -- a backbone
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import EXPERIMENTS, PRECISIONS, Experiment, get_experiment
from emo.inference.classifier import load_classifier
from emo.models.build import build_model
from emo.models.saving import read_metadata
from emo.paths import get_paths
from emo.plots import curves
from emo.precision import computing_in, dtype_policy
from emo.tracking.table import read_table
from emo.training import async_writer, checkpoint, plan
from emo.training import plan as plan_module
from emo.training.augmented_copy import write_augmented_copy
from emo.training.batches import Batches
from emo.training.hints import chance_hint
from emo.training.plan import prepare_run
from emo.training.recorder import Recorder
from emo.training.run import Ending, Outcome
from emo.training.run_files import RunFiles
from emo.training.train import compile_trainer, train
from tests.fixtures import write_photos

TINY = get_experiment(
    "6",
    backbone="tiny",
    weights=None,
    unfreeze="all",
    image_size=32,
    batch_size=8,
    epochs=2,
    learning_rate=1e-4,
)
MINI = get_experiment("emo_mini", epochs=10)
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run, looked at by several tests."""
    paths = get_paths(tmp_path_factory.mktemp("project"))
    write_photos(paths.train, 12)
    return train(TINY, paths), paths


def new_recorder(paths):
    plan = prepare_run(TINY, paths)
    compile_trainer(plan)
    recorder = Recorder(plan)
    recorder.set_params({"steps": 1})
    recorder.set_model(plan.trainer)
    return recorder


def disk_full(*_arguments):
    raise OSError(28, "No space left on device")


def start_training(experiment, paths, first="", **environment):
    """`train` in a process of its own that begins with the code `first`, and whose output is the run."""
    code = (
        f"{first}\nimport tests.tiny;"
        "from emo.experiments import Experiment; from emo.paths import get_paths;"
        "from emo.training.train import train;"
        f"print(train(Experiment.from_json({experiment.to_json()!r}), get_paths({str(paths.root)!r})))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until(ready):
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_leaves_the_best_model_its_curve_and_a_row(finished):
    run, paths = finished
    accuracy = f"{100 * run.val_accuracy:.0f}"
    name = rf"emo_classificator_best_\d{{12}}_tiny_e2_aug1_acc{accuracy}"
    assert re.fullmatch(name, run.model_path.stem)
    assert sorted(file.name for file in paths.model.iterdir()) == [run.model_path.name, run.curve_path.name]
    with Image.open(run.curve_path) as curve:
        assert curve.width > 500
    row = read_table(paths).iloc[-1]
    assert row.number == run.number == 13
    assert row.state == "finished"
    assert row.val_accuracy == pytest.approx(100 * run.val_accuracy, abs=0.06)
    assert row.model_file == run.model_path.name
    assert Experiment.from_json(row.settings) == TINY
    assert (row.image_size, row.batch_size, row.seed, row.epochs) == (32, 8, 42, 2)
    assert "Keras" in row.versions


def test_the_file_tells_its_story_and_predicts_what_was_measured(finished):
    run, paths = finished
    metadata = read_metadata(run.model_path)
    assert metadata["class_names"] == ["anger", "happy", "sad"]
    assert Experiment(**metadata["experiment"]) == TINY
    assert metadata["val_accuracy"] == run.val_accuracy
    assert metadata["image_size"] == 32
    _, validation = training_manifests(paths)
    answers = load_classifier(run.model_path).predict(list(validation.path))
    assert (answers.emotion.to_numpy() == validation.label.to_numpy()).mean() == pytest.approx(
        run.val_accuracy
    )
    assert "random" not in " ".join(layer.name for layer in keras.models.load_model(run.model_path).layers)


def test_same_seed_same_result(finished, tmp_path):
    run, paths = finished
    other = get_paths(paths.root, tmp_path)
    again = train(TINY, other)
    np.testing.assert_array_equal(run.history.to_numpy(), again.history.to_numpy())
    different = train(dataclasses.replace(TINY, seed=7), other)
    assert (run.history.loss != different.history.loss).all()


def test_it_learns(dataset):
    run = train(dataclasses.replace(TINY, epochs=8, learning_rate=3e-4, batch_size=4), dataset)
    assert run.val_accuracy > 0.6  # chance is a third; the classes are colours


def test_nan_after_the_first_epoch_keeps_the_best_model(dataset, monkeypatch):
    whole = Batches.__getitem__

    def broken(self, index):
        images, labels = whole(self, index)
        return images, labels * (np.nan if self.seed is not None and self.epoch == 1 else 1)

    monkeypatch.setattr(Batches, "__getitem__", broken)
    run = train(dataclasses.replace(TINY, epochs=3), dataset)
    assert str(run.outcome) == "stopped: the loss became NaN in epoch 2"
    assert len(run.history) == 1
    assert load_classifier(run.model_path).predict(str(dataset.test)).confidence.notna().all()
    assert read_table(dataset).iloc[-1].state == str(run.outcome)


def test_a_disk_that_fails_at_the_very_first_save_is_told_and_leaves_nothing(dataset, monkeypatch):
    monkeypatch.setattr(async_writer, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save_model", disk_full)
    with pytest.raises(OSError, match="No space"):
        train(dataclasses.replace(TINY, epochs=1), dataset)
    assert list(dataset.model.iterdir()) == []


def test_a_save_cut_short_leaves_the_model_that_the_name_and_the_row_tell_of(dataset, monkeypatch):
    monkeypatch.setattr(async_writer, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(async_writer, "FIRST_SECONDS", 0.0)
    recorder = new_recorder(dataset)
    logs = {"loss": 1.0, "val_loss": 1.0, "accuracy": 0.5}
    recorder.on_epoch_end(0, logs | {"val_accuracy": 0.4})
    wait_until(lambda: recorder.best_model.saved)
    monkeypatch.setattr(checkpoint, "save_model", disk_full)
    recorder.on_epoch_end(1, logs | {"val_accuracy": 0.9})
    with pytest.raises(OSError, match="No space"):
        recorder.writer.close()
    run = recorder.finish(Outcome(Ending.FAILED, 2, OSError()))
    assert (run.val_accuracy, run.best_epoch) == (0.4, 1)
    assert run.model_path.stem.endswith("_acc40")
    assert read_metadata(run.model_path)["val_accuracy"] == 0.4
    assert run.curve_path.exists()
    assert read_table(dataset).iloc[-1].val_accuracy == 40


def test_a_disk_that_fails_later_ends_the_run_with_the_model_before(dataset, monkeypatch):
    monkeypatch.setattr(async_writer, "RETRY_SECONDS", 0.0)
    whole, saves = checkpoint.save_model, []

    def full_from_the_second_on(*arguments):
        saves.append(arguments)
        return whole(*arguments) if len(saves) == 1 else disk_full()

    monkeypatch.setattr(checkpoint, "save_model", full_from_the_second_on)
    monkeypatch.setattr(async_writer, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(async_writer, "SHARE", 1e9)  # every save at once
    with pytest.raises(OSError, match="No space"):
        train(dataclasses.replace(TINY, epochs=30, learning_rate=3e-4, batch_size=4), dataset)
    row = read_table(dataset).iloc[-1]
    assert "No space left" in row.state
    metadata = load_classifier(dataset.model / row.model_file).metadata
    assert 100 * metadata["val_accuracy"] == pytest.approx(row.val_accuracy, abs=0.06)


def test_a_disk_that_is_away_for_a_while_costs_nothing(dataset, monkeypatch, capsys):
    """As Google Drive is, now and then."""
    whole, failures = checkpoint.save_model, iter(range(2))

    def away(*arguments):
        return whole(*arguments) if next(failures, None) is None else disk_full()

    monkeypatch.setattr(checkpoint, "save_model", away)
    monkeypatch.setattr(checkpoint, "STATE_SECONDS", 0.0)
    for name in ("FIRST_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(async_writer, name, 0.0)
    monkeypatch.setattr(curves.Figure, "savefig", lambda *given, **options: disk_full())
    run = train(dataclasses.replace(TINY, epochs=2), dataset)
    assert str(run.outcome) == "finished"
    assert read_metadata(run.model_path)["val_accuracy"] == run.val_accuracy
    told = capsys.readouterr().out
    assert "The model cannot be saved now (No space left on device); it is tried again." in told
    assert f"{run.curve_path.name} cannot be written (No space left on device)." in told


def test_ctrl_c_twice_waits_for_what_is_being_written(monkeypatch):
    writer, done = async_writer.Writer(), []
    shutdown, stops = writer._thread.shutdown, iter([KeyboardInterrupt, KeyboardInterrupt])

    def interrupted():
        if stop := next(stops, None):
            raise stop
        shutdown()

    monkeypatch.setattr(writer._thread, "shutdown", interrupted)
    writer.submit("model", lambda: [time.sleep(0.2), done.append("model")])
    writer.close()
    assert done == ["model"]


def test_what_was_written_takes_no_memory_until_the_run_ends():
    array, writer = np.zeros(1), async_writer.Writer()
    kept = weakref.ref(array)
    writer.submit("state", array.sum)
    del array
    writer._closing.set()  # it does not wait
    wait_until(lambda: kept() is None)
    writer.close()


def test_the_newest_of_the_waiting_models_is_written_whole(dataset):
    recorder = new_recorder(dataset)
    logs = {"loss": 1.0, "val_loss": 1.0, "accuracy": 0.5}
    for epoch in range(8):
        for weight in recorder.plan.network.trainable_weights:
            weight.assign(np.full(weight.shape, epoch))
        recorder.on_epoch_end(epoch, logs | {"val_accuracy": epoch / 10})
    recorder.writer.close()
    run = recorder.finish(Outcome(Ending.FINISHED, 8))
    assert run.best_epoch == 8
    saved = keras.models.load_model(run.model_path, compile=False)
    assert {float(value) for weight in saved.trainable_weights for value in np.unique(weight)} == {7.0}


def test_a_run_of_seconds_writes_its_model_and_draws_its_curve_once(dataset, monkeypatch):
    calls = []

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: [calls.append(name), function(*given)][1])

    counted(checkpoint, "save_model")
    counted(curves, "plot_curve")
    recorder = new_recorder(dataset)
    for epoch in range(8):
        accuracies = {"accuracy": 0.5, "val_accuracy": epoch / 10}
        recorder.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0} | accuracies)
    recorder.writer.close()
    assert recorder.finish(Outcome(Ending.FINISHED, 8)).best_epoch == 8
    assert sorted(calls) == ["plot_curve", "save_model"]


def test_an_epoch_with_a_nan_validation_loss_is_never_the_best(dataset):
    recorder = new_recorder(dataset)
    recorder.on_epoch_end(0, {"loss": 1.0, "val_loss": float("nan"), "accuracy": 1, "val_accuracy": 1.0})
    recorder.writer.close()
    assert recorder.best_model.saved is None
    assert recorder.files.model.stat().st_size == 0
    assert recorder.model.stop_training  # not hours more of it


def test_balance_finds_more_of_a_rare_class_and_is_told_in_the_table(dataset):
    write_photos(dataset.train, 60, classes=("happy",))
    write_photos(dataset.val, 20, classes=("sad", "happy"), seed=2)
    answers = {}
    for balance in (0.0, 1.0):
        run = train(dataclasses.replace(TINY, epochs=1, augment=False, class_balance=balance), dataset)
        predicted = load_classifier(run.model_path).predict(str(dataset.val))
        answers[balance] = predicted["sad"].mean() + predicted["anger"].mean()
    assert answers[1.0] > answers[0.0]
    assert list(read_table(dataset)["loss"].iloc[-2:]) == [
        "categorical_crossentropy",
        "categorical_crossentropy(class_balance=1)",
    ]


def test_augmentation_is_part_of_training(dataset):
    plain, augmented = (
        train(dataclasses.replace(TINY, epochs=1, augment=on), dataset) for on in (False, True)
    )
    assert plain.history.loss[1] != augmented.history.loss[1]
    assert plain.model_path.stat().st_size == pytest.approx(augmented.model_path.stat().st_size, rel=0.01)


def test_nan_in_the_first_epoch_says_what_to_change_and_leaves_nothing(dataset, monkeypatch):
    whole = Batches.__getitem__
    monkeypatch.setattr(
        Batches, "__getitem__", lambda self, i: (whole(self, i)[0], whole(self, i)[1] * np.nan)
    )
    with pytest.raises(UserError, match=r"learning_rate=0\.0001 is too high"):
        train(TINY, dataset)
    assert list(dataset.model.iterdir()) == []


def test_an_exception_keeps_the_best_model_logs_the_row_and_is_raised(dataset, monkeypatch):
    whole = Batches.__getitem__

    def broken(self, index):
        if self.seed is not None and self.epoch == 1:
            raise RuntimeError("the disk is gone")
        return whole(self, index)

    monkeypatch.setattr(Batches, "__getitem__", broken)
    with pytest.raises(Exception, match="the disk is gone"):
        train(dataclasses.replace(TINY, epochs=3), dataset)
    row = read_table(dataset).iloc[-1]
    assert row.state.startswith("failed after epoch 1")
    assert load_classifier(dataset.model / row.model_file).class_names == ("anger", "happy", "sad")


def test_ctrl_c_keeps_the_best_model_and_logs_the_row(dataset):
    process = start_training(dataclasses.replace(TINY, epochs=500), dataset)
    try:
        # the curve is written when an epoch has ended
        wait_until(lambda: list(dataset.model.glob("*_running.png")) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "stopped by the user after epoch" in output
    row = read_table(dataset).iloc[-1]
    assert row.state.startswith("stopped by the user after epoch")
    assert load_classifier(dataset.model / row.model_file)


@pytest.mark.parametrize("views", [0, 1])
def test_half_precision_trains_and_the_file_is_plain_float32(dataset, views):
    unfreeze = "block2" if views else "all"
    experiment = dataclasses.replace(TINY, precision="mixed_float16", views=views, unfreeze=unfreeze)
    # as on a GPU; with one thread between operations no two of them can wait for each other
    allowed = "from emo.training import plan; plan.dtype_policy = lambda precision: precision"
    process = start_training(experiment, dataset, allowed, TF_NUM_INTEROP_THREADS="1")
    try:
        process.communicate(timeout=240)
    finally:
        process.kill()
    row = read_table(dataset).iloc[-1]
    assert row.state == "finished"
    classifier = load_classifier(dataset.model / row.model_file)
    assert classifier.metadata["computed_in"] == "mixed_float16"
    network = classifier.model.get_layer("tiny")
    assert {layer.compute_dtype for layer in (*classifier.model.layers, *network.layers)} == {"float32"}


def test_what_was_saved_predicts_as_the_half_precision_network_within_a_hundredth(dataset):
    with computing_in("mixed_float16"):
        network = build_model(TINY, 3)
    assert network.get_layer("tiny").layers[1].compute_dtype == "float16"
    assert network.layers[-1].compute_dtype == "float32"
    writer = async_writer.Writer()
    saver = checkpoint.BestModel(network, dataset.model / "model.h5", network.weights, writer)
    for weight in network.trainable_weights:
        weight.assign(1.5 * weight)
    saver.save({})
    writer.close()
    pictures = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    saved = keras.models.load_model(saver.path, compile=False)
    np.testing.assert_allclose(saved(pictures), network(pictures), atol=1e-2)


def test_the_precision_of_this_machine_is_one_that_it_computes_in():
    policy = dtype_policy()
    assert policy in PRECISIONS
    assert dtype_policy("float32") == "float32"
    with computing_in(policy):  # a CPU that only claims bfloat16 would end the process here
        network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64), keras.layers.Dense(3)])
    network.compile("sgd", "mse")
    assert np.isfinite(network.train_on_batch(np.ones((32, 64)), np.ones((32, 3))))


def test_float16_is_trained_with_a_scaled_loss(dataset, monkeypatch):
    monkeypatch.setattr(plan_module, "dtype_policy", lambda precision: "mixed_float16")
    plan = prepare_run(TINY, dataset)
    compile_trainer(plan)
    assert isinstance(plan.trainer.optimizer, keras.optimizers.LossScaleOptimizer)


def test_float16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    with pytest.raises(UserError, match=r"mixed_float16.* needs a GPU.*'auto'"):
        dtype_policy("mixed_float16")


TWO_DEVICES = """
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
import tests.tiny
"""


def run_on_two_devices(code):
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES + code], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


# dropout draws on each device for itself, and Adam's first steps turn rounding into whole ones
ALIKE = dataclasses.replace(TINY, head=("avg_pool",), optimizer="sgd", learning_rate=1e-3)


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(
            dataclasses.replace(ALIKE, color_jitter=0.3, random_erasing=0.5, mix="cutmix"), id="whole"
        ),
        pytest.param(dataclasses.replace(ALIKE, unfreeze="block2", views=1), id="behind frozen layers"),
        pytest.param(
            dataclasses.replace(ALIKE, precise_batch_norm=True),
            id="precise BatchNormalization",
        ),
    ],
)
def test_two_devices_give_the_loss_curve_of_one(dataset, experiment):
    run_on_two_devices(f"""
from emo.experiments import Experiment
from emo.paths import get_paths
from emo.training.devices import all_devices
from emo.training.train import train

paths = get_paths({str(dataset.root)!r})
experiment = Experiment.from_json({experiment.to_json()!r})
one = train(experiment, paths)
cpus = tf.config.list_logical_devices("CPU")
tf.config.list_logical_devices = lambda kind: cpus  # as where there are two GPUs
assert all_devices().count == 2
two = train(experiment, paths)
print(one.history, two.history)
np.testing.assert_allclose(two.history.loss, one.history.loss, rtol=2e-3)
np.testing.assert_allclose(two.history.val_loss, one.history.val_loss, rtol=2e-3)
""")


def test_a_batch_that_devices_cannot_share_equally_is_refused(dataset):
    run_on_two_devices(f"""
from emo.errors import UserError
from emo.experiments import Experiment
from emo.paths import get_paths
from emo.training.train import train

experiment = Experiment.from_json({dataclasses.replace(ALIKE, batch_size=7).to_json()!r})
with both.scope():
    try:
        train(experiment, get_paths({str(dataset.root)!r}))
    except UserError as error:
        assert "batch_size=7 cannot be shared equally by 2 devices" in str(error)
    else:
        raise AssertionError("a batch of 7 was accepted")
""")


def test_batch_normalization_takes_its_statistics_from_both_devices():
    # a small network: in a whole ResNet50 from scratch, rounding alone moves the loss by percents
    run_on_two_devices("""
import keras

from emo.training.devices import normalize_over_all_devices

pictures = np.random.default_rng(0).normal(3, 2, (24, 8, 8, 4)).astype("f4")
pictures[::2] += np.arange(24, dtype="f4")[::2, None, None, None]  # the halves of a batch differ
labels = np.eye(3)[np.arange(24) % 3]


def trained():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Conv2D(4, 3)(inputs))
    frozen = keras.layers.BatchNormalization(trainable=False)
    x = keras.layers.GlobalAveragePooling2D()(frozen(x))
    network = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        normalize_over_all_devices(network)
    network.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
    history = network.fit(pictures, labels, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], network.get_weights()


loss, weights = trained()
with both.scope():
    loss_on_both, weights_on_both = trained()
np.testing.assert_allclose(loss_on_both, loss, rtol=1e-4)
for alone, shared in zip(weights, weights_on_both, strict=True):
    np.testing.assert_allclose(shared, alone, rtol=1e-3, atol=1e-4)
""")


def test_training_on_the_augmented_copy(dataset):
    experiment = dataclasses.replace(TINY, augment=False, use_augmented_copy=True, epochs=1)
    with pytest.raises(UserError, match=r"train_aug.*prep_data"):
        train(experiment, dataset)
    write_augmented_copy(dataset, copies=1)
    run = train(experiment, dataset)
    assert "_aug1_" in run.model_path.name


def test_the_row_tells_how_many_labels_were_corrected(dataset):
    training_manifests(dataset)  # writes the split
    chosen = [line.split(",")[0] for line in dataset.split.read_text().splitlines() if "sad_00" in line][:4]
    dataset.relabel.write_text("path,label\n" + "".join(f"{path},happy\n" for path in chosen))
    train(dataclasses.replace(TINY, epochs=1), dataset)
    assert re.fullmatch(
        r"relabel\.csv: [1-4] training and [0-3] validation labels", read_table(dataset).iloc[-1].comment
    )
    train(dataclasses.replace(TINY, epochs=1, relabel=False), dataset)
    assert read_table(dataset).iloc[-1].comment == ""


def test_two_runs_in_the_same_second_have_names_of_their_own(paths):
    reserved = [RunFiles.reserve(TINY, paths.model).model for _ in range(3)]
    assert len(set(reserved)) == 3


def test_no_photos_names_the_folder(paths):
    with pytest.raises(UserError, match="train"):
        train(TINY, paths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone"),
    [(name, each.backbone) for name, each in EXPERIMENTS.items()]
    + [(name, each) for name in ("finetune", "finetune_strong") for each in ("resnet50", "vgg16")],
)
def test_each_experiment_trains_one_epoch_on_the_sample_set(name, backbone, paths):
    from emo.data.download import fetch_dataset
    from emo.models.backbones import get_backbone

    fetch_dataset("sample", paths)
    size = get_backbone(backbone).min_size
    run = train(get_experiment(name, backbone=backbone, weights=None, image_size=size, epochs=1), paths)
    assert str(run.outcome) == "finished"
    assert np.isfinite(run.history.to_numpy()).all()
    assert json.loads(read_table(paths).iloc[-1].settings)["name"] == name


@pytest.mark.parametrize("classes", [("sad",), ("happy",)])
def test_a_dataset_of_one_class_is_refused(paths, classes):
    write_photos(paths.train, 6, classes)
    with pytest.raises(UserError, match=rf"has one class only, '{classes[0]}'"):
        train(TINY, paths)
    assert list(paths.model.iterdir()) == []


def runs_out(kind):
    """A failure as each of the libraries tells it."""
    return {
        "TensorFlow": tf.errors.ResourceExhaustedError(
            None, None, "OOM when allocating tensor\n\tDetected at\n"
        ),
        "Python": MemoryError(),
        "JAX": RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9663676416 bytes."),
    }[kind]


@pytest.mark.parametrize("kind", ["TensorFlow", "Python", "JAX"])
def test_memory_that_runs_out_is_one_sentence_and_the_best_model_is_kept(dataset, monkeypatch, kind):
    whole = Batches.__getitem__

    def greedy(self, index):
        if self.seed is not None and self.epoch == 1:
            raise runs_out(kind)
        return whole(self, index)

    monkeypatch.setattr(Batches, "__getitem__", greedy)
    with pytest.raises(UserError, match=r"Memory ran out while 6 .*: try batch_size=4.*restart") as raised:
        train(dataclasses.replace(TINY, epochs=3, image_size=48), dataset)
    assert raised.value.__cause__ is None and raised.value.__context__ is None  # no trace of a hundred lines
    row = read_table(dataset).iloc[-1]
    assert row.state.startswith("failed after epoch 1: Memory ran out")
    assert load_classifier(dataset.model / row.model_file)
    assert len(list(dataset.model.iterdir())) == 2


@pytest.mark.parametrize(
    "asked, advice",
    [
        ({}, "try batch_size=4"),
        ({"image_size": 128}, "try batch_size=4 or image_size=64"),
        ({"batch_size": 2, "image_size": 16}, "smaller backbone"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_in_the_first_step_says_what_to_halve(dataset, monkeypatch, asked, advice):
    monkeypatch.setattr(Batches, "__getitem__", lambda self, index: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(UserError, match=advice):
        train(dataclasses.replace(TINY, **asked), dataset)
    assert list(dataset.model.iterdir()) == []


def test_photos_that_fit_no_memory_are_told_before_the_first_step(dataset, monkeypatch):
    def too_many(*_):
        np.empty((50_000, 10**6, 10**6, 3), np.uint8)

    monkeypatch.setattr(plan, "load_photos", too_many)
    with pytest.raises(UserError, match=r"Memory ran out while 6 .* was prepared: try image_size=64"):
        prepare_run(dataclasses.replace(TINY, image_size=128), dataset)


def test_a_state_that_finds_no_room_does_not_fail_a_run_whose_model_is_saved(dataset, monkeypatch, capsys):
    for module, name in (
        (async_writer, "FIRST_SECONDS"),
        (async_writer, "RETRY_SECONDS"),
        (checkpoint, "STATE_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(async_writer, "SHARE", 1e9)
    monkeypatch.setattr(checkpoint.np, "savez", lambda *_, **arrays: disk_full())
    run = train(dataclasses.replace(TINY, epochs=2), dataset)
    assert str(run.outcome) == "finished"
    assert read_table(dataset).iloc[-1].state == "finished"
    assert (
        "The state is not saved (No space left on device); the run ends without it."
        in capsys.readouterr().out
    )
    assert set(dataset.model.iterdir()) == {run.model_path, run.curve_path}


def test_a_disk_that_is_full_from_the_start_is_one_sentence(dataset, full_disk):
    full = get_paths(dataset.root, full_disk.folder)
    full_disk.fill()
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); make room"):
        train(dataclasses.replace(TINY, epochs=1), full)
    assert list(full.model.iterdir()) == []


def test_a_state_on_a_full_disk_leaves_the_one_before(full_disk):
    variables = [keras.Variable(np.zeros(100_000, np.float32))]
    writer = async_writer.Writer(spare=["state"])
    state = checkpoint.RunState(full_disk.folder / "run_running.h5", variables, writer)
    progress = checkpoint.Progress("k", "2026-11-26T12:00:00", "run_running.h5", 1.0, 0, 1, {}, [], -1.0)
    state.save(progress)
    writer.close()
    full_disk.fill(leave=200_000)
    writer = async_writer.Writer(spare=["state"])
    state._writer = writer
    state.save(dataclasses.replace(progress, step=2))
    writer.close()
    found, damaged = checkpoint.find_states(full_disk.folder, "k")
    assert ([said.step for _, said in found], damaged) == ([1], {})
    assert sorted(file.name for file in full_disk.folder.iterdir()) == ["filler", "run_running.state0.npz"]


def test_few_photos_are_told_with_the_recipe_for_them(dataset, capsys):
    prepare_run(dataclasses.replace(MINI, epochs=1), dataset)
    assert (
        "30 training photos are few for a random start: the recipe finetune_mini" in capsys.readouterr().out
    )
    prepare_run(get_experiment("finetune_mini", epochs=1), dataset)
    assert "are few" not in capsys.readouterr().out


def test_augmented_copies_do_not_make_photos_many(dataset, capsys, monkeypatch):
    monkeypatch.setattr("emo.training.hints.FEW", 50)
    write_augmented_copy(dataset, copies=1)
    prepare_run(dataclasses.replace(MINI, epochs=1, use_augmented_copy=True), dataset)
    assert "30 training photos are few" in capsys.readouterr().out


def test_frozen_layers_from_a_random_start_are_told(dataset, capsys):
    prepare_run(dataclasses.replace(MINI, unfreeze="block4"), dataset)
    assert "the frozen layers keep their random numbers; set unfreeze='all'" in capsys.readouterr().out
    prepare_run(MINI, dataset)
    assert "random numbers" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "experiment, train_accuracy, advice",
    [
        (MINI, 0.5, "the training photos are told apart better"),
        (get_experiment("6", epochs=10), 0.2, "recipe finetune, which trains them too"),
        (dataclasses.replace(MINI, learning_rate=1e-3), 0.2, "learning_rate=1e-04 or 1e-02"),
    ],
)  # fmt: skip
def test_a_run_at_chance_after_half_its_epochs_says_what_to_change(experiment, train_accuracy, advice):
    labels = np.eye(5)[np.arange(101) % 5]
    said = {epoch: chance_hint(experiment, epoch, 0.218, train_accuracy, labels) for epoch in range(1, 11)}
    assert [epoch for epoch, sentence in said.items() if sentence] == [5]
    assert advice in said[5] and "21.8% at best, no better than chance (20.8%)" in said[5]
    assert not chance_hint(experiment, 5, 0.40, train_accuracy, labels)
