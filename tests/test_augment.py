import keras
import numpy as np
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
from emo.dataset import scan_dataset, training_manifests
from emo.errors import UserError

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
    assert write_augmented_copy(dataset, copies=2, seed=5) == 72
    copies = scan_dataset(dataset.train_aug)
    assert len(copies) == 72
    assert (copies.width == 40).all()
    assert copies.sha256.nunique() == 72
    kept, lost = (dataset.train_aug / "sad" / f"sad_00{n}.jpg_aug1.jpg" for n in (0, 1))
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
    assert len(scan_dataset(dataset.train_aug)) == 72


def test_data_may_be_a_link_to_another_disk(dataset, tmp_path):
    dataset.data.rename(tmp_path / "elsewhere")
    dataset.data.symlink_to(tmp_path / "elsewhere")
    assert write_augmented_copy(dataset, copies=1) == 36
    assert len(augmented_copies(training_manifests(dataset)[0], dataset)) > 0


def test_copies_resemble_their_photo(dataset):
    write_augmented_copy(dataset, copies=1)
    with (
        Image.open(dataset.train / "anger" / "anger_000.jpg") as photo,
        Image.open(dataset.train_aug / "anger" / "anger_000.jpg_aug1.jpg") as copy,
    ):
        np.testing.assert_allclose(np.mean(photo, (0, 1)), np.mean(copy, (0, 1)), atol=8)


def test_training_never_gets_copies_of_validation_photos(dataset):
    write_augmented_copy(dataset, copies=1)
    train, val = training_manifests(dataset)
    copies = augmented_copies(train, dataset)
    assert len(copies) == len(train)
    validation_names = {path.rsplit("/", 1)[1] for path in val.path}
    assert not validation_names & {path.rsplit("/", 1)[1].rsplit("_aug", 1)[0] for path in copies.path}


def test_no_copies_is_a_mistake(dataset):
    with pytest.raises(UserError, match="copies=0"):
        write_augmented_copy(dataset, copies=0)


def test_the_layer_has_no_weights_that_a_saved_model_would_need():
    layer = RandomAffine()
    layer(keras.Input((8, 8, 3)), keras.Input((6,)))
    assert not layer.weights
