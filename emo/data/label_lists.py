"""Labels that a list gives to the photos beside it: a CSV of paths and labels, RAF-DB's own list."""

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from emo.data.archives import Member
from emo.data.layouts import UNLABELLED, Layout, Placed, parts_of
from emo.data.vocabulary import RAF_DB, SPLITS, is_emotion, is_part, numbers_of, split_of
from emo.errors import UserError
from emo.paths import IMAGE_SUFFIXES

MAX_LIST_BYTES = 2**27
RAF_LIST = re.compile(
    r"list_pa[rt]+ition_label\.txt$", re.IGNORECASE
)  # spelled "patition" where it is handed out
ANSWERS = re.compile("submission|predict|answer", re.IGNORECASE)  # a competition's example tells no labels
PATHS, LABELS, SPLIT_COLUMNS = map(
    str.split,
    (
        "path paths pth filepath file_path imagepath image_path img_path image images image_name imagename "
        "image_file image_id img img_name filename file_name file files name photo photo_path picture id "
        "subdirectory_file_path путь файл имя имя_файла фото изображение",
        "label labels emotion emotions class classes class_name classname category expression target y tag "
        "image_label emotion_label facial_expression метка класс эмоция",
        "split usage set subset partition phase выборка",
    ),
)


class Row(NamedTuple):
    """What a list says of one photo."""

    photo: str
    label: str
    split: str | None  # None where the list leaves it to the photo's folder


def by_labels(members: list[Member], photos: list[Member], name: str) -> Layout | None:
    """The layout that lists of labels among `members` give; None where there is none, or folders are classes.

    Raises UserError where lists contradict each other or do not tell which photo they mean.
    """
    if lists := [member for member in members if RAF_LIST.search(member.path)]:
        return _raf_db(lists, photos, name)
    layout, index, said, spelled = Layout(), _Index(photos), {}, {}
    lists = [member for member in members if member.path.casefold().endswith((".csv", ".tsv"))]
    lists = [member for member in lists if not ANSWERS.search(member.path.rpartition("/")[2])]
    lists = {member.path: rows for member in lists if (rows := _rows(member, name))}
    for path, rows in lists.items():
        unknown = 0
        for row in rows:
            photo = index.find(row.photo, path, name)
            unknown += photo is None
            row = row._replace(
                # "sad" and "Sad" would be one folder on many disks: as the first is spelled
                label=spelled.setdefault(row.label.casefold(), row.label),
                split=row.split or (_split_in(photo.path) if photo else None) or "train",
            )
            if photo and said.setdefault(photo.path, (row, photo))[0][1:] != row[1:]:
                raise UserError(
                    f"{name} gives {photo.path!r} two labels ({said[photo.path][0].label}, {row.label}) in "
                    f"{path}; keep one row per photo."
                )
        if unknown:
            layout.notes.append(f"{unknown:,} of {len(rows):,} rows of {path} name no photo that is there.")
    if not said:
        return None
    if _in_class_folders(photos, {path: row.label for path, (row, _) in said.items()}):
        return None
    layout.lists = tuple(lists)
    layout.notes.insert(0, f"Labels are from {', '.join(lists)}.")
    _place(said, photos, layout)
    return layout


def _in_class_folders(photos: list[Member], labels: dict[str, str]) -> bool:
    """Whether the photos' folders are their classes, whatever a list beside them says."""
    folders = [[part for part in parts_of(photo)[:-1] if not split_of(part)] for photo in photos]
    named = {part for parts in folders for part in parts if is_emotion(part) and not is_part(part)}
    if len(named) > 1:
        return True
    parents = {parts[-1] if parts else "" for parts in folders}
    if len(parents) < 2 or not numbers_of(parents):
        return False
    found = defaultdict(set)  # numbers may be persons too: then their photos have several labels
    for photo, parts in zip(photos, folders, strict=True):
        found[parts[-1]].add(labels.get(photo.path))
    return all(len(several - {None}) <= 1 for several in found.values())


def _place(said: dict[str, tuple[Row, Member]], photos: list[Member], layout: Layout) -> None:
    """Lays the labelled photos out by their names, or by their paths where two have one name."""
    names = Counter((row.split, row.label, parts_of(photo)[-1].casefold()) for row, photo in said.values())
    unique = max(names.values()) == 1
    for row, photo in said.values():
        if row.label:
            rest = parts_of(photo)[-1] if unique else "/".join(parts_of(photo))
            layout.placed.append(Placed(row.split, row.label, rest, photo))
    kept = {placed.member.path for placed in layout.placed}
    for photo in photos:
        if photo.path in kept:
            continue
        if _split_in(photo.path) == "test" and photo.path not in said:  # a competition's, to be answered
            layout.placed.append(Placed(UNLABELLED, "", parts_of(photo)[-1], photo))
        else:
            layout.left_out[f"{'/'.join(parts_of(photo)[:-1]) or 'no folder'}, without a label"] += 1
    if unlabelled := sum(placed.split == UNLABELLED for placed in layout.placed):
        layout.notes.append(f"{unlabelled:,} photos to test on have no labels: they go to {UNLABELLED}.")


class _Index:
    """Finds a photo by what a list calls it: its path, the end of it, its name with or without suffix."""

    def __init__(self, photos: Iterable[Member]):
        self._by_name, self._folders = defaultdict(list), set()
        for photo in photos:
            *folders, file = parts_of(photo)
            self._folders.update(folders)
            self._by_name[file].append(photo)
            if (stem := PurePosixPath(file).stem) != file:
                self._by_name[stem].append(photo)

    def find(self, called: str, table: str, name: str) -> Member | None:
        """The photo, or None; UserError where several could be meant."""
        *folders, file = [part for part in called.replace("\\", "/").split("/") if part not in ("", ".")] or [
            ""
        ]
        found = self._by_name.get(file, [])
        for depth in range(1, len(folders) + 1):  # of the folders that it names, the last ones first
            folder = folders[-depth]
            nearer = [photo for photo in found if parts_of(photo)[-depth - 1 : -depth] == [folder]]
            if not nearer and folder in self._folders:
                return None  # another folder's photo of the same name
            found = nearer or found
        if len(found) > 1:  # those that lie beside the list, or below
            above = table.rpartition("/")[0]
            whole = "/".join(part for part in (above, *folders, file) if part)
            exact = [photo for photo in found if whole in (photo.path, photo.path.rpartition(".")[0])]
            below = [photo for photo in found if photo.path.startswith(f"{above}/")]
            found = exact or below or found
        if len(found) > 1:
            raise UserError(
                f"{name} has {found[0].path!r} and {found[1].path!r}, and {table} says {called!r} of both; "
                "give the folder as well in that list."
            )
        return found[0] if found else None


# ---------------------------------------------------------------- reading lists


def read_text(member: Member, name: str) -> str:
    """The text of a list, UTF-8 or (as Excel of Russian Windows writes it) cp1251."""
    if member.size > MAX_LIST_BYTES:
        raise UserError(f"{name} has {member.path}, too large for a list of labels; take it out.")
    with member.open() as file:
        data = file.read(MAX_LIST_BYTES)
    for encoding in (
        "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig",
        "cp1251",
        "latin-1",
    ):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return ""


def heading(cells: Iterable[str]) -> list[str]:
    """The headings without case, quotes and blanks around them."""
    return [cell.strip(" \t\"'\ufeff").casefold().replace(" ", "_") for cell in cells]


def column(head: list[str], names: Iterable[str]) -> int | None:
    """The place of the first heading among `names`, by their order; None where there is none."""
    return next((head.index(wanted) for wanted in names if wanted in head), None)


def _rows(member: Member, name: str) -> list[Row]:
    """The rows of a CSV of paths and labels; nothing where it has no such columns."""
    text = read_text(member, name).replace("\0", "")
    first = text[:10_000].splitlines()[:1] or [""]
    delimiter = max(",;\t|", key=first[0].count)
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{name} has {member.path}, which is not a CSV ({error}); write it again.") from None
    head = heading(table[0]) if table else []
    path, label, usage = (column(head, names) for names in (PATHS, LABELS, SPLIT_COLUMNS))
    if path is None and label is None and len(head) == 2 and head[0].endswith(IMAGE_SUFFIXES):
        path, label, usage, start = 0, 1, None, 0  # no headings: photo,label
    elif path is None or label is None or path == label:
        return []
    else:
        start = 1
    here = next((split for word in re.split(r"[\W_]+", member.path) if (split := split_of(word))), None)
    rows = []
    for number, cells in enumerate(table[start:], start + 1):
        if len(cells) <= max(path, label) or not cells[path].strip():
            continue
        split = _split(cells, usage, here, f"{name}, {member.path}, row {number}")
        photo = unicodedata.normalize("NFC", cells[path].strip())
        rows.append(Row(photo, _class_name(cells[label], member, name), split or _split_in(photo)))
    return rows


def _split(cells: list[str], usage: int | None, here: str | None, where: str) -> str | None:
    said = cells[usage].strip() if usage is not None and usage < len(cells) else ""
    if not said:
        return here
    if not (split := split_of(said)):
        raise UserError(f"{where} has {said!r} for its split; write {', '.join(SPLITS)}, or leave it empty.")
    return split


def _split_in(path: str) -> str | None:
    """The split that a folder in the path names."""
    return next((split for part in re.split(r"[/\\]", path)[:-1] if (split := split_of(part))), None)


def _class_name(cell: str, member: Member, name: str) -> str:
    """A label as the name of a folder: numbers without ".0"."""
    label = re.sub(r"(?<=\d)\.0$", "", unicodedata.normalize("NFC", cell.strip()))
    if re.search(r"[/\\\0]", label) or label.startswith("."):
        raise UserError(
            f"{name} has the label {label!r} in {member.path}, which no folder can have; rename it."
        )
    return label


def _raf_db(lists: list[Member], photos: list[Member], name: str) -> Layout:
    """RAF-DB as its authors hand it out: Image/aligned or /original, and EmoLabel/list_patition_label.txt."""
    basic = [member for member in lists if "compound" not in member.path.casefold()]
    if len(basic) != 1:
        raise UserError(
            f"{name} has {len(lists)} lists of RAF-DB's labels; give the folder basic as the source."
        )
    said = _raf_list(basic[0], name)
    found = {}
    for photo in photos:
        stem = PurePosixPath(photo.path).stem
        plain = stem.removesuffix("_aligned")
        if plain in said and (plain not in found or stem != plain):  # the aligned photo, where there are both
            found[plain] = photo
    if not found:
        raise UserError(
            f"{name} has no photo that {basic[0].path} names; unpack Image/aligned.zip there too."
        )
    layout = Layout(notes=[f"Labels are RAF-DB's, from {basic[0].path}: 1 = {RAF_DB[1]} … 7 = {RAF_DB[7]}."])
    if missing := len(said) - len(found):
        layout.notes.append(f"{missing:,} of {len(said):,} photos in that list are not there.")
    for plain, photo in found.items():
        split = "test" if plain.startswith("test") else "train"
        layout.placed.append(Placed(split, RAF_DB[said[plain]], parts_of(photo)[-1], photo))
    chosen = {photo.path for photo in found.values()}
    others = [photo for photo in photos if photo.path not in chosen]
    layout.left_out.update("/".join(parts_of(photo)[:-1]) or "no folder" for photo in others)
    return layout


def _raf_list(member: Member, name: str) -> dict[str, int]:
    """RAF-DB's list, lines such as `train_00001.jpg 5`: a number from 1 to 7 for each photo's name."""
    said = {}
    for line in read_text(member, name).splitlines():
        photo, _, number = line.strip().rpartition(" ")
        if photo and number not in ("1", "2", "3", "4", "5", "6", "7"):
            raise UserError(
                f"{name} has {line[:60]!r} in {member.path}, and RAF-DB's basic emotions are 1 to 7; take a "
                "complete copy of the folder basic."
            )
        if photo:
            said[PurePosixPath(photo.strip()).stem] = int(number)
    return said
