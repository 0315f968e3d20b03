r"""What a measurement would tell about the optimum: its value, its place, or both, in nats.

A sampled maximum y* truncates the posterior of f(x) at y*, and what is lost in the entropy of the observation
y = f(x) + noise is the information (max-value entropy search, Wang and Jegelka 2017). With

    gamma = (y* - mu) / sigma,   rho^2 = sigma^2 / (sigma^2 + noise),   c^2 = 1 - rho^2,   r = phi(gamma) / Phi(gamma),

y is an extended skew-normal variable given y*; its entropy, as an integral over a = (gamma - rho (y - mu) / sd(y)) / c,
gives

    I = r(gamma) [rho^2 gamma / 2 + q(gamma) - c E q(c gamma + rho t)],   q(a) = -Phi(a) log Phi(a) / phi(a),

with t standard normal. q is smooth and grows at most linearly, so few Gauss-Hermite nodes give the expectation almost
to rounding; without noise c = 0 and it is Wang and Jegelka's closed form. `lower_bound` is GIBBON (Moss, Leslie,
Gonzalez and Rayson 2021), which extends to batches, and `joint_entropy_search` conditions on the optimum's place, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.linalg import cho_solve
from scipy.special import erfcx, log_ndtr, logsumexp

from .acquisition import LOG_SQRT_2PI, Acquisition, Batch, Situation, Sum, Values, log_positive_part, root
from .from_botorch import from_botorch, numerical_failures
from .models import FitError, GaussianProcess
from .search import Exclusion, maximise
from .thompson import Paths, rise

FEATURES = 512  # frequencies of the draws whose optima are sampled
NEIGHBOURHOODS = 16  # base points near which the draws are searched
SOFTNESS = 1e-4  # nats: what counts as nothing, where a value may be negative
OPTIMUM_NOISE = 1e-4  # variance with which the joint form knows a sampled optimum's value
TINY = 1e-6  # rho^2 below which the information is linear in it to all digits that matter
SQRT_HALF_PI = math.sqrt(math.pi / 2.0)
LOWEST = -1e3  # gamma below which the information hardly changes, and differences lose their digits

_nodes, _weights = np.polynomial.hermite_e.hermegauss(8)  # the logarithm is right to 1e-7 with these
_weights = _weights / _weights.sum()


# --- information about a maximum's value ------------------------------------------------------------------------------


def inverse_mills(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """phi(z) / Phi(z) and its logarithm."""
    low = np.minimum(z, 0.0)
    log = np.where(z < 0.0, -np.log(SQRT_HALF_PI * erfcx(-low / math.sqrt(2.0))), 0.0)
    log = np.where(z < 0.0, log, -0.5 * z * z - LOG_SQRT_2PI - log_ndtr(z))
    return np.exp(log), log


def q_and_slopes(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q(a) = -Phi(a) log Phi(a) / phi(a), q' and q''."""
    high = a > 8.0  # there -log Phi = 1 - Phi and Phi = 1 to double precision
    log_cdf = log_ndtr(a)
    tail = SQRT_HALF_PI * erfcx(np.maximum(a, 8.0) / math.sqrt(2.0))
    q = np.where(high, tail, -SQRT_HALF_PI * erfcx(-np.minimum(a, 8.0) / math.sqrt(2.0)) * log_cdf)
    d_q = a * q - 1.0 - log_cdf
    return q, d_q, q + a * d_q - inverse_mills(a)[0]


def information(gamma: np.ndarray, rho2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log I(y; y*) and its derivatives in gamma and in log sigma^2 (at fixed gamma and noise)."""
    gamma = np.maximum(gamma, LOWEST)
    r, log_r = inverse_mills(gamma)
    tiny = rho2 < TINY
    rho, c = np.sqrt(rho2), np.sqrt(1.0 - rho2)
    E0, E1, E2 = _expected_q(c * gamma, rho)
    q, d_q, _ = q_and_slopes(gamma)
    bracket = 0.5 * rho2 * gamma + q - c * E0
    d_gamma = 0.5 * rho2 + d_q - c * c * E1
    d_log = 0.5 * rho2 * c * (c * gamma + E0 + c * gamma * E1 - c * c * E2)
    # I -> rho^2 r (gamma + r) / 2, where the bracket would be the difference of nearly equal numbers
    s = gamma + r
    bracket = np.where(tiny, 0.5 * rho2 * s, bracket)
    d_gamma = np.where(tiny, 0.5 * rho2 * (1.0 - r * s), d_gamma)
    d_log = np.where(tiny, 0.5 * rho2 * s, d_log)
    bracket = np.maximum(bracket, 1e-300)
    return log_r + np.log(bracket), d_gamma / bracket - s, d_log / bracket


def _expected_q(centre: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    E0, E1, E2 = np.zeros_like(centre), np.zeros_like(centre), np.zeros_like(centre)
    for node, weight in zip(_nodes, _weights, strict=True):
        q, d_q, dd_q = q_and_slopes(centre + sd * node)
        E0 += weight * q
        E1 += weight * d_q
        E2 += weight * dd_q
    return E0, E1, E2


def lower_bound(gamma: np.ndarray, rho2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """GIBBON's bound -log(1 - rho^2 r (gamma + r)) / 2 and its derivatives in gamma and in log sigma^2."""
    gamma = np.maximum(gamma, LOWEST)
    r, _ = inverse_mills(gamma)
    s = gamma + r
    t = r * s  # the share of the variance that the truncation takes
    left = np.maximum(1.0 - rho2 * t, 1e-12)
    d_gamma = 0.5 * rho2 * (r * (1.0 - t) - t * s) / left
    return -0.5 * np.log1p(-np.minimum(rho2 * t, 1.0 - 1e-12)), d_gamma, 0.5 * rho2 * (1.0 - rho2) * t / left


# --- the posterior beside given points --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """The posterior at rows, and its covariance with the anchors; ``pull`` maps derivatives in the three to rows."""

    mean: Values
    variance: Values
    covariance: Float64[np.ndarray, "m a"]
    pull: Callable[[np.ndarray, np.ndarray, np.ndarray], Batch]


class Anchored:
    """A posterior that is asked for covariances with the same anchor points again and again."""

    def __init__(self, gp: GaussianProcess, anchors: Float64[np.ndarray, "a d"]) -> None:
        self._gp = gp
        self._anchors = gp.kernel.sites(anchors)
        self._half = gp.half_solve(gp.sites.cross(anchors).k.T)
        self._W = gp.solve(self._half)  # K^-1 k(X, anchors)
        self.mean, self.covariance = gp.joint(anchors)

    def __call__(self, X: Batch) -> Seen:
        gp = self._gp
        data, anchors = gp.sites.cross(X), self._anchors.cross(X)
        half = gp.half_solve(data.k.T)
        prior = gp.kernel.variance(X)
        variance = np.maximum(prior - (half * half).sum(0), 1e-14 * prior)

        def pull(d_mean: np.ndarray, d_variance: np.ndarray, d_covariance: np.ndarray) -> Batch:
            inverse_k = gp.solve(half).T
            on_data = d_mean[:, None] * gp.alpha - 2.0 * d_variance[:, None] * inverse_k - d_covariance @ self._W.T
            return data.pull(on_data) + anchors.pull(d_covariance) + gp.kernel.pull_variance(d_variance, X)

        return Seen(gp.hyperparameters.mean + data.k @ gp.alpha, variance, anchors.k - half.T @ self._half, pull)


class Repulsion:
    """log(1 - share of the variance at x that the pending observations explain) / 2: what x repeats of them."""

    def __init__(self, covariance: Float64[np.ndarray, "p p"], noise: float, signal: float) -> None:
        self._noise = noise
        self._L = root(covariance + noise * np.eye(len(covariance)), signal)

    def __call__(self, variance: Values, A: Float64[np.ndarray, "m p"]) -> tuple[Values, Values, np.ndarray]:
        """The logarithm and its derivatives in the variance at x and in the covariances A with the pending points."""
        if not A.shape[1]:
            return np.zeros_like(variance), np.zeros_like(variance), np.zeros_like(A)
        B = cho_solve((self._L, True), A.T).T
        v = variance + self._noise
        left = np.maximum(v - (A * B).sum(1), 1e-12 * v)
        return 0.5 * np.log(left / v), 0.5 * (1.0 / left - 1.0 / v), -B / left[:, None]


# --- max-value entropy search -----------------------------------------------------------------------------------------


class MaxValueEntropy:
    """log of the information that an observation at x has about the maximum, averaged over ``maxima``."""

    def __init__(self, gp: GaussianProcess, maxima: Float64[np.ndarray, " s"]) -> None:
        self._posterior = Anchored(gp, np.empty((0, gp.data.X.shape[1])))
        self._maxima, self._noise = maxima, gp.next_noise

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        seen = self._posterior(X)
        v, sd = seen.variance[:, None], np.sqrt(seen.variance)[:, None]
        gamma = (self._maxima - seen.mean[:, None]) / sd
        log_I, d_gamma, d_log_v = information(gamma, np.broadcast_to(v / (v + self._noise), gamma.shape))
        total = np.asarray(logsumexp(log_I, axis=1))
        share = np.exp(log_I - total[:, None])
        d_mean = -(share * d_gamma / sd).sum(1)
        d_variance = (share * (d_log_v - 0.5 * gamma * d_gamma) / v).sum(1)
        return total - math.log(len(self._maxima)), seen.pull(d_mean, d_variance, seen.covariance)


class LowerBoundMaxValueEntropy:
    """GIBBON: log of the positive part of a lower bound of the information that x adds to that of the pending points.

    The bound may be negative next to a pending point.
    """

    def __init__(self, gp: GaussianProcess, maxima: Float64[np.ndarray, " s"], pending: Batch) -> None:
        self._posterior = Anchored(gp, pending)
        self._maxima, self._noise = maxima, gp.next_noise
        self._repulsion = Repulsion(self._posterior.covariance, self._noise, gp.hyperparameters.signal)

    def bound(self, X: Batch) -> tuple[Values, Batch]:
        """The bound itself and its gradient at every row."""
        seen = self._posterior(X)
        v, sd = seen.variance[:, None], np.sqrt(seen.variance)[:, None]
        gamma = (self._maxima - seen.mean[:, None]) / sd
        quality, d_gamma, d_log_v = lower_bound(gamma, v / (v + self._noise))
        repulsion, d_variance, d_covariance = self._repulsion(seen.variance, seen.covariance)
        d_variance = d_variance + ((d_log_v - 0.5 * gamma * d_gamma) / v).mean(1)
        gradient = seen.pull(-(d_gamma / sd).mean(1), d_variance, d_covariance)
        return quality.mean(1) + repulsion, gradient

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        u, gradient = self.bound(X)
        value, slope = log_positive_part(u, SOFTNESS)
        return value, slope[:, None] * gradient


def entropy_search(s: Situation, *, samples: int) -> Acquisition:
    """Max-value entropy search over ``samples`` maxima of posterior draws; beside pending points its lower bound."""
    _, maxima = optima(s, samples)
    if len(s.pending):
        return LowerBoundMaxValueEntropy(s.gp, maxima, s.pending)
    return MaxValueEntropy(s.gp, maxima)


# --- joint and predictive entropy search ------------------------------------------------------------------------------


class JointEntropy:
    """log of the positive part of a lower bound of the information that y(x) adds about the optimum's place and value.

    Each sampled optimum conditions the model and truncates what is left at its value (Hvarfner, Hutter and Nardi 2022;
    the bound and its batch form: Tu, Gandy, Kantas and Shafei 2022).
    """

    def __init__(
        self, gp: GaussianProcess, places: Float64[np.ndarray, "s d"], maxima: Float64[np.ndarray, " s"], pending: Batch
    ) -> None:
        S = self._count = len(places)
        self._posterior = Anchored(gp, np.concatenate([places, pending]))
        covariance = self._posterior.covariance
        self._spread = np.maximum(np.diag(covariance)[:S], 0.0) + OPTIMUM_NOISE
        self._rise = maxima - self._posterior.mean[:S]
        self._maxima, self._noise = maxima, gp.next_noise
        self._repulsion = Repulsion(covariance[S:, S:], self._noise, gp.hyperparameters.signal)

    def bound(self, X: Batch) -> tuple[Values, Batch]:
        """The bound itself and its gradient at every row."""
        S, seen = self._count, self._posterior(X)
        C = seen.covariance[:, :S]
        before = seen.variance[:, None]
        v = np.maximum(before - C * C / self._spread, 1e-14)  # given the optimum
        mean = seen.mean[:, None] + C * (self._rise / self._spread)
        sd = np.sqrt(v)
        gamma = (self._maxima - mean) / sd
        truncated, d_gamma, d_log_v = lower_bound(gamma, v / (v + self._noise))
        value = 0.5 * np.log((before + self._noise) / (v + self._noise)) + truncated
        d_mean = -d_gamma / sd
        d_v = (d_log_v - 0.5 * gamma * d_gamma) / v - 0.5 / (v + self._noise)
        d_C = d_mean * (self._rise / self._spread) - 2.0 * d_v * C / self._spread
        d_before = d_v + 0.5 / (before + self._noise)
        repulsion, d_variance, d_pending = self._repulsion(seen.variance, seen.covariance[:, S:])
        d_covariance = np.concatenate([d_C / S, d_pending], axis=1)
        return value.mean(1) + repulsion, seen.pull(d_mean.mean(1), d_before.mean(1) + d_variance, d_covariance)

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        u, gradient = self.bound(X)
        value, slope = log_positive_part(u, SOFTNESS)
        return value, slope[:, None] * gradient


def joint_entropy_search(s: Situation, *, samples: int) -> Acquisition:
    """Information about the optimum's place and value, over ``samples`` optima of posterior draws."""
    places, maxima = optima(s, samples)
    return JointEntropy(s.gp, places, maxima, s.pending)


def predictive_entropy_search(s: Situation, *, samples: int) -> Acquisition:
    """Information about the optimum's place by expectation propagation (Hernandez-Lobato et al. 2014), from BoTorch.

    Raises FitError when the propagation fails.
    """
    import torch
    from botorch.acquisition.predictive_entropy_search import qPredictiveEntropySearch

    places, _ = optima(s, samples)
    try:
        information = qPredictiveEntropySearch(s.gp.to_botorch(), torch.from_numpy(places))
        if not len(s.pending):
            return from_botorch(information)
        pending = torch.from_numpy(s.pending)
        with torch.no_grad():
            known = information(pending[None])
    except numerical_failures() as error:
        raise FitError from error
    information.set_X_pending(pending)
    return from_botorch(lambda x: information(x) - known)


def optima(s: Situation, samples: int) -> tuple[Float64[np.ndarray, "s d"], Float64[np.ndarray, " s"]]:
    """Where posterior draws are largest over the space, and their values there.

    Under outcome constraints: where their rise above the base points, times the probability of feasibility, is.
    """
    rng = np.random.default_rng(s.seed)
    paths = Paths(s.gp, count=samples, features=FEATURES, rng=rng)
    near = s.base[np.argsort(-s.gp.posterior(s.base)[0])[:NEIGHBOURHOODS]]
    near = s.space.snap(near) if s.space.fixed else near
    nothing = Exclusion(np.empty((0, s.space.dimension)))
    floors = paths(s.base[s.attainable]).max(0)
    places = []
    for i, floor in enumerate(floors):
        draw = paths.along(i) if s.feasibility is None else Sum(rise(paths.along(i), float(floor)), s.feasibility)
        found = maximise(draw, s.space, rng, near, nothing)
        assert found is not None
        places.append(found.x)
    X = np.array(places)
    return X, np.diag(paths(X)).copy()
