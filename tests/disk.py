"""A small file system that fills up."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Disk:
    """A file system of `megabytes` mounted at `folder`."""

    folder: Path

    def fill(self, leave: int = 0) -> None:
        """Leaves room for `leave` bytes, in whole blocks."""
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
            filler.truncate(max(filler.tell() - leave, 0))

    def empty(self) -> None:
        (self.folder / "filler").unlink()


@pytest.fixture
def full_disk(tmp_path):
    """A `Disk` of 8 MB; tests are skipped where nobody may mount one."""
    yield from mounted(tmp_path / "disk", 8)


def mounted(folder: Path, megabytes: int):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
