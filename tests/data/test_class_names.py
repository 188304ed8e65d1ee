"""Class names in a file, in folders and between the two; the manifest of a folder."""

import hashlib
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from emo.data.manifest import class_names, scan_dataset
from emo.errors import UserError
from tests.data.files import make_folder, photo, sentence


def labelled(paths, classes=("happy", "anger"), count=2, split="train"):
    files = {f"{split}/{name}/{n}.png": photo(f"{split}{name}{n}") for name in classes for n in range(count)}
    return make_folder(paths.data, files)


def test_class_names_are_written_once_and_keep_their_order(paths):
    labelled(paths)
    (paths.train / ".ipynb_checkpoints").mkdir()
    assert class_names(paths) == ("anger", "happy")
    assert paths.class_names.read_bytes() == b"anger\nhappy\n"
    paths.class_names.write_bytes(b"\xef\xbb\xbfhappy\r\nanger\r\n\r\n\r\n")
    assert class_names(paths) == ("happy", "anger")
    shutil.rmtree(paths.train)  # only testing a model: the file is enough
    assert class_names(paths) == ("happy", "anger")


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"anger\nhappy\nsad\n", "lacks sad"),
        (b"anger\n", "adds happy"),
        (b"anger\nsad\n", "lacks sad and adds happy"),
        (b"anger\nhappy\nanger\n", "'anger' twice"),
        (b"\r\n \n", "is empty"),
        ("радость\n".encode("cp1251"), "not UTF-8"),
        (b"anger\nconfidence\n", "class named 'confidence', which is a column"),
    ],
)
def test_class_names_that_disagree_with_the_folders(paths, content, complaint):
    labelled(paths)
    paths.class_names.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        class_names(paths)
    assert "class_names.txt" in sentence(error) and paths.class_names.read_bytes() == content


def test_folders_without_photos_or_without_a_class(paths):
    with pytest.raises(UserError, match="run the prep notebook"):
        class_names(paths)
    labelled(paths)
    (paths.train / "sad").mkdir()
    with pytest.raises(UserError, match="sad has no photos"):
        class_names(paths)
    (paths.train / "sad").rmdir()
    labelled(paths, classes=("path",))
    with pytest.raises(UserError, match="class named 'path', which is a column"):
        class_names(paths)
    shutil.rmtree(paths.train / "path")
    class_names(paths)
    labelled(paths, classes=("bored",), split="test")
    with pytest.raises(UserError, match="bored is no class") as error:
        class_names(paths)
    assert "class_names.txt" in sentence(error)


# ---------------------------------------------------------------- scan


def test_the_manifest_describes_every_file_and_survives_bad_ones(paths, monkeypatch):
    whole = photo(1, "jpg", size=(60, 50))
    folder = make_folder(
        paths.train,
        {
            "happy/a.jpg": whole,
            "happy/b.PNG": photo(2),
            "happy/cut.jpg": whole[: len(whole) // 2],
            "happy/empty.jpg": b"",
            "anger/text.jpg": b"not a photo at all",
            "anger/notes.txt": b"words",
            "anger/huge.png": photo(3, size=(120, 60)),
            "anger/bomb.png": photo(4, size=(120, 120)),
            "anger/.DS_Store": b"x",
            "anger/torn.png": photo(5)[:60],
        },
    )
    (folder / "happy/gone.jpg").symlink_to("nowhere.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7000)
    manifest = scan_dataset(folder, ("anger", "happy"))
    facts = ["path", "label", "width", "height", "mode", "bytes", "sha256", "problem"]
    assert list(manifest) == [*facts, "thumbnail"]
    assert list(manifest["path"]) == sorted(
        path.resolve().as_posix() if path.name != "gone.jpg" else path.as_posix()
        for path in folder.rglob("*.*")
        if path.name != ".DS_Store"
    )
    rows = {Path(row.path).name: row for row in manifest.itertuples()}
    good = rows["a.jpg"]
    assert (good.label, good.width, good.height, good.mode, good.problem) == ("happy", 60, 50, "RGB", "")
    assert (good.bytes, good.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert rows["b.PNG"].problem == ""
    for name, complaint in {
        "cut.jpg": "truncated",
        "empty.jpg": "empty file",
        "text.jpg": "not an image",
        "notes.txt": "not a photo",
        "huge.png": "too large",
        "bomb.png": "too large",
        "torn.png": "cannot be read",
        "gone.jpg": "No such file",
    }.items():
        assert complaint in rows[name].problem, name


def test_a_class_folder_may_be_a_link(paths, tmp_path):
    labelled(paths)
    make_folder(tmp_path / "elsewhere", {"1.png": photo(1)})
    (paths.train / "sad").symlink_to(tmp_path / "elsewhere")
    assert class_names(paths) == ("anger", "happy", "sad")
    assert list(scan_dataset(paths.train)["label"]).count("sad") == 1


def test_unlabelled_and_empty_and_missing_folders(paths):
    make_folder(paths.test_kaggle, {"1.png": photo(1), "2.png": photo(2)})
    assert list(scan_dataset(str(paths.test_kaggle))["label"]) == ["", ""]
    with pytest.raises(UserError, match=r"1\.png lies in no class folder"):
        scan_dataset(paths.test_kaggle, ("anger", "happy"))
    (paths.data / "none").mkdir()
    assert scan_dataset(paths.data / "none").empty
    with pytest.raises(UserError, match="nowhere is not a folder"):
        scan_dataset(paths.data / "nowhere")


# ---------------------------------------------------------------- names that systems write in their own way


def test_folders_of_a_mac_fit_names_typed_by_hand(paths):
    mac = [unicodedata.normalize("NFD", name) for name in ("злой", "удивлённый")]
    labelled(paths, classes=mac)
    labelled(paths, classes=mac[:1], split="test")
    paths.class_names.write_text("удивлённый\nзлой\n", encoding="utf-8")
    assert class_names(paths) == ("удивлённый", "злой")
    assert set(scan_dataset(paths.train, class_names(paths))["label"]) == {"злой", "удивлённый"}
    paths.class_names.unlink()
    assert class_names(paths) == ("злой", "удивлённый")
    assert paths.class_names.read_text(encoding="utf-8") == "злой\nудивлённый\n"


def test_one_name_in_two_folders_is_said(paths):
    labelled(paths, classes=[unicodedata.normalize(form, "злой") for form in ("NFC", "NFD")] + ["sad"])
    with pytest.raises(UserError, match="two folders named злой") as error:
        class_names(paths)
    assert sentence(error) and not paths.class_names.exists()


@pytest.mark.parametrize("listed", [True, False])
def test_one_class_alone_is_refused(paths, listed):
    labelled(paths, classes=["happy"])
    if listed:
        paths.class_names.write_text("happy\n")
    with pytest.raises(UserError, match="has one class only, 'happy'") as error:
        class_names(paths)
    assert sentence(error) and paths.class_names.exists() == listed


@pytest.mark.parametrize("line", ["a\x0cb", "a\x85b", "a\u2028b", " a", "a ", "a\tb", "a\x00b", "path"])
def test_a_list_of_names_that_none_can_hold(paths, line):
    labelled(paths)
    paths.class_names.write_text(f"anger\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match="a class named") as error:
        class_names(paths)
    assert "class_names.txt" in sentence(error)
