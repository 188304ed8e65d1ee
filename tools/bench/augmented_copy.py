"""When is an augmented copy worth its disk? `python -m tools.bench.augmented_copy --epochs 5`.

Trains experiment 6 (frozen Xception, 96 px, random weights: only time counts) on the sample set
with the three ways to augment, and prints seconds from start to end, the writing of copies included, the
photos that each epoch sees, and the disk that each way takes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd

from emo.data.download import fetch_dataset
from emo.data.split import training_manifests
from emo.experiments import get_experiment
from emo.paths import get_paths
from emo.training.augmented_copy import write_augmented_copy
from emo.training.train import train

COPIES = 2
WAYS = {
    "on the fly": {"augment": True},
    f"{COPIES} copies per photo": {"augment": False, "use_augmented_copy": True},
    f"cached, views={COPIES}": {"augment": True, "views": COPIES},
}


def main() -> None:
    """Prints one table of the three ways."""
    options = argparse.ArgumentParser(prog="tools.bench.augmented_copy", description=__doc__.splitlines()[0])
    options.add_argument("--epochs", type=int, default=5)
    epochs = options.parse_args().epochs
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(folder)
        fetch_dataset("sample", paths)
        photos = len(training_manifests(paths)[0])
        for way, changes in WAYS.items():
            started = time.monotonic()
            copied = changes.get("use_augmented_copy", False)
            if copied:
                write_augmented_copy(paths, COPIES)
            train(get_experiment("6", weights=None, image_size=96, epochs=epochs, **changes), paths)
            kept = paths.train_aug if copied else paths.features
            rows.append(
                {
                    "augmentation": way,
                    f"seconds, {epochs} epochs": round(time.monotonic() - started),
                    "photos per epoch": photos * (1 + COPIES if copied else 1),
                    "MB on disk": round(
                        sum(file.stat().st_size for file in Path(kept).rglob("*.*")) / 1e6, 1
                    ),
                }
            )
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
