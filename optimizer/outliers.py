"""Results that the others contradict: found one after another, and given a noise variance of their own.

Relevance pursuit (Ament, Santorella, Eriksson, Letham, Balandat and Bakshy 2024): value i has the noise variance
noise + rho_i, most rho being 0. For one of them, all else as it is, the marginal likelihood is largest in closed form:
with the residual r and the variance v of value i given all others, at rho_i = max(r^2 - (v - rho_i), 0), and the gain
over rho_i = 0 is [s - 1 - log s] / 2 with s = r^2 / v. Values are set aside greedily by that gain, as long as it is
above what the prior odds take: before any data, each value is an outlier with probability RARE.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from .fitting import Fit, Prior, fit
from .models import Data, FitError, GaussianProcess, Hyperparameters, potri

RARE = 0.05  # prior probability that a value is an outlier
PENALTY = math.log((1.0 - RARE) / RARE)  # nats by which setting a value aside has to raise the density
LARGEST_SHARE = 0.25  # of the values that may be outliers
PATIENCE = 3  # further values tried after the best number of them so far

Vector = Float64[np.ndarray, " n"]


def set_aside(data: Data, h: Hyperparameters) -> Vector | None:
    """The noise variances rho that outliers add, 0 for all other values (None: there are none), with h as it is.

    The search begins with the outliers that ``data`` already has.
    """
    try:
        pursuit = _Pursuit(data, h)
    except FitError:
        return None
    pursuit.prune()
    for _ in range(_most(data)):
        gain, i = pursuit.candidate()
        if gain <= PENALTY:
            break
        pursuit.add(i)
    pursuit.prune()
    return pursuit.rho if pursuit.rho.any() else None


def fit_with_outliers(data: Data, prior: Prior, plain: Fit) -> tuple[Fit, Vector | None]:
    """The most probable hyperparameters when values may be set aside, starting from those when none is, and rho.

    One value after another gets a variance of its own, the likeliest first, and the hyperparameters are fitted again;
    the number of outliers is the likeliest one. The loss of a fit with outliers includes what their prior odds take.
    """
    best, current = plain, plain
    rho = kept = np.zeros(len(data.y))
    since = 0
    for _ in range(_most(data)):
        try:
            pursuit = _Pursuit(replace(data, extra=rho), current.hyperparameters)
            pursuit.prune()  # what an earlier step took for an outlier may be none with these hyperparameters
            pursuit.add(pursuit.candidate()[1])
            rho = pursuit.rho
            current = fit(replace(data, extra=rho), prior, noise=None, starts=[current.hyperparameters])
        except FitError:
            break
        current = replace(current, loss=current.loss + np.count_nonzero(rho) * PENALTY)
        since += 1
        if current.loss < best.loss:
            best, kept, since = current, rho, 0
        if since == PATIENCE:
            break
    return best, (kept if kept.any() else None)


def _most(data: Data) -> int:
    return int(LARGEST_SHARE * len(data.y))


class _Pursuit:
    """The marginal likelihood as a function of rho alone."""

    def __init__(self, data: Data, h: Hyperparameters) -> None:
        gp = GaussianProcess(data, h)
        inverse, _ = potri(gp.L, lower=1)
        self._P = np.tril(inverse) + np.tril(inverse, -1).T  # K^-1
        self._alpha, self._n = gp.alpha.copy(), len(data.y)
        self.rho = np.zeros(self._n) if data.extra is None else data.extra.copy()

    def candidate(self) -> tuple[float, int]:
        """The value not set aside yet whose own variance would raise the log density most, and by how much."""
        gain = np.where(self.rho > 0.0, -1.0, self._gains())
        i = int(np.argmax(gain))
        return float(gain[i]), i

    def _gains(self) -> Vector:
        """By how much each value's own variance raises the log density, all else as it is."""
        v = 1.0 / np.diag(self._P)[: self._n]
        s = np.maximum((self._alpha[: self._n] * v) ** 2 / np.maximum(v - self.rho, 1e-12 * v), 1.0)
        return np.asarray(0.5 * (s - 1.0 - np.log(s)))

    def prune(self) -> None:
        """Take back values whose variance gains less than the prior odds take, the least first."""
        for j in np.flatnonzero(self.rho):
            self._improve(int(j))
        while self.rho.any():
            gain = np.where(self.rho > 0.0, self._gains(), np.inf)
            i = int(np.argmin(gain))
            if gain[i] > PENALTY:
                return
            self._change(i, -self.rho[i])

    def add(self, i: int) -> None:
        """Give value i its likeliest variance, then go once more through all that have one."""
        self._improve(i)
        for j in np.flatnonzero(self.rho):
            self._improve(int(j))

    def _improve(self, i: int) -> None:
        v = 1.0 / self._P[i, i]
        r = self._alpha[i] * v
        self._change(i, max(r * r - v, -self.rho[i]))

    def _change(self, i: int, change: float) -> None:
        column = self._P[:, i].copy()
        share = change / (1.0 + change * self._P[i, i])
        self._alpha -= share * column * self._alpha[i]  # the mean stays as it is
        self._P -= share * np.outer(column, column)
        self.rho[i] = max(self.rho[i] + change, 0.0)
