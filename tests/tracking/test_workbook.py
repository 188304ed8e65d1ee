"""The workbook, with real files: what people do in Excel survives, and what runs write can be read there."""

from datetime import datetime
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook
from openpyxl.styles import Font, PatternFill
from openpyxl.utils import get_column_letter as letter
from PIL import Image

from emo.tracking.table import COLUMNS, Sheet, create_table, log_run, read_table, update_run
from emo.tracking.workbook import NUMERIC, shown, text_of, tidy
from tests.tracking.helpers import PLACE, book_rows, csv_rows, edit_book, numbers, sheet_of


def test_headings_stand_in_order_bold_and_frozen(paths):
    create_table(paths)
    sheet = sheet_of(paths)
    assert [cell.value for cell in sheet[1]] == list(COLUMNS.values())
    assert paths.experiments_csv.read_text(encoding="utf-8").startswith("number,date,base_model,")
    assert all(cell.font.bold for cell in sheet[1])
    assert sheet.freeze_panes == "B2"
    assert sheet["D2"].alignment.wrap_text
    assert sheet.column_dimensions["D"].width > 30


@pytest.mark.parametrize("damage", [b"", b"not a zip", "half"])
def test_a_damaged_workbook_is_kept_and_made_again(paths, damage, capsys):
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


def test_numbers_and_dates_are_what_excel_can_sort(paths):
    log_run({"date": "05.12.26", "val_accuracy": 54.34, "macro_f1": 0.3191, "seconds": 3600.0}, paths)
    log_run({"date": "5 декабря", "val_accuracy": "лучше"}, paths)
    sheet = sheet_of(paths)
    shown = {key: sheet.cell(13, PLACE[key]) for key in ("date", "val_accuracy", "macro_f1", "seconds")}
    assert {key: (cell.value, cell.number_format) for key, cell in shown.items()} == {
        "date": (datetime(2026, 12, 5), "DD.MM.YY"),
        "val_accuracy": (54.34, '0.0"%"'),
        "macro_f1": (0.3191, "0.000"),
        "seconds": (3600, "0"),
    }
    assert [sheet.cell(14, PLACE[key]).value for key in ("date", "val_accuracy")] == ["5 декабря", "лучше"]
    assert [row["date"] for row in csv_rows(paths)[-2:]] == ["05.12.26", "5 декабря"]
    assert list(read_table(paths)["date"])[-3:] == ["05.01.21", "05.12.26", "5 декабря"]


@pytest.mark.parametrize("name", ["experiments", "ablations"])
def test_a_new_sheet_is_made_to_read_and_to_print(paths, name):
    for model in ("a.h5", "b.h5"):
        log_run({"model_file": model, "settings": "{" + "x" * 900 + "}", "optimizer": "adam"}, paths)
        if name == "ablations":
            update_run(model, {}, paths, Sheet.ABLATIONS)
    sheet = sheet_of(paths, name)
    assert sheet.freeze_panes == "B2"
    assert sheet.auto_filter.ref == f"A1:W{sheet.max_row}"
    assert (sheet.page_setup.orientation, sheet.page_setup.fitToWidth or 1) == ("landscape", 1)
    assert sheet.sheet_properties.pageSetUpPr.fitToPage and sheet.page_setup.fitToHeight == 0
    assert sheet.print_title_rows == "$1:$1"
    folded = {key for key, column in PLACE.items() if sheet.column_dimensions[letter(column)].hidden}
    assert folded == {"versions", "commit", "settings"}
    assert sheet.row_dimensions[sheet.max_row].height == 15  # the long JSON makes no row high
    widths = [sheet.column_dimensions[letter(column)].width for column in PLACE.values()]
    assert sum(widths) < 450 and max(widths) <= 60


def test_a_filter_reaches_over_new_rows_and_columns(paths):
    create_table(paths)
    log_run({}, paths)
    assert sheet_of(paths).auto_filter.ref == "A1:W13"
    head, *lines = paths.experiments_csv.read_text(encoding="utf-8").split("\n")
    paths.experiments_csv.write_text("\n".join([f"{head},Мои заметки", *lines]), encoding="utf-8")
    log_run({}, paths)
    assert sheet_of(paths).auto_filter.ref == "A1:X14"


def older(book):
    """The look of a table of an earlier version, and what its user made of it."""
    sheet = book.active
    sheet.freeze_panes, sheet.auto_filter.ref = "A2", None
    sheet.page_setup.orientation = "portrait"
    for cell in sheet["B"][1:]:
        cell.value, cell.number_format = cell.value.strftime("%d.%m.%y"), "General"
    for cell in sheet["I"]:
        cell.number_format = "General"
    sheet["I3"].fill = PatternFill("solid", "FFFF00")
    sheet.column_dimensions["D"].width = 60
    sheet.column_dimensions["V"].hidden = False


def look(cell):
    return cell.value, cell.number_format, *map(repr, (cell.fill, cell.font, cell.alignment))


def test_a_table_of_an_earlier_version_keeps_its_look(paths):
    create_table(paths)
    edit_book(paths, older)
    before = sheet_of(paths)
    assert log_run({"model_file": "a.h5", "date": "05.12.26", "val_accuracy": 50}, paths) == 13
    sheet = sheet_of(paths)
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", None)
    assert sheet.page_setup.orientation == "portrait"
    assert not sheet.column_dimensions["V"].hidden and sheet.column_dimensions["D"].width == 60
    assert [look(cell) for line in sheet["A2:W12"] for cell in line] == [
        look(cell) for line in before["A2:W12"] for cell in line
    ]
    assert sheet["B12"].value == "05.01.21" and sheet["B13"].value == datetime(2026, 12, 5)
    assert [row["date"] for row in csv_rows(paths)[-2:]] == ["05.01.21", "05.12.26"]


def test_a_percentage_typed_in_excel_is_one(paths):
    log_run({"model_file": "a.h5", "val_accuracy": 50}, paths)

    def typed(book):  # as Excel keeps 54.3% in a cell without a format of its own
        cell = book.active.cell(13, PLACE["val_accuracy"])
        cell.value, cell.number_format = 0.543, "0.00%"

    edit_book(paths, typed)
    assert read_table(paths)["val_accuracy"].iloc[-1] == 54.3
    update_run("a.h5", {"val_accuracy": 60}, paths)
    cell = sheet_of(paths).cell(13, PLACE["val_accuracy"])
    assert (cell.value, cell.number_format) == (60, '0.0"%"')

    def saved(book):  # as LibreOffice writes the quoted sign
        book.active.cell(13, PLACE["val_accuracy"]).number_format = "0.0\\%"

    edit_book(paths, saved)
    assert read_table(paths)["val_accuracy"].iloc[-1] == 60


def pixels(marker):
    return marker.colOff / 9525, marker.rowOff / 9525


@pytest.mark.parametrize(("size", "width"), [((1200, 500), None), ((1200, 500), 12), ((300, 900), 3)])
def test_thumbnails_stay_within_their_cells(paths, size, width):
    create_table(paths)
    if width:
        edit_book(paths, lambda book: setattr(book.active.column_dimensions["J"], "width", width))
    Image.new("RGB", size, "red").save(paths.model / "a.png")
    log_run({"learning_curve": "model/a.png", "model_file": "a.h5"}, paths)
    log_run({}, paths)
    sheet = sheet_of(paths)
    (image,) = sheet._images
    start, end = image.anchor._from, image.anchor.to
    assert image.anchor.editAs == "twoCell"  # hidden with its row by a filter
    assert (start.col, start.row) == (end.col, end.row) == (PLACE["learning_curve"] - 1, 12)
    across, down = pixels(end)
    assert across <= 7 * (width or sheet.column_dimensions["J"].width)
    assert 0.75 * down + 11 <= sheet.row_dimensions[13].height  # a line of text below it
    assert pixels(start) < (across, down)


def test_another_curve_takes_the_place_of_the_first(paths):
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (300, 200), color).save(paths.model / f"{name}.png")
    log_run({"learning_curve": "model/a.png", "model_file": "a.h5"}, paths)
    log_run({"learning_curve": "model/a.png", "model_file": "b.h5"}, paths)
    update_run("a.h5", {"learning_curve": "model/b.png"}, paths)
    colors = [Image.open(image.ref).convert("RGB").getpixel((9, 9)) for image in sheet_of(paths)._images]
    assert sorted(colors) == [(0, 0, 255), (255, 0, 0)]
    update_run("a.h5", {"learning_curve": "model/gone.png"}, paths)
    assert len(sheet_of(paths)._images) == 1


def test_a_picture_that_cannot_be_decoded_leaves_its_link(paths, capsys):
    Image.effect_noise((1200, 500), 60).save(paths.model / "a.png")
    start, first, *rest = (paths.model / "a.png").read_bytes().split(b"IDAT")
    (paths.model / "a.png").write_bytes(start + b"IDAT" + first + bytes(4) + b"IDAT".join(rest))
    with pytest.raises(SyntaxError), Image.open(paths.model / "a.png") as picture:
        picture.load()
    assert log_run({"learning_curve": "model/a.png"}, paths) == 13
    assert capsys.readouterr().out == ""
    assert sheet_of(paths).cell(13, PLACE["learning_curve"]).hyperlink.target == "model/a.png"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from([*COLUMNS, "Мои заметки"]), st.text(max_size=20) | st.floats().map(str))
def test_a_text_reads_back_from_the_workbook_as_it_was_written(key, text):
    text = tidy(key, text_of(text))
    assert tidy(key, text) == text
    assert shown(key, shown(key, text)) == shown(key, text)
    if key not in NUMERIC and key in COLUMNS:
        assert shown(key, text) == text


@pytest.mark.parametrize(
    ("key", "text", "comma", "tidied"),
    [
        ("number", "13.0", False, "13"),
        ("number", "007", False, "7"),
        ("number", "9" * 400, False, "9" * 400),
        ("epochs", "1e1", False, "10"),
        ("seconds", "1e400", False, "1e400"),
        ("macro_f1", ".5", False, "0.5"),
        ("val_accuracy", "54,3", True, "54.3"),
        ("val_accuracy", "54,3 %", True, "54.3"),
        ("val_accuracy", "54,3", False, "54,3"),  # it could be thousands
        ("seconds", "1.5", False, "1.5"),
        ("seed", "1.5", False, "1.5"),
        ("comment", "13,0", True, "13,0"),
        ("comment", "19.12.2020", True, "19.12.2020"),
        ("date", "19.12.2020", True, "19.12.20"),
        ("date", "19.12.20", True, "19.12.20"),
    ],
)
def test_what_other_programs_make_of_a_cell(key, text, comma, tidied):
    assert tidy(key, text, decimal_comma=comma) == tidied
