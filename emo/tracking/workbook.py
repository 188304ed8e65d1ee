"""`experiments.xlsx`, the table that people open: what its cells hold, how it is read, written and looks."""

import json
import numbers
import re
import textwrap
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pandas as pd
from openpyxl import Workbook, load_workbook
from openpyxl.cell.cell import Cell, MergedCell
from openpyxl.cell.rich_text import CellRichText
from openpyxl.drawing.image import Image
from openpyxl.drawing.spreadsheet_drawing import AnchorMarker, TwoCellAnchor
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter, range_boundaries
from openpyxl.utils.units import pixels_to_EMU
from openpyxl.worksheet.formula import ArrayFormula
from openpyxl.worksheet.worksheet import Worksheet
from PIL import Image as Picture

from emo.files import write_bytes
from emo.paths import Paths, free_path


class Sheet(Enum):
    """Where a row lies, by the name of its sheet."""

    RUNS = "experiments"  # the original project's eleven and whole runs
    ABLATIONS = "ablations"  # short runs with one thing changed at a time, those of `tools.ablate`


class _Column(NamedTuple):
    heading: str
    width: float  # in characters
    format: str = "General"
    folded: bool = False


_LAYOUT = {
    "number": _Column("№ эксперимента / No.", 11, "0"),
    "date": _Column("Дата / Date", 10, "DD.MM.YY"),
    "base_model": _Column("Базовая модель / Base model", 11),
    "extra_layers": _Column("Дополнительные слои / Extra layers", 37),
    "optimizer": _Column("Оптимизатор / Optimizer", 27),
    "loss": _Column("Loss", 24),
    "augmentation": _Column("Аугментация / Augmentation", 11),
    "epochs": _Column("Количество эпох / Epochs", 11, "0"),
    "val_accuracy": _Column("Точность на валидации, % / Validation accuracy, %", 11, '0.0"%"'),
    "learning_curve": _Column("Кривая обучения / Learning curve", 33),
    "state": _Column("Состояние / State", 10),
    "test_accuracy": _Column("Точность на тесте, % / Test accuracy, %", 10, '0.0"%"'),
    "macro_f1": _Column("Макро-F1 / Macro F1", 9, "0.000"),
    "image_size": _Column("Размер изображения / Image size", 12, "0"),
    "batch_size": _Column("Размер пакета / Batch size", 8, "0"),
    "seed": _Column("Начальное число / Seed", 10, "0"),
    "seconds": _Column("Секунды / Seconds", 9, "0"),
    "device": _Column("Устройство / Device", 12),
    "versions": _Column("Версии / Versions", 24, folded=True),
    "commit": _Column("Коммит / Commit", 10, folded=True),
    "model_file": _Column("Файл модели / Model file", 32),
    "settings": _Column("Настройки, JSON / Settings, JSON", 60, folded=True),
    "comment": _Column("Комментарий / Comment", 28),
}
COLUMNS = {key: column.heading for key, column in _LAYOUT.items()}
_KEYS = {heading: key for key, heading in COLUMNS.items()}
INTEGERS = {"number", "epochs", "image_size", "batch_size", "seed"}
PERCENT = {"val_accuracy", "test_accuracy"}
NUMERIC = INTEGERS | PERCENT | {"macro_f1", "seconds"}


@dataclass(eq=False)
class Row:
    """An experiment: the texts of its cells by key, those of the user's own columns by heading."""

    cells: dict[str, str]
    sheet: Sheet
    place: tuple[Sheet, int] | None = None  # sheet and line where the workbook has it


def name_columns(headings: Iterable[str]) -> list[str]:
    """The keys of headings that are `COLUMNS`' or its keys themselves; the user's own stay as they are."""
    names = [" ".join(heading.split()) for heading in headings]
    ours = {_KEYS[name] for name in names if name in _KEYS}
    return [_KEYS.get(name, f"({name})" if name in ours else name) for name in names]


def list_columns(rows: Iterable[Row]) -> list[str]:
    """Ours, then those that the user added."""
    return list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row.cells)]))


# ---- cells: everything passes through the CSV's text ----------------------------------------------

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?(e[+-]?\d\d?)?", re.IGNORECASE | re.ASCII)
_ANY_NUMBER = re.compile(r"[+-]?(\d{1,1000}(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)
_DATE = "%d.%m.%y"  # as the original project writes its dates
_CELL_LIMIT = 32_767  # UTF-16 units; Excel calls a workbook with a longer cell broken


def text_of(value) -> str:
    """A value as the CSV spells it; None and NaN are empty."""
    if isinstance(value, str):
        return _NOT_XML.sub("", re.sub("\r\n?", "\n", value))
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if pd.api.types.is_bool(value):
        return "да / yes" if value else "нет / no"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return f"{float(str(value)):.12g}"  # through str, a float32 54.3 stays 54.3
    if isinstance(value, date):
        timed = isinstance(value, datetime) and value.time() != datetime.min.time()
        return value.strftime(f"{_DATE} %H:%M:%S" if timed else _DATE)
    if isinstance(value, ArrayFormula):
        value = value.text
    if isinstance(value, dict | list | tuple) and not isinstance(value, CellRichText):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return text_of(str(value))


def tidy(key: str, text: str, decimal_comma: bool = False) -> str:
    """What another program made of a cell, as the table spells it.

    Numbers: 13.0 is 13 in a column of whole ones, 54.3% is 54.3 and, with `decimal_comma`, so is 54,3.
    Dates: 19.12.2020 is 19.12.20.
    """
    if key == "date":
        return re.sub(r"^(\d\d\.\d\d\.)20(\d\d)$", r"\1\2", text)
    if key not in NUMERIC:
        return text
    plain = text.strip()
    if key in PERCENT:
        plain = plain.removesuffix("%").rstrip()
    if decimal_comma:
        plain = plain.replace(",", ".")
    if not _ANY_NUMBER.fullmatch(plain):
        return text
    if key in INTEGERS and (whole := _WHOLE_NUMBER.fullmatch(plain)):
        return str(int(whole[1]))
    value = float(plain)
    if abs(value) >= 1e15:  # more digits than a float or Excel keeps
        return plain
    if key in INTEGERS and value.is_integer():
        return str(int(value))
    return plain if _PLAIN_NUMBER.fullmatch(plain) else text_of(value)


def value_of(key: str, text: str) -> int | float | datetime | str:
    """The CSV's text as the workbook stores it: a number or a date in their columns, else text that fits."""
    if key == "date":
        with suppress(ValueError):
            day = datetime.strptime(text, _DATE)
            if day.strftime(_DATE) == text:
                return day
    if (key in NUMERIC or key not in COLUMNS) and _PLAIN_NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdigit() else float(text)
    if 2 * len(text) <= _CELL_LIMIT:
        return text
    units = text.encode("utf-16-le")
    if len(units) <= 2 * _CELL_LIMIT:
        return text
    return units[: 2 * (_CELL_LIMIT - 1)].decode("utf-16-le", "ignore") + "…"


def shown(key: str, text: str) -> str:
    """The CSV's text as it reads back from the workbook."""
    return text_of(value_of(key, text))


# ---- reading it ----------------------------------------------------------------------------------


@dataclass
class _Table:
    """Where a table stands on its sheet."""

    sheet: Worksheet
    header: int
    columns: dict[str, int]  # by key


@dataclass
class Book:
    """The workbook as it was read."""

    workbook: Workbook = field(default_factory=Workbook)
    stamp: tuple | None = None
    lossy: bool = False  # it holds what openpyxl cannot write back
    tables: dict[Sheet, _Table] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


def read_book(path: Path) -> Book | None:
    """The workbook; None where it is missing. ValueError: damaged. OSError: locked."""
    stamp = _stamp(path)
    if stamp is None:
        return None
    data = BytesIO(path.read_bytes())
    try:
        with ZipFile(data) as parts, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            drawings = b"".join(
                parts.read(n) for n in parts.namelist() if n.startswith("xl/drawings/drawing")
            )
            book = Book(load_workbook(data, rich_text=True), stamp)
    except Exception as error:  # openpyxl raises whatever its parsing trips over
        raise ValueError(f"not a readable workbook, {error}") from error
    losses = any(re.search("lost|removed|dropped", str(warning.message)) for warning in caught)
    book.lossy = losses or bool(re.search(rb"<(xdr:)?(sp|grpSp|cxnSp)[ >]", drawings))
    for worksheet in book.workbook.worksheets:
        # the number that a second sheet of the same name gets, too
        second = re.fullmatch(rf"{Sheet.ABLATIONS.value}\d*", worksheet.title.strip().casefold())
        sheet = Sheet.ABLATIONS if second else Sheet.RUNS
        if sheet not in book.tables and (table := _find_table(worksheet)):
            book.tables[sheet] = table
    for sheet in Sheet:
        if sheet in book.tables:
            book.rows += _read_rows(sheet, book.tables[sheet])
    return book


def _stamp(path: Path) -> tuple | None:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None


def _find_table(sheet: Worksheet) -> _Table | None:
    for line in sheet.iter_rows(max_row=20):  # a title may stand above the headings
        headings = [" ".join(text_of(cell.value).split()) for cell in line]
        keys = name_columns(headings)
        if COLUMNS["number"] in headings or {"number", "base_model"} <= set(keys):
            columns = {}
            for key, cell in zip(keys, line, strict=True):
                if key:
                    columns.setdefault(key, cell.column)
            return _Table(sheet, line[0].row, columns)
    return None


def _read_rows(sheet: Sheet, table: _Table) -> list[Row]:
    rows = []
    for line in table.sheet.iter_rows(min_row=table.header + 1):
        cells = {key: _cell_text(key, line[column - 1]) for key, column in table.columns.items()}
        if any(cells.values()):
            rows.append(Row(cells, sheet, (sheet, line[0].row)))
    return rows


def _cell_text(key: str, cell: Cell) -> str:
    value = cell.value
    if key in PERCENT and isinstance(value, int | float) and _is_percent(cell.number_format):
        value *= 100  # somebody typed 54.3%, which Excel keeps as 0.543
    return tidy(key, text_of(value))


def _is_percent(number_format: str) -> bool:
    return "%" in re.sub(r'"[^"]*"|\\.', "", number_format)  # a quoted % is but a letter


# ---- writing it ----------------------------------------------------------------------------------


def write_book(book: Book, rows: list[Row], paths: Paths) -> None:
    """Bring the workbook's cells to `rows`, touching no other, and save it where one changed."""
    changed = False
    seen = {row.place: row.cells for row in book.rows}
    for row in rows:
        if row.place and row.place[0] is not row.sheet:
            _clear(book.tables[row.place[0]], row.place[1])
            row.place, changed = None, True
    for sheet in Sheet:
        ours = [row for row in rows if row.sheet is sheet]
        if ours or sheet is Sheet.RUNS:
            changed |= _write_sheet(book, sheet, ours, seen, paths)
    if not changed:
        return
    buffer = BytesIO()
    book.workbook.save(buffer)
    if _stamp(paths.experiments) != book.stamp:
        raise PermissionError("another program saved it at this moment")
    if book.lossy:
        kept = free_path(paths.experiments.with_stem("experiments.kept"))
        kept.write_bytes(paths.experiments.read_bytes())
        print(f"experiments.xlsx has shapes or rules that would get lost: a copy is kept as {kept.name}.")
    write_bytes(paths.experiments, buffer.getvalue())


def _write_sheet(book: Book, sheet: Sheet, rows: list[Row], seen: dict, paths: Paths) -> bool:
    """Bring one sheet to its rows; whether a cell changed."""
    changed = new = sheet not in book.tables
    if new:
        first = book.stamp is None and not book.tables
        worksheet = book.workbook.active if first else book.workbook.create_sheet()
        _set_up(worksheet, sheet)
        book.tables[sheet] = _Table(worksheet, 1, {})
    table = book.tables[sheet]
    worksheet, columns = table.sheet, table.columns
    for key in list_columns(rows):
        if key not in columns:
            columns[key] = max(columns.values(), default=0) + 1
            _put_heading(worksheet.cell(table.header, columns[key]), key)
            changed = True
    if new and not any(row.cells.get("learning_curve") for row in rows):
        worksheet.column_dimensions[get_column_letter(columns["learning_curve"])].width = _NARROW
    last = _last_line(worksheet)
    for row in rows:
        before, at = seen.get(row.place, {}), row.place[1] if row.place else (last := last + 1)
        if not row.place:
            line = worksheet.row_dimensions[at]
            line.height, line.hidden = _height(row, table), False
        for key, text in row.cells.items():
            cell = worksheet.cell(at, columns[key])
            if shown(key, text) != before.get(key, "") and not isinstance(cell, MergedCell):
                _put(cell, key, value_of(key, text))
                changed = True
                if key == "learning_curve":
                    _take_pictures_off(cell)
                    _show_curve(cell, text, paths)
    _stretch_filter(table, last, new)
    return changed


def _last_line(sheet: Worksheet) -> int:
    filled = (cell.row for line in sheet.iter_rows() for cell in line if cell.value is not None)
    return max([*filled, *(merged.max_row for merged in sheet.merged_cells.ranges)])


def _clear(table: _Table, line: int) -> None:
    """Take a row off its sheet; nothing below it shifts, as the user's formulas may point there."""
    sheet = table.sheet
    for column in table.columns.values():
        cell = sheet.cell(line, column)
        if not isinstance(cell, MergedCell):
            cell.value = cell.hyperlink = None
    if "learning_curve" in table.columns:
        _take_pictures_off(sheet.cell(line, table.columns["learning_curve"]))
    if line > _last_line(sheet):
        sheet.delete_rows(line)
        sheet.row_dimensions.pop(line, None)
    elif all(cell.value is None for cell in sheet[line]):
        sheet.row_dimensions[line].hidden = True


def _take_pictures_off(cell: Cell) -> None:
    """Those whose upper left corner lies in the cell."""
    sheet, place = cell.parent, (cell.row - 1, cell.column - 1)
    corners = [getattr(image.anchor, "_from", None) for image in sheet._images]
    sheet._images = [
        image
        for image, corner in zip(sheet._images, corners, strict=True)
        if corner is None or (corner.row, corner.col) != place
    ]


# ---- how the workbook looks: all of it where a sheet is new, only cells where it is the user's ------

_THUMBNAIL = (220, 110)  # pixels
_GAP = 4  # pixels around it
_NARROW = 12  # characters of a column of pictures that has none
_LINE = 15  # points of height
_LINK = "0563C1"
_A4 = 9


def _set_up(sheet: Worksheet, name: Sheet) -> None:
    sheet.title = name.value
    sheet.freeze_panes = "B2"
    sheet.row_dimensions[1].height = 64
    sheet.page_setup.orientation = "landscape"
    sheet.page_setup.paperSize = _A4
    sheet.page_setup.fitToHeight = 0  # as many pages as it takes, each as wide as the table
    sheet.sheet_properties.pageSetUpPr.fitToPage = True
    sheet.page_margins.left = sheet.page_margins.right = 0.3  # inches
    sheet.page_margins.top = sheet.page_margins.bottom = 0.5
    sheet.page_margins.footer = 0.2
    sheet.print_title_rows = "1:1"
    sheet.print_options.gridLines = True
    sheet.oddFooter.center.text = "&A · &P / &N"


def _put_heading(cell: Cell, key: str) -> None:
    column = _LAYOUT.get(key, _Column(key, 20))
    cell.value, cell.data_type = column.heading, "s"
    cell.font = Font("Calibri", 9, bold=True)
    cell.fill = PatternFill("solid", "DDE6F0")
    cell.alignment = Alignment("center", "center", wrap_text=True)
    look = cell.parent.column_dimensions[cell.column_letter]
    look.width = column.width
    if column.folded:
        look.outlineLevel, look.hidden = 1, True


def _put(cell: Cell, key: str, value: int | float | datetime | str) -> None:
    before = cell.number_format
    cell.value = None if value == "" else value
    if isinstance(value, str) and value:
        cell.data_type = "s"  # "=…" is what somebody wrote, not a formula
        cell.quotePrefix = value[0] in "=+-@"  # and stays so when Excel edits the cell
    elif key in COLUMNS and (before == "General" or (key in PERCENT and _is_percent(before))):
        cell.number_format = _LAYOUT[key].format
    if not cell.has_style or cell.alignment == Alignment():
        across = "center" if key in NUMERIC or key in ("date", "augmentation", "state") else "left"
        one_line = key == "settings"  # "fill" ends it at its own cell's edge
        cell.alignment = Alignment("fill" if one_line else across, "top", wrap_text=not one_line)


def _width(sheet: Worksheet, column: int) -> float:
    """In characters, the user's width where the user has changed it."""
    for look in sheet.column_dimensions.values():
        look.reindex()  # a new one does not know its column yet; Excel's may span several
        if look.min <= column <= look.max:
            return look.width
    return sheet.sheet_format.defaultColWidth or 8.43


def _height(row: Row, table: _Table) -> float:
    """Points that show the row's text."""
    lines = [1]
    for key, text in row.cells.items():
        if key not in ("settings", "learning_curve"):
            width = max(1, int(1.15 * _width(table.sheet, table.columns[key])))  # letters of mixed width
            lines.append(sum(len(textwrap.wrap(part, width) or " ") for part in text.split("\n")))
    return _LINE * min(max(lines), 10)


def _show_curve(cell: Cell, text: str, paths: Paths) -> None:
    """Link the cell to the picture and put its thumbnail into the cell, where the file is there."""
    if not text:
        cell.hyperlink = None
        return
    cell.hyperlink = text.translate(str.maketrans({" ": "%20", "#": "%23", "%": "%25"}))
    cell.font = Font("Calibri", 9, color=_LINK, underline="single")
    try:
        with Picture.open(paths.results / text) as picture:
            small, png = picture.convert("RGB"), BytesIO()
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        return  # no picture there: the link is all there is
    width = _width(cell.parent, cell.column)
    small.thumbnail((min(_THUMBNAIL[0], max(1, int(7 * width) - 2 * _GAP)), _THUMBNAIL[1]))
    small.save(png, "PNG")
    image, (across, down) = Image(png), small.size
    # both corners in the cell: there it is hidden by a filter, and moved by a sort, with its row
    corners = [
        AnchorMarker(cell.column - 1, pixels_to_EMU(x), cell.row - 1, pixels_to_EMU(y))
        for x, y in ((_GAP, _GAP), (_GAP + across, _GAP + down))
    ]
    image.anchor = TwoCellAnchor("twoCell", *corners)
    cell.parent.add_image(image)
    cell.alignment = Alignment("fill", "bottom")
    line = cell.parent.row_dimensions[cell.row]
    wanted = 0.75 * (down + 2 * _GAP) + _LINE  # the path below it
    line.height = max(line.height or 0, wanted)


def _stretch_filter(table: _Table, last: int, new: bool) -> None:
    """Filter buttons over the whole table: on a new sheet, and where some stand over its headings already."""
    buttons, left, right = table.sheet.auto_filter, 1, 1
    if buttons.ref:
        left, top, right, _ = range_boundaries(buttons.ref)
        if top != table.header:
            return  # the user's own, of something else on that sheet
    elif not new:
        return
    right = max(right, *table.columns.values())
    buttons.ref = f"{get_column_letter(left)}{table.header}:{get_column_letter(right)}{last}"
