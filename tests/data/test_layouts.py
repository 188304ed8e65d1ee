"""Datasets as people hand them out: what becomes of each photo, and what is said of those left out."""

import csv
import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emo.data.download import fetch_dataset
from emo.data.manifest import class_names
from emo.errors import UserError
from emo.paths import get_paths
from tests.data.files import make_folder, make_zip, names_in, photo, sentence, snapshot

SPLITS = ("train", "val", "test", "test_kaggle")
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
RAF_DB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
FER_PLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")


def tree(*folders, count=2):
    """`count` photos in each folder, every one with a name and a content of its own."""
    names = [
        f"{folder}/{re.sub('[^a-zA-Z0-9]', '_', folder)}_{n}.png" for folder in folders for n in range(count)
    ]
    return {name: photo(name) for name in names}


def crossed(splits, classes=("happy", "sad"), prefix="", count=2):
    return tree(*(f"{prefix}{split}/{name}" for split in splits for name in classes), count=count)


def placed(paths):
    """How many photos of each class each split has, and whose content they are."""
    found = {}
    for split in SPLITS:
        for file in (paths.data / split).rglob("*.*"):
            found.setdefault(split, {}).setdefault(file.relative_to(paths.data / split).parts[0], []).append(
                file
            )
    return {split: {name: len(files) for name, files in classes.items()} for split, classes in found.items()}


def fetched(tmp_path, files, name="set", packed=True):
    """The project after fetching `files`."""
    paths = get_paths(tmp_path / f"project {name} {packed}")
    make = make_zip if packed else make_folder
    counts = fetch_dataset(make(tmp_path / (f"{name}.zip" if packed else name), files), paths)
    assert counts == {split: sum(classes.values()) for split, classes in placed(paths).items()}
    return paths


# ---------------------------------------------------------------- folders

TWO = {"happy": 2, "sad": 2}
FOLDERS = {
    "plain": (crossed(("train", "val", "test")), ("train", "val", "test")),
    "Kaggle, validation": (crossed(("train", "validation"), prefix="images/"), ("train", "val")),
    "Roboflow, valid": (crossed(("train", "valid", "test")), ("train", "val", "test")),
    "Training and Testing": (crossed(("Training", "Testing")), ("train", "test")),
    "capitals": (crossed(("TRAIN", "VALID", "TEST"), prefix="Data/Faces/"), ("train", "val", "test")),
    "dev": (crossed(("train", "dev", "test")), ("train", "val", "test")),
    "FER2013's usages": (crossed(("Training", "PublicTest", "PrivateTest")), ("train", "val", "test")),
    "usages in words": (crossed(("training", "public_test", "Private Test")), ("train", "val", "test")),
    "sets": (crossed(("train_set", "val_set", "test-set")), ("train", "val", "test")),
    "data": (crossed(("train_data", "validation data")), ("train", "val")),
    "in Russian": (crossed(("Обучение", "Валидация", "Тест")), ("train", "val", "test")),
    "wrapped twice": (crossed(("train", "test"), prefix="archive/fer/"), ("train", "test")),
    "a split within a split": (crossed(("train/train", "val/val")), ("train", "val")),
    "images within splits": (crossed(("train/images", "val/images")), ("train", "val")),
    "a wrapper called test": (crossed(("train", "val"), prefix="test/"), ("train", "val")),
    "splits within classes": (
        tree(*(f"faces/{c}/{s}" for c in TWO for s in ("train", "test"))),
        ("train", "test"),
    ),
    "class folders alone": (tree("happy", "sad"), ("train",)),
    "class folders below others": (tree("my/photos/happy", "my/photos/sad"), ("train",)),
    "ImageNet's": (crossed(("train", "val"), ("happy", "sad"), "ILSVRC/Data/CLS-LOC/"), ("train", "val")),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", FOLDERS)
def test_splits_under_any_usual_name_become_what_they_mean(tmp_path, layout, packed):
    files, splits = FOLDERS[layout]
    paths = fetched(tmp_path, files, packed=packed)
    assert placed(paths) == dict.fromkeys(splits, TWO)
    contents = {Path(name).name: content for name, content in files.items()}
    for file in (file for split in splits for file in (paths.data / split).rglob("*.png")):
        assert file.read_bytes() == contents[file.name]


def test_the_classes_of_val_and_test_are_spelled_as_those_of_train(tmp_path):
    files = tree("train/Happy", "train/sad", "test/happy", "test/SAD")
    assert placed(fetched(tmp_path, files)) == {
        "train": {"Happy": 2, "sad": 2},
        "test": {"Happy": 2, "sad": 2},
    }


def test_what_is_left_out_is_named_with_its_number_of_photos(tmp_path, capsys):
    files = crossed(("train", "validation"), prefix="images/") | tree(
        "images/images/train/happy", "docs", count=3
    )
    assert placed(fetched(tmp_path, files)) == {"train": TWO, "val": TWO}
    assert "Left out 6 photos: images/images (3), docs (3)." in capsys.readouterr().out


@pytest.mark.parametrize("test", ["test", "test/images", "Testing/unknown", "test/test"])
def test_photos_to_test_on_without_classes_are_the_unlabelled_ones(tmp_path, capsys, test):
    paths = fetched(tmp_path, crossed(["train"]) | tree(test, count=3))
    assert set(placed(paths)) == {"train", "test_kaggle"}
    assert "The 3 photos in" in (told := capsys.readouterr().out) and "they go to test_kaggle" in told


AMBIGUOUS = {
    "a set and its masks": (tree("images", "masks"), "'images'"),
    "two parts": (tree("part1", "part2"), "'part1'"),
    "parts below another folder": (tree("faces/part_1", "faces/part_2"), "'part_1'"),
    "batches": (tree("batch-01", "batch-02", "batch-03"), "'batch-01'"),
    "years": (tree("2023", "2024"), "2023"),
    "months": (tree("2024-05", "2024-06"), "2024-05"),
    "a camera's folders": (tree("100CANON", "101CANON"), "'100CANON'"),
    "persons by number": (tree("S001", "S002"), "'S001'"),
    "persons by name": (tree("Ivan", "Maria"), "'Ivan'"),
    "original and aligned": (tree("original", "aligned"), "'original'"),
    "left and right": (tree("left", "right"), "'left'"),
    "parts in train": (tree("train/images", "train/masks"), "'images'"),
    "classes and a part": (tree("happy", "sad", "images"), "'images'"),
    "numbers that no dataset explains": (tree("1", "2", "3"), "'1', '2', '3'"),
    "in Russian": (tree("Фото", "Новая папка"), "'Фото'"),
    "two datasets": (crossed(("train", "val"), prefix="a/") | crossed(("train", "val"), prefix="b/"), "a, b"),
    "two names for one split": (crossed(("train", "valid", "validation")), "valid/ and validation/"),
    "only to validate and to test": (crossed(("val", "test")), "no train/ beside it"),
    "classes beside a split": (tree("happy", "sad", "test/happy"), "no train/ beside it"),
    "photos in no class": (tree("train", "train/happy", "train/sad"), "no class folder"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_where_the_classes_cannot_be_told_one_sentence_says_what_to_do(tmp_path, case):
    files, complaint = AMBIGUOUS[case]
    paths = get_paths(tmp_path / "project")
    before = snapshot(paths.data)
    with pytest.raises(UserError) as error:
        fetch_dataset(make_zip(tmp_path / "set.zip", files), paths)
    assert complaint in sentence(error) and snapshot(paths.data) == before


def test_names_of_any_kind_are_classes_below_train(tmp_path):
    assert placed(fetched(tmp_path, tree("train/Ivan", "train/Maria"))) == {"train": {"Ivan": 2, "Maria": 2}}


@pytest.mark.parametrize(
    "names", ["AN HA SU", "злость радость страх", "wütend glücklich", "高兴 悲伤", "Class_A Class_B"]
)
def test_emotions_are_known_in_other_words(tmp_path, names):
    assert placed(fetched(tmp_path, tree(*names.split()))) == {"train": dict.fromkeys(names.split(), 2)}


# ---------------------------------------------------------------- numbered classes


@pytest.mark.parametrize(
    "name, numbers, classes",
    [
        ("affect_net", range(8), AFFECTNET),
        ("AffectNet_aligned", range(7), AFFECTNET[:7]),
        ("fer2013", range(7), FER2013),
        ("FER-2013", range(7), FER2013),
        ("ferplus", range(8), FER_PLUS),
        ("FER_Plus", range(8), FER_PLUS),
        ("fer2013plus", range(8), FER_PLUS),
        ("raf-db", range(1, 8), RAF_DB),
    ],
)
@pytest.mark.parametrize("splits", [("train", "val"), ()])
def test_numbered_folders_get_the_names_of_their_dataset(tmp_path, capsys, name, numbers, classes, splits):
    folders = [f"{split}{number}" for split in ([f"{s}/" for s in splits] or [""]) for number in numbers]
    paths = fetched(tmp_path, tree(*folders), name)
    assert placed(paths) == dict.fromkeys(splits or ["train"], dict.fromkeys(classes, 2))
    for number, label in zip(numbers, classes, strict=True):
        (file,) = (paths.train / label).glob(f"*{number}_0.png")
        assert file.read_bytes() == photo(f"{f'{splits[0]}/' if splits else ''}{number}/{file.name}")
    assert f"{numbers[0]} = {classes[0]}, {numbers[1]} = {classes[1]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, numbers", [("my_photos", "0123456"), ("CK+", "01234567"), ("jaffe", "01234567")]
)
def test_numbers_below_train_that_no_dataset_explains_stay_and_are_told(tmp_path, capsys, name, numbers):
    paths = fetched(tmp_path, crossed(["train"], numbers), name)
    assert placed(paths)["train"] == dict.fromkeys(numbers, 2)
    assert f"{', '.join(numbers)} keep their numbers" in capsys.readouterr().out


# ---------------------------------------------------------------- lists of labels


def raf_db(aligned=True, original=True, name="list_patition_label.txt"):
    files, lines = {}, []
    for split in ("train", "test"):
        for number in range(1, 8):
            stem = f"{split}_{number:05d}"
            lines.append(f"{stem}.jpg {number}\n")
            files |= {f"basic/Image/aligned/{stem}_aligned.jpg": photo(stem, "jpg")} if aligned else {}
            files |= {f"basic/Image/original/{stem}.jpg": photo(f"{stem}o", "jpg")} if original else {}
    return files | {f"basic/EmoLabel/{name}": "".join(lines).encode()}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kinds", [(True, True), (True, False), (False, True)])
def test_raf_db_as_its_authors_hand_it_out(tmp_path, capsys, kinds, packed):
    paths = fetched(tmp_path, raf_db(*kinds), packed=packed)
    assert placed(paths) == dict.fromkeys(("train", "test"), dict.fromkeys(RAF_DB, 1))
    suffix, own = ("_aligned", "") if kinds[0] else ("", "o")
    for number, label in enumerate(RAF_DB, 1):
        stem = f"train_{number:05d}"
        assert (paths.train / label / f"{stem}{suffix}.jpg").read_bytes() == photo(f"{stem}{own}", "jpg")
    told = capsys.readouterr().out
    assert ("basic/Image/original (14)" in told) == all(kinds) and "1 = surprise" in told


def test_raf_db_with_other_spellings_and_gaps(tmp_path, capsys):
    files = raf_db(name="list_partition_label.txt")
    del files["basic/Image/aligned/train_00007_aligned.jpg"], files["basic/Image/original/train_00007.jpg"]
    assert (
        "neutral"
        not in placed(fetched(tmp_path, {k: v for k, v in files.items() if "test_00007" not in k}))["train"]
    )
    assert "2 of 14 photos in that list are not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda files: files | {"basic/EmoLabel/list_patition_label.txt": b"train_00001.jpg 11\n"}, "1 to 7"),
        (
            lambda files: (
                {k.replace("Image/", "Elsewhere/x"): v for k, v in files.items() if "txt" in k} | tree("a")
            ),
            "aligned.zip",
        ),
        (lambda files: files | {"other/EmoLabel/list_patition_label.txt": b""}, "2 lists"),
    ],
)
def test_raf_db_that_is_not_complete(tmp_path, change, complaint):
    with pytest.raises(UserError) as error:
        fetched(tmp_path, change(raf_db()))
    assert complaint in sentence(error)


ROWS = [(f"{n}.png", ("happy", "sad", "fear")[n % 3], ("train", "val")[n > 8]) for n in range(12)]


def listed(headings, rows=ROWS, delimiter=",", columns=(0, 1), encoding="utf-8", path="{}"):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([headings] if headings else [])
    writer.writerows(
        [path.format(row[place]) if place == 0 else row[place] for place in columns] for row in rows
    )
    return file.getvalue().encode(encoding)


PHOTOS = {f"images/{name}": photo(name) for name, _, _ in ROWS}
ALL = {"train": {"happy": 4, "sad": 4, "fear": 4}}
LISTS = {
    "path and label": ({"labels.csv": listed(["path", "label"], path="images/{}")}, ALL),
    "names alone": ({"labels.csv": listed(["image", "emotion"])}, ALL),
    "names without suffix": (
        {"labels.csv": listed(["id", "class"], [(r[0][:-4], *r[1:]) for r in ROWS])},
        ALL,
    ),
    "from another machine": ({"a.csv": listed(["Filename", "Class"], path="/content/drive/images/{}")}, ALL),
    "from Windows": ({"a.csv": listed(["file name", "Expression"], path="C:\\data\\images\\{}")}, ALL),
    "Excel's, with semicolons": (
        {"a.csv": listed(["path", "label"], delimiter=";", encoding="utf-8-sig")},
        ALL,
    ),
    "in UTF-16 with tabs": ({"a.csv": listed(["path", "label"], delimiter="\t", encoding="utf-16")}, ALL),
    "a TSV": ({"a.tsv": listed(["image_path", "target"], delimiter="\t")}, ALL),
    "pandas's index first": (
        {"a.csv": listed(["", "pth", "label"], [(n, *r) for n, r in enumerate(ROWS)], columns=(0, 1, 2))},
        ALL,
    ),
    "no headings": ({"a.csv": listed(None)}, ALL),
    "inside the folder": ({"images/labels.csv": listed(["path", "label"])}, ALL),
    "label first": ({"a.csv": listed(["emotion", "filename"], columns=(1, 0))}, ALL),
    "its column of splits": (
        {"a.csv": listed(["path", "label", "split"], columns=(0, 1, 2))},
        {"train": {"happy": 3, "sad": 3, "fear": 3}, "val": {"happy": 1, "sad": 1, "fear": 1}},
    ),
    "FER2013's usages": (
        {
            "a.csv": listed(
                ["image", "emotion", "Usage"],
                [(*r[:2], ("Training", "PublicTest")[r[2] == "val"]) for r in ROWS],
                columns=(0, 1, 2),
            )
        },
        {"train": {"happy": 3, "sad": 3, "fear": 3}, "val": {"happy": 1, "sad": 1, "fear": 1}},
    ),
    "a list for each split": (
        {
            "train_labels.csv": listed(["path", "label"], ROWS[:9]),
            "test_labels.csv": listed(["path", "label"], ROWS[9:]),
        },
        {"train": {"happy": 3, "sad": 3, "fear": 3}, "test": {"happy": 1, "sad": 1, "fear": 1}},
    ),
    "labels in upper and lower case": (
        {
            "a.csv": listed(
                ["path", "label"], [(r[0], r[1].upper() if n > 2 else r[1]) for n, r in enumerate(ROWS)]
            )
        },
        ALL,
    ),
    "numbers as AffectNet has them": (
        {
            "affectnet.csv": listed(
                ["path", "label"], [(name, n % 8, "") for n, (name, *_) in enumerate(ROWS)]
            )
        },
        {"train": {name: 2 if n < 4 else 1 for n, name in enumerate(AFFECTNET)}},
    ),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", LISTS)
def test_a_list_of_labels_beside_one_folder(tmp_path, capsys, case, packed):
    lists, wanted = LISTS[case]
    paths = fetched(tmp_path, PHOTOS | lists, packed=packed)
    assert placed(paths) == wanted
    labels = {name: label for name, label, _ in ROWS}
    if set(wanted["train"]) == {"happy", "sad", "fear"}:
        for file in paths.data.glob("*/*/*.png"):
            assert labels[file.name] == file.parent.name and file.read_bytes() == photo(file.name)
    assert "Labels are from " in capsys.readouterr().out


def test_photos_without_a_label_and_rows_without_a_photo_are_counted(tmp_path, capsys):
    rows = [*ROWS, ("99.png", "happy", ""), ("98.png", "sad", "")]
    files = PHOTOS | {"images/extra.png": photo("extra"), "a.csv": listed(["path", "label"], rows)}
    assert placed(fetched(tmp_path, files)) == ALL
    told = capsys.readouterr().out
    assert "2 of 14 rows of a.csv name no photo that is there" in told
    assert "images, without a label (1)" in told


def test_a_competitions_example_of_answers_labels_nothing(tmp_path, capsys):
    files = tree("train/images", "test/images", count=4)
    names = [Path(name).stem for name in files]
    labels = "".join(f"{name},{('happy', 'sad')[n % 2]}\n" for n, name in enumerate(names[:4]))
    answers = "".join(f"{name},happy\n" for name in names[4:])
    files |= {"train.csv": f"id,emotion\n{labels}".encode()}
    files |= {"sample_submission.csv": f"id,emotion\n{answers}".encode()}
    assert fetch_dataset(make_zip(tmp_path / "a.zip", files), get_paths(tmp_path / "p")) == {
        "train": 4,
        "test_kaggle": 4,
    }
    assert "4 photos to test on have no labels" in capsys.readouterr().out


def test_raf_db_of_kaggle_is_known_by_its_photos_names(tmp_path):
    files = {
        f"DATASET/{split}/{n}/{split}_{n:05d}_aligned.jpg": photo(n, "jpg")
        for split in ("train", "test")
        for n in range(1, 8)
    }
    assert placed(fetched(tmp_path, files)) == dict.fromkeys(("train", "test"), dict.fromkeys(RAF_DB, 1))


def test_one_name_in_two_folders_is_told_apart_by_its_path(tmp_path):
    files = {f"{folder}/{n}.png": photo(f"{folder}{n}") for folder in ("ann", "bob") for n in range(2)}
    labels = b"path,label\nann/0.png,happy\nann/1.png,sad\nbob/0.png,sad\nbob/1.png,sad\n"
    paths = fetched(tmp_path, files | {"a.csv": labels})
    assert placed(paths) == {"train": {"happy": 1, "sad": 3}}
    assert (paths.train / "happy/ann/0.png").read_bytes() == photo("ann0")


LIST_FAULTS = {
    "one name, two photos": (
        tree("a") | {"a/1.png": photo(1), "b/1.png": photo(2), "l.csv": b"path,label\n1.png,happy\n"},
        "says '1.png' of both",
    ),
    "two labels": (
        PHOTOS | {"a.csv": listed(["path", "label"], [*ROWS, ("0.png", "sad", "")])},
        "two labels (happy, sad)",
    ),
    "a label that is a path": (
        PHOTOS | {"a.csv": listed(["path", "label"], [("0.png", "../../evil", "")])},
        "'../../evil'",
    ),
    "a label with a slash": (PHOTOS | {"a.csv": listed(["path", "label"], [("0.png", "a/b", "")])}, "'a/b'"),
    "an unknown split": (
        PHOTOS | {"a.csv": listed(["path", "label", "split"], [("0.png", "a", "later")], columns=(0, 1, 2))},
        "'later'",
    ),
    "one label": (
        PHOTOS | {"a.csv": listed(["path", "label"], [(r[0], "happy", "") for r in ROWS])},
        "fewer than two",
    ),
    "other headings": (PHOTOS | {"a.csv": listed(["Bild", "Gefühl"])}, "name its columns path and label"),
    "a class named as a column": (
        PHOTOS | {"a.csv": listed(["path", "label"], [("0.png", "confidence", ""), ("1.png", "sad", "")])},
        "'confidence'",
    ),
}


@pytest.mark.parametrize("case", LIST_FAULTS)
def test_a_list_that_contradicts_itself(tmp_path, case):
    files, complaint = LIST_FAULTS[case]
    with pytest.raises(UserError) as error:
        fetched(tmp_path, files)
    assert complaint in sentence(error)
    assert not list((tmp_path / "project set True" / "data").glob("[!.]*"))


@pytest.mark.parametrize("numbers", [False, True])
def test_folders_are_the_classes_where_a_list_says_otherwise(tmp_path, numbers):
    """Kaggle's AffectNet has labels.csv, by another annotation, beside the class folders."""
    if numbers:
        files = tree(*(f"DATASET/{split}/{n}" for split in ("train", "test") for n in range(1, 8)))
        lists = {
            "DATASET/train_labels.csv": listed(
                ["image", "label"], [(Path(k).name, k.split("/")[2]) for k in files], columns=(0, 1)
            )
        }
        wanted = dict.fromkeys(("train", "test"), dict.fromkeys(RAF_DB, 2))
        assert placed(fetched(tmp_path, files | lists, "raf-db")) == wanted
    else:
        files = tree("anger", "happy", "sad")
        lists = {"labels.csv": listed(["pth", "label"], [(k, "sad") for k in files])}
        assert placed(fetched(tmp_path, files | lists)) == {
            "train": dict.fromkeys(("anger", "happy", "sad"), 2)
        }


# ---------------------------------------------------------------- tables of pixels


def pixels(
    rows=42,
    headings=("emotion", "pixels", "Usage"),
    side=48,
    usages=("Training", "PublicTest", "PrivateTest"),
):
    """fer2013.csv with `rows` rows, a third of each usage."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(headings)
    cells = {heading.strip().casefold(): place for place, heading in enumerate(headings)}
    for n in range(rows):
        values = np.random.default_rng(n).integers(0, 256, side**2)
        row = {
            "emotion": n % 7,
            "pixels": " ".join(map(str, values)),
            "usage": usages[n * len(usages) // rows],
        }
        writer.writerow(row[heading] for heading in cells)
    return file.getvalue().encode()


TABLES = {
    "fer2013.csv": {"fer2013.csv": pixels()},
    "icml_face_data.csv": {"icml_face_data.csv": pixels(headings=("emotion", " Usage", " pixels"))},
    "pixels first": {"data.csv": pixels(headings=("pixels", "emotion", "usage"))},
    "in a folder": {"fer2013/fer2013.csv": pixels(), "fer2013/README": b"", "fer2013/fer2013.bib": b""},
    "the competition's": {
        "icml_face_data.csv": pixels(headings=("emotion", " Usage", " pixels")),
        "train.csv": pixels(7, headings=("emotion", "pixels")),
        "test.csv": pixels(7, headings=("pixels",)),
        "fer2013.tar.gz": b"\x1f\x8b",
    },
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", TABLES)
def test_a_table_of_pixels_becomes_photos(tmp_path, capsys, case, packed):
    paths = fetched(tmp_path, TABLES[case], packed=packed)
    assert placed(paths) == dict.fromkeys(("train", "val", "test"), dict.fromkeys(FER2013, 2))
    for split, row in (("train", 1), ("val", 15), ("test", 42)):
        (file,) = (paths.data / split).glob(f"*/*{row:06d}.png")
        wanted = np.random.default_rng(row - 1).integers(0, 256, 48**2).reshape(48, 48)
        assert file.parent.name == FER2013[(row - 1) % 7] and (np.asarray(Image.open(file)) == wanted).all()
    told = capsys.readouterr()
    assert "0 = angry, 1 = disgust" in told.out and "Unpacking" in told.err
    assert class_names(paths) == tuple(sorted(FER2013))


def test_a_table_alone_is_a_source(tmp_path, paths):
    (tmp_path / "fer2013.csv").write_bytes(pixels())
    assert fetch_dataset(tmp_path / "fer2013.csv", paths) == {"train": 14, "val": 14, "test": 14}
    assert fetch_dataset(tmp_path / "fer2013.csv", paths) == {"train": 14, "val": 14, "test": 14}


def test_tables_of_one_split_each_go_together(tmp_path):
    files = {f"{split}.csv": pixels(14, ("emotion", "pixels")) for split in ("train", "test")}
    assert placed(fetched(tmp_path, files)) == dict.fromkeys(("train", "test"), dict.fromkeys(FER2013, 2))


def test_ck_plus_in_that_form_has_contempt(tmp_path):
    lines = pixels(14, usages=("Training",)).decode().splitlines()
    lines[1] = "7" + lines[1][1:]
    paths = fetched(tmp_path, {"ckextended.csv": "\n".join(lines).encode()})
    assert placed(paths)["train"]["contempt"] == 1


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda line: line.replace(" ", " x", 1), "0 to 255"),
        (
            lambda line: line.replace(" ", " 300 ", 1).rsplit(" ", 1)[0] + "," + line.rsplit(",", 1)[1],
            "0 to 255",
        ),
        (lambda line: line.replace(" ", " 7 ", 1), "no square picture"),
        (lambda line: "9" + line[1:], "the emotion 9"),
        (lambda line: "-1" + line[1:], "the emotion '-1'"),
        (lambda line: line.rsplit(",", 1)[0] + ",Later", "the Usage 'Later'"),
        (lambda line: line[:50], "cut short"),
        (lambda line: "0,,Training", "no square picture"),
    ],
)
def test_a_damaged_table_changes_nothing(tmp_path, paths, change, complaint):
    lines = pixels().decode().splitlines()
    lines[5] = change(lines[5])
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    before = snapshot(paths.data)
    with pytest.raises(UserError) as error:
        fetch_dataset(tmp_path / "fer2013.csv", paths)
    assert complaint in sentence(error) and "row 5" in sentence(error) and snapshot(paths.data) == before


@pytest.mark.parametrize("content", [b"", b"path,label\n1.png,happy\n", b"\xff\xfe\0", b"emotion,pixels"])
def test_a_csv_that_is_no_dataset_says_what_to_give(tmp_path, paths, content):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError) as error:
        fetch_dataset(tmp_path / "labels.csv", paths)
    assert "labels.csv" in sentence(error)


# ---------------------------------------------------------------- whatever else there is

NAMES = """train Test valid happy sad Sad images 0 1 part1 фото й a x.png labels.csv fer2013.csv
list_patition_label.txt .. . con"""
NAMES = st.sampled_from([*NAMES.split(), " ", "b" * 260])
FILES = st.sampled_from(["1.png", "2.JPG", "labels.csv", "a.tsv", "list_patition_label.txt"])
CONTENTS = [
    photo(1),
    b"",
    b"path,label\nx.png,happy\n",
    b"emotion,pixels\n0,1 2 3 4\n",
    b"x.png 3\n",
    b'\xff\0,;\n"',
]
CONTENTS = st.sampled_from([*CONTENTS, pixels(3, side=2)])
PATHS = st.tuples(st.lists(NAMES, max_size=4), FILES).map(lambda path: "/".join([*path[0], path[1]]))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(PATHS, CONTENTS, max_size=12))
def test_any_tree_becomes_a_dataset_or_one_sentence(files):
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(Path(folder) / "project")
        try:
            counts = fetch_dataset(make_zip(Path(folder) / "a.zip", files), paths)
        except UserError as error:
            assert "\n" not in str(error) and str(error).endswith("."), str(error)
            assert not names_in(paths.data)
        else:
            assert counts["train"] >= 2 and len(class_names(paths)) >= 2
            assert {path.name for path in Path(folder).iterdir()} == {"project", "a.zip"}
