"""Which of the evaluated configurations to choose from, with several objectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from .acquisition import normal_draws, root
from .errors import NotFound
from .knowledge import Knowledge
from .pareto import non_dominated
from .recommend import moved
from .space import Params
from .study import Best
from .surrogate import Surrogate
from .threads import one_blas_thread
from .trial import Trial, TrialState

DRAWS = 512  # of what the objectives may really be, for the chance of belonging to the front
RIVALS = 400  # trials that take part in them, the most promising

Rows = Float64[np.ndarray, "n d"]


@one_blas_thread
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
    if surrogate is None:
        return [Best(trials[i], None, None, why) for i in _front(Y)]
    X = knowledge.definition.space.encode([t.params for t in trials])
    if surrogate.noisy:
        Y = signs * np.column_stack([m.predict(X)[0] for m in surrogate.objectives])
        why = "no other trial has a better posterior mean in every objective"
    return _described(knowledge, surrogate, trials, X, _front(Y), why)


@one_blas_thread
def pareto_at(knowledge: Knowledge) -> list[Best]:
    """The visited configurations that no other beats in every posterior mean where the choice is made."""
    goal, space, surrogate = knowledge.definition.goal, knowledge.definition.space, knowledge.surrogate
    if surrogate is None:
        raise NotFound("there is no model yet: too few trials are completed")
    metrics = {o.metric for o in goal.objectives}
    trials, X = moved(space, [t for t in knowledge.trials if metrics <= set(t.values)])
    keep = surrogate.feasible(X)
    trials, X = [t for t, ok in zip(trials, keep, strict=True) if ok], X[keep]
    if not trials:
        return []
    Y = np.column_stack([o.sign * m.predict(X)[0] for o, m in zip(goal.objectives, surrogate.objectives, strict=True)])
    why = "no other visited configuration has a better posterior mean in every objective in this context"
    return _described(knowledge, surrogate, trials, X, _front(Y), why, space.decode(X))


def _described(
    knowledge: Knowledge,
    surrogate: Surrogate,
    trials: Sequence[Trial],
    X: Rows,
    front: Int64[np.ndarray, " f"],
    why: str,
    params: Sequence[Params] | None = None,
) -> list[Best]:
    """The trials of the front with what the models expect of them."""
    metrics = [o.metric for o in knowledge.definition.goal.objectives]
    predicted = [m.predict(X[front]) for m in surrogate.objectives]
    chances = _chances(surrogate, X, front, knowledge.definition.seed)
    found: list[Best] = []
    for k, i in enumerate(front):
        expected = {m: (float(mean[k]), float(sd[k])) for m, (mean, sd) in zip(metrics, predicted, strict=True)}
        moved_to = None if params is None else params[i]
        found.append(Best(trials[i], *expected[metrics[0]], why, moved_to, expected, float(chances[k])))
    return found


def _chances(surrogate: Surrogate, X: Rows, front: Int64[np.ndarray, " f"], seed: int) -> Float64[np.ndarray, " f"]:
    """How often no other row beats a row of the front in every objective, over joint draws from the posterior."""
    means = np.column_stack([m.gp.posterior(X)[0] for m in surrogate.objectives])
    short = np.max(np.min(means[front][None] - means[:, None], axis=2), axis=1)  # by how much the front beats each row
    rows = np.unique(np.concatenate([front, np.argsort(short, kind="stable")[:RIVALS]]))
    normals = normal_draws(len(surrogate.objectives) * len(rows), DRAWS, seed).reshape(-1, len(rows), DRAWS)
    values: list[np.ndarray] = []
    for model, z in zip(surrogate.objectives, normals, strict=True):
        mean, covariance = model.gp.joint(X[rows])
        values.append(mean[:, None] + root(covariance, model.gp.hyperparameters.signal) @ z)
    Y = np.stack(values)  # (objectives, rows, draws)
    chances = [
        float(np.mean(~((Y[:, [k]] <= Y).all(0) & (Y[:, [k]] < Y).any(0)).any(0))) for k in np.searchsorted(rows, front)
    ]
    return np.array(chances)


def _front(Y: Float64[np.ndarray, "n m"]) -> Int64[np.ndarray, " f"]:
    """Indices of the rows that no other beats in every column, best in the first column first."""
    front = np.flatnonzero(non_dominated(Y))
    return front[np.argsort(-Y[front, 0], kind="stable")]
