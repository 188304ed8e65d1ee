"""One call at a time moves photos in `data/`."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from emo.errors import UserError
from emo.paths import Paths

PATIENCE = 600.0  # seconds to wait for another fetch; one that was killed lets go at once


@contextmanager
def locked(paths: Paths) -> Iterator[None]:
    """Holds `data/` against other processes and threads; says so while it waits, and UserError at the end."""
    lock, minutes = FileLock(paths.fetch_lock), f"{PATIENCE / 60:.0f} minutes"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another fetch into {paths.data} is running: waiting for it, at most {minutes}.")
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            fault = f"Another fetch into {paths.data} has been running for {minutes}"
            raise UserError(f"{fault}; wait for its end or stop it, and run this again.") from None
    try:
        yield
    finally:
        lock.release()
