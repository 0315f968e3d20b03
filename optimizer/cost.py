"""Gain against cost: what a trial costs, and the Gittins index of the Pandora's-box problem.

A trial at x costs c(x), in the objective's unit. Xie, Astudillo, Frazier, Scully and Terenin 2024 (arXiv 2406.20062)
rank configurations by the index g(x) at which improving on g is worth exactly the cost: EI(x; g) = c(x). Opening boxes
in the order of their indices, until none exceeds the best value found, is optimal when values are independent (Weitzman
1979). No index exceeds the best value just when EI(x) <= c(x) everywhere, which is the stopping rule (Xie, Astudillo,
Frazier, Scully and Terenin 2025, arXiv 2507.12453).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr

from .acquisition import LOG_SQRT_2PI, Acquisition, Batch, Situation, Values, log_h, posterior_with_gradient, values_of
from .models import GaussianProcess


class LogCost:
    """log of the expected cost at x, in the standardised unit of the objective, and its gradient.

    Constant, or a price per unit of a metric whose logarithm is modelled by ``gp`` (with ``centre`` and ``spread`` from
    its standardised values back to logarithms): then the cost is log-normal.
    """

    def __init__(
        self, price: float, gp: GaussianProcess | None = None, centre: float = 0.0, spread: float = 1.0
    ) -> None:
        self._log_price = math.log(price)
        self._gp = gp
        self._centre, self._spread = centre, spread

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        if self._gp is None:
            return np.full(len(X), self._log_price), np.zeros_like(X)
        mean, sd, d_mean, d_sd = posterior_with_gradient(self._gp, X)
        s = self._spread
        value = self._log_price + self._centre + s * mean + 0.5 * (s * sd) ** 2
        return value, s * d_mean + (s * s * sd)[:, None] * d_sd

    def mean(self, X: Batch) -> Values:
        return np.exp(self(X)[0])


class PerCost:
    """An acquisition per unit of cost, as the difference of their logarithms."""

    def __init__(self, acquisition: Acquisition, cost: Acquisition) -> None:
        self._acquisition, self._cost = acquisition, cost

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        value, gradient = self._acquisition(X)
        log_cost, d_log_cost = self._cost(X)
        return value - log_cost, gradient - d_log_cost

    def values(self, X: Batch) -> Values:
        return values_of(self._acquisition, X) - values_of(self._cost, X)


class GittinsIndex:
    """g(x) with P(feasible at x) E[(f(x) - g)+] = c(x), in standardised units."""

    def __init__(self, gp: GaussianProcess, cost: Acquisition, feasibility: Acquisition | None = None) -> None:
        self._gp, self._cost, self._feasibility = gp, cost, feasibility

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        mean, sd, d_mean, d_sd = posterior_with_gradient(self._gp, X)
        log_c, d_log_c = self._cost(X)
        if self._feasibility is not None:
            log_p, d_log_p = self._feasibility(X)
            log_c, d_log_c = log_c - log_p, d_log_c - d_log_p
        z = inverse_log_h(log_c - np.log(sd))
        # h' = Phi and h - z Phi = phi, so dg = dmean + phi/Phi dsd - sd h/Phi dlog c
        log_Phi = log_ndtr(z)
        phi_Phi = np.exp(-0.5 * z * z - LOG_SQRT_2PI - log_Phi)
        h_Phi = np.exp(log_h(z) - log_Phi)
        gradient = d_mean + phi_Phi[:, None] * d_sd - (sd * h_Phi)[:, None] * d_log_c
        return mean - sd * z, gradient


def inverse_log_h(target: np.ndarray) -> np.ndarray:
    """z with log(phi(z) + z Phi(z)) = target, by Newton's method from the asymptotes of both sides."""
    high = target > -1.0
    z = np.where(high, np.exp(np.minimum(target, 50.0)), -np.sqrt(np.maximum(-2.0 * target, 1e-12)))
    for _ in range(60):
        value = log_h(z)
        step = (value - target) * np.exp(value - log_ndtr(z))
        step = np.clip(step, -0.5 * (1.0 + np.abs(z)), 0.5 * (1.0 + np.abs(z)))
        z = z - step
        if np.all(np.abs(step) <= 1e-12 * (1.0 + np.abs(z))):
            break
    return z


def gittins(s: Situation) -> Acquisition:
    """The Gittins index; pending trials count as measured at their means."""
    assert s.cost is not None
    return GittinsIndex(believing(s.gp, s.pending), s.cost, s.feasibility)


def expected_improvement_per_cost(s: Situation) -> Acquisition:
    """Expected improvement (noisy where the measurements are) per unit of expected cost."""
    from .acquisition import expected_improvement, noisy_expected_improvement

    assert s.cost is not None
    return PerCost(noisy_expected_improvement(s) if s.noisy else expected_improvement(s), s.cost)


def believing(gp: GaussianProcess, pending: Batch) -> GaussianProcess:
    """The process as if the pending rows had been measured exactly at their means."""
    if not len(pending):
        return gp
    mean, _ = gp.posterior(pending)
    return GaussianProcess(gp.data.with_values(pending, mean, 1e-6), gp.hyperparameters)
