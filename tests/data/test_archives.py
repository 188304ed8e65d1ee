"""Zips as people's systems write them, and as nobody should: names in every code page, bombs, devices."""

import io
import os
import re
import shutil
import struct
import subprocess
import tempfile
import tracemalloc
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.data import archives
from emo.data.archives import zip_members
from emo.data.download import fetch_dataset
from emo.data.manifest import class_names
from emo.errors import UserError
from emo.paths import get_paths
from tests.data.files import make_folder, make_zip, names_in, photo, sentence, small_set, snapshot


def raw_zip(path, names, flags=0, extra=lambda raw: b"", method=0, content=None, size=None):
    """A zip whose names are the bytes given, as other systems' programs write them."""
    out, central = io.BytesIO(), b""
    for number, raw in enumerate(names):
        data, at = photo(number) if content is None else content, out.tell()
        length, field = len(data) if size is None else size, extra(raw)
        packed = zlib.compress(data, wbits=-15) if method == zipfile.ZIP_DEFLATED else data
        head = struct.pack(
            "<5H3I2H", 20, flags, method, 0, 33, zlib.crc32(data), len(packed), length, len(raw), len(field)
        )
        out.write(b"PK\3\4" + head + raw + field + packed)
        central += (
            b"PK\1\2" + struct.pack("<H", 20) + head + struct.pack("<3H2I", 0, 0, 0, 0, at) + raw + field
        )
    at = out.tell()
    out.write(central + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, len(names), len(names), len(central), at, 0))
    path.write_bytes(out.getvalue())
    return path


def labelled(*classes, folder="", count=2):
    return [f"{folder}{name}/{n}.png" for name in classes for n in range(count)]


# ---------------------------------------------------------------- names

CODE_PAGES = {
    "cp866": ("злой", "радостный", "грустный"),
    "cp1251": ("злой", "радостный", "грустный"),
    "koi8-r": ("Злость", "Радость", "Грусть"),
    "cp866 in capitals": ("ГНЕВ", "СТРАХ"),
    "cp1251 in capitals": ("ГНЕВ", "СТРАХ"),
    "cp850": ("glücklich", "wütend", "überrascht"),
    "cp1252": ("glücklich", "wütend", "überrascht"),
    "cp437": ("colère", "dégoût", "mépris"),
    "cp1252 in French": ("colère", "dégoût", "mépris"),
    "cp1250": ("złość", "smutek", "wstręt"),
    "cp852": ("złość", "smutek", "wstręt"),
    "cp1254": ("kızgın", "mutlu", "üzgün", "şaşkın"),
    "cp857": ("kızgın", "mutlu", "üzgün", "şaşkın"),
    "cp932": ("怒り", "喜び", "悲しみ", "表情"),  # 表 ends in the byte of a backslash
    "gbk": ("高兴", "悲伤", "愤怒"),
    "big5": ("高興", "悲傷", "憤怒"),
    "cp949": ("행복", "슬픔", "분노"),
    "utf-8": ("злой", "дégoût", "高兴"),
}


@pytest.mark.parametrize("case", CODE_PAGES)
def test_names_without_the_utf8_flag_are_read_as_they_were_written(tmp_path, paths, capsys, case):
    classes, page = CODE_PAGES[case], case.split()[0]
    fetch_dataset(
        raw_zip(tmp_path / "a.zip", [n.encode(page) for n in labelled(*classes, folder="train/")]), paths
    )
    assert class_names(paths) == tuple(sorted(classes))
    told = capsys.readouterr().out
    assert ("encoding= takes another" in told) == (page != "utf-8") and (
        page == "utf-8" or any(name in told for name in classes)
    )


@pytest.mark.parametrize("page", ["cp866", "cp1251", "utf-8"])
def test_class_folders_in_another_folder_of_such_letters(tmp_path, paths, page):
    names = labelled("злость", "страх", folder="Мои фото/Выборка 1/")
    fetch_dataset(raw_zip(tmp_path / "a.zip", [name.encode(page) for name in names]), paths)
    assert class_names(paths) == ("злость", "страх")


@pytest.mark.parametrize("folders, photos", [("happy sad", "Иван"), ("happy sad", "שמחה")])
def test_photos_names_alone_ask_no_question(tmp_path, paths, folders, photos):
    names = [f"{name}/{photos}{n}.png" for name in folders.split() for n in range(2)]
    page = "cp866" if photos == "Иван" else "cp1255"
    assert fetch_dataset(raw_zip(tmp_path / "a.zip", [name.encode(page) for name in names]), paths) == {
        "train": 4
    }
    assert page != "cp866" or (paths.train / "happy" / "Иван0.png").exists()


def test_letters_that_cannot_be_told_are_asked_for(tmp_path, paths):
    archive = raw_zip(
        tmp_path / "a.zip", [n.encode("cp1255") for n in labelled("שמחה", "כעס", folder="train/")]
    )
    with pytest.raises(UserError, match='pass encoding="') as error:
        fetch_dataset(archive, paths)
    assert "a.zip" in sentence(error) and not names_in(paths.data)
    fetch_dataset(archive, paths, encoding="cp1255")
    assert class_names(paths) == ("כעס", "שמחה")


@pytest.mark.parametrize(
    "encoding, complaint",
    [("cp99999", "not an encoding"), ("zip", "not an encoding"), ("ascii", "not ascii")],
)
def test_an_encoding_that_does_not_fit(tmp_path, paths, encoding, complaint):
    archive = raw_zip(tmp_path / "a.zip", [name.encode("cp866") for name in labelled("злой", "радостный")])
    with pytest.raises(UserError, match=complaint) as error:
        fetch_dataset(archive, paths, encoding=encoding)
    assert sentence(error) and not names_in(paths.data)


def unicode_path(name, damaged=False):
    def extra(raw):
        field = struct.pack("<BL", 1, zlib.crc32(raw) ^ damaged) + name(raw).encode()
        return struct.pack("<HH", 0x7075, len(field)) + field

    return extra


def test_the_extra_field_of_info_zip_goes_before_the_name(tmp_path, paths):
    names = labelled("злой", "радостный")
    plain = {f"{n}".encode() + b"\xff.png": name for n, name in enumerate(names)}
    fetch_dataset(raw_zip(tmp_path / "a.zip", plain, extra=unicode_path(plain.get)), paths)
    assert class_names(paths) == ("злой", "радостный")


def test_an_extra_field_of_another_name_does_not_count(tmp_path, paths):
    raw = [name.encode("cp866") for name in labelled("злой", "радостный")]
    fetch_dataset(raw_zip(tmp_path / "a.zip", raw, extra=unicode_path(lambda _: "../evil.png", True)), paths)
    assert class_names(paths) == ("злой", "радостный")
    other = get_paths(tmp_path / "other")  # and where it counts, it is checked as any name
    with pytest.raises(UserError, match="leads out"):
        fetch_dataset(raw_zip(tmp_path / "b.zip", raw, extra=unicode_path(lambda _: "../evil.png")), other)


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP's zip")
def test_a_zip_of_linux(tmp_path, paths):
    make_folder(tmp_path / "set", {name: photo(name) for name in labelled("злой", "радостный", "удивлённый")})
    subprocess.run(["zip", "-qr", "../a.zip", "."], cwd=tmp_path / "set", check=True)
    fetch_dataset(tmp_path / "a.zip", paths)
    assert class_names(paths) == ("злой", "радостный", "удивлённый")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_letters_are_one_name(tmp_path, paths, form, packed):
    files = {
        unicodedata.normalize(form, name): photo(name) for name in labelled("злой", "удивлённый", "dégoût")
    }
    source = make_zip(tmp_path / "a.zip", files) if packed else make_folder(tmp_path / "a", files)
    paths.class_names.write_text(unicodedata.normalize("NFD", "удивлённый\nзлой\ndégoût\n"), encoding="utf-8")
    assert fetch_dataset(source, paths) == {"train": 6}
    assert class_names(paths) == ("удивлённый", "злой", "dégoût")
    assert fetch_dataset(source, paths) == {"train": 6}


def test_one_class_in_two_spellings_is_one_class_of_a_zip(tmp_path, paths):
    files = {
        f"train/{unicodedata.normalize(form, 'злой')}/{form}.png": photo(form) for form in ("NFC", "NFD")
    }
    fetch_dataset(make_zip(tmp_path / "a.zip", files | {"train/sad/1.png": photo(1)}), paths)
    assert class_names(paths) == ("sad", "злой") and len(list((paths.train / "злой").iterdir())) == 2


def windows_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\")
            archive.writestr(info, b"" if name.endswith("/") else photo(name))
    return path


@pytest.mark.parametrize("prefix", ["", "set/", "фото/"])
def test_backslashes_are_separators(tmp_path, paths, prefix):
    names = [
        f"{prefix}train/",
        *(f"{prefix}{split}/{name}" for split in ("train", "val") for name in labelled("happy", "sad")),
    ]
    assert fetch_dataset(windows_zip(tmp_path / "a.zip", names), paths) == {"train": 4, "val": 4}


@pytest.mark.parametrize(
    "evil",
    ["../evil.png", "train/happy/../../../evil.png", "//server/share/evil.png", "C:/evil.png", "/evil.png"],
)
def test_backslashes_lead_nowhere_else(tmp_path, paths, evil):
    before = snapshot(tmp_path)
    archive = windows_zip(tmp_path / "a.zip", [*labelled("happy", "sad"), evil])
    with pytest.raises(UserError, match="leads out") as error:
        fetch_dataset(archive, paths)
    archive.unlink()
    assert sentence(error) and snapshot(tmp_path) == before


BAD_NAMES = [
    " ",
    "\u2003",
    "sad ",
    " sad",
    "a\tb",
    "a\nb",
    "a\rb",
    "a\x1cb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\x0bb",
    "a\x7f",
    "path",
]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bad", BAD_NAMES)
def test_class_names_that_no_list_can_hold_are_refused_at_once(tmp_path, paths, bad, packed):
    files = {f"train/{name}/1.png": photo(name) for name in ("happy", bad)}
    source = make_zip(tmp_path / "a.zip", files) if packed else make_folder(tmp_path / "a", files)
    with pytest.raises(UserError, match="a class named") as error:
        fetch_dataset(source, paths)
    assert repr(bad) in sentence(error) and not names_in(paths.data)
    make_folder(paths.data, files)  # and where they were placed by hand
    with pytest.raises(UserError, match="a class named"):
        class_names(paths)
    assert not paths.class_names.exists()


@pytest.mark.parametrize(
    "name",
    ["$$", "$x$", "a_b^c", "50%", "#1", "-", "C++", "happy (old)", "злой 😀", "'\"", "{}", "<b>", "a,b;c"],
)
def test_unusual_class_names_hold(tmp_path, paths, name):
    files = {f"train/{label}/{n}.png": photo(n) for label in ("happy", name) for n in range(2)}
    assert fetch_dataset(make_zip(tmp_path / "a.zip", files), paths) == {"train": 4}
    assert set(class_names(paths)) == {"happy", name} and fetch_dataset(tmp_path / "a.zip", paths) == {
        "train": 4
    }


# ---------------------------------------------------------------- packing


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_stored_and_deflated_entries_are_unpacked(tmp_path, paths, method):
    files = small_set() | {"train/happy/large.png": photo(1, size=(700, 700))}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    fetch_dataset(tmp_path / "a.zip", paths)
    assert all((paths.data / name).read_bytes() == content for name, content in files.items())


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_damaged_byte_is_noticed(tmp_path, paths, at):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in small_set().items():
            archive.writestr(name, content)
        archive.writestr("train/happy/large.png", photo(1, size=(400, 400)))
        info = archive.getinfo("train/happy/large.png")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[info.header_offset + 60 + int(at * info.compress_size)] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError) as error:
        fetch_dataset(tmp_path / "a.zip", paths)
    assert "damaged" in sentence(error) and not names_in(paths.data)


def blank(path, size, name="train/happy/large.bmp"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in small_set().items():
            archive.writestr(each, content)
        with archive.open(name, "w") as file:
            for _ in range(size // 2**20):
                file.write(bytes(2**20))
    return path


def test_memory_stays_bounded_while_a_large_entry_is_unpacked(tmp_path, paths):
    archive = blank(tmp_path / "a.zip", 200 * 2**20)
    assert archive.stat().st_size < 2**20
    tracemalloc.start()
    with zipfile.ZipFile(archive) as opened:
        (member,) = [m for m in zip_members(opened, None, "a.zip")[0] if m.path.endswith("large.bmp")]
        with member.open() as file:
            read = sum(len(block) for block in iter(lambda: file.read(2**20), b""))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == 200 * 2**20 and peak < 40 * 2**20


def test_an_entry_larger_than_any_photo_is_refused(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 10 * 2**20)
    with pytest.raises(UserError, match="larger than 10 MiB") as error:
        fetch_dataset(blank(tmp_path / "a.zip", 11 * 2**20), paths)
    assert "train/happy/large.bmp" in sentence(error) and not names_in(paths.data)


def test_what_is_no_photo_may_be_large(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 10 * 2**20)
    archive = blank(tmp_path / "a.zip", 11 * 2**20, "video.mp4")
    assert fetch_dataset(archive, paths)["train"] == 8


def test_a_bomb_of_many_entries_is_refused_before_unpacking(tmp_path, paths):
    files = {f"train/{name}/{n}.bmp": bytes(100 * 2**20) for name in ("happy", "sad") for n in range(6)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=r"grow from 1\.\d MB to 1\.3 GB") as error:
        fetch_dataset(tmp_path / "a.zip", paths)
    assert sentence(error) and not names_in(paths.data)


def test_an_entry_that_holds_more_than_it_says_gives_no_more(tmp_path, paths):
    archive = raw_zip(
        tmp_path / "a.zip",
        [b"happy/1.png", b"sad/1.png"],
        method=zipfile.ZIP_DEFLATED,
        content=bytes(10**7),
        size=100,
    )
    with pytest.raises(UserError) as error:
        fetch_dataset(archive, paths)
    assert "damaged" in sentence(error) and not names_in(paths.data)


@pytest.mark.parametrize("method", [9, 12, 14, 93, 95, 98])
def test_another_method_is_named(tmp_path, paths, method):
    data = bytearray(make_zip(tmp_path / "a.zip", small_set()).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for match in re.finditer(re.escape(signature), bytes(data)):
            data[match.start() + offset] = method
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=f"method {method}") as error:
        fetch_dataset(tmp_path / "a.zip", paths)
    assert "make a plain zip" in sentence(error)


STARTS = {
    "RAR": b"Rar!\x1a\7",
    "7z": b"7z\xbc\xaf\x27\x1c",
    "gzip": b"\x1f\x8b\x08",
    "bzip2": b"BZh9",
    "xz": b"\xfd7zXZ\0",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid",
    "web page": b"<html>",
}


@pytest.mark.parametrize("what", STARTS)
def test_what_people_take_for_a_zip_is_called_by_its_name(tmp_path, paths, what):
    (tmp_path / "a.zip").write_bytes(STARTS[what] + bytes(100))
    with pytest.raises(UserError, match=what) as error:
        fetch_dataset(tmp_path / "a.zip", paths)
    assert sentence(error)


@pytest.mark.parametrize("inner", ["aligned.zip", "train.tar.gz", "set.rar"])
def test_an_archive_within_the_archive_is_named(tmp_path, paths, inner):
    with pytest.raises(UserError, match=f"holds set/{inner} and no photos") as error:
        fetch_dataset(make_zip(tmp_path / "a.zip", {f"set/{inner}": b"PK", "set/README.txt": b""}), paths)
    assert sentence(error)


@pytest.mark.parametrize("length", [256, 5000])
def test_a_name_too_long_for_a_disk_is_named(tmp_path, paths, length):
    with pytest.raises(UserError, match="too long for a disk") as error:
        fetch_dataset(
            make_zip(tmp_path / "a.zip", small_set() | {f"train/happy/{'x' * length}.png": photo(1)}), paths
        )
    assert sentence(error) and not names_in(paths.data)


# ---------------------------------------------------------------- devices and links


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_devices_and_pipes_are_refused_and_not_read_for_ever(tmp_path, paths):
    os.mkfifo(tmp_path / "pipe.zip")
    for source in ("/dev/zero", "/dev/stdin", tmp_path / "pipe.zip"):
        if os.path.exists(source) and not os.path.isfile(source):  # noqa: PTH110, PTH113
            with pytest.raises(UserError, match="device or a pipe") as error:
                fetch_dataset(source, paths)
            assert sentence(error)
    for number, make in enumerate(
        (
            os.mkfifo,
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to(tmp_path / "pipe.zip"),
        )
    ):
        folder = make_folder(tmp_path / f"set{number}", small_set())
        make(folder / "train/happy/9.png")
        with pytest.raises(UserError, match="device or a pipe") as error:
            fetch_dataset(folder, paths)
        assert "9.png" in sentence(error) and not names_in(paths.data)


def test_a_link_that_leads_nowhere_is_named(tmp_path, paths):
    folder = make_folder(tmp_path / "set", small_set())
    (folder / "train/happy/9.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"9\.png") as error:
        fetch_dataset(folder, paths)
    assert sentence(error) and not names_in(paths.data)


# ---------------------------------------------------------------- mutated bytes

ARCHIVES = []
for _method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(_file := io.BytesIO(), "w", _method) as _archive:
        for _name, _content in small_set().items():
            _archive.writestr(_name, _content)
    ARCHIVES.append(_file.getvalue())
with tempfile.TemporaryDirectory() as _folder:
    _names = [name.encode("cp866") for name in labelled("злой", "радостный")]
    ARCHIVES.append(
        raw_zip(
            Path(_folder) / "a.zip", _names, extra=unicode_path(lambda raw: raw.decode("cp866"))
        ).read_bytes()
    )


def test_a_question_about_names_shows_no_control_signs(paths, tmp_path):
    names = [b"train/\xa7\x0b\n\xab/0.png", b"train/\xa8\r\xe3/1.png"]
    raw_zip(tmp_path / "a.zip", names)
    with pytest.raises(UserError, match="does not say in which letters") as error:
        fetch_dataset(tmp_path / "a.zip", paths)
    assert str(error.value).isprintable()


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(ARCHIVES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5),
    st.booleans(),
)
def test_mutated_archives_of_every_kind_end_in_photos_or_a_sentence(content, changes, late):
    data = bytearray(content)
    for at, value in changes:  # half of them in the directory at the end
        place = int(at * (len(data) - 1))
        data[len(data) * 3 // 4 + place // 4 if late else place] = value
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(Path(folder) / "project")
        (Path(folder) / "a.zip").write_bytes(data)
        try:
            fetch_dataset(Path(folder) / "a.zip", paths)
        except UserError as error:
            assert "\n" not in str(error) and not names_in(paths.data)
        else:
            assert len(class_names(paths)) >= 2
        assert {path.name for path in Path(folder).iterdir()} == {"project", "a.zip"}
