"""The covariance of values of the function: a Matern-5/2 kernel, and what is asked about as fixed `Sites`.

A process is conditioned on sites, and an acquisition function compares rows that move (what could be tried next) with
sites that stay. `Sites.cross` gives the covariances of rows with sites, and pulls derivatives in them back to the rows;
no other file needs to know the kernel's form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Matrix = Float64[np.ndarray, "n d"]
Rows = Float64[np.ndarray, "m d"]
Covariances = Float64[np.ndarray, "m t"]

SQRT5 = math.sqrt(5.0)


def squared_distance(A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
    """Squared Euclidean distances between the rows of A and B."""
    r2 = (A * A).sum(1)[:, None] + (B * B).sum(1)[None, :] - 2.0 * (A @ B.T)
    return np.maximum(r2, 0.0, out=r2)


def matern52(r2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Matern-5/2 correlation at squared distance r2 and its derivative with respect to r2."""
    r = np.sqrt(r2)
    r *= SQRT5
    e = np.exp(-r)
    slope = 1.0 + r
    slope *= e
    k = slope + (5.0 / 3.0) * r2 * e
    slope *= -5.0 / 6.0
    return k, slope


@dataclass(frozen=True)
class Kernel:
    """signal * matern52(|(a - b) / lengthscales|^2), with one length scale per column."""

    signal: float
    inverse_lengthscales: Float64[np.ndarray, " d"]

    def scaled(self, X: Rows) -> Rows:
        """Rows in units of the length scales: what distances are measured between."""
        return X * self.inverse_lengthscales

    def unscaled(self, gradient: Rows, X: Rows) -> Rows:
        """A gradient in scaled rows as one in the rows X themselves."""
        return gradient * self.inverse_lengthscales

    def covariance(self, A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        """The prior covariance between the values at the rows of A and B."""
        return self.signal * matern52(squared_distance(self.scaled(A), self.scaled(B)))[0]

    def variance(self, X: Rows) -> Float64[np.ndarray, " m"]:
        """The prior variance at every row."""
        return np.full(len(X), self.signal)

    def sites(self, X: Matrix) -> Sites:
        """The values at the rows of X, as something to condition on."""
        return Sites(self, X)


class Sites:
    """Values of the function at fixed rows."""

    def __init__(self, kernel: Kernel, X: Matrix) -> None:
        self.kernel, self.X = kernel, X
        self._scaled = kernel.scaled(X)

    def __len__(self) -> int:
        return len(self.X)

    @property
    def basis(self) -> Float64[np.ndarray, " t"]:
        """What the sites would be if the function were 1 everywhere: the constant mean's part in them."""
        return np.ones(len(self))

    def covariance(self) -> Float64[np.ndarray, "t t"]:
        """The prior covariance among the sites."""
        return self.kernel.signal * matern52(squared_distance(self._scaled, self._scaled))[0]

    def cross(self, X: Rows) -> Cross:
        """The prior covariances of the values at the rows of X with the sites."""
        return Cross(self, X)

    def beside(self, X: Matrix) -> Sites:
        """These sites followed by the values at the rows of X."""
        return Sites(self.kernel, np.concatenate([self.X, X]))


class Cross:
    """The prior covariances ``k`` of rows (m) with sites (t), and their derivatives in the rows."""

    k: Covariances

    def __init__(self, sites: Sites, X: Rows) -> None:
        self._sites, self._X = sites, X
        self._xs = sites.kernel.scaled(X)
        self.k, self._slope = matern52(squared_distance(self._xs, sites._scaled))
        self.k *= sites.kernel.signal
        self._slope *= 2.0 * sites.kernel.signal

    def pull(self, weights: Covariances) -> Rows:
        """The gradient of (weights * k).sum() in every row; the weights themselves stay constant."""
        w = weights * self._slope
        scaled = w.sum(1)[:, None] * self._xs - w @ self._sites._scaled
        return self._sites.kernel.unscaled(scaled, self._X)
