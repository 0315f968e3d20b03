"""A sampler that brings this core to Optuna: ``optuna.create_study(sampler=SufficeSampler(seed=0))``.

Optuna's space is known only from what the objective asked for, so it is learned: the parameters of the completed
trials, and of those that come and go, which choice or number switches them on. A `Space` that is given is searched as
it is, its parameter constraints included. What remains unexplained is drawn independently, as Optuna's own samplers do.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from jaxtyping import Bool as Bools
from jaxtyping import Float64
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from suffice.optimizer import (
    Bool,
    Categorical,
    Constant,
    Float,
    Int,
    InvalidInput,
    Measurement,
    Objective,
    Space,
    Stop,
    Study,
    TimeSteps,
    Trial,
    TrialState,
)
from suffice.optimizer.expression import Expression
from suffice.optimizer.parameters import Parameter
from suffice.optimizer.space import Params

_ATTRIBUTE = "suffice:suggestion"  # what was suggested to a trial, so that other workers know before it asks for it
_ATTRIBUTE_LENGTH = 2000  # characters that every storage takes in one attribute

Values = dict[str, Any]  # per name a value as Optuna hands it out
Distributions = dict[str, BaseDistribution]


class SufficeSampler(BaseSampler):
    """Bayesian optimization by Suffice for Optuna studies, with one objective or several.

    ``space`` is a `Space` of the same parameters (see `distributions` and `suggest`); without it the space is learned
    from the completed trials. ``noise``, ``acquisition`` and ``seed`` are those of `suffice.optimizer.Study`: the same
    seed and the same trials give the same suggestions. Running trials count as pending, in every worker of the study.
    Constraints are what `trial.set_constraint` or ``constraints_func`` set (at most 0: kept). A failed trial is never
    repeated; with ``avoid_failures`` it also says that its configuration does not work, and the search keeps away.
    """

    def __init__(
        self,
        space: Space | None = None,
        *,
        noise: str | float = "auto",
        acquisition: str | Mapping[str, Any] = "auto",
        seed: int | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
        avoid_failures: bool = False,
        independent_sampler: BaseSampler | None = None,
    ) -> None:
        probe = Study(space or Space(x=Bool()), noise=noise, acquisition=acquisition, seed=seed)  # refuses bad options
        self._space = space
        self._options: dict[str, Any] = {"noise": probe.noise, "acquisition": acquisition, "seed": probe.seed}
        self._constraints_func = constraints_func
        self._avoid_failures = avoid_failures
        self._independent = independent_sampler or RandomSampler(seed=probe.seed % 2**32)
        self._lock = threading.Lock()
        self._learned: _Learned | None = None
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None, "_learned": None, "_loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()  # suggestions differ by the trial's number already

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
        if self._space is not None:
            return distributions(self._space)
        with self._lock:
            return dict(self._learn(study).distributions)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Distributions) -> Values:
        if not search_space or search_space.keys() <= _fixed(trial).keys():
            return {}
        with self._lock:
            view = self._view(study, search_space)
            if view is None:
                return {}
            answer = self._load(study, trial, view).suggest(1, first_number=trial.number)
            params = self._repeat(view.space, trial.number) if isinstance(answer, Stop) else answer[0].params
            values = view.from_core(params)
            _remember(study, trial, {n: search_space[n].to_internal_repr(v) for n, v in values.items()})
        return values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._independent.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: OptunaState, values: Sequence[float] | None
    ) -> None:
        if self._constraints_func is not None and state in (OptunaState.COMPLETE, OptunaState.PRUNED):
            bounded = [float(c) for c in self._constraints_func(trial)]
            if any(map(math.isnan, bounded)):
                raise InvalidInput("constraints_func", "numbers, not NaN", bounded)
            study._storage.set_trial_system_attr(trial._trial_id, "constraints", bounded)
        self._independent.after_trial(study, trial, state, values)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _repeat(self, space: Space, number: int) -> Params:
        """Any configuration: Optuna goes on when all have been tried."""
        rng = np.random.default_rng([self._options["seed"], number])
        return space.decode(space.sample(1, rng))[0]

    def _learn(self, study: optuna.Study) -> _Learned:
        completed = study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        key = (study.study_name, len(completed), completed[-1].number if completed else -1)
        if self._learned is None or self._learned.key != key:
            settled = _settled_distributions(completed)
            conditions = _conditions(completed, settled)
            self._learned = _Learned(key, {n: settled[n] for n in conditions}, conditions)
        return self._learned

    def _view(self, study: optuna.Study, search_space: Distributions) -> _View | None:
        """The core's space of ``search_space``, which may leave out parameters that someone else fixes."""
        if self._space is not None:
            return _View(
                _without_the_fixed(self._space, search_space), {n: n for n in search_space}, search_space, False
            )
        learned = self._learn(study)
        conditions = learned.conditions
        if search_space.keys() != learned.distributions.keys():
            completed = study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
            conditions = _conditions(completed, search_space)
        if not conditions:
            return None
        names = {name: f"x{i}" for i, name in enumerate(conditions)}
        parameters: dict[str, Parameter] = {}
        for name, condition in conditions.items():
            parameters[names[name]] = _parameter(search_space[name], condition.text(names) if condition else None)
        return _View(Space(parameters), names, {n: search_space[n] for n in conditions}, by_position=True)

    def _load(self, study: optuna.Study, trial: FrozenTrial, view: _View) -> Study:
        """A core study that knows every trial but this one; the last one goes on where it can."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        loaded = self._loaded
        if loaded is not None and not loaded.continues(study, view, trials):
            loaded = None
        news = [t for t in trials if loaded is None or t.number not in loaded.finished]
        bounded = {key for t in news if t.state is OptunaState.COMPLETE for key in t.constraints}
        if loaded is None or not bounded <= loaded.metrics.keys():
            bounded |= loaded.metrics.keys() if loaded is not None else set()
            metrics = {key: f"constraint{i}" for i, key in enumerate(sorted(bounded))}
            objectives = [Objective(f"value{i}", _direction(d)) for i, d in enumerate(study.directions)]
            limits = [f"{metric} <= 0" for metric in metrics.values()]
            core = Study(view.space, objectives, outcome_constraints=limits, **self._options)
            loaded, news = _Loaded(study.study_name, tuple(study.directions), view, metrics, core), trials
        failed = TrialState.INFEASIBLE if self._avoid_failures else TrialState.PRUNED  # either way not repeated
        loaded.core.load(_to_core(t, study.directions, loaded, failed) for t in news)
        loaded.finished.update(t.number for t in news if t.state.is_finished())
        self._loaded = loaded
        return loaded.core


# --- spaces -----------------------------------------------------------------------------------------------------------


def distributions(space: Space) -> Distributions:
    """Optuna's distributions of a space, without its constants and conditions.

    Raises InvalidInput for what Optuna cannot say: a step on a log scale.
    """
    return {n: _distribution(n, p) for n, p in space.parameters.items() if not isinstance(p, Constant)}


def suggest(trial: optuna.Trial, space: Space) -> Values:
    """One configuration of ``space`` from Optuna's ``trial.suggest_...``: the active parameters, constants included."""

    def ask(name: str, parameter: Parameter) -> Any:
        match _distribution(name, parameter) if not isinstance(parameter, Constant) else None:
            case FloatDistribution() as d:
                return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
            case IntDistribution() as d:
                return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
            case CategoricalDistribution() as d:
                return trial.suggest_categorical(name, d.choices)
            case _:
                assert isinstance(parameter, Constant)
                return parameter.value

    return _active(space, ask)


def _active(space: Space, value: Callable[[str, Parameter], Any]) -> Values:
    """``value`` of every active parameter, parents before the parameters whose conditions mention them."""
    waiting, found = dict(space.parameters), Values()
    while waiting:
        for name, parameter in list(waiting.items()):
            condition = None if parameter.active_if is None else Expression(parameter.active_if)
            if condition is not None and condition.names & waiting.keys():
                continue
            del waiting[name]
            if condition is None or (condition.names <= found.keys() and condition.holds(found)):
                found[name] = value(name, parameter)
    return found


def _distribution(name: str, parameter: Parameter) -> BaseDistribution:
    match parameter:
        case Float(low, high, log, step) if not (log and step is not None):
            return FloatDistribution(low, high, log=log, step=step)
        case Int(low, high, log, step) if not (log and step > 1):
            return IntDistribution(low, high, log=log, step=step)
        case Float() | Int():
            raise InvalidInput(f"parameters.{name}.step", "no step on a log scale, for Optuna", parameter.step)
        case Bool():
            return CategoricalDistribution([False, True])
        case Constant(value):
            return CategoricalDistribution([value])
        case TimeSteps():
            raise InvalidInput(
                f"parameters.{name}", "no sequence of time steps: Optuna's are single values", parameter.type
            )
        case _:
            return CategoricalDistribution(parameter.choices)


def _parameter(distribution: BaseDistribution, active_if: str | None) -> Parameter:
    """The core's parameter of a distribution; choices become their positions, since Optuna's may be anything."""
    match distribution:
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return Float(low, high, log=log, step=step, active_if=active_if)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return Int(low, high, log=log, step=step, active_if=active_if)
        case CategoricalDistribution(choices=choices):
            return Categorical(*range(len(choices)), active_if=active_if)
        case _:
            raise InvalidInput("distribution", "a float, int or categorical distribution", distribution)


def _without_the_fixed(space: Space, search_space: Distributions) -> Space:
    """The part of a given space that is searched; conditions on a parameter fixed elsewhere cannot be known to hold."""
    kept = {n: p for n, p in space.parameters.items() if n in search_space or isinstance(p, Constant)}
    try:
        return Space(kept, constraints=[c.text for c in space.constraints])
    except InvalidInput as error:
        fixed = sorted(space.parameters.keys() - kept.keys())
        expected = f"no condition on {fixed}, fixed outside the sampler ({error.problems[0].field})"
        raise InvalidInput("space", expected, str(error)) from None


@dataclass(frozen=True)
class _Condition:
    """When a parameter is there: its parent has one of ``values`` (``relation`` "in"), or is at least or at most it."""

    parent: str
    relation: str
    values: tuple[float, ...]

    def text(self, names: Mapping[str, str]) -> str:
        right = [int(v) for v in self.values] if self.relation == "in" else int(self.values[0])
        return f"{names[self.parent]} {self.relation} {right}"


def _settled_distributions(completed: Sequence[FrozenTrial]) -> Distributions:
    """Per parameter the distribution it has now; without those that changed with the newest trial, or are one value."""
    newest: dict[str, list[BaseDistribution]] = {}
    for t in reversed(completed):
        for name, distribution in t.distributions.items():
            if len(seen := newest.setdefault(name, [])) < 2:
                seen.append(distribution)
    first_seen = dict.fromkeys(name for t in completed for name in t.distributions)
    return {n: newest[n][0] for n in first_seen if newest[n][0] == newest[n][-1] and not newest[n][0].single()}


def _conditions(completed: Sequence[FrozenTrial], wanted: Distributions) -> dict[str, _Condition | None]:
    """What switches each of the wanted parameters on (None: always there); without those that nothing explains."""
    V = {n: np.array([_number(t, n) for t in completed]) for n in wanted}
    there = {n: ~np.isnan(v) for n, v in V.items()}
    found: dict[str, _Condition | None] = {n: None for n in wanted if there[n].all() or not there[n].any()}
    before = -1
    while len(found) > before:
        before = len(found)
        for child in [n for n in wanted if n not in found]:
            for parent, condition in list(found.items()):
                if not (there[parent] == there[child]).all():
                    condition = _explain(parent, wanted[parent], V[parent], there[child])
                if condition is not None:
                    found[child] = condition
                    break
    return {n: found[n] for n in wanted if n in found}


def _explain(
    parent: str, distribution: BaseDistribution, values: Float64[np.ndarray, " n"], there: Bools[np.ndarray, " n"]
) -> _Condition | None:
    """The condition on the parent's values (NaN: absent) that holds exactly where the child is there."""
    on, off = set(values[there]), set(values[~there & ~np.isnan(values)])
    if any(map(math.isnan, on)) or on & off:
        return None
    match distribution:
        case CategoricalDistribution():
            return _Condition(parent, "in", tuple(sorted(on)))
        case IntDistribution() if min(on) > max(off):
            return _Condition(parent, ">=", (min(on),))
        case IntDistribution() if max(on) < min(off):
            return _Condition(parent, "<=", (max(on),))
        case _:
            return None


def _number(trial: FrozenTrial, name: str) -> float:
    """A parameter's value as a number (of a choice: its position); NaN where the trial has none."""
    return trial.distributions[name].to_internal_repr(trial.params[name]) if name in trial.params else math.nan


# --- trials -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Learned:
    """The space that the completed trials show, and which ones those were."""

    key: tuple[str, int, int]
    distributions: Distributions
    conditions: dict[str, _Condition | None]


@dataclass(frozen=True)
class _View:
    """Optuna's parameters as the core searches them: under ``names``, choices ``by_position`` or as they are."""

    space: Space
    names: Mapping[str, str]
    distributions: Distributions
    by_position: bool

    def from_core(self, params: Mapping[str, Any]) -> Values:
        found = {n: params[core] for n, core in self.names.items() if core in params}
        return {n: self.distributions[n].to_external_repr(v) if self._position(n) else v for n, v in found.items()}

    def to_core(self, values: Mapping[str, Any]) -> Params | None:
        """The configuration; None when a parameter is missing or lies outside the space."""
        optunas = {core: n for n, core in self.names.items()}

        def value(core: str, parameter: Parameter) -> Any:
            if isinstance(parameter, Constant):
                return parameter.value
            v = values[optunas[core]]
            return int(self.distributions[optunas[core]].to_internal_repr(v)) if self._position(optunas[core]) else v

        try:
            return self.space.check(_active(self.space, value))
        except (KeyError, InvalidInput):
            return None

    def _position(self, name: str) -> bool:
        return self.by_position and isinstance(self.distributions[name], CategoricalDistribution)


@dataclass
class _Loaded:
    """A core study and the numbers of the trials that it has seen to their end; ``metrics`` by constraint."""

    study_name: str
    directions: tuple[StudyDirection, ...]
    view: _View
    metrics: Mapping[str, str]
    core: Study
    finished: set[int] = field(default_factory=set)

    def continues(self, study: optuna.Study, view: _View, trials: Sequence[FrozenTrial]) -> bool:
        """Whether it knows nothing that ``trials``, the present ones, do not say."""
        same = (self.study_name, self.directions, self.view) == (study.study_name, tuple(study.directions), view)
        return same and self.finished <= {t.number for t in trials}


_OPEN = {OptunaState.RUNNING: TrialState.RUNNING, OptunaState.WAITING: TrialState.WAITING}


def _to_core(trial: FrozenTrial, directions: Sequence[StudyDirection], loaded: _Loaded, failed: TrialState) -> Trial:
    """The trial as the core's; CANCELLED, which says nothing, where its parameters do not fit the present space."""
    params = loaded.view.to_core(_values(trial, loaded.view))
    if params is None:
        return Trial(trial.number, {}, TrialState.CANCELLED)
    several = len(directions) > 1
    finite = {} if several else {s: v for s, v in trial.intermediate_values.items() if math.isfinite(v)}
    reports = tuple(Measurement("value0", v, step=s) for s, v in finite.items())
    match trial.state:
        case OptunaState.COMPLETE:
            return _completed(Trial(trial.number, params, measurements=reports), trial, directions, loaded.metrics)
        case OptunaState.PRUNED:
            return Trial(trial.number, params, TrialState.PRUNED, reports)
        case OptunaState.FAIL:
            return Trial(trial.number, params, failed)
        case _:
            return Trial(trial.number, params, _OPEN[trial.state], reports)


def _completed(
    running: Trial, trial: FrozenTrial, directions: Sequence[StudyDirection], metrics: Mapping[str, str]
) -> Trial:
    """With its result: infinitely bad ones say that the configuration does not work, infinitely good ones nothing."""
    told = {f"value{i}": v for i, v in enumerate(trial.values)}
    worst = {f"value{i}": -math.inf if d is StudyDirection.MAXIMIZE else math.inf for i, d in enumerate(directions)}
    bounded = {metrics[key]: v for key, v in trial.constraints.items()}
    if math.inf in bounded.values() or any(v == worst[metric] for metric, v in told.items()):
        return replace(running, state=TrialState.INFEASIBLE)
    if any(math.isinf(v) for v in told.values()):
        return replace(running, state=TrialState.PRUNED)
    finite = {metric: v for metric, v in (told | bounded).items() if math.isfinite(v)}
    results = tuple(Measurement(metric, v) for metric, v in finite.items())
    return replace(running, state=TrialState.COMPLETED, measurements=running.measurements + results)


def _direction(direction: StudyDirection) -> Any:
    return "maximize" if direction is StudyDirection.MAXIMIZE else "minimize"


def _fixed(trial: FrozenTrial) -> Values:
    """What `study.enqueue_trial` fixed."""
    fixed: Values = trial.system_attrs.get("fixed_params", {})
    return fixed


def _values(trial: FrozenTrial, view: _View) -> Values:
    """A trial's parameters; of one that runs also those that it will get but has not asked for yet."""
    if trial.state.is_finished():
        return trial.params
    parts = [v for k, v in sorted(trial.system_attrs.items()) if k.startswith(f"{_ATTRIBUTE}:")]
    suggested = json.loads("".join(parts) or "{}")
    known = {n: view.distributions[n].to_external_repr(v) for n, v in suggested.items() if n in view.distributions}
    return {**known, **_fixed(trial), **trial.params}


def _remember(study: optuna.Study, trial: FrozenTrial, suggested: Mapping[str, float]) -> None:
    text = json.dumps(suggested)
    for part, start in enumerate(range(0, len(text), _ATTRIBUTE_LENGTH)):
        piece = text[start : start + _ATTRIBUTE_LENGTH]
        study._storage.set_trial_system_attr(trial._trial_id, f"{_ATTRIBUTE}:{part:03d}", piece)
