"""Prints the experiments table of README.md, from experiments.csv: `python -m tools.readme_table [ru]`."""

import re
import sys

from emo.paths import PROJECT_ROOT, get_paths
from emo.runlog import read_table

HEADINGS = {
    "en": "No.|Date|Base model|Extra layers|Optimizer|Augmentation|Epochs|Validation, %|Test, %|Curve",
    "ru": "№|Дата|Базовая модель|Добавленные слои|Оптимизатор|Аугментация|Эпох|Валидация, %|Тест, %|Кривая",
}
YES_NO = {"en": ("yes", "no"), "ru": ("да", "нет")}


def short(text: str, language: str) -> str:
    """The seed's long spelling of layers and optimizers, shortened to what tells them apart."""
    text = re.sub(r"tf\.keras\.(layers|optimizers)\.", "", text.replace("\n", " "))
    text = re.sub(r"(Dense\(\d+), activation='relu'\)", r"\1)", text)
    unfrozen = {"en": "unfrozen:", "ru": "разморожен"}[language]
    text = re.sub(
        r"(?:Разморожены слои из блока «(\w+)» базовой модели|unfrozen: (\w+),)", rf"{unfrozen} \1\2,", text
    )
    return re.sub(r"Dense\(p_num_classes, activation='softmax'\)", "softmax", text)


def table(language: str) -> str:
    """The table as Markdown, a row an experiment, in "en" or "ru"."""
    headings = HEADINGS[language].split("|")
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for row in read_table(get_paths(PROJECT_ROOT)).itertuples():
        curve = row.learning_curve if (PROJECT_ROOT / row.learning_curve).is_file() else ""
        cells = (
            row.number,
            row.date,
            row.base_model,
            short(row.extra_layers, language),
            short(row.optimizer, language),
            YES_NO[language][0 if "yes" in row.augmentation else 1],
            row.epochs,
            f"{row.val_accuracy:g}",
            f"{row.test_accuracy:g}" if row.test_accuracy == row.test_accuracy else "",
            f"[png]({curve})" if curve else "",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table("ru" if "ru" in sys.argv[1:] else "en"))
