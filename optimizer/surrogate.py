"""From trials to models: one Gaussian process per metric, and what they say in the metrics' own units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .cost import LogCost
from .decision import Cost
from .fitting import EVIDENCE, SUBSET, Fit, Prior, condition_safely, fit, refine
from .models import NOISE_FLOOR, Data, FitError, GaussianProcess, Hyperparameters
from .objective import Goal, Scale
from .space import Space
from .trial import Trial, TrialState

Noise = Literal["auto", "none"] | float
HEADROOMS = (1.0, 0.1, 0.01)  # of logarithmic scales, in interquartile ranges beyond the best value
REFINED = 1000  # rows to which hyperparameters are refined
EXACT = 2000  # rows of an exact model; beyond, it stands on a part of the results and says so
NOISY_FROM = 1e-4  # inferred noise variance, relative to the spread of y, from which an objective counts as noisy


@dataclass(frozen=True)
class MetricModel:
    """A metric's Gaussian process and the scale of its y."""

    gp: GaussianProcess
    scale: Scale
    noisy: bool

    def predict(self, X: Float64[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Mean and standard deviation of the noiseless metric, in its unit."""
        return self.scale.backward(*self.gp.posterior(X))


@dataclass(frozen=True)
class Surrogate:
    """What the finished trials say about every configuration.

    ``feasibility`` models bound metrics and, where trials were INFEASIBLE, whether a configuration works at all: pairs
    of a model and the standardised value above which it counts as feasible. ``cost`` is the log of the expected cost in
    the objective's standardised unit, where trials have a cost.
    """

    objectives: tuple[MetricModel, ...]
    feasibility: tuple[tuple[GaussianProcess, float], ...]
    observations: int
    fallbacks: tuple[str, ...]
    cost: LogCost | None = None

    @property
    def objective(self) -> MetricModel:
        """The first objective's model."""
        return self.objectives[0]

    @property
    def noisy(self) -> bool:
        return any(m.noisy for m in self.objectives)

    def feasible(self, X: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, " n"]:
        """Where every constraint more likely holds than not."""
        ok = np.ones(len(X), dtype=bool)
        for gp, bound in self.feasibility:
            ok &= gp.posterior(X)[0] >= bound
        return ok


def measured(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The completed trials with a result for ``metric``."""
    return [t for t in trials if t.state is TrialState.COMPLETED and metric in t.values]


def fit_surrogate(space: Space, goal: Goal, noise: Noise, trials: Sequence[Trial], prior: Prior) -> Surrogate:
    """Models of everything the trials measured. Raises FitError when an objective cannot be modelled."""
    # gain meets cost in the objective's unit, and volumes compare objectives: those scales have to stay linear
    warp = goal.cost is None and not goal.several
    objectives: list[MetricModel] = []
    fallbacks: tuple[str, ...] = ()
    for o in goal.objectives:
        model, steps = _fit_metric(_rows(space, trials, o.metric, noise), o.sign, prior, warp=warp)
        objectives.append(model)
        fallbacks += steps if len(goal.objectives) == 1 else tuple(f"{o.metric}: {s}" for s in steps)
    feasibility: list[tuple[GaussianProcess, float]] = []
    for constraint in goal.outcome_constraints:
        if measured(trials, constraint.metric):
            sign = -1.0 if constraint.upper else 1.0
            rows = _rows(space, trials, constraint.metric, "auto")
            model, steps = _fit_metric(rows, sign, prior, warp=False)
            bound = float(model.scale.forward(np.array([constraint.bound]))[0])
            feasibility.append((model.gp, bound))
            fallbacks += tuple(f"{constraint.metric}: {s}" for s in steps)
    worked, failed = _outcomes(trials)
    if failed:
        labels = np.array([1.0] * len(worked) + [-1.0] * len(failed))
        X = space.encode([t.params for t in worked + failed])
        data = Data(X, labels, np.full(len(labels), np.nan), space.groups)
        found = _fit_or_none(data, prior)
        gp, steps = condition_safely(data, prior, None if found is None else found.hyperparameters)
        feasibility.append((gp, 0.0))
        fallbacks += tuple(f"feasibility: {s}" for s in steps)
    cost = None if goal.cost is None else _cost(space, goal.cost, trials, objectives[0].scale.spread, prior)
    observations = len(measured(trials, goal.objective.metric))
    return Surrogate(tuple(objectives), tuple(feasibility), observations, fallbacks, cost)


def _cost(space: Space, cost: Cost, trials: Sequence[Trial], spread: float, prior: Prior) -> LogCost:
    """The cost's model, in units of ``spread``; the bare price per trial until its metric was measured."""
    if cost.metric is None or not measured(trials, cost.metric):
        return LogCost(cost.price / spread)
    rows = _rows(space, trials, cost.metric, "auto")
    logs = _Rows(rows.X, np.log(rows.values), rows.noise / rows.values, rows.groups)
    model, _ = _fit_metric(logs, 1.0, prior, warp=False)
    return LogCost(cost.price / spread, model.gp, model.scale.centre, model.scale.spread)


def _outcomes(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    worked = [t for t in trials if t.state is TrialState.COMPLETED]
    return worked, [t for t in trials if t.state is TrialState.INFEASIBLE]


@dataclass(frozen=True, eq=False)
class _Rows:
    """What was measured of one metric: configurations, values and standard deviations of noise (NaN: unknown)."""

    X: Float64[np.ndarray, "n d"]
    values: Float64[np.ndarray, " n"]
    noise: Float64[np.ndarray, " n"]
    groups: Int64[np.ndarray, " d"]

    @cached_property
    def _key(self) -> bytes:
        return b"|".join(a.tobytes() for a in (self.X, self.values, self.noise, self.groups))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rows) and self._key == other._key

    def on(self, scale: Scale) -> Data:
        known = np.maximum((self.noise * scale.slope(self.values)) ** 2, NOISE_FLOOR)
        return Data(self.X, scale.forward(self.values), known, self.groups)

    def first(self, n: int) -> _Rows:
        return self._take(np.arange(n)) if n < len(self.values) else self

    def part(self, sign: float, size: int) -> _Rows:
        """At most ``size`` rows: the best quarter of them, and the rest evenly from the others."""
        if len(self.values) <= size:
            return self
        order = np.argsort(-sign * self.values, kind="stable")
        top, others = order[: size // 4], np.sort(order[size // 4 :])
        spaced = others[np.linspace(0, len(others) - 1, size - len(top)).astype(int)]
        return self._take(np.sort(np.concatenate([top, spaced])))

    def _take(self, rows: np.ndarray) -> _Rows:
        return _Rows(self.X[rows], self.values[rows], self.noise[rows], self.groups)


def _fit_metric(rows: _Rows, sign: float, prior: Prior, *, warp: bool) -> tuple[MetricModel, tuple[str, ...]]:
    """The model of all rows, with what was decided on the first of them, up to the last milestone."""
    rows, cut = _manageable(rows, sign)
    n = len(rows.values)
    milestone = _milestone(n)
    headroom, hyperparameters = _decide(rows.first(milestone), sign, prior, warp)
    scale = _logarithmic(rows.values, sign, headroom) or Scale.of(rows.values, sign)
    data = rows.on(scale)
    if hyperparameters is not None and milestone < n <= SUBSET:
        hyperparameters = _refined(data, prior, hyperparameters)
    gp, steps = condition_safely(data, prior, hyperparameters)
    noisy = bool((data.diagonal(gp.hyperparameters.noise) > NOISY_FROM).any())
    return MetricModel(gp, scale, noisy), cut + steps


def _manageable(rows: _Rows, sign: float) -> tuple[_Rows, tuple[str, ...]]:
    """At most EXACT rows, and what was done to the others, in words."""
    n = len(rows.values)
    if n <= EXACT:
        return rows, ()
    return rows.part(sign, EXACT), (f"a model of {EXACT} of {n} results: the best quarter, the others evenly",)


def _milestone(n: int) -> int:
    """The largest of 30, 33, 36, ... (a tenth more each time) that is at most n; n itself below 30.

    What is expensive to decide is decided there, on the rows there were then; so it depends on the trials alone.
    """
    milestone = min(30, n)
    while milestone >= 30 and milestone + milestone // 10 <= n:
        milestone += milestone // 10
    return milestone


@lru_cache(maxsize=256)  # between milestones the same question comes with every trial
def _decide(rows: _Rows, sign: float, prior: Prior, warp: bool) -> tuple[float | None, Hyperparameters | None]:
    """The headroom of a logarithmic scale (None: linear) and the hyperparameters for it (None: no fit succeeded)."""
    headroom, found = _choose_headroom(rows, sign, prior, warp=warp)
    if found is None:
        return None, None
    if len(rows.values) <= SUBSET:
        return headroom, found.hyperparameters
    scale = _logarithmic(rows.values, sign, headroom) or Scale.of(rows.values, sign)
    return headroom, _refined(rows.part(sign, REFINED).on(scale), prior, found.hyperparameters)


def _rows(space: Space, trials: Sequence[Trial], metric: str, noise: Noise) -> _Rows:
    found = [(t.params, m) for t in measured(trials, metric) for m in t.final if m.metric == metric]
    unknown = np.nan if noise == "auto" else 0.0 if noise == "none" else float(noise)
    sds = [unknown if m.stderr is None else m.stderr for _, m in found]
    X = space.encode([params for params, _ in found])
    return _Rows(X, np.array([m.value for _, m in found]), np.array(sds, dtype=float), space.groups)


def _choose_headroom(rows: _Rows, sign: float, prior: Prior, *, warp: bool) -> tuple[float | None, Fit | None]:
    """The scale of y under which the values are most probable, and the fit on it (None: no fit succeeded).

    The densities of differently scaled y are compared in the metric's own unit, by the Jacobian of the scale (Snelson,
    Rasmussen and Ghahramani 2004, eq. 6). A logarithmic scale has to be more probable by EVIDENCE.
    """
    part = rows.part(sign, SUBSET)
    plain = Scale.of(rows.values, sign)
    best = _fit_or_none(part.on(plain), prior)
    if best is None or not warp:
        return None, best
    chosen, loss = None, best.loss - float(np.log(plain.slope(part.values)).sum()) - EVIDENCE
    start = best.hyperparameters
    for headroom in HEADROOMS:
        scale = _logarithmic(rows.values, sign, headroom)
        found = None if scale is None else _fit_or_none(part.on(scale), prior, [start])
        if scale is None or found is None:
            continue
        in_unit = found.loss - float(np.log(scale.slope(part.values)).sum())
        if in_unit < loss:
            chosen, best, loss = headroom, found, in_unit
    return chosen, best


def _logarithmic(values: Float64[np.ndarray, " n"], sign: float, headroom: float | None) -> Scale | None:
    if headroom is None:
        return None
    try:
        return Scale.of(values, sign, headroom)
    except ValueError:
        return None


def _fit_or_none(data: Data, prior: Prior, starts: Sequence[Hyperparameters] | None = None) -> Fit | None:
    try:
        return fit(data, prior, noise=None, starts=starts)
    except FitError:
        return None


def _refined(data: Data, prior: Prior, start: Hyperparameters) -> Hyperparameters:
    """What was fitted to part of the data carried on to all of it, as far as numerics allow."""
    try:
        return refine(data, prior, start).hyperparameters
    except FitError:
        return start
