"""Many starts at once uphill: BFGS with bounds, all rows in step, so that a function sees them as one batch.

Every row keeps its own approximation H of the inverse of the negative Hessian and moves along the projection of
x + t H g on the box, where columns that are held by a bound are left out of H (the two-metric projection of Bertsekas
1982). A step is taken if it brings a share of what the slope promises, and cut short otherwise (Nocedal and Wright
2006, algorithm 3.1 and equation 6.17). Rows that fall behind for good are left where they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64

Rows = Float64[np.ndarray, "m d"]
Values = Float64[np.ndarray, " m"]
Indices = Int64[np.ndarray, " m"]
Function = Callable[[Rows, Indices], tuple[Values, Rows]]  # of some rows and their places: values and gradients

FIRST = 0.1  # the largest change of a column in the first step
PROMISED = 1e-4  # share of what the slope promises that a step has to bring
SHORTEST = 1e-10  # a step below which a row is at its end
STEPS = 5  # that every row may take before it can fall behind
PATIENCE = 10.0  # steps like the last one that may catch up with the best row


def ascend(
    f: Function,
    X: Rows,
    low: Float64[np.ndarray, " d"],
    high: Float64[np.ndarray, " d"],
    *,
    tolerance: float,
    rounds: int = 200,
) -> tuple[Rows, Values]:
    """The rows moved uphill inside the box until no step gains ``tolerance``, and their values.

    ``f`` is called at most ``rounds`` times. A gradient of 0 keeps a column where it is; a value that is not finite
    ends a row that starts there, and is never stepped to.
    """
    climb = _Climb(f, np.clip(X, low, high), low, high)
    for _ in range(rounds - 1):
        if not len(climb.row):
            break
        climb.step(tolerance)
    climb.keep(np.zeros(len(climb.row), dtype=bool))
    return climb.X, climb.values


class _Climb:
    """The state of all rows: where they are (X), and for those that still move (``row``) all the rest."""

    def __init__(self, f: Function, X: Rows, low: np.ndarray, high: np.ndarray) -> None:
        self._f, self._low, self._high = f, low, high
        n, d = X.shape
        self.X, self.row = X.copy(), np.arange(n)
        self.values, self.g = f(X, self.row)
        self.x, self.v = X, self.values
        self.values = self.values.copy()
        self.steps, self.short = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        self.t = np.ones(n)
        self._eye = np.eye(d)
        self.H = self._eye * (FIRST / np.maximum(np.abs(self.g).max(1), 1e-300))[:, None, None]
        self._aim()
        self.keep(np.isfinite(self.v) & (self.slope > 0.0))

    def step(self, tolerance: float) -> None:
        """One evaluation for every row that still moves."""
        x = np.minimum(np.maximum(self.x + self.t[:, None] * self.p, self._low), self._high)
        s = x - self.x
        promised = np.einsum("md,md->m", self.g, s)
        v, g = self._f(x, self.row)
        gain = v - self.v
        taken = np.isfinite(v) & (gain >= PROMISED * promised)
        everywhere = bool(taken.all())
        small = taken & (gain <= tolerance)
        done = small & (self.short | (self.t == 1.0))
        if not everywhere:
            with np.errstate(divide="ignore", invalid="ignore"):  # to the parabola's maximum, not too far from it
                cut = np.fmin(np.fmax(0.5 * promised / (promised - gain), 0.1), 0.5)
            self.t = np.where(taken, 1.0, self.t * cut)
            done |= ~taken & (np.abs(s).max(1) < SHORTEST)
        else:
            self.t[:] = 1.0
        if taken.any():
            self._learn(s, self.g - g, taken)
            if everywhere:
                self.x, self.g, self.v = x, g, v
            else:
                self.x[taken], self.g[taken], self.v[taken] = x[taken], g[taken], v[taken]
            self.steps += taken
            self._aim()
            done |= self.slope <= 0.0
        self.short = small
        behind = taken & (self.steps > STEPS) & (self.v + PATIENCE * gain < max(self.v.max(), self.values.max()))
        done |= behind
        if done.any():
            self.keep(~done)

    def _aim(self) -> None:
        """The direction of every row, and how steep it is."""
        at_low, at_high = self.x <= self._low, self.x >= self._high
        bound = bool(at_low.any() or at_high.any())
        g = np.where((at_low & (self.g < 0.0)) | (at_high & (self.g > 0.0)), 0.0, self.g) if bound else self.g
        self.p = (self.H @ g[:, :, None])[:, :, 0]
        if bound:
            self.p[(g == 0.0) | (at_low & (self.p < 0.0)) | (at_high & (self.p > 0.0))] = 0.0
        self.slope = np.einsum("md,md->m", self.p, g)

    def _learn(self, s: Rows, y: Rows, taken: Bool[np.ndarray, " m"]) -> None:
        """What a step s and the fall y of the gradient along it say about H; where it did not fall, H is doubled."""
        y[s == 0.0] = 0.0
        sy, yy = np.einsum("md,md->m", s, y), np.einsum("md,md->m", y, y)
        curved = taken & (sy > 1e-10 * yy)
        first = curved & (self.steps == 0)
        if first.any():
            self.H[first] = self._eye * (sy[first] / yy[first])[:, None, None]
        if not curved.all():
            self.H[taken & ~curved] *= 2.0
            s, y, sy = s * curved[:, None], y * curved[:, None], np.where(curved, sy, 1.0)
        Hy = (self.H @ y[:, :, None])[:, :, 0] / sy[:, None]
        u = s * ((1.0 + np.einsum("md,md->m", y, Hy)) / sy)[:, None] - Hy
        self.H += u[:, :, None] * s[:, None, :] - s[:, :, None] * Hy[:, None, :]

    def keep(self, kept: Bool[np.ndarray, " m"]) -> None:
        """Goes on with these rows and takes note of where the others are."""
        self.X[self.row], self.values[self.row] = self.x, self.v
        self.row, self.t, self.short, self.steps = self.row[kept], self.t[kept], self.short[kept], self.steps[kept]
        self.x, self.v, self.g, self.H = self.x[kept], self.v[kept], self.g[kept], self.H[kept]
        self.p, self.slope = self.p[kept], self.slope[kept]
