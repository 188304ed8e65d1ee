"""Webcam and upload: the script in a real browser with a made-up camera, the rest in a stand-in for Colab."""

import base64
import shutil
import sys
import types
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from emo.errors import UserError
from emo.inference.webcam import SNAPSHOT, ask_for_photo, is_upload_button, take_photo, upload_photo


@pytest.fixture
def colab(monkeypatch):
    """A stand-in for `google.colab`, with what Colab's own has of `output` and `files`."""
    modules = {name: types.ModuleType(name) for name in ("google.colab", "google.colab.output")}
    modules["google.colab.files"] = types.ModuleType("google.colab.files")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["google.colab"].output = modules["google.colab.output"]
    modules["google.colab"].files = modules["google.colab.files"]
    if "google" not in sys.modules:
        monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    return modules["google.colab"]


def jpeg() -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 48), "teal").save(file, "JPEG")
    return file.getvalue()


def test_a_snapshot_comes_back_as_a_jpeg(colab):
    asked = []

    def eval_js(script):
        asked.append(script)
        return {"photo": "data:image/jpeg;base64," + base64.b64encode(jpeg()).decode()}

    colab.output.eval_js = eval_js
    assert ask_for_photo("webcam") == jpeg()
    assert asked == [f"({SNAPSHOT})()"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"problem": "NotAllowedError"}, "does not let this page use the camera; allow it"),
        ({"problem": "NotFoundError"}, "no camera here"),
        ({"problem": "NotReadableError"}, "busy"),
        ({"problem": "cancelled"}, "No photo was taken"),
        ({"problem": "OverconstrainedError"}, r"gave no photo \(OverconstrainedError\)"),
        (None, "the browser did not answer"),
        (RuntimeError("Error: no session"), "no session"),
    ],
)
def test_no_snapshot_is_one_sentence(colab, answer, says):
    def eval_js(script):
        if isinstance(answer, Exception):
            raise answer
        return answer

    colab.output.eval_js = eval_js
    with pytest.raises(UserError, match=says) as told:
        take_photo()
    assert "\n" not in str(told.value)


def test_a_file_uploaded_in_colab_leaves_no_copy(colab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def upload():  # Colab's saves a copy where the notebook runs
        Path("me.jpg").write_bytes(jpeg())
        return {"me.jpg": jpeg()}

    colab.files.upload = upload
    assert ask_for_photo("upload") == jpeg()
    assert list(tmp_path.iterdir()) == [] and Path.cwd() == tmp_path
    colab.files.upload = dict
    with pytest.raises(UserError, match="No file was chosen"):
        upload_photo()
    assert Path.cwd() == tmp_path


def test_elsewhere_the_ways_that_work_are_named():
    with pytest.raises(UserError, match="in Colab only; upload a photo, or give a path or URL"):
        ask_for_photo("webcam")
    with pytest.raises(UserError, match="to a notebook only; give its path or URL"):
        ask_for_photo("upload")
    assert ask_for_photo("photo.jpg") == "photo.jpg"
    assert ask_for_photo("") == ""
    assert not is_upload_button("photo.jpg")


# ---------------------------------------------------------------- in a browser

PAGE = """<!doctype html><title>output</title><body><script>
window.google = {colab: {output: {setIframeHeight: (height) => { window.height = height; }}}};
</script></body>"""
FAKE = ["--no-sandbox", "--use-fake-device-for-media-stream"]


@pytest.fixture
def open_page():
    """Opens a page as Colab's outputs are in a Chromium with the given switches."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with api.sync_playwright() as playwright:
        browsers = []

        def open_(*switches):
            browsers.append(playwright.chromium.launch(executable_path=chromium, args=[*FAKE, *switches]))
            page = browsers[-1].new_page()
            page.set_default_timeout(60_000)
            # browsers give cameras to secure pages only, of which localhost is one
            page.route("http://localhost/", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
            page.goto("http://localhost/")
            return page

        yield open_
        for browser in browsers:
            browser.close()


@pytest.mark.slow
def test_the_button_takes_what_the_camera_shows_and_the_camera_goes_off(open_page):
    page = open_page("--use-fake-ui-for-media-stream")
    page.evaluate(f"() => {{ window.answer = ({SNAPSHOT})(); }}")
    page.get_by_text("Take the photo").wait_for()
    assert page.evaluate("window.height") > 100
    page.wait_for_function("document.querySelector('video').videoWidth > 0")
    page.evaluate("() => { window.track = document.querySelector('video').srcObject.getTracks()[0]; }")
    page.get_by_text("Take the photo").click()
    photo = page.evaluate("window.answer")["photo"]
    assert photo.startswith("data:image/jpeg;base64,")
    with Image.open(BytesIO(base64.b64decode(photo.partition(",")[2]))) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 240
        assert picture.convert("L").getextrema()[1] > 60  # not black
    assert page.evaluate("window.track.readyState") == "ended"
    assert page.locator("video, button").count() == 0


@pytest.mark.slow
def test_cancel_and_a_camera_that_is_not_allowed(open_page):
    page = open_page("--use-fake-ui-for-media-stream")
    page.evaluate(f"() => {{ window.answer = ({SNAPSHOT})(); }}")
    page.get_by_text("Cancel").click()
    assert page.evaluate("window.answer") == {"problem": "cancelled"}
    assert page.locator("video, button").count() == 0
    denied = open_page("--deny-permission-prompts")
    assert denied.evaluate(f"({SNAPSHOT})()") == {"problem": "NotAllowedError"}
    without = open_page("--deny-permission-prompts")
    without.goto("data:text/html,<body>")  # no secure page
    assert "problem" in without.evaluate(f"({SNAPSHOT})()")
