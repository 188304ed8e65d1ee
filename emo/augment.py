"""The seed's augmentation: one random affine resampling a picture, on the training device or to disk."""

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops
from PIL import Image
from tqdm.auto import tqdm

from emo.dataset import class_names, scan_dataset
from emo.errors import UserError
from emo.paths import Paths
from emo.photos import to_rgb

# the seed's ImageDataGenerator settings; zoom and shifts are fractions, rotation is in degrees
ZOOM, SHIFT, ROTATION = 0.2, 0.2, 15.0


def affine_transforms(draws, height: int, width: int):
    """Output-to-input transforms, as `keras.ops.image.affine_transform` takes them.

    `draws`: (n, 6) uniform numbers in [0, 1): rotation, height shift, width shift, zoom of the height,
    zoom of the width, flip. → (n, 8) float32. The composition is ImageDataGenerator's (Keras 2's
    `apply_transform`): flip · rotation · shift · zoom about the picture's centre, both zooms drawn apart.
    """
    draws = ops.convert_to_tensor(draws, "float32")
    centred = 2 * draws - 1
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


class RandomAffine(keras.layers.Layer):
    """The seed's augmentation as one resampling; active in training only.

    Pictures (n, h, w, 3) in any range and `affine_transforms`' draws (n, 6) → pictures, float32. It holds no
    weights and is no part of a saved model. The draws come with the pictures, so that a photo is augmented
    the same on one device and on several.
    """

    def __init__(self, **options):
        super().__init__(dtype="float32", **options)  # also where the network computes in half precision
        self.supports_jit = (
            False  # the resampling op has no XLA kernel; one such op would stop the whole step
        )

    def call(self, images, draws, training=False):
        if not training:
            return ops.cast(images, "float32")
        _, height, width, _ = ops.shape(images)
        return resample(images, affine_transforms(draws, height, width))

    def compute_output_shape(self, images_shape, draws_shape):
        return images_shape


def augment_examples(images: np.ndarray, seed: int = 42) -> np.ndarray:
    """What training sees of (n, h, w, 3) pictures in 0–255: the same shape, augmented once."""
    draws = np.random.default_rng(seed).random((len(images), 6))
    return np.asarray(resample(images, affine_transforms(draws, *images.shape[1:3])))


def write_augmented_copy(paths: Paths, copies: int = 2, seed: int = 42) -> int:
    """Writes `copies` augmented JPEGs of each photo in `data/train` to `data/train_aug`; gives their number.

    The settings are the on-the-fly ones. Each copy has its own seed, from `seed`, its name and its number,
    so a second call writes only what is missing. Raises UserError for a number of copies below 1, and where
    the folder holds copies of another number or seed.
    """
    if not isinstance(copies, int) or copies < 1:
        raise UserError(f"copies={copies!r} must be a whole number from 1 up.")
    class_names(paths)
    _check_record({"copies": copies, "seed": seed}, paths)
    manifest = scan_dataset(paths.train)
    jobs = [
        (Path(path), number)
        for path in manifest[manifest.problem == ""].path
        for number in range(1, copies + 1)
    ]

    def write(job: tuple[Path, int]) -> None:
        source, number = job
        target = _copy_path(source, number, paths)
        if not target.exists():
            name = source.relative_to(paths.train).as_posix()
            _write_copy(source, target, np.random.default_rng((seed, zlib.crc32(name.encode()), number)))

    with ThreadPoolExecutor() as pool:
        for _ in tqdm(pool.map(write, jobs), "augmented copies", len(jobs), unit="photo"):
            pass
    return len(jobs)


def _check_record(settings: dict[str, int], paths: Paths) -> None:
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
    found = []
    for source, label in zip(train_files.path, train_files.label, strict=True):
        number = 1
        while (copy := _copy_path(Path(source), number, paths)).exists():
            found.append((copy.as_posix(), label))
            number += 1
    return pd.DataFrame(found, columns=["path", "label"])


def _copy_path(source: Path, number: int, paths: Paths) -> Path:
    """The name says whose copy it is, so that copies of validation photos can stay out of training."""
    relative = source.relative_to(paths.train)
    return paths.train_aug / relative.with_name(f"{relative.name}_aug{number}.jpg")


def _write_copy(source: Path, target: Path, random: np.random.Generator) -> None:
    with Image.open(source) as image:
        pixels = np.asarray(to_rgb(image))
    height, width, _ = pixels.shape
    draws = random.random((1, 6))
    augmented = np.asarray(resample(pixels[None], affine_transforms(draws, height, width)))[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    Image.fromarray(np.clip(augmented.round(), 0, 255).astype(np.uint8)).save(unfinished, "JPEG", quality=95)
    unfinished.replace(target)  # a copy cut short by a kill would be taken for a whole one
