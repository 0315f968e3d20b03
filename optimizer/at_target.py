"""At the target, or is a cheaper trial worth it?

A trial elsewhere is chosen by what it is expected to say about the target, per cost. That is right as far as the model
knows how fidelities hang together. A trial that costs nearly as much as one at the target saves too little for that
risk: it runs at the target. Where all do, the search is the one that ignores fidelities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .choice import Choice, choose
from .fidelity import dear
from .knowledge import Knowledge
from .search import Found, maximise
from .space import Params
from .surrogate import Surrogate

WHY = "a trial at the target is worth most, or one that costs nearly as much"


def decide(
    knowledge: Knowledge, surrogate: Surrogate, taken: Sequence[Params], rng: np.random.Generator
) -> tuple[Choice, Found | None]:
    """What decides on the next trial of a study with fidelities, and what it is; None where nothing is left to try."""
    definition = knowledge.definition
    space, target, free = definition.space, definition.target, definition.acquisition.name == "auto"
    assert target is not None
    if free and not definition.elsewhere:
        definition, surrogate = definition.at_target, replace(surrogate, cost=None)
    seed, excluded = int(rng.integers(2**31)), knowledge.excluded(taken)
    chosen = choose(definition, surrogate, space.encode(taken), seed, knowledge.trials)
    found = maximise(chosen.acquisition, definition.space, rng, chosen.incumbents, excluded, chosen.box)
    if definition.fidelity is None:
        return replace(chosen, why=f"{WHY}; {chosen.why}", only=target), found
    if found is None or not free or surrogate.cost is None or not dear(surrogate.cost, target, found.x[None])[0]:
        return chosen, found
    there = maximise(chosen.acquisition, target.space, rng, target.designs(chosen.incumbents), excluded)
    return (chosen, found) if there is None else (replace(chosen, why=WHY, only=target), there)
