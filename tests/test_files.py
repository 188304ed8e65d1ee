"""Writing that is whole or not at all, and one sentence where it is not at all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emo.errors import UserError, is_out_of_memory
from emo.files import LEFTOVER_SECONDS, WriteError, atomic, locked, write_bytes, write_text

PROJECT = Path(__file__).resolve().parents[1]


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "a.csv", "one")
    write_text(tmp_path / "a.csv", "two\n")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == b"two\n"


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    write_text(tmp_path / "a.csv", "one")
    with pytest.raises(KeyError), atomic(tmp_path / "a.csv") as draft:
        draft.write_text("half")
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "one"


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(full_disk):
    file = full_disk.folder / "report.json"
    write_text(file, "old")
    full_disk.fill()
    with pytest.raises(
        WriteError, match=r"report\.json cannot be written \(No space left on device\); make"
    ) as told:
        write_bytes(file, bytes(10**6))
    assert isinstance(told.value, (UserError, OSError)) and "\n" not in str(told.value)
    assert file.read_text() == "old"
    assert sorted(file.name for file in full_disk.folder.iterdir()) == ["filler", "report.json"]
    full_disk.empty()
    write_bytes(file, b"new")
    assert file.read_text() == "new"


@pytest.mark.parametrize("where", ["missing/a.csv", "a_file/a.csv", "a_folder", "x" * 300 + ".csv"])
def test_a_place_that_takes_no_file_is_one_sentence(tmp_path, where):
    (tmp_path / "a_file").write_text("")
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(WriteError, match=r"cannot be written \(.*\); see that .* then run this again\.$"):
        write_text(tmp_path / where, "text")


def test_two_processes_that_write_one_file_do_not_meet(tmp_path):
    file = tmp_path / "split.csv"
    code = (
        "import sys; from pathlib import Path; from emo.files import write_text\n"
        "for n in range(300): write_text(Path(sys.argv[1]), sys.argv[2] * 50_000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), each], cwd=PROJECT) for each in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert file.read_text() in {each * 50_000 for each in "abc"}
    assert [each.name for each in tmp_path.iterdir()] == ["split.csv"]


def test_a_draft_that_a_kill_left_is_taken_after_an_hour(tmp_path):
    draft = tmp_path / ".a.unfinished.csv"
    draft.write_text("half a fi")
    write_text(tmp_path / "a.csv", "new")
    assert draft.exists()  # it may be another process's
    os.utime(draft, (time.time() - LEFTOVER_SECONDS - 1,) * 2)
    write_text(tmp_path / "a.csv", "newer")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_a_lock_is_waited_for_with_a_sentence(tmp_path, capfd):
    code = (
        "import sys, time; from pathlib import Path; from emo.files import locked\n"
        "with locked(Path(sys.argv[1]), 'x'): print('mine', flush=True); time.sleep(float(sys.argv[2]))"
    )
    file = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", code, file, "1"], cwd=PROJECT, stdout=subprocess.PIPE)
    holder.stdout.readline()
    with locked(file, "Another run is computing features"):
        assert holder.wait() == 0
    assert "Another run is computing features: waiting for it." in capfd.readouterr().out
    killed = subprocess.Popen([sys.executable, "-c", code, file, "99"], cwd=PROJECT, stdout=subprocess.PIPE)
    killed.stdout.readline()
    killed.kill()
    with locked(file, "x"):
        pass


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


class XlaRuntimeError(Exception):
    """Named as JAX's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ResourceExhaustedError("OOM when allocating tensor with shape[64,728,19,19]"), True),
        (ResourceExhaustedError("/data/x.h5; No space left on device"), False),
        (ResourceExhaustedError("/data/x.jpg; Too many open files"), False),
        (XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9663676416."), True),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (RuntimeError("Dst tensor is not initialized."), True),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("the disk is gone"), False),
        (OSError(28, "No space left on device"), False),
        (UserError("Memory ran out: out of memory"), False),
        (KeyError("oom"), False),
    ],
)  # fmt: skip
def test_out_of_memory_is_told_from_a_full_disk(error, expected):
    assert is_out_of_memory(error) is expected


def test_numpys_own_memory_error_is_one():
    import numpy as np

    with pytest.raises(MemoryError) as raised:
        np.empty((10**9, 10**9))
    assert is_out_of_memory(raised.value)
