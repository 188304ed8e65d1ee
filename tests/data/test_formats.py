"""Every kind of photo that people have is a photo everywhere, or the sentence names what is missing."""

import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import features

from emo.data import image_io
from emo.data.download import fetch_dataset
from emo.data.image_io import read_image
from emo.data.manifest import class_names, count_photos, scan_dataset
from emo.data.split import training_manifests
from emo.errors import UserError
from tests.data.files import make_zip
from tests.fixtures import picture

AVIF = "avif" in features.modules and features.check("avif")
SUFFIXES = {
    "JPEG": [".jpg", ".jpeg", ".jpe", ".jfif", ".JPG"],
    "PNG": [".png"],
    "TIFF": [".tif", ".tiff", ".TIF"],
    "WEBP": [".webp"],
    "BMP": [".bmp"],
    "GIF": [".gif"],
    "AVIF": [".avif"] if AVIF else [],
}
KINDS = [(form, suffix) for form, suffixes in SUFFIXES.items() for suffix in suffixes]


def encoded(form, seed=0, **options):
    picture((200, 60, 40), seed, 48).save(file := BytesIO(), form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form, suffix", KINDS)
def test_a_photo_of_any_usual_kind_is_fetched_counted_scanned_and_trained_on(tmp_path, paths, form, suffix):
    files = {
        f"{name}/{n}{suffix}": encoded(form, n + shift)
        for name, shift in (("happy", 0), ("sad", 9))
        for n in range(6)
    }
    assert fetch_dataset(make_zip(tmp_path / "a.zip", files), paths) == {"train": 12}
    assert class_names(paths) == ("happy", "sad") and count_photos(paths).loc["all", "train"] == 12
    manifest = scan_dataset(paths.train)
    assert (manifest.problem == "").all() and (manifest.width == 48).all()
    train, val = training_manifests(paths)
    assert len(train) + len(val) == 12
    wanted = np.asarray(picture((200, 60, 40), 0, 48), int)
    assert abs(read_image(paths.train / f"happy/0{suffix}", 48).astype(int) - wanted).mean() < 25


def heic_header(brand=b"heic"):
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(200)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1"])
@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".jpg"])
def test_heic_without_its_package_names_both(tmp_path, paths, monkeypatch, suffix, brand):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    files = {
        f"{name}/{n}.png": encoded("PNG", n + shift)
        for name, shift in (("happy", 0), ("sad", 9))
        for n in range(4)
    }
    fetch_dataset(make_zip(tmp_path / "a.zip", files | {f"happy/9{suffix}": heic_header(brand)}), paths)
    (problem,) = (problem for problem in scan_dataset(paths.train).problem if problem)
    assert "HEIC" in problem and "pip install pillow-heif" in problem
    with pytest.raises(UserError, match=r"HEIC, which needs the package pillow-heif"):
        read_image(paths.train / f"happy/9{suffix}", 48)
    train, val = training_manifests(paths)
    assert len(train) + len(val) == 8


def test_avif_without_a_decoder_names_what_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(image_io.features, "modules", {})
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + bytes(200))
    with pytest.raises(UserError, match=r"AVIF, which Pillow reads from version 11\.3 on"):
        read_image(tmp_path / "a.avif", 48)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF"])
def test_heic_is_fetched_scanned_and_read(tmp_path, paths, suffix):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    files = {f"{name}/{n}{suffix}": encoded("HEIF", n) for name in ("happy", "sad") for n in range(2)}
    assert fetch_dataset(make_zip(tmp_path / "a.zip", files), paths) == {"train": 4}
    manifest = scan_dataset(paths.train)
    assert (manifest.problem == "").all() and (manifest.width == 48).all()
    wanted = np.asarray(picture((200, 60, 40), 0, 48), int)
    assert abs(read_image(paths.train / f"happy/0{suffix}", 48).astype(int) - wanted).mean() < 25


@pytest.mark.parametrize(
    "data", [heic_header(), b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", b"\0\0\0\0ftyp", b"\0\0\0\x18ftypmp42isom"]
)
def test_a_damaged_one_is_a_sentence(tmp_path, data):
    (tmp_path / "a.heic").write_bytes(data)
    with pytest.raises(UserError, match="is not a picture that can be read"):
        read_image(tmp_path / "a.heic", 48)
