"""A picture from any file, as training sees it."""

import numpy as np
import pytest
from PIL import Image

from emo.data import image_io
from emo.data.image_io import load_images, read_ahead, read_image
from emo.errors import UserError
from tests.fixtures import picture


def test_a_grey_photo_becomes_rgb_and_an_array_equals_its_file(tmp_path):
    grey = picture((120, 120, 120), 0).convert("L")
    grey.save(tmp_path / "grey.png")
    image = read_image(tmp_path / "grey.png", 40)
    assert image.shape == (40, 40, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], np.asarray(grey))
    np.testing.assert_array_equal(read_image(np.asarray(grey), 40), image)
    np.testing.assert_array_equal(read_image(grey, 40), image)


def test_exif_turns_the_photo_upright(tmp_path):
    photo = Image.new("RGB", (64, 64), "white")
    photo.paste("black", (0, 0, 64, 32))  # black above
    exif = photo.getexif()
    exif[0x0112] = 6  # taken with the camera turned: show it rotated by 90° clockwise
    photo.save(tmp_path / "turned.jpg", exif=exif)
    image = read_image(tmp_path / "turned.jpg", 64)
    assert image[:, 48:].mean() < 10  # black on the right
    assert image[:, :16].mean() > 245


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", 8).min() == 255


def test_a_large_photo_is_averaged_not_sampled(tmp_path):
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    small = read_image(tmp_path / "stripes.png", 32)
    np.testing.assert_allclose(small, 127.5, atol=20)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 cut"])
def test_an_unreadable_file_is_named(tmp_path, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.jpg"):
        load_images([tmp_path / "bad.jpg"], 32)
    with pytest.raises(UserError, match=r"There is no photo .*gone\.jpg"):
        read_image(tmp_path / "gone.jpg", 32)


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"shape \(2, 2, 2, 3\)"):
        read_image(np.zeros((2, 2, 2, 3)), 32)


@pytest.fixture
def little_memory(request, tmp_path, monkeypatch):
    """The machine has little left, or its container has."""
    if request.param == "machine":
        memory = type("Memory", (), {"available": 1000})
        monkeypatch.setattr(image_io.psutil, "virtual_memory", lambda: memory)
    else:
        (tmp_path / "memory.max").write_text("10000\n")
        (tmp_path / "memory.current").write_text("9500\n")
        (tmp_path / "memory.stat").write_text("anon 9000\ninactive_file 500\n")
        monkeypatch.setattr(image_io, "CGROUP", tmp_path)


@pytest.mark.parametrize("little_memory", ["machine", "container"], indirect=True)
def test_pictures_that_do_not_fit_into_memory_go_to_disk(tmp_path, capsys, monkeypatch, little_memory):
    for index in range(3):
        picture((200, 0, 0), index).save(tmp_path / f"{index}.png")
    files = sorted(tmp_path.glob("*.png"))
    in_memory = np.stack([read_image(file, 16) for file in files])
    on_disk = load_images(files, 16)
    assert isinstance(on_disk, np.memmap)
    assert "kept in" in capsys.readouterr().out
    np.testing.assert_array_equal(on_disk, in_memory)
    full = type("Usage", (), {"free": 100})
    monkeypatch.setattr(image_io.shutil, "disk_usage", lambda _: full)
    with pytest.raises(UserError, match=r"3 pictures of 16 px take .* choose a smaller image_size"):
        load_images(files, 16)


def test_reading_ahead_keeps_order_errors_and_memory():
    made = []

    def items():
        for number in range(6):
            made.append(number)
            yield number
        raise UserError("the seventh cannot be read")

    ahead = read_ahead(items())
    for number in range(5):
        assert next(ahead) == number
        assert len(made) <= number + 2  # the next one, no more
    assert next(ahead) == 5
    with pytest.raises(UserError, match="seventh"):
        next(ahead)
    assert list(read_ahead([])) == []
