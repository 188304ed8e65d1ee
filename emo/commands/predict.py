"""`emo predict`: classify the faces in a photo, or each photo of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emo.commands.quick import import_keras
from emo.commands.shared import add_json, add_model, open_model
from emo.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "predict",
        help="classify the faces in a photo, or each photo of a folder",
        description="Classifies every face in a photo, or each photo of a folder as a whole.",
    )
    command.add_argument("photo", metavar="PHOTO", help="a file, a folder or a URL")
    add_model(command)
    command.add_argument(
        "--faces", action="store_true", help="crop photos with exactly one face to that face (folders only)"
    )
    command.add_argument("--csv", type=Path, metavar="FILE", help="write a table with all probabilities")
    add_json(command, "all probabilities, one row per face,")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str:
    """A table of the answers, or the path of the CSV."""
    _check(chosen)
    table = _answers(chosen)
    if chosen.csv:
        from emo.files import write_bytes
        from emo.paths import free_path

        file = free_path(chosen.csv)
        write_bytes(file, table.to_csv(index=False, lineterminator="\n").encode("utf-8-sig"))  # for Excel
        return str(file)
    if chosen.json:
        return table.to_json(orient="records", force_ascii=False)
    shown = table[table.columns[: list(table.columns).index("confidence") + 1]]
    return shown.to_string(index=False, float_format="{:.3f}".format)


def _check(chosen: argparse.Namespace) -> None:
    """Raises UserError, before the long imports, for what cannot be meant."""
    if not chosen.photo.strip():  # pathlib would take it for the current folder
        raise UserError("PHOTO is empty: give a file, a folder or a web address.")
    if chosen.csv and chosen.csv.is_dir():
        raise UserError(
            f"--csv {chosen.csv} is a folder: give a file in it, as {chosen.csv / 'answers.csv'}."
        )
    if chosen.csv and chosen.json:
        raise UserError("--csv writes a table and --json prints one: choose one of them.")
    if chosen.faces and ("://" in chosen.photo or Path(chosen.photo).is_file()):
        raise UserError("--faces is for a folder; in a single photo all faces are found without it.")


def _answers(chosen: argparse.Namespace) -> pd.DataFrame:
    """A row per face, or per photo of a folder: path, face and box, emotion, confidence, each class.

    `box` counts the pixels of the photo as it is, upright; `faces`, with --faces, is how many were found.
    """
    import_keras()

    from emo.data.faces import face_crops, find_faces, summarize_faces
    from emo.data.manifest import printable
    from emo.inference.photo import classify_faces, open_photo
    from emo.inference.predictor import as_sources

    classifier = open_model(chosen)
    if not Path(chosen.photo).is_dir():
        photo = open_photo(chosen.photo, limit=2**16)
        answered = classify_faces(classifier, photo)
        answers = answered.answers.reset_index()
        scale = photo.width / answered.photo.width
        answers["box"] = [tuple(round(edge * scale) for edge in box) for box in answers.box]
        answers.insert(0, "path", printable(chosen.photo))
        return answers
    photos = as_sources(chosen.photo)
    found = find_faces(photos) if chosen.faces else None
    answers = classifier.predict(photos, None if found is None else face_crops(found, margin=0.0))
    answers["path"] = answers.path.map(printable)
    if found is not None:
        answers.insert(1, "faces", found.faces)
        print(f"Faces: {summarize_faces(found)}.")
    return answers
