"""Trainings in processes of their own that are killed at a chosen moment.

One process imports TensorFlow and forks for each training before anything has begun, which saves each of them
the seconds that an import takes. A training can be killed before any of its changes to files: those are the
points between which a kill makes a difference, and Python's audit hooks tell them all.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import tests.tiny  # noqa: F401 -- a backbone
from emo.experiments import Experiment
from emo.paths import Paths

PROJECT = Path(__file__).resolve().parents[2]


class Trainings:
    """Starts trainings. Each writes what it prints to `<root>/child.log`, its changes to `changes.txt`."""

    def __init__(self):
        command = [sys.executable, "-c", "from tests.training.kills import serve; serve()"]
        self.server = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()

    def train(
        self,
        experiment: Experiment,
        paths: Paths,
        kill_at: int = 0,
        kill_at_end: int = 0,
        kill_at_state: int = 0,
        kill_after: float = 0.0,
        states: bool = True,
    ) -> int:
        """Trains and waits; gives the exit code, −9 for a kill and −14 for one by time.

        It dies before change number `kill_at` (from 1), before number `kill_at_end` of those from the model's
        final name on (how many states come before depends on the time), at state `kill_at_state`, or after
        `kill_after` seconds; 0: it lives. With `states` one is written after every batch, else as in a run of
        seconds.
        """
        job = {
            "experiment": experiment.to_json(),
            "root": str(paths.root),
            "results": str(paths.results),
            "kill_at": kill_at,
            "kill_at_end": kill_at_end,
            "kill_at_state": kill_at_state,
            "kill_after": kill_after,
            "states": states,
        }
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


def changes(paths: Paths) -> list[str]:
    """What the last training did to files, a line each: "os.rename emo_….h5"."""
    return (paths.root / "changes.txt").read_text().splitlines()


def serve() -> None:
    """The process that forks: a job per line of its input, an exit code per line of its output."""
    import emo.training.train  # noqa: F401 -- what takes long, once

    for line in sys.stdin:
        if (child := os.fork()) == 0:
            code = 1
            try:
                code = run(json.loads(line))
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(job: dict) -> int:
    """Trains in this process; 1 where that raises."""
    import traceback

    from emo.paths import get_paths
    from emo.training import async_writer, checkpoint, claim
    from emo.training.train import train

    paths = get_paths(job["root"], job["results"])
    log = os.open(paths.root / "child.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    if job["states"]:
        async_writer.FIRST_SECONDS, checkpoint.STATE_SECONDS, async_writer.SHARE = 0.0, 0.0, 1e9
    claim.BEAT_SECONDS = 10_000.0  # else the number of changes would depend on the time
    watch_changes(paths, job)
    if job["kill_after"]:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its default ends the process wherever it is
        signal.setitimer(signal.ITIMER_REAL, job["kill_after"])
    try:
        train(Experiment.from_json(job["experiment"]), paths)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def watch_changes(paths: Paths, job: dict) -> None:
    """Writes down every change below the results folder, and dies before one of them."""
    results, record = (
        str(paths.results),
        os.open(paths.root / "changes.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    )
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    place = {"os.rename": 1, "os.remove": 0, "open": 0}
    skipped = str(paths.data)
    counts = {"kill_at": 0, "kill_at_end": 0, "kill_at_state": 0}

    def hook(event, arguments):
        if event not in place or (event == "open" and not (arguments[2] or 0) & writing):
            return
        file = arguments[place[event]]
        file = os.fspath(file) if isinstance(file, (str, Path)) else ""
        if not file.startswith(results) or file.startswith(skipped) or file.endswith(".lock"):
            return
        os.write(record, f"{event} {Path(file).name}\n".encode())
        counts["kill_at"] += 1
        counts["kill_at_end"] += counts["kill_at_end"] > 0 or is_the_end(event, file)
        counts["kill_at_state"] += event == "os.rename" and file.endswith(".npz")
        if any(job[kind] == count for kind, count in counts.items() if count):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def is_the_end(event: str, file: str) -> bool:
    """Whether the model gets its final name."""
    return event == "os.rename" and "_acc" in file and file.endswith(".h5")
