"""Twins are found, others are not: the same bytes, and each change that makes a near copy."""

import shutil
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image, ImageOps

from emo.data.duplicates import example_pairs, find_duplicates, summarize_duplicates
from emo.data.manifest import scan_dataset, scan_splits
from emo.data.split import leaked_photos, split_photos
from emo.paths import PROJECT_ROOT
from tests.fixtures import scene, write_photos


def cropped(image: Image.Image, share: float) -> Image.Image:
    cut = round(image.width * share)
    return image.crop((cut // 3, cut, image.width - cut + cut // 3, image.height))


CHANGES = {
    "resized": lambda image: image.resize((90, 90)),
    "stretched": lambda image: image.resize((200, 150)),
    "recompressed": lambda image: image,
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda image: cropped(ImageOps.mirror(image), 0.03),
    "cropped by 3%": lambda image: cropped(image, 0.03),
    "grey": lambda image: image.convert("L"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder of 60 different photos in two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(60):
        label = ("happy", "sad")[index % 2]
        (folder / label).mkdir(exist_ok=True)
        scene(index).save(folder / label / f"{index:02d}.png")
    return folder


def names(groups: pd.DataFrame) -> list[list[str]]:
    return [[path.rsplit("/", 1)[1] for path in group.path] for _, group in groups.groupby("group")]


def test_different_photos_have_no_twins(originals):
    groups = find_duplicates(scan_dataset(originals))
    assert groups.empty
    assert list(groups) == ["group", "path", "label", "split", "kind", "sha256"]
    assert summarize_duplicates(groups).to_numpy().sum() == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(originals, tmp_path, change):
    (tmp_path / "copies").mkdir()
    for index in range(20):
        CHANGES[change](scene(index)).save(tmp_path / "copies" / f"copy{index:02d}.jpg", quality=50)
    manifest = pd.concat([scan_dataset(originals), scan_dataset(tmp_path)], ignore_index=True)
    groups = find_duplicates(manifest)
    assert sorted(map(sorted, names(groups))) == [[f"{n:02d}.png", f"copy{n:02d}.jpg"] for n in range(20)]
    assert set(groups.kind) == {"near"}


def test_a_turned_photo_is_the_same_photo(originals, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(3).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    manifest = pd.concat([scan_dataset(originals), scan_dataset(tmp_path)])
    assert [sorted(group) for group in names(find_duplicates(manifest))] == [["03.png", "phone.jpg"]]


def test_twins_across_splits_and_classes_are_counted(paths):
    for split, label, number, copy_of in [
        ("train", "happy", 1, 1),
        ("train", "sad", 2, 2),
        ("train", "sad", 3, 1),  # the same file in another class
        ("train", "happy", 9, 9),
        ("val", "sad", 4, 2),  # in validation, too
        ("test", "happy", 5, 1),  # leaked
        ("test", "sad", 6, 9),  # leaked, as a near copy
        ("test", "sad", 7, 7),
        ("test", "happy", 8, 7),  # twins, but both in test
    ]:
        folder = paths.data / split / label
        folder.mkdir(parents=True, exist_ok=True)
        scene(copy_of).save(folder / f"{number}.jpg", quality=60 if number == 6 else 90)
    (paths.train / "sad" / "broken.jpg").write_bytes(b"")
    (paths.test / "sad" / "broken.jpg").write_bytes(b"")

    manifest = scan_splits(paths)
    groups = find_duplicates(manifest)
    assert sorted(map(sorted, names(groups))) == [
        ["1.jpg", "3.jpg", "5.jpg"],
        ["2.jpg", "4.jpg"],
        ["6.jpg", "9.jpg"],
        ["7.jpg", "8.jpg"],
    ]
    kinds = {path.rsplit("/", 1)[1]: kind for path, kind in zip(groups.path, groups.kind, strict=True)}
    assert {name for name, kind in kinds.items() if kind == "near"} == {"6.jpg", "9.jpg"}
    summary = summarize_duplicates(groups)
    assert summary.loc["identical"].to_list() == [3, 7, 2, 2, 1]
    assert summary.loc["identical or near"].to_list() == [4, 9, 3, 3, 2]
    split_photos(manifest, groups, paths)
    names_of = sorted(path.rsplit("/", 1)[1] for path in leaked_photos(paths))
    assert names_of == ["4.jpg", "5.jpg", "6.jpg"]  # the first of them validates
    names_of = sorted(path.rsplit("/", 1)[1] for path in leaked_photos(paths, near=False))
    assert names_of == ["4.jpg", "5.jpg"]

    shown = [path.rsplit("/", 1)[1] for path in example_pairs(groups).path]
    expected = [("5.jpg", "3.jpg"), ("6.jpg", "9.jpg"), ("8.jpg", "7.jpg"), ("2.jpg", "4.jpg")]
    assert list(zip(shown[0::2], shown[1::2], strict=True)) == expected  # two labels, then two splits
    assert len(example_pairs(groups, 3)) == 6
    assert example_pairs(groups.head(0)).empty

    identical = find_duplicates(manifest, near=False)
    assert summarize_duplicates(identical).loc["identical or near"].to_list() == [3, 7, 2, 2, 1]
    shuffled = manifest.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(find_duplicates(shuffled), groups)


def test_an_identical_file_inside_a_group_of_near_copies_keeps_its_kind(originals, tmp_path):
    shutil.copy(originals / "happy" / "00.png", tmp_path / "same.png")
    scene(0).save(tmp_path / "copy.jpg", quality=50)
    groups = find_duplicates(pd.concat([scan_dataset(originals), scan_dataset(tmp_path)]))
    kinds = dict(zip((path.rsplit("/", 1)[1] for path in groups.path), groups.kind, strict=True))
    assert kinds == {"00.png": "identical", "same.png": "identical", "copy.jpg": "near"}
    assert set(groups.group) == {1}


def test_flat_pictures_are_twins_only_as_files(tmp_path):
    for grey in (0, 10, 128, 255):
        Image.new("L", (40, 40), grey).save(tmp_path / f"{grey}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "again.png")
    assert names(find_duplicates(scan_dataset(tmp_path))) == [["0.png", "again.png"]]


@pytest.mark.parametrize("photos", [0, 1])
def test_no_photos_no_twins(tmp_path, photos):
    write_photos(tmp_path, photos, classes=("happy",))
    assert find_duplicates(scan_dataset(tmp_path)).empty


def test_searching_needs_no_tensorflow():
    code = "import sys, emo.data.duplicates; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT).returncode == 0
