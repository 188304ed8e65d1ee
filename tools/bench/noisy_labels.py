"""What helps against wrong labels? `python -m tools.bench.noisy_labels --dataset ZIP --start FILE`.

Puts 30% of the photos of a dataset into another class's folder, drawn at random, and trains `finetune_mini`
on them: as it is, with other label smoothing, taught by the first of these runs, and with `data/relabel.csv`
after a label audit, where the most doubtful fifth has the suggested class, or the right one as after a
person's look. A fifth of the photos validates, labelled alike. Prints the accuracy on 2,000 others, all
labelled right, that no run has seen: the mean over the seeds and their range. With --folder, what is finished
is kept there and a later call goes on.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from emo.environment import device_name, versions
from emo.evaluation.evaluate import evaluate
from emo.experiments import get_experiment
from emo.inference.classifier import load_classifier
from emo.paths import Paths, get_paths
from emo.training.label_audit import audit_labels
from emo.training.train import train
from tools.bench.small_data import kept_file, link_photos, projects
from tools.readme.markdown import markdown

WRONG = 0.3  # of the labels
LOOKED_AT = 0.2  # of the photos, the most doubtful first
TEACHER = "the labels as given"
# variant: (its labels, its changes); "teacher" stands for the file of the variant TEACHER with the same seed
VARIANTS: dict[str, tuple[str, dict]] = {
    "all labels right": ("right", {}),
    TEACHER: ("given", {}),
    "label smoothing 0": ("given", {"label_smoothing": 0.0}),
    "label smoothing 0.3": ("given", {"label_smoothing": 0.3}),
    "distillation, weight 0.5": ("given", {"teacher": "teacher", "teacher_weight": 0.5}),
    "distillation, weight 0.9": ("given", {"teacher": "teacher", "teacher_weight": 0.9}),
    f"first {LOOKED_AT:.0%} of suspects: the suggested class": ("suggested", {}),
    f"first {LOOKED_AT:.0%} of suspects: repaired by a person": ("repaired", {}),
}


def mislabelled(clean: Paths, folder: Path) -> tuple[Paths, pd.Series]:
    """A project with the photos of another, `WRONG` of them in a wrong class; and the right label by path."""
    paths = get_paths(folder)
    files = pd.Series(sorted(clean.train.glob("*/*")))
    right = files.map(lambda file: file.parent.name)
    classes = sorted(set(right))
    draw = np.random.default_rng(1)
    given = right.copy()
    for number in draw.choice(len(files), round(WRONG * len(files)), replace=False):
        given[number] = draw.choice([other for other in classes if other != right[number]])
    # two classes may both have a 1.jpg
    names = [f"{label}_{file.name}" for file, label in zip(files, right, strict=True)]
    targets = [paths.train / label / name for label, name in zip(given, names, strict=True)]
    if not paths.train.is_dir():
        link_photos(sorted(clean.test.glob("*/*")), paths.test)
        for file, target in zip(files, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)
    below = [target.relative_to(paths.data).as_posix() for target in targets]
    return paths, pd.Series(right.to_numpy(), index=below)


def corrections(right: pd.Series, suspects: pd.DataFrame) -> dict[str, pd.Series]:
    """The labels of each kind, by path below `data/`."""
    given = right.index.to_series().map(lambda path: path.split("/")[1])
    doubted = suspects.head(round(LOOKED_AT * len(suspects))).set_index("path")["suggested"]
    return {
        "right": right,
        "given": given,
        "suggested": doubted.reindex(given.index).fillna(given),
        "repaired": right.where(right.index.isin(doubted.index), given),
    }


def found(right: pd.Series, labels: dict[str, pd.Series], suspects: pd.DataFrame) -> str:
    """What the audit makes of the wrong labels."""
    wrong = right.index[labels["given"] != right]
    doubted = suspects["path"].head(round(LOOKED_AT * len(suspects)))
    return (
        f"{len(wrong):,} of {len(right):,} labels are wrong. The first {LOOKED_AT:.0%} of suspects hold "
        f"{wrong.isin(doubted).mean():.0%} of them; {doubted.isin(wrong).mean():.0%} of these suspects are "
        f"wrong. With the suggested class for them {(labels['suggested'] == right).mean():.0%} of all labels "
        f"are right, {(labels['given'] == right).mean():.0%} before."
    )


def write_relabel(labels: pd.Series, given: pd.Series, paths: Paths) -> None:
    """`data/relabel.csv` with the labels that are not the given ones."""
    changed = labels[labels != given].rename_axis("path").rename("label")
    changed.reset_index().to_csv(paths.relabel, index=False)


def measured(variant: str, seed: int, start: str, paths: Paths, labels: dict[str, pd.Series]) -> dict:
    """One run and what it reaches on the test photos."""
    kind, changes = VARIANTS[variant]
    if "teacher" in changes:
        changes = changes | {"teacher": measured(TEACHER, seed, start, paths, labels)["model"]}
    experiment = get_experiment("finetune_mini", **{"weights": start, "seed": seed} | changes)
    kept = kept_file(paths, experiment, kind)
    if kept.exists():
        return pd.read_json(kept, typ="series").to_dict()
    write_relabel(labels[kind], labels["given"], paths)
    run = train(experiment, paths)
    report = evaluate(load_classifier(run.model_path), paths.test)
    row = {"model": str(run.model_path), "accuracy": report.accuracy}
    pd.Series(row).to_json(kept)
    return row


def main() -> None:
    """Prints what the audit finds, then a row per variant."""
    options = argparse.ArgumentParser(prog="tools.bench.noisy_labels", description=__doc__.splitlines()[0])
    options.add_argument("--dataset", required=True, help="a zip or folder with photos")
    options.add_argument("--start", default="emo_mini", help="weights that have not seen these photos")
    options.add_argument("--photos", type=int, default=2000)
    options.add_argument("--seeds", type=int, nargs="+", default=[42])
    options.add_argument("--folder", type=Path, help="where to keep what is done")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        clean = projects(chosen.dataset, [chosen.photos], folder)[chosen.photos]
        paths, right = mislabelled(clean, folder / f"{chosen.photos}-noisy")
        paths.relabel.unlink(missing_ok=True)  # the audit judges the labels as given
        suspects = audit_labels(paths, get_experiment("finetune_mini", weights=chosen.start))
        labels = corrections(right, suspects)
        print(found(right, labels, suspects))
        rows = []
        for variant in VARIANTS:
            reached = [
                100 * measured(variant, seed, chosen.start, paths, labels)["accuracy"]
                for seed in chosen.seeds
            ]
            spread = f" ({min(reached):.1f}–{max(reached):.1f})" * (len(reached) > 1)
            rows.append((variant, f"{np.mean(reached):.1f}{spread}"))
    print(f"\n{markdown(['labels', 'test accuracy, %'], rows)}\n\n{device_name()} · {versions()}")


if __name__ == "__main__":
    main()
