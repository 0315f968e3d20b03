"""The covariance of the function's values and slopes: a Matern-5/2 kernel, and what is asked about as fixed `Sites`.

A process is conditioned on sites, and an acquisition function compares rows that move (what could be tried next) with
sites that stay. A site is the function's value at a row or one of its partial derivatives there. `Sites.cross` gives
the covariances of values at rows with sites, and pulls derivatives in them back to the rows; no other file needs to
know the kernel's form. With u the scaled rows, J = du/dx (diagonal), and phi the correlation at r^2 = |u - u'|^2,

    cov(f(x), d_c f(z))     = 2 signal J'_c phi' (u'_c - u_c)
    cov(d_b f(x), d_c f(z)) = signal J_b J'_c [4 phi'' (u_b - u'_b) (u'_c - u_c) - 2 phi' delta_bc].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from .warping import Warp

Matrix = Float64[np.ndarray, "n d"]
Rows = Float64[np.ndarray, "m d"]
Covariances = Float64[np.ndarray, "m t"]
Indices = Int64[np.ndarray, " t"]

SQRT5 = math.sqrt(5.0)
SLOPE_VARIANCE = 5.0 / 3.0  # of a partial derivative in scaled rows, relative to the signal: -2 phi'(0)
VALUE = -1  # in place of a column: the site is the value itself


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


def matern52_second(r2: np.ndarray) -> np.ndarray:
    """The second derivative of the Matern-5/2 correlation with respect to r2."""
    return (25.0 / 12.0) * np.exp(-SQRT5 * np.sqrt(r2))


def matern52_third(r2: np.ndarray) -> np.ndarray:
    """The third derivative; infinite at 0, where it only ever comes times differences that vanish faster: 0 there."""
    r = SQRT5 * np.sqrt(r2)
    return np.where(r > 0.0, -(125.0 / 24.0) * np.exp(-r) / np.where(r > 0.0, r, 1.0), 0.0)


@dataclass(frozen=True)
class Kernel:
    """signal * matern52(|(w(a) - w(b)) / lengthscales|^2), with one length scale per column; w None: the rows as is."""

    signal: float
    inverse_lengthscales: Float64[np.ndarray, " d"]
    warp: Warp | None = None

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The Matern kernels whose sum this is."""
        return (self,)

    def sizes(self, X: Rows) -> list[Float64[np.ndarray, " m"]]:
        """What the function of every part is multiplied by at every row."""
        return [np.ones(len(X))]

    def log_slopes(self, X: Rows) -> list[Rows]:
        """The gradients of the logarithms of `sizes`."""
        return [np.zeros_like(X)]

    def scaled(self, X: Rows) -> Rows:
        """Rows in units of the length scales: what distances are measured between."""
        return (X if self.warp is None else self.warp(X)) * self.inverse_lengthscales

    def jacobian(self, X: Rows) -> Rows:
        """The derivatives of the scaled rows in the rows, column by column."""
        slope = np.ones_like(X) if self.warp is None else self.warp.slope(X)
        return slope * self.inverse_lengthscales

    def unscaled(self, gradient: Rows, X: Rows) -> Rows:
        """A gradient in scaled rows as one in the rows X themselves."""
        return gradient * (self.inverse_lengthscales if self.warp is None else self.jacobian(X))

    def covariance(self, A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        """The prior covariance between the values at the rows of A and B."""
        return self.signal * matern52(squared_distance(self.scaled(A), self.scaled(B)))[0]

    def variance(self, X: Rows) -> Float64[np.ndarray, " m"]:
        """The prior variance at every row."""
        return np.full(len(X), self.signal)

    def pull_variance(self, weights: Float64[np.ndarray, " m"], X: Rows) -> Rows:
        """The gradient of (weights * variance).sum() in every row: none here, where it is the same everywhere."""
        return np.zeros_like(X)

    def sites(self, X: Matrix, row: Indices | None = None, column: Indices | None = None) -> Sites:
        """Something to condition on: the values at the rows of X, or what ``row`` and ``column`` say (see `Sites`)."""
        return Sites(self, X, row, column)


class Sites:
    """Values and partial derivatives of the function at fixed rows.

    Site i belongs to row ``row[i]`` of X; it is the partial derivative in column ``column[i]`` of the cube, or the
    value where that is VALUE. Without them the sites are the values at all rows. Each row has at most one value, and
    the derivatives come in the order of their rows.
    """

    def __init__(self, kernel: Kernel, X: Matrix, row: Indices | None = None, column: Indices | None = None) -> None:
        self.kernel, self.X = kernel, X
        self.row = np.arange(len(X)) if row is None else row
        self.column = np.full(len(self.row), VALUE) if column is None else column
        self.scaled = kernel.scaled(X)
        self.plain = row is None  # the values at all rows, and nothing else

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def values(self) -> Indices:
        """Which sites are values."""
        return np.flatnonzero(self.column == VALUE)

    @cached_property
    def slopes(self) -> Slopes:
        """The sites that are derivatives, and what their covariances need."""
        return Slopes(self)

    @property
    def basis(self) -> Float64[np.ndarray, " t"]:
        """What the sites would be if the function were 1 everywhere: the constant mean's part in them."""
        return np.where(self.column == VALUE, 1.0, 0.0)

    @property
    def variance(self) -> Float64[np.ndarray, " t"]:
        """The prior variance of every site."""
        variance = np.full(len(self), self.kernel.signal)
        if not self.plain:
            variance[self.slopes.site] *= SLOPE_VARIANCE * self.slopes.J**2
        return variance

    def covariance(self) -> Float64[np.ndarray, "t t"]:
        """The prior covariance among the sites."""
        return Among(self).K

    def between(self, other: Sites) -> Float64[np.ndarray, "t u"]:
        """The prior covariances with the sites of another set, of the same process."""
        signal, K = self.kernel.signal, np.empty((len(self), len(other)))
        r2 = squared_distance(self.scaled, other.scaled)
        phi, phi1 = matern52(r2)
        v, w, p, q = self.values, other.values, self.slopes, other.slopes
        K[np.ix_(v, w)] = signal * phi[np.ix_(self.row[v], other.row[w])]
        K[np.ix_(v, q.site)] = signal * q.with_values(phi1[self.row[v]], q.differences(self.scaled[self.row[v]]))
        others = other.scaled[other.row[w]]
        K[np.ix_(p.site, w)] = signal * p.with_values(phi1.T[other.row[w]], p.differences(others)).T
        K[np.ix_(p.site, q.site)] = signal * p.with_slopes(q, phi1, matern52_second(r2))
        return K

    def among(self) -> Among:
        """The same, with its derivatives in the rows."""
        return Among(self)

    def cross(self, X: Rows) -> Cross:
        """The prior covariances of the values at the rows of X with the sites."""
        return Cross(self, X)

    def beside(self, X: Matrix, column: Indices | None = None) -> Sites:
        """These sites followed by the values at the rows of X, or by the given ``column`` of each row in turn."""
        both = np.concatenate([self.X, X])
        if self.plain and column is None:
            return Sites(self.kernel, both)
        column = np.full(1, VALUE) if column is None else column
        row = np.repeat(np.arange(len(self.X), len(both)), len(column))
        return Sites(
            self.kernel,
            both,
            np.concatenate([self.row, row]),
            np.concatenate([self.column, np.tile(column, len(X))]),
        )


class Slopes:
    """The derivatives among sites: which they are, their rows, columns and J, and what else their covariances need."""

    def __init__(self, sites: Sites) -> None:
        self.site = np.flatnonzero(sites.column != VALUE)
        self.row, self.column = sites.row[self.site], sites.column[self.site]
        self.J = sites.kernel.jacobian(sites.X)[self.row, self.column]
        self._rows = sites.scaled[self.row]
        self._u = sites.scaled[self.row, self.column]
        self.rows, self._starts = np.unique(self.row, return_index=True)  # the rows that have derivatives
        self.one_hot = np.eye(sites.X.shape[1])[self.column]

    def differences(self, U: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "m p"]:
        """u'_c - u_c: how far each derivative's row is ahead of the scaled rows U, in the derivative's column."""
        return self._u - U[:, self.column]

    def with_values(
        self, phi1: Float64[np.ndarray, "m n"], differences: Float64[np.ndarray, "m p"]
    ) -> Float64[np.ndarray, "m p"]:
        """The covariances with values at other rows, for a signal of 1."""
        return 2.0 * self.J * phi1[:, self.row] * differences

    def with_slopes(
        self, other: Slopes, phi1: Float64[np.ndarray, "n m"], phi2: Float64[np.ndarray, "n m"]
    ) -> Float64[np.ndarray, "p q"]:
        """The covariances with other derivatives, for a signal of 1."""
        pairs = np.ix_(self.row, other.row)
        F, E = other.differences(self._rows), -self.differences(other._rows).T
        same = self.column[:, None] == other.column
        return self.J[:, None] * other.J * (-4.0 * phi2[pairs] * E * F - 2.0 * phi1[pairs] * same)

    def by_row(self, B: Float64[np.ndarray, "m p"]) -> Float64[np.ndarray, "m q"]:
        """The sums over the derivatives of each row in ``rows``."""
        return np.add.reduceat(B, self._starts, axis=1)


class Among:
    """The prior covariance ``K`` among sites, and its derivatives in their rows."""

    K: Float64[np.ndarray, "t t"]

    def __init__(self, sites: Sites) -> None:
        self._sites, signal = sites, sites.kernel.signal
        self._r2 = squared_distance(sites.scaled, sites.scaled)
        phi, self._phi1 = matern52(self._r2)
        if sites.plain:
            self.K = signal * phi
        else:
            v, p, rows = sites.values, sites.slopes, sites.row[sites.values]
            self._phi2 = matern52_second(self._r2)
            self.K = np.empty((len(sites), len(sites)))
            self.K[np.ix_(v, v)] = signal * phi[np.ix_(rows, rows)]
            self.K[np.ix_(v, p.site)] = signal * p.with_values(self._phi1[rows], p.differences(sites.scaled[rows]))
            self.K[np.ix_(p.site, v)] = self.K[np.ix_(v, p.site)].T
            self.K[np.ix_(p.site, p.site)] = signal * p.with_slopes(p, self._phi1, self._phi2)
        self.K[np.diag_indices(len(sites))] = sites.variance

    def pull(self, W: Float64[np.ndarray, "t t"]) -> tuple[Matrix, Matrix]:
        """The gradient of (W * K).sum() / 2, for symmetric W, in the scaled rows and in log J of every row."""
        sites, U = self._sites, self._sites.scaled
        if sites.plain:
            return _apart(0.5 * sites.kernel.signal * W * self._phi1, U), np.zeros_like(U)
        W = W * sites.kernel.signal
        by_r2, d_U, d_log_J = np.zeros_like(self._r2), np.zeros_like(U), np.zeros_like(U)
        v, rows = sites.values, sites.row[sites.values]
        by_r2[np.ix_(rows, rows)] = 0.5 * W[np.ix_(v, v)] * self._phi1[np.ix_(rows, rows)]
        self._pull_mixed(W, by_r2, d_U, d_log_J)
        self._pull_slopes(W, by_r2, d_U, d_log_J)
        return d_U + _apart(by_r2, U), d_log_J

    def _pull_mixed(self, W: np.ndarray, by_r2: np.ndarray, d_U: Matrix, d_log_J: Matrix) -> None:
        """Adds what the covariances of values with derivatives give: both halves of K at once."""
        sites, p, rows = self._sites, self._sites.slopes, self._sites.row[self._sites.values]
        w = 2.0 * p.J * W[np.ix_(sites.values, p.site)]
        D = p.differences(sites.scaled[rows])
        by_r2[np.ix_(rows, p.rows)] += p.by_row(w * D) * self._phi2[np.ix_(rows, p.rows)]
        by_D = w * self._phi1[np.ix_(rows, p.row)]
        d_U[rows] -= by_D @ p.one_hot
        d_U[p.row, p.column] += by_D.sum(0)
        d_log_J[p.row, p.column] += (by_D * D).sum(0)

    def _pull_slopes(self, W: np.ndarray, by_r2: np.ndarray, d_U: Matrix, d_log_J: Matrix) -> None:
        """Adds what the covariances among derivatives give."""
        p = self._sites.slopes
        pairs = np.ix_(p.row, p.row)
        w = 0.5 * W[np.ix_(p.site, p.site)] * p.J[:, None] * p.J
        F, same = p.differences(self._sites.scaled[p.row]), p.column[:, None] == p.column
        E, second, third = -F.T, self._phi2[pairs], matern52_third(self._r2)[pairs]
        by_pair = w * (-4.0 * third * E * F - 2.0 * second * same)
        by_r2[np.ix_(p.rows, p.rows)] += p.by_row(p.by_row(by_pair).T).T
        by_F = -8.0 * w * second * E
        d_U[p.rows] -= p.by_row((by_F @ p.one_hot).T).T
        d_U[p.row, p.column] += by_F.sum(0)
        d_log_J[p.row, p.column] += (w * (-8.0 * second * E * F - 4.0 * self._phi1[pairs] * same)).sum(0)


class Cross:
    """The prior covariances ``k`` of values at rows (m) with sites (t), and their derivatives in the rows."""

    k: Covariances

    def __init__(self, sites: Sites, X: Rows) -> None:
        self._sites, self._X = sites, X
        self._xs = sites.kernel.scaled(X)
        signal = sites.kernel.signal
        self._r2 = squared_distance(self._xs, sites.scaled)
        phi, slope = matern52(self._r2)
        phi *= signal
        slope *= 2.0 * signal
        self._slope = slope  # per row of the sites, twice what multiplies differences
        if sites.plain:
            self.k = phi
            return
        self._differences = sites.slopes.differences(self._xs)
        self.k = np.empty((len(X), len(sites)))
        self.k[:, sites.values] = phi[:, sites.row[sites.values]]
        self.k[:, sites.slopes.site] = 0.5 * sites.slopes.with_values(slope, self._differences)

    def pull(self, weights: Covariances) -> Rows:
        """The gradient of (weights * k).sum() in every row; the weights themselves stay constant."""
        sites = self._sites
        if sites.plain:
            w, scaled = weights * self._slope, np.zeros_like(self._xs)
        else:
            w, scaled = self._pull_slopes(weights)
        scaled += w.sum(1)[:, None] * self._xs - w @ sites.scaled
        return sites.kernel.unscaled(scaled, self._X)

    def _pull_slopes(self, weights: Covariances) -> tuple[np.ndarray, np.ndarray]:
        """Weights of the differences to each row of the sites, and what the scaled rows get beside those."""
        sites, p = self._sites, self._sites.slopes
        w = np.zeros_like(self._slope)
        rows = sites.row[sites.values]
        w[:, rows] = weights[:, sites.values] * self._slope[:, rows]
        on_slopes = weights[:, p.site] * p.J
        second = 4.0 * sites.kernel.signal * matern52_second(self._r2[:, p.rows])
        w[:, p.rows] += p.by_row(on_slopes * self._differences) * second
        return w, -(on_slopes * self._slope[:, p.row]) @ p.one_hot


def _apart(by_r2: Float64[np.ndarray, "n n"], U: Matrix) -> Matrix:
    """The gradient in the rows U, from that in the squared distances of all ordered pairs."""
    M = by_r2 + by_r2.T
    return 2.0 * (M.sum(1)[:, None] * U - M @ U)
