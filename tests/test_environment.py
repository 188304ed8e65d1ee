"""The precision that `auto` chooses is the machine's, not the moment's."""

import subprocess
import sys
from pathlib import Path

import pytest

from emo.precision import _remembered

PROJECT = Path(__file__).resolve().parent.parent


def never():
    raise AssertionError("decided a second time")


@pytest.mark.parametrize("decision", [True, False])
def test_a_machine_decides_once(tmp_path, decision):
    file = tmp_path / "cache" / "bfloat16.json"
    assert _remembered(file, lambda: decision) is decision
    assert _remembered(file, never) is decision


@pytest.mark.parametrize("left", ["", "tr"])
def test_a_decision_cut_short_is_made_again(tmp_path, left):
    file = tmp_path / "bfloat16.json"
    file.write_text(left)
    assert _remembered(file, lambda: True) is True
    assert _remembered(file, never) is True


def test_where_nothing_can_be_written_it_decides_all_the_same(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert _remembered(tmp_path / "cache" / "bfloat16.json", lambda: True) is True


def test_processes_that_start_at_once_agree(tmp_path):
    code = (
        "import sys; from pathlib import Path; from emo.precision import _remembered;"
        "print(_remembered(Path(sys.argv[1]), lambda: bool(int(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bfloat16.json")]
    processes = [
        subprocess.Popen([*command, str(number % 2)], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    assert len({process.communicate(timeout=60)[0] for process in processes}) == 1
