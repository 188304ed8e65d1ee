"""What lies in `data/`: its classes in the order of the model's outputs, and a row per file."""

import hashlib
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from emo.data.image_io import Unusable, decode, read_bytes, reason, thread_pool
from emo.errors import UserError
from emo.files import files_below, is_junk, write_text
from emo.paths import IMAGE_SUFFIXES, Paths

TABLE_COLUMNS = (
    "path",
    "label",
    "source",
    "emotion",
    "confidence",
    "box",
)  # beside one a class, in tables of answers
THUMBNAIL = 24  # pixels a side
CHUNK = 4  # files a thread reads at a time: few, so that Ctrl-C ends a scan at once
COLUMNS = ["path", "width", "height", "mode", "bytes", "sha256", "problem", "thumbnail"]


def class_names(paths: Paths) -> tuple[str, ...]:
    """The classes in the order of the model's outputs: `data/class_names.txt`, written once, then checked.

    Where the file is missing it is written from `data/train`, sorted. Without class folders there (a model is
    only tested) the file stands alone. UserError when file and folders disagree or a class has no photos.
    """
    folders = _class_folders(paths.train)
    check_class_names(folders, paths.train)
    for folder in folders.values():
        if not any(map(is_photo, files_below(folder))):
            raise UserError(f"{folder} has no photos; add some, or delete the folder.")
    if paths.class_names.exists():
        names = read_class_names(paths.class_names)
        if folders and (fault := folders_fault(names, folders)):
            advice = "fix the folders, or delete the file if you keep no model of its classes"
            raise UserError(f"{paths.class_names} does not match: {paths.train} {fault}; {advice}.")
    elif folders:
        names = tuple(folders)
    else:
        raise UserError(
            f"{paths.train} has no class folders; fetch a dataset or run the prep notebook first."
        )
    if len(names) < 2:
        raise UserError(
            f"{paths.train if folders else paths.class_names} has one class only, {names[0]!r}; "
            "a classifier needs two or more."
        )
    for split in (paths.val, paths.test):
        for name, folder in _class_folders(split).items():
            if name not in names:
                raise UserError(f"{folder} is no class of {paths.class_names}; rename or move that folder.")
    if not paths.class_names.exists():
        write_text(paths.class_names, "".join(f"{name}\n" for name in names))
    return names


def read_class_names(file: Path, numbered: bool = False) -> tuple[str, ...]:
    """One class per line, in the file's order; `numbered`: perhaps behind running numbers, as in "0 angry".

    Raises UserError for a file that is empty, names one twice or as a column of the tables.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8; save it as UTF-8, one class per line.") from None
    names = tuple(nfc(line) for line in lines if line.strip())
    names = without_numbers(names) if numbered else names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        fault = f"names {twice[0]!r} twice" if twice else "is empty"
        raise UserError(f"{file} {fault}; list every class once, in the model's order.")
    check_class_names(names, file)
    return names


def without_numbers(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The names behind running numbers from 0 or 1 on, as in Teachable Machine's labels.txt; others as is."""
    found = [re.fullmatch(r"\s*(\d+)[\s:;,.)]+(.*\S)\s*", line) for line in lines]
    numbers = [int(each[1]) for each in found if each]
    running = len(lines) > 1 and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    return tuple(each[2] for each in found) if running else lines


def check_class_names(names: Iterable[str], where: str | Path) -> None:
    """Raises UserError for a class whose name a list of names, a folder or a table of answers cannot hold."""
    for name in sorted(set(names)):
        if name in TABLE_COLUMNS:
            fault = "which is a column of the tables of answers"
        elif not name.strip():
            fault = "which is blank"
        elif name != name.strip():
            fault = "which begins or ends with a blank"
        elif name.splitlines() != [name] or any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
            fault = "with a character that no line of text can hold"
        else:
            continue
        raise UserError(f"{where} has a class named {name!r}, {fault}; give that class another name.")


def folders_fault(names: Iterable[str], found: Iterable[str]) -> str:
    """How class folders differ from class names: "lacks sad and adds anger", "" where they agree."""
    missing, extra = sorted(set(names) - set(found)), sorted(set(found) - set(names))
    faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"adds {', '.join(extra)}"] * bool(extra)
    return " and ".join(faults)


def nfc(name: str) -> str:
    """The name with composed letters: macOS writes й as two, и and a breve, and means the same name."""
    return unicodedata.normalize("NFC", name)


def _class_folders(folder: Path) -> dict[str, Path]:
    """The class folders by their names; UserError where two have one name, written in two ways."""
    children = sorted(folder.iterdir()) if folder.is_dir() else ()
    found = {}
    for child in children:
        if child.is_dir() and not is_junk(child.name):
            if nfc(child.name) in found:
                raise UserError(
                    f"{folder} has two folders named {child.name}; put all photos into one of them."
                )
            found[nfc(child.name)] = child
    return dict(sorted(found.items()))


def scan_dataset(folder: str | Path, names: Iterable[str] | None = None) -> pd.DataFrame:
    """The manifest: one row per file that is not hidden, sorted by path; each photo is read once.

    Columns: path (absolute, with /), label (the first folder's name, "" for a file in none), width and height
    in pixels as stored, mode (Pillow's), bytes, sha256, problem ("" when training can read the photo, else
    the reason) and thumbnail (24 × 24 grey bytes, by which near-duplicates are found). A missing folder, or a
    photo outside the folders `names`, raises UserError; a bad file never does.
    """
    folder = Path(folder).expanduser().absolute()  # links stay: data/ may be one to another disk
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; check the path, set SOURCE, or run the prep notebook first."
        )
    files = sorted(files_below(folder), key=Path.as_posix)
    labels = ["" if file.parent == folder else nfc(file.relative_to(folder).parts[0]) for file in files]
    names = None if names is None else tuple(names)
    for file, label in zip(files, labels, strict=True):
        if names is not None and label not in names and is_photo(file):
            raise UserError(f"{file} lies in no class folder ({', '.join(names)}); move it into one or away.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # a broken EXIF block does the pixels no harm
        rows = _inspect_all(files, f"Reading {folder.name}")
    manifest = pd.DataFrame(rows, columns=COLUMNS)
    manifest.insert(1, "label", list(map(printable, labels)))
    return manifest


def scan_splits(paths: Paths) -> pd.DataFrame:
    """The manifests of `data/train`, `data/val` and `data/test`, those that exist, with a column split."""
    names = class_names(paths)
    folders = [folder for folder in (paths.train, paths.val, paths.test) if folder.is_dir()]
    if not folders:
        raise no_photos(paths)
    manifests = [scan_dataset(folder, names).assign(split=folder.name) for folder in folders]
    return pd.concat(manifests, ignore_index=True)


def no_photos(paths: Paths) -> UserError:
    """What to raise where `data/` is empty, as on a new machine that has the decisions of the last one."""
    return UserError(
        f"{paths.data} holds no photos; set SOURCE, or call emo.fetch_dataset(source, paths) first."
    )


def _inspect_all(files: list[Path], title: str) -> list[tuple]:
    """A manifest row per file, on all cores.

    By threads: reading, SHA-256 and Pillow's decoding let go of Python's lock, and unlike processes they
    start at once, in notebooks and scripts alike, and end with this one.
    """
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    rows = []
    with thread_pool() as pool, tqdm(total=len(files), desc=title, unit="photo") as bar:
        for some in pool.map(lambda chunk: list(map(_inspect, chunk)), chunks):
            rows += some
            bar.update(len(some))
    return rows


def _inspect(path: Path) -> tuple:
    """A manifest row without its label, from a single read of the file."""
    width, height, mode, size, digest, problem, thumbnail = 0, 0, "", 0, "", "", b""
    name = path.as_posix()
    try:
        size = path.stat().st_size
        if name != printable(name):
            raise Unusable("a name that a table cannot hold; rename the file")
        if path.is_file() and not is_photo(path) and size:
            raise Unusable(f"not a photo ({' '.join(IMAGE_SUFFIXES)})")
        data = read_bytes(path)
        size, digest = len(data), hashlib.sha256(data).hexdigest()
        photo = decode(data, THUMBNAIL)
        width, height, mode = photo.width, photo.height, photo.mode
        thumbnail = photo.square.convert("L").tobytes()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        problem = reason(error)
    return printable(name), width, height, mode, size, digest, problem, thumbnail


def printable(name: str) -> str:
    """The name; what a table could not hold is escaped: bytes that are not text, line ends, a last space."""
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]|\s$", lambda found: f"\\x{ord(found[0]):02x}", name)


def count_photos(paths: Paths) -> pd.DataFrame:
    """Photos per class (rows) in each folder of `data/` that has any (columns), with a last row of sums."""
    folders = {folder.name: folder for folder in (paths.train, paths.train_aug, paths.val, paths.test)}
    counts = {}
    for name, folder in folders.items():
        photos = [path.relative_to(folder).parts[0] for path in files_below(folder) if is_photo(path)]
        if photos:
            counts[name] = pd.Series(photos).value_counts()
    table = pd.DataFrame(counts).fillna(0).astype(int).sort_index()
    table.loc["all"] = table.sum()
    return table


def is_photo(path: Path) -> bool:
    """Whether the name is that of a picture that training reads."""
    return path.suffix.lower() in IMAGE_SUFFIXES
