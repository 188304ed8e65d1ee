"""The tool that counts again without the photos with a duplicate in training."""

import sys

import pandas as pd
import pytest

from emo.data.split import Split, training_manifests
from emo.evaluation.evaluate import report
from emo.evaluation.report_file import save_report
from tests.fixtures import scene
from tools.readme.without_duplicates import main

TRAINED = {"happy": range(1, 7), "sad": range(7, 13)}
TESTED = {"happy": (1, 2, 20, 21), "sad": (22, 23, 24, 25)}


@pytest.fixture
def rows(paths):
    """Answers for the photos to test on: 1 is the very file of a training photo and wrong, 2 a near copy."""
    for label, scenes in TRAINED.items():
        (paths.train / label).mkdir(parents=True)
        for number in scenes:
            scene(number).save(paths.train / label / f"{number}.jpg", quality=90)
    rows = []
    for label, scenes in TESTED.items():
        (paths.test / label).mkdir(parents=True)
        for number in scenes:
            file = paths.test / label / f"{number}.jpg"
            scene(number).save(file, quality=60 if number == 2 else 90)
            rows.append((str(file), label, "sad" if number == 1 else label, 0.9, 0.5, 0.5))
    training_manifests(paths)
    return rows


def save(rows, paths):
    table = pd.DataFrame(rows, columns=["path", "label", "emotion", "confidence", "happy", "sad"])
    save_report(report(table, ("happy", "sad"), model="m.h5", split=Split.TEST), paths.model)


def counted(paths, monkeypatch, capsys) -> list[tuple[str, str]]:
    """Accuracy and photos: of all, without the same file, without near copies, too."""
    monkeypatch.setattr(sys, "argv", ["without_duplicates", "--project", str(paths.root)])
    main()
    name, *figures = capsys.readouterr().out.strip().splitlines()[-1].strip("| ").split(" | ")
    assert name == "m.h5"
    return [(text.split(" (")[0], text.split("), ")[1]) for text in figures]


def test_it_counts_again_without_the_same_file_and_without_near_copies(rows, paths, monkeypatch, capsys):
    save(rows, paths)
    assert counted(paths, monkeypatch, capsys) == [("87.5%", "8"), ("100.0%", "7"), ("100.0%", "6")]


def test_photos_held_out_of_two_folders_are_known_too(rows, paths, monkeypatch, capsys):
    file = str(paths.train / "sad" / "12.jpg")  # as where a second dataset has its own share to test
    save([*rows, (file, "sad", "sad", 0.9, 0.5, 0.5)], paths)
    assert counted(paths, monkeypatch, capsys) == [("88.9%", "9"), ("100.0%", "8"), ("100.0%", "7")]


def test_a_report_on_other_photos_is_told(rows, paths, monkeypatch, capsys):
    save([(f"/elsewhere/{row[0].rsplit('/', 2)[1]}/x{n}.jpg", *row[1:]) for n, row in enumerate(rows)], paths)
    with pytest.raises(SystemExit, match=r"m_report\.json is of photos that are not in .*data, such as "):
        counted(paths, monkeypatch, capsys)
