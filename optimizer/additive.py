"""A kernel in which what a trial measures at different fidelities shares a part.

With designs x and fidelities s, f(x, s) = g(x) + h(s) + delta(x, s): what designs have in common at all fidelities,
what fidelities do to all designs, and the rest. Each part is a Gaussian process with the same Matern-5/2 kernel over
its own columns, so that

    k = signal * (shares[0] k(x, x') + shares[1] k(s, s') + shares[2] k((x, s), (x', s'))).

Where results at other fidelities are small differences to what fidelities do to all (every learning curve begins at
the same loss, whatever the design), g and delta grow towards the target (`Growth`).

A constant difference between two sources, or the fall of every learning curve, then says nothing about which designs
are alike; with one kernel over all columns it looks as if the fidelities had little to do with each other. (The
functional analysis of variance, as a kernel: Durrande, Ginsbourger, Roustant and Carraro 2013.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .kernel import Among, Cross, Kernel, Sites

Rows = Float64[np.ndarray, "m d"]
Indices = Int64[np.ndarray, " t"]
Shares = tuple[float, float, float]

# what is tried: mostly in common, or mostly an effect of the fidelity, with more or less of the rest
SHARES: tuple[Shares, ...] = (
    (0.90, 0.05, 0.05),
    (0.60, 0.10, 0.30),
    (0.60, 0.35, 0.05),
    (0.30, 0.60, 0.10),
    (0.10, 0.88, 0.02),
    (0.00, 0.60, 0.40),
)
ALL_AT_ONCE: Shares = (0.0, 0.0, 1.0)  # one kernel over all columns
POWERS = (1.0, 2.0, 4.0, 8.0)  # of growth that are tried
VANISHING = 1e-5  # how much designs differ farthest from the target, which is not 0 so that logarithms exist


@dataclass(frozen=True)
class Growth:
    """How much designs differ at a fidelity, relative to the ``target``: 1 - distance^power, a product over columns.

    The distance is relative to the largest in the cube. There all designs look alike, as untrained models do, and the
    larger the power, the nearer to it they begin to differ.
    """

    target: tuple[float, ...]
    power: float

    def __call__(self, X: Rows, apart: Bool[np.ndarray, " d"]) -> Float64[np.ndarray, " m"]:
        size: np.ndarray = self._sizes(self._far(X)).prod(axis=1, where=apart)
        return size

    def log_slope(self, X: Rows, apart: Bool[np.ndarray, " d"]) -> Rows:
        """The gradient of its logarithm in every row."""
        far, t = self._far(X), np.array(self.target)
        fall = (1.0 - VANISHING) * self.power * far ** (self.power - 1.0) / np.maximum(t, 1.0 - t)
        return -np.sign(X - t) * apart * fall / self._sizes(far)

    def _far(self, X: Rows) -> Rows:
        t = np.array(self.target)
        return np.abs(X - t) / np.maximum(t, 1.0 - t)

    def _sizes(self, far: Rows) -> Rows:
        return 1.0 - (1.0 - VANISHING) * far**self.power


@dataclass(frozen=True)
class AdditiveKernel(Kernel):
    """The sum over designs, fidelities and both; ``apart`` says which columns are fidelities."""

    apart: tuple[bool, ...] = ()
    shares: Shares = ALL_AT_ONCE
    growth: Growth | None = None

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The kernels that are summed: columns of no importance have infinite length scales."""
        return self._parts

    @cached_property
    def _parts(self) -> tuple[Kernel, ...]:
        return tuple(
            Kernel(self.signal * share, np.where(columns, self.inverse_lengthscales, 0.0), self.warp)
            for share, columns in zip(
                self.shares, (~self.columns, self.columns, np.ones_like(self.columns)), strict=True
            )
        )

    @cached_property
    def columns(self) -> Bool[np.ndarray, " d"]:
        """Which are fidelities."""
        return np.array(self.apart)

    def sizes(self, X: Rows) -> list[Float64[np.ndarray, " m"]]:
        one = np.ones(len(X))
        size = one if self.growth is None else self.growth(X, self.columns)
        return [size, one, size]

    def log_slopes(self, X: Rows) -> list[Rows]:
        none = np.zeros_like(X)
        slope = none if self.growth is None else self.growth.log_slope(X, self.columns)
        return [slope, none, slope]

    def variance(self, X: Rows) -> Float64[np.ndarray, " m"]:
        return np.sum([s * s * part.signal for s, part in zip(self.sizes(X), self.parts, strict=True)], axis=0)

    def pull_variance(self, weights: Float64[np.ndarray, " m"], X: Rows) -> Rows:
        parts = zip(self.sizes(X), self.log_slopes(X), self.parts, strict=True)
        return np.sum([(2.0 * weights * s * s * part.signal)[:, None] * slope for s, slope, part in parts], axis=0)

    def covariance(self, A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        parts = zip(self.sizes(A), self.sizes(B), self.parts, strict=True)
        return np.sum([a[:, None] * b * part.covariance(A, B) for a, b, part in parts], axis=0)

    def sites(self, X: Float64[np.ndarray, "n d"], row: Indices | None = None, column: Indices | None = None) -> Sites:
        return AdditiveSites(self, X, row, column)


class AdditiveSites(Sites):
    """Values and derivatives at fixed rows of a process with an `AdditiveKernel`.

    Where there is growth, derivatives are those in the columns of designs.
    """

    kernel: AdditiveKernel

    def __init__(
        self,
        kernel: AdditiveKernel,
        X: Float64[np.ndarray, "n d"],
        row: Indices | None = None,
        column: Indices | None = None,
    ) -> None:
        super().__init__(kernel, X, row, column)
        self.parts = [part.sites(X, row, column) for part in kernel.parts]
        self.sizes = [size[self.row] for size in kernel.sizes(X)]

    @property
    def variance(self) -> Float64[np.ndarray, " t"]:
        return np.sum([s * s * part.variance for s, part in zip(self.sizes, self.parts, strict=True)], axis=0)

    def among(self) -> AdditiveAmong:
        return AdditiveAmong(self)

    def covariance(self) -> Float64[np.ndarray, "t t"]:
        return AdditiveAmong(self).K

    def between(self, other: Sites) -> Float64[np.ndarray, "t u"]:
        assert isinstance(other, AdditiveSites)
        parts = zip(self.parts, self.sizes, other.parts, other.sizes, strict=True)
        return np.sum([a[:, None] * b * part.between(its) for part, a, its, b in parts], axis=0)

    def cross(self, X: Rows) -> AdditiveCross:
        return AdditiveCross(self, X)

    def beside(self, X: Float64[np.ndarray, "n d"], column: Indices | None = None) -> AdditiveSites:
        longer = super().beside(X, column)
        plain = longer.plain
        return AdditiveSites(self.kernel, longer.X, None if plain else longer.row, None if plain else longer.column)


class AdditiveAmong(Among):
    """The prior covariance among sites, and its derivatives in their rows: sums over the parts."""

    def __init__(self, sites: AdditiveSites) -> None:
        self._parts = [part.among() for part in sites.parts]
        self._sizes = [np.outer(size, size) for size in sites.sizes]
        self.K = np.sum([s * part.K for s, part in zip(self._sizes, self._parts, strict=True)], axis=0)

    def pull(self, W: Float64[np.ndarray, "t t"]) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "n d"]]:
        pulled = [part.pull(W * s) for s, part in zip(self._sizes, self._parts, strict=True)]
        return np.sum([p[0] for p in pulled], axis=0), np.sum([p[1] for p in pulled], axis=0)


class AdditiveCross(Cross):
    """The prior covariances of rows with sites, and their derivatives in the rows: sums over the parts."""

    def __init__(self, sites: AdditiveSites, X: Rows) -> None:
        self._parts = [part.cross(X) for part in sites.parts]
        self._sizes = [a[:, None] * b for a, b in zip(sites.kernel.sizes(X), sites.sizes, strict=True)]
        self._slopes = sites.kernel.log_slopes(X)
        self.k = np.sum([s * part.k for s, part in zip(self._sizes, self._parts, strict=True)], axis=0)

    def pull(self, weights: Float64[np.ndarray, "m t"]) -> Rows:
        gradient = np.zeros_like(self._slopes[0])
        for part, size, slope in zip(self._parts, self._sizes, self._slopes, strict=True):
            w = weights * size
            gradient += part.pull(w) + (w * part.k).sum(1)[:, None] * slope
        return gradient
