"""Is what the test notebook was given there? Told before the long work."""

from __future__ import annotations

from emo.errors import UserError
from emo.files import user_path
from emo.inference.classifier import find_model
from emo.inference.photo import ADDRESSES
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


def _fault(name: str, value: str, paths: Paths) -> str:
    """Why a value cannot be what its parameter is for; "" where it can. Raises UserError for no path."""
    if name in ("MODEL", "ENSEMBLE") or (name == "COMPARE_WITH" and not value.endswith(".json")):
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
