"""Measures the live page: `python -m tools.bench.live_page` (or `--model FILE`).

Printed are the frames per second that one camera and several at once get, from a frame that is sent to its
boxes; the seconds for one uploaded photo, without and with Grad-CAM; and those until the last of ten visitors
has the answer to a photo sent at once. All over HTTP on this machine, with a drawn face of the sample set; a
browser on the same machine takes its own share of the processor.
"""

import argparse
import json
import tempfile
import threading
import time
import uuid
import zipfile
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import requests
from PIL import Image

from emo.paths import PROJECT_ROOT

DRAWN = "happy/happy_0003", "fear/fear_0002"  # of the sample set's test photos: drawn faces that are found
SIZE, SIDE = (640, 480), 260  # pixels of a frame and of a face in it

WALL = "#cfe9e0"  # the background of those two


def drawn_frame(*lefts: int) -> Image.Image:
    """What a camera would see: a drawn face or both, at so many pixels from the left."""
    with zipfile.ZipFile(PROJECT_ROOT / "data" / "sample.zip") as archive:
        photos = [Image.open(BytesIO(archive.read(f"test/{name}.jpg"))).convert("RGB") for name in DRAWN]
    frame = Image.new("RGB", SIZE, WALL)
    for photo, left in zip(photos, lefts, strict=False):
        frame.paste(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, (SIZE[1] - SIDE) // 2))
    return frame


class Camera:
    """A visitor's camera, as the page's script sends it: `show` frames, `answers` come in as they may.

    An answer is (seconds since 1970, SVG of the boxes, cards).
    """

    def __init__(self, page, model: str, limit: float = 0.0):
        self.api, self.options = f"{page.local_url}gradio_api", [model, limit, None]
        self.number = next(d["id"] for d in page.config["dependencies"] if d["api_name"] == "live")
        self.session, self.event, self.answers = uuid.uuid4().hex, "", []
        self.came = threading.Condition()

    def show(self, frame: Image.Image) -> None:
        """Sends a frame; the first one joins the queue."""
        file = BytesIO()
        frame.save(file, "JPEG")
        picture = {"url": f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"}
        sent = {"data": [picture, *self.options], "fn_index": self.number, "session_hash": self.session}
        if self.event:
            requests.post(f"{self.api}/stream/{self.event}", json=sent, timeout=60).raise_for_status()
        else:
            self.event = requests.post(f"{self.api}/queue/join", json=sent, timeout=60).json()["event_id"]
            threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, count: int, seconds: float = 60.0) -> None:
        """Until there are so many answers, or the time is over."""
        with self.came:
            self.came.wait_for(lambda: len(self.answers) >= count, seconds)

    def stop(self) -> None:
        """Ends the stream."""
        requests.post(f"{self.api}/stream/{self.event}/close", timeout=60)

    def _listen(self) -> None:
        told = {"session_hash": self.session}
        with requests.get(f"{self.api}/queue/data", params=told, stream=True, timeout=600) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix(b"data: ")) if line else {}
                if message.get("msg") == "process_streaming":
                    with self.came:
                        self.answers.append((time.time(), *message["output"]["data"][:2]))
                        self.came.notify()


def measure_cameras(page, model: str, count: int, answers: int = 20) -> float:
    """Frames per second that each of `count` cameras gets, the mean over them."""
    frames = [drawn_frame(left) for left in range(20, 320, 15)]

    def look(_) -> float:
        camera = Camera(page, model)
        for number in range(answers + 1):
            camera.show(frames[number % len(frames)])
            camera.wait(number + 1)
        camera.stop()
        first, last = camera.answers[0][0], camera.answers[-1][0]
        return (len(camera.answers) - 1) / (last - first)

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(look, range(count))) / count


def measure_photos(page, model: str, visitors: int, where: bool = False) -> float:
    """Seconds until the last of the visitors has the answer to a photo that all send at once."""
    from gradio_client import Client, handle_file

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(visitors) as pool:
        photo = Path(folder, "photo.jpg")
        drawn_frame(100).save(photo)
        clients = list(pool.map(lambda _: Client(page.local_url, verbose=False), range(visitors)))
        started = time.perf_counter()
        asked = [handle_file(str(photo)), model, 0.0, where]
        answers = list(pool.map(lambda client: client.predict(*asked, api_name="/photo"), clients))
        seconds = time.perf_counter() - started
    assert all("<h3>" in answer for answer in answers)
    return seconds


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emo_mini", help="a .h5, or its name in model/")
    from emo.inference.live_page import open_page

    page = open_page(parser.parse_args().model)
    model = next(part["props"]["value"] for part in page.config["components"] if part["type"] == "dropdown")
    for count in (1, 10):
        rate = measure_cameras(page, model, count)
        print(f"{count} camera(s): {rate:.1f} frames per second each")
    measure_photos(page, model, 1, where=True)  # builds what Grad-CAM needs
    for visitors, where in ((1, False), (1, True), (10, False)):
        seconds = min(measure_photos(page, model, visitors, where) for _ in range(3))
        print(f"{visitors} photo(s) at once{', with Grad-CAM' * where}: {seconds:.2f} s")
    page.close(verbose=False)


if __name__ == "__main__":
    main()
