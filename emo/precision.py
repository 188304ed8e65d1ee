"""Which dtype policy is the fastest here."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock

from emo.errors import UserError
from emo.files import write_text

CACHE = Path("~/.cache/emo_classificator").expanduser()


def dtype_policy(precision: str = "auto") -> str:
    """The Keras dtype policy for `Experiment.precision`; "auto" is the fastest that the devices here have.

    TPU: bfloat16. GPU: bfloat16 from compute capability 8 on, float16 on the tensor cores of 7. CPU: bfloat16
    where it is faster, else float32. Raises UserError for bfloat16 on a CPU where it is not, and for float16
    on any.
    """
    from emo.backend import accelerators, compute_capability, has_tpu

    fast = accelerators()
    if precision == "mixed_bfloat16" and not fast and not _cpu_gains_by_bfloat16():
        raise UserError(
            "precision='mixed_bfloat16': this CPU computes faster in float32, and may fail in bfloat16; "
            "set precision to 'auto'."
        )
    if precision == "mixed_float16" and not fast:  # two convolutions may wait for each other's threads
        raise UserError(
            "precision='mixed_float16' needs a GPU: on a CPU TensorFlow is slow in it and may hang; set "
            "precision to 'auto'."
        )
    if precision != "auto":
        return precision
    if not fast:
        return "mixed_bfloat16" if _cpu_gains_by_bfloat16() else "float32"
    if has_tpu():
        return "mixed_bfloat16"
    oldest = compute_capability()
    return "mixed_bfloat16" if oldest >= (8, 0) else "mixed_float16" if oldest >= (7, 0) else "float32"


@contextmanager
def computing_in(policy: str) -> Iterator[None]:
    """What is built inside computes in that Keras dtype policy."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@cache
def _cpu_gains_by_bfloat16() -> bool:
    """Measured once per machine and TensorFlow, then remembered: the same seed must give the same run."""
    from emo.backend import is_jax

    if is_jax():  # XLA's convolutions on a CPU do not gain
        return False
    import tensorflow as tf

    cpu = Path("/proc/cpuinfo")
    first = cpu.read_text().partition("\n\n")[0] if cpu.exists() else ""
    if "avx512_bf16" not in first:
        return False
    named = ("vendor_id", "cpu family", "model", "stepping", "flags")
    key = [line for line in first.splitlines() if line.startswith(named)]
    key += [tf.__version__, os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")]
    digest = hashlib.blake2b("\n".join(key).encode(), digest_size=8).hexdigest()
    return _remembered(CACHE / f"bfloat16_{digest}.json", _convolves_faster_in_bfloat16)


def _remembered(file: Path, decide: Callable[[], bool]) -> bool:
    """The decision in `file`; where there is none yet, `decide` makes it. Of several processes, one does."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            try:
                return bool(json.loads(file.read_text()))
            except (FileNotFoundError, ValueError):
                decision = decide()
                write_text(file, json.dumps(decision))
                return decision
    except OSError:  # a home folder that cannot be written to
        return decide()


def _convolves_faster_in_bfloat16() -> bool:
    """A convolution's time in both, for CPUs with AVX512_BF16: what a machine announces is not enough.

    Where it names AMX but has no tiles, convolutions fall back to AVX512_BF16, slower than float32 there,
    and oneDNN's matrix product ends the process with SIGILL (seen under Firecracker).
    """
    import tensorflow as tf

    convolve = tf.function(lambda pictures, kernel: tf.nn.conv2d(pictures, kernel, 1, "SAME"))
    fastest = {}
    for _ in range(5):
        for dtype in (tf.float32, tf.bfloat16):
            operands = tf.ones((16, 6, 6, 512), dtype), tf.ones((1, 1, 512, 512), dtype)
            started = time.process_time()  # what other processes do counts for little
            convolve(*operands).numpy()
            fastest[dtype] = min(time.process_time() - started, fastest.get(dtype, float("inf")))
    return fastest[tf.bfloat16] < 0.8 * fastest[tf.float32]
