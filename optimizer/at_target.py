"""At the target, or is a cheaper trial worth it?

The knowledge gradient per cost is right as far as the model knows how fidelities hang together, and few trials cannot
tell. Where a cheaper trial saves a factor of twenty, that is soon made up for; where it saves a factor of two or none,
a search that trusts it falls behind one that ignores fidelities. So trials that save little run at the target, where
the expected improvement is largest; and where none saves much, all do, as they would without fidelities, unless the
knowledge gradient says that another one is worth much more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .choice import Choice, choose
from .knowledge import Knowledge
from .search import Found, maximise
from .space import Params
from .surrogate import Surrogate

RATIO = 1.5  # by which a trial has to be cheaper than at the target, and the knowledge gradient per cost larger
SHARE = 0.5  # of all cost, which trials elsewhere may take


def improvement_at_target(
    knowledge: Knowledge,
    surrogate: Surrogate,
    taken: Sequence[Params],
    chosen: Choice,
    found: Found,
    rng: np.random.Generator,
) -> tuple[Choice, Found] | None:
    """The (noisy) expected improvement at the target and where it is largest; None where ``found`` is to be preferred.

    ``chosen`` is the knowledge gradient per cost, and ``found`` where that is largest.
    """
    definition = knowledge.definition
    fidelity, target = definition.fidelity, definition.target
    if fidelity is None or target is None or definition.acquisition.name != "auto":
        return None
    space = definition.space
    there = replace(definition, space=target.space, fidelity=None)
    plain = replace(surrogate, cost=None)
    choice = choose(there, plain, space.encode(taken), int(rng.integers(2**31)), knowledge.trials)
    best = maximise(choice.acquisition, there.space, rng, choice.incumbents, knowledge.excluded(taken))
    if best is None:
        return None
    why = _why_not(knowledge, surrogate, found, best, edge=found.value - float(chosen.acquisition(best.x[None])[0][0]))
    return None if why is None else (replace(choice, why=why, only=target), best)


def _why_not(knowledge: Knowledge, surrogate: Surrogate, found: Found, best: Found, *, edge: float) -> str | None:
    """Why the trial that was found is not run, though the knowledge gradient per cost is exp(edge) times as large."""
    assert surrogate.cost is not None
    cost, at_target = surrogate.cost.mean(np.stack([found.x, best.x]))
    if cost * RATIO > at_target:
        return "a trial at the target is worth most, or one that costs nearly as much"
    if not knowledge.definition.from_target:
        return None
    if edge <= math.log(RATIO):
        return "nothing cheaper is worth more than a trial at the target"
    if (spent := _spent_elsewhere(knowledge)) > SHARE:
        return f"trials elsewhere have taken {spent:.0%} of the cost, so this one is at the target"
    return None


def _spent_elsewhere(knowledge: Knowledge) -> float:
    """The share of what all trials cost that went to trials that were not at the target."""
    fidelity = knowledge.definition.fidelity
    assert fidelity is not None
    trials = [t for t in knowledge.trials if t.state.informative or t.state.open]
    elsewhere = [t for t in trials if not t.params.items() >= fidelity.target.items()]
    return fidelity.spent(elsewhere) / max(fidelity.spent(trials), 1e-300)
