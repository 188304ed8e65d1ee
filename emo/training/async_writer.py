"""A thread that writes files while training goes on."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

SHARE = 0.02  # of the time that writing may take
RETRY_SECONDS = 20.0  # after which a disk that refused is asked again
FIRST_SECONDS = 30.0  # before the first write: a shorter run writes once, at its end


class Writer:
    """A thread that writes files in the order in which they were handed over, in `SHARE` of its time.

    Of several writes of one kind that wait, only the newest is done, and the newest of those handed over
    before one of a `spare` kind, which may tell of them. One that the disk refuses, as it is full or Google
    Drive is away, is tried again, after `close` twice; but those of a `spare` kind, which nobody needs once
    the rest is written, are then given up. `seconds` is the processor time taken.
    """

    def __init__(self, spare: Collection[str] = ()):
        self._spare, self._abandoned = frozenset(spare), False
        self._thread, self._writes = ThreadPoolExecutor(1), deque[Future]()
        self._waiting: dict[int, tuple[str, Callable[[], None]]] = {}
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._closing, self.seconds = threading.Event(), 0.0
        self._not_before = time.monotonic() + FIRST_SECONDS

    def submit(self, kind: str, write: Callable[[], None]) -> None:
        """Hands over a write. Raises what one failed with since the last call."""
        self._raise_failure()
        number = next(self._numbers)
        with self._lock:
            self._waiting[number] = kind, write
            self._drop_superseded()
        self._writes.append(self._thread.submit(self._write, kind, number))

    def close(self) -> None:
        """Waits until all is on disk, also where Ctrl-C comes again. Raises what a write failed with."""
        self._closing.set()
        while True:
            try:
                self._thread.shutdown()
                break
            except KeyboardInterrupt:
                continue  # a file half written helps nobody
        self._raise_failure()

    def abandon(self) -> None:
        """What is not begun yet is not written: the files have become another process's."""
        self._abandoned = True

    def _drop_superseded(self) -> None:
        needed, newer = [], set()  # kinds of which a newer one makes an older one needless
        for number, (kind, _) in sorted(self._waiting.items(), reverse=True):
            if kind not in newer:
                needed.append(number)
                newer = (newer & self._spare if kind in self._spare else newer) | {kind}
        self._waiting = {number: self._waiting[number] for number in needed}

    def _raise_failure(self) -> None:
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def _write(self, kind: str, number: int) -> None:
        # writes take processor time from training: short epochs, each better than the last, share one
        self._closing.wait(self._not_before - time.monotonic())
        started = time.thread_time()
        if not self._insist(kind, number):
            return
        taken = time.thread_time() - started
        self.seconds += taken
        self._not_before = time.monotonic() + taken / SHARE
        with self._lock:
            self._waiting.pop(number, None)  # gives its memory back

    def _insist(self, kind: str, number: int) -> bool:
        """Writes until the disk takes it; False where a newer one of that kind has come in its place."""
        tries, told = 0, False
        while (write := self._still_needed(number)) is not None:
            closing = self._closing.is_set()
            try:
                write()
                return True
            except OSError as error:
                tries += closing
                if closing and kind in self._spare:
                    print(f"The {kind} is not saved ({error.strerror or error}); the run ends without it.")
                    return False
                if tries == 3:
                    raise
                if not told:
                    reason = error.strerror or error
                    print(f"The {kind} cannot be saved now ({reason}); it is tried again.", flush=True)
                told = True
            if closing:
                time.sleep(RETRY_SECONDS)
            else:
                self._closing.wait(RETRY_SECONDS)
        return False

    def _still_needed(self, number: int) -> Callable[[], None] | None:
        """The write of that number; None where a newer one has come in its place."""
        with self._lock:
            _, write = self._waiting.get(number, ("", None))
        return None if self._abandoned else write
