"""The experiments table, with real files, real processes and a real workbook."""

import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook
from PIL import Image

from emo.errors import UserError
from emo.paths import PROJECT_ROOT, Paths, get_paths
from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.tracking.table import COLUMNS, Sheet, create_table, log_run, read_table, update_run
from tests.tracking.helpers import PLACE, book_rows, csv_rows, edit_book, numbers, sheet_of, write_csv

RUNS = Paths(PROJECT_ROOT, PROJECT_ROOT / "model" / "fer2013")  # the project's own


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


def test_the_projects_own_runs_are_a_table_like_a_users_with_its_curves():
    assert RUNS.experiments_csv.read_text(encoding="utf-8").split("\n")[0].split(",") == list(COLUMNS)
    table = read_table(RUNS, Sheet.RUNS)
    assert table["number"].tolist()[:11] == [row["number"] for row in ORIGINAL_ROWS]
    assert table["extra_layers"].tolist()[:11] == [row["extra_layers"] for row in ORIGINAL_ROWS]
    assert [curve for curve in table["learning_curve"][11:] if not (RUNS.results / curve).is_file()] == []
    assert numbers(book_rows(RUNS)) == numbers(csv_rows(RUNS))


def test_git_tracks_no_table_that_a_users_run_changes(paths):
    log_run({"model_file": "a.h5"}, paths)
    update_run("a.h5", {}, paths, Sheet.ABLATIONS)
    written = {file.name for file in paths.results.glob("experiments*")}
    assert written == {"experiments.xlsx", "experiments.csv", "experiments_ablations.csv", "experiments.lock"}
    git = ["git", "-C", PROJECT_ROOT, "check-ignore", "--no-index", *written, "model/a.png", "model/a.h5"]
    ignored = subprocess.run(git, capture_output=True, text=True, check=False).stdout.split()
    assert set(ignored) == {*written, "model/a.png", "model/a.h5"}


def test_a_table_that_went_on_from_the_projects_own_rows_keeps_all_of_them(paths):
    # as in a clone of an older version, whose runs were logged behind them
    for file in (RUNS.experiments, RUNS.experiments_csv, RUNS.ablations_csv):
        shutil.copy(file, paths.results)
    latest = int(read_table(RUNS)["number"].max())
    assert log_run({"model_file": "mine.h5"}, paths) == latest + 1
    shutil.copytree(RUNS.model, paths.model, dirs_exist_ok=True)
    assert log_run({"model_file": "next.h5"}, paths) == latest + 2
    kept = read_table(paths)
    pd.testing.assert_frame_equal(kept[kept["number"] <= latest].reset_index(drop=True), read_table(RUNS))


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
def test_a_damaged_csv_is_kept_and_made_again(paths, damage, capsys):
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
        datetime(2026, 2, 1),
        "MyNet",
    ]
    assert sheet_of(paths).cell(1, len(COLUMNS) + 1).value == "Мои заметки"


def test_what_was_deleted_in_the_workbook_alone_comes_back_and_is_told(paths, capsys):
    for name in ("a.h5", "b.h5"):
        log_run({"model_file": name, "comment": f"of {name}"}, paths)
    log_run({"model_file": "c.h5"}, paths)
    assert capsys.readouterr().out == ""

    def delete(book):
        book.active.cell(13, PLACE["comment"]).value = None  # row 13: below the headings and eleven others
        book.active.delete_rows(14)

    edit_book(paths, delete)
    update_run("c.h5", {"macro_f1": 0.5}, paths)
    told = capsys.readouterr().out
    assert told == (
        "experiments.xlsx lacked, and gets from its CSV: 'Комментарий / Comment' of row 13, row 14; to "
        "delete something, delete it in both.\n"
    )
    assert [row["comment"] for row in book_rows(paths)[-3:]].count("of b.h5") == 1
    update_run("c.h5", {"macro_f1": 0.6}, paths)
    assert capsys.readouterr().out == ""


def test_a_workbook_from_elsewhere_overwrites_no_run(paths):
    log_run({"model_file": "model/here.h5", "val_accuracy": 40}, paths)
    written = paths.experiments_csv.read_bytes()
    paths.experiments_csv.unlink()
    edit_book(paths, lambda book: book.active.cell(13, PLACE["model_file"], "model/there.h5"))
    paths.experiments_csv.write_bytes(written)
    assert log_run({}, paths) == 15
    for rows in (book_rows(paths), csv_rows(paths)):
        runs = {str(row["number"]): row["model_file"] or "" for row in rows[11:]}
        assert runs == {"13": "model/there.h5", "14": "model/here.h5", "15": ""}


# ---- what other programs and people make of the files ---------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_csv_with_the_headings_of_older_versions_is_read_and_gets_keys(paths, delimiter):
    log_run({"model_file": "a.h5", "val_accuracy": 54.3}, paths)
    older = [{COLUMNS[key]: text for key, text in row.items()} for row in csv_rows(paths)]
    paths.experiments.unlink()
    write_csv(paths.experiments_csv, older, delimiter)
    assert read_table(paths)["val_accuracy"].iloc[-1] == 54.3
    create_table(paths)
    assert list(csv_rows(paths)[0]) == list(COLUMNS)
    assert book_rows(paths)[-1]["model_file"] == "a.h5"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251"])
def test_a_csv_from_a_russian_excel_keeps_what_was_edited_there(paths, encoding, capsys):
    log_run({"model_file": "a.h5", "date": "05.12.26", "val_accuracy": 54.3, "macro_f1": 0.319}, paths)
    typed = [row | {"Мои заметки": ""} for row in csv_rows(paths)]
    for row in typed:
        row["date"] = f"{row['date'][:6]}20{row['date'][6:]}"
        row["val_accuracy"] = row["val_accuracy"].replace(".", ",")
        row["macro_f1"] = row["macro_f1"].replace(".", ",")
    typed[-1] |= {"Мои заметки": "1,5 часа; хорошо", "test_accuracy": "50,25%", "comment": "проверить, да"}
    typed.append({"number": "20", "base_model": "HisNet", "val_accuracy": "61,0"})
    write_csv(paths.experiments_csv, typed, ";", encoding)

    assert log_run({}, paths) == 21
    told = capsys.readouterr().out
    assert (
        told.startswith("experiments.xlsx lacked, and gets from its CSV: ") and "of row 13, row 20;" in told
    )
    assert paths.experiments_csv.read_bytes().startswith(b"number,date,base_model,")
    mine, his = csv_rows(paths)[-3:-1]
    assert (mine["test_accuracy"], mine["val_accuracy"], mine["macro_f1"]) == ("50.25", "54.3", "0.319")
    assert (mine["date"], mine["comment"]) == ("05.12.26", "проверить, да")
    assert (mine["Мои заметки"], his["base_model"]) == ("1,5 часа; хорошо", "HisNet")
    table = read_table(paths)
    assert table["val_accuracy"].tolist()[-3:-1] == [54.3, 61.0]
    assert len(table) == len(csv_rows(paths)) == len(book_rows(paths)) == 14
    assert [row["test_accuracy"] for row in book_rows(paths)][-3:] == [50.25, None, None]


def test_a_column_of_the_users_named_as_a_key_stays_apart(paths):
    log_run({"model_file": "a.h5", "seconds": 60}, paths)

    def work(book):
        book.active.insert_cols(1)
        book.active["A1"], book.active["A13"] = "seconds", 5

    edit_book(paths, work)
    update_run("a.h5", {"seconds": 70}, paths)
    assert (csv_rows(paths)[-1]["seconds"], csv_rows(paths)[-1]["(seconds)"]) == ("70", "5")
    assert read_table(paths)["seconds"].iloc[-1] == 70
    assert sheet_of(paths)["A13"].value == 5


def test_a_long_cell_is_no_damage(paths, capsys):
    log_run({"model_file": "a.h5", "settings": "x" * 140_000}, paths)
    assert log_run({}, paths) == 14
    assert capsys.readouterr().out == ""
    assert len(read_table(paths)["settings"].iloc[-2]) == 140_000
    assert csv.field_size_limit() == 131_072  # everybody else's stays
    assert "x" * 140_000 in paths.experiments_csv.read_text(encoding="utf-8")


DAMAGED = ["[]", "null", "[" * 50_000, '{"a.h5": null}', '{"a.h5": {"state": 1}}', "\udcff"]


@pytest.mark.parametrize("waiting", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_list_of_waiting_updates_is_passed_over(paths, waiting, capsys):
    log_run({"model_file": "a.h5", "state": "trained"}, paths)
    file = paths.results / "experiments.waiting.json"
    file.write_bytes(waiting.encode("utf-8", "surrogateescape"))
    assert read_table(paths)["state"].iloc[-1] == "trained"
    assert update_run("a.h5", {"state": "tested"}, paths) == 13
    assert csv_rows(paths)[-1]["state"] == book_rows(paths)[-1]["state"] == "tested"
    assert not file.exists() and capsys.readouterr().out == ""


def test_what_waited_in_an_older_version_is_understood(paths):
    log_run({"model_file": "a.h5", "state": "tested"}, paths)
    edit_book(paths, lambda book: book.active.cell(13, PLACE["state"], "trained"))
    (paths.results / "experiments.waiting.json").write_text(
        json.dumps({"a.h5": {COLUMNS["state"]: "trained"}}), encoding="utf-8"
    )
    create_table(paths)
    assert csv_rows(paths)[-1]["state"] == book_rows(paths)[-1]["state"] == "tested"


def test_whole_numbers_that_became_decimals_are_the_same_numbers(paths):
    log_run({"model_file": "a.h5", "epochs": 3}, paths)
    pd.read_csv(paths.experiments_csv).astype({"number": float, "epochs": float}).to_csv(
        paths.experiments_csv, index=False
    )
    edit_book(paths, lambda book: book.active.cell(12, 1, "12.0"))  # as text
    assert "13.0" in paths.experiments_csv.read_text(encoding="utf-8")
    assert log_run({}, paths) == 14
    assert numbers(csv_rows(paths))[-3:] == ["12", "13", "14"]
    assert csv_rows(paths)[-2]["epochs"] == "3"
    assert read_table(paths)["number"].tolist()[-3:] == [12, 13, 14]
    assert len(book_rows(paths)) == 13


def copied(sheet, line, below):
    for cell in sheet[line]:
        sheet.cell(below, cell.column, cell.value)


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("above", [False, True])
def test_a_copied_row_gets_a_number_of_its_own(paths, edited, above, capsys):
    log_run({"model_file": "a.h5", "comment": "ours"}, paths)

    def work(book):
        copied(book.active, 13, 14)
        if edited:
            book.active.cell(13 if above else 14, PLACE["comment"], "my copy")

    edit_book(paths, work)
    assert read_table(paths)["number"].is_unique
    assert log_run({}, paths) == 15
    assert "number 13 twice: its later row is now 14" in capsys.readouterr().out
    assert log_run({}, paths) == 16
    assert capsys.readouterr().out == ""
    for rows in (book_rows(paths), csv_rows(paths)):
        assert numbers(rows)[-4:] == ["13", "14", "15", "16"]
        assert [row["comment"] or "" for row in rows[11:13]].count("my copy") == edited


def test_a_number_twice_in_the_csv_as_after_a_merge(paths, capsys):
    log_run({"model_file": "a.h5"}, paths)
    ours = csv_rows(paths)
    paths.experiments.unlink()
    write_csv(paths.experiments_csv, [*ours, ours[-1] | {"model_file": "b.h5", "number": "013"}])
    create_table(paths)
    assert "number 13 twice" in capsys.readouterr().out
    assert {row["model_file"]: row["number"] for row in csv_rows(paths)[11:]} == {"a.h5": "13", "b.h5": "14"}


def test_a_copy_keeps_its_new_number_while_the_workbook_is_locked(paths, monkeypatch):
    log_run({"model_file": "a.h5"}, paths)
    edit_book(paths, lambda book: copied(book.active, 13, 14))
    lock = Lock(monkeypatch, "experiments.xlsx")
    assert log_run({"model_file": "b.h5"}, paths) == 15
    assert log_run({"model_file": "c.h5"}, paths) == 16
    lock.on = False
    create_table(paths)
    for rows in (book_rows(paths), csv_rows(paths)):
        assert [(str(row["number"]), row["model_file"]) for row in rows[11:]] == [
            ("13", "a.h5"),
            ("14", "a.h5"),
            ("15", "b.h5"),
            ("16", "c.h5"),
        ]


def test_a_renumbered_row_stays_one_row(paths):
    log_run({"model_file": "a.h5", "comment": "ours"}, paths)

    def work(book):
        book.active.cell(12, 1, 112)  # the last of the original rows, which has no model file
        book.active.cell(13, 1, 130)

    edit_book(paths, work)
    assert log_run({"model_file": "b.h5"}, paths) == 131
    for rows in (book_rows(paths), csv_rows(paths)):
        assert numbers(rows) == [*map(str, [1, 2, *range(4, 12)]), "112", "130", "131"]
    assert update_run("a.h5", {"state": "tested"}, paths) == 130


def test_a_renamed_model_file_stays_one_row(paths):
    row = {"date": "05.12.26", "base_model": "vgg16", "epochs": 3, "val_accuracy": 40.5, "seconds": 77}
    log_run(row | {"model_file": "model/a.h5"}, paths)
    edit_book(paths, lambda book: book.active.cell(13, PLACE["model_file"], "model/best.h5"))
    assert update_run("best.h5", {"state": "tested"}, paths) == 13
    assert len(book_rows(paths)) == len(csv_rows(paths)) == 12


@pytest.mark.parametrize("number", ["9" * 400, "18446744073709551000", "²"])
def test_strange_numbers_do_not_stop_the_counting(paths, number):
    create_table(paths)
    rows = csv_rows(paths)
    paths.experiments.unlink()
    write_csv(paths.experiments_csv, [*rows, dict.fromkeys(rows[0], "") | {"number": number}])
    logged = [log_run({"model_file": f"{name}.h5"}, paths) for name in "ab"]
    wanted = int(number) if len(number) > 3 else 12
    assert logged == [wanted + 1, wanted + 2]
    assert list(read_table(paths)["model_file"])[-2:] == ["a.h5", "b.h5"]


TEXTS = st.text(st.sampled_from(list('0123456789.,;"\n\r\t eE%+-=абв№\x00\ud800')), max_size=12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(edits=st.lists(st.tuples(st.integers(0, 900), TEXTS, st.integers(0, 40)), min_size=1, max_size=4))
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_no_edit_of_the_csv_makes_reading_fail(tmp_path_factory, delimiter, edits):
    paths = get_paths(tmp_path_factory.getbasetemp() / "edited")
    write_csv(paths.experiments_csv, ORIGINAL_ROWS[:3], delimiter)
    text = paths.experiments_csv.read_text(encoding="utf-8")
    for place, typed, removed in edits:
        text = text[:place] + typed + text[place + removed :]
    paths.experiments_csv.write_bytes(text.encode("utf-8", "replace"))
    table = read_table(paths)
    whole = [number for number in table["number"].dropna() if str(number).isdecimal()]
    assert len(whole) == len(set(whole))
    assert set(COLUMNS) <= set(table.columns)


# ---- a run is known by its model file --------------------------------------------------------------

RUN = {
    "date": "05.12.26",
    "base_model": "vgg16",
    "val_accuracy": 54.3,
    "learning_curve": "model/a.png",
    "state": "finished",
    "seconds": 60,
    "model_file": "model/a.h5",
}


@pytest.mark.parametrize("kill", ["row in csv", "row in xlsx", "after the row", "picture gone", "csv lost"])
def test_a_run_killed_while_it_was_logged_is_completed(paths, kill, monkeypatch):
    curve = paths.model / "a.png"
    Image.new("RGB", (300, 200), "red").save(curve)
    create_table(paths)
    if kill in ("row in csv", "row in xlsx"):
        lock = Lock(monkeypatch, "experiments.xlsx" if kill == "row in csv" else "experiments.csv")
        assert log_run(RUN, paths) == 13
        lock.on = False
    else:
        assert log_run(RUN, paths) == 13
        if kill == "picture gone":
            curve.unlink()
        if kill == "csv lost":
            paths.experiments_csv.unlink()
    assert log_run(RUN | {"seconds": 61}, paths) == 13
    assert log_run({"model_file": "model/b.h5"}, paths) == 14
    for rows in (book_rows(paths), csv_rows(paths)):
        assert [(str(row["number"]), row["model_file"]) for row in rows[11:]] == [
            ("13", "model/a.h5"),
            ("14", "model/b.h5"),
        ]
        assert str(rows[11]["seconds"]) == "60"
    assert len(sheet_of(paths)._images) == 1


def test_what_somebody_wrote_into_the_row_stays(paths):
    log_run({"model_file": "a.h5", "comment": "ours", "state": "finished"}, paths)

    def work(book):
        book.active.cell(13, PLACE["comment"], "mine")
        book.active.cell(13, 1).value = None

    edit_book(paths, work)
    assert log_run({"model_file": "elsewhere/a.h5", "comment": "ours", "epochs": 3}, paths) == 13
    for rows in (book_rows(paths), csv_rows(paths)):
        assert (rows[-1]["comment"], rows[-1]["state"], str(rows[-1]["epochs"])) == ("mine", "finished", "3")


# ---- two sheets ------------------------------------------------------------------------------------


def move(paths, name, **values):
    return update_run(f"{name}.h5", {"comment": f"ablation: {name}"} | values, paths, Sheet.ABLATIONS)


def test_ablations_lie_on_a_sheet_and_in_a_csv_of_their_own(paths):
    for name in "abc":
        Image.new("RGB", (300, 200), "red").save(paths.model / f"{name}.png")
        log_run({"model_file": f"{name}.h5", "learning_curve": f"model/{name}.png"}, paths)
    assert load_workbook(paths.experiments).sheetnames == ["experiments"]
    assert not paths.ablations_csv.exists()

    assert move(paths, "c") == 15
    assert move(paths, "b") == 14
    assert log_run({"model_file": "d.h5", "learning_curve": "model/a.png"}, paths) == 16
    for rows in (book_rows(paths, "ablations"), csv_rows(paths.ablations_csv)):
        assert [(str(row["number"]), row["comment"]) for row in rows] == [
            ("15", "ablation: c"),
            ("14", "ablation: b"),
        ]
    for rows in (book_rows(paths), csv_rows(paths)):
        assert numbers(rows)[-2:] == ["13", "16"]
    assert list(read_table(paths, Sheet.RUNS)["number"])[-2:] == [13, 16]
    assert list(read_table(paths, Sheet.ABLATIONS)["model_file"]) == ["c.h5", "b.h5"]
    both = read_table(paths)
    assert list(both["number"])[-4:] == [13, 16, 15, 14] and str(both["number"].dtype) == "Int64"

    book = load_workbook(paths.experiments)
    assert book.sheetnames == ["experiments", "ablations"] and book.active.title == "experiments"
    assert [[image.anchor._from.row + 1 for image in sheet._images] for sheet in book] == [[13, 14], [2, 3]]
    assert not any(sheet.row_dimensions[line].hidden for sheet in book for line in range(1, 20))

    paths.experiments.unlink()  # made again from the two CSVs
    create_table(paths)
    assert [row["number"] for row in book_rows(paths, "ablations")] == [15, 14]
    assert update_run("b.h5", {}, paths, Sheet.RUNS) == 14
    assert numbers(book_rows(paths))[-3:] == numbers(csv_rows(paths))[-3:] == ["13", "16", "14"]


def test_a_row_that_leaves_the_middle_of_a_users_sheet_shifts_nothing(paths):
    for name in "abc":
        log_run({"model_file": f"{name}.h5", "val_accuracy": 50}, paths)

    def work(book):
        book.active["Y1"], book.active["Y14"] = "Мои заметки", "к среднему"
        book.active["Z20"] = "=AVERAGE(I13:I15)"
        book.active.column_dimensions["D"].width = 50

    edit_book(paths, work)
    assert move(paths, "a") == 13
    assert move(paths, "b") == 14
    sheet = sheet_of(paths)
    assert sheet["Z20"].value == "=AVERAGE(I13:I15)" and sheet["A15"].value == 15
    assert sheet["A13"].value is None and sheet.row_dimensions[13].hidden
    assert sheet.column_dimensions["D"].width == 50
    assert csv_rows(paths.ablations_csv)[1]["Мои заметки"] == "к среднему"
    assert read_table(paths, Sheet.RUNS)["number"].tolist()[-2:] == [12, 15]
    assert log_run({}, paths) == 16
    assert sheet_of(paths)["A21"].value == 16


def test_the_line_of_a_row_that_left_is_seen_again_when_it_is_used(paths):
    for name in "ab":
        log_run({"model_file": f"{name}.h5"}, paths)
    move(paths, "a")
    move(paths, "b")
    log_run({}, paths)
    sheet = sheet_of(paths)
    assert sheet["A13"].value == 15 and not sheet.row_dimensions[13].hidden


def test_a_move_reaches_a_locked_workbook_later(paths, monkeypatch, capsys):
    log_run({"model_file": "a.h5"}, paths)
    lock = Lock(monkeypatch, "experiments.xlsx")
    assert move(paths, "a") == 13
    assert "waits in experiments_ablations.csv" in capsys.readouterr().out
    assert read_table(paths, Sheet.ABLATIONS)["comment"].tolist() == ["ablation: a"]
    assert log_run({"model_file": "b.h5"}, paths) == 14
    lock.on = False
    create_table(paths)
    assert numbers(book_rows(paths))[-2:] == numbers(csv_rows(paths))[-2:] == ["12", "14"]
    assert numbers(book_rows(paths, "ablations")) == numbers(csv_rows(paths.ablations_csv)) == ["13"]


@pytest.mark.parametrize("name", ["experiments.csv", "experiments_ablations.csv"])
def test_a_move_cut_short_between_the_csvs_loses_and_doubles_nothing(paths, name, monkeypatch, capsys):
    log_run({"model_file": "a.h5", "epochs": 3}, paths)
    lock = Lock(monkeypatch, name)
    assert move(paths, "a") == 13
    assert capsys.readouterr().out.startswith(f"{name} could not be written")
    lock.on = False
    paths.experiments.unlink()  # the CSVs alone hold the row
    create_table(paths)
    table = read_table(paths)
    assert table["number"].tolist() == [1, 2, *range(4, 14)]
    assert move(paths, "a") == 13
    assert csv_rows(paths.ablations_csv)[0] == csv_rows(paths.ablations_csv)[-1]
    assert csv_rows(paths.ablations_csv)[0]["epochs"] == "3"
    assert numbers(csv_rows(paths))[-1] == numbers(book_rows(paths))[-1] == "12"


def test_a_row_that_a_person_moves_to_the_other_sheet_stays_there(paths):
    for name in "ab":
        log_run({"model_file": f"{name}.h5"}, paths)
        move(paths, name)

    def work(book):
        runs, ablations = book["experiments"], book["ablations"]
        for cell in ablations[3]:
            runs.cell(13, cell.column, cell.value)
        ablations.delete_rows(3)

    edit_book(paths, work)
    create_table(paths)
    assert numbers(csv_rows(paths))[-2:] == ["12", "14"]
    assert numbers(csv_rows(paths.ablations_csv)) == ["13"]


def test_a_sheet_of_the_users_that_is_called_ablations_stays_theirs(paths):
    log_run({"model_file": "a.h5"}, paths)
    log_run({"model_file": "b.h5"}, paths)
    edit_book(paths, lambda book: book.create_sheet("ablations").append(["мои опыты"]))
    move(paths, "a")
    move(paths, "b")
    book = load_workbook(paths.experiments)
    assert book.sheetnames == ["experiments", "ablations", "ablations1"]
    assert book["ablations"]["A1"].value == "мои опыты"
    assert [book["ablations1"].cell(line, 1).value for line in (2, 3)] == [13, 14]


def test_a_damaged_csv_of_ablations_is_kept_and_made_again(paths, capsys):
    log_run({"model_file": "a.h5"}, paths)
    move(paths, "a")
    paths.ablations_csv.write_bytes(b"no table")
    assert log_run({}, paths) == 14
    assert (paths.results / "experiments_ablations.damaged.csv").read_bytes() == b"no table"
    assert "experiments_ablations.csv is damaged" in capsys.readouterr().out
    assert csv_rows(paths.ablations_csv)[0]["model_file"] == "a.h5"


def somebody_edits(paths, random):
    """Rows copied, moved, renumbered, emptied and deleted, in either file or on either sheet."""

    def shuffle(rows):
        for _ in range(random.randrange(4)):
            row = random.choice(rows)
            what = random.choice(("copy", "delete", "renumber", "rename", "empty", "edit", "sort"))
            if what == "copy":
                rows.insert(random.randrange(len(rows) + 1), dict(row))
            elif what == "delete" and len(rows) > 1:
                rows.remove(row)
            elif what == "renumber":
                row["number"] = random.choice((1, 13, 14, 99, "x", "", "14.0"))
            elif what == "rename":
                row["model_file"] = random.choice(("a.h5", "b.h5", "new.h5", ""))
            elif what == "empty":
                row[random.choice(list(row))] = ""
            elif what == "edit":
                row["comment"] = random.choice(("mine", "=1+1", "0"))
            elif what == "sort":
                rows.sort(key=lambda row: str(row["val_accuracy"]))

    for path in (paths.experiments_csv, paths.ablations_csv):
        if path.exists() and (rows := csv_rows(path)) and random.random() < 0.5:
            shuffle(rows)
            write_csv(path, rows, random.choice(",;"))

    def work(book):
        sheet = random.choice(book.worksheets)
        rows = [{key: value or "" for key, value in row.items()} for row in book_rows(paths, sheet.title)]
        if rows:
            shuffle(rows)
            sheet.delete_rows(2, len(rows) + 5)
            for row in rows:
                sheet.append([value if value != "" else None for value in row.values()])

    if random.random() < 0.7:
        edit_book(paths, work)


def names(paths):
    files = [csv_rows(path) for path in (paths.experiments_csv, paths.ablations_csv) if path.exists()]
    files += [book_rows(paths, sheet.title) for sheet in load_workbook(paths.experiments).worksheets]
    return {row["model_file"] for rows in files for row in rows} - {None, ""}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_whatever_people_do_no_run_is_lost_and_no_number_stands_twice(paths, seed, monkeypatch):
    random = Random(seed)
    lock = Lock(monkeypatch, "experiments.xlsx")
    for step in range(6):
        lock.on = random.random() < 0.3 and step > 0
        name = random.choice("abcdef")
        log_run({"model_file": f"{name}.h5", "val_accuracy": step, "comment": name}, paths)
        if random.random() < 0.5:
            update_run(f"{name}.h5", {"state": "x"}, paths, random.choice([None, *Sheet]))
        there = names(paths)
        somebody_edits(paths, random)
        kept = there & names(paths)
        table = read_table(paths)
        create_table(paths)
        whole = [str(number) for number in table["number"] if str(number).isdecimal()]
        assert len(whole) == len(set(whole))
        assert kept <= set(read_table(paths)["model_file"])
        pd.testing.assert_frame_equal(read_table(paths), table)
    lock.on = False
    create_table(paths)
    for sheet, path in zip(Sheet, (paths.experiments_csv, paths.ablations_csv), strict=True):
        models = list(read_table(paths, sheet)["model_file"])
        if models:
            assert [row["model_file"] for row in csv_rows(path)] == models
            rows = [row for row in book_rows(paths, sheet.value) if any(row.values())]
            assert [row["model_file"] or "" for row in rows] == models


# ---- the module ------------------------------------------------------------------------------------


def test_no_tensorflow_is_needed():
    code = "import sys, emo.tracking.table; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0


def test_module_lists_every_heading_once():
    assert len(set(COLUMNS.values())) == len(COLUMNS) == 23


def test_on_a_full_disk_the_run_waits_and_the_table_stays(full_disk):
    paths = get_paths(full_disk.folder)
    log_run({"base_model": "vgg16", "model_file": "first.h5"}, paths)
    table = paths.experiments.read_bytes()
    full_disk.fill()
    with pytest.raises(UserError, match=r"No space left on device"):
        log_run({"base_model": "xception", "model_file": "second.h5"}, paths)
    assert paths.experiments.read_bytes() == table
    full_disk.empty()
    log_run({"base_model": "xception", "model_file": "second.h5"}, paths)
    assert read_table(paths).model_file.tolist()[-2:] == ["first.h5", "second.h5"]
