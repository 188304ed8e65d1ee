"""What frozen layers make of the photos: computed once, kept in `data/.features`, reused by later runs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import PIL
from keras import ops
from tqdm.auto import tqdm

from emo.backend import mapped, version
from emo.data.faces import find_crops
from emo.data.geometry import Crop
from emo.data.image_io import load_images
from emo.errors import UserError
from emo.experiments import Experiment
from emo.files import locked, told
from emo.models.augmentation import ASPECT, ERASED, ROTATION, SHIFT, ZOOM, RandomAugmentation, augmentation
from emo.models.build import build_model, split_model
from emo.models.named_files import located
from emo.paths import Paths
from emo.precision import computing_in, dtype_policy

BATCH = 64
DISK_SHARE = 0.5  # of what would be free without the cache
FLOAT16_MAX = 65504.0


def backbone_features(photos: pd.DataFrame, experiment: Experiment, paths: Paths) -> np.ndarray:
    """The experiment's backbone before any training, averaged over places: (n, d) float16, a row per photo.

    `photos` is a manifest; its column `path` is used, in its order. Computed once, then read from
    `data/.features`, which a run with the same frozen backbone and "avg_pool" shares. Raises UserError for
    weights that cannot be had and photos that cannot be read.
    """
    pooled = dataclasses.replace(located(experiment, paths), unfreeze="none", head=("avg_pool",))
    with computing_in(dtype_policy(experiment.precision)):
        frozen, _ = split_model(build_model(pooled, class_count=2), pooled)
    found = frozen_features(frozen, [(photos, 0)], pooled, paths)
    if found is None:
        images = load_photos(photos, pooled, paths)
        return np.concatenate(list(_outputs(frozen, images)))
    return found[0][0]


def load_photos(
    photos: pd.DataFrame, experiment: Experiment, paths: Paths, title: str = "reading photos"
) -> np.ndarray:
    """The photos of a manifest as the experiment's network takes them: (n, size, size, 3) uint8."""
    crops = find_crops(photos.path, experiment.face_margin, paths)
    return load_images(photos.path, experiment.image_size, title, crops)


def frozen_features(
    frozen: keras.Model, wanted: Sequence[tuple[pd.DataFrame, int]], experiment: Experiment, paths: Paths
) -> list[list[np.ndarray]] | None:
    """What `frozen`, the first part of `split_model`, makes of photos: float16, (n, …), a view each.

    `wanted` are manifests and their numbers of augmented views; each gets a list, first the photos as they
    are, then the views, drawn from the experiment's seed. Each view lies in a file of its own and is
    computed only where that is missing; an interrupted one goes on where it stopped. None, with a sentence,
    where the disk has too little room for all.
    """
    folder = paths.features
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sets = _cached(frozen, wanted, experiment, paths)
    files = [file for each in sets for file in each.files]
    size = sum(2 * math.prod(each.shape) * len(each.files) for each in sets)
    with locked(folder / ".lock", f"Another run is computing features in {folder}"):
        missing = {file for each in sets for file in each.files if _read(file, each.shape) is None}
        if missing and not _make_room(folder, files, size):
            print(
                f"The frozen layers' outputs would take {_gigabytes(size)}, more than "
                f"{DISK_SHARE:.0%} of the free disk at {folder}: they are computed whenever they are needed."
            )
            return None
        for each in sets:
            if missing.intersection(each.files):
                images = load_images(each.photos.path, experiment.image_size, "reading photos", each.crops)
            for view, file in enumerate(each.files):
                if file in missing:
                    _write_view(file, frozen, images, view, experiment)
        for file in files:
            os.utime(file)  # the least recently used cache is the first to be removed
        held = sum(file.stat().st_size for file in _caches(folder))
        features = [[_read(file, each.shape) for file in each.files] for each in sets]
    print(
        f"Frozen layers' outputs of {sum(len(each.photos) for each in sets):,} photos, views: "
        f"{len(missing)} computed, {len(files) - len(missing)} reused; {_gigabytes(size)} of "
        f"{_gigabytes(held)} in {folder} (emo.clear_features empties it)."
    )
    return features


def clear_features(paths: Paths) -> None:
    """Empties `data/.features`; the next run computes again what it needs. Prints what became free."""
    if not paths.features.is_dir():
        print("There are no cached features.")
        return
    with locked(paths.features / ".lock", f"A run is computing features in {paths.features}"):
        files = _caches(paths.features)
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
    print(f"Removed {len(files)} files of cached features, {_gigabytes(size)}.")


def _caches(folder: Path) -> list[Path]:
    """Finished and unfinished ones; the folder's lock is none."""
    return [file for file in folder.iterdir() if file.suffix in (".npy", ".part")]


@dataclass(frozen=True)
class _Cached:
    """Photos, what is cut out of each, and where each view of them is kept, as arrays of `shape`."""

    photos: pd.DataFrame
    crops: list[Crop | None]
    shape: tuple[int, ...]
    files: list[Path]


def _cached(
    frozen: keras.Model, wanted: Sequence[tuple[pd.DataFrame, int]], experiment: Experiment, paths: Paths
) -> list[_Cached]:
    """Where each manifest's views are: a file's name changes with everything that changes its content."""
    weights = hashlib.blake2b(digest_size=16)
    for array in frozen.get_weights():
        weights.update(np.ascontiguousarray(array))
    e, cut = experiment, experiment.head[0] if experiment.unfreeze == "none" else experiment.unfreeze
    decides = [field.name for field in dataclasses.fields(e) if field.metadata["features"]]
    key = {name: getattr(e, name) for name in decides} | {
        "cut": cut,
        "weights": weights.hexdigest(),
        "precision": frozen.dtype_policy.name,
        "versions": [keras.__version__, version().split()[-1], PIL.__version__],
    }
    settings = [ZOOM, SHIFT, ROTATION, e.augment_strength, e.color_jitter, e.random_erasing, *ERASED, ASPECT]
    found = []
    for photos, views in wanted:
        crops, files = find_crops(photos.path, e.face_margin, paths), []
        key |= {"photos": _photos_hash(photos.path, paths), "crops": repr(crops)}
        for view in range(views + 1):
            augmented = {"view": view, "seed": e.seed, "settings": settings} if view else {}
            text = json.dumps(key | augmented, sort_keys=True)
            digest = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
            name = f"{e.backbone}_{cut}_{e.image_size}px_view{view}_{digest}.npy"
            files.append(paths.features / name)
        found.append(_Cached(photos, crops, (len(photos), *frozen.output_shape[1:]), files))
    return found


def _photos_hash(files: pd.Series, paths: Paths) -> str:
    """Of the photos' names below `data/`, sizes and times, in their order."""
    photos, root = hashlib.blake2b(digest_size=16), f"{paths.data.as_posix()}/"
    for file in map(str, files):
        try:
            status = os.stat(file)  # noqa: PTH116 -- a Path per photo would take longer than the look
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}); check the path.") from None
        photos.update(f"{file.removeprefix(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return photos.hexdigest()


def _outputs(
    frozen: keras.Model,
    images: np.ndarray,
    start: int = 0,
    layer: RandomAugmentation | None = None,
    draws: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """float16 batches of what `frozen` makes of the pictures from `start` on; `layer`, where given, augments
    them by `draws`."""
    arrays = (images,) if layer is None else (images, draws)

    def batches():
        for at in range(start, len(images), BATCH):
            yield tuple(array[at : at + BATCH] for array in arrays)

    def augmented(pictures, draws=None):
        return pictures if layer is None else layer(pictures, draws, training=True)

    def halved(outputs):
        outputs = ops.clip(ops.cast(outputs, "float32"), -FLOAT16_MAX, FLOAT16_MAX)  # VGG16's exceed it
        return ops.cast(outputs, "float16")

    yield from mapped(frozen, augmented, halved, batches, like=arrays)


def _write_view(
    file: Path, frozen: keras.Model, images: np.ndarray, view: int, experiment: Experiment
) -> None:
    """Computes a view into `file` (.npy), going on with what an interrupted call left of it."""
    layer, draws = None, None
    if view:
        layer = augmentation(experiment)
        draws = layer.draw(np.random.default_rng((experiment.seed, view)), len(images))
    row = 2 * int(np.prod(frozen.output_shape[1:]))
    header = io.BytesIO()
    layout = {"descr": "<f2", "fortran_order": False, "shape": (len(images), *frozen.output_shape[1:])}
    np.lib.format.write_array_header_1_0(header, layout)
    unfinished = file.with_suffix(".part")
    with told(unfinished), unfinished.open("ab") as out:  # what a full disk holds of it is gone on with
        done = (out.tell() - len(header.getvalue())) // row
        if done < 0:
            out.truncate(0)
            out.write(header.getvalue())
            done = 0
        out.truncate(len(header.getvalue()) + done * row)
        title = f"frozen layers, view {view}"
        with tqdm(total=len(images), initial=done, desc=title, unit="photo") as bar:
            for batch in _outputs(frozen, images, done, layer, draws):
                out.write(batch.astype("<f2", copy=False).tobytes())
                bar.update(len(batch))
    with told(file):
        unfinished.replace(file)


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The features of a file, read as they are used; None where it is missing or not whole."""
    try:
        features = np.asarray(np.load(file, mmap_mode="r"))  # np.memmap's own indexing is three times slower
    except (OSError, ValueError, EOFError):
        return None
    return features if features.shape == shape and features.dtype == np.float16 else None


def _make_room(folder: Path, keep: list[Path], size: int) -> bool:
    """Whether `size` bytes, all of `keep`, are within the limit; removes the least recently used of the other
    caches until they are with them."""
    names = {file.stem for file in keep}
    files = {file: file.stat() for file in _caches(folder)}
    limit = DISK_SHARE * (shutil.disk_usage(folder).free + sum(status.st_size for status in files.values()))
    if size > limit:
        return False
    others = sorted((file for file in files if file.stem not in names), key=lambda file: files[file].st_mtime)
    held = sum(files[file].st_size for file in others)
    for file in others:
        if held + size <= limit:
            break
        file.unlink(missing_ok=True)
        held -= files[file].st_size
    return True


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"
