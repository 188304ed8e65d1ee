"""A run that is killed goes on as if nothing had happened."""

import dataclasses
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment
from emo.inference.classifier import load_classifier
from emo.models.saving import read_metadata
from emo.paths import get_paths
from emo.tracking.table import read_table
from emo.training import async_writer, checkpoint, plan, recorder
from emo.training.checkpoint import find_state, run_key
from emo.training.recorder import Recorder
from emo.training.train import train
from tests.fixtures import write_photos

PROJECT = Path(__file__).resolve().parents[2]
# whatever a state must hold: dropout, momenta, a schedule, an average of weights, BatchNormalization; and
# all that is drawn anew in each epoch
RUN = Experiment(
    "tiny", "emo_mini", ("avg_pool", "dropout 0.5", "dense 8"), "adamw", 1e-3, weight_decay=0.01,
    schedule="cosine", warmup_epochs=0.5, label_smoothing=0.1, ema=0.9, class_balance=0.5, augment=True,
    color_jitter=0.3, random_erasing=0.5, mix="cutmix", epochs=4,
    unfreeze="all", precise_batch_norm=True, weights=None, image_size=48, batch_size=2, precision="float32",
)  # fmt: skip
CHILD = """
import sys
from emo.training import async_writer, checkpoint
from emo.experiments import Experiment
from emo.paths import get_paths
from emo.training.train import train
from tests.fixtures import write_photos
async_writer.FIRST_SECONDS, checkpoint.STATE_SECONDS, async_writer.SHARE = 0.0, 0.0, 1e9  # after every batch
train(Experiment.from_json(sys.argv[1]), get_paths(sys.argv[2]))
"""


def start(paths):
    with (paths.root / "child.log").open("w") as log:
        command = [sys.executable, "-c", CHILD, RUN.to_json(), str(paths.root)]
        return subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)


def kill_after(process, paths, wanted):
    """SIGKILL once a state at `wanted`, (epoch, step), is on disk."""
    deadline = time.monotonic() + 240
    while place(paths) < wanted:
        assert process.poll() is None, (paths.root / "child.log").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()


def place(paths):
    """(epoch, step) of the newest state on disk, (-1, 0) without one."""
    train_files, val_files = training_manifests(paths)
    key = run_key(RUN, ("anger", "happy", "sad"), train_files, val_files, root=paths.data)
    alive, checkpoint._alive = checkpoint._alive, lambda process: False
    try:
        found = find_state(paths.model, key)
    finally:
        checkpoint._alive = alive
    return (found[1].epoch, found[1].step) if found else (-1, 0)


def test_a_run_killed_three_times_ends_as_an_unbroken_one(dataset, tmp_path_factory, capsys):
    other = dataclasses.replace(dataset, results=tmp_path_factory.mktemp("unbroken"))
    other.model.mkdir()
    unbroken = train(RUN, other)
    for wanted in ((0, 2), (1, 3), (2, 1)):
        kill_after(start(dataset), dataset, wanted)
    killed_at = place(dataset)
    assert (2, 1) <= killed_at < (4, 0)

    run = train(RUN, dataset)
    assert f"in epoch {killed_at[0] + 1} of 4" in capsys.readouterr().out
    np.testing.assert_allclose(run.history, unbroken.history, rtol=0, atol=1e-4)
    assert (run.val_accuracy, run.best_epoch) == (unbroken.val_accuracy, unbroken.best_epoch)
    photos = list(training_manifests(dataset)[1].path)
    answers = [load_classifier(each.model_path).predict(photos).iloc[:, 2:] for each in (run, unbroken)]
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-4)
    table = read_table(dataset)
    assert list(table.number).count(13) == 1 and table.number.max() == 13  # one row
    assert sorted(file.suffix for file in dataset.model.iterdir()) == [".h5", ".png"]  # no state is left


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """A project whose run died in its third epoch, both states on disk."""
    paths = get_paths(tmp_path_factory.mktemp("dead"))
    write_photos(paths.train, 12)
    kill_after(start(paths), paths, (2, 0))
    return paths


@pytest.fixture
def killed(dead, tmp_path, monkeypatch):
    """A copy of it."""
    monkeypatch.setattr(async_writer, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "STATE_SECONDS", 0.0)
    monkeypatch.setattr(async_writer, "SHARE", 1e9)
    return get_paths(shutil.copytree(dead.root, tmp_path / "project"))


def test_a_state_cut_short_gives_way_to_the_one_before(killed, capsys):
    newest = max(killed.model.glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert place(killed) >= (1, 0)
    assert train(RUN, killed).state == "finished"
    assert "Going on with the run" in capsys.readouterr().out


def test_a_run_of_another_precision_is_refused_and_kept(killed, monkeypatch):
    before = sorted(killed.model.iterdir())
    monkeypatch.setattr(plan, "dtype_policy", lambda _: "mixed_float16")  # as on a GPU that came later
    with pytest.raises(UserError, match=r"cannot go on here.*another precision.*to begin anew, delete"):
        train(RUN, killed)
    assert sorted(killed.model.iterdir()) == before


def test_ctrl_c_before_a_model_is_kept_leaves_what_an_earlier_session_did(killed, monkeypatch):
    next(killed.model.glob("*_running.h5")).unlink()
    before = place(killed)

    def interrupted(*_, logs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(RUN, killed)
    assert place(killed) == before
    assert train(RUN, killed).state == "finished"


def test_a_run_that_came_to_its_end_but_not_into_the_table_is_done_again(killed, monkeypatch, capsys):
    def table_is_open(*given):
        raise UserError("Nothing was logged: close the table and run this again.")

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "log_run", table_is_open)
        with pytest.raises(UserError, match="run this again"):
            train(RUN, killed)
    reached = read_metadata(next(killed.model.glob("*_acc*.h5")))["val_accuracy"]
    run = train(RUN, killed)
    assert "Going on with the run" in (told := capsys.readouterr()).out
    assert "4/4" in told.err  # the bar reaches the last epoch
    assert (str(run.outcome), run.val_accuracy, len(run.history)) == ("finished", reached, 4)
    assert read_table(killed).iloc[-1].model_file == run.model_path.name
    assert sorted(file.suffix for file in killed.model.iterdir()) == [".h5", ".png"]


def test_another_experiment_leaves_the_unfinished_run_alone(killed, capsys):
    before = sorted(killed.model.glob("*_running*"))
    run = train(dataclasses.replace(RUN, seed=7, epochs=1), killed)
    assert len(run.history) == 1
    assert sorted(killed.model.glob("*_running*")) == before
    assert "Going on" not in capsys.readouterr().out


def test_a_run_that_is_training_elsewhere_is_not_taken_over(dataset):
    process = start(dataset)
    try:
        while place(dataset) < (0, 1):
            assert process.poll() is None
            time.sleep(0.01)
        train_files, val_files = training_manifests(dataset)
        key = run_key(RUN, ("anger", "happy", "sad"), train_files, val_files, root=dataset.data)
        assert find_state(dataset.model, key) is None
    finally:
        process.kill()
        process.wait()


def test_writes_happen_in_order_and_only_the_newest_of_a_kind(monkeypatch):
    monkeypatch.setattr(async_writer, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(async_writer, "SHARE", 1e9)
    writer, done = async_writer.Writer(), []
    writer._thread.submit(time.sleep, 0.2)  # all that follows waits together
    for kind, name in (("state", "s1"), ("model", "m1"), ("model", "m2"), ("state", "s2")):
        writer.submit(kind, lambda name=name: done.append(name))
    writer.close()
    assert done == ["m2", "s2"]  # a state never comes before a model that was handed over before it
