"""Which of the evaluated configurations to use."""

from __future__ import annotations

import numpy as np

from .diagnostics import explained
from .errors import Conflict, NotFound
from .knowledge import Knowledge
from .pareto import non_dominated
from .study import Best
from .surrogate import measured
from .threads import one_blas_thread
from .trial import Trial, TrialState


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


def _expected(knowledge: Knowledge, trial: Trial) -> tuple[float | None, float | None]:
    if knowledge.surrogate is None:
        return None, None
    mean, sd = knowledge.surrogate.objective.predict(knowledge.definition.space.encode([trial.params]))
    return float(mean[0]), float(sd[0])


def _violation(knowledge: Knowledge, trial: Trial) -> float:
    values = trial.values
    slacks = [c.slack(values[c.metric]) for c in knowledge.definition.goal.outcome_constraints if c.metric in values]
    return -min(slacks)


def pareto(knowledge: Knowledge) -> list[Best]:
    """The completed trials that no other beats in every objective, best in the first objective first.

    With noise they are compared by posterior means. Trials that break an outcome constraint do not take part. ``mean``
    and ``sd`` are those of the first objective.
    """
    goal, surrogate = knowledge.definition.goal, knowledge.surrogate
    metrics = [o.metric for o in goal.objectives]
    trials = [t for t in knowledge.trials if t.state is TrialState.COMPLETED and set(metrics) <= set(t.values)]
    trials = [t for t in trials if goal.satisfied(t.values) is not False]
    if not trials:
        return []
    signs = np.array([o.sign for o in goal.objectives])
    Y = signs * np.array([[t.values[m] for m in metrics] for t in trials])
    why = "no other trial is better in every objective"
    if surrogate is not None and surrogate.noisy:
        X = knowledge.definition.space.encode([t.params for t in trials])
        Y = signs * np.column_stack([m.predict(X)[0] for m in surrogate.objectives])
        why = "no other trial has a better posterior mean in every objective"
    front = np.flatnonzero(non_dominated(Y))
    front = front[np.argsort(-Y[front, 0], kind="stable")]
    return [Best(trials[i], *_expected(knowledge, trials[i]), why) for i in front]
