"""The measurement of the embedded model, on a small project of two datasets."""

import sys

import numpy as np

from emo.data.download import fetch_dataset
from emo.data.duplicates import find_duplicates
from emo.data.manifest import scan_splits
from emo.data.split import held_out_manifest, split_photos
from emo.evaluation.evaluate import evaluate
from emo.inference.classifier import load_classifier
from emo.paths import EMO_MINI
from tests.fixtures import scene
from tools.bench import embedded


def test_each_dataset_gets_a_table_of_what_is_held_out_and_of_its_alterations(
    paths, tmp_path, monkeypatch, capsys
):
    for number, source in enumerate(("first", "second")):
        for place, name in enumerate(("happy", "sad")):
            folder = tmp_path / source / "train" / name
            folder.mkdir(parents=True)
            for index in range(8):
                scene(100 * number + 20 * place + index, 60).save(folder / f"{index}.png")
    fetch_dataset(tmp_path / "first", paths)
    fetch_dataset(tmp_path / "second", paths, add="second")
    photos = scan_splits(paths)
    split_photos(photos, find_duplicates(photos), paths, test=0.25)
    monkeypatch.setattr(
        sys,
        "argv",
        ["embedded", "--project", str(paths.root), "--altered", "2", "--other", f"twice={EMO_MINI}"],
    )
    capsys.readouterr()
    embedded.main()
    said = capsys.readouterr().out
    for source, held_out in held_out_manifest(paths).groupby("source"):
        accuracy = evaluate(load_classifier(EMO_MINI), held_out).accuracy
        assert f"| {source} | model | photos |" in said
        assert f"| as they are | {EMO_MINI.stem} | {len(held_out)} | {accuracy:.1%} |" in said
    assert said.count("| the same, turned by up to 20°") == 4  # two datasets, two models
    assert said.count("| margin +0.00 |") == 2


def test_alterations_change_a_picture_and_repeat():
    face = scene(1, 48)
    for alter in embedded.ALTERATIONS.values():
        one, again = (np.asarray(alter(face, np.random.default_rng(0))) for _ in range(2))
        np.testing.assert_array_equal(one, again)
        assert min(one.shape[:2]) >= 400
