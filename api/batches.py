"""Many asks, tells and heartbeats of one study in one transaction: a few statements, however many requests there are.

Each request is answered as if it were alone, in the order in which they came: what refuses one of them (a lost lease, a
conflict) is found before anything of it is changed, and is its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import delete, insert
from sqlmodel import Session, col, select

from suffice.optimizer import Budget, Conflict, NotFound, Stop, StopReason, SufficeError, Trial, TrialState
from suffice.optimizer.decision import counts
from suffice.optimizer.fidelity import Fidelity

from .errors import LeaseLost
from .rules import check_token, lease, renew, resumable, stop, within
from .store import known
from .tables import AskRow, MeasurementRow, StudyRow, SuggestionRow, TrialRow, context_key
from .views import measurement_fields, measurement_out, trial_out
from .wire import Ask, MeasurementSpec, Tell, TrialOut


@dataclass(frozen=True, slots=True)
class Asked:
    """Queued trials first, then ready suggestions of data version ``since`` or newer, as the budget allows."""

    study: int
    ask: Ask
    since: int = 0
    fidelity: Fidelity | None = None  # says what trials cost


@dataclass(frozen=True, slots=True)
class Told:
    study: int
    number: int
    tell: Tell


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat."""

    study: int
    number: int
    token: str


Request = Asked | Told | Beat


@dataclass(frozen=True, slots=True)
class Given:
    """Trials that were handed out; ``refill``: fewer or older suggestions than one would like are left."""

    trials: list[TrialOut]
    refill: bool = False


@dataclass(frozen=True, slots=True)
class Short:
    """Not enough suggestions are ready; nothing was handed out."""

    count: int  # how many the ask wants


Answer = Given | Stop | Short | tuple[TrialOut, bool] | TrialOut
Finish = Callable[[], Answer]  # makes the answer, once everything is written


class Batch:
    """The requests to one study, whose row is locked."""

    def __init__(self, session: Session, study: StudyRow, requests: Sequence[Request], at: datetime) -> None:
        self.session = session
        self.study = study
        self.at = at
        self.lapsed = 0  # leases that were found to be over
        self._requests = requests
        self._earlier = self._asked_before()
        self._trials = self._load()
        self._measured = self._measurements(self._trials)
        self._new: list[dict[str, Any]] = []  # measurements
        self._shelves: dict[str, Shelf] = {}

    def answers(self) -> list[Answer | SufficeError]:
        """What each request is answered."""
        if any(isinstance(request, Asked) for request in self._requests):
            self.lapsed = sweep(self.session, self.study, self.at)
        found = [self._try(request) for request in self._requests]
        if self._new:
            self.session.exec(insert(MeasurementRow), params=self._new)
        self.session.flush()
        return [one if isinstance(one, SufficeError) else one() for one in found]

    def _try(self, request: Request) -> Finish | SufficeError:
        try:
            match request:
                case Asked():
                    return self._ask(request)
                case Told():
                    return self._tell(request.number, request.tell)
                case Beat():
                    return self._beat(request.number, request.token)
        except SufficeError as error:
            return error

    # --- what they are about ------------------------------------------------------------------------------------------

    def _asked_before(self) -> dict[str, AskRow]:
        """What was given for the idempotency keys of these asks."""
        keys = {r.ask.idempotency_key for r in self._requests if isinstance(r, Asked) and r.ask.idempotency_key}
        if not keys:
            return {}
        query = select(AskRow).where(AskRow.study_id == self.study.id, col(AskRow.key).in_(keys))
        return {row.key: row for row in self.session.exec(query)}

    def _load(self) -> dict[int, TrialRow]:
        numbers = {r.number for r in self._requests if not isinstance(r, Asked)}
        numbers |= {number for row in self._earlier.values() for number, _ in row.given}
        if not numbers:
            return {}
        query = select(TrialRow).where(TrialRow.study_id == self.study.id, col(TrialRow.number).in_(numbers))
        return {row.number: row for row in self.session.exec(query)}

    def _measurements(self, trials: Mapping[int, TrialRow]) -> dict[int, list[MeasurementSpec]]:
        """What was measured so far, by trial."""
        measured: dict[int, list[MeasurementSpec]] = {number: [] for number in trials}
        if not measured:
            return measured
        m = MeasurementRow
        columns = (col(m.number), col(m.metric), col(m.value), col(m.stderr), col(m.step), col(m.gradient))
        query = sa.select(*columns).where(col(m.study_id) == self.study.id, col(m.number).in_(measured))
        for row in self.session.connection().execute(query.order_by(col(m.id))):
            measured[row.number].append(measurement_out(row))
        return measured

    def _trial(self, number: int) -> TrialRow:
        trial = self._trials.get(number)
        if trial is None:
            raise NotFound(f"there is no trial {number}")
        return trial

    def _view(self, trial: TrialRow, *, with_lease: bool = False) -> TrialOut:
        return trial_out(trial, self._measured.get(trial.number, ()), with_lease=with_lease)

    # --- tell and heartbeat -------------------------------------------------------------------------------------------

    def _tell(self, number: int, tell: Tell) -> Finish:
        trial = self._trial(number)
        if not TrialState(trial.state).open:
            if not self._told_before(trial, tell):
                raise Conflict(f"trial {number} is {trial.state} already, with another result or none")
            return lambda: (self._view(trial), False)
        check_token(trial, tell.lease_token, self.at)
        record(self.session, trial, tell.measurements, self._new)
        told = {(m.metric, m.step) for m in tell.measurements if m.step is not None}
        kept = [m for m in self._measured[number] if m.step is None or (m.metric, m.step) not in told]
        self._measured[number] = kept + tell.measurements
        trial.reason = tell.reason
        self.study.move(trial, TrialState(tell.state), self.at)
        return lambda: (self._view(trial), True)

    def _told_before(self, trial: TrialRow, tell: Tell) -> bool:
        """Whether this very result is what the trial ended with."""
        stored = self._measured[trial.number]
        final = [m for m in stored if m.step is None] == [m for m in tell.measurements if m.step is None]
        steps = all(m in stored for m in tell.measurements if m.step is not None)
        return final and steps and trial.state == tell.state and trial.reason == tell.reason

    def _beat(self, number: int, token: str) -> Finish:
        trial = self._trial(number)
        if not TrialState(trial.state).open:
            raise LeaseLost(f"trial {number} is {trial.state}: nothing more is wanted of it")
        check_token(trial, token, self.at)
        if not resumable(trial):
            raise LeaseLost(f"trial {number} was given back by its worker")
        renew(self.study, trial, self.at)
        return lambda: self._view(trial, with_lease=True)

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> Finish:
        ask, study = asked.ask, self.study
        if ask.idempotency_key is not None and (earlier := self._earlier.get(ask.idempotency_key)):
            return self._again(earlier, ask)
        if stopped := self._stopped(asked.fidelity):
            return lambda: stopped
        left = Budget(study.budget, study.budget_cost).left(study.used)
        count = ask.count if left is None else min(ask.count, left)
        key = context_key(ask.context)
        shelf = self._shelf(key, ask.context or {})
        queued = shelf.queued[:count]
        missing = count - len(queued)
        fresh = [suggestion for suggestion in shelf.ready if suggestion.data_version >= asked.since]
        taken, end = fresh[:missing], stop(study, key)
        if len(taken) < missing and end is None:
            return lambda: Short(missing)
        if not queued and not taken:
            assert end is not None
            nothing = Stop(StopReason(end["reason"]), end["message"], end["gain"], end["cost"])
            return lambda: nothing
        shelf.take(queued, taken)
        trials = queued + [self._new_trial(suggestion) for suggestion in taken]
        for trial in trials:
            lease(study, trial, ask.worker, self.at)
        if ask.idempotency_key is not None:
            given = [(trial.number, trial.attempts) for trial in trials]
            row = AskRow(study_id=study.id, key=ask.idempotency_key, count=ask.count, given=given)
            self.session.add(row)
            self._earlier[row.key] = row
        self._know(trials)
        stale = any(suggestion.data_version < study.data_version for suggestion in taken)
        refill = stale or (bool(taken) and len(fresh) == len(taken) and end is None)
        return lambda: Given([self._view(trial, with_lease=True) for trial in trials], refill)

    def _stopped(self, fidelity: Fidelity | None) -> Stop | None:
        """Why nothing more is handed out, whatever is ready."""
        study = self.study
        if study.state == "STOPPED":
            return Stop(StopReason.STOPPED, "the study was stopped")
        budget = Budget(study.budget, study.budget_cost)
        cost = fidelity.spent(_counted(self.session, study.id)) if fidelity and budget.cost is not None else 0.0
        return budget.stop(study.used, cost)

    def _again(self, earlier: AskRow, ask: Ask) -> Finish:
        """What an ask of the same key was given, with the leases that are still its own, renewed."""
        if (earlier.request, earlier.count) != ("ask", ask.count):
            used = f"to {earlier.request} {'for ' * (earlier.request == 'ask')}{earlier.count} trials"
            raise Conflict(f"the idempotency key {ask.idempotency_key!r} was used {used}")
        trials = [(self._trial(number), attempt) for number, attempt in earlier.given]
        if not all(within(trial, ask.context or {}) for trial, _ in trials):
            raise Conflict(f"the idempotency key {ask.idempotency_key!r} was used to ask in another context")
        held = {trial.number for trial, attempt in trials if trial.attempts == attempt and resumable(trial)}
        for trial, _ in trials:
            if trial.number in held:
                renew(self.study, trial, self.at)
        return lambda: Given([self._view(trial, with_lease=trial.number in held) for trial, _ in trials])

    def _shelf(self, key: str, context: Mapping[str, Any]) -> Shelf:
        """What can be handed out in a context, as much as all these asks want of it."""
        if key not in self._shelves:
            asks = [r for r in self._requests if isinstance(r, Asked) and context_key(r.ask.context) == key]
            count = sum(r.ask.count for r in asks)
            everything = any(r.since for r in asks)
            self._shelves[key] = Shelf(self.session, self.study.id, key, context, count, everything=everything)
        return self._shelves[key]

    def _new_trial(self, suggestion: SuggestionRow) -> TrialRow:
        study = self.study
        trial = TrialRow(
            study_id=study.id,
            number=study.next_number,
            state=str(TrialState.WAITING),
            parameters=suggestion.parameters,
            key=suggestion.key,
            source=suggestion.source,
            created_at=self.at,
            sequence=study.sequence,
        )
        study.next_number += 1
        study.enter(TrialState.WAITING, trial.source["method"])
        self.session.add(trial)
        self.session.delete(suggestion)
        return trial

    def _know(self, trials: Sequence[TrialRow]) -> None:
        """Trials that are handed out: another request of this batch may be about one of them."""
        unknown = {trial.number: trial for trial in trials if trial.number not in self._trials}
        self._trials |= unknown
        self._measured |= {number: [] for number in unknown}
        if again := {number: trial for number, trial in unknown.items() if trial.attempts > 1}:
            self._measured |= self._measurements(again)


class Shelf:
    """What can be handed out in one context: queued trials, and ready suggestions, both in their order."""

    def __init__(
        self,
        session: Session,
        study_id: int,
        key: str,
        context: Mapping[str, Any],
        count: int,
        *,
        everything: bool,
    ) -> None:
        with session.no_autoflush:
            self.queued = _queued(session, study_id, count, context)
            missing = count - len(self.queued)
            self.ready = _ready(session, study_id, key, None if everything else missing + 1) if missing else []

    def take(self, queued: Sequence[TrialRow], taken: Sequence[SuggestionRow]) -> None:
        """Take these away, and whatever would now be a duplicate of them."""
        del self.queued[: len(queued)]
        keys = {suggestion.key for suggestion in taken}
        self.ready = [suggestion for suggestion in self.ready if suggestion.key not in keys]


def _queued(session: Session, study_id: int, count: int, context: Mapping[str, Any]) -> list[TrialRow]:
    waiting = select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.state == str(TrialState.WAITING))
    ordered = waiting.order_by(col(TrialRow.number))
    if not context:
        return list(session.exec(ordered.limit(count)))
    return list(islice((trial for trial in session.exec(ordered) if within(trial, context)), count))


def _ready(session: Session, study_id: int, key: str, count: int | None) -> list[SuggestionRow]:
    """The next ready suggestions, without those that became a duplicate of a trial after they were computed.

    A repeat that the model wants (of a noisy measurement) stays: it was computed with the earlier trial known.
    """
    query = select(SuggestionRow).where(SuggestionRow.study_id == study_id, SuggestionRow.context == key)
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
        session.flush()
    return []


def _counted(session: Session, study_id: int) -> list[Trial]:
    """The trials that were handed out and count against the budget."""
    states = [str(state) for state in TrialState if state is not TrialState.WAITING and counts(state, "")]
    query = select(TrialRow).where(TrialRow.study_id == study_id, col(TrialRow.state).in_(states))
    return [trial for trial in known(session, study_id, session.exec(query).all()) if trial.source.method != "added"]


def sweep(session: Session, study: StudyRow, at: datetime) -> int:
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
    if trials:
        session.flush()
    return len(trials)


def record(
    session: Session, trial: TrialRow, measurements: Sequence[MeasurementSpec], new: list[dict[str, Any]]
) -> None:
    """Put measurements among ``new`` ones to be written; what was measured at the same steps before is deleted."""
    for m in measurements:
        if m.step is not None:
            own = (col(MeasurementRow.study_id) == trial.study_id, col(MeasurementRow.number) == trial.number)
            at_step = (col(MeasurementRow.metric) == m.metric, col(MeasurementRow.step) == m.step)
            session.exec(delete(MeasurementRow).where(*own, *at_step))
    new += [{"study_id": trial.study_id, "number": trial.number, **measurement_fields(m)} for m in measurements]
