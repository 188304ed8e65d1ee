"""The experiments table, with real files, real processes and a real workbook."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emo.errors import UserError
from emo.paths import PROJECT_ROOT, get_paths
from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.tracking.table import COLUMNS, create_table, log_run, read_table, update_run
from tests.tracking.helpers import PLACE, book_rows, csv_rows, edit_book, numbers, sheet_of


class Lock:
    """Makes one file refuse to be replaced, as Windows does while Excel has it open."""

    def __init__(self, monkeypatch, name):
        real = os.replace

        def replace(source, target):
            if self.on and Path(target).name == name:
                raise PermissionError(13, "Permission denied", str(target))
            real(source, target)

        self.on = True
        monkeypatch.setattr(os, "replace", replace)


def test_the_table_in_the_repository_is_current():
    head = (PROJECT_ROOT / "experiments.csv").read_text(encoding="utf-8").split("\n")[0]
    assert head.split(",")[0] == COLUMNS["number"]
    table = read_table(get_paths(PROJECT_ROOT))
    assert table["number"].tolist()[:11] == [row["number"] for row in ORIGINAL_ROWS]
    assert table["extra_layers"].tolist()[:11] == [row["extra_layers"] for row in ORIGINAL_ROWS]


def test_runs_are_numbered_from_13_and_typed(paths):
    assert log_run({"base_model": "Xception", "augmentation": True, "settings": {"эпох": 2}}, paths) == 13
    assert (
        log_run(
            {"number": 99, "val_accuracy": np.float32(54.3), "seconds": float("nan"), "seed": np.int64(42)},
            paths,
        )
        == 14
    )
    table = read_table(paths)
    assert table["number"].tolist()[-2:] == [13, 14]
    assert table["augmentation"].iloc[-2] == "да / yes"
    assert table["settings"].iloc[-2] == '{"эпох": 2}'
    assert table["val_accuracy"].iloc[-1] == 54.3
    assert pd.isna(table["seconds"].iloc[-1])
    assert book_rows(paths)[-1]["seconds"] is None
    assert csv_rows(paths)[-1]["seconds"] == ""
    assert book_rows(paths)[-1]["seed"] == 42
    assert str(table["epochs"].dtype) == "Int64"
    assert str(table["val_accuracy"].dtype) == "float64"


def test_reading_writes_nothing(paths):
    assert len(read_table(paths)) == 11
    assert not paths.experiments.exists() and not paths.experiments_csv.exists()


def test_an_unknown_key_names_the_allowed_ones(paths):
    with pytest.raises(UserError, match=r"'acuracy'.*val_accuracy.*comment"):
        log_run({"acuracy": 1}, paths)
    with pytest.raises(UserError, match=r"'f1'.*macro_f1"):
        update_run("a.h5", {"f1": 1}, paths)
    with pytest.raises(UserError, match="number"):
        update_run("a.h5", {"number": 1}, paths)
    assert not paths.experiments.exists()


def append_five(paths, name):
    for index in range(5):
        log_run({"comment": f"{name}-{index}", "model_file": f"model/{name}-{index}.h5"}, paths)


def test_four_processes_lose_nothing(paths):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=append_five, args=(paths, name)) for name in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    for rows in (book_rows(paths), csv_rows(paths)):
        assert sorted(row["comment"] for row in rows[11:]) == sorted(
            f"{n}-{i}" for n in "abcd" for i in range(5)
        )
        assert sorted(map(int, numbers(rows))) == [1, 2, *range(4, 33)]


def test_a_tested_model_gets_its_cells(paths):
    log_run({"model_file": paths.model / "a.h5", "state": "trained"}, paths)
    log_run({"model_file": paths.model / "b.h5"}, paths)
    assert (
        update_run("model\\a.h5", {"test_accuracy": 50.25, "macro_f1": 0.5, "state": "tested"}, paths) == 13
    )
    assert update_run(paths.model / "unknown.h5", {"test_accuracy": 1}, paths) is None
    for rows in (book_rows(paths), csv_rows(paths)):
        assert rows[-2]["model_file"] == "model/a.h5"
        assert [str(rows[-2][key]) for key in ("test_accuracy", "macro_f1", "state")] == [
            "50.25",
            "0.5",
            "tested",
        ]
        assert not rows[-1]["test_accuracy"]


def test_a_locked_workbook_catches_up(paths, monkeypatch, capsys):
    log_run({"model_file": "model/a.h5", "state": "trained"}, paths)
    before = paths.experiments.read_bytes()
    lock = Lock(monkeypatch, "experiments.xlsx")
    assert log_run({"model_file": "model/b.h5"}, paths) == 14
    said = capsys.readouterr().out
    assert "experiments.xlsx could not be written" in said and "waits in experiments.csv" in said
    assert said.count("\n") == 1
    assert update_run("a.h5", {"state": "tested"}, paths) == 13  # overwrites a cell that the workbook has
    assert update_run("a.h5", {"state": "tested twice"}, paths) == 13
    assert paths.experiments.read_bytes() == before
    assert read_table(paths)["state"].tolist()[-2:] == ["tested twice", ""]

    lock.on = False
    capsys.readouterr()
    assert log_run({}, paths) == 15
    assert capsys.readouterr().out == ""
    assert numbers(book_rows(paths))[-3:] == numbers(csv_rows(paths))[-3:] == ["13", "14", "15"]
    assert book_rows(paths)[-3]["state"] == "tested twice"
    assert sorted(path.name for path in paths.results.glob("experiments*")) == [
        "experiments.csv",
        "experiments.lock",
        "experiments.xlsx",
    ]


def test_an_edit_made_while_locked_beats_the_waiting_update(paths, monkeypatch):
    log_run({"model_file": "a.h5", "state": "trained", "comment": "old"}, paths)
    lock = Lock(monkeypatch, "experiments.xlsx")
    update_run("a.h5", {"state": "tested", "comment": "new"}, paths)
    edit_book(paths, lambda book: book.active.cell(13, PLACE["comment"], "mine"))
    lock.on = False
    create_table(paths)
    for rows in (book_rows(paths), csv_rows(paths)):
        assert (rows[-1]["state"], rows[-1]["comment"]) == ("tested", "mine")


def test_a_locked_csv_catches_up(paths, monkeypatch, capsys):
    create_table(paths)
    lock = Lock(monkeypatch, "experiments.csv")
    assert log_run({"comment": "kept"}, paths) == 13
    assert "experiments.csv could not be written" in capsys.readouterr().out
    assert numbers(book_rows(paths))[-1] == "13"
    lock.on = False
    assert log_run({}, paths) == 14
    assert [row["comment"] for row in csv_rows(paths)[-2:]] == ["kept", ""]


def test_both_locked_is_said(paths, monkeypatch):
    create_table(paths)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("in use")))
    with pytest.raises(UserError, match="Nothing was logged"):
        log_run({}, paths)


def test_a_missing_file_is_made_from_the_other(paths):
    log_run({"comment": "first"}, paths)
    whole = paths.experiments_csv.read_text(encoding="utf-8")
    paths.experiments.unlink()
    create_table(paths)
    assert book_rows(paths)[-1]["comment"] == "first"
    paths.experiments_csv.unlink()
    create_table(paths)
    assert paths.experiments_csv.read_text(encoding="utf-8") == whole
    paths.experiments_csv.unlink()
    edit_book(paths, lambda book: book.active.delete_rows(2))  # experiment 1 stays gone
    assert log_run({}, paths) == 14
    assert numbers(csv_rows(paths)) == numbers(book_rows(paths)) == ["2", *map(str, range(4, 15))]


@pytest.mark.parametrize("damage", ["empty", "cut", "conflict", "cp1251", "stray cell"])
def test_a_damaged_csv_is_kept_and_made_anew(paths, damage, capsys):
    log_run({"comment": "первый"}, paths)
    whole = paths.experiments_csv.read_text(encoding="utf-8")
    broken = {
        "empty": b"",
        "cut": whole[: whole.index("Dense(512")].encode(),  # within quotes
        "conflict": f"{whole}<<<<<<< HEAD\n".encode(),
        "cp1251": whole.replace("№", "N").encode("cp1251"),
        "stray cell": f"{whole}14{',' * len(COLUMNS)}lost?\n".encode(),
    }[damage]
    paths.experiments_csv.write_bytes(broken)
    assert log_run({}, paths) == 14
    assert (paths.results / "experiments.damaged.csv").read_bytes() == broken
    assert "experiments.csv is damaged" in capsys.readouterr().out
    assert csv_rows(paths)[-2]["comment"] == "первый"


def test_a_csv_edited_by_hand_reaches_the_workbook(paths):
    create_table(paths)
    head, *lines = paths.experiments_csv.read_text(encoding="utf-8").splitlines()
    typed = "\n".join([head + ",Мои заметки", *lines, "30,01.02.26,MyNet"])
    paths.experiments_csv.write_text(typed, encoding="utf-8-sig")  # as Excel saves a CSV
    assert log_run({}, paths) == 31
    assert [book_rows(paths)[-2][key] for key in ("number", "date", "base_model")] == [
        30,
        "01.02.26",
        "MyNet",
    ]
    assert sheet_of(paths).cell(1, len(COLUMNS) + 1).value == "Мои заметки"


def test_a_workbook_from_elsewhere_overwrites_no_run(paths):
    log_run({"model_file": "model/here.h5", "val_accuracy": 40}, paths)
    written = paths.experiments_csv.read_bytes()
    paths.experiments_csv.unlink()
    edit_book(paths, lambda book: book.active.cell(13, PLACE["model_file"], "model/there.h5"))
    paths.experiments_csv.write_bytes(written)
    assert log_run({}, paths) == 14
    for rows in (book_rows(paths), csv_rows(paths)):
        assert {row["model_file"] for row in rows[11:]} - {None, ""} == {"model/here.h5", "model/there.h5"}


def test_no_tensorflow_is_needed():
    code = "import sys, emo.tracking.table; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0


def test_module_lists_every_heading_once():
    assert len(set(COLUMNS.values())) == len(COLUMNS) == 23
