"""`data/train_aug`: seeded, resumable, and never of a photo that validates."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emo.data.install import SPARE_BYTES
from emo.data.manifest import scan_dataset
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.paths import PROJECT_ROOT, get_paths
from emo.training import augmented_copy
from emo.training.augmented_copy import augmented_copies, write_augmented_copy
from tests.fixtures import write_photos


def test_augmented_copy_is_seeded_resumable_and_of_the_photos_size(dataset):
    assert write_augmented_copy(dataset, copies=2, seed=5) == 60
    copies = scan_dataset(dataset.train_aug)
    assert len(copies) == 60
    assert (copies.width == 40).all()
    assert copies.sha256.nunique() == 60
    kept, lost = sorted((dataset.train_aug / "sad").glob("*_aug1.jpg"))[:2]
    kept_time, lost_bytes = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    write_augmented_copy(dataset, copies=2, seed=5)
    assert kept.stat().st_mtime_ns == kept_time
    assert lost.read_bytes() == lost_bytes


def test_copies_made_otherwise_are_not_mistaken_for_these(dataset):
    write_augmented_copy(dataset, copies=2, seed=5)
    for copies, seed in ((1, 5), (2, 6)):
        with pytest.raises(UserError, match=r"train_aug holds copies made with .*'copies': 2, 'seed': 5"):
            write_augmented_copy(dataset, copies=copies, seed=seed)
    assert len(scan_dataset(dataset.train_aug)) == 60


def test_balanced_copies_bring_every_class_to_the_largest(dataset):
    write_photos(dataset.train, 31, classes=("happy",), seed=3)
    written = write_augmented_copy(dataset, copies="balance")
    train, _ = training_manifests(dataset)
    copies = augmented_copies(train, dataset)
    assert len(copies) == written > 0
    both = pd.concat([train, copies])["label"].value_counts()
    assert set(both) == {train["label"].value_counts().max()}
    a_photo = copies["path"].str.rsplit("/", n=1).str[1].str.split("_aug").str[0].value_counts()
    assert a_photo.max() - a_photo.min() <= 1
    assert "happy" not in set(copies["label"])


def test_where_balance_needs_fewer_copies_the_others_go(dataset):
    write_photos(dataset.train, 31, classes=("happy",), seed=3)
    before = write_augmented_copy(dataset, copies="balance")
    for file in sorted((dataset.train / "happy").glob("*.jpg"))[12:]:
        file.unlink()
    assert write_augmented_copy(dataset, copies="balance") < before
    both = pd.concat([train := training_manifests(dataset)[0], augmented_copies(train, dataset)])
    counts = both["label"].value_counts()
    assert counts.min() == counts.max()


def test_a_photo_that_was_replaced_gets_copies_of_the_new_one(dataset):
    write_augmented_copy(dataset, copies=1)
    photo = Path(training_manifests(dataset)[0].path[0])
    (copy,) = dataset.train_aug.rglob(f"{photo.name}_aug1.jpg")
    Image.new("RGB", (64, 48), "white").save(photo)
    write_augmented_copy(dataset, copies=1)
    with Image.open(copy) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((64, 48), (255, 255, 255))


def test_a_killed_copy_goes_on_where_it_stopped(dataset, tmp_path):
    write_photos(dataset.train, 80, seed=8, size=100)
    whole = get_paths(tmp_path / "whole")
    shutil.copytree(dataset.data, whole.data, dirs_exist_ok=True)
    code = "import sys; from emo.training.augmented_copy import write_augmented_copy;"
    code += "from emo.paths import get_paths; write_augmented_copy(get_paths(sys.argv[1]), copies=2)"
    process = subprocess.Popen([sys.executable, "-c", code, str(dataset.root)], cwd=PROJECT_ROOT)
    deadline = time.monotonic() + 120
    while len(list(dataset.train_aug.rglob("*.jpg"))) < 40:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(list(dataset.train_aug.rglob("*.jpg"))) < 384
    assert write_augmented_copy(dataset, copies=2) == write_augmented_copy(whole, copies=2) == 384
    contents = [
        {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("[!.]*.jpg")}
        for root in (dataset.train_aug, whole.train_aug)
    ]
    assert contents[0] == contents[1]


def test_copies_that_would_fill_the_disk_are_not_begun(dataset, monkeypatch):
    free = shutil.disk_usage(dataset.data)._replace(free=SPARE_BYTES + 200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match=r"1,500 augmented copies need about .* GB .* are free"):
        write_augmented_copy(dataset, copies=50)
    assert not list(dataset.train_aug.rglob("*.jpg"))
    assert write_augmented_copy(dataset, copies=1) == 30


def test_copies_are_upright_rgb_and_of_a_bounded_size(dataset):
    lying = Image.new("CMYK", (60, 20), (0, 255, 255, 0))  # red, on a camera held upright
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(dataset.train / "sad" / "lying.jpg", exif=exif)
    Image.effect_noise((3000, 1500), 80).save(dataset.train / "sad" / "large.jpg")
    training_manifests(dataset)
    dataset.split.write_text(dataset.split.read_text().replace(",val,", ",train,"))
    write_photos(dataset.val, 1, seed=4)
    write_augmented_copy(dataset, copies=1)
    with (
        Image.open(dataset.train_aug / "sad" / "lying.jpg_aug1.jpg") as upright,
        Image.open(dataset.train_aug / "sad" / "large.jpg_aug1.jpg") as large,
    ):
        assert (upright.size, upright.mode, large.size) == ((20, 60), "RGB", (1024, 512))
        red, green, blue = np.mean(upright, (0, 1))
        assert red > 200 and max(green, blue) < 60


def test_data_may_be_a_link_to_another_disk(dataset, tmp_path):
    dataset.data.rename(tmp_path / "elsewhere")
    dataset.data.symlink_to(tmp_path / "elsewhere")
    assert write_augmented_copy(dataset, copies=1) == 30
    assert len(augmented_copies(training_manifests(dataset)[0], dataset)) > 0


def test_copies_resemble_their_photo(dataset):
    write_augmented_copy(dataset, copies=1)
    for file in dataset.train_aug.rglob("*.jpg"):
        source = dataset.train / file.relative_to(dataset.train_aug).with_name(file.name[: -len("_aug1.jpg")])
        with Image.open(source) as photo, Image.open(file) as copy:
            np.testing.assert_allclose(np.mean(photo, (0, 1)), np.mean(copy, (0, 1)), atol=8)


def test_training_never_gets_copies_of_validation_photos(dataset):
    write_augmented_copy(dataset, copies=1)
    train, val = training_manifests(dataset)
    copies = augmented_copies(train, dataset)
    assert len(copies) == len(train)
    validation_names = {path.rsplit("/", 1)[1] for path in val.path}
    assert not validation_names & {path.rsplit("/", 1)[1].rsplit("_aug", 1)[0] for path in copies.path}


def test_a_validation_photo_that_somebody_lets_train_has_no_copy(dataset):
    shutil.copytree(dataset.test, dataset.val)
    training_manifests(dataset)
    moved = dataset.split.read_text().replace("/anger_000.jpg,val,", "/anger_000.jpg,train,")
    dataset.split.write_text(moved)
    train, _ = training_manifests(dataset)
    assert train.path.str.startswith(dataset.val.as_posix()).sum() == 1
    assert write_augmented_copy(dataset, copies=1) == len(train) - 1 == len(augmented_copies(train, dataset))


@pytest.mark.parametrize("copies", [0, -1, 1.5, "many", True])
def test_no_copies_is_a_mistake(dataset, copies):
    with pytest.raises(UserError, match="copies="):
        write_augmented_copy(dataset, copies=copies)


@pytest.mark.parametrize(
    "record", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"copies": 2}', None]
)
def test_a_damaged_record_is_one_sentence(dataset, record):
    write_augmented_copy(dataset, copies=1)
    if record is None:
        dataset.augmentation_record.unlink()
    else:
        dataset.augmentation_record.write_bytes(record)
    with pytest.raises(UserError, match=r"train_aug holds copies made with .*; delete that folder first"):
        write_augmented_copy(dataset, copies=1)


def test_a_damaged_record_without_copies_is_written_again(dataset):
    dataset.augmentation_record.write_bytes(b"")
    assert write_augmented_copy(dataset, copies=1) == 30


def test_two_calls_at_once_end_right_and_the_second_says_so(dataset):
    write_photos(dataset.train, 60, seed=8)
    training_manifests(dataset)
    code = (
        "import sys; from emo.paths import get_paths\n"
        "from emo.training.augmented_copy import write_augmented_copy\n"
        "print(write_augmented_copy(get_paths(sys.argv[1]), copies=3))"
    )
    command = [sys.executable, "-c", code, str(dataset.root)]
    calls = [subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    texts = [call.communicate()[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0]
    wanted = 3 * len(training_manifests(dataset)[0])
    assert {text.split()[-1] for text in texts} == {str(wanted)}
    assert len(scan_dataset(dataset.train_aug)) == wanted
    assert not list(dataset.train_aug.rglob(".*"))


def test_a_full_disk_is_one_sentence_and_what_was_written_is_gone_on_with(paths, full_disk, monkeypatch):
    monkeypatch.setattr(augmented_copy, "SPARE_BYTES", -(10**9))  # another process fills it meanwhile
    full = get_paths(full_disk.folder)
    write_photos(full.train, 10, size=120)
    training_manifests(full)
    full_disk.fill(leave=100_000)
    with pytest.raises(
        UserError, match=r"_aug\d\.jpg cannot be written \(No space left on device\)|No space"
    ):
        write_augmented_copy(full, copies=3)
    full_disk.empty()
    copies = list(full.train_aug.rglob("*.jpg"))
    assert 0 < len(copies) < 72 and all(file.stat().st_size for file in copies)
    assert write_augmented_copy(full, copies=3) == 72
