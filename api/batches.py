"""Many asks, tells and heartbeats of one study in one transaction: a few statements, however many requests there are.

Each request is answered as if it were alone, in the order in which they came: what refuses one of them (a lost lease, a
conflict) is found before anything of it is changed, and is its answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from suffice.optimizer import Budget, Conflict, NotFound, Stop, StopReason, SufficeError, Trial, TrialState
from suffice.optimizer.decision import counts
from suffice.optimizer.fidelity import Fidelity

from . import records
from .errors import LeaseLost
from .records import Earlier, Ledger, SuggestionRecord, TrialRecord
from .rules import check_token, lease, renew, resumable, stop, within
from .statements import Query
from .store import known
from .tables import TrialRow, context_key
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


def ahead(study: int, requests: Sequence[Request], at: datetime) -> list[Query]:
    """What `Batch` is going to ask its ledger for, as far as it can be told beforehand."""
    queries: list[Query] = []
    if keys := _keys(requests):
        queries.append(records.asked(study, keys))
    if numbers := _numbers(requests):
        queries += [records.numbered(study, numbers), records.measured(study, numbers)]
    if any(isinstance(request, Asked) for request in requests):
        queries.append(records.lapsed(study, at))
    for want in _wants(requests):
        queries += [records.queued(study, want.queued), records.ready(study, want.key, want.ready)]
    return queries


class Batch:
    """The requests to one study, whose row is locked."""

    def __init__(self, ledger: Ledger, requests: Sequence[Request], at: datetime) -> None:
        self.ledger = ledger
        self.study = ledger.study
        self.at = at
        self.lapsed = 0  # leases that were found to be over
        self._requests = requests
        self._earlier = ledger.asked(keys) if (keys := _keys(requests)) else {}
        numbers = _numbers(requests) | {number for row in self._earlier.values() for number, _ in row.given}
        if numbers:
            ledger.numbered(numbers)
        self._measured = self._measurements(numbers)
        self._shelves: dict[str, Shelf] = {}

    def answers(self) -> list[Answer | SufficeError]:
        """What each request is answered."""
        if any(isinstance(request, Asked) for request in self._requests):
            self.lapsed = sweep(self.ledger, self.at)
        self._shelves = {want.key: Shelf(self.ledger, want) for want in _wants(self._requests)}
        found = [self._try(request) for request in self._requests]
        self.ledger.write()
        return found

    def _try(self, request: Request) -> Answer | SufficeError:
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

    def _measurements(self, numbers: Collection[int]) -> dict[int, list[MeasurementSpec]]:
        """What was measured so far, by trial."""
        measured: dict[int, list[MeasurementSpec]] = {number: [] for number in numbers if number in self.ledger.trials}
        for row in self.ledger.measured(numbers) if numbers else ():
            measured[row.number].append(measurement_out(row))
        return measured

    def _trial(self, number: int) -> TrialRecord:
        if number not in self._measured:
            raise NotFound(f"there is no trial {number}")
        return self.ledger.trials[number]

    def _view(self, trial: TrialRecord, *, with_lease: bool = False) -> TrialOut:
        return trial_out(trial, self._measured.get(trial.number, ()), with_lease=with_lease)

    # --- tell and heartbeat -------------------------------------------------------------------------------------------

    def _tell(self, number: int, tell: Tell) -> Answer:
        trial = self._trial(number)
        if not TrialState(trial.state).open:
            if not self._told_before(trial, tell):
                raise Conflict(f"trial {number} is {trial.state} already, with another result or none")
            return self._view(trial), False
        check_token(trial, tell.lease_token, self.at)
        self.ledger.measure(number, map(measurement_fields, tell.measurements))
        told = {(m.metric, m.step) for m in tell.measurements if m.step is not None}
        kept = [m for m in self._measured[number] if m.step is None or (m.metric, m.step) not in told]
        self._measured[number] = kept + tell.measurements
        trial.reason = tell.reason
        self.study.move(trial, TrialState(tell.state), self.at)
        self.ledger.touch(trial)
        return self._view(trial), True

    def _told_before(self, trial: TrialRecord, tell: Tell) -> bool:
        """Whether this very result is what the trial ended with."""
        stored = self._measured[trial.number]
        final = [m for m in stored if m.step is None] == [m for m in tell.measurements if m.step is None]
        steps = all(m in stored for m in tell.measurements if m.step is not None)
        return final and steps and trial.state == tell.state and trial.reason == tell.reason

    def _beat(self, number: int, token: str) -> Answer:
        trial = self._trial(number)
        if not TrialState(trial.state).open:
            raise LeaseLost(f"trial {number} is {trial.state}: nothing more is wanted of it")
        check_token(trial, token, self.at)
        if not resumable(trial):
            raise LeaseLost(f"trial {number} was given back by its worker")
        self._renew(trial)
        return self._view(trial, with_lease=True)

    def _renew(self, trial: TrialRecord) -> None:
        renew(self.study, trial, self.at)
        self.ledger.touch(trial)

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> Answer:
        ask, study = asked.ask, self.study
        if ask.idempotency_key is not None and (earlier := self._earlier.get(ask.idempotency_key)):
            return self._again(earlier, ask)
        if stopped := self._stopped(asked.fidelity):
            return stopped
        left = Budget(study.budget, study.budget_cost).left(study.used)
        count = ask.count if left is None else min(ask.count, left)
        key = context_key(ask.context)
        shelf = self._shelves[key]
        queued = shelf.queued(count)
        missing = count - len(queued)
        fresh = [suggestion for suggestion in shelf.ready if suggestion.data_version >= asked.since]
        taken, end = fresh[:missing], stop(study, key)
        if len(taken) < missing and end is None:
            return Short(missing)
        if not queued and not taken:
            assert end is not None
            return Stop(StopReason(end["reason"]), end["message"], end["gain"], end["cost"])
        shelf.take(taken)
        self.ledger.take(taken)
        trials = queued + [self._new_trial(suggestion) for suggestion in taken]
        for trial in trials:
            lease(study, trial, ask.worker, self.at)
            self.ledger.touch(trial)
        if ask.idempotency_key is not None:
            self._earlier[ask.idempotency_key] = given = Earlier(
                "ask", ask.count, [(t.number, t.attempts) for t in trials]
            )
            self.ledger.ask(ask.idempotency_key, given)
        self._know(trials)
        stale = any(suggestion.data_version < study.data_version for suggestion in taken)
        refill = stale or (bool(taken) and len(fresh) == len(taken) and end is None)
        return Given([self._view(trial, with_lease=True) for trial in trials], refill)

    def _stopped(self, fidelity: Fidelity | None) -> Stop | None:
        """Why nothing more is handed out, whatever is ready."""
        study = self.study
        if study.state == "STOPPED":
            return Stop(StopReason.STOPPED, "the study was stopped")
        budget = Budget(study.budget, study.budget_cost)
        cost = fidelity.spent(_counted(self.ledger)) if fidelity and budget.cost is not None else 0.0
        return budget.stop(study.used, cost)

    def _again(self, earlier: Earlier, ask: Ask) -> Answer:
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
                self._renew(trial)
        return Given([self._view(trial, with_lease=trial.number in held) for trial, _ in trials])

    def _new_trial(self, suggestion: SuggestionRecord) -> TrialRecord:
        study = self.study
        trial = TrialRecord(
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
        self.ledger.add(trial)
        return trial

    def _know(self, trials: Sequence[TrialRecord]) -> None:
        """Trials that are handed out: another request of this batch may be about one of them."""
        unknown = {trial.number: trial for trial in trials if trial.number not in self._measured}
        self._measured |= {number: [] for number in unknown}
        if again := {number: trial for number, trial in unknown.items() if trial.attempts > 1}:
            self._measured |= self._measurements(again)


@dataclass(slots=True)
class Want:
    """How much asks want in one context; ``queued`` and ``ready`` are to be looked at then, None: all there are."""

    key: str
    context: Mapping[str, Any]
    count: int = 0
    queued: int | None = 0
    ready: int | None = 0


def _wants(requests: Sequence[Request]) -> list[Want]:
    """By context. Of the queue as many more as the other requests, which may end or resume what waits there."""
    found: dict[str, Want] = {}
    asks = [request for request in requests if isinstance(request, Asked)]
    for asked in asks:
        key = context_key(asked.ask.context)
        want = found.setdefault(key, Want(key, asked.ask.context or {}))
        want.count += asked.ask.count
        everything = asked.since or want.ready is None
        want.ready = None if everything else want.count + 1
    others = len(requests) - len(asks) + sum(a.ask.count for a in asks if a.ask.idempotency_key)
    for want in found.values():
        want.queued = None if want.context else want.count + others
    return list(found.values())


def _keys(requests: Sequence[Request]) -> set[str]:
    """The idempotency keys of asks."""
    return {r.ask.idempotency_key for r in requests if isinstance(r, Asked) and r.ask.idempotency_key}


def _numbers(requests: Sequence[Request]) -> set[int]:
    """The trials that results and heartbeats are about."""
    return {request.number for request in requests if not isinstance(request, Asked)}


class Shelf:
    """What can be handed out in one context: queued trials, and ready suggestions, both in their order."""

    def __init__(self, ledger: Ledger, want: Want) -> None:
        self._queued = [trial for trial in ledger.queued(want.queued) if within(trial, want.context)]
        enough = want.queued is not None and len(self._queued) >= want.queued
        self.ready = [] if enough else _ready(ledger, want)

    def queued(self, count: int) -> list[TrialRecord]:
        """The next trials of the queue, at most so many, that were not taken meanwhile."""
        return [trial for trial in self._queued if trial.state == TrialState.WAITING][:count]

    def take(self, taken: Sequence[SuggestionRecord]) -> None:
        """Take these away, and whatever would now be a duplicate of them."""
        keys = {suggestion.key for suggestion in taken}
        self.ready = [suggestion for suggestion in self.ready if suggestion.key not in keys]


def _ready(ledger: Ledger, want: Want) -> list[SuggestionRecord]:
    """The next ready suggestions, without those that became a duplicate of a trial after they were computed.

    A repeat that the model wants (of a noisy measurement) stays: it was computed with the earlier trial known.
    """
    while found := ledger.ready(want.key, want.ready):
        tried = [suggestion for suggestion in found if suggestion.tried]
        if not tried:
            return found
        ledger.take(tried)
        ledger.write()
    return []


def _counted(ledger: Ledger) -> list[Trial]:
    """The trials that were handed out and count against the budget."""
    ledger.write()
    states = [str(state) for state in TrialState if state is not TrialState.WAITING and counts(state, "")]
    query = select(TrialRow).where(TrialRow.study_id == ledger.study.id, col(TrialRow.state).in_(states))
    with Session(ledger.connection()) as session:
        trials = known(session, ledger.study.id, session.exec(query).all())
    return [trial for trial in trials if trial.source.method != "added"]


def sweep(ledger: Ledger, at: datetime) -> int:
    """Put lapsed trials back into the queue, or end them when they were tried too often; how many there were."""
    study, trials = ledger.study, ledger.lapsed(at)
    for trial in trials:
        if trial.attempts <= study.max_retries:
            study.move(trial, TrialState.WAITING, at)
        else:
            trial.reason = f"lost by its worker {trial.attempts} times"
            study.move(trial, TrialState.EXPIRED, at)
        ledger.touch(trial)
    if trials:
        ledger.write()
    return len(trials)
