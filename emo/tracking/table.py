"""The experiments table: `experiments.xlsx`, for people, and `experiments.csv`, the CSV, for `git diff`.

Every change joins both files, writes the CSV and then brings the workbook up to date, touching no other cell
of it. Where the two differ the workbook's cell wins, unless it is empty: people edit there. A row of either
file is never dropped, so to delete one, delete it from both.
"""

import csv
import json
import re
from contextlib import suppress
from io import StringIO
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import pandas as pd
from filelock import FileLock
from openpyxl import Workbook

from emo.errors import UserError
from emo.paths import Paths, free_path
from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.tracking.workbook import (
    COLUMNS,
    CURVE,
    INTEGERS,
    MODEL,
    NUMBER,
    NUMERIC,
    Book,
    list_headings,
    read_book,
    replace_file,
    shown,
    text_of,
    value_of,
    write_book,
)


def create_table(paths: Paths) -> None:
    """Make the table with the original project's rows; where it stands, bring its two files into line."""
    _change(paths, lambda rows, waiting: None)


def log_run(row: dict, paths: Paths) -> int:
    """Append a run, given by `COLUMNS`' keys, and return its number: the highest so far plus one.

    Accuracies are percentages, booleans read "да / yes" and "нет / no", containers become JSON; a `number` in
    `row` is not used. UserError: an unknown key, or neither file can be written.
    """
    texts = _cells(row, paths)

    def append(rows: list[dict], _waiting: dict) -> int:
        taken = (value_of(NUMBER, each.get(NUMBER, "")) for each in rows)
        number = max((n for n in taken if isinstance(n, int)), default=0) + 1
        rows.append(texts | {NUMBER: str(number)})
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
            (each for each in reversed(rows) if name and _file_name(each.get(MODEL, "")) == name), None
        )
        if row is None:
            return None
        for heading, text in texts.items():
            waiting.setdefault(name, {}).setdefault(heading, shown(heading, row.get(heading, "")))
            row[heading] = text
        return value_of(NUMBER, row.get(NUMBER, ""))

    return _change(paths, update)


def read_table(paths: Paths) -> pd.DataFrame:
    """The table, one row per experiment, keys as columns and then the user's own; writes nothing.

    Whole numbers are Int64, other numbers float64, text is str with "" for an empty cell; so is a numeric
    column in which somebody wrote words.
    """
    found = []
    for read, path in ((_read_csv, paths.experiments_csv), (read_book, paths.experiments)):
        try:
            found.append(read(path))
        except (OSError, ValueError):
            found.append(None)  # the other file serves; `log_run` speaks about this one and repairs it
    rows, _ = _join(*found, _read_waiting(paths))
    keys = {heading: key for key, heading in COLUMNS.items()}
    frame = pd.DataFrame(rows, columns=list_headings(rows), dtype=object).fillna("").rename(columns=keys)
    for key in NUMERIC:
        with suppress(ValueError, TypeError):
            frame[key] = pd.to_numeric(frame[key]).astype("Int64" if key in INTEGERS else "float64")
    return frame


def _cells(row: dict, paths: Paths) -> dict[str, str]:
    if unknown := [repr(key) for key in row if key not in COLUMNS]:
        raise UserError(
            f"The experiments table has no column {', '.join(unknown)}: use {', '.join(COLUMNS)}."
        )
    texts = {COLUMNS[key]: text_of(value) for key, value in row.items()}
    for heading in {CURVE, MODEL} & set(texts):  # relative: the folder moves between Drive and disk
        texts[heading] = texts[heading].replace("\\", "/").removeprefix(f"{paths.results.as_posix()}/")
    return texts


def _file_name(path: str | Path) -> str:
    return PurePosixPath(str(path).replace("\\", "/")).name


# ---- reading and joining the two files -----------------------------------------------------------


def _read_csv(path: Path) -> list[dict] | None:
    """The CSV's rows by heading; None where it is missing. ValueError: damaged."""
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
    if NUMBER not in named or len(set(named)) < len(named) or stray:
        raise ValueError("its cells do not fit its headings")
    if re.search("^(<{7}|={7}|>{7})", text, re.MULTILINE):
        raise ValueError("an unresolved git conflict")
    rows = [{h: text_of(cell) for h, cell in zip_longest(head, line, fillvalue="") if h} for line in lines]
    return [row for row in rows if any(row.values())]


def _same_run(ours: dict, theirs: dict) -> bool:
    """Whether a row of the CSV and one of the workbook are the same experiment."""
    number = ours.get(NUMBER, "")
    models = {_file_name(row.get(MODEL, "")) for row in (ours, theirs)}
    if number != theirs.get(NUMBER, "") or (len(models) == 2 and "" not in models):
        return False
    if len(models) == 1 and (number or "" not in models):
        return True
    # no number, or a model file on one side only: rows that mostly agree are one row with edited cells
    shared = [h for h, text in ours.items() if text and theirs.get(h) and h != NUMBER]
    agree = sum(shown(h, ours[h]) == theirs[h] for h in shared)
    return 2 * agree >= len(shared) and bool(shared or number)


def _join(csv_rows: list[dict] | None, book: Book | None, waiting: dict) -> tuple[list[dict], list[int]]:
    """Both files as one table in the workbook's order, and the sheet rows of those that the workbook has.

    `waiting` tells, by model file and heading, how cells read before an update that the workbook lacks.
    """
    if csv_rows is None and not (book and book.rows):
        csv_rows = [{COLUMNS[key]: text_of(value) for key, value in row.items()} for row in ORIGINAL_ROWS]
    left, rows, seen_rows = list(csv_rows or []), [], book.rows if book else {}
    for seen in seen_rows.values():
        index = next((i for i, row in enumerate(left) if _same_run(row, seen)), None)
        row = {} if index is None else left.pop(index)
        before = waiting.get(_file_name(row.get(MODEL, "")), {})
        edited = {h for h, t in seen.items() if t and t != shown(h, row.get(h, "")) and t != before.get(h)}
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
    csv_rows = _or_aside(_read_csv, paths.experiments_csv)
    book, book_error, csv_error = None, None, None
    try:
        book = _or_aside(read_book, paths.experiments)
    except OSError as error:
        if csv_rows is None:
            raise  # numbering anew would clash with the rows in there
        book_error = error
    waiting_file = paths.results / "experiments.waiting.json"
    waiting = _read_waiting(paths)
    rows, places = _join(csv_rows, book, waiting)
    result = edit(rows, waiting)
    try:
        if waiting:
            replace_file(waiting_file, json.dumps(waiting, ensure_ascii=False, indent=1).encode())
        replace_file(paths.experiments_csv, _csv_bytes(rows))
    except OSError as error:
        csv_error = error
    if not book_error:
        try:
            write_book(book or Book(Workbook()), rows, places, paths)
            waiting_file.unlink(missing_ok=True)
        except Exception as error:  # the CSV has the row: nothing here may fail a finished training
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
    writer = csv.DictWriter(buffer, list_headings(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
