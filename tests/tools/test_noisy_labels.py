"""The measurement of wrong labels, on a small dataset."""

import sys
from pathlib import Path

import pandas as pd
import pytest

import tests.tiny  # noqa: F401 -- a backbone
from emo.data.split import training_manifests
from emo.paths import get_paths
from tests.fixtures import write_photos
from tools.bench import noisy_labels
from tools.bench.label_audit import write_relabel
from tools.bench.small_data import projects

TINY = {"backbone": "tiny", "weights": None, "epochs": 1, "warmup_epochs": 0.0, "batch_size": 4}


@pytest.fixture
def few_photos(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos" / "train", 14, classes=("anger", "happy", "sad"))
    monkeypatch.setattr("tools.bench.small_data.TEST", 6)
    monkeypatch.setattr(
        noisy_labels,
        "VARIANTS",
        {
            "all labels right": ("right", TINY),
            noisy_labels.TEACHER: ("given", TINY),
            "distillation": ("given", TINY | {"teacher": "teacher", "teacher_weight": 0.5}),
            "repaired": ("repaired", TINY),
        },
    )
    line = ["noisy_labels", "--dataset", f"{tmp_path / 'photos'}", "--photos", "36"]
    monkeypatch.setattr(sys, "argv", [*line, "--folder", f"{tmp_path / 'kept'}"])
    return get_paths(tmp_path / "kept" / "36-noisy")


@pytest.mark.slow
def test_a_row_per_variant_and_a_second_call_repeats_no_run(few_photos, capsys):
    noisy_labels.main()
    said = capsys.readouterr().out
    assert "11 of 36 labels are wrong. The first 20% of suspects hold" in said
    rows = [line for line in said.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {variant}" for variant in noisy_labels.VARIANTS]
    models = sorted(few_photos.model.glob("*.h5"))
    assert len(models) == len(rows)
    noisy_labels.main()
    assert capsys.readouterr().out.splitlines()[-len(rows) - 3 :] == said.splitlines()[-len(rows) - 3 :]
    assert sorted(few_photos.model.glob("*.h5")) == models


def test_all_labels_are_right_where_relabel_csv_repairs_them(few_photos, tmp_path):
    clean = projects(str(tmp_path / "photos"), [36], tmp_path)[36]
    paths, table = noisy_labels.mislabelled(clean, few_photos.root)
    files = list(paths.train.glob("*/*"))
    named = {file.name: file.name.partition("_")[0] for file in files}
    assert sum(file.parent.name != named[file.name] for file in files) == 11
    write_relabel(table, table["right"], paths)
    photos = pd.concat(training_manifests(paths))
    assert dict(zip(photos["path"].map(lambda path: Path(path).name), photos["label"], strict=True)) == named
