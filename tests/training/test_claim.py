"""One process trains a run at a time, on one machine and on several."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from emo.errors import UserError
from emo.training import claim
from emo.training.claim import Claim, Holder, claims, is_live

PROJECT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef0123456789abcdef"
HOLD = """
import sys, time; from datetime import datetime; from pathlib import Path
from emo.training.claim import Claim
claim = Claim(Path(sys.argv[1]), sys.argv[2])
claim.name("run_running.h5", datetime(2026, 11, 26, 12))
print("mine", flush=True)
time.sleep(99)
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(claim, "WATCH_SECONDS", 3)


def another_process(folder, key=KEY):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, key], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "mine\n"
    return process


def another_machine(folder, seconds_ago=5.0, **changes):
    """Leaves a claim as another machine would; gives its file."""
    holder = {
        "token": "theirs",
        "machine": "colab-7/boot",
        "process": 77,
        "start": 1.0,
        "since": "2026-11-26T18:40:12",
        "beat": time.time() - seconds_ago,
        "model_file": "run_running.h5",
        "date": "2026-11-26T18:40:12",
    }
    file = folder / f".training_{KEY[:16]}.json"
    file.write_text(json.dumps(holder | changes))
    return file


def test_a_run_that_another_process_trains_is_refused_and_told(tmp_path):
    process = another_process(tmp_path)
    try:
        with pytest.raises(
            UserError, match=rf"trained already.*process {process.pid} on .* since 20\d\d-.*seed"
        ):
            Claim(tmp_path, KEY)
        other = Claim(tmp_path, "f" * 32)  # another seed is another key
        other.release()
    finally:
        process.kill()
        process.wait()
    mine = Claim(tmp_path, KEY)  # at once: nobody waits for a dead one of this machine
    assert mine.before.model_file == "run_running.h5"
    assert datetime.fromisoformat(mine.before.date) == datetime(2026, 11, 26, 12)
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_another_machine_is_watched_and_believed_when_it_shows_life(tmp_path, quick):
    # its clock is an hour behind or ahead of ours: only that the file changes counts
    for shift in (600, -3600):
        file = another_machine(tmp_path, shift)
        beat = threading.Timer(1.5, another_machine, (tmp_path, shift - 20))
        beat.start()
        with pytest.raises(UserError, match="process 77 on colab-7 since 2026-11-26 18:40"):
            Claim(tmp_path, KEY)
        beat.join()
        file.unlink()


@pytest.mark.parametrize("seconds_ago", [5, -3600])
def test_another_machine_that_shows_no_life_is_taken_over(tmp_path, quick, seconds_ago):
    another_machine(tmp_path, seconds_ago)
    started = time.monotonic()
    mine = Claim(tmp_path, KEY)
    assert 2 < time.monotonic() - started < 30
    assert mine.before.model_file == "run_running.h5"
    mine.release()


@pytest.mark.parametrize("changes", [{"process": 0}, {"seconds_ago": 5 * 3600}])
def test_nobody_waits_for_a_machine_that_has_left_or_is_long_silent(tmp_path, changes):
    another_machine(tmp_path, **changes)
    started = time.monotonic()
    Claim(tmp_path, KEY).release()
    assert time.monotonic() - started < 10


def test_whoever_was_taken_over_stops_and_leaves_the_files_to_the_other(tmp_path, quick):
    mine = Claim(tmp_path, KEY)
    file = another_machine(tmp_path)
    for _ in range(100):
        if mine.lost_to:
            break
        time.sleep(0.05)
    with pytest.raises(UserError, match="taken over by process 77 on colab-7"):
        mine.check()
    theirs = file.read_bytes()
    mine.release()
    assert file.read_bytes() == theirs


def test_signs_of_life_take_no_room_and_show_the_time(tmp_path, quick):
    mine = Claim(tmp_path, KEY)
    (file,) = tmp_path.iterdir()
    before, inode = Holder.read(file.read_bytes()), file.stat().st_ino
    time.sleep(1)
    after = Holder.read(file.read_bytes())
    assert after.beat > before.beat and after.token == before.token
    assert (file.stat().st_ino, file.stat().st_size) == (inode, claim.SIZE)
    assert is_live(after) and [holder.token for _, holder in claims(tmp_path)] == [after.token]
    assert is_live(replace(after, start=after.start + 3))  # the clock was set
    assert not is_live(replace(after, start=after.start - 3600))  # another process had that number
    mine.leave()
    assert not is_live(Holder.read(file.read_bytes()))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"token": 1}', b"1e999", b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_claim_is_watched_and_then_replaced(tmp_path, quick, content):
    (tmp_path / f".training_{KEY[:16]}.json").write_bytes(content)
    mine = Claim(tmp_path, KEY)
    assert mine.before is None
    mine.release()


@pytest.mark.parametrize(
    "changes",
    [
        {"beat": "x"}, {"beat": float("nan")}, {"beat": 10**400}, {"process": -1}, {"process": None},
        {"start": []}, {"since": "yesterday"}, {"since": 5}, {"date": "no"},
        {"model_file": "../../etc/passwd"}, {"model_file": 3}, {"machine": 1}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_claim_of_absurd_values_names_nobody(tmp_path, changes):
    assert Holder.read(another_machine(tmp_path, **changes).read_bytes()) is None


def test_given_back_it_is_as_it_was(tmp_path):
    file = another_machine(tmp_path, process=0)
    before = file.read_text()
    Claim(tmp_path, KEY).give_back()
    assert file.read_text() == before
    file.unlink()
    Claim(tmp_path, KEY).give_back()
    assert list(tmp_path.iterdir()) == []


def test_of_eight_processes_that_begin_at_once_one_trains(tmp_path):
    code = HOLD.replace("time.sleep(99)", "sys.stdin.read()")
    command = [sys.executable, "-c", code, tmp_path, KEY]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=PROJECT, **pipes) for _ in range(8)]
    deadline = time.monotonic() + 120
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    texts = [process.communicate()[0] for process in processes]
    assert sorted(texts) == [""] * 7 + ["mine\n"]


def test_a_process_that_left_its_claim_open_takes_it_again(tmp_path, quick):
    first = Claim(tmp_path, KEY)  # a cell that was interrupted in an odd moment
    again = Claim(tmp_path, KEY)
    again.check()
    time.sleep(0.5)
    assert first.lost_to
    again.release()
    assert list(tmp_path.iterdir()) == []
