"""The page as a visitor has it: a real server, asked by Gradio's client and by Chromium."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image

pytest.importorskip("gradio")

from gradio_client import Client, handle_file

from emo.errors import UserError
from emo.inference import live_page
from emo.inference.classifier import load_classifier
from emo.inference.live_page import demo, open_page
from emo.inference.photo import classify_faces
from emo.paths import EMO_MINI, PROJECT_ROOT
from tests.inference.test_video import classifier
from tools.bench.live_page import SIDE, SIZE, Camera, drawn_frame
from tools.readme.live_page import chromium, find_chromium, start_camera, write_video


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Where Gradio keeps files."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def page(uploads):
    """A page with two models, the first of which answers by brightness and says below what to abstain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        means = classifier({"abstain_below": 0.3759987})
        opened = open_page([means, EMO_MINI])
        yield opened
        opened.close(verbose=False)


@pytest.fixture(scope="module")
def client(page):
    return Client(page.local_url, verbose=False)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photo") / "drawn.png"
    drawn_frame(100).save(file)
    return file


def answer(client, file, limit=0.0, where=False, model=EMO_MINI.name) -> str:
    return client.predict(handle_file(str(file)), model, limit, where, api_name="/photo")


def bars(html: str) -> list[tuple[str, int]]:
    """The emotions of the answer and their percent, as they are shown."""
    return [(name, int(share)) for name, share in re.findall(r"<span>(\w+)</span><i></i><b>(\d+)%</b>", html)]


def corners(html: str) -> list[list[tuple[float, float]]]:
    """Those of each box."""
    drawn = re.findall(r'<polygon points="([^"]+)"', html)
    return [[tuple(map(float, point.split(","))) for point in points.split()] for points in drawn]


def test_a_photo_gets_its_box_and_the_top_three_of_the_model(client, photo):
    html = answer(client, photo)
    expected = classify_faces(load_classifier(EMO_MINI), photo)
    probabilities = expected.answers.iloc[0, 3:].astype(float).nlargest(3)
    assert bars(html) == [(name, round(100 * share)) for name, share in probabilities.items()]
    assert "<h3>happy</h3>" in html and ">happy</text>" in html
    (box,) = corners(html)
    assert box == [pytest.approx(corner, abs=0.1) for corner in expected.faces[0].corners(SIZE)]


def test_another_model_answers_too_and_tells_the_confidence_of_its_file(page, client, photo):
    html = answer(client, photo, model="means.h5")
    assert [name for name, _ in bars(html)] == ["bright", "dark", "ярко"]
    assert sum(share for _, share in bars(html)) == pytest.approx(100, abs=1)
    limits = [part["props"]["value"] for part in page.config["components"] if part["type"] == "slider"]
    assert limits == [0.38]  # two decimals: more would not fit


def test_below_the_confidence_it_is_not_sure_and_shows_the_bars(client, photo):
    sure = answer(client, photo)
    unsure = answer(client, photo, limit=1.0)
    assert "<h3>not sure</h3>" in unsure and ">not sure</text>" in unsure and "<h3>happy" not in unsure
    assert bars(unsure) == bars(sure)


def test_where_it_looks_is_shown_on_request(client, photo):
    assert "where the model looks" not in answer(client, photo)
    assert answer(client, photo, where=True).count('<img alt="where the model looks"') == 1
    assert "has no feature map" in answer(client, photo, where=True, model="means.h5")


def test_without_a_face_the_whole_photo_is_answered_and_it_is_said(client, tmp_path):
    Image.new("RGB", (200, 100), "navy").save(tmp_path / "blue.png")
    html = answer(client, tmp_path / "blue.png")
    assert live_page.WHOLE in html and not corners(html) and len(bars(html)) == 3


@pytest.mark.parametrize("content", [b"no picture", b"", b"<svg onload=alert(1)>"])
def test_what_is_no_picture_gets_a_sentence(client, tmp_path, content):
    (tmp_path / "notes.png").write_bytes(content)
    html = answer(client, tmp_path / "notes.png")
    assert re.fullmatch(r'<p class="said">notes\.png is not a picture that can be read \([^<]+\.</p>', html)


def test_an_upload_that_was_deleted_meanwhile_gets_a_sentence(page, client, uploads, photo):
    api = f"{page.local_url}gradio_api"
    with photo.open("rb") as file:
        (sent,) = requests.post(f"{api}/upload", files={"files": file}, timeout=60).json()
    assert Path(sent).is_relative_to(uploads)
    Path(sent).unlink()
    asked = {"data": [{"path": sent, "meta": {"_type": "gradio.FileData"}}, EMO_MINI.name, 0.0, False]}
    event = requests.post(f"{api}/call/photo", json=asked, timeout=60).json()["event_id"]
    assert live_page.GONE in requests.get(f"{api}/call/photo/{event}", timeout=60).text


def test_ten_visitors_at_once_are_all_answered(page, photo):
    with ThreadPoolExecutor(10) as pool:
        clients = list(pool.map(lambda _: Client(page.local_url, verbose=False), range(10)))
        answers = list(pool.map(lambda client: answer(client, photo), clients))
    assert len(set(answers)) == 1 and "<h3>happy</h3>" in answers[0]


def test_a_camera_gets_boxes_where_its_newest_frame_has_the_face(page, uploads):
    kept = set(uploads.rglob("*"))
    camera = Camera(page, EMO_MINI.name)
    camera.show(drawn_frame(0))
    camera.wait(1)
    for left in range(10, 310, 10):  # far more frames than it can look at meanwhile
        camera.show(drawn_frame(left))
    sent = len(camera.answers)
    camera.wait(sent + 2, seconds=5)
    camera.stop()
    first, last = camera.answers[0], camera.answers[-1]
    assert sent < 30  # none waited but the newest
    (start,), (end,) = corners(first[1]), corners(last[1])
    assert end[0][0] - start[0][0] == pytest.approx(300, abs=40)  # a drawn face's box wobbles
    assert "<h3>happy</h3>" in last[2] and len(bars(last[2])) == 3 and "frames per second" in last[2]
    assert set(uploads.rglob("*")) == kept  # nothing was written


def test_a_camera_without_a_face_is_told(page):
    camera = Camera(page, EMO_MINI.name)
    camera.show(Image.new("RGB", SIZE, "navy"))
    camera.wait(1)
    camera.stop()
    assert camera.answers[0][1] == "" and live_page.NO_FACE in camera.answers[0][2]


def test_the_page_counts_no_visitors_and_lets_the_browser_ask_nobody_else(page):
    answered = requests.get(page.local_url, timeout=60)
    assert answered.headers["content-security-policy"].startswith("default-src 'self' ")
    assert page.analytics_enabled is False and not page.config.get("run_history")  # which Gradio 5 lacks
    assert "An expression is not a feeling" in answered.text


def test_what_cannot_be_opened_is_a_sentence(page, monkeypatch):
    with pytest.raises(UserError, match=f"Port {page.server_port} is taken"):
        demo(EMO_MINI, port=page.server_port)
    with pytest.raises(UserError, match="There is no model nothing"):
        demo(["emo_mini", "nothing"])
    with pytest.raises(UserError, match="give a classifier"):
        demo([])
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    with pytest.raises(UserError, match="needs the package gradio; run `pip install gradio`"):
        demo()


@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_leaves_no_upload(tmp_path, photo):
    command = [sys.executable, "-m", "emo", "demo", "--model", "emo_mini", "--model", str(EMO_MINI)]
    places = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=PROJECT_ROOT, env=places, **streams) as running:
        try:
            address = re.search(r"http://\S+", running.stdout.readline()).group()
            client = Client(address, verbose=False)
            assert "<h3>happy</h3>" in answer(client, photo, model=f"{EMO_MINI.name} (2)")
            assert list(tmp_path.rglob("*.png"))
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130 and "Traceback" not in said
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_chromium_a_camera_gets_boxes_and_an_answer(width, page, tmp_path):
    if find_chromium() is None:
        pytest.skip("needs Chromium and the Python package playwright")
    write_video(tmp_path / "camera.mjpeg", 60)
    asked = []
    with chromium(tmp_path / "camera.mjpeg") as browser:
        tab = browser.new_page(viewport={"width": width, "height": 844})
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.local_url)
        start_camera(tab)
        assert tab.get_by_text("An expression is not a feeling").is_visible()
        tab.wait_for_timeout(8_000)
        rate = tab.locator(".rate").inner_text()
        print(f"\n{width} px: {rate}")
        assert float(rate.split()[0]) > 0.5
        assert tab.locator("#cards .bar").count() == 3
        seen, drawn, box = (
            tab.locator(of).first.bounding_box() for of in ("#camera video", "#boxes svg", "#boxes polygon")
        )
        assert [drawn[side] for side in drawn] == pytest.approx([seen[side] for side in seen], abs=2)
        # the page shows a camera as a mirror does: the face, left in the video, is on the right
        middle = (box["x"] + box["width"] / 2 - seen["x"]) / seen["width"]
        assert middle == pytest.approx(1 - (60 + SIDE / 2) / SIZE[0], abs=0.08)
        tab.locator("#camera").get_by_text("Stop").click()
        tab.locator("#boxes svg").wait_for(state="hidden")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("Object.keys(localStorage).length") == 0
    assert len(asked) > 20 and all(url.startswith((page.local_url, "data:", "blob:")) for url in asked)


@pytest.mark.slow
def test_in_chromium_a_photo_is_answered_and_what_is_none_gets_a_sentence(page, photo, tmp_path):
    if find_chromium() is None:
        pytest.skip("needs Chromium and the Python package playwright")
    write_video(tmp_path / "camera.mjpeg", 60)
    (tmp_path / "notes.png").write_bytes(b"no picture")
    with chromium(tmp_path / "camera.mjpeg") as browser:
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.set_default_timeout(60_000)
        tab.goto(page.local_url)
        tab.get_by_role("tab", name="Photo").click()
        upload = tab.locator("#photo input[type=file]")
        upload.set_input_files(photo)
        tab.locator("#answer polygon").wait_for()
        tab.locator("#where input").check()
        tab.get_by_text("has no feature map").wait_for()
        tab.locator("#model input").click()
        tab.get_by_role("option", name=EMO_MINI.name).click()
        tab.get_by_alt_text("where the model looks").wait_for()
        assert tab.locator("#answer h3").inner_text() == "happy"
        assert tab.locator("#limit input[type=number]").input_value() == "0"  # this model's file tells none
        tab.get_by_label("Remove Image").or_(tab.get_by_label("Clear")).first.click()
        tab.locator("#answer h3").wait_for(state="hidden")
        upload.set_input_files(tmp_path / "notes.png")
        tab.get_by_text("notes.png is not a picture that can be read").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_uploads_are_deleted_while_the_page_is_open(tmp_path, photo, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(live_page, "KEPT", (1, 2))  # seconds, as nobody waits ten minutes
    opened = open_page(EMO_MINI)
    answer(Client(opened.local_url, verbose=False), photo)
    assert list(tmp_path.rglob("*.png"))
    for _ in range(100):
        time.sleep(0.1)
        if not list(tmp_path.rglob("*.png")):
            break
    assert not list(tmp_path.rglob("*.png"))
    opened.close(verbose=False)
