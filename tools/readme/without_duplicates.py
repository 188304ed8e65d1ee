"""How much duplicates flatter: `python -m tools.readme.without_duplicates --project DIR`.

For each report in DIR/model, the accuracy on all photos, without those whose very file is among the training
photos, and without those with a near copy there, each with its 95% interval, as a Markdown table.
"""

import argparse
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from emo.data.split import leaked_photos, load_split
from emo.evaluation.evaluate import Report, percent, report
from emo.evaluation.report_file import read_report
from emo.paths import Paths, get_paths
from tools.readme.markdown import markdown

HEADINGS = ("Model", "All, photos", "Without identical", "Without identical and near")


def places_in_data(photos: Iterable[str], paths: Paths) -> list[str]:
    """Where photos lie below data/: by their paths in a report that may begin with it, or by whole paths."""
    return [photo.removeprefix(f"{paths.data.as_posix()}/").removeprefix("data/") for photo in photos]


def accuracy_without(whole: Report, names: Collection[str]) -> str:
    """The accuracy on the photos that are not among `names`, with its interval and their number."""
    table = whole.predictions
    rest = report(table[~table["path"].isin(names)], whole.confusion.columns)
    return f"{rest.accuracy:.1%} ({percent(rest.interval)}), {rest.photos:,}"


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(
        prog="tools.readme.without_duplicates", description=__doc__.splitlines()[0]
    )
    options.add_argument("--project", type=Path, required=True, help="a folder with data/ and model/")
    paths = get_paths(options.parse_args().project)
    same, near = (set(places_in_data(leaked_photos(paths, near) or (), paths)) for near in (False, True))
    known = set(places_in_data(load_split(paths).path, paths))
    rows = []
    for file in sorted(paths.model.glob("*_report.json")):
        whole = read_report(file)
        whole.predictions["path"] = places_in_data(whole.predictions.path, paths)
        if not known & set(whole.predictions.path):
            sys.exit(
                f"{file} is of photos that are not in {paths.data}, such as {whole.predictions.path[0]}."
            )
        rows.append((whole.model, *(accuracy_without(whole, names) for names in ((), same, near))))
    print(markdown(HEADINGS, rows))


if __name__ == "__main__":
    main()
