"""What asks, tells and heartbeats read and write, as plain objects, and the statements for it, made once.

SQLAlchemy's unit of work takes several times as long over these rows as the database does, and nearly all requests are
about them. What a transaction changed of trials is noted, and written back by `Ledger.write`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import BindParameter, Connection, Table, bindparam, delete, insert, select, update

from suffice.optimizer import TrialState

from .tables import AskRow, Counting, MeasurementRow, StudyRow, SuggestionRow, TrialRow


@dataclass
class StudyRecord(Counting):
    """What requests about trials need to know of their study."""

    id: int
    state: str
    budget: int | None
    budget_cost: float | None
    lease_seconds: float
    max_retries: int
    next_number: int
    used: int
    counts: dict[str, int]
    sequence: int
    data_version: int
    stop: dict[str, Any] | None


@dataclass(slots=True)
class TrialRecord:
    study_id: int
    number: int
    state: str
    parameters: dict[str, Any]
    key: str
    source: dict[str, Any]
    created_at: datetime
    sequence: int
    reason: str | None = None
    worker: str | None = None
    attempts: int = 0
    lease_token: str | None = None
    lease_expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(slots=True)
class SuggestionRecord:
    id: int
    parameters: dict[str, Any]
    key: str
    source: dict[str, Any]
    data_version: int
    next_number: int


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a request with an idempotency key was given (see `AskRow`)."""

    request: str
    count: int
    given: list[Any]


Trial = TrialRow | TrialRecord
Study = StudyRow | StudyRecord


def _table(row: Any) -> Table:
    found: Table = row.__table__
    return found


def _columns(table: Table, record: type[Any]) -> list[Any]:
    return [table.c[name.name] for name in fields(record)]


STUDIES, TRIALS, SUGGESTIONS = _table(StudyRow), _table(TrialRow), _table(SuggestionRow)
ASKS, MEASUREMENTS = _table(AskRow), _table(MeasurementRow)
MEASURED = ("number", "metric", "value", "stderr", "step", "gradient")

COUNTED = ("next_number", "used", "counts", "sequence", "data_version")  # of a study: what changes
MOVED = (
    *("state", "reason", "worker", "attempts", "lease_token", "lease_expires_at", "started_at", "finished_at"),
    "sequence",
)
_counters = attrgetter(*COUNTED)

_study: BindParameter[int] = bindparam("study")
_many: BindParameter[Any] = bindparam("many", expanding=True)
_own = TRIALS.c.study_id == _study
STUDY = select(*_columns(STUDIES, StudyRecord)).where(STUDIES.c.id == _study)
LOCKED = STUDY.with_for_update()
IDLE = STUDY.with_for_update(skip_locked=True)
NUMBERED = select(*_columns(TRIALS, TrialRecord)).where(_own, TRIALS.c.number.in_(_many))
QUEUED = (
    select(*_columns(TRIALS, TrialRecord))
    .where(_own, TRIALS.c.state == str(TrialState.WAITING))
    .order_by(TRIALS.c.number)
)
SOME_QUEUED = QUEUED.limit(bindparam("count"))
LAPSED = select(*_columns(TRIALS, TrialRecord)).where(
    _own, TRIALS.c.state == str(TrialState.RUNNING), TRIALS.c.lease_expires_at <= bindparam("at")
)
TRIED = select(TRIALS.c.key).where(_own, TRIALS.c.key.in_(_many), TRIALS.c.number >= bindparam("number"))
READY = (
    select(*_columns(SUGGESTIONS, SuggestionRecord))
    .where(SUGGESTIONS.c.study_id == _study, SUGGESTIONS.c.context == bindparam("context"))
    .order_by(SUGGESTIONS.c.id)
)
SOME_READY = READY.limit(bindparam("count"))
TAKEN = delete(SUGGESTIONS).where(SUGGESTIONS.c.id.in_(_many))
MEASURED_OF = (
    select(*(MEASUREMENTS.c[name] for name in MEASURED))
    .where(MEASUREMENTS.c.study_id == _study, MEASUREMENTS.c.number.in_(_many))
    .order_by(MEASUREMENTS.c.id)
)
ASKED = select(ASKS.c.key, ASKS.c.request, ASKS.c.count, ASKS.c.given).where(
    ASKS.c.study_id == _study, ASKS.c.key.in_(_many)
)
COUNT = update(STUDIES).where(STUDIES.c.id == _study).values({name: bindparam(name) for name in COUNTED})
MOVE = (
    update(TRIALS).where(_own, TRIALS.c.number == bindparam("trial")).values({name: bindparam(name) for name in MOVED})
)
NEW_TRIALS, NEW_MEASUREMENTS, NEW_ASKS = insert(TRIALS), insert(MEASUREMENTS), insert(ASKS)


class Ledger:
    """A study and its trials within one transaction: each trial is one object, however often it is read."""

    def __init__(self, connection: Connection, study: StudyRecord) -> None:
        self.connection = connection
        self.study = study
        self.trials: dict[int, TrialRecord] = {}
        self.changed: dict[int, TrialRecord] = {}
        self._new: list[TrialRecord] = []
        self._measured: list[dict[str, Any]] = []
        self._asks: list[dict[str, Any]] = []
        self._taken: list[int] = []
        self._before = _counters(study)

    # --- reading ------------------------------------------------------------------------------------------------------

    def numbered(self, numbers: Iterable[int]) -> None:
        """Read these trials, as far as they are there."""
        if missing := set(numbers) - self.trials.keys():
            self._met(self.connection.execute(NUMBERED, self._about(missing)))

    def queued(self, count: int | None) -> Iterator[TrialRecord]:
        """The first trials that wait in the queue, at least so many, or all. What was changed here may wait no more."""
        most = None if count is None else count + len(self.changed)
        for row in self.connection.execute(QUEUED if most is None else SOME_QUEUED, self._about(count=most)):
            (trial,) = self._met([row])
            if trial.state == TrialState.WAITING:
                yield trial

    def lapsed(self, at: datetime) -> list[TrialRecord]:
        """The trials whose leases are over."""
        return self._met(self.connection.execute(LAPSED, self._about(at=at)))

    def measured(self, numbers: Iterable[int]) -> Sequence[Any]:
        """What was measured of trials, in its order."""
        return self.connection.execute(MEASURED_OF, self._about(numbers)).all()

    def ready(self, context: str, count: int | None) -> list[SuggestionRecord]:
        """The next suggestions for a context, or all."""
        query = READY if count is None else SOME_READY
        rows = self.connection.execute(query, self._about(context=context, count=count))
        return [SuggestionRecord(*row) for row in rows]

    def tried(self, keys: Iterable[str], number: int) -> set[str]:
        """Which of these configurations are trials' from ``number`` on."""
        return set(self.connection.scalars(TRIED, self._about(keys, number=number)))

    def asked(self, keys: Iterable[str]) -> dict[str, Earlier]:
        """What requests with these idempotency keys were given."""
        rows = self.connection.execute(ASKED, self._about(keys))
        return {key: Earlier(*rest) for key, *rest in rows}

    def _about(self, many: Iterable[Any] | None = None, **values: Any) -> dict[str, Any]:
        found = {"study": self.study.id, **values}
        return found if many is None else {**found, "many": list(many)}

    def _met(self, rows: Iterable[Any]) -> list[TrialRecord]:
        found = [TrialRecord(*row) for row in rows]
        return [self.trials.setdefault(trial.number, trial) for trial in found]

    # --- writing ------------------------------------------------------------------------------------------------------

    def touch(self, trial: TrialRecord) -> None:
        """The trial is changed."""
        self.changed[trial.number] = trial

    def add(self, trial: TrialRecord) -> None:
        self.trials[trial.number] = trial
        self._new.append(trial)

    def measure(self, number: int, measurements: Iterable[Mapping[str, Any]]) -> None:
        own = {"study_id": self.study.id, "number": number}
        self._measured += [{**own, **measurement} for measurement in measurements]

    def ask(self, key: str, earlier: Earlier) -> None:
        self._asks.append(
            {
                "study_id": self.study.id,
                "key": key,
                "request": earlier.request,
                "count": earlier.count,
                "given": earlier.given,
            }
        )

    def take(self, suggestions: Iterable[SuggestionRecord]) -> None:
        """Suggestions are used up."""
        self._taken += [suggestion.id for suggestion in suggestions]

    def write(self) -> None:
        """Bring what changed to the database."""
        execute = self.connection.execute
        for trial in self._new:
            self.changed.pop(trial.number, None)
        if self._new:
            execute(NEW_TRIALS, [{name: getattr(trial, name) for name in ALL_OF_TRIAL} for trial in self._new])
        if self.changed:
            execute(MOVE, [self._moved(trial) for trial in self.changed.values()])
        if self._measured:
            execute(NEW_MEASUREMENTS, self._measured)
        if self._asks:
            execute(NEW_ASKS, self._asks)
        if self._taken:
            execute(TAKEN, {"many": self._taken})
        if (counters := _counters(self.study)) != self._before:
            execute(COUNT, {"study": self.study.id, **dict(zip(COUNTED, counters, strict=True))})
            self._before = counters
        self.changed = {}
        self._new, self._measured, self._asks, self._taken = [], [], [], []

    def _moved(self, trial: TrialRecord) -> dict[str, Any]:
        found = {name: getattr(trial, name) for name in MOVED}
        return {**found, "study": trial.study_id, "trial": trial.number}


ALL_OF_TRIAL = tuple(field.name for field in fields(TrialRecord))


def locked(connection: Connection, study_id: int, *, skip: bool = False) -> Ledger | None:
    """A study whose row is locked first of all; None where there is none, with ``skip`` also where it is locked."""
    row = connection.execute(IDLE if skip else LOCKED, {"study": study_id}).first()
    return None if row is None else Ledger(connection, StudyRecord(*row))
