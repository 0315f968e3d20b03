"""A Gaussian process through inducing points: the mean given many observations, at the cost of a few.

The process is seen through its values at inducing points Z. With L L' = k(Z, Z), features phi(x) = L^-1 k(Z, x) and
noise variances D, the best variational posterior (Titsias 2009, with the noise of each observation known) has the mean
of a Bayesian linear model,

    A = I + sum_i phi_i phi_i' / D_i,    E[f(x) | y] = phi(x)' A^-1 sum_i phi_i y_i / D_i.

The points are observed rows, each chosen where the variance that the earlier ones leave is largest over its noise, a
pivoted Cholesky factorisation (Burt, Rasmussen and van der Wilk 2020, arXiv 2008.00323).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from .kernel import Kernel
from .models import MEAN_PRIOR_VARIANCE

LEFT = 1e-6  # of the signal variance: points that leave less are not worth having


@dataclass(frozen=True, eq=False)
class MeanFunction:
    """k(x, Z) w + m: the posterior mean of a process, exact with all observed rows as points Z."""

    kernel: Kernel
    points: Float64[np.ndarray, "p d"]
    weights: Float64[np.ndarray, " p"]
    mean: float

    def __call__(self, X: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, " m"]:
        found: Float64[np.ndarray, " m"] = self.mean + self.kernel.covariance(X, self.points) @ self.weights
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "variance": self.kernel.signal,
            "inverse_lengthscales": self.kernel.inverse_lengthscales.tolist(),
            "points": self.points.tolist(),
            "weights": self.weights.tolist(),
            "mean": self.mean,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MeanFunction:
        """The inverse of `to_json`."""
        inverse = np.array(document["inverse_lengthscales"], dtype=float)
        points = np.array(document["points"], dtype=float).reshape(-1, len(inverse))
        weights = np.array(document["weights"], dtype=float)
        return cls(Kernel(float(document["variance"]), inverse), points, weights, float(document["mean"]))


def condition(
    kernel: Kernel,
    X: Float64[np.ndarray, "n d"],
    y: Float64[np.ndarray, " n"],
    noise: Float64[np.ndarray, " n"],
    points: int,
) -> tuple[MeanFunction, Float64[np.ndarray, " n"]]:
    """The posterior mean through at most ``points`` inducing points, and that of each row given all others.

    The constant mean of the process has prior variance MEAN_PRIOR_VARIANCE, as in models.py. Rows left out keep their
    inducing point.
    """
    chosen, phi = _features(kernel, X, noise, points)
    basis = np.column_stack([phi, np.full(len(X), np.sqrt(MEAN_PRIOR_VARIANCE))])
    A = cho_factor(np.eye(basis.shape[1]) + basis.T @ (basis / noise[:, None]), lower=True)
    w = cho_solve(A, basis.T @ (y / noise))
    half = solve_triangular(A[0], basis.T, lower=True)
    leverage = (half * half).sum(0) / noise
    left_out = (basis @ w - leverage * y) / (1.0 - leverage)
    L = phi[chosen]  # lower triangular, in the order in which they were chosen
    weights = solve_triangular(L, w[:-1], lower=True, trans=1)
    return MeanFunction(kernel, X[chosen], weights, float(w[-1] * np.sqrt(MEAN_PRIOR_VARIANCE))), left_out


def _features(
    kernel: Kernel, X: Float64[np.ndarray, "n d"], noise: Float64[np.ndarray, " n"], points: int
) -> tuple[list[int], Float64[np.ndarray, "n p"]]:
    """Which rows are inducing points, and phi of every row."""
    left = kernel.variance(X)
    least = LEFT * float(left.max())
    phi = np.zeros((len(X), min(points, len(X))))
    chosen: list[int] = []
    for j in range(phi.shape[1]):
        i = int(np.where(left > least, left / noise, 0.0).argmax())
        if left[i] <= least:
            break
        column = kernel.covariance(X, X[[i]])[:, 0] - phi[:, :j] @ phi[i, :j]
        phi[:, j] = column / np.sqrt(left[i])
        phi[chosen, j] = 0.0
        left = left - phi[:, j] ** 2
        left[i] = 0.0
        chosen.append(i)
    return chosen, phi[:, : len(chosen)]
