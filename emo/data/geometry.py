"""A square of a picture, perhaps turned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Crop:
    """A square of a picture, the same for every size of that picture.

    Lengths are shares of the picture's longer side: `x` and `y` lead from the picture's centre, right and
    down, to the crop's, `side` is the crop's. `angle`: degrees by which it is turned clockwise.
    """

    x: float = 0.0
    y: float = 0.0
    side: float = 1.0
    angle: float = 0.0
