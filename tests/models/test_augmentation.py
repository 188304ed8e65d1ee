"""The augmentation layer: its pixels are ImageDataGenerator's, its ranges the experiment's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from emo.models.augmentation import (
    ROTATION,
    SHIFT,
    ZOOM,
    RandomAugmentation,
    affine_transforms,
    augment_examples,
    resample,
    resample_by_gathers,
)

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


@pytest.mark.parametrize(("height", "width"), [(48, 48), (71, 40)])
@pytest.mark.parametrize("compiled", [False, True], ids=["as it is", "under XLA"])
def test_gathers_give_the_pixels_of_the_resampling_kernel(height, width, compiled):
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (16, height, width, 3)).astype("f4")
    transforms = affine_transforms(random.random((16, 6)).astype("f4"), height, width)
    gathers = tf.function(resample_by_gathers, jit_compile=True) if compiled else resample_by_gathers
    ours = np.asarray(gathers(tf.constant(images), transforms))
    np.testing.assert_allclose(ours, np.asarray(resample(images, transforms)), atol=0.02)


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
    layer = RandomAugmentation()
    np.testing.assert_array_equal(layer(images, draws[0], training=False), images)
    first, second = (np.asarray(layer(images, drawn, training=True)) for drawn in draws)
    assert (first != second).any(axis=(1, 2, 3)).all()
    assert len({image.tobytes() for image in first}) == 8
    assert 0 <= first.min() <= first.max() <= 255
    np.testing.assert_array_equal(first, layer(images, draws[0], training=True))


def test_nearest_fill_leaves_no_foreign_colour_at_the_border():
    image = np.full((1, 32, 32, 3), 200, "float32")
    np.testing.assert_allclose(augment_examples(image, seed=3), 200, atol=1e-3)


def test_the_layer_has_no_weights_that_a_saved_model_would_need():
    layer = RandomAugmentation()
    layer(keras.Input((8, 8, 3)), keras.Input((6,)))
    assert not layer.weights


def augmented(images, seed, **settings):
    """By a layer of these settings."""
    layer, random = RandomAugmentation(**settings), np.random.default_rng(seed)
    mixtures = [] if layer.mix == "none" else [(len(images), *images.shape[1:3])]
    draws = layer.draw(random, len(images))
    return np.asarray(
        layer(images, draws, *(layer.draw_mixtures(random, *m) for m in mixtures), training=True)
    )


FLAT = np.broadcast_to(np.float32([90, 120, 150]), (2000, 40, 40, 3))


def test_erasing_takes_its_share_of_photos_and_of_their_area():
    random = np.random.default_rng(0)
    images = np.broadcast_to(random.uniform(0, 255, (40, 40, 3)).astype("f4"), (2000, 40, 40, 3))
    whole, holed = (augmented(images, 1, strength=0, random_erasing=erase) for erase in (0, 0.4))
    lost = (whole != holed).any(axis=3)
    shares = lost.mean(axis=(1, 2))
    assert (shares > 0).mean() == pytest.approx(0.4, abs=0.04)
    shares = shares[shares > 0]
    assert 0.01 < shares.min() < 0.04 and 0.3 < shares.max() < 0.36
    assert shares.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.02)
    for before, after, where in zip(whole[:50], holed[:50], lost[:50], strict=True):
        if where.any():
            rows, columns = where.any(axis=1), where.any(axis=0)
            assert where[np.ix_(rows, columns)].all()  # a rectangle
            assert 1 / 4 < rows.sum() / columns.sum() < 4
            np.testing.assert_allclose(after[where] - before.mean(axis=(0, 1)), 0, atol=0.01)


def test_a_graph_of_known_shapes_gives_what_the_layer_gives():
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(0, 255, (8, 48, 48, 3)), tf.float32)
    layer = RandomAugmentation(color_jitter=0.3, random_erasing=0.9, mix="cutmix")
    batch = images, layer.draw(random, 8), layer.draw_mixtures(random, 8, 48, 48)
    graph = tf.function(lambda *batch: layer(*batch, training=True))
    eager = layer(*batch, training=True)
    np.testing.assert_allclose(graph(*map(tf.constant, batch)), eager, atol=0.02)


def test_what_is_erased_may_lie_anywhere():
    images = np.random.default_rng(0).uniform(0, 255, (3000, 32, 32, 3)).astype("f4")
    whole, holed = (augmented(images, 0, strength=0, random_erasing=erase) for erase in (0, 0.9999))
    often = (whole != holed).any(axis=3).mean(axis=0)
    assert 0 < often.min() < often.mean() < often[14:18, 14:18].mean()
    for turned in (often[::-1], often[:, ::-1], often.T):
        np.testing.assert_allclose(often, turned, atol=0.06)


def test_color_changes_brightness_and_contrast_within_its_range_and_no_hue():
    grey = FLAT.mean(axis=3, keepdims=True).repeat(3, axis=3)
    factors = augmented(grey, 0, strength=0, color_jitter=0.3)[:, 0, 0] / grey[:, 0, 0]
    assert (np.ptp(factors, axis=1) == 0).all()
    assert 0.7 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3
    assert factors.mean() == pytest.approx(1, abs=0.02)

    stripes = np.full((2000, 8, 8, 3), 100, "f4")
    stripes[:, ::2] = 120
    changed = augmented(stripes, 0, strength=0, color_jitter=0.3)[..., 0]
    contrast = np.ptp(changed, axis=(1, 2)) / changed.mean(axis=(1, 2)) / (20 / 110)
    assert 0.7 <= contrast.min() + 1e-3 < 0.73 and 1.27 < contrast.max() - 1e-3 <= 1.3
    loud = augmented(np.tile(np.float32([[0], [255]]), (8, 4, 4, 3)), 0, color_jitter=1)
    assert loud.min() == 0 and loud.max() == 255


def test_a_stronger_augmentation_leaves_the_affine_as_it_was():
    images = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3)).astype("f4")
    plain = augment_examples(images, seed=4)
    erased = augmented(images, 4, random_erasing=0.5)
    untouched = (plain == erased).mean(axis=(1, 2, 3))
    assert untouched.min() > 0.6 and untouched.max() == 1
    layer = RandomAugmentation()
    draws = np.random.default_rng(4).random((6, 6), np.float32)
    np.testing.assert_array_equal(layer.draw(np.random.default_rng(4), 6), draws)
    np.testing.assert_array_equal(plain, resample(images, affine_transforms(draws, 32, 32)))


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_examples_are_made_of_neighbours(mix):
    pair = np.zeros((400, 16, 16, 3), "f4")
    pair[1::2] = 255
    examples = augmented(pair, 0, mix=mix)
    both = (examples > 1).any(axis=(1, 2, 3)) & (examples < 254).any(axis=(1, 2, 3))
    assert both.mean() > (0.5 if mix == "mixup" else 0.8)
    assert ((examples < 1) | (examples > 254)).all() == (mix == "cutmix")
