"""What a confidence is worth: calibration, the temperature that repairs it, and abstaining below a threshold.

All functions take the table of `Classifier.predict` with a column `label`, as `Report.predictions` holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from emo.errors import UserError
from emo.evaluation.intervals import wilson

BINS = 15  # of equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"
TEMPERATURES = (0.05, 20.0)  # a fit at a bound means that the photos are too few or all right
TINY = np.finfo(np.float32).tiny  # a probability of 0 is one that float32 could not hold


def reliability(predictions: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """A row per bin of confidence that holds photos: low, high, confidence (mean), accuracy, photos.

    A bin holds its upper edge, not its lower one.
    """
    confidence = predictions.confidence.to_numpy(float)
    correct = (predictions.label == predictions.emotion).to_numpy(float)
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence)
    photos, sure, right = (np.bincount(bin_of, w, bins) for w in (None, confidence, correct))
    filled = np.flatnonzero(photos)
    return pd.DataFrame(
        {
            "low": edges[filled],
            "high": edges[filled + 1],
            "confidence": sure[filled] / photos[filled],
            "accuracy": right[filled] / photos[filled],
            "photos": photos[filled].astype(int),
        }
    )


def expected_calibration_error(predictions: pd.DataFrame, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy over `reliability`'s bins, weighted by their photos; 0–1."""
    table = reliability(predictions, bins)
    return float(np.average((table.accuracy - table.confidence).abs(), weights=table.photos))


def fit_temperature(predictions: pd.DataFrame) -> float:
    """The temperature that makes the labels of *validation* photos likeliest; above 1: it was too sure.

    Dividing log-probabilities by it (`apply_temperature`) changes confidences, never answers. Guo et al.
    2017, section 4.2. Within 0.05–20. Raises UserError for a table without labels or without rows, and for
    labels that are not classes.
    """
    if "label" not in predictions:
        raise UserError("A temperature needs labelled photos: fit it on evaluate(…).predictions.")
    predictions = predictions[predictions.emotion.notna()]
    if predictions.empty:
        raise UserError("There is no readable photo to fit the temperature on; give validation photos.")
    names, logs = _log_probabilities(predictions)
    if unknown := sorted(set(predictions.label) - set(names), key=str):
        told = ", ".join(map(str, unknown))
        raise UserError(f"The photos are labelled {told}, but the classes are {', '.join(names)}.")
    truth = np.arange(len(logs)), names.get_indexer(predictions.label)

    def loss(log_temperature: float) -> float:
        return -log_softmax(logs / math.exp(log_temperature), axis=1)[truth].mean()

    # the loss is convex in 1 / temperature, so it has one minimum on this scale as well
    bounds = [math.log(bound) for bound in TEMPERATURES]
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def apply_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """A copy with calibrated confidence and class columns, for `Classifier.predict`'s table as well."""
    if not (isinstance(temperature, Real) and temperature > 0):
        raise UserError(f"temperature={temperature!r} must be a number above 0; fit_temperature gives one.")
    names, logs = _log_probabilities(predictions)
    probabilities = np.exp(log_softmax(logs / temperature, axis=1))
    calibrated = predictions.copy()
    calibrated[list(names)] = probabilities
    calibrated["confidence"] = probabilities.max(axis=1)
    return calibrated


def _log_probabilities(predictions: pd.DataFrame) -> tuple[pd.Index, np.ndarray]:
    """The classes, and (n, classes) of their natural logarithms; NaN for a photo that was not read."""
    names = predictions.columns[list(predictions.columns).index("confidence") + 1 :]
    names = names.drop(["label", "source"], errors="ignore")  # where somebody has added them at the end
    return names, np.log(np.maximum(predictions[names].to_numpy(float), TINY))


def coverage_curve(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy where only photos of at least a confidence are answered, from the strictest threshold on.

    Columns: threshold, coverage (share answered), accuracy, its 95% interval as low and high, photos. Photos
    of one confidence are answered together, as no threshold parts them.
    """
    ordered = predictions.sort_values("confidence", ascending=False, ignore_index=True)
    photos = np.arange(1, len(ordered) + 1)
    hits = (ordered.label == ordered.emotion).cumsum().to_numpy()
    low, high = wilson(hits, photos)
    curve = pd.DataFrame(
        {
            "threshold": ordered.confidence,
            "coverage": photos / len(ordered),
            "accuracy": hits / photos,
            "low": low,
            "high": high,
            "photos": photos,
        }
    )
    return curve.drop_duplicates("threshold", keep="last", ignore_index=True)


def coverage_table(curve: pd.DataFrame, shares: Sequence[float] = (1, 0.9, 0.8, 0.5)) -> pd.DataFrame:
    """The rows of `coverage_curve` where at least these shares of the photos are answered, by share."""
    places = np.searchsorted(curve.coverage, np.array(shares) - 1e-9)  # 0.9 * 10 / 10 is no exact 0.9
    return curve.iloc[places].set_axis(pd.Index(shares, name="share"), axis=0)
