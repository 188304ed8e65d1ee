"""Which recipe for how many photos? `python -m tools.bench.small_data --dataset ZIP --start FILE`.

Trains recipes on 200, 500, … photos of a dataset, drawn once, from a start of the recipe to its end, a fifth
of the photos validating. Prints the accuracy on 2,000 others that no run has seen, with its 95% interval, and
the minutes that training took. With --folder, what is finished is kept there and a later call goes on.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from emo.data.download import fetch_dataset
from emo.environment import device_name, versions
from emo.errors import UserError
from emo.evaluation.evaluate import evaluate, percent
from emo.experiments import Experiment, get_experiment
from emo.files import files_below
from emo.inference.classifier import load_classifier
from emo.paths import Paths, get_paths
from emo.training.train import train
from tools.readme.markdown import markdown

TEST = 2000


def link_photos(files: list[Path], folder: Path) -> None:
    """Puts the photos into the class folders of `folder`, without copies."""
    for file in files:
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / file.parent.name / file.name).hardlink_to(file)


def projects(dataset: str, counts: list[int], folder: Path) -> dict[int, Paths]:
    """A project per number of training photos; all have the same test photos, and larger ones the smaller.

    Raises UserError where the dataset has too few photos.
    """
    whole = get_paths(folder / "whole")
    if not whole.train.is_dir():
        fetch_dataset(dataset, whole)
    files = sorted(files_below(whole.train))
    if len(files) < (needed := TEST + max(counts)):
        raise UserError(
            f"{dataset} has {len(files):,} photos, and {needed:,} are needed: {TEST:,} to test on and "
            f"{max(counts):,} to train on; take a larger dataset, or lower --photos."
        )
    order = np.random.default_rng(0).permutation(len(files))
    chosen = [files[index] for index in order]
    found = {}
    for count in counts:
        found[count] = get_paths(folder / f"{count}")
        if not found[count].train.is_dir():
            link_photos(chosen[:TEST], found[count].test)
            link_photos(chosen[TEST : TEST + count], found[count].train)
    return found


def kept_file(paths: Paths, experiment: Experiment, more: str = "") -> Path:
    """Where the result of an experiment is kept, another for other settings or another `more`."""
    key = hashlib.sha256(f"{experiment.to_json()} {more}".encode()).hexdigest()[:12]
    return paths.root / f"{experiment.name}_{key}.json"


def measured(recipe: str, count: int, paths: Paths, starts: dict[str, str]) -> dict:
    """One run and what it reaches on the test photos; `starts` are other weights for those of recipes."""
    weights = get_experiment(recipe).weights
    experiment = get_experiment(recipe, weights=starts.get(weights, weights))
    kept = kept_file(paths, experiment)
    if kept.exists():
        return pd.read_json(kept, typ="series", convert_dates=False).to_dict()
    started = time.monotonic()
    run = train(experiment, paths)
    minutes = (time.monotonic() - started) / 60
    report = evaluate(load_classifier(run.model_path), paths.test)
    accuracy = f"{report.accuracy:.1%} ({percent(report.interval)})"
    row = {"photos": count, "recipe": recipe, "accuracy": accuracy, "minutes": f"{minutes:.1f}"}
    pd.Series(row).to_json(kept)
    return row


def main() -> None:
    """Prints a row per number of photos and recipe."""
    options = argparse.ArgumentParser(prog="tools.bench.small_data", description=__doc__.splitlines()[0])
    options.add_argument("--dataset", required=True, help="a zip or folder with photos")
    options.add_argument(
        "--weights", default="imagenet", help="Xception's ImageNet weights, where they cannot be downloaded"
    )
    options.add_argument(
        "--start", default="emo_mini", help="weights for finetune_mini that have not seen these photos"
    )
    options.add_argument("--photos", type=int, nargs="+", default=[200, 500, 2000, 10_000])
    options.add_argument("--recipes", nargs="+", default=["finetune_mini", "emo_mini", "finetune"])
    options.add_argument("--folder", type=Path, help="where to keep what is done")
    chosen = options.parse_args()
    starts = {"imagenet": chosen.weights, "emo_mini": chosen.start}
    with tempfile.TemporaryDirectory() as scratch:
        found = projects(chosen.dataset, chosen.photos, chosen.folder or Path(scratch))
        rows = [
            measured(recipe, count, paths, starts)
            for count, paths in found.items()
            for recipe in chosen.recipes
        ]
    print(f"\n{markdown(list(rows[0]), [row.values() for row in rows])}\n\n{device_name()} · {versions()}")


if __name__ == "__main__":
    main()
