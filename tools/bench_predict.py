"""Measures prediction: `python -m tools.bench_predict` (or `--model FILE`).

Printed are what share of the time from a fresh Python to the first answer is spent outside TensorFlow and
Keras; how many photos of a folder `Classifier.predict` answers a second, and its ratio to the compiled
network alone on decoded pictures; and the same for one photo at a time.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

EVERY = 0.002  # seconds between two looks at what Python is doing


@dataclass(frozen=True)
class Start:
    """Seconds from an import to the first answer, and of them those with no TensorFlow or Keras at work."""

    imports: float
    load: float
    first: float
    own_imports: float
    own_load: float
    own_first: float

    @property
    def own_share(self) -> float:
        """Of the loading and the first answer, without the imports."""
        return (self.own_load + self.own_first) / (self.load + self.first)


def measure_start(model: Path, photo: Path, repeats: int = 3) -> Start:
    """`load_classifier` and the first `predict` in a fresh process; of `repeats`, the median in our share."""
    command = [sys.executable, "-m", "tools.bench_predict", "--start", str(model), str(photo)]
    answers = [subprocess.run(command, check=True, capture_output=True).stdout for _ in range(repeats)]
    starts = sorted((Start(**json.loads(answer)) for answer in answers), key=lambda start: start.own_share)
    return starts[repeats // 2]


def start(model: Path, photo: Path) -> Start:
    """The same in this process, which must be a fresh one."""
    gc.disable()  # its pauses, a quarter of a second over TensorFlow's objects, fall on whoever is at work
    step, spent, stop = "imports", Counter(), threading.Event()
    main, theirs = threading.main_thread().ident, ("/tensorflow/", "/keras/")

    def watch() -> None:
        last = time.perf_counter()
        while not stop.wait(EVERY):
            frame, own = sys._current_frames()[main], True
            while frame and own:
                own = not any(package in frame.f_code.co_filename for package in theirs)
                frame = frame.f_back
            now = time.perf_counter()
            spent[step, own] += now - last
            last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    from emo.classifier import load_classifier

    step = "load"
    classifier = load_classifier(model)
    step = "first"
    classifier.predict(photo)
    stop.set()
    watcher.join()
    steps = ("imports", "load", "first")
    seconds = {step: spent[step, True] + spent[step, False] for step in steps}
    return Start(**seconds, **{f"own_{step}": spent[step, True] for step in steps})


def measure_folder(classifier, folder: Path, repeats: int = 3) -> tuple[float, float]:
    """(photos a second of `predict`, photos a second of the network alone), the best of `repeats`."""
    from emo.classifier import as_sources
    from emo.pipeline import load_images

    images = load_images(as_sources(folder), classifier.image_size)
    bare, whole = [], []
    classifier.probabilities(images[:1])  # builds the graph
    for _ in range(repeats):  # in turns: a machine may slow down
        bare.append(_seconds(lambda: forward(classifier, images)))
        whole.append(_seconds(lambda: classifier.predict(folder)))
    return len(images) / min(whole), len(images) / min(bare)


def measure_one(classifier, photo: Path, repeats: int = 50) -> tuple[float, float]:
    """(seconds of `predict` for one photo, seconds of the network alone), medians, warm."""
    from emo.pipeline import load_images

    image = load_images([photo], classifier.image_size)
    forward(classifier, image), classifier.predict(photo)
    bare, whole = [], []
    for _ in range(repeats):
        bare.append(_seconds(lambda: forward(classifier, image)))
        whole.append(_seconds(lambda: classifier.predict(photo)))
    return float(np.median(whole)), float(np.median(bare))


def forward(classifier, images: np.ndarray, batch_size: int = 64) -> None:
    """The bare network: Keras's own compiled forward pass, batch after batch."""
    for begin in range(0, len(images), batch_size):
        classifier.model.predict_on_batch(images[begin : begin + batch_size])


def write_photos(folder: Path, count: int, side: int) -> None:
    """`count` soft random JPEGs, some `side` pixels a side, about as large as photos of that size."""
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def write_model(file: Path, backbone: str, image_size: int) -> None:
    """An untrained network of the seed's, saved as `train` saves."""
    from dataclasses import asdict

    from emo.experiments import get_experiment
    from emo.model import build_model, save_model

    experiment = get_experiment("6", backbone=backbone, weights=None, image_size=image_size)
    metadata = {"class_names": [f"class {n}" for n in range(7)], "experiment": asdict(experiment)}
    save_model(build_model(experiment, 7), file, metadata)


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a .h5; else an untrained one is made")
    parser.add_argument("--backbone", default="xception")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--photos", type=int, default=1024, help="how many are made")
    parser.add_argument("--side", type=int, default=400, help="their pixels a side")
    parser.add_argument("--start", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        from dataclasses import asdict

        print(json.dumps(asdict(start(*arguments.start))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "photos")
        folder.mkdir()
        write_photos(folder, arguments.photos, arguments.side)
        photo, model = folder / "00000.jpg", arguments.model or Path(name, "model.h5")
        if not arguments.model:
            write_model(model, arguments.backbone, arguments.image_size)
        first = measure_start(model, photo)
        print(
            f"fresh start: imports {first.imports:.2f} s, load {first.load:.2f} s, first photo "
            f"{first.first:.2f} s; ours {first.own_share:.1%} of load and first photo"
        )
        from emo.classifier import load_classifier

        classifier = load_classifier(model)
        whole, bare = measure_folder(classifier, folder)
        print(f"folder: {whole:.1f} photos a second, the network alone {bare:.1f}: {whole / bare:.3f}")
        whole, bare = measure_one(classifier, photo)
        print(f"one photo: {1000 * whole:.1f} ms, the network alone {1000 * bare:.1f} ms: {whole / bare:.3f}")


if __name__ == "__main__":
    main()
