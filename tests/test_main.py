"""The command line: a mistake is one sentence and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.fixtures import write_photos

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


def test_a_photo_is_answered_on_stdout_and_all_else_is_said_on_stderr(tmp_path):
    write_photos(tmp_path, 1, ("happy",))
    photo = next(tmp_path.rglob("*.jpg"))
    said = emo("predict", photo, "--json")
    assert said.returncode == 0, said.stderr
    (answer,) = json.loads(said.stdout)  # nothing else
    assert answer["path"] == str(photo) and answer["emotion"] in answer and 0 < answer["confidence"] <= 1
    assert "No face was found" in said.stderr
    table = emo("predict", photo).stdout.splitlines()
    assert table[0].split() == ["path", "face", "box", "emotion", "confidence"] and len(table) == 2


def test_a_folder_becomes_a_csv_that_takes_no_other_files_place(tmp_path):
    write_photos(tmp_path / "photos", 2, ("happy", "sad"))
    (tmp_path / "answers.csv").write_text("mine")
    said = emo("predict", tmp_path / "photos", "--csv", tmp_path / "answers.csv")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == str(tmp_path / "answers_2.csv")
    table = pd.read_csv(tmp_path / "answers_2.csv")
    assert len(table) == 4 and table.columns[:3].tolist() == ["path", "emotion", "confidence"]
    assert (tmp_path / "answers.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["nowhere.jpg"], "nowhere.jpg"), (["data/sample.png", "--model", "nothing"], "nothing")],
)
def test_what_is_not_there_is_one_sentence(arguments, sentence):
    said = emo("predict", *arguments)
    assert said.returncode == 2 and said.stdout == ""
    assert sentence in said.stderr.splitlines()[-1] and "Traceback" not in said.stderr
