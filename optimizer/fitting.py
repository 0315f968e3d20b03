"""Fitting: the most probable hyperparameters given the data, and what to do when numerics fail.

Maximum a posteriori, by L-BFGS-B over log hyperparameters with the closed-form gradient of the marginal likelihood
(Rasmussen and Williams 2006, eq. 5.9): one to two orders of magnitude faster than automatic differentiation at the
sizes that matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize

from .kernel import matern52, squared_distance
from .models import (
    MEAN_PRIOR_VARIANCE,
    NOISE_FLOOR,
    Data,
    FitError,
    GaussianProcess,
    Hyperparameters,
    Vector,
    mean_and_weights,
    potrf,
    potri,
)

LENGTHSCALE_BOUNDS = (1e-3, 1e3)
SIGNAL_BOUNDS = (1e-2, 1e2)
NOISE_BOUNDS = (NOISE_FLOOR, 1.0)
EVIDENCE = 2.0  # nats by which a richer model has to be more probable than a plainer one
LOG_TAU = np.linspace(-8.0, 4.0, 49)  # nodes for the global shrinkage of a sparse prior, about its scale
SUBSET = 200  # rows on which everything is compared; with more, the winner is refined on all


@dataclass(frozen=True)
class Prior:
    """Priors of the hyperparameters, and how noise is treated.

    Length scales: log-normal around a median that grows with the square root of the number of groups, so that functions
    of many parameters are expected to be as complex as functions of few (Hvarfner, Hellsten and Nardi 2024, eq. 7),
    with a Gaussian tail in 1/lengthscale below ``shortest``, where few points cannot tell a function from noise.
    Signal variance: log-normal around 1. Noise variance: gamma(1.1, 5), which lets it vanish.

    ``sparse`` expects most parameters not to matter (SAAS, Eriksson and Jankowiak 2021, eq. 9): with rho = 1 /
    lengthscale^2, rho_i ~ half-Cauchy(tau) and tau ~ half-Cauchy(``shrinkage``). The maximum is that of the density of
    log rho with tau integrated out, where both are hyperbolic secants: with tau left in, the joint maximum degenerates.
    """

    location: float = math.sqrt(2.0)
    scale: float = math.sqrt(3.0)
    signal_scale: float = 1.0
    noise_shape: float = 1.1
    noise_rate: float = 5.0
    shortest: float = 0.1
    sparse: bool = False
    shrinkage: float = 0.1

    def median(self, groups: int) -> float:
        return math.exp(self.location + 0.5 * math.log(groups))

    def mode(self, groups: int, noise: float) -> Hyperparameters:
        """The hyperparameters that are likeliest before any data."""
        if self.sparse:
            return Hyperparameters(np.full(groups, self.shrinkage**-0.5), 1.0, noise)
        mode = self.median(groups) * math.exp(-(self.scale**2))
        return Hyperparameters(np.full(groups, mode), 1.0, noise)

    def starts(self, groups: int, n: int) -> list[Hyperparameters]:
        """Where to look for the optimum with n results: moderate and, while that is cheap, short and long scales."""
        moderate = Hyperparameters(np.full(groups, 0.5 * math.sqrt(groups)), 1.0, 1e-3)
        if n > SUBSET:
            return [moderate]
        short = replace(moderate, lengthscales=moderate.lengthscales * math.exp(-1.0), noise=1e-2)
        return [moderate, short, replace(moderate, lengthscales=moderate.lengthscales * math.exp(1.5), noise=1e-4)]

    def negative_log(self, theta: Vector, groups: int) -> tuple[float, Vector]:
        """The negative log density (up to a constant) of theta = (log lengthscales, log signal[, log noise])."""
        grad = np.zeros_like(theta)
        value, grad[:groups] = (self._half_cauchy if self.sparse else self._log_normal)(theta[:groups])
        zs = theta[groups] / self.signal_scale
        value += 0.5 * zs * zs
        grad[groups] = zs / self.signal_scale
        if len(theta) > groups + 1:
            noise = math.exp(theta[-1])
            value += self.noise_rate * noise - (self.noise_shape - 1.0) * theta[-1]
            grad[-1] = self.noise_rate * noise - (self.noise_shape - 1.0)
        return value, grad

    def _log_normal(self, log_l: Vector) -> tuple[float, Vector]:
        z = (log_l - math.log(self.median(len(log_l)))) / self.scale
        tail = (self.shortest * np.exp(-log_l)) ** 2
        value = 0.5 * float(z @ z) + float(log_l.sum()) + float(tail.sum())
        return value, z / self.scale + 1.0 - 2.0 * tail  # over the length scale itself, hence + log(lengthscale)

    def _half_cauchy(self, log_l: Vector) -> tuple[float, Vector]:
        """Where x is half-Cauchy(c), u = log(x / c) has the density sech(u) / pi; tau is summed over its logarithm."""
        log_tau = math.log(self.shrinkage) + LOG_TAU
        u = -2.0 * log_l - log_tau[:, None]  # (taus, groups)
        log_p = -_log_cosh(u).sum(1) - _log_cosh(LOG_TAU)
        total = float(np.logaddexp.reduce(log_p))
        slope = np.exp(log_p - total) @ np.tanh(u)
        return -total, -2.0 * slope


@dataclass(frozen=True)
class Fit:
    """Hyperparameters and their loss, the negative log posterior density up to a constant."""

    loss: float
    hyperparameters: Hyperparameters


def fit(data: Data, prior: Prior, *, noise: float | None, starts: Sequence[Hyperparameters] | None = None) -> Fit:
    """The most probable hyperparameters; ``noise`` None infers the noise variance, a number fixes it.

    Noise is inferred only where the data speak for it: a noiseless model is kept unless noise raises the log density by
    more than EVIDENCE. Few results of a rough function look noisy otherwise.

    Raises FitError when no start leads to a positive definite covariance.
    """
    starts = prior.starts(data.group_count, len(data.y)) if starts is None else starts
    if noise is not None or data.noise_is_known:
        return _fit(data, prior, NOISE_FLOOR if noise is None else noise, starts, infer=False)
    noisy = _fit(data, prior, NOISE_FLOOR, starts, infer=True)
    try:
        exact = _fit(data, prior, NOISE_FLOOR, starts, infer=False)
    except FitError:
        return noisy
    return exact if exact.loss - noisy.loss < EVIDENCE else noisy


def refine(data: Data, prior: Prior, start: Hyperparameters) -> Fit:
    """The nearest optimum to hyperparameters found on part of the data; whether there is noise is settled."""
    return _fit(data, prior, start.noise, [start], infer=start.noise > NOISE_FLOOR and not data.noise_is_known)


def _fit(data: Data, prior: Prior, fixed_noise: float, starts: Sequence[Hyperparameters], *, infer: bool) -> Fit:
    g = data.group_count
    bounds = [_log(LENGTHSCALE_BOUNDS)] * g + [_log(SIGNAL_BOUNDS)] + ([_log(NOISE_BOUNDS)] if infer else [])
    best: Fit | None = None
    for start in starts:
        theta = np.log([*start.lengthscales, start.signal, *([max(start.noise, 1e-4)] if infer else [])])
        arguments = (data, prior, g, fixed_noise)
        found = minimize(negative_log_posterior, theta, args=arguments, jac=True, method="L-BFGS-B", bounds=bounds)
        if np.isfinite(found.fun) and (best is None or found.fun < best.loss):
            noise = math.exp(found.x[-1]) if infer else fixed_noise
            best = Fit(float(found.fun), Hyperparameters(np.exp(found.x[:g]), math.exp(found.x[g]), noise))
    if best is None:
        raise FitError
    return best


def _log_cosh(u: np.ndarray) -> np.ndarray:
    a = np.abs(u)
    return a + np.log1p(np.exp(-2.0 * a)) - math.log(2.0)


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
    m, alpha = mean_and_weights(L, data.y, np.ones(n))
    value += 0.5 * float((data.y - m) @ alpha) + float(np.log(np.diag(L)).sum()) + 0.5 * m * m / MEAN_PRIOR_VARIANCE
    W, _ = potri(L, lower=1)  # the lower half of K^-1; the upper half is zero
    W = W + W.T
    W[np.diag_indices(n)] *= 0.5
    W -= np.outer(alpha, alpha)
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


def condition_safely(
    data: Data, prior: Prior, hyperparameters: Hyperparameters | None
) -> tuple[GaussianProcess, tuple[str, ...]]:
    """A model with fitted hyperparameters (None: no fit succeeded), and the fallback steps it took, mildest first.

    Raises FitError when not even the prior's own hyperparameters work.
    """
    fallback = prior.mode(data.group_count, 1e-3)
    attempts = [("", hyperparameters), ("wider noise", replace(hyperparameters or fallback, noise=1e-4))]
    steps: list[str] = []
    for step, attempt in (*attempts, ("hyperparameters from the priors", fallback)):
        steps += [step] if step else []
        if attempt is None:
            continue
        try:
            model = GaussianProcess(data, attempt)
        except FitError:
            continue
        if np.isfinite(model.alpha).all():
            return model, (*steps, *([f"jitter {model.jitter:g}"] if model.jitter else []))
    raise FitError
