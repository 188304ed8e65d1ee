"""Files: a walk that passes over what systems leave behind, and writing that is whole or nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

LEFTOVERS = {".DS_Store", ".gitkeep", "Thumbs.db", "desktop.ini"}
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}


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


def write_text(path: Path, text: str) -> None:
    """Writes the file whole or not at all, as UTF-8."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8", newline="\n")
    draft.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all, and to the disk before it gets its name. Raises OSError."""
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
