"""Gaussian processes: fit, condition, posterior.

One model serves every parameter type: a Matern-5/2 kernel on the cube that `space.py` lays out, with one length scale
per parameter (the columns of a one-hot categorical share theirs) and per activity column. Hyperparameters are maximum a
posteriori, found with closed-form gradients of the marginal likelihood (Rasmussen and Williams 2006, eq. 5.9), which is
one to two orders of magnitude faster than automatic differentiation at the sizes that matter. `to_botorch` hands the
fitted model to BoTorch, whose acquisition functions then see the same posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import get_lapack_funcs, solve_triangular
from scipy.optimize import minimize

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Matrix = Float64[np.ndarray, "n d"]
Vector = Float64[np.ndarray, " n"]

potrf, potri, potrs = get_lapack_funcs(("potrf", "potri", "potrs"), dtype=np.float64)

SQRT5 = math.sqrt(5.0)
NOISE_FLOOR = 1e-8  # smallest noise variance of a deterministic objective, in units of the standardised y
JITTERS = (0.0, 1e-8, 1e-6, 1e-4)  # added to the diagonal, relative to the signal variance, until Cholesky succeeds
LENGTHSCALE_BOUNDS = (1e-3, 1e3)
SIGNAL_BOUNDS = (1e-2, 1e2)
NOISE_BOUNDS = (1e-8, 1.0)
NOISE_EVIDENCE = 2.0  # nats
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


# --- fit --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prior:
    """Priors of the hyperparameters, and how noise is treated.

    Length scales: log-normal around a median that grows with the square root of the number of groups, so that functions
    of many parameters are expected to be as complex as functions of few (Hvarfner, Hellsten and Nardi 2024, eq. 7),
    with a Gaussian tail in 1/lengthscale below ``shortest``, where few points cannot tell a function from noise.
    Signal variance: log-normal around 1. Noise variance: gamma(1.1, 5), which lets it vanish.
    """

    location: float = math.sqrt(2.0)
    scale: float = math.sqrt(3.0)
    signal_scale: float = 1.0
    noise_shape: float = 1.1
    noise_rate: float = 5.0
    shortest: float = 0.1

    def median(self, groups: int) -> float:
        return math.exp(self.location + 0.5 * math.log(groups))

    def mode(self, groups: int, noise: float) -> Hyperparameters:
        """The hyperparameters that are likeliest before any data."""
        mode = self.median(groups) * math.exp(-(self.scale**2))
        return Hyperparameters(np.full(groups, mode), 1.0, noise)

    def negative_log(self, theta: Vector, groups: int) -> tuple[float, Vector]:
        """The negative log density (up to a constant) of theta = (log lengthscales, log signal[, log noise])."""
        grad = np.zeros_like(theta)
        z = (theta[:groups] - math.log(self.median(groups))) / self.scale
        grad[:groups] = z / self.scale + 1.0  # the density is over the length scale itself, hence + log(lengthscale)
        tail = (self.shortest * np.exp(-theta[:groups])) ** 2
        grad[:groups] -= 2.0 * tail
        value = 0.5 * float(z @ z) + float(theta[:groups].sum()) + float(tail.sum())
        zs = theta[groups] / self.signal_scale
        value += 0.5 * zs * zs
        grad[groups] = zs / self.signal_scale
        if len(theta) > groups + 1:
            noise = math.exp(theta[-1])
            value += self.noise_rate * noise - (self.noise_shape - 1.0) * theta[-1]
            grad[-1] = self.noise_rate * noise - (self.noise_shape - 1.0)
        return value, grad


def fit(data: Data, prior: Prior, *, noise: float | None) -> Hyperparameters:
    """Maximum a posteriori hyperparameters; ``noise`` None infers the noise variance, a number fixes it.

    Noise is inferred only where the data speak for it: a noiseless model is kept unless noise raises the log density by
    more than NOISE_EVIDENCE. Few results of a rough function look noisy otherwise.

    Raises FitError when no start leads to a positive definite covariance.
    """
    if noise is not None or data.noise_is_known:
        return _fit(data, prior, NOISE_FLOOR if noise is None else noise, infer=False)[1]
    noisy_loss, noisy = _fit(data, prior, NOISE_FLOOR, infer=True)
    try:
        exact_loss, exact = _fit(data, prior, NOISE_FLOOR, infer=False)
    except FitError:
        return noisy
    return exact if exact_loss - noisy_loss < NOISE_EVIDENCE else noisy


def _fit(data: Data, prior: Prior, fixed_noise: float, *, infer: bool) -> tuple[float, Hyperparameters]:
    g = data.group_count
    bounds = [_log(LENGTHSCALE_BOUNDS)] * g + [_log(SIGNAL_BOUNDS)] + ([_log(NOISE_BOUNDS)] if infer else [])
    best: tuple[float, Vector] | None = None
    for start in _starts(prior, g, infer, len(data.y)):
        result = minimize(
            negative_log_posterior,
            start,
            args=(data, prior, g, fixed_noise),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
        )
        if np.isfinite(result.fun) and (best is None or result.fun < best[0]):
            best = (float(result.fun), result.x)
    if best is None:
        raise FitError
    return best[0], _hyperparameters(best[1], g, fixed_noise)


def _starts(prior: Prior, groups: int, infer: bool, n: int) -> list[Vector]:
    """Starting points in log space: moderate and, while that is cheap, short and long length scales."""
    median = math.log(0.5 * math.sqrt(groups))
    offsets = (0.0,) if n > 300 else (0.0, -1.0, 1.5)
    noises = (math.log(1e-3), math.log(1e-2), math.log(1e-5))
    return [
        np.array([median + offset] * groups + [0.0] + ([log_noise] if infer else []))
        for offset, log_noise in zip(offsets, noises, strict=False)
    ]


def _log(bounds: tuple[float, float]) -> tuple[float, float]:
    return math.log(bounds[0]), math.log(bounds[1])


def negative_log_posterior(
    theta: Float64[np.ndarray, " t"], data: Data, prior: Prior, groups: int, fixed_noise: float
) -> tuple[float, Float64[np.ndarray, " t"]]:
    """Negative log marginal likelihood plus prior at log hyperparameters, and its gradient.

    The constant mean has a normal prior and is at its maximum a posteriori value for every theta, so the gradient with
    respect to theta needs no term for it (envelope theorem).
    """
    n = len(data.y)
    infer = len(theta) > groups + 1
    signal, noise = math.exp(theta[groups]), math.exp(theta[-1]) if infer else fixed_noise
    scaled = data.X * np.exp(-theta[:groups])[data.groups]
    k, slope = matern52(squared_distance(scaled, scaled))
    K = signal * k
    K[np.diag_indices(n)] = signal + data.diagonal(noise)
    L, info = potrf(K, lower=1)
    if info != 0:
        return math.inf, np.zeros_like(theta)
    value, grad = prior.negative_log(theta, groups)
    m, alpha = _mean_and_weights(L, data.y)
    value += 0.5 * float((data.y - m) @ alpha) + float(np.log(np.diag(L)).sum()) + 0.5 * m * m / MEAN_PRIOR_VARIANCE
    W, _ = potri(L, lower=1)
    W = np.tril(W) + np.tril(W, -1).T - np.outer(alpha, alpha)  # K^-1 - alpha alpha^T
    M = W * slope
    M *= signal
    # sum_ij M_ij (x_i - x_j)^2 per column without n^2 d memory
    per_column = 2.0 * (M.sum(1) @ (scaled * scaled) - ((M @ scaled) * scaled).sum(0))
    grad[:groups] -= np.bincount(data.groups, weights=per_column, minlength=groups)
    k[np.diag_indices(n)] = 1.0
    grad[groups] += 0.5 * signal * float((W * k).sum())
    if infer:
        grad[-1] += 0.5 * noise * float(np.diag(W)[np.isnan(data.known_noise)].sum())
    return value, grad


def _mean_and_weights(L: np.ndarray, y: Vector) -> tuple[float, Vector]:
    """The constant mean's maximum a posteriori value m and K^-1 (y - m)."""
    solved, _ = potrs(L, np.column_stack([y, np.ones_like(y)]), lower=1)
    m = float(solved[:, 0].sum() / (solved[:, 1].sum() + 1.0 / MEAN_PRIOR_VARIANCE))
    return m, solved[:, 0] - m * solved[:, 1]


def _hyperparameters(theta: Vector, groups: int, fixed_noise: float) -> Hyperparameters:
    noise = math.exp(theta[-1]) if len(theta) > groups + 1 else fixed_noise
    return Hyperparameters(np.exp(theta[:groups]), math.exp(theta[groups]), noise)


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
        mean, self.alpha = _mean_and_weights(self.L, data.y)
        self.hyperparameters = replace(hyperparameters, mean=mean)

    def covariance(self, A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        """The prior covariance between the rows of A and B."""
        s = self._inverse_lengthscales
        return self.hyperparameters.signal * matern52(squared_distance(A * s, B * s))[0]

    def posterior(self, X: Float64[np.ndarray, "m d"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Mean and standard deviation of the noiseless function at the rows of X."""
        V = self._half_solve(X)
        variance = self.hyperparameters.signal - (V * V).sum(0)
        return self._mean(X), np.sqrt(np.maximum(variance, 1e-18))

    def joint(self, X: Float64[np.ndarray, "m d"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, "m m"]]:
        """Mean and covariance of the noiseless function at the rows of X."""
        V = self._half_solve(X)
        return self._mean(X), self.covariance(X, X) - V.T @ V

    def _mean(self, X: np.ndarray) -> np.ndarray:
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


def fit_safely(data: Data, prior: Prior, *, noise: float | None) -> tuple[GaussianProcess, tuple[str, ...]]:
    """A fitted model, and the names of the steps that were taken where numerics failed, mildest first.

    Raises FitError when not even the prior's own hyperparameters work.
    """
    g = data.group_count
    steps: list[str] = []
    for step, attempt in (
        ("", lambda: fit(data, prior, noise=noise)),
        ("wider noise", lambda: fit(data, prior, noise=1e-4)),
        ("hyperparameters from the priors", lambda: prior.mode(g, 1e-3)),
    ):
        steps += [step] if step else []
        try:
            model = GaussianProcess(data, attempt())
        except FitError:
            continue
        if model.jitter:
            steps.append(f"jitter {model.jitter:g}")
        if np.isfinite(model.alpha).all():
            return model, tuple(steps)
    raise FitError
