"""Gaussian processes: condition, posterior. `fitting.py` finds the hyperparameters.

One model serves every parameter type: a Matern-5/2 kernel on the cube that `space.py` lays out, with one length scale
per parameter (the columns of a one-hot categorical share theirs) and per activity column. `to_botorch` hands the fitted
model to BoTorch, whose acquisition functions then see the same posterior.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import get_lapack_funcs, solve_triangular

from .kernel import Kernel

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Matrix = Float64[np.ndarray, "n d"]
Vector = Float64[np.ndarray, " n"]

potrf, potri, potrs = get_lapack_funcs(("potrf", "potri", "potrs"), dtype=np.float64)

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

    def kernel(self, groups: Int64[np.ndarray, " d"]) -> Kernel:
        """The kernel over columns of these groups."""
        return Kernel(self.signal, (1.0 / self.lengthscales)[groups])


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


def mean_and_weights(L: np.ndarray, y: Vector, basis: Vector) -> tuple[float, Vector]:
    """The constant mean's maximum a posteriori value m and K^-1 (y - m basis)."""
    solved, _ = potrs(L, np.column_stack([y, basis]), lower=1)
    m = float((basis @ solved[:, 0]) / (basis @ solved[:, 1] + 1.0 / MEAN_PRIOR_VARIANCE))
    return m, solved[:, 0] - m * solved[:, 1]


# --- posterior --------------------------------------------------------------------------------------------------------


class GaussianProcess:
    """A Gaussian process with given hyperparameters, conditioned on data.

    Raises FitError when the covariance is not positive definite even with the largest jitter.
    """

    def __init__(self, data: Data, hyperparameters: Hyperparameters) -> None:
        self.data = data
        self.kernel = hyperparameters.kernel(data.groups)
        self.sites = self.kernel.sites(data.X)
        K = self.sites.covariance()
        diagonal = hyperparameters.signal + data.diagonal(hyperparameters.noise)
        for self.jitter in JITTERS:
            K[np.diag_indices(len(K))] = diagonal + self.jitter * hyperparameters.signal
            self.L, info = potrf(K, lower=1)
            if info == 0:
                break
        else:
            raise FitError
        mean, self.alpha = mean_and_weights(self.L, data.y, self.sites.basis)
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
        return solve_triangular(self.L, B, lower=True, check_finite=False)

    def solve(self, B: Float64[np.ndarray, "t m"]) -> Float64[np.ndarray, "t m"]:
        """L'^-1 B: what turns `half_solve`'s answer into that of the whole covariance."""
        return solve_triangular(self.L, B, lower=True, trans=1, check_finite=False)

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
