import numpy as np
import pytest
from PIL import Image

from emo import pipeline
from emo.errors import UserError
from emo.pipeline import Batches, load_images, one_hot, read_ahead, read_image
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


def test_pictures_that_do_not_fit_into_memory_go_to_disk(tmp_path, monkeypatch, capsys):
    for index in range(3):
        picture((200, 0, 0), index).save(tmp_path / f"{index}.png")
    files = sorted(tmp_path.glob("*.png"))
    in_memory = load_images(files, 16)
    monkeypatch.setattr(pipeline.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    on_disk = load_images(files, 16)
    assert isinstance(on_disk, np.memmap)
    assert "kept in" in capsys.readouterr().out
    np.testing.assert_array_equal(on_disk, in_memory)


def test_batches_shuffle_by_seed_and_epoch():
    images, labels = np.arange(10), np.arange(10)

    def order(seed, epoch):
        batches = Batches([images], labels, 5, seed=seed)
        batches.shuffle(epoch)
        return list(np.concatenate([batches[index][0] for index in range(len(batches))]))

    assert order(seed=1, epoch=3) == order(seed=1, epoch=3)
    assert order(seed=1, epoch=3) != order(seed=1, epoch=4)
    assert order(seed=1, epoch=3) != order(seed=2, epoch=3)
    assert sorted(order(seed=1, epoch=3)) == list(range(10))


def test_an_epoch_takes_each_photo_from_one_of_its_views():
    views = [np.arange(200), 1000 + np.arange(200)]

    def epoch(number, seed=1):
        batches = Batches(views, np.arange(200), 20, seed=seed)
        batches.shuffle(number)
        return [batches[index] for index in range(len(batches))]

    pictures, labels = (np.concatenate(part) for part in zip(*epoch(3), strict=True))
    np.testing.assert_array_equal(pictures % 1000, labels)
    assert 60 < (pictures >= 1000).sum() < 140
    np.testing.assert_array_equal(epoch(3)[0][0], pictures[:20])
    assert (epoch(4)[0][0] != pictures[:20]).any()
    assert (epoch(3, seed=2)[0][0] != pictures[:20]).any()


def test_draws_belong_to_photo_epoch_and_seed_whatever_the_batch_size():
    def draws(batch_size, number, seed=1):
        batches = Batches([np.arange(12)], np.arange(12), batch_size, seed=seed, augment=True)
        batches.shuffle(number)
        found = {}
        for index in range(len(batches)):
            (pictures, drawn), _ = batches[index]
            found |= dict(zip(pictures.tolist(), map(tuple, drawn.tolist()), strict=True))
        return found

    assert draws(4, 0) == draws(6, 0)
    assert len(set(draws(4, 0).values())) == 12
    assert draws(4, 0) != draws(4, 1)
    assert draws(4, 0) != draws(4, 0, seed=2)


def test_training_drops_the_short_batch_and_validation_keeps_it():
    images = np.arange(11)
    assert len(Batches([images], images, 5, seed=0)) == 2
    assert len(Batches([images], images, 5)) == 3
    assert len(Batches([images], images, 64, seed=0)) == 1


def test_labels_follow_the_order_of_class_names():
    np.testing.assert_array_equal(one_hot(["b", "a"], ["a", "b", "c"]), [[0, 1, 0], [1, 0, 0]])


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
