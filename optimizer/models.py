"""Gaussian processes: condition, posterior. `fitting.py` finds the hyperparameters.

One model serves every parameter type: a Matern-5/2 kernel on the cube that `space.py` lays out, with one length scale
per parameter (the columns of a one-hot categorical share theirs) and per activity column. Observations are values and,
where they were told, partial derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import get_lapack_funcs

from .additive import AdditiveKernel, Growth, Shares
from .kernel import VALUE, Kernel, Sites
from .warping import Warp

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Matrix = Float64[np.ndarray, "n d"]
Vector = Float64[np.ndarray, " n"]

potrf, potri, potrs, trtrs = get_lapack_funcs(("potrf", "potri", "potrs", "trtrs"), dtype=np.float64)

NOISE_FLOOR = 1e-8  # smallest noise variance of a deterministic objective, in units of the standardised y
JITTERS = (0.0, 1e-8, 1e-6, 1e-4)  # added to the diagonal, relative to the signal variance, until Cholesky succeeds
MEAN_PRIOR_VARIANCE = 1.0


class FitError(Exception):
    """No hyperparameters gave a positive definite covariance matrix."""


@dataclass(frozen=True)
class Hyperparameters:
    """Length scales per group of columns, signal variance, noise variance and constant mean, in standardised units.

    ``slope_noise`` is the noise variance of observed derivatives, in units of their mean square in the same column;
    ``warp`` the learned change of the axes. ``apart`` says which columns are fidelities that have effects of their own,
    ``shares`` how the signal is made of them (`AdditiveKernel`; None: it is not) and ``growth`` how it grows towards
    their target.
    """

    lengthscales: Float64[np.ndarray, " g"]
    signal: float
    noise: float
    mean: float = 0.0
    slope_noise: float = NOISE_FLOOR
    warp: Warp | None = None
    apart: tuple[bool, ...] = ()
    shares: Shares | None = None
    growth: Growth | None = None

    def kernel(self, groups: Int64[np.ndarray, " d"]) -> Kernel:
        """The kernel over columns of these groups."""
        inverse = (1.0 / self.lengthscales)[groups]
        if self.shares is None:
            return Kernel(self.signal, inverse, self.warp)
        return AdditiveKernel(self.signal, inverse, self.warp, self.apart, self.shares, self.growth)


@dataclass(frozen=True)
class Gradients:
    """Observed partial derivatives of the standardised y: ``values[i]`` at row ``row[i]`` in ``column[i]`` of the cube.

    They come in the order of their rows, each row and column at most once.
    """

    row: Int64[np.ndarray, " p"]
    column: Int64[np.ndarray, " p"]
    values: Float64[np.ndarray, " p"]

    @property
    def mean_square(self) -> Float64[np.ndarray, " p"]:
        """Of the derivatives in the same column as each: the unit of their noise variance."""
        square = self.values**2
        sums, counts = np.bincount(self.column, square), np.bincount(self.column)
        return np.maximum(sums[self.column] / counts[self.column], 1e-6 * square.mean() + 1e-12)


@dataclass(frozen=True)
class Data:
    """What a model learns from: rows of the cube, standardised values, and noise variances (NaN where not known).

    ``gradients`` holds the derivatives that were observed, ``extra`` noise variances of single rows beside the common
    one (those of outliers).
    """

    X: Matrix
    y: Vector
    known_noise: Vector
    groups: Int64[np.ndarray, " d"]
    gradients: Gradients | None = None
    extra: Vector | None = None

    @property
    def group_count(self) -> int:
        return int(self.groups.max()) + 1

    @property
    def noise_is_known(self) -> bool:
        return not bool(np.isnan(self.known_noise).any())

    @property
    def targets(self) -> Float64[np.ndarray, " t"]:
        """Everything observed, in the order of `sites`: the values, then the derivatives."""
        return self.y if self.gradients is None else np.concatenate([self.y, self.gradients.values])

    def sites(self, kernel: Kernel) -> Sites:
        """What was observed of a process with this kernel."""
        if self.gradients is None:
            return kernel.sites(self.X)
        n, g = len(self.X), self.gradients
        row = np.concatenate([np.arange(n), g.row])
        return kernel.sites(self.X, row, np.concatenate([np.full(n, VALUE), g.column]))

    def diagonal(self, noise: float) -> Vector:
        """The noise variances of the values, where those that are not known are ``noise``."""
        variances = np.where(np.isnan(self.known_noise), noise, np.maximum(self.known_noise, NOISE_FLOOR))
        return variances if self.extra is None else variances + self.extra

    def noise(self, h: Hyperparameters) -> Float64[np.ndarray, " t"]:
        """The noise variances of everything observed, in the order of `sites`."""
        values = self.diagonal(h.noise)
        if self.gradients is None:
            return values
        return np.concatenate([values, h.slope_noise * self.gradients.mean_square])

    def with_values(self, X: Matrix, y: Vector, known_noise: float) -> Data:
        """These observations and further values."""
        return replace(
            self,
            X=np.concatenate([self.X, X]),
            y=np.concatenate([self.y, y]),
            known_noise=np.concatenate([self.known_noise, np.full(len(X), known_noise)]),
            extra=None if self.extra is None else np.concatenate([self.extra, np.zeros(len(X))]),
        )


def mean_and_weights(L: np.ndarray, y: Vector, basis: Vector) -> tuple[float, Vector]:
    """The constant mean's maximum a posteriori value m and K^-1 (y - m basis)."""
    solved, _ = potrs(L, np.column_stack([y, basis]), lower=1)
    m = float((basis @ solved[:, 0]) / (basis @ solved[:, 1] + 1.0 / MEAN_PRIOR_VARIANCE))
    return m, solved[:, 0] - m * solved[:, 1]


def half_solve(
    L: Float64[np.ndarray, "t t"], B: Float64[np.ndarray, "t m"], *, transposed: bool = False
) -> Float64[np.ndarray, "t m"]:
    """L^-1 B for a lower triangular L, or L'^-1 B (LAPACK itself: SciPy's checks take longer than small systems)."""
    solved: np.ndarray = trtrs(L, B, lower=1, trans=int(transposed))[0]
    return solved


# --- posterior --------------------------------------------------------------------------------------------------------


class GaussianProcess:
    """A Gaussian process with given hyperparameters, conditioned on data.

    ``noise`` holds the variances of everything observed, jitter included. Raises FitError when the covariance is not
    positive definite even with the largest jitter.
    """

    def __init__(self, data: Data, hyperparameters: Hyperparameters) -> None:
        self.data = data
        self.kernel = hyperparameters.kernel(data.groups)
        self.sites = data.sites(self.kernel)
        K, variance = self.sites.covariance(), self.sites.variance
        noise = data.noise(hyperparameters)
        for self.jitter in JITTERS:
            self.noise = noise + self.jitter * variance
            K[np.diag_indices(len(K))] = variance + self.noise
            self.L, info = potrf(K, lower=1)
            if info == 0:
                break
        else:
            raise FitError
        mean, self.alpha = mean_and_weights(self.L, data.targets, self.sites.basis)
        self.hyperparameters = replace(hyperparameters, mean=mean)

    def posterior(self, X: Float64[np.ndarray, "m d"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Mean and standard deviation of the noiseless function at the rows of X."""
        k = self.sites.cross(X).k
        V = self.half_solve(k.T)
        variance = self.kernel.variance(X) - (V * V).sum(0)
        return self.hyperparameters.mean + k @ self.alpha, np.sqrt(np.maximum(variance, 1e-18))

    def joint(self, X: Float64[np.ndarray, "m d"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, "m m"]]:
        """Mean and covariance of the noiseless function at the rows of X."""
        k = self.sites.cross(X).k
        V = self.half_solve(k.T)
        return self.hyperparameters.mean + k @ self.alpha, self.kernel.covariance(X, X) - V.T @ V

    def posterior_mean(self, X: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, " m"]:
        """The mean alone, at a cost that grows with the number of data, not with its square."""
        return self.hyperparameters.mean + self.sites.cross(X).k @ self.alpha

    def half_solve(self, B: Float64[np.ndarray, "t m"]) -> Float64[np.ndarray, "t m"]:
        """L^-1 B, where L L' is the covariance of the observations."""
        return half_solve(self.L, B)

    def solve(self, B: Float64[np.ndarray, "t m"]) -> Float64[np.ndarray, "t m"]:
        """L'^-1 B: what turns `half_solve`'s answer into that of the whole covariance."""
        return half_solve(self.L, B, transposed=True)

    @property
    def next_noise(self) -> float:
        """The noise variance that a further value is expected to have: the middle of those observed."""
        return float(np.median(self.data.diagonal(self.hyperparameters.noise)))

    def leave_one_out(self, trials: Int64[np.ndarray, " n"] | None = None) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each value given all others (Rasmussen and Williams 2006, eq. 5.12).

        With ``trials``, the number of the trial that each value comes from, everything that its trial observed is left
        out with it; else the derivatives observed at its row are.
        """
        inverse, _ = potri(self.L, lower=1)
        n = len(self.data.y)
        variance = 1.0 / np.diag(inverse)[:n]
        mean = self.data.y - self.alpha[:n] * variance
        trial = (np.arange(n) if trials is None else trials)[self.sites.row]
        numbers, counts = np.unique(trial, return_counts=True)
        for number in numbers[counts > 1]:
            block = np.flatnonzero(trial == number)
            values = block[block < n]  # they come first
            P = np.tril(inverse[np.ix_(block, block)])
            covariance = np.linalg.inv(P + np.tril(P, -1).T)
            variance[values] = np.diag(covariance)[: len(values)]
            mean[values] = self.data.y[values] - covariance[: len(values)] @ self.alpha[block]
        return mean, np.sqrt(variance)

    def to_botorch(self) -> SingleTaskGP:
        """The same posterior as a BoTorch model in float64, with all hyperparameters fixed."""
        from .to_botorch import to_botorch

        return to_botorch(self)
