"""Which acquisition decides, and what its value means in the objective's unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from .acquisition import Acquisition, LogFeasibility, Situation, Sum
from .hypervolume import DRAWS, HypervolumeImprovement
from .knowledge import Definition
from .methods import METHODS
from .pareto import non_dominated, reference_point
from .search import Found
from .space import Space
from .surrogate import MetricModel, Surrogate
from .trial import Source

INCUMBENTS = 16  # base points whose neighbourhoods are searched
MOVED = 64  # configurations visited elsewhere that may be the best here, too: the most promising ones
MOVED_WHY = "what was visited in other contexts was not measured in this one"
Pending = Float64[np.ndarray, "p d"]


@dataclass(frozen=True)
class Choice:
    """An acquisition that was chosen, and why; its search starts from ``incumbents`` too.

    ``gain``: exp of its value is a gain in standardised units, above ``best``.
    """

    acquisition: Acquisition
    method: str
    why: str
    incumbents: Float64[np.ndarray, "i d"]
    gain: bool
    best: float


def choose(definition: Definition, surrogate: Surrogate, pending: Pending, seed: int) -> Choice:
    """The acquisition for the next trial, given what was learned and what is pending."""
    s, mean = _situation(definition, surrogate, pending, seed)
    incumbents = _incumbents(s, mean)
    if not s.attainable.any():
        assert s.feasibility is not None
        why = "no feasible configuration is known yet"
        return Choice(s.feasibility, "probability_of_feasibility", why, incumbents, False, float(mean.max()))
    if definition.goal.several:
        return _choose_volume(definition, surrogate, s)
    name, why = _method(definition, s)
    method = METHODS[name]
    acquisition = method.build(s, definition.acquisition.options)
    if s.feasibility is not None and not method.knows_feasibility:
        acquisition = Sum(acquisition, s.feasibility)
    return Choice(acquisition, name, why, incumbents, method.gain, float(mean[s.attainable].max()))


def _choose_volume(definition: Definition, surrogate: Surrogate, s: Situation) -> Choice:
    """The hypervolume improvement, and searches from the present front."""
    Y = np.column_stack([m.gp.posterior(s.base)[0] for m in surrogate.objectives])
    reference = reference_point(definition.goal.objectives, surrogate.objectives, Y[s.attainable])
    acquisition: Acquisition = HypervolumeImprovement(
        [m.gp for m in surrogate.objectives],
        reference,
        s.base,
        s.attainable,
        draws=1 if s.known and not surrogate.noisy else DRAWS,
        seed=s.seed,
    )
    if s.feasibility is not None:
        acquisition = Sum(acquisition, s.feasibility)
    front = np.flatnonzero(s.attainable)[non_dominated(Y[s.attainable])]
    incumbents = s.base[front[np.linspace(0, len(front) - 1, min(len(front), INCUMBENTS)).astype(int)]]
    return Choice(acquisition, "hypervolume_improvement", "there are several objectives", incumbents, False, 0.0)


def choose_improvement(definition: Definition, surrogate: Surrogate, pending: Pending, seed: int) -> Choice | None:
    """Expected improvement, per cost where trials have one: what decides whether to stop. None: nothing is feasible."""
    s, mean = _situation(definition, surrogate, pending, seed)
    if not s.attainable.any():
        return None
    name = "noisy_expected_improvement" if s.noisy or s.moved else "expected_improvement"
    name = name if s.cost is None else "expected_improvement_per_cost"
    acquisition = METHODS[name].build(s, {})
    if s.feasibility is not None:
        acquisition = Sum(acquisition, s.feasibility)
    return Choice(acquisition, name, "", _incumbents(s, mean), s.cost is None, float(mean[s.attainable].max()))


def _situation(
    definition: Definition, surrogate: Surrogate, pending: Pending, seed: int
) -> tuple[Situation, Float64[np.ndarray, " b"]]:
    """The situation, and the posterior mean at its base points."""
    model = surrogate.objective
    observed = np.unique(model.gp.data.X, axis=0)
    base = np.concatenate([observed, pending[~_repeated(pending, observed)]])
    moved = _moved(definition.space, surrogate, base)
    base = np.concatenate([base, moved])
    feasibility = LogFeasibility(list(surrogate.feasibility)) if surrogate.feasibility else None
    situation = Situation(
        model.gp,
        base,
        surrogate.feasible(base) & _inside(definition.space, base),
        pending,
        model.noisy,
        definition.space,
        seed,
        surrogate.cost,
        feasibility,
        len(moved) > 0,
    )
    return situation, model.gp.posterior(base)[0]


def _moved(space: Space, surrogate: Surrogate, base: Float64[np.ndarray, "b d"]) -> Float64[np.ndarray, "_ d"]:
    """Base points moved to where parameters are fixed, as far as they are new: any of them may be the best there.

    Of many the MOVED most promising, by the upper end of what the model expects. Where parameter constraints allow none
    of them, some feasible rows.
    """
    if not space.fixed:
        return base[:0]
    here = space.snap(base)
    here = here[space.feasible(here)]
    if not len(here):
        return space.sample(INCUMBENTS, np.random.default_rng(0))
    here = here[~_repeated(here, base)]
    mean, sd = surrogate.objective.gp.posterior(here)
    return here[np.sort(np.argsort(-mean - 2.0 * sd, kind="stable")[:MOVED])]


def _inside(space: Space, rows: Float64[np.ndarray, "b d"]) -> Bool[np.ndarray, " b"]:
    """Which rows lie where the choice is made: at the fixed values of parameters."""
    if not space.fixed:
        return np.ones(len(rows), dtype=bool)
    return (np.abs(space.snap(rows) - rows) < 1e-9).all(1)


def _incumbents(s: Situation, mean: Float64[np.ndarray, " b"]) -> Float64[np.ndarray, "i d"]:
    """The best base points, attainable ones first, as places where the choice is made."""
    best = s.base[np.argsort(-np.where(s.attainable, mean, mean - 1e6))[:INCUMBENTS]]
    return s.space.snap(best) if s.space.fixed else best


def _method(definition: Definition, s: Situation) -> tuple[str, str]:
    if definition.acquisition.name != "auto":
        return definition.acquisition.name, "chosen by the study"
    pending = "1 trial is pending" if len(s.pending) == 1 else f"{len(s.pending)} trials are pending"
    if s.cost is not None and s.noisy:
        return "expected_improvement_per_cost", "trials have a cost and measurements are noisy"
    if s.cost is not None:
        return "gittins", "trials have a cost and measurements are exact"
    if s.noisy:
        return "noisy_expected_improvement", "measurements are noisy"
    if len(s.pending):
        return "noisy_expected_improvement", pending
    if s.moved:
        return "noisy_expected_improvement", MOVED_WHY
    return "expected_improvement", "measurements are exact and nothing is pending"


def _repeated(rows: Float64[np.ndarray, "p d"], known: Float64[np.ndarray, "b d"]) -> np.ndarray:
    """Which rows are among the known ones or repeat an earlier row: they add nothing to the base points."""
    seen = {bytes(np.round(k, 9) + 0.0) for k in known}
    result = np.zeros(len(rows), dtype=bool)
    for i, row in enumerate(rows):
        key = bytes(np.round(row, 9) + 0.0)
        result[i] = key in seen
        seen.add(key)
    return result


def gain_in_unit(model: MetricModel, chosen: Choice, found: Found) -> float:
    """exp of the acquisition value, from standardised units into the objective's, as an improvement there converts."""
    mean, sd = model.gp.posterior(found.x[None])
    rise, rise_in_unit = model.scale.improvement(float(mean[0]), float(sd[0]), chosen.best)
    ratio = rise_in_unit / rise if rise > 0 else float(1.0 / model.scale.slope(model.scale.backward(mean, sd)[0])[0])
    return math.exp(found.value) * ratio


def source(surrogate: Surrogate, chosen: Choice, found: Found, pending: int) -> Source:
    """The record of a choice, in the objective's unit."""
    model = surrogate.objective
    mean, sd = model.predict(found.x[None])
    cost = None if surrogate.cost is None else float(surrogate.cost.mean(found.x[None])[0]) * model.scale.spread
    return Source(
        method=chosen.method,
        why=chosen.why,
        observations=surrogate.observations,
        pending=pending,
        fallbacks=surrogate.fallbacks,
        mean=float(mean[0]),
        sd=float(sd[0]),
        gain=gain_in_unit(model, chosen, found) if chosen.gain else None,
        cost=cost,
    )
