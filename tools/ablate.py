"""What a recipe's ingredients are worth: `python -m tools.ablate --dataset ZIP --weights FILE --results DIR`.

Runs a recipe as `ABLATIONS` makes it smaller, and with one thing changed at a time, on a fixed part of the
photos: every variant with the first seed, then with the others those that a seed leaves open. Each run is a
row on the sheet "ablations" of DIR's experiments.xlsx. Killed and started again, it goes on where it was; two
may run at once, on other names or seeds. Prints a Markdown table and draws images/ablations.png. `--only
finetune:` takes hours on two cores, `--only finetune_strong` a GPU.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from emo.data.download import fetch_dataset
from emo.data.duplicates import find_duplicates
from emo.data.manifest import scan_splits
from emo.data.split import split_photos
from emo.environment import PLOT_STYLE
from emo.errors import UserError
from emo.experiments import Experiment, get_experiment
from emo.files import write_text
from emo.paths import PROJECT_ROOT, Paths, get_paths
from emo.plots.style import BAD, GOOD, TRAIN
from emo.tracking.table import Sheet, read_table, update_run
from emo.training.run import Ending
from emo.training.train import train
from tools.readme.markdown import markdown, number

FIGURE = PROJECT_ROOT / "images" / "ablations.png"
SEEDS = (42, 43, 44)
# row 17's, which came with the project until 2026-11-27
TEACHER = "model/emo_mini_fer2013.h5"
TEACHER_COMMIT = "9ce4047"
CLEAR = 2.0  # points from the base that one seed is enough for
HEADINGS = {
    "en": "Variant|What changed|Validation, %|Difference|Verdict",
    "ru": "Вариант|Что изменено|Валидация, %|Разница|Вывод",
}
RUSSIAN = {"base": "основа", "better": "лучше", "worse": "хуже", "noise": "шум"}
COLORS = {"better": GOOD, "worse": BAD}


@dataclass(frozen=True)
class Ablation:
    """A recipe on so many photos to train on and to validate on: what makes it small, and its variants.

    `variants` has a dict per ingredient.
    """

    photos: int
    base: dict
    variants: tuple[dict[str, dict], ...]


# `ema` reaches back over the same share of a run as in the recipe, 6% of its steps; `precise_batch_norm` came
# into the recipe after these were run
ABLATIONS = {
    "finetune": Ablation(
        photos=2000,
        base={
            "epochs": 3,
            "ema": 0.95,
            "image_size": 72,
            "unfreeze": "block5",
            "precise_batch_norm": False,
        },
        variants=(
            {"96 px": {"image_size": 96}},
            {
                "frozen": {"unfreeze": "none"},
                "from block13": {"unfreeze": "block13"},
                "all layers": {"unfreeze": "all"},
            },
            {
                "no augmentation": {"augment": False},
                "flip alone": {"augment_strength": 0.0},
                "full augmentation": {"augment_strength": 1.0},
            },
            {
                "random erasing": {"random_erasing": 0.5},
                "color jitter": {"color_jitter": 0.3},
                "mixup": {"mix": "mixup"},
                "cutmix": {"mix": "cutmix"},
            },
            {"no label smoothing": {"label_smoothing": 0.0}},
            {"no moving average": {"ema": 0.0}},
            {"balanced classes": {"class_balance": 1.0}},
            {"learning rate / 3": {"learning_rate": 1e-4}, "learning rate × 3": {"learning_rate": 9e-4}},
            {
                "frozen BatchNormalization": {"freeze_batch_norm": True},
                "precise BatchNormalization": {"precise_batch_norm": True},
            },
            {"taught by emo_mini": {"teacher": TEACHER, "teacher_weight": 0.5}},
        ),
    ),
    # at full length, on all photos of FER2013: some two minutes per run on an H100, five hours on two cores
    "finetune_strong": Ablation(
        photos=28_709,
        base={
            "epochs": 20,
            "image_size": 96,
            "unfreeze": "block5",
            "teacher": TEACHER,
            "teacher_weight": 0.5,
        },
        variants=(
            {"no teacher": {"teacher": None, "teacher_weight": 0.0}},
            {"no moving average": {"ema": 0.0}},
            {"128 px": {"image_size": 128}},
            {"BatchNormalization as it came": {"freeze_batch_norm": True, "precise_batch_norm": False}},
            {"mixup": {"mix": "mixup"}},
        ),
    ),
}


@dataclass(frozen=True)
class Variant:
    """An experiment of an ablation, without its seed. `ingredient` numbers what it changes, 0 is the base."""

    recipe: str
    label: str
    ingredient: int
    changes: dict
    experiment: Experiment

    @property
    def name(self) -> str:
        return f"{self.recipe}: {self.label}"


def list_variants(weights: str, ablations: dict[str, Ablation] = ABLATIONS) -> list[Variant]:
    """All of them, each recipe's base first; `weights` is for the recipes that start from some."""
    found = []
    for recipe, ablation in ablations.items():
        base = get_experiment(recipe, **ablation.base)
        if base.weights is not None:
            base = replace(base, weights=weights)
        for place, ingredient in enumerate(({"base": {}}, *ablation.variants)):
            for label, changes in ingredient.items():
                shown = changes if place else ablation.base
                found.append(Variant(recipe, label, place, shown, replace(base, **changes)))
    return found


def choose(variants: list[Variant], only: Sequence[str]) -> list[Variant]:
    """Those whose name begins like one of `only`, and the bases that they are compared with.

    Raises UserError for one of `only` with which no name begins.
    """
    for start in only:
        if not any(variant.name.startswith(start) for variant in variants):
            raise UserError(
                f"No variant begins with {start!r}; there are: {', '.join(v.name for v in variants)}."
            )
    named = [variant for variant in variants if variant.name.startswith(tuple(only))]
    recipes = {variant.recipe for variant in named}
    return [each for each in variants if each in named or (not each.ingredient and each.recipe in recipes)]


def prepare_photos(dataset: str, count: int, paths: Paths) -> None:
    """The dataset, of which `count` photos per split stay, each class with its share; once."""
    fetch_dataset(dataset, paths)
    if not paths.split.exists():
        photos = scan_splits(paths)
        # a duplicate to validate on would reward the variant that overfits
        split_photos(photos, find_duplicates(photos), paths, leave_out_duplicates=True)
    table = pd.read_csv(paths.split, dtype=str, keep_default_na=False)
    before = table.copy()
    for split in ("train", "val"):
        usable = table[(table["split"] == split) & (table["left_out"] == "")]
        drawn = usable.sort_values("path").sample(frac=1, random_state=0)
        by_class = drawn.groupby(drawn["path"].str.split("/").str[1])["path"]
        place = (by_class.cumcount() + 0.5) / by_class.transform("size")
        beyond = place.sort_values(kind="stable").index[count:]
        table.loc[beyond, "left_out"] = f"not among the ablation's {count:,} photos"
    if not table.equals(before):
        write_text(paths.split, table.to_csv(index=False, lineterminator="\n"))


def logged_runs(paths: Paths, sheet: Sheet | None = None) -> dict[Experiment, tuple]:
    """The runs of the table or one sheet that came to their end, a NaN loss being one, by what was run."""
    found = {}
    for row in read_table(paths, sheet).itertuples():
        with suppress(ValueError, TypeError):  # the original rows have no settings, older ones may not fit
            experiment = Experiment.from_json(row.settings)
            if Ending.of(row.state) in (Ending.FINISHED, Ending.DIVERGED):
                found[experiment] = row
    return found


def run_missing(variants: list[Variant], seeds: Sequence[int], projects: dict[str, Paths]) -> None:
    """Trains what has no row yet, and files its row among the ablations. KeyboardInterrupt after Ctrl-C.

    What the first seed takes CLEAR points from its base needs no other.
    """
    plan = [(variant, seed) for seed in seeds for variant in variants]
    for paths in projects.values():
        file_stray_rows(plan, paths)
    for variant, seed in tqdm(plan, "ablation runs", unit="run"):
        paths = projects[variant.recipe]
        logged = logged_runs(paths)
        if seed != seeds[0] and is_clear(variant, variants, seeds[0], logged):
            continue
        experiment = replace(variant.experiment, seed=seed)
        if experiment in logged:
            continue
        try:
            run = train(experiment, paths)
        except UserError as error:  # such as a NaN in the first epoch: the others may run
            print(f"{variant.name}, seed {seed}: {error}")
            continue
        file_row(run.model_path, variant, paths)
        print(f"{variant.name}, seed {seed}: {run}", flush=True)
        if run.outcome.ending is Ending.INTERRUPTED:
            raise KeyboardInterrupt


def file_stray_rows(plan: list[tuple[Variant, int]], paths: Paths) -> None:
    """Files the plan's runs that still lie among the whole ones: killed before that, or an older table."""
    stray = logged_runs(paths, Sheet.RUNS)
    for variant, seed in plan:
        row = stray.get(replace(variant.experiment, seed=seed))
        if row is not None:
            file_row(row.model_file, variant, paths)


def file_row(model_file: str | Path, variant: Variant, paths: Paths) -> None:
    """Moves a run's row to the ablations and says in it which variant it is."""
    update_run(model_file, {"comment": f"ablation: {variant.name}"}, paths, sheet=Sheet.ABLATIONS)


def is_clear(variant: Variant, variants: list[Variant], seed: int, logged: dict[Experiment, tuple]) -> bool:
    """Whether that seed alone puts the variant CLEAR points from its recipe's base."""
    base = next(each for each in variants if each.recipe == variant.recipe and not each.ingredient)
    rows = [logged.get(replace(each.experiment, seed=seed)) for each in (variant, base)]
    return None not in rows and abs(rows[0].val_accuracy - rows[1].val_accuracy) >= CLEAR


def summarize(variants: list[Variant], seeds: Sequence[int], paths: Paths) -> pd.DataFrame:
    """A row per variant that has run: name, accuracies (percent, one per seed), mean, difference and verdict.

    "noise" is where the seeds' ranges of the variant and of its base overlap, else it is "better" or "worse";
    so is what has one seed, and is CLEAR points from the base's run of that seed. `difference` is between
    the means over the seeds that the variant has.
    """
    logged, rows = logged_runs(paths), []
    for variant in variants:
        runs = {seed: logged.get(replace(variant.experiment, seed=seed)) for seed in seeds}
        reached = {seed: float(run.val_accuracy) for seed, run in runs.items() if run is not None}
        if not variant.ingredient:
            bases = reached
        if not reached:
            continue
        base = [bases[seed] for seed in reached if seed in bases]
        reached = list(reached.values())
        difference = np.mean(reached) - np.mean(base) if base else np.nan
        if not variant.ingredient:
            verdict = "base"
        elif len(base) < max(2, len(seeds)) and not abs(difference) >= CLEAR:
            verdict = "needs more seeds"
        elif min(reached) <= max(base) and min(base) <= max(reached):
            verdict = "noise"
        else:
            verdict = "better" if difference > 0 else "worse"
        rows.append((variant, reached, np.mean(reached), difference, verdict))
    return pd.DataFrame(rows, columns=["variant", "accuracies", "mean", "difference", "verdict"])


def table(summary: pd.DataFrame, language: str = "en") -> str:
    """The summary as Markdown, in "en" or "ru"."""
    lines = []
    for row in summary.itertuples():
        changed = ", ".join(
            f"{field}={value:.3g}" if isinstance(value, float) else f"{field}={value}"
            for field, value in row.variant.changes.items()
        )
        low, high = min(row.accuracies), max(row.accuracies)
        spread = f"{row.mean:.1f}" + (f" ({low:.1f}–{high:.1f})" if len(row.accuracies) > 1 else "")
        difference = f"{row.difference:+.1f}" if row.variant.ingredient else ""
        spread, difference = number(spread, language), number(difference, language)
        verdict = RUSSIAN.get(row.verdict, row.verdict) if language == "ru" else row.verdict
        lines.append((row.variant.name, f"`{changed}`", spread, difference, verdict))
    return markdown(HEADINGS[language].split("|"), lines)


def report(summary: pd.DataFrame, seeds: int) -> str:
    """The summary as a table, and how far to trust it."""
    return (
        f"{table(summary)}\n\n"
        f"Mean and range of {seeds} seeds, the best epoch of each; one number is one seed, which put the "
        f"variant {CLEAR:g} points or more from the base. Noise: the ranges of variant and base overlap; of "
        f"two equal settings they part by luck in {2 / comb(2 * seeds, seeds):.0%} of cases."
    )


def plot(summary: pd.DataFrame) -> Figure:
    """A panel per recipe: a dot per seed, a mark at the mean, the base as a line over its seeds' band."""
    recipes = summary.groupby(summary["variant"].map(lambda variant: variant.recipe), sort=False)
    longest = recipes.size().max()
    size = (6 * len(recipes), 0.36 * longest + 1.8)
    figure, axes = plt.subplots(1, len(recipes), figsize=size, squeeze=False, layout="constrained")
    for axis, (recipe, rows) in zip(axes[0], recipes, strict=True):
        # a gap between ingredients
        places = np.arange(len(rows)) + 0.6 * np.array([row.ingredient for row in rows["variant"]])
        for place, row in zip(places, rows.itertuples(), strict=True):
            color = "black" if row.verdict == "base" else COLORS.get(row.verdict, TRAIN)
            axis.plot(row.accuracies, [place] * len(row.accuracies), "o", ms=5, alpha=0.6, color=color)
            axis.plot([row.mean] * 2, [place - 0.35, place + 0.35], color=color, lw=2)
            if row.verdict == "base":
                axis.axvspan(min(row.accuracies), max(row.accuracies), color="grey", alpha=0.15, lw=0)
                axis.axvline(row.mean, color="black", lw=1, ls=":")
        axis.set_yticks(places, [variant.label for variant in rows["variant"]])
        axis.set(ylim=(places[-1] + 0.7, -0.7), xlabel="validation accuracy, %", title=recipe)
        axis.grid(axis="y", visible=False)
    figure.suptitle(
        "green: better than the base with every seed · red: worse · blue: within noise", fontsize=9
    )
    return figure


def ablate(
    dataset: str,
    weights: str,
    results: str | Path,
    only: Sequence[str] = ("",),
    seeds: Sequence[int] = SEEDS,
    ablations: dict[str, Ablation] = ABLATIONS,
    figure: Path = FIGURE,
) -> pd.DataFrame:
    """Runs what is missing below the folder `results`, prints the table, draws `figure`; gives the summary.

    `only`: beginnings of the names of what to run. Raises UserError for one that no name begins with, and
    where a variant's teacher is missing.
    """
    variants = list_variants(weights, ablations)
    chosen = choose(variants, only)
    if any(variant.experiment.teacher == TEACHER for variant in chosen) and not Path(TEACHER).exists():
        raise UserError(
            f"There is no {TEACHER}, which teaches here; git show {TEACHER_COMMIT}:{TEACHER} > {TEACHER} "
            "brings it back."
        )
    projects = {}
    for recipe in dict.fromkeys(variant.recipe for variant in chosen):
        count = ablations[recipe].photos
        projects[recipe] = get_paths(Path(results, f"{count}_photos"), results)
        prepare_photos(dataset, count, projects[recipe])
    plt.rcParams.update(PLOT_STYLE)
    run_missing(chosen, seeds, projects)
    summary = summarize(chosen, seeds, projects[chosen[0].recipe])
    print(f"\n{report(summary, len(seeds))}")
    plot(summary).savefig(figure, dpi=100)
    return summary


def main() -> None:
    """Reads the command line."""
    options = argparse.ArgumentParser(prog="tools.ablate", description=__doc__.splitlines()[0])
    options.add_argument("--dataset", required=True, help="a zip or folder with train/ and, better, val/")
    options.add_argument("--weights", default="imagenet", help="of Xception, as the experiment takes them")
    options.add_argument("--results", required=True, help="a folder for photos, models and the table")
    options.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="beginnings of names")
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    ablate(**vars(options.parse_args()))


if __name__ == "__main__":
    main()
