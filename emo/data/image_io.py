"""One picture from any file: opened within bounds, and seen as a person sees it."""

from __future__ import annotations

import math
import re
import shutil
import stat
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile
from tqdm.auto import tqdm

from emo.data.arrays import as_pictures
from emo.data.geometry import Crop
from emo.errors import UserError

FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG")  # no EPS: Pillow would start Ghostscript
AVIF_BRANDS = (b"avif", b"avis")  # the kind of a file in the ISO container, bytes 8 to 12
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
MAX_BYTES = 2**29  # no picture of an allowed number of pixels needs more
MAX_JPEG_PIXELS = 2**29  # of a JPEG that can be decoded line by line, at an eighth of its size
MAX_SCANS = 100  # of a JPEG, each of which goes over all pixels; libjpeg writes 18 at most
SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e]")  # its marker and length, for 1 to 4 colours
LARGE = 2**24  # pixels; pictures beyond are decoded one at a time, however many threads there are
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
REASONS = (  # how those begin that this module and a scan give for a file that is not a picture
    "not a photo (.",
    "a name that a table cannot hold",
    "a folder that cannot be opened",
    "not a regular file",
    "not an image",
    "empty file",
    "too large (",
    "AVIF, which ",
    "HEIC, which ",
    "too many scans (",
    "cannot be read (",
)
_one_large = threading.Lock()


class Unusable(Exception):
    """Why a file is not a picture for training, in a few words."""


class Photo(NamedTuple):
    """A square RGB copy, and what the file itself holds."""

    square: Image.Image
    width: int
    height: int
    mode: str


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises Unusable for what cannot be a picture, OSError for what cannot be read."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise Unusable("a folder that cannot be opened" if path.is_dir() else "not a regular file")
    if not status.st_size:
        raise Unusable("empty file")
    if status.st_size > MAX_BYTES:
        raise Unusable(f"too large ({status.st_size / 2**20:,.0f} MiB, over {MAX_BYTES / 2**20:,.0f})")
    return path.read_bytes()


def decode(data: bytes, size: int, crop: Crop | None = None) -> Photo:
    """The picture as training sees it, size × size. Raises what `reason` puts into words."""
    with _open(data) as image:
        (width, height), mode = image.size, image.mode
        # a JPEG can be decoded at a fraction of its size: many times faster for large photos
        enough = (2 * size, 2 * size)
        if crop:
            share = 2 * size / (crop.side * max(width, height))
            enough = (max(1, round(share * width)), max(1, round(share * height)))
        image.draft("RGB", (1, 1) if width * height > _max_pixels() else enough)
        return Photo(square(image, size, crop), width, height, mode)


def decode_whole(data: bytes, limit: int) -> Image.Image:
    """The picture in RGB, upright, with no side over `limit` pixels. Raises as `decode`."""
    with _open(data) as image:
        width, height = image.size
        image.draft("RGB", (1, 1) if width * height > _max_pixels() else (limit, limit))
        with _one_large if width * height > LARGE else nullcontext():
            image = to_rgb(image)
            image.thumbnail((limit, limit))
            return image


def square(image: Image.Image, size: int, crop: Crop | None = None) -> Image.Image:
    """The picture in RGB, stretched to size × size; or its crop, aligned, at that size."""
    width, height = image.size
    with _one_large if width * height > LARGE else nullcontext():
        if crop:
            return _cut(to_rgb(image), crop, size)
        return to_rgb(image).resize((size, size), Image.Resampling.BILINEAR)


def _cut(image: Image.Image, crop: Crop, size: int) -> Image.Image:
    """The crop of an RGB picture at size × size, the picture's border repeated outwards."""
    # averaged first where much larger, then resampled finer than its pixels and averaged: no aliasing
    image = image.reduce(max(1, int(crop.side * max(image.size) / (2 * size))))
    width, height = image.size
    finer = max(1, math.ceil(crop.side * max(image.size) / size))
    left, top, right, bottom = crop.bounds(image.size)
    left, top = math.floor(left - 2), math.floor(top - 2)  # two pixels more than the resampling looks at
    columns = np.arange(left, math.ceil(right + 2)).clip(0, width - 1)
    rows = np.arange(top, math.ceil(bottom + 2)).clip(0, height - 1)
    part = Image.fromarray(np.asarray(image)[rows[:, None], columns])
    to_part = crop.to_picture(image.size)[:2] - [(0, 0, left), (0, 0, top)]
    to_part[:, :2] /= finer * size
    method, filter = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return part.transform((finer * size, finer * size), method, to_part.ravel().tolist(), filter).reduce(
        finer
    )


def reason(error: Exception) -> str:
    """What a failed `read_bytes` or `decode` means to the owner of the file."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, (UnidentifiedImageError, SyntaxError)):
        return "not an image"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"too large (over {_max_pixels():,} pixels)"
    told = isinstance(error, OSError) and error.strerror  # without the path, which the reader has
    return f"cannot be read ({told or error or type(error).__name__})"


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a person sees it: turned upright by its EXIF, transparency on white, RGB.

    16-bit and float greys are scaled to 8 bits, never clipped.
    """
    image.load()  # a TIFF turns itself here and forgets its EXIF
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info = {}  # else its EXIF would turn it once more, the next time
    return image


def _open(data: bytes) -> Image.Image:
    """The picture with only its header read; Unusable where decoding it could exhaust memory or time."""
    if data.startswith(b"\xff\xd8"):
        image = JpegImageFile(BytesIO(data))  # Image.open would refuse it by its full size
        read = image.fp.tell()  # up to its first scan, whose header lists the colours that it holds
        colours = data[read - 2 * image.layers - 6 :][:3]
        by_lines = colours == struct.pack(">HB", 2 * image.layers + 6, image.layers)
        by_lines = by_lines and "progressive" not in image.info  # else it is decoded as a whole
        limit = max(MAX_JPEG_PIXELS, _max_pixels()) if by_lines else _max_pixels()
        scans = 1 if by_lines else sum(1 for _ in SCAN.finditer(data))
        if scans > MAX_SCANS:
            raise Unusable(f"too many scans ({scans:,}, over {MAX_SCANS})")
    else:
        image, limit = Image.open(BytesIO(data), formats=(*FORMATS, *_iso_format(data))), _max_pixels()
    width, height = image.size
    if width * height > limit:
        image.close()
        raise Unusable(f"too large ({width:,} × {height:,} pixels)")
    return image


def _iso_format(data: bytes) -> tuple[str, ...]:
    """Pillow's name for AVIF or HEIC where the data is one of them; Unusable where nothing reads it."""
    if data[4:8] != b"ftyp":
        return ()
    brands = data[8:12], data[16 : min(int.from_bytes(data[:4], "big"), 200)]
    if brands[0] in AVIF_BRANDS or any(brand in brands[1] for brand in AVIF_BRANDS):
        if "avif" not in features.modules or not features.check("avif"):
            raise Unusable("AVIF, which Pillow reads from version 11.3 on: pip install -U pillow")
        return ("AVIF",)
    if brands[0] in HEIC_BRANDS:
        try:
            import pillow_heif
        except ImportError:
            raise Unusable("HEIC, which needs the package pillow-heif: pip install pillow-heif") from None
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    return ()


def _max_pixels() -> float:
    return Image.MAX_IMAGE_PIXELS or np.inf


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # a broken EXIF block does the pixels no harm
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of a wider type, from the range that its values suggest (1, 255 or 65,535; else their own)."""
    values = np.asarray(image)
    low, high = 0.0, 65535.0
    if not image.mode.startswith("I;16"):
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        if low >= 0:
            scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
            low, high = 0.0, next((scale for scale in scales if high <= scale), high)
    share = (values.astype(np.float32) - low) / max(high - low, 1e-9)
    return Image.fromarray((share * 255).round().clip(0, 255).astype(np.uint8))


CGROUP = Path("/sys/fs/cgroup")


def read_image(
    source: str | Path | Image.Image | np.ndarray, size: int, crop: Crop | None = None
) -> np.ndarray:
    """One picture as training and prediction see it: (size, size, 3) uint8 RGB.

    The whole of it is stretched to the square, or its `crop` is cut out. `source` is a file, a PIL image, or
    an array of one picture as `as_pictures` takes it. Raises UserError for what cannot be read, naming it.
    """
    source = _no_array(source)
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
    if not isinstance(source, bytes):
        source = _no_array(source)
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


def _no_array(source) -> str | Path | Image.Image:
    """A file or a PIL image as it is, one picture in an array as a PIL image."""
    if isinstance(source, (str, Path, Image.Image)):
        return source
    (array,) = as_pictures([source])
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)


@contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for all cores; at an error or Ctrl-C what none has begun is dropped, not finished first."""
    pool = ThreadPoolExecutor()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def load_images(
    sources: Sequence, size: int, title: str = "", crops: Sequence[Crop | None] | None = None
) -> np.ndarray:
    """Every picture once, on all cores: (n, size, size, 3) uint8, in the order of `sources`.

    `sources`: what `as_pictures` takes; `crops`: what is cut out of each picture, None where it is taken
    whole. Kept in memory, or in a temporary file on disk where it would take more than half of what is free.
    Raises UserError for the first picture that cannot be read.
    """
    sources = as_pictures(sources)
    images = _empty((len(sources), size, size, 3))
    crops = [None] * len(sources) if crops is None else crops
    tasks = list(zip(range(len(sources)), sources, crops, strict=True))

    def read(task: tuple) -> None:
        index, source, crop = task
        images[index] = read_image(source, size, crop)

    with thread_pool() as pool:  # Pillow lets go of Python's lock while it decodes
        done = pool.map(read, tasks)
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
