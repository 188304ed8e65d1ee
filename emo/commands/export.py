"""`emo export`: write a model for another runtime."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from emo.commands.shared import add_json, add_model, as_json, open_model
from emo.errors import UserError


class _Formats:
    """What `export_model` writes; Keras, which its module imports, waits until somebody asks."""

    def __iter__(self) -> Iterator[str]:
        from emo.inference.export import ENDINGS

        return iter(ENDINGS)


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "export",
        help="write a model for another runtime",
        description="Writes a model for another runtime, checks it against the original, and prints its "
        "path. The file takes RGB in 0–255 and holds the class names.",
    )
    command.add_argument("format", metavar="FORMAT", choices=_Formats(), help="%(choices)s")
    add_model(command)
    command.add_argument(
        "--to",
        type=Path,
        metavar="FILE|FOLDER",
        help="where to write it (default: next to the .h5; the current folder for a model from the Hub)",
    )
    command.add_argument(
        "--photos", metavar="FOLDER", help="compare on your photos; with class folders, also in accuracy"
    )
    command.add_argument(
        "--calibrate-on",
        metavar="FOLDER",
        help="a few hundred training photos, from all classes (tflite_int8)",
    )
    add_json(command, "path, size and difference")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str:
    """The path of what was written."""
    if chosen.format == "tflite_int8" and not chosen.calibrate_on:
        raise UserError("tflite_int8 is calibrated on training photos: give --calibrate-on FOLDER.")
    if chosen.format != "tflite_int8" and chosen.calibrate_on:
        raise UserError(f"{chosen.format} is not calibrated, only tflite_int8 is: leave out --calibrate-on.")

    from emo.inference.export import export_model

    classifier, photos = open_model(chosen), chosen.photos
    if photos and any(Path(photos, name).is_dir() for name in classifier.class_names):
        from emo.evaluation.evaluate import labelled_folder

        labelled = labelled_folder(photos)
        if unknown := sorted(set(labelled.label) - set(classifier.class_names)):
            print(f"Compared without accuracy, as the model does not know {', '.join(unknown)}.")
        else:
            photos = labelled
    written = export_model(classifier, chosen.format, chosen.to, photos, chosen.calibrate_on)
    if not chosen.json:
        return str(written.path)
    told = {"format": written.kind, "path": written.path}
    return as_json(told | {"megabytes": written.megabytes, "difference": written.difference})
