"""How right is the embedded model on people it has never seen? `python -m tools.bench.embedded --project DIR`

DIR is a project with several datasets, each with photos held out to test (`fetch_dataset(…, add=…)`, then the
prep notebook's split). Prints, per dataset: accuracy and calibration error of the photos as they are; then
those of altered ones, whose faces are found as `classify_faces` does: laid on a larger photo, turned,
recoloured, compressed, shrunk; the accuracy by the margin around a found face; and how often something else
is taken for one. With --other NAME=FILE another `.h5` answers for the same photos: ours, or a third-party one
of FER2013's classes in its order.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from tqdm.auto import tqdm

from emo.data.faces import face_crops, find_faces
from emo.data.image_io import whole_image
from emo.data.split import held_out_manifest
from emo.data.vocabulary import FER2013
from emo.environment import device_name, versions
from emo.evaluation.evaluate import Report, evaluate, percent, report
from emo.inference.classifier import FACE_MARGIN, load_classifier
from emo.inference.predictor import Predictor
from emo.models.saving import read_metadata
from emo.paths import EMO_MINI, get_paths
from tools.readme.markdown import markdown

PIECES = 150
MARGINS = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.2)
BACKGROUNDS = [Image.fromarray(image) for image in load_sample_images().images]  # a flower and a temple
Draw = np.random.Generator


def on_background(face: Image.Image, draw: Draw, angle: float = 0.0) -> Image.Image:
    """The photo enlarged to 200 px, turned, somewhere on one without faces, twice to three times as large."""
    face = face.convert("RGBA").resize((200, 200), Image.Resampling.BICUBIC)
    face = face.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    width, height = (int(draw.uniform(400, 600)) for _ in range(2))
    photo = BACKGROUNDS[draw.integers(len(BACKGROUNDS))].resize((width, height))
    place = (int(draw.integers(width - face.width)), int(draw.integers(height - face.height)))
    photo.paste(face, place, face)
    return photo


def recoloured(face: Image.Image, draw: Draw) -> Image.Image:
    """Brightness, contrast and the balance of the colours changed by up to 30%."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast):
        face = kind(face).enhance(draw.uniform(0.7, 1.3))
    balance = draw.uniform(0.7, 1.3, 3)
    return Image.fromarray((np.asarray(face) * balance).clip(0, 255).astype(np.uint8))


def compressed(face: Image.Image, draw: Draw) -> Image.Image:
    """A JPEG of quality 20 to 40."""
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=int(draw.integers(20, 41)))
    return Image.open(buffer).convert("RGB")


def resized(face: Image.Image, side: int) -> Image.Image:
    """Shrunk to that side in pixels."""
    return face.resize((side, side), Image.Resampling.LANCZOS)


ALTERATIONS: dict[str, Callable[[Image.Image, Draw], Image.Image]] = {
    "laid on a larger photo": on_background,
    "the same, turned by up to 20°": lambda face, draw: on_background(face, draw, draw.uniform(-20, 20)),
    "the same, recoloured": lambda face, draw: on_background(recoloured(face, draw), draw),
    "the same, compressed": lambda face, draw: compressed(on_background(face, draw), draw),
    "the same, from 40 px": lambda face, draw: on_background(resized(face, 40), draw),
}


def answered(classifier: Predictor, pictures: list, faces: list, photos: pd.DataFrame) -> Report:
    """The report on pictures of those photos, each seen at its face."""
    answers = classifier.predict(pictures, faces).assign(path=photos.path.to_numpy())
    answers.insert(1, "label", photos.label.to_numpy())
    return report(answers, classifier.class_names)


def altered(classifiers: dict[str, Predictor], photos: pd.DataFrame) -> list[tuple]:
    """Rows (what, who, report) of the photos altered in each way, and by the margin where they are large."""
    faces = [whole_image(path, 2048) for path in tqdm(photos.path, desc="Opening", unit="photo")]
    rows = []
    for what, alter in ALTERATIONS.items():
        draw = np.random.default_rng(0)
        pictures = [alter(face, draw) for face in faces]
        found = face_crops(find_faces(pictures), 0.0)
        seen = f"{what} ({np.mean([crop is not None for crop in found]):.0%} of the faces found)"
        for who, classifier in classifiers.items():
            rows.append((seen, who, answered(classifier, pictures, found, photos)))
        if what == next(iter(ALTERATIONS)):
            who, classifier = next(iter(classifiers.items()))
            for margin in MARGINS:
                # of the crop that the classifier will widen by FACE_MARGIN
                extra = ((1 + 2 * margin) / (1 + 2 * FACE_MARGIN) - 1) / 2
                around = [crop and crop.with_margin(extra) for crop in found]
                rows.append((f"margin {margin:+.2f}", who, answered(classifier, pictures, around, photos)))
    return rows


def wrongly_found() -> int:
    """How many of PIECES of photos without a face are taken for one."""
    draw, pieces = np.random.default_rng(0), []
    for number, side in enumerate(draw.integers(100, 400, PIECES)):
        background = BACKGROUNDS[number % len(BACKGROUNDS)]
        left, top = draw.integers(background.width - side), draw.integers(background.height - side)
        pieces.append(background.crop((left, top, left + side, top + side)))
    return int((find_faces(pieces).faces > 0).sum())


def main() -> None:
    """Prints a table per dataset."""
    options = argparse.ArgumentParser(prog="tools.bench.embedded", description=__doc__.splitlines()[0])
    options.add_argument(
        "--project", type=Path, required=True, help="a folder whose data/ has several datasets"
    )
    options.add_argument("--results", type=Path, help="where its split.csv lies, if elsewhere")
    options.add_argument("--model", type=Path, default=EMO_MINI, help="the .h5 (the embedded one)")
    options.add_argument(
        "--other", action="append", default=[], metavar="NAME=FILE", help="a third-party .h5"
    )
    options.add_argument("--altered", type=int, default=500, help="photos per dataset that are altered")
    chosen = options.parse_args()
    classifiers: dict[str, Predictor] = {chosen.model.stem: load_classifier(chosen.model)}
    for name, _, file in (other.partition("=") for other in chosen.other):
        facts = {} if read_metadata(Path(file)) else {"class_names": FER2013, "preprocessing": "tf"}
        classifiers[name] = load_classifier(file, **facts)
    held_out = held_out_manifest(get_paths(chosen.project, results=chosen.results))
    for source, photos in held_out.groupby("source"):
        some = photos.sample(min(chosen.altered, len(photos)), random_state=0)
        rows = [("as they are", who, evaluate(each, photos)) for who, each in classifiers.items()]
        rows += [("as they are, of those", who, evaluate(each, some)) for who, each in classifiers.items()]
        rows += altered(classifiers, some)
        table = [
            (what, who, f"{made.photos:,}", f"{made.accuracy:.1%}", percent(made.interval), f"{made.ece:.3f}")
            for what, who, made in rows
        ]
        head = [source, "model", "photos", "accuracy", "95% interval", "calibration error"]
        print(f"\n{markdown(head, table)}")
    print(f"\nOf {PIECES} pieces of photos without a face {wrongly_found()} are taken for one.")
    print(f"\n{device_name()} · {versions()}")


if __name__ == "__main__":
    main()
