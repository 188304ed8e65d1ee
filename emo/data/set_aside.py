"""The dataset in `data/` makes room for another, and comes back."""

import os
import shutil
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from emo.data.lock import locked
from emo.errors import UserError
from emo.files import LEFTOVERS
from emo.paths import Paths, numbered

REMEDY = (
    "call emo.set_aside_dataset(paths), which moves all of that away and can be undone, keep both with "
    'another ROOT, such as "my_photos", or train on both with add="its_name"'
)


def set_aside_dataset(paths: Paths) -> Path | None:
    """Moves the photos in `data/` and all that was decided about them into `.set_aside/<date>/` beside each.

    Returns that folder in `data/`, and prints how `restore_dataset` brings it back; None where there is
    nothing to move. Models, the table of runs and `.features` stay.
    """
    with locked(paths):
        if not (moving := belongings(paths)):
            print(f"There is no dataset in {paths.data} to set aside.")
            return None
        # of a call that was killed
        unfinished = sorted(mark for shelf in paths.shelves for mark in shelf.glob("*/.unfinished"))
        date = unfinished[0].parent.name if unfinished else _free_date(paths)
        marks = [shelf / date / ".unfinished" for shelf in paths.shelves]
        for mark in marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        shelf_of = {shelf.parent: shelf for shelf in paths.shelves}
        _move([(path, shelf_of[path.parent] / date / path.name) for path in moving])
        for mark in marks:
            mark.unlink()
    undo = f'emo.restore_dataset(paths, "{date}")'
    places = " and ".join(str(mark.parent) for mark in marks)
    print(f"Set aside {', '.join(path.name for path in moving)} in {places}; {undo} moves it back.")
    return marks[0].parent


def _free_date(paths: Paths) -> str:
    now = Path(f"{datetime.now():%Y-%m-%d_%H%M%S}")
    free = (date for date in numbered(now) if not any((shelf / date).exists() for shelf in paths.shelves))
    return next(free).name


def restore_dataset(paths: Paths, date: str | None = None) -> None:
    """Moves what `set_aside_dataset` moved back into `data/`; the latest where no `date` is given.

    Raises UserError where there is no such dataset, or another lies in `data/`.
    """
    with locked(paths):
        everything = (folder for shelf in paths.shelves for folder in shelf.glob("*"))
        known = sorted({folder.name for folder in everything if folder.is_dir()})
        if not known or date not in (None, *known):
            listed = f"there are {', '.join(known)}" if known else "nothing was set aside there"
            shelves = " or ".join(map(str, paths.shelves))
            raise UserError(f"There is no dataset{f' {date}' if date else ''} in {shelves}; {listed}.")
        folders = [shelf / (date or known[-1]) for shelf in paths.shelves]
        files = [
            path for folder in folders for path in sorted(folder.glob("*")) if path.name != ".unfinished"
        ]
        moving = {path: path.parents[2] / path.name for path in files}
        if taken := [path.name for path in moving.values() if holds_files(path)]:
            fault = f"{paths.data} holds another dataset ({', '.join(taken)})"
            raise UserError(f"{fault}; call emo.set_aside_dataset(paths) first.")
        _move(list(moving.items()))
        for folder in filter(Path.is_dir, folders):
            (folder / ".unfinished").unlink(missing_ok=True)
            folder.rmdir()
    print(f"Moved back into {paths.data}: {', '.join(path.name for path in files)}.")


def belongings(paths: Paths) -> list[Path]:
    """What belongs to the dataset in `data/`: folders with files in them, and tables about them."""
    folders = (paths.train, paths.val, paths.test, paths.test_kaggle, paths.train_aug)
    older = (paths.data / file.name for file in paths.decided)
    records = (paths.augmentation_record, paths.dataset_record, paths.sample_submission)
    return [path for path in dict.fromkeys((*folders, *paths.decided, *older, *records)) if holds_files(path)]


def occupied(paths: Paths) -> list[Path]:
    """The folders in `data/` that hold photos to train, validate and test on."""
    return [path for path in (paths.train, paths.train_aug, paths.val, paths.test) if holds_files(path)]


def in_the_way(paths: Paths, name: str, record: dict, *faults: str) -> UserError:
    """One sentence about all that keeps `name` out of `data/`, and what to do about it."""
    faults = list(faults)
    if held := [path for path in belongings(paths) if path.is_dir()]:
        origin = f" of {record['source']}, fetched {record['fetched']}" if "fetched" in record else ""
        files = [path for path in belongings(paths) if path.is_file()]
        tables = [path.name if path.parent == paths.data else str(path) for path in files]
        others = ", ".join([f"{path.name}/" for path in held[1:]] + tables)
        faults.insert(0, f"{held[0]} already holds files{origin}{f' (and so do {others})' if others else ''}")
    return UserError(f"{' and '.join(faults)}; to fetch {name}, {REMEDY}.")


def holds_files(path: Path) -> bool:
    """Whether there is a file there, or a folder with files in it."""
    if path.is_dir():
        return any(set(files) - LEFTOVERS for _, _, files in os.walk(path))
    return path.exists() or path.is_symlink()


def _move(moves: list[tuple[Path, Path]]) -> None:
    """All of the renames or none; UserError where one fails. An empty folder in the way is taken out."""
    try:
        with ExitStack() as undo:
            for old, new in moves:
                if new.is_dir():
                    shutil.rmtree(new)  # no file is in it but what systems leave behind
                os.rename(old, new)  # noqa: PTH104 -- as in the undo
                undo.callback(os.rename, new, old)
            undo.pop_all()
    except OSError as error:
        fault = f"{old} cannot be moved to {new.parent} ({error.strerror})"
        raise UserError(
            f"{fault}; close what uses it, or see to its permissions, and run this again."
        ) from None
