"""Photos come into `data/` whole or not at all; what a killed call has left is finished or cleared."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from emo.data.archives import Member
from emo.data.layouts import FOLDERS
from emo.data.manifest import class_names, is_photo
from emo.errors import UserError
from emo.files import files_below, write_text
from emo.paths import Paths

BY_HAND = "data"  # the name of a first dataset that nobody fetched
SPARE_BYTES = 256 * 2**20  # stays free on the disk after unpacking, for the model and the table


class KeepsDownload(UserError):
    """A mistake outside the archive: a finished download stays for the next call."""


class Growth(NamedTuple):
    """What a source holds now that it did not when it was fetched: photos by place, and how many differ."""

    new: dict[str, Member]
    removed: int  # photos that were fetched and are no longer in the source
    changed: int  # photos that have another size there
    taken: int  # new ones in whose place `data/` holds another photo


def install(photos: dict[str, Member], paths: Paths, name: str, digest: str | None) -> None:
    """Copies the photos and moves them in with class names and record: all of it or nothing."""
    record = _entry(photos, name, digest)
    with _copied(photos, paths, name, record) as folder:
        _move_in(folder, paths, list(record["photos"]), record)


def _entry(photos: dict[str, Member], source: str, digest: str | None) -> dict:
    """What `data/dataset.json` tells of a dataset."""
    today = datetime.now().isoformat(timespec="seconds")
    files = {place: member.size for place, member in photos.items()}
    return {"source": source, "sha256": digest, "fetched": today, "photos": counted(photos), "files": files}


def with_further(record: dict, name: str, source: str) -> dict:
    """The record with a further dataset of that name, of which no photo is here yet."""
    return _extended(record, name, _entry({}, source, None))


def _extended(record: dict, name: str, entry: dict) -> dict:
    return record | {"further": further_datasets(record) | {name: entry}}


def further_datasets(record: dict) -> dict[str, dict]:
    """What the record tells of the datasets that were added to the first, by their names."""
    further = record.get("further")
    entries = further.items() if isinstance(further, dict) else ()
    return {name: entry for name, entry in entries if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("source", "fetched"))


def datasets(paths: Paths) -> tuple[str, dict[str, str]]:
    """The first dataset's name, "data" where nothing tells it, and the name of each photo of a further one.

    Photos go by their place below `data/`; those that nobody fetched count as the first dataset's.
    """
    record = read_record(paths.dataset_record)
    further = further_datasets(record).items()
    source = record.get("source")
    first = _stem(source) if isinstance(source, str) else ""
    return first or BY_HAND, {place: name for name, entry in further for place in _files(entry)}


def _stem(source: str) -> str:
    """A name for what was given none: the file's or folder's, without its ending."""
    return "drive" if "drive.google.com" in source else Path(source.split("?")[0]).stem


def growth(photos: dict[str, Member], paths: Paths, record: dict) -> Growth:
    """How a source differs from what `record` says was fetched from it."""
    before = _fetched_files(paths, record)
    new = {place: member for place, member in photos.items() if place not in before}
    there = {place for place in new if (paths.data / place).exists()}
    own = {place for place in there if _same_bytes(new[place], paths.data / place)}  # a stopped call's
    return Growth(
        {place: member for place, member in new.items() if place not in there},
        sum(place not in photos for place in before),
        sum(place in photos and size not in (None, photos[place].size) for place, size in before.items()),
        len(there - own),
    )


def add_photos(
    new: dict[str, Member], paths: Paths, record: dict, digest: str | None, name: str = ""
) -> None:
    """Copies a grown source's new photos and moves them in; what is there stays as it is.

    The source is the first in `record`, or the further dataset of that `name`.
    """
    entry = further_datasets(record)[name] if name else record
    files = _fetched_files(paths, entry) | {place: member.size for place, member in new.items()}
    entry = entry | {"sha256": digest, "photos": counted(files), "files": files}
    record = _extended(record, name, entry) if name else entry
    with _copied(new, paths, entry["source"], record) as folder:
        _move_in(folder, paths, list(new), record)


def finish_leftovers(paths: Paths) -> None:
    """Finishes or clears what a killed call has left: a complete copy moves in, half a copy goes."""
    for folder in sorted(paths.data.glob(".unpacking-*")):
        if record := read_record(folder / paths.dataset_record.name):
            places = [place for place in placed_files(folder) if not (paths.data / place).exists()]
            _move_in(folder, paths, places, record)
            entries = [entry for entry in (record, *further_datasets(record).values()) if _is_entry(entry)]
            latest = max(entries, key=lambda entry: entry["fetched"])
            print(f"Moved in the rest of {latest['source']}, whose fetch was stopped.")
        shutil.rmtree(folder, ignore_errors=True)


def clear_downloads(paths: Paths) -> None:
    """Removes the downloads that earlier calls have left."""
    for file in paths.data.glob(".download-*"):
        file.unlink(missing_ok=True)


def read_record(path: Path) -> dict:
    """`data/dataset.json`; nothing where it is missing or damaged, as if the photos were placed by hand."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(record, dict) and (_is_entry(record) or further_datasets(record))
    return record if known else {}


def counted(places: Iterable[str]) -> dict[str, int]:
    """Photos a folder of `data/`, of their places below it."""
    found = Counter(place.split("/")[0] for place in places)
    return {split: found[split] for split in FOLDERS if split in found}


def placed_files(data: Path) -> list[str]:
    """The photos in `data/` by their places, such as `train/happy/1.jpg`."""
    files = (file for split in FOLDERS for file in files_below(data / split))
    return [file.relative_to(data).as_posix() for file in files if is_photo(file)]


def check_room(photos: dict[str, Member], paths: Paths, name: str) -> None:
    """Raises UserError where the photos would not leave SPARE_BYTES free."""
    needed = sum(member.size for member in photos.values()) + SPARE_BYTES
    if needed > (free := shutil.disk_usage(paths.data).free):
        room = f"{needed / 1e9:.1f} GB in {paths.data}, where {free / 1e9:.1f} GB are free"
        raise KeepsDownload(f"{name} needs {room}; make room, or check that it is the right archive.")


def _fetched_files(paths: Paths, record: dict) -> dict[str, int | None]:
    """The size of each photo that was fetched, by its place; of an older record those that are there now."""
    return (
        _files(record) if isinstance(record.get("files"), dict) else dict.fromkeys(placed_files(paths.data))
    )


def _files(record: dict) -> dict[str, int]:
    """The size of each photo that the record names, by its place; {} for an older record."""
    files = record.get("files")
    return files if isinstance(files, dict) else {}


def _same_bytes(member: Member, path: Path) -> bool:
    with member.open() as file:
        return file.read(member.size + 2**20) == path.read_bytes()


@contextmanager
def _copied(photos: dict[str, Member], paths: Paths, name: str, record: dict) -> Iterator[Path]:
    """A folder in `data/` with copies of the photos and the record, gone at the end."""
    check_room(photos, paths, name)
    temp = tempfile.TemporaryDirectory(prefix=".unpacking-", dir=paths.data, ignore_cleanup_errors=True)
    with temp as made:
        folder = Path(made)
        for place, member in tqdm(photos.items(), desc="Unpacking", unit="photo"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            with member.open() as photo, (folder / place).open("xb") as copy:
                shutil.copyfileobj(photo, copy)  # a zip's entry read to its end has passed its CRC check
        write_text(folder / paths.dataset_record.name, _json(record))  # says that the copy is complete
        yield folder


def _move_in(folder: Path, paths: Paths, places: list[str], record: dict) -> None:
    """Renames files or folders from `folder` into `data/`, writes class names and record: all or nothing."""
    with ExitStack() as undo:
        for place in places:
            target = paths.data / place
            moves = [(folder / place, target)]
            if target.is_dir() and not target.is_symlink():  # empty, but Windows won't rename over it
                moves.insert(0, (target, folder / f"empty-{place}"))
            target.parent.mkdir(parents=True, exist_ok=True)
            for old, new in moves:
                os.rename(old, new)  # noqa: PTH104 -- as in the undo
                undo.callback(os.rename, new, old)
        if not paths.class_names.exists():
            undo.callback(paths.class_names.unlink, missing_ok=True)
        class_names(paths)
        write_text(paths.dataset_record, _json(record))
        undo.pop_all()  # everything is in place


def _json(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False, indent=2)
