"""Files: a walk that passes over what systems leave behind, and writing that is whole or nothing."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from emo.errors import UserError

BOM = (
    "\ufeff"  # in front of a CSV that people open: without it Excel takes UTF-8 for the country's 8-bit code
)
LEFTOVERS = {".DS_Store", ".gitkeep", "Thumbs.db", "desktop.ini"}
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
LEFTOVER_SECONDS = 3600.0  # after which a draft is one that a kill left: no file here takes so long to write


def is_junk(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or what a system leaves behind."""
    return name.startswith(".") or name in SYSTEM_FOLDERS or name in LEFTOVERS


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below `folder` but hidden ones and the system's leftovers; a folder nobody may list is one.

    Links to folders are followed, as a class may lie on another disk, but not those that lead back up.
    """
    waiting = [(folder, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = folder.stat()
            children = sorted(child for child in folder.iterdir() if not is_junk(child.name))
        except FileNotFoundError:
            continue
        except OSError:
            yield folder
            continue
        if (here := (status.st_dev, status.st_ino)) in above:
            continue
        for child in children:
            if os.path.isdir(child):  # noqa: PTH112 -- Path's raises where even asking is forbidden
                waiting.append((child, above | {here}))
            else:
                yield child


def first_file(places: Iterable[Path], endings: Iterable[str]) -> Path | None:
    """The first of `places` that is a file, as written or with one of the endings; None where none is.

    Raises UserError where a link to nothing comes first, and for what is not a path.
    """
    written = (user_path(f"{place}{ending}") for place in places for ending in ("", *endings))
    return next(filter(Path.is_file, written), None)


class WriteError(UserError, OSError):
    """A file that could not be written, most often as the disk is full; nothing of it was changed.

    Also an OSError, so that who can wait or write elsewhere may treat it as one.
    """

    def __init__(self, path: Path, error: OSError):
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"make room on the disk of {path.parent}"
        else:
            advice = f"see that {path.parent} is there and may be written to"
        super().__init__(f"{path} cannot be written ({reason}); {advice}, then run this again.")
        self.errno, self.strerror = error.errno, reason

    def __str__(self) -> str:  # OSError's own would be number and reason
        return self.args[0]


@contextmanager
def told(path: Path) -> Iterator[None]:
    """An OSError inside becomes a WriteError of `path`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error) from None


@contextmanager
def atomic(path: Path, sync: bool = True) -> Iterator[Path]:
    """Gives a draft beside `path` to be written, which then takes its place: whole, or not at all.

    `sync` waits for the disk, some milliseconds. A draft that a kill leaves behind is hidden, and a later one
    takes its place. Raises WriteError.
    """
    with told(path):
        path = path.resolve()  # a link stays a link
        draft = _draft(path)
        try:
            yield draft
            if sync:
                with draft.open("rb+") as written:
                    os.fsync(written.fileno())  # else a machine that dies may leave the name on old blocks
            draft.replace(path)  # from here on the draft's name may be another's
        except BaseException:
            draft.unlink(missing_ok=True)  # a full disk has no room for it
            raise


def _draft(path: Path) -> Path:
    """An empty file beside `path` that this process alone writes."""
    draft = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        draft.touch(exist_ok=False)
    except FileExistsError:  # another process writes the same file now, or was killed
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > LEFTOVER_SECONDS:
                return draft
        return draft.with_stem(f"{draft.stem}-{os.getpid()}")
    return draft


def write_bytes(path: Path, data: bytes, sync: bool = True) -> None:
    """Writes the file whole or not at all. Raises WriteError."""
    with atomic(path, sync) as draft:
        draft.write_bytes(data)


def user_path(given: str | Path) -> Path:
    """A path that somebody gave, with its ~ expanded; it need not exist.

    Raises UserError where nothing can lie there: a home folder of nobody here, a link to nothing or to
    itself, a name that is too long, a folder that may not be looked into.
    """
    try:
        path = Path(given).expanduser()
        path.stat()
    except RuntimeError:
        raise UserError(f"{given} begins with a home folder that is not known here; write it out.") from None
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UserError(f"{path} is a link to {os.readlink(path)}, which does not exist.") from None  # noqa: PTH115
    except (OSError, ValueError) as error:
        shown = f"{str(given)[:60]}…" if len(str(given)) > 60 else str(given)
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{shown!r} is not a path that can be opened ({reason}); check it.") from None
    return path


def encoded(text: str) -> bytes:
    """As UTF-8; what that cannot hold becomes its escape."""
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate: a file name in another encoding


def write_text(path: Path, text: str) -> None:
    """Writes the file whole or not at all, `encoded`. Raises WriteError."""
    write_bytes(path, encoded(text))


@contextmanager
def locked(file: Path, others: str, patience: float = -1) -> Iterator[None]:
    """Holds the lock `file`, which a killed process gives back too.

    Where another holds it, says that `others` (a clause) and waits; UserError after `patience` seconds.
    """
    with told(file):
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            limit = f", at most {patience / 60:.0f} minutes" if patience > 0 else ""
            print(f"{others}: waiting for it{limit}.", flush=True)
            try:
                lock.acquire(timeout=patience)
            except Timeout:
                raise UserError(f"{others}, for too long; stop it there, then run this again.") from None
    try:
        yield
    finally:
        lock.release()
