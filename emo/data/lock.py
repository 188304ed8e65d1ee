"""One call at a time moves photos in `data/`."""

from contextlib import AbstractContextManager

from emo import files
from emo.paths import Paths

PATIENCE = 600.0  # seconds to wait for another fetch; one that was killed lets go at once


def locked(paths: Paths) -> AbstractContextManager[None]:
    """Holds `data/` against other processes and threads; says so while it waits, and UserError at the end."""
    return files.locked(paths.fetch_lock, f"Another fetch into {paths.data} is running", PATIENCE)
