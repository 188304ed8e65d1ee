"""Two datasets in one `data/`: a further one joins the first, each keeps or gets its splits."""

import pandas as pd
import pytest

from emo.data.download import fetch_dataset
from emo.data.duplicates import find_duplicates
from emo.data.manifest import scan_splits
from emo.data.set_aside import restore_dataset, set_aside_dataset
from emo.data.split import (
    held_out_manifest,
    leaked_photos,
    load_split,
    split_photos,
    training_manifests,
)
from emo.errors import UserError
from emo.paths import get_paths
from tests.data.files import make_folder, make_zip, photo, sentence, small_set, snapshot

THEIRS = {"happiness": 20, "angry": 20, "contempt": 3}


def further_set():
    return {
        f"train/{name}/{n}.png": photo(f"theirs{name}{n}", size=(40, 40))
        for name, count in THEIRS.items()
        for n in range(count)
    }


def project(folder, results):
    """A machine of its own, whose decisions lie in the results folder that it shares with others."""
    return get_paths(folder, results=results)


@pytest.fixture
def both(paths, tmp_path):
    """The first dataset with folders to validate and to test on, and one without beside it."""
    fetch_dataset(make_zip(tmp_path / "first.zip", small_set()), paths)
    fetch_dataset(make_zip(tmp_path / "second.zip", further_set()), paths, add="second")
    return paths


def test_a_further_dataset_joins_under_its_name_in_the_classes_of_its_meaning(paths, tmp_path, capsys):
    fetch_dataset(make_zip(tmp_path / "first.zip", small_set()), paths)
    before = snapshot(paths.data)
    source = make_zip(tmp_path / "second.zip", further_set())
    counts = fetch_dataset(source, paths, add="second")
    assert counts == {"train": 8 + 40, "val": 2, "test": 2}
    told = capsys.readouterr().out
    assert "Classes by their meaning: angry → anger, happiness → happy." in told
    assert "Left out, as data/class_names.txt has no such class: contempt (3)." in told
    after = snapshot(paths.data)
    assert {name: after[name] for name in before if name != "dataset.json"} == {
        name: content for name, content in before.items() if name != "dataset.json"
    }
    assert after["train/anger/second_7.png"] == further_set()["train/angry/7.png"]
    assert fetch_dataset(source, paths, add="second") == counts
    assert "already here: 40 photos in train" in capsys.readouterr().out
    assert fetch_dataset(tmp_path / "first.zip", paths) == counts  # the first is still known, too


def test_a_further_dataset_that_has_grown_adds_its_new_photos(both, tmp_path, capsys):
    more = {"train/angry/new.png": photo("new one")}
    capsys.readouterr()
    counts = fetch_dataset(make_zip(tmp_path / "second.zip", further_set() | more), both, add="second")
    assert counts["train"] == 49
    assert "Added" in capsys.readouterr().out
    assert (both.train / "anger/second_new.png").read_bytes() == more["train/angry/new.png"]
    (tmp_path / "second.zip").unlink()  # deleted to make room
    assert fetch_dataset(tmp_path / "second.zip", both, add="second") == counts


@pytest.mark.parametrize(
    ("files", "name", "words"),
    [
        (further_set(), "a/b", "up to 40 letters"),
        (further_set(), "", "up to 40 letters"),
        ({"train/sad/1.png": photo(1), "train/fear/2.png": photo(2)}, "other", "they share none"),
        (
            {f"train/{name}/1.png": photo(name) for name in ("angry", "mad", "happy")},
            "x",
            "both be train/anger",
        ),
    ],
)
def test_what_cannot_join_is_a_sentence_and_changes_nothing(paths, tmp_path, files, name, words):
    fetch_dataset(make_zip(tmp_path / "first.zip", small_set()), paths)
    before = snapshot(paths.data)
    with pytest.raises(UserError) as error:
        fetch_dataset(make_folder(tmp_path / "further", files), paths, add=name)
    assert words in sentence(error)
    assert snapshot(paths.data) == before


def test_a_name_belongs_to_one_source_and_its_files_are_not_overwritten(both, tmp_path):
    other = make_folder(tmp_path / "other", small_set())
    with pytest.raises(UserError, match=r"is the name of .*second\.zip"):
        fetch_dataset(other, both, add="second")
    (both.train / "happy/mine_0.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="other files that begin with mine_"):
        fetch_dataset(other, both, add="mine")
    assert (both.train / "happy/mine_0.png").read_bytes() == b"mine"


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(("source", "known"), [("first.zip", "the first dataset"), ("second.zip", "second")])
def test_a_source_that_is_here_does_not_join_again_under_another_name(both, tmp_path, source, known, moved):
    before = snapshot(both.data)
    if moved:
        (tmp_path / source).rename(tmp_path / "moved.zip")
    with pytest.raises(UserError, match=f"is in data/ already, as {known}, and add='third' would") as error:
        fetch_dataset(tmp_path / ("moved.zip" if moved else source), both, add="third")
    sentence(error)
    assert snapshot(both.data) == before


def test_a_further_dataset_that_was_moved_is_known_by_its_content(both, tmp_path, capsys):
    (tmp_path / "second.zip").rename(tmp_path / "moved.zip")
    before = snapshot(both.data)
    fetch_dataset(tmp_path / "moved.zip", both, add="second")
    assert "already here: 40 photos in train" in capsys.readouterr().out
    assert snapshot(both.data) == before


def test_what_left_or_changed_in_a_further_dataset_stays_and_is_told(both, tmp_path, capsys):
    files = further_set() | {"train/angry/1.png": photo("other", size=(50, 50))}
    del files["train/angry/0.png"]
    before = snapshot(both.train)
    for more in ({}, {"train/angry/new.png": photo("new one")}):
        capsys.readouterr()
        fetch_dataset(make_zip(tmp_path / "second.zip", files | more), both, add="second")
        told = capsys.readouterr().out
        assert "1 photos were removed from it since, and stay in data/." in told
        assert "1 photos have changed in it, and stay as they were fetched." in told
    assert {name: snapshot(both.train)[name] for name in before} == before


def test_a_first_dataset_comes_first(paths, tmp_path):
    with pytest.raises(UserError, match="without add='second'"):
        fetch_dataset(make_zip(tmp_path / "second.zip", further_set()), paths, add="second")


def test_each_dataset_keeps_its_splits_or_gets_its_own(both):
    photos = scan_splits(both)
    split_photos(photos, find_duplicates(photos), both, fraction=0.2, test=0.1)
    table = load_split(both)
    counts = table[table.left_out == ""].groupby(["source", "split"]).size().to_dict()
    assert counts == {
        ("first", "train"): 8,
        ("first", "val"): 2,
        ("first", "test"): 2,
        ("second", "train"): 28,
        ("second", "val"): 8,
        ("second", "test"): 4,
    }
    assert (
        set(held_out_manifest(both).source) == set(training_manifests(both)[1].source) == {"first", "second"}
    )
    assert set(table.source[table.path.str.contains("/second_")]) == {"second"}


def test_a_dataset_without_photos_to_test_on_is_told_and_why(both, capsys):
    """The first brought its own; the other has none where no share was chosen, or none is left to draw."""
    load_split(both)
    said = "No photos of second are set aside to test, as"
    assert f"{said} no test share was chosen: delete split.csv" in capsys.readouterr().out
    photos = scan_splits(both)
    split_photos(photos, find_duplicates(photos), both, test=0.1)
    assert f"{said} split.csv has given them all a place" in capsys.readouterr().out
    both.split.unlink()
    split_photos(photos, find_duplicates(photos), both, test=0.1)
    assert "set aside to test" not in capsys.readouterr().out


def test_a_dataset_too_small_to_test_on_is_told(paths, tmp_path, capsys):
    fetch_dataset(make_zip(tmp_path / "first.zip", small_set(splits=(("train", 10),))), paths)
    few = {f"train/{name}/1.png": photo(f"few{name}") for name in ("happy", "anger")}
    fetch_dataset(make_zip(tmp_path / "few.zip", few), paths, add="few")
    photos = scan_splits(paths)
    split_photos(photos, find_duplicates(photos), paths, test=0.1)
    told = capsys.readouterr().out
    assert told.count("set aside to test") == 1
    assert "No photos of few are set aside to test, as its classes have too few different photos" in told
    table = load_split(paths)
    assert list(table.split[table.source == "few"]) == ["train", "train"]  # a photo of each class trains


def test_photos_of_a_split_dataset_stay_where_they_are_when_another_joins(paths, tmp_path):
    """And a photo put there by hand counts as the first dataset's, which has its own validation folder."""
    fetch_dataset(make_zip(tmp_path / "first.zip", small_set()), paths)
    before = load_split(paths).set_index("path").split
    (paths.train / "happy/by_hand.png").write_bytes(photo("by hand"))
    fetch_dataset(make_zip(tmp_path / "second.zip", further_set()), paths, add="second")
    after = load_split(paths).set_index("path").split
    assert after[before.index].equals(before)
    assert after[str(paths.train / "happy/by_hand.png")] == "train"
    assert (after[after.index.str.contains("second_")] == "val").any()


def test_a_split_of_before_is_read_and_knows_the_sources_by_the_record(both):
    load_split(both)
    table = pd.read_csv(both.split).drop(columns="source")
    table.to_csv(both.split, index=False)
    assert set(load_split(both).source) == {"first", "second"}


@pytest.fixture
def by_hand(paths, tmp_path):
    """A first dataset that nobody fetched, and a further one."""
    make_folder(paths.data, small_set())
    fetch_dataset(make_zip(tmp_path / "second.zip", further_set()), paths, add="second")
    return paths


def test_photos_placed_by_hand_have_a_name_beside_a_further_dataset(by_hand):
    assert set(load_split(by_hand).source) == {"data", "second"}
    table = pd.read_csv(by_hand.split)
    table.replace({"source": {"data": ""}}).to_csv(by_hand.split, index=False)  # as it was written before
    assert set(load_split(by_hand).source) == {"data", "second"}


@pytest.mark.parametrize(("first", "name"), [("by_hand", "data"), ("both", "data"), ("both", "first")])
def test_a_further_dataset_does_not_take_the_name_of_the_first(request, tmp_path, first, name):
    paths = request.getfixturevalue(first)
    with pytest.raises(UserError, match=f"add='{name}' stands for the first dataset") as error:
        fetch_dataset(make_folder(tmp_path / "third", further_set()), paths, add=name)
    sentence(error)


def test_both_are_set_aside_and_come_back_together(both):
    load_split(both)
    before = snapshot(both.data)
    set_aside_dataset(both)
    assert not both.train.exists()
    restore_dataset(both)
    after = snapshot(both.data)
    assert {name for name in after if not name.startswith(".")} == {name for name in before if name[0] != "."}
    assert set(load_split(both).source) == {"first", "second"}


@pytest.fixture
def fresh(tmp_path, capsys):
    """A second machine with the first of two datasets, and the split that the first machine made of both."""
    prepared = project(tmp_path / "machine 1", tmp_path / "drive")
    fetch_dataset(make_zip(tmp_path / "first.zip", small_set()), prepared)
    fetch_dataset(make_zip(tmp_path / "second.zip", further_set()), prepared, add="second")
    photos = scan_splits(prepared)
    split_photos(photos, find_duplicates(photos), prepared, test=0.1)
    load_split(prepared)
    assert "not in data/" not in capsys.readouterr().out
    paths = project(tmp_path / "machine 2", tmp_path / "drive")
    fetch_dataset(tmp_path / "first.zip", paths)
    capsys.readouterr()
    return paths


AWAY = "split.csv has 40 photos of second, which are not in data/: fetch that dataset, too"


@pytest.mark.parametrize("look", [load_split, training_manifests])
def test_a_dataset_that_was_not_fetched_here_is_told(fresh, tmp_path, capsys, look):
    look(fresh)
    told = capsys.readouterr().out
    assert told.count(AWAY) == told.count("\n") == 1
    assert "ADD_SOURCE" in told and "--add second" in told
    (fresh.train / "happy/mine.png").write_bytes(photo("mine"))  # all is read and the CSV written again
    look(fresh)
    assert capsys.readouterr().out.count(AWAY) == 1
    fetch_dataset(tmp_path / "second.zip", fresh, add="second")
    look(fresh)
    assert AWAY not in capsys.readouterr().out


def test_a_dataset_that_is_away_is_told_once_where_photos_are_tested(fresh, capsys):
    held_out_manifest(fresh)
    leaked_photos(fresh)
    training_manifests(fresh)
    assert capsys.readouterr().out.count(AWAY) == 1


def test_photos_that_a_person_removed_are_not_asked_for(both, capsys):
    load_split(both)
    capsys.readouterr()
    for file in both.data.rglob("second_*"):
        file.unlink()
    (both.train / "happy/0.png").unlink()
    load_split(both)
    assert capsys.readouterr().out == ""


def test_a_corrected_label_of_a_photo_that_is_not_fetched_here_stops_nothing(fresh, capsys):
    lines = "path,label\ntrain/anger/second_0.png,happy\ntrain/anger/0.png,happy\n"
    fresh.relabel.write_text(lines)
    train, _ = training_manifests(fresh)
    assert (train["label"] != train["given"]).sum() == 1
    assert "1 photos that it names are not in data/" in capsys.readouterr().out
    fresh.relabel.write_text(lines + "train/anger/nobodys.png,happy\n")
    with pytest.raises(UserError, match=r"names train/anger/nobodys\.png, which is not in data/"):
        training_manifests(fresh)
