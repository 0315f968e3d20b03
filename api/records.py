"""What asks, tells and heartbeats read and write, as plain objects, and the statements for it, made once.

SQLAlchemy's unit of work takes several times as long over these rows as the database does, and nearly all requests are
about them. What a transaction changed of trials is noted, and written back by `Ledger.write`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Insert,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    literal_column,
    select,
    update,
)

from suffice.optimizer import TrialState

from .statements import Among, Query, Statements, Values
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
    tried: bool  # it became a duplicate of a trial after it was computed


class MeasuredRecord(NamedTuple):
    number: int
    metric: str
    value: float
    stderr: float | None
    step: int | None
    gradient: dict[str, float] | None


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
    return [table.c[name.name] for name in fields(record) if name.name in table.c]


STUDIES, TRIALS, SUGGESTIONS = _table(StudyRow), _table(TrialRow), _table(SuggestionRow)
ASKS, MEASUREMENTS = _table(AskRow), _table(MeasurementRow)

COUNTED = ("next_number", "used", "counts", "sequence", "data_version")  # of a study: what changes
MOVED = (
    *("state", "reason", "worker", "attempts", "lease_token", "lease_expires_at", "started_at", "finished_at"),
    "sequence",
)
_counters = attrgetter(*COUNTED)


def _in(table: Table, state: TrialState | None = None) -> ColumnElement[bool]:
    """What belongs to the study, of trials perhaps those in a state."""
    own = table.c.study_id == bindparam("study")
    return own if state is None else and_(own, table.c.state == literal_column(f"'{state}'"))


def _insert(table: Table, columns: Iterable[str]) -> Insert:
    return insert(table).inline().values({name: bindparam(name) for name in columns})


STUDY = select(*_columns(STUDIES, StudyRecord)).where(STUDIES.c.id == bindparam("study"))
LOCKED = STUDY.with_for_update()
IDLE = STUDY.with_for_update(skip_locked=True)
SOME = select(*_columns(TRIALS, TrialRecord))
NUMBERED = SOME.where(_in(TRIALS), Among(TRIALS.c.number))
QUEUED = SOME.where(_in(TRIALS, TrialState.WAITING)).order_by(TRIALS.c.number)
FIRST_QUEUED = QUEUED.limit(bindparam("count"))
LAPSED = SOME.where(_in(TRIALS, TrialState.RUNNING), TRIALS.c.lease_expires_at <= bindparam("at"))
TRIED = exists().where(
    TRIALS.c.study_id == SUGGESTIONS.c.study_id,
    TRIALS.c.key == SUGGESTIONS.c.key,
    TRIALS.c.number >= SUGGESTIONS.c.next_number,
)
READY = (
    select(*_columns(SUGGESTIONS, SuggestionRecord), TRIED)
    .where(_in(SUGGESTIONS), SUGGESTIONS.c.context == bindparam("context"))
    .order_by(SUGGESTIONS.c.id)
)
FIRST_READY = READY.limit(bindparam("count"))
MEASURED = (
    select(*(MEASUREMENTS.c[name] for name in MeasuredRecord._fields))
    .where(_in(MEASUREMENTS), Among(MEASUREMENTS.c.number))
    .order_by(MEASUREMENTS.c.id)
)
ASKED = select(ASKS.c.key, ASKS.c.request, ASKS.c.count, ASKS.c.given).where(_in(ASKS), Among(ASKS.c.key))

COUNT = update(STUDIES).where(STUDIES.c.id == bindparam("study")).values({name: bindparam(name) for name in COUNTED})
MOVE = (
    update(TRIALS)
    .where(_in(TRIALS), TRIALS.c.number == bindparam("trial"))
    .values({name: bindparam(name) for name in MOVED})
)
TAKEN = delete(SUGGESTIONS).where(Among(SUGGESTIONS.c.id))
REPLACED = delete(MEASUREMENTS).where(
    _in(MEASUREMENTS),
    *(MEASUREMENTS.c[name] == bindparam(name) for name in ("number", "metric", "step")),
)
NEW_TRIALS = _insert(TRIALS, [field.name for field in fields(TrialRecord)])
NEW_MEASUREMENTS = _insert(MEASUREMENTS, ("study_id", *MeasuredRecord._fields))
NEW_ASKS = _insert(ASKS, ("study_id", "key", *(field.name for field in fields(Earlier))))


# --- queries about a study --------------------------------------------------------------------------------------------


def numbered(study: int, numbers: Iterable[int]) -> Query:
    """The trials with these numbers, as far as they are there."""
    return NUMBERED, {"study": study, "many": sorted(numbers)}


def queued(study: int, count: int | None) -> Query:
    """The first trials of the queue, or all."""
    return (QUEUED, {"study": study}) if count is None else (FIRST_QUEUED, {"study": study, "count": count})


def lapsed(study: int, at: datetime) -> Query:
    """The trials whose leases are over."""
    return LAPSED, {"study": study, "at": at}


def measured(study: int, numbers: Iterable[int]) -> Query:
    """What was measured of trials, in its order."""
    return MEASURED, {"study": study, "many": sorted(numbers)}


def ready(study: int, context: str, count: int | None) -> Query:
    """The next suggestions for a context, or all."""
    own = {"study": study, "context": context}
    return (READY, own) if count is None else (FIRST_READY, {**own, "count": count})


def asked(study: int, keys: Iterable[str]) -> Query:
    """What requests with these idempotency keys were given."""
    return ASKED, {"study": study, "many": sorted(keys)}


class Ledger:
    """A study and its trials within one transaction: each trial is one object, however often it is read."""

    def __init__(
        self, statements: Statements, study: StudyRecord, ahead: Iterable[tuple[Query, Sequence[Any]]]
    ) -> None:
        self.study = study
        self.trials: dict[int, TrialRecord] = {}
        self.changed: dict[int, TrialRecord] = {}
        self._statements = statements
        self._ahead = list(ahead)  # what was read with the study, and holds until something is written
        self._new: list[TrialRecord] = []
        self._measured: list[dict[str, Any]] = []
        self._replaced: list[dict[str, Any]] = []
        self._asks: list[dict[str, Any]] = []
        self._taken: list[int] = []
        self._before = _counters(study)

    # --- reading ------------------------------------------------------------------------------------------------------

    def numbered(self, numbers: Iterable[int]) -> None:
        """Read these trials, as far as they are there."""
        self._met(numbered(self.study.id, numbers))

    def queued(self, count: int | None) -> list[TrialRecord]:
        """The first trials of the queue, or all, without those that were changed here and wait no more."""
        return [trial for trial in self._met(queued(self.study.id, count)) if trial.state == TrialState.WAITING]

    def lapsed(self, at: datetime) -> list[TrialRecord]:
        """The trials whose leases are over."""
        return self._met(lapsed(self.study.id, at))

    def measured(self, numbers: Iterable[int]) -> list[MeasuredRecord]:
        """What was measured of trials, in its order."""
        return [MeasuredRecord(*row) for row in self._rows(measured(self.study.id, numbers))]

    def ready(self, context: str, count: int | None) -> list[SuggestionRecord]:
        """The next suggestions for a context, or all."""
        return [SuggestionRecord(*row) for row in self._rows(ready(self.study.id, context, count))]

    def asked(self, keys: Iterable[str]) -> dict[str, Earlier]:
        """What requests with these idempotency keys were given."""
        return {key: Earlier(*rest) for key, *rest in self._rows(asked(self.study.id, keys))}

    def connection(self) -> Connection:
        """For other queries: they see what was written."""
        self._statements.flush()
        return self._statements.connection

    def _rows(self, query: Query) -> Sequence[Any]:
        for ahead, rows in self._ahead:
            if ahead == query:
                return rows
        return self._statements.read(query)[0]

    def _met(self, query: Query) -> list[TrialRecord]:
        found = [TrialRecord(*row) for row in self._rows(query)]
        return [self.trials.setdefault(trial.number, trial) for trial in found]

    # --- writing ------------------------------------------------------------------------------------------------------

    def touch(self, trial: TrialRecord) -> None:
        """The trial is changed."""
        self.changed[trial.number] = trial

    def add(self, trial: TrialRecord) -> None:
        self.trials[trial.number] = trial
        self._new.append(trial)

    def measure(self, number: int, measurements: Iterable[Mapping[str, Any]]) -> None:
        """Measurements are added; one at a step replaces what was measured there before."""
        for measurement in measurements:
            if measurement["step"] is not None:
                step = {name: measurement[name] for name in ("metric", "step")}
                self._replaced.append({"study": self.study.id, "number": number, **step})
            self._measured.append({"study_id": self.study.id, "number": number, **measurement})

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
        for trial in self._new:
            self.changed.pop(trial.number, None)
        self._write(NEW_TRIALS, [{name: getattr(trial, name) for name in ALL_OF_TRIAL} for trial in self._new])
        self._write(MOVE, [self._moved(trial) for trial in self.changed.values()])
        self._write(REPLACED, self._replaced)
        self._write(NEW_MEASUREMENTS, self._measured)
        self._write(NEW_ASKS, self._asks)
        self._write(TAKEN, [{"many": self._taken}] if self._taken else [])
        if (counters := _counters(self.study)) != self._before:
            self._write(COUNT, [{"study": self.study.id, **dict(zip(COUNTED, counters, strict=True))}])
            self._before = counters
        self.changed = {}
        self._new, self._measured, self._replaced, self._asks, self._taken = [], [], [], [], []

    def _write(self, statement: Executable, rows: Sequence[Values]) -> None:
        if rows:
            self._ahead = []
            self._statements.write(statement, rows)

    def _moved(self, trial: TrialRecord) -> dict[str, Any]:
        found = {name: getattr(trial, name) for name in MOVED}
        return {**found, "study": trial.study_id, "trial": trial.number}


ALL_OF_TRIAL = tuple(field.name for field in fields(TrialRecord))


def locked(statements: Statements, study_id: int, *ahead: Query, skip: bool = False) -> Ledger | None:
    """A study whose row is locked first of all; None where there is none, with ``skip`` also where it is locked.

    Queries ``ahead`` are made along with it, once it is locked: the ledger has their answers when it is asked.
    """
    answers = statements.read((IDLE if skip else LOCKED, {"study": study_id}), *ahead)
    if not answers[0]:
        return None
    return Ledger(statements, StudyRecord(*answers[0][0]), zip(ahead, answers[1:], strict=True))
