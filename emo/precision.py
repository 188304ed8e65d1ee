"""Where we run: Colab or not, which device, which versions; and the seed everything random starts from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from emo.errors import UserError
from emo.paths import PROJECT_ROOT

CACHE = Path("~/.cache/emo_classificator").expanduser()
PLOT_STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


@dataclass(frozen=True)
class Environment:
    """What `setup` found. `device` is a GPU's name, or "CPU, <n> cores"."""

    colab: bool
    device: str
    gpus: int
    versions: str
    seed: int


def setup(seed: int = 42) -> Environment:
    """Seeds all that is random, sets the style of plots and tables, prints versions and device."""
    import keras
    import matplotlib.pyplot as plt
    import pandas as pd
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    pd.options.display.max_colwidth = 200  # a photo's path is no use cut short
    plt.rcParams.update(PLOT_STYLE)
    gpus = tf.config.list_physical_devices("GPU")
    environment = Environment(is_colab(), device_name(), len(gpus), versions(), seed)
    print(f"{environment.versions} · {environment.device} · seed {seed}")
    if not gpus:
        advice = (
            "Runtime → Change runtime type → T4 GPU, then Run all."
            if environment.colab
            else ("The sample set and small pictures are fine; whole datasets want a GPU.")
        )
        print(f"No GPU here: training takes many times longer. {advice}")
    return environment


def is_colab() -> bool:
    """True in a Colab notebook."""
    return "google.colab" in sys.modules  # its kernels import that at the start


def in_notebook() -> bool:
    """True where pictures can be shown while a cell runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def device_name() -> str:
    """A GPU's name, "2 × <name>" for several, or "CPU, <n> cores"."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        return name if len(gpus) == 1 else f"{len(gpus)} × {name}"
    return f"CPU, {os.cpu_count()} cores"


def dtype_policy(precision: str = "auto") -> str:
    """The Keras dtype policy for `Experiment.precision`; "auto" is the fastest that the devices here have.

    GPU: bfloat16 from compute capability 8 on, float16 on the tensor cores of 7. CPU: bfloat16 where it is
    faster, else float32. Raises UserError for bfloat16 on a CPU where it is not, and for float16 on any.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if precision == "mixed_bfloat16" and not gpus and not _cpu_gains_by_bfloat16():
        raise UserError(
            "precision='mixed_bfloat16': this CPU computes faster in float32, and may fail in bfloat16; "
            "set precision to 'auto'."
        )
    if precision == "mixed_float16" and not gpus:  # two convolutions may wait for each other's threads
        raise UserError(
            "precision='mixed_float16' needs a GPU: on a CPU TensorFlow is slow in it and may hang; set "
            "precision to 'auto'."
        )
    if precision != "auto":
        return precision
    if not gpus:
        return "mixed_bfloat16" if _cpu_gains_by_bfloat16() else "float32"
    details = map(tf.config.experimental.get_device_details, gpus)
    oldest = min(each.get("compute_capability", (0, 0)) for each in details)  # none: no NVIDIA GPU
    return "mixed_bfloat16" if oldest >= (8, 0) else "mixed_float16" if oldest >= (7, 0) else "float32"


@cache
def _cpu_gains_by_bfloat16() -> bool:
    """Measured once a machine and TensorFlow, then remembered: the same seed must give the same run."""
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
                file.write_text(json.dumps(decision))
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


def versions() -> str:
    """Python, TensorFlow and Keras with their versions, in one line."""
    import keras
    import tensorflow as tf

    return f"Python {platform.python_version()} · TensorFlow {tf.__version__} · Keras {keras.__version__}"


def git_commit() -> str:
    """The project's short commit, with "+" where its code was changed since; "" outside a clone."""
    git = ["git", "-C", str(PROJECT_ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "emo", "emo_utils.py"], check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.returncode else "")


def use_drive(folder: str = "emo_classificator") -> Path:
    """Mounts Google Drive in Colab and gives a folder there that outlives the runtime.

    Raises UserError outside Colab, or when access to Drive was not granted.
    """
    if not is_colab():
        raise UserError(
            "USE_DRIVE works in Colab only; set it to False and give ROOT a folder on this machine."
        )
    from google.colab import drive

    try:
        drive.mount("/content/drive")
    except Exception as error:  # google.colab raises several kinds, ValueError and its own MessageError
        raise UserError(
            f"Google Drive was not mounted ({error}); run the cell again, or set USE_DRIVE=False."
        ) from error
    root = Path("/content/drive/MyDrive") / folder
    root.mkdir(exist_ok=True)
    return root


def results_folder(root: str | Path, use_google_drive: bool) -> Path:
    """Where models and the table go: Google Drive, or `root`. Warns where they vanish with the runtime."""
    if use_google_drive:
        return use_drive()
    if is_colab():
        print(
            "⚠️  Results stay on this Colab machine and VANISH with it. "
            "Set USE_DRIVE=True to keep them, or download model/ and experiments.xlsx before you leave."
        )
    return Path(root)
