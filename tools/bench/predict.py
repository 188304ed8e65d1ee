"""Measures prediction: `python -m tools.bench.predict` (or `--model FILE`).

Printed are the seconds from a saved `.h5` to the first answer in a fresh Python, beside plain Keras's; how
many photos of a folder `Classifier.predict` answers per second, and its ratio to the compiled network alone
on decoded pictures; and the same for one photo at a time.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

# two fresh processes: what each does between its imports and the first answer
OURS = """
from emo.inference.classifier import load_classifier

begun = time.perf_counter()
load_classifier(model).predict(photo)
"""
KERAS = """
begun = time.perf_counter()
network = keras.models.load_model(model, compile=False)
picture = np.asarray(Image.open(photo).convert("RGB").resize(network.input_shape[2:0:-1]))
network.predict_on_batch(picture[None])
"""
AROUND = """
import sys, time
import keras, numpy as np, tensorflow
from PIL import Image

model, photo = sys.argv[1:]
{}
print(time.perf_counter() - begun)
"""


def measure_start(model: Path, photo: Path, repeats: int = 3) -> tuple[float, float]:
    """(seconds of `load_classifier` and the first `predict`, seconds of Keras for the same), medians.

    Each in a process of its own, in turns, without the imports.
    """

    def answer(code: str) -> float:
        command = [sys.executable, "-c", AROUND.format(code), model, photo]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    turns = [(answer(OURS), answer(KERAS)) for _ in range(repeats)]
    return tuple(np.median(turns, axis=0))


def measure_folder(classifier, folder: Path, repeats: int = 3) -> tuple[float, float]:
    """(photos per second of `predict`, photos per second of the network alone), the best of `repeats`."""
    from emo.data.image_io import load_images
    from emo.inference.predictor import as_sources

    images = load_images(as_sources(folder), classifier.image_size)
    bare, whole = [], []
    classifier.probabilities(images[:1])  # builds the graph
    for _ in range(repeats):  # in turns: a machine may slow down
        bare.append(_seconds(lambda: forward(classifier, images)))
        whole.append(_seconds(lambda: classifier.predict(folder)))
    return len(images) / min(whole), len(images) / min(bare)


def measure_one(classifier, photo: Path, repeats: int = 50) -> tuple[float, float]:
    """(seconds of `predict` for one photo, seconds of the network alone), medians, warm."""
    from emo.data.image_io import load_images

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
    """`count` soft random JPEGs, some `side` pixels wide, about as large as photos of that size."""
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def write_model(file: Path, backbone: str, image_size: int) -> None:
    """An untrained network of the original project's, saved as `train` saves."""
    from dataclasses import asdict

    from emo.experiments import get_experiment
    from emo.models.build import build_model
    from emo.models.saving import save_model

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
    parser.add_argument("--side", type=int, default=400, help="their pixels per side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "photos")
        folder.mkdir()
        write_photos(folder, arguments.photos, arguments.side)
        photo, model = folder / "00000.jpg", arguments.model or Path(name, "model.h5")
        if not arguments.model:
            write_model(model, arguments.backbone, arguments.image_size)
        whole, bare = measure_start(model, photo)
        print(f"load and first photo: {whole:.2f} s, Keras alone {bare:.2f} s: {whole / bare:.3f}")
        from emo.inference.classifier import load_classifier

        classifier = load_classifier(model)
        whole, bare = measure_folder(classifier, folder)
        print(f"folder: {whole:.1f} photos per second, the network alone {bare:.1f}: {whole / bare:.3f}")
        whole, bare = measure_one(classifier, photo)
        print(f"one photo: {1000 * whole:.1f} ms, the network alone {1000 * bare:.1f} ms: {whole / bare:.3f}")


if __name__ == "__main__":
    main()
