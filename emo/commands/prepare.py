"""`emo prepare`: fetch photos into data/, check and split them, as the prep notebook does."""

from __future__ import annotations

import argparse
from pathlib import Path

from emo.commands.shared import add_json, as_json
from emo.errors import UserError
from emo.paths import get_paths


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "prepare",
        help="fetch labelled photos, check and split them",
        description="Fetches labelled photos into data/, checks each of them, finds duplicates, and writes "
        "data/split.csv, which assigns them to training, validation and test. Nothing is overwritten.",
    )
    command.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        default="",
        help='"sample", a Google Drive link, kaggle:owner/name, the address of a zip, a .zip, a folder or '
        "fer2013.csv; default: the photos already in data/",
    )
    command.add_argument(
        "--root", type=Path, default=Path(), help="the folder for data/ (default: the current one)"
    )
    command.add_argument(
        "--add",
        metavar="NAME",
        help="add SOURCE to the dataset in data/, to the classes of the same meaning, with NAME in front of "
        "its file names",
    )
    share = {"type": float, "metavar": "SHARE"}
    command.add_argument(
        "--val",
        default=0.2,
        **share,
        help="share of each class set aside for validation without data/val (0.2)",
    )
    command.add_argument(
        "--test",
        default=0.1,
        **share,
        help="share of each class set aside for testing without data/test (0.1); 0: none",
    )
    command.add_argument(
        "--leave-out-duplicates",
        action="store_true",
        help="do not train on photos that have a duplicate in data/val or data/test",
    )
    command.add_argument("--seed", type=int, default=42, help="random seed of the split (42)")
    command.add_argument("--encoding", help="of file names in a zip that does not specify it, e.g. cp866")
    add_json(command, "the counts")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str:
    """The dataset in one table of counts."""
    from emo.data.download import fetch_dataset
    from emo.data.duplicates import find_duplicates
    from emo.data.manifest import scan_splits
    from emo.data.split import split_photos, summarize_split

    if chosen.add is not None and not chosen.source:
        raise UserError(
            f"--add {chosen.add} names a dataset and no SOURCE says where it lies; give both: emo prepare "
            f"SOURCE --add {chosen.add}."
        )
    paths = get_paths(chosen.root)
    if chosen.source:
        fetch_dataset(chosen.source, paths, chosen.encoding, chosen.add)
    photos = scan_splits(paths)
    duplicates = find_duplicates(photos)
    split = split_photos(
        photos, duplicates, paths, chosen.val, chosen.seed, chosen.leave_out_duplicates, test=chosen.test
    )
    counts = summarize_split(split, paths)
    return as_json(counts.to_dict("index")) if chosen.json else counts.to_string()
