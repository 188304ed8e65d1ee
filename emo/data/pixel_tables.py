"""Photos written as numbers in a CSV: fer2013.csv and icml_face_data.csv (pixels, emotion, Usage)."""

import csv
import io
import math
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image
from tqdm.auto import tqdm

from emo.data.archives import Member
from emo.data.label_lists import LABELS, SPLIT_COLUMNS, column, heading
from emo.data.layouts import Layout, Placed
from emo.data.vocabulary import FER2013, split_of
from emo.errors import UserError

CLASSES = (*FER2013, "contempt")  # 7 in CK+'s table of the same form (ckextended.csv)


def by_pixels(members: list[Member], name: str) -> Layout | None:
    """The layout of the largest table of pixels among `members`; None where there is none.

    Tables of one split each (train.csv, test.csv) go together where none has a column for the split. Raises
    UserError for a row that is not a square picture of an emotion.
    """
    tables = [table for member in members if (table := _table(member))]
    if not tables:
        return None
    with_usage = [table for table in tables if table.usage is not None]
    splits = {table: split_of(table.stem) for table in tables}
    if with_usage:
        chosen = {max(with_usage, key=lambda table: table.member.size): "train"}
    elif len(tables) > 1 and len({*splits.values()} - {None}) == len(tables):
        chosen = splits
    else:
        chosen = {max(tables, key=lambda table: table.member.size): "train"}
    layout = Layout()
    for table, split in chosen.items():
        table.place(layout, split, name)
    meant = ", ".join(f"{number} = {word}" for number, word in enumerate(FER2013))
    layout.notes.append(f"Pictures are from {', '.join(table.member.path for table in chosen)}: {meant}.")
    if others := [table.member.path for table in tables if table not in chosen]:
        layout.notes.append(f"Left out {', '.join(others)}.")
    return layout


def _table(member: Member) -> "PixelTable | None":
    """The member as a table of pixels, where its headings are of one."""
    if not member.path.casefold().endswith(".csv"):
        return None
    with member.open() as file:
        first = file.readline(2**12).decode("utf-8-sig", "replace")
    head = heading(next(csv.reader([first.replace("\0", "")]), []))
    pixels, emotion, usage = column(head, ("pixels",)), column(head, LABELS), column(head, SPLIT_COLUMNS)
    return None if pixels is None or emotion is None else PixelTable(member, pixels, emotion, usage)


class PixelTable:
    """A CSV with a picture per row. Rows are read one after another, never all at once."""

    def __init__(self, member: Member, pixels: int, emotion: int, usage: int | None):
        self.member, self.pixels, self.emotion, self.usage = member, pixels, emotion, usage
        self.stem = member.path.rpartition("/")[2].rpartition(".")[0]
        self._rows, self._next = iter(()), math.inf  # as PNGs, read on from one call to the next

    def place(self, layout: Layout, split: str, name: str) -> None:
        """Adds each row to the layout, named by its number."""
        for number, cells in self._read(name):
            where = f"{name}, row {number}"
            if self.usage is not None and (said := cells[self.usage].strip()):
                split = split_of(said)
                if not split:
                    raise UserError(
                        f"{where} has the Usage {said!r}; write Training, PublicTest or PrivateTest."
                    )
            count = len(cells[self.pixels].split())
            side = math.isqrt(count)
            if not side or side**2 != count:
                raise UserError(
                    f"{where} has no square picture in its pixels; download {self.stem}.csv again."
                )
            if label := _class_name(cells[self.emotion], where):
                file = f"{number:06d}.png" if split == "train" else f"{self.stem}_{number:06d}.png"
                picture = Member(
                    f"{self.member.path}/{number}", side**2 + 100, lambda n=number: self.open(n, name)
                )
                layout.placed.append(Placed(split, label, file, picture))
            else:
                layout.left_out[f"rows of {self.member.path} without an emotion"] += 1

    def open(self, number: int, name: str) -> BinaryIO:
        """The row's picture as a PNG; quick where rows are asked for in their order."""
        if self._next > number:
            self._rows, self._next = self._read(name, quiet=True), 1
        cells = next(cells for at, cells in self._rows if at == number)
        self._next = number + 1
        values, file = cells[self.pixels].split(), io.BytesIO()
        side = math.isqrt(len(values))
        try:
            Image.frombytes("L", (side, side), bytes(map(int, values))).save(file, "PNG")
        except ValueError:
            raise UserError(
                f"{name}, row {number} has pixels that are not 0 to 255; download it again."
            ) from None
        file.seek(0)
        return file

    def _read(self, name: str, quiet: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Every row below the headings with its number, from 1."""
        wide = max(self.pixels, self.emotion, self.usage or 0)
        bar = tqdm(
            total=self.member.size, unit="B", unit_scale=True, desc=f"Reading {self.stem}", disable=quiet
        )
        with self.member.open() as file, bar:
            rows = csv.reader(_lines(file, bar))
            next(rows)
            try:
                for number, cells in enumerate(rows, 1):
                    if len(cells) > wide:
                        yield number, cells
                    elif any(cells):
                        raise UserError(f"{name}, row {number} is cut short; download {self.stem}.csv again.")
            except csv.Error as error:
                raise UserError(f"{name} is not a table of pixels ({error}); download it again.") from None


def _lines(file: BinaryIO, bar: tqdm) -> Iterator[str]:
    for line in io.TextIOWrapper(file, "utf-8", "replace", newline=""):
        bar.update(len(line))
        yield line


def _class_name(cell: str, where: str) -> str:
    """The emotion's name; "" for an empty cell."""
    cell = cell.strip().removesuffix(".0")
    if cell.isascii() and cell.isdigit():
        if int(cell) >= len(CLASSES):
            raise UserError(
                f"{where} has the emotion {cell}, and there are 0 to {len(CLASSES) - 1}; correct it."
            )
        return CLASSES[int(cell)]
    if not cell.replace("_", "").replace(" ", "").isalpha() and cell:
        raise UserError(f"{where} has the emotion {cell[:40]!r}; write a number from 0 to 6 or a word.")
    return cell
