"""The loss of hyperparameters where nothing is special: values under one Matern kernel. Fast, since it is fitted often.

The same number as `fitting.negative_log_posterior`. Distances are computed once per parameter and not once per call,
and all large matrices have their place: for up to 200 results, what a call takes is LAPACK's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from .kernel import matern52
from .models import MEAN_PRIOR_VARIANCE, Data, mean_and_weights, potrf, potri

Theta = Float64[np.ndarray, " t"]
LogPrior = Callable[[Theta, int], tuple[float, Theta]]  # the negative log density, and its gradient
MOST = 1 << 19  # distances that are kept


class PlainLoss:
    """Negative log marginal likelihood plus prior at (log lengthscales, log signal[, log noise]), and its gradient.

    ``infer``: the noise variance is the last of them; else it is ``noise`` where it is not known.
    """

    def __init__(self, data: Data, prior: LogPrior, *, infer: bool, noise: float) -> None:
        self._y, self._prior, self._infer = data.y, prior, infer
        self._unknown = np.isnan(data.known_noise)
        self._noise = data.diagonal(0.0 if infer else noise)
        n, g = len(data.y), data.group_count
        self._D: Float64[np.ndarray, "g n n"] = np.zeros((g, n, n))  # squared distances, parameter by parameter
        for column, group in zip(data.X.T, data.groups, strict=True):
            self._D[group] += (column[:, None] - column) ** 2
        self._ones = np.ones(n)

    @staticmethod
    def suits(data: Data) -> bool:
        """Whether the distances are few enough to be kept, and nothing but values was observed."""
        return data.gradients is None and data.group_count * len(data.y) ** 2 <= MOST

    def __call__(self, theta: Theta) -> tuple[float, Theta]:
        g, n = len(self._D), len(self._y)
        D = self._D.reshape(g, n * n)
        w = np.exp(-2.0 * theta[:g])
        signal = math.exp(theta[g])
        noise = self._noise + self._unknown * math.exp(theta[g + 1]) if self._infer else self._noise
        K, slope = matern52(w @ D)
        K *= signal
        K = K.reshape(n, n)
        K.flat[:: n + 1] = signal + noise
        L, info = potrf(K.T, lower=1, overwrite_a=1)  # in place: its transpose is in LAPACK's order
        if info != 0:
            return math.inf, np.zeros_like(theta)
        value, grad = self._prior(theta, g)
        m, alpha = mean_and_weights(L, self._y, self._ones)
        fit = float((self._y - m) @ alpha)
        value += 0.5 * fit + float(np.log(L.diagonal()).sum()) + 0.5 * m * m / MEAN_PRIOR_VARIANCE
        half, _ = potri(L, lower=1, overwrite_c=1)  # the lower half of K^-1; the upper half is zero
        diagonal = half.diagonal().copy()
        W = half.T  # every pair once, so twice: distances are 0 on the diagonal
        W *= 2.0
        W -= np.multiply.outer(alpha, alpha)
        slope *= W.reshape(n * n)
        grad[:g] -= signal * w * (D @ slope)
        by_noise = diagonal - alpha * alpha
        grad[g] += 0.5 * (n - fit - float(noise @ by_noise))  # from the trace of K^-1 K, and K alpha = y - m
        if self._infer:
            grad[g + 1] += 0.5 * math.exp(theta[g + 1]) * float(by_noise[self._unknown].sum())
        return value, grad
