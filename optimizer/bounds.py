"""Two acquisitions that need no integral: the probability of improvement and the upper confidence bound."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, logsumexp

from .acquisition import (
    DRAWS,
    LOG_SQRT_2PI,
    Acquisition,
    Batch,
    NoisyExpectedImprovement,
    Situation,
    Values,
    log_positive_part,
    posterior_with_gradient,
)
from .models import GaussianProcess

SOFTNESS = 1e-3  # of the bound on the rise, in standardised units


class ProbabilityOfImprovement(NoisyExpectedImprovement):
    """log P(f(x) > max_i f(b_i) + margin) over the base points b, averaged over what their values may be.

    Kushner 1964; the average is that of the noisy expected improvement.
    """

    margin = 0.0

    def _log_mean(self, rise: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = (rise - self.margin) / sd[:, None]
        log_cdf = log_ndtr(z)
        total = np.asarray(logsumexp(log_cdf, axis=1))
        # the draws' shares of the sum, times d log Phi / dz
        slope = np.exp(log_cdf - total[:, None] - 0.5 * z * z - LOG_SQRT_2PI - log_cdf)
        return total - math.log(z.shape[1]), slope / sd[:, None], -(slope * z).sum(1) / sd


def probability_of_improvement(s: Situation, *, margin: float) -> Acquisition:
    """The probability of a rise of more than ``margin``; noise and pending trials are averaged over."""
    draws = 1 if s.known and not s.noisy else DRAWS
    acquisition = ProbabilityOfImprovement(s.gp, s.base, s.attainable, draws=draws, seed=s.seed)
    acquisition.margin = margin
    return acquisition


class UpperConfidenceBound:
    """mu(x) + sqrt(beta) sigma(x) - best, as the log of its positive part, so that it can be weighed by a probability.

    The mean is that of ``gp``, the standard deviation that of ``spread``, which knows the pending points as well.
    """

    def __init__(self, gp: GaussianProcess, spread: GaussianProcess, best: float, beta: float) -> None:
        self._gp, self._spread = gp, spread
        self._best, self._root = best, math.sqrt(beta)

    def bound(self, X: Batch) -> tuple[Values, Batch]:
        """The bound itself and its gradient at every row."""
        mean, sd, d_mean, d_sd = posterior_with_gradient(self._gp, X)
        if self._spread is not self._gp:
            _, sd, _, d_sd = posterior_with_gradient(self._spread, X)
        return mean + self._root * sd, d_mean + self._root * d_sd

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        u, gradient = self.bound(X)
        value, slope = log_positive_part(u - self._best, SOFTNESS)
        return value, slope[:, None] * gradient


def upper_confidence_bound(s: Situation, *, beta: float) -> UpperConfidenceBound:
    """What f(x) may reach with some confidence (Srinivas et al. 2010), above the best posterior mean so far.

    Pending points shrink the standard deviation around them and leave the mean (GP-BUCB, Desautels et al. 2014).
    """
    best = float(s.gp.posterior(s.base[s.attainable])[0].max())
    return UpperConfidenceBound(s.gp, hallucinated(s.gp, s.pending), best, beta)


def hallucinated(gp: GaussianProcess, X: Batch) -> GaussianProcess:
    """``gp`` as if the results at the rows of X were in and as expected: the same mean, less variance."""
    if not len(X):
        return gp
    noise = math.nan if not gp.data.noise_is_known else float(np.median(gp.data.known_noise))
    return GaussianProcess(gp.data.with_values(X, gp.posterior(X)[0], noise), gp.hyperparameters)
