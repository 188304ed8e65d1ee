"""A folder with everything that a folder can hold; pictures used as a person sees them; mutated bytes."""

import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emo.data import image_io as photos
from emo.data.image_io import load_images, read_image, to_rgb
from emo.data.manifest import scan_dataset
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.paths import PROJECT_ROOT
from tests.fixtures import picture, write_photos

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp"}
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def halves(left, right, mode: str, size: int = 32) -> Image.Image:
    image = Image.new(mode, (size, size), left)
    image.paste(right, (size // 2, 0, size, size))
    return image


def quarters(mode: str = "RGB") -> Image.Image:
    """Four greys, so that every turn and flip looks different."""
    image = Image.new(mode, (64, 48))
    for index, grey in enumerate((0, 80, 160, 240)):
        image.paste((grey,) * 3, (32 * (index % 2), 24 * (index // 2), 32 + 32 * (index % 2), 48))
    return image


def problems(folder: Path) -> dict[str, str]:
    manifest = scan_dataset(folder)
    return dict(zip((Path(path).name for path in manifest.path), manifest.problem, strict=True))


def bomb_jpeg(side: int, **options) -> bytes:
    """A JPEG whose header claims side × side pixels, and holds far fewer."""
    data = bytearray(encoded(picture(RED, 0, 64), "JPEG", **options))
    frame = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


# ---------------------------------------------------------------- what a folder can hold


def test_a_folder_of_everything_that_can_go_wrong(paths, capsys):
    write_photos(paths.train, 4, classes=("happy", "sad"))
    (paths.train / "sad").rename(paths.train / "злость и гнев")
    folder = paths.train / "happy"
    photo = picture(RED, 9)
    jpeg = encoded(photo, "JPEG")
    gif = encoded(photo, "GIF")
    frames = [picture(color, 1) for color in (RED, (0, 0, 255))]
    deep = Image.fromarray(np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16))
    good = {
        "png named.jpg": encoded(photo, "PNG"),
        "анимация.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "print.jpeg": encoded(photo.convert("CMYK"), "JPEG"),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(photo.convert("P"), "PNG"),
        "alpha.png": encoded(photo.convert("RGBA"), "PNG"),
        "tiff.BMP": encoded(photo, "TIFF"),
        "extra bytes.jpg": jpeg + b"what a camera adds",
        "broken exif.jpg": encoded(photo, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "имя с пробелом .jpg": jpeg,
    }
    bad = {
        "zero.jpg": (b"", "empty file"),
        "cut.jpg": (jpeg[:-100], "truncated"),
        "cut early.jpg": (jpeg[:100], "cannot be read"),
        "text.jpg": (b"not a photo", "not an image"),
        "web page.jpg": (b"<!DOCTYPE html><html>", "not an image"),
        "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "notes.txt": (b"words", "not a photo"),
        "bomb.png": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "too large"),
        "bomb.gif": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "too large"),
        "progressive bomb.jpg": (bomb_jpeg(20_000, progressive=True), "too large"),
        "jpeg bomb.jpg": (bomb_jpeg(65_000), "too large"),
    }
    for name, data in good.items():
        (folder / name).write_bytes(data)
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    for name in (".hidden.jpg", "._resource.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"x")
    for name in ("@eaDir", "__MACOSX", ".ipynb_checkpoints"):
        (folder / name).mkdir()
        (folder / name / "preview.jpg").write_bytes(jpeg)
    (folder / "empty").mkdir()
    (folder / "broken link.jpg").symlink_to("nowhere.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "link.jpg").symlink_to("tiff.BMP")
    (folder / "up").symlink_to(paths.train)
    bad |= {"broken link.jpg": (None, "No such file"), "circle.jpg": (None, "symbolic links")}
    if hasattr(os, "mkfifo"):  # reading it would wait for ever
        os.mkfifo(folder / "pipe.jpg")
        bad["pipe.jpg"] = (None, "not a regular file")
    before = {path: path.lstat().st_mtime_ns for path in folder.iterdir()}

    found = problems(paths.train)
    others = {f"{name}_{n:03d}.jpg" for name in ("happy", "sad") for n in range(4)}
    assert set(found) == others | set(good) | set(bad) | {"link.jpg"}
    assert {name for name, problem in found.items() if not problem} == set(found) - set(bad)
    for name, (_, complaint) in bad.items():
        assert complaint in found[name], name
        with pytest.raises(UserError):
            read_image(folder / name if name != "notes.txt" else folder, 32)

    train, val = training_manifests(paths)
    usable = {Path(path).name for path in (*train.path, *val.path)}
    assert usable == set(found) - set(bad)
    assert f"Left out {len(bad)} of {len(found)} files" in capsys.readouterr().out
    assert load_images([*train.path, *val.path], 32).shape == (len(usable), 32, 32, 3)
    assert {path: path.lstat().st_mtime_ns for path in folder.iterdir()} == before


def test_links_between_classes_end(paths):
    write_photos(paths.train, 2, classes=("happy", "sad"))
    (paths.train / "happy" / "more").symlink_to(paths.train / "sad")
    (paths.train / "sad" / "more").symlink_to(paths.train / "happy")
    manifest = scan_dataset(paths.train)
    assert (manifest.problem == "").all()
    assert len(manifest) == 8  # each class, and once more by its link


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path):
    write_photos(tmp_path, 2)
    (tmp_path / "anger" / "anger_000.jpg").chmod(0)
    (tmp_path / "happy").chmod(0)
    (tmp_path / "sad").chmod(0o444)  # may be listed, but nothing in it opened
    try:
        found = problems(tmp_path)
    finally:
        for path in (tmp_path / "happy", tmp_path / "sad"):
            path.chmod(0o755)
    assert found.pop("anger_001.jpg") == ""
    assert set(found) == {"anger_000.jpg", "happy", "sad_000.jpg", "sad_001.jpg"}
    assert all("Permission denied" in problem or "folder" in problem for problem in found.values())


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_told_and_can_be_written(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(encoded(picture(RED, 0), "JPEG"))
    manifest = scan_dataset(tmp_path)
    assert "rename" in manifest.problem[0]
    assert r"caf\xe9.jpg" in manifest.to_csv()


def test_a_huge_jpeg_is_used_in_little_memory(tmp_path):
    left_dark = halves(0, 255, "L", 12_000)
    left_dark.save(tmp_path / "huge.jpg")
    assert problems(tmp_path) == {"huge.jpg": ""}
    image = read_image(tmp_path / "huge.jpg", 32)
    assert image[:, :15].max() < 10
    assert image[:, 17:].min() > 245


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: each costs the decoder another pass over all pixels."""
    data = encoded(picture(RED, 0, 1500), "JPEG", progressive=True, quality=20)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_endless_scans_is_refused_at_once(tmp_path):
    (tmp_path / "slow.jpg").write_bytes(many_scans(1500))
    (tmp_path / "usual.jpg").write_bytes(many_scans(1))
    start = time.monotonic()
    assert problems(tmp_path) == {"slow.jpg": "too many scans (1,509, over 100)", "usual.jpg": ""}
    with pytest.raises(UserError, match="too many scans"):
        read_image(tmp_path / "slow.jpg", 32)
    assert time.monotonic() - start < 5


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_a_scan_at_once(tmp_path):
    (tmp_path / "0.png").write_bytes(encoded(picture(RED, 0, 1000), "PNG"))
    for index in range(1, 2000):
        (tmp_path / f"{index}.png").symlink_to("0.png")
    script = "import sys; from emo.data.manifest import scan_dataset; scan_dataset(sys.argv[1])"
    scan = subprocess.Popen(  # as `python -c`: there is no main module that a child could import
        [sys.executable, "-c", script, tmp_path], cwd=PROJECT_ROOT, stderr=subprocess.PIPE
    )
    while b"photo/s" not in scan.stderr.read(30):  # the bar moves
        assert scan.poll() is None
    scan.send_signal(signal.SIGINT)
    start = time.monotonic()
    scan.communicate(timeout=60)
    assert scan.returncode not in (0, None)
    assert time.monotonic() - start < 5


def test_memory_does_not_grow_with_the_photos(tmp_path):
    noise = np.random.default_rng(0)
    for index in range(100):
        Image.fromarray(noise.integers(0, 256, (200, 200, 3), np.uint8)).save(tmp_path / f"{index}.png")
    scan_dataset(tmp_path)  # imports what it needs
    tracemalloc.start()
    scan_dataset(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]  # with the files' bytes, though not Pillow's own pixels
    tracemalloc.stop()
    assert peak < sum(path.stat().st_size for path in tmp_path.iterdir()) / 2


# ---------------------------------------------------------------- used as a person sees it


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(tmp_path, format, orientation):
    upright = quarters()
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = upright if orientation == 1 else upright.transpose(photos.TURNS[back])
    exif = Image.Exif()
    exif[photos.ORIENTATION] = orientation
    options = {"quality": 100} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    file = tmp_path / "turned.jpg"
    file.write_bytes(encoded(stored, format, exif=exif, **options))
    with Image.open(file) as image:
        rgb = to_rgb(image)
    np.testing.assert_allclose(np.asarray(rgb, int), np.asarray(upright), atol=16)
    np.testing.assert_array_equal(to_rgb(rgb), rgb)  # and not once more
    expected = np.asarray(upright.resize((16, 16), Image.Resampling.BILINEAR), int)
    np.testing.assert_allclose(read_image(file, 16), expected, atol=16)


def half_transparent_palette() -> bytes:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([0, 0, 255, *RED])
    image.paste(1, (16, 0, 32, 32))
    return encoded(image, "PNG", transparency=0)


SEEN = {  # left half, right half, as a person sees them
    "alpha": (encoded(halves((0, 0, 255, 0), (*RED, 255), "RGBA"), "PNG"), WHITE, RED),
    "half alpha": (encoded(halves((0, 0, 0, 128), (*RED, 255), "RGBA"), "PNG"), (127,) * 3, RED),
    "grey alpha": (encoded(halves((0, 0), (80, 255), "LA"), "PNG"), WHITE, (80,) * 3),
    "palette alpha": (half_transparent_palette(), WHITE, RED),
    "key colour": (encoded(halves((0, 255, 0), RED, "RGB"), "PNG", transparency=(0, 255, 0)), WHITE, RED),
    "clear GIF": (encoded(halves((0, 0, 0, 0), (*RED, 255), "RGBA"), "GIF"), WHITE, RED),
    "clear WebP": (encoded(halves((0, 0, 0, 0), (*RED, 255), "RGBA"), "WEBP", lossless=True), WHITE, RED),
    "CMYK JPEG": (encoded(halves((0, 255, 255, 0), (0, 0, 0, 0), "CMYK"), "JPEG", quality=100), RED, WHITE),
    "CMYK TIFF": (encoded(halves((0, 255, 255, 0), (0, 0, 0, 0), "CMYK"), "TIFF"), RED, WHITE),
    "black and white": (encoded(halves(0, 1, "1"), "PNG"), (0,) * 3, WHITE),
    "16-bit PNG": (encoded(halves(64 * 257, 192 * 257, "I;16"), "PNG"), (64,) * 3, (192,) * 3),
    "16-bit TIFF": (encoded(halves(64 * 257, 192 * 257, "I;16"), "TIFF"), (64,) * 3, (192,) * 3),
    "32-bit TIFF": (encoded(halves(64 * 257, 192 * 257, "I"), "TIFF"), (64,) * 3, (192,) * 3),
    "8 in 32 bits": (encoded(halves(64, 192, "I"), "TIFF"), (64,) * 3, (192,) * 3),
    "negative": (encoded(halves(-1000, 1000, "I"), "TIFF"), (0,) * 3, WHITE),
    "float to 1": (encoded(halves(0.25, 0.75, "F"), "TIFF"), (64,) * 3, (191,) * 3),
    "float to 255": (encoded(halves(64.0, 192.0, "F"), "TIFF"), (64,) * 3, (192,) * 3),
    "not a number": (encoded(halves(float("nan"), 1.0, "F"), "TIFF"), None, WHITE),
    "Lab": (encoded(halves((0, 128, 128), (255, 128, 128), "LAB"), "TIFF"), (0,) * 3, WHITE),
}


@pytest.mark.parametrize("name", SEEN)
def test_pixels_are_as_seen(tmp_path, name):
    data, left, right = SEEN[name]
    file = tmp_path / "photo.png"
    file.write_bytes(data)
    assert problems(tmp_path) == {"photo.png": ""}
    image = read_image(file, 32).astype(int)
    if left is not None:
        np.testing.assert_allclose(image[:, :12], np.broadcast_to(left, (32, 12, 3)), atol=3)
    np.testing.assert_allclose(image[:, 20:], np.broadcast_to(right, (32, 12, 3)), atol=3)


def test_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (32, 32), color) for color in (RED, (0, 0, 255), (0, 255, 0))]
    for format in ("GIF", "WEBP", "PNG"):
        file = tmp_path / f"moving{FORMATS[format]}"
        options = {"lossless": True} if format == "WEBP" else {}
        frames[0].save(file, format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_allclose(read_image(file, 32), np.broadcast_to(RED, (32, 32, 3)), atol=3)


# ---------------------------------------------------------------- mutated bytes


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    data = bytearray(data)
    for _ in range(random.integers(1, 6)):
        place = int(random.integers(len(data))) if random.random() < 0.5 else int(random.integers(64))
        place = min(place, len(data) - 1)
        match random.integers(6):
            case 0:
                data[place] ^= 1 << int(random.integers(8))
            case 1:
                data[place] = int(random.choice([0, 1, 127, 128, 255]))
            case 2:
                del data[max(place, 1) :]
            case 3:
                data[place:place] = random.bytes(int(random.integers(1, 20)))
            case 4:
                del data[place : place + int(random.integers(1, 20))]
            case 5:
                data[place : place + 4] = random.bytes(4)
        data = data or bytearray(b"\0")
    return bytes(data)


def check_mutations(folder: Path, count: int, seed: int) -> None:
    """Whatever the bytes: a scan ends, good files stay good, and it says what reading does."""
    random = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[photos.ORIENTATION] = 6
    whole = [
        encoded(image, format, **options)
        for image in (picture(RED, 1, 48), quarters())
        for format, options in [
            *((format, {}) for format in FORMATS),
            ("JPEG", {"progressive": True, "exif": exif}),
            ("WEBP", {"lossless": True}),
        ]
    ]
    whole += [
        encoded(whole_image, "PNG") for whole_image in (picture(RED, 2).convert(m) for m in ("P", "LA"))
    ]
    whole.append(encoded(picture(RED, 3), "GIF", save_all=True, append_images=[picture(WHITE, 4)]))
    for index in range(count):
        suffix = list(FORMATS.values())[index % len(FORMATS)]
        data = whole[index % len(whole)]
        good = index % 10 == 0
        name = f"{index}{'good' if good else ''}{suffix}"
        (folder / name).write_bytes(data if good else mutated(data, random))
    manifest = scan_dataset(folder)
    assert len(manifest) == count
    assert (manifest.problem[manifest.path.str.contains("good")] == "").all()
    assert 0.1 < (manifest.problem == "").mean() < 0.9  # both outcomes are tried
    for row in manifest.itertuples():
        for size in (24, 96):
            if row.problem:
                with pytest.raises(UserError):
                    read_image(row.path, size)
            else:
                assert read_image(row.path, size).shape == (size, size, 3)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what it could repair
def test_mutated_files_are_read_or_named(tmp_path):
    check_mutations(tmp_path, 600, seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_mutated_files_are_read_or_named(tmp_path, seed):
    check_mutations(tmp_path, 2000, seed)
