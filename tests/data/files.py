"""Small zips and folders of real pictures, and what a test sees of them."""

import io
import random
import re
import zipfile

from PIL import Image


def photo(number, suffix="png", size=(6, 5)):
    """A tiny picture, different for every number."""
    noise = random.Random(number).randbytes(size[0] * size[1] * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(file, {"jpg": "jpeg"}.get(suffix, suffix))
    return file.getvalue()


def small_set(prefix="", splits=(("train", 4), ("val", 1), ("test", 1)), classes=("happy", "anger")):
    return {
        f"{prefix}{split}/{name}/{n}.png": photo(f"{split}{name}{n}")
        for split, count in splits
        for name in classes
        for n in range(count)
    }


def make_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def snapshot(folder):
    """All that lies in a folder, but the lock that stays."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".fetch.lock"
    }


def sentence(error):
    """The message, after the check that it is one sentence with a remedy."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and re.search(r"[;,] ", text), text
    return text


def names_in(folder):
    """What a user sees in `data/`, and what fetching has left."""
    return {path.name for path in folder.iterdir()} - {".fetch.lock"}
