"""The dataset in `data/` makes room for another, and comes back."""

import os
import shutil
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from emo.data.lock import locked
from emo.errors import UserError
from emo.files import LEFTOVERS
from emo.paths import Paths, free_path

REMEDY = (
    "call emo.set_aside_dataset(paths), which moves all of that into data/.set_aside and can be undone, or "
    "give get_paths another root"
)


def set_aside_dataset(paths: Paths) -> Path | None:
    """Moves the photos in `data/` and all that was decided about them into `data/.set_aside/<date>/`.

    Returns that folder, and prints how `restore_dataset` brings it back; None where there is nothing to move.
    Models, the table of runs and `.features` stay.
    """
    with locked(paths):
        if not (moving := belongings(paths)):
            print(f"There is no dataset in {paths.data} to set aside.")
            return None
        unfinished = sorted(paths.set_aside.glob("*/.unfinished"))  # of a call that was killed
        now = f"{datetime.now():%Y-%m-%d_%H%M%S}"
        folder = unfinished[0].parent if unfinished else free_path(paths.set_aside / now)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".unfinished").touch()
        _move([(path, folder / path.name) for path in moving])
        (folder / ".unfinished").unlink()
    undo = f'emo.restore_dataset(paths, "{folder.name}")'
    print(f"Set aside {', '.join(path.name for path in moving)} in {folder}; {undo} moves it back.")
    return folder


def restore_dataset(paths: Paths, date: str | None = None) -> None:
    """Moves what `set_aside_dataset` moved back into `data/`; the latest where no `date` is given.

    Raises UserError where there is no such dataset, or another lies in `data/`.
    """
    with locked(paths):
        shelf = paths.set_aside
        known = sorted(folder.name for folder in shelf.iterdir() if folder.is_dir()) if shelf.is_dir() else []
        if not known or date not in (None, *known):
            listed = f"there are {', '.join(known)}" if known else "nothing was set aside there"
            raise UserError(f"{shelf} holds no dataset{f' {date}' if date else ''}; {listed}.")
        folder = shelf / (date or known[-1])
        moving = [path for path in sorted(folder.iterdir()) if path.name != ".unfinished"]
        if taken := [path.name for path in moving if holds_files(paths.data / path.name)]:
            fault = f"{paths.data} holds another dataset ({', '.join(taken)})"
            raise UserError(f"{fault}; call emo.set_aside_dataset(paths) first.")
        _move([(path, paths.data / path.name) for path in moving])
        (folder / ".unfinished").unlink(missing_ok=True)
        folder.rmdir()
    print(f"Moved back into {paths.data}: {', '.join(path.name for path in moving)}.")


def belongings(paths: Paths) -> list[Path]:
    """What in `data/` belongs to its dataset: folders with files in them, and tables about them."""
    folders = (paths.train, paths.val, paths.test, paths.test_kaggle, paths.train_aug)
    tables = (
        paths.class_names,
        paths.split,
        paths.relabel,
        paths.suspects,
        paths.suspects_sheet,
        paths.faces,
    )
    tables += (paths.augmentation_record, paths.dataset_record, paths.sample_submission)
    return [path for path in (*folders, *tables) if path.parent == paths.data and holds_files(path)]


def occupied(paths: Paths) -> list[Path]:
    """The folders in `data/` that hold photos to train, validate and test on."""
    return [path for path in (paths.train, paths.train_aug, paths.val, paths.test) if holds_files(path)]


def in_the_way(paths: Paths, name: str, record: dict, *faults: str) -> UserError:
    """One sentence about all that keeps `name` out of `data/`, and what to do about it."""
    faults = list(faults)
    if held := [path for path in belongings(paths) if path.is_dir()]:
        origin = f" of {record['source']}, fetched {record['fetched']}" if "fetched" in record else ""
        tables = [path.name for path in belongings(paths) if path.is_file()]
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
