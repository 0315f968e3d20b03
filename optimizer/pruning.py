"""Early stopping: whether a running trial is worth finishing, judged by what it reports on the way.

Policies compare a trial with others at the same step (`median`, `percentile`), with a bound (`threshold`), or ask the
model what its final value will be (`gain`): a Gaussian process over configurations and steps, in which reports are
results at an earlier step and final values count at the last one. With ``steps`` given, that model also makes the
suggestions, so that what was stopped early is learned from.

Everything here is a pure function of the definition and the trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InvalidInput
from .objective import Objective
from .parameters import Int
from .ranges import as_float
from .space import Params, Space
from .trial import Measurement, Trial, TrialState

if TYPE_CHECKING:
    from .knowledge import Knowledge

POLICIES = {
    "median": ("warmup_steps", "warmup_trials", "steps"),
    "percentile": ("percentile", "warmup_steps", "warmup_trials", "steps"),
    "threshold": ("bound", "warmup_steps", "steps"),
    "gain": ("steps", "probability", "price", "warmup_steps"),
}
STEP = "_step"  # the parameter of the model that says how far a trial was
SHORTER = 3.0  # reports are learned from at the last step, and at steps shorter by this factor each,
KEPT = 4  # so many of each trial


@dataclass(frozen=True, slots=True)
class Prune:
    """The decision to stop a trial, why, and the numbers behind it, in the objective's unit.

    ``value`` was reported last, at ``step``; ``bound`` is what it had to reach. With the policy ``gain``: ``mean`` and
    ``sd`` of the final value, the ``chance`` that it beats the best, the expected ``gain``, the ``cost`` of going on.
    """

    policy: str
    step: int
    value: float
    reason: str
    bound: float | None = None
    mean: float | None = None
    sd: float | None = None
    chance: float | None = None
    gain: float | None = None
    cost: float | None = None

    def to_json(self) -> dict[str, Any]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop a running trial that reports intermediate values of the objective.

    - ``median``: its best report so far is worse than the median of what others reported up to the same step.
    - ``percentile``: the same with another share of them; 75 keeps the better three quarters.
    - ``threshold``: its last report is worse than ``bound``.
    - ``gain``: the chance that its final value is better than the best so far is below ``probability``; or, with a
      ``price`` of a step in the objective's unit, the expected gain is below the price of the steps that are left.

    No trial is stopped before step ``warmup_steps``, or before ``warmup_trials`` others came as far. ``steps`` is the
    last step, at which final values count; ``gain`` needs it. Where it is given, reports are learned from.

    Raises InvalidInput naming the wrong field.
    """

    policy: str
    steps: int | None = None
    percentile: float = 50.0
    bound: float | None = None
    probability: float = 0.05
    price: float | None = None
    warmup_steps: int = 0
    warmup_trials: int = 4

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InvalidInput("early_stopping.policy", f"one of {list(POLICIES)}", self.policy)
        for name, least in (("steps", 2), ("warmup_steps", 0), ("warmup_trials", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InvalidInput(f"early_stopping.{name}", f"a whole number of at least {least}", value)
        _check_number("percentile", self.percentile, 0.0, 100.0)
        _check_number("probability", self.probability, 0.0, 1.0)
        if self.price is not None:
            _check_number("price", self.price, 0.0, math.inf)
        if self.policy == "threshold" and not math.isfinite(as_float(self.bound)):
            raise InvalidInput("early_stopping.bound", "the worst value with which a trial goes on", self.bound)
        if self.policy == "gain" and self.steps is None:
            raise InvalidInput("early_stopping.steps", "the last step, at which final values count", None)

    @classmethod
    def of(cls, definition: Any) -> EarlyStopping | None:
        """From an EarlyStopping, a policy's name, ``{"policy": ..., option: value}`` or None."""
        if definition is None or isinstance(definition, EarlyStopping):
            return definition
        if isinstance(definition, str):
            definition = {"policy": definition}
        if not isinstance(definition, Mapping) or definition.get("policy") not in POLICIES:
            raise InvalidInput("early_stopping", f'{{"policy": one of {list(POLICIES)}, option: value}}', definition)
        allowed = POLICIES[definition["policy"]]
        for key in definition:
            if key != "policy" and key not in allowed:
                expected = f"an option of {definition['policy']}: {list(allowed)}"
                raise InvalidInput(f"early_stopping.{key}", expected, definition[key])
        return cls(**definition)

    def to_json(self) -> dict[str, Any]:
        """The policy and the options that differ from their defaults."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {"policy": self.policy, **given}

    def decide(
        self, objective: Objective, trials: Sequence[Trial], trial: Trial, final: Outlook | None
    ) -> Prune | None:
        """Whether to stop ``trial``; ``final`` is what the model expects of it, where there is a model."""
        reports = _reports(trial, objective.metric)
        if not reports or reports[-1].step is None or reports[-1].step < self.warmup_steps:
            return None
        if self.policy == "threshold":
            return self._beyond(objective, reports[-1])
        if self.policy == "gain":
            return None if final is None else self._without_gain(objective, reports[-1], final)
        return self._behind(objective, reports, [t for t in trials if t.number != trial.number])

    def _beyond(self, objective: Objective, last: Measurement) -> Prune | None:
        assert self.bound is not None
        assert last.step is not None
        if objective.sign * last.value >= objective.sign * self.bound:
            return None
        reason = f"{last.value:.6g} at step {last.step} is worse than the threshold {self.bound:.6g}"
        return Prune(self.policy, last.step, last.value, reason, bound=self.bound)

    def _behind(self, objective: Objective, reports: Sequence[Measurement], others: Sequence[Trial]) -> Prune | None:
        step = reports[-1].step
        assert step is not None
        there = [v for t in others if (v := _at_step(t, objective, step)) is not None]
        if len(there) < self.warmup_trials:
            return None
        share = self.percentile if objective.sign < 0 else 100.0 - self.percentile
        bound = float(np.percentile(there, share))
        best = max((m.value for m in reports), key=lambda v: objective.sign * v)
        if objective.sign * best >= objective.sign * bound:
            return None
        level = "the median" if self.percentile == 50.0 else f"the {self.percentile:g} % best"
        reason = f"{best:.6g} up to step {step} is worse than {level} of {len(there)} other trials there ({bound:.6g})"
        return Prune(self.policy, step, reports[-1].value, reason, bound=bound)

    def _without_gain(self, objective: Objective, last: Measurement, final: Outlook) -> Prune | None:
        assert self.steps is not None
        assert last.step is not None
        numbers = {"bound": final.best, "mean": final.mean, "sd": final.sd, "chance": final.chance, "gain": final.gain}
        if self.price is not None:
            cost = self.price * max(self.steps - last.step, 0)
            if final.gain >= cost:
                return None
            reason = f"going on is expected to gain {final.gain:.3g} and to cost {cost:.3g}"
            return Prune(self.policy, last.step, last.value, reason, cost=cost, **numbers)
        if final.chance >= self.probability:
            return None
        reason = f"the chance that its final value is better than {final.best:.6g} is {final.chance:.2g}"
        return Prune(self.policy, last.step, last.value, reason, **numbers)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not low < as_float(value) < high:
        raise InvalidInput(f"early_stopping.{name}", f"a number between {low:g} and {high:g}", value)


def _reports(trial: Trial, metric: str) -> list[Measurement]:
    """The intermediate values of a metric, by step."""
    found = [m for m in trial.measurements if m.metric == metric and m.step is not None]
    return sorted(found, key=lambda m: m.step or 0)


def _at_step(trial: Trial, objective: Objective, step: int) -> float | None:
    """The best that a trial reported up to a step; None where it did not come as far."""
    reports = _reports(trial, objective.metric)
    reached = (reports[-1].step or 0) >= step if reports else False
    if not reached:
        return None
    until = [m.value for m in reports if (m.step or 0) <= step]
    return max(until, key=lambda v: objective.sign * v) if until else None


# --- a model over configurations and steps ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Outlook:
    """What is expected of a trial's final value: the ``chance`` that it beats ``best``, and the expected ``gain``."""

    best: float
    mean: float
    sd: float
    chance: float
    gain: float


def outlook(knowledge: Knowledge, trial: Trial) -> Outlook | None:
    """The outlook of a running trial; None without a model, or while no completed trial could be used."""
    goal, surrogate, space = knowledge.definition.goal, knowledge.surrogate, knowledge.definition.space
    objective = goal.objective
    kept = [t.values for t in knowledge.trials if _whole(t, space) and goal.satisfied(t.values) is not False]
    done = [values[objective.metric] for values in kept if objective.metric in values]
    if surrogate is None or not done:
        return None
    best = max(done, key=lambda v: objective.sign * v)
    model = surrogate.objective
    x = space.encode([{**trial.params, **space.fixed}])
    mean, sd = model.gp.posterior(x)
    y_best = float(model.scale.forward(np.array([best]))[0])
    _, gain = model.scale.improvement(float(mean[0]), float(sd[0]), y_best)
    in_unit = model.scale.backward(mean, sd)
    chance = NormalDist().cdf((float(mean[0]) - y_best) / float(sd[0]))
    return Outlook(best, float(in_unit[0][0]), float(in_unit[1][0]), chance, max(gain, 0.0))


def _whole(trial: Trial, space: Space) -> bool:
    return trial.state is TrialState.COMPLETED and trial.params.get(STEP) == space.fixed.get(STEP)


def stepped(space: Space, steps: int) -> Space:
    """The space with the step as one more parameter, where a trial is complete."""
    if STEP in space.parameters:
        raise InvalidInput(f"parameters.{STEP}", "another name, since early stopping uses this one", STEP)
    step = Int(1, steps + 1, log=True)  # one more, so that step 0 has a logarithm
    whole = Space({**space.parameters, STEP: step}, constraints=[c.text for c in space.constraints])
    return whole.at({STEP: steps + 1})


def unroll(trials: Sequence[Trial], metric: str, steps: int) -> list[Trial]:
    """Trials with the step among their parameters, and beside each what it reported, as results at earlier steps."""
    found: list[Trial] = []
    for trial in trials:
        params = {**trial.params, STEP: steps + 1}
        found.append(replace(trial, params=params, measurements=trial.final))
        if trial.state.open or trial.state in (TrialState.COMPLETED, TrialState.PRUNED):
            for m in _few(_reports(trial, metric), steps):
                result = (replace(m, step=None),)
                at = {**trial.params, STEP: (m.step or 0) + 1}
                found.append(replace(trial, params=at, state=TrialState.COMPLETED, measurements=result))
    return found


def _few(reports: Sequence[Measurement], steps: int) -> list[Measurement]:
    """The last report before the end, and the last up to each of a few shorter steps."""
    kept: dict[int, Measurement] = {}
    before = [m for m in reports if (m.step or 0) < steps]
    limit = float((before[-1].step or 0) + 1) if before else 0.0
    for _ in range(KEPT):
        until = [m for m in before if (m.step or 0) + 1 <= limit]
        if not until:
            break
        kept[until[-1].step or 0] = until[-1]
        limit = ((until[-1].step or 0) + 1) / SHORTER
    return [kept[step] for step in sorted(kept)]


def whole(knowledge: Knowledge) -> Knowledge:
    """What is known, without what was only reported on the way."""
    last = knowledge.definition.space.fixed[STEP]
    return replace(knowledge, trials=tuple(t for t in knowledge.trials if t.params[STEP] == last))


def without_step(params: Params) -> Params:
    """A configuration as trials have it."""
    return {name: value for name, value in params.items() if name != STEP}
