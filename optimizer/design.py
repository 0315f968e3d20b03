"""The quasi-random start: what to try while there is no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy.stats import qmc

from .knowledge import Definition, Knowledge
from .search import ENUMERATE_UP_TO, Exclusion, grid
from .space import Params
from .transfer import beliefs, believe
from .trial import Source, Suggestion

BLOCK = 64  # points of the Sobol sequence at a time
BLOCKS = 16
PROMISING = 2  # first trials that earlier studies choose
SAMPLED = 1024  # configurations among which they choose, beside their own
APART = 0.1  # of the cube's diagonal: how far from what was tried


def quasi_random(knowledge: Knowledge, taken: Sequence[Params], rng: np.random.Generator) -> Suggestion | None:
    """The first point of the study's Sobol sequence that is feasible and new; None when a finite space holds none."""
    definition = knowledge.definition
    if (first := _promising(knowledge, taken)) is not None:
        return first
    x = _first_new(definition, knowledge.excluded(taken), _visited(knowledge, taken), rng)
    if x is None:
        return None
    why = (
        "the model could not be fitted"
        if knowledge.failure
        else f"{knowledge.results} of the {knowledge.needed} results that a model needs are in"
    )
    source = Source("quasi-random", why, knowledge.results, len(taken), knowledge.failure)
    return Suggestion(definition.space.decode(x[None])[0], source)


def _promising(knowledge: Knowledge, taken: Sequence[Params]) -> Suggestion | None:
    """One of the first trials: where an earlier study, in turn, expects the best, apart from what was tried."""
    definition, space = knowledge.definition, knowledge.definition.space
    tried = space.encode([*(t.params for t in knowledge.trials if t.state.informative), *taken])
    if len(tried) >= PROMISING:
        return None
    asked = [b for o in definition.goal.objectives for b in beliefs(definition.earlier, o.metric, o.sign)]
    if len(tried) >= len(asked):
        return None
    belief = asked[len(tried)]
    X = np.concatenate([space.snap(belief.visited), space.sample(SAMPLED, np.random.default_rng(definition.seed))])
    X = X[space.feasible(X) & knowledge.excluded(taken).allows(X) & _bounded(definition, belief.name, X)]
    if len(tried) and len(X):
        distance = np.sqrt(((X[:, None] - tried[None]) ** 2).sum(2).min(1))
        X = X[distance >= min(APART * math.sqrt(space.dimension), float(distance.max()))]
    if not len(X):
        return None
    x = X[np.argmax(belief.gp.posterior_mean(belief.rows(X)))]
    why = f"the best that the earlier study {belief.name} expects"
    return Suggestion(space.decode(x[None])[0], Source("earlier_best", why, knowledge.results, len(taken)))


def _bounded(definition: Definition, name: str, X: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, " n"]:
    """Where an earlier study expects the outcome constraints to hold; anywhere if it expects that nowhere."""
    ok = np.ones(len(X), dtype=bool)
    for c in definition.goal.outcome_constraints:
        for earlier in definition.earlier:
            belief = believe(earlier, c.metric, -1.0 if c.upper else 1.0) if earlier.name == name else None
            if belief is not None:
                slack = belief.scale.backward(*belief.gp.posterior(belief.rows(X)))[0] - c.bound
                ok &= slack <= 0.0 if c.upper else slack >= 0.0
    return ok if ok.any() else np.ones(len(X), dtype=bool)


def _visited(knowledge: Knowledge, taken: Sequence[Params]) -> Exclusion:
    """What was tried or is pending anywhere, moved to where the choice is made: other contexts start elsewhere."""
    space = knowledge.definition.space
    rows = space.encode([*(t.params for t in knowledge.trials if t.state.informative), *taken])
    return Exclusion(space.snap(rows) if space.fixed else rows[:0])


def _first_new(
    definition: Definition, excluded: Exclusion, visited: Exclusion, rng: np.random.Generator
) -> np.ndarray | None:
    space = definition.space
    if space.cardinality <= ENUMERATE_UP_TO and not excluded.allows(grid(space)).any():
        return None
    for X in _sobol(definition):
        new = X[space.feasible(X)]
        new = new[excluded.allows(new) & visited.allows(new)]
        if len(new):
            return np.asarray(new[0])
    if space.cardinality <= ENUMERATE_UP_TO:
        X = grid(space)
        return np.asarray(rng.permutation(X[excluded.allows(X)])[0])
    X = space.sample(BLOCK, rng)  # tight constraints, or a large finite space that is nearly used up
    new = X[excluded.allows(X)]
    return np.asarray(new[0]) if len(new) else None


def _sobol(definition: Definition) -> Iterator[Float64[np.ndarray, "n d"]]:
    assert definition.space.draws <= qmc.Sobol.MAXDIM
    engine = qmc.Sobol(definition.space.draws, rng=definition.seed)
    for _ in range(BLOCKS):
        X = definition.space.from_uniform(np.minimum(engine.random(BLOCK), math.nextafter(1.0, 0.0)))
        yield X if definition.fidelity is None else definition.fidelity.settled(definition.space, X)
