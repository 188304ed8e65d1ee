"""The table's two files as a person finds them: what the tests of this folder read and edit."""

import csv

from openpyxl import load_workbook

from emo.tracking.table import COLUMNS

PLACE = {key: column for column, key in enumerate(COLUMNS, 1)}


def sheet_of(paths):
    return load_workbook(paths.experiments).active


def book_rows(paths):
    """The workbook's rows below the headings, by key."""
    return [
        dict(zip(COLUMNS, row, strict=False))
        for row in sheet_of(paths).iter_rows(min_row=2, values_only=True)
    ]


def csv_rows(paths):
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
