"""Fitting: the most probable hyperparameters given the data, and what to do when numerics fail.

Maximum a posteriori, by L-BFGS-B over log hyperparameters with the closed-form gradient of the marginal likelihood
(Rasmussen and Williams 2006, eq. 5.9): one to two orders of magnitude faster than automatic differentiation at the
sizes that matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize

from . import warping
from .additive import POWERS, SHARES, Growth
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
from .plain_loss import PlainLoss
from .warping import Warp

LENGTHSCALE_BOUNDS = (1e-3, 1e3)
SIGNAL_BOUNDS = (1e-2, 1e2)
NOISE_BOUNDS = (NOISE_FLOOR, 1.0)
EVIDENCE = 2.0  # nats by which a richer model has to be more probable than a plainer one
LOG_TAU = np.linspace(-8.0, 4.0, 49)  # nodes for the global shrinkage of a sparse prior, about its scale
ENOUGH = 1e-6  # of the loss: what a last step of a fit may still gain
IDLE = 0.25  # nats, roughly, that a fit has to promise
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


Loss = Callable[[Float64[np.ndarray, " t"]], tuple[float, Float64[np.ndarray, " t"]]]


@dataclass(frozen=True)
class Fit:
    """Hyperparameters and their loss, the negative log posterior density up to a constant."""

    loss: float
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class Free:
    """Which hyperparameters are fitted, and in which order their logarithms come.

    Length scales and signal variance always are; then the noise variance, that of derivatives, and the shapes a and b
    of the ``warped`` columns, where these are.
    """

    noise: bool = False
    slope_noise: bool = False
    warped: tuple[int, ...] = ()

    def write(self, h: Hyperparameters) -> Float64[np.ndarray, " t"]:
        """The logarithms of the free hyperparameters; noise variances start from where they can still grow."""
        noise = [max(h.noise, 1e-4)] if self.noise else []
        slope_noise = [max(h.slope_noise, 1e-4)] if self.slope_noise else []
        shapes = [] if h.warp is None else [*h.warp.a[[*self.warped]], *h.warp.b[[*self.warped]]]
        return np.log([*h.lengthscales, h.signal, *noise, *slope_noise, *(shapes or [1.0] * 2 * len(self.warped))])

    def read(self, theta: Float64[np.ndarray, " t"], data: Data, fixed: Hyperparameters) -> Hyperparameters:
        """Hyperparameters from their logarithms; those that are not free come from ``fixed``."""
        g, values = data.group_count, np.exp(theta)
        h = replace(fixed, lengthscales=values[:g], signal=float(values[g]))
        if self.noise:
            h = replace(h, noise=float(values[g + 1]))
        if self.slope_noise:
            h = replace(h, slope_noise=float(values[g + 1 + self.noise]))
        if self.warped:
            a, b = np.ones((2, len(data.groups)))
            a[[*self.warped]], b[[*self.warped]] = np.split(values[-2 * len(self.warped) :], 2)
            h = replace(h, warp=Warp(a, b))
        return h

    def bounds(self, groups: int) -> list[tuple[float, float]]:
        """Of the logarithms."""
        noises = [NOISE_BOUNDS] * (self.noise + self.slope_noise)
        shapes = [warping.BOUNDS] * (2 * len(self.warped))
        return [_log(b) for b in [LENGTHSCALE_BOUNDS] * groups + [SIGNAL_BOUNDS] + noises + shapes]

    def negative_log_prior(
        self, theta: Float64[np.ndarray, " t"], groups: int, prior: Prior
    ) -> tuple[float, Float64[np.ndarray, " t"]]:
        """The negative log density (up to a constant), and its gradient."""
        plain, shapes = groups + 1 + self.noise, len(theta) - 2 * len(self.warped)
        grad = np.empty_like(theta)
        value, grad[:plain] = prior.negative_log(theta[:plain], groups)
        if self.slope_noise:  # the same as of the values' noise
            slope_noise = math.exp(theta[plain])
            value += prior.noise_rate * slope_noise - (prior.noise_shape - 1.0) * float(theta[plain])
            grad[plain] = prior.noise_rate * slope_noise - (prior.noise_shape - 1.0)
        of_shapes, grad[shapes:] = warping.negative_log_prior(theta[shapes:])
        return value + of_shapes, grad


def fit(data: Data, prior: Prior, *, noise: float | None, starts: Sequence[Hyperparameters] | None = None) -> Fit:
    """The most probable hyperparameters; ``noise`` None infers the noise variance, a number fixes it.

    Noise is inferred only where the data speak for it: a noiseless model is kept unless noise raises the log density by
    more than EVIDENCE. Few results of a rough function look noisy otherwise. The same holds for the noise of
    derivatives, which is never known.

    Raises FitError when no start leads to a positive definite covariance.
    """
    given = starts
    starts = prior.starts(data.group_count, len(data.targets)) if starts is None else starts
    starts = [replace(s, warp=None) for s in starts]
    least = NOISE_FLOOR if noise is None else noise
    free = Free(noise is None and not data.noise_is_known, data.gradients is not None)
    if prior.sparse and given is None:  # its density has many optima: it begins where a dense prior leads, too
        starts = [_fit(data, replace(prior, sparse=False), free, starts, least).hyperparameters, starts[0]]
    if free == Free():
        return _fit(data, prior, free, starts, least)
    noisy = _fit(data, prior, free, starts, least)
    try:
        exact = _fit(data, prior, Free(), starts, least)
    except FitError:
        return noisy
    return exact if exact.loss - noisy.loss < EVIDENCE else noisy


def fit_warped(data: Data, prior: Prior, plain: Fit, columns: Sequence[int]) -> Fit:
    """The fit with learned changes of these columns' axes, from a ``plain`` one; that one unless EVIDENCE is for it."""
    h = plain.hyperparameters
    free = replace(_free(data, h), warped=tuple(columns))
    try:
        warped = _fit(data, prior, free, [h], h.noise)
    except FitError:
        return plain
    return warped if plain.loss - warped.loss > EVIDENCE else plain


def fit_additive(
    data: Data, prior: Prior, plain: Fit, apart: tuple[bool, ...], target: tuple[float, ...] | None = None
) -> Fit:
    """The fit in which the columns ``apart`` have an effect of their own (`AdditiveKernel`), starting from ``plain``.

    The more probable of the two: which columns are fidelities is known, so that neither has to be argued for. With a
    ``target`` in the cube, also one in which designs differ the less the farther from it (`Growth`), where results
    speak for that by EVIDENCE.
    """
    h, free, best = plain.hyperparameters, _free(data, plain.hyperparameters), plain
    for shares in SHARES:
        found = _fit_or_none(data, prior, free, replace(h, apart=apart, shares=shares))
        best = found if found is not None and found.loss < best.loss else best
    if target is None or data.gradients is not None:
        return best
    grown, start = (
        best,
        replace(best.hyperparameters, apart=apart, shares=best.hyperparameters.shares or (0.0, 0.0, 1.0)),
    )
    for power in POWERS:
        found = _fit_or_none(data, prior, free, replace(start, growth=Growth(target, power)))
        grown = found if found is not None and found.loss < grown.loss else grown
    return grown if best.loss - grown.loss > EVIDENCE else best


def _fit_or_none(data: Data, prior: Prior, free: Free, start: Hyperparameters) -> Fit | None:
    try:
        return _fit(data, prior, free, [start], start.noise)
    except FitError:
        return None


def refine(data: Data, prior: Prior, start: Hyperparameters) -> Fit:
    """The nearest optimum to hyperparameters found on part of the data; whether there is noise is settled.

    They stay what they are where the slope of the loss says that others would hardly be more probable.
    """
    free = _free(data, start)
    fixed = replace(start, mean=0.0)
    loss, slope = _loss(data, prior, free, fixed)(free.write(start))
    if float(slope @ slope) < IDLE * len(data.targets):  # the curvature grows with the results: about n / 2
        return Fit(loss, fixed)
    return _fit(data, prior, free, [start], start.noise)


def _free(data: Data, h: Hyperparameters) -> Free:
    """What was fitted to get these hyperparameters."""
    warped = () if h.warp is None else tuple(int(c) for c in np.flatnonzero((h.warp.a != 1.0) | (h.warp.b != 1.0)))
    return Free(
        h.noise > NOISE_FLOOR and not data.noise_is_known,
        h.slope_noise > NOISE_FLOOR and data.gradients is not None,
        warped,
    )


def _fit(data: Data, prior: Prior, free: Free, starts: Sequence[Hyperparameters], noise: float) -> Fit:
    best: Fit | None = None
    bounds = free.bounds(data.group_count)
    for start in starts:
        fixed = replace(start, noise=noise, slope_noise=NOISE_FLOOR, mean=0.0)
        loss, theta = _loss(data, prior, free, fixed), free.write(start)
        found = minimize(loss, theta, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": ENOUGH})
        if np.isfinite(found.fun) and (best is None or found.fun < best.loss):
            best = Fit(float(found.fun), free.read(found.x, data, fixed))
    if best is None:
        raise FitError
    return best


def _loss(data: Data, prior: Prior, free: Free, fixed: Hyperparameters) -> Loss:
    """The negative log posterior density as a function of what is free."""
    special = free.warped or free.slope_noise or fixed.warp is not None or fixed.shares is not None
    if not special and PlainLoss.suits(data):
        return PlainLoss(data, prior.negative_log, infer=free.noise, noise=fixed.noise)
    return lambda theta: negative_log_posterior(theta, data, prior, free, fixed)


def _log_cosh(u: np.ndarray) -> np.ndarray:
    a = np.abs(u)
    return a + np.log1p(np.exp(-2.0 * a)) - math.log(2.0)


def _log(bounds: tuple[float, float]) -> tuple[float, float]:
    return math.log(bounds[0]), math.log(bounds[1])


def negative_log_posterior(
    theta: Float64[np.ndarray, " t"], data: Data, prior: Prior, free: Free, fixed: Hyperparameters
) -> tuple[float, Float64[np.ndarray, " t"]]:
    """Negative log marginal likelihood plus prior at log hyperparameters, and its gradient.

    The constant mean has a normal prior and is at its maximum a posteriori value for every theta, so the gradient with
    respect to theta needs no term for it (envelope theorem).
    """
    h, g = free.read(theta, data, fixed), data.group_count
    sites = data.sites(h.kernel(data.groups))
    among = sites.among()
    noise = data.noise(h)
    K = among.K.copy()
    K[np.diag_indices(len(K))] += noise
    L, info = potrf(K, lower=1)
    if info != 0:
        return math.inf, np.zeros_like(theta)
    value, grad = free.negative_log_prior(theta, g, prior)
    m, alpha = mean_and_weights(L, data.targets, sites.basis)
    residual = data.targets - m * sites.basis
    value += 0.5 * float(residual @ alpha) + float(np.log(np.diag(L)).sum()) + 0.5 * m * m / MEAN_PRIOR_VARIANCE
    W, _ = potri(L, lower=1)  # the lower half of K^-1; the upper half is zero
    W = W + W.T
    W[np.diag_indices(len(W))] *= 0.5
    W -= np.outer(alpha, alpha)
    d_scaled, d_log_J = among.pull(W)
    per_column = (d_scaled * sites.scaled + d_log_J).sum(0)
    grad[:g] -= np.bincount(data.groups, weights=per_column, minlength=g)
    grad[g] += 0.5 * float((W * among.K).sum())
    by_noise = 0.5 * np.diag(W)
    n = len(data.y)
    if free.noise:
        grad[g + 1] += h.noise * float(by_noise[:n][np.isnan(data.known_noise)].sum())
    if free.slope_noise:
        grad[g + 1 + free.noise] += float((by_noise * noise)[n:].sum())
    if h.warp is not None and free.warped:
        shapes = h.warp.pull(data.X, d_scaled * sites.kernel.inverse_lengthscales, d_log_J)
        grad[-2 * len(free.warped) :] += np.concatenate([d[[*free.warped]] for d in shapes])
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
