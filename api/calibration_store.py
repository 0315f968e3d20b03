"""Calibrations in the database: versions that never change, and what the drift alarm has seen since.

A gateway inside the service uses them too (service_calibrations.py); one that runs alone has a folder of its own
(calibrations.py).
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from suffice.optimizer import Conflict, InvalidInput, NotFound

from .access import DEFAULT_PROJECT
from .database import Database
from .sampling_wire import CalibrationExport, CalibrationOut, DriftOut
from .store import Clock, now
from .tables import CalibrationRow, LessonRow, SamplingRow
from .traffic import MOST, Lesson

if TYPE_CHECKING:
    from suffice.optimizer.calibration import Calibration

TRIES = 20  # to number a new version
KEPT = 64  # calibrations that are ready to use
PROBES = (("a",), ("a", "b"), ("a", "a", None, "b"), (None,))  # answers that a calibration has to cope with


class CalibrationStore:
    """Each method is one transaction. Names are those of one project."""

    def __init__(self, database: Database, clock: Clock = now, project: int = DEFAULT_PROJECT) -> None:
        self.database = database
        self.clock = clock
        self.project = project
        self._kept: OrderedDict[int, Calibration] = OrderedDict()
        self._lock = Lock()

    def within(self, project: int) -> CalibrationStore:
        """The same for another project; what is ready to use is shared."""
        store = copy(self)
        store.project = project
        return store

    def add(self, name: str, document: Mapping[str, Any]) -> CalibrationOut:
        """A new version, from the JSON of a calibration. Raises InvalidInput where it is none."""
        kept = {**document, "name": name, "version": 1}
        row = CalibrationRow(
            project_id=self.project,
            name=name,
            version=1,
            document=kept,
            drift_total=0.0,
            drift_alarm=False,
            created_at=self.clock(),
        )
        check(row)
        for _ in range(TRIES):
            with suppress(IntegrityError):  # another replica has just taken that version
                return self._number(row)
        raise Conflict(f"others keep adding versions of {name!r}")

    def _number(self, row: CalibrationRow) -> CalibrationOut:
        with self.database.write() as session:
            newest = session.exec(_named(self.project, row.name, func.max(CalibrationRow.version))).one()
            row.version = (newest or 0) + 1
            row.document = {**row.document, "version": row.version}
            session.add(row)
            session.flush()
            return calibration_out(row)

    def all(self, after: str | None, limit: int) -> list[CalibrationOut]:
        """The newest versions, by name."""
        own = CalibrationRow.project_id == self.project
        newest = select(func.max(CalibrationRow.id)).where(own).group_by(col(CalibrationRow.name))
        query = select(CalibrationRow).where(col(CalibrationRow.id).in_(newest)).order_by(col(CalibrationRow.name))
        if after is not None:
            query = query.where(CalibrationRow.name > after)
        with self.database.read() as session:
            return [calibration_out(row) for row in session.exec(query.limit(limit))]

    def versions(self, name: str) -> list[CalibrationOut]:
        """All versions, the newest first. Raises NotFound."""
        query = _named(self.project, name, CalibrationRow).order_by(col(CalibrationRow.version).desc())
        with self.database.read() as session:
            found = [calibration_out(row) for row in session.exec(query)]
        if not found:
            raise NotFound(f"there is no calibration named {name!r}")
        return found

    def one(self, name: str, version: int | None = None) -> CalibrationOut:
        """A version, or the newest. Raises NotFound."""
        with self.database.read() as session:
            return calibration_out(by_name(session, self.project, name, version))

    def export(self, name: str, version: int | None = None) -> CalibrationExport:
        with self.database.read() as session:
            row = by_name(session, self.project, name, version)
            return CalibrationExport(name=name, version=row.version, document=row.document)

    def delete(self, name: str, version: int | None = None) -> None:
        """Delete a version, or all. Raises NotFound, and Conflict while samplings use it."""
        with self.database.write() as session:
            query = _named(self.project, name, CalibrationRow)
            if version is not None:
                query = query.where(CalibrationRow.version == version)
            rows = session.exec(query.with_for_update()).all()
            if not rows:
                raise _missing(name, version)
            used = select(func.count()).where(col(SamplingRow.calibration_id).in_([row.id for row in rows]))
            if count := session.exec(used).one():
                raise Conflict(f"it is used by {count} samplings: delete those first")
            for row in rows:
                session.delete(row)
            session.flush()
            if session.exec(_named(self.project, name, func.count())).one() == 0:
                session.exec(delete(LessonRow).where(*self._taught(name)))

    def wanted(self, name: str | None, version: int | None) -> tuple[int | None, Calibration | None, bool | None]:
        """The id of a calibration that a request names, the calibration, and whether its alarm is on.

        Raises InvalidInput where it is not there.
        """
        if name is None:
            if version is not None:
                raise InvalidInput("calibration_version", "none without a calibration", version)
            return None, None, None
        with self.database.read() as session:
            try:
                row = by_name(session, self.project, name, version)
            except NotFound as error:
                raise InvalidInput("calibration", f"a calibration of this service ({error})", name) from None
        return row.id, self.of(row.id, row.document), row.drift_alarm

    def named(self, name: str, version: int | None = None) -> tuple[int, Calibration]:
        """The id of a version or of the newest, and the calibration. Raises NotFound."""
        with self.database.read() as session:
            row = by_name(session, self.project, name, version)
        return row.id, self.of(row.id, row.document)

    def watch(
        self,
        name: str,
        version: int,
        answers: Sequence[str | None],
        scores: Sequence[float | None],
        *,
        by_score: bool = True,
    ) -> None:
        """Have the drift alarm look at the answers to one more prompt, decided by score or not. Raises NotFound."""
        calibration_id, calibration = self.named(name, version)
        found = calibration.drift_evidence(answers, scores, by_score=by_score)
        if found is not None:
            with self.database.write() as session:
                watch(session, calibration_id, found)

    # --- traffic of gateways ---

    def learn(self, name: str, lesson: Lesson) -> None:
        """Keep what a prompt of a gateway taught; the newest ones are kept."""
        for _ in range(TRIES):
            with suppress(IntegrityError):  # another replica has just taken that number
                return self._keep(name, lesson)
        raise Conflict(f"others keep adding what prompts teach of {name!r}")

    def _keep(self, name: str, lesson: Lesson) -> None:
        with self.database.write() as session:
            taught = self._taught(name)
            newest = session.exec(select(func.max(LessonRow.number)).where(*taught)).one() or 0
            row = LessonRow(
                project_id=self.project,
                calibration=name,
                number=newest + 1,
                features=list(lesson.features),
                right=lesson.right,
                drawn=lesson.drawn,
                counted=dict(lesson.counted),
                created_at=self.clock(),
            )
            session.add(row)
            session.exec(delete(LessonRow).where(*taught, col(LessonRow.number) <= newest + 1 - MOST))

    def lessons(self, name: str) -> list[tuple[datetime, Lesson]]:
        """What the newest prompts of gateways taught, and when."""
        query = select(LessonRow).where(*self._taught(name)).order_by(col(LessonRow.number).desc())
        with self.database.read() as session:
            return [
                (row.created_at, Lesson(row.features, row.right, row.drawn, row.counted)) for row in session.exec(query)
            ]

    def lessons_so_far(self) -> dict[tuple[int, str], int]:
        """How many prompts of gateways taught something, kept or not, by project and calibration, of all projects."""
        query = select(LessonRow.project_id, LessonRow.calibration, func.max(LessonRow.number))
        query = query.group_by(col(LessonRow.project_id), col(LessonRow.calibration))
        with self.database.read() as session:
            return {(project, name): number for project, name, number in session.exec(query)}

    def _taught(self, name: str) -> tuple[Any, Any]:
        return LessonRow.project_id == self.project, LessonRow.calibration == name

    # --- ready to use ---

    def of(self, calibration_id: int, document: Mapping[str, Any] | None = None) -> Calibration:
        """The calibration, ready to use: a version never changes, an id is never used twice."""
        from suffice.optimizer.calibration import Calibration

        with self._lock:
            if calibration_id in self._kept:
                self._kept.move_to_end(calibration_id)
                return self._kept[calibration_id]
        if document is None:
            with self.database.read() as session:
                row = session.get_one(CalibrationRow, calibration_id)
                document = row.document
        found = Calibration.from_json(document)
        with self._lock:
            self._kept[calibration_id] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found


def watch(session: Session, calibration_id: int, evidence: float) -> None:
    """Have the drift alarm of a calibration know of one more prompt."""
    from suffice.optimizer.drift import Watch

    query = select(CalibrationRow).where(CalibrationRow.id == calibration_id)
    row = session.exec(query.with_for_update()).first()
    if row is None:
        raise NotFound("the calibration was deleted")
    after = Watch(row.drift_total, row.drift_alarm).after(evidence)
    row.drift_total, row.drift_alarm = after.total, after.alarm


def by_name(session: Session, project: int, name: str, version: int | None) -> CalibrationRow:
    """A version, or the newest. Raises NotFound."""
    query = _named(project, name, CalibrationRow)
    if version is not None:
        query = query.where(CalibrationRow.version == version)
    row: CalibrationRow | None = session.exec(query.order_by(col(CalibrationRow.version).desc()).limit(1)).first()
    if row is None:
        raise _missing(name, version)
    return row


def _named(project: int, name: str, what: Any) -> Any:
    """What of all versions of a name."""
    return select(what).where(CalibrationRow.project_id == project, CalibrationRow.name == name)


def calibration_out(row: CalibrationRow) -> CalibrationOut:
    """What a version stands on."""
    document = row.document
    return CalibrationOut(
        name=row.name,
        version=row.version,
        prompts=document["prompts"],
        max_samples=document["max_samples"],
        scored=document["model"] is not None,
        quality=document["quality"],
        ways=list(dict.fromkeys(document["ways"])),
        signal=None if document["prompt_model"] is None else document["prompt_model"]["signal"],
        forecasts=_told(document.get("forecasts")),
        drift=None if document["drift"] is None else DriftOut(total=row.drift_total, alarm=row.drift_alarm),
        created_at=row.created_at,
    )


def _told(forecasts: Mapping[str, Any] | None) -> dict[str, float] | None:
    """By how much features predict each statistic of which they tell anything."""
    if forecasts is None:
        return None
    return {name: one["signal"] for name, one in forecasts["of"].items() if one["mean"] is not None}


def check(row: CalibrationRow) -> None:
    """Whether its document holds a calibration: it is read, and tried out. Raises InvalidInput."""
    from suffice.optimizer.calibration import PRICES, Calibration

    try:
        json.dumps(row.document, allow_nan=False)
        found = Calibration.from_json(row.document)
        calibration_out(row)
        for price in PRICES:
            _try(found, ("a", "b"), price)
        for answers in PROBES:
            _try(found, answers, 0.01)
    except InvalidInput as error:
        raise error.under("document") from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        expected = "a calibration as it was exported"
        raise InvalidInput("document", expected, f"{type(error).__name__}: {error}") from None


def _try(calibration: Calibration, answers: Sequence[str | None], price: float) -> None:
    from suffice.optimizer import Sampling

    sampling = Sampling(max_samples=8, price=price, calibration=calibration)
    for answer in answers:
        sampling.tell(answer, 0.5)
    step = sampling.ask()
    if not all(math.isfinite(number) for number in (step.confidence, step.gain or 0.0, sampling.posterior.none)):
        raise ValueError("what it says of answers is not finite")
    if calibration.drift is not None:
        for by_score in (True, False):
            found = calibration.drift_evidence(answers, [0.5] * len(answers), by_score=by_score)
            if found is None or not math.isfinite(found):
                raise ValueError("its evidence of drift is not finite")


def _missing(name: str, version: int | None) -> NotFound:
    which = f"named {name!r}" if version is None else f"{name!r} of version {version}"
    return NotFound(f"there is no calibration {which}")
