"""The tables of README and model/README, and their figures: `python -m tools.readme.tables [ru]`.

They come from the project's own runs in model/fer2013, a results folder like a user's:
`emo.get_paths(ROOT, results="model/fer2013")` has the next run logged there.
"""

import os
import sys
from dataclasses import asdict

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from emo.evaluation.intervals import wilson
from emo.experiments import EXPERIMENTS, Experiment
from emo.paths import PROJECT_ROOT, Paths
from emo.plots.style import TRAIN, VAL
from emo.tracking.summary import shortened
from emo.tracking.table import Sheet, read_table
from tools import ablate
from tools.readme.markdown import markdown, number

FIGURE = PROJECT_ROOT / "images" / "road.png"
RUNS = Paths(PROJECT_ROOT, PROJECT_ROOT / "model" / "fer2013")
TEST_PHOTOS = 3589  # of FER2013
HEADINGS = {
    "en": "No.|Date|Base model|Extra layers|Optimizer|Augmentation|Epochs|Validation, %",
    "ru": "№|Дата|Базовая модель|Добавленные слои|Оптимизатор|Аугментация|Эпох|Валидация, %",
}
RESULTS = {
    "en": "No.|Network|`EXPERIMENT`, `CHANGES`|Size, px|Epochs|Validation, %|Test, %|F1|Minutes|Curve",
    "ru": "№|Сеть|`EXPERIMENT`, `CHANGES`|Размер, px|Эпох|Валидация, %|Тест, %|F1|Минут|Кривая",
}
YES_NO = {"en": ("yes", "no"), "ru": ("да", "нет")}
ENSEMBLE_RIGHT = 2558  # test photos that rows 68 and 17 with FLIP named, 2026-11-26; an ensemble has no row
AFFECTNET_RIGHT, AFFECTNET_PHOTOS = 1515, 2526  # of row 73, `tools.bench.embedded`, 2026-11-27
MORE_PHOTOS = dict.fromkeys((72, 73), " (+ AffectNet)")  # what runs learned from beside FER2013
HEADLINE = {
    "en": (
        "Model|Photos|Accuracy (95% interval)|How to get it",
        "the original project's best (2020): ResNet50, fine-tuned from conv5 on",
        "its own nine classes, validation",
        "number of photos not recorded",
        "[`emo_mini`](model/emo_mini.md), {weights} million weights, included",
        "FER2013, test",
        "`emo_mini`",
        "AffectNet faces, held out",
        "[row 73](model/README.md#on-held-out-photos)",
        "best single network: Xception, {size} px",
        "[rows 64 and 68](model/README.md#fer2013)",
        "best ensemble: rows 68 and 17, with flip",
        "not rerun",
        "[`ENSEMBLE`, `FLIP`](model/README.md#flip-and-ensembles)",
    ),
    "ru": (
        "Модель|Фотографии|Точность (95%-й интервал)|Как получить",
        "лучшая в исходном проекте (2020): ResNet50, дообучена начиная с conv5",
        "собственные, девять классов, валидация",
        "число фотографий не записано",
        "[`emo_mini`](model/emo_mini.md), {weights} миллиона весов, входит в проект",
        "FER2013, тест",
        "`emo_mini`",
        "лица AffectNet, отложенные",
        "[строка 73](model/README.ru.md#на-отложенных-фотографиях)",
        "лучшая одиночная сеть: Xception, {size} px",
        "[строки 64 и 68](model/README.ru.md#fer2013)",
        "лучший ансамбль: строки 68 и 17, с отражением",
        "не повторяли",
        "[`ENSEMBLE`, `FLIP`](model/README.ru.md#отражение-и-ансамбли)",
    ),
}


def table(language: str) -> str:
    """The original project's eleven experiments as Markdown, in "en" or "ru"."""
    rows = [
        (
            row.number,
            row.date,
            row.base_model,
            f"`{shortened(row.extra_layers)}`",
            f"`{shortened(row.optimizer)}`",
            YES_NO[language][0 if "yes" in row.augmentation else 1],
            row.epochs,
            f"{row.val_accuracy:g}",
        )
        for row in read_table(RUNS, Sheet.RUNS).itertuples()
        if not row.settings
    ]
    return markdown(HEADINGS[language].split("|"), rows)


def tested() -> pd.DataFrame:
    """The runs on FER2013 whose test accuracy is known, with their `experiment` and `interval` (%)."""
    rows = read_table(RUNS, Sheet.RUNS).query("settings != '' and test_accuracy.notna()")
    rows["experiment"] = [Experiment.from_json(settings) for settings in rows.settings]
    hits = rows.test_accuracy / 100 * TEST_PHOTOS
    rows["interval"] = list(zip(*(100 * bound for bound in wilson(hits, TEST_PHOTOS)), strict=True))
    return rows


def results(language: str) -> str:
    """Those runs as Markdown, each with what to set in the train notebook to repeat it."""
    rows = []
    for row in tested().itertuples():
        e, (low, high) = row.experiment, row.interval
        rows.append(
            (
                row.number,
                f"`{shortened(f'{row.base_model}, {row.extra_layers}').removesuffix(', softmax')}`",
                f'`"{e.name}"`' + (f", `{changes}`" if (changes := changed(e)) else ""),
                e.image_size,
                e.epochs,
                number(f"{row.val_accuracy:.1f}", language),
                number(f"**{row.test_accuracy:.1f}** ± {(high - low) / 2:.1f}", language),
                number(f"{row.macro_f1:.3f}", language),
                f"{row.seconds / 60:.0f}",
                f"[png]({os.path.relpath(RUNS.results / row.learning_curve, PROJECT_ROOT / 'model')})",
            )
        )
    return markdown(RESULTS[language].split("|"), rows)


def headline(language: str) -> str:
    """What README begins with: the best of the original project, emo_mini, the best network, the ensemble."""
    (
        headings,
        original,
        own,
        unknown,
        mini,
        fer,
        same,
        affectnet,
        both,
        single,
        how,
        ensemble,
        rerun,
        averaged,
    ) = HEADLINE[language]
    rows = read_table(RUNS).set_index("number")
    size = Experiment.from_json(rows.settings[68]).image_size

    def accuracy(percent: float, mark: str = "", photos: int = TEST_PHOTOS) -> str:
        low, high = (100 * bound for bound in wilson(percent / 100 * photos, photos))
        return number(f"{mark}{percent:.1f}%{mark} ({low:.1f}–{high:.1f}%)", language)

    return markdown(
        headings.split("|"),
        [
            (original, own, f"{rows.val_accuracy[12]:g}% ({unknown})", f'`EXPERIMENT = "12"` ({rerun})'),
            (
                mini.format(weights=number("0.87", language)),
                fer,
                accuracy(rows.test_accuracy[73]),
                both,
            ),
            (
                same,
                affectnet,
                accuracy(100 * AFFECTNET_RIGHT / AFFECTNET_PHOTOS, photos=AFFECTNET_PHOTOS),
                both,
            ),
            (single.format(size=size), fer, accuracy(rows.test_accuracy[68]), how),
            (ensemble, fer, accuracy(100 * ENSEMBLE_RIGHT / TEST_PHOTOS, "**"), averaged),
        ],
    )


def changed(experiment: Experiment) -> dict:
    """What differs from the experiment of that name; ImageNet weights from a file are the same weights."""
    named, used = (asdict(e) for e in (EXPERIMENTS[experiment.name], experiment))
    if str(used["weights"]).endswith("imagenet_notop.weights.h5"):
        used["weights"] = "imagenet"
    return {field: value for field, value in used.items() if value != named[field]}


def ablations() -> pd.DataFrame:
    """What `tools.ablate` makes of its rows among them."""
    variants = ablate.list_variants("xception_imagenet_notop.weights.h5")
    return ablate.summarize(variants, ablate.SEEDS, RUNS)


def road() -> Figure:
    """Test accuracy and its interval of each run, from the weakest to the best."""
    rows = tested().sort_values("test_accuracy", ignore_index=True)
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.2), layout="constrained")
    for place, row in enumerate(rows.itertuples()):
        frozen = row.experiment.unfreeze == "none"
        axis.plot(row.interval, [place, place], color=TRAIN if frozen else VAL, lw=2.5)
        axis.plot(row.test_accuracy, place, "o", color=TRAIN if frozen else VAL, ms=7)
        axis.annotate(
            f"{row.test_accuracy:.1f}%",
            (row.interval[1], place),
            (6, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
        )
    names = [
        f"row {row.number} · {row.experiment.title}{MORE_PHOTOS.get(row.number, '')}"
        for row in rows.itertuples()
    ]
    axis.set(yticks=range(len(rows)), yticklabels=names, xlabel="accuracy on FER2013's test photos, %")
    axis.set_xlim(axis.get_xlim()[0], axis.get_xlim()[1] + 3)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("blue: backbone frozen · orange: backbone trained · bars: 95% intervals", fontsize=9)
    return figure


if __name__ == "__main__":
    language = "ru" if "ru" in sys.argv[1:] else "en"
    print(
        headline(language),
        table(language),
        results(language),
        ablate.table(ablations(), language),
        sep="\n\n",
    )
    road().savefig(FIGURE, dpi=100)
    ablate.plot(ablations()).savefig(ablate.FIGURE, dpi=100)
