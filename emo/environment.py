"""Where we run: Colab, Kaggle or not, which device, which versions; and the seed of all that is random."""

from __future__ import annotations

import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emo.errors import UserError
from emo.paths import PROJECT_ROOT

DRIVE = Path("/content/drive/MyDrive")  # once Colab has mounted it
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

    from emo.backend import accelerators

    keras.utils.set_random_seed(seed)
    pd.options.display.max_colwidth = 200  # a photo's path is no use cut short
    plt.rcParams.update(PLOT_STYLE)
    gpus = accelerators()
    environment = Environment(is_colab(), device_name(), len(gpus), versions(), seed)
    print(f"{environment.versions} · {environment.device} · seed {seed}")
    if not gpus:
        advice = "That is fine for the sample set and for small images; use a GPU for a whole dataset."
        if environment.colab:
            advice = "Runtime → Change runtime type → T4 GPU, then Run all."
        elif is_kaggle():
            advice = "Settings → Accelerator → GPU T4 x2, then Run all."
        print(f"No GPU here: training takes many times longer. {advice}")
    return environment


def is_colab() -> bool:
    """True in a Colab notebook."""
    return "google.colab" in sys.modules  # its kernels import that at the start


def is_kaggle() -> bool:
    """True in a notebook on Kaggle."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def in_notebook() -> bool:
    """True where pictures can be shown while a cell runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def show_source(*functions: Callable) -> None:
    """The lines of functions: as code in a notebook, else printed."""
    text = "\n\n".join(inspect.getsource(function).strip() for function in functions)
    if in_notebook():
        from IPython.display import Code, display

        display(Code(text, language="python"))
    else:
        print(text)


def device_name() -> str:
    """A GPU's or TPU's name, "2 × <name>" for several, or "CPU, <n> cores"."""
    from emo.backend import accelerators

    names = accelerators()
    if names:
        return names[0] if len(names) == 1 else f"{len(names)} × {names[0]}"
    return f"CPU, {os.cpu_count()} cores"


def versions() -> str:
    """Python, Keras's backend and Keras with their versions, in one line."""
    import keras

    from emo.backend import version

    return f"Python {platform.python_version()} · {version()} · Keras {keras.__version__}"


def git_commit() -> str:
    """The project's short commit, with "+" where its code was changed since; "" outside a clone."""
    if not (PROJECT_ROOT / ".git").exists():  # an installed package may lie in somebody else's repository
        return ""
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
    root = DRIVE / folder
    root.mkdir(exist_ok=True)
    return root


def results_folder(root: str | Path, use_google_drive: bool) -> Path:
    """Where models, the table and decisions go: a folder on Google Drive, one per `root`, or `root` itself.

    Warns where they vanish with the runtime.
    """
    if use_google_drive:
        drive, root = use_drive(), Path(root).resolve()
        return drive if root == PROJECT_ROOT else drive / root.name
    if is_colab():
        print(
            "⚠️  Results stay on this Colab machine and VANISH with it. Set USE_DRIVE=True to keep them, "
            "or download model/, experiments.xlsx and data/*.csv before you leave."
        )
    elif is_kaggle():
        print(
            "⚠️  Results stay on this Kaggle machine and VANISH with it. Save Version → Save & Run All keeps "
            "model/, experiments.xlsx and data/ in its Output."
        )
    return Path(root)
