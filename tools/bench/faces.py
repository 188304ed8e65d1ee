"""Measures the search for faces: `python -m tools.bench.faces --photos DIR`.

DIR holds photos that a face fills, such as FER2013's test photos. Each is laid on a photo without faces, at
several sizes and angles; printed are how many faces are found in their place, how far the angle is off from
the one found at 0°, and the photos per second; then the false alarms in parts of photos without faces.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_sample_images

from emo.data.faces import find_faces

VIEWS = [(200, 0), (48, 0), (96, 0), *((200, angle) for angle in (15, -15, 30, -30, 45, -45))]
BACKGROUNDS = [Image.fromarray(image) for image in load_sample_images().images]  # a flower and a temple


def on_background(face: Image.Image, side: int, angle: int) -> tuple[Image.Image, float, float]:
    """`face` at `side` pixels, turned clockwise, somewhere on a photo 1.5 to 3 times as large; its centre."""
    width, height = (round(side * random.uniform(1.5, 3)) for _ in range(2))
    photo = random.choice(BACKGROUNDS).resize((width, height))
    x, y = (random.uniform(0.72 * side, length - 0.72 * side) for length in (width, height))
    face = face.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
    face = face.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
    photo.paste(face, (round(x - face.width / 2), round(y - face.height / 2)), face)
    return photo, x, y


def measure(photos: list[tuple[Image.Image, float, float]], side: int) -> tuple[pd.DataFrame, float]:
    """The faces found in their place, by the photo's number, and the seconds it took."""
    started = time.perf_counter()
    faces = find_faces([photo for photo, _, _ in photos])
    seconds = time.perf_counter() - started
    sizes = np.array([photo.size for photo, _, _ in photos])
    longer = sizes.max(axis=1)
    centres = sizes / 2 + faces[["x", "y"]].to_numpy() * longer[:, None]
    away = np.hypot(*(centres - [[x, y] for _, x, y in photos]).T)
    return faces[(away < 0.3 * side) & (faces.side * longer).between(0.3 * side, 1.6 * side)], seconds


def main() -> None:
    """Prints the figures for the photos of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos that a face fills")
    parser.add_argument("--count", type=int, default=300)
    arguments = parser.parse_args()
    random.seed(0)
    files = sorted(arguments.photos.rglob("*.jpg"))
    faces = [Image.open(file) for file in random.sample(files, arguments.count)]
    find_faces(faces[:1])  # loads the detector

    found, seconds = measure([(face, face.width / 2, face.height / 2) for face in faces], faces[0].width)
    print(f"as they are: {len(found) / len(faces):.1%} found, {len(faces) / seconds:.0f} photos per second")
    level = None
    for side, angle in VIEWS:
        found, seconds = measure([on_background(face, side, angle) for face in faces], side)
        level = found.angle if level is None else level
        off = ((found.angle - angle - level + 180) % 360 - 180).abs().dropna()
        print(
            f"{side:3} px, {angle:3}°: {len(found) / len(faces):.1%} found, angle off by {off.median():.1f}° "
            f"(90% within {off.quantile(0.9):.1f}°), {len(faces) / seconds:.0f} photos per second"
        )
    empty = []
    for _ in faces:
        photo, side = random.choice(BACKGROUNDS), random.randint(64, 427)
        left, top = (random.randint(0, length - side) for length in photo.size)
        empty.append(photo.crop((left, top, left + side, top + side)))
    print(f"false alarms: {(find_faces(empty).faces > 0).sum()} in {len(empty)} photos without a face")


if __name__ == "__main__":
    main()
