"""The devices that a run trains on, and how its steps are compiled for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import keras

from emo.backend import accelerators, is_jax
from emo.errors import UserError
from emo.experiments import Experiment

# from here on XLA saves more than the minute that it takes to compile: measured on an H100
XLA_STEPS = 1500
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@dataclass(frozen=True)
class Devices:
    """`count` devices share each batch equally; what is built and fitted in `scope()` is on all of them."""

    count: int
    scope: Callable[[], AbstractContextManager]


def all_devices() -> Devices:
    """Every GPU or TPU core at once; with JAX, those of all processes, or all virtual CPU devices.

    With TensorFlow, inside the scope of a strategy, that strategy's.
    """
    if is_jax():
        count = len(keras.distribution.list_devices())
        if count == 1:
            return Devices(1, nullcontext)
        # each process takes its share of a batch itself
        return Devices(count, keras.distribution.DataParallel(auto_shard_dataset=False).scope)
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    strategy = tf.distribute.get_strategy()
    if len(gpus) > 1 and not tf.distribute.has_strategy():
        strategy = tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    return Devices(strategy.num_replicas_in_sync, strategy.scope)


def check_batch_size(experiment: Experiment, devices: int) -> None:
    """Raises UserError where a device would get fewer photos than another, which would weigh more."""
    mixes = experiment.mix != "none"
    if experiment.batch_size % (multiple := devices * (2 if mixes else 1)):
        raise UserError(
            f"batch_size={experiment.batch_size} cannot be shared equally by {devices} devices"
            f"{', in pairs that mix' if mixes else ''}; choose a multiple of {multiple}."
        )


def normalize_over_all_devices(backbone: keras.Model) -> None:
    """BatchNormalization then takes its statistics from the whole batch, as on one device."""
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and not is_jax():
            layer.synchronized = True


def use_xla(experiment: Experiment, steps: int, devices: int) -> bool:
    """Whether XLA is to compile a run of so many steps: always with JAX, which knows no other way.

    With TensorFlow on one GPU, where they are many enough to pay for it. `deterministic` makes a GPU's
    kernels add up in one order from here on, which TensorFlow does without XLA alone, and until Python is
    restarted: a later run is told so. Raises UserError where JAX had to be told before it started.
    """
    on_gpu = bool(accelerators())
    if is_jax():
        if experiment.deterministic and on_gpu and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
            raise UserError(
                "deterministic=True: JAX must be told before it starts; set the environment variable "
                f"XLA_FLAGS={DETERMINISTIC}, and restart Python."
            )
        return True
    if on_gpu:
        import tensorflow as tf
        from tensorflow.python.framework.config import is_op_determinism_enabled  # as Keras asks

        if experiment.deterministic:
            tf.config.experimental.enable_op_determinism()
            return False
        if is_op_determinism_enabled() and steps >= XLA_STEPS and devices == 1:
            print("An earlier run was deterministic, so this one is, and slow: restart the kernel for XLA.")
            return False
    return on_gpu and steps >= XLA_STEPS and devices == 1


@contextmanager
def for_this_process_alone() -> Iterator[None]:
    """What is built inside lies on one device of this process, also where all devices train."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)
