"""The command line: a mistake is one sentence and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


def emo(*arguments, folder=PROJECT):
    command = [sys.executable, "-m", "emo", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_help_names_every_experiment():
    said = emo("train", "--help")
    assert said.returncode == 0 and "finetune_mini: the small network" in said.stdout
    assert max(map(len, said.stdout.split("experiments:")[0].splitlines())) < 100


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "finetun"], "There is no experiment 'finetun'; choose one of"),
        (["train", "6", "--set", "epoch=3"], "Experiment has no field 'epoch'; did you mean 'epochs'?"),
        (["train", "6", "--set", "epochs=many"], "epochs='many' must be a whole number from 1 to 10,000."),
        (["train", "6", "--set", "epochs"], "changes='epochs' cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence):
    said = emo(*arguments)
    assert said.returncode == 2 and said.stderr.startswith(sentence) and said.stderr.count("\n") == 1


def test_a_folder_without_photos_is_one_sentence(tmp_path):
    said = emo("train", "finetune_mini", "--root", tmp_path)
    assert said.returncode == 2 and "has no class folders; fetch a dataset" in said.stderr.splitlines()[-1]
    assert "Traceback" not in said.stderr
