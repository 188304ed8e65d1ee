"""95% intervals for a share of photos, and for the difference of two shares on the same photos."""

from __future__ import annotations

import math

import numpy as np

Z = 1.959963984540054  # two-sided 95% quantile of the normal distribution


def wilson(hits, photos) -> tuple:
    """Wilson's score interval (low, high) for `hits` of `photos`, whole numbers or arrays of them.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22:209–212.
    """
    share = np.asarray(hits) / photos
    centre = share + Z**2 / (2 * photos)
    half = Z * np.sqrt(share * (1 - share) / photos + Z**2 / (4 * photos**2))
    low, high = ((centre + side) / (1 + Z**2 / photos) for side in (-half, half))
    # rounding alone would leave 1e-17 where the bound is 0
    return np.where(share == 0, 0.0, low)[()], np.where(share == 1, 1.0, high)[()]


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Interval (low, high) for the share of first minus second, of photos that both were tried on.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17:2635–2650, method 10.
    """
    photos = both + only_first + only_second + neither
    firsts, seconds = both + only_first, both + only_second
    p1, p2 = firsts / photos, seconds / photos
    (l1, u1), (l2, u2) = wilson(firsts, photos), wilson(seconds, photos)
    margins = firsts * (photos - firsts) * seconds * (photos - seconds)
    together = both * neither - only_first * only_second
    if together > 0:  # the method's continuity correction, of positive correlation only
        together = max(together - photos / 2, 0)
    phi = together / math.sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(one**2 - 2 * phi * one * other + other**2)

    return (
        max(-1.0, p1 - p2 - reach(p1 - l1, u2 - p2)),
        min(1.0, p1 - p2 + reach(u1 - p1, p2 - l2)),
    )
