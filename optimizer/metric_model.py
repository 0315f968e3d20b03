"""The model of one metric: on which scale of y, with which hyperparameters, and which results are set aside.

What is expensive is decided at milestones, on the rows there were then; from there the hyperparameters follow the
results one by one. So all of it depends on the trials alone, and what is asked again after one more trial costs little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from .fitting import EVIDENCE, SUBSET, Fit, Prior, condition_safely, fit, fit_additive, fit_warped, refine
from .model_choice import ModelChoice
from .models import Data, FitError, GaussianProcess, Hyperparameters
from .objective import Scale
from .outliers import fit_with_outliers, set_aside
from .results import Results

HEADROOMS = (1.0, 0.1, 0.01)  # of logarithmic scales, in interquartile ranges beyond the best value
REFINED = 1000  # observations to which hyperparameters are refined
EXACT = 2000  # observations of an exact model; beyond, it stands on a part of the results and says so
NOISY_FROM = 1e-4  # inferred noise variance, relative to the spread of y, from which an objective counts as noisy


@dataclass(frozen=True)
class MetricModel:
    """A metric's Gaussian process and the scale of its y; ``outliers`` are the numbers of the trials set aside.

    ``trials`` are the numbers of the trials that its values come from.
    ``earlier`` is the share of the results' variation that each earlier study explains, ``edge`` by how many nats the
    results are more probable with the earlier studies than without.
    """

    gp: GaussianProcess
    scale: Scale
    noisy: bool
    trials: Int64[np.ndarray, " n"]
    outliers: tuple[int, ...] = ()
    earlier: tuple[tuple[str, float], ...] = ()
    edge: float = 0.0

    def predict(self, X: Float64[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Mean and standard deviation of the noiseless metric, in its unit."""
        return self.scale.backward(*self.gp.posterior(X))


def fit_metric(
    results: Results, sign: float, prior: Prior, choice: ModelChoice | None = None, *, linear: bool = True
) -> tuple[MetricModel, tuple[str, ...]]:
    """The model of all results, on a ``linear`` scale of y or the likeliest one, and what had to be done, in words.

    What was decided on the first of the results, up to the last milestone, holds for all; of up to SUBSET, the
    hyperparameters follow every one of the others.
    """
    choice = ModelChoice() if choice is None else choice
    results, cut = _manageable(results, sign)
    n = len(results)
    if results.observations.sum() > SUBSET:
        decided = _decide(results.first(milestone_of(n)), sign, prior, choice, linear)
    else:
        decided = _follow(results, sign, prior, choice, linear)
    scale = _scale(results.values, sign, decided.headroom, choice)
    data = _data(results, scale, choice, decided)
    gp, steps = condition_safely(data, prior, decided.hyperparameters)
    noisy = bool((data.diagonal(gp.hyperparameters.noise) > NOISY_FROM).any())
    outliers = () if data.extra is None else tuple(int(t) for t in np.unique(results.trials[data.extra > 0.0]))
    if outliers:
        steps = (*steps, f"set aside as outliers: {', '.join(map(str, outliers))}")
    return MetricModel(gp, scale, noisy, results.trials, outliers), cut + steps


@dataclass(frozen=True)
class Decided:
    """The headroom of a logarithmic scale (None: linear) and the hyperparameters for it (None: no fit succeeded).

    Beside them the noise variances that outliers add, where all of the results were looked at for that.
    """

    headroom: float | None
    hyperparameters: Hyperparameters | None
    rho: tuple[float, ...] = ()


def _data(results: Results, scale: Scale, choice: ModelChoice, decided: Decided) -> Data:
    """All results on a scale, with what outliers add to the noise."""
    data = results.on(scale)
    if not choice.outliers or decided.hyperparameters is None:
        return data
    known = np.zeros(len(results))
    known[: len(decided.rho)] = decided.rho
    return replace(data, extra=set_aside(replace(data, extra=known), decided.hyperparameters))


def fit_or_none(data: Data, prior: Prior, starts: Sequence[Hyperparameters] | None = None) -> Fit | None:
    """`fit`, or None where it fails."""
    try:
        return fit(data, prior, noise=None, starts=starts)
    except FitError:
        return None


def _manageable(results: Results, sign: float) -> tuple[Results, tuple[str, ...]]:
    """At most EXACT observations, and what was done to the others, in words."""
    n, total = len(results), int(results.observations.sum())
    if total <= EXACT:
        return results, ()
    part = results.part(sign, EXACT)
    words = []
    if len(part) < n:
        words.append(f"a model of {len(part)} of {n} results: the best quarter, the others evenly")
    if total > n:
        words.append(f"{int(part.observations.sum()) - len(part)} of {total - n} derivatives: those of the best")
    return part, tuple(words)


def milestone_of(n: int) -> int:
    """The largest of 30, 37, 46, 57, ... that is at most n; n itself below 30.

    Each is a quarter more than the last, and a tenth more beyond SUBSET, where nothing is refined in between.
    """
    milestone = min(30, n)
    while milestone >= 30:
        further = milestone + milestone // (4 if milestone <= SUBSET else 10)
        if further > n:
            break
        milestone = further
    return milestone


@lru_cache(maxsize=256)  # every trial but the last was followed before
def _follow(results: Results, sign: float, prior: Prior, choice: ModelChoice, linear: bool) -> Decided:
    """What was decided at the last milestone, with hyperparameters that follow the results since, one by one."""
    if milestone_of(len(results)) == len(results):
        return _decide(results, sign, prior, choice, linear)
    before = _follow(results.first(len(results) - 1), sign, prior, choice, linear)
    if before.hyperparameters is None:
        return before
    data = _data(results, _scale(results.values, sign, before.headroom, choice), choice, before)
    return replace(before, hyperparameters=_refined(data, prior, before.hyperparameters))


@lru_cache(maxsize=256)  # between milestones the same question comes with every trial
def _decide(results: Results, sign: float, prior: Prior, choice: ModelChoice, linear: bool) -> Decided:
    """What is expensive: everything compared, on a part of many results."""
    headroom: float | None = None
    rho: Float64[np.ndarray, " n"] | None = None
    if choice.outliers:
        found, rho = _with_outliers(results, sign, prior, choice)
    else:
        headroom, found = choose_headroom(results, sign, prior, linear=linear)
    if found is None:
        return Decided(None, None)
    scale = _scale(results.values, sign, headroom, choice)
    part = replace(results.part(sign, SUBSET).on(scale), extra=rho)
    if choice.warping and results.ordered:
        found = fit_warped(part, prior, found, results.ordered)
    if results.compares_fidelities:
        found = fit_additive(part, prior, found, results.apart, results.target)
    if results.observations.sum() <= SUBSET:
        return Decided(headroom, found.hyperparameters, () if rho is None else tuple(rho))
    data = results.part(sign, REFINED).on(scale)
    if choice.outliers:
        data = replace(data, extra=set_aside(data, found.hyperparameters))
    return Decided(headroom, _refined(data, prior, found.hyperparameters))


def _with_outliers(
    results: Results, sign: float, prior: Prior, choice: ModelChoice
) -> tuple[Fit | None, Float64[np.ndarray, " n"] | None]:
    data = results.part(sign, SUBSET).on(_scale(results.values, sign, None, choice))
    plain = fit_or_none(data, prior)
    return (None, None) if plain is None else fit_with_outliers(data, prior, plain)


def _scale(values: Float64[np.ndarray, " n"], sign: float, headroom: float | None, choice: ModelChoice) -> Scale:
    if choice.outliers:
        return Scale.robust(values, sign)
    return logarithmic(values, sign, headroom) or Scale.of(values, sign)


def choose_headroom(results: Results, sign: float, prior: Prior, *, linear: bool) -> tuple[float | None, Fit | None]:
    """The scale of y under which the results are most probable, and the fit on it (None: no fit succeeded).

    The densities of differently scaled y are compared in the metric's own unit, by the Jacobian of the scale (Snelson,
    Rasmussen and Ghahramani 2004, eq. 6). A logarithmic scale has to be more probable by EVIDENCE. Every limit is as
    likely beforehand: else the density of the best result alone, without bound as the limit comes near it, would pick
    the nearest, beyond which the model cannot imagine anything (Hill 1963 on log-normals of three parameters).
    """
    part = results.part(sign, SUBSET)
    plain = Scale.of(results.values, sign)
    best = fit_or_none(part.on(plain), prior)
    if best is None or linear:
        return None, best
    chosen, loss = None, best.loss - part.log_jacobian(plain) - EVIDENCE
    start = best.hyperparameters
    for headroom in HEADROOMS:
        scale = logarithmic(results.values, sign, headroom)
        found = None if scale is None else fit_or_none(part.on(scale), prior, [start])
        if scale is None or found is None:
            continue
        in_unit = found.loss - part.log_jacobian(scale) - math.log(headroom)  # which are even in the logarithm
        if in_unit < loss:
            chosen, best, loss = headroom, found, in_unit
    return chosen, best


def logarithmic(values: Float64[np.ndarray, " n"], sign: float, headroom: float | None) -> Scale | None:
    if headroom is None:
        return None
    try:
        return Scale.of(values, sign, headroom)
    except ValueError:
        return None


def _refined(data: Data, prior: Prior, start: Hyperparameters) -> Hyperparameters:
    """What was fitted to part of the data carried on to all of it, as far as numerics allow."""
    try:
        return refine(data, prior, start).hyperparameters
    except FitError:
        return start
