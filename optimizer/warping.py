"""Learned changes of the axes: monotone maps of the unit interval, one per column, inside the kernel.

A function that changes fast at one end of a range and hardly at the other is stationary after a suitable stretch of its
axis. Snoek, Swersky, Zemel and Adams 2014 learn one per column as a Beta distribution function; here it is that of a
Kumaraswamy distribution, w(x) = 1 - (1 - x^a)^b, which has a closed form and nearly the same shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Rows = Float64[np.ndarray, "m d"]
Shapes = Float64[np.ndarray, " d"]

INSET = 1e-6  # how far from 0 and 1 the ends of the axes are kept, where slopes may be infinite
PRIOR_SCALE = math.sqrt(0.75)  # of log a and log b, around no warp; that of HEBO (Cowen-Rivers et al. 2022)
BOUNDS = (0.1, 10.0)


@dataclass(frozen=True)
class Warp:
    """w(x) = 1 - (1 - x^a)^b in every column; a = b = 1 leaves a column as it is."""

    a: Shapes
    b: Shapes

    def __call__(self, X: Rows) -> Rows:
        """The rows with every axis changed."""
        _, log_rest = self._logs(X)
        return np.where(self._still, X, -np.expm1(self.b * log_rest))

    def slope(self, X: Rows) -> Rows:
        """dw/dx at every entry."""
        log_t, log_rest = self._logs(X)
        log_slope = np.log(self.a * self.b) + (self.a - 1.0) * log_t + (self.b - 1.0) * log_rest
        return np.where(self._still, 1.0, (1.0 - 2.0 * INSET) * np.exp(log_slope))

    def pull(self, X: Rows, d_w: Rows, d_log_slope: Rows) -> tuple[Shapes, Shapes]:
        """Derivatives in log a and log b, from those in w(X) and in log dw/dx."""
        log_t, log_rest = self._logs(X)
        a, b = self.a, self.b
        q = np.exp(a * log_t)  # x^a
        d_rest = -a * q * log_t / np.exp(log_rest)  # d log(1 - x^a) / d log a
        rest_b = np.exp(b * log_rest)
        by_a = d_w * (-b * rest_b * d_rest) + d_log_slope * (1.0 + a * log_t + (b - 1.0) * d_rest)
        by_b = d_w * (-b * rest_b * log_rest) + d_log_slope * (1.0 + b * log_rest)
        return by_a.sum(0), by_b.sum(0)

    @property
    def _still(self) -> np.ndarray:
        return (self.a == 1.0) & (self.b == 1.0)

    def _logs(self, X: Rows) -> tuple[Rows, Rows]:
        """log x and log(1 - x^a), a little inside of the ends."""
        log_t = np.log(INSET + (1.0 - 2.0 * INSET) * np.clip(X, 0.0, 1.0))
        return log_t, np.log(-np.expm1(self.a * log_t))


def negative_log_prior(log_shapes: Float64[np.ndarray, " w"]) -> tuple[float, Float64[np.ndarray, " w"]]:
    """The negative log density of log a and log b, normal around no warp, and its gradient."""
    z = log_shapes / PRIOR_SCALE
    return 0.5 * float(z @ z), z / PRIOR_SCALE
