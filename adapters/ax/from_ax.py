"""Studies read from Ax's experiments and snapshots."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    Objective,
    Ordinal,
    Source,
    Space,
    Study,
    Trial,
    TrialState,
)
from suffice.optimizer.parameters import Parameter

from .experiment import OURS, STATES, STATUSES, Row, near_bounds, quiet, rows_of

if TYPE_CHECKING:
    from ax.core.experiment import Experiment
    from ax.core.optimization_config import OptimizationConfig
    from ax.core.parameter import ChoiceParameter as AxChoice
    from ax.core.parameter import Parameter as AxParameter
    from ax.core.parameter import RangeParameter as AxRange
    from ax.core.search_space import SearchSpace


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
    with quiet():
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
    with quiet():
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
    params = study.space.check(near_bounds(study.space, ax_trial.arms[0].parameters), f"{field}.parameters")
    status = ax_trial.status.name
    if (ours := ax_trial._properties.get(OURS)) is not None:
        trial = replace(Trial.from_json(ours), number=index)
        if STATUSES[trial.state] == status and trial.params == params and _alike(rows_of(trial, study.noise), rows):
            return trial
    values = [row for row in rows if math.isfinite(row[1])]
    left_out += [f"trial {index}: {metric} = {value}" for metric, value, *_ in rows if not math.isfinite(value)]
    measurements: list[Measurement] = []
    for metric, value, sem, step in values:
        if step is not None and (step < 0 or not step.is_integer()):
            raise InvalidInput(f"{field}.step", "whole numbers of at least 0", step)
        measurements.append(Measurement(metric, value, sem, None if step is None else int(step)))
    trial = Trial(index, params, STATES[status], tuple(measurements), Source("added"), ax_trial.status_reason)
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


def _or_none(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
