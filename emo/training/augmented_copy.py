"""How training changes pictures at random: the seed's one affine resampling, also to disk, and more."""

import json
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pandas as pd
from keras import ops
from PIL import Image
from tqdm.auto import tqdm

from emo.data.image_io import decode_whole, read_bytes, reason
from emo.data.manifest import SPARE_BYTES
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment
from emo.paths import Paths

# the seed's ImageDataGenerator settings; zoom and shifts are fractions, rotation is in degrees
ZOOM, SHIFT, ROTATION = 0.2, 0.2, 15.0
# Zhong 2020: an erased rectangle's share of the picture, its longer side / shorter
ERASED, ASPECT = (0.02, 0.33), 3.3
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0  # of the Beta distribution: Zhang 2018 on ImageNet, Yun 2019
AFFINE, COLOR, ERASE = 6, 2, 5  # random numbers that each takes a photo
MAX_SIDE = 1024  # pixels of a copy
SAMPLED = 16  # copies made ahead, to foresee the disk that all take


def affine_transforms(draws, height: int, width: int, strength: float = 1.0):
    """Output-to-input transforms, as `keras.ops.image.affine_transform` takes them.

    `draws`: uniform numbers in [0, 1), a row a picture: rotation, height shift, width shift, zoom of the
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


def _colored(images, draws, color: float):
    """Brightness and contrast times 1 ± `color`; contrast is the distance to the picture's mean."""
    factors = 1 + color * (2 * draws[:, :, None, None, None] - 1)
    brightness, contrast = factors[:, 0], factors[:, 1]
    mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
    return ops.clip(brightness * (contrast * images + (1 - contrast) * mean), 0.0, 255.0)


def _erased(images, draws, chance: float):
    """A rectangle of some pictures is filled with the picture's mean.

    In the paper that is as good as noise, and it takes no random number a pixel.
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

    `strength`, `color`, `erase` and `mix` are the Experiment's. Pictures (n, h, w, 3) in 0–255, the numbers
    of `draw` and, with `mix`, of `draw_mixtures` → pictures, float32. It holds no weights and is no part of
    a saved model. What is random comes with the pictures, so that a photo is augmented the same on one
    device and on several.
    """

    def __init__(
        self, strength: float = 1.0, color: float = 0.0, erase: float = 0.0, mix: str = "none", **options
    ):
        self.strength, self.color, self.erase, self.mix = strength, color, erase, mix
        self.extra = COLOR + ERASE if color or erase else 0
        super().__init__(dtype="float32", **options)  # also where the network computes in half precision
        self.supports_jit = (
            False  # the resampling op has no XLA kernel; one such op would stop the whole step
        )

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
        images = resample(images, affine_transforms(draws, height, width, self.strength))
        if self.color:
            images = _colored(images, draws[:, AFFINE : AFFINE + COLOR], self.color)
        if self.erase:
            images = _erased(images, draws[:, AFFINE + COLOR :], self.erase)
        return images if mixtures is None else _mixed(images, mixtures)

    def compute_output_shape(self, images_shape, draws_shape, mixtures_shape=None):
        return images_shape


def augmentation(experiment: Experiment) -> RandomAugmentation | None:
    """The experiment's, None where it is off."""
    e = experiment
    return RandomAugmentation(e.augment_strength, e.color, e.erase, e.mix) if e.augment else None


def augment_examples(
    images: np.ndarray,
    seed: int = 42,
    strength: float = 1.0,
    color: float = 0.0,
    erase: float = 0.0,
    mix: str = "none",
) -> np.ndarray:
    """What training sees of (n, h, w, 3) pictures in 0–255: the same shape, augmented once.

    The settings are the Experiment's fields; `mix` takes each picture's neighbour.
    """
    layer, random = RandomAugmentation(strength, color, erase, mix), np.random.default_rng(seed)
    batch = [images, layer.draw(random, len(images))]
    if mix != "none":
        batch.append(layer.draw_mixtures(random, len(images), *images.shape[1:3]))
    return np.asarray(layer(*batch, training=True))


def write_augmented_copy(paths: Paths, copies: int | Literal["balance"] = 2, seed: int = 42) -> int:
    """Writes augmented JPEGs of the training photos to `data/train_aug`; gives their number.

    `copies` a photo or, for "balance", as many as bring every class to the size of the largest. The settings
    are the on-the-fly ones. Each copy has its own seed, from `seed`, its photo's name and its number, so a
    second call writes only what is missing, also after a kill. Photos over 1,024 px are shrunk to that, the
    largest `image_size`. UserError for another kind of `copies`, too little disk, a photo that cannot be
    read, and where the folder holds copies made otherwise.
    """
    if copies != "balance" and (not isinstance(copies, int) or isinstance(copies, bool) or copies < 1):
        raise UserError(f"copies={copies!r} must be a whole number from 1 up, or 'balance'.")
    photos, _ = training_manifests(paths)
    photos = photos[_below_train(photos, paths)]
    wanted = _copies_a_photo(photos["label"], copies)
    jobs = [
        (Path(path), number)
        for path, count in zip(photos["path"], wanted, strict=True)
        for number in range(1, count + 1)
    ]
    missing = [job for job in jobs if not _copy_path(*job, paths).exists()]
    _check_record({"copies": copies, "seed": seed}, paths)
    _check_room([len(_augmented_jpeg(*job, seed, paths)) for job in missing[:SAMPLED]], len(missing), paths)
    with ThreadPoolExecutor() as pool:
        written = pool.map(lambda job: _write_copy(*job, seed, paths), missing)
        for _ in tqdm(written, "augmented copies", len(missing), unit="photo"):
            pass
    return len(jobs)


def _copies_a_photo(labels: pd.Series, copies: int | Literal["balance"]) -> pd.Series:
    if copies != "balance":
        return pd.Series(copies, index=labels.index)
    size, place = labels.groupby(labels).transform("size"), labels.groupby(labels).cumcount()
    lacking = size.max() - size
    return lacking // size + (place < lacking % size)


def _check_room(sizes: list[int], count: int, paths: Paths) -> None:
    """UserError where `count` copies of the mean of some sizes in bytes would not fit on the disk."""
    needed = count * float(np.mean(sizes or [0])) + SPARE_BYTES
    if sizes and needed > (free := shutil.disk_usage(paths.data).free):
        raise UserError(
            f"{count:,} augmented copies need about {needed / 1e9:.1f} GB in {paths.train_aug}, where "
            f"{free / 1e9:.1f} GB are free; make room, or write fewer copies."
        )


def _check_record(settings: dict[str, int | str], paths: Paths) -> None:
    """Writes down what `train_aug` is made with; copies made otherwise must not be mistaken for it."""
    if any(paths.train_aug.glob("*/*")):
        record = paths.augmentation_record
        found = json.loads(record.read_text()) if record.is_file() else "unknown settings"
        if found != settings:
            raise UserError(
                f"{paths.train_aug} holds copies made with {found}, not {settings}; delete that folder first."
            )
    paths.augmentation_record.write_text(json.dumps(settings))


def augmented_copies(train_files: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The copies on disk of exactly these photos (a manifest's path and label): path and label."""
    found, train_files = [], train_files[_below_train(train_files, paths)]
    for source, label in zip(train_files.path, train_files.label, strict=True):
        number = 1
        while (copy := _copy_path(Path(source), number, paths)).exists():
            found.append((copy.as_posix(), label))
            number += 1
    return pd.DataFrame(found, columns=["path", "label"])


def _below_train(photos: pd.DataFrame, paths: Paths) -> pd.Series:
    """Those of `data/train`: `split.csv` may have others train too, but a copy's name tells no folder."""
    return photos["path"].str.startswith(f"{paths.train.as_posix()}/")


def _copy_path(source: Path, number: int, paths: Paths) -> Path:
    """The name says whose copy it is, so that copies of validation photos can stay out of training."""
    relative = source.relative_to(paths.train)
    return paths.train_aug / relative.with_name(f"{relative.name}_aug{number}.jpg")


def _augmented_jpeg(source: Path, number: int, seed: int, paths: Paths) -> bytes:
    try:
        pixels = np.asarray(decode_whole(read_bytes(source), MAX_SIDE))
    except Exception as error:  # Pillow raises some ten kinds for a damaged file
        raise UserError(f"{source} cannot be augmented ({reason(error)}); replace or remove it.") from error
    name = source.relative_to(paths.train).as_posix()
    random = np.random.default_rng((seed, zlib.crc32(name.encode()), number))
    transform = affine_transforms(random.random((1, 6)), *pixels.shape[:2])
    augmented = np.asarray(resample(pixels[None], transform))[0]
    jpeg = BytesIO()
    Image.fromarray(np.clip(augmented.round(), 0, 255).astype(np.uint8)).save(jpeg, "JPEG", quality=95)
    return jpeg.getvalue()


def _write_copy(source: Path, number: int, seed: int, paths: Paths) -> None:
    target = _copy_path(source, number, paths)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    unfinished.write_bytes(_augmented_jpeg(source, number, seed, paths))
    unfinished.replace(target)  # a copy cut short by a kill would be taken for a whole one
