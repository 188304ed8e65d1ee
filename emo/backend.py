"""What Keras's two backends here, TensorFlow and JAX, have no common words for.

TensorFlow is Keras's default and runs everywhere. JAX (`KERAS_BACKEND=jax`) is for Colab's TPU, which has no
TensorFlow, and for several machines. Whichever it is not is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from emo.errors import UserError, is_out_of_memory

AHEAD = 4  # batches that wait for the device


def is_jax() -> bool:
    """Whether Keras computes with JAX; else with TensorFlow."""
    return keras.backend.backend() == "jax"


def version() -> str:
    """The backend's name and version."""
    if is_jax():
        import jax

        return f"JAX {jax.__version__}"
    import tensorflow as tf

    return f"TensorFlow {tf.__version__}"


def accelerators() -> list[str]:
    """The name of each GPU or TPU core that this process computes on, such as "NVIDIA H100"."""
    if is_jax():
        import jax

        return [device.device_kind for device in jax.local_devices() if device.platform != "cpu"]
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]


def has_tpu() -> bool:
    """Whether there is a TPU, on which bfloat16 is the fast one."""
    if not is_jax():
        return False
    import jax

    return jax.default_backend() == "tpu"


def compute_capability() -> tuple[int, int]:
    """NVIDIA's number of the oldest GPU, (0, 0) for another maker's."""
    if is_jax():
        import jax

        found = [getattr(device, "compute_capability", "0.0") for device in jax.local_devices()]
        return min(tuple(map(int, str(each).split(".")[:2])) for each in found)
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return min(each.get("compute_capability", (0, 0)) for each in details)


def need_tensorflow(part: str):
    """The module `tensorflow`, which alone does `part` (a sentence's beginning). Raises UserError."""
    if is_jax():
        raise UserError(
            f"{part} by TensorFlow alone, and Keras computes with JAX here; restart Python without "
            "KERAS_BACKEND=jax where the package tensorflow is installed."
        )
    import tensorflow as tf

    return tf


def forward(model: keras.Model, flip: bool = False) -> Callable[[np.ndarray], object]:
    """A compiled function: (n, size, size, 3) in 0–255, of any type → (n, classes), an array to be.

    With `flip` the mean of the answers to each picture and to the picture flipped. `model.predict` builds a
    dataset and its callbacks at every call, longer than a photo takes.
    """
    if not is_jax():
        import tensorflow as tf

        spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        answers = tf.function(lambda images: _answers(model, images, flip), input_signature=[spec])
        return lambda images: answers(tf.cast(images, tf.float32))  # uint8 goes to the device: fewer bytes
    import jax
    import jax.numpy as jnp

    def step(trained, kept, images):
        def bare(pictures, training):
            return model.stateless_call(trained, kept, pictures, training=training)[0]

        return _answers(bare, jnp.asarray(images, "float32"), flip)

    step = jax.jit(step)

    def padded(images):
        count = len(images)
        rest = (1 << (count - 1).bit_length()) - count  # each number of pictures is compiled again: take few
        images = np.concatenate((images, np.zeros((rest, *images.shape[1:]), images.dtype)))
        return step(*_values(model), images)[:count]

    return padded


def _answers(model: Callable, images, flip: bool):
    answers = model(images, training=False)
    return (answers + model(images[:, :, ::-1], training=False)) / 2 if flip else answers


def _values(model: keras.Model) -> tuple[list, list]:
    """What `stateless_call` takes of a model: its trainable and its other variables' values."""
    variables = model.trainable_variables, model.non_trainable_variables
    return tuple([variable.value for variable in some] for some in variables)


def compiled(function: Callable) -> Callable:
    """`function` of one array, whose layers JAX would otherwise compile and start one by one."""
    if not is_jax():
        return function
    import jax

    return jax.jit(function)


def gradients(scores: Callable, x) -> list[np.ndarray]:
    """Of each number that `scores(x)` gives, a tuple, by the array `x`: float32, of its shape.

    With TensorFlow as a graph, which leaves out the gradients that nobody asked for: eagerly, those of a
    convolution's kernel would be computed as well, which oneDNN does wrongly for some shapes until Python
    dies (tensorflow#117700).
    """
    if is_jax():
        import jax

        return [np.asarray(each, np.float32) for each in jax.jit(jax.jacrev(scores))(x)]
    import tensorflow as tf

    def both(x):
        return [tf.cast(tf.gradients(score, x)[0], tf.float32) for score in scores(x)]

    found = tf.function(both, autograph=False).get_concrete_function(tf.TensorSpec.from_tensor(x))(x)
    return [each.numpy() for each in found]


def normalizing(model: keras.Model, kept: Sequence[keras.Variable]) -> Callable[[np.ndarray], object]:
    """A compiled function of a batch: calls `model` as in training → an array on the device, of what the
    variables `kept`, such as BatchNormalization's moving mean, then hold, one behind the other."""
    dtype = model.inputs[0].dtype
    if not is_jax():
        import tensorflow as tf

        def call(batch):
            model(batch, training=True)
            return tf.concat([tf.convert_to_tensor(variable) for variable in kept], 0)

        spec = tf.TensorSpec((None, *model.input_shape[1:]), dtype)
        call = tf.function(call, input_signature=[spec])
        return lambda batch: call(tf.cast(batch, dtype))
    import jax
    import jax.numpy as jnp

    places = [next(n for n, each in enumerate(model.non_trainable_variables) if each is one) for one in kept]

    @jax.jit
    def step(*arguments):
        after = model.stateless_call(*arguments, training=True)[1]
        return jnp.concatenate([after[place] for place in places])

    return lambda batch: step(*_values(model), jnp.asarray(batch, dtype))


def mapped(
    model: keras.Model, before: Callable, after: Callable, batches: Callable[[], Iterator], like: tuple
) -> Iterator[np.ndarray]:
    """`after(model(before(*batch)))` of each of the `batches`, tuples of arrays as those of `like`.

    With TensorFlow on all devices of the strategy in whose scope it is called.
    """
    if is_jax():
        import jax

        def step(trained, kept, *batch):
            return after(model.stateless_call(trained, kept, before(*batch), training=False)[0])

        step, values = jax.jit(step), _values(model)
        yield from (np.asarray(step(*values, *batch)) for batch in batches())
        return
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    distributed = strategy.experimental_distribute_dataset(generated(batches, like))

    def call(*batch):
        return after(model(before(*batch), training=False))

    step = tf.function(
        lambda batch: strategy.run(call, args=batch), input_signature=[distributed.element_spec]
    )
    for batch in distributed:
        yield np.concatenate([part.numpy() for part in strategy.experimental_local_results(step(batch))])


def generated(batches: Callable[[], Iterator], like: tuple):
    """A `tf.data.Dataset` of batches, of any length, of arrays as those of `like`; some are made ahead.

    Without TensorFlow's thread that tunes it: when an iterator is closed, at the end of every epoch, that
    thread often sleeps on (TensorFlow 2.20) and is waited for: as long as the epoch took, up to a minute.
    """
    import tensorflow as tf

    spec = tf.nest.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), like)
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
    return dataset.prefetch(AHEAD).with_options(options)


def fit_input(batches: Sequence[tuple]):
    """The batches, a sequence, as `fit` takes them of this backend."""
    if not is_jax():
        import tensorflow as tf

        dataset = generated(lambda: (batches[index] for index in range(len(batches))), like=batches[0])
        return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return _Share(batches)


class _Share(keras.utils.PyDataset):
    """This process's share of each batch: all of it where there is one process."""

    def __init__(self, batches: Sequence[tuple]):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        import jax

        processes, this = jax.process_count(), jax.process_index()

        def share(array):
            return array[this * len(array) // processes : (this + 1) * len(array) // processes]

        return keras.tree.map_structure(share, self.batches[index])


def join_processes() -> bool:
    """Joins the processes of one run, as the environment names them; False where it names none.

    By Keras's variables, by those that JAX's own documentation and Kubeflow's jobs set, or by Slurm's; before
    anything is computed. Raises UserError where Keras computes with TensorFlow, or where they do not meet.
    """
    given = os.environ.get
    places = [
        (
            "KERAS_DISTRIBUTION_JOB_ADDRESSES",
            "KERAS_DISTRIBUTION_NUM_PROCESSES",
            "KERAS_DISTRIBUTION_PROCESS_ID",
        ),
        ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
        ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"),
    ]
    named = next((names for names in places if all(map(given, names))), None)
    if not named and int(given("SLURM_NTASKS", "1")) < 2:
        return False
    if not is_jax():
        raise UserError(
            "Several processes train together with JAX alone; set the environment variable KERAS_BACKEND=jax."
        )
    address, count, number = map(given, named) if named else (None, None, None)  # JAX knows Slurm's own
    if named and ":" not in address:
        address = f"{address}:{given('COORDINATOR_PORT', '1234')}"
    keras.utils.set_random_seed(0)  # else Keras would let the processes draw one, before there is a run
    try:
        keras.distribution.initialize(address, count and int(count), number and int(number))
    except RuntimeError as error:
        raise UserError(
            f"The processes of this run did not meet ({str(error).splitlines()[0][:150]}); check that all of "
            "them were started and reach the first one's address."
        ) from None
    return True


def process() -> int:
    """The number of this process among those that train together; 0 is the one that writes."""
    if not is_jax():
        return 0
    import jax

    return jax.process_index()


def process_count() -> int:
    """How many processes train together."""
    if not is_jax():
        return 1
    import jax

    return jax.process_count()


def is_lost_process(error: Exception) -> bool:
    """Whether it may tell that another of the processes that train together is gone."""
    return (
        process_count() > 1
        and type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
        and not is_out_of_memory(error)
    )


def broadcast(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What process 0 calls it with, in all of them; shapes and types are the same everywhere."""
    from jax.experimental import multihost_utils

    return [np.asarray(array) for array in multihost_utils.broadcast_one_to_all(arrays)]
