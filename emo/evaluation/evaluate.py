"""How good a classifier is on labelled photos, and the answers for unlabelled ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from emo.data.image_io import read_image
from emo.data.manifest import is_photo
from emo.data.split import Split, held_out_manifest, leaked_photos, training_manifests
from emo.errors import UserError
from emo.evaluation.calibration import (
    apply_temperature,
    coverage_curve,
    coverage_table,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from emo.evaluation.class_order import better_order
from emo.evaluation.intervals import wilson
from emo.files import files_below, user_path
from emo.inference.classifier import Classifier, load_classifier, store_temperature
from emo.inference.predictor import Predictor
from emo.paths import EMO_MINI, Paths, is_fetched
from emo.tracking import table as runlog

SURE = 0.9  # of the photos a calibrated model answers, where it may abstain
SPLIT_NOTES = {
    Split.VAL: "If the model was trained here, these photos chose its best epoch: the accuracy is slightly "
    "optimistic.",
    Split.TRAIN: "If the model was trained here, it has seen these photos: their accuracy says little about "
    "new ones.",
}


@dataclass(frozen=True)
class Report:
    """Figures on `photos` labelled photos; all but counts are fractions in 0–1.

    `interval` is the accuracy's 95% interval; `per_class` has precision, recall, f1 and photos; `confusion`
    counts true (rows) × predicted (columns); `predictions` is `Predictor.predict`'s table with the true
    `label`, and the `source` where the photos are of several datasets. `split` is what the photos are to the
    model, None where that is not known. `calibrated_ece` is the calibration error at `temperature`,
    `without_duplicates` the report on the photos that have no duplicate in training; each is None where it
    was not asked for. `all_duplicates`: every photo has one, which leaves none for that report.
    `names_assumed` tells that the model's file does not name its classes.
    """

    model: str
    split: Split | None
    photos: int
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    ece: float
    temperature: float | None
    calibrated_ece: float | None
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    predictions: pd.DataFrame
    without_duplicates: Report | None
    names_assumed: bool = False
    all_duplicates: bool = False

    def __str__(self) -> str:
        calibrated = ""
        if self.temperature is not None:
            calibrated = f" ({self.calibrated_ece:.3f} at temperature {self.temperature:.2f})"
        figures = [
            f"accuracy {self.accuracy:.1%} (95% interval {percent(self.interval)})",
            f"balanced accuracy {self.balanced_accuracy:.1%}",
            f"macro F1 {self.macro_f1:.3f}",
            f"calibration error {self.ece:.3f}{calibrated}",
            f"{self.photos:,} photos",
        ]
        if (rest := self.without_duplicates) and rest.photos < self.photos:
            duplicates = f"{self.photos - rest.photos:,} with a duplicate in training"
            figures.append(
                f"without the {duplicates}: accuracy {rest.accuracy:.1%} ({percent(rest.interval)})"
            )
        elif rest:
            figures.append("none has a duplicate in training")
        elif self.all_duplicates:
            figures.append("every photo has a duplicate in training")
        lines = (" · ".join(figures), self.source_note, self.split_note, self.order_note)
        return "\n".join(filter(None, lines))

    @property
    def by_source(self) -> pd.DataFrame | None:
        """A row per dataset: photos, accuracy, its interval as low and high, macro_f1, ece; None for one."""
        if "source" not in self.predictions:
            return None
        names = list(self.confusion)
        parts = {
            source: report(rows.drop(columns="source"), names)
            for source, rows in self.predictions.groupby("source")
        }
        rows = [
            (part.photos, part.accuracy, *part.interval, part.macro_f1, part.ece) for part in parts.values()
        ]
        columns = ["photos", "accuracy", "low", "high", "macro_f1", "ece"]
        return pd.DataFrame(rows, pd.Index(parts, name="source"), columns)

    @property
    def source_note(self) -> str:
        """The accuracy on each dataset in a line; "" for one."""
        if (table := self.by_source) is None:
            return ""
        parts = [
            f"{row.Index} {row.accuracy:.1%} ({percent((row.low, row.high))}, {row.photos:,} photos)"
            for row in table.itertuples()
        ]
        return f"By dataset: {' · '.join(parts)}"

    @property
    def split_note(self) -> str:
        """A sentence on photos that the model knows from its training; "" for photos to test on."""
        return SPLIT_NOTES.get(self.split, "")

    @property
    def better_order(self) -> list[str] | None:
        """The class names in an order that fits far better; None for that of the file and for a good one."""
        return better_order(self.confusion) if self.names_assumed else None

    @property
    def order_note(self) -> str:
        """A sentence about `better_order`; "" without one."""
        if (names := self.better_order) is None:
            return ""
        accuracy = np.trace(self.confusion.set_axis(names, axis=1)[list(self.confusion)]) / self.photos
        return (
            f"The model's outputs seem to stand for other classes than assumed: the names in the order "
            f"{', '.join(names)} give {accuracy:.1%} on these photos instead of {self.accuracy:.1%}; open it "
            "with the class names in that order."
        )

    @property
    def rates(self) -> pd.DataFrame:
        """`confusion` as shares of the true class: rows add up to 1, or to 0 for a class without photos."""
        photos = self.confusion.sum(axis=1)
        return self.confusion.div(photos.where(photos > 0, 1), axis=0)

    @property
    def mistakes(self) -> pd.DataFrame:
        """The rows of `predictions` that are wrong, the surest first."""
        wrong = self.predictions[self.predictions.label != self.predictions.emotion]
        return wrong.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)

    @property
    def reliability(self) -> pd.DataFrame:
        """Accuracy by bins of confidence: `calibration.reliability`."""
        return reliability(self.predictions)

    @property
    def calibrated_reliability(self) -> pd.DataFrame | None:
        """`reliability` at the temperature; None without one."""
        if self.temperature is None:
            return None
        return reliability(apply_temperature(self.predictions, self.temperature))

    @property
    def coverage_curve(self) -> pd.DataFrame:
        """Accuracy by the share of photos that are answered, where the model may abstain."""
        return coverage_curve(self.predictions)

    @property
    def coverage(self) -> pd.DataFrame:
        """`coverage_curve` where 100, 90, 80 and 50% of the photos are answered."""
        return coverage_table(self.coverage_curve)


def percent(interval: tuple[float, float]) -> str:
    """(0.398, 0.431) → "39.8–43.1%"."""
    return "{:.1f}–{:.1f}%".format(*(100 * bound for bound in interval))


def evaluate(
    classifier: Predictor,
    photos: str | Path | pd.DataFrame,
    *,
    split: Split | None = None,
    leaked: Iterable[str | Path] | None = None,
    temperature: float | None = None,
) -> Report:
    """Accuracy, F1, confusion, calibration and more on labelled photos.

    `photos` is a folder with a sub-folder per class, or a manifest (path, label, and source where they are of
    several datasets). `leaked` are the paths that have a duplicate in training, as `emo.leaked_photos` gives
    them; `temperature` is what `fit_temperature` gave for other photos. Raises UserError where the classes
    are not the model's, a manifest lacks a column, or no photo can be read.
    """
    manifest = photos if isinstance(photos, pd.DataFrame) else labelled_folder(photos)
    if not {"path", "label"} <= set(manifest):
        raise UserError("A table of photos needs the columns path and label.")
    if fault := _unknown_labels(manifest.label, classifier):
        raise UserError(f"{fault}; rename the class folders or choose another model.")
    predictions = classifier.predict(list(manifest.path))
    predictions.insert(1, "label", manifest.label.to_numpy())
    if "source" in manifest and len(set(manifest.source)) > 1:
        predictions.insert(2, "source", manifest.source.to_numpy())
    return report(
        predictions,
        classifier.class_names,
        model=classifier.name,
        split=split,
        leaked=leaked,
        temperature=temperature,
        names_assumed="assumed" in classifier.metadata,
    )


def _unknown_labels(labels: Iterable[str], classifier: Predictor) -> str:
    """What is wrong with labels that the classifier does not know; "" where it knows all."""
    if unknown := sorted(set(labels) - set(classifier.class_names)):
        known = ", ".join(classifier.class_names)
        return f"The photos are labelled {', '.join(unknown)}, but {classifier.name} knows only {known}"
    return ""


def labelled_folder(folder: str | Path) -> pd.DataFrame:
    """The photos in a folder with a sub-folder per class: path, label. UserError where there are none."""
    folder = user_path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give one that holds a sub-folder per class.")
    photos = _in_class_folders(folder)
    if photos.empty:
        raise UserError(f"{folder} holds no photo in a sub-folder named as a class.")
    return photos


def _in_class_folders(folder: Path) -> pd.DataFrame:
    """The photos below a folder, labelled by its sub-folders: path, label."""
    files = sorted(file for file in files_below(folder) if is_photo(file) and file.parent != folder)
    labels = [file.relative_to(folder).parts[0] for file in files]
    return pd.DataFrame({"path": [file.as_posix() for file in files], "label": labels}, dtype=object)


def labelled_photos(
    folder: str | Path, classifier: Predictor, paths: Paths
) -> tuple[pd.DataFrame, Split | None]:
    """The photos to test on, as a manifest, and what they are to the models of this project.

    `folder` where it is given, else those held out to test, else the validation photos of the model's own
    training. Where there are none at all, or their labels are not the model's, an empty manifest and None,
    and a sentence is printed: what needs no labels goes on.
    """
    photos, split = _find_labelled(folder, classifier, paths)
    if fault := _unknown_labels(photos.label, classifier):
        print(f"{fault}: no accuracy is measured. Give a folder of photos with its labels, or another model.")
    elif len(photos):
        return photos, split
    else:
        print(f"{paths.data} holds no labelled photos: fetch a dataset, or give a folder of them.")
    return pd.DataFrame(columns=["path", "label"]), None


def _find_labelled(
    folder: str | Path, classifier: Predictor, paths: Paths
) -> tuple[pd.DataFrame, Split | None]:
    if folder:
        place = Path(folder).expanduser()
        known = {paths.train: Split.TRAIN, paths.train_aug: Split.TRAIN, paths.val: Split.VAL}
        inside = [split for part, split in known.items() if place.resolve().is_relative_to(part.resolve())]
        return labelled_folder(place), inside[0] if inside else Split.TEST
    trained = _in_class_folders(paths.train)
    if _unknown_labels(trained.label, classifier):
        return trained, Split.TRAIN  # before they are split, which may take minutes
    test = _held_out(trained, paths)
    if trained.empty and test.empty:
        return _in_class_folders(paths.val), Split.VAL
    if trained.empty or len(test):
        return test, Split.TEST
    return training_manifests(paths)[1], Split.VAL


def _held_out(trained: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """All photos to test on; without photos to train on, of which there is no split, those of `data/test`."""
    return _in_class_folders(paths.test) if trained.empty else held_out_manifest(paths)


def validation_temperature(classifier: Predictor, paths: Paths) -> float | None:
    """`fit_temperature` on the validation photos of `data/`; None where they are not of its classes."""
    answers = _validation_answers(classifier, paths)
    return None if answers is None else fit_temperature(answers)


def _validation_answers(classifier: Predictor, paths: Paths) -> pd.DataFrame | None:
    trained = _in_class_folders(paths.train)
    if trained.empty or _unknown_labels(trained.label, classifier):
        return None  # the photos are away, or those of another project
    return evaluate(classifier, training_manifests(paths)[1], split=Split.VAL).predictions


def calibrate(classifier: Predictor, paths: Paths) -> Classifier:
    """Writes the temperature of the validation photos into the model's `.h5`, and opens it again.

    Answers stay, confidences change, in every program that opens the file: `divide_logits`. Its metadata tell
    `temperature`, and in `abstain_below` the confidence that SURE of the validation photos reach. A second
    call finds a temperature near 1. Raises UserError for an ensemble, a file that `train` has not written or
    that was fetched from the Hub, and where the validation photos are away.
    """
    if not isinstance(classifier, Classifier) or "assumed" in classifier.metadata:
        raise UserError(
            f"{classifier.name} is not a .h5 of this project; only such a file can be calibrated."
        )
    if classifier.path.resolve() == EMO_MINI:
        raise UserError(f"{EMO_MINI.name} comes with the project, calibrated: copy it to calibrate it again.")
    if is_fetched(classifier.path):
        raise UserError(
            f"{classifier.name} is the Hub's file, whose checksum is known: copy {classifier.path} into "
            f"{paths.model} and calibrate that."
        )
    plain = load_classifier(classifier.path)  # without flip
    answers = _validation_answers(plain, paths)
    if answers is None:
        raise UserError(
            f"{paths.train} has no photos of the classes of {classifier.path.name}; calibrate it where the "
            "photos that it was trained on lie."
        )
    temperature = fit_temperature(answers)
    curve = coverage_curve(calibrated := apply_temperature(answers, temperature))
    threshold = float(coverage_table(curve, [SURE]).threshold.iloc[0])
    written = store_temperature(plain, temperature, abstain_below=threshold)
    before, after = map(expected_calibration_error, (answers, calibrated))
    print(
        f"{plain.path.name}: log-probabilities divided by {temperature:.2f}; calibration error on the "
        f"validation photos {before:.3f} → {after:.3f}."
    )
    return written


def report_on(
    classifier: Predictor, photos: pd.DataFrame, split: Split | None, paths: Paths, *, leaks: bool = True
) -> Report | None:
    """`evaluate`, with duplicates and temperature taken from the project's `data/`; logs test figures.

    `photos` and `split` are what `labelled_photos` gave; None where there are no photos. With `leaks` those
    that have a duplicate in training are counted apart, but not among those to train on; photos to test on
    get their temperature from the validation photos.
    """
    if photos.empty:
        return None
    tested = split is Split.TEST
    made = evaluate(
        classifier,
        photos,
        split=split,
        leaked=leaked_photos(paths) if leaks and split is not Split.TRAIN else None,
        temperature=validation_temperature(classifier, paths) if tested else None,
    )
    if tested:
        log_test(made, classifier, paths)
    return made


def report(
    predictions: pd.DataFrame,
    class_names: Iterable[str],
    *,
    model: str = "",
    split: Split | None = None,
    leaked: Iterable[str | Path] | None = None,
    temperature: float | None = None,
    names_assumed: bool = False,
) -> Report:
    """`evaluate`'s figures of a table that has them all: path, label, emotion, confidence, the classes.

    Photos that were not read count in no figure, nor do classes without photos in a mean over classes.
    Raises UserError where nothing is left to count.
    """
    names = list(class_names)
    predictions = predictions[predictions.emotion.notna()].reset_index(drop=True)
    if predictions.empty:
        raise UserError("Not one of these photos could be read; give others to evaluate.")
    rest = None if leaked is None else _without(predictions, leaked)
    hits = int((predictions.label == predictions.emotion).sum())
    present = [name for name in names if (predictions.label == name).any()]
    precision, recall, f1, support = precision_recall_fscore_support(
        predictions.label, predictions.emotion, labels=present, zero_division=0
    )
    calibrated_ece = None
    if temperature is not None:
        calibrated_ece = expected_calibration_error(apply_temperature(predictions, temperature))
    return Report(
        model=model,
        split=split,
        photos=len(predictions),
        accuracy=hits / len(predictions),
        interval=tuple(map(float, wilson(hits, len(predictions)))),
        balanced_accuracy=float(recall.mean()),
        macro_f1=float(f1.mean()),
        ece=expected_calibration_error(predictions),
        temperature=temperature,
        calibrated_ece=calibrated_ece,
        per_class=pd.DataFrame(
            {"precision": precision, "recall": recall, "f1": f1, "photos": support}, index=present
        ),
        confusion=pd.DataFrame(
            confusion_matrix(predictions.label, predictions.emotion, labels=names), index=names, columns=names
        ),
        predictions=predictions,
        without_duplicates=None if rest is None or rest.empty else report(rest, names, model=model),
        names_assumed=names_assumed,
        all_duplicates=rest is not None and rest.empty,
    )


def _without(predictions: pd.DataFrame, leaked: Iterable[str | Path]) -> pd.DataFrame:
    """The rows whose photo has no duplicate in training."""
    leaked = set(map(_absolute, leaked))
    return predictions[~predictions.path.map(_absolute).isin(leaked)]


def _absolute(path: str | Path) -> str:
    return Path(os.path.abspath(Path(path).expanduser())).as_posix()  # noqa: PTH100 -- Path keeps a ..


def shown_paths(paths: Iterable[str]) -> list[str]:
    """Paths from the name of the folder that holds them all on: "test/sad/1.jpg".

    They say no more of the machine than that, and stay the same where the data moves.
    """
    files = [Path(_absolute(path)) for path in paths]
    top = Path(os.path.commonpath([file.parent for file in files])).parent
    return [file.relative_to(top).as_posix() for file in files]


def _readable(path: str) -> bool:
    try:
        read_image(path, 1)
    except UserError:
        return False
    return True


def log_test(report: Report, classifier: Predictor, paths: Paths) -> int | str | None:
    """Writes test accuracy and macro F1 into the row of the run that saved this model.

    Gives the row's number, or None where the table has none of that name: an ensemble, or a model with
    flip, has no row of its own. None, and nothing is written, too where the photos are not all of those held
    out to test, in `data/test` or by `data/split.csv`, unreadable ones aside: the table compares runs on the
    same ones. Of a part of them a sentence says so.
    """
    trained = _in_class_folders(paths.train)
    if _unknown_labels(trained.label, classifier):
        return None  # a model of other photos
    if not (paths.experiments.exists() or paths.experiments_csv.exists()):
        return None  # and no table is begun
    held_out = set(_held_out(trained, paths).path.map(_absolute))
    tested = set(report.predictions.path.map(_absolute))
    if not tested & held_out:
        return None
    others = len(tested - held_out)
    if others or any(map(_readable, held_out - tested)):
        beside = f" and {others:,} other{'s' * (others > 1)}" if others else ""
        print(
            f"Not logged: {len(tested & held_out):,} of the {len(held_out):,} photos held out to test"
            f"{beside}; the table compares runs on the same ones."
        )
        return None
    figures = {"test_accuracy": round(100 * report.accuracy, 1), "macro_f1": round(report.macro_f1, 3)}
    return runlog.update_run(classifier.name, figures, paths)
