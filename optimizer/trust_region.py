"""Trust regions: a search kept to a box around the best configuration, which grows with success and shrinks without.

TuRBO (Eriksson, Pearce, Gardner, Turner and Poloczek 2019, section 2) with one region. Its state is read off the trials
every time, so it is a function of what the study is, like every decision. What differs from the paper: the model stands
on all results, a rise is measured on the model's scale of y, and after a restart functions drawn from the posterior say
where to begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from .acquisition import Acquisition, Situation, expected_improvement, noisy_expected_improvement
from .objective import Goal
from .parameters import Float, Int, Ordinal, Parameter
from .search import Box
from .space import Space
from .surrogate import Surrogate
from .trial import Trial, TrialState

Values = Float64[np.ndarray, " n"]
Row = Float64[np.ndarray, " d"]

NAME = "trust_region"
RISE = 1e-3  # of the best y, in standard deviations of the results, from which a trial is a success
LENGTHSCALES = (0.05, 4.0)  # the shape of the box is not stretched further than such length scales would


@dataclass(frozen=True)
class Rule:
    """When a region changes (the options of the acquisition): lengths are parts of the cube's side.

    It starts with ``length``, doubles up to ``longest`` after ``successes`` in a row, halves after ``failures`` in a
    row, and where that makes it shorter than ``shortest`` the search starts again.
    """

    length: float
    shortest: float
    longest: float
    successes: int
    failures: int


@dataclass(frozen=True)
class TrustRegion:
    """The region's state after some trials.

    ``successes`` and ``failures`` are those in a row since the length last changed, ``since`` is the position of the
    first trial after the last restart and ``begun`` counts the region's own trials from there.
    """

    length: float
    successes: int = 0
    failures: int = 0
    restarts: int = 0
    since: int = 0
    begun: int = 0

    def __str__(self) -> str:
        runs = f"{self.successes} successes and {self.failures} failures in a row"
        return f"length {self.length:.3g}, {runs}, {self.restarts} restarts"


def follow(values: Values, own: Sequence[bool], rule: Rule, beginning: int) -> TrustRegion:
    """The state after results in the order of the trials.

    ``values`` are y, larger being better and -inf where a trial was not feasible; ``own`` says which trials the region
    suggested: the others raise the best value only. So do the first ``beginning`` own trials after a restart.
    """
    state, best = TrustRegion(rule.length), -np.inf
    for i, (value, of_region) in enumerate(zip(values, own, strict=True)):
        if of_region:
            state = replace(state, begun=state.begun + 1)
            if not state.restarts or state.begun > beginning:
                state = _after(state, bool(value > best + RISE), rule, i + 1)
        best = max(best, value) if state.since <= i else -np.inf
    return state


def _after(state: TrustRegion, success: bool, rule: Rule, following: int) -> TrustRegion:
    """The state after one more result, with ``following`` the position of the next."""
    if success:
        state = replace(state, successes=state.successes + 1, failures=0)
        if state.successes >= rule.successes:
            return replace(state, length=min(2.0 * state.length, rule.longest), successes=0)
        return state
    state = replace(state, successes=0, failures=state.failures + 1)
    if state.failures < rule.failures:
        return state
    if state.length / 2.0 < rule.shortest:
        return TrustRegion(rule.length, restarts=state.restarts + 1, since=following)
    return replace(state, length=state.length / 2.0, failures=0)


@dataclass(frozen=True)
class Region:
    """Where to search next: inside ``box`` around ``centre``, or (None: a new beginning) anywhere."""

    state: TrustRegion
    centre: Row | None = None
    box: Box | None = None


def locate(s: Situation, surrogate: Surrogate, trials: Sequence[Trial], goal: Goal, rule: Rule, start: int) -> Region:
    """The region after ``trials``, in the order of their numbers; ``start`` own trials begin anew after a restart.

    The centre is the best configuration since the last restart that keeps the outcome constraints: by its measured
    value or, where measurements are noisy, by the posterior mean.
    """
    told = [t for t in trials if _told(t, goal) and _agrees(t, s.space)]
    values = _values(told, s.space, surrogate, goal)
    state = follow(values, [t.source.method == NAME for t in told], rule, start)
    recent = values[state.since :]
    if not np.isfinite(recent).any() or (state.restarts > 0 and state.begun < start):
        return Region(state)
    centre = s.space.snap(s.space.encode([told[state.since + int(np.argmax(recent))].params]))[0]
    lengthscales = s.gp.hyperparameters.lengthscales[s.space.groups]
    return Region(state, centre, box(s.space, centre, lengthscales, state.length))


def box(space: Space, centre: Row, lengthscales: Row, length: float) -> Box:
    """The box of volume length^d around ``centre``, its sides in the ratios of the length scales, within the cube.

    Numbers are limited, and those on a grid may always move by one step. Choices and conditional parameters are free.
    """
    low, high = np.zeros(space.dimension), np.ones(space.dimension)
    columns = {n: int(np.argmax(space.columns([n]))) for n, p in space.parameters.items() if _limited(n, p, space)}
    if not columns:
        return Box(low, high)
    scales = np.log(np.clip(lengthscales[list(columns.values())], *LENGTHSCALES))
    for (name, j), reach in zip(columns.items(), 0.5 * length * np.exp(scales - scales.mean()), strict=True):
        low[j], high[j] = max(centre[j] - reach, 0.0), min(centre[j] + reach, 1.0)
        p = space.parameters[name]
        if math.isfinite(p.cardinality):
            steps = p.to_unit(p.grid())[:, 0]
            here = int(np.argmin(np.abs(steps - centre[j])))
            low[j] = min(low[j], steps[max(here - 1, 0)])
            high[j] = max(high[j], steps[min(here + 1, len(steps) - 1)])
    return Box(low, high)


def _limited(name: str, p: Parameter, space: Space) -> bool:
    return isinstance(p, Float | Int | Ordinal) and name not in space.conditions and name not in space.fixed


def _told(trial: Trial, goal: Goal) -> bool:
    """Whether a trial says something: those that did not work or were stopped early are failures."""
    completed = trial.state is TrialState.COMPLETED and goal.objective.metric in trial.values
    return completed or trial.state in (TrialState.INFEASIBLE, TrialState.PRUNED)


def _agrees(trial: Trial, space: Space) -> bool:
    """Whether the trial has the values at which parameters are fixed: only such results are compared."""
    return all(trial.params.get(name) == value for name, value in space.fixed.items())


def _values(told: Sequence[Trial], space: Space, surrogate: Surrogate, goal: Goal) -> Values:
    """y of every trial: measured, or the posterior mean with noise; -inf where it did not work or breaks a bound."""
    values = np.full(len(told), -np.inf)
    good = [i for i, t in enumerate(told) if t.state is TrialState.COMPLETED and goal.satisfied(t.values) is not False]
    if not good:
        return values
    model = surrogate.objective
    if model.noisy:
        values[good] = model.gp.posterior_mean(space.encode([told[i].params for i in good]))
    else:
        values[good] = model.scale.forward(np.array([told[i].values[goal.objective.metric] for i in good]))
    return values


def trust_region(s: Situation, **_: float) -> Acquisition:
    """What is maximised inside the region: the (noisy) expected improvement. The options say where the region is."""
    return noisy_expected_improvement(s) if s.noisy or len(s.pending) else expected_improvement(s)
