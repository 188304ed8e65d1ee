"""What a source holds: its files, and which photo goes where in `data/`."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from tqdm.auto import tqdm

from emo.data.archives import Member, check_zip, folder_members, zip_members
from emo.data.label_lists import by_labels
from emo.data.layouts import WANTED, Plan, by_folders, photos_among, plan, visible
from emo.data.manifest import is_photo
from emo.data.pixel_tables import by_pixels
from emo.errors import UserError
from emo.paths import IMAGE_SUFFIXES


class Source(NamedTuple):
    """An open source: its files, its SHA-256 where it is one file, and sentences about it."""

    members: list[Member]
    sha256: str | None
    notes: list[str]


@contextmanager
def open_source(place: Path, name: str, encoding: str | None = None) -> Iterator[Source]:
    """A folder, a zip or a CSV of pixels, open to be read. Raises UserError for anything else."""
    if place.is_dir():
        yield Source(folder_members(place), None, [])
    elif not place.is_file():
        raise UserError(f"{name} is a device or a pipe; give a zip, a CSV or a folder.")
    elif is_photo(place):
        raise UserError(f"{name} is one photo; give the folder that holds the class folders.")
    elif place.suffix.casefold() in (".csv", ".tsv"):
        member = Member(place.name, place.stat().st_size, partial(place.open, "rb"))
        yield Source([member], sha256(place), [])
    else:
        check_zip(place, name)
        digest = sha256(place)
        with ZipFile(place) as archive:
            members, note = zip_members(archive, encoding, name)
            yield Source(members, digest, [note] if note else [])


def arrange(members: list[Member], name: str) -> Plan:
    """The place below `data/` of each photo: by lists of labels, by tables of pixels, or by folders.

    Raises UserError where there are no photos, or nothing tells the class of each.
    """
    seen = visible(members)
    photos = photos_among(seen)
    if not photos:
        if layout := by_pixels(seen, name):
            return plan(layout, name)
        raise UserError(_no_photos(seen, name))
    if layout := by_labels(seen, photos, name):
        return plan(layout, name)
    try:
        return plan(by_folders(photos, name), name)
    except UserError as error:
        tables = [member.path for member in seen if member.path.casefold().endswith((".csv", ".tsv"))]
        if not tables:
            raise
        hint = f"if {tables[0]} holds the labels, name its columns path and label"
        raise UserError(f"{str(error).removesuffix('.')}; {hint}.") from None


def _no_photos(members: list[Member], name: str) -> str:
    """Why a source without photos is none, in a sentence."""
    suffixes = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz")
    packed = [member.path for member in members if member.path.casefold().endswith(suffixes)]
    if packed:
        return f"{name} holds {packed[0]} and no photos; unpack that too, and give the folder as the source."
    if len(members) == 1 and members[0].path.casefold().endswith((".csv", ".tsv")):
        return (
            f"{name} has no columns pixels and emotion, so it holds no photos; give the folder with the "
            "photos it lists."
        )
    return f"{name} has no photos inside ({' '.join(IMAGE_SUFFIXES)}); {WANTED}."


def sha256(path: Path) -> str:
    """The file's SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file, tqdm.wrapattr(file, "read", path.stat().st_size, desc="Checking") as read:
        while block := read.read(2**20):
            digest.update(block)
    return digest.hexdigest()
