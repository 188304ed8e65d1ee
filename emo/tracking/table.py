"""The experiments table: `experiments.xlsx`, for people, and the same rows as CSVs, for programs.

The workbook has two sheets, runs and ablations, and each has its CSV. Every change joins the files, writes
the CSVs and then brings the workbook up to date, touching no other cell of it. Where they differ the
workbook's cell wins, unless it is empty: people edit there. A row of either is never dropped, so to delete
one, delete it from both. A row is known by its model file, whatever its number and its sheet.
"""

import csv
import json
import re
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import pandas as pd
from filelock import FileLock

from emo.errors import UserError
from emo.files import write_bytes
from emo.paths import Paths, free_path
from emo.tracking.original_rows import ORIGINAL_ROWS
from emo.tracking.workbook import (
    COLUMNS,
    INTEGERS,
    NUMERIC,
    Book,
    Row,
    Sheet,
    list_columns,
    name_columns,
    read_book,
    shown,
    text_of,
    tidy,
    write_book,
)

Waiting = dict[str, dict[str, str]]  # by model file and key: how cells read before updates the workbook lacks


def create_table(paths: Paths) -> None:
    """Make the table with the original project's rows; where it stands, bring its files into line."""
    _change(paths, lambda rows, waiting: None)


def log_run(row: dict, paths: Paths) -> int | str:
    """Append a run, given by `COLUMNS`' keys, and return its number: the highest so far plus one.

    A run whose model file has a row already, as it was killed while it was logged, fills that row's empty
    cells and gets its number. Accuracies are percentages, booleans read "да / yes" and "нет / no", containers
    become JSON; a `number` in `row` is not used. UserError: an unknown key, or neither file can be written.
    """
    texts = _texts(row, paths) | {"number": ""}

    def log(rows: list[Row], waiting: Waiting) -> Row:
        found = _newest(rows, texts.get("model_file", ""))
        if found is None:
            found = Row({}, Sheet.RUNS)
            rows.append(found)
        fills = {key: text for key, text in texts.items() if not found.cells.get(key)}
        if name := _file_name(texts.get("model_file", "")):
            before = waiting.setdefault(name, {})
            for key in fills:
                before.setdefault(key, "")
        found.cells |= fills
        if not found.cells["number"]:
            found.cells["number"] = str(_next_number(rows))
        return found

    return _number(_change(paths, log))


def update_run(
    model_file: str | Path, values: dict, paths: Paths, sheet: Sheet | None = None
) -> int | str | None:
    """Write cells of the newest row with that model file, whatever its folder, and return its number.

    With `sheet` the row moves there. None: no row has that model file. UserError: an unknown key, one that
    tells rows apart (`number`, `model_file`), or neither file can be written.
    """
    if fixed := {"number", "model_file"} & set(values):
        raise UserError(
            f"{' and '.join(sorted(fixed))} tell the table's rows apart: leave them out of `values`."
        )
    texts = _texts(values, paths)

    def update(rows: list[Row], waiting: Waiting) -> Row | None:
        row = _newest(rows, model_file)
        if row is None:
            return None
        before = waiting.setdefault(_file_name(model_file), {})
        for key, text in texts.items():
            before.setdefault(key, shown(key, row.cells.get(key, "")))
            row.cells[key] = text
        if sheet not in (None, row.sheet):
            before.setdefault(_SHEET, row.sheet.value)
            row.sheet = sheet
            row.cells = {key: text for key, text in row.cells.items() if text or key in COLUMNS}
        return row

    row = _change(paths, update)
    return None if row is None else _number(row)


def read_table(paths: Paths, sheet: Sheet | None = None) -> pd.DataFrame:
    """The table or, with `sheet`, one sheet of it; one row per run, runs before ablations; writes nothing.

    Keys are columns, then come the user's own. Whole numbers are Int64, other numbers float64, text is str
    with "" for an empty cell; so is a numeric column in which somebody wrote words.
    """

    def read(function: Callable, path: Path):
        with suppress(OSError, ValueError):  # the other file serves; `log_run` speaks about this one
            return function(path)

    lists = {each: read(_read_csv, path) for each, path in _csv_paths(paths).items()}
    rows = _join(lists, read(read_book, paths.experiments), _read_waiting(paths))
    _renumber(rows)
    rows = [row for each in Sheet if sheet in (None, each) for row in _on(each, rows)]
    frame = pd.DataFrame([row.cells for row in rows], columns=list_columns(rows), dtype=object).fillna("")
    for key in NUMERIC:
        with suppress(ValueError, TypeError):
            frame[key] = pd.to_numeric(frame[key]).astype("Int64" if key in INTEGERS else "float64")
    return frame


# ---- rows ----------------------------------------------------------------------------------------

_SHEET = "sheet"  # beside the keys of cells: where a row lay before it moved


def _on(sheet: Sheet, rows: list[Row]) -> list[Row]:
    """The rows of a sheet in the workbook's order: what is new there comes last."""
    ours = [row for row in rows if row.sheet is sheet]
    return sorted(ours, key=lambda row: row.place is None or row.place[0] is not sheet)


def _texts(row: dict, paths: Paths) -> dict[str, str]:
    if unknown := [repr(key) for key in row if key not in COLUMNS]:
        raise UserError(
            f"The experiments table has no column {', '.join(unknown)}: use {', '.join(COLUMNS)}."
        )
    texts = {key: text_of(value) for key, value in row.items()}
    for key in {"learning_curve", "model_file"} & set(texts):  # the folder moves between Drive and disk
        texts[key] = texts[key].replace("\\", "/").removeprefix(f"{paths.results.as_posix()}/")
    return texts


def _file_name(path: str | Path) -> str:
    return PurePosixPath(str(path).replace("\\", "/")).name


def _model(row: Row) -> str:
    return _file_name(row.cells.get("model_file", ""))


def _run(row: Row) -> tuple[str, str]:
    return _model(row), row.cells.get("number", "")


def _newest(rows: list[Row], model_file: str | Path) -> Row | None:
    name = _file_name(model_file)
    return next((row for row in reversed(rows) if name and _model(row) == name), None)


def _number(row: Row) -> int | str:
    text = row.cells.get("number", "")
    return int(text) if re.fullmatch("-?[0-9]{1,1000}", text) else text


def _next_number(rows: list[Row]) -> int:
    return max((number for row in rows if isinstance(number := _number(row), int)), default=0) + 1


def _renumber(rows: list[Row]) -> list[str]:
    """Let no number stand twice, as that of a copied row would: the first keeps it. Says what was done."""
    taken, said = set(), []
    for row in rows:
        number = _number(row)
        if isinstance(number, int) and number in taken:
            row.cells["number"] = new = str(_next_number(rows))
            said.append(f"The experiments table had number {number} twice: its later row is now {new}.")
        taken.add(number)
    return said


# ---- reading and joining the files ---------------------------------------------------------------


def _csv_paths(paths: Paths) -> dict[Sheet, Path]:
    return {Sheet.RUNS: paths.experiments_csv, Sheet.ABLATIONS: paths.ablations_csv}


def _read_csv(path: Path) -> list[dict[str, str]] | None:
    """The rows of a CSV, with commas or, from a Russian Excel, with semicolons; None where it is missing.

    ValueError: damaged.
    """
    if not path.exists():
        return None
    data = path.read_bytes()
    first = data.split(b"\n", 1)[0]
    semicolons = first.count(b";") > first.count(b",")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if not semicolons:
            raise
        text = data.decode("cp1251")  # as Excel saves what it does not call "CSV UTF-8" in Russian Windows
    if re.search("^(<{7}|={7}|>{7})", text, re.MULTILINE):
        raise ValueError("an unresolved git conflict")
    limit = csv.field_size_limit(2**31 - 1)  # the usual 131,072 characters are fewer than a cell may have
    try:
        lines = csv.reader(StringIO(text, newline=""), delimiter=";" if semicolons else ",", strict=True)
        head, *lines = lines
    except csv.Error as error:
        raise ValueError(str(error)) from error
    finally:
        csv.field_size_limit(limit)
    keys = name_columns(head)
    named = [key for key in keys if key]
    stray = any(any(c for c, key in zip_longest(line, keys[: len(line)]) if not key) for line in lines)
    if "number" not in named or len(set(named)) < len(named) or stray:
        raise ValueError("its cells do not fit its headings")
    rows = [dict(zip_longest(keys, map(text_of, line), fillvalue="")) for line in lines]
    return [
        {key: tidy(key, text, decimal_comma=semicolons) for key, text in row.items() if key}
        for row in rows
        if any(row.values())
    ]


def _join(lists: dict[Sheet, list[dict] | None], book: Book | None, waiting: Waiting) -> list[Row]:
    """All files as one table, in the workbook's order."""
    seen_rows = book.rows if book else []
    if lists[Sheet.RUNS] is None and not any(row.sheet is Sheet.RUNS for row in seen_rows):
        original = [{key: text_of(value) for key, value in row.items()} for row in ORIGINAL_ROWS]
        lists = lists | {Sheet.RUNS: original}
    left = _without_moved([Row(cells, sheet) for sheet in Sheet for cells in lists[sheet] or ()])
    pairs, rows, taken = _pair(left, seen_rows), [], set()
    for seen in seen_rows:
        row = pairs.get(seen) or Row({}, seen.sheet)
        before = waiting.get(_model(row), {})
        edited = {
            key: text
            for key, text in seen.cells.items()
            if text and text != shown(key, row.cells.get(key, "")) and text != before.get(key)
        }
        if seen.cells.get("number") in taken and row.cells.get("number"):
            edited.pop("number", None)  # a copy that the CSV has given its own number to
        sheet = row.sheet if before.get(_SHEET) == seen.sheet.value else seen.sheet
        rows.append(Row(row.cells | edited, sheet, seen.place))
        taken.add(rows[-1].cells.get("number"))
    paired = set(pairs.values())
    return rows + [row for row in left if row not in paired]


def _from_csvs(rows: list[Row], book: Book | None, waiting: Waiting) -> list[str]:
    """Says what the workbook gets from its CSVs: rows and cells that were deleted there, or new in a CSV.

    `rows` is what `_join` made of both. What waits for the workbook is no news.
    """
    if not book or not book.rows:
        return []
    found = [
        f"{COLUMNS.get(key, key)!r} of row {row.cells['number']}"
        for row, seen in zip(rows, book.rows, strict=False)
        for key, text in row.cells.items()
        if text and seen.cells.get(key) == "" and key not in waiting.get(_model(row), {})
    ]
    rest = [row for row in rows[len(book.rows) :] if _model(row) not in waiting]
    found += [f"row {row.cells.get('number', '')}" for row in rest]
    named = ", ".join([*found[:5], *["…"] * (len(found) > 5)])
    told = f"experiments.xlsx lacked, and gets from its CSV: {named}; to delete something, delete it in both."
    return [told] if found else []


def _without_moved(rows: list[Row]) -> list[Row]:
    """The CSVs' rows; one that lies in both, as a kill cut its move short, counts as moved."""
    moved = {_run(row): row for row in rows if row.sheet is Sheet.ABLATIONS and _model(row)}
    kept = []
    for row in rows:
        twice = moved.get(_run(row), row)
        if twice.sheet is row.sheet:
            kept.append(row)
        else:
            twice.cells = row.cells | {key: text for key, text in twice.cells.items() if text}
    return kept


def _pair(ours: list[Row], theirs: list[Row]) -> dict[Row, Row]:
    """The CSVs' row for each row of the workbook that has one."""
    pairs, left = {}, ours
    for identity in _IDENTITIES:
        known = {}
        for row in reversed(left):
            known.setdefault(identity(row), []).append(row)
        for seen in theirs:
            name = None if seen in pairs else identity(seen)
            if name and known.get(name):
                pairs[seen] = known[name].pop()
        paired = set(pairs.values())
        left = [row for row in left if row not in paired]
    for seen in theirs:
        alike = next((row for row in left if seen not in pairs and _alike(row, seen)), None)
        if alike:
            pairs[seen] = alike
            left.remove(alike)
    return pairs


def _contents(row: Row, but: str = "") -> frozenset:
    return frozenset((key, shown(key, text)) for key, text in row.cells.items() if text and key != but)


def _all_but(key: str) -> Callable[[Row], frozenset | None]:
    """All else that a row says, where that is enough to know it by."""
    return lambda row: contents if len(contents := _contents(row, but=key)) > 4 else None


_IDENTITIES = (  # what a row of a CSV and one of the workbook have in common, the surest first
    lambda row: (row.sheet, _contents(row)),
    lambda row: _model(row) and _run(row),
    _model,  # renumbered
    lambda row: None if _model(row) else row.cells.get("number"),
    _all_but("number"),
    _all_but("model_file"),  # renamed
)


def _alike(row: Row, seen: Row) -> bool:
    """Of one number, or of none, and mostly equal: one row, whose cells or model file somebody edited."""
    number = row.cells.get("number", "")
    if number != seen.cells.get("number", "") or (_model(row) and _model(seen)):
        return False
    shared = [key for key, text in row.cells.items() if text and seen.cells.get(key) and key != "number"]
    agree = sum(shown(key, row.cells[key]) == seen.cells[key] for key in shared)
    return 2 * agree >= len(shared) and bool(shared or number)


def _read_waiting(paths: Paths) -> Waiting:
    try:
        found = json.loads(_waiting_file(paths).read_bytes())
    except (OSError, ValueError, RecursionError):
        found = {}
    waiting = {}
    for model, before in found.items() if isinstance(found, dict) else ():
        if isinstance(before, dict):
            texts = {heading: text for heading, text in before.items() if isinstance(text, str)}
            waiting[model] = dict(zip(name_columns(texts), texts.values(), strict=True))
    return waiting


def _waiting_file(paths: Paths) -> Path:
    return paths.results / "experiments.waiting.json"


# ---- writing them --------------------------------------------------------------------------------


def _change(paths: Paths, edit: Callable[[list[Row], Waiting], Row | None]) -> Row | None:
    """Run `edit` on the joined table under the lock, write what came of it and give what it gave."""
    try:
        with FileLock(paths.results / "experiments.lock", timeout=120):
            return _change_locked(paths, edit)
    except OSError as error:
        raise UserError(
            f"Nothing was logged, as the experiments table in {paths.results} cannot be written ({error}): "
            "close it wherever it is open and run this again."
        ) from error


def _change_locked(paths: Paths, edit: Callable[[list[Row], Waiting], Row | None]) -> Row | None:
    lists = {sheet: _or_aside(_read_csv, path) for sheet, path in _csv_paths(paths).items()}
    book, failed = None, {}
    try:
        book = _or_aside(read_book, paths.experiments)
    except OSError as error:
        if lists[Sheet.RUNS] is None:
            raise  # renumbering would clash with the rows in there
        failed[paths.experiments] = error
    waiting = _read_waiting(paths)
    rows = _join(lists, book, waiting)
    said = [*_renumber(rows), *_from_csvs(rows, book, waiting)]
    result = edit(rows, waiting)
    write_workbook = not failed
    failed |= _write_csvs(rows, lists, waiting, paths)
    if write_workbook:
        try:
            write_book(book or Book(), rows, paths)
            _waiting_file(paths).unlink(missing_ok=True)
        except Exception as error:  # the CSVs have the row: nothing here may fail a finished training
            failed[paths.experiments] = error
    if len(failed) > 1:
        raise OSError("; ".join(map(str, failed.values())))
    for path, error in failed.items():
        home = _csv_paths(paths)[result.sheet if result else Sheet.RUNS]
        other = home if path == paths.experiments else paths.experiments
        reason = getattr(error, "strerror", None) or error
        said.append(
            f"{path.name} could not be written ({reason}): what is new waits in {other.name} and goes in "
            "with the next run; if the file is open in another program, close it."
        )
    for sentence in said:
        print(sentence)
    return result


def _write_csvs(
    rows: list[Row], lists: dict[Sheet, list[dict] | None], waiting: Waiting, paths: Paths
) -> dict[Path, OSError]:
    """Bring each CSV to its sheet's rows; gives the first file that could not be written, and why."""
    files = []
    if waiting:
        files.append((_waiting_file(paths), json.dumps(waiting, ensure_ascii=False, indent=1).encode()))
    ours = {sheet: _on(sheet, rows) for sheet in Sheet}
    # the one that grows first: a row that moves is in both for a moment, never in none
    for sheet in sorted(Sheet, key=lambda sheet: len(lists[sheet] or ()) - len(ours[sheet])):
        path = _csv_paths(paths)[sheet]
        if ours[sheet] or sheet is Sheet.RUNS or path.exists():
            files.append((path, _csv_bytes(ours[sheet])))
    for path, data in files:
        try:
            if not (path.exists() and path.read_bytes() == data):
                write_bytes(path, data)
        except OSError as error:
            return {path: error}
    return {}


def _csv_bytes(rows: list[Row]) -> bytes:
    buffer = StringIO(newline="")
    writer = csv.DictWriter(buffer, list_columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells for row in rows)
    return buffer.getvalue().encode()


def _or_aside(read: Callable, path: Path):
    """What `read` finds; a damaged file is renamed, never deleted, and counts as missing."""
    try:
        return read(path)
    except ValueError as error:
        aside = free_path(path.with_stem(f"{path.stem}.damaged"))
        path.rename(aside)
        print(f"{path.name} is damaged ({error}): it is kept as {aside.name}, and a new one is made.")
        return None
