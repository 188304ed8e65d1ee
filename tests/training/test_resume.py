"""A run that is killed goes on as if nothing had happened."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pytest

import tests.tiny  # noqa: F401 -- a backbone
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.saving import read_metadata
from emo.paths import get_paths
from emo.tracking.table import read_table
from emo.training import async_writer, checkpoint, plan, recorder
from emo.training.checkpoint import Progress, find_states
from emo.training.recorder import Recorder
from emo.training.train import train
from tests.fixtures import write_metadata, write_photos
from tests.training.kills import Trainings, changes, is_the_end

PROJECT = Path(__file__).resolve().parents[2]
# whatever a state must hold: dropout, momenta, a schedule, an average of weights, BatchNormalization; and
# all that is drawn again in each epoch
RUN = Experiment(
    "tiny", "tiny", ("avg_pool", "dropout 0.5", "dense 8"), "adamw", 1e-3, weight_decay=0.01,
    schedule="cosine", warmup_epochs=0.5, label_smoothing=0.1, ema=0.9, class_balance=0.5, augment=True,
    color_jitter=0.3, random_erasing=0.5, mix="cutmix", epochs=4,
    unfreeze="all", precise_batch_norm=True, weights=None, image_size=48, batch_size=2, precision="float32",
)  # fmt: skip
# the least that trains as a run does, for many kills
SMALL = dataclasses.replace(
    RUN, head=("avg_pool", "dropout 0.5"), unfreeze="none", augment=False, color_jitter=0.0, mix="none",
    random_erasing=0.0, precise_batch_norm=False, epochs=2, batch_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def trainings():
    started = Trainings()
    yield started
    started.close()


def place(paths):
    """(epoch, step) of the newest state on disk, (-1, 0) without one."""
    found = [(-1, 0)]
    for file in paths.model.glob("*_running.state?.npz"):
        with suppress(Exception), np.load(file) as state:  # one that a kill cut
            said = json.loads(str(state["progress"]))
            found.append((said["epoch"], said["step"]))
    return max(found)


def unbroken(experiment, dataset, folder):
    """What the experiment comes to when nothing happens to it, elsewhere."""
    return train(experiment, get_paths(dataset.root, folder))


def assert_alike(run, whole):
    assert str(run.outcome) == "finished"
    np.testing.assert_allclose(run.history, whole.history, rtol=0, atol=1e-6)
    assert (run.val_accuracy, run.best_epoch) == (whole.val_accuracy, whole.best_epoch)
    weights = [
        [layer.numpy() for layer in keras.models.load_model(r.model_path, compile=False).weights]
        for r in (run, whole)
    ]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def assert_one_row_and_no_leftovers(run, paths):
    table = read_table(paths)
    assert list(table.model_file).count(run.model_path.name) == 1
    assert (table.number.max(), run.number) == (13, 13)
    assert set(paths.model.iterdir()) == {run.model_path, run.curve_path}


def test_a_run_killed_three_times_ends_as_an_unbroken_one(dataset, trainings, tmp_path_factory, capsys):
    whole = unbroken(RUN, dataset, tmp_path_factory.mktemp("unbroken"))
    for number in (3, 17, 18):
        assert trainings.train(RUN, dataset, kill_at_state=number) == -signal.SIGKILL
    killed_at = place(dataset)
    assert (2, 1) <= killed_at < (4, 0)

    run = train(RUN, dataset)
    assert f"in epoch {killed_at[0] + 1} of 4" in capsys.readouterr().out
    assert_alike(run, whole)
    assert_one_row_and_no_leftovers(run, dataset)


@pytest.fixture(scope="module")
def dead(tmp_path_factory, trainings):
    """A project whose run died in its third epoch, both states on disk."""
    paths = get_paths(tmp_path_factory.mktemp("dead"))
    write_photos(paths.train, 12)
    assert trainings.train(RUN, paths, kill_at_state=34) == -signal.SIGKILL
    return paths


@pytest.fixture
def killed(dead, tmp_path, monkeypatch):
    """A copy of it."""
    monkeypatch.setattr(async_writer, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "STATE_SECONDS", 0.0)
    monkeypatch.setattr(async_writer, "SHARE", 1e9)
    return get_paths(shutil.copytree(dead.root, tmp_path / "project"))


def newest_state(paths):
    return max(paths.model.glob("*_running.state?.npz"), key=lambda file: file.stat().st_mtime_ns)


def changed_progress(file, **changes):
    """Gives a state other words of itself."""
    with np.load(file) as state:
        arrays = dict(state)
    said = json.loads(str(arrays.pop("progress"))) | changes
    np.savez(file, progress=np.array(json.dumps(said)), **arrays)


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def single_array(file):
    with file.open("wb") as out:
        np.save(out, np.ones(3))


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
    "cut early": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "zeros": lambda file: file.write_bytes(bytes(5000)),
    "another zip": lambda file: zipfile.ZipFile(file, "w").close(),
    "a text": lambda file: file.write_text("no state"),
    "a single array": single_array,
    "a flipped byte": flip_a_byte,
    "an absurd step": lambda file: changed_progress(file, step=10**30),
    "a negative step": lambda file: changed_progress(file, step=-1),
    "a NaN": lambda file: changed_progress(file, seconds=float("nan")),
    "another folder": lambda file: changed_progress(file, model_file="../x_running.h5"),
    "no date": lambda file: changed_progress(file, date="yesterday"),
    "texts": lambda file: changed_progress(file, epoch="2", best=None),
    "epochs that are none": lambda file: changed_progress(file, epochs=[{"epoch": 7}]),
}
# those that do not need a state to begin with
BYTES = ("empty", "zeros", "another zip", "a text", "a single array")


def test_a_damaged_state_gives_way_to_the_one_before(killed):
    newest = newest_state(killed)
    content, key = newest.read_bytes(), Progress.read(str(np.load(newest)["progress"])).key
    for kind, damage in DAMAGE.items():
        newest.write_bytes(content)
        damage(newest)
        whole, damaged = find_states(killed.model, key)
        if kind == "an absurd step":  # which the plan alone tells
            assert len(whole) == 2
        else:
            assert (len(whole), set(damaged)) == (1, {newest}), kind
    DAMAGE["an absurd step"](newest)
    assert str(train(RUN, killed).outcome) == "finished"


def test_of_damaged_states_a_sentence_tells_and_the_model_is_kept(killed, capsys):
    for file, damage in zip(
        sorted(killed.model.glob("*_running.state?.npz")), ("empty", "an absurd step"), strict=True
    ):
        DAMAGE[damage](file)
    run = train(dataclasses.replace(RUN), killed)
    told = capsys.readouterr().out
    assert re.search(
        r"state0\.npz is damaged \(No data left in file\): the run that it is of cannot go on", told
    )
    assert "its best model is kept as" in told
    assert len(run.history) == 4
    assert not list(killed.model.glob("*_running*")) and len(list(killed.model.glob("*_acc*.h5"))) == 2


def test_damaged_states_of_other_runs_block_nothing(dataset, capsys):
    for number, kind in enumerate(BYTES):
        stem = f"emo_classificator_best_26010100000{number}_xception_e9_aug1_running"
        DAMAGE[kind](dataset.model / f"{stem}.state0.npz")
    before = sorted(dataset.model.iterdir())
    assert len(before) == len(BYTES)
    run = train(SMALL, dataset)
    assert set(dataset.model.iterdir()) == {*before, run.model_path, run.curve_path}
    assert "is damaged" not in capsys.readouterr().out


def test_a_run_of_another_precision_is_refused_and_kept(killed, monkeypatch):
    before = sorted(killed.model.iterdir())
    monkeypatch.setattr(plan, "dtype_policy", lambda _: "mixed_float16")  # as on a GPU that came later
    with pytest.raises(UserError, match=r"cannot be resumed here.*another precision.*to start over, delete"):
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
    assert str(train(RUN, killed).outcome) == "finished"


def test_a_run_that_came_to_its_end_but_not_into_the_table_is_done_again(killed, monkeypatch, capsys):
    def table_is_open(*given):
        raise UserError("Nothing was logged: close the table and run this again.")

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "log_run", table_is_open)
        with pytest.raises(UserError, match="run this again"):
            train(RUN, killed)
    reached = read_metadata(next(killed.model.glob("*_acc*.h5")))["val_accuracy"]
    run = train(RUN, killed)
    assert "Resuming the run" in (told := capsys.readouterr()).out
    assert "4/4" in told.err  # the bar reaches the last epoch
    assert (str(run.outcome), run.val_accuracy, len(run.history)) == ("finished", reached, 4)
    assert read_table(killed).iloc[-1].model_file == run.model_path.name
    assert sorted(file.suffix for file in killed.model.iterdir()) == [".h5", ".png"]


def test_a_model_that_never_reached_the_disk_is_not_taken_for_the_best(killed):
    """Where the disk refused the model, it may have taken the state behind it."""
    (model,) = killed.model.glob("*_running.h5")
    write_metadata(model, json.dumps(read_metadata(model) | {"val_accuracy": 0.0}))
    for state in killed.model.glob("*_running.state?.npz"):
        changed_progress(state, best=1.0)
    run = train(RUN, killed)
    assert run.best_epoch > 2 and run.val_accuracy == run.history["val_accuracy"][run.best_epoch]


def test_another_experiment_leaves_the_unfinished_run_alone(killed, capsys):
    before = sorted(killed.model.glob("*_running*"))
    run = train(dataclasses.replace(RUN, seed=7, epochs=1), killed)
    assert len(run.history) == 1
    assert sorted(killed.model.glob("*_running*")) == before
    assert "Going on" not in capsys.readouterr().out


def test_a_run_that_another_process_trains_is_refused_and_other_seeds_are_not(dataset):
    run = [sys.executable, "-c", f"""
import tests.tiny
from emo.experiments import Experiment; from emo.paths import get_paths
from emo.training.train import train
train(Experiment.from_json({RUN.to_json()!r}), get_paths({str(dataset.root)!r}))
"""]  # fmt: skip
    process = subprocess.Popen(run, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(dataset.model.glob("*_running.h5")):
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"being trained already in .* by process {process.pid} on "):
            train(RUN, dataset)
        other = train(dataclasses.replace(SMALL, seed=7), dataset)
        assert other.model_path.exists()
        assert process.poll() is None  # and so they ran side by side
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("m1 s1 m2", "m1 s1 m2"),
        ("m1 m2 s1 m3 m4", "m2 s1 m4"),
        ("m1 s1 m2 s2 m3", "m2 s2 m3"),
        ("m1 s1 s2", "m1 s2"),
    ],
)
def test_a_better_model_does_not_displace_the_one_that_a_waiting_state_claims(monkeypatch, given, expected):
    monkeypatch.setattr(async_writer, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(async_writer, "SHARE", 1e9)
    writer, done, all_wait = async_writer.Writer(spare=["state"]), [], threading.Event()
    writer._thread.submit(all_wait.wait)
    for name in given.split():
        kind = "state" if name.startswith("s") else "model"
        writer.submit(kind, lambda name=name: done.append(name))
    all_wait.set()
    writer.close()
    assert done == expected.split()


def fresh(root):
    paths = get_paths(root)
    write_photos(paths.train, 6)
    training_manifests(paths)
    return paths


def end_of(trainings, root, states):
    """What a run of SMALL changes on disk from its model's final name on, in order."""
    paths = fresh(root)
    assert trainings.train(SMALL, paths, states=states) == 0
    done = changes(paths)
    return done[next(n for n, change in enumerate(done) if is_the_end(*change.split(" ", 1))) :]


def test_a_kill_between_row_and_end_leaves_one_row_and_nothing_else(trainings, tmp_path):
    whole = unbroken(SMALL, fresh(tmp_path / "whole"), tmp_path / "other")
    end = end_of(trainings, tmp_path / "end", states=True)
    for part in ("experiments.xlsx", "state1.npz", ".training"):
        number = next(n for n, change in enumerate(end, 1) if part in change)
        paths = fresh(tmp_path / f"killed {number}")
        assert trainings.train(SMALL, paths, kill_at_end=number) == -signal.SIGKILL
        run = train(SMALL, paths)
        assert_alike(run, whole)
        assert_one_row_and_no_leftovers(run, paths)


@pytest.mark.slow
@pytest.mark.parametrize("states", [True, False], ids=["with states", "before the first state"])
def test_a_kill_at_any_change_of_the_beginning_or_the_end_leaves_one_row(trainings, tmp_path, states):
    whole = unbroken(SMALL, fresh(tmp_path / "whole"), tmp_path / "other")
    end = end_of(trainings, tmp_path / "end", states)
    points = [{"kill_at": number} for number in range(1, 7)]
    points += [{"kill_at_end": number} for number in range(1, len(end) + 1)]
    for number, point in enumerate(points):
        paths = fresh(tmp_path / f"killed {number}")
        assert trainings.train(SMALL, paths, states=states, **point) == -signal.SIGKILL
        run = train(SMALL, paths)
        assert_alike(run, whole)
        assert_one_row_and_no_leftovers(run, paths)


@pytest.mark.slow
def test_thirty_kills_at_random_moments(trainings, tmp_path):
    random = np.random.default_rng(0)
    whole = unbroken(SMALL, fresh(tmp_path / "whole"), tmp_path / "other")
    started = time.monotonic()
    end_of(trainings, tmp_path / "timed", states=True)
    lasts, kills, project = time.monotonic() - started, 0, 0
    while kills < 30:
        project += 1
        paths = fresh(tmp_path / f"project {project}")
        for _ in range(random.integers(1, 5)):
            code = trainings.train(SMALL, paths, kill_after=random.uniform(0.05, 1.1) * lasts)
            assert code in (0, -signal.SIGALRM), (paths.root / "child.log").read_text()[-2000:]
            if code == 0:
                break
            kills += 1
        else:
            run = train(SMALL, paths)
            assert_alike(run, whole)
            assert_one_row_and_no_leftovers(run, paths)
