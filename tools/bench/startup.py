"""Measures how long a person waits for the first answer: `python -m tools.bench.startup` (or `--photo FILE`).

Printed are the seconds from the start of `emo predict PHOTO` to its answer on stdout, the processor's seconds
behind them, which another program on the same machine hardly changes, and the share of both that is imports:
medians over fresh processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from emo.paths import PROJECT_ROOT, SAMPLE_ZIP

PREDICT = """
import builtins, json, sys, time

imported, spent, depth = builtins.__import__, [0.0, 0.0], 0

def timed(*arguments, **named):
    global depth
    begun, depth = (time.perf_counter(), time.process_time()), depth + 1
    try:
        return imported(*arguments, **named)
    finally:
        depth -= 1
        if not depth:  # what an import imports is its own time
            spent[0] += time.perf_counter() - begun[0]
            spent[1] += time.process_time() - begun[1]

builtins.__import__ = timed
from emo.__main__ import main

sys.argv = ["emo", "predict", sys.argv[1]]
main()
print(json.dumps([time.process_time(), *spent]))
"""


def measure(photo: Path, project: Path = PROJECT_ROOT) -> tuple[float, float, float, float]:
    """Seconds until the answer and of the processor, each followed by those of imports."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", PREDICT, photo.resolve()],
        cwd=project,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process.stdout.readline()  # the head of the table; its row comes with it
    seconds = time.perf_counter() - begun
    processor, imports, imports_processor = json.loads(process.communicate()[0].splitlines()[-1])
    return seconds, imports, processor, imports_processor


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.startup", description=__doc__.split("\n")[0])
    parser.add_argument("--photo", type=Path, help="one of the sample set without it")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes (5)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = given.photo or _sample_photo(Path(folder))
        measure(photo)  # its files come from the disk, those of the others from memory
        rows = np.median([measure(photo) for _ in range(given.repeats)], axis=0)
    seconds, imports, processor, imports_processor = rows
    print(f"{seconds:.1f} s to the first answer, {imports:.1f} s of them imports ({imports / seconds:.0%})")
    print(f"{processor:.1f} s of the processor, {imports_processor:.1f} s of them imports")


def _sample_photo(folder: Path) -> Path:
    with zipfile.ZipFile(SAMPLE_ZIP) as archive:
        name = next(name for name in archive.namelist() if name.endswith((".jpg", ".png")))
        return Path(archive.extract(name, folder))


if __name__ == "__main__":
    main()
