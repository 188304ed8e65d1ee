"""The experiments table: `experiments.xlsx`, for people, and `experiments.csv`, its twin for `git diff`.

Every change joins both files, writes the twin and then brings the workbook up to date, touching no other cell
of it. Where the two differ the workbook's cell wins, unless it is empty: people edit there. A row of either
file is never dropped, so to delete one, delete it from both.
"""

import csv
import json
import math
import numbers
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from io import BytesIO, StringIO
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pandas as pd
from filelock import FileLock
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

from emo.errors import UserError
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
_NUMBER, _CURVE, _MODEL = (COLUMNS[key] for key in ("number", "learning_curve", "model_file"))
_INTEGERS = {"number", "epochs", "image_size", "batch_size", "seed"}
_NUMERIC = _INTEGERS | {"val_accuracy", "test_accuracy", "macro_f1", "seconds"}
_TEXT_HEADINGS = {heading for key, heading in COLUMNS.items() if key not in _NUMERIC}

_SEED = """
1  19.12.20 resnet50 нет 10 34 SGD         Flatten Dense(1024)
2  22.12.20 vgg16    нет 10 14 SGD         Flatten Dense(512)
4  23.12.20 Xception нет 10 34 SGD         Flatten Dense(1024)
5  24.12.20 Xception да  10 32 SGD         Flatten Dense(1024)
6  25.12.20 Xception да  10 31 Adam(0.001) GlobalAveragePooling2D Dropout(0.2)
7  27.12.20 Xception да  15 31 Adam(0.001) GlobalAveragePooling2D Dropout(0.2)
8  28.12.20 Xception да  17 26 Adam(0.01)  GlobalAveragePooling2D Dropout(0.5) Dense(512) Dense(128)
9  30.12.20 Xception да  20 34 SGD         GlobalAveragePooling2D Dropout(0.2) Dense(1024)
10 03.01.21 resnet50 да  20 33 SGD         GlobalAveragePooling2D Dropout(0.2) Dense(1024)
11 04.01.21 resnet50 да  40 34 SGD         GlobalAveragePooling2D Dropout(0.2) Dense(1024)
12 05.01.21 resnet50 да  20 44 SGD         GlobalAveragePooling2D
"""
_SHORT = {  # what the seed's table says at length
    "Flatten": "Flatten()",
    "GlobalAveragePooling2D": "GlobalAveragePooling2D()",
    "SGD": "SGD(learning_rate=0.01, momentum=0.9)",
    "Adam(0.001)": "Adam(learning_rate=0.001)",
    "Adam(0.01)": "Adam(learning_rate=0.01)",
    "да": "да / yes",
    "нет": "нет / no",
}


def _seed_row(line: str) -> dict:
    number, day, base, augmented, epochs, accuracy, optimizer, *layers = line.split()
    layers = [
        _SHORT.get(each, re.sub(r"Dense\((\d+)\)", r"Dense(\1, activation='relu')", each)) for each in layers
    ]
    layers.append("Dense(p_num_classes, activation='softmax')")
    unfrozen = "Разморожены слои из блока «conv5» базовой модели\n" if number == "12" else ""
    return {
        "number": int(number),
        "date": day,
        "base_model": base,
        "extra_layers": unfrozen + ",\n".join(f"tf.keras.layers.{each}" for each in layers),
        "optimizer": f"tf.keras.optimizers.{_SHORT[optimizer]}",
        "loss": "categorical_crossentropy",
        "augmentation": _SHORT[augmented],
        "epochs": int(epochs),
        "val_accuracy": int(accuracy),
    }


SEED_ROWS = tuple(_seed_row(line) for line in _SEED.strip().splitlines())
SEED_ROWS[-1]["learning_curve"] = "model/emo_classificator_best_210105121553_resnet50_e20_aug1_acc44.png"


def create_table(paths: Paths) -> None:
    """Make the table with the seed's rows; where it stands already, bring its two files into line."""
    _change(paths, lambda rows, waiting: None)


def log_run(row: dict, paths: Paths) -> int:
    """Append a run, given by `COLUMNS`' keys, and return its number: the highest so far plus one.

    Accuracies are percentages, booleans read "да / yes" and "нет / no", containers become JSON; a `number` in
    `row` is not used. UserError: an unknown key, or neither file can be written.
    """
    texts = _cells(row, paths)

    def append(rows: list[dict], _waiting: dict) -> int:
        taken = (_value(_NUMBER, each.get(_NUMBER, "")) for each in rows)
        number = max((n for n in taken if isinstance(n, int)), default=0) + 1
        rows.append(texts | {_NUMBER: str(number)})
        return number

    return _change(paths, append)


def update_run(model_file: str | Path, values: dict, paths: Paths) -> int | str | None:
    """Write cells of the newest row with that model file, whatever its folder, and return its number.

    None: no row has it. UserError: an unknown key, one that tells rows apart (`number`, `model_file`), or
    neither file can be written.
    """
    if fixed := {"number", "model_file"} & set(values):
        raise UserError(
            f"{' and '.join(sorted(fixed))} tell the table's rows apart: leave them out of `values`."
        )
    texts, name = _cells(values, paths), _file_name(model_file)

    def update(rows: list[dict], waiting: dict) -> int | str | None:
        row = next(
            (each for each in reversed(rows) if name and _file_name(each.get(_MODEL, "")) == name), None
        )
        if row is None:
            return None
        for heading, text in texts.items():
            waiting.setdefault(name, {}).setdefault(heading, _shown(heading, row.get(heading, "")))
            row[heading] = text
        return _value(_NUMBER, row.get(_NUMBER, ""))

    return _change(paths, update)


def read_table(paths: Paths) -> pd.DataFrame:
    """The table, one row an experiment, keys as columns and then the user's own; writes nothing.

    Whole numbers are Int64, other numbers float64, text is str with "" for an empty cell; so is a numeric
    column in which somebody wrote words.
    """
    found = []
    for read, path in ((_read_csv, paths.experiments_csv), (_read_book, paths.experiments)):
        try:
            found.append(read(path))
        except (OSError, ValueError):
            found.append(None)  # the other file serves; `log_run` speaks about this one and mends it
    rows, _ = _join(*found, _read_waiting(paths))
    keys = {heading: key for key, heading in COLUMNS.items()}
    frame = pd.DataFrame(rows, columns=_headings(rows), dtype=object).fillna("").rename(columns=keys)
    for key in _NUMERIC:
        with suppress(ValueError, TypeError):
            frame[key] = pd.to_numeric(frame[key]).astype("Int64" if key in _INTEGERS else "float64")
    return frame


# ---- cells: everything passes through the twin's text --------------------------------------------

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?(e[+-]?\d\d?)?", re.IGNORECASE)
_CELL_LIMIT = 32_767  # UTF-16 units; Excel calls a workbook with a longer cell broken


def _text(value) -> str:
    """A value as the twin spells it; None and NaN are empty."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if pd.api.types.is_bool(value):
        return "да / yes" if value else "нет / no"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return f"{float(str(value)):.12g}"  # through str, a float32 54.3 stays 54.3
    if isinstance(value, date):  # as the seed writes its dates
        timed = isinstance(value, datetime) and value.time() != datetime.min.time()
        return value.strftime("%d.%m.%y %H:%M:%S" if timed else "%d.%m.%y")
    if isinstance(value, ArrayFormula):
        value = value.text
    if isinstance(value, dict | list | tuple) and not isinstance(value, CellRichText):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return _NOT_XML.sub("", re.sub("\r\n?", "\n", str(value)))


def _value(heading: str, text: str) -> int | float | str:
    """The twin's text as the workbook stores it: a number in a column of numbers, else text that fits."""
    if heading not in _TEXT_HEADINGS and _PLAIN_NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdigit() else float(text)
    units = text.encode("utf-16-le")
    if len(units) <= 2 * _CELL_LIMIT:
        return text
    return units[: 2 * (_CELL_LIMIT - 1)].decode("utf-16-le", "ignore") + "…"


def _shown(heading: str, text: str) -> str:
    """The twin's text as it reads back from the workbook."""
    return _text(_value(heading, text))


def _cells(row: dict, paths: Paths) -> dict[str, str]:
    if unknown := [repr(key) for key in row if key not in COLUMNS]:
        raise UserError(
            f"The experiments table has no column {', '.join(unknown)}: use {', '.join(COLUMNS)}."
        )
    texts = {COLUMNS[key]: _text(value) for key, value in row.items()}
    for heading in {_CURVE, _MODEL} & set(texts):  # relative: the folder moves between Drive and disk
        texts[heading] = texts[heading].replace("\\", "/").removeprefix(f"{paths.results.as_posix()}/")
    return texts


def _file_name(path: str | Path) -> str:
    return PurePosixPath(str(path).replace("\\", "/")).name


def _headings(rows: list[dict]) -> list[str]:
    """Ours, then the columns that the user added."""
    return list(dict.fromkeys([*COLUMNS.values(), *(heading for row in rows for heading in row)]))


# ---- reading and joining the two files -----------------------------------------------------------


@dataclass
class _Book:
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


def _read_csv(path: Path) -> list[dict] | None:
    """The twin's rows by heading; None where it is missing. ValueError: damaged."""
    if not path.exists():
        return None
    text = path.read_bytes().decode("utf-8-sig")
    try:
        head, *lines = csv.reader(StringIO(text, newline=""), strict=True)
        head = [" ".join(heading.split()) for heading in head]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    named = [heading for heading in head if heading]
    stray = any(
        any(line[len(head) :]) or any(c for h, c in zip(head, line, strict=False) if not h) for line in lines
    )
    if _NUMBER not in named or len(set(named)) < len(named) or stray:
        raise ValueError("its cells do not fit its headings")
    if re.search("^(<{7}|={7}|>{7})", text, re.MULTILINE):
        raise ValueError("an unresolved git conflict")
    rows = [{h: _text(cell) for h, cell in zip_longest(head, line, fillvalue="") if h} for line in lines]
    return [row for row in rows if any(row.values())]


def _read_book(path: Path) -> _Book | None:
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
            book = _Book(load_workbook(data, rich_text=True), stamp)
    except Exception as error:  # openpyxl raises whatever its parsing trips over
        raise ValueError(f"not a readable workbook, {error}") from error
    losses = any(re.search("lost|removed|dropped", str(warning.message)) for warning in caught)
    book.lossy = losses or bool(re.search(rb"<(xdr:)?(sp|grpSp|cxnSp)[ >]", drawings))
    for sheet in book.workbook.worksheets:
        for line in sheet.iter_rows(max_row=20):  # a title may stand above the headings
            columns = {" ".join(_text(cell.value).split()): cell.column for cell in reversed(line)}
            if _NUMBER in columns:
                columns.pop("", None)
                book.sheet, book.header = sheet, line[0].row
                book.columns = dict(reversed(columns.items()))
                break
        if book.sheet:
            break
    for line in book.sheet.iter_rows(min_row=book.header + 1) if book.sheet else ():
        texts = {heading: _text(line[column - 1].value) for heading, column in book.columns.items()}
        if any(texts.values()):
            book.rows[line[0].row] = texts
    return book


def _same_run(ours: dict, theirs: dict) -> bool:
    """Whether a row of the twin and one of the workbook are the same experiment."""
    number = ours.get(_NUMBER, "")
    models = {_file_name(row.get(_MODEL, "")) for row in (ours, theirs)}
    if number != theirs.get(_NUMBER, "") or (len(models) == 2 and "" not in models):
        return False
    if len(models) == 1 and (number or "" not in models):
        return True
    # no number, or a model file on one side only: rows that mostly agree are one row with edited cells
    shared = [h for h, text in ours.items() if text and theirs.get(h) and h != _NUMBER]
    agree = sum(_shown(h, ours[h]) == theirs[h] for h in shared)
    return 2 * agree >= len(shared) and bool(shared or number)


def _join(twin: list[dict] | None, book: _Book | None, waiting: dict) -> tuple[list[dict], list[int]]:
    """Both files as one table in the workbook's order, and the sheet rows of those that the workbook has.

    `waiting` tells, by model file and heading, how cells read before an update that the workbook lacks.
    """
    if twin is None and not (book and book.rows):
        twin = [{COLUMNS[key]: _text(value) for key, value in row.items()} for row in SEED_ROWS]
    left, rows, seen_rows = list(twin or []), [], book.rows if book else {}
    for seen in seen_rows.values():
        index = next((i for i, row in enumerate(left) if _same_run(row, seen)), None)
        row = {} if index is None else left.pop(index)
        before = waiting.get(_file_name(row.get(_MODEL, "")), {})
        edited = {h for h, t in seen.items() if t and t != _shown(h, row.get(h, "")) and t != before.get(h)}
        rows.append(row | {heading: seen[heading] for heading in edited})
    return rows + left, list(seen_rows)


# ---- writing them --------------------------------------------------------------------------------


def _change(paths: Paths, edit):
    """Run `edit(rows, waiting)` on the joined table under the lock and write what came of it."""
    try:
        with FileLock(paths.results / "experiments.lock", timeout=120):
            return _change_locked(paths, edit)
    except OSError as error:
        raise UserError(
            f"Nothing was logged, as the experiments table in {paths.results} cannot be written ({error}): "
            "close it wherever it is open and run this again."
        ) from error


def _change_locked(paths: Paths, edit):
    twin = _or_aside(_read_csv, paths.experiments_csv)
    book, book_error, csv_error = None, None, None
    try:
        book = _or_aside(_read_book, paths.experiments)
    except OSError as error:
        if twin is None:
            raise  # numbering anew would clash with the rows in there
        book_error = error
    waiting_file = paths.results / "experiments.waiting.json"
    waiting = _read_waiting(paths)
    rows, places = _join(twin, book, waiting)
    result = edit(rows, waiting)
    try:
        if waiting:
            _replace(waiting_file, json.dumps(waiting, ensure_ascii=False, indent=1).encode())
        _replace(paths.experiments_csv, _csv_bytes(rows))
    except OSError as error:
        csv_error = error
    if not book_error:
        try:
            _write_book(book or _Book(Workbook()), rows, places, paths)
            waiting_file.unlink(missing_ok=True)
        except Exception as error:  # the twin has the row: nothing here may fail a finished training
            book_error = error
    if csv_error and book_error:
        raise OSError(f"{csv_error}; {book_error}")
    files = (paths.experiments.name, paths.experiments_csv.name)
    for error, (name, other) in ((book_error, files), (csv_error, files[::-1])):
        if error:
            print(
                f"{name} could not be written ({error}): what is new waits in {other} and goes in with the "
                "next run; if the file is open in another program, close it."
            )
    return result


def _or_aside(read, path: Path):
    """What `read` finds; a damaged file is renamed, never deleted, and counts as missing."""
    try:
        return read(path)
    except ValueError as error:
        aside = free_path(path.with_stem(f"{path.stem}.damaged"))
        path.rename(aside)
        print(f"{path.name} is damaged ({error}): it is kept as {aside.name}, and a new one is made.")
        return None


def _read_waiting(paths: Paths) -> dict:
    try:
        return json.loads((paths.results / "experiments.waiting.json").read_bytes())
    except (OSError, ValueError):
        return {}


def _csv_bytes(rows: list[dict]) -> bytes:
    buffer = StringIO(newline="")
    writer = csv.DictWriter(buffer, _headings(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _replace(path: Path, data: bytes) -> None:
    """Write all of the file or none of it."""
    path = path.resolve()  # a link stays a link
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)  # noqa: PTH105
    finally:
        part.unlink(missing_ok=True)


def _write_book(book: _Book, rows: list[dict], places: list[int], paths: Paths) -> None:
    """Bring the workbook's cells to `rows`, touching no other, and save it where one changed."""
    changed = book.sheet is None
    if book.sheet is None:
        book.sheet = book.workbook.active if book.stamp is None else book.workbook.create_sheet()
        _set_up(book.sheet)
    for heading in _headings(rows):
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
            if _shown(heading, text) != seen.get(heading, "") and not isinstance(cell, MergedCell):
                _put(cell, _value(heading, text))
                changed = True
                if heading == _CURVE and text:
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
    _replace(paths.experiments, buffer.getvalue())


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
