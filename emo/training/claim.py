"""Who trains a run now: a small file in `model/` that its process renews, so that no other takes it up."""

from __future__ import annotations

import json
import math
import os
import platform
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import psutil
from tqdm.auto import tqdm

from emo.errors import UserError
from emo.files import told

BEAT_SECONDS = 20.0  # between two signs of life
WATCH_SECONDS = 75.0  # three of them, and what a shared drive takes to hand one on
GONE_SECONDS = 900.0  # since the last, by this machine's clock: then nobody is watched
CLOCK_SECONDS = 60.0  # by which setting the clock may move a process's start
SETTLE_SECONDS = 0.2
SIZE = 1024  # bytes: a sign of life takes the place of the one before, with no room on the disk


@dataclass(frozen=True)
class Holder:
    """A process that trains or trained a run; `process` 0 is one that has left it, `beat` its last sign of
    life by its own clock. `model_file` and `date` name the run's files, "" before they are chosen."""

    token: str
    machine: str
    process: int
    start: float
    since: str
    beat: float
    model_file: str = ""
    date: str = ""

    @classmethod
    def read(cls, text: bytes) -> Holder | None:
        """None for a file that is cut or damaged."""
        try:
            holder = cls(**json.loads(text))
            datetime.fromisoformat(holder.since)
            datetime.fromisoformat(holder.date or holder.since)
            numbers = math.isfinite(holder.beat) and math.isfinite(holder.start) and holder.process >= 0
            # a name alone: it must not lead out of the folder
            named = holder.model_file == Path(holder.model_file).name and isinstance(holder.machine, str)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return None
        return holder if numbers and named else None

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since)
        return f"process {self.process} on {self.machine.split('/')[0]} since {since:%Y-%m-%d %H:%M}"


class Claim:
    """The right to train the run of a key in `folder`, kept by a thread until `release` or `leave`.

    `before` is who held it and died: his run may be taken up. `lost_to` is who took it meanwhile, which can
    happen to a machine that was asleep or cut off from a shared drive. Raises UserError where another process
    trains that run. On this machine processes are asked for; another machine is watched for a sign of life,
    so that the two clocks need not agree.
    """

    def __init__(self, folder: Path, key: str):
        self.file = folder / f".training_{key[:16]}.json"
        self.lost_to: Holder | None = None
        self._left, self._thread = threading.Event(), None
        self._before = _bytes(self.file)
        self.before = Holder.read(self._before) if self._before else None
        if self._before is not None and (holder := _held_by(self.file, self._before)):
            raise UserError(
                f"This experiment is being trained already in {folder}, by {holder}: wait for its end or "
                "stop it there; another seed is a run of its own."
            )
        machine, process, start = _this_process()
        now = datetime.now().isoformat()
        self._me = Holder(uuid.uuid4().hex, machine, process, start, now, time.time())
        self._take()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="heartbeat")
        self._thread.start()

    def _take(self) -> None:
        with told(self.file):
            if self._before is not None:
                self._write()
            else:
                try:
                    with self.file.open("x") as file:
                        file.write(self._text())
                except FileExistsError:  # another process began in this instant
                    raise UserError(
                        f"This experiment is being trained already in {self.file.parent}, since this moment."
                    ) from None
                except OSError:
                    self.file.unlink(missing_ok=True)  # a full disk takes an empty one
                    raise
        if self._before is not None:  # two may have found the same dead one: the later of them has it
            time.sleep(SETTLE_SECONDS)
            self._beat()
            self.check()

    def name(self, model_file: str, date: datetime) -> None:
        """Writes down whose files these are, for who takes the run up after a kill."""
        self._me = replace(self._me, model_file=model_file, date=date.isoformat())
        with told(self.file):
            self._write()

    def _write(self, text: str = "") -> None:
        """In place: Google Drive would keep each file that another one replaces in its trash."""
        data = (text or self._text()).encode()
        try:
            with self.file.open("r+b") as file:
                file.write(data)
                file.truncate()
        except FileNotFoundError:  # somebody tidied up
            self.file.write_bytes(data)

    def check(self) -> None:
        """Raises UserError where another process has taken the run over."""
        if self.lost_to:
            raise UserError(
                f"This run has been taken over by {self.lost_to}, as nothing was heard from here: it ends "
                "there, and stops here."
            )

    def release(self) -> None:
        """The run has ended: nobody needs the file any more."""
        self._stop()
        if not self.lost_to:
            self.file.unlink(missing_ok=True)

    def give_back(self) -> None:
        """As if it had never been taken: who came before may be taken up by another."""
        self._stop()
        if not self.lost_to:
            if self.before is None:
                self.file.unlink(missing_ok=True)
            else:
                with told(self.file):
                    self._write(self._before.decode("utf-8", "replace"))

    def leave(self) -> None:
        """Ends what `release` and `give_back` have not: this process no longer trains the run."""
        if self._stop() and not self.lost_to:
            self._me = replace(self._me, process=0)
            self._beat()

    def _stop(self) -> bool:
        """Whether it was kept until now."""
        kept = not self._left.is_set()
        self._left.set()
        self._thread.join()
        return kept

    def _keep(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        """A sign of life, or the end of them where another's is found."""
        try:
            found = Holder.read(_bytes(self.file) or b"")
            if found and found.token != self._me.token:
                self.lost_to = found
                self._left.set()
                return
            self._me = replace(self._me, beat=time.time())
            self._write()
        except OSError:  # a drive that is away comes back
            pass

    def _text(self) -> str:
        return json.dumps(asdict(self._me)).ljust(SIZE)


def claims(folder: Path) -> list[tuple[Path, Holder | None]]:
    """All claims in a folder, of this and other processes; None for one that cannot be read."""
    return [(file, Holder.read(_bytes(file) or b"")) for file in folder.glob(".training_*.json")]


def is_live(holder: Holder) -> bool:
    """Whether that process still trains, at a glance: another machine is believed for `GONE_SECONDS`."""
    if holder.process == 0:
        return False
    if holder.machine == _this_process()[0]:
        return _runs(holder)
    return time.time() - holder.beat < GONE_SECONDS


def _held_by(file: Path, content: bytes) -> Holder | None:
    """Who trains the run of a claim, None for nobody; watches a process of another machine."""
    holder = Holder.read(content)
    here = holder is not None and (holder.process == 0 or holder.machine == _this_process()[0])
    if here or (holder and not is_live(holder)):
        return holder if is_live(holder) and holder.process != os.getpid() else None
    who = holder or "another process"
    with tqdm(total=int(WATCH_SECONDS), desc=f"Does {who} still train?", unit="s") as bar:
        for _ in range(int(WATCH_SECONDS)):
            time.sleep(1)
            bar.update()
            now = _bytes(file)
            if now is None:
                return None  # it has just ended
            if now != content and (found := Holder.read(now)):
                return None if found.process == 0 else found
    return None


def _runs(holder: Holder) -> bool:
    try:
        # it moves with the system's clock when that is set
        return abs(psutil.Process(holder.process).create_time() - holder.start) < CLOCK_SECONDS
    except psutil.Error:
        return False


def _this_process() -> tuple[str, int, float]:
    """Machine, process number and its start, which no other process shares."""
    try:  # containers and cloned machines share names
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{platform.node()}/{boot}", os.getpid(), psutil.Process().create_time()


def _bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
