"""`emo evaluate`: how good a model is on labelled photos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emo.commands.shared import add_json, add_model, as_json, open_model
from emo.errors import UserError
from emo.files import user_path
from emo.paths import Paths, project_of

if TYPE_CHECKING:
    from emo.evaluation.evaluate import Report
    from emo.inference.classifier import Classifier


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
    project = project_of(folder)
    if chosen.model is None:
        chosen.model = _newest_in(project)
    report = _measured(folder, open_model(chosen), project)
    page = save_report(report, chosen.report) if chosen.report else None
    if chosen.json:
        return as_json(figures(report) | ({"report": page} if page else {}))
    table = report.per_class.to_string(float_format="{:.3f}".format)
    photos = f" on {report.split.title} photos" if report.split else ""
    told = f"{report.model}{photos}: {report}"
    return "\n\n".join(filter(None, (told, table, page and str(page))))


def _newest_in(project: Paths | None) -> str | Path:
    """The newest model of the project; `emo_mini` without one."""
    from emo.inference.classifier import find_model

    return find_model("", project.model) if project and project.model.is_dir() else "emo_mini"


def _measured(folder: Path, classifier: Classifier, project: Paths | None) -> Report:
    """The report on what a project holds out, on a folder in its `data/`, or on class folders elsewhere."""
    from emo.evaluation.evaluate import evaluate, labelled_photos, report_on

    if project is None:
        for split in ("train", "val", "test"):
            if (folder / split).is_dir():
                raise UserError(
                    f"{folder} holds a folder {split} and no classes; give the folder to test on, such as "
                    f"{folder / 'test'}, or fetch it with `emo prepare`."
                )
        return evaluate(classifier, folder)
    place = folder.resolve()
    parts = [part.resolve() for part in (project.train, project.train_aug, project.val, project.test)]
    whole = place in (project.root, project.data.resolve()) and any(map(Path.is_dir, parts))
    if not whole and not any(map(place.is_relative_to, parts)):
        return evaluate(classifier, folder)  # photos that the project does not know
    photos, split = labelled_photos("" if whole else folder, classifier, project)
    # photos to train on are no test of duplicates
    known = whole or any(map(place.is_relative_to, parts[2:]))
    report = report_on(classifier, photos, split, project, leaks=known)
    if report is None:  # it was said why
        raise UserError(f"Nothing was measured in {folder}.")
    return report
