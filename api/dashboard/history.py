"""The trials of studies as the pages need them: kept in memory, and read only as far as they changed.

A page of a study with ten thousand trials asks for all of them at every look; what is kept makes that a matter of
milliseconds. SQL of its own, beside `store.py`, because it reads columns, not whole rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from types import MappingProxyType
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from suffice.api.database import Database
from suffice.api.store import by_id
from suffice.api.tables import MeasurementRow, StudyRow, TrialRow

KEPT = 60_000  # trials: about 2 kB each
COLUMNS = (
    TrialRow.number,
    TrialRow.state,
    TrialRow.parameters,
    TrialRow.source,
    TrialRow.worker,
    TrialRow.reason,
    TrialRow.attempts,
    TrialRow.created_at,
    TrialRow.started_at,
    TrialRow.finished_at,
)
MEANS = (
    MeasurementRow.number,
    MeasurementRow.metric,
    func.avg(MeasurementRow.value),
    func.sum(col(MeasurementRow.stderr) * col(MeasurementRow.stderr)),
    func.count(col(MeasurementRow.stderr)),
    func.count(),
)
FEW = 500  # parameters of one statement
NONE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Past:
    """A trial; ``values`` are its results by metric, replicates averaged, ``stderrs`` what is known of their error."""

    number: int
    state: str
    parameters: Mapping[str, Any]
    source: Mapping[str, Any]
    worker: str | None
    reason: str | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    values: Mapping[str, float]
    stderrs: Mapping[str, float]
    reported: bool  # whether there are values on the way to the result

    @property
    def seconds(self) -> float | None:
        """How long it ran."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(slots=True)
class History:
    """A study's trials by number, as of its change ``sequence``."""

    sequence: int = 0
    data_version: int = 0
    used: int = 0
    stop: Mapping[str, Any] | None = None
    best: Mapping[str, Any] | None = None
    trials: list[Past] = field(default_factory=list)


class Histories:
    """Of the studies that were looked at last. Safe to share between threads."""

    def __init__(self, database: Database, size: int = KEPT) -> None:
        self._database = database
        self._size = size
        self._kept: OrderedDict[int, History] = OrderedDict()
        self._sparks: dict[int, tuple[int, list[float]]] = {}
        self._lock = Lock()

    def of(self, study_id: int) -> History:
        """What is known now; not to be changed. Raises NotFound once the study is deleted."""
        with self._lock:
            before = self._kept.get(study_id)
            found = self._read(study_id, before or History())
            self._kept[study_id] = found
            self._kept.move_to_end(study_id)
            while len(self._kept) > 1 and sum(len(kept.trials) for kept in self._kept.values()) > self._size:
                self._kept.popitem(last=False)
            return found

    def values(self, study_id: int, data_version: int, metric: str) -> list[float]:
        """The results of a metric, by trial: for a small picture, so from the measurements alone."""
        with self._lock:
            kept = self._sparks.get(study_id)
            if kept is not None and kept[0] == data_version:
                return kept[1]
        query = (
            select(func.avg(MeasurementRow.value))
            .where(MeasurementRow.study_id == study_id, MeasurementRow.metric == metric)
            .where(col(MeasurementRow.step).is_(None))
            .group_by(col(MeasurementRow.number))
            .order_by(col(MeasurementRow.number))
        )
        with self._database.read() as session:
            found = [float(value) for value in session.exec(query)]
        with self._lock:
            self._sparks[study_id] = (data_version, found)
            while len(self._sparks) > 1000:
                self._sparks.pop(next(iter(self._sparks)))
        return found

    def reports(self, study_id: int, numbers: Sequence[int], metric: str) -> dict[int, list[tuple[int, float]]]:
        """What trials reported of a metric, step by step."""
        query = (
            select(MeasurementRow.number, MeasurementRow.step, MeasurementRow.value)
            .where(MeasurementRow.study_id == study_id, MeasurementRow.metric == metric)
            .where(col(MeasurementRow.number).in_(numbers), col(MeasurementRow.step).is_not(None))
            .order_by(col(MeasurementRow.number), col(MeasurementRow.step))
        )
        found: dict[int, list[tuple[int, float]]] = {}
        with self._database.read() as session:
            for number, step, value in session.exec(query):
                found.setdefault(number, []).append((step or 0, value))
        return found

    def _read(self, study_id: int, before: History) -> History:
        with self._database.read() as session:
            study = by_id(session, study_id)
            changed = _changed(session, study_id, before.sequence) if study.sequence > before.sequence else []
        trials = _merged(before.trials, changed) if before.trials and changed else changed or before.trials
        return _history(study, trials)


def _history(study: StudyRow, trials: list[Past]) -> History:
    return History(study.sequence, study.data_version, study.used, study.stop, study.best, trials)


def _merged(before: Sequence[Past], changed: Sequence[Past]) -> list[Past]:
    found = {trial.number: trial for trial in before}
    found.update((trial.number, trial) for trial in changed)
    return [found[number] for number in sorted(found)]


def _changed(session: Session, study_id: int, since: int) -> list[Past]:
    """The trials whose last change is after ``since``, by number."""
    query = select(*COLUMNS).where(TrialRow.study_id == study_id, TrialRow.sequence > since)  # type: ignore[call-overload]
    rows: list[Any] = list(session.exec(query.order_by(col(TrialRow.number))))
    if not rows:
        return []
    measured = (
        select(*MEANS)  # type: ignore[call-overload]
        .where(MeasurementRow.study_id == study_id, col(MeasurementRow.step).is_(None))
        .group_by(col(MeasurementRow.number), col(MeasurementRow.metric))
        .order_by(func.min(MeasurementRow.id))
    )
    stepped = select(MeasurementRow.number).where(
        MeasurementRow.study_id == study_id, col(MeasurementRow.step).is_not(None)
    )
    numbers = [row[0] for row in rows]
    if len(numbers) <= FEW:
        measured = measured.where(col(MeasurementRow.number).in_(numbers))
        stepped = stepped.where(col(MeasurementRow.number).in_(numbers))
    values: dict[int, dict[str, float]] = {}
    stderrs: dict[int, dict[str, float]] = {}
    for number, metric, mean, squares, known, count in session.exec(measured):
        values.setdefault(number, {})[metric] = mean
        if known == count:
            stderrs.setdefault(number, {})[metric] = squares**0.5 / count
    reported = set(session.exec(stepped.distinct()))

    def past(row: Any) -> Past:
        more: list[Any] = [values.get(row[0], NONE), stderrs.get(row[0], NONE), row[0] in reported]
        return Past(*row, *more)

    return [past(row) for row in rows]
