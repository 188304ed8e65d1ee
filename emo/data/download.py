"""A dataset from wherever it lies into `data/`: Google Drive, a zip, a folder, the sample set."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import gdown
from tqdm.auto import tqdm

from emo.data.manifest import check_class_names, check_folders, class_names, is_photo, read_class_names
from emo.errors import UserError
from emo.files import LEFTOVERS, files_below, is_junk, write_text
from emo.paths import IMAGE_SUFFIXES, SAMPLE_ZIP, Paths

SEED_DATASET = "https://drive.google.com/uc?id=1pm86O0t_0caQq3b3Qz5iNI3T77p2o-C1"
SPARE_BYTES = 256 * 2**20  # stays free on the disk after unpacking, for the model and the table
WANTED = "it must hold train/<class>/ or <class>/ folders with photos"
FOLDERS = ("train", "val", "test", "test_kaggle")


class _KeepsDownload(UserError):
    """A mistake outside the archive: a finished download stays for the next call."""


def fetch_dataset(source: str | Path, paths: Paths, sha256: str | None = None) -> dict[str, int]:
    """Put a data set's photos into `data/train/<class>/…`, and val, test, test_kaggle where it has them.

    `source` is "sample", a Google Drive link or id, a zip file or a folder, which is copied. Inside it:
    `train/<class>/…` or the class folders themselves, also below other folders. `sha256` is the archive's
    expected hash. Returns the photos per folder, e.g. {"train": 900, "val": 180}, and prints a sentence.
    The same source again changes nothing; a broken download goes on where it stopped. Raises UserError,
    with `data/` as it was, for whatever cannot be fetched whole.
    """
    with _explained(str(source), paths.data):
        name, place = _locate(str(source).strip())
        expected = sha256 and sha256.strip().lower()
        if occupied := [
            path for path in (paths.train, paths.train_aug, paths.val, paths.test) if _holds_files(path)
        ]:
            record = _read_record(paths.dataset_record)
            same = record.get("source") == name
            if isinstance(place, Path) and place.is_file():  # its content decides: a zip may move or change
                same = record.get("sha256") == _sha256(place)
            if not same or paths.train not in occupied or expected not in (None, record.get("sha256")):
                origin = f" of {record['source']}, fetched {record['fetched']}" if "fetched" in record else ""
                raise UserError(
                    f"{occupied[0]} already holds files{origin}; move or delete them before you fetch {name}."
                )
            counts = {split: sum(map(is_photo, files_below(paths.data / split))) for split in FOLDERS}
            counts = {split: count for split, count in counts.items() if count}
            print(f"{name} is already here: {_listed(counts)}.")
            return counts

        paths.data.mkdir(parents=True, exist_ok=True)
        downloaded = isinstance(place, str)
        archive = _download(place, name, paths.data) if downloaded else place
        try:
            counts, skipped = _install(archive, name, paths, expected)
        except _KeepsDownload:
            raise
        except UserError:
            if downloaded:  # else every next call would stumble over the same bad file
                archive.unlink()
            raise
        if downloaded:
            archive.unlink()
        note = f" (other files, skipped: {skipped:,})" if skipped else ""
        print(f"Fetched {name}: {_listed(counts)}{note}.")
        return counts


def _locate(source: str) -> tuple[str, Path | str]:
    """The source's full name, and its path or (a string) its Google Drive id."""
    if source == "sample":
        return source, SAMPLE_ZIP
    link = re.match(r"https?://(?:drive|docs|drive\.usercontent)\.google\.com/", source)
    drive_id = re.search(r"(?:/d/|[?&]id=)([\w-]{10,})", source, re.ASCII) if link else None
    if not drive_id and re.match(r"\w+://", source):
        raise UserError(f"{source} is no link to one Google Drive file; download the zip and pass its path.")
    path = Path(source or ".").expanduser().resolve()
    if not drive_id and not path.exists():
        drive_id = re.fullmatch(r"([\w-]{25,})", source, re.ASCII)
    if drive_id:
        return f"https://drive.google.com/uc?id={drive_id[1]}", drive_id[1]
    if not source:
        raise UserError('source is empty; give "sample", a Google Drive link, a zip file or a folder.')
    return str(path), path


def _download(drive_id: str, name: str, folder: Path) -> Path:
    """Download a public Google Drive file into `folder`, going on with what an earlier call left there."""
    target = folder / f".download-{drive_id}.zip"
    if target.exists():  # complete; only its unpacking was interrupted
        return target

    def parts() -> list[Path]:  # gdown writes <target><8 characters>.part, and `resume` picks that up
        return sorted(folder.glob(f"{target.name}*.part"), key=lambda part: part.stat().st_size)

    for smaller in parts()[:-1]:  # given several, gdown 5 returns None and gdown 6 raises
        smaller.unlink()
    try:
        gdown.download(id=drive_id, output=str(target), resume=True)  # `id`, as gdown 6 has no `fuzzy`
    except gdown.exceptions.FileURLRetrievalError:
        raise UserError(
            f"Google Drive does not hand out {name} (too many downloads today, or not shared with 'Anyone "
            "with the link'); save the zip with your browser and pass its path."
        ) from None
    except Exception as error:  # those of requests, urllib3 and gdown differ by version
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:150]
        kept = sum(part.stat().st_size for part in parts()) / 1e6
        raise UserError(
            f"The download of {name} broke ({reason}); run this again, it goes on from {kept:.1f} MB."
        ) from None
    if not target.exists():
        raise UserError(f"Google Drive sent nothing for {name}; run this again in a minute.")
    return target


def _install(place: Path, name: str, paths: Paths, expected: str | None) -> tuple[dict[str, int], int]:
    """Check, unpack beside the target, move in: photos per split and the number of skipped files."""
    if not place.exists():
        hint = (
            "git checkout data/sample.zip" if name == "sample" else "a Google Drive link, a zip or a folder"
        )
        raise UserError(f"{place} does not exist; check the path, or try {hint}.")
    with ExitStack() as stack:
        stack.enter_context(_explained(name, paths.data))
        if place.is_dir():
            if expected:
                raise UserError(f"{name} is a folder, and sha256 belongs to an archive; leave sha256 out.")
            digest, read_member = None, partial(Path.open, mode="rb")
            members = [(path.relative_to(place).as_posix(), path) for path in files_below(place)]
            sizes = {path: path.stat().st_size for _, path in members}
        else:
            digest = _check_archive(place, name, expected)
            archive = stack.enter_context(zipfile.ZipFile(place))
            members, read_member = _safe_members(archive, name), archive.open
            sizes = {info: info.file_size for _, info in members}
        photos = _layout(members, name)
        if paths.class_names.exists():
            found = {path.split("/")[1] for path in photos if path.startswith("train/")}
            with _keeping_download():
                check_folders(read_class_names(paths.class_names), found, name, paths)
        found = Counter(path.split("/")[0] for path in photos)
        counts = {split: found[split] for split in FOLDERS if split in found}
        if "test_kaggle" in counts and _holds_files(paths.test_kaggle):
            raise _KeepsDownload(f"{paths.test_kaggle} already holds files; move it away to fetch {name}.")
        needed = sum(sizes[member] for member in photos.values()) + SPARE_BYTES
        if needed > (free := shutil.disk_usage(paths.data).free):
            room = f"{needed / 1e9:.1f} GB in {paths.data}, where {free / 1e9:.1f} GB are free"
            raise _KeepsDownload(f"{name} needs {room}; make room, or check that it is the right archive.")

        temp = tempfile.TemporaryDirectory(prefix=".unpacking-", dir=paths.data, ignore_cleanup_errors=True)
        unpacked = Path(stack.enter_context(temp))
        for path, member in tqdm(photos.items(), desc="Unpacking", unit="photo"):
            (unpacked / path).parent.mkdir(parents=True, exist_ok=True)
            with read_member(member) as photo, (unpacked / path).open("xb") as copy:
                shutil.copyfileobj(photo, copy)  # a zip's member read to its end has passed its CRC check
        today = datetime.now().isoformat(timespec="seconds")
        record = {"source": name, "sha256": digest, "fetched": today, "photos": counts}
        _move_in(unpacked, paths, record)
    return counts, len(members) - len(photos)


def _move_in(unpacked: Path, paths: Paths, record: dict) -> None:
    """Rename the unpacked splits into `data/`, write class names and record: all of it or nothing."""
    with ExitStack() as undo:
        for split in record["photos"]:
            target = paths.data / split
            moves = [(unpacked / split, target)]
            if target.is_dir() and not target.is_symlink():  # without files, but Windows won't rename over it
                moves.insert(0, (target, unpacked / f"empty-{split}"))
            for old, new in moves:
                os.rename(old, new)  # noqa: PTH104 -- as in the undo
                undo.callback(os.rename, new, old)
        if not paths.class_names.exists():
            undo.callback(paths.class_names.unlink, missing_ok=True)
        class_names(paths)
        write_text(paths.dataset_record, json.dumps(record, ensure_ascii=False, indent=2))
        undo.pop_all()  # everything is in place


@contextmanager
def _keeping_download() -> Iterator[None]:
    """A mistake in what already lies in `data/` is none of the archive's."""
    try:
        yield
    except UserError as error:
        raise _KeepsDownload(str(error)) from None


@contextmanager
def _explained(name: str, data: Path) -> Iterator[None]:
    """Tell every failure of the disk or the archive in one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # broken bytes surface as BadZipFile, zlib.error, struct.error, ValueError, …
        reason = str(error) or type(error).__name__
        # a seek to where a broken header points is an OSError, too
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            fault = f"Fetching {name} into {data} failed ({reason})"
            raise _KeepsDownload(f"{fault}; check the free space and the permissions.") from error
        raise UserError(f"{name} is damaged ({reason}); download or make it again.") from error


def _check_archive(path: Path, name: str, expected: str | None) -> str:
    """The archive's SHA-256; UserError unless it is a zip file with the expected one."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head")):
        fault = "is a web page instead of a zip (Google Drive sends one over its quota, or if not shared)"
        raise UserError(f"{name} {fault}; save the zip with your browser and pass its path.")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{name} is no whole zip file (cut short, or no zip); download or make it again.")
    digest = _sha256(path)
    if expected not in (None, digest):
        raise UserError(f"{name} has the sha256 {digest}, not {expected}; download it again or correct that.")
    return digest


def _safe_members(archive: zipfile.ZipFile, name: str) -> list[tuple[str, zipfile.ZipInfo]]:
    """Path and entry of every file in the archive; UserError for what may not be unpacked."""
    for info in archive.infolist():
        path = info.orig_filename  # as written: `filename` hides backslashes on Windows
        if re.match(r"/|[A-Za-z]:", path) or "\\" in path or ".." in path.split("/"):
            fault = "leads out of its folder"
        elif stat.S_ISLNK(info.external_attr >> 16):
            fault = "is a symbolic link"
        elif info.flag_bits & 0x1:
            fault = "is encrypted"
        else:
            continue
        raise UserError(f"{name} stays packed as its entry {path!r} {fault}; make a plain zip of the photos.")
    return [(info.filename, info) for info in archive.infolist() if not info.is_dir()]


def _layout(members: Iterable[tuple[str, object]], name: str) -> dict[str, object]:
    """The photos by their place below `data/`, such as `train/happy/1.jpg`."""
    photos = []
    for path, member in members:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if parts and not any(map(is_junk, parts)) and is_photo(Path(path)):
            photos.append((parts, member))
    if not photos:
        raise UserError(f"{name} has no photos inside ({' '.join(IMAGE_SUFFIXES)}); {WANTED}.")

    depth = 0  # of the folder that holds train/ or the class folders
    while True:
        folders = {parts[depth].lower() for parts, _ in photos if len(parts) > depth + 1}
        if len(folders) != 1 or folders & set(FOLDERS):
            break
        depth += 1
    bare = not folders & set(FOLDERS)

    placed, spelled, classes = {}, {}, {split: set() for split in FOLDERS}
    for parts, member in photos:
        if len(parts) < depth + 2:
            continue  # lies beside the folders
        shown = "/".join(parts)
        below = ["train", *parts[depth:]] if bare else [parts[depth].lower(), *parts[depth + 1 :]]
        if below[0] not in FOLDERS:
            continue
        if bare and len(below) != 3:
            raise UserError(f"{name} has {shown!r}, too deep for <class>/<photo>; {WANTED}.")
        if below[0] != "test_kaggle":
            if len(below) < 3:
                raise UserError(f"{name} has {shown!r} in no class folder; {WANTED}.")
            classes[below[0]].add(below[1])
        for end in range(1, len(below) + 1):
            place = "/".join(below[:end])
            other = spelled.setdefault(unicodedata.normalize("NFC", place).casefold(), place)
            if other != place or place in placed:
                fault = f"has both {other!r} and {place!r}, one and the same file on many disks"
                raise UserError(f"{name} {fault}; rename one and make it again.")
        placed[place] = member
    check_class_names(classes["train"], name)
    if len(classes["train"]) < 2:
        raise UserError(f"{name} has fewer than two class folders for training; {WANTED}.")
    for split in ("val", "test"):
        if extra := sorted(classes[split] - classes["train"]):
            raise UserError(
                f"{name} has {split}/{extra[0]} but no train/{extra[0]}; add that or take it out."
            )
    return placed


def _holds_files(folder: Path) -> bool:
    return any(set(files) - LEFTOVERS for _, _, files in os.walk(folder))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, tqdm.wrapattr(file, "read", path.stat().st_size, desc="Checking") as read:
        while block := read.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} photos in {split}" for split, count in counts.items())


def _read_record(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or mangled: then the photos count as placed by hand
        return {}
    return record if isinstance(record, dict) else {}
