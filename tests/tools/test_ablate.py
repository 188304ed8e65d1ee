"""The ablation tool on a tiny set: killed and started again, and what it makes of the seeds' accuracies."""

import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from PIL import Image

import tests.tiny  # noqa: F401 -- a backbone
import tools.ablate
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment
from emo.paths import PROJECT_ROOT, get_paths
from emo.tracking.table import Sheet, log_run, read_table
from tests.fixtures import write_photos
from tools.ablate import Ablation, ablate, choose, list_variants, plot, report, run_missing, summarize

TINY = {
    "emo_mini": Ablation(
        photos=12,
        base={"backbone": "tiny", "epochs": 1, "warmup_epochs": 0.0, "batch_size": 4},
        variants=({"no augmentation": {"augment": False}},),
    )
}
CHILD = """
import sys
from tests.tools.test_ablate import TINY, ablate
ablate(sys.argv[1], "imagenet", sys.argv[2], seeds=[42], ablations=TINY, figure=sys.argv[3])
"""


def ours(paths):
    table = read_table(paths)
    return table[table["comment"].str.startswith("ablation: ")]


def test_killed_and_started_again_it_runs_only_what_is_missing(tmp_path):
    photos, results, figure = tmp_path / "photos", tmp_path / "results", tmp_path / "ablations.png"
    write_photos(photos / "train", 12, classes=("anger", "happy"))
    write_photos(photos / "train", 6, classes=("sad",))
    write_photos(photos / "val", 2, seed=1)
    results.mkdir()
    paths = get_paths(results / "12_photos", results)
    with (tmp_path / "child.log").open("w") as log:
        command = [sys.executable, "-c", CHILD, *map(str, (photos, results, figure))]
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=log, stderr=log)
    deadline = time.monotonic() + 400
    while not (paths.experiments_csv.exists() and len(ours(paths))):
        assert process.poll() is None, (tmp_path / "child.log").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = ours(paths).iloc[0]
    assert first["comment"] == "ablation: emo_mini: base"

    split = paths.split.stat().st_mtime_ns
    for _ in range(2):  # the second time there is nothing left to do
        summary = ablate(str(photos), "imagenet", results, seeds=[42], ablations=TINY, figure=figure)
        table = ours(paths)
        assert list(table["comment"]) == ["ablation: emo_mini: base", "ablation: emo_mini: no augmentation"]
        assert table.iloc[0]["model_file"] == first["model_file"]
        assert read_table(paths)["number"].max() == 14
    assert [Experiment.from_json(text).augment for text in table["settings"]] == [True, False]
    assert [variant.label for variant in summary["variant"]] == ["base", "no augmentation"]
    assert list(read_table(paths, Sheet.ABLATIONS)["number"]) == [13, 14]
    assert figure.exists()
    assert paths.split.stat().st_mtime_ns == split  # a second process may be reading it

    train, val = training_manifests(paths)
    shares = train["label"].value_counts()
    assert len(train) == 12 and len(val) == 6
    assert (4, 4, 2) <= tuple(shares[["anger", "happy", "sad"]]) <= (5, 5, 3)  # as in the whole
    left_out = pd.read_csv(paths.split)["left_out"].dropna()
    assert set(left_out) == {"not among the ablation's 12 photos"} and len(left_out) == 18


ACCURACIES = {  # of three seeds
    "base": (50.0, 51.0, 52.0),
    "no augmentation": (40.0, 41.0, 42.0),
    "random erasing": (51.9, 53.0, 54.0),
    "cutmix": (52.1, 53.0, 54.0),
    "balanced classes": (52.0,),
    "mixup": (51.9,),
}


def finetune():
    return [variant for variant in list_variants("imagenet") if variant.recipe == "finetune"]


@pytest.fixture
def logged(paths):
    for variant in finetune():
        for place, accuracy in enumerate(ACCURACIES.get(variant.label, ())):
            settings = Experiment(**vars(variant.experiment) | {"seed": 42 + place}).to_json()
            log_run({"state": "finished", "val_accuracy": accuracy, "settings": settings}, paths)
    return paths


def test_what_overlaps_is_noise(logged, tmp_path):
    summary = summarize(finetune(), (42, 43, 44), logged)
    verdicts = {row.variant.label: row.verdict for row in summary.itertuples()}
    assert verdicts == {
        "base": "base",
        "no augmentation": "worse",
        "random erasing": "noise",
        "cutmix": "better",
    } | {
        "balanced classes": "better",
        "mixup": "needs more seeds",
    }
    text = report(summary, 3)
    assert "| finetune: no augmentation | `augment=False` | 41.0 (40.0–42.0) | −10.0 | worse |" in text
    base = "epochs=3, ema=0.95, image_size=72, unfreeze=block5, precise_batch_norm=False"
    assert f"| finetune: base | `{base}` | 51.0 (50.0–52.0) |  | base |" in text
    assert "| finetune: balanced classes | `class_balance=1` | 52.0 | +2.0 | better |" in text
    assert "part by luck in 10% of cases" in text
    plot(summary).savefig(tmp_path / "figure.png", dpi=50)
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width >= 300


def test_what_one_seed_makes_clear_is_not_run_again(logged, monkeypatch):
    trained = []

    def started(experiment, paths):
        trained.append(experiment)
        raise UserError("not here")

    monkeypatch.setattr(tools.ablate, "train", started)
    known = [each for each in finetune() if each.label in ACCURACIES]
    run_missing(known, (42, 43, 44), {"finetune": logged})
    assert [(each.mix, each.seed) for each in trained] == [("mixup", 43), ("mixup", 44)]


def test_rows_that_lie_among_the_whole_runs_are_filed(paths, monkeypatch):
    """Those of a run that was killed before its row moved, and those of tables that had one sheet."""
    base, other, *_ = list_variants("imagenet")
    whole = Experiment(**vars(base.experiment) | {"seed": 7})
    for name, experiment in {"whole": whole, "base": base.experiment, "other": other.experiment}.items():
        row = {"state": "finished", "val_accuracy": 40, "settings": experiment.to_json()}
        log_run(row | {"model_file": f"{name}.h5"}, paths)
    monkeypatch.setattr(tools.ablate, "train", None)  # there is nothing to train
    for _ in range(2):
        run_missing([base, other], (base.experiment.seed,), {base.recipe: paths})
        filed = read_table(paths, Sheet.ABLATIONS)
        assert list(filed["number"]) == [14, 15]
        assert list(filed["comment"]) == [f"ablation: {each.name}" for each in (base, other)]
        assert read_table(paths, Sheet.RUNS)["model_file"].iloc[-1] == "whole.h5"


def test_a_name_brings_its_base_along_and_a_wrong_one_is_told(tmp_path):
    variants = list_variants("imagenet")
    assert (
        len({each.name for each in variants}) == len({each.experiment for each in variants}) == len(variants)
    )
    chosen = choose(variants, ["finetune: from block1"])
    assert [variant.label for variant in chosen] == ["base", "from block13"]
    with pytest.raises(UserError, match="'emo_max'; there are: finetune: base, "):
        ablate("photos", "imagenet", tmp_path, only=["emo_max"])
    with pytest.raises(UserError, match="'finetun_strong:'; there are"):
        ablate("photos", "imagenet", tmp_path, only=["finetune:", "finetun_strong:"])


def test_a_missing_teacher_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"There is no model/emo_mini_fer2013\.h5, .* git show"):
        ablate("no such photos", "imagenet", tmp_path, only=["finetune: taught"])
