"""The model card: what a saved model is, learned from, can do and is not for; Markdown in `model/`."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path, PurePosixPath

import pandas as pd

from emo.data.install import further_datasets
from emo.data.manifest import count_photos
from emo.data.split import count_splits
from emo.errors import UserError
from emo.evaluation.evaluate import Report
from emo.evaluation.report_file import TEMPLATES, taken_for
from emo.files import write_text
from emo.inference.card_seal import read_card, sealed
from emo.inference.classifier import Classifier
from emo.inference.predictor import Predictor
from emo.paths import EMO_MINI, Paths, numbered
from emo.tracking.table import read_table


def write_card(classifier: Predictor, report: Report, paths: Paths) -> Path:
    """Writes `<model>.md` into `model/`, where the report is saved too; gives its path.

    Data, split, settings, results, calibration, limits and responsible use: from what the `.h5` says of
    itself, from `report`, and from `data/` where its classes are the model's and a run in the table saved the
    file. A card that somebody has edited is kept: the new one gets the next number. The model that comes with
    the project has its card beside it, to which nothing is added. Raises UserError for an ensemble, which has
    no file of its own.
    """
    if not isinstance(classifier, Classifier):
        raise UserError("A card is that of one .h5, and an ensemble has several: write each member's own.")
    if classifier.path.resolve() == EMO_MINI:
        return EMO_MINI.with_suffix(".md")
    experiment = classifier.metadata.get("experiment") or {}
    data = _data(classifier, paths)
    text = TEMPLATES.get_template("card.md").render(
        classifier=classifier,
        metadata=classifier.metadata,
        experiment=experiment,
        # inside a code block nothing is escaped, and nothing may end it
        settings=json.dumps(experiment, indent=2, ensure_ascii=False).replace("`", r"\u0060"),
        report=report,
        mean_confidence=report.predictions.confidence.mean(),
        taken_for=taken_for(report),
        today=date.today().isoformat(),
        **data,
    )
    sources = [entry["source"] for entry in (data["record"], *data["further"].values()) if entry]
    facts = {"file": report.model, "sources": sources}
    facts |= {"split": report.split.title if report.split else None, "accuracy": report.accuracy}
    facts |= {"balanced_accuracy": report.balanced_accuracy, "macro_f1": report.macro_f1}
    wanted = paths.model / f"{classifier.path.stem}.md"
    card = next(path for path in numbered(wanted) if not path.exists() or not read_card(path).edited)
    write_text(card, sealed(text, facts))
    return card


def _data(classifier: Classifier, paths: Paths) -> dict:
    """What `data/` tells of the photos; nothing where its classes are not the model's, or its run is not."""
    trained_here = _trained_here(classifier, paths)
    counts = count_photos(paths) if trained_here and paths.train.is_dir() else pd.DataFrame()
    if set(counts.index) - {"all"} != set(classifier.class_names):
        return {"trained_here": trained_here, "counts": None, "record": {}, "further": {}, "split": {}}
    try:
        record = json.loads(paths.dataset_record.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        record = None
    record = record if isinstance(record, dict) else {}
    further = {
        name: entry | {"source": _public(entry["source"])} for name, entry in further_datasets(record).items()
    }
    if isinstance(record.get("source"), str):
        record["source"] = _public(record["source"])
    else:  # the photos were placed by hand
        record = {}
    told = {"record": record, "further": further, "split": count_splits(paths)}
    return {"trained_here": True, "counts": counts, **told}


def _trained_here(classifier: Classifier, paths: Paths) -> bool:
    """Whether a run in the table saved the file; a renamed copy is known by when its run began."""
    began = re.sub(r"\D", "", classifier.metadata.get("date") or "")[2:]  # as in a run's file names
    files = {PurePosixPath(file).name for file in read_table(paths).model_file}
    return classifier.path.name in files or any(len(began) == 12 and f"_{began}_" in file for file in files)


def _public(source: str) -> str:
    """A link or "sample" as it is; of a path on somebody's machine, its last part."""
    return source if "://" in source else Path(source).name
