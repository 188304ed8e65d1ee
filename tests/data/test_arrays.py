"""Pictures in memory, as people hand them over: in other ranges, shapes, types and containers."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis.extra import numpy as arrays
from PIL import Image

from emo.data.arrays import as_pictures
from emo.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 12, 10, 3), np.uint8)
GREY = RNG.integers(0, 256, (5, 12, 10), np.uint8)


class Tensor:
    """What NumPy sees of a tensor of PyTorch or JAX: `__array__`, which raises where it is on a GPU."""

    def __init__(self, array, error=None):
        self.array, self.error = array, error

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise self.error
        return self.array


def assert_same(found: list, expected: np.ndarray) -> None:
    assert len(found) == len(expected)
    for picture, other in zip(found, expected, strict=True):
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, other)


@pytest.mark.parametrize(
    "made",
    [
        lambda a: a,
        list,
        tuple,
        lambda a: (picture for picture in a),
        lambda a: a.tolist(),
        lambda a: [picture.tolist() for picture in a],
        lambda a: tf.constant(a),
        lambda a: list(tf.constant(a)),
        lambda a: Tensor(a),
        lambda a: a.astype(np.int64),
        lambda a: a.astype(np.uint16),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.float16),
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1][::-1],
        lambda a: tf.data.Dataset.from_tensor_slices(a),
    ],
)
@pytest.mark.parametrize("pictures", [COLOUR, GREY, GREY[..., None], COLOUR[..., [0, 1, 2, 0]]])
def test_a_batch_is_its_pictures(made, pictures, capsys):
    assert_same(as_pictures(made(pictures)), pictures)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("picture", [COLOUR[0], GREY[0], GREY[0, ..., None], GREY[:1]])
def test_a_single_picture_is_one(picture):
    for given_ in (picture, picture.tolist(), tf.constant(picture), picture.astype(float)):
        assert_same(
            as_pictures(given_), [picture if picture.ndim == 2 or picture.shape[0] > 1 else picture[0]]
        )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, "bfloat16"])
@pytest.mark.parametrize("container", [lambda a: a, list, lambda a: tf.constant(a), lambda a: a.tolist()])
def test_floats_in_other_ranges_are_the_same_pictures_and_it_is_said_once(kind, container, capsys):
    kind = tf.bfloat16.as_numpy_dtype if kind == "bfloat16" else kind
    step = 4 if kind in (np.float32, np.float64) else 1
    tolerance = {4: 0, 1: 2}[step]
    for values, says in (
        (COLOUR / 255, "in 0–1: they were brought to 0–255 by value × 255"),
        (COLOUR / 127.5 - 1, "in −1–1: they were brought to 0–255 by (value + 1) × 127.5"),
    ):
        given_ = values.astype(kind) if container is not list else list(values.astype(kind))
        found = as_pictures(container(given_))
        assert np.abs(np.stack(found).astype(int) - COLOUR).max() <= tolerance
        said = capsys.readouterr().out
        assert says in said and said.count("\n") == 1


def test_the_range_is_that_of_all_together(capsys):
    bright = np.full((9, 9, 3), 0.5)  # in −1–1 a picture without shadows
    dark = np.linspace(-1, 0.2, 243).reshape(9, 9, 3)
    found = as_pictures([bright, dark])
    assert found[0][0, 0, 0] == 191 and found[1][0, 0, 0] == 0
    black = np.zeros((9, 9, 3))
    assert as_pictures([black, np.full((9, 9, 3), 0.5)])[1].max() == 128
    capsys.readouterr()
    faint, photo = np.full((9, 9, 3), 0.9), np.full((9, 9, 3), 200.0)
    assert [picture.max() for picture in as_pictures(np.stack([faint, photo]))] == [1, 200]
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="some in"):
        as_pictures([faint, photo])  # of two sources, perhaps


def test_dark_pictures_of_integers_stay_dark(capsys):
    for kind in (np.uint8, np.int64):
        dark = (RNG.integers(0, 3, (12, 10, 3))).astype(kind)
        assert_same(as_pictures(dark), [dark])
    assert_same(as_pictures(COLOUR[0] % 2), [COLOUR[0] % 2])
    assert capsys.readouterr().out == ""


def test_booleans_are_black_and_white():
    assert sorted(np.unique(as_pictures(GREY[0] > 127)[0])) == [0, 255]


def test_files_and_pil_images_stay_as_they_are(tmp_path):
    image = Image.new("L", (3, 3))
    mixed = ["a.jpg", tmp_path / "b.jpg", image, GREY[0]]
    assert as_pictures(mixed)[:3] == mixed[:3]
    column = pd.Series(["a.jpg", "b.jpg"])
    for files in (column, column.to_numpy(), pd.Index(column), iter(["a.jpg", "b.jpg"]), ("a.jpg", "b.jpg")):
        assert as_pictures(files) == ["a.jpg", "b.jpg"]
    assert as_pictures("a.jpg") == ["a.jpg"] and as_pictures(image) == [image]
    assert (
        as_pictures([]) == as_pictures(np.zeros((0, 8, 8, 3))) == as_pictures(pd.Series([], dtype=str)) == []
    )


REFUSED = {
    "channels first": (COLOUR.transpose(0, 3, 1, 2), r"shape \(5, 3, 12, 10\) has its channels first"),
    "one, channels first": (COLOUR[0].transpose(2, 0, 1), r"\(3, 12, 10\) may be three grey pictures, or"),
    "a list of them": (list(COLOUR.transpose(0, 3, 1, 2)), r"moveaxis\(array, 0, -1\)"),
    "grey and alpha": (COLOUR[0, ..., :2], r"shape \(12, 10, 2\) is not a picture"),
    "five dimensions": (COLOUR[None], "shape"),
    "flat": (GREY[0].ravel(), r"shape \(120,\) is not a picture"),
    "a number": (7, "type int"),
    "numbers": ([1, 2, 3], r"shape \(3,\)"),
    "nothing": (None, "type NoneType"),
    "nothing in a list": ([None, COLOUR[0]], "type NoneType"),
    "bytes": (b"\x89PNG", "type bytes"),
    "a list of bytes": ([b"\x89PNG"], "type bytes"),
    "a dictionary": ({"a": 1}, "type dict"),
    "a table": (pd.DataFrame({"path": ["a.jpg"], "label": ["sad"]}), "array of object"),
    "NaN": (np.full((9, 9, 3), np.nan), "NaN"),
    "infinite": (np.full((9, 9, 3), np.inf), "NaN or infinite"),
    "no rows": (np.zeros((0, 9, 3)), "is empty"),
    "empty pictures": (np.zeros((4, 0, 0, 3), np.uint8), "is empty"),
    "standardised": (RNG.normal(0, 1, (9, 9, 3)), "holds values from -"),
    "caffe": (COLOUR[0] - 120.0, "holds values from -"),
    "in 0–2": (COLOUR[0] / 127.5, "to 2, which"),
    "16 bits": (COLOUR[0].astype(np.uint16) * 257, "to 65535"),
    "signed bytes": ((COLOUR[0].astype(int) - 128).astype(np.int8), "holds values from -128"),
    "a mask of integers": ((GREY[0] > 127).astype(np.int64), "from 0 to 1"),
    "complex": (GREY[0].astype(complex), "complex128"),
    "dates": (np.zeros((9, 9), "datetime64[s]"), "datetime64"),
    "words": ([["a", "b"], ["c", "d"]], "array of <U1"),
    "unequal rows": ([[1, 2, 3], [4, 5]], "is not a picture"),
    "on a GPU": (Tensor(GREY, TypeError("can't convert cuda:0 device type tensor to numpy.")), "cuda:0"),
    "with gradients": (Tensor(GREY, RuntimeError("a Tensor that requires grad")), "grad"),
}  # fmt: skip


@pytest.mark.parametrize("given_", REFUSED)
def test_what_is_no_picture_is_one_short_sentence(given_):
    value, says = REFUSED[given_]
    with pytest.raises(UserError, match=says) as told:
        as_pictures(value)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


@given(
    arrays.arrays(
        arrays.scalar_dtypes(),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9),
    )
)
def test_any_array_is_pictures_or_one_short_sentence(array):
    for given_ in (array, [array], array.tolist()):
        try:
            pictures = as_pictures(given_)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
        else:
            arrays_ = [picture for picture in pictures if not isinstance(picture, str)]
            assert all(picture.dtype == np.uint8 and picture.size for picture in arrays_)
