"""`emo demo`: the live page, in the browser."""

from __future__ import annotations

import argparse


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "demo",
        help="open a page in the browser: camera or photo in, emotions out",
        description="Opens a page in the browser that looks at the camera or at photos, until Ctrl-C.",
    )
    command.add_argument(
        "--model",
        action="append",
        help="a .h5 or .keras, its name in model/, or hf://owner/name (emo_mini); several times for a choice",
    )
    command.add_argument("--share", action="store_true", help="make a public link, through Gradio's servers")
    command.add_argument("--port", type=int, help="the first free one from 7860 on")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Waits until Ctrl-C."""
    from emo.inference.live_page import demo

    demo(chosen.model or "emo_mini", chosen.share, chosen.port)
