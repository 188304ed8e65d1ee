"""How training changes pictures at random: the original project's one affine resampling, and more."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from emo.experiments import Experiment

# the original project's ImageDataGenerator settings; zoom and shifts are fractions, rotation is in degrees
ZOOM, SHIFT, ROTATION = 0.2, 0.2, 15.0
# Zhong 2020: an erased rectangle's share of the picture, its longer side / shorter
ERASED, ASPECT = (0.02, 0.33), 3.3
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0  # of the Beta distribution: Zhang 2018 on ImageNet, Yun 2019
AFFINE, COLOR, ERASE = 6, 2, 5  # random numbers that each takes per photo


def affine_transforms(draws, height: int, width: int, strength: float = 1.0):
    """Output-to-input transforms, as `keras.ops.image.affine_transform` takes them.

    `draws`: uniform numbers in [0, 1), a row per picture: rotation, height shift, width shift, zoom of the
    height, zoom of the width, flip; more are left alone. → (n, 8) float32. The composition is
    ImageDataGenerator's (Keras 2's `apply_transform`): flip · rotation · shift · zoom about the picture's
    centre, both zooms drawn apart. `strength` scales all but the flip.
    """
    draws = ops.convert_to_tensor(draws, "float32")
    centred = strength * (2 * draws - 1)
    angle = centred[:, 0] * (ROTATION * np.pi / 180)
    shift_y, shift_x = centred[:, 1] * (SHIFT * height), centred[:, 2] * (SHIFT * width)
    zoom_y, zoom_x = 1 + centred[:, 3] * ZOOM, 1 + centred[:, 4] * ZOOM
    flip = ops.where(draws[:, 5] < 0.5, -1.0, 1.0)
    cos, sin = ops.cos(angle), ops.sin(angle)
    # in centred (x, y): input = R(angle) · (zoom · (±x, y) + shift)
    xx, xy, x0 = cos * zoom_x * flip, -sin * zoom_y, cos * shift_x - sin * shift_y
    yx, yy, y0 = sin * zoom_x * flip, cos * zoom_y, sin * shift_x + cos * shift_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x0 = x0 + centre_x - xx * centre_x - xy * centre_y
    y0 = y0 + centre_y - yx * centre_x - yy * centre_y
    zero = ops.zeros_like(xx)
    return ops.stack([xx, xy, x0, yx, yy, y0, zero, zero], axis=1)


def resample(images, transforms):
    """(n, h, w, 3) pictures → the same shape and range, float32; bilinear, the border repeated outwards."""
    images = ops.cast(images, "float32")
    return ops.image.affine_transform(images, transforms, interpolation="bilinear", fill_mode="nearest")


def resample_by_gathers(images, transforms):
    """`resample` in operations that XLA knows: the kernel behind that one it does not.

    The same pixels within 0.02 of 255 levels. Without XLA it is several times slower on a CPU.
    """
    images, (count, height, width, channels) = ops.cast(images, "float32"), ops.shape(images)
    rows, columns = (ops.arange(side, dtype="float32") for side in (height, width))
    xx, xy, x0, yx, yy, y0 = (transforms[:, place, None, None] for place in range(6))
    x = ops.clip(xx * columns + xy * rows[:, None] + x0, 0.0, width - 1.0)
    y = ops.clip(yx * columns + yy * rows[:, None] + y0, 0.0, height - 1.0)
    left, top = ops.floor(x), ops.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]
    left, top = ops.cast(left, "int32"), ops.cast(top, "int32")
    right, bottom = ops.minimum(left + 1, width - 1), ops.minimum(top + 1, height - 1)
    pixels = ops.reshape(images, (-1, channels))
    start = ops.arange(count, dtype="int32")[:, None, None] * (height * width)

    def at(row, column):
        return ops.take(pixels, start + row * width + column, axis=0)

    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(bottom, left) * (1 - across) + at(bottom, right) * across
    return upper * (1 - down) + lower * down


def _jittered(images, draws, color_jitter: float):
    """Brightness and contrast times 1 ± `color_jitter`; contrast is the distance to the picture's mean."""
    factors = 1 + color_jitter * (2 * draws[:, :, None, None, None] - 1)
    brightness, contrast = factors[:, 0], factors[:, 1]
    mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
    return ops.clip(brightness * (contrast * images + (1 - contrast) * mean), 0.0, 255.0)


def _erased(images, draws, chance: float):
    """A rectangle of some pictures is filled with the picture's mean.

    In the paper that is as good as noise, and it takes no random number per pixel.
    """
    area = ERASED[0] + (ERASED[1] - ERASED[0]) * draws[:, 1]
    longest = ops.minimum(ASPECT, 1 / area)  # else it would not fit into the picture
    aspect = longest ** (2 * draws[:, 2] - 1)
    height, width = ops.sqrt(area * aspect), ops.sqrt(area / aspect)
    top, left = draws[:, 3] * (1 - height), draws[:, 4] * (1 - width)
    bottom = ops.where(draws[:, 0] < chance, top + height, top)
    inside = _inside(images, top, bottom, left, left + width)
    return ops.where(inside, ops.mean(images, axis=(1, 2), keepdims=True), images)


def _inside(images, *box):
    """Whose centre lies in each picture's box: top, bottom, left, right, (n,) shares each → (n, h, w, 1)."""
    _, height, width, _ = ops.shape(images)
    y, x = ((ops.arange(side, dtype="float32") + 0.5) / side for side in (height, width))
    # no stack and slice with a new axis: on known shapes TensorFlow's graphs drop that axis (2.20)
    top, bottom, left, right = (ops.expand_dims(edge, 1) for edge in box)
    rows, columns = ops.logical_and(top <= y, y < bottom), ops.logical_and(left <= x, x < right)
    return ops.logical_and(rows[:, :, None, None], columns[:, None, :, None])


def partner_shares(mixtures: np.ndarray) -> np.ndarray:
    """How much of each mixed picture, and so of its label, is the partner's: (n, 1)."""
    top, bottom, left, right, weight = mixtures.T
    return ((bottom - top) * (right - left) * weight)[:, None]


def partners(count):
    """Whom each photo of a batch is mixed with: neighbours with each other, an odd last one with itself."""
    places = ops.arange(count)
    return ops.minimum(places + 1 - 2 * (places % 2), count - 1)


def _mixed(images, mixtures):
    """The pictures, the `partners` among them mixed in as `RandomAugmentation.draw_mixtures` says."""
    weight = ops.where(
        _inside(images, *(mixtures[:, edge] for edge in range(4))), mixtures[:, 4, None, None, None], 0.0
    )
    others = ops.take(images, partners(ops.shape(images)[0]), axis=0)
    return images + weight * (others - images)


class RandomAugmentation(keras.layers.Layer):
    """The affine resampling, then colour, erasing and mixing where asked for; active in training only.

    `strength`, `color_jitter`, `random_erasing` and `mix` are the Experiment's; `resampling` is `resample`
    or, where XLA compiles the step, `resample_by_gathers`. Pictures (n, h, w, 3) in 0–255, the numbers of
    `draw` and, with `mix`, of `draw_mixtures` → pictures, float32. It holds no weights and is not part of a
    saved model. What is random comes with the pictures, so that a photo is augmented the same on one device
    and on several.
    """

    def __init__(
        self,
        strength: float = 1.0,
        color_jitter: float = 0.0,
        random_erasing: float = 0.0,
        mix: str = "none",
        resampling: Callable = resample,
        **options,
    ):
        self.strength, self.mix, self.resampling = strength, mix, resampling
        self.color_jitter, self.random_erasing = color_jitter, random_erasing
        self.extra = COLOR + ERASE if color_jitter or random_erasing else 0
        super().__init__(dtype="float32", **options)  # also where the network computes in half precision

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Uniform numbers in [0, 1) for `count` photos, float32: (count, 6), or more with colour or erasing.

        The first six, the affine's, are the same with and without the others.
        """
        return np.hstack([random.random((count, width), np.float32) for width in (AFFINE, self.extra)])

    def draw_mixtures(self, random: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
        """What `count` photos of that size take from their partners: (count, 5) float32.

        In a box (top, bottom, left, right as shares of the picture, on borders of pixels) the partner has
        the weight that comes fifth.
        """
        if self.mix == "mixup":
            weight = random.beta(MIXUP_ALPHA, MIXUP_ALPHA, count)
            boxes = np.tile([0.0, 1.0, 0.0, 1.0], (count, 1))
        else:
            weight = np.ones(count)
            half = np.sqrt(random.beta(CUTMIX_ALPHA, CUTMIX_ALPHA, (count, 1))) / 2
            centre, sides = random.random((count, 2)), np.array([height, width])
            edges = (np.clip(edge, 0, 1) for edge in (centre - half, centre + half))
            boxes = np.stack([np.round(edge * sides) / sides for edge in edges], axis=2).reshape(count, 4)
        return np.hstack([boxes, weight[:, None]]).astype(np.float32)

    def call(self, images, draws, mixtures=None, training=False):
        images = ops.cast(images, "float32")
        if not training:
            return images
        _, height, width, _ = ops.shape(images)
        images = self.resampling(images, affine_transforms(draws, height, width, self.strength))
        if self.color_jitter:
            images = _jittered(images, draws[:, AFFINE : AFFINE + COLOR], self.color_jitter)
        if self.random_erasing:
            images = _erased(images, draws[:, AFFINE + COLOR :], self.random_erasing)
        return images if mixtures is None else _mixed(images, mixtures)

    def compute_output_shape(self, images_shape, draws_shape, mixtures_shape=None):
        return images_shape


def augmentation(experiment: Experiment, xla: bool = False) -> RandomAugmentation | None:
    """The experiment's, None where it is off; `xla` is whether XLA is to compile it."""
    e = experiment
    if not e.augment:
        return None
    resampling = resample_by_gathers if xla else resample
    return RandomAugmentation(e.augment_strength, e.color_jitter, e.random_erasing, e.mix, resampling)


def augment_examples(images: np.ndarray, experiment: Experiment | None = None, seed: int = 42) -> np.ndarray:
    """What training sees of (n, h, w, 3) pictures in 0–255: the same shape, augmented once.

    By the experiment's augmentation, or the original project's; where photos are mixed, each with its
    neighbour.
    """
    layer = augmentation(experiment) if experiment else RandomAugmentation()
    if layer is None:
        return images
    random = np.random.default_rng(seed)
    batch = [images, layer.draw(random, len(images))]
    if layer.mix != "none":
        batch.append(layer.draw_mixtures(random, len(images), *images.shape[1:3]))
    return np.asarray(layer(*batch, training=True))
