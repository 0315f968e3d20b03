"""Gaussian processes: condition, posterior. `fitting.py` finds the hyperparameters.

One model serves every parameter type: a Matern-5/2 kernel on the cube that `space.py` lays out, with one length scale
per parameter (the columns of a one-hot categorical share theirs) and per activity column. `to_botorch` hands the fitted
model to BoTorch, whose acquisition functions then see the same posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import get_lapack_funcs, solve_triangular

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Matrix = Float64[np.ndarray, "n d"]
Vector = Float64[np.ndarray, " n"]

potrf, potri, potrs = get_lapack_funcs(("potrf", "potri", "potrs"), dtype=np.float64)

SQRT5 = math.sqrt(5.0)
NOISE_FLOOR = 1e-8  # smallest noise variance of a deterministic objective, in units of the standardised y
JITTERS = (0.0, 1e-8, 1e-6, 1e-4)  # added to the diagonal, relative to the signal variance, until Cholesky succeeds
MEAN_PRIOR_VARIANCE = 1.0


class FitError(Exception):
    """No hyperparameters gave a positive definite covariance matrix."""


@dataclass(frozen=True)
class Hyperparameters:
    """Length scales per group of columns, signal variance, noise variance and constant mean, in standardised units."""

    lengthscales: Float64[np.ndarray, " g"]
    signal: float
    noise: float
    mean: float = 0.0


@dataclass(frozen=True)
class Data:
    """What a model learns from: rows of the cube, standardised values, and noise variances (NaN where not known)."""

    X: Matrix
    y: Vector
    known_noise: Vector
    groups: Int64[np.ndarray, " d"]

    @property
    def group_count(self) -> int:
        return int(self.groups.max()) + 1

    @property
    def noise_is_known(self) -> bool:
        return not bool(np.isnan(self.known_noise).any())

    def diagonal(self, noise: float) -> Vector:
        return np.where(np.isnan(self.known_noise), noise, np.maximum(self.known_noise, NOISE_FLOOR))


# --- kernel -----------------------------------------------------------------------------------------------------------


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


def mean_and_weights(L: np.ndarray, y: Vector) -> tuple[float, Vector]:
    """The constant mean's maximum a posteriori value m and K^-1 (y - m)."""
    solved, _ = potrs(L, np.column_stack([y, np.ones_like(y)]), lower=1)
    m = float(solved[:, 0].sum() / (solved[:, 1].sum() + 1.0 / MEAN_PRIOR_VARIANCE))
    return m, solved[:, 0] - m * solved[:, 1]


# --- posterior --------------------------------------------------------------------------------------------------------


class GaussianProcess:
    """A Gaussian process with given hyperparameters, conditioned on data.

    Raises FitError when the covariance is not positive definite even with the largest jitter.
    """

    def __init__(self, data: Data, hyperparameters: Hyperparameters) -> None:
        self.data = data
        self._inverse_lengthscales = (1.0 / hyperparameters.lengthscales)[data.groups]
        self._scaled = data.X * self._inverse_lengthscales
        k, _ = matern52(squared_distance(self._scaled, self._scaled))
        K = hyperparameters.signal * k
        diagonal = hyperparameters.signal + data.diagonal(hyperparameters.noise)
        for self.jitter in JITTERS:
            K[np.diag_indices(len(K))] = diagonal + self.jitter * hyperparameters.signal
            self.L, info = potrf(K, lower=1)
            if info == 0:
                break
        else:
            raise FitError
        mean, self.alpha = mean_and_weights(self.L, data.y)
        self.hyperparameters = replace(hyperparameters, mean=mean)

    def covariance(self, A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        """The prior covariance between the rows of A and B."""
        s = self._inverse_lengthscales
        return self.hyperparameters.signal * matern52(squared_distance(A * s, B * s))[0]

    def posterior(self, X: Float64[np.ndarray, "m d"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Mean and standard deviation of the noiseless function at the rows of X."""
        V = self._half_solve(X)
        variance = self.hyperparameters.signal - (V * V).sum(0)
        return self.posterior_mean(X), np.sqrt(np.maximum(variance, 1e-18))

    def joint(self, X: Float64[np.ndarray, "m d"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, "m m"]]:
        """Mean and covariance of the noiseless function at the rows of X."""
        V = self._half_solve(X)
        return self.posterior_mean(X), self.covariance(X, X) - V.T @ V

    def posterior_mean(self, X: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, " m"]:
        """The mean alone, at a cost that grows with the number of data, not with its square."""
        return self.hyperparameters.mean + self.covariance(X, self.data.X) @ self.alpha

    def _half_solve(self, X: np.ndarray) -> np.ndarray:
        return solve_triangular(self.L, self.covariance(self.data.X, X), lower=True, check_finite=False)

    def leave_one_out(self) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each observation given all others (Rasmussen and Williams 2006, eq. 5.12)."""
        inverse, _ = potri(self.L, lower=1)
        variance = 1.0 / np.diag(inverse)
        return self.data.y - self.alpha * variance, np.sqrt(variance)

    def to_botorch(self) -> SingleTaskGP:
        """The same posterior as a BoTorch model in float64, with all hyperparameters fixed."""
        import torch
        from botorch.models import SingleTaskGP
        from gpytorch.kernels import MaternKernel, ScaleKernel
        from gpytorch.means import ConstantMean
        from gpytorch.settings import min_fixed_noise

        h = self.hyperparameters
        kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=self.data.X.shape[1]))
        kernel.base_kernel.lengthscale = torch.from_numpy(h.lengthscales[self.data.groups])
        kernel.outputscale = torch.tensor(h.signal, dtype=torch.float64)
        mean = ConstantMean()
        mean.constant = torch.tensor(h.mean, dtype=torch.float64)
        diagonal = self.data.diagonal(h.noise) + self.jitter * h.signal
        with min_fixed_noise(double_value=NOISE_FLOOR / 2):
            model: Any = SingleTaskGP(
                torch.from_numpy(self.data.X),
                torch.from_numpy(self.data.y)[:, None],
                train_Yvar=torch.from_numpy(diagonal)[:, None],
                covar_module=kernel.double(),
                mean_module=mean.double(),
                outcome_transform=None,
            )
        model.requires_grad_(False)
        return model.eval()
