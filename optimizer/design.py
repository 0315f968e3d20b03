"""The quasi-random start: what to try while there is no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64
from scipy.stats import qmc

from .knowledge import Definition, Knowledge
from .search import ENUMERATE_UP_TO, Exclusion, grid
from .space import Params
from .trial import Source, Suggestion

BLOCK = 64  # points of the Sobol sequence at a time
BLOCKS = 16


def quasi_random(knowledge: Knowledge, taken: Sequence[Params], rng: np.random.Generator) -> Suggestion | None:
    """The first point of the study's Sobol sequence that is feasible and new; None when a finite space holds none."""
    definition = knowledge.definition
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
    dimension = len(definition.space.parameters)
    assert dimension <= qmc.Sobol.MAXDIM
    engine = qmc.Sobol(dimension, rng=definition.seed)
    for _ in range(BLOCKS):
        yield definition.space.from_uniform(np.minimum(engine.random(BLOCK), math.nextafter(1.0, 0.0)))
