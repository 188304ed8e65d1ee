"""Is one model really better than another? Both are asked about the same photos."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from emo.errors import UserError
from emo.evaluation.evaluate import Report, shown_paths
from emo.evaluation.intervals import paired_difference


@dataclass(frozen=True)
class Comparison:
    """How many photos both models got right, the first or the second alone, and neither; what follows.

    `difference` is the accuracy of the second minus that of the first and `interval` its 95% interval, as
    fractions; `p` is the probability of McNemar's exact two-sided test.
    """

    first: str
    second: str
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    interval: tuple[float, float]
    p: float

    @property
    def clear(self) -> bool:
        """Whether both test and interval rule out, at 95%, that the models are equally good."""
        low, high = self.interval
        return self.p < 0.05 and (low > 0 or high < 0)

    @property
    def table(self) -> pd.DataFrame:
        """The photos that each model got right and wrong: rows the first, columns the second."""
        return pd.DataFrame(
            [[self.both, self.only_first], [self.only_second, self.neither]],
            index=[f"{self.first}: right", f"{self.first}: wrong"],
            columns=[f"{self.second}: right", f"{self.second}: wrong"],
        )

    def __str__(self) -> str:
        points, low, high = (100 * share for share in (self.difference, *self.interval))
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        if not self.clear:
            by = f"{points:+.1f} points (95% {low:+.1f} to {high:+.1f}, McNemar {p})"
            return f"No clear difference: {by} from {self.first} to {self.second}."
        better, worse = (self.second, self.first) if points > 0 else (self.first, self.second)
        low, high = sorted((abs(low), abs(high)))
        by = f"{abs(points):.1f} points (95% {low:.1f}–{high:.1f}, McNemar {p})"
        return f"{better} is better than {worse} by {by}."


def compare(first: Report, second: Report) -> Comparison:
    """McNemar's exact test and Newcombe's paired interval for two reports on the same labelled photos.

    Photos are matched by label and path below the folder that holds them all, so the data may have moved.
    Raises UserError where the reports are not on the same photos.
    """
    right, right_too = _right(first), _right(second)
    if not right.index.equals(right_too.index):
        odd = right.index.symmetric_difference(right_too.index)
        example = f", such as {odd[0][0]} ({odd[0][1]})" if len(odd) else ""
        raise UserError(
            f"The reports are on {len(right):,} and {len(right_too):,} photos, {len(odd):,} of them in one "
            f"report only or labelled otherwise{example}; evaluate both models on the same photos."
        )
    a, b = right.to_numpy(), right_too.to_numpy()
    both, only_first, only_second, neither = (
        int(photos.sum()) for photos in (a & b, a & ~b, ~a & b, ~a & ~b)
    )
    differing = only_first + only_second
    return Comparison(
        *_names(first.model, second.model),
        both,
        only_first,
        only_second,
        neither,
        difference=(only_second - only_first) / len(a),
        interval=paired_difference(both, only_second, only_first, neither),
        p=float(binomtest(only_second, differing).pvalue) if differing else 1.0,
    )


def _names(first: str, second: str) -> tuple[str, str]:
    """Both models' names, told apart where they are the same file's or missing."""
    if first and second and first != second:
        return first, second
    return (
        f"{first} (the first)" if first else "the first",
        f"{second} (the second)" if second else "the second",
    )


def _right(report: Report) -> pd.Series:
    """Whether each photo was named right, in the order of paths and labels."""
    table = report.predictions
    photos = pd.MultiIndex.from_arrays([shown_paths(table.path), table.label])
    return pd.Series((table.label == table.emotion).to_numpy(), photos).sort_index(kind="stable")
