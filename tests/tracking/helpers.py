"""The table's two files as a person finds them: what the tests of this folder read and edit."""

import csv
from io import StringIO

from openpyxl import load_workbook

from emo.tracking.table import COLUMNS

PLACE = {key: column for column, key in enumerate(COLUMNS, 1)}


def sheet_of(paths, name=None):
    book = load_workbook(paths.experiments)
    return book[name] if name else book.active


def book_rows(paths, name=None):
    """The rows of a sheet, the first without `name`, below the headings, by key."""
    return [
        dict(zip(COLUMNS, row, strict=False))
        for row in sheet_of(paths, name).iter_rows(min_row=2, values_only=True)
    ]


def csv_rows(path):
    """The rows of a CSV, given its path or a project's."""
    text = getattr(path, "experiments_csv", path).read_bytes().decode()
    delimiter = ";" if text.startswith("number;") else ","
    return list(csv.DictReader(StringIO(text, newline=""), delimiter=delimiter))


def edit_book(paths, change):
    """What a person does in Excel: open, change, save."""
    book = load_workbook(paths.experiments)
    change(book)
    book.save(paths.experiments)


def numbers(rows):
    return [str(row["number"]) for row in rows]


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    """What a person's program saves: the first row's keys as headings."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
