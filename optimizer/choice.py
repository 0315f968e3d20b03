"""Which acquisition decides, and what its value means in the objective's unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from . import trust_region
from .acquisition import Acquisition, LogFeasibility, Situation, Sum
from .hypervolume import DRAWS, HypervolumeImprovement
from .knowledge import Definition
from .methods import METHODS
from .metric_model import MetricModel
from .pareto import non_dominated, reference_point
from .pruning import STEP
from .search import Box, Found
from .space import Space
from .surrogate import Surrogate
from .target import Averaged, Target
from .trial import Source, Trial

INCUMBENTS = 16  # base points whose neighbourhoods are searched
MOVED = 64  # configurations visited elsewhere that may be the best here, too: the most promising ones
Pending = Float64[np.ndarray, "p d"]


@dataclass(frozen=True)
class Choice:
    """An acquisition that was chosen, and why; its search starts from ``incumbents`` too.

    ``gain``: exp of its value is a gain in standardised units, above ``best``. ``box``: the part of the cube in which
    it is searched (None: everywhere). ``only``: the target to which it is confined.
    """

    acquisition: Acquisition
    method: str
    why: str
    incumbents: Float64[np.ndarray, "i d"]
    gain: bool
    best: float
    box: Box | None = None
    per_cost: bool = False  # the gain is one per unit of cost
    only: Target | None = None


def choose(
    definition: Definition, surrogate: Surrogate, pending: Pending, seed: int, trials: Sequence[Trial] = ()
) -> Choice:
    """The acquisition for the next trial, given what was learned; trust regions follow ``trials``."""
    chosen = _choose(definition, surrogate, pending, seed, trials)
    if definition.model.prior != "auto" or not definition.prior.sparse:
        return chosen
    return replace(chosen, why=f"{chosen.why}; of {definition.searched} parameters few are expected to matter")


def _choose(
    definition: Definition, surrogate: Surrogate, pending: Pending, seed: int, trials: Sequence[Trial]
) -> Choice:
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
    best = float(mean[s.attainable].max())
    chosen = Choice(acquisition, name, why, incumbents, method.gain, best, per_cost=method.per_cost)
    return chosen if name != trust_region.NAME else _bounded(chosen, definition, surrogate, s, trials)


def _bounded(
    chosen: Choice, definition: Definition, surrogate: Surrogate, s: Situation, trials: Sequence[Trial]
) -> Choice:
    """The choice kept to the trust region; a region that starts again first follows functions drawn from the model."""
    rule = trust_region.Rule(**METHODS[trust_region.NAME].filled(definition.acquisition.options))
    region = trust_region.locate(s, surrogate, trials, definition.goal, rule, definition.design_size)
    if region.centre is None:
        drawn = METHODS["thompson"].build(s, {})
        acquisition = drawn if s.feasibility is None else Sum(drawn, s.feasibility)
        why = f"{chosen.why}; a new beginning, where a function drawn from the posterior is best ({region.state})"
        return replace(chosen, acquisition=acquisition, gain=False, why=why)
    incumbents = np.concatenate([region.centre[None], chosen.incumbents])
    return replace(chosen, incumbents=incumbents, box=region.box, why=f"{chosen.why}; {region.state}")


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
    name = name if s.target is None else _knowledge_gradient(s.target)
    acquisition = METHODS[name].build(s, {})
    if s.feasibility is not None:
        acquisition = Sum(acquisition, s.feasibility)
    gain = s.cost is None or s.target is not None
    return Choice(acquisition, name, "", _incumbents(s, mean), gain, float(mean[s.attainable].max()))


def _situation(
    definition: Definition, surrogate: Surrogate, pending: Pending, seed: int
) -> tuple[Situation, Float64[np.ndarray, " b"]]:
    """The situation, and the posterior mean at its base points."""
    model = surrogate.objective
    observed = np.unique(model.gp.data.X, axis=0)
    base = np.concatenate([observed, pending[~_repeated(pending, observed)]])
    if definition.target is not None:
        return _situation_at(definition.target, definition, surrogate, base, pending, seed)
    moved = base[:0] if _begun(definition, base) else _moved(definition.space, surrogate, base)
    base = np.concatenate([base, moved])
    feasibility = LogFeasibility(list(surrogate.feasibility)) if surrogate.feasibility else None
    situation = Situation(
        model.gp,
        base,
        surrogate.feasible(base) & inside(definition.space, base),
        pending,
        model.noisy,
        definition.space,
        seed,
        surrogate.cost,
        feasibility,
        len(moved) > 0,
    )
    return situation, model.gp.posterior(base)[0]


def _situation_at(
    target: Target,
    definition: Definition,
    surrogate: Surrogate,
    base: Float64[np.ndarray, "b d"],
    pending: Pending,
    seed: int,
) -> tuple[Situation, Float64[np.ndarray, " b"]]:
    """The same where values count elsewhere: designs are attainable, feasible and good or not where they count."""
    gp = surrogate.objective.gp
    log = LogFeasibility(list(surrogate.feasibility)) if surrogate.feasibility else None
    situation = Situation(
        gp,
        base,
        target.everywhere(surrogate.feasible(target.rows(base))),
        pending,
        surrogate.objective.noisy,
        definition.space,
        seed,
        surrogate.cost,
        None if log is None else Averaged(target, log),
        target=target,
    )
    return situation, target.posterior(gp, base)[0]


def _begun(definition: Definition, base: Float64[np.ndarray, "b d"]) -> bool:
    """Whether as many configurations were measured where the choice is made as a study begins with."""
    return int(inside(definition.space, base).sum()) >= definition.design_size


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


def inside(space: Space, rows: Float64[np.ndarray, "b d"]) -> Bool[np.ndarray, " b"]:
    """Which rows lie where the choice is made: at the fixed values of parameters."""
    if not space.fixed:
        return np.ones(len(rows), dtype=bool)
    return np.asarray((np.abs(space.snap(rows) - rows) < 1e-9).all(1))


def _incumbents(s: Situation, mean: Float64[np.ndarray, " b"]) -> Float64[np.ndarray, "i d"]:
    """The best base points, attainable ones first, as places where the choice is made."""
    best = s.base[np.argsort(-np.where(s.attainable, mean, mean - 1e6))[:INCUMBENTS]]
    return s.space.snap(best) if s.space.fixed else best


def _method(definition: Definition, s: Situation) -> tuple[str, str]:
    if definition.acquisition.name != "auto":
        return definition.acquisition.name, "chosen by the study"
    if s.target is not None:
        return _method_at(s.target, s)
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
        return "noisy_expected_improvement", _moved_why(s.space)
    return "expected_improvement", "measurements are exact and nothing is pending"


def _moved_why(space: Space) -> str:
    if STEP in space.fixed:
        return "what was only reported on the way was not measured at the last step"
    return "what was visited in other contexts was not measured in this one"


def _method_at(target: Target, s: Situation) -> tuple[str, str]:
    names = ", ".join(target.names)
    if s.cost is not None:
        return (
            "posterior_mean_improvement_per_cost",
            f"the objective counts at the target of {names}; trials elsewhere tell of it",
        )
    return _knowledge_gradient(target), f"what counts is the {target.risk} over {names}"


def _knowledge_gradient(target: Target) -> str:
    return "knowledge_gradient" if target.risk.linear else "risk_knowledge_gradient"


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


def said(model: MetricModel) -> list[str]:
    """What earlier studies explain of the results, in words; nothing without them."""
    parts = [f"{name} {share:.0%}" for name, share in model.earlier]
    return [f"explained by earlier studies: {', '.join(parts)}"] if parts else []


def source(surrogate: Surrogate, chosen: Choice, found: Found, pending: int) -> Source:
    """The record of a choice, in the objective's unit."""
    model = surrogate.objective
    mean, sd = model.predict(found.x[None])
    cost = None if surrogate.cost is None else float(surrogate.cost.mean(found.x[None])[0]) * model.scale.spread
    gain = gain_in_unit(model, chosen, found) if chosen.gain else None
    if gain is not None and cost is not None and chosen.per_cost:
        gain *= cost / model.scale.spread
    return Source(
        method=chosen.method,
        why="; ".join([chosen.why, *said(model)]),
        observations=surrogate.observations,
        pending=pending,
        fallbacks=surrogate.fallbacks,
        mean=float(mean[0]),
        sd=float(sd[0]),
        gain=gain,
        cost=cost,
    )
