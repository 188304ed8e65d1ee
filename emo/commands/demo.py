"""`emo demo`: the live page, in the browser."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from emo.commands.shared import add_facts, open_model
from emo.errors import UserError

if TYPE_CHECKING:
    from emo.inference.classifier import Classifier

SINGLE = "it goes with a single --model; for several, in Python: emo.demo([emo.load_classifier(…), …])."


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "demo",
        help="open a web page that classifies your camera feed or photos",
        description="Opens a web page that classifies your camera feed or photos. Ctrl-C stops it.",
    )
    command.add_argument(
        "--model",
        action="append",
        help="a .h5 or .keras, its name in model/, or hf://owner/name (default: emo_mini, included); repeat "
        "it to choose between models on the page",
    )
    add_facts(command)
    command.add_argument("--share", action="store_true", help="create a public link through Gradio's servers")
    command.add_argument("--port", type=int, help="default: the first free port from 7860 on")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Waits until Ctrl-C."""
    if chosen.port is not None and not 0 < chosen.port < 2**16:
        raise UserError(f"--port {chosen.port} is not a port; give a number from 1 to 65535.")
    from emo.inference.live_page import demo

    demo(_opened(chosen), chosen.share, chosen.port)


def _opened(chosen: argparse.Namespace) -> list[Classifier]:
    """The models to choose from; what a third-party one does not say can be told of one alone."""
    models = chosen.model or ["emo_mini"]
    if len(models) == 1:
        return [open_model(chosen, models[0])]
    if chosen.class_names or chosen.image_size or chosen.preprocessing:
        raise UserError(
            f"What --class-names, --image-size and --preprocessing tell is of one model: {SINGLE}"
        )
    try:
        return [open_model(chosen, model) for model in models]
    except UserError as error:
        if "pass --" in str(error):
            raise UserError(f"{str(error).removesuffix('.')}; {SINGLE}") from None
        raise
