"""The table in short."""

from __future__ import annotations

import re

import pandas as pd

from emo.paths import Paths
from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.tracking.table import Sheet, read_table

COLUMNS = [
    "number",
    "date",
    "base_model",
    "extra_layers",
    "optimizer",
    "epochs",
    "val_accuracy",
    "test_accuracy",
    "state",
]


def newest_and_best(paths: Paths, count: int = 5, original: int = 3) -> pd.DataFrame:
    """One list of the sheet of runs: the user's own, then the original project's with the best validation.

    Of the user's the `count` newest come first, newest at the top, then as many of the others as were best;
    `original` says how many of the original project's follow. Accuracies are in percent. Rows on other photos
    are not comparable: the table does not know which. Empty cells are "".
    """
    table = read_table(paths, Sheet.RUNS)
    table["accuracy"] = pd.to_numeric(table.val_accuracy, errors="coerce")
    first = {str(row["number"]) for row in ORIGINAL_ROWS}
    theirs = table.number.astype(str).isin(first) & (table.settings == "")
    newest = table[~theirs].tail(count).iloc[::-1]
    older = table[~theirs].drop(newest.index)
    groups = {
        "your newest runs": newest,
        "your best earlier runs": older.nlargest(count, "accuracy"),
        "the original project's best (its own photos)": table[theirs].nlargest(original, "accuracy"),
    }
    listed = {name: rows[COLUMNS] for name, rows in groups.items() if len(rows)}
    if not listed:  # a table of headings alone
        return table[COLUMNS].set_index("number")
    listed = pd.concat(listed).droplevel(1)
    for key in ("extra_layers", "optimizer"):
        listed[key] = listed[key].map(shortened)
    listed = listed.set_index("number", append=True).astype(object)
    return listed.where(listed.notna(), "")


def shortened(text: str) -> str:
    """The original project's long spelling of layers and optimizers, shortened to what tells them apart."""
    text = re.sub(r"tf\.keras\.(layers|optimizers)\.", "", text.replace("\n", " "))
    text = re.sub(r"(Dense\(\d+), activation='relu'\)", r"\1)", text)
    text = re.sub(
        r"(?:Разморожены слои из блока «(\w+)» базовой модели|unfrozen: (\w+),)", r"unfreeze=\1\2,", text
    )
    return re.sub(r"Dense\(p_num_classes, activation='softmax'\)", "softmax", text)
