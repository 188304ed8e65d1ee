"""What speed costs in accuracy: `python -m tools.bench.accuracy --dataset ZIP --weights FILE`.

Trains experiment 9 on some photos of a dataset, on several seeds: as it is, with each number of `views`
and, where --precision names one, in that precision. Prints the validation accuracies of each and the
difference. All train on the same photos, drawn once; those of a `val` folder validate, else a fifth of each
class.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from emo.data.download import fetch_dataset
from emo.experiments import PRECISIONS, Experiment, get_experiment
from emo.files import files_below
from emo.paths import Paths, get_paths
from emo.training.train import train


def draw_photos(source: Path, target: Path, count: int) -> None:
    """Copies `count` photos of `source`, drawn at random, to the class folders of `target`."""
    files = sorted(files_below(source))
    for index in np.random.default_rng(0).permutation(len(files))[:count]:
        folder = target / files[index].parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[index], folder)


def fetch_some(dataset: str, paths: Paths, train_count: int, val_count: int) -> None:
    """Some of the dataset's photos to train on and, where it has a `val` folder, some to validate on."""
    with tempfile.TemporaryDirectory(dir=paths.root) as folder:
        whole = get_paths(folder)
        fetch_dataset(dataset, whole)
        draw_photos(whole.train, paths.train, train_count)
        if whole.val.is_dir():
            draw_photos(whole.val, paths.val, val_count)


def main() -> None:
    """Prints the accuracies, and each side's difference to the plain way."""
    options = argparse.ArgumentParser(prog="tools.bench.accuracy", description=__doc__.splitlines()[0])
    options.add_argument("--dataset", required=True, help="a zip or folder with photos")
    options.add_argument("--weights", default="imagenet", help="of Xception, as the experiment takes them")
    options.add_argument("--photos", type=int, default=1500, help="to train on (1500)")
    options.add_argument("--validation", type=int, default=1500, help="to validate on, from val/ (1500)")
    options.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--views", type=int, nargs="+", default=[1, 3])
    options.add_argument("--precision", choices=PRECISIONS, help="to compare with float32; none by default")
    options.add_argument("--size", type=int, default=96, help="of the network's pictures, px (96)")
    chosen = options.parse_args()
    plain = get_experiment(
        "9", weights=chosen.weights, image_size=chosen.size, epochs=chosen.epochs, precision="float32"
    )
    sides = {f"views={number}": replace(plain, views=number) for number in chosen.views}
    if chosen.precision:
        sides[chosen.precision] = replace(plain, precision=chosen.precision)
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(folder)
        fetch_some(chosen.dataset, paths, chosen.photos, chosen.validation)
        reached = np.array([accuracy(plain, seed, paths) for seed in chosen.seeds])
        for name, experiment in sides.items():
            gained = np.array([accuracy(experiment, seed, paths) for seed in chosen.seeds]) - reached
            by_seed = ", ".join(f"{points:+.2f}" for points in gained)
            print(f"{name}: {gained.mean():+.2f} points to plain ({by_seed})")


def accuracy(experiment: Experiment, seed: int, paths: Paths) -> float:
    """The best validation accuracy in percent, also printed."""
    reached = 100 * train(replace(experiment, seed=seed), paths).val_accuracy
    print(f"views={experiment.views}, {experiment.precision}, seed {seed}: {reached:.2f}%", flush=True)
    return reached


if __name__ == "__main__":
    main()
