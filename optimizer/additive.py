"""A kernel in which what a trial measures at different fidelities shares a part.

With designs x and fidelities s, f(x, s) = g(x) + h(s) + delta(x, s): what designs have in common at all fidelities,
what fidelities do to all designs, and the rest. Each part is a Gaussian process with the same Matern-5/2 kernel over
its own columns, so that

    k = signal * (shares[0] k(x, x') + shares[1] k(s, s') + shares[2] k((x, s), (x', s'))).

A constant difference between two sources, or the fall of every learning curve, then says nothing about which designs
are alike; with one kernel over all columns it looks as if the fidelities had little to do with each other. (The
functional analysis of variance, as a kernel: Durrande, Ginsbourger, Roustant and Carraro 2013.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

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
)


@dataclass(frozen=True)
class AdditiveKernel(Kernel):
    """The sum over designs, fidelities and both; ``apart`` says which columns are fidelities."""

    apart: tuple[bool, ...] = ()
    shares: Shares = (0.0, 0.0, 1.0)

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The kernels that are summed: columns of no importance have infinite length scales."""
        return self._parts

    @cached_property
    def _parts(self) -> tuple[Kernel, ...]:
        apart = np.array(self.apart)
        return tuple(
            Kernel(self.signal * share, np.where(columns, self.inverse_lengthscales, 0.0), self.warp)
            for share, columns in zip(self.shares, (~apart, apart, np.ones_like(apart)), strict=True)
        )

    def covariance(self, A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        return np.sum([part.covariance(A, B) for part in self.parts], axis=0)

    def sites(self, X: Float64[np.ndarray, "n d"], row: Indices | None = None, column: Indices | None = None) -> Sites:
        return AdditiveSites(self, X, row, column)


class AdditiveSites(Sites):
    """Values and derivatives at fixed rows of a process with an `AdditiveKernel`."""

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

    @property
    def variance(self) -> Float64[np.ndarray, " t"]:
        return np.sum([part.variance for part in self.parts], axis=0)

    def among(self) -> AdditiveAmong:
        return AdditiveAmong(self)

    def covariance(self) -> Float64[np.ndarray, "t t"]:
        return AdditiveAmong(self).K

    def between(self, other: Sites) -> Float64[np.ndarray, "t u"]:
        assert isinstance(other, AdditiveSites)
        return np.sum([part.between(its) for part, its in zip(self.parts, other.parts, strict=True)], axis=0)

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
        self.K = np.sum([part.K for part in self._parts], axis=0)

    def pull(self, W: Float64[np.ndarray, "t t"]) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "n d"]]:
        pulled = [part.pull(W) for part in self._parts]
        return np.sum([p[0] for p in pulled], axis=0), np.sum([p[1] for p in pulled], axis=0)


class AdditiveCross(Cross):
    """The prior covariances of rows with sites, and their derivatives in the rows: sums over the parts."""

    def __init__(self, sites: AdditiveSites, X: Rows) -> None:
        self._parts = [part.cross(X) for part in sites.parts]
        self.k = np.sum([part.k for part in self._parts], axis=0)

    def pull(self, weights: Float64[np.ndarray, "m t"]) -> Rows:
        return np.sum([part.pull(weights) for part in self._parts], axis=0)
