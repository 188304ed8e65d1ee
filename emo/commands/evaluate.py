"""`emo evaluate`: how good a model is on labelled photos."""

from __future__ import annotations

import argparse
from pathlib import Path

from emo.commands.shared import add_json, add_model, as_json, open_model
from emo.errors import UserError
from emo.files import user_path
from emo.paths import get_paths


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "evaluate",
        help="measure a model on labelled photos",
        description="Prints which model was used, its accuracy with the 95% interval, and precision, recall "
        "and F1 of each class.",
    )
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="a folder with one sub-folder per class; or a project's data/, whose test photos are used, or "
        "its validation photos if it has none",
    )
    add_model(
        command,
        None,
        "default: the newest in model/ of the project that FOLDER belongs to, else emo_mini, included",
    )
    command.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write an HTML report and its JSON into that folder; the report shows some of the photos",
    )
    add_json(command, "the figures")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str:
    """The figures and a row per class; where a report was asked for, its path in the last line."""
    from emo.evaluation.report_file import figures, save_report

    folder = user_path(chosen.folder)
    if chosen.model is None:
        chosen.model = _newest_beside(folder)
    report = _measured(folder, open_model(chosen))
    page = save_report(report, chosen.report) if chosen.report else None
    if chosen.json:
        return as_json(figures(report) | ({"report": page} if page else {}))
    table = report.per_class.to_string(float_format="{:.3f}".format)
    photos = f" on {report.split.title} photos" if report.split else ""
    told = f"{report.model}{photos}: {report}"
    return "\n\n".join(filter(None, (told, table, page and str(page))))


def _newest_beside(folder: Path) -> str | Path:
    """The newest model of the project that the photos belong to; `emo_mini` for others."""
    from emo.inference.classifier import find_model

    folder = folder.resolve()
    for data in (folder / "data", folder, *folder.parents):
        models = data.parent / "model"
        if data.name == "data" and data.is_dir() and models.is_dir():
            return find_model("", models)
    return "emo_mini"


def _measured(folder: Path, classifier):
    """The report on class folders, or on what a project holds out."""
    from emo.evaluation.evaluate import evaluate, labelled_photos, report_on

    if (folder / "data" / "train").is_dir():
        folder /= "data"
    if not (folder / "train").is_dir():
        return evaluate(classifier, folder)
    if folder.resolve().name != "data":
        raise UserError(
            f"{folder} holds a folder train and no classes; give the folder to test on, such as "
            f"{folder / 'test'}, or fetch it with `emo prepare`."
        )
    paths = get_paths(folder.resolve().parent)
    photos, split = labelled_photos("", classifier, paths)
    report = report_on(classifier, photos, split, paths)
    if report is None:  # it was said why
        raise UserError(f"Nothing was measured in {folder}.")
    return report
