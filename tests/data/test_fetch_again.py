"""Fetching again: a source that has grown, another one, two calls at once, after a kill, on a full disk."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pandas as pd
import pytest

from emo.data import lock
from emo.data.download import fetch_dataset
from emo.data.duplicates import find_duplicates
from emo.data.lock import locked
from emo.data.manifest import class_names, scan_splits
from emo.data.set_aside import occupied, restore_dataset, set_aside_dataset
from emo.data.split import held_out_manifest, load_split, split_photos, training_manifests
from emo.errors import UserError
from emo.paths import PROJECT_ROOT, get_paths
from tests.data.files import make_folder, make_zip, names_in, photo, sentence, small_set, snapshot


def source_of(tmp_path, files, packed):
    return make_zip(tmp_path / "faces.zip", files) if packed else make_folder(tmp_path / "faces", files)


# ---------------------------------------------------------------- a source that has grown


@pytest.mark.parametrize("packed", [True, False])
def test_a_grown_source_adds_its_new_photos(paths, tmp_path, capsys, packed):
    files = small_set()
    fetch_dataset(source_of(tmp_path, files, packed), paths)
    more = {"train/happy/new.png": photo("new"), "val/anger/new.png": photo("newer")}
    (paths.train / "happy/0.png").write_bytes(b"mine now")
    source = source_of(tmp_path, files | more, packed)
    before = snapshot(paths.data)
    assert fetch_dataset(source, paths) == {"train": 9, "val": 3, "test": 2}
    assert (
        "Added what is new in" in (told := capsys.readouterr().out)
        and "1 photos in train, 1 photos in val" in told
    )
    after = snapshot(paths.data)
    assert {name: after[name] for name in more} == more
    assert {name for name in after if after[name] != before.get(name)} == {*more, "dataset.json"}
    assert fetch_dataset(source, paths)["train"] == 9 and "already here" in capsys.readouterr().out
    assert not [name for name in names_in(paths.data) if name.startswith(".")]


@pytest.mark.parametrize("packed", [True, False])
def test_what_left_or_changed_in_the_source_stays_and_is_told(paths, tmp_path, capsys, packed):
    files = small_set()
    source = source_of(tmp_path, files, packed)
    fetch_dataset(source, paths)
    before = snapshot(paths.data)
    del files["train/happy/0.png"]
    files["train/happy/1.png"] = photo(77, size=(20, 20))
    (source.unlink if packed else lambda: shutil.rmtree(source))()
    assert fetch_dataset(source_of(tmp_path, files, packed), paths)["train"] == 8
    told = capsys.readouterr().out
    assert (
        "already here" in told and "1 photos were removed from it" in told and "1 photos have changed" in told
    )
    assert snapshot(paths.data) == before


def test_a_photo_that_the_user_took_out_does_not_come_back(paths, tmp_path):
    folder = source_of(tmp_path, small_set(), False)
    fetch_dataset(folder, paths)
    (paths.train / "happy/0.png").unlink()
    make_folder(folder, {"train/happy/new.png": photo("new")})
    assert fetch_dataset(folder, paths)["train"] == 8
    assert not (paths.train / "happy/0.png").exists() and (paths.train / "happy/new.png").exists()


def test_a_place_that_holds_another_photo_is_left_alone(paths, tmp_path, capsys):
    folder = source_of(tmp_path, small_set(), False)
    fetch_dataset(folder, paths)
    make_folder(paths.data, {"train/happy/mine.png": photo("mine"), "train/happy/same.png": photo("same")})
    make_folder(folder, {"train/happy/mine.png": photo("theirs"), "train/happy/same.png": photo("same")})
    assert fetch_dataset(folder, paths)["train"] == 10
    assert (paths.train / "happy/mine.png").read_bytes() == photo("mine")
    assert "1 photos stay out" in capsys.readouterr().out


def test_a_record_of_an_older_version_still_tells_what_is_new(paths, tmp_path):
    folder = source_of(tmp_path, small_set(), False)
    fetch_dataset(folder, paths)
    paths.dataset_record.write_text(
        re.sub(r',\s*"files": \{.*?\}', "", paths.dataset_record.read_text(), flags=re.S)
    )
    make_folder(folder, {"train/happy/new.png": photo("new")})
    assert fetch_dataset(folder, paths)["train"] == 9


@pytest.mark.parametrize(
    "record", ["", "[]", "null", '{"source": 1}', '{"source": "x", "fetched": null}', "[" * 100_000]
)
def test_a_damaged_record_counts_as_none(paths, tmp_path, record):
    folder = source_of(tmp_path, small_set(), False)
    fetch_dataset(folder, paths)
    paths.dataset_record.write_text(record)
    with pytest.raises(UserError, match="already holds files"):
        fetch_dataset(folder, paths)


@pytest.mark.parametrize("packed", [True, False])
def test_new_classes_are_another_dataset(paths, tmp_path, packed):
    fetch_dataset(source_of(tmp_path, small_set(), packed), paths)
    before = snapshot(paths.data)
    with pytest.raises(UserError, match="adds sad") as error:
        fetch_dataset(source_of(tmp_path, small_set(classes=("happy", "anger", "sad")), packed), paths)
    assert "set_aside_dataset" in sentence(error) and snapshot(paths.data) == before


# ---------------------------------------------------------------- another source


def test_one_sentence_names_all_that_is_in_the_way(paths, tmp_path, capsys):
    first = make_zip(tmp_path / "first.zip", small_set() | {"test_kaggle/1.png": photo(1)})
    other = make_zip(tmp_path / "other.zip", small_set(classes=("sad", "fear")))
    fetch_dataset(first, paths)
    for decided in (paths.split, paths.relabel, paths.faces):
        decided.write_text("mine")
    before = snapshot(paths.data)
    with pytest.raises(UserError) as error:
        fetch_dataset(other, paths)
    text = sentence(error)
    named = "val/ test/ test_kaggle/ split.csv relabel.csv faces.csv class_names.txt first.zip other.zip"
    for word in ("train already holds files of", "emo.set_aside_dataset(paths)", "ROOT", *named.split()):
        assert word in text
    assert snapshot(paths.data) == before

    folder = set_aside_dataset(paths)  # and that is all there is to do
    told = capsys.readouterr().out
    assert f'emo.restore_dataset(paths, "{folder.name}")' in told and str(folder) in told
    assert names_in(paths.data) == {".set_aside"}
    assert fetch_dataset(other, paths)["train"] == 8 and class_names(paths) == ("fear", "sad")
    with pytest.raises(UserError, match="holds another dataset"):
        restore_dataset(paths, folder.name)
    set_aside_dataset(paths)
    restore_dataset(paths, folder.name)
    assert {
        name: content for name, content in snapshot(paths.data).items() if not name.startswith(".")
    } == before
    assert fetch_dataset(first, paths)["train"] == 8


def test_class_names_alone_stand_in_the_way_in_one_sentence(paths, tmp_path):
    paths.class_names.write_text("happy\nsad\n")
    make_folder(paths.data, {"test_kaggle/1.png": photo(1)})
    source = make_zip(tmp_path / "a.zip", small_set() | {"test_kaggle/2.png": photo(2)})
    with pytest.raises(UserError) as error:
        fetch_dataset(source, paths)
    assert all(
        word in sentence(error)
        for word in ("lacks sad and adds anger", "test_kaggle already holds", "set_aside")
    )
    set_aside_dataset(paths)
    assert fetch_dataset(source, paths)["test_kaggle"] == 1


def test_nothing_to_set_aside_and_nothing_to_restore(paths, capsys):
    assert set_aside_dataset(paths) is None and "no dataset" in capsys.readouterr().out
    with pytest.raises(UserError, match="nothing was set aside"):
        restore_dataset(paths)
    make_folder(paths.data, small_set())
    set_aside_dataset(paths)
    with pytest.raises(UserError, match="no dataset 2020"):
        restore_dataset(paths, "2020")
    restore_dataset(paths)
    assert len(list(paths.data.glob("*/*/*.png"))) == len(small_set()) and not list(
        paths.shelves[0].iterdir()
    )


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_setting_aside_is_whole_or_nothing(paths, monkeypatch, failing):
    make_folder(paths.data, small_set())
    before, rename, calls = snapshot(paths.data), os.rename, []

    def busy(old, new):
        calls.append(new)
        if len(calls) == failing:
            raise PermissionError(13, "in use by another program", str(new))
        rename(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", busy)
        with pytest.raises(UserError, match="in use by another program") as error:
            set_aside_dataset(paths)
    assert sentence(error)
    assert {
        name: content for name, content in snapshot(paths.data).items() if ".set_aside" not in name
    } == before
    set_aside_dataset(paths)  # goes on in the same folder
    assert len(list(paths.shelves[0].iterdir())) == 1 and not paths.train.exists()


# ---------------------------------------------------------------- photos on one machine, results elsewhere


@pytest.fixture
def drive(tmp_path):
    """A project as in Colab with USE_DRIVE, and how its next machine finds it."""
    return lambda machine: get_paths(tmp_path / machine, results=tmp_path / "drive")


def test_the_next_machine_has_what_was_decided(drive, tmp_path):
    archive = make_zip(tmp_path / "a.zip", small_set(splits=(("train", 10),)))
    first = drive("machine 1")
    fetch_dataset(archive, first)
    photos = scan_splits(first)
    split_photos(photos, find_duplicates(photos), first, fraction=0.3, seed=7, test=0.1)
    first.relabel.write_text("path,label\ntrain/happy/0.png,anger\n")
    decided = snapshot(first.decisions)
    second = drive("machine 2")
    for look in (load_split, scan_splits, training_manifests):
        with pytest.raises(UserError, match="holds no photos") as error:
            look(second)
        assert "SOURCE" in sentence(error)
    fetch_dataset(archive, second)
    train, val = training_manifests(second)
    assert [len(train), len(val), len(held_out_manifest(second))] == [12, 6, 2]
    assert set(train["path"].str.startswith(second.train.as_posix())) == {True}
    assert (pd.concat([train, val]).query("path.str.endswith('happy/0.png')")["label"] == "anger").all()
    assert snapshot(second.decisions) == decided
    assert names_in(second.data) == {"train", "dataset.json"}


@pytest.mark.parametrize("classes", [("sad", "fear"), ("happy", "anger")])
def test_another_dataset_meets_the_decisions_about_the_first_in_one_sentence(drive, tmp_path, classes):
    first = drive("machine 1")
    fetch_dataset(make_zip(tmp_path / "a.zip", small_set(splits=(("train", 10),))), first)
    load_split(first)
    decided = snapshot(first.decisions)
    second = drive("machine 2")
    other = make_zip(
        tmp_path / "b.zip",
        {f"train/{name}/{n}.png": photo(f"x{name}{n}", size=(9, 9)) for name in classes for n in range(10)},
    )
    with pytest.raises(UserError, match=r"split\.csv is about other photos") as error:
        fetch_dataset(other, second)
    assert all(
        word in sentence(error) for word in ("emo.set_aside_dataset(paths)", "ROOT", str(second.split))
    )
    assert snapshot(second.decisions) == decided and not occupied(second)

    folder = set_aside_dataset(second)
    assert names_in(second.decisions) == {".set_aside"}
    assert fetch_dataset(other, second)["train"] == 20
    assert class_names(second) == tuple(sorted(classes))
    set_aside_dataset(second)
    third = drive("machine 3")  # has no photos of either
    restore_dataset(third, folder.name)
    assert {
        name: file for name, file in snapshot(third.decisions).items() if ".set_aside" not in name
    } == decided


def test_photos_and_decisions_come_back_to_their_places(drive, tmp_path):
    paths = drive("machine")
    fetch_dataset(make_zip(tmp_path / "a.zip", small_set()), paths)
    load_split(paths)
    before = snapshot(tmp_path)
    set_aside_dataset(paths)
    assert not occupied(paths) and not paths.split.exists() and not paths.class_names.exists()
    restore_dataset(paths)
    after = {name: file for name, file in snapshot(tmp_path).items() if not name.endswith(".set_aside")}
    assert after == before


def test_a_table_of_pixels_is_known_again_by_its_split(drive, tmp_path):
    rows = [f"{n % 2},{' '.join(str((n * k) % 251) for k in range(1, 37))},Training" for n in range(1, 21)]
    table = tmp_path / "fer2013.csv"
    table.write_text("\n".join(["emotion,pixels,Usage", *rows]))
    fetch_dataset(table, drive("machine 1"))
    split = load_split(drive("machine 1"))
    fetch_dataset(table, drive("machine 2"))
    assert load_split(drive("machine 2"))["split"].tolist() == split["split"].tolist()


# ---------------------------------------------------------------- where a source is looked for


@pytest.mark.parametrize("place", ["here", "project", "."])
def test_a_zip_is_found_in_the_current_folder_and_in_and_beside_the_project(
    tmp_path, monkeypatch, capsys, place
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    paths = get_paths(tmp_path / "project")
    archive = make_zip(tmp_path / place / "my faces.zip", small_set())
    assert fetch_dataset("my faces.zip", paths)["train"] == 8
    assert fetch_dataset("my faces.zip", paths)["train"] == 8
    archive.unlink()  # to make room
    assert fetch_dataset("my faces.zip", paths)["train"] == 8
    assert capsys.readouterr().out.count("already here") == 2


def test_a_missing_zip_names_where_it_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="does not exist") as error:
        fetch_dataset("faces.zip", get_paths(tmp_path / "project"))
    places = [tmp_path / "here", tmp_path / "project", tmp_path]
    assert all(str(place / "faces.zip") in sentence(error) for place in places)


@pytest.mark.parametrize("own", [".", "data", "data/train", "data/val", "data/train/happy", ".."])
def test_the_project_itself_is_no_source(paths, own):
    make_folder(paths.data, small_set())
    before = snapshot(paths.root)
    with pytest.raises(UserError, match="project's own") as error:
        fetch_dataset(paths.root / own, paths)
    assert sentence(error) and snapshot(paths.root) == before


def test_a_folder_beside_data_in_the_project_is_a_source(paths):
    make_folder(paths.root / "my photos", small_set())
    assert fetch_dataset(paths.root / "my photos", paths)["train"] == 8


# ---------------------------------------------------------------- at the same time


def test_a_second_fetch_waits_for_the_first_and_says_so(paths, tmp_path, capsys):
    archive, results = make_zip(tmp_path / "a.zip", small_set()), []
    with locked(paths):
        second = threading.Thread(target=lambda: results.append(fetch_dataset(archive, paths)))
        second.start()
        time.sleep(0.5)
        assert second.is_alive() and not paths.train.exists()
    second.join(30)
    assert results == [{"train": 8, "val": 2, "test": 2}]
    assert "Another fetch into" in capsys.readouterr().out


def test_waiting_ends_in_a_sentence(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    with locked(paths), pytest.raises(UserError, match="Another fetch") as error:
        fetch_dataset(make_zip(tmp_path / "a.zip", small_set()), paths)
    assert sentence(error)


def test_several_processes_at_once_each_end_right(tmp_path):
    paths, archive = get_paths(tmp_path / "project"), make_zip(tmp_path / "a.zip", small_set())
    with running(archive, paths) as one, running(archive, paths) as two, running(archive, paths) as three:
        for process in (one, two, three):
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert "{'train': 8, 'val': 2, 'test': 2}" in out
    assert not [name for name in names_in(paths.data) if name.startswith(".")]


# ---------------------------------------------------------------- killed, and on a full disk


@contextmanager
def running(archive, paths, before=""):
    """Python in a process of its own that fetches; `before` is code that goes first."""
    code = f"""
import os, signal, shutil
from emo.data.download import fetch_dataset
from emo.paths import get_paths
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def dying(function, calls, after=False):
    def wrapped(*given, **options):
        calls[0] -= 1
        if not calls[0] and not after:
            die()
        result = function(*given, **options)
        return die() if not calls[0] else result
    return wrapped
{before}
print(fetch_dataset({str(archive)!r}, get_paths({str(paths.root)!r})))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()


KILLS = {
    "while unpacking": "shutil.copyfileobj = dying(shutil.copyfileobj, [4])",
    "at the last photo": "shutil.copyfileobj = dying(shutil.copyfileobj, [12], True)",
    "before moving in": "os.rename = dying(os.rename, [1])",
    "after the first folder": "os.rename = dying(os.rename, [1], True)",
    "after the second": "os.rename = dying(os.rename, [2], True)",
    "after the last": "os.rename = dying(os.rename, [3], True)",
    "before the record": "import emo.data.install as i; i.write_text = dying(i.write_text, [2])",
    "after the record": "import emo.data.install as i; i.write_text = dying(i.write_text, [2], True)",
}


@pytest.mark.parametrize("moment", KILLS)
def test_what_a_kill_leaves_is_finished_or_cleared_by_the_next_call(tmp_path, moment):
    paths, archive = get_paths(tmp_path / "project"), make_zip(tmp_path / "a.zip", small_set())
    with running(archive, paths, KILLS[moment]) as process:
        process.wait(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert fetch_dataset(archive, paths) == {"train": 8, "val": 2, "test": 2}
    assert names_in(paths.data) == {"train", "val", "test", "class_names.txt", "dataset.json"}
    assert {name: (paths.data / name).read_bytes() for name in small_set()} == small_set()
    assert fetch_dataset(archive, paths)["train"] == 8


GROWING = {
    "while unpacking": "shutil.copyfileobj = dying(shutil.copyfileobj, [3])",
    "after the first photo": "os.rename = dying(os.rename, [1], True)",
    "after the third": "os.rename = dying(os.rename, [3], True)",
    "before the record": "import emo.data.install as i; i.write_text = dying(i.write_text, [2])",
}


@pytest.mark.parametrize("moment", GROWING)
def test_a_kill_while_photos_are_added(tmp_path, moment):
    paths, folder = get_paths(tmp_path / "project"), make_folder(tmp_path / "set", small_set())
    fetch_dataset(folder, paths)
    more = {f"train/happy/new{n}.png": photo(f"new{n}") for n in range(5)}
    make_folder(folder, more)
    with running(folder, paths, GROWING[moment]) as process:
        process.wait(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert fetch_dataset(folder, paths)["train"] == 13
    assert {name: (paths.data / name).read_bytes() for name in more} == more
    assert not [name for name in names_in(paths.data) if name.startswith(".")]


def test_downloads_that_nobody_went_on_with_are_cleared(paths, tmp_path):
    for name in (".download-abc.zip", ".download-abc.zip12345678.part", ".download-0123.part"):
        (paths.data / name).write_bytes(b"x")
    fetch_dataset(make_zip(tmp_path / "a.zip", small_set()), paths)
    assert not [name for name in names_in(paths.data) if name.startswith(".")]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB; only root may mount one."""
    (tmp_path / "disk").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / "disk"], capture_output=True
    ).returncode:
        pytest.skip("no right to mount a small disk")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="needs mount")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("left", [0, 4, 40, 60])
def test_a_full_disk_is_one_sentence_and_nothing_half(small_disk, tmp_path, monkeypatch, packed, left):
    paths = get_paths(small_disk)
    source = source_of(tmp_path, small_set(), packed)
    monkeypatch.setattr("emo.data.install.SPARE_BYTES", -(2**30))  # as if another program took the room
    room = shutil.disk_usage(small_disk).free - left * 1024
    (small_disk / "filler").write_bytes(bytes(room))
    before = snapshot(paths.data)
    try:
        fetch_dataset(source, paths)
    except UserError as error:
        assert "make room" in str(error) and "\n" not in str(error) and str(error).endswith(".")
        assert snapshot(paths.data) == before
    else:
        assert left >= 40
    (small_disk / "filler").unlink()
    assert fetch_dataset(source, paths)["train"] == 8


@pytest.mark.parametrize("root", ["~nobody-of-that-name", "x" * 300, "a\0b", "file", "file/below"])
def test_a_root_that_cannot_be_one_is_a_sentence(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError) as error:
        get_paths(root)
    assert sentence(error)


def test_data_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "data").write_text("x")
    with pytest.raises(UserError, match="data cannot be made") as error:
        get_paths(tmp_path)
    assert sentence(error)
    paths = get_paths(tmp_path / "project")
    paths.data.rmdir()
    paths.data.write_text("x")
    with pytest.raises(UserError) as error:
        fetch_dataset(make_zip(tmp_path / "a.zip", small_set()), paths)
    assert sentence(error) and paths.data.read_text() == "x"
