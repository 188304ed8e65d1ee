"""The table in short."""

from __future__ import annotations

import pandas as pd

from emo.paths import Paths
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


def newest_and_best(paths: Paths, count: int = 5) -> pd.DataFrame:
    """The `count` newest rows of the sheet of runs, then the others with the best validation.

    Accuracies are in percent. Rows on other photos are not comparable: the table does not know which.
    """
    table = read_table(paths, Sheet.RUNS)
    newest = table.tail(count).iloc[::-1]
    rest = table.drop(newest.index)
    best = rest.assign(accuracy=pd.to_numeric(rest.val_accuracy, errors="coerce")).nlargest(count, "accuracy")
    groups = {"newest": newest[COLUMNS], "best of the others": best[COLUMNS]}
    return pd.concat(groups).droplevel(1).set_index("number", append=True)
