"""Two datasets in one `data/`: a further one joins the first, each keeps or gets its splits."""

import pandas as pd
import pytest

from emo.data.download import fetch_dataset
from emo.data.duplicates import find_duplicates
from emo.data.manifest import scan_splits
from emo.data.set_aside import restore_dataset, set_aside_dataset
from emo.data.split import held_out_manifest, load_split, split_photos, training_manifests
from emo.errors import UserError
from tests.data.files import make_folder, make_zip, photo, sentence, small_set, snapshot

THEIRS = {"happiness": 20, "angry": 20, "contempt": 3}


def further_set():
    return {
        f"train/{name}/{n}.png": photo(f"theirs{name}{n}", size=(40, 40))
        for name, count in THEIRS.items()
        for n in range(count)
    }


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


def test_both_are_set_aside_and_come_back_together(both):
    load_split(both)
    before = snapshot(both.data)
    set_aside_dataset(both)
    assert not both.train.exists()
    restore_dataset(both)
    after = snapshot(both.data)
    assert {name for name in after if not name.startswith(".")} == {name for name in before if name[0] != "."}
    assert set(load_split(both).source) == {"first", "second"}
