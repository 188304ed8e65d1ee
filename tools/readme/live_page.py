"""The picture of the live page, images/live_page.png: `python -m tools.readme.live_page`.

Needs a Chromium on the PATH and the Python package playwright, besides requirements-dev.txt. The camera is a
video of drawn faces of the sample set: no photo of a person.
"""

import contextlib
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from emo.inference.live_page import open_page
from emo.paths import EMO_MINI, PROJECT_ROOT
from tools.bench.live_page import drawn_frame
from tools.readme.screenshots import CHROMIUM_FLAGS

FIGURE = PROJECT_ROOT / "images" / "live_page.png"
WIDE, PHONE, GAP = (1000, 690), (390, 690), 30  # CSS px of the windows, and between them
SWAY, FRAMES = 6, 60  # pixels to either side, in a video that a camera repeats


def write_video(file: Path, *lefts: int) -> None:
    """Motion JPEG, as Chromium's fake camera takes it: the drawn faces, swaying a little."""
    with file.open("wb") as video:
        for number in range(FRAMES):
            away = round(SWAY * math.sin(2 * math.pi * number / FRAMES))
            drawn_frame(*(left + away for left in lefts)).save(video, "JPEG", quality=92)


def find_chromium() -> str | None:
    """The browser, where it and playwright are installed."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return None
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def chromium(video: Path) -> Iterator:
    """Playwright's browser, whose camera shows the video and asks nobody."""
    from playwright.sync_api import sync_playwright

    camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    camera.append(f"--use-file-for-fake-video-capture={video}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS + camera)
        yield browser
        browser.close()


def start_camera(tab) -> None:
    """What a visitor clicks; waits for the first boxes."""
    tab.set_default_timeout(120_000)
    camera = tab.locator("#camera")
    camera.get_by_text("Click to Access Webcam").click()
    camera.get_by_text("Record").click()
    tab.locator("#boxes polygon").first.wait_for()


def main() -> None:
    """Writes the picture: the page in a wide window and on a phone."""
    if find_chromium() is None:
        sys.exit("Install Chromium (apt install chromium) and playwright (pip install playwright) first.")
    page = open_page(EMO_MINI)
    shots = []
    with tempfile.TemporaryDirectory() as folder:
        video, photo = Path(folder, "camera.mjpeg"), Path(folder, "photo.jpg")
        write_video(video, 40, 340)
        drawn_frame(100).save(photo, quality=95)
        with chromium(video) as browser:
            tab = browser.new_page(viewport=dict(zip(("width", "height"), WIDE, strict=True)))
            tab.goto(page.local_url)
            start_camera(tab)
            tab.wait_for_timeout(10_000)  # for the rate of a stream that runs
            tab.locator("#boxes polygon").nth(1).wait_for()
            shots.append(tab.screenshot())
            tab.close()
            tab = browser.new_page(viewport=dict(zip(("width", "height"), PHONE, strict=True)))
            tab.goto(page.local_url)
            tab.get_by_role("tab", name="Photo").click()
            tab.locator("#photo input[type=file]").set_input_files(photo)
            tab.locator("#where input").check()
            tab.locator("#answer .card img").wait_for()
            tab.locator("#answer").evaluate("answer => answer.scrollIntoView(false)")  # its end at the bottom
            tab.wait_for_timeout(1000)
            shots.append(tab.screenshot())
    page.close(verbose=False)
    wide, phone = (Image.open(BytesIO(shot)).convert("RGB") for shot in shots)
    figure = Image.new("RGB", (wide.width + GAP + phone.width, wide.height), "#d4d4d8")
    figure.paste(wide)
    figure.paste(phone, (wide.width + GAP, 0))
    figure.quantize(256).save(FIGURE, optimize=True)
    print(f"{FIGURE.relative_to(PROJECT_ROOT)}: {FIGURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
