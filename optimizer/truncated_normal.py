"""Fits of a normal distribution truncated to [0, 1], safe where scores pile up at the ceiling.

With scores near 1 the likelihood of TN(mu, sigma; [0, 1]) has no maximum in the useful range: mu and sigma run off
together, while the density they describe (an exponential slope) stays put. The fit therefore searches a bounded region,
whose edge describes that slope as well as any point beyond it; the distribution function is computed from tails, never
as a difference of numbers near 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from scipy.special import log_ndtr

MUS = (-8.0, 9.0)
SIGMAS = (1e-3, 6.0)
LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)

Vector = Float64[np.ndarray, " r"]


def log_mass(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """log(Phi(high) - Phi(low)) for low < high, exact in both tails."""
    flip = low > 0
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    upper, lower = log_ndtr(b), log_ndtr(a)
    with np.errstate(divide="ignore"):
        return upper + np.log(-np.expm1(np.minimum(lower - upper, 0.0)))


def log_cdf(s: float, mu: Vector, sigma: Vector) -> Vector:
    """log F(s) of TN(mu, sigma; [0, 1])."""
    if s <= 0:
        return np.full(len(mu), -np.inf)
    return log_mass(-mu / sigma, (min(s, 1.0) - mu) / sigma) - log_mass(-mu / sigma, (1.0 - mu) / sigma)


def fit(
    scores: Float64[np.ndarray, "r n"], prior: tuple[float, float, float, float] | None = None
) -> tuple[Vector, Vector]:
    """mu and sigma of TN(mu, sigma; [0, 1]) for each row: maximum likelihood, or a posteriori with ``prior``.

    ``prior`` is (mean of mu, sd of mu, mean of sigma, sd of sigma), both normal. The likelihood depends on the scores
    through their first two moments alone, so that the search runs over a grid for all rows at once, refined thrice.
    """
    n = scores.shape[1]
    mean, square = scores.mean(1), (scores * scores).mean(1)
    mu, log_sigma, terms = _grid()
    objective = n * (np.column_stack([mean, square, np.ones_like(mean)]) @ terms)
    if prior is not None:
        objective = objective + _log_prior(mu, np.exp(log_sigma), prior)
    found = objective.argmax(1)
    best_mu, best_log_sigma = mu[found], log_sigma[found]
    width_mu, width_sigma = _widths(best_mu), (np.log(SIGMAS[1]) - np.log(SIGMAS[0])) / (_SIGMA_STEPS - 1)
    offsets = np.linspace(-1.0, 1.0, 9)
    du, ds = (o.ravel() for o in np.meshgrid(offsets, offsets, indexing="ij"))
    for _ in range(4):
        m = np.clip(best_mu[:, None] + width_mu[:, None] * du, *MUS)
        t = np.clip(best_log_sigma[:, None] + width_sigma * ds, np.log(SIGMAS[0]), np.log(SIGMAS[1]))
        value = n * _mean_log_density(mean[:, None], square[:, None], m, t)
        if prior is not None:
            value = value + _log_prior(m, np.exp(t), prior)
        found = value.argmax(1)
        rows = np.arange(len(found))
        best_mu, best_log_sigma = m[rows, found], t[rows, found]
        width_mu, width_sigma = width_mu / 3.0, width_sigma / 3.0
    return best_mu, np.exp(best_log_sigma)


_SIGMA_STEPS = 60


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mu, log sigma, and what multiplies (mean, mean of squares, 1) in the mean log density."""
    mus = np.concatenate([np.linspace(MUS[0], -0.25, 20), np.linspace(-0.2, 1.2, 141), np.linspace(1.25, MUS[1], 20)])
    log_sigmas = np.linspace(np.log(SIGMAS[0]), np.log(SIGMAS[1]), _SIGMA_STEPS)
    mu, log_sigma = (g.ravel() for g in np.meshgrid(mus, log_sigmas, indexing="ij"))
    sigma = np.exp(log_sigma)
    constant = -0.5 * (mu / sigma) ** 2 - log_sigma - LOG_SQRT_2PI - log_mass(-mu / sigma, (1.0 - mu) / sigma)
    return mu, log_sigma, np.stack([mu / sigma**2, -0.5 / sigma**2, constant])


def _widths(mu: Vector) -> Vector:
    """The grid's spacing around mu."""
    return np.where(mu < -0.2, 0.45, np.where(mu > 1.2, 0.45, 0.01))


def _mean_log_density(mean: np.ndarray, square: np.ndarray, mu: np.ndarray, log_sigma: np.ndarray) -> np.ndarray:
    sigma = np.exp(log_sigma)
    spread = (square - 2.0 * mu * mean + mu * mu) / (sigma * sigma)
    return -0.5 * spread - log_sigma - LOG_SQRT_2PI - log_mass(-mu / sigma, (1.0 - mu) / sigma)


def _log_prior(mu: np.ndarray, sigma: np.ndarray, prior: tuple[float, float, float, float]) -> np.ndarray:
    mu_mean, mu_sd, sigma_mean, sigma_sd = prior
    return -0.5 * (((mu - mu_mean) / mu_sd) ** 2 + ((sigma - sigma_mean) / sigma_sd) ** 2)
