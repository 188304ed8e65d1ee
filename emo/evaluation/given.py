"""What the test notebook was given: whether it is there, told before the long work, and its models opened."""

from __future__ import annotations

from contextlib import redirect_stdout

from emo.errors import UserError
from emo.evaluation.evaluate import Report, calibrate, evaluate
from emo.evaluation.report_file import read_report
from emo.files import user_path
from emo.inference.classifier import find_model, load_classifier
from emo.inference.ensemble import Ensemble
from emo.inference.photo import ADDRESSES
from emo.inference.predictor import Predictor
from emo.paths import Paths

NO_PATHS = ("upload", "webcam")  # that PHOTO may hold, besides addresses


def check_given(paths: Paths, source: str = "", **given: str) -> None:
    """Raises UserError for the first parameter of the test notebook that names what is not there.

    `given`: MODEL, ENSEMBLE, PHOTO, VIDEO, TEST_FOLDER, COMPARE_WITH, UNLABELLED_FOLDER, those that are to be
    checked. With `source`, what is to lie in `data/` may still come.
    """
    for name, value in given.items():
        for part in filter(None, map(str.strip, value.split(",") if name == "ENSEMBLE" else [value])):
            try:
                fault = _fault(name, part, paths)
                if fault and not (source and user_path(part).resolve().is_relative_to(paths.data)):
                    raise UserError(fault)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None


def open_models(
    model: str, ensemble: str, paths: Paths, *, flip: bool = False, calibrated: bool = False
) -> Predictor:
    """The classifier that MODEL, ENSEMBLE, FLIP and CALIBRATE of the test notebook ask for.

    `model` is a path, a name in `model/`, or "" for the newest there; `ensemble` names further ones, with
    commas between them: the mean of all is then what it answers. `flip` is test-time augmentation;
    `calibrated` writes each model's temperature into its file first (`calibrate`). Raises UserError where a
    model is missing or cannot be used.
    """
    files = [model, *filter(None, map(str.strip, ensemble.split(",")))]
    members = [load_classifier(find_model(file, paths.model)) for file in files]
    if calibrated:
        members = [calibrate(member, paths) for member in members]
    classifier = members[0] if len(members) == 1 else Ensemble(members)
    return classifier.with_flip() if flip else classifier


def other_report(given: str, report: Report, paths: Paths) -> Report:
    """What to compare `report` with: a saved report (`….json`), or another model's on the same photos."""
    if given.endswith(".json"):
        return read_report(given)
    return evaluate(load_classifier(find_model(given, paths.model)), report.predictions)


def _fault(name: str, value: str, paths: Paths) -> str:
    """Why a value cannot be what its parameter is for; "" where it can. Raises UserError for no path."""
    if name in ("MODEL", "ENSEMBLE") or (name == "COMPARE_WITH" and not value.endswith(".json")):
        with redirect_stdout(None):  # which file it is will be said where it is opened
            find_model(value, paths.model)
        return ""
    if name == "PHOTO" and (value in NO_PATHS or value.lower().startswith(ADDRESSES)):
        return ""
    path = user_path(value)
    if not path.exists():
        return f"There is no {path}; check the path."
    if name == "TEST_FOLDER" and not path.is_dir():
        return f"{path} is a file; give the folder that holds a sub-folder per class."
    if name in ("PHOTO", "VIDEO", "COMPARE_WITH") and path.is_dir():
        return f"{path} is a folder; give one file."
    return ""
