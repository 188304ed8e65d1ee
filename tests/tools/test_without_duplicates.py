"""The tool that counts again without the photos with a duplicate in training."""

import sys

import pandas as pd

from emo.data.split import Split, training_manifests
from emo.evaluation.evaluate import report
from emo.evaluation.report_file import save_report
from tests.fixtures import scene
from tools.readme.without_duplicates import main

TRAINED = {"happy": range(1, 7), "sad": range(7, 13)}
TESTED = {"happy": (1, 2, 20, 21), "sad": (22, 23, 24, 25)}


def test_it_counts_again_without_the_same_file_and_without_near_copies(paths, monkeypatch, capsys):
    for label, scenes in TRAINED.items():
        (paths.train / label).mkdir(parents=True)
        for number in scenes:
            scene(number).save(paths.train / label / f"{number}.jpg", quality=90)
    rows = []
    for label, scenes in TESTED.items():
        (paths.test / label).mkdir(parents=True)
        for number in scenes:
            file = paths.test / label / f"{number}.jpg"
            quality = 60 if number == 2 else 90  # 1 is the very file of the training photos, 2 a near copy
            scene(number).save(file, quality=quality)
            rows.append((str(file), label, "sad" if number == 1 else label, 0.9, 0.5, 0.5))
    training_manifests(paths)
    table = pd.DataFrame(rows, columns=["path", "label", "emotion", "confidence", "happy", "sad"])
    save_report(report(table, ("happy", "sad"), model="m.h5", split=Split.TEST), paths.model)

    monkeypatch.setattr(sys, "argv", ["without_duplicates", "--project", str(paths.root)])
    main()
    name, *figures = capsys.readouterr().out.strip().splitlines()[-1].strip("| ").split(" | ")
    assert name == "m.h5"
    assert [(text.split(" (")[0], text.split("), ")[1]) for text in figures] == [
        ("87.5%", "8"),
        ("100.0%", "7"),
        ("100.0%", "6"),
    ]
