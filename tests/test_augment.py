import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from PIL import Image

from emo.augment import (
    ROTATION,
    SHIFT,
    ZOOM,
    RandomAffine,
    affine_transforms,
    augment_examples,
    augmented_copies,
    resample,
    write_augmented_copy,
)
from emo.dataset import SPARE_BYTES, scan_dataset
from emo.errors import UserError
from emo.paths import PROJECT_ROOT, get_paths
from emo.split import training_manifests
from tests.fixtures import write_photos

SEEDS_GENERATOR = ImageDataGenerator(
    horizontal_flip=True,
    zoom_range=0.2,
    height_shift_range=0.2,
    width_shift_range=0.2,
    rotation_range=15,
    fill_mode="nearest",
)


def parameters(draws, size):
    """Our uniform draws as ImageDataGenerator's own parameters; its tx moves columns, its zx zooms them."""
    rotation, shift_y, shift_x, zoom_y, zoom_x, _ = 2 * draws - 1
    return {
        "theta": rotation * ROTATION,
        "tx": shift_x * SHIFT * size,
        "ty": shift_y * SHIFT * size,
        "zx": 1 + zoom_x * ZOOM,
        "zy": 1 + zoom_y * ZOOM,
        "flip_horizontal": bool(draws[5] < 0.5),
    }


@pytest.mark.parametrize("size", [48, 71])
def test_pixels_equal_image_data_generators_on_the_same_parameters(size):
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (32, size, size, 3)).astype("float32")
    draws = random.random((32, 6)).astype("float32")
    ours = np.asarray(resample(images, affine_transforms(draws, size, size)))
    theirs = [
        SEEDS_GENERATOR.apply_transform(image, parameters(draw, size))
        for image, draw in zip(images, draws, strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # of 255


def test_ranges_equal_image_data_generators():
    size, count = 48, 4000
    np.random.seed(0)  # noqa: NPY002 - ImageDataGenerator draws from the global generator
    drawn = [SEEDS_GENERATOR.get_random_transform((size, size, 3)) for _ in range(count)]
    ours = [parameters(draw, size) for draw in np.random.default_rng(0).random((count, 6))]
    for name in ("theta", "tx", "ty", "zx", "zy", "flip_horizontal"):
        theirs, mine = (np.array([one[name] for one in many], float) for many in (drawn, ours))
        spread = max(np.ptp(theirs), 1e-9)
        fifths = np.linspace(0, 1, 6)
        ours_at, theirs_at = np.quantile(mine, fifths) / spread, np.quantile(theirs, fifths) / spread
        np.testing.assert_allclose(ours_at, theirs_at, atol=0.05)


def test_the_layer_augments_in_training_only_and_differently_each_time():
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    draws = np.random.default_rng(1).random((2, 8, 6))
    layer = RandomAffine()
    np.testing.assert_array_equal(layer(images, draws[0], training=False), images)
    first, second = (np.asarray(layer(images, drawn, training=True)) for drawn in draws)
    assert (first != second).any(axis=(1, 2, 3)).all()
    assert len({image.tobytes() for image in first}) == 8
    assert 0 <= first.min() <= first.max() <= 255
    np.testing.assert_array_equal(first, layer(images, draws[0], training=True))


def test_nearest_fill_leaves_no_foreign_colour_at_the_border():
    image = np.full((1, 32, 32, 3), 200, "float32")
    np.testing.assert_allclose(augment_examples(image, seed=3), 200, atol=1e-3)


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


def test_a_killed_copy_goes_on_where_it_stopped(dataset, tmp_path):
    write_photos(dataset.train, 200, seed=8, size=100)
    whole = get_paths(tmp_path / "whole")
    shutil.copytree(dataset.data, whole.data, dirs_exist_ok=True)
    code = "import sys; from emo.augment import write_augmented_copy; from emo.paths import get_paths;"
    code += "write_augmented_copy(get_paths(sys.argv[1]), copies=2)"
    process = subprocess.Popen([sys.executable, "-c", code, str(dataset.root)], cwd=PROJECT_ROOT)
    deadline = time.monotonic() + 120
    while len(list(dataset.train_aug.rglob("*.jpg"))) < 100:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(list(dataset.train_aug.rglob("*.jpg"))) < 960
    assert write_augmented_copy(dataset, copies=2) == write_augmented_copy(whole, copies=2) == 960
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


@pytest.mark.parametrize("copies", [0, -1, 1.5, "many", True])
def test_no_copies_is_a_mistake(dataset, copies):
    with pytest.raises(UserError, match="copies="):
        write_augmented_copy(dataset, copies=copies)


def test_the_layer_has_no_weights_that_a_saved_model_would_need():
    layer = RandomAffine()
    layer(keras.Input((8, 8, 3)), keras.Input((6,)))
    assert not layer.weights
