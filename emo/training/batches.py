"""Files → decoded, resized pictures in memory → shuffled batches."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf
from PIL import Image
from tqdm.auto import tqdm

from emo.data.image_io import Crop, decode, decode_whole, read_bytes, reason, square, to_rgb
from emo.errors import UserError
from emo.models.augmentation import RandomAugmentation, partner_shares, partners

AHEAD = 4  # batches that wait for the device
CGROUP = Path("/sys/fs/cgroup")


def read_image(
    source: str | Path | Image.Image | np.ndarray, size: int, crop: Crop | None = None
) -> np.ndarray:
    """One picture as training and prediction see it: (size, size, 3) uint8 RGB.

    The whole of it is stretched to the square, or its `crop` is cut out. `source` is a file, a PIL image, or
    an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) in 0–255. Raises UserError for what cannot be read,
    naming it.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    with _named(source):
        if isinstance(source, Image.Image):
            return np.asarray(square(source, size, crop))
        return np.asarray(decode(read_bytes(Path(source)), size, crop).square)


def whole_image(
    source: str | Path | bytes | Image.Image | np.ndarray, limit: int = 2**16, name: str = ""
) -> Image.Image:
    """One picture as a person sees it: RGB, upright, no side over `limit` pixels.

    `source` is what `read_image` takes, or the content of a file. Raises UserError for what cannot be read,
    calling it `name`.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    with _named(name or source):
        if isinstance(source, Image.Image):
            picture = to_rgb(source)
            picture.thumbnail((limit, limit))
            return picture
        return decode_whole(source if isinstance(source, bytes) else read_bytes(Path(source)), limit)


@contextmanager
def _named(source: str | Path | bytes | Image.Image) -> Iterator[None]:
    """Tells in one sentence why a picture cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"There is no photo {source}; check the path.") from None
    except Exception as error:  # Pillow raises some ten kinds for a damaged file
        name = source if isinstance(source, (str, Path)) else "What was given"
        raise UserError(
            f"{name} is not a picture that can be read ({reason(error)}); replace or remove it."
        ) from error


def _from_array(array: np.ndarray) -> Image.Image:
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise UserError(
            f"An array of shape {array.shape} is no picture; give (h, w), (h, w, 3) or (h, w, 4)."
        )
    return Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))


def load_images(
    sources: Sequence, size: int, title: str = "", crops: Sequence[Crop | None] | None = None
) -> np.ndarray:
    """Every picture once, on all cores: (n, size, size, 3) uint8, in the order of `sources`.

    `crops`: what is cut out of each picture, None where it is taken whole. Kept in memory, or in a temporary
    file on disk where it would take more than half of what is free. Raises UserError for the first picture
    that cannot be read.
    """
    shape = (len(sources), size, size, 3)
    images = _empty(shape)
    crops = [None] * len(sources) if crops is None else crops

    def read(index: int, source, crop: Crop | None) -> None:
        images[index] = read_image(source, size, crop)

    with ThreadPoolExecutor() as pool:  # Pillow lets go of Python's lock while it decodes
        done = pool.map(read, range(len(sources)), sources, crops)
        for _ in tqdm(done, title, len(sources), disable=not title, unit="photo"):
            pass
    return images


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    if size <= _free_memory() / 2:
        return np.empty(shape, np.uint8)
    gigabytes = size / 2**30
    folder = tempfile.gettempdir()
    if size > 0.9 * shutil.disk_usage(folder).free:  # a full disk would kill Python without a word
        raise UserError(
            f"{shape[0]:,} pictures of {shape[1]} px take {gigabytes:.1f} GiB, more than is free in memory "
            f"or {folder}: choose a smaller image_size, or free some."
        )
    print(f"{gigabytes:.1f} GiB of pictures exceed half of the free memory: kept in {folder} instead.")
    return np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=shape)


def _free_memory() -> int:
    """Bytes free on the machine, or in the container where that has a limit (Linux, cgroup v2)."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or "max"
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        held = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(held["inactive_file"]))  # files' pages give way
    return free


def read_ahead(items: Iterable) -> Iterator:
    """The same items, in order; while one is used, the next is made in a thread of its own."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item


def one_hot(labels: Iterable[str], class_names: Sequence[str]) -> np.ndarray:
    """(n, classes) float32, columns in the order of `class_names`."""
    index = {name: position for position, name in enumerate(class_names)}
    return np.eye(len(index), dtype=np.float32)[[index[label] for label in labels]]


def class_weights(labels: np.ndarray, balance: float) -> np.ndarray:
    """(1 / its share of the one-hot labels) ** balance a class, scaled to mean 1 over the labels."""
    share = labels.mean(axis=0)
    weights = share**-balance
    return (weights / (share @ weights)).astype(np.float32)


def generated(batches: Callable[[], Iterator], like: tuple) -> tf.data.Dataset:
    """A dataset of batches, of any length, of arrays as those of `like`; some are made ahead.

    Without TensorFlow's thread that tunes it: when an iterator is closed, at the end of every epoch, that
    thread often sleeps on (TensorFlow 2.20) and is waited for: as long as the epoch took, up to a minute.
    """
    spec = tf.nest.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), like)
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
    return dataset.prefetch(AHEAD).with_options(options)


class Batches:
    """(pictures, one-hot labels) in batches; with a seed, in another order each epoch, the same every run.

    `views` are arrays of the same photos, (n, …) each: an epoch takes each photo from one of them.
    An epoch begins with batch `start`, 0 unless its first ones are done already.
    With `augmentation` a batch is ((pictures, draws), labels) or, where that mixes, ((pictures, draws,
    mixtures), labels), the labels mixed already. With `class_weights` each photo's weight comes third.
    """

    def __init__(
        self,
        views: Sequence[np.ndarray],
        labels: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        augmentation: RandomAugmentation | None = None,
        class_weights: np.ndarray | None = None,
    ):
        self.views, self.labels, self.batch_size = views, labels, batch_size
        self.seed, self.augmentation, self.class_weights, self.start = seed, augmentation, class_weights, 0
        self.mixes = augmentation is not None and augmentation.mix != "none"
        self.shuffle(epoch=0)

    def shuffle(self, epoch: int) -> None:
        """Draws order, views and augmentation of `epoch`, from nothing but the seed and that number."""
        self.epoch = epoch
        count = len(self.labels)
        random = np.random.default_rng((self.seed or 0, epoch))
        self.order, self.view = np.arange(count), np.zeros(count, int)
        if self.seed is not None:
            random.shuffle(self.order)
            self.view = random.integers(len(self.views), size=count)
        if self.augmentation:
            self.draws = self.augmentation.draw(random, count)
        if self.mixes:
            self.mixtures = self.augmentation.draw_mixtures(random, count, *self.views[0].shape[1:3])

    def dataset(self) -> tf.data.Dataset:
        """The batches from `start` on, as `fit` takes them."""
        batches = generated(lambda: (self[index] for index in range(len(self))), like=self[0])
        return batches.apply(tf.data.experimental.assert_cardinality(len(self)))

    def __len__(self):
        count = len(self.labels) / self.batch_size
        # training drops the last short batch: BatchNormalization dislikes batches of one
        return (math.ceil(count) if self.seed is None or count < 1 else int(count)) - self.start

    def __getitem__(self, index):
        first = (self.start + index) * self.batch_size
        chosen = self.order[first : first + self.batch_size]
        views = self.view[chosen]
        pictures = np.empty((len(chosen), *self.views[0].shape[1:]), self.views[0].dtype)
        for number in np.unique(views):  # several times as fast as photo by photo
            pictures[views == number] = self.views[number][chosen[views == number]]
        labels, inputs = self.labels[chosen], [pictures]
        if self.augmentation:
            inputs.append(self.draws[chosen])
        if self.mixes:
            inputs.append(self.mixtures[chosen])
            if self.seed is not None:  # else the layer will not mix: these photos validate
                others = labels[np.asarray(partners(len(chosen)))]
                labels = labels + partner_shares(inputs[-1]) * (others - labels)
        batch = tuple(inputs) if self.augmentation else pictures, labels
        return batch if self.class_weights is None else (*batch, labels @ self.class_weights)
