"""Which of the evaluated configurations to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from .diagnostics import explained
from .errors import Conflict, NotFound
from .knowledge import Definition, Knowledge
from .results import measured
from .space import Params, Space
from .study import Best
from .target import Target
from .threads import one_blas_thread
from .trial import Trial


@one_blas_thread
def recommend(knowledge: Knowledge) -> Best:
    """The best completed trial: by posterior mean where measurements are noisy, by observation otherwise.

    Trials whose measurements break an outcome constraint come only when no other is left, the least violation first.
    Raises NotFound while no trial is completed, Conflict when there are several objectives (see `pareto`).
    """
    definition = knowledge.definition
    goal = definition.goal
    if goal.several:
        raise Conflict("there is no single best trial for several objectives: ask for the Pareto front")
    trials = measured(knowledge.trials, goal.objective.metric)
    if not trials:
        raise NotFound("no trial is completed yet")
    if definition.target is not None:
        return _recommend_design(knowledge, definition.target, trials)
    feasible = [t for t in trials if goal.satisfied(t.values) is not False]
    if not feasible:
        trial = min(trials, key=lambda t: _violation(knowledge, t))
        mean, sd = _expected(knowledge, trial)
        return Best(trial, mean, sd, "no trial satisfies the outcome constraints; this one violates them least")
    model = knowledge.surrogate.objective if knowledge.surrogate else None
    if model is None or not model.noisy:
        trial = max(feasible, key=lambda t: goal.objective.sign * t.values[goal.objective.metric])
        mean, sd = _expected(knowledge, trial)
        return Best(trial, mean, sd, "best observed value" + ("" if model else " (there is no model yet)"))
    means, sds = model.predict(definition.space.encode([t.params for t in feasible]))
    i = int(np.argmax(goal.objective.sign * means))
    why = "best posterior mean among evaluated configurations (noisy objective)"
    if explained(model) <= 0:
        why += "; warning: the model explains nothing of the results, more of them are needed"
    return Best(feasible[i], float(means[i]), float(sds[i]), why)


def _recommend_design(knowledge: Knowledge, target: Target, trials: Sequence[Trial]) -> Best:
    """The evaluated design of the best value where values count; while there is no model, the best trial so far."""
    definition, surrogate = knowledge.definition, knowledge.surrogate
    goal = definition.goal
    if surrogate is None:
        trials = [t for t in trials if goal.satisfied(t.values) is not False] or trials
        trial = max(trials, key=lambda t: goal.objective.sign * t.values[goal.objective.metric])
        why = f"best observed value, whatever {', '.join(target.names)} (there is no model yet)"
        return Best(trial, None, None, why, _picked(definition, target, trial.params))
    trials, X = moved(target.space, trials)
    means, sds = surrogate.objective.scale.backward(*target.posterior(surrogate.objective.gp, X))
    feasible = target.everywhere(surrogate.feasible(target.rows(X)))
    measure = "posterior mean at the target" if definition.environment is None else f"posterior {target.risk}"
    why = f"best {measure} among {len(trials)} evaluated designs"
    if not feasible.any():
        feasible[:] = True
        why += "; none of them is expected to satisfy the outcome constraints"
    i = int(np.argmax(np.where(feasible, goal.objective.sign * means, -np.inf)))
    return Best(trials[i], float(means[i]), float(sds[i]), why, _picked(definition, target, trials[i].params))


def _picked(definition: Definition, target: Target, params: Params) -> Params:
    """What is recommended: a configuration at the target fidelity, or a design without its environment."""
    if definition.environment is not None:
        return target.design(params)
    moved = {**params, **target.space.fixed}
    return {name: moved[name] for name in params}


@one_blas_thread
def recommend_at(knowledge: Knowledge) -> Best:
    """The visited configuration of the best posterior mean where the choice is made (`Knowledge.at`).

    Configurations that the model expects to break an outcome constraint there come only when no other is left. Raises
    NotFound where nothing is completed there and there is no model, Conflict when there are several objectives.
    """
    goal, space = knowledge.definition.goal, knowledge.definition.space
    if goal.several:
        raise Conflict("there is no single best configuration for several objectives: ask for pareto_at(context)")
    trials = measured(knowledge.trials, goal.objective.metric)
    if knowledge.surrogate is None:
        here = replace(knowledge, trials=tuple(t for t in trials if t.params.items() >= space.fixed.items()))
        if not here.trials:
            raise NotFound(f"no trial is completed in the context {space.fixed}, and there is no model yet")
        return recommend(here)
    trials, X = moved(space, trials)
    if not trials:
        raise NotFound(f"no visited configuration satisfies the parameter constraints in the context {space.fixed}")
    model = knowledge.surrogate.objective
    means, sds = model.predict(X)
    feasible = knowledge.surrogate.feasible(X)
    why = f"best posterior mean in this context among {len(trials)} visited configurations; "
    if not feasible.any():
        feasible[:] = True
        why = "no visited configuration is expected to satisfy the outcome constraints here; best posterior mean; "
    i = int(np.argmax(np.where(feasible, goal.objective.sign * means, -np.inf)))
    trial, params = trials[i], space.decode(X[i : i + 1])[0]
    why += "measured here" if trial.params == params else f"not measured here but by trial {trial.number} elsewhere"
    why += "; others that were never visited may be better"
    return Best(trial, float(means[i]), float(sds[i]), why, params)


def moved(space: Space, trials: Sequence[Trial]) -> tuple[list[Trial], Float64[np.ndarray, "n d"]]:
    """The configurations of trials where the choice is made, each once: by the trial that ran there, if any did."""
    X = space.snap(space.encode([t.params for t in trials]))
    possible = space.feasible(X)
    here = np.array([t.params.items() >= space.fixed.items() for t in trials], dtype=bool)
    first: dict[bytes, int] = {}
    for i in np.argsort(~here, kind="stable"):
        if possible[i]:
            first.setdefault(bytes(np.round(X[i], 9) + 0.0), int(i))
    chosen = sorted(first.values())
    return [trials[i] for i in chosen], X[chosen]


def _expected(knowledge: Knowledge, trial: Trial) -> tuple[float | None, float | None]:
    if knowledge.surrogate is None:
        return None, None
    mean, sd = knowledge.surrogate.objective.predict(knowledge.definition.space.encode([trial.params]))
    return float(mean[0]), float(sd[0])


def _violation(knowledge: Knowledge, trial: Trial) -> float:
    values = trial.values
    slacks = [c.slack(values[c.metric]) for c in knowledge.definition.goal.outcome_constraints if c.metric in values]
    return -min(slacks)
