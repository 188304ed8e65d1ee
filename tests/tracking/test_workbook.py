"""The workbook, with real files: what people do in Excel survives, and what runs write can be read there."""

from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from openpyxl import load_workbook
from openpyxl.styles import Font
from PIL import Image

from emo.tracking.table import COLUMNS, create_table, log_run, read_table, update_run
from tests.tracking.helpers import PLACE, book_rows, csv_rows, edit_book, numbers, sheet_of


def test_headings_stand_in_order_bold_and_frozen(paths):
    create_table(paths)
    sheet = sheet_of(paths)
    assert [cell.value for cell in sheet[1]] == list(COLUMNS.values())
    assert paths.experiments_csv.read_text(encoding="utf-8").startswith("№ эксперимента / No.,Дата / Date,")
    assert all(cell.font.bold for cell in sheet[1])
    assert sheet.freeze_panes == "A2"
    assert sheet["D2"].alignment.wrap_text
    assert sheet.column_dimensions["D"].width > 40


@pytest.mark.parametrize("damage", [b"", b"not a zip", "half"])
def test_a_damaged_workbook_is_kept_and_made_anew(paths, damage, capsys):
    log_run({"comment": "first"}, paths)
    damaged = paths.experiments.read_bytes()[:3000] if damage == "half" else damage
    for name in ("experiments.damaged.xlsx", "experiments.damaged_2.xlsx"):
        paths.experiments.write_bytes(damaged)
        log_run({"comment": "again"}, paths)
        assert (paths.results / name).read_bytes() == damaged
        assert f"kept as {name}" in capsys.readouterr().out
    assert numbers(book_rows(paths)) == numbers(csv_rows(paths))
    assert [row["comment"] for row in book_rows(paths)[-3:]] == ["first", "again", "again"]


def test_a_users_work_in_excel_survives(paths):
    log_run({"base_model": "Xception", "comment": "ours", "model_file": "model/a.h5"}, paths)

    def work(book):
        sheet = book.active
        sheet.cell(1, len(COLUMNS) + 1, "Мои заметки")
        sheet.cell(2, len(COLUMNS) + 1, "хорошо")
        sheet.cell(2, PLACE["val_accuracy"]).font = Font(color="FFFF0000", bold=True)
        sheet.cell(3, PLACE["val_accuracy"], 15)  # an edit
        sheet.cell(13, PLACE["comment"]).value = None  # empty here, filled in the CSV
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
    listed = csv_rows(paths)
    assert listed[0]["Мои заметки"] == "хорошо"
    assert listed[1]["val_accuracy"] == "15"
    assert listed[11]["comment"] == book_rows(paths)[11]["comment"] == "ours"
    assert numbers(listed)[-6:] == ["13", "exp A", "20", "", "21", "22"]
    assert [row["base_model"] for row in book_rows(paths)[-5:]] == [
        "MyNet",
        "HisNet",
        "Average",
        "VGG",
        "VGG",
    ]
    assert len(book_rows(paths)) == len(listed) == 17
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


def test_a_workbook_without_the_table_gets_a_sheet(paths):
    create_table(paths)
    edit_book(paths, lambda book: (book.create_sheet("mine"), book.remove(book["experiments"])))
    paths.experiments_csv.unlink()
    assert log_run({}, paths) == 13
    book = load_workbook(paths.experiments)
    assert book.sheetnames == ["mine", "experiments"]
    assert book["experiments"].max_row == 13


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
    assert csv_rows(paths)[11]["comment"] == read_table(paths)["comment"].iloc[11] == text
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
    assert row["comment"] == csv_rows(paths)[11]["comment"] == "abcd\ne"
    assert row["settings"].endswith("…") and len(row["settings"].encode("utf-16-le")) <= 2 * 32_767
    assert csv_rows(paths)[11]["settings"] == long
    assert (row["seconds"], row["seed"]) == ("inf", "soon")
    assert read_table(paths)["seed"].iloc[11] == "soon"
