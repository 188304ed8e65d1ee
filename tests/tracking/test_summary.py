"""The list at the end of the train notebook, as its reader finds it."""

import pandas as pd

from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.tracking.summary import newest_and_best
from emo.tracking.table import create_table, log_run


def logged(paths, *accuracies):
    for number, accuracy in enumerate(accuracies, 1):
        row = {"base_model": "emo_mini", "val_accuracy": accuracy, "settings": "{}"}
        log_run(row | {"model_file": f"{number}.h5", "epochs": 3, "extra_layers": "avg_pool"}, paths)


def test_a_first_run_stands_above_the_best_of_the_original_project(paths):
    logged(paths, 98.9)
    table = newest_and_best(paths)
    yours, original = "your newest runs", "the original project's best (its own photos)"
    assert list(table.index) == [(yours, 13), (original, 12), (original, 1), (original, 4)]
    assert list(table.val_accuracy) == [98.9, 44, 34, 34]


def test_best_of_many_runs_stays_in_the_list(paths):
    logged(paths, 50, 60, 55, 51, 52, 53, 54)
    table = newest_and_best(paths, count=2)
    assert [number for _, number in table.index[:4]] == [19, 18, 14, 15]
    assert [group for group, _ in table.index[:4]] == ["your newest runs"] * 2 + [
        "your best earlier runs"
    ] * 2


def test_without_a_run_the_original_project_is_alone(paths):
    create_table(paths)
    table = newest_and_best(paths)
    assert len(table) == 3 and {group for group, _ in table.index} == {
        "the original project's best (its own photos)"
    }
    assert not table.isna().any(axis=None)  # an empty cell is empty, not "NaN"


def test_a_table_of_headings_alone_is_an_empty_list(paths):
    create_table(paths)
    paths.experiments.unlink()
    paths.experiments_csv.write_text(paths.experiments_csv.read_text("utf-8-sig").splitlines()[0] + "\n")
    assert newest_and_best(paths).empty


def test_a_run_typed_by_hand_is_the_users(paths):
    log_run({"base_model": "mine", "val_accuracy": 12.0}, paths)
    assert newest_and_best(paths).index[0] == ("your newest runs", 13)


def test_layers_are_told_in_few_words(paths):
    create_table(paths)
    table = newest_and_best(paths, original=len(ORIGINAL_ROWS)).droplevel(0)
    assert table.extra_layers[12] == "unfreeze=conv5, GlobalAveragePooling2D(), softmax"
    assert table.optimizer[12] == "SGD(learning_rate=0.01, momentum=0.9)"
    assert (
        not table[["extra_layers", "optimizer"]]
        .apply(lambda cells: cells.str.contains("keras"))
        .any(axis=None)
    )
    assert isinstance(table, pd.DataFrame)
