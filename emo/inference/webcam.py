"""A photo from the person at the notebook: from the webcam, or a file of theirs."""

from __future__ import annotations

import os
import sys
import tempfile
from base64 import b64decode
from pathlib import Path

from emo.environment import in_notebook, is_colab
from emo.errors import UserError

SNAPSHOT = (Path(__file__).parent / "webcam.js").read_text(encoding="utf-8")
# by the names that browsers give (MediaDevices.getUserMedia)
PROBLEMS = {
    "cancelled": "No photo was taken; run the cell again.",
    "NotAllowedError": (
        "The browser does not let this page use the camera; allow it by the icon in the address bar, "
        "and run the cell again."
    ),
    "NotFoundError": "There is no camera here; upload a photo, or give a path or URL.",
    "NotReadableError": "The camera is busy; close what uses it, and run the cell again.",
}


def ask_for_photo(photo: str):
    """What the notebook's PHOTO stands for, for `open_photo`: "webcam", "upload", or itself."""
    return {"webcam": take_photo, "upload": upload_photo}.get(photo, lambda: photo)()


def take_photo() -> bytes:
    """A snapshot of the webcam in Colab: a JPEG. Waits for the person to take it.

    Raises UserError where none was taken: no leave to use the camera, no camera, not in Colab.
    """
    if not is_colab():
        raise UserError("The webcam can be used in Colab only; upload a photo, or give a path or URL.")
    from google.colab.output import eval_js

    try:
        answer = eval_js(f"({SNAPSHOT})()") or {}
    except Exception as error:  # Colab's own MessageError
        answer = {"problem": str(error)}
    if "photo" in answer:
        return b64decode(answer["photo"].partition(",")[2])
    problem = answer.get("problem", "the browser did not answer")
    raise UserError(PROBLEMS.get(problem, f"The camera gave no photo ({problem}); run the cell again."))


def upload_photo():
    """A file of the person's: its content in Colab, in Jupyter an upload button, shown, for `open_photo`.

    Colab waits for the file; Jupyter cannot while a cell runs. Raises UserError where no file was chosen in
    Colab, and outside of notebooks.
    """
    if is_colab():
        from google.colab import files

        here = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # where Colab saves a copy
            try:
                chosen = files.upload()
            finally:
                os.chdir(here)
        if not chosen:
            raise UserError("No file was chosen; run the cell again.")
        return next(iter(chosen.values()))
    if not in_notebook():
        raise UserError("A photo can be uploaded to a notebook only; give its path or URL.")
    try:
        from ipywidgets import FileUpload
    except ImportError:
        raise UserError("The upload button needs the package ipywidgets; `pip install ipywidgets`.") from None
    from IPython.display import display

    button = FileUpload(accept="image/*", description="Choose a photo", layout={"width": "auto"})
    display(button)
    return button


def is_upload_button(source) -> bool:
    """Whether `source` is what `upload_photo` shows in Jupyter."""
    widgets = sys.modules.get("ipywidgets")
    return widgets is not None and isinstance(source, widgets.FileUpload)
