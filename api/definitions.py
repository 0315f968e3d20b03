"""Checks of what comes in against a study's definition, with the light parts of the optimizer: no torch here."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from threading import Lock
from typing import Any, TypeVar

from suffice.optimizer import InvalidInput, Measurement, Study, Trial
from suffice.optimizer.errors import Problem

from .chooser import check_engine
from .store import DEFINITION, StudyFacts
from .wire import MeasurementSpec, PruneOut, StudyCreate, StudyExport, StudyPatch, Tell, TrialAdd, TrialOut

T = TypeVar("T")
K = TypeVar("K")
SERVICE = {"engine", "global_stopping"}  # of a definition: what is not the optimizer's to know
ENOUGH = 100  # problems: more are not looked for


class Definitions:
    """What the definitions of the studies in use mean, kept: a definition never changes, an id is never used twice.

    Names are kept, too, for as long as they are found to stand for the same study.
    """

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._kept: OrderedDict[int, Study] = OrderedDict()
        self._named: OrderedDict[tuple[int, str], StudyFacts] = OrderedDict()
        self._lock = Lock()

    def of(self, study: StudyFacts) -> Study:
        """The study without its trials: its space and its goal."""
        with self._lock:
            found = self._kept.pop(study.id, None) or study_of(study.definition)
            _keep(self._kept, study.id, found, self._size)
            return found

    def named(self, project: int, name: str) -> StudyFacts | None:
        """Which study that was when it was last read: it may have been deleted since."""
        return self._named.get((project, name))

    def name(self, project: int, study: StudyFacts) -> None:
        with self._lock:
            _keep(self._named, (project, study.name), study, self._size)

    def forget(self, project: int, name: str) -> None:
        with self._lock:
            self._named.pop((project, name), None)


def _keep(kept: OrderedDict[K, T], key: K, value: T, size: int) -> None:
    kept[key] = value
    while len(kept) > size:
        kept.popitem(last=False)


def study_of(definition: Mapping[str, Any]) -> Study:
    """What a definition means to the optimizer."""
    return Study.from_json({key: value for key, value in definition.items() if key not in SERVICE})


def check_study(study: StudyCreate) -> tuple[Study, int]:
    """What a new definition means, and its seed (drawn where none is given)."""
    seed = secrets.randbits(32) if study.seed is None else study.seed
    fields = study.model_dump(mode="json", exclude_none=True, include=DEFINITION | {"budget"})
    defined = study_of({**fields, "seed": seed})
    check_engine(fields)
    return defined, seed


def check_earlier(study: Study, earlier: Mapping[str, Study]) -> None:
    """Whether there is something to learn from earlier studies."""
    for name, source in earlier.items():
        study.learn_from(name, source)


def check_patch(study: StudyFacts, patch: StudyPatch) -> None:
    """Whether a changed budget fits the study."""
    if patch.budget is not None:
        study_of({**study.definition, "budget": patch.budget.model_dump(exclude_none=True)})


def check_tell(study: Study, tell: Tell) -> None:
    if tell.state == "COMPLETED" or tell.measurements:
        check_measurements(study, tell.measurements, complete=tell.state == "COMPLETED")


def check_report(study: Study, measurements: Sequence[MeasurementSpec]) -> None:
    check_measurements(study, measurements, complete=False)
    _raise(
        Problem(f"measurements.{i}.step", "the step that was measured (a result is told, not reported)", None)
        for i, m in enumerate(measurements)
        if m.step is None
    )
    last = None if study.early_stopping is None else study.early_stopping.steps
    _raise(
        Problem(f"measurements.{i}.step", f"at most {last}, the last of early_stopping.steps", m.step)
        for i, m in enumerate(measurements)
        if last is not None and m.step is not None and m.step > last
    )


def should_prune(study: Study, trial: Trial, others: Sequence[Trial]) -> PruneOut | None:
    """What a policy that needs no model decides; ``others`` are compared with."""
    policy = study.early_stopping
    found = policy and policy.decide(study.goal.objective, [trial, *others], trial, None)
    return None if found is None else PruneOut(**found.to_json())


def check_measurements(study: Study, measurements: Sequence[MeasurementSpec], *, complete: bool) -> None:
    given = [Measurement(m.metric, m.value, m.stderr, m.step, m.gradient) for m in measurements]
    study.goal.check(given, complete=complete)


def check_slopes(study: Study, parameters: Mapping[str, Any], measurements: Sequence[MeasurementSpec]) -> None:
    """Derivatives are of numbers that are active in the trial's configuration."""
    for i, m in enumerate(measurements):
        study.space.check_slopes(dict(parameters), m.gradient or {}, f"measurements.{i}.gradient")


def check_points(study: Study, trials: Sequence[TrialAdd]) -> list[TrialAdd]:
    """Points of a user's own, their parameters as the space writes them."""
    return _each(trials, lambda trial: _point(study, trial))


def _point(study: Study, trial: TrialAdd) -> TrialAdd:
    parameters = study.space.check(trial.parameters)
    state = trial.state or ("COMPLETED" if trial.measurements else "WAITING")
    if state == "WAITING" and trial.measurements:
        raise InvalidInput("measurements", "none, because the trial is WAITING", len(trial.measurements))
    if state == "COMPLETED" or trial.measurements:
        check_measurements(study, trial.measurements, complete=state == "COMPLETED")
        check_slopes(study, parameters, trial.measurements)
    return trial.model_copy(update={"parameters": parameters, "state": state})


def check_import(document: StudyExport) -> StudyExport:
    """An export's document, checked like everything else that comes in."""
    study, _ = check_study(document.study)
    trials = _each(document.trials, lambda trial: _past(study, trial))
    numbers = [-1, *(trial.number for trial in trials)]
    _raise(
        Problem(f"trials.{i}.number", f"a number above {before}: trials come in order, each once", number)
        for i, (before, number) in enumerate(pairwise(numbers))
        if number <= before
    )
    return document.model_copy(update={"trials": trials})


def _past(study: Study, trial: TrialOut) -> TrialOut:
    parameters = study.space.check(trial.parameters)
    if trial.state == "COMPLETED" or trial.measurements:
        check_measurements(study, trial.measurements, complete=trial.state == "COMPLETED")
        check_slopes(study, parameters, trial.measurements)
    return trial.model_copy(update={"parameters": parameters, "lease": None})


def _each(items: Sequence[T], check: Callable[[T], T]) -> list[T]:
    """Every item checked; one error for the problems of all, each under its trial's place."""
    checked: list[T] = []
    problems: list[Problem] = []
    for i, item in enumerate(items):
        try:
            checked.append(check(item))
        except InvalidInput as error:
            problems += error.under(f"trials.{i}").problems
            if len(problems) >= ENOUGH:
                break
    _raise(problems)
    return checked


def _raise(problems: Iterable[Problem]) -> None:
    found = list(problems)
    if found:
        raise InvalidInput.of(found)
