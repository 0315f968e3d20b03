"""Studies, their history, and what the engine prepared for them. With `leases.py`, the only SQL there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import case, delete, func, insert, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from suffice.optimizer import (
    Conflict,
    InvalidInput,
    Measurement,
    NotFound,
    Objective,
    Stop,
    Suggestion,
    Trial,
    TrialState,
)
from suffice.optimizer.errors import Problem

from .access import DEFAULT_PROJECT
from .database import Database
from .errors import StudyDeleted
from .tables import (
    AnalysesRow,
    AskRow,
    EarlierRow,
    MeasurementRow,
    StudyRow,
    SuggestionRow,
    TrialRow,
    context_key,
    key_of,
)
from .views import measurement_fields, study_out, trial_known, trial_out
from .wire import Event, StudyCreate, StudyExport, StudyOut, StudyPatch, TrialAdd, TrialOut

Clock = Callable[[], datetime]
# What of a study never changes: all that the engine has to know, and nothing that only the service uses.
DEFINITION = set(StudyCreate.model_fields) - {"name", "budget", "seed", "lease_seconds", "max_retries", "metadata"}
READY_KEPT = 1000  # ready suggestions of a study, at most


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What a request needs to know of a study."""

    id: int
    name: str
    definition: dict[str, Any]  # as `definitions.study_of` reads it
    data_version: int  # when this was read


@dataclass(frozen=True, slots=True)
class Changes:
    """What the engine reads: the trials that changed since it last looked, and where the study stands."""

    trials: list[Trial]
    sequence: int
    data_version: int
    next_number: int


class Store:
    """Each method is one transaction. Names are those of one project; ids come from there."""

    def __init__(self, database: Database, clock: Clock = now, project: int = DEFAULT_PROJECT) -> None:
        self.database = database
        self.clock = clock
        self.project = project

    def within(self, project: int) -> Store:
        """The same for another project."""
        store = copy(self)
        store.project = project
        return store

    # --- studies ------------------------------------------------------------------------------------------------------

    def create(self, definition: StudyCreate, seed: int) -> tuple[int, StudyOut]:
        """A new study; raises Conflict when its name is taken, InvalidInput where it learns from one that is not."""
        row = self._new_study(definition, seed)
        self._insert(row)
        return row.id, study_out(row)

    def facts(self, name: str) -> StudyFacts:
        """Which study that is; raises NotFound."""
        with self.database.read() as session:
            row = _by_name(session, self.project, name)
            return StudyFacts(row.id, row.name, {**row.definition, "seed": row.seed}, row.data_version)

    def definition(self, study_id: int) -> dict[str, Any]:
        with self.database.read() as session:
            row = by_id(session, study_id)
            return {**row.definition, "seed": row.seed}

    def study(self, study_id: int) -> StudyOut:
        with self.database.read() as session:
            return study_out(by_id(session, study_id))

    def studies(self, after: str | None, limit: int) -> list[StudyOut]:
        """Studies in the order of their names, from behind ``after``."""
        query = select(StudyRow).where(StudyRow.project_id == self.project).order_by(col(StudyRow.name)).limit(limit)
        if after is not None:
            query = query.where(StudyRow.name > after)
        with self.database.read() as session:
            return [study_out(row) for row in session.exec(query)]

    def patch(self, study_id: int, patch: StudyPatch) -> StudyOut:
        """Change what ``patch`` gives; ``budget`` with no limit in it lifts the limit."""
        with self.database.write() as session:
            row = by_id(session, study_id, lock=True)
            if patch.state is not None:
                row.state = patch.state
            if patch.budget is not None:
                row.budget, row.budget_cost = patch.budget.trials, patch.budget.cost
            if patch.lease_seconds is not None:
                row.lease_seconds = patch.lease_seconds
            if patch.max_retries is not None:
                row.max_retries = patch.max_retries
            if patch.metadata is not None:
                row.info = patch.metadata
            row.updated_at = self.clock()
            row.changed_at = row.tick()
            return study_out(row)

    def delete(self, study_id: int) -> None:
        """Raises Conflict while other studies learn from it."""
        learning = select(StudyRow.name).join(EarlierRow, col(EarlierRow.study_id) == StudyRow.id)
        with self.database.write() as session:
            by_id(session, study_id, lock=True)
            if names := session.exec(learning.where(EarlierRow.source_id == study_id)).all():
                raise Conflict(f"it is learned from by {sorted(names)}: delete those first")
            session.exec(delete(StudyRow).where(col(StudyRow.id) == study_id))

    def _new_study(self, definition: StudyCreate, seed: int) -> StudyRow:
        at = self.clock()
        return StudyRow(
            project_id=self.project,
            name=definition.name,
            definition=definition.model_dump(mode="json", exclude_none=True, include=DEFINITION),
            seed=seed,
            budget=definition.budget.trials,
            budget_cost=definition.budget.cost,
            lease_seconds=definition.lease_seconds,
            max_retries=definition.max_retries,
            info=definition.metadata,
            counts={},
            created_at=at,
            updated_at=at,
        )

    def _insert(self, row: StudyRow, trials: Sequence[Mapping[str, Any]] = (), measured: Sequence[Any] = ()) -> None:
        try:
            with self.database.write() as session:
                session.add(row)
                session.flush()
                for source_id in _sources(session, row, lock=True).values():
                    session.add(EarlierRow(study_id=row.id, source_id=source_id))
                _insert_trials(session, row.id, trials, measured)
        except IntegrityError as error:
            raise Conflict(f"there is a study named {row.name!r} already") from error

    # --- history ------------------------------------------------------------------------------------------------------

    def trial(self, study_id: int, number: int) -> TrialOut:
        with self.database.read() as session:
            row = session.get(TrialRow, (study_id, number))
            if row is None:
                raise NotFound(f"there is no trial {number}")
            return views(session, study_id, [row])[0]

    def some(self, study_id: int, numbers: Sequence[int]) -> list[TrialOut]:
        """These trials, in this order."""
        query = select(TrialRow).where(TrialRow.study_id == study_id, col(TrialRow.number).in_(numbers))
        with self.database.read() as session:
            found = {trial.number: trial for trial in views(session, study_id, session.exec(query).all())}
        return [found[number] for number in numbers]

    def trials(self, study_id: int, after: int, limit: int | None, state: str | None = None) -> list[TrialOut]:
        """Trials by number, from behind ``after``."""
        query = select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.number > after)
        if state is not None:
            query = query.where(TrialRow.state == state)
        query = query.order_by(col(TrialRow.number)).limit(limit)
        with self.database.read() as session:
            return views(session, study_id, session.exec(query).all())

    def known_trial(self, study_id: int, number: int) -> Trial:
        """A trial as the optimizer knows it."""
        with self.database.read() as session:
            row = session.get(TrialRow, (study_id, number))
            if row is None:
                raise NotFound(f"there is no trial {number}")
            return known(session, study_id, [row])[0]

    def reached(self, study_id: int, objective: Objective, step: int) -> list[Trial]:
        """The trials that reported an objective at ``step`` or later, each with its best report up to there."""
        best = func.max if objective.sign > 0 else func.min
        up_to = case((col(MeasurementRow.step) <= step, MeasurementRow.value))
        query = (
            select(MeasurementRow.number, best(up_to))
            .where(MeasurementRow.study_id == study_id, MeasurementRow.metric == objective.metric)
            .group_by(col(MeasurementRow.number))
            .having(func.max(MeasurementRow.step) >= step)
        )
        with self.database.read() as session:
            return [
                Trial(number, {}, measurements=(Measurement(objective.metric, value, step=step),))
                for number, value in session.exec(query)
                if value is not None
            ]

    def add(self, study_id: int, trials: Sequence[TrialAdd], key: str | None = None) -> list[TrialOut]:
        """Queue points and record finished history, all or nothing; the caller has checked them.

        With the ``key`` of an earlier request, what that one added; Conflict where it was another request.
        """
        at = self.clock()
        with self.database.write() as session:
            study = by_id(session, study_id, lock=True)
            if key is not None and (earlier := session.get(AskRow, (study_id, key))):
                return _added_before(session, earlier, trials)
            first = study.next_number
            rows = [self._added(study, trial, at) for trial in trials]
            measured = [
                {"number": first + i, **measurement_fields(m)} for i, t in enumerate(trials) for m in t.measurements
            ]
            _insert_trials(session, study_id, rows, measured)
            study.data_version += 1
            if key is not None:
                given = [(number, 0) for number in range(first, study.next_number)]
                session.add(AskRow(study_id=study_id, key=key, request="add", count=len(given), given=given))
            return _from(session, study_id, first, len(trials))

    def _added(self, study: StudyRow, trial: TrialAdd, at: datetime) -> dict[str, Any]:
        state = TrialState(trial.state or ("COMPLETED" if trial.measurements else "WAITING"))
        method = "queued" if state.open else "added"
        number = study.next_number
        study.next_number += 1
        study.enter(state, method)
        return {
            "number": number,
            "state": str(state),
            "parameters": trial.parameters,
            "key": key_of(trial.parameters),
            "source": {"method": method},
            "reason": trial.reason,
            "attempts": 0,
            "created_at": at,
            "finished_at": None if state.open else at,
            "sequence": study.tick(),
        }

    def export(self, study_id: int) -> StudyExport:
        with self.database.read() as session:
            study = by_id(session, study_id)
            query = select(TrialRow).where(TrialRow.study_id == study_id).order_by(col(TrialRow.number))
            trials = views(session, study_id, session.exec(query).all())
            return StudyExport(study=study_out(study), trials=trials)

    def restore(self, document: StudyExport) -> tuple[int, StudyOut]:
        """A study from its export; what was open waits in the queue again. Raises Conflict for a taken name."""
        study = self._new_study(document.study, document.study.seed)
        study.state = document.study.state
        study.created_at = document.study.created_at
        rows = [_restored(study, trial) for trial in document.trials]
        study.next_number = max((t.number + 1 for t in document.trials), default=0)
        study.data_version = document.study.data_version + 1
        measured = [{"number": t.number, **measurement_fields(m)} for t in document.trials for m in t.measurements]
        self._insert(study, rows, measured)
        return study.id, self.study(study.id)

    # --- events -------------------------------------------------------------------------------------------------------

    def events(self, study_id: int, after: int, limit: int = 500) -> list[Event]:
        """What changed since event ``after``: of each trial, and of the study, only the newest state."""
        query = select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.sequence > after)
        with self.database.read() as session:
            study = by_id(session, study_id)
            rows = session.exec(query.order_by(col(TrialRow.sequence)).limit(limit)).all()
            until = rows[-1].sequence if len(rows) == limit else study.sequence
            events = [
                Event(id=row.sequence, event="trial", data=out.model_dump(mode="json", exclude_none=True))
                for row, out in zip(rows, views(session, study_id, rows), strict=True)
            ]
            if after < study.changed_at <= until:
                shown = study_out(study)
                events.append(Event(id=study.changed_at, event="study", data=shown.model_dump(mode="json")))
            if after < study.refreshed_at <= until:
                ready = {"ready": _ready(session, study_id), "data_version": study.data_version}
                events.append(Event(id=study.refreshed_at, event="suggestions", data=ready))
        return sorted(events, key=lambda event: event.id)

    def sequence(self, study_id: int) -> int:
        """The number of the study's last change; raises NotFound once it is deleted."""
        with self.database.read() as session:
            found = session.exec(select(StudyRow.sequence).where(StudyRow.id == study_id)).first()
        if found is None:
            raise StudyDeleted
        return found

    def pool(self) -> tuple[int, int]:
        """How many studies there are, and how many ready suggestions, in all projects."""
        with self.database.read() as session:
            studies = session.exec(select(func.count()).select_from(StudyRow)).one()
            return studies, session.exec(select(func.count()).select_from(SuggestionRow)).one()

    # --- for the engine -----------------------------------------------------------------------------------------------

    def earlier(self, study_id: int) -> dict[str, int]:
        """The studies that this one learns from: their ids by name."""
        with self.database.read() as session:
            return _sources(session, by_id(session, study_id))

    def data_version(self, study_id: int) -> int:
        with self.database.read() as session:
            return by_id(session, study_id).data_version

    def changes(self, study_id: int, since: int) -> Changes:
        """The trials whose last change is after ``since``."""
        changed = (TrialRow.study_id == study_id, TrialRow.sequence > since)
        with self.database.read() as session:
            study = by_id(session, study_id)
            rows = session.exec(select(TrialRow).where(*changed).order_by(col(TrialRow.number))).all()
            query = select(MeasurementRow).where(MeasurementRow.study_id == study_id)
            if since:
                numbers = select(TrialRow.number).where(*changed)
                query = query.where(col(MeasurementRow.number).in_(numbers))
            measured = _by_number(session.exec(query.order_by(col(MeasurementRow.id))))
            trials = [trial_known(row, measured.get(row.number, [])) for row in rows]
            return Changes(trials, study.sequence, study.data_version, study.next_number)

    def replace_ready(
        self,
        study_id: int,
        ready: Sequence[Suggestion],
        known: Changes,
        *,
        stop: Stop | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> bool:
        """Put ``ready`` in place of the study's ready suggestions; whether they know everything up to this moment.

        ``stop`` is what asks are answered once these are handed out and nothing was told since. Suggestions that stand
        on less than those already there are dropped; those for another ``context`` stay while they are as new.
        """
        key = context_key(context)
        with self.database.write() as session:
            study = by_id(session, study_id, lock=True)
            newest = select(func.max(SuggestionRow.data_version)).where(SuggestionRow.study_id == study_id)
            if known.data_version < (session.exec(newest).one() or 0):
                return False
            outdated = or_(col(SuggestionRow.context) == key, col(SuggestionRow.data_version) < known.data_version)
            session.exec(delete(SuggestionRow).where(col(SuggestionRow.study_id) == study_id, outdated))
            rows = [
                {
                    "study_id": study_id,
                    "parameters": s.params,
                    "key": key_of(s.params),
                    "source": {**s.source.to_json(), "data_version": known.data_version},
                    "context": key,
                    "data_version": known.data_version,
                    "next_number": known.next_number,
                }
                for s in ready[:READY_KEPT]
            ]
            if rows:
                session.exec(insert(SuggestionRow), params=rows)
            about = {"data_version": known.data_version, "context": key}
            study.stop = None if stop is None else {**stop.to_json(), **about}
            study.refreshed_at = study.tick()
            return (study.data_version, study.next_number) == (known.data_version, known.next_number)

    def best(self, study_id: int) -> tuple[dict[str, Any] | None, int]:
        """The engine's last recommendation, with the data version it stands on, and today's data version."""
        with self.database.read() as session:
            study = by_id(session, study_id)
            return study.best, study.data_version

    def analyses(self, study_id: int) -> AnalysesRow | None:
        """The study's last analyses, if there are any."""
        with self.database.read() as session:
            return session.get(AnalysesRow, study_id)

    def save_analyses(self, study_id: int, cards: list[dict[str, Any]], data_version: int) -> None:
        with self.database.write() as session:
            by_id(session, study_id)
            session.merge(AnalysesRow(study_id=study_id, cards=cards, data_version=data_version))

    def save_best(self, study_id: int, best: dict[str, Any]) -> None:
        with self.database.write() as session:
            session.exec(update(StudyRow).where(col(StudyRow.id) == study_id).values(best=best))


def by_id(session: Session, study_id: int, *, lock: bool = False) -> StudyRow:
    """The study's row, for a writer locked first of all; raises NotFound."""
    query = select(StudyRow).where(StudyRow.id == study_id)
    row = session.exec(query.with_for_update() if lock else query).first()
    if row is None:
        raise StudyDeleted
    return row


def views(session: Session, study_id: int, rows: Sequence[TrialRow], *, with_lease: bool = False) -> list[TrialOut]:
    """Trials with their measurements."""
    measured = _measured(session, study_id, rows)
    return [trial_out(row, measured.get(row.number, []), with_lease=with_lease) for row in rows]


def known(session: Session, study_id: int, rows: Sequence[TrialRow]) -> list[Trial]:
    """Trials as the optimizer knows them."""
    measured = _measured(session, study_id, rows)
    return [trial_known(row, measured.get(row.number, [])) for row in rows]


def _measured(session: Session, study_id: int, rows: Sequence[TrialRow]) -> dict[int, list[MeasurementRow]]:
    if not rows:
        return {}
    query = select(MeasurementRow).where(MeasurementRow.study_id == study_id)
    numbers = [row.number for row in rows]
    if len(numbers) <= 500:  # parameters of one statement
        query = query.where(col(MeasurementRow.number).in_(numbers))
    else:
        query = query.where(col(MeasurementRow.number).between(min(numbers), max(numbers)))
    return _by_number(session.exec(query.order_by(col(MeasurementRow.id))))


def _sources(session: Session, row: StudyRow, *, lock: bool = False) -> dict[str, int]:
    """The ids of the studies that one learns from, by name; raises InvalidInput for one that is not there."""
    names = row.definition.get("earlier") or []
    others = (StudyRow.project_id == row.project_id, StudyRow.id != row.id)
    query = select(StudyRow.name, StudyRow.id).where(*others, col(StudyRow.name).in_(names))
    query = query.with_for_update(read=True) if lock else query  # none of them is deleted meanwhile
    found = dict(session.exec(query).all()) if names else {}
    missing = [(i, name) for i, name in enumerate(names) if name not in found or name in names[:i]]
    if missing:
        expected = "the name of another study of this service, once"
        raise InvalidInput.of(Problem(f"earlier.{i}", expected, name) for i, name in missing)
    return {name: found[name] for name in names}


def _from(session: Session, study_id: int, first: int, count: int) -> list[TrialOut]:
    query = select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.number >= first)
    return views(session, study_id, session.exec(query.order_by(col(TrialRow.number)).limit(count)).all())


def _added_before(session: Session, earlier: AskRow, trials: Sequence[TrialAdd]) -> list[TrialOut]:
    """What a request to add with the same key added; Conflict where it added other configurations."""
    same: list[TrialOut] = []
    if (earlier.request, earlier.count) == ("add", len(trials)):
        same = _from(session, earlier.study_id, earlier.given[0][0], len(trials))
    if [trial.parameters for trial in same] != [trial.parameters for trial in trials]:
        raise Conflict(f"the idempotency key {earlier.key!r} was used for another request")
    return same


def _by_name(session: Session, project: int, name: str) -> StudyRow:
    row = session.exec(select(StudyRow).where(StudyRow.project_id == project, StudyRow.name == name)).first()
    if row is None:
        raise NotFound(f"there is no study named {name!r}")
    return row


def _by_number(rows: Iterable[MeasurementRow]) -> dict[int, list[MeasurementRow]]:
    grouped: dict[int, list[MeasurementRow]] = {}
    for row in rows:
        grouped.setdefault(row.number, []).append(row)
    return grouped


def _ready(session: Session, study_id: int) -> int:
    return session.exec(select(func.count()).select_from(SuggestionRow).where(SuggestionRow.study_id == study_id)).one()


def _insert_trials(
    session: Session, study_id: int, trials: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> None:
    if trials:
        session.exec(insert(TrialRow), params=[{"study_id": study_id, **row} for row in trials])
    if measured:
        session.exec(insert(MeasurementRow), params=[{"study_id": study_id, **row} for row in measured])


def _restored(study: StudyRow, trial: TrialOut) -> dict[str, Any]:
    state = TrialState.WAITING if TrialState(trial.state).open else TrialState(trial.state)
    study.enter(state, trial.source.method)
    return {
        "number": trial.number,
        "state": str(state),
        "parameters": trial.parameters,
        "key": key_of(trial.parameters),
        "source": trial.source.model_dump(exclude_none=True),
        "reason": trial.reason,
        "worker": trial.worker,
        "attempts": trial.attempts,
        "created_at": trial.created_at,
        "started_at": trial.started_at,
        "finished_at": None if state.open else trial.finished_at,
        "sequence": study.tick(),
    }
