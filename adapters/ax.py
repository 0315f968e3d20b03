"""Ax beside the core: its experiments read and written, its analyses, its stopping policies, its generator to compare.

Ax is imported inside the functions, since that takes seconds and some 160 MiB: they belong into a worker, never onto
the path of a request. The policies can be checked anywhere.
"""

from __future__ import annotations

import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from suffice.optimizer import (
    Bool,
    Categorical,
    Constant,
    Float,
    Int,
    InvalidInput,
    Measurement,
    NotFound,
    Objective,
    Ordinal,
    Source,
    Space,
    Stop,
    StopReason,
    Study,
    Suggestion,
    Trial,
    TrialState,
)
from suffice.optimizer.expression import Expression
from suffice.optimizer.methods import Option
from suffice.optimizer.parameters import Parameter
from suffice.optimizer.space import Params

if TYPE_CHECKING:
    from ax.core.experiment import Experiment
    from ax.core.optimization_config import OptimizationConfig
    from ax.core.parameter import ChoiceParameter as AxChoice
    from ax.core.parameter import Parameter as AxParameter
    from ax.core.parameter import RangeParameter as AxRange
    from ax.core.search_space import SearchSpace
    from ax.core.trial import Trial as AxTrial

_OURS = "suffice"  # the key of an Ax trial's properties that holds the trial it was made from
_CHOICES = 1000  # values of a grid that Ax takes as choices
_STATUSES = {
    TrialState.WAITING: "CANDIDATE",
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETED: "COMPLETED",
    TrialState.FAILED: "FAILED",
    TrialState.EXPIRED: "FAILED",
    TrialState.INFEASIBLE: "ABANDONED",  # not to be run again
    TrialState.PRUNED: "EARLY_STOPPED",
    TrialState.CANCELLED: "STALE",  # never run, may be suggested again
}
_STATES = {_STATUSES[state]: state for state in reversed(_STATUSES)} | {
    "STAGED": TrialState.RUNNING,
    "DISPATCHED": TrialState.RUNNING,
}
Row = tuple[str, float, float | None, float | None]  # metric, value, standard error, step


# --- to Ax ------------------------------------------------------------------------------------------------------------


def to_ax(study: Study, *, relaxed: bool = False) -> Experiment:
    """The study as an Ax experiment: trial i there is the i-th by number here.

    ``relaxed`` leaves out parameter constraints and conditions, which only matter to who generates trials; parameters
    are then always there, at the centre where they were inactive. Otherwise InvalidInput names what Ax cannot express:
    conditions other than on one choice of one parameter, constraints that are not linear or on log scales or grids.
    """
    with _quiet():
        from ax.api.client import Client
        from ax.core.data import Data, DataRow
        from ax.core.experiment import Experiment

        client = Client()
        experiment = Experiment(name="suffice", search_space=_search_space(study.space, relaxed))
        client.set_experiment(experiment)
        _configure(client.configure_optimization, study)
        rows: list[DataRow] = []
        for trial in study.trials:
            ax_trial = _add_trial(experiment, study, trial, relaxed)
            name = ax_trial.arms[0].name
            for metric, value, sem, step in _rows(trial, study.noise):
                se = math.nan if sem is None else sem
                rows.append(DataRow(ax_trial.index, name, metric, metric, value, se, step))
        if rows:
            experiment.attach_data(Data(data_rows=rows))
        return experiment


def to_snapshot(study: Study) -> dict[str, Any]:
    """The study as Ax's ``Client.save_to_json_file`` writes it; ``Client.load_from_json_file`` goes on from there."""
    experiment = to_ax(study)
    with _quiet():
        from ax.storage.json_store.encoder import object_to_json

        encoded = object_to_json(experiment)
    # Keys as JSON has them, as if it had come from a file.
    snapshot: dict[str, Any] = json.loads(json.dumps({"_type": "Client", "experiment": encoded}))
    return snapshot | {"generation_strategy": None}


def _search_space(space: Space, relaxed: bool) -> SearchSpace:
    from ax.core.parameter_constraint import ParameterConstraint
    from ax.core.search_space import SearchSpace
    from ax.exceptions.core import AxError

    dependents: dict[str, dict[Any, list[str]]] = {}
    for name, p in space.parameters.items():
        if p.active_if is not None and not relaxed:
            parent, choice = _switch(space, name, p.active_if)
            dependents.setdefault(parent, {}).setdefault(choice, []).append(name)
    parameters = [_to_parameter(name, p, dependents.get(name)) for name, p in space.parameters.items()]
    constraints: list[ParameterConstraint] = []
    for i, constraint in enumerate(() if relaxed else space.constraints):
        try:
            kind = "equality" if constraint.equated else "inequality"
            constraints.append(ParameterConstraint(**{kind: constraint.text}))
            SearchSpace(parameters, constraints)  # refuses those on log scales and choices
        except (AxError, ValueError, TypeError) as error:
            expected = f"linear in plain numbers, without log or step, for Ax ({error})"
            raise InvalidInput(f"parameter_constraints.{i}", expected, constraint.text) from None
    return SearchSpace(parameters, constraints)


def _switch(space: Space, name: str, active_if: str) -> tuple[str, Any]:
    """The one choice of one parameter at which ``name`` is active."""
    condition = Expression(active_if)
    parent = min(condition.names)
    p = space.parameters[parent]
    choices = p.choices if isinstance(p, Categorical | Ordinal) else (False, True) if isinstance(p, Bool) else ()
    on = [choice for choice in choices if len(condition.names) == 1 and condition.holds({parent: choice})]
    if len(on) != 1:
        raise InvalidInput(f"parameters.{name}.active_if", "one choice of one parameter, for Ax", active_if)
    return parent, on[0]


def _to_parameter(name: str, p: Parameter, dependents: dict[Any, list[str]] | None) -> AxParameter:
    from ax.core.parameter import ChoiceParameter, FixedParameter, ParameterType, RangeParameter

    match p:
        case Float(low, high, log, None):
            return RangeParameter(name, ParameterType.FLOAT, low, high, log_scale=log)
        case Int(low, high, log, 1):
            return RangeParameter(name, ParameterType.INT, low, high, log_scale=log)
        case Constant(value):
            return FixedParameter(name, _type([value], f"parameters.{name}.value"), value)
        case Bool():
            values: list[Any] = [False, True]
        case Float() | Int():
            if p.cardinality > _CHOICES:
                raise InvalidInput(f"parameters.{name}.step", f"at most {_CHOICES} values, for Ax", p.step)
            values = [p.to_native(v) for v in p.grid()]
        case _:
            values = list(p.choices)
    ordered = len(values) == 2 or not isinstance(p, Categorical)
    numbers = all(isinstance(v, int | float) for v in values)
    if ordered and numbers and len(values) > 2 and values != sorted(values):
        raise InvalidInput(f"parameters.{name}.choices", "numbers in rising order, for Ax", values)
    return ChoiceParameter(
        name,
        _type(values, f"parameters.{name}.choices"),
        values,
        is_ordered=ordered,
        sort_values=ordered and numbers,
        log_scale=isinstance(p, Float | Int) and p.log,
        dependents=dependents,
    )


def _type(values: Sequence[Any], field: str) -> Any:
    from ax.core.parameter import ParameterType

    kinds = {bool: ParameterType.BOOL, int: ParameterType.INT, float: ParameterType.FLOAT, str: ParameterType.STRING}
    found = {type(v) for v in values}
    if found == {int, float}:
        return ParameterType.FLOAT
    if len(found) > 1:
        raise InvalidInput(field, "values of one type, for Ax", list(values))
    return kinds[found.pop()]


def _configure(configure: Callable[..., None], study: Study) -> None:
    from ax.exceptions.core import AxError

    objectives = study.goal.objectives
    metrics = [o.metric for o in objectives]
    limits = [str(c) for c in study.goal.outcome_constraints]
    for i, c in enumerate(study.goal.outcome_constraints):
        if c.metric in metrics:
            raise InvalidInput(f"outcome_constraints.{i}", "a metric that is no objective, for Ax", str(c))
    limits += [
        f"{o.metric} {'>=' if o.sign > 0 else '<='} {o.reference_point!r}"
        for o in objectives
        if len(objectives) > 1 and o.reference_point is not None
    ]
    for i, metric in enumerate(study.goal.metrics):
        if "-" in metric:  # Ax reads its objectives and constraints as arithmetic
            raise InvalidInput(f"metrics.{i}", "a name without -, for Ax", metric)
    try:
        configure(", ".join(("" if o.sign > 0 else "-") + o.metric for o in objectives), limits or None)
    except (AxError, ValueError, TypeError) as error:
        raise InvalidInput("objectives", f"what Ax can express ({error})", metrics) from None


def _add_trial(experiment: Experiment, study: Study, trial: Trial, relaxed: bool) -> AxTrial:
    from ax.core.arm import Arm
    from ax.core.trial_status import TrialStatus

    params = _filled(study.space, trial.params) if relaxed else dict(trial.params)
    added: AxTrial = experiment.new_trial().add_arm(Arm(parameters=params))
    added._properties[_OURS] = trial.to_json()
    if trial.state is not TrialState.WAITING:
        added.mark_running(no_runner_required=True)
        added.mark_as(TrialStatus[_STATUSES[trial.state]], unsafe=True, reason=trial.reason)
    return added


def _filled(space: Space, params: Mapping[str, Any]) -> Params:
    """``params`` with what is inactive at the centre of its range, as the core's models see it."""
    centre = {n: p.to_native(p.from_unit(np.full((1, p.width), 0.5))[0]) for n, p in space.parameters.items()}
    return {**centre, **params}


def _rows(trial: Trial, noise: str | float) -> list[Row]:
    """What was measured, replicates averaged; the standard error is None where it is unknown."""
    groups: dict[tuple[str, int | None], list[Measurement]] = {}
    for m in trial.measurements:
        groups.setdefault((m.metric, m.step), []).append(m)
    known = 0.0 if noise == "none" else None if isinstance(noise, str) else noise
    rows: list[Row] = []
    for (metric, step), group in groups.items():
        errors = [known if m.stderr is None else m.stderr for m in group]
        sem = None if None in errors else math.sqrt(sum(e * e for e in errors if e is not None)) / len(group)
        rows.append((metric, sum(m.value for m in group) / len(group), sem, None if step is None else float(step)))
    return rows


# --- from Ax ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imported:
    """A study read from Ax, and in words what Suffice has no place for."""

    study: Study
    left_out: tuple[str, ...] = ()


def from_snapshot(snapshot: Mapping[str, Any]) -> Imported:
    """The study in what Ax's ``Client.save_to_json_file`` (or `save_experiment`) wrote.

    Raises InvalidInput for what is no such file, or naming what a study cannot express. Expressions are checked before
    Ax sees them, because it evaluates them.
    """
    found = snapshot.get("experiment", snapshot) if isinstance(snapshot, Mapping) else None
    if not isinstance(found, Mapping) or found.get("__type") != "Experiment":
        raise InvalidInput("snapshot", "a JSON snapshot of an Ax experiment", type(snapshot).__name__)
    _refuse_code(found)
    plain = {**found, "runner": None, "auxiliary_experiments_by_purpose": {}}
    with _quiet():
        from ax.core.experiment import Experiment
        from ax.storage.json_store.decoder import object_from_json

        try:
            experiment = object_from_json(json.loads(json.dumps(plain)))
        except Exception as error:  # Ax raises whatever a missing or strange field leads to
            raise InvalidInput(
                "snapshot", "an experiment that Ax can read", f"{type(error).__name__}: {error}"
            ) from None
    if not isinstance(experiment, Experiment):
        raise InvalidInput("snapshot", "an experiment of a single type", type(experiment).__name__)
    return from_ax(experiment)


def from_ax(experiment: Experiment) -> Imported:
    """The study of an Ax experiment: space, goal, and every trial with its data and state under its index.

    Ax's generation strategy stays behind. An abandoned trial becomes INFEASIBLE, an early-stopped one PRUNED, a stale
    one CANCELLED, unless it was made by `to_ax` and not changed since: then it is restored as it was. A completed
    trial whose objective is not finite becomes FAILED. InvalidInput names what a study cannot express.
    """
    if experiment.optimization_config is None:
        raise InvalidInput("experiment.optimization_config", "an objective", None)
    with _quiet():
        return _import(experiment, experiment.optimization_config)


def _import(experiment: Experiment, config: OptimizationConfig) -> Imported:
    objectives, limits = _goal(config)
    study = Study(_space(experiment.search_space), objectives, outcome_constraints=limits)
    left_out: list[str] = []
    if experiment.status_quo is not None:
        left_out.append(f"the status quo arm {experiment.status_quo.parameters}")
    rows: dict[int, list[Row]] = {}
    for r in experiment.lookup_data().full_df.to_dict("records"):
        number, step = int(r["trial_index"]), _or_none(r.get("step"))
        rows.setdefault(number, []).append((str(r["metric_name"]), float(r["mean"]), _or_none(r["sem"]), step))
    strange = {metric for many in rows.values() for metric, *_ in many} - set(study.goal.metrics)
    left_out += [f"the metric {metric}: neither objective nor constraint uses it" for metric in sorted(strange)]
    for index, ax_trial in sorted(experiment.trials.items()):
        known = [row for row in rows.get(index, []) if row[0] not in strange]
        study.load([_from_trial(study, ax_trial, known, left_out)])
    return Imported(study, tuple(left_out))


def _refuse_code(data: Any) -> None:
    """Ax hands these strings to SymPy, which runs them as Python: none may call anything."""
    expressions = ("expression", "expression_str", "inequality", "equality", "constraint_str", "_constraint_str")
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in expressions and isinstance(value, str):
                if "**" in value or not re.fullmatch(r"[\w\s.,:/|%<>=*+-]*", value):
                    raise InvalidInput(f"snapshot.{key}", "plain linear arithmetic", value)
            else:
                _refuse_code(value)
    elif isinstance(data, list | tuple):
        for item in data:
            _refuse_code(item)


def _space(search_space: SearchSpace) -> Space:
    parents: dict[str, str] = {}
    for name, p in search_space.parameters.items():
        for choice, children in (p.dependents if p.is_hierarchical else {}).items():
            parents |= dict.fromkeys(children, f"{name} == {choice!r}")
    parameters = {n: _from_parameter(n, p, parents.get(n)) for n, p in search_space.parameters.items()}
    constraints: list[str] = []
    for c in search_space.parameter_constraints:
        terms = " + ".join(f"{weight!r} * {name}" for name, weight in c.constraint_dict.items())
        constraints.append(f"{terms} {'==' if c.is_equality else '<='} {c.bound!r}")
    return Space(parameters, constraints=constraints)


def _from_parameter(name: str, p: AxParameter, active_if: str | None) -> Parameter:
    from ax.core.parameter import ChoiceParameter, FixedParameter, RangeParameter

    field = f"parameters.{name}"
    for option in ("is_fidelity", "logit_scale", "digits", "is_task"):
        if getattr(p, option, None):
            raise InvalidInput(f"{field}.{option}", "not set: there is nothing like it here", getattr(p, option))
    match p:
        case RangeParameter():
            return _from_range(p, active_if)
        case FixedParameter():
            return Constant(p.value, active_if=active_if)  # type: ignore[arg-type]  # checked by Constant
        case ChoiceParameter():
            return _from_choices(p, active_if)
        case _:
            raise InvalidInput(field, "a range, choice or fixed parameter", type(p).__name__)


def _from_range(p: AxRange, active_if: str | None) -> Parameter:
    whole = p.parameter_type.name == "INT"
    kind = Int if whole else Float
    return kind(p.lower, p.upper, log=p.log_scale, active_if=active_if)  # type: ignore[arg-type]


def _from_choices(p: AxChoice, active_if: str | None) -> Parameter:
    """Evenly spaced ordered numbers are a grid, as the core and Ax treat them alike; two choices have no order."""
    values: list[Any] = list(p.values)
    if set(values) == {False, True} and p.parameter_type.name == "BOOL":
        return Bool(active_if=active_if)
    if len(values) == 1:
        return Constant(values[0], active_if=active_if)
    if len(values) == 2 or not p.is_ordered:
        return Categorical(*values, active_if=active_if)
    if p.is_numeric and p.parameter_type.name != "BOOL" and not p.log_scale:
        gaps = np.diff(np.array(values, dtype=float))
        if gaps[0] > 0 and np.allclose(gaps, gaps[0], rtol=1e-9, atol=0.0):
            whole = p.parameter_type.name == "INT"
            step = values[1] - values[0]
            grid = Int if whole else Float
            return grid(values[0], values[-1], step=step, active_if=active_if)
    return Ordinal(*values, active_if=active_if)


def _goal(config: OptimizationConfig) -> tuple[list[Objective], list[str]]:
    if config.objective.is_scalarized_objective:
        raise InvalidInput("objectives", "no weighted sum of metrics", config.objective.expression)
    names, weights = config.objective.metric_names, [w for _, w in config.objective.metric_weights]
    limits: list[str] = []
    references: dict[str, float] = {}
    for i, c in enumerate(config.all_constraints):
        if c.relative or len(c.metric_names) != 1:
            raise InvalidInput(f"outcome_constraints.{i}", "an absolute bound on one metric", str(c))
        (metric,), (weight,) = c.metric_names, [w for _, w in c.metric_weights]
        if weight == 0:
            raise InvalidInput(f"outcome_constraints.{i}", "a bound on a metric", str(c))
        upper, bound = (c.op.name == "LEQ") == (weight > 0), c.bound / weight
        if metric in names:
            references[metric] = bound
        else:
            limits.append(f"{metric} {'<=' if upper else '>='} {bound!r}")
    directions: list[Literal["maximize", "minimize"]] = ["maximize" if w > 0 else "minimize" for w in weights]
    return [Objective(m, d, references.get(m)) for m, d in zip(names, directions, strict=True)], limits


def _from_trial(study: Study, ax_trial: Any, rows: list[Row], left_out: list[str]) -> Trial:
    """An Ax trial as a trial; what cannot be kept of it is added to ``left_out``."""
    index, field = ax_trial.index, f"trials.{ax_trial.index}"
    if len(ax_trial.arms) != 1:
        raise InvalidInput(field, "one arm: batches are evaluated trial by trial here", len(ax_trial.arms))
    params = study.space.check(_near_bounds(study.space, ax_trial.arms[0].parameters), f"{field}.parameters")
    status = ax_trial.status.name
    if (ours := ax_trial._properties.get(_OURS)) is not None:
        trial = replace(Trial.from_json(ours), number=index)
        if _STATUSES[trial.state] == status and trial.params == params and _alike(_rows(trial, study.noise), rows):
            return trial
    values = [row for row in rows if math.isfinite(row[1])]
    left_out += [f"trial {index}: {metric} = {value}" for metric, value, *_ in rows if not math.isfinite(value)]
    measurements: list[Measurement] = []
    for metric, value, sem, step in values:
        if step is not None and (step < 0 or not step.is_integer()):
            raise InvalidInput(f"{field}.step", "whole numbers of at least 0", step)
        measurements.append(Measurement(metric, value, sem, None if step is None else int(step)))
    trial = Trial(index, params, _STATES[status], tuple(measurements), Source("added"), ax_trial.status_reason)
    missing = [o.metric for o in study.goal.objectives if o.metric not in trial.values]
    if trial.state is TrialState.COMPLETED and missing:
        return replace(trial, state=TrialState.FAILED, reason=f"no finite {missing[0]}")
    return trial


def _alike(ours: Sequence[Row], theirs: Sequence[Row]) -> bool:
    """Whether the same was measured, up to the ten decimals that Ax writes into a snapshot."""
    at = {(metric, step): (value, sem) for metric, value, sem, step in theirs}

    def near(a: float | None, b: float | None) -> bool:
        return a is b if a is None or b is None else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-10)

    return len(ours) == len(theirs) and all(
        (metric, step) in at and near(value, at[metric, step][0]) and near(sem, at[metric, step][1])
        for metric, value, sem, step in ours
    )


def _near_bounds(space: Space, params: Mapping[str, Any]) -> Params:
    """Numbers that rounding carried past a bound, on it."""
    moved = dict(params)
    for name, value in params.items():
        p = space.parameters.get(name)
        if isinstance(p, Float) and p.step is None and isinstance(value, float):
            slack = 1e-9 * (p.high - p.low)
            if p.low - slack <= value <= p.high + slack:
                moved[name] = min(max(value, p.low), p.high)
    return moved


def _or_none(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


# --- analyses ---------------------------------------------------------------------------------------------------------

Analysis = Literal["sensitivity", "cross_validation", "contour"]
ANALYSES: tuple[Analysis, ...] = ("sensitivity", "cross_validation", "contour")


@dataclass(frozen=True)
class Card:
    """The result of one of Ax's analyses: a Plotly figure, and the table behind it; without a figure, why not."""

    name: str
    title: str
    subtitle: str
    plotly: dict[str, Any] | None
    table: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def analyse(study: Study, analyses: Sequence[Analysis] = ANALYSES, metric: str | None = None) -> list[Card]:
    """Ax's analyses of Ax's model of what was measured: of ``metric``, by default of every metric of the study.

    Contours are those of the two numbers that matter most to the metric. Takes seconds to minutes. Raises NotFound
    with fewer than three completed trials, InvalidInput for an unknown analysis or metric.
    """
    for i, analysis in enumerate(analyses):
        if analysis not in ANALYSES:
            raise InvalidInput(f"analyses.{i}", f"one of {list(ANALYSES)}", analysis)
    if metric is not None and metric not in study.goal.metrics:
        raise InvalidInput("metric", f"one of {list(study.goal.metrics)}", metric)
    if sum(t.state is TrialState.COMPLETED for t in study.trials) < 3:
        raise NotFound("there is nothing to analyse yet: fewer than three trials are completed")
    with _quiet(study.seed):
        studies = [_alone(study, m) for m in ((metric,) if metric is not None else study.goal.metrics)]
        return [card for s in studies if s.trials for card in _cards(s, analyses)]


def _alone(study: Study, metric: str) -> Study:
    """A study of one metric's results: Ax cross-validates metrics together only if they were measured together."""
    objective = next((o for o in study.goal.objectives if o.metric == metric), Objective(metric))
    alone = Study(study.space, objective, noise=study.noise, seed=study.seed)
    measured = [t for t in study.trials if t.state is TrialState.COMPLETED and metric in t.values]
    alone.load(replace(t, measurements=tuple(m for m in t.final if m.metric == metric)) for t in measured)
    return alone


def _cards(study: Study, analyses: Sequence[Analysis]) -> list[Card]:
    from ax.adapter.registry import Generators
    from ax.analysis.plotly.cross_validation import CrossValidationPlot
    from ax.analysis.plotly.sensitivity import SensitivityAnalysisPlot
    from ax.analysis.plotly.surface.contour import ContourPlot

    experiment, metric = to_ax(study, relaxed=True), study.goal.objective.metric
    adapter = Generators.BOTORCH_MODULAR(experiment=experiment, data=experiment.lookup_data())

    def computed(analysis: Any) -> list[Any]:
        found = analysis.compute_or_error_card(experiment=experiment, adapter=adapter).flatten()
        return list(found)

    cards: list[Any] = []
    sensitivity = computed(SensitivityAnalysisPlot(metric, top_k=None)) if set(analyses) != {"cross_validation"} else []
    if "sensitivity" in analyses:
        cards += sensitivity
    if "cross_validation" in analyses:
        cards += computed(CrossValidationPlot([metric], untransform=True))
    if "contour" in analyses:
        ranked = _ranked(sensitivity) or list(study.space.parameters)
        numbers = [n for n in ranked if isinstance(study.space.parameters.get(n), Float | Int)]
        if len(numbers) > 1:
            cards += computed(ContourPlot(numbers[0], numbers[1], metric))
    return [_card(c) for c in cards]


def _ranked(sensitivity: Sequence[Any]) -> list[str]:
    """The parameters by falling sensitivity."""
    table = sensitivity[0].df
    if "parameter_name" not in table or "sensitivity" not in table:
        return []
    ordered = table.assign(size=table["sensitivity"].abs()).sort_values("size", ascending=False)
    return [str(name) for name in ordered["parameter_name"]]


def _card(card: Any) -> Card:
    from ax.analysis.plotly.plotly_analysis import PlotlyAnalysisCard

    figure = json.loads(str(card.blob)) if isinstance(card, PlotlyAnalysisCard) else None
    table = json.loads(str(card.df.to_json(orient="records")))
    return Card(card.name, card.title, card.subtitle, figure, table)


# --- stopping ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Percentile:
    """Stop a running trial whose latest value is among the worst ``percentile`` % of all trials at that step.

    Trials are looked at from ``min_step`` to ``max_step``, once ``min_curves`` are completed; ``patience``: being that
    bad for so many steps; ``keep_best``: so many of the best are never stopped. ``metric``: by default the objective.
    """

    percentile: float = 50.0
    metric: str | None = None
    min_step: float | None = 10.0
    max_step: float | None = None
    min_curves: int = 5
    patience: float = 0.0
    keep_best: int | None = None

    def __post_init__(self) -> None:
        _check_options(self)


@dataclass(frozen=True)
class Threshold:
    """Stop a running trial whose latest value, from ``min_step`` to ``max_step``, is worse than ``threshold``."""

    threshold: float
    metric: str | None = None
    min_step: float | None = 10.0
    max_step: float | None = None
    min_curves: int = 5

    def __post_init__(self) -> None:
        _check_options(self)


@dataclass(frozen=True)
class Improvement:
    """Stop the study when the last ``window`` trials improved the best by less than ``bar``.

    ``bar`` is a share of the interquartile range of the results, with several objectives of the hypervolume. Nothing
    is stopped before ``min_trials`` are completed or, unless ``while_running``, while others run.
    """

    min_trials: int = 10
    window: int = 5
    bar: float = 0.1
    while_running: bool = False

    def __post_init__(self) -> None:
        _check_options(self)


EarlyStopping = Percentile | Threshold
Policy = EarlyStopping | Improvement
_POLICIES: dict[str, type[Policy]] = {"percentile": Percentile, "threshold": Threshold, "improvement": Improvement}
_COUNT, _AMOUNT = Option(0, 0, 1e9, whole=True), Option(0.0, 0.0, 1e300)
_OPTIONS = {
    "percentile": Option(50.0, 0.0, 100.0),
    "threshold": Option(0.0, -1e300, 1e300),
    **dict.fromkeys(("min_curves", "keep_best", "min_trials"), _COUNT),
    "window": Option(5, 1, 1e9, whole=True),
    **dict.fromkeys(("min_step", "max_step", "patience", "bar"), _AMOUNT),
}


def policy(definition: Mapping[str, Any]) -> Policy:
    """The policy of ``{"name": "percentile", "percentile": 25}``; InvalidInput names what is wrong in it."""
    options = dict(definition)
    name = options.pop("name", None)
    kind = _POLICIES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InvalidInput("policy.name", f"one of {list(_POLICIES)}", name)
    for key, value in options.items():
        if key not in kind.__dataclass_fields__:
            raise InvalidInput(f"policy.{key}", f"an option of {name}: {list(kind.__dataclass_fields__)}", value)
    if kind is Threshold and "threshold" not in options:
        raise InvalidInput("policy.threshold", "a number", None)
    return kind(**options)


def _check_options(policy: Policy) -> None:
    for key, value in asdict(policy).items():
        if value is None and key in ("metric", "min_step", "max_step", "keep_best"):
            continue
        if key in _OPTIONS:
            _OPTIONS[key].check(value, f"policy.{key}")
        elif not isinstance(value, str if key == "metric" else bool):
            raise InvalidInput(f"policy.{key}", "a metric's name" if key == "metric" else "true or false", value)


def stop_early(study: Study, policy: EarlyStopping) -> dict[int, str]:
    """The running trials that the policy would stop now, by number, each with Ax's reason.

    It compares intermediate values (measurements with a step). InvalidInput when the study has several objectives and
    the policy names no metric.
    """
    metric = policy.metric or study.goal.objective.metric
    if policy.metric is None and study.goal.several:
        raise InvalidInput("policy.metric", f"one of {list(study.goal.metrics)}", None)
    if metric not in study.goal.metrics:
        raise InvalidInput("policy.metric", f"one of {list(study.goal.metrics)}", metric)
    with _quiet():
        from ax.early_stopping.strategies import PercentileEarlyStoppingStrategy, ThresholdEarlyStoppingStrategy
        from ax.exceptions.core import UserInputError

        limits: dict[str, Any] = {
            "metric_signatures": [metric],
            "min_progression": policy.min_step,
            "max_progression": policy.max_step,
            "min_curves": policy.min_curves,
        }
        try:
            if isinstance(policy, Percentile):
                strategy: Any = PercentileEarlyStoppingStrategy(
                    percentile_threshold=policy.percentile,
                    n_best_trials_to_complete=policy.keep_best,
                    patience=policy.patience,
                    **limits,
                )
            else:
                strategy = ThresholdEarlyStoppingStrategy(metric_threshold=policy.threshold, **limits)
        except UserInputError as error:
            raise InvalidInput("policy", f"options that fit together ({error})", policy) from None
        numbers = [t.number for t in study.trials]
        running = {i for i, t in enumerate(study.trials) if t.state is TrialState.RUNNING}
        found = strategy.should_stop_trials_early(running, to_ax(study, relaxed=True)) if running else {}
        return {numbers[i]: str(reason) for i, reason in sorted(found.items())}


def stop_study(study: Study, policy: Improvement) -> str | None:
    """Why the policy would stop the whole study now, in Ax's words; None: go on."""
    with _quiet():
        from ax.global_stopping.strategies.improvement import ImprovementGlobalStoppingStrategy

        strategy = ImprovementGlobalStoppingStrategy(
            policy.min_trials, policy.window, policy.bar, inactive_when_pending_trials=not policy.while_running
        )
        if not any(t.state is TrialState.COMPLETED for t in study.trials):
            return None
        stop, why = strategy.should_stop_optimization(to_ax(study, relaxed=True))
        return why if stop else None


# --- generator --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AxGenerator:
    """Ax's own choice of what to try next, for comparison: the centre, quasi-random points, then its default model.

    ``method`` is Ax's: "fast", "quality" (needs its extra) or "random_search". Every call rebuilds Ax's experiment from
    the study, so the same study and number give the same suggestions in any process.
    """

    method: Literal["fast", "quality", "random_search"] = "fast"

    def suggest(self, study: Study, count: int = 1, *, first_number: int | None = None) -> list[Suggestion] | Stop:
        """``count`` configurations, one after the other, the earlier ones pending; as `Study.suggest`.

        Raises InvalidInput where Ax cannot express the study; Stop when a finite space is exhausted.
        """
        if study.goal.cost is not None:
            raise InvalidInput("cost", "none, because Ax does not weigh gain against it", study.goal.cost)
        for setting in ("context", "earlier", "fidelity", "environment", "conservative"):
            if given := getattr(study, setting):
                raise InvalidInput(setting, "none, because Ax would pass over it", given)
        if study.acquisition.name != "auto":
            raise InvalidInput("acquisition", "auto, because Ax chooses its own", study.acquisition.name)
        number = max((t.number for t in study.trials), default=-1) + 1 if first_number is None else first_number
        seed = int(np.random.default_rng([study.seed, number]).integers(2**31))
        with _quiet():
            from ax.api.client import Client
            from ax.exceptions.core import OptimizationComplete

            client = Client(random_seed=seed)
            client.set_experiment(to_ax(study))
            client.configure_generation_strategy(
                self.method,
                initialization_budget=0 if _started(study) else None,
                initialize_with_center=not study.trials,
                initialization_random_seed=seed,
                allow_exceeding_initialization_budget=True,
            )
            suggestions: list[Suggestion] = []
            for _ in range(count):
                try:
                    if _exhausted(study, suggestions):
                        raise OptimizationComplete("every configuration of the space has been tried")
                    (index,) = client.get_next_trials(1)
                except OptimizationComplete as error:
                    return suggestions or Stop(StopReason.EXHAUSTED, str(error), gain=0.0)
                suggestions.append(_suggestion(study, client._experiment.trials[index], len(suggestions)))
            return suggestions


def _started(study: Study) -> bool:
    """Whether the trials are enough for Ax's model, by its own rule; a strategy made anew would not look."""
    tried = [t for t in study.trials if _STATUSES[t.state] not in ("FAILED", "ABANDONED")]
    return len(tried) >= 5 and sum(t.state is TrialState.COMPLETED for t in tried) >= 2


def _exhausted(study: Study, suggestions: Sequence[Suggestion]) -> bool:
    """Whether nothing of a small finite space is left; Ax would look for minutes."""
    if study.space.cardinality > _CHOICES:
        return False
    tried = [t.params for t in study.trials] + [s.params for s in suggestions]
    return all(params in tried for params in study.space.enumerate())


def _suggestion(study: Study, ax_trial: Any, earlier: int) -> Suggestion:
    (arm,), run = ax_trial.arms, ax_trial.generator_run
    mean = sd = None
    metric = study.goal.objective.metric
    if run.model_predictions is not None and metric in run.model_predictions[0]:
        means, covariances = run.model_predictions
        mean, sd = float(means[metric][0]), math.sqrt(float(covariances[metric][metric][0]))
    source = Source(
        method=f"ax:{run._generation_node_name}",
        why=f"chosen by Ax {version('ax-platform')}",
        observations=sum(t.state is TrialState.COMPLETED for t in study.trials),
        pending=sum(t.state.open for t in study.trials) + earlier,
        mean=mean,
        sd=sd,
    )
    return Suggestion(study.space.check(_near_bounds(study.space, arm.parameters)), source)


@contextmanager
def _quiet(seed: int | None = None) -> Generator[None]:
    """Without logs and warnings, which Ax has many of for its own users; with ``seed``, from a fixed random state."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)  # each of Ax's loggers has a level of its own, so the parent's has no effect
        try:
            from ax.utils.common.random import with_rng_seed

            with with_rng_seed(seed):
                yield
        finally:
            logging.disable(before)
