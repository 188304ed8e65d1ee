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
from tools.bench.label_audit import flip_labels, write_relabel
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


def mislabelled(clean: Paths, folder: Path) -> tuple[Paths, pd.DataFrame]:
    """A project with the photos of another, `WRONG` of them in a wrong class.

    The table has a row per photo: path below `data/`, label as given, and the right one.
    """
    paths = get_paths(folder)
    files = sorted(clean.train.glob("*/*"))
    right = pd.Series([file.parent.name for file in files])
    given = flip_labels(right, sorted(set(right)), WRONG, seed=1)
    # two classes may both have a 1.jpg
    targets = [
        paths.train / new / f"{old}_{file.name}" for file, old, new in zip(files, right, given, strict=True)
    ]
    if not paths.train.is_dir():
        link_photos(sorted(clean.test.glob("*/*")), paths.test)
        for file, target in zip(files, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)
    below = [target.relative_to(paths.data).as_posix() for target in targets]
    return paths, pd.DataFrame({"path": below, "label": given, "right": right})


def corrections(photos: pd.DataFrame) -> dict[str, pd.Series]:
    """The labels of each kind; `suggested` is the audit's class for a doubted photo, else missing."""
    given, right, suggested = photos["label"], photos["right"], photos["suggested"]
    return {
        "right": right,
        "given": given,
        "suggested": suggested.fillna(given),
        "repaired": right.where(suggested.notna(), given),
    }


def found(photos: pd.DataFrame) -> str:
    """What the audit makes of the wrong labels."""
    wrong, doubted = photos["label"] != photos["right"], photos["suggested"].notna()
    return (
        f"{wrong.sum():,} of {len(photos):,} labels are wrong. The first {LOOKED_AT:.0%} of suspects hold "
        f"{doubted[wrong].mean():.0%} of them; {wrong[doubted].mean():.0%} of these suspects are wrong. With "
        f"the suggested class for them {(corrections(photos)['suggested'] == photos['right']).mean():.0%} of "
        f"all labels are right, {(~wrong).mean():.0%} before."
    )


def measured(variant: str, seed: int, start: str, paths: Paths, photos: pd.DataFrame) -> dict:
    """One run and what it reaches on the test photos."""
    kind, changes = VARIANTS[variant]
    if "teacher" in changes:
        changes = changes | {"teacher": measured(TEACHER, seed, start, paths, photos)["model"]}
    experiment = get_experiment("finetune_mini", **{"weights": start, "seed": seed} | changes)
    kept = kept_file(paths, experiment, kind)
    if kept.exists():
        return pd.read_json(kept, typ="series").to_dict()
    write_relabel(photos, corrections(photos)[kind], paths)
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
        paths, photos = mislabelled(clean, folder / f"{chosen.photos}-noisy")
        paths.relabel.unlink(missing_ok=True)  # the audit judges the labels as given
        suspects = audit_labels(paths, get_experiment("finetune_mini", weights=chosen.start))
        doubted = suspects.head(round(LOOKED_AT * len(suspects))).set_index("path")["suggested"]
        photos["suggested"] = photos["path"].map(doubted)
        print(found(photos))
        rows = []
        for variant in VARIANTS:
            reached = [
                100 * measured(variant, seed, chosen.start, paths, photos)["accuracy"]
                for seed in chosen.seeds
            ]
            spread = f" ({min(reached):.1f}–{max(reached):.1f})" * (len(reached) > 1)
            rows.append((variant, f"{np.mean(reached):.1f}{spread}"))
    print(f"\n{markdown(['labels', 'test accuracy, %'], rows)}\n\n{device_name()} · {versions()}")


if __name__ == "__main__":
    main()
