"""A study's history as what can be seen of it: thinned, aggregated, sorted, filtered. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from suffice.api.tables import spent
from suffice.api.wire import StopOut, StudyOut
from suffice.optimizer import Measurement, Objective, OutcomeConstraint, Study, Trial, TrialState
from suffice.optimizer.timesteps import TimeSteps, known_schedules

from .history import History, Past
from .hypervolume import over_trials
from .wire import (
    ColumnsOut,
    ConstraintOut,
    FidelityOut,
    GainsOut,
    HypervolumeOut,
    Overview,
    PicturedOut,
    ProgressOut,
    RecommendedOut,
    RunningOut,
    ScheduleOut,
    SchedulesOut,
    TrialLine,
    TrialLines,
)

BUCKETS = 500  # of a scatter; up to three points each
LINES = 300  # trials in the picture of all parameters
SPARKS = 40  # points of a small picture
RUNNING = 20
PICTURED = 6  # of the best trials with images, and of the newest
SCHEDULES = 10  # of the best, and of the newest trials


def overview(
    study: StudyOut, defined: Study, history: History, images: Mapping[int, list[str]] = MappingProxyType({})
) -> Overview:
    """A study at a glance; ``images`` are the names of those that trials have."""
    done = [t for t in history.trials if t.state == "COMPLETED"]
    objectives = defined.goal.objectives
    return Overview(
        study=study,
        sequence=history.sequence,
        used=history.used,
        active_at=max(
            (t.finished_at or t.started_at or t.created_at for t in history.trials), default=study.created_at
        ),
        stop=_stop(study, history),
        progress=[_progress(defined, o, done) for o in objectives],
        recommended=_recommended(objectives[0], history),
        running=[
            RunningOut(number=t.number, worker=t.worker, started_at=t.started_at)
            for t in history.trials
            if t.state == "RUNNING"
        ][:RUNNING],
        methods=Counter(str(t.source["method"]) for t in history.trials),
        parallel=_parallel(defined, done),
        gains=_gains(history.trials),
        constraints=[_constraint(c, done) for c in defined.goal.outcome_constraints],
        front=_front(defined, done) if defined.goal.several else None,
        hypervolume=_hypervolume(defined, done) if defined.goal.several else None,
        fidelity=_fidelity(defined, done, history.trials),
        pictured=_pictured(objectives[0], history.trials, images),
        schedules=_schedules(defined, done),
        reports=any(t.reported for t in history.trials),
    )


def spark(values: Sequence[float], sign: float) -> list[float]:
    """The best so far, at about SPARKS places."""
    if not values:
        return []
    best = sign * np.maximum.accumulate(sign * np.asarray(values))
    places = np.unique(np.linspace(0, len(best) - 1, min(len(best), SPARKS)).astype(int))
    return [float(value) for value in best[places]]


def thinned(values: Sequence[float]) -> list[int]:
    """Indices of what can be seen of a long row: of each bucket its smallest, middle and largest value."""
    if len(values) <= 3 * BUCKETS:
        return list(range(len(values)))
    y = np.asarray(values)
    chosen: set[int] = set()
    for part in np.array_split(np.arange(len(y)), BUCKETS):
        order = part[np.argsort(y[part], kind="stable")]
        chosen |= {int(order[0]), int(order[len(order) // 2]), int(order[-1])}
    return sorted(chosen)


def feasible(defined: Study, trial: Past) -> bool:
    """Whether nothing that was measured breaks an outcome constraint."""
    return not defined.goal.outcome_constraints or defined.goal.satisfied(trial.values) is not False


def counted(defined: Study, trials: Sequence[Past]) -> list[float]:
    """The results of the first objective that may be the best: feasible as far as known, and at the target."""
    metric = defined.goal.objective.metric
    return [t.values[metric] for t in trials if t.state == "COMPLETED" and metric in t.values and _counts(defined, t)]


def _counts(defined: Study, trial: Past) -> bool:
    target = {} if defined.fidelity is None else defined.fidelity.target
    return feasible(defined, trial) and all(trial.parameters.get(name) == at for name, at in target.items())


def _progress(defined: Study, objective: Objective, done: Sequence[Past]) -> ProgressOut:
    trials = [t for t in done if objective.metric in t.values]
    best_numbers: list[int] = []
    best_values: list[float] = []
    for t in trials:
        value = t.values[objective.metric]
        if _counts(defined, t) and (not best_values or objective.sign * (value - best_values[-1]) > 0):
            best_numbers.append(t.number)
            best_values.append(value)
    kept = [trials[i] for i in thinned([t.values[objective.metric] for t in trials])]
    return ProgressOut(
        metric=objective.metric,
        direction="minimize" if objective.sign < 0 else "maximize",
        numbers=[t.number for t in kept],
        values=[t.values[objective.metric] for t in kept],
        feasible=[feasible(defined, t) for t in kept],
        best_numbers=best_numbers,
        best_values=best_values,
        total=len(trials),
    )


def _recommended(objective: Objective, history: History) -> RecommendedOut | None:
    best = history.best
    if best is None:
        return None
    values = {t.number: t.values for t in history.trials if t.number == best["number"]}
    return RecommendedOut(
        number=best["number"],
        value=values.get(best["number"], {}).get(objective.metric),
        mean=best.get("mean"),
        sd=best.get("sd"),
        why=best["why"],
        current=best.get("data_version") == history.data_version,
    )


def _stop(study: StudyOut, history: History) -> StopOut | None:
    """Why asks are answered stop, as far as that is known without asking."""
    if study.state == "STOPPED":
        return StopOut(reason="stopped by the user")
    if study.budget.trials is not None and history.used >= study.budget.trials:
        return StopOut(reason="budget spent", message=f"all {study.budget.trials} trials of the budget are handed out")
    stop = history.stop
    if stop is None or stop.get("data_version") != history.data_version:
        return None
    return StopOut(**{name: stop.get(name) for name in ("reason", "message", "gain", "cost")})  # type: ignore[arg-type]


def _parallel(defined: Study, done: Sequence[Past]) -> ColumnsOut:
    """The best trials and some of the others, with their parameters and results."""
    objective = defined.goal.objective
    trials = [t for t in done if objective.metric in t.values]
    ranked = sorted(trials, key=lambda t: -objective.sign * t.values[objective.metric])
    half = LINES // 2
    others = ranked[half:]
    step = max(1, -(-len(others) // half))
    shown = sorted([*ranked[:half], *others[::step]], key=lambda t: t.number)
    names = [n for n, p in defined.space.parameters.items() if p.cardinality > 1 and p.type in SHOWN]
    columns: dict[str, list[Any]] = {n: [t.parameters.get(n) for t in shown] for n in names}
    columns |= {o.metric: [t.values.get(o.metric) for t in shown] for o in defined.goal.objectives}
    return ColumnsOut(numbers=[t.number for t in shown], columns=columns, total=len(trials))


SHOWN = ("float", "int", "categorical", "ordinal", "bool")


def _gains(trials: Sequence[Past]) -> GainsOut:
    known = [t for t in trials if t.source.get("gain") is not None]
    kept = [known[i] for i in thinned([t.source["gain"] for t in known])]
    return GainsOut(
        numbers=[t.number for t in kept],
        gains=[t.source["gain"] for t in kept],
        costs=[t.source.get("cost") for t in kept],
    )


def _constraint(constraint: OutcomeConstraint, done: Sequence[Past]) -> ConstraintOut:
    trials = [t for t in done if constraint.metric in t.values]
    values = [t.values[constraint.metric] for t in trials]
    kept = thinned(values)
    holds = sum(constraint.slack(value) >= 0 for value in values)
    return ConstraintOut(
        text=str(constraint),
        metric=constraint.metric,
        bound=constraint.bound,
        upper=constraint.upper,
        numbers=[trials[i].number for i in kept],
        values=[values[i] for i in kept],
        share=holds / len(values) if values else None,
    )


def _complete(defined: Study, done: Sequence[Past]) -> list[Past]:
    """Those with all objectives, which break no constraint."""
    metrics = {o.metric for o in defined.goal.objectives}
    return [t for t in done if metrics <= set(t.values) and feasible(defined, t)]


def _hypervolume(defined: Study, done: Sequence[Past]) -> HypervolumeOut:
    objectives, trials = defined.goal.objectives, _complete(defined, done)
    Y = np.array([[o.sign * t.values[o.metric] for o in objectives] for t in trials]).reshape(-1, len(objectives))
    given = [None if o.reference_point is None else o.sign * o.reference_point for o in objectives]
    places, values, reference = over_trials(Y, given)
    return HypervolumeOut(
        numbers=[trials[place - 1].number for place in places],
        values=values,
        reference={o.metric: o.sign * r for o, r in zip(objectives, reference, strict=False)},
    )


def _front(defined: Study, done: Sequence[Past]) -> ColumnsOut:
    metrics = [o.metric for o in defined.goal.objectives]
    trials = _complete(defined, done)
    kept = [trials[i] for i in thinned([t.values[metrics[0]] for t in trials])]
    columns: dict[str, list[Any]] = {m: [t.values[m] for t in kept] for m in metrics}
    return ColumnsOut(numbers=[t.number for t in kept], columns=columns, total=len(trials))


def _fidelity(defined: Study, done: Sequence[Past], trials: Sequence[Past]) -> FidelityOut | None:
    fidelity = defined.fidelity
    if fidelity is None:
        return None
    metric = defined.goal.objective.metric
    measured = [t for t in done if metric in t.values]
    kept = [measured[i] for i in thinned([t.values[metric] for t in measured])]
    spending = [_trial(t) for t in trials if spent(TrialState(t.state), t.source["method"])]
    return FidelityOut(
        target=dict(fidelity.target),
        cost=fidelity.cost or fidelity.metric or "",
        spent=fidelity.spent(spending),
        numbers=[t.number for t in kept],
        values=[t.values[metric] for t in kept],
        levels={name: [t.parameters.get(name) for t in kept] for name in fidelity.target},
    )


def _pictured(objective: Objective, trials: Sequence[Past], images: Mapping[int, list[str]]) -> list[PicturedOut]:
    own = [t for t in trials if t.number in images]
    valued = [t for t in own if t.state == "COMPLETED" and objective.metric in t.values]
    ranked = sorted(valued, key=lambda t: -objective.sign * t.values[objective.metric])
    shown = {t.number: t for t in [*ranked[:PICTURED], *own[::-1][:PICTURED]]}
    return [PicturedOut(number=n, value=t.values.get(objective.metric), images=images[n]) for n, t in shown.items()]


def _schedules(defined: Study, done: Sequence[Past]) -> list[SchedulesOut]:
    objective = defined.goal.objective
    found: list[SchedulesOut] = []
    for name, p in defined.space.parameters.items():
        if isinstance(p, TimeSteps):
            trials = [t for t in done if objective.metric in t.values and name in t.parameters]
            ranked = sorted(trials, key=lambda t: -objective.sign * t.values[objective.metric])
            shown = {t.number: t for t in [*ranked[:SCHEDULES], *trials[-SCHEDULES:]]}
            lines = [
                ScheduleOut(number=n, value=t.values[objective.metric], steps=t.parameters[name])
                for n, t in shown.items()
            ]
            found.append(SchedulesOut(parameter=name, trials=lines, known=known_schedules(p)))
    return found


def _trial(t: Past) -> Trial:
    measured = tuple(Measurement(metric, value) for metric, value in t.values.items())
    return Trial(t.number, dict(t.parameters), TrialState(t.state), measured)


# --- the table --------------------------------------------------------------------------------------------------------


def table(
    trials: Sequence[Past], *, state: str | None, text: str, sort: str, descending: bool, offset: int, limit: int
) -> TrialLines:
    """A page of the trials that pass the filter. ``sort`` is a column: number, seconds, a metric or a parameter."""
    words = text.casefold().split()
    found = [t for t in trials if (state is None or t.state == state) and all(w in _text(t) for w in words)]
    if sort != "number" or descending:
        with_value = [t for t in found if _cell(t, sort) is not None]
        without = [t for t in found if _cell(t, sort) is None]
        found = [*sorted(with_value, key=lambda t: _order(_cell(t, sort)), reverse=descending), *without]
    shown = [line(t) for t in found[offset : offset + limit]]
    return TrialLines(trials=shown, matching=len(found), total=len(trials))


def line(t: Past) -> TrialLine:
    return TrialLine(
        number=t.number,
        state=t.state,
        parameters=dict(t.parameters),
        values=dict(t.values),
        stderrs=dict(t.stderrs),
        method=t.source["method"],
        worker=t.worker,
        seconds=t.seconds,
        gain=t.source.get("gain"),
        reason=t.reason,
        created_at=t.created_at,
        finished_at=t.finished_at,
    )


def _cell(t: Past, column: str) -> Any:
    kind, _, name = column.partition(":")
    match kind:
        case "metric":
            return t.values.get(name)
        case "parameter":
            return t.parameters.get(name)
        case "method":
            return t.source["method"]
        case "gain":
            return t.source.get("gain")
        case _:
            return getattr(t, kind)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers before texts."""
    return (True, value) if isinstance(value, str) else (False, value)


def _text(t: Past) -> str:
    parts = [f"#{t.number}", t.state, t.source["method"], t.worker or "", t.reason or ""]
    return " ".join([*parts, *(f"{name}={value}" for name, value in t.parameters.items())]).casefold()


SORTS = ("number", "state", "seconds", "gain", "method", "worker", "created_at", "finished_at")


def columns_of(defined: Study, trials: Iterable[Past]) -> list[str]:
    """The metrics that were measured, the study's own first."""
    known = dict.fromkeys([*defined.goal.metrics, *(m for t in trials for m in t.values)])
    return list(known)
