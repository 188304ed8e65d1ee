"""A photo from anywhere, on the portrait of Grace Hopper (public domain) that Matplotlib brings."""

import contextlib
import threading
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError
from io import BytesIO
from pathlib import Path

import ipywidgets
import keras
import numpy as np
import pytest
from PIL import Image

from emo.data import faces, web
from emo.data.geometry import Crop
from emo.data.image_io import read_image
from emo.errors import UserError
from emo.inference import photo as my_photo
from emo.inference.classifier import Classifier
from emo.inference.ensemble import Ensemble
from emo.inference.photo import classify_faces, in_reading_order, open_photo
from emo.plots.photo import plot_my_photo
from tests.data.test_faces import FLOWER, HOPPER, hopper

NAMES = ("anger", "happy", "sad", "surprise")


def untrained(margin: float | None = None, size: int = 48) -> Classifier:
    """A small convolutional network whose answers depend on the picture."""
    keras.utils.set_random_seed(3)
    pictures = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(8, 5, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(pictures))
    x = keras.layers.Dense(len(NAMES), "softmax")(keras.layers.GlobalAveragePooling2D()(x))
    return Classifier(keras.Model(pictures, x), NAMES, {"experiment": {"face_margin": margin}}, Path("m.h5"))


@pytest.fixture(scope="module")
def couple() -> Image.Image:
    """Her portrait upright on the right, smaller and tilted on the left, on a wide canvas."""
    canvas = Image.new("RGB", (1000, 500), "grey")
    canvas.paste(hopper(0)[0].crop((150, 60, 550, 560)), (600, 0))
    canvas.paste(hopper(20)[0].crop((100, 60, 600, 560)).resize((300, 300)), (50, 150))
    return canvas


def content(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("margin", [None, 0.3])
def test_every_face_is_cropped_as_in_training_and_answered_for(couple, margin, capsys):
    classifier = untrained(margin)
    answered = classify_faces(classifier, couple)
    table = answered.answers
    assert list(table.columns) == ["box", "emotion", "confidence", *NAMES]
    assert list(table.index) == [1, 2]
    (left, _, right, _), (left_2, _, right_2, _) = table.box
    assert 50 < left < right < 350 and 600 < left_2 < right_2 < 1000
    assert right_2 - left_2 > right - left > 60
    assert answered.faces[0].angle == pytest.approx(20, abs=8)
    for face, row in zip(answered.faces, table.itertuples(), strict=True):
        crop = read_image(couple, 48, face.with_margin(margin or 0))
        expected = classifier.probabilities(crop[None])[0]
        np.testing.assert_allclose(row[4:], expected, atol=1e-6)
        assert (row.emotion, row.confidence) == (NAMES[expected.argmax()], pytest.approx(expected.max()))
    assert capsys.readouterr().out == ""


def test_each_member_of_an_ensemble_crops_as_it_was_trained(couple):
    tight, wide = untrained(None), untrained(0.5, size=64)
    answered = classify_faces(Ensemble([tight, wide]), couple)
    alone = [classify_faces(member, couple).answers[list(NAMES)] for member in (tight, wide)]
    np.testing.assert_allclose(answered.answers[list(NAMES)], (alone[0] + alone[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("margin", [None, 0.3])
def test_without_a_face_the_whole_photo_is_classified_and_it_is_said(margin, capsys):
    classifier = untrained(margin)
    answered = classify_faces(classifier, FLOWER)
    assert capsys.readouterr().out == "No face was found: this is the prediction for the whole photo.\n"
    assert answered.faces == (None,)
    assert answered.answers.box[0] == (0, 0, 640, 427)
    expected = classifier.probabilities(read_image(answered.photo, 48)[None])[0]
    np.testing.assert_allclose(answered.answers.loc[0, list(NAMES)].astype(float), expected, atol=1e-6)


def test_without_mtcnn_the_whole_photo_is_classified_and_it_is_said(monkeypatch, capsys):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(faces, "version", not_installed)
    answered = classify_faces(untrained(0.3), HOPPER)
    assert answered.faces == (None,)
    said = capsys.readouterr().out
    assert "pip install mtcnn" in said and "for the whole photo" in said and said.count("\n") == 1


def test_faces_are_numbered_as_one_reads():
    # two rows of a group photo, the people of a row not quite level, and a child in front
    back = [Crop(x, y, 0.1) for x, y in ((-0.3, -0.21), (0.0, -0.25), (0.3, -0.19))]
    front = [Crop(x, y, 0.12) for x, y in ((-0.15, -0.05), (0.15, -0.02))]
    child = Crop(-0.4, 0.2, 0.1)
    given = sorted([*back, *front, child], key=lambda face: face.x)
    assert in_reading_order(given) == [*back, *front, child]
    assert in_reading_order([]) == []


# ---------------------------------------------------------------- where it comes from


@contextlib.contextmanager
def site(answer):
    """The address of a web server here that answers every request by `answer(handler)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # the client may have had enough
                answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/a%20photo?size=large"
    finally:
        server.shutdown()
        server.server_close()


def sending(data: bytes, kind: str = "image/png", status: int = 200):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def test_a_photo_is_the_same_from_everywhere(couple, tmp_path):
    couple.save(tmp_path / "my photo.png")
    button = ipywidgets.FileUpload()
    told = {"name": "my photo.png", "type": "image/png", "size": 1, "last_modified": datetime.now()}
    button.value = ({**told, "content": memoryview(content(couple))},)
    with site(sending(content(couple))) as url:
        sources = [
            tmp_path / "my photo.png",
            f" {tmp_path / 'my photo.png'} ",  # as pasted
            url,
            content(couple),
            np.asarray(couple),
            couple,
            button,
        ]
        for source in sources:
            np.testing.assert_array_equal(open_photo(source), couple)


def test_a_photo_is_opened_upright_and_not_too_large(tmp_path):
    photo = Image.new("RGB", (3000, 1500), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "large.jpg", exif=exif)
    assert open_photo(tmp_path / "large.jpg").size == (1024, 2048)
    assert open_photo(photo).size == (2048, 1024)
    assert photo.size == (3000, 1500)


def test_nothing_chosen_yet_is_said_and_no_mistake(capsys):
    assert open_photo("") is None
    assert open_photo(ipywidgets.FileUpload()) is None
    said = capsys.readouterr().out.splitlines()
    assert "its path or URL is empty" in said[0]
    assert "choose one above" in said[1]
    with pytest.raises(UserError, match="no photo to look at"):
        classify_faces(untrained(), "")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (sending(b"<html>", "text/html; charset=utf-8"), "is a web page and no picture"),
        (sending(b"no picture"), r"is not a picture that can be read \(not an image\)"),
        (sending(b""), "is not a picture that can be read"),
        (sending(content(Image.new("RGB", (9, 9)))[:-30]), "is not a picture that can be read"),
        (sending(b"", status=404), r"cannot be fetched \(HTTP 404\)"),
        (sending(bytes(2**16)), "is too large"),
        (lambda handler: handler.wfile.write(b"no http\r\n\r\n"), "cannot be fetched"),
        (lambda handler: time.sleep(3), r"cannot be fetched \(.*timed out"),
    ],
)
def test_what_the_web_may_send_instead_of_a_picture(answer, says, monkeypatch):
    monkeypatch.setattr(my_photo, "MAX_DOWNLOAD", 2**15)
    monkeypatch.setattr(web, "SILENCE", 0.5)
    with site(answer) as url, pytest.raises(UserError, match=says) as told:
        open_photo(url)
    assert str(told.value).startswith(url) and "\n" not in str(told.value)


def trickled_body(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def trickled_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(200):
        handler.wfile.write(f"X-{number}: x\r\n".encode())
        time.sleep(0.05)


def patience_asked_for(handler):
    for _ in range(200):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [trickled_body, trickled_headers, patience_asked_for])
def test_a_picture_that_trickles_in_for_ever_is_given_up(answer, monkeypatch):
    monkeypatch.setattr(web, "STALL", 0.3)
    started = time.monotonic()
    with site(answer) as url, pytest.raises(UserError, match=r"cannot be fetched \(.* in 0\.3 s"):
        open_photo(url)
    assert time.monotonic() - started < 5


def test_a_picture_is_not_fetched_from_where_the_web_leads_out_of_itself():
    def elsewhere(handler):
        handler.send_response(302)
        handler.send_header("Location", "ftp://127.0.0.1/photo.png")
        handler.end_headers()

    with site(elsewhere) as url, pytest.raises(UserError, match="not http or https"):
        open_photo(url)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere.jpg", "There is no photo nowhere.jpg; check the path"),
        ("http://127.0.0.1:9/x.jpg", "cannot be fetched"),
        ("https://[", "cannot be fetched"),
        (b"no picture", r"What was given is not a picture that can be read \(not an image\)"),
        (np.zeros((4, 4, 7)), r"shape \(4, 4, 7\) is not a picture"),
    ],
)
def test_what_is_no_photo_is_one_sentence(source, says):
    with pytest.raises(UserError, match=says) as told:
        open_photo(source)
    assert "\n" not in str(told.value)


# ---------------------------------------------------------------- the figure


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_the_figure_numbers_the_faces_and_has_a_row_for_each(couple):
    classifier = untrained()
    answered = classify_faces(classifier, couple)
    figure = plot_my_photo(classifier, answered)
    figure.canvas.draw()
    whole, *rows = figure.axes
    assert texts(whole) == ["1", "2"]
    for (left, top, right, bottom), patch in zip(answered.answers.box, whole.patches[::2], strict=True):
        corners = patch.get_xy()
        assert corners.min(axis=0) == pytest.approx((left, top), abs=1)
        assert corners.max(axis=0) == pytest.approx((right, bottom), abs=1)
    for index, (crop, seen, bars) in enumerate((rows[:3], rows[3:])):
        face = read_image(couple, 224, answered.faces[index])
        np.testing.assert_array_equal(crop.images[0].get_array(), face)
        assert_laid_over(seen, face)
        top = answered.answers.iloc[index][list(NAMES)].astype(float).nlargest(3)
        assert texts(bars) == [text for name, share in top.items() for text in (name, f"{share:.0%}")]
        np.testing.assert_allclose([bar.get_width() for bar in bars.patches], top)


def assert_laid_over(axis, picture):
    """One picture in which the map and what is below it are both seen, and a contour in it."""
    (laid,) = (np.asarray(image.get_array(), float) for image in axis.images)
    changed = np.abs(laid - picture).mean(axis=2)
    assert changed.max() > 20
    assert np.corrcoef(laid.ravel(), picture.ravel())[0, 1] > 0.5
    dark, light = axis.collections
    assert len(light.get_paths()[0].vertices) > 3
    np.testing.assert_array_equal(dark.get_paths()[0].vertices, light.get_paths()[0].vertices)


def test_the_figure_shows_a_photo_without_a_face_only_once_more(couple):
    classifier = untrained()
    answered = classify_faces(classifier, FLOWER)
    whole, seen, bars = plot_my_photo(classifier, answered).axes
    assert texts(whole) == [] and not whole.patches
    assert whole.images[0].get_array().shape == (427, 640, 3)
    assert_laid_over(seen, np.asarray(answered.photo))
    assert len(texts(bars)) == 6


def test_the_figure_of_many_faces_is_the_photo_and_a_grid_of_crops(couple):
    classifier = untrained()
    crowd = Image.new("RGB", (1000, 1000), "grey")
    for place in ((0, 0), (0, 500)):
        crowd.paste(couple, place)
    crowd.paste(couple.resize((500, 250)), (500, 400))  # over her shoulders, not her face
    answered = classify_faces(classifier, crowd)
    count = len(answered.faces)
    assert count > 4
    figure = plot_my_photo(classifier, answered)
    figure.canvas.draw()
    whole, *grid = figure.axes
    assert texts(whole) == [str(number) for number in range(1, count + 1)]
    assert whole.get_window_extent().width > 0.6 * figure.bbox.width
    shown = [axis for axis in grid if axis.images]
    assert len(shown) == count
    for axis, answer, face in zip(shown, answered.answers.itertuples(), answered.faces, strict=True):
        assert axis.get_title() == f"{answer.Index} {answer.emotion}\n{answer.confidence:.0%}"
        np.testing.assert_array_equal(axis.images[0].get_array(), read_image(crowd, 224, face))
    number = [answer.box for answer in answered.answers.itertuples()]
    assert number[0][1] < number[-1][1]  # from the top
