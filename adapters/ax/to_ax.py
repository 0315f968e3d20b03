"""A study as an Ax experiment, or as the snapshot that Ax's client reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from suffice.optimizer import (
    Bool,
    Categorical,
    Constant,
    Float,
    Int,
    InvalidInput,
    Ordinal,
    Space,
    Study,
    TimeSteps,
    Trial,
    TrialState,
)
from suffice.optimizer.expression import Expression
from suffice.optimizer.parameters import Parameter
from suffice.optimizer.space import Params

from .experiment import CHOICES, OURS, STATUSES, quiet, rows_of

if TYPE_CHECKING:
    from ax.core.experiment import Experiment
    from ax.core.parameter import Parameter as AxParameter
    from ax.core.search_space import SearchSpace
    from ax.core.trial import Trial as AxTrial


def to_ax(study: Study, *, relaxed: bool = False) -> Experiment:
    """The study as an Ax experiment: trial i there is the i-th by number here.

    ``relaxed`` leaves out parameter constraints and conditions, which only matter to who generates trials; parameters
    are then always there, at the centre where they were inactive. Otherwise InvalidInput names what Ax cannot express:
    conditions other than on one choice of one parameter, constraints that are not linear or on log scales or grids.
    """
    with quiet():
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
            for metric, value, sem, step in rows_of(trial, study.noise):
                se = math.nan if sem is None else sem
                rows.append(DataRow(ax_trial.index, name, metric, metric, value, se, step))
        if rows:
            experiment.attach_data(Data(data_rows=rows))
        return experiment


def to_snapshot(study: Study) -> dict[str, Any]:
    """The study as Ax's ``Client.save_to_json_file`` writes it; ``Client.load_from_json_file`` goes on from there."""
    experiment = to_ax(study)
    with quiet():
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
            if p.cardinality > CHOICES:
                raise InvalidInput(f"parameters.{name}.step", f"at most {CHOICES} values, for Ax", p.step)
            values = [p.to_native(v) for v in p.grid()]
        case TimeSteps():
            raise InvalidInput(f"parameters.{name}", "no sequence of time steps: Ax's are single values", p.type)
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

    params = filled(study.space, trial.params) if relaxed else dict(trial.params)
    added: AxTrial = experiment.new_trial().add_arm(Arm(parameters=params))
    added._properties[OURS] = trial.to_json()
    if trial.state is not TrialState.WAITING:
        added.mark_running(no_runner_required=True)
        added.mark_as(TrialStatus[STATUSES[trial.state]], unsafe=True, reason=trial.reason)
    return added


def filled(space: Space, params: Mapping[str, Any]) -> Params:
    """``params`` with what is inactive at the centre of its range, as the core's models see it."""
    centre = {n: p.to_native(p.from_unit(np.full((1, p.width), 0.5))[0]) for n, p in space.parameters.items()}
    return {**centre, **params}
