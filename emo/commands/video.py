"""`emo video`: classify the faces in a video; writes a table and an annotated copy."""

from __future__ import annotations

import argparse

from emo.commands.shared import add_json, add_model, as_json, open_model


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "video",
        help="classify every face in a video",
        description="Writes a CSV with one row per frame and face, and an annotated copy, next to the video; "
        "prints both paths. Ctrl-C keeps what is done so far.",
    )
    command.add_argument("video", metavar="FILE", help="a video that FFmpeg reads")
    add_model(command)
    add_json(command, "both paths and the share of each emotion among the faces")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str:
    """The paths of the copy and of the table, a line each."""
    from emo.inference.video import classify_video

    table = classify_video(open_model(chosen), chosen.video)
    if not chosen.json:
        return f"{table.attrs['copy']}\n{table.attrs['csv']}"
    faces = table[table.face > 0]  # 0: the whole frame answered, as it shows no face
    shares = faces.emotion.value_counts(normalize=True).round(4).to_dict()
    return as_json({**table.attrs, "rows": len(table), "emotions": shares})
