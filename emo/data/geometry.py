"""A square of a picture, perhaps turned."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image


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

    def to_picture(self, size: tuple[int, int]) -> np.ndarray:
        """The 3 × 3 matrix that takes (u, v, 1) to (x, y, 1).

        u and v run from 0 to 1, right and down in the crop as it is turned; x and y are pixels of a picture
        of `size` (width, height), whose upper left corner is (0, 0).
        """
        longer = max(size)
        along = math.cos(math.radians(self.angle)) * self.side * longer
        across = math.sin(math.radians(self.angle)) * self.side * longer
        x, y = size[0] / 2 + self.x * longer, size[1] / 2 + self.y * longer
        return np.array(
            [
                [along, -across, x - (along - across) / 2],
                [across, along, y - (across + along) / 2],
                [0.0, 0.0, 1.0],
            ]
        )

    def corners(self, size: tuple[int, int]) -> np.ndarray:
        """(4, 2): x and y in pixels of a picture of `size`, clockwise from the crop's own upper left."""
        square = np.array([(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)])
        return (square @ self.to_picture(size).T)[:, :2]

    def bounds(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the upright box around it in pixels, perhaps out of the picture."""
        corners = self.corners(size)
        return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())

    def with_margin(self, margin: float) -> Crop:
        """The crop with `margin` of its side added on each side."""
        return replace(self, side=self.side * (1 + 2 * margin))

    def part(self, inner: Crop) -> Crop:
        """`inner`, a crop of what this crop shows, as one of the picture."""
        u, v, _ = self.to_picture((1, 1)) @ (0.5 + inner.x, 0.5 + inner.y, 1)
        return Crop(u - 0.5, v - 0.5, self.side * inner.side, self.angle + inner.angle)

    def towards(self, other: Crop, share: float) -> Crop:
        """The crop at `share` of the straight way to another: 0 is this one, 1 is the other."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("x", "y", "side", "angle"))
        return Crop(*(start + share * (end - start) for start, end in pairs))

    def distance(self, other: Crop) -> float:
        """Between the centres, as a share of the picture's longer side."""
        return math.hypot(other.x - self.x, other.y - self.y)


def resampling_matrix(length: int, size: int, start: float = 0.0, share: float = 1.0) -> np.ndarray:
    """(size, length) float32: what makes `size` pixels of a line of `length`, or of a `share` of it.

    The line is cut at `start`, a share too. As Pillow resizes: bilinear, and without aliasing.
    """
    identity = Image.fromarray(np.eye(length, dtype=np.float32))
    box = (start * length, 0, (start + share) * length, length)
    return np.asarray(identity.resize((size, length), Image.Resampling.BILINEAR, box)).T
