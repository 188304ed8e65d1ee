"""A turned crop, against each formula written out with sines and cosines."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emo.data.geometry import Crop, resampling_matrix

sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
crops = st.builds(
    Crop, x=st.floats(-1, 1), y=st.floats(-1, 1), side=st.floats(0.01, 5), angle=st.floats(-180, 180)
)


def turned(crop: Crop, right: float, down: float) -> tuple[float, float]:
    """Steps right and down in the crop as steps in the picture."""
    cos, sin = math.cos(math.radians(crop.angle)), math.sin(math.radians(crop.angle))
    return right * cos - down * sin, right * sin + down * cos


@given(crops, sizes, st.floats(0, 1), st.floats(0, 1))
def test_a_point_of_the_crop_lies_in_the_picture_where_turning_puts_it(crop, size, u, v):
    longer = max(size)
    right, down = turned(crop, (u - 0.5) * crop.side * longer, (v - 0.5) * crop.side * longer)
    expected = (size[0] / 2 + crop.x * longer + right, size[1] / 2 + crop.y * longer + down, 1)
    np.testing.assert_allclose(crop.to_picture(size) @ (u, v, 1), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.inv(crop.to_picture(size)) @ expected, (u, v, 1), atol=1e-6)


@given(crops, sizes)
def test_corners_go_clockwise_and_bounds_hold_them(crop, size):
    half, longer = crop.side / 2, max(size)
    steps = [turned(crop, *step) for step in ((-half, -half), (half, -half), (half, half), (-half, half))]
    expected = np.array(size) / 2 + (np.array(steps) + np.array((crop.x, crop.y))) * longer
    np.testing.assert_allclose(crop.corners(size), expected, atol=1e-6)
    reach = half * longer * sum(abs(math.sin(math.radians(crop.angle + turn))) for turn in (0, 90))
    x, y = size[0] / 2 + crop.x * longer, size[1] / 2 + crop.y * longer
    np.testing.assert_allclose(crop.bounds(size), (x - reach, y - reach, x + reach, y + reach), atol=1e-6)


@given(crops, crops, sizes, st.floats(0, 1), st.floats(0, 1))
def test_a_part_of_a_crop_shows_the_same_point(crop, inner, size, u, v):
    through = crop.to_picture(size) @ inner.to_picture((1, 1)) @ (u, v, 1)
    np.testing.assert_allclose(crop.part(inner).to_picture(size) @ (u, v, 1), through, atol=1e-6 * max(size))
    right, down = turned(crop, inner.x * crop.side, inner.y * crop.side)
    part = crop.part(inner)
    assert (part.x, part.y) == pytest.approx((crop.x + right, crop.y + down), abs=1e-6)
    assert (part.side, part.angle) == (crop.side * inner.side, crop.angle + inner.angle)


@given(crops, crops, st.floats(0, 1))
def test_towards_another_crop_every_length_grows_evenly(crop, other, share):
    assert crop.towards(other, 0) == crop
    between = crop.towards(other, share)
    for name in ("x", "y", "side", "angle"):
        start, end = getattr(crop, name), getattr(other, name)
        assert getattr(between, name) == pytest.approx((1 - share) * start + share * end, abs=1e-6)
    assert crop.distance(between) == pytest.approx(share * crop.distance(other), abs=1e-6)


def test_a_margin_is_added_on_each_side():
    assert Crop(0.1, 0.2, 0.5, 30).with_margin(0.3) == Crop(0.1, 0.2, 0.8, 30)


@pytest.mark.parametrize(("length", "size"), [(96, 48), (48, 96), (100, 37), (37, 37)])
def test_resampling_by_a_matrix_is_a_resize_without_aliasing(length, size):
    picture = np.random.default_rng(0).integers(0, 256, (length, length)).astype(np.float32)
    matrix = resampling_matrix(length, size)
    resized = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(matrix @ picture @ matrix.T, resized, atol=1e-2)
