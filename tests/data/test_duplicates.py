"""Duplicates are found, other photos are not: the same bytes, and each change that makes a near copy."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image, ImageOps

from emo.data.duplicates import _hashes, example_pairs, find_duplicates, summarize_duplicates
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


def test_different_photos_have_no_duplicates(originals):
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


def test_duplicates_across_splits_and_classes_are_counted(paths):
    for split, label, number, copy_of in [
        ("train", "happy", 1, 1),
        ("train", "sad", 2, 2),
        ("train", "sad", 3, 1),  # the same file in another class
        ("train", "happy", 9, 9),
        ("val", "sad", 4, 2),  # in validation, too
        ("test", "happy", 5, 1),  # leaked
        ("test", "sad", 6, 9),  # leaked, as a near copy
        ("test", "sad", 7, 7),
        ("test", "happy", 8, 7),  # duplicates, but both in test
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


def test_flat_pictures_are_duplicates_only_as_files(tmp_path):
    for grey in (0, 10, 128, 255):
        Image.new("L", (40, 40), grey).save(tmp_path / f"{grey}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "again.png")
    assert names(find_duplicates(scan_dataset(tmp_path))) == [["0.png", "again.png"]]


@pytest.mark.parametrize("photos", [0, 1])
def test_no_photos_no_duplicates(tmp_path, photos):
    write_photos(tmp_path, photos, classes=("happy",))
    assert find_duplicates(scan_dataset(tmp_path)).empty


def lookalike(seed: int, size: int = 96) -> Image.Image:
    """One of many pictures that share a face, as aligned photos do; each fifth hardly differs from it."""

    def soft(seed: int) -> np.ndarray:
        rough = np.random.default_rng(seed).normal(size=(7, 7)).astype(np.float32)
        return np.asarray(Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC))

    face = (soft(0) + soft(0)[:, ::-1]) / 2**0.5
    pixels = 128 + 30 * (face + (0.8 if seed % 5 else 0.15) * soft(1 + seed))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_aligned_faces_that_look_alike_are_no_copies(tmp_path):
    for index in range(200):
        lookalike(index).save(tmp_path / f"{index:03d}.png")
    assert find_duplicates(scan_dataset(tmp_path)).empty
    for index in range(0, 200, 10):
        lookalike(index).save(tmp_path / f"{index:03d} recompressed.jpg", quality=90)
        ImageOps.mirror(lookalike(index + 5)).save(tmp_path / f"{index + 5:03d} mirrored.png")
    groups = names(find_duplicates(scan_dataset(tmp_path)))
    assert [len(group) for group in groups] == [2] * 40
    assert all(len({name[:3] for name in group}) == 1 for group in groups)


def test_frames_of_one_scene_are_one_group(originals, tmp_path):
    noise = np.random.default_rng(0)
    frame = np.asarray(scene(0), float)
    for index in range(200):
        moved = frame + noise.normal(0, 12, frame.shape)
        Image.fromarray(moved.clip(0, 255).astype(np.uint8)).save(tmp_path / f"frame{index}.jpg", quality=80)
    alone = find_duplicates(scan_dataset(tmp_path))
    assert [len(group) for group in names(alone)] == [200]
    among_others = find_duplicates(pd.concat([scan_dataset(originals), scan_dataset(tmp_path)]))
    assert [len(group) for group in names(among_others)] == [201]


def generated(count: int) -> pd.DataFrame:
    """A manifest of different soft pictures and, every hundredth, a noisy copy of the one before."""
    random = np.random.default_rng(0)
    rough = map(Image.fromarray, random.integers(0, 256, (count, 7, 7), np.uint8))
    pixels = np.stack([photo.resize((24, 24), Image.Resampling.BICUBIC) for photo in rough])
    copies = pixels[98::100][: count // 100] + random.normal(0, 3, (count // 100, 24, 24))
    pixels[99::100] = copies.clip(0, 255)
    thumbnails = [photo.tobytes() for photo in pixels]
    numbers = [f"{index:06d}" for index in range(count)]
    table = {"path": numbers, "label": "", "sha256": numbers, "problem": "", "thumbnail": thumbnails}
    return pd.DataFrame(table)


@pytest.mark.slow
def test_thirty_thousand_photos_take_little_time_and_memory():
    seconds = {}
    find_duplicates(generated(200))  # imports what it needs
    before = psutil.Process().memory_info().rss
    for count in (3_000, 30_000):
        manifest = generated(count)
        start = time.process_time()
        groups = find_duplicates(manifest)
        seconds[count] = time.process_time() - start
        assert groups.path.astype(int).to_list() == sorted(
            number for copy in range(99, count, 100) for number in (copy - 1, copy)
        )
    assert psutil.Process().memory_info().rss - before < 300e6
    # what grows with the photos stays small beside a scan's 500 µs of processor time per photo
    assert seconds[30_000] / 30_000 - seconds[3_000] / 3_000 < 300e-6


def test_hashes_are_those_of_imagehash():
    photos = np.stack([np.asarray(scene(index).resize((24, 24)).convert("L")) for index in range(3)])
    plain, mirrored = _hashes(photos)  # expected: imagehash 4.3.2's phash, of the mirrored photos too
    assert [f"{code:x}" for code in plain] == ["9c63a9d390a7c93a", "e3d2eb31e40d94b4", "9c2b54d433dda94c"]
    assert [f"{code:x}" for code in mirrored] == ["c836f886c4f29c6b", "b687be6cb158e1a0", "c97e01816788ff1d"]


def test_searching_needs_no_tensorflow():
    code = "import sys, emo.data.duplicates; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT).returncode == 0
