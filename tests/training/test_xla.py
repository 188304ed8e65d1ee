"""Steps that XLA compiles: the same losses as without it, for all that a step may hold."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

import tests.tiny  # noqa: F401 -- a backbone
from emo.backend import is_jax
from emo.errors import UserError
from emo.experiments import get_experiment
from emo.paths import get_paths
from emo.training import devices
from emo.training import plan as plan_module
from emo.training.plan import prepare_run
from emo.training.train import compile_trainer, fit_epochs, train
from tests.fixtures import write_photos

SMALL = {"weights": None, "batch_size": 8, "epochs": 1, "warmup_epochs": 0, "precision": "float32"}
# Without dropout, whose numbers TensorFlow draws by another generator under XLA; and slowly: what the two add
# up in another order grows with each step, in AdamW's first ones from nothing to whole ones.
SLOW = SMALL | {"optimizer": "sgd", "learning_rate": 1e-4, "momentum": 0.9, "weight_decay": 0.0}
MINI = get_experiment("emo_mini", **SLOW | {"head": ("avg_pool",)})
TINY = dataclasses.replace(MINI, backbone="tiny")


class Losses(keras.callbacks.Callback):
    """The loss of each step: Keras gives its mean over the epoch so far."""

    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(float(logs["loss"]))

    @property
    def steps(self) -> np.ndarray:
        return np.diff(np.array(self.means) * np.arange(1, len(self.means) + 1), prepend=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    paths = get_paths(tmp_path_factory.mktemp("xla"))
    write_photos(paths.train, 55)
    write_photos(paths.val, 2, seed=1)
    return paths


@pytest.fixture(scope="module")
def teacher(photos):
    """A finished model of another picture size."""
    run = train(dataclasses.replace(TINY, image_size=64), photos)
    return str(run.model_path)


def losses(experiment, paths, xla, monkeypatch):
    monkeypatch.setattr(plan_module, "use_xla", lambda *_: xla)
    plan = prepare_run(experiment, paths)
    compile_trainer(plan)
    assert plan.trainer.jit_compile is xla
    log = Losses()
    fit_epochs(plan, 0, 1, [log])
    return log.steps


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(MINI, id="emo_mini", marks=pytest.mark.slow),
        pytest.param(
            dataclasses.replace(TINY, color_jitter=0.3, random_erasing=0.5, mix="cutmix", class_balance=1),
            id="all augmentation",
        ),
        pytest.param(
            get_experiment("12", image_size=64, **SLOW | {"learning_rate": 1e-6}),
            id="resnet50",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            get_experiment("2", image_size=32, augment=True, unfreeze="block5", **SLOW),
            id="vgg16",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            get_experiment("finetune", unfreeze="block13", image_size=71, **SLOW | {"head": ("avg_pool",)}),
            id="xception",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            get_experiment("4", backbone="tiny", image_size=48, augment=True, views=1, **SLOW),
            id="a head on cached features",
        ),
    ],
)
def test_xla_gives_the_losses_that_come_without_it(photos, monkeypatch, experiment):
    without, compiled = (losses(experiment, photos, xla, monkeypatch) for xla in (False, True))
    assert len(without) >= 20 or experiment.views  # a head takes several steps in one call
    np.testing.assert_allclose(compiled[:20], without[:20], rtol=1e-4)


@pytest.mark.slow
def test_xla_compiles_a_recipe_as_it_stands(photos, monkeypatch):
    recipe = get_experiment("emo_mini", **SMALL | {"head": ("avg_pool",)})
    without, compiled = (losses(recipe, photos, xla, monkeypatch) for xla in (False, True))
    np.testing.assert_allclose(compiled[:3], without[:3], rtol=1e-4)


def test_xla_gives_the_losses_of_distillation(photos, teacher, monkeypatch):
    taught = dataclasses.replace(TINY, teacher=teacher, teacher_weight=0.5)
    without, compiled = (losses(taught, photos, xla, monkeypatch) for xla in (False, True))
    np.testing.assert_allclose(compiled[:20], without[:20], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "steps", "devices_here", "gpus", "expected"),
    [
        ({}, devices.XLA_STEPS, 1, ["H100"], True),
        ({}, devices.XLA_STEPS - 1, 1, ["H100"], False),  # the minute of compiling would not pay
        ({}, devices.XLA_STEPS, 2, ["H100", "H100"], False),  # Keras compiles no mirrored step
        ({}, devices.XLA_STEPS, 1, [], False),
        ({"deterministic": True}, devices.XLA_STEPS, 1, [], False),
    ],
)
def test_a_run_decides_by_itself_whether_xla_pays(changes, steps, devices_here, gpus, expected, monkeypatch):
    monkeypatch.setattr(devices, "accelerators", lambda: gpus)
    experiment = get_experiment("finetune", **changes)
    assert devices.use_xla(experiment, steps, devices_here) is (expected or is_jax())


def test_a_long_run_on_a_gpu_says_that_it_compiles_and_shows_it(photos, monkeypatch, capfd):
    monkeypatch.setattr(devices, "accelerators", lambda: ["H100"])
    monkeypatch.setattr(devices, "XLA_STEPS", 20)
    plan = prepare_run(TINY, photos)
    assert plan.xla and "XLA compiles the step first" in capfd.readouterr().out
    compile_trainer(plan)
    fit_epochs(plan, 0, 1, [])
    assert "compiling" in capfd.readouterr().err


def test_on_a_gpu_a_run_is_repeatable_where_it_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(devices, "accelerators", lambda: ["H100"])
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    assert devices.use_xla(get_experiment("finetune"), devices.XLA_STEPS, 1) and not asked
    assert not devices.use_xla(get_experiment("finetune", deterministic=True), devices.XLA_STEPS, 1)
    assert asked == [True]


def test_after_a_repeatable_run_the_next_says_that_it_is_slow_too(monkeypatch, capsys):
    monkeypatch.setattr(devices, "accelerators", lambda: ["H100"])
    tf.config.experimental.enable_op_determinism()
    try:
        assert not devices.use_xla(get_experiment("finetune"), devices.XLA_STEPS, 1)
    finally:
        config.disable_op_determinism()
    assert "restart the kernel" in capsys.readouterr().out


def test_jax_must_be_told_before_it_starts(monkeypatch):
    monkeypatch.setattr(devices, "accelerators", lambda: ["H100"])
    monkeypatch.setattr(devices, "is_jax", lambda: True)
    repeatable = get_experiment("finetune", deterministic=True)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.raises(UserError, match=r"XLA_FLAGS=--xla_gpu_deterministic_ops=true.* restart Python"):
        devices.use_xla(repeatable, 10, 1)
    monkeypatch.setenv("XLA_FLAGS", f"--another {devices.DETERMINISTIC}")
    assert devices.use_xla(repeatable, 10, 1)
