r"""A Gaussian process that knows earlier studies: their functions, weighted by how much they turn out to tell.

The new function is f(x) = sum_j w_j f_j(x) + delta(x), with f_j distributed as the earlier study j believes, w_j of
mean 0 and variance s_j, and delta a Gaussian process. Its covariance before any result is

    k(x, x') = k_delta(x, x') + sum_j s_j E[f_j(x) f_j(x')],    E[f_j(x) f_j(x')] = m_j(x) m_j(x') + Sigma_j(x, x'),

with the posterior mean m_j and covariance Sigma_j of study j: the autoregressive model of Kennedy and O'Hagan 2000 with
the weight integrated out. So units, offsets and even the sign of an earlier objective do not matter, an earlier study
says nothing where it never looked, and what it costs does not grow with the new study. The s_j are fitted with the
other hyperparameters; an earlier study without which the results are more probable is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import minimize

from .fitting import EVIDENCE, LENGTHSCALE_BOUNDS, NOISE_BOUNDS, SIGNAL_BOUNDS, SUBSET, Fit, Prior
from .kernel import Cross, Kernel, Sites
from .metric_model import HEADROOMS, NOISY_FROM, MetricModel, choose_headroom, logarithmic, milestone_of
from .models import (
    MEAN_PRIOR_VARIANCE,
    NOISE_FLOOR,
    Data,
    FitError,
    GaussianProcess,
    Hyperparameters,
    mean_and_weights,
    potrf,
    potri,
)
from .objective import Scale
from .results import Results
from .transfer import Belief

Rows = Float64[np.ndarray, "m d"]
Covariances = Float64[np.ndarray, "m t"]
Theta = Float64[np.ndarray, " p"]

SHARE_SCALE = 1.5  # of the log-normal prior of every s_j, around 1
SHARE_BOUNDS = (1e-4, 1e2)
MOST = 1000  # results beyond which a study has no need of earlier ones


class Recalled:
    """E[f_j(x) f_j(z)] for one earlier study j: rows x that move, fixed rows z."""

    def __init__(self, belief: Belief, Z: Float64[np.ndarray, "t d"]) -> None:
        gp = belief.gp
        rows = belief.rows(Z)
        k = gp.sites.cross(rows).k  # (t, n)
        self._belief, self._there = belief, gp.kernel.sites(rows)
        self._m = gp.hyperparameters.mean + k @ gp.alpha
        self._B = np.outer(gp.alpha, self._m) - gp.solve(gp.half_solve(k.T))  # (n, t)

    def cross(self, X: Rows) -> tuple[Covariances, Callable[[Covariances], Rows]]:
        """The values for every row of X, and what gives the gradient of (weights * values).sum() in every row."""
        belief = self._belief
        rows = belief.rows(X)
        known, there = belief.gp.sites.cross(rows), self._there.cross(rows)

        def pull(weights: Covariances) -> Rows:
            return belief.pull(known.pull(weights @ self._B.T) + there.pull(weights), X)

        return there.k + known.k @ self._B + belief.gp.hyperparameters.mean * self._m, pull


@dataclass(frozen=True)
class InformedKernel(Kernel):
    """The covariance of delta and of what is recalled of earlier studies, ``shares[j]`` times as much of each."""

    beliefs: tuple[Belief, ...] = ()
    shares: tuple[float, ...] = ()

    def covariance(self, A: Float64[np.ndarray, "n d"], B: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        K = super().covariance(A, B)
        for share, belief in zip(self.shares, self.beliefs, strict=True):
            K = K + share * Recalled(belief, B).cross(A)[0]
        return K

    def variance(self, X: Rows) -> Float64[np.ndarray, " m"]:
        total = super().variance(X)
        for share, belief in zip(self.shares, self.beliefs, strict=True):
            mean, sd = belief.gp.posterior(belief.rows(X))
            total = total + share * (mean**2 + sd**2)
        return total

    def pull_variance(self, weights: Float64[np.ndarray, " m"], X: Rows) -> Rows:
        total = super().pull_variance(weights, X)
        for share, belief in zip(self.shares, self.beliefs, strict=True):
            gp = belief.gp
            cross = gp.sites.cross(belief.rows(X))
            mean = gp.hyperparameters.mean + cross.k @ gp.alpha
            by_k = mean[:, None] * gp.alpha - gp.solve(gp.half_solve(cross.k.T)).T
            total = total + belief.pull(cross.pull(2.0 * share * weights[:, None] * by_k), X)
        return total

    def sites(
        self,
        X: Float64[np.ndarray, "n d"],
        row: Int64[np.ndarray, " t"] | None = None,
        column: Int64[np.ndarray, " t"] | None = None,
    ) -> Sites:
        assert row is None, "derivatives are refused beside earlier studies"
        return InformedSites(self, X)


class InformedSites(Sites):
    """Values at fixed rows of a process with an `InformedKernel`."""

    kernel: InformedKernel

    def __init__(self, kernel: InformedKernel, X: Float64[np.ndarray, "n d"]) -> None:
        super().__init__(kernel, X)
        self.recalled = [Recalled(belief, X) for belief in kernel.beliefs]

    @property
    def variance(self) -> Float64[np.ndarray, " t"]:
        return self.kernel.variance(self.X)

    def covariance(self) -> Float64[np.ndarray, "t t"]:
        K = Kernel.covariance(self.kernel, self.X, self.X)
        for share, recalled in zip(self.kernel.shares, self.recalled, strict=True):
            K = K + share * recalled.cross(self.X)[0]
        K = 0.5 * (K + K.T)
        K[np.diag_indices(len(K))] = self.variance
        return K

    def cross(self, X: Rows) -> InformedCross:
        return InformedCross(self, X)

    def beside(self, X: Float64[np.ndarray, "n d"], column: Int64[np.ndarray, " c"] | None = None) -> InformedSites:
        assert column is None, "derivatives are refused beside earlier studies"
        return InformedSites(self.kernel, np.concatenate([self.X, X]))


class InformedCross(Cross):
    """Like `Cross`, beside what is recalled of earlier studies."""

    def __init__(self, sites: InformedSites, X: Rows) -> None:
        super().__init__(sites, X)
        self._shares, self._parts = sites.kernel.shares, [recalled.cross(X) for recalled in sites.recalled]
        for share, (values, _) in zip(self._shares, self._parts, strict=True):
            self.k = self.k + share * values

    def pull(self, weights: Covariances) -> Rows:
        total = super().pull(weights)
        for share, (_, pull) in zip(self._shares, self._parts, strict=True):
            total = total + pull(share * weights)
        return total


@dataclass(frozen=True)
class InformedHyperparameters(Hyperparameters):
    """Hyperparameters of delta, and the variance s_j of every earlier study's weight."""

    beliefs: tuple[Belief, ...] = ()
    weights: tuple[float, ...] = ()

    def kernel(self, groups: Int64[np.ndarray, " d"]) -> Kernel:
        return InformedKernel(self.signal, (1.0 / self.lengthscales)[groups], None, self.beliefs, self.weights)


# --- fitting ----------------------------------------------------------------------------------------------------------


def fit_informed(
    data: Data, prior: Prior, beliefs: tuple[Belief, ...], starts: Sequence[InformedHyperparameters] | None = None
) -> Fit:
    """The most probable hyperparameters beside earlier studies; noise is inferred where EVIDENCE is for it.

    Raises FitError when no start leads to a positive definite covariance.
    """
    Q = [Recalled(b, data.X).cross(data.X)[0] for b in beliefs]
    if starts is None:
        g, root = data.group_count, math.sqrt(data.group_count)
        trusting = InformedHyperparameters(np.full(g, 0.5 * root), 0.3, 1e-3, beliefs=beliefs, weights=(0.5,) * len(Q))
        doubting = replace(trusting, lengthscales=np.full(g, 0.3 * root), signal=1.0, weights=(0.05,) * len(Q))
        starts = [trusting, doubting]
    if data.noise_is_known:
        return _fit(data, prior, Q, starts, infer=False)
    noisy = _fit(data, prior, Q, starts, infer=True)
    try:
        exact = _fit(data, prior, Q, starts, infer=False)
    except FitError:
        return noisy
    return exact if exact.loss - noisy.loss < EVIDENCE else noisy


def _fit(
    data: Data, prior: Prior, Q: list[np.ndarray], starts: Sequence[InformedHyperparameters], *, infer: bool
) -> Fit:
    g = data.group_count
    bounds = [LENGTHSCALE_BOUNDS] * g + [SIGNAL_BOUNDS] + [NOISE_BOUNDS] * infer + [SHARE_BOUNDS] * len(Q)
    best: Fit | None = None
    for start in starts:
        noise = [max(start.noise, 1e-4)] * infer
        theta = np.log([*start.lengthscales, start.signal, *noise, *start.weights])
        found = minimize(
            negative_log_posterior,
            theta,
            args=(data, prior, Q, infer),
            jac=True,
            method="L-BFGS-B",
            bounds=[(math.log(low), math.log(high)) for low, high in bounds],
        )
        if np.isfinite(found.fun) and (best is None or found.fun < best.loss):
            x = np.exp(found.x)
            noise_found = float(x[g + 1]) if infer else NOISE_FLOOR
            weights = tuple(float(s) for s in x[len(x) - len(Q) :])
            h = replace(start, lengthscales=x[:g], signal=float(x[g]), noise=noise_found, weights=weights)
            best = Fit(float(found.fun), h)
    if best is None:
        raise FitError
    return best


def negative_log_posterior(
    theta: Theta, data: Data, prior: Prior, Q: list[np.ndarray], infer: bool
) -> tuple[float, Theta]:
    """Negative log marginal likelihood plus prior at (log lengthscales, signal[, noise], shares), and its gradient.

    ``Q`` are the matrices E[f_j(x) f_j(x')] of the data's rows.
    """
    g, plain, n = data.group_count, data.group_count + 1 + infer, len(data.y)
    values = np.exp(theta)
    sites = Kernel(float(values[g]), (1.0 / values[:g])[data.groups]).sites(data.X)
    among, shares = sites.among(), values[plain:]
    K = among.K + sum(s * q for s, q in zip(shares, Q, strict=True))
    K[np.diag_indices(n)] += data.diagonal(float(values[g + 1]) if infer else NOISE_FLOOR)
    L, info = potrf(K, lower=1)
    if info != 0:
        return math.inf, np.zeros_like(theta)
    grad = np.empty_like(theta)
    value, grad[:plain] = prior.negative_log(theta[:plain], g)
    z = theta[plain:] / SHARE_SCALE
    value, grad[plain:] = value + 0.5 * float(z @ z), z / SHARE_SCALE
    m, alpha = mean_and_weights(L, data.y, np.ones(n))
    value += 0.5 * float((data.y - m) @ alpha) + float(np.log(np.diag(L)).sum()) + 0.5 * m * m / MEAN_PRIOR_VARIANCE
    W, _ = potri(L, lower=1)  # the lower half of K^-1; the upper half is zero
    W = W + W.T
    W[np.diag_indices(n)] *= 0.5
    W -= np.outer(alpha, alpha)
    d_scaled, _ = among.pull(W)
    grad[:g] -= np.bincount(data.groups, weights=(d_scaled * sites.scaled).sum(0), minlength=g)
    grad[g] += 0.5 * float((W * among.K).sum())
    if infer:
        grad[g + 1] += 0.5 * float(values[g + 1]) * float(np.diag(W)[np.isnan(data.known_noise)].sum())
    for j, (share, q) in enumerate(zip(shares, Q, strict=True)):
        grad[plain + j] += 0.5 * share * float((W * q).sum())
    return value, grad


# --- which earlier studies count --------------------------------------------------------------------------------------


def inform(
    plain: MetricModel, results: Results, sign: float, prior: Prior, beliefs: tuple[Belief, ...], *, linear: bool
) -> MetricModel:
    """The model of all results beside what earlier studies believe; the ``plain`` one where none of them helps.

    What is expensive is decided at milestones, as without earlier studies.
    """
    n = len(results)
    if not beliefs or n > MOST:
        return plain
    headroom, h, edge = _decide(results.first(milestone_of(n)), sign, prior, beliefs, linear)
    if h is None:
        return replace(plain, earlier=tuple((b.name, 0.0) for b in beliefs), edge=edge)
    scale = logarithmic(results.values, sign, headroom) or Scale.of(results.values, sign)
    data = results.on(scale)
    try:
        if milestone_of(n) < n <= SUBSET:
            h = _refined(data, prior, h)
        gp = GaussianProcess(data, h)
    except FitError:
        return plain
    noisy = bool((data.diagonal(gp.hyperparameters.noise) > NOISY_FROM).any())
    return MetricModel(gp, scale, noisy, results.trials, earlier=_explained(gp, beliefs), edge=edge)


@lru_cache(maxsize=256)  # between milestones the same question comes with every trial
def _decide(
    results: Results, sign: float, prior: Prior, beliefs: tuple[Belief, ...], linear: bool
) -> tuple[float | None, InformedHyperparameters | None, float]:
    """The headroom of a logarithmic scale (None: linear), the hyperparameters (None: no earlier study helps), the edge.

    The edge is by how many nats the results are more probable with the earlier studies than without.
    """
    part = results.part(sign, SUBSET)
    best: tuple[float, float | None, Fit] | None = None
    starts: list[InformedHyperparameters] | None = None
    for headroom in (None,) if linear else (None, *HEADROOMS):
        scale = Scale.of(results.values, sign) if headroom is None else logarithmic(results.values, sign, headroom)
        if scale is None:
            continue
        try:
            found = fit_informed(part.on(scale), prior, beliefs, starts)
        except FitError:
            continue
        starts = starts or [_informed(found)]
        loss = _in_unit(found, part, scale)
        if best is None or loss < best[0]:
            best = loss, headroom, found
    if best is None:
        return None, None, -math.inf
    loss, headroom, found = best
    scale = logarithmic(results.values, sign, headroom) or Scale.of(results.values, sign)
    found = _without_idle(part.on(scale), prior, found)
    alone, fitted = choose_headroom(results, sign, prior, linear=linear)
    if fitted is not None:
        plain = _in_unit(fitted, part, logarithmic(results.values, sign, alone) or Scale.of(results.values, sign))
        edge = plain - _in_unit(found, part, scale)
    else:
        edge = math.inf
    return headroom, _informed(found) if edge > 0.0 else None, edge


def _informed(found: Fit) -> InformedHyperparameters:
    assert isinstance(found.hyperparameters, InformedHyperparameters)
    return found.hyperparameters


def _in_unit(found: Fit, part: Results, scale: Scale) -> float:
    """The loss in the metric's own unit; a logarithmic scale has to be more probable by EVIDENCE."""
    return found.loss - part.log_jacobian(scale) + (0.0 if scale.limit is None else EVIDENCE)


def _without_idle(data: Data, prior: Prior, found: Fit) -> Fit:
    """The fit without those earlier studies that make the results less probable, one after the other."""
    while True:
        several = _informed(found).beliefs
        rests = [several[:i] + several[i + 1 :] for i in range(len(several))]
        fits = [fit_informed(data, prior, rest) for rest in rests if rest]
        better = [f for f in fits if f.loss < found.loss]
        if not better:
            return found
        found = min(better, key=lambda f: f.loss)


def _refined(data: Data, prior: Prior, start: InformedHyperparameters) -> InformedHyperparameters:
    """The nearest optimum on all rows; which studies count and whether there is noise is settled."""
    Q = [Recalled(b, data.X).cross(data.X)[0] for b in start.beliefs]
    infer = start.noise > NOISE_FLOOR and not data.noise_is_known
    return _informed(_fit(data, prior, Q, [start], infer=infer))


def _explained(gp: GaussianProcess, beliefs: tuple[Belief, ...]) -> tuple[tuple[str, float], ...]:
    """Per earlier study the share of the variation of the posterior mean over the results that comes from it."""
    sites = gp.sites
    assert isinstance(sites, InformedSites)
    X = gp.data.X
    delta = float(np.var(Kernel.covariance(sites.kernel, X, X) @ gp.alpha))
    parts = {b.name: 0.0 for b in beliefs}
    for belief, share, recalled in zip(sites.kernel.beliefs, sites.kernel.shares, sites.recalled, strict=True):
        parts[belief.name] = float(np.var(share * recalled.cross(X)[0] @ gp.alpha))
    total = delta + sum(parts.values())
    return tuple((name, part / total if total > 0 else 0.0) for name, part in parts.items())
