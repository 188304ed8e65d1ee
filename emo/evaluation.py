"""How good a classifier is on labelled photos, and the answers for unlabelled ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from emo import runlog
from emo.classifier import Classifier
from emo.dataset import scan_dataset, training_manifests
from emo.errors import UserError
from emo.paths import Paths, free_path


@dataclass(frozen=True)
class Report:
    """Figures on `photos` labelled photos; all but counts are fractions in 0–1.

    `predictions` is `Classifier.predict`'s table with the true `label`; `per_class` has precision,
    recall, f1 and photos; `confusion` counts true (rows) × predicted (columns).
    """

    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    ece: float
    photos: int
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    predictions: pd.DataFrame

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"accuracy {self.accuracy:.1%} (95% interval {low:.1%}–{high:.1%}) · "
            f"macro F1 {self.macro_f1:.3f} · calibration error {self.ece:.3f} · {self.photos:,} photos"
        )


def evaluate(classifier: Classifier, photos: str | Path | pd.DataFrame) -> Report:
    """Accuracy (with Wilson's 95% interval), macro F1, confusion and calibration on labelled photos.

    `photos` is a folder with a sub-folder a class, or a manifest (path, label). Raises UserError where its
    classes are not the model's, or it holds no readable photo.
    """
    manifest = photos if isinstance(photos, pd.DataFrame) else _labelled_folder(Path(photos).expanduser())
    unknown = sorted(set(manifest.label) - set(classifier.class_names))
    if unknown:
        raise UserError(
            f"The photos are labelled {', '.join(unknown)}, but {classifier.path.name} knows only "
            f"{', '.join(classifier.class_names)}; rename the class folders or choose another model."
        )
    predictions = classifier.predict(list(manifest.path))
    predictions.insert(1, "label", manifest.label.to_numpy())
    predictions = predictions[predictions.emotion.notna()].reset_index(drop=True)
    return report(predictions, classifier.class_names)


def _labelled_folder(folder: Path) -> pd.DataFrame:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give one that holds a sub-folder a class.")
    manifest = scan_dataset(folder)
    manifest = manifest[(manifest.problem == "") & (manifest.label != "")]
    if manifest.empty:
        raise UserError(f"{folder} holds no readable photo in a sub-folder named as a class.")
    return manifest


def labelled_photos(
    folder: str, classifier: Classifier, paths: Paths
) -> tuple[pd.DataFrame, Literal["test", "validation", "training", "no"]]:
    """The photos to test on, as a manifest, and what they are to the models of this project.

    `folder` where it is given, else `data/test`, else the validation photos of the model's own training.
    Where there are none at all, an empty manifest, and a sentence is printed.
    """
    if folder:
        place = Path(folder).expanduser()
        known = {paths.train: "training", paths.train_aug: "training", paths.val: "validation"}
        inside = [kind for part, kind in known.items() if place.resolve().is_relative_to(part.resolve())]
        return _labelled_folder(place), inside[0] if inside else "test"
    if any(paths.test.glob("*/*")):
        return _labelled_folder(paths.test), "test"
    if any(paths.train.glob("*/*")):
        seed = classifier.metadata.get("experiment", {}).get("seed", 42)
        return training_manifests(paths, seed=seed)[1], "validation"
    print(f"{paths.data} holds no labelled photos to test on: set TEST_FOLDER or SOURCE.")
    return pd.DataFrame(columns=["path", "label"]), "no"


def report(predictions: pd.DataFrame, class_names: tuple[str, ...]) -> Report:
    """The figures of a table with label, emotion and confidence; classes without photos count in none."""
    names = list(class_names)
    correct = (predictions.label == predictions.emotion).to_numpy()
    present = [name for name in names if (predictions.label == name).any()]
    precision, recall, f1, support = precision_recall_fscore_support(
        predictions.label, predictions.emotion, labels=present, zero_division=0
    )
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    return Report(
        accuracy=float(correct.mean()),
        interval=(float(interval.low), float(interval.high)),
        macro_f1=float(f1.mean()),
        ece=expected_calibration_error(predictions.confidence.to_numpy(), correct),
        photos=len(predictions),
        per_class=pd.DataFrame(
            {"precision": precision, "recall": recall, "f1": f1, "photos": support}, index=present
        ),
        confusion=pd.DataFrame(
            confusion_matrix(predictions.label, predictions.emotion, labels=names), index=names, columns=names
        ),
        predictions=predictions,
    )


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their photos.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", with its 15 bins.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, correct.astype(float) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def write_submission(predictions: pd.DataFrame, path: str | Path) -> Path:
    """The competition's CSV: `image_path,emotion`, a row a photo, `image_path` the file's name.

    An existing file is kept: the new one gets the next free number in its name.
    """
    path = free_path(Path(path))
    rows = pd.DataFrame(
        {"image_path": [Path(file).name for file in predictions.path], "emotion": predictions.emotion}
    )
    rows.to_csv(path, index=False)
    return path


def log_test(report: Report, classifier: Classifier, paths: Paths) -> int | str | None:
    """Writes test accuracy and macro F1 into the row of the run that saved this model.

    Gives the row's number, or None where the table has no such model.
    """
    figures = {"test_accuracy": round(100 * report.accuracy, 1), "macro_f1": round(report.macro_f1, 3)}
    return runlog.update_run(classifier.path.name, figures, paths)
