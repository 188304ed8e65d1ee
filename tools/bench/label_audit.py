"""Measures the label audit: `python -m tools.bench.label_audit --dataset ZIP --weights FILE --results DIR`.

Flips 5% of the training labels at random, ranks all labels by doubt and prints how many flips are among the
first 5, 10 and 20%. Then a person is played who looks at the first 10% and puts the flipped ones right: one
experiment is trained and logged with the labels as given, flipped and repaired, on three seeds each. The
dataset must have a `val` folder, whose labels stay. Photos, features and runs stay in DIR, for the next time.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from emo.data.download import fetch_dataset
from emo.data.manifest import class_names
from emo.data.split import load_split
from emo.experiments import get_experiment
from emo.paths import Paths, get_paths
from emo.training.feature_cache import backbone_features
from emo.training.label_audit import out_of_fold, rank_labels
from emo.training.train import train

FLIPPED = 0.05
SHARES = (0.05, 0.1, 0.2)
LOOKED_AT = 0.1
SEEDS = (42, 43, 44)
EXPERIMENT = {"image_size": 96, "augment": False, "views": 1}


def flip_labels(labels: pd.Series, names: Sequence[str], share: float = FLIPPED, seed: int = 0) -> pd.Series:
    """The labels, that share of them replaced at random by another class."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    flipped = labels.copy()
    flipped.iloc[chosen] = [random.choice([n for n in names if n != label]) for label in labels.iloc[chosen]]
    return flipped


def write_relabel(photos: pd.DataFrame, labels: pd.Series, paths: Paths) -> None:
    """`data/relabel.csv` with the labels that are not the given ones."""
    lines = photos.assign(label=labels).loc[labels != photos["label"], ["path", "label"]]
    lines["path"] = lines["path"].str.removeprefix(f"{paths.data.as_posix()}/")
    lines.to_csv(paths.relabel, index=False)


def main() -> None:
    """Prints the flips found, and the three accuracies."""
    options = argparse.ArgumentParser(prog="tools.bench.label_audit", description=__doc__.splitlines()[0])
    options.add_argument("--dataset", required=True, help="a zip or folder with train/ and val/")
    options.add_argument("--weights", default="imagenet", help="of Xception, as the experiment takes them")
    options.add_argument("--results", required=True, help="a folder for photos, features and runs")
    chosen = options.parse_args()
    paths = get_paths(chosen.results)
    fetch_dataset(chosen.dataset, paths)
    table = load_split(paths)
    photos = table[(table["split"] == "train") & (table["left_out"] == "")].reset_index(drop=True)
    experiment = get_experiment("6", weights=chosen.weights, **EXPERIMENT)

    flipped = flip_labels(photos["label"], class_names(paths))
    wrong = set(photos["path"][flipped != photos["label"]])
    features = backbone_features(photos, experiment, paths)
    judged = out_of_fold(features, flipped, photos["group"], experiment.seed)
    ranked = rank_labels(photos.assign(label=flipped), judged)["path"]
    for share in SHARES:
        found = ranked.head(round(share * len(ranked))).isin(wrong).sum()
        print(f"{found / len(wrong):.1%} of {len(wrong):,} flips are in the first {share:.0%} of suspects")

    looked_at = photos["path"].isin(ranked.head(round(LOOKED_AT * len(ranked))))
    for name, labels in {
        "as given": photos["label"],
        "flipped": flipped,
        "flipped, then repaired": flipped.where(~looked_at, photos["label"]),
    }.items():
        write_relabel(photos, labels, paths)
        accuracies = [100 * train(replace(experiment, seed=seed), paths).val_accuracy for seed in SEEDS]
        spread = f"{min(accuracies):.2f}–{max(accuracies):.2f}"
        print(f"Labels {name}: {np.mean(accuracies):.2f}% ({spread}) on validation")


if __name__ == "__main__":
    main()
