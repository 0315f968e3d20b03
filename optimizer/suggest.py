"""From what is known to what to try next: the quasi-random start, the acquisition, batches and pending trials.

Everything here is a pure function of the definition, the trials and the seed, so a study that is loaded again asks the
same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import qmc

from .acquisition import Acquisition, LogFeasibility, Situation, Sum
from .decision import Stop, StopReason
from .fitting import Prior
from .methods import METHODS, AcquisitionChoice
from .models import FitError
from .objective import Goal
from .search import Exclusion, Found, first_new, maximise
from .space import Space
from .surrogate import MetricModel, Noise, Surrogate, fit_surrogate, measured
from .threads import one_blas_thread
from .trial import Source, Suggestion, Trial, TrialState

SOBOL_BLOCK = 64
INCUMBENTS = 16  # base points whose neighbourhoods are searched


@dataclass(frozen=True)
class Definition:
    """What a study is: everything that does not change while it runs."""

    space: Space
    goal: Goal
    acquisition: AcquisitionChoice
    noise: Noise
    seed: int

    @property
    def design_size(self) -> int:
        """How many quasi-random trials come before the first model."""
        searched = sum(p.cardinality > 1 for p in self.space.parameters.values())
        return min(4 + searched // 2, 16)


@dataclass(frozen=True)
class Knowledge:
    """The trials, sorted by what they mean for the next suggestion."""

    trials: tuple[Trial, ...]
    surrogate: Surrogate | None
    failure: tuple[str, ...]  # why there is no surrogate although there are enough results

    @property
    def pending(self) -> list[Trial]:
        return [t for t in self.trials if t.state.open]


@one_blas_thread
def learn(definition: Definition, trials: Sequence[Trial], earlier: Knowledge | None = None) -> Knowledge:
    """The models of what the trials say, once enough have a result; ``earlier`` ones where nothing new was told."""
    if earlier is not None and earlier.surrogate is not None and _told(trials) == _told(earlier.trials):
        return Knowledge(tuple(trials), earlier.surrogate, earlier.failure)
    results = len(measured(trials, definition.goal.objective.metric))
    if results < _needed(definition, trials):
        return Knowledge(tuple(trials), None, ())
    try:
        surrogate = fit_surrogate(definition.space, definition.goal, definition.noise, trials, Prior())
    except FitError:
        return Knowledge(tuple(trials), None, ("wider noise", "hyperparameters from the priors", "quasi-random"))
    return Knowledge(tuple(trials), surrogate, ())


def _told(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t.state.informative]


def _needed(definition: Definition, trials: Sequence[Trial]) -> int:
    """Results needed for a model: the whole design, or half of it when the other half is still running."""
    size = definition.design_size
    issued = sum(t.state.open or t.state.informative for t in trials)
    return max(2, size // 2) if issued >= size else size


@one_blas_thread
def suggest(definition: Definition, knowledge: Knowledge, count: int, first_number: int) -> list[Suggestion] | Stop:
    """``count`` configurations, chosen jointly; fewer when a finite space runs out, and Stop when nothing is left."""
    suggestions: list[Suggestion] = []
    pending = [t.params for t in knowledge.pending]
    for number in range(first_number, first_number + count):
        taken = pending + [s.params for s in suggestions]
        rng = np.random.default_rng([definition.seed, number])
        step = _with_model(definition, knowledge, taken, rng) or _without_model(definition, knowledge, taken, rng)
        if step is None:
            break
        suggestions.append(step)
    if not suggestions:
        return Stop(StopReason.EXHAUSTED, "every configuration of the space has been tried", gain=0.0)
    return suggestions


def _excluded(definition: Definition, knowledge: Knowledge, taken: list[dict[str, object]]) -> Exclusion:
    """What must not be suggested again: everything tried or pending; with noise, only failures (a repeat can pay)."""
    noisy = knowledge.surrogate is not None and knowledge.surrogate.objective.noisy
    repeatable = {TrialState.COMPLETED} if noisy else set()
    used = [t.params for t in knowledge.trials if t.state.informative and t.state not in repeatable]
    rows = definition.space.encode([*used, *([] if noisy else taken)])
    return Exclusion(rows)


# --- before there is a model ------------------------------------------------------------------------------------------


def _without_model(
    definition: Definition, knowledge: Knowledge, taken: list[dict[str, object]], rng: np.random.Generator
) -> Suggestion | None:
    space = definition.space
    excluded = _excluded(definition, knowledge, taken)
    x = first_new(space, _sobol(definition), excluded)
    if x is None and (math.isinf(space.cardinality) or space.cardinality > 4096):
        X = space.sample(SOBOL_BLOCK, rng)
        X = X[excluded.allows(X)]
        x = X[0] if len(X) else None
    if x is None:
        return None
    results = len(measured(knowledge.trials, definition.goal.objective.metric))
    why = (
        "the model could not be fitted"
        if knowledge.failure
        else f"{results} of the {_needed(definition, knowledge.trials)} results that a model needs are in"
    )
    return Suggestion(space.decode(x[None])[0], Source("quasi-random", why, results, len(taken), knowledge.failure))


def _sobol(definition: Definition) -> Callable[[int], Float64[np.ndarray, "n d"]]:
    engine = qmc.Sobol(len(definition.space.parameters), rng=definition.seed)

    def block(_: int) -> Float64[np.ndarray, "n d"]:
        return definition.space.from_uniform(np.minimum(engine.random(SOBOL_BLOCK), 1 - 1e-12))

    return block


# --- with a model -----------------------------------------------------------------------------------------------------


def _with_model(
    definition: Definition, knowledge: Knowledge, taken: list[dict[str, object]], rng: np.random.Generator
) -> Suggestion | None:
    surrogate = knowledge.surrogate
    if surrogate is None:
        return None
    space = definition.space
    try:
        chosen = _choose(definition, surrogate, space.encode(taken), int(rng.integers(2**31)))
    except FitError:
        return None
    found = maximise(chosen.acquisition, space, rng, chosen.incumbents, _excluded(definition, knowledge, taken))
    if found is None:
        return None
    return Suggestion(space.decode(found.x[None])[0], _source(surrogate, chosen, found, len(taken)))


@dataclass(frozen=True)
class _Choice:
    acquisition: Acquisition
    method: str
    why: str
    incumbents: np.ndarray  # rows near which to search
    improvement: bool  # whether exp(acquisition) is a gain in standardised units
    best: float  # the standardised value to improve on


def _choose(definition: Definition, surrogate: Surrogate, pending: np.ndarray, seed: int) -> _Choice:
    model = surrogate.objective
    observed = np.unique(model.gp.data.X, axis=0)
    base = np.concatenate([observed, pending[~_repeated(pending, observed)]])
    mean, _ = model.gp.posterior(base)
    feasible = surrogate.feasible(base)
    if not feasible.any():
        order = np.argsort(-mean)[:INCUMBENTS]
        why = "no feasible configuration is known yet"
        return _Choice(
            LogFeasibility(list(surrogate.feasibility)),
            "probability_of_feasibility",
            why,
            base[order],
            False,
            float(mean.max()),
        )
    name, why = _method(definition.acquisition.name, model.noisy, len(pending))
    situation = Situation(model.gp, base, feasible, pending, model.noisy, definition.space, seed)
    acquisition = METHODS[name].build(situation, definition.acquisition.options)
    if surrogate.feasibility:
        acquisition = Sum(acquisition, LogFeasibility(list(surrogate.feasibility)))
    order = np.argsort(-np.where(feasible, mean, mean - 1e6))[:INCUMBENTS]
    return _Choice(acquisition, name, why, base[order], METHODS[name].gain, float(mean[feasible].max()))


def _method(wanted: str, noisy: bool, pending: int) -> tuple[str, str]:
    if wanted != "auto":
        return wanted, "chosen by the study"
    if noisy:
        return "noisy_expected_improvement", "measurements are noisy"
    if pending:
        return "noisy_expected_improvement", f"{pending} pending trial{'s' if pending > 1 else ''}"
    return "expected_improvement", "measurements are exact and nothing is pending"


def _repeated(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which rows are among the known ones or repeat an earlier row: they add nothing to the base points."""
    seen = {bytes(np.round(k, 9) + 0.0) for k in known}
    result = np.zeros(len(rows), dtype=bool)
    for i, row in enumerate(rows):
        key = bytes(np.round(row, 9) + 0.0)
        result[i] = key in seen
        seen.add(key)
    return result


def _gain(model: MetricModel, chosen: _Choice, found: Found) -> float:
    """exp of the acquisition value, from standardised units into the objective's, as an improvement there converts."""
    mean, sd = model.gp.posterior(found.x[None])
    rise, rise_in_unit = model.scale.improvement(float(mean[0]), float(sd[0]), chosen.best)
    ratio = rise_in_unit / rise if rise > 0 else float(1.0 / model.scale.slope(model.scale.backward(mean, sd)[0])[0])
    return math.exp(found.value) * ratio


def _source(surrogate: Surrogate, chosen: _Choice, found: Found, pending: int) -> Source:
    mean, sd = surrogate.objective.predict(found.x[None])
    gain = _gain(surrogate.objective, chosen, found) if chosen.improvement else None
    return Source(
        method=chosen.method,
        why=chosen.why,
        observations=surrogate.observations,
        pending=pending,
        fallbacks=surrogate.fallbacks,
        mean=float(mean[0]),
        sd=float(sd[0]),
        gain=gain,
    )
