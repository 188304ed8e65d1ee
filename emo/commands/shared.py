"""What several commands take, and how a model's name becomes one."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from emo.errors import UserError

if TYPE_CHECKING:
    from emo.inference.classifier import Classifier

KEYWORD = r"\b(class_names|image_size|preprocessing)=(?=[, ])"  # to pass; one that was passed has its value


def add_model(
    command: argparse.ArgumentParser,
    default: str | None = "emo_mini",
    without: str = "default: emo_mini, included",
) -> None:
    """The option `--model`, and those that tell what a third-party file does not.

    `without` says in its help what answers without it.
    """
    command.add_argument(
        "--model",
        default=default,
        help=f"a .h5 or .keras, its name in model/, or hf://owner/name ({without})",
    )
    add_facts(command)


def add_facts(command: argparse.ArgumentParser) -> None:
    """The options that tell what a third-party file does not."""
    facts = command.add_argument_group("if a third-party model does not specify it")
    facts.add_argument("--class-names", metavar="A,B,…|FILE", help="the classes, in the order of its outputs")
    facts.add_argument("--image-size", type=int, metavar="PX", help="the side of its input pictures")
    facts.add_argument(
        "--preprocessing",
        metavar="MODE",
        help="how its input was prepared: none, rescale, tf, caffe or torch",
    )


def add_json(command: argparse.ArgumentParser, what: str = "the answer") -> None:
    """The option `--json`, which prints `what` so that a program can read it."""
    command.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def open_model(chosen: argparse.Namespace, model: str | None = None) -> Classifier:
    """The classifier that `--model` names, or `model`. Raises UserError in the words of the command line."""
    from emo.inference.classifier import find_model, load_classifier

    names = chosen.class_names
    names = [name.strip() for name in names.split(",")] if names and "," in names else names
    file = find_model(chosen.model if model is None else model, Path("model"))
    try:
        return load_classifier(file, names, chosen.image_size, chosen.preprocessing)
    except UserError as error:
        raise UserError(
            re.sub(KEYWORD, lambda match: f"--{match[1].replace('_', '-')}", str(error))
        ) from None


def as_json(answer: dict) -> str:
    """One line per top-level field; paths as text."""
    return json.dumps(answer, ensure_ascii=False, indent=1, default=str)
