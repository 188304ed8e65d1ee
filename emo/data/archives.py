"""The files of a folder or a zip: none that leads elsewhere, is waited for for ever or fills the memory."""

import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from emo.data.image_io import MAX_BYTES
from emo.data.manifest import is_photo
from emo.data.zip_names import decode_names
from emo.errors import UserError
from emo.files import files_below, is_junk

MAX_TABLE_BYTES = 2**32  # of a file that is not a photo, such as fer2013.csv (0.3 GB)
MAX_RATIO, RATIO_FROM = 100, 2**30  # photos of more than a GB that shrink a hundredfold are a bomb
# zipfile unpacks a whole block of the others at once, even gigabytes, and hardly a zip of photos has them
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
OTHER_ARCHIVES = {  # how files begin that people take for a zip
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
}


@dataclass(frozen=True)
class Member:
    """One file of a source: its path below it (with /, in NFC), its size in bytes, how to read it."""

    path: str
    size: int
    open: Callable[[], BinaryIO]


def folder_members(folder: Path) -> list[Member]:
    """Every file below `folder` but hidden ones. Raises UserError for a device or a pipe."""
    members = []
    for path in files_below(folder):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder that nobody may list" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
            raise UserError(f"{path} is {what}, which cannot be copied; take it out of {folder}.")
        name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
        members.append(Member(name, status.st_size, partial(path.open, "rb")))
    return members


def zip_members(archive: zipfile.ZipFile, encoding: str | None, name: str) -> tuple[list[Member], str]:
    """Every file in the archive, and a sentence where the letters of its names were guessed.

    Raises UserError for an entry that may not be unpacked: it leads out of its folder, is a link, encrypted,
    or larger than its kind can be; and for an archive that unpacks to far more than it holds.
    """
    paths, note = decode_names(archive, encoding, name)
    members = []
    for info, path in paths.items():
        # Windows' own zips have backslashes; after decoding, as Japanese letters end in that byte
        path = unicodedata.normalize("NFC", path.replace("\\", "/"))
        if fault := _fault(info, path):
            shown = repr(info.orig_filename if info.orig_filename.isascii() else path)[:120]
            raise UserError(
                f"{name} stays packed as its entry {shown} {fault}; make a plain zip of the photos."
            )
        if not path.endswith("/"):
            members.append(Member(path, info.file_size, partial(archive.open, info)))
    packed = sum(info.compress_size for info in archive.infolist())
    unpacked = sum(member.size for member in members if _limit(member.path))
    if unpacked > max(RATIO_FROM, MAX_RATIO * packed):
        raise UserError(
            f"{name} would grow from {packed / 1e6:,.1f} MB to {unpacked / 1e9:,.1f} GB, as no photos do; "
            "make a plain zip of the photos."
        )
    return members, note


def _fault(info: zipfile.ZipInfo, path: str) -> str:
    """Why an entry may not be unpacked, or ""."""
    if re.match(r"/|[A-Za-z]:", path) or ".." in path.split("/"):
        return "leads out of its folder"
    if "\0" in path:
        return "has a name that no disk can hold"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link"
    if any(map(is_junk, path.split("/"))) or path.endswith("/"):
        return ""
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in METHODS:
        return f"is compressed by a method other than Deflate (method {info.compress_type})"
    if len(max(path.encode(errors="replace").split(b"/"), key=len)) > 255:
        return "has a name that is too long for a disk"
    limit = _limit(path)
    return f"is larger than {limit / 2**20:,.0f} MiB" if limit and info.file_size > limit else ""


def _limit(path: str) -> int:
    """The most bytes that a file of such a name can have; 0 for one that is never unpacked."""
    if is_photo(Path(path)):
        return MAX_BYTES
    return MAX_TABLE_BYTES if path.casefold().endswith((".csv", ".tsv", ".txt")) else 0


def check_zip(path: Path, name: str) -> None:
    """Raises UserError unless the file is a complete zip file, saying what it is instead."""
    with path.open("rb") as file:
        start = file.read(512)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head")):
        fault = "is a web page instead of a zip (Google Drive sends one over its quota, or if not shared)"
        raise UserError(f"{name} {fault}; save the zip with your browser and pass its path.")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{name} is a pointer of Git LFS, not the zip itself; run git lfs pull.")
    if zipfile.is_zipfile(path):
        return
    for signature, what in OTHER_ARCHIVES.items():
        if start.startswith(signature):
            raise UserError(
                f"{name} is not a complete zip file but {what}; unpack it yourself, and pass the folder."
            )
    fault = "is not a complete zip file (truncated, or not a zip at all)"
    raise UserError(f"{name} {fault}; download or make it again, or pass a folder.")


def renamed(member: Member, path: str) -> Member:
    """The same file under another path."""
    return replace(member, path=path)
