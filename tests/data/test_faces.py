"""On the portrait of Grace Hopper (public domain) that Matplotlib brings, and photos of scikit-learn's."""

import dataclasses
import math
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError
from io import StringIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from emo.data import faces
from emo.data.faces import face_crops, find_faces, summarize_faces
from emo.data.geometry import Crop
from emo.data.image_io import read_image
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import get_experiment
from emo.inference.classifier import load_classifier
from emo.models.saving import read_metadata
from emo.training.train import train

HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
FLOWER, TEMPLE = (
    Path(sklearn.__file__).parent / "datasets/images" / name for name in ("flower.jpg", "china.jpg")
)
EYES = np.array([[221.8, 190.7], [305.9, 186.5]])  # her pupils in the 512 × 600 pixels, seen by eye


def hopper(turned: float = 0, size: tuple[int, int] = (700, 700)) -> tuple[Image.Image, np.ndarray]:
    """The portrait turned clockwise on a grey canvas, and where her eyes are then."""
    with Image.open(HOPPER) as photo:
        canvas = Image.new("RGB", size, "grey")
        shift = np.array([(size[0] - photo.width) // 2, (size[1] - photo.height) // 2])
        canvas.paste(photo, tuple(shift))
    centre, angle = np.array(size) / 2, math.radians(turned)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return canvas.rotate(-turned, Image.Resampling.BICUBIC), (EYES + shift - centre) @ rotation.T + centre


def in_crop(points: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Where points of a picture lie in its crop, in shares of the crop's side."""
    centre = np.array(size) / 2 + np.array([crop.x, crop.y]) * max(size)
    angle = math.radians(crop.angle)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return (points - centre) @ rotation.T / (crop.side * max(size)) + 0.5


@pytest.mark.parametrize("turned", [0, -12, 25, -45])
def test_the_crop_is_where_the_face_is_and_its_eyes_are_level(turned):
    photo, eyes = hopper(turned)
    found = find_faces([photo])
    assert list(found.faces) == [1]
    (crop,) = face_crops(found, margin=0.3)
    left, right = in_crop(eyes, crop, photo.size)
    assert abs(math.degrees(math.atan2(right[1] - left[1], right[0] - left[0]))) < 2
    middle = (left + right) / 2
    assert middle[0] == pytest.approx(0.5, abs=0.06)
    assert 0.36 < middle[1] < 0.5
    assert 0.2 < np.linalg.norm(right - left) < 0.35  # of the crop: neither a nose nor half the photo


def test_photos_with_no_face_or_several_stay_whole_and_are_counted(tmp_path):
    face = hopper()[0].crop((150, 60, 550, 600))  # 400 × 540
    beside, behind = (Image.new("RGB", (900, 540), "grey") for _ in range(2))
    for photo, second in ((beside, face), (behind, face.resize((140, 189)))):
        photo.paste(face, (0, 0))
        photo.paste(second, (500, 0))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    photos = [FLOWER, TEMPLE, beside, behind, tmp_path / "bad.jpg"]
    found = find_faces(photos)
    assert list(found.faces) == [0, 0, 2, 1, 0]
    assert found.path[2] == "" and found.path[0] == str(FLOWER)
    assert [bool(problem) for problem in found.problem] == [False] * 4 + [True]
    assert "bad.jpg" in found.problem[4]
    assert summarize_faces(found) == (
        "1 cropped, 2 without a face and 1 with several kept whole, 1 unreadable"
    )
    crops = face_crops(found, margin=0.3)
    assert [crop is None for crop in crops] == [True, True, True, False, True]
    assert crops[3].x < -0.1  # the large one, on the left


def test_a_face_that_is_hard_to_see_is_found_and_what_is_none_is_not():
    sharp, _ = hopper()
    found = find_faces([sharp, sharp.filter(ImageFilter.GaussianBlur(19)), FLOWER, TEMPLE])
    assert list(found.faces) == [1, 1, 0, 0]
    assert np.hypot(*found[["x", "y"]].diff().iloc[1]) < 0.05
    assert found.side[1] == pytest.approx(found.side[0], rel=0.2)


def test_a_closer_look_that_sees_the_neighbour_alone_moves_no_face_there():
    left, right = Crop(-0.2, 0.0, 0.3), Crop(0.15, 0.0, 0.25)
    level = Crop(-0.19, 0.01, 0.31, angle=4)

    class Views:
        """Both faces at first sight, the left one in any closer look."""

        pictures = ("a photo",)

        def faces(self, indices, crops, size):
            first = [(left, 0.99), (right, 0.95)]
            return [first if crop == faces.WHOLE else [(level, 0.99)] for crop in crops]

    (found,) = faces._search(Views(), [0], faces.ALL_VIEW, faces.ALL_SEVERAL, True, faces.SURE)
    assert found == [level, right]


def test_where_faces_fill_their_photos_it_is_said_that_a_crop_shrinks_them():
    with Image.open(HOPPER) as photo:
        tight = photo.crop((165, 95, 360, 320))
        found = find_faces([tight, tight.resize((48, 48)), photo, FLOWER])
    assert list(found.faces) == [1, 1, 1, 0]
    said = summarize_faces(found)
    assert said.startswith("3 cropped, 1 without a face and 0 with several kept whole; most faces fill their")
    assert "face_margin" in said
    assert ";" not in summarize_faces(found[1:])  # half of them
    assert ";" not in summarize_faces(found[3:])


def test_a_turned_camera_and_a_grey_photo_change_nothing(tmp_path):
    photo, _ = hopper()
    photo.save(tmp_path / "upright.png")
    exif = photo.getexif()
    exif[0x0112] = 6  # the pixels lie on their side, turn them clockwise to see the photo
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    photo.convert("L").save(tmp_path / "grey.png")
    files = [tmp_path / name for name in ("upright.png", "turned.png", "grey.png")]
    upright, turned, grey = face_crops(find_faces(files), margin=0.3)
    assert turned == upright
    np.testing.assert_array_equal(read_image(files[1], 64, turned), read_image(files[0], 64, upright))
    assert (grey.x, grey.y, grey.side) == pytest.approx((upright.x, upright.y, upright.side), abs=0.03)
    assert grey.angle == pytest.approx(upright.angle, abs=2)


def test_faces_are_looked_for_once(paths):
    paths.train.mkdir()
    photo = paths.train / "фото, one.png"
    hopper()[0].save(photo)
    first = find_faces([photo, FLOWER], paths)
    written = paths.faces.stat().st_mtime_ns
    assert find_faces([photo, FLOWER], paths).equals(first)
    assert paths.faces.stat().st_mtime_ns == written
    text = paths.faces.read_text()
    assert '"train/фото, one.png",1' in text

    angle = first.angle[0]
    paths.faces.write_text(text.replace(f",{angle},", ",77.7,"))
    assert find_faces([photo], paths).angle[0] == 77.7  # as kept: nobody has looked
    photo = photo.rename(paths.train / "renamed.png")
    assert find_faces([photo], paths).angle[0] == 77.7

    text = paths.faces.read_text(encoding="utf-8")
    paths.faces.write_text(text, encoding="utf-8-sig", newline="\r\n")  # as Excel saves it
    assert find_faces([photo], paths).angle[0] == 77.7

    paths.faces.write_text(paths.faces.read_text().replace("mtcnn ", "another "))
    assert find_faces([photo], paths).angle[0] == angle
    paths.faces.write_text(paths.faces.read_text()[:-30])
    assert find_faces([photo], paths).angle[0] == angle
    photo.write_bytes(FLOWER.read_bytes())
    assert find_faces([photo], paths).faces[0] == 0


def test_a_missing_detector_is_told_by_name(monkeypatch):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(faces, "version", not_installed)
    with pytest.raises(UserError, match="pip install mtcnn"):
        find_faces([FLOWER])


# ---------------------------------------------------------------- cutting


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(1, 64),
    x=st.floats(-1, 1),
    y=st.floats(-1, 1),
    side=st.floats(0.001, 5),
    angle=st.floats(-180, 180),
)
def test_any_crop_of_any_picture_is_full(width, height, size, x, y, side, angle):
    """The border is repeated outwards: of a picture of one colour, every crop is that colour."""
    plain = np.full((height, width, 3), (200, 100, 50), np.uint8)
    cut = read_image(plain, size, Crop(x, y, side, angle))
    assert cut.shape == (size, size, 3)
    assert cut.dtype == np.uint8
    np.testing.assert_allclose(cut, read_image(plain[:1, :1], size), atol=1)  # rounded


def test_a_crop_takes_the_very_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    np.testing.assert_array_equal(read_image(pixels, 60, Crop()), pixels)
    np.testing.assert_array_equal(read_image(pixels, 20, Crop(-1 / 3, 1 / 3, 1 / 3)), pixels[40:, :20])
    np.testing.assert_allclose(read_image(pixels, 60, Crop(angle=90)), np.rot90(pixels), atol=1)


def test_a_large_photo_is_averaged_not_sampled(tmp_path):
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    Image.fromarray(stripes).save(tmp_path / "stripes.jpg", quality=95)
    for name in ("stripes.png", "stripes.jpg"):
        small = read_image(tmp_path / name, 64, Crop(0.1, 0.1, 0.5, 20))
        np.testing.assert_allclose(small, 127.5, atol=12)


def test_a_jpeg_decoded_at_a_fraction_of_its_size_gives_the_same_crop(tmp_path):
    photo, _ = hopper()
    photo = photo.resize((2800, 2800), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "large.jpg", quality=95)
    crop = Crop(0.01, -0.1, 0.5, 17)
    from_file, whole = read_image(tmp_path / "large.jpg", 96, crop), read_image(photo, 96, crop)
    assert np.abs(from_file.astype(int) - whole).mean() < 2


# ---------------------------------------------------------------- training and prediction


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with face_margin on tilted portraits, a class a tint, and a flower in each class."""
    from emo.paths import get_paths

    paths = get_paths(tmp_path_factory.mktemp("project"))
    tints = {"anger": (255, 120, 120), "happy": (255, 230, 120), "sad": (120, 150, 255)}
    for name, tint in tints.items():
        (paths.train / name).mkdir(parents=True)
        for index in range(6):
            photo = Image.open(FLOWER).resize((300, 300)) if not index else hopper(8 * index - 20)[0]
            tinted = np.asarray(photo) * (np.array(tint) / 255)
            Image.fromarray(tinted.astype(np.uint8)).save(paths.train / name / f"{index}.jpg", quality=90)
    experiment = get_experiment(
        "6", backbone="vgg16", weights=None, unfreeze="all", learning_rate=1e-4, image_size=32
    )
    experiment = dataclasses.replace(experiment, batch_size=4, epochs=1, face_margin=0.3)
    with redirect_stdout(StringIO()) as printed:
        run = train(experiment, paths)
    return run, paths, printed.getvalue()


def test_training_counts_what_it_crops(trained):
    *_, printed = trained
    for training_or_validation in ("6 cropped, 3 without", "9 cropped, 0 without"):
        said = f"Faces: {training_or_validation} a face and 0 with several kept whole (data/faces.csv)."
        assert said in printed


def test_prediction_crops_as_training_did(trained):
    run, paths, _ = trained
    assert read_metadata(run.model_path)["experiment"]["face_margin"] == 0.3
    classifier = load_classifier(run.model_path)
    _, val = training_manifests(paths)
    answers = classifier.predict(list(val.path))
    assert (answers.emotion.to_numpy() == val.label.to_numpy()).mean() == pytest.approx(run.val_accuracy)

    photo, _ = hopper(15)
    photo.save(paths.data / "photo.png")
    (crop,) = face_crops(find_faces([photo]), margin=0.3)
    by_hand = classifier.probabilities(read_image(photo, 32, crop)[None])
    whole = classifier.probabilities(read_image(photo, 32)[None])
    assert np.abs(by_hand - whole).max() > 1e-4
    for source in (photo, np.asarray(photo), paths.data / "photo.png"):
        table = classifier.predict(source)
        np.testing.assert_allclose(table[list(classifier.class_names)].to_numpy(), by_hand, atol=1e-6)
