"""`emo predict`: the expression on a photo's faces, or on each photo of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from emo.commands.quick import import_keras
from emo.commands.shared import add_json, add_model, open_model


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "predict",
        help="name the expression on a photo, or on each photo of a folder",
        description="Names the expression on every face in a photo or, in a folder, on each photo as it is.",
    )
    command.add_argument("photo", metavar="PHOTO", help="a file, a folder or a web address")
    add_model(command)
    command.add_argument("--faces", action="store_true", help="crop each photo of a folder to its one face")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write a table with all probabilities")
    add_json(command, "all probabilities, a row per face,")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str:
    """A table of the answers, or the path of the CSV."""
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


def _answers(chosen: argparse.Namespace):
    """A row per face, or per photo of a folder: path, face and box, emotion, confidence, each class."""
    import_keras()

    from emo.data.faces import face_crops, find_faces
    from emo.inference.photo import classify_faces
    from emo.inference.predictor import as_sources

    classifier = open_model(chosen)
    if not Path(chosen.photo).is_dir():
        answers = classify_faces(classifier, chosen.photo).answers.reset_index()
        answers.insert(0, "path", chosen.photo)
        return answers
    photos = as_sources(chosen.photo)
    faces = face_crops(find_faces(photos), margin=0.0) if chosen.faces else None
    return classifier.predict(photos, faces)
