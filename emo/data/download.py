"""A dataset from where it lies into `data/`: Google Drive, Kaggle, the web, a zip, a folder, the sample."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from emo.data.archives import Member
from emo.data.combine import check_dataset_name, combined
from emo.data.install import (
    BY_HAND,
    Growth,
    KeepsDownload,
    add_photos,
    check_room,
    clear_downloads,
    counted,
    datasets,
    finish_leftovers,
    further_datasets,
    growth,
    install,
    placed_files,
    read_record,
    with_further,
)
from emo.data.lock import locked
from emo.data.manifest import class_names, folders_fault, read_class_names
from emo.data.set_aside import holds_files, in_the_way, occupied
from emo.data.sources import Source, arrange, open_source, sha256
from emo.data.split import known_sizes
from emo.data.web import download_drive, download_kaggle, download_url
from emo.data.zip_names import check_encoding
from emo.errors import UserError
from emo.paths import NOTEBOOK_FILES, SAMPLE_ZIP, Paths

ORIGINAL_DATASET = "https://drive.google.com/uc?id=1pm86O0t_0caQq3b3Qz5iNI3T77p2o-C1"


class _Place(NamedTuple):
    """A source by its full name, and where it is: a path, a Google Drive id, an address, a Kaggle dataset.

    `tried` are the paths at which it was looked for.
    """

    name: str
    path: Path | None = None
    drive_id: str = ""
    url: str = ""
    kaggle: str = ""
    tried: tuple[Path, ...] = ()


def fetch_dataset(
    source: str | Path, paths: Paths, encoding: str | None = None, add: str | None = None
) -> dict[str, int]:
    """Put a dataset's photos into `data/train/<class>/…`, and val, test, test_kaggle where it has them.

    `source` is "sample", a Google Drive link or id, "kaggle:owner/name" or the address of that dataset, the
    address of a zip, a zip, a folder (it is copied) or a CSV of pixels such as fer2013.csv. A relative path
    is looked for in the current folder, in and beside `paths.root`, in the file panel of Colab and among the
    inputs of a notebook on Kaggle. Inside it: splits under any usual name, class folders, a list of labels
    beside the photos, or AffectNet, RAF-DB and FER2013 as they are handed out.
    `encoding` is the code page of the names in a zip that does not say it, such as "cp866"; where it is None,
    it is guessed. Returns the photos in `data/` per folder, e.g. {"train": 900, "val": 180}.

    `add`, a name such as "affectnet", puts a further dataset beside the one that lies in `data/`: its photos
    join the classes of that name or meaning (anger → angry), the name before their own; classes that `data/`
    lacks stay out, and that is said. Nothing is overwritten.

    The same source again changes nothing, or adds the photos that are new in it; a broken download goes on
    where it stopped; a second call at the same time waits. Raises UserError, with `data/` as it was, for
    whatever cannot be fetched whole, and where another dataset lies there (see `set_aside_dataset`).
    """
    check_encoding(encoding)
    if add is not None:
        check_dataset_name(add)
    with _explained(str(source), paths.data):
        place = _locate(str(source).strip(), paths)
        _check_not_own(place, paths)
        paths.data.mkdir(parents=True, exist_ok=True)
        with locked(paths), _explained(place.name, paths.data):
            finish_leftovers(paths)
            if add is not None:
                counts = _fetch_further(place, paths, encoding, add)
            elif not occupied(paths):
                counts = _fetch(place, paths, encoding)
            else:
                counts = _here(place, paths) or _update(place, paths, encoding)
            clear_downloads(paths)
            return counts


def _locate(source: str, paths: Paths) -> _Place:
    """Where the source is. Raises UserError for what can be none."""
    if source == "sample":
        return _Place(source, SAMPLE_ZIP)
    if not source:
        raise UserError('source is empty; give "sample", a Google Drive link, a zip file or a folder.')
    if "\0" in source:
        raise UserError(f"{source!r} holds a null character; check the path.")
    if re.match(r"(?:www\.kaggle|kaggle|drive\.google)\.com/", source):  # as some browsers show it
        source = f"https://{source}"
    link = re.match(r"https?://(?:drive|docs|drive\.usercontent)\.google\.com/", source)
    drive_id = re.search(r"(?:/d/|[?&]id=)([\w-]{10,})", source, re.ASCII) if link else None
    if link and not drive_id:
        raise UserError(
            f"{source} is not a link to a single Google Drive file; download the zip and pass its path."
        )
    if dataset := _kaggle_dataset(source):
        return _Place(f"kaggle:{dataset}", kaggle=dataset)
    if not link and re.match(r"https?://", source, re.IGNORECASE):
        return _Place(source, url=source)
    if not link and re.match(r"\w+://", source):
        raise UserError(f"{source} is not an address that can be fetched; give one of http(s), or a path.")
    if not drive_id:
        # the notebooks work in the clone, and what the machine's panel shows lies beside it
        folders = (Path.cwd(), paths.root, paths.root.parent, *filter(Path.is_dir, NOTEBOOK_FILES))
        try:
            given = Path(source).expanduser()
            tried = tuple(dict.fromkeys((folder / given).resolve() for folder in folders))
        except RuntimeError:  # ~somebody
            raise UserError(
                f"{source} names a user this machine does not have; write the path in full."
            ) from None
        there = [path for path in tried if path.exists()]
        fetched = read_record(paths.dataset_record).get("source")
        deleted = [path for path in tried if str(path) == fetched]  # to make room
        path = [*there, *deleted, *tried][0]
        # ids have all kinds of signs; a mistyped folder of words must not become one
        if there or not (drive_id := re.fullmatch(r"((?=.*\d)(?=.*[A-Z])[\w-]{25,})", source, re.ASCII)):
            return _Place(str(path), path, tried=tried)
    return _Place(f"https://drive.google.com/uc?id={drive_id[1]}", drive_id=drive_id[1])


def _kaggle_dataset(source: str) -> str:
    """What names a dataset on Kaggle, as "owner/name", perhaps with a version; "" for another source."""
    page, rest = r"https?://(?:www\.)?kaggle\.com/", r"([\w-]+/[\w-]+(?:/versions/\d+)?)/?(?:[?#].*)?"
    found = re.fullmatch(rf"(?:kaggle:|{page}datasets/){rest}", source, re.ASCII | re.IGNORECASE)
    if not found and re.match(rf"kaggle:|{page}", source, re.IGNORECASE):
        raise UserError(f'{source} names no dataset on Kaggle; give "kaggle:owner/name", as in its address.')
    return found[1] if found else ""


def _check_not_own(place: _Place, paths: Paths) -> None:
    """Raises UserError for a folder that `data/` lies in, or that is one of its own."""
    if not place.path or not place.path.is_dir():
        return
    data = paths.data.resolve()
    own = (paths.train, paths.train_aug, paths.val, paths.test, paths.test_kaggle, paths.features)
    inside = {folder.resolve() for folder in own} & {place.path, *place.path.parents}
    if inside or place.path in (data, *data.parents):
        raise UserError(
            f"{place.name} is or holds this project's own {paths.data}; give a folder that lies elsewhere."
        )


def _here(place: _Place, paths: Paths) -> dict[str, int]:
    """Says that `data/` holds what the source has, and counts it; nothing where that does not show at once.

    Raises UserError where `data/` holds another dataset.
    """
    record = read_record(paths.dataset_record)
    same_name = record.get("source") == place.name
    if place.path and place.path.is_file():  # its content decides: a zip may move or change
        here = record.get("sha256") == sha256(place.path)
    elif place.path and place.path.exists():
        here = False
    else:  # on the web, or deleted to make room
        here = same_name
        if place.path and not same_name:
            raise _missing(place)
    if not holds_files(paths.train) or not (here or same_name):
        raise in_the_way(paths, place.name, record)
    if not here:
        return {}
    counts = counted(placed_files(paths.data))
    print(f"{place.name} is already here: {_listed(counts)}.")
    return counts


def _missing(place: _Place) -> UserError:
    sample = place.name == "sample"
    hint = "git checkout data/sample.zip" if sample else "a Google Drive link, a zip or a folder"
    tried = " or ".join(map(str, place.tried or [place.path]))
    return UserError(f"{tried} does not exist; check the path, or try {hint}.")


def _fetch(place: _Place, paths: Paths, encoding: str | None) -> dict[str, int]:
    """Installs what is there; photos per folder."""
    with _opened(place, paths, encoding) as source:
        photos, notes = arrange(source.members, place.name)
        _check_free(photos, paths, place.name)
        install(photos, paths, place.name, source.sha256)
        _tell(f"Fetched {place.name}: {_listed(counted(photos))}", source, photos, notes)
        return counted(photos)


def _fetch_further(place: _Place, paths: Paths, encoding: str | None, name: str) -> dict[str, int]:
    """Puts a further dataset of that name beside the first, or what is new in it; photos per folder."""
    if not occupied(paths):
        raise KeepsDownload(f"{paths.data} is empty: fetch a first dataset, without add={name!r}.")
    classes = class_names(paths)
    record = read_record(paths.dataset_record)
    known = further_datasets(record).get(name)
    if known and known["source"] != place.name and not _same_file(known, place):
        raise KeepsDownload(
            f"add={name!r} is the name of {known['source']}, fetched {known['fetched']}; choose another."
        )
    if known and not (place.path and place.path.exists()):  # on the web, or deleted to make room
        print(f"{place.name} is already here: {_listed(known['photos'])}.")
        return counted(placed_files(paths.data))
    if not known:
        if name in (datasets(paths)[0], BY_HAND):
            raise KeepsDownload(f"add={name!r} stands for the first dataset in data/; choose another name.")
        _check_not_here(record, name, place)
        fetched, record = record, with_further(record, name, place.name)
    with _opened(place, paths, encoding) as source:
        if not known:
            _check_not_here(fetched, name, place, source.sha256)
        photos, notes = combined(arrange(source.members, place.name), classes, name, place.name)
        grown = growth(photos, paths, further_datasets(record)[name])
        if grown.taken:
            raise KeepsDownload(f"{paths.data} has other files that begin with {name}_; choose another name.")
        if grown.new:
            add_photos(grown.new, paths, record, source.sha256, name)
            _tell(f"Added {place.name} as {name}: {_listed(counted(grown.new))}", source, photos, notes)
        else:
            print(f"{place.name} is already here: {_listed(counted(photos))}.")
        _tell_differences(grown)
    return counted(placed_files(paths.data))


def _same_file(entry: dict, place: _Place) -> bool:
    """Whether the source is the file that the record's entry is of, wherever it lies now."""
    return bool(place.path and place.path.is_file() and entry.get("sha256") == sha256(place.path))


def _check_not_here(record: dict, name: str, place: _Place, digest: str | None = None) -> None:
    """Raises UserError where the record has the source, by its name or content: each photo would be twice."""
    known = {"the first dataset": record} | further_datasets(record)
    for title, entry in known.items():
        if entry.get("source") == place.name or (digest and entry.get("sha256") == digest):
            raise UserError(
                f"{place.name} is in data/ already, as {title}, and add={name!r} would bring each photo a "
                "second time; give another source, or rename it if it holds other photos now."
            )


@contextmanager
def _opened(place: _Place, paths: Paths, encoding: str | None) -> Iterator[Source]:
    """The source, downloaded where that is needed; a download that is not a dataset does not stay."""
    file = place.path
    if place.drive_id:
        file = download_drive(place.drive_id, place.name, paths.data)
    elif place.url:
        file = download_url(place.url, paths.data)
    elif place.kaggle:
        file = download_kaggle(place.kaggle)
    elif not file.exists():
        raise _missing(place)
    try:
        with _explained(place.name, paths.data), open_source(file, place.name, encoding) as source:
            yield source
    except KeepsDownload:
        raise
    except UserError:
        if place.drive_id or place.url:  # else every next call would stumble over the same bad file
            file.unlink()
        raise


def _update(place: _Place, paths: Paths, encoding: str | None) -> dict[str, int]:
    """Adds what is new in a source that was fetched before, or says that nothing is; photos per folder."""
    record = read_record(paths.dataset_record)
    with open_source(place.path, place.name, encoding) as source:
        photos, notes = arrange(source.members, place.name)
        grown = growth(photos, paths, record)
        fault = _classes_fault(photos, paths)
        if fault or grown.removed > len(photos) - len(grown.new):
            fault = f"{place.name} holds other photos than it did{f' and {fault}' if fault else ''}"
            raise in_the_way(paths, place.name, record, fault)
        if grown.new:
            add_photos(grown.new, paths, record, source.sha256)
            _tell(f"Added what is new in {place.name}: {_listed(counted(grown.new))}", source, photos, notes)
        else:
            print(f"{place.name} is already here: {_listed(counted(placed_files(paths.data)))}.")
        _tell_differences(grown)
    return counted(placed_files(paths.data))


def _tell_differences(grown: Growth) -> None:
    """Prints a sentence for each way in which a source differs from what was fetched of it."""
    differs = {
        "were removed from it since, and stay in data/": grown.removed,
        "have changed in it, and stay as they were fetched": grown.changed,
        "stay out, as data/ has other photos in their places": grown.taken,
    }
    for what, count in differs.items():
        if count:
            print(f"{count:,} photos {what}.")


def _classes_fault(photos: dict, paths: Paths) -> str:
    """How the classes of new photos differ from data/class_names.txt, where there is one."""
    if not paths.class_names.exists():
        return ""
    found = {place.split("/")[1] for place in photos if place.startswith("train/")}
    fault = folders_fault(read_class_names(paths.class_names), found)
    return f"{paths.class_names} does not match this source, which {fault}" if fault else ""


def _split_fault(photos: dict[str, Member], paths: Paths) -> str:
    """That data/split.csv, where there is one, was written about other photos: it would fit none of these."""
    known = known_sizes(paths)
    shared = islice((place for place in photos if place in known), 20)
    fits = not known or any(known[place] == _size(photos[place]) for place in shared)
    return "" if fits else f"{paths.split} is about other photos"


def _size(photo: Member) -> int:
    with photo.open() as file:  # a table of pixels knows no sizes
        return len(file.read())


def _check_free(photos: dict, paths: Paths, name: str) -> None:
    """Raises UserError, about all of it at once, where something keeps the photos out of `data/`."""
    try:
        faults = [*filter(None, (_classes_fault(photos, paths), _split_fault(photos, paths)))]
    except UserError as error:  # in class_names.txt or split.csv itself, no fault of the archive
        raise KeepsDownload(str(error)) from None
    if faults or ("test_kaggle" in counted(photos) and holds_files(paths.test_kaggle)):
        raise KeepsDownload(str(in_the_way(paths, name, read_record(paths.dataset_record), *faults)))
    check_room(photos, paths, name)


def _tell(what: str, source: Source, photos: dict, notes: list[str]) -> None:
    """Prints what was done, and a line for each thing to know about it."""
    skipped = max(0, len(source.members) - len(photos))
    print(f"{what}{f' (other files, skipped: {skipped:,})' if skipped else ''}.")
    for note in [*source.notes, *notes]:
        print(note)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} photos in {split}" for split, count in counts.items())


@contextmanager
def _explained(name: str, data: Path) -> Iterator[None]:
    """Tells every failure of the disk or the archive in one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # broken bytes surface as BadZipFile, zlib.error, struct.error, ValueError, …
        reason = str(error) or type(error).__name__
        # a seek to where a broken header points is an OSError, too
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            advice = {
                errno.ENAMETOOLONG: "give a shorter path",
                errno.ELOOP: "that link leads to itself",
                errno.ENOSPC: "make room on the disk and run this again",
                errno.EDQUOT: "make room on the disk and run this again",
            }.get(error.errno, "check the free space and the permissions")
            raise KeepsDownload(
                f"Fetching {name[:200]} into {data} failed ({reason[:300]}); {advice}."
            ) from error
        raise UserError(f"{name} is damaged ({reason}); download or make it again.") from error
