"""How trials change hands: asked for, told, reported on, given back, taken back. Each method is one transaction.

A lease is a token that the trial remembers and the time it is granted until. The token is good until the trial ends or
is handed to someone else: a worker that was out of reach for too long finds its trial in the queue again, but its
result is taken all the same if nobody has started it anew. So, until the retries are used up, it makes no difference
when expired leases are swept up.

- RUNNING, token, time to come: leased.
- RUNNING, token, time past: lapsed; the next ask or sweep puts it back into the queue, or ends it as EXPIRED.
- WAITING, token, time past: in the queue after it lapsed. Its last worker may still resume it or tell its result.
- WAITING, token, no time: in the queue after its worker gave it back.
- WAITING, no token: in the queue, never handed out.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import delete, insert
from sqlmodel import Session, col, select

from suffice.optimizer import Budget, Conflict, NotFound, Stop, StopReason, Trial, TrialState
from suffice.optimizer.decision import counts
from suffice.optimizer.fidelity import Fidelity

from .database import Database
from .errors import LeaseLost
from .store import Clock, by_id, known, now, views
from .tables import AskRow, MeasurementRow, StudyRow, SuggestionRow, TrialRow, context_key
from .views import measurement_fields, measurement_out
from .wire import Ask, MeasurementSpec, Report, Tell, TrialOut


@dataclass(frozen=True, slots=True)
class Given:
    """Trials that were handed out; ``refill``: fewer or older suggestions than one would like are left."""

    trials: list[TrialOut]
    refill: bool = False


@dataclass(frozen=True, slots=True)
class Short:
    """Not enough suggestions are ready; nothing was handed out."""

    count: int  # how many the ask wants


class Leases:
    """The queue of trials and who works on them."""

    def __init__(self, database: Database, clock: Clock = now) -> None:
        self.database = database
        self.clock = clock
        self.expired = 0  # leases, here

    def ask(self, study_id: int, ask: Ask, since: int = 0, fidelity: Fidelity | None = None) -> Given | Stop | Short:
        """Queued trials first, then ready suggestions of data version ``since`` or newer, as the budget allows.

        Only what is in the context of the ask; the caller has checked that. ``fidelity`` says what trials cost.
        """
        at = self.clock()
        key = context_key(ask.context)
        with self.database.write() as session:
            study = by_id(session, study_id, lock=True)
            if ask.idempotency_key is not None and (earlier := session.get(AskRow, (study_id, ask.idempotency_key))):
                return Given(self._again(session, study, earlier, ask, at))
            self.expired += _sweep(session, study, at)
            if study.state == "STOPPED":
                return Stop(StopReason.STOPPED, "the study was stopped")
            budget = Budget(study.budget, study.budget_cost)
            cost = fidelity.spent(_counted(session, study_id)) if fidelity and budget.cost is not None else 0.0
            if stopped := budget.stop(study.used, cost):
                return stopped
            left = budget.left(study.used)
            count = ask.count if left is None else min(ask.count, left)
            queued = _queued(session, study_id, count, ask.context or {})
            missing = count - len(queued)
            ready = _ready(session, study_id, key, since, missing + 1) if missing else []
            stop = _stop(study, key)
            if len(ready) < missing and stop is None:
                return Short(missing)
            taken = ready[:missing]
            trials = queued + [_new_trial(session, study, suggestion, at) for suggestion in taken]
            if not trials:
                assert stop is not None
                return Stop(StopReason(stop["reason"]), stop["message"], stop["gain"], stop["cost"])
            for trial in trials:
                _lease(study, trial, ask.worker, at)
            if ask.idempotency_key is not None:
                given = [(trial.number, trial.attempts) for trial in trials]
                session.add(AskRow(study_id=study_id, key=ask.idempotency_key, count=ask.count, given=given))
            session.flush()
            stale = any(suggestion.data_version < study.data_version for suggestion in taken)
            refill = stale or (bool(taken) and len(ready) == len(taken) and stop is None)
            return Given(views(session, study_id, trials, with_lease=True), refill)

    def _again(self, session: Session, study: StudyRow, earlier: AskRow, ask: Ask, at: datetime) -> list[TrialOut]:
        """What an ask of the same key was given, with the leases that are still its own, renewed."""
        if (earlier.request, earlier.count) != ("ask", ask.count):
            used = f"to {earlier.request} {'for ' * (earlier.request == 'ask')}{earlier.count} trials"
            raise Conflict(f"the idempotency key {ask.idempotency_key!r} was used {used}")
        answer: list[TrialOut] = []
        for number, attempt in earlier.given:
            trial = _trial(session, study.id, number)
            if not _within(trial, ask.context or {}):
                raise Conflict(f"the idempotency key {ask.idempotency_key!r} was used to ask in another context")
            held = trial.attempts == attempt and _resumable(trial)
            if held:
                _renew(study, trial, at)
            answer += views(session, study.id, [trial], with_lease=held)
        return answer

    def tell(self, study_id: int, number: int, tell: Tell) -> tuple[TrialOut, bool]:
        """Record a result. Returns the trial and whether that was news: an equal repeat changes nothing."""
        at = self.clock()
        with self.database.write() as session:
            study = by_id(session, study_id, lock=True)
            trial = _trial(session, study_id, number)
            state = TrialState(tell.state)
            if not TrialState(trial.state).open:
                if not _told_before(session, trial, tell):
                    raise Conflict(f"trial {number} is {trial.state} already, with another result or none")
                return views(session, study_id, [trial])[0], False
            _check_token(trial, tell.lease_token, at)
            _record(session, trial, tell.measurements)
            trial.reason = tell.reason
            study.move(trial, state, at)
            session.flush()
            return views(session, study_id, [trial])[0], True

    def report(self, study_id: int, number: int, report: Report) -> TrialOut:
        """Store intermediate measurements and renew the lease; a second value for a step replaces the first."""
        at = self.clock()
        with self.database.write() as session:
            study, trial = _open(session, study_id, number)
            _check_token(trial, report.lease_token, at)
            _record(session, trial, report.measurements)
            if report.lease_token is not None:
                _renew(study, trial, at)
            trial.sequence = study.tick()
            session.flush()
            return views(session, study_id, [trial], with_lease=report.lease_token is not None)[0]

    def heartbeat(self, study_id: int, number: int, token: str) -> TrialOut:
        """Renew the lease."""
        at = self.clock()
        with self.database.write() as session:
            study, trial = _open(session, study_id, number)
            _check_token(trial, token, at)
            if not _resumable(trial):
                raise LeaseLost(f"trial {number} was given back by its worker")
            _renew(study, trial, at)
            session.flush()
            return views(session, study_id, [trial], with_lease=True)[0]

    def fail(self, study_id: int, number: int, token: str | None, reason: str | None, retry: bool) -> TrialOut:
        """Give a trial back that could not be run: to the queue while retries are left, otherwise it has FAILED."""
        at = self.clock()
        with self.database.write() as session:
            study = by_id(session, study_id, lock=True)
            trial = _trial(session, study_id, number)
            state = TrialState(trial.state)
            if not state.open:
                if state is not TrialState.FAILED or trial.reason != reason:
                    raise Conflict(f"trial {number} is {state} already")
                return views(session, study_id, [trial])[0]
            _check_token(trial, token, at)
            given_back = state is TrialState.WAITING and not _resumable(trial)
            again = retry and trial.attempts <= study.max_retries
            if not (given_back and again):
                trial.reason = reason
                trial.lease_expires_at = None
                study.move(trial, TrialState.WAITING if again else TrialState.FAILED, at)
            session.flush()
            return views(session, study_id, [trial])[0]

    def cancel(self, study_id: int, number: int, reason: str | None) -> tuple[TrialOut, bool]:
        """Take a trial back for good, whoever works on it. Returns the trial and whether that was news."""
        at = self.clock()
        with self.database.write() as session:
            study = by_id(session, study_id, lock=True)
            trial = _trial(session, study_id, number)
            state = TrialState(trial.state)
            if state is not TrialState.CANCELLED:
                if not state.open:
                    raise Conflict(f"trial {number} is {state} already")
                trial.reason = reason
                study.move(trial, TrialState.CANCELLED, at)
            session.flush()
            return views(session, study_id, [trial])[0], state is not TrialState.CANCELLED

    def sweep(self) -> list[int]:
        """Take back every lapsed lease; returns the studies where there were any."""
        at = self.clock()
        running = (TrialRow.state == str(TrialState.RUNNING), col(TrialRow.lease_expires_at) <= at)
        with self.database.read() as session:
            study_ids = list(session.exec(select(TrialRow.study_id).where(*running).distinct()))
        swept: list[int] = []
        for study_id in study_ids:
            with self.database.write() as session:
                study = session.get(StudyRow, study_id, with_for_update={"skip_locked": True})  # in use: swept then
                if study is not None and (lapsed := _sweep(session, study, at)):
                    self.expired += lapsed
                    swept.append(study_id)
        return swept


# --- asking -----------------------------------------------------------------------------------------------------------


def _queued(session: Session, study_id: int, count: int, context: Mapping[str, Any]) -> list[TrialRow]:
    waiting = select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.state == str(TrialState.WAITING))
    ordered = waiting.order_by(col(TrialRow.number))
    if not context:
        return list(session.exec(ordered.limit(count)))
    return list(islice((trial for trial in session.exec(ordered) if _within(trial, context)), count))


def _within(trial: TrialRow, context: Mapping[str, Any]) -> bool:
    return all(trial.parameters[name] == value for name, value in context.items())


def _counted(session: Session, study_id: int) -> list[Trial]:
    """The trials that were handed out and count against the budget."""
    states = [str(state) for state in TrialState if state is not TrialState.WAITING and counts(state, "")]
    query = select(TrialRow).where(TrialRow.study_id == study_id, col(TrialRow.state).in_(states))
    return [trial for trial in known(session, study_id, session.exec(query).all()) if trial.source.method != "added"]


def _stop(study: StudyRow, key: str) -> dict[str, Any] | None:
    """Why there was nothing more to suggest in this context, while that is still so."""
    stop = study.stop
    current = stop is not None and (stop["data_version"], stop.get("context", "")) == (study.data_version, key)
    return stop if current else None


def _ready(session: Session, study_id: int, key: str, since: int, count: int) -> list[SuggestionRow]:
    """The next ready suggestions, without those that became a duplicate of a trial after they were computed.

    A repeat that the model wants (of a noisy measurement) stays: it was computed with the earlier trial known.
    """
    wanted = (SuggestionRow.study_id == study_id, SuggestionRow.context == key, SuggestionRow.data_version >= since)
    query = select(SuggestionRow).where(*wanted)
    while rows := session.exec(query.order_by(col(SuggestionRow.id)).limit(count)).all():
        unknown = select(TrialRow.key).where(
            TrialRow.study_id == study_id,
            col(TrialRow.key).in_({row.key for row in rows}),
            TrialRow.number >= min(row.next_number for row in rows),
        )
        tried = set(session.exec(unknown))
        if not tried:
            return list(rows)
        for row in rows:
            if row.key in tried:
                session.delete(row)
    return []


def _new_trial(session: Session, study: StudyRow, suggestion: SuggestionRow, at: datetime) -> TrialRow:
    trial = TrialRow(
        study_id=study.id,
        number=study.next_number,
        state=str(TrialState.WAITING),
        parameters=suggestion.parameters,
        key=suggestion.key,
        source=suggestion.source,
        created_at=at,
        sequence=study.sequence,
    )
    study.next_number += 1
    study.enter(TrialState.WAITING, trial.source["method"])
    session.add(trial)
    session.delete(suggestion)
    return trial


def _lease(study: StudyRow, trial: TrialRow, worker: str | None, at: datetime) -> None:
    trial.attempts += 1
    trial.worker = worker
    trial.reason = None
    trial.started_at = at
    trial.lease_token = secrets.token_urlsafe(18)
    trial.lease_expires_at = at + timedelta(seconds=study.lease_seconds)
    study.move(trial, TrialState.RUNNING, at)


def _renew(study: StudyRow, trial: TrialRow, at: datetime) -> None:
    trial.lease_expires_at = at + timedelta(seconds=study.lease_seconds)
    if trial.state != str(TrialState.RUNNING):  # it had lapsed, and nobody took it meanwhile
        study.move(trial, TrialState.RUNNING, at)


def _sweep(session: Session, study: StudyRow, at: datetime) -> int:
    """Put lapsed trials back into the queue, or end them when they were tried too often; how many there were."""
    lapsed = select(TrialRow).where(
        TrialRow.study_id == study.id,
        TrialRow.state == str(TrialState.RUNNING),
        col(TrialRow.lease_expires_at) <= at,
    )
    trials = session.exec(lapsed).all()
    for trial in trials:
        if trial.attempts <= study.max_retries:
            study.move(trial, TrialState.WAITING, at)
        else:
            trial.reason = f"lost by its worker {trial.attempts} times"
            study.move(trial, TrialState.EXPIRED, at)
    return len(trials)


# --- answering --------------------------------------------------------------------------------------------------------


def _trial(session: Session, study_id: int, number: int) -> TrialRow:
    trial = session.get(TrialRow, (study_id, number))
    if trial is None:
        raise NotFound(f"there is no trial {number}")
    return trial


def _open(session: Session, study_id: int, number: int) -> tuple[StudyRow, TrialRow]:
    study = by_id(session, study_id, lock=True)
    trial = _trial(session, study_id, number)
    if not TrialState(trial.state).open:
        raise LeaseLost(f"trial {number} is {trial.state}: nothing more is wanted of it")
    return study, trial


def _resumable(trial: TrialRow) -> bool:
    """Whether the trial's last worker has not given it back (and it was not taken away)."""
    return trial.lease_expires_at is not None


def _check_token(trial: TrialRow, token: str | None, at: datetime) -> None:
    """The right token, or none where nobody holds a lease."""
    if token is None:
        leased = trial.state == str(TrialState.RUNNING) and _resumable(trial)
        if leased and trial.lease_expires_at is not None and trial.lease_expires_at > at:
            raise LeaseLost(f"trial {trial.number} is leased to a worker: the lease's token is needed")
    elif token != trial.lease_token:
        raise LeaseLost(f"trial {trial.number} is not leased by this token (any more)")


def _record(session: Session, trial: TrialRow, measurements: Sequence[MeasurementSpec]) -> None:
    own = (col(MeasurementRow.study_id) == trial.study_id, col(MeasurementRow.number) == trial.number)
    for m in measurements:
        if m.step is not None:
            at_step = (col(MeasurementRow.metric) == m.metric, col(MeasurementRow.step) == m.step)
            session.exec(delete(MeasurementRow).where(*own, *at_step))
    rows: list[dict[str, Any]] = [
        {"study_id": trial.study_id, "number": trial.number, **measurement_fields(m)} for m in measurements
    ]
    if rows:
        session.exec(insert(MeasurementRow), params=rows)


def _told_before(session: Session, trial: TrialRow, tell: Tell) -> bool:
    """Whether this very result is what the trial ended with."""
    query = select(MeasurementRow).where(
        MeasurementRow.study_id == trial.study_id, MeasurementRow.number == trial.number
    )
    stored = [measurement_out(row) for row in session.exec(query.order_by(col(MeasurementRow.id)))]
    final = [m for m in stored if m.step is None] == [m for m in tell.measurements if m.step is None]
    steps = all(m in stored for m in tell.measurements if m.step is not None)
    return final and steps and trial.state == tell.state and trial.reason == tell.reason
