"""Accuracy against cost: the frontier that a sweep of settings spans, and what is read off it.

Settings can be mixed (prompt by prompt, at random), so that a rule's frontier is the upper concave hull of its points,
together with the point of a single answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Vector = Float64[np.ndarray, " s"]


@dataclass(frozen=True, eq=False)
class Frontier:
    """The hull's corners, in rising cost and accuracy."""

    cost: Vector
    accuracy: Vector

    @classmethod
    def of(cls, cost: Vector, accuracy: Vector) -> Frontier:
        """The upper concave hull of points, up to the most accurate one."""
        order = np.lexsort((-accuracy, cost))
        corners: list[tuple[float, float]] = []
        for c, a in zip(cost[order].tolist(), accuracy[order].tolist(), strict=True):
            if corners and a <= corners[-1][1]:
                continue
            while len(corners) > 1 and _turns_left(corners[-2], corners[-1], (c, a)):
                corners.pop()
            corners.append((c, a))
        points = np.array(corners)
        return cls(points[:, 0], points[:, 1])

    def at(self, cost: Vector) -> Vector:
        """The accuracy that a mean cost buys; flat beyond the last corner."""
        return np.interp(cost, self.cost, self.accuracy)

    def cost_of(self, accuracy: float) -> float:
        """The least mean cost at which this accuracy is reached; NaN if it is not."""
        if accuracy > self.accuracy[-1] + 1e-12:
            return float("nan")
        return float(np.interp(accuracy, self.accuracy, self.cost))

    def area(self, low: float, high: float) -> float:
        """Mean accuracy over log cost between two costs."""
        grid = np.geomspace(low, high, 400)
        return float(np.trapezoid(self.at(grid), np.log(grid)) / np.log(high / low))


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])
