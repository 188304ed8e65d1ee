"""How much duplicates flatter: `python -m tools.readme.without_duplicates --project DIR`.

For each report in DIR/model, the accuracy on all photos, without those whose very file is among the training
photos, and without those with a near copy there, each with its 95% interval, as a Markdown table.
"""

import argparse
from collections.abc import Collection
from pathlib import Path

from emo.data.split import leaked_photos
from emo.evaluation.evaluate import Report, percent, report
from emo.evaluation.report_file import read_report
from emo.paths import get_paths
from tools.readme.markdown import markdown

HEADINGS = ("Model", "All, photos", "Without identical", "Without identical and near")


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
    same, near = (
        {Path(path).relative_to(paths.data).as_posix() for path in leaked_photos(paths, near) or ()}
        for near in (False, True)
    )
    rows = []
    for file in sorted(paths.model.glob("*_report.json")):
        whole = read_report(file)
        rows.append((whole.model, *(accuracy_without(whole, names) for names in ((), same, near))))
    print(markdown(HEADINGS, rows))


if __name__ == "__main__":
    main()
