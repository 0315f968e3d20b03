"""From trials to models: one Gaussian process per metric, and what they say in the metrics' own units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from .cost import LogCost
from .decision import Cost
from .fidelity import Fidelity, FormulaCost
from .fitting import Prior, condition_safely
from .informed import inform
from .metric_model import MetricModel, fit_metric, fit_or_none
from .model_choice import ModelChoice
from .models import Data, GaussianProcess
from .objective import Goal
from .results import Noise, Results, measured
from .space import Space
from .transfer import Earlier, beliefs
from .trial import Trial, TrialState


@dataclass(frozen=True)
class Surrogate:
    """What the finished trials say about every configuration.

    ``feasibility`` models bound metrics and, where trials were INFEASIBLE, whether a configuration works at all: pairs
    of a model and the standardised value above which it counts as feasible. ``cost`` is the log of the expected cost,
    where trials have one, per ``scale.spread`` of the objective: in its standardised unit, if the units are the same.
    """

    objectives: tuple[MetricModel, ...]
    feasibility: tuple[tuple[GaussianProcess, float], ...]
    observations: int
    fallbacks: tuple[str, ...]
    cost: LogCost | FormulaCost | None = None

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


def fit_surrogate(
    space: Space,
    goal: Goal,
    noise: Noise,
    trials: Sequence[Trial],
    prior: Prior,
    *,
    fidelity: Fidelity | None = None,
    apart: tuple[bool, ...] = (),
    target: tuple[float, ...] | None = None,
    linear: bool = False,
    choice: ModelChoice | None = None,
    earlier: Sequence[Earlier] = (),
) -> Surrogate:
    """Models of everything the trials measured, the objective's on a ``linear`` scale or the likeliest one.

    ``choice`` says how the objectives are modelled, ``apart`` which columns may have an effect of their own on them,
    towards the row ``target``; ``earlier`` studies say what they believe of every metric.

    Raises FitError when an objective cannot be modelled.
    """
    # gain meets cost in the objective's unit, and volumes compare objectives: those scales have to stay linear
    linear = linear or goal.cost is not None or goal.several
    objectives: list[MetricModel] = []
    fallbacks: tuple[str, ...] = ()
    for o in goal.objectives:
        results = replace(Results.of(space, trials, o.metric, noise), apart=apart, target=target)
        model, steps = fit_metric(results, o.sign, prior, choice, linear=linear)
        model = inform(model, results, o.sign, prior, beliefs(earlier, o.metric, o.sign), linear=linear)
        objectives.append(model)
        fallbacks += steps if len(goal.objectives) == 1 else tuple(f"{o.metric}: {s}" for s in steps)
    feasibility: list[tuple[GaussianProcess, float]] = []
    for constraint in goal.outcome_constraints:
        if measured(trials, constraint.metric):
            sign = -1.0 if constraint.upper else 1.0
            results = Results.of(space, trials, constraint.metric, "auto")
            model, steps = fit_metric(results, sign, prior)
            model = inform(model, results, sign, prior, beliefs(earlier, constraint.metric, sign), linear=True)
            bound = float(model.scale.forward(np.array([constraint.bound]))[0])
            feasibility.append((model.gp, bound))
            fallbacks += tuple(f"{constraint.metric}: {s}" for s in steps)
    worked, failed = _outcomes(trials)
    if failed:
        labels = np.array([1.0] * len(worked) + [-1.0] * len(failed))
        X = space.encode([t.params for t in worked + failed])
        data = Data(X, labels, np.full(len(labels), np.nan), space.groups)
        found = fit_or_none(data, prior)
        gp, steps = condition_safely(data, prior, None if found is None else found.hyperparameters)
        feasibility.append((gp, 0.0))
        fallbacks += tuple(f"feasibility: {s}" for s in steps)
    spread = objectives[0].scale.spread
    cost: LogCost | FormulaCost | None = None
    if fidelity is not None and fidelity.formula is not None:
        cost = FormulaCost(fidelity.formula, space, spread)
    elif (price := goal.cost if fidelity is None else Cost(1.0, fidelity.metric)) is not None:
        cost = _cost(space, price, trials, spread, prior)
    observations = len(measured(trials, goal.objective.metric))
    return Surrogate(tuple(objectives), tuple(feasibility), observations, fallbacks, cost)


def _cost(space: Space, cost: Cost, trials: Sequence[Trial], spread: float, prior: Prior) -> LogCost:
    """The cost's model, in units of ``spread``; the bare price per trial until its metric was measured."""
    if cost.metric is None or not measured(trials, cost.metric):
        return LogCost(cost.price / spread)
    model, _ = fit_metric(Results.of(space, trials, cost.metric, "auto").log(), 1.0, prior)
    return LogCost(cost.price / spread, model.gp, model.scale.centre, model.scale.spread)


def _outcomes(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    worked = [t for t in trials if t.state is TrialState.COMPLETED]
    return worked, [t for t in trials if t.state is TrialState.INFEASIBLE]
