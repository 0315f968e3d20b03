"""What one more trial is worth: acquisition functions of a posterior, as logarithms with closed-form gradients.

`NoisyExpectedImprovement` is the expected improvement over the best of the noiseless values, integrated over what those
values may be (Letham, Karrer, Ottoni and Bakshy 2019, eq. 4): the values at observed and pending points are drawn from
the posterior, and given each draw the improvement at x has a closed form. With exact observations and nothing pending
there is one draw and it is the analytic expected improvement (Jones, Schonlau and Welch 1998). Logarithms are computed
as in Ament, Daulton, Eriksson, Balandat and Bakshy 2023 (eq. 9), so that they never underflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import erfcx, expit, log_ndtr, ndtr, ndtri
from scipy.stats import qmc

from .kernel import VALUE, Sites
from .models import JITTERS, FitError, GaussianProcess, half_solve, potrf
from .space import Space
from .target import Target

Batch = Float64[np.ndarray, "m d"]
Values = Float64[np.ndarray, " m"]
Acquisition = Callable[[Batch], tuple[Values, Batch]]  # log value and its gradient at every row


def values_of(acquisition: Acquisition, X: Batch) -> Values:
    """The log values without gradients: by a method ``values`` where an acquisition has one, which takes less."""
    alone = getattr(acquisition, "values", None)
    return acquisition(X)[0] if alone is None else np.asarray(alone(X))


@dataclass(frozen=True)
class Situation:
    """What an acquisition is built from. Everything is in the cube and in standardised y, larger being better.

    ``base`` are the distinct observed and pending rows, ``attainable`` says which of them count as incumbents (with
    outcome constraints: the feasible ones), ``pending`` are the rows of running trials. ``cost`` is the log of the
    expected cost where trials have one, ``feasibility`` log P(feasible) where there are constraints. ``moved``: base
    points were moved to where the choice is made (``space.fixed``) and not measured there, so even with exact
    measurements their values have to be averaged over. ``target``: where the value of a row counts, when that is not at
    the row itself.
    """

    gp: GaussianProcess
    base: Float64[np.ndarray, "b d"]
    attainable: Bool[np.ndarray, " b"]
    pending: Float64[np.ndarray, "p d"]
    noisy: bool
    space: Space
    seed: int
    cost: Acquisition | None = None
    feasibility: Acquisition | None = None
    moved: bool = False
    target: Target | None = None

    @property
    def known(self) -> bool:
        """Whether the values at all base points are known, as far as measurements are exact."""
        return not (len(self.pending) or self.moved)


DRAWS = 64  # quasi-random draws of the noiseless values
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
ROOT_2, ROOT_HALF_PI = math.sqrt(2.0), math.sqrt(0.5 * math.pi)


def log_h(z: np.ndarray) -> np.ndarray:
    """log(phi(z) + z Phi(z)), accurate for every z."""
    high = z > -1.0
    if not high.any():
        return _log_h_low(z)
    out = np.empty_like(z)
    zh = z[high]
    out[high] = np.log(np.exp(-0.5 * zh * zh - LOG_SQRT_2PI) + zh * ndtr(zh))
    out[~high] = _log_h_low(z[~high])
    return out


def _log_h_low(z: np.ndarray) -> np.ndarray:
    """The same for z <= -1: phi(z) (1 - |z| Q(z)/phi(z)); beyond 1e4 the difference is 1/z^2 to double precision."""
    ratio = 1.0 + z * (ROOT_HALF_PI * erfcx(-z / ROOT_2))
    far = z < -1e4
    if far.any():
        ratio = np.where(far, 1.0 / (z * z), ratio)
    return -0.5 * z * z - LOG_SQRT_2PI + np.log(ratio)


def normal_draws(dimension: int, draws: int, seed: int) -> Float64[np.ndarray, "b s"]:
    """Quasi-random standard normal vectors as columns (plain random ones beyond the Sobol sequence's dimensions)."""
    if dimension > qmc.Sobol.MAXDIM:
        return np.random.default_rng(seed).standard_normal((dimension, draws))
    u = qmc.Sobol(dimension, rng=seed).random(draws)
    return ndtri(u * (1 - 2e-9) + 1e-9).T


class Draws:
    """A process whose values at ``base`` were drawn from its posterior: ``values`` (b, s), one column per draw.

    ``normals`` are independent standard normal vectors, one column per draw; None where the values are known (exact
    observations, nothing pending): then they are the posterior's means. Derivatives that were observed add to what the
    values tell, with their noise. Raises FitError when the base covariance is not positive definite.
    """

    def __init__(
        self, gp: GaussianProcess, base: Float64[np.ndarray, "b d"], normals: Float64[np.ndarray, "b s"] | None
    ) -> None:
        self._kernel, self._mean = gp.kernel, gp.hyperparameters.mean
        self._sites, known, noise = _values_and_slopes(gp, base)
        if normals is None:
            self.values = gp.posterior_mean(base)[:, None]
        else:
            mean, covariance = gp.joint(base)
            self.values = mean[:, None] + root(covariance, gp.hyperparameters.signal) @ normals
        self._L = root(self._sites.covariance() + np.diag(noise), self._sites.variance)
        targets = np.concatenate([self.values, np.repeat(known[:, None], self.values.shape[1], axis=1)])
        half = half_solve(self._L, targets - self._mean * self._sites.basis[:, None])
        self._A = half_solve(self._L, half, transposed=True)  # (t, s)

    def at(self, X: Batch) -> Drawn:
        """Every draw's posterior at the rows of X."""
        cross = self._sites.cross(X)
        prior = self._kernel.variance(X)
        half = half_solve(self._L, cross.k.T)  # (t, m)
        sd: np.ndarray = np.sqrt(np.maximum(prior - (half * half).sum(0), 1e-14 * prior))

        def pull(d_mean: np.ndarray, d_sd: np.ndarray) -> Batch:
            inverse_k = half_solve(self._L, half, transposed=True).T  # (m, t)
            by_k = d_mean @ self._A.T - (d_sd / sd)[:, None] * inverse_k
            return cross.pull(by_k) + self._kernel.pull_variance(0.5 * d_sd / sd, X)

        return Drawn(self._mean + cross.k @ self._A, sd, pull)


@dataclass(frozen=True)
class Drawn:
    """Means (m, s) given each draw, the standard deviation they share (m), and derivatives in both pulled to rows."""

    mean: Float64[np.ndarray, "m s"]
    sd: Values
    pull: Callable[[np.ndarray, np.ndarray], Batch]


class NoisyExpectedImprovement:
    """log E[(f(x) - max_i f(b_i))+] over the base points b (observed and pending), larger f being better.

    ``incumbents`` says which base points count as attainable; ``draws`` is 1 for exact observations without pending
    points, where the values are known. Raises FitError when the base covariance is not positive definite.
    """

    def __init__(
        self,
        gp: GaussianProcess,
        base: Float64[np.ndarray, "b d"],
        incumbents: np.ndarray,
        *,
        draws: int,
        seed: int,
    ) -> None:
        self._draws = Draws(gp, base, normal_draws(len(base), draws, seed) if draws > 1 else None)
        self.best = self._draws.values[incumbents].max(0)  # (draws,)

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        """The logarithm, and its gradient, at every row of X."""
        drawn = self._draws.at(X)
        value, d_mean, d_sd = self._log_mean(drawn.mean - self.best, drawn.sd)
        return value, drawn.pull(d_mean, d_sd)

    def values(self, X: Batch) -> Values:
        """The logarithm alone."""
        drawn = self._draws.at(X)
        lh = log_h((drawn.mean - self.best) / drawn.sd[:, None])
        return np.log(drawn.sd) + _log_sum(lh) - math.log(lh.shape[1])

    def _log_mean(self, rise: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The log of the average over the draws, and its derivatives in each draw's mean (m, draws) and in sd (m,)."""
        z = rise / sd[:, None]
        lh = log_h(z)
        total = _log_sum(lh)
        value = np.log(sd) + total - math.log(lh.shape[1])
        # d log h / d mu = Phi / (h sd); the weights are the draws' shares of the sum
        shares = np.exp(lh - total[:, None])
        d_mu = shares * np.exp(log_ndtr(z) - lh) / sd[:, None]
        d_sd = (shares * np.exp(-0.5 * z * z - LOG_SQRT_2PI - lh)).sum(1) / sd  # d log / d sd of h(z) sd, in full
        return value, d_mu, d_sd


def _log_sum(log: Float64[np.ndarray, "m s"]) -> Values:
    """log sum exp of every row (SciPy's takes as long as all the rest)."""
    if log.shape[1] == 1:
        return log[:, 0]
    top = log.max(1)
    return top + np.log(np.exp(log - top[:, None]).sum(1))


def expected_improvement(s: Situation) -> Acquisition:
    """The analytic expected improvement; pending trials are averaged over."""
    draws = 1 if s.known else DRAWS
    return NoisyExpectedImprovement(s.gp, s.base, s.attainable, draws=draws, seed=s.seed)


def noisy_expected_improvement(s: Situation) -> Acquisition:
    """Expected improvement over the noiseless incumbent, averaged over the noiseless values."""
    return NoisyExpectedImprovement(s.gp, s.base, s.attainable, draws=DRAWS, seed=s.seed)


class LogFeasibility:
    """log P(every constraint holds) at x, from one model per constraint, feasible above its ``bound``."""

    def __init__(self, models: list[tuple[GaussianProcess, float]]) -> None:
        self._models = models

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        value, gradient = np.zeros(len(X)), np.zeros_like(X)
        for gp, bound in self._models:
            mean, sd, d_mean, d_sd = posterior_with_gradient(gp, X)
            z = (mean - bound) / sd
            value += log_ndtr(z)
            ratio = np.exp(-0.5 * z * z - LOG_SQRT_2PI - log_ndtr(z))
            gradient += (ratio / sd)[:, None] * (d_mean - z[:, None] * d_sd)
        return value, gradient

    def values(self, X: Batch) -> Values:
        total = np.zeros(len(X))
        for gp, bound in self._models:
            mean, sd = gp.posterior(X)
            total += log_ndtr((mean - bound) / sd)
        return total


class Sum:
    """The product of acquisitions, as a sum of logarithms."""

    def __init__(self, *parts: Acquisition) -> None:
        self._parts = parts

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        pieces = [part(X) for part in self._parts]
        return sum(p[0] for p in pieces), sum(p[1] for p in pieces)  # type: ignore[return-value]

    def values(self, X: Batch) -> Values:
        return np.sum([values_of(part, X) for part in self._parts], axis=0)


def log_positive_part(u: Values, softness: float) -> tuple[Values, Values]:
    """log of a smooth u+, and its derivative: log u far above ``softness``, falling like u / softness below zero.

    For acquisitions that may be negative: the order stays, and the log of a probability can be added.
    """
    z = u / softness
    far = z < -30.0
    softplus = np.logaddexp(0.0, np.where(far, 0.0, z))
    value = np.where(far, z, np.log(softplus)) + math.log(softness)
    return value, np.where(far, 1.0, expit(z) / softplus) / softness


def posterior_with_gradient(gp: GaussianProcess, X: Batch) -> tuple[Values, Values, Batch, Batch]:
    """Mean and standard deviation at every row and their gradients."""
    cross = gp.sites.cross(X)
    prior = gp.kernel.variance(X)
    half = gp.half_solve(cross.k.T)
    sd = np.sqrt(np.maximum(prior - (half * half).sum(0), 1e-14 * prior))
    d_mean = cross.pull(np.broadcast_to(gp.alpha, cross.k.shape))
    d_sd = cross.pull(-gp.solve(half).T / sd[:, None]) + gp.kernel.pull_variance(0.5 / sd, X)
    return gp.hyperparameters.mean + cross.k @ gp.alpha, sd, d_mean, d_sd


def _values_and_slopes(
    gp: GaussianProcess, base: Float64[np.ndarray, "b d"]
) -> tuple[Sites, Float64[np.ndarray, " p"], Float64[np.ndarray, " t"]]:
    """The values at ``base`` and then the derivatives observed anywhere, as sites; those derivatives; the noise in all.

    Given the values, what was observed of them tells nothing more.
    """
    g, b = gp.data.gradients, len(base)
    if g is None:
        return gp.kernel.sites(base), np.empty(0), np.zeros(b)
    row = np.concatenate([np.arange(b), b + g.row])
    sites = gp.kernel.sites(np.concatenate([base, gp.data.X]), row, np.concatenate([np.full(b, VALUE), g.column]))
    return sites, g.values, np.concatenate([np.zeros(b), gp.noise[len(gp.data.y) :]])


def root(covariance: np.ndarray, scale: float | Values) -> np.ndarray:
    """A lower Cholesky factor, with the smallest jitter that gives one, relative to ``scale``."""
    for jitter in (1e-11, *JITTERS[1:]):
        L, info = potrf(covariance + np.diag(np.full(len(covariance), jitter * scale)), lower=1)
        if info == 0:
            return np.asarray(L)
    raise FitError
