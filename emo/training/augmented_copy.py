"""`data/train_aug`: augmented copies of the training photos on disk, as in the original project."""

import itertools
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from emo.data.image_io import decode_whole, read_bytes, reason, thread_pool
from emo.data.install import SPARE_BYTES
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.files import locked, told, write_bytes, write_text
from emo.models.augmentation import affine_transforms, resample
from emo.paths import Paths

MAX_SIDE = 1024  # pixels of a copy
SAMPLED = 16  # copies made ahead, to foresee the disk that all take


def write_augmented_copy(paths: Paths, copies: int | Literal["balance"] = 2, seed: int = 42) -> int:
    """Writes augmented JPEGs of the training photos to `data/train_aug`; gives their number.

    `copies` per photo or, for "balance", as many as bring every class to the size of the largest. The
    settings are the on-the-fly ones. Each copy has its own seed, from `seed`, its photo's name and its
    number, so a second call writes only what is missing or of an earlier photo of that name, also after a
    kill; where "balance" needs fewer copies than before, it removes the others. Photos over 1,024 px are
    shrunk to that, the largest `image_size`. UserError for another kind of `copies`, too little disk, a photo
    that cannot be read, and where the folder holds copies made otherwise.
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
    lock = paths.train_aug.with_name(f".{paths.train_aug.name}.lock")
    with locked(lock, f"Another process is writing augmented copies to {paths.train_aug}"):
        missing = [job for job in jobs if not _is_made(*job, paths)]
        _check_record({"copies": copies, "seed": seed}, paths)
        _check_room(
            [len(_augmented_jpeg(*job, seed, paths)) for job in missing[:SAMPLED]], len(missing), paths
        )
        with thread_pool() as pool:
            written = pool.map(lambda job: _write_copy(*job, seed, paths), missing)
            for _ in tqdm(written, "augmented copies", len(missing), unit="photo"):
                pass
        for path, count in zip(photos["path"], wanted, strict=True):
            for copy in _copies_of(Path(path), paths, count + 1):  # training would take these, too
                copy.unlink()
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
        try:
            found = json.loads(paths.augmentation_record.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # missing, cut or no JSON at all
            found = "unknown settings"
        if found != settings:
            raise UserError(
                f"{paths.train_aug} holds copies made with {found}, not {settings}; delete that folder first."
            )
    write_text(paths.augmentation_record, json.dumps(settings))


def with_augmented_copy(train_files: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The manifest with the augmented copies of these photos added; copies of validation photos stay out."""
    copies = augmented_copies(train_files, paths)
    if copies.empty:
        raise UserError(
            f"use_augmented_copy=True, but {paths.train_aug} holds no copies of the training photos; "
            "write them with emo_classificator_prep_data.ipynb, or set it to False."
        )
    return pd.concat([train_files, copies.assign(given=copies["label"])], ignore_index=True)


def augmented_copies(train_files: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The copies on disk of exactly these photos (a manifest's path and label): path and label."""
    train_files = train_files[_below_train(train_files, paths)]
    found = [
        (copy.as_posix(), label)
        for source, label in zip(train_files.path, train_files.label, strict=True)
        for copy in _copies_of(Path(source), paths)
    ]
    return pd.DataFrame(found, columns=["path", "label"])


def _below_train(photos: pd.DataFrame, paths: Paths) -> pd.Series:
    """Those of `data/train`: `split.csv` may have others train too, but a copy's name tells no folder."""
    return photos["path"].str.startswith(f"{paths.train.as_posix()}/")


def _copy_path(source: Path, number: int, paths: Paths) -> Path:
    """The name says whose copy it is, so that copies of validation photos can stay out of training."""
    relative = source.relative_to(paths.train)
    return paths.train_aug / relative.with_name(f"{relative.name}_aug{number}.jpg")


def _copies_of(source: Path, paths: Paths, first: int = 1) -> Iterator[Path]:
    """The copies of a photo that are on disk, from that number on."""
    copies = (_copy_path(source, number, paths) for number in itertools.count(first))
    return itertools.takewhile(Path.exists, copies)


def _is_made(source: Path, number: int, paths: Paths) -> bool:
    """Whether the copy is there and not that of an older photo of the same name."""
    copy = _copy_path(source, number, paths)
    return copy.exists() and copy.stat().st_mtime == source.stat().st_mtime


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
    with told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    # thousands of them, each of which can be made again
    write_bytes(target, _augmented_jpeg(source, number, seed, paths), sync=False)
    os.utime(target, (time := source.stat().st_mtime, time))  # tells whose copy it is: `_is_made`
