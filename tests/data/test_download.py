"""Faults are injected for real: the files are what a user would have, only Google Drive is played."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gdown
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.data import download
from emo.data.download import fetch_dataset
from emo.data.manifest import class_names
from emo.errors import UserError
from emo.paths import get_paths
from tests.data.files import make_folder, make_zip, names_in, photo, sentence, small_set, snapshot

DRIVE_ID = "1pm86O0t_0caQq3b3Qz5iNI3T77p2o-C1"
DRIVE_URL = f"https://drive.google.com/uc?id={DRIVE_ID}"


@pytest.fixture
def paths(tmp_path):
    made = get_paths(tmp_path / "project")
    (made.data / "mine.txt").write_text("keep me")
    return made


@pytest.fixture
def archive(tmp_path):
    return make_zip(tmp_path / "faces.zip", small_set())


# ---------------------------------------------------------------- fetch: what works


@pytest.mark.parametrize("prefix", ["", "faces/", "a/b/", "data/", "./"])
@pytest.mark.parametrize("packed", [True, False])
def test_train_is_found_below_any_top_folder(paths, tmp_path, prefix, packed, capsys):
    files = small_set(prefix) | {f"{prefix}test_kaggle/9.jpg": photo(9, "jpg")}
    source = make_zip(tmp_path / "a.zip", files) if packed else make_folder(tmp_path / "a", files)
    before = snapshot(source) if source.is_dir() else source.read_bytes()
    assert fetch_dataset(source, paths) == {"train": 8, "val": 2, "test": 2, "test_kaggle": 1}
    assert (paths.train / "happy/3.png").read_bytes() == photo("trainhappy3")
    assert (paths.test_kaggle / "9.jpg").exists()
    assert class_names(paths) == ("anger", "happy")
    assert "8 photos in train, 2 photos in val" in capsys.readouterr().out
    assert (snapshot(source) if source.is_dir() else source.read_bytes()) == before
    assert names_in(paths.data) == {
        *("train", "val", "test", "test_kaggle", "class_names.txt", "dataset.json", "mine.txt")
    }


@pytest.mark.parametrize("prefix", ["", "faces/", "a/b/"])
def test_bare_class_folders_become_train(paths, tmp_path, prefix):
    files = {
        f"{prefix}{name}/{n}.JPG": photo(f"{name}{n}", "jpg") for name in ("sad", "fear") for n in range(2)
    }
    assert fetch_dataset(str(make_zip(tmp_path / "a.zip", files)), paths) == {"train": 4}
    assert (paths.train / "sad/1.JPG").exists() and class_names(paths) == ("fear", "sad")


def test_what_is_no_photo_is_skipped_and_counted(paths, tmp_path, capsys):
    junk = ("__MACOSX/train/happy/._0.png", "train/.DS_Store", "train/happy/Thumbs.db", "README.md")
    junk += ("train/happy/.hidden.png", "train/happy/notes.txt", "cover.png", "extra/happy/1.png")
    junk += ("top.png", "README.txt")
    files = (
        small_set("faces/") | {f"faces/{name}": b"x" for name in junk[:-2]} | dict.fromkeys(junk[-2:], b"x")
    )
    assert fetch_dataset(make_zip(tmp_path / "a.zip", files), paths)["train"] == 8
    assert "skipped: 10" in capsys.readouterr().out
    assert sorted(path.name for path in paths.train.rglob("*.*")) == sorted(
        ["0.png", "1.png", "2.png", "3.png"] * 2
    )


def test_the_same_source_again_is_already_here(paths, archive, tmp_path, capsys):
    counts = fetch_dataset(archive, paths)
    before = snapshot(paths.data)
    moved = tmp_path / "moved.zip"
    shutil.copy(archive, moved)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    for source in (archive, moved):
        assert fetch_dataset(source, paths) == counts
        assert "already here" in capsys.readouterr().out
    archive.unlink()  # to make room; the photos are still the ones it held
    assert fetch_dataset(archive, paths) == counts
    assert snapshot(paths.data) == before
    assert json.loads(paths.dataset_record.read_text())["sha256"] == digest
    shutil.rmtree(paths.train)  # what is gone is not "already here"
    with pytest.raises(UserError, match=r"val already holds files of .*faces\.zip"):
        fetch_dataset(archive, paths)


def test_sample_is_fetched_by_name(paths, archive, monkeypatch):
    monkeypatch.setattr(download, "SAMPLE_ZIP", archive)
    assert fetch_dataset("sample", paths)["train"] == 8
    archive.unlink()
    shutil.rmtree(paths.train), shutil.rmtree(paths.val), shutil.rmtree(paths.test)
    with pytest.raises(UserError, match="git checkout"):
        fetch_dataset("sample", paths)


def test_empty_folders_do_not_stand_in_the_way(paths, archive):
    (paths.train / "happy").mkdir(parents=True)
    (paths.train / ".gitkeep").touch()
    assert fetch_dataset(archive, paths)["train"] == 8


def test_a_link_to_an_empty_folder_elsewhere_is_left_alone(paths, archive, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    paths.train.symlink_to(tmp_path / "elsewhere")
    before = snapshot(paths.data)
    with pytest.raises(UserError, match="data/train"):
        fetch_dataset(archive, paths)
    assert snapshot(paths.data) == before and paths.train.is_symlink()


# ---------------------------------------------------------------- fetch: what does not


def link_entry(path):
    entry = zipfile.ZipInfo("train/happy/link.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return make_zip(path, {entry: "/etc/passwd"} | small_set())


def encrypted(path):
    data = bytearray(make_zip(path, small_set()).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(signature), bytes(data)):
            data[match.start() + offset] |= 1
    path.write_bytes(data)


def broken_in_the_middle(path):
    data = make_zip(path, small_set()).read_bytes()
    content = photo("trainanger2")
    path.write_bytes(data.replace(content, content[:40] + b"????" + content[44:]))


def cut_short(path):
    data = make_zip(path, small_set()).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def holding(*extra, base=True, files=None):
    return lambda path: make_zip(path, (small_set() if base else files or {}) | {n: photo(n) for n in extra})


FAULTS = {
    "missing": (lambda path: None, "does not exist"),
    "not a zip": (lambda path: path.write_bytes(b"Rar!\x1a\x07" * 50), "not a complete zip"),
    "empty file": (lambda path: path.write_bytes(b""), "not a complete zip"),
    "cut short": (cut_short, "not a complete zip"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><title>Quota exceeded"), "web page"),
    "encrypted": (encrypted, "entry 'train/happy/0.png' is encrypted"),
    "CRC error": (broken_in_the_middle, "damaged (Bad CRC-32 for file 'train/anger/2.png')"),
    "parent folder": (holding("../evil.png"), "'../evil.png' leads out"),
    "parent inside": (holding("train/happy/../../../evil.png"), "leads out"),
    "absolute": (holding("/evil.png"), "'/evil.png' leads out"),
    "drive letter": (holding("C:/evil.png"), "'C:/evil.png' leads out"),
    "backslashes": (holding("train\\happy\\..\\..\\..\\evil.png"), "leads out"),
    "network path": (holding("\\\\server\\share\\evil.png"), "leads out"),
    "symbolic link": (link_entry, "'train/happy/link.png' is a symbolic link"),
    "photos collide": (holding("train/happy/A.png", "train/happy/a.PNG"), "'train/happy/a.PNG'"),
    "classes collide": (holding("train/Happy/9.png"), "'train/Happy'"),
    "splits collide": (holding("Train/happy/0.png"), "'train/happy/0.png'"),
    "no photos": (holding(base=False, files={"train/happy/a.txt": b"x"}), "no photos"),
    "no train": (holding("val/happy/1.png", "val/sad/1.png", base=False), "train"),
    "no class": (holding("train/1.png"), "'train/1.png' in no class"),
    "one class": (holding("photos/1.png", "photos/2.png", base=False), "fewer than two"),
    "too deep": (holding("x/a/b/1.png", "y/1.png", base=False), "'x/a/b/1.png', too deep"),
    "class named as a column": (holding("train/label/1.png"), "a class named 'label', which is a column"),
    "class only in val": (holding("val/sad/1.png"), "val/sad but no train/sad"),
    "file as folder": (holding("train/happy/0.png/1.png"), "'train/happy/0.png'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_archive_changes_nothing(paths, tmp_path, fault):
    build, complaint = FAULTS[fault]
    source = tmp_path / "faulty.zip"
    build(source)
    kept = source.read_bytes() if source.exists() else None
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as error:
        fetch_dataset(source, paths)
    assert complaint in sentence(error) and "faulty.zip" in sentence(error)
    assert snapshot(tmp_path) == before and (not kept or source.read_bytes() == kept)


@pytest.mark.parametrize(
    "source, complaint",
    [
        ("", "source is empty"),
        ("sampel", "does not exist"),
        ("no\0name", "null"),
        ("x" * 5000, "name"),
        ("ftp://example.com/faces.zip", "not an address that can be fetched"),
        ("~nobody-of-that-name/faces.zip", "a user this machine does not have"),
        ("https://drive.google.com/drive/folders/1pm86O0t_0caQq3b3Qz5iNI3T77p2o", "not a link to a single"),
    ],
)
def test_an_unknown_source_is_refused(paths, source, complaint, monkeypatch):
    monkeypatch.setattr(gdown, "download", lambda **_: pytest.fail("must not download"))
    before = snapshot(paths.data)
    with pytest.raises(UserError, match=complaint):
        fetch_dataset(source, paths)
    assert snapshot(paths.data) == before


def test_too_little_disk_is_told_before_unpacking(paths, archive, monkeypatch):
    before = snapshot(paths.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    monkeypatch.setattr(shutil, "copyfileobj", lambda *_: pytest.fail("must not unpack"))
    with pytest.raises(UserError, match="make room") as error:
        fetch_dataset(archive, paths)
    assert "faces.zip" in sentence(error) and snapshot(paths.data) == before


@pytest.mark.parametrize("split", ["train", "val", "test", "test_kaggle"])
def test_photos_placed_by_hand_are_never_touched(paths, tmp_path, split):
    source = make_zip(tmp_path / "a.zip", small_set() | {"test_kaggle/happy/1.png": photo(1)})
    make_folder(paths.data, {f"{split}/happy/0.png": b"mine"})
    before = snapshot(paths.data)
    with pytest.raises(UserError, match=f"{split} already holds") as error:
        fetch_dataset(source, paths)
    assert "a.zip" in sentence(error) and snapshot(paths.data) == before


def test_another_source_does_not_replace_the_first(paths, archive, tmp_path):
    fetch_dataset(archive, paths)
    before = snapshot(paths.data)
    other = make_zip(tmp_path / "other.zip", small_set(classes=("happy", "sad")))
    with pytest.raises(UserError) as error:
        fetch_dataset(other, paths)
    assert "faces.zip" in sentence(error) and "other.zip" in sentence(error)
    shutil.copy(other, archive)  # the same name with new content is another source, too
    with pytest.raises(UserError, match="already holds"):
        fetch_dataset(archive, paths)
    with pytest.raises(UserError, match="project's own"):
        fetch_dataset(tmp_path, paths)
    assert snapshot(paths.data) == before


def test_class_names_of_another_data_set_are_respected(paths, archive):
    paths.class_names.write_text("happy\nsad\n")
    before = snapshot(paths.data)
    with pytest.raises(UserError) as error:
        fetch_dataset(archive, paths)
    assert "class_names.txt" in sentence(error) and "lacks sad and adds anger" in sentence(error)
    assert snapshot(paths.data) == before
    paths.class_names.write_text("happy\nanger\n")
    fetch_dataset(archive, paths)
    assert class_names(paths) == ("happy", "anger")


@pytest.mark.parametrize("failing", [2, 3, 4])
def test_the_splits_move_in_together_or_not_at_all(paths, archive, monkeypatch, failing):
    (paths.val / "empty").mkdir(parents=True)
    before, rename, calls = snapshot(paths.data), os.rename, []

    def busy(old, new):
        calls.append(new)
        if len(calls) == failing:
            raise PermissionError(13, "in use by another program", str(new))
        rename(old, new)

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(UserError, match="in use by another program") as error:
        fetch_dataset(archive, paths)
    assert "faces.zip" in sentence(error) and snapshot(paths.data) == before


def test_a_record_that_cannot_be_written_undoes_everything(paths, archive):
    paths.dataset_record.mkdir()  # what a read-only or mangled data folder amounts to
    before = snapshot(paths.data)
    with pytest.raises(UserError, match=r"dataset\.json"):
        fetch_dataset(archive, paths)
    assert snapshot(paths.data).keys() - {".dataset.json.new"} == before.keys()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("packed", [True, False])
def test_stopped_in_the_middle_leaves_no_trace(paths, tmp_path, monkeypatch, stop, packed):
    source = (make_zip if packed else make_folder)(tmp_path / "faces", small_set())
    before, copy, calls = snapshot(paths.data), shutil.copyfileobj, []

    def stopping(read, write):
        calls.append(write.name)
        if len(calls) == 4:
            raise stop
        copy(read, write)

    monkeypatch.setattr(shutil, "copyfileobj", stopping)
    with pytest.raises(UserError if isinstance(stop, OSError) else KeyboardInterrupt):
        fetch_dataset(source, paths)
    assert len(calls) == 4 and snapshot(paths.data) == before
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    assert fetch_dataset(source, paths)["train"] == 8


VALID_ZIP = make_zip(io.BytesIO(), small_set()).getvalue()
POSITION = st.integers(0, len(VALID_ZIP) - 1)


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(st.tuples(st.one_of(POSITION, st.integers(-900, -1)), st.integers(0, 255)), max_size=6),
    end=st.one_of(st.just(len(VALID_ZIP)), POSITION),
)
def test_no_broken_bytes_escape_as_anything_but_a_user_error(changes, end):
    data = bytearray(VALID_ZIP)
    for at, value in changes:
        data[at] = value
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(folder)
        (paths.data / "mine.txt").write_text("keep me")
        (Path(folder) / "a.zip").write_bytes(data[:end])
        fetched = True
        try:
            fetch_dataset(Path(folder) / "a.zip", paths)
        except UserError:
            fetched = False
        left = names_in(paths.data)
        assert (paths.data / "mine.txt").read_text() == "keep me"
        assert not any(name.startswith(".") for name in left)
        assert left == {"mine.txt"} or (fetched and "train" in left)
        assert {path.name for path in Path(folder).iterdir()} == {"data", "model", "a.zip"}


# ---------------------------------------------------------------- fetch: Google Drive


def download_keeps_nothing(paths):
    return not [name for name in names_in(paths.data) if name.startswith(".")]


@pytest.mark.parametrize("source", ["my_collection_of_face_photos_2024", "Collection-of-all-my-face-photos"])
def test_a_mistyped_folder_is_no_drive_id(paths, source, monkeypatch):
    monkeypatch.setattr(gdown, "download", lambda **_: pytest.fail("must not ask Google Drive"))
    with pytest.raises(UserError, match=f"{source} does not exist") as error:
        fetch_dataset(source, paths)
    assert sentence(error)


@pytest.mark.parametrize(
    "source",
    [
        DRIVE_ID,
        DRIVE_URL,
        f"https://drive.google.com/file/d/{DRIVE_ID}/view?usp=sharing",
        f"https://drive.google.com/open?id={DRIVE_ID}",
        f"drive.google.com/file/d/{DRIVE_ID}/view",
        f"https://drive.usercontent.google.com/download?id={DRIVE_ID}&export=download",
    ],
)
def test_every_form_of_a_drive_link_is_one_source(paths, archive, source, monkeypatch):
    def download(id, output, resume):
        assert id == DRIVE_ID
        shutil.copy(archive, output)
        return output

    monkeypatch.setattr(gdown, "download", download)
    assert fetch_dataset(source, paths)["train"] == 8
    assert download_keeps_nothing(paths)
    monkeypatch.setattr(gdown, "download", lambda **_: pytest.fail("is already here"))
    assert fetch_dataset(DRIVE_URL, paths)["train"] == 8


def test_a_refusal_of_drive_names_the_way_out(paths, monkeypatch):
    def download(**_):
        raise gdown.exceptions.FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users\n\n")

    monkeypatch.setattr(gdown, "download", download)
    before = snapshot(paths.data)
    with pytest.raises(UserError, match="too many downloads") as error:
        fetch_dataset(DRIVE_ID, paths)
    assert DRIVE_URL in sentence(error) and "browser" in sentence(error) and snapshot(paths.data) == before


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>", "web page"),
        (b"PK\3\4", "complete zip"),
    ],
)
def test_a_bad_download_does_not_block_the_next(paths, archive, monkeypatch, content, complaint):
    contents = [content, archive.read_bytes()]
    monkeypatch.setattr(
        gdown, "download", lambda id, output, resume: Path(output).write_bytes(contents.pop(0))
    )
    before = snapshot(paths.data)
    with pytest.raises(UserError, match=complaint) as error:
        fetch_dataset(DRIVE_ID, paths)
    assert DRIVE_URL in sentence(error) and snapshot(paths.data) == before
    assert fetch_dataset(DRIVE_ID, paths)["train"] == 8


def test_a_finished_download_waits_for_room_on_the_disk(paths, archive, monkeypatch):
    monkeypatch.setattr(gdown, "download", lambda id, output, resume: shutil.copy(archive, output))
    with monkeypatch.context() as full_disk:
        full_disk.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
        with pytest.raises(UserError, match="make room"):
            fetch_dataset(DRIVE_ID, paths)
    monkeypatch.setattr(gdown, "download", lambda **_: pytest.fail("is on the disk already"))
    assert fetch_dataset(DRIVE_ID, paths)["train"] == 8 and download_keeps_nothing(paths)


@pytest.mark.parametrize("error", [requests.ConnectionError("no route"), KeyError("Content-Type"), None])
def test_a_dead_network_is_one_sentence(paths, monkeypatch, error):
    def download(**_):
        if error:
            raise error

    monkeypatch.setattr(gdown, "download", download)
    before = snapshot(paths.data)
    with pytest.raises(UserError, match="run this again") as raised:
        fetch_dataset(DRIVE_ID, paths)
    assert DRIVE_URL in sentence(raised) and snapshot(paths.data) == before


@pytest.fixture
def drive(monkeypatch, tmp_path, archive):
    """The installed gdown, talking to a Google Drive on this machine that breaks off where `stops` says."""
    with zipfile.ZipFile(archive, "a") as larger:  # gdown writes in steps of half a megabyte
        larger.writestr("train/happy/big.png", photo(0, size=(600, 600)))
    content = archive.read_bytes()
    drive = SimpleNamespace(stops=[], ranges=[], content=content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int((re.search(r"\d+", self.headers.get("Range", "")) or [0])[0])
            drive.ranges.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", "application/zip")
            self.send_header("Content-Disposition", 'attachment; filename="faces.zip"')
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(content[start : drive.stops.pop(0) if drive.stops else None])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    get = requests.Session.get
    here = f"http://127.0.0.1:{server.server_port}/uc"
    monkeypatch.setattr(requests.Session, "get", lambda self, url, **options: get(self, here, **options))
    monkeypatch.setenv("NO_PROXY", "*")
    module = sys.modules["gdown.download"]  # gdown writes its cookies to the home folder
    (tmp_path / ".cache/gdown").mkdir(parents=True)
    monkeypatch.setattr(module, "home", str(tmp_path))
    monkeypatch.setattr(
        module, "DEFAULT_COOKIES_FILE", str(tmp_path / ".cache/gdown/cookies.txt"), raising=False
    )
    yield drive
    server.shutdown()
    server.server_close()


def test_a_broken_download_goes_on_where_it_stopped(paths, drive):
    drive.stops = [700_000]
    with pytest.raises(UserError, match="broke") as error:
        fetch_dataset(DRIVE_ID, paths)
    assert DRIVE_URL in sentence(error) and "run this again" in sentence(error)
    (part,) = paths.data.glob(".*.part")
    assert part.read_bytes() == drive.content[: part.stat().st_size] and not paths.train.exists()
    kept = part.stat().st_size
    (paths.data / part.name.replace(part.name[-13:], "abcdefgh.part")).write_bytes(b"")  # a second leftover
    assert fetch_dataset(DRIVE_ID, paths)["train"] == 9
    assert 500_000 < kept <= 700_000 and drive.ranges[-1] == kept
    assert download_keeps_nothing(paths)
    assert json.loads(paths.dataset_record.read_text())["sha256"] == hashlib.sha256(drive.content).hexdigest()
