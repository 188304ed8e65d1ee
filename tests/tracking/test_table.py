"""The experiments table, with real files, real processes and a real workbook."""

import csv
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook
from openpyxl.styles import Font
from PIL import Image

from emo.errors import UserError
from emo.paths import PROJECT_ROOT, get_paths
from emo.tracking import table as runlog
from emo.tracking.table import COLUMNS, SEED_ROWS, create_table, log_run, read_table, update_run

SEED = [  # number, base model, augmentation, epochs, validation accuracy, as in the seed's description
    (1, "resnet50", "нет / no", 10, 34),
    (2, "vgg16", "нет / no", 10, 14),
    (4, "Xception", "нет / no", 10, 34),
    (5, "Xception", "да / yes", 10, 32),
    (6, "Xception", "да / yes", 10, 31),
    (7, "Xception", "да / yes", 15, 31),
    (8, "Xception", "да / yes", 17, 26),
    (9, "Xception", "да / yes", 20, 34),
    (10, "resnet50", "да / yes", 20, 33),
    (11, "resnet50", "да / yes", 40, 34),
    (12, "resnet50", "да / yes", 20, 44),
]
SEED_DATES = (
    "19.12.20 22.12.20 23.12.20 24.12.20 25.12.20 27.12.20 28.12.20 30.12.20 03.01.21 04.01.21 05.01.21"
)
PLACE = {key: column for column, key in enumerate(COLUMNS, 1)}


@pytest.fixture
def paths(tmp_path):
    return get_paths(tmp_path / "code", results=tmp_path / "drive")


def sheet_of(paths):
    return load_workbook(paths.experiments).active


def book_rows(paths):
    """The workbook's rows below the headings, by key."""
    return [
        dict(zip(COLUMNS, row, strict=False))
        for row in sheet_of(paths).iter_rows(min_row=2, values_only=True)
    ]


def twin_rows(paths):
    with paths.experiments_csv.open(encoding="utf-8", newline="") as file:
        return [
            {key: row[heading] for key, heading in COLUMNS.items()}
            | {h: row[h] for h in row if h not in COLUMNS.values()}
            for row in csv.DictReader(file)
        ]


def edit_book(paths, change):
    """What a person does in Excel: open, change, save."""
    book = load_workbook(paths.experiments)
    change(book)
    book.save(paths.experiments)


def numbers(rows):
    return [str(row["number"]) for row in rows]


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


def test_the_seed_is_in_both_files(paths):
    create_table(paths)
    for rows in (book_rows(paths), twin_rows(paths), read_table(paths).to_dict("records")):
        keys = ("number", "base_model", "augmentation", "epochs", "val_accuracy")
        assert [
            tuple(str(int(row[k])) if k in ("number", "epochs", "val_accuracy") else row[k] for k in keys)
            for row in rows
        ] == [(str(n), base, said, str(e), str(acc)) for n, base, said, e, acc in SEED]
        assert " ".join(row["date"] for row in rows) == SEED_DATES
    assert twin_rows(paths)[-1]["learning_curve"] == (
        "model/emo_classificator_best_210105121553_resnet50_e20_aug1_acc44.png"
    )
    assert isinstance(book_rows(paths)[0]["val_accuracy"], int)


def test_the_seeds_texts_are_clean():
    text = "\n".join(row["extra_layers"] + row["optimizer"] + row["loss"] for row in SEED_ROWS)
    assert not re.search(r"<br>|\\|\]|(?<!t)f\.keras", text)
    assert SEED_ROWS[6]["extra_layers"].split("\n") == [
        "tf.keras.layers.GlobalAveragePooling2D(),",
        "tf.keras.layers.Dropout(0.5),",
        "tf.keras.layers.Dense(512, activation='relu'),",
        "tf.keras.layers.Dense(128, activation='relu'),",
        "tf.keras.layers.Dense(p_num_classes, activation='softmax')",
    ]
    assert SEED_ROWS[10]["extra_layers"].startswith("Разморожены слои из блока «conv5» базовой модели\n")
    assert SEED_ROWS[6]["optimizer"] == "tf.keras.optimizers.Adam(learning_rate=0.01)"
    assert SEED_ROWS[0]["optimizer"] == "tf.keras.optimizers.SGD(learning_rate=0.01, momentum=0.9)"


def test_the_table_in_the_repository_is_current():
    head = (PROJECT_ROOT / "experiments.csv").read_text(encoding="utf-8").split("\n")[0]
    assert head.split(",")[0] == COLUMNS["number"]
    table = read_table(get_paths(PROJECT_ROOT))
    assert table["number"].tolist()[:11] == [row[0] for row in SEED]
    assert table["extra_layers"].tolist()[:11] == [row["extra_layers"] for row in SEED_ROWS]


def test_headings_stand_in_order_bold_and_frozen(paths):
    create_table(paths)
    sheet = sheet_of(paths)
    assert [cell.value for cell in sheet[1]] == list(COLUMNS.values())
    assert paths.experiments_csv.read_text(encoding="utf-8").startswith("№ эксперимента / No.,Дата / Date,")
    assert all(cell.font.bold for cell in sheet[1])
    assert sheet.freeze_panes == "A2"
    assert sheet["D2"].alignment.wrap_text
    assert sheet.column_dimensions["D"].width > 40


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
    assert twin_rows(paths)[-1]["seconds"] == ""
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
    for rows in (book_rows(paths), twin_rows(paths)):
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
    assert update_run(paths.model / "stranger.h5", {"test_accuracy": 1}, paths) is None
    for rows in (book_rows(paths), twin_rows(paths)):
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
    assert numbers(book_rows(paths))[-3:] == numbers(twin_rows(paths))[-3:] == ["13", "14", "15"]
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
    for rows in (book_rows(paths), twin_rows(paths)):
        assert (rows[-1]["state"], rows[-1]["comment"]) == ("tested", "mine")


def test_a_locked_twin_catches_up(paths, monkeypatch, capsys):
    create_table(paths)
    lock = Lock(monkeypatch, "experiments.csv")
    assert log_run({"comment": "kept"}, paths) == 13
    assert "experiments.csv could not be written" in capsys.readouterr().out
    assert numbers(book_rows(paths))[-1] == "13"
    lock.on = False
    assert log_run({}, paths) == 14
    assert [row["comment"] for row in twin_rows(paths)[-2:]] == ["kept", ""]


def test_both_locked_is_said(paths, monkeypatch):
    create_table(paths)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("in use")))
    with pytest.raises(UserError, match="Nothing was logged"):
        log_run({}, paths)


@pytest.mark.parametrize("damage", [b"", b"not a zip", "half"])
def test_a_damaged_workbook_is_kept_and_made_anew(paths, damage, capsys):
    log_run({"comment": "first"}, paths)
    damaged = paths.experiments.read_bytes()[:3000] if damage == "half" else damage
    for name in ("experiments.damaged.xlsx", "experiments.damaged_2.xlsx"):
        paths.experiments.write_bytes(damaged)
        log_run({"comment": "again"}, paths)
        assert (paths.results / name).read_bytes() == damaged
        assert f"kept as {name}" in capsys.readouterr().out
    assert numbers(book_rows(paths)) == numbers(twin_rows(paths))
    assert [row["comment"] for row in book_rows(paths)[-3:]] == ["first", "again", "again"]


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
    assert numbers(twin_rows(paths)) == numbers(book_rows(paths)) == ["2", *map(str, range(4, 15))]


@pytest.mark.parametrize("damage", ["empty", "cut", "conflict", "cp1251", "stray cell"])
def test_a_damaged_twin_is_kept_and_made_anew(paths, damage, capsys):
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
    assert twin_rows(paths)[-2]["comment"] == "первый"


def test_a_twin_edited_by_hand_reaches_the_workbook(paths):
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


def test_a_users_work_in_excel_survives(paths):
    log_run({"base_model": "Xception", "comment": "ours", "model_file": "model/a.h5"}, paths)

    def work(book):
        sheet = book.active
        sheet.cell(1, len(COLUMNS) + 1, "Мои заметки")
        sheet.cell(2, len(COLUMNS) + 1, "хорошо")
        sheet.cell(2, PLACE["val_accuracy"]).font = Font(color="FFFF0000", bold=True)
        sheet.cell(3, PLACE["val_accuracy"], 15)  # an edit
        sheet.cell(13, PLACE["comment"]).value = None  # empty here, filled in the twin
        sheet.append(["exp A", None, "MyNet"])
        sheet.append([20, None, "HisNet"])
        sheet.append([None, None, "Average", None, None, None, None, None, "=AVERAGE(I2:I13)"])
        sheet.column_dimensions["B"].width = 33
        book.create_sheet("Мой лист")["B2"] = "не трогать"

    edit_book(paths, work)
    assert log_run({"base_model": "VGG"}, paths) == 21
    assert log_run({"base_model": "VGG"}, paths) == 22

    sheet = sheet_of(paths)
    assert sheet.cell(1, len(COLUMNS) + 1).value == "Мои заметки"
    assert sheet.cell(2, PLACE["val_accuracy"]).font.color.rgb == "FFFF0000"
    assert sheet.column_dimensions["B"].width == 33
    assert sheet.cell(16, PLACE["val_accuracy"]).data_type == "f"
    assert load_workbook(paths.experiments)["Мой лист"]["B2"].value == "не трогать"
    twin = twin_rows(paths)
    assert twin[0]["Мои заметки"] == "хорошо"
    assert twin[1]["val_accuracy"] == "15"
    assert twin[11]["comment"] == book_rows(paths)[11]["comment"] == "ours"
    assert numbers(twin)[-6:] == ["13", "exp A", "20", "", "21", "22"]
    assert [row["base_model"] for row in book_rows(paths)[-5:]] == [
        "MyNet",
        "HisNet",
        "Average",
        "VGG",
        "VGG",
    ]
    assert len(book_rows(paths)) == len(twin) == 17
    assert read_table(paths)["base_model"].tolist()[-4:] == ["HisNet", "Average", "VGG", "VGG"]


def test_moved_columns_a_title_and_a_second_sheet_first(paths):
    create_table(paths)

    def work(book):
        sheet = book.active
        sheet.move_range(f"J1:J{sheet.max_row}", cols=30)
        sheet.insert_rows(1)
        sheet["A1"] = "Наши опыты"
        book.create_sheet("first", 0)
        book.active = 0

    edit_book(paths, work)
    assert log_run({"learning_curve": "model/x.png", "epochs": 3}, paths) == 13
    book = load_workbook(paths.experiments)
    assert book.sheetnames == ["first", "experiments"] and book.active.title == "first"
    sheet = book["experiments"]
    assert sheet["AN2"].value == COLUMNS["learning_curve"]
    assert (sheet["A14"].value, sheet["H14"].value, sheet["AN14"].value) == (13, 3, "model/x.png")
    assert sheet["A1"].value == "Наши опыты" and sheet["J2"].value is None


def test_a_text_box_is_not_lost_unseen(paths, capsys):
    Image.new("RGB", (300, 200), "red").save(paths.model / "a.png")
    log_run({"learning_curve": "model/a.png"}, paths)
    corner = (
        "<xdr:col>{0}</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>{0}</xdr:row><xdr:rowOff>0</xdr:rowOff>"
    )
    office = "http://schemas.openxmlformats.org/drawingml/2006"
    box = (
        f'<xdr:twoCellAnchor xmlns:xdr="{office}/spreadsheetDrawing" xmlns:a="{office}/main">'
        f"<xdr:from>{corner.format(1)}</xdr:from><xdr:to>{corner.format(3)}</xdr:to>"
        '<xdr:sp macro="" textlink=""><xdr:nvSpPr><xdr:cNvPr id="9" name="TextBox 1"/>'
        '<xdr:cNvSpPr txBox="1"/></xdr:nvSpPr><xdr:spPr><a:prstGeom prst="rect"><a:avLst/></a:prstGeom>'
        "</xdr:spPr></xdr:sp><xdr:clientData/></xdr:twoCellAnchor>"
    )
    with ZipFile(paths.experiments) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    drawing = parts["xl/drawings/drawing1.xml"].decode()
    cut = drawing.rindex("</")
    parts["xl/drawings/drawing1.xml"] = (drawing[:cut] + box + drawing[cut:]).encode()
    with ZipFile(paths.experiments, "w", ZIP_DEFLATED) as new:
        for name, data in parts.items():
            new.writestr(name, data)
    drawn = paths.experiments.read_bytes()
    log_run({}, paths)
    assert (paths.results / "experiments.kept.xlsx").read_bytes() == drawn
    assert "kept as experiments.kept.xlsx" in capsys.readouterr().out
    log_run({}, paths)
    assert not (paths.results / "experiments.kept_2.xlsx").exists()


def test_a_strangers_workbook_gets_a_sheet(paths):
    create_table(paths)
    edit_book(paths, lambda book: (book.create_sheet("mine"), book.remove(book["experiments"])))
    paths.experiments_csv.unlink()
    assert log_run({}, paths) == 13
    book = load_workbook(paths.experiments)
    assert book.sheetnames == ["mine", "experiments"]
    assert book["experiments"].max_row == 13


def test_a_workbook_from_elsewhere_overwrites_no_run(paths):
    log_run({"model_file": "model/here.h5", "val_accuracy": 40}, paths)
    twin = paths.experiments_csv.read_bytes()
    paths.experiments_csv.unlink()
    edit_book(paths, lambda book: book.active.cell(13, PLACE["model_file"], "model/there.h5"))
    paths.experiments_csv.write_bytes(twin)
    assert log_run({}, paths) == 14
    for rows in (book_rows(paths), twin_rows(paths)):
        assert {row["model_file"] for row in rows[11:]} - {None, ""} == {"model/here.h5", "model/there.h5"}


def test_thumbnails_survive_and_link(paths):
    for n in range(3):
        Image.effect_noise((1200, 500), 60).save(paths.model / f"run {n}.png")
        log_run({"learning_curve": paths.model / f"run {n}.png"}, paths)
    update_run("none.h5", {}, paths)
    sheet = sheet_of(paths)
    assert [(image.anchor._from.row + 1, image.anchor._from.col + 1) for image in sheet._images] == [
        (row, PLACE["learning_curve"]) for row in (13, 14, 15)
    ]
    assert all(image.width <= 240 and image.height <= 120 for image in sheet._images)
    cell = sheet.cell(15, PLACE["learning_curve"])
    assert (cell.value, cell.hyperlink.target) == ("model/run 2.png", "model/run%202.png")
    assert sheet.row_dimensions[15].height > 75

    (paths.model / "run 1.png").write_bytes(b"no picture")
    paths.experiments.unlink()
    create_table(paths)
    assert len(sheet_of(paths)._images) == 2  # a curve that cannot be read is linked all the same


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1", "-x", "@SUM(1)", '=1+1\nтекст, "кавычки"', "#N/A", "007"]
)
def test_text_is_never_a_formula(paths, text):
    log_run({"comment": text}, paths)
    log_run({}, paths)  # through a load and a save
    cell = sheet_of(paths).cell(13, PLACE["comment"])
    assert (cell.value, cell.data_type) == (text, "s")
    assert cell.quotePrefix == (text[0] in "=+-@")
    assert twin_rows(paths)[11]["comment"] == read_table(paths)["comment"].iloc[11] == text
    paths.experiments.unlink()
    create_table(paths)
    assert sheet_of(paths).cell(13, PLACE["comment"]).value == text


def test_awkward_texts(paths):
    long = "ж🙂" * 20_000
    log_run(
        {"comment": "a\x00b\x1bc\ud800d\r\ne", "settings": long, "seconds": float("inf"), "seed": "soon"},
        paths,
    )
    log_run({}, paths)
    row = book_rows(paths)[11]
    assert row["comment"] == twin_rows(paths)[11]["comment"] == "abcd\ne"
    assert row["settings"].endswith("…") and len(row["settings"].encode("utf-16-le")) <= 2 * 32_767
    assert twin_rows(paths)[11]["settings"] == long
    assert (row["seconds"], row["seed"]) == ("inf", "soon")
    assert read_table(paths)["seed"].iloc[11] == "soon"


def test_no_tensorflow_is_needed():
    code = "import sys, emo.tracking.table; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0


def test_module_lists_every_heading_once():
    assert len(set(COLUMNS.values())) == len(COLUMNS) == 23
    assert list(COLUMNS)[:10] == list(runlog.SEED_ROWS[-1])
