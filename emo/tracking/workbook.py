"""`experiments.xlsx`, the table that people open: what its cells hold, how it is read, written and looks."""

import json
import math
import numbers
import os
import re
import warnings
from dataclasses import dataclass, field
from datetime import date, datetime
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
from openpyxl import Workbook, load_workbook
from openpyxl.cell.cell import Cell, MergedCell
from openpyxl.cell.rich_text import CellRichText
from openpyxl.drawing.image import Image
from openpyxl.drawing.spreadsheet_drawing import AnchorMarker, OneCellAnchor
from openpyxl.drawing.xdr import XDRPositiveSize2D
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils.units import pixels_to_EMU
from openpyxl.worksheet.formula import ArrayFormula
from openpyxl.worksheet.worksheet import Worksheet
from PIL import Image as Picture

from emo.paths import Paths, free_path

_LAYOUT = {  # key: (heading, width in characters)
    "number": ("№ эксперимента / No.", 15),
    "date": ("Дата / Date", 10),
    "base_model": ("Базовая модель / Base model", 16),
    "extra_layers": ("Дополнительные слои / Extra layers", 60),
    "optimizer": ("Оптимизатор / Optimizer", 46),
    "loss": ("Loss", 27),
    "augmentation": ("Аугментация / Augmentation", 15),
    "epochs": ("Количество эпох / Epochs", 12),
    "val_accuracy": ("Точность на валидации, % / Validation accuracy, %", 16),
    "learning_curve": ("Кривая обучения / Learning curve", 36),
    "state": ("Состояние / State", 13),
    "test_accuracy": ("Точность на тесте, % / Test accuracy, %", 15),
    "macro_f1": ("Макро-F1 / Macro F1", 11),
    "image_size": ("Размер изображения / Image size", 15),
    "batch_size": ("Размер пакета / Batch size", 12),
    "seed": ("Начальное число / Seed", 12),
    "seconds": ("Секунды / Seconds", 11),
    "device": ("Устройство / Device", 16),
    "versions": ("Версии / Versions", 24),
    "commit": ("Коммит / Commit", 12),
    "model_file": ("Файл модели / Model file", 36),
    "settings": ("Настройки, JSON / Settings, JSON", 60),
    "comment": ("Комментарий / Comment", 30),
}
COLUMNS = {key: heading for key, (heading, _) in _LAYOUT.items()}
_WIDTHS = dict(_LAYOUT.values())
NUMBER, CURVE, MODEL = (COLUMNS[key] for key in ("number", "learning_curve", "model_file"))
INTEGERS = {"number", "epochs", "image_size", "batch_size", "seed"}
NUMERIC = INTEGERS | {"val_accuracy", "test_accuracy", "macro_f1", "seconds"}
_TEXT_HEADINGS = {heading for key, heading in COLUMNS.items() if key not in NUMERIC}


# ---- cells: everything passes through the CSV's text ----------------------------------------------

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?(e[+-]?\d\d?)?", re.IGNORECASE)
_CELL_LIMIT = 32_767  # UTF-16 units; Excel calls a workbook with a longer cell broken


def text_of(value) -> str:
    """A value as the CSV spells it; None and NaN are empty."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if pd.api.types.is_bool(value):
        return "да / yes" if value else "нет / no"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return f"{float(str(value)):.12g}"  # through str, a float32 54.3 stays 54.3
    if isinstance(value, date):  # as the original project writes its dates
        timed = isinstance(value, datetime) and value.time() != datetime.min.time()
        return value.strftime("%d.%m.%y %H:%M:%S" if timed else "%d.%m.%y")
    if isinstance(value, ArrayFormula):
        value = value.text
    if isinstance(value, dict | list | tuple) and not isinstance(value, CellRichText):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return _NOT_XML.sub("", re.sub("\r\n?", "\n", str(value)))


def value_of(heading: str, text: str) -> int | float | str:
    """The CSV's text as the workbook stores it: a number in a column of numbers, else text that fits."""
    if heading not in _TEXT_HEADINGS and _PLAIN_NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdigit() else float(text)
    units = text.encode("utf-16-le")
    if len(units) <= 2 * _CELL_LIMIT:
        return text
    return units[: 2 * (_CELL_LIMIT - 1)].decode("utf-16-le", "ignore") + "…"


def shown(heading: str, text: str) -> str:
    """The CSV's text as it reads back from the workbook."""
    return text_of(value_of(heading, text))


def list_headings(rows: list[dict]) -> list[str]:
    """Ours, then the columns that the user added."""
    return list(dict.fromkeys([*COLUMNS.values(), *(heading for row in rows for heading in row)]))


# ---- reading it ----------------------------------------------------------------------------------


@dataclass
class Book:
    """The workbook as it was read: the texts of its table by sheet row, and where the headings stand."""

    workbook: Workbook
    stamp: tuple | None = None
    lossy: bool = False  # it holds what openpyxl cannot write back
    sheet: Worksheet | None = None
    header: int = 1
    columns: dict[str, int] = field(default_factory=dict)
    rows: dict[int, dict[str, str]] = field(default_factory=dict)


def _stamp(path: Path) -> tuple | None:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None


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
    for sheet in book.workbook.worksheets:
        for line in sheet.iter_rows(max_row=20):  # a title may stand above the headings
            columns = {" ".join(text_of(cell.value).split()): cell.column for cell in reversed(line)}
            if NUMBER in columns:
                columns.pop("", None)
                book.sheet, book.header = sheet, line[0].row
                book.columns = dict(reversed(columns.items()))
                break
        if book.sheet:
            break
    for line in book.sheet.iter_rows(min_row=book.header + 1) if book.sheet else ():
        texts = {heading: text_of(line[column - 1].value) for heading, column in book.columns.items()}
        if any(texts.values()):
            book.rows[line[0].row] = texts
    return book


# ---- writing it ----------------------------------------------------------------------------------


def write_book(book: Book, rows: list[dict], places: list[int], paths: Paths) -> None:
    """Bring the workbook's cells to `rows`, touching no other, and save it where one changed."""
    changed = book.sheet is None
    if book.sheet is None:
        book.sheet = book.workbook.active if book.stamp is None else book.workbook.create_sheet()
        _set_up(book.sheet)
    for heading in list_headings(rows):
        if heading not in book.columns:
            book.columns[heading] = max(book.columns.values(), default=0) + 1
            _put_heading(book.sheet.cell(book.header, book.columns[heading]), heading)
            changed = True
    sheet = book.sheet
    filled = (cell.row for line in sheet.iter_rows() for cell in line if cell.value is not None)
    last = max([*filled, *(merged.max_row for merged in sheet.merged_cells.ranges)])
    for row, place in zip_longest(rows, places):
        seen, at = book.rows.get(place, {}), place or (last := last + 1)
        if not place:
            sheet.row_dimensions[at].height = _height(row)
        for heading, text in row.items():
            cell = sheet.cell(at, book.columns[heading])
            if shown(heading, text) != seen.get(heading, "") and not isinstance(cell, MergedCell):
                _put(cell, value_of(heading, text))
                changed = True
                if heading == CURVE and text:
                    _show_curve(cell, text, paths)
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
    replace_file(paths.experiments, buffer.getvalue())


def replace_file(path: Path, data: bytes) -> None:
    """Write all of the file or none of it."""
    path = path.resolve()  # a link stays a link
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)  # noqa: PTH105
    finally:
        part.unlink(missing_ok=True)


# ---- how the workbook looks ----------------------------------------------------------------------

_THUMBNAIL = (220, 110)  # pixels
_TOP = Alignment("left", "top", wrap_text=True)


def _set_up(sheet: Worksheet) -> None:
    sheet.title = "experiments"
    sheet.freeze_panes = "A2"
    sheet.row_dimensions[1].height = 64


def _put_heading(cell: Cell, heading: str) -> None:
    _put(cell, heading)
    cell.font = Font("Calibri", 11, bold=True)
    cell.fill = PatternFill("solid", "DDE6F0")
    cell.alignment = Alignment(vertical="center", wrap_text=True)
    cell.parent.column_dimensions[cell.column_letter].width = _WIDTHS.get(heading, 20)


def _put(cell: Cell, value: int | float | str) -> None:
    cell.value = None if value == "" else value
    if isinstance(value, str) and value:
        cell.data_type = "s"  # "=…" is what somebody wrote, not a formula
        cell.quotePrefix = value[0] in "=+-@"  # and stays so when Excel edits the cell
    if not cell.has_style or cell.alignment == Alignment():
        cell.alignment = _TOP


def _height(row: dict) -> float:
    """Points that show the row's text, a long JSON cut short, with the thumbnail above its path."""
    lines = [
        sum(math.ceil(len(p) / (0.9 * _WIDTHS.get(h, 20))) for p in t.split("\n")) for h, t in row.items()
    ]
    return 15 * min(max(lines, default=1), 10)


def _show_curve(cell: Cell, text: str, paths: Paths) -> None:
    """Link the cell to the picture and put its thumbnail into the cell, where the file is there."""
    cell.hyperlink = text.translate(str.maketrans({" ": "%20", "#": "%23", "%": "%25"}))
    cell.font = Font("Calibri", 11, color="0563C1", underline="single")
    try:
        with Picture.open(paths.results / text) as picture:
            small, png = picture.convert("RGB"), BytesIO()
    except (OSError, ValueError):
        return  # no picture there: the link is all there is
    small.thumbnail(_THUMBNAIL)
    small.save(png, "PNG")
    image, size = Image(png), [pixels_to_EMU(pixels) for pixels in small.size]
    gap = pixels_to_EMU(4)
    corner = AnchorMarker(cell.column - 1, gap, cell.row - 1, gap)
    image.anchor = OneCellAnchor(corner, XDRPositiveSize2D(*size))
    cell.parent.add_image(image)
    cell.alignment = Alignment("left", "bottom", wrap_text=True)
    wanted = 0.75 * small.height + 15 * (math.ceil(len(text) / 30) + 1)
    line = cell.parent.row_dimensions[cell.row]
    line.height = max(line.height or 0, wanted)
