"""The split: stratified, seeded, duplicates on one side, kept in a small CSV that a person may edit."""

import shutil

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emo.data.duplicates import find_duplicates
from emo.data.manifest import scan_splits
from emo.data.split import (
    count_splits,
    held_out_manifest,
    leaked_photos,
    load_split,
    split_photos,
    summarize_split,
    training_manifests,
)
from emo.errors import UserError
from emo.paths import get_paths
from tests.fixtures import write_photos


def split(paths, **options) -> pd.DataFrame:
    photos = scan_splits(paths)
    return split_photos(photos, find_duplicates(photos), paths, **options)


def names(photos: pd.DataFrame) -> set[str]:
    return {path.rsplit("/", 1)[1] for path in photos["path"]}


def in_split(photos: pd.DataFrame, name: str) -> set[str]:
    return names(photos[(photos["split"] == name) & (photos["left_out"] == "")])


@pytest.fixture
def photos(paths):
    """20 photos in each of three classes; ten of happy lie in anger, too."""
    write_photos(paths.train, 20)
    for n in range(10):
        shutil.copy(paths.train / f"happy/happy_{n:03d}.jpg", paths.train / f"anger/duplicate_{n:03d}.jpg")
    return paths


def test_it_is_stratified_seeded_and_keeps_duplicates_together(photos, tmp_path):
    table = split(photos, fraction=0.25, seed=1)
    assert len(table) == 70
    assert table["label"].value_counts().to_dict() == {"anger": 30, "happy": 20, "sad": 20}
    train, val = in_split(table, "train"), in_split(table, "val")
    assert not train & val
    assert len(train | val) == 70
    for n in range(10):
        assert (f"duplicate_{n:03d}.jpg" in val) == (f"happy_{n:03d}.jpg" in val)
    assert sum(name.startswith("sad") for name in val) == 5
    assert (table["group"] > 0).sum() == 20

    photos.split.unlink()
    assert in_split(split(photos, fraction=0.25, seed=1), "val") == val
    photos.split.unlink()
    assert in_split(split(photos, fraction=0.25, seed=2), "val") != val
    elsewhere = get_paths(tmp_path / "elsewhere")
    shutil.copytree(photos.train, elsewhere.train)
    (elsewhere.train / "sad/sad_000.jpg").rename(elsewhere.train / "sad/zzz.jpg")
    moved = {
        name.replace("zzz", "sad_000") for name in in_split(split(elsewhere, fraction=0.25, seed=1), "val")
    }
    assert moved == val


def test_the_csv_is_small_relative_and_read_by_training(photos):
    table = split(photos, seed=3)
    text = photos.split.read_text()
    assert text.startswith("path,split,group,bytes,source,left_out\ntrain/anger/anger_000.jpg,")
    assert str(photos.root) not in text
    train, val = training_manifests(photos)
    assert (names(train), names(val)) == (in_split(table, "train"), in_split(table, "val"))

    edited = text.replace("train/sad/sad_000.jpg,val", "train/sad/sad_000.jpg,train")
    edited = edited.replace("train/sad/sad_001.jpg,val", "train/sad/sad_001.jpg,train")
    lines = [
        line + "blurred" if line.startswith("train/sad/sad_002.jpg") else line for line in edited.splitlines()
    ]
    photos.split.write_text("\ufeff" + "\r\n".join(lines).replace(",", ";"))  # as Excel may save it
    train, val = training_manifests(photos)
    assert {"sad_000.jpg", "sad_001.jpg"} <= names(train)
    assert "sad_002.jpg" not in names(train) | names(val)


def test_without_a_csv_training_makes_one_and_then_keeps_it(photos, capsys):
    first = training_manifests(photos)
    assert photos.split.exists()
    before = photos.split.read_bytes(), photos.split.stat().st_mtime_ns
    capsys.readouterr()
    second = training_manifests(photos)
    pd.testing.assert_frame_equal(first[1], second[1])
    assert (photos.split.read_bytes(), photos.split.stat().st_mtime_ns) == before
    assert capsys.readouterr().err == ""  # no progress bar: no photo was read


def test_new_photos_join_and_the_others_stay_where_they_were(photos, capsys):
    table = split(photos)
    val, train = in_split(table, "val"), in_split(table, "train")
    write_photos(photos.train, 40, classes=("sad",), seed=7)  # 20 of them under names that were there
    shutil.copy(photos.train / "anger/anger_000.jpg", photos.train / "anger/again.jpg")
    capsys.readouterr()
    table = load_split(photos)
    assert "41 files are new or changed" in capsys.readouterr().out
    stayed = {name for name in val | train if not name.startswith("sad")}
    assert stayed & in_split(table, "val") == stayed & val
    assert ("again.jpg" in in_split(table, "val")) == ("anger_000.jpg" in val)
    assert sum(name.startswith("sad") for name in in_split(table, "val")) == 8


def test_a_copy_of_a_validating_photo_does_not_train_where_nothing_is_drawn_any_more(photos):
    """Photos in data/val end the drawing, and what was drawn before stays."""
    drawn = next(iter(in_split(split(photos), "val")))
    write_photos(photos.val, 3, seed=5)
    (here,) = photos.train.rglob(drawn)
    shutil.copy(here, here.with_name("copy.jpg"))
    table = load_split(photos)
    assert {drawn, "copy.jpg"} <= in_split(table, "val")
    assert leaked_photos(photos) == []


def test_leaving_out_duplicates_is_remembered_though_there_were_none(photos):
    write_photos(photos.val, 3, seed=5)
    split(photos, leave_out_duplicates=True)
    shutil.copy(photos.val / "sad/sad_000.jpg", photos.train / "sad/of_val.jpg")
    assert "of_val.jpg" not in in_split(load_split(photos), "train")


@pytest.mark.parametrize("record", [None, "{", "[]", '{"fraction": null}', '{"fraction": "much"}'])
def test_a_split_without_its_record_goes_on_as_it_was_drawn(paths, record):
    write_photos(paths.train, 20)
    split(paths, fraction=0.1, test=0.1)
    paths.split_record.unlink()
    if record:
        paths.split_record.write_text(record)
    write_photos(paths.train, 40)
    table = load_split(paths)
    assert [len(in_split(table, name)) for name in ("train", "val", "test")] == [96, 12, 12]


def test_the_seed_is_remembered(photos):
    drawn = in_split(split(photos, seed=7), "val")
    photos.split.unlink()
    assert in_split(load_split(photos), "val") == drawn


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_new_photos_are_drawn_as_the_others_were(paths, fraction):
    write_photos(paths.train, 20)
    split(paths, fraction=fraction)
    write_photos(paths.train, 40)
    assert len(in_split(load_split(paths), "val")) == 3 * 40 * fraction


def test_a_photo_that_could_not_be_read_once_is_used_when_it_can_be(photos):
    split(photos)
    lines = photos.split.read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("train/sad/sad_000.jpg"))
    lines[place] += "cannot be read (Input/output error)"
    place = next(n for n, line in enumerate(lines) if line.startswith("train/sad/sad_002.jpg"))
    lines[place] += "not a photo (.png .gif)"  # of a version that knew fewer formats
    place = next(n for n, line in enumerate(lines) if line.startswith("train/sad/sad_001.jpg"))
    lines[place] += "not a face"  # somebody's own word
    photos.split.write_text("\n".join(lines) + "\n")
    table = split(photos).set_index("path")["left_out"]
    for name in ("sad_000.jpg", "sad_002.jpg"):
        assert table[f"{photos.train.as_posix()}/sad/{name}"] == ""
    assert table[f"{photos.train.as_posix()}/sad/sad_001.jpg"] == "not a face"


def test_names_that_a_csv_cannot_hold_are_told_and_break_nothing(photos):
    for name in ("Icon\r", "line\nend.jpg", "space.jpg "):
        shutil.copy(photos.train / "sad/sad_000.jpg", photos.train / "sad" / name)
    split(photos)
    table = load_split(photos)
    left_out = table[table["left_out"] != ""]
    assert list(left_out["left_out"]) == ["a name that a table cannot hold; rename the file"] * 3
    assert names(left_out) == {r"Icon\x0d", r"line\x0aend.jpg", r"space.jpg\x20"}
    assert len(load_split(photos)) == len(table) == 73


def test_a_bridge_between_the_sides_never_makes_a_trained_photo_validate(paths):
    write_photos(paths.train, 10)
    table = split(paths)
    train, val = sorted(in_split(table, "train")), sorted(in_split(table, "val"))
    shutil.copy(
        paths.train / train[0].split("_")[0] / train[0], paths.train / val[0].split("_")[0] / "copy.jpg"
    )
    text = paths.split.read_text()
    moved = f"train/{val[0].split('_')[0]}/copy.jpg"
    size = (paths.data / moved).stat().st_size
    paths.split.write_text(text + f"{moved},val,0,{size},\n")  # somebody put the copy on the other side
    table = split(paths)
    assert {train[0], "copy.jpg"} <= in_split(table, "train")


def test_a_photo_that_is_away_keeps_its_place(photos):
    table = split(photos)
    away = sorted(in_split(table, "val"))[0]
    place = photos.train / away.split("_")[0] / away
    content = place.read_bytes()
    place.unlink()
    assert away not in names(load_split(photos))
    write_photos(photos.train, 1, classes=("sad",), seed=9)  # has everything read and the CSV written again
    assert away not in names(load_split(photos))
    place.write_bytes(content)
    assert away in in_split(load_split(photos), "val")


def test_photos_that_are_away_stay_the_duplicates_of_their_own_alone(photos):
    """Their groups of an older search were kept beside new numbers, which other photos have."""

    def groups(table):
        paired = table[table["group"] > 0].groupby("group")["path"]
        return {frozenset(path.rsplit("/", 1)[1] for path in paths) for _, paths in paired}

    before = groups(split(photos))
    away = [f"anger/duplicate_{n:03d}.jpg" for n in range(3)] + [f"happy/happy_{n:03d}.jpg" for n in (1, 2)]
    contents = {place: (photos.train / place).read_bytes() for place in away}
    for place in away:  # of the first pair one, of two others both
        (photos.train / place).unlink()
    split(photos)
    split(photos)
    for place, content in contents.items():
        (photos.train / place).write_bytes(content)
    assert groups(load_split(photos)) == before


def test_data_val_is_respected_and_duplicates_beyond_can_be_left_out(photos):
    write_photos(photos.val, 3, seed=5)
    write_photos(photos.test, 3, seed=6)
    shutil.copy(photos.val / "sad/sad_000.jpg", photos.train / "sad/of_val.jpg")
    shutil.copy(photos.test / "sad/sad_000.jpg", photos.train / "sad/of_test.jpg")
    table = split(photos)
    assert in_split(table, "val") == names(table[table["path"].str.contains("/data/val/")])
    assert len(in_split(table, "train")) == 72
    table = split(photos, leave_out_duplicates=True)
    left_out = table[table["left_out"] != ""]
    assert dict(
        zip([path.rsplit("/", 1)[1] for path in left_out["path"]], left_out["left_out"], strict=True)
    ) == {
        "of_test.jpg": "has a duplicate in data/test",
        "of_val.jpg": "has a duplicate in data/val",
    }
    write_photos(photos.train, 1, classes=("sad",), seed=9)
    assert "of_val.jpg" not in in_split(load_split(photos), "train")  # the choice stays
    assert {"of_val.jpg", "of_test.jpg"} <= in_split(split(photos), "train")  # and can be undone


def test_a_test_share_is_stratified_and_never_trains(photos, capsys):
    without = in_split(split(photos), "val")
    photos.split.unlink()
    table = split(photos, test=0.1)
    train, val, test = (in_split(table, name) for name in ("train", "val", "test"))
    assert val == without  # the same photos validate, with a test share and without one
    assert (len(train | val | test), len(train) + len(val) + len(test)) == (70, 70)
    assert sum(name.startswith("sad") for name in test) == 2
    for n in range(10):  # duplicates on one side
        both = {f"duplicate_{n:03d}.jpg", f"happy_{n:03d}.jpg"}
        assert [bool(part & both) for part in (train, val, test)].count(True) == 1
    assert names(held_out_manifest(photos)) == test
    assert [names(part) for part in training_manifests(photos)] == [train, val]
    assert f"{len(test)} test" in capsys.readouterr().out

    write_photos(photos.train, 40)  # twenty more in each class
    table = load_split(photos)
    assert test <= in_split(table, "test") and train <= in_split(table, "train")
    assert sum(name.startswith("sad") for name in in_split(table, "test")) in (3, 4)


def test_a_test_folder_is_the_test(photos):
    write_photos(photos.test, 2, seed=6)
    table = split(photos, test=0.1)
    assert set(held_out_manifest(photos)["path"].str.contains("/data/test/")) == {True}
    assert len(in_split(table, "test")) == 6


def test_a_duplicate_of_a_photo_in_data_val_is_not_drawn_to_test(paths):
    write_photos(paths.train, 10)
    write_photos(paths.val, 2, seed=5)
    for n in range(2):
        shutil.copy(paths.val / f"sad/sad_{n:03d}.jpg", paths.train / f"sad/copy_{n}.jpg")
    for seed in range(5):
        paths.split.unlink(missing_ok=True)
        table = split(paths, test=0.5, seed=seed)
        assert {"copy_0.jpg", "copy_1.jpg"} <= in_split(table, "train")
        assert len(in_split(table, "val")) == 6 and len(in_split(table, "test")) == 16


def test_what_has_trained_is_not_set_aside_to_test_later(photos, capsys):
    table = split(photos)
    capsys.readouterr()
    pd.testing.assert_frame_equal(split(photos, test=0.1), table)
    assert "Delete the file to draw again" in capsys.readouterr().out
    photos.split.unlink()
    assert len(in_split(split(photos, test=0.1), "test")) > 0
    assert "Delete the file" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "count, shares, complaint",
    [
        (1, {}, "too few different photos"),
        (2, {"test": 0.1}, r"too few different photos to split \(at least 3, one less"),
        (3, {"fraction": 1.5}, "between 0 and 1"),
        (3, {"test": -0.1}, "0 for none"),
        (3, {"fraction": 0.5, "test": 0.5}, "leave no photos to train on"),
    ],
)
def test_too_few_photos_to_split(paths, count, shares, complaint):
    write_photos(paths.train, count)
    with pytest.raises(UserError, match=complaint):
        split(paths, **shares)
    assert not paths.split.exists()


@pytest.mark.parametrize(("count", "test"), [(3, 0.1), (3, 0.7), (5, 0.45)])
def test_every_class_trains_validates_and_tests_however_small(paths, count, test):
    write_photos(paths.train, count)
    split(paths, test=test)
    for part in (*training_manifests(paths), held_out_manifest(paths)):
        assert set(part["label"]) == {"anger", "happy", "sad"}


def test_every_class_validates_however_small(paths):
    write_photos(paths.train, 2)
    _, val = training_manifests(paths)
    assert sorted(val["label"]) == ["anger", "happy", "sad"]


def test_bad_files_are_left_out_with_their_reason(paths, capsys):
    write_photos(paths.train, 10)
    (paths.train / "README.txt").write_text("where the photos are from")
    for n in range(4):
        (paths.train / f"happy/bad{n}.png").write_bytes(b"")
    (paths.val / "happy").mkdir(parents=True)
    train, val = training_manifests(paths)
    assert (len(train), len(val)) == (24, 6)
    told = capsys.readouterr().out
    assert "Left out 5 of 35 files" in told
    assert " (train/README.txt: not a photo" in told and "train/happy/bad0.png: empty file, " in told
    assert "train/happy/bad0.png,train,0,0,data,empty file\n" in paths.split.read_text()

    write_photos(paths.train, 1, classes=("happy",), seed=4)
    (paths.train / "happy/happy_000.jpg").rename(paths.train / "happy/bad0.png")  # repaired
    train, val = training_manifests(paths)
    assert "bad0.png" in names(train) | names(val)


def test_a_class_or_a_val_folder_without_readable_photos_is_named(paths):
    write_photos(paths.train, 10)
    write_photos(paths.val, 2)
    for path in paths.val.rglob("*.jpg"):
        path.write_bytes(b"broken")
    train, val = training_manifests(paths)  # as without data/val: a fifth of data/train validates
    assert (len(train), len(val)) == (24, 6)
    for path in (paths.train / "anger").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="anger has no readable photos"):
        training_manifests(paths)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (("path,split", "file,split"), "lacks the column 'path'"),
        ((",val,", ",validation,"), "'validation'; correct the line"),
        (("anger_001.jpg", "anger_000.jpg"), r"names train/anger/anger_000.jpg twice"),
        ((",train,0,", ",train,x,"), "no whole number from 0 up in 'group' of train/"),
        ((",train,0,", f",train,{10**30},"), "no whole number from 0 up in 'group' of train/"),
        ((",train,0,", ",train,-4,"), "no whole number from 0 up in 'group' of train/"),
        ((",train,0,", ",train,1e3,"), "no whole number from 0 up in 'group' of train/"),
        ((",train,0,", ",train,٣,"), "no whole number from 0 up in 'group' of train/"),
        ((",train,0,", ",train,nan,"), "no whole number from 0 up in 'group' of train/"),
        ((",train,0,", ",train\n"), "no whole number from 0 up in 'group' of train/"),
        (("path,", '"path,'), "cannot be read"),
    ],
)
def test_a_broken_csv_is_one_sentence(photos, change, complaint):
    split(photos)
    broken = photos.split.read_text().replace(*change)
    photos.split.write_text(broken)
    with pytest.raises(UserError, match=complaint):
        training_manifests(photos)
    assert photos.split.read_text() == broken


def test_a_separator_at_the_end_of_each_line_shifts_nothing(photos):
    before = split(photos)
    lines = photos.split.read_text().splitlines()
    photos.split.write_text("\n".join([lines[0], *(f"{line}," for line in lines[1:])]))
    pd.testing.assert_frame_equal(load_split(photos), before)


def test_a_folder_in_its_place_is_one_sentence(photos):
    photos.split.mkdir()
    with pytest.raises(UserError, match=r"split\.csv cannot be read"):
        load_split(photos)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_stands_in_the_csv_is_read_or_one_sentence(photos, data):
    if not photos.split.exists():
        split(photos)
        photos.split.with_name("whole.txt").write_bytes(photos.split.read_bytes())
    content = bytearray(photos.split.with_name("whole.txt").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))  # nothing may be left of it
        length = data.draw(st.sampled_from([0, 1, 5, 2000]))
        filler = data.draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b",", b";", b'"', b"\n", b"\0", b"-9" * 20]))
        )
        content[place : place + length] = filler
    photos.split.write_bytes(content)
    try:
        counts = count_splits(photos)
    except UserError as error:
        assert "\n" not in str(error).strip()
    else:
        assert set(counts) <= {"train", "val", "test"}


def test_the_summary_counts_everything_once(photos):
    write_photos(photos.test, 3, seed=6)
    shutil.copy(photos.train / "happy/happy_000.jpg", photos.test / "happy/leak.jpg")
    (photos.train / "sad/empty.jpg").write_bytes(b"")
    (photos.test / "sad/empty.png").write_bytes(b"")
    (photos.test / "sad/words.jpg").write_bytes(b"words")
    assert summarize_split(split(photos), photos).T.to_dict("list") == {
        "files": [71, 12, 83],
        "left out: empty file": [1, 1, 2],
        "left out: not an image": [0, 1, 1],
        "training photos": [56, 0, 56],
        "validation photos": [14, 0, 14],
        "test photos": [0, 10, 10],
        "photos with a duplicate": [20, 1, 21],
        "held-out photos with a duplicate in training": [0, 1, 1],
        "groups of duplicates": [10, 1, 10],
    }


class TestRelabel:
    def test_labels_are_laid_over_and_told(self, photos, capsys):
        (photos.data / "relabel.csv").write_text(
            "path,given,label\ntrain/sad/sad_000.jpg,sad,happy\ntrain/sad/sad_001.jpg,sad,\n"
            "train/sad/sad_002.jpg,sad,sad\n"
        )
        labels = pd.concat(training_manifests(photos)).set_index("path")["label"]
        assert labels[(photos.train / "sad/sad_000.jpg").as_posix()] == "happy"
        assert labels[(photos.train / "sad/sad_001.jpg").as_posix()] == "sad"
        assert "relabel.csv changes the labels of 1 photos" in capsys.readouterr().out
        as_given = pd.concat(training_manifests(photos, relabel=False))
        assert set(as_given["label"].value_counts()) == {30, 20}

    def test_photos_to_test_on_keep_their_label(self, photos, capsys):
        write_photos(photos.test, 2, seed=5)
        (photos.data / "relabel.csv").write_text(
            "path,label\ntrain/sad/sad_000.jpg,happy\ntest/sad/sad_000.jpg,happy\n"
        )
        training_manifests(photos)
        told = capsys.readouterr().out
        assert "changes the labels of 1 photos (1 train, 0 val)" in told
        assert "1 photos to test on keep their folder's label" in told

    @pytest.mark.parametrize(
        "lines, complaint",
        [
            ("train/sad/sad_000.jpg,glad", "'glad', which is not a class; choose one of anger, happy, sad"),
            ("train/sad/none.jpg,happy", "none.jpg, which is not in data/"),
            ("train/sad/sad_000.jpg,happy\ntrain/sad/sad_000.jpg,anger", "twice"),
        ],
    )
    def test_mistakes_are_one_sentence(self, photos, lines, complaint):
        (photos.data / "relabel.csv").write_text("path,label\n" + lines + "\n")
        with pytest.raises(UserError, match=complaint):
            training_manifests(photos)

    def test_not_utf8_is_told(self, photos):
        (photos.data / "relabel.csv").write_bytes("path,label\ntrain/грусть/1.jpg,happy\n".encode("cp1251"))
        with pytest.raises(UserError, match="not UTF-8"):
            training_manifests(photos)


def test_on_a_full_disk_the_older_split_stays(photos, full_disk):
    paths = get_paths(photos.root, full_disk.folder)
    split(paths, fraction=0.25, seed=1)
    before = paths.split.read_bytes()
    full_disk.fill()
    with pytest.raises(
        UserError, match=r"split\.csv cannot be written \(No space left on device\); make room"
    ):
        split(paths, fraction=0.5, seed=2)
    assert paths.split.read_bytes() == before
    full_disk.empty()
    assert len(split(paths, fraction=0.5, seed=2)) == 70
    assert not [file.name for file in paths.split.parent.iterdir() if "unfinished" in file.name]
