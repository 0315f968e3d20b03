"""How trials change hands: asked for, told, reported on, given back, taken back. Each method is one transaction.

`rules.py` says when a lease holds; `batches.py` answers asks, tells and heartbeats, many in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import insert
from sqlmodel import Session, col, select

from suffice.optimizer import Conflict, NotFound, Stop, SufficeError, TrialState
from suffice.optimizer.fidelity import Fidelity

from .batches import Answer, Asked, Batch, Beat, Given, Request, Short, Told, ahead, sweep
from .database import Database
from .errors import LeaseLost, StudyDeleted
from .records import REPLACED, lapsed, locked
from .rules import check_token, renew, resumable
from .statements import Statements
from .store import Clock, by_id, now, views
from .tables import MeasurementRow, StudyRow, TrialRow
from .views import measurement_fields
from .wire import Ask, MeasurementSpec, Report, Tell, TrialOut


class Leases:
    """The queue of trials and who works on them."""

    def __init__(self, database: Database, clock: Clock = now) -> None:
        self.database = database
        self.clock = clock
        self.expired = 0  # leases, here

    def together(self, requests: Sequence[Request]) -> list[Answer | SufficeError]:
        """The answers to these requests, all in one transaction; where one is refused, the error.

        Studies are locked in the order of their ids, so that two who do so at once do not wait for each other.
        """
        at = self.clock()
        answers: dict[int, Answer | SufficeError] = {}
        with self.database.begin() as statements:
            for study_id in sorted({request.study for request in requests}):
                own = [i for i, request in enumerate(requests) if request.study == study_id]
                found = self._of_one(statements, study_id, [requests[i] for i in own], at)
                answers.update(zip(own, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _of_one(
        self, statements: Statements, study_id: int, requests: Sequence[Request], at: datetime
    ) -> Sequence[Answer | SufficeError]:
        ledger = locked(statements, study_id, *ahead(study_id, requests, at))
        if ledger is None:
            return [StudyDeleted()] * len(requests)
        batch = Batch(ledger, requests, at)
        answers = batch.answers()
        self.expired += batch.lapsed
        return answers

    def _alone(self, request: Request) -> Answer:
        (answer,) = self.together([request])
        if isinstance(answer, SufficeError):
            raise answer
        return answer

    def ask(self, study_id: int, ask: Ask, since: int = 0, fidelity: Fidelity | None = None) -> Given | Stop | Short:
        """Queued trials first, then ready suggestions of data version ``since`` or newer, as the budget allows.

        Only what is in the context of the ask; the caller has checked that. ``fidelity`` says what trials cost.
        """
        return cast("Given | Stop | Short", self._alone(Asked(study_id, ask, since, fidelity)))

    def tell(self, study_id: int, number: int, tell: Tell) -> tuple[TrialOut, bool]:
        """Record a result. Returns the trial and whether that was news: an equal repeat changes nothing."""
        return cast("tuple[TrialOut, bool]", self._alone(Told(study_id, number, tell)))

    def heartbeat(self, study_id: int, number: int, token: str) -> TrialOut:
        """Renew the lease."""
        return cast("TrialOut", self._alone(Beat(study_id, number, token)))

    def report(self, study_id: int, number: int, report: Report) -> TrialOut:
        """Store intermediate measurements and renew the lease; a second value for a step replaces the first."""
        at = self.clock()
        with self.database.write() as session:
            study, trial = _open(session, study_id, number)
            check_token(trial, report.lease_token, at)
            _delete_steps(session, trial, report.measurements)
            own = {"study_id": study_id, "number": number}
            session.exec(insert(MeasurementRow), params=[{**own, **measurement_fields(m)} for m in report.measurements])
            if report.lease_token is not None:
                renew(study, trial, at)
            trial.sequence = study.tick()
            session.flush()
            return views(session, study_id, [trial], with_lease=report.lease_token is not None)[0]

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
            check_token(trial, token, at)
            given_back = state is TrialState.WAITING and not resumable(trial)
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
            with self.database.begin() as statements:
                ledger = locked(statements, study_id, lapsed(study_id, at), skip=True)  # in use: swept then
                if ledger is not None and (count := sweep(ledger, at)):
                    self.expired += count
                    swept.append(study_id)
        return swept


def _delete_steps(session: Session, trial: TrialRow, measurements: Sequence[MeasurementSpec]) -> None:
    """Delete what was measured at the same steps before."""
    own = {"study": trial.study_id, "number": trial.number}
    for m in measurements:
        session.connection().execute(REPLACED, {**own, "metric": m.metric, "step": m.step})


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
