"""What several commands take, and how a model's name becomes one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emo.inference.classifier import Classifier


def add_model(command: argparse.ArgumentParser) -> None:
    """The option `--model`."""
    command.add_argument(
        "--model",
        default="emo_mini",
        help="a .h5 or .keras, its name in model/, or hf://owner/name (emo_mini, which comes along)",
    )


def add_json(command: argparse.ArgumentParser, what: str = "the answer") -> None:
    """The option `--json`, which prints `what` so that a program can read it."""
    command.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def open_model(name: str) -> Classifier:
    """The classifier that `--model` names. Raises UserError."""
    from emo.inference.classifier import find_model, load_classifier

    return load_classifier(find_model(name, Path("model")))


def as_json(answer: dict) -> str:
    """One line per top-level field; paths as text."""
    return json.dumps(answer, ensure_ascii=False, indent=1, default=str)
