"""`emo export`: a model for another runtime."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from emo.commands.shared import add_json, add_model, as_json, open_model


class _Formats:
    """What `export_model` writes; Keras, which its module imports, waits until somebody asks."""

    def __iter__(self) -> Iterator[str]:
        from emo.inference.export import ENDINGS

        return iter(ENDINGS)


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "export",
        help="write a model for another runtime",
        description="Writes a model for another runtime, checks its answers against the model's own, and "
        "prints the file's path. It takes RGB in 0–255 and holds the class names.",
    )
    command.add_argument("format", metavar="FORMAT", choices=_Formats(), help="%(choices)s")
    add_model(command)
    command.add_argument("--to", type=Path, metavar="FILE", help="where (beside the .h5)")
    command.add_argument("--photos", metavar="FOLDER", help="compare on photos of yours")
    add_json(command, "path, size and difference")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str:
    """The path of what was written."""
    from emo.inference.export import export_model

    written = export_model(open_model(chosen), chosen.format, chosen.to, chosen.photos)
    if not chosen.json:
        return str(written.path)
    told = {"format": written.kind, "path": written.path}
    return as_json(told | {"megabytes": written.megabytes, "difference": written.difference})
