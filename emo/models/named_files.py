"""The files that an experiment names, `weights` and `teacher`: where they lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from emo.errors import UserError
from emo.experiments import Experiment
from emo.files import first_file, user_path
from emo.paths import EMO_MINI, Paths


def located(experiment: Experiment, paths: Paths) -> Experiment:
    """The experiment with the path of each file that does not lie where it was written; says which it is.

    It is for building from; what a run keeps is what its user wrote. Raises UserError.
    """
    found = {}
    for field in ("weights", "teacher"):
        said = getattr(experiment, field)
        file = named_file(field, said, paths)
        if file and said != "emo_mini" and file != _here(said):
            print(f"{field}={said!r} is {file}.")
            found[field] = str(file)
    return dataclasses.replace(experiment, **found)


def named_file(field: str, said: str | None, paths: Paths) -> Path | None:
    """The file that the field names, "emo_mini" the one that comes with the project; None for none.

    A relative path counts from the current folder, else from the project's results or root; else its name
    does in `model/`. Its ending, .h5, may be left out. Raises UserError with the folders that were looked in.
    """
    if said is None or (field, said) == ("weights", "imagenet"):
        return None
    if said == "emo_mini":
        return EMO_MINI
    try:
        here = _here(said)
        places = {Path.cwd(): here}
        if not Path(said).expanduser().is_absolute():
            places |= {folder: folder / said for folder in (paths.results, paths.root)}
            places[paths.model] = paths.model / here.name
        if file := first_file(places.values(), (".h5",)):
            return file
    except UserError as error:
        raise UserError(f"{field}={said!r}: {error}") from None
    looked = f" in {', '.join(map(str, places))}" if len(places) > 1 else ""
    raise UserError(
        f"{field}={said!r}: there is no such file{looked}; give its path, or its name in {paths.model}."
    )


def _here(said: str) -> Path:
    return Path.cwd() / user_path(said)
