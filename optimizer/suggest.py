"""From what is known to what to try next, or to stop: batches, pending trials, gain against cost.

Everything here is a pure function of the definition, the trials and the seed, so a study that is loaded again asks the
same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from . import at_target
from .choice import Choice, choose, choose_improvement, gain_in_unit, source
from .decision import Advice, Stop, StopReason
from .design import quasi_random
from .knowledge import Knowledge
from .models import FitError
from .safe_mixture import baseline_first, guarded
from .search import Found, maximise
from .space import Params
from .surrogate import Surrogate
from .threads import one_blas_thread
from .trial import Suggestion


@one_blas_thread
def suggest(knowledge: Knowledge, count: int, first_number: int) -> list[Suggestion] | Stop:
    """``count`` configurations, chosen jointly; fewer when a finite space runs out or more would not pay.

    Stop when nothing is left, or when trials have a cost and none is expected to gain it.
    """
    suggestions: list[Suggestion] = []
    for number in range(first_number, first_number + count):
        taken = knowledge.pending + [s.params for s in suggestions]
        rng = np.random.default_rng([knowledge.definition.seed, number])
        if (stop := _stop(knowledge, taken, number)) is not None:
            return suggestions or stop
        step = baseline_first(knowledge, taken) or _with_model(knowledge, taken, rng)
        step = step or quasi_random(knowledge, taken, rng)
        if step is None:
            break
        suggestions.append(guarded(knowledge, taken, step))
    return suggestions or Stop(StopReason.EXHAUSTED, "every configuration of the space has been tried", gain=0.0)


@one_blas_thread
def advise(knowledge: Knowledge, number: int) -> Advice:
    """What one more trial is worth, beside those that are pending."""
    return _advise(knowledge, knowledge.pending, number)


@dataclass(frozen=True)
class AcquisitionValues:
    """An acquisition's natural logarithms at configurations, up to a constant; which acquisition it is, and why.

    -inf where the next trial cannot be: away from the target of fidelities, while no cheaper trial is worth it.
    """

    log_value: Float64[np.ndarray, " n"]
    method: str
    why: str


@one_blas_thread
def acquisition_values(knowledge: Knowledge, params: Sequence[Params], number: int) -> AcquisitionValues | None:
    """What the acquisition that `suggest` maximises for trial ``number`` says of ``params``; None without a model."""
    if knowledge.surrogate is None:
        return None
    rng = np.random.default_rng([knowledge.definition.seed, number])
    definition, X = knowledge.definition, knowledge.definition.space.encode(params)
    if definition.fidelity is None:
        chosen = _choose(knowledge, knowledge.surrogate, knowledge.pending, rng)
    else:  # where the trial runs depends on what the search finds
        chosen, _ = at_target.decide(knowledge, knowledge.surrogate, knowledge.pending, rng)
    values, _ = chosen.acquisition(X)
    if chosen.only is not None:
        values = np.where(np.isclose(chosen.only.designs(X), X).all(1), values, -np.inf)
    return AcquisitionValues(values, chosen.method, chosen.why)


def _choose(knowledge: Knowledge, surrogate: Surrogate, taken: Sequence[Params], rng: np.random.Generator) -> Choice:
    definition, pending = knowledge.definition, knowledge.definition.space.encode(taken)
    return choose(definition, surrogate, pending, int(rng.integers(2**31)), knowledge.trials)


def _with_model(knowledge: Knowledge, taken: Sequence[Params], rng: np.random.Generator) -> Suggestion | None:
    surrogate, space = knowledge.surrogate, knowledge.definition.space
    if surrogate is None:
        return None
    try:
        chosen, found = _decide(knowledge, surrogate, taken, rng)
    except FitError:
        return None
    if found is None:
        return None
    return Suggestion(space.decode(found.x[None])[0], source(surrogate, chosen, found, len(taken)))


def _decide(
    knowledge: Knowledge, surrogate: Surrogate, taken: Sequence[Params], rng: np.random.Generator
) -> tuple[Choice, Found | None]:
    """What decides on the next trial, and what it is; None where nothing is left to try."""
    if knowledge.definition.fidelity is not None:
        return at_target.decide(knowledge, surrogate, taken, rng)
    chosen = _choose(knowledge, surrogate, taken, rng)
    space = knowledge.definition.space
    return chosen, maximise(chosen.acquisition, space, rng, chosen.incumbents, knowledge.excluded(taken), chosen.box)


def _stop(knowledge: Knowledge, taken: Sequence[Params], number: int) -> Stop | None:
    """The Stop that is due because no trial is worth its cost."""
    if knowledge.definition.goal.cost is None:
        return None
    advice = _advise(knowledge, taken, number)
    return Stop(StopReason.GAIN, advice.why, advice.gain, advice.cost) if advice.pays is False else None


def _advise(knowledge: Knowledge, taken: Sequence[Params], number: int) -> Advice:
    surrogate, definition = knowledge.surrogate, knowledge.definition
    if surrogate is None:
        why = f"there is no model yet: {knowledge.results} of the {knowledge.needed} results that it needs are in"
        return Advice(None, None, None, None, why)
    rng = np.random.default_rng([definition.seed, number, 1])
    space, spread = definition.space, surrogate.objective.scale.spread
    try:
        chosen = choose_improvement(definition, surrogate, space.encode(taken), int(rng.integers(2**31)))
    except FitError:
        return Advice(None, None, None, None, "the expected improvement could not be computed")
    if chosen is None:
        return Advice(None, None, None, None, "no feasible configuration is known yet")
    found = maximise(chosen.acquisition, space, rng, chosen.incumbents, knowledge.excluded(taken))
    if found is None:
        return Advice(False, 0.0, None, None, "every configuration of the space has been tried")
    params = space.decode(found.x[None])[0]
    if definition.goal.cost is None or surrogate.cost is None:
        gain = gain_in_unit(surrogate.objective, chosen, found)
        cost_free = "trials have no cost" if surrogate.cost is None else "what trials cost has no price in that unit"
        return Advice(None, gain, None, params, f"one more trial is expected to gain {gain:.3g}; {cost_free}")
    cost = float(surrogate.cost.mean(found.x[None])[0]) * spread
    gain = math.exp(found.value) * cost
    pays = gain > cost
    why = (
        f"one more trial is expected to gain {gain:.3g} and to cost {cost:.3g}: it {'pays' if pays else 'does not pay'}"
    )
    return Advice(pays, gain, cost, params, why)
