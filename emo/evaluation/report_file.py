"""A report to hand on: one HTML file that needs nothing else, and a JSON file that reads back as a Report."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from emo.data.image_io import read_image
from emo.data.split import Split
from emo.environment import PLOT_STYLE, git_commit, versions
from emo.errors import UserError
from emo.evaluation.evaluate import Report, percent, shown_paths
from emo.evaluation.evaluate import report as make_report
from emo.files import atomic, encoded, told, write_text
from emo.paths import numbered
from emo.plots.evaluation import plot_coverage, plot_reliability

SCHEMA = 1  # of the JSON file; a change that older code would misread gets the next number
THUMBNAIL = 96  # pixels a side
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,  # names of classes and files come from outside
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "percent": "{:.1%}".format,
    "interval": percent,
    "count": "{:,}".format,
    "md": lambda text: re.sub(r"([\\`*_\[\]{}|~#])", r"\\\1", " ".join(str(text).split())),
    "code": lambda text: "`{}`".format(" ".join(str(text).replace("`", "'").split())),
}


def save_report(report: Report, folder: str | Path, photos: int = 24) -> Path:
    """Writes `<model>_report.html` and `<model>_report.json` into `folder` and gives the path of the first.

    `photos` of the surest mistakes are shown in the HTML; 0 where faces must not be handed on. The JSON holds
    every answer, and files by their path below the photos' folder alone. A report of that model with the same
    answers for the same photos is replaced; any other is kept, and the new pair gets the next free number in
    its name. Both files are written, or neither. Raises UserError for `photos` below 0.
    """
    if photos < 0:  # which head() would take for all but so many: faces that are not to be shown
        raise UserError(f"photos={photos} must be 0 or more; 0 shows none.")
    folder = Path(folder).expanduser()
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    page = next(
        path for path in numbered(folder / f"{file_stem(report)}_report.html") if _is_free(path, report)
    )
    made = {
        "date": datetime.now().isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": git_commit(),
    }
    data = page.with_suffix(".json")
    html = _to_html(report, made | {"data": data.name}, photos)
    with atomic(page) as draft:  # the page takes its place once the JSON has: no half of a pair
        draft.write_bytes(encoded(html))
        write_text(data, _to_json(report, made))
    return page


def _is_free(page: Path, report: Report) -> bool:
    """Whether nothing is there, or an older report that says the same of the same photos."""
    data = page.with_suffix(".json")
    if not page.exists() and not data.exists():
        return True
    try:
        older = read_report(data)
    except UserError:
        return False
    return older.model == report.model and _answers(older).equals(_answers(report))


def _answers(report: Report) -> pd.DataFrame:
    table = report.predictions[["path", "label", "emotion"]].astype(str)
    return table.assign(path=shown_paths(table.path)).sort_values(["path", "label"], ignore_index=True)


def file_stem(report: Report) -> str:
    """The model's name as a file may be called: "mean of 2: a.h5, b.h5" → "mean_of_2_a_b"."""
    name = re.sub(r"\.h5\b", "", report.model)
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[:100] or "model"


# ---- JSON ----------------------------------------------------------------------------------------


def _to_json(report: Report, made: dict) -> str:
    """Figures first, indented; then the answers, a line per photo."""
    document = {"schema": SCHEMA, **made, **figures(report)}
    table = report.predictions.assign(path=shown_paths(report.predictions.path))
    if report.all_duplicates:
        table.insert(1, "duplicate", True)
    elif rest := report.without_duplicates:
        table.insert(1, "duplicate", ~report.predictions.path.isin(rest.predictions.path))
    rows = (json.dumps(row, ensure_ascii=False) for row in table.to_numpy(object).tolist())
    document["columns"] = list(table.columns)
    head = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False).removesuffix("\n}")
    return head + ',\n "predictions": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def figures(report: Report) -> dict:
    """Every figure of a report by its name in the JSON file, ready for `json.dumps`; no photo's answer."""
    rest, by_source = report.without_duplicates, report.by_source
    none_left = {"photos": 0, "accuracy": None, "interval": None} if report.all_duplicates else None
    return {
        "model": report.model,
        "split": report.split.title if report.split else "",
        "class_names": list(report.confusion.index),
        "class_names_assumed": report.names_assumed,
        **_accuracy(report),
        "balanced_accuracy": report.balanced_accuracy,
        "macro_f1": report.macro_f1,
        "ece": report.ece,
        "temperature": report.temperature,
        "calibrated_ece": report.calibrated_ece,
        "without_duplicates": _accuracy(rest) if rest else none_left,
        "by_source": None if by_source is None else by_source.to_dict("index"),
        "per_class": report.per_class.to_dict("index"),
        "confusion": report.confusion.to_numpy().tolist(),
        "coverage": report.coverage.reset_index().to_dict("records"),
        "reliability": report.reliability.to_dict("records"),
    }


def _accuracy(report: Report) -> dict:
    return {"photos": report.photos, "accuracy": report.accuracy, "interval": report.interval}


def read_report(path: str | Path) -> Report:
    """The report in a JSON file of `save_report`, for instance to `compare` a newer model with it.

    Its photos' paths begin at the folder that held them all. Raises UserError for another kind of file.
    """
    path = Path(path).expanduser()
    try:
        saved = json.loads(path.read_text(encoding="utf-8-sig"))
        if saved["schema"] != SCHEMA:
            raise UserError(
                f"{path.name} has schema {saved['schema']!r:.20}, this version reads {SCHEMA}: update the "
                "project."
            )
        table = _checked_table(saved)
        leaked = table.path[table.pop("duplicate").astype(bool)] if "duplicate" in table else None
        return make_report(
            table,
            saved["class_names"],
            model=saved["model"],
            split=Split.of(saved["split"]),
            leaked=leaked,
            temperature=saved["temperature"],
            names_assumed=saved.get("class_names_assumed") is True,
        )
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"There is no report {path}; save_report writes one.") from None
    # whatever json, pandas and the figures make of types that nobody wrote
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{path.name} is not a report that save_report wrote, or is damaged ({reason:.120})."
        ) from error


def _checked_table(saved: dict) -> pd.DataFrame:
    """The answers of a report's JSON. Raises ValueError and its like for what `save_report` never writes."""
    names, columns = saved["class_names"], saved["columns"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names must be a list of names")
    columns = ["duplicate" if name == "twin" else name for name in columns]  # as it was until 2026-11-26
    known = ["path", "label", "emotion", "confidence", *names]
    extra = ("duplicate", "source")
    if [name for name in columns if name not in extra] != known or len(set(columns)) < len(columns):
        raise ValueError(f"columns must be {', '.join(known)}")
    table = pd.DataFrame(saved["predictions"], columns=columns)
    if table.empty:
        raise ValueError("it holds no answers")
    of_text = [name for name in columns if name in ("path", "label", "source", "emotion")]
    texts = table[of_text].map(lambda cell: isinstance(cell, str))
    figures = table[known[3:]].map(lambda cell: type(cell) in (int, float) and 0 <= cell <= 1.000001)
    if not texts.all(axis=None) or not figures.all(axis=None):
        raise ValueError("a photo's answer is not text, or a confidence not between 0 and 1")
    if not set(table.label) | set(table.emotion) <= set(names):
        raise ValueError("a photo has a label that is not a class")
    if "duplicate" in table and not table.duplicate.map(lambda cell: isinstance(cell, bool)).all():
        raise ValueError("duplicate must be true or false")
    if not isinstance(saved["model"], str) or not isinstance(saved["split"], str):
        raise ValueError("model and split must be texts")
    temperature = saved["temperature"]
    if temperature is not None and not (type(temperature) in (int, float) and 0 < temperature < 1e6):
        raise ValueError("temperature must be a number above 0")
    return table


# ---- HTML ----------------------------------------------------------------------------------------


def _to_html(report: Report, made: dict, photos: int) -> str:
    mistakes = report.mistakes
    shown = mistakes.head(photos)
    names = dict(zip(report.predictions.path, shown_paths(report.predictions.path), strict=True))
    with plt.rc_context(PLOT_STYLE):
        reliability_figure = plot_reliability(report.reliability, report.calibrated_reliability)
        coverage_figure = plot_coverage(report.coverage_curve, report.coverage)
    return TEMPLATES.get_template("report.html").render(
        report=report,
        made=made,
        largest=report.per_class.photos.max() / report.photos,
        taken_for=taken_for(report),
        reliability=_svg(reliability_figure),
        coverage=_svg(coverage_figure),
        mistakes=[(row, names[row.path], _thumbnail(row.path)) for row in shown.itertuples()],
        wrong=len(mistakes),
    )


def taken_for(report: Report) -> dict[str, tuple[str, float]]:
    """The class that each class is most often mistaken for, and the share; left out where there is none."""
    found = {}
    for name in report.per_class.index:
        others = report.rates.loc[name].drop(name)
        if others.max() > 0:
            found[name] = (others.idxmax(), float(others.max()))
    return found


def _svg(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _thumbnail(path: str) -> str:
    """A small JPEG; "" where the photo is no longer there."""
    try:
        picture = Image.fromarray(read_image(path, THUMBNAIL))
    except UserError:
        return ""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
