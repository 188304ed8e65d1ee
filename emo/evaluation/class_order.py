"""Whether a model's class names stand in the wrong order: a file that names none says nothing of it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

LEVEL = 0.001  # the probability that names in the right order are called wrong
GAIN = (
    0.2  # of the moved classes' mean recall, which must double, too: a bad model confuses, it does not swap
)


def better_order(confusion: pd.DataFrame) -> list[str] | None:
    """The names in an order that fits these photos far better; None where there is none.

    `confusion` counts true (rows) × predicted (columns). The order that gives the largest mean recall is
    found by linear assignment, and each cycle of names that it moves is judged alone: in the new order the
    recall of its classes must be twice the old one, 20 points more, better for two of three of them, and more
    than chance among all orders can give (a z-test of photos named right in one order alone, Bonferroni's
    correction over all orders).
    """
    names, counts = list(confusion.index), confusion.to_numpy(float)
    photos = counts.sum(axis=1)
    rates = counts / np.maximum(photos, 1)[:, None]
    # a class without photos says nothing, and no name moves for nothing
    _, output = linear_sum_assignment(rates + 1e-9 * np.eye(len(names)), maximize=True)
    order = list(names)
    for cycle in _cycles(output):
        if _is_better(rates, photos, cycle, output):
            for place in cycle:
                order[output[place]] = names[place]
    return order if order != names else None


def _cycles(output: np.ndarray) -> list[list[int]]:
    """The classes that change places among themselves; `output[class]` is where its name belongs."""
    found, seen = [], set()
    for first in range(len(output)):
        cycle, place = [], first
        while place not in seen:
            seen.add(place)
            cycle.append(place)
            place = int(output[place])
        if len(cycle) > 1:
            found.append(cycle)
    return found


def _is_better(rates: np.ndarray, photos: np.ndarray, cycle: list[int], output: np.ndarray) -> bool:
    known = [place for place in cycle if photos[place]]
    if len(known) < 2:
        return False
    old, new = rates[known, known], rates[known, output[known]]
    gains = new - old
    if new.mean() < max(2 * old.mean(), old.mean() + GAIN) or 3 * (gains > 0).sum() < 2 * len(known):
        return False
    count = photos[known]
    # one photo more of each kind, or a class of few photos would be certain of itself
    plus, minus = (new * count + 1) / (count + 3), (old * count + 1) / (count + 3)
    deviation = math.sqrt(((plus + minus - (plus - minus) ** 2) / count).sum()) / len(known)
    orders = math.lgamma(len(rates) + 1)
    return norm.logsf(gains.mean() / deviation) + orders < math.log(LEVEL)
