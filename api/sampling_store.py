"""Samplings in the database: what was drawn, told and decided. Beside `store.py` and `leases.py`, SQL of its own.

An ask reads, decides without holding the database, and writes only if nothing changed meanwhile. When that fails
twice, it decides while it holds the database: then it is the others who wait, for milliseconds.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, func, tuple_
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from suffice.optimizer import Conflict, InvalidInput, NotFound
from suffice.optimizer.errors import Problem

from .calibration_store import CalibrationStore, watch
from .database import Database
from .sampling_decisions import (
    Known,
    Plan,
    PromptState,
    State,
    Told,
    made,
    plan,
    result,
    standing,
    trusts,
    wrong_score,
)
from .sampling_wire import (
    DrawOut,
    RecordedAnswer,
    SamplingAsk,
    SamplingAskOut,
    SamplingCreate,
    SamplingInfo,
    SamplingOptions,
    SamplingOut,
    SamplingTell,
    SamplingTellOut,
    ToldAnswer,
)
from .store import Clock, now
from .tables import CalibrationRow, DrawRow, PromptRow, SamplingRow
from .traffic import MOST, Lesson
from .wire import StopOut

TRIES = 2  # to decide without holding the database
DEFINITION = set(SamplingOptions.model_fields) | {"budget", "deadline", "lease_seconds"}


class SamplingStore:
    """Each method is one transaction, but for an ask, which is a reading and a writing one."""

    def __init__(self, database: Database, calibrations: CalibrationStore, clock: Clock = now) -> None:
        self.database = database
        self.calibrations = calibrations
        self.clock = clock

    @property
    def project(self) -> int:
        """That of its calibrations."""
        return self.calibrations.project

    def within(self, project: int) -> SamplingStore:
        """The same for another project."""
        store = copy(self)
        store.calibrations = self.calibrations.within(project)
        return store

    def create(
        self,
        wanted: SamplingCreate,
        prompts: Sequence[tuple[str, Known]],
        calibration_id: int | None,
        alarm: bool | None,
    ) -> str:
        """A new sampling's id, or that of an equal one with the same key; the caller has checked it."""
        at = self.clock()
        wished = wanted.model_dump(mode="json", include=DEFINITION)
        definition = {**wished, "scores": trusts(wanted, alarm), "drift": alarm}
        row = SamplingRow(
            project_id=self.project,
            public_id=secrets.token_hex(8),
            key=wanted.idempotency_key,
            definition=definition,
            calibration_id=calibration_id,
            info=wanted.metadata,
            prompts=len(prompts),
            created_at=at,
            updated_at=at,
        )
        try:
            with self.database.write() as session:
                if calibration_id is not None:
                    self._pin(session, row, calibration_id)
                session.add(row)
                session.flush()
                session.add_all(
                    PromptRow(sampling_id=row.id, position=i, prompt=name, prior=None if known is None else dict(known))
                    for i, (name, known) in enumerate(prompts)
                )
        except IntegrityError:
            if wanted.idempotency_key is None:
                raise
            return self._created_before(wanted, prompts)
        return row.public_id

    def _pin(self, session: Session, row: SamplingRow, calibration_id: int) -> None:
        """Note the version that is used; raises Conflict where it was deleted meanwhile."""
        query = select(CalibrationRow.version).where(CalibrationRow.id == calibration_id)
        version = session.exec(query.with_for_update(read=True)).first()
        if version is None:
            raise Conflict("the calibration was deleted meanwhile")
        row.definition = {**row.definition, "calibration_version": version}

    def _created_before(self, wanted: SamplingCreate, prompts: Sequence[tuple[str, Known]]) -> str:
        """The sampling that a request with the same key created; Conflict where it was another request."""
        with self.database.read() as session:
            row = session.exec(self.own().where(SamplingRow.key == wanted.idempotency_key)).one()
            query = select(PromptRow).where(PromptRow.sampling_id == row.id).order_by(col(PromptRow.position))
            found = [(p.prompt, p.prior) for p in session.exec(query)]
        given = json.loads(json.dumps(prompts))  # tuples become lists, as in the database
        definition = wanted.model_dump(mode="json", include=DEFINITION)
        chosen = {"scores"} | ({"calibration_version"} if wanted.calibration_version is None else set())
        same = all(row.definition[name] == value for name, value in definition.items() if name not in chosen)
        if not same or [list(one) for one in found] != given:
            raise Conflict(f"the idempotency key {wanted.idempotency_key!r} was used for another request")
        return row.public_id

    def own(self) -> SelectOfScalar[SamplingRow]:
        """Samplings of the project."""
        return select(SamplingRow).where(SamplingRow.project_id == self.project)

    def by_public_id(self, session: Session, public_id: str, *, lock: bool = False) -> SamplingRow:
        """The sampling's row, for a writer locked first of all; raises NotFound."""
        query = self.own().where(SamplingRow.public_id == public_id)
        row = session.exec(query.with_for_update() if lock else query).first()
        if row is None:
            raise NotFound(f"there is no sampling {public_id!r}")
        return row

    def info(self, public_id: str) -> SamplingInfo:
        """A sampling without its prompts; raises NotFound."""
        with self.database.read() as session:
            return SamplingInfo(**_fields(self.by_public_id(session, public_id)))

    def all(self, before: int | None, limit: int) -> tuple[list[SamplingInfo], int | None]:
        """The newest samplings, from behind one; and where the next page goes on, if there is one."""
        query = self.own().order_by(col(SamplingRow.id).desc()).limit(limit + 1)
        if before is not None:
            query = query.where(SamplingRow.id < before)
        with self.database.read() as session:
            rows = session.exec(query).all()
        page = [SamplingInfo(**_fields(row)) for row in rows[:limit]]
        return page, rows[limit - 1].id if len(rows) > limit else None

    def delete(self, public_id: str) -> None:
        with self.database.write() as session:
            row = self.by_public_id(session, public_id, lock=True)
            session.exec(delete(SamplingRow).where(col(SamplingRow.id) == row.id))

    # --- ask ----------------------------------------------------------------------------------------------------------

    def ask(self, public_id: str, wanted: SamplingAsk) -> SamplingAskOut:
        """What to draw next; with the key of an earlier ask, what that one was given and is still out."""
        for _ in range(TRIES):
            with self.database.read() as session:
                row = self.by_public_id(session, public_id)
                state, given = self._state(session, row), _given(session, row, wanted.idempotency_key)
            if given:
                return _answer(standing(state), given)
            made = plan(state, wanted.count)
            with self.database.write() as session:
                current = self.by_public_id(session, public_id, lock=True)
                if current.sequence == row.sequence:
                    return self._hand_out(session, current, made, wanted)
        with self.database.write() as session:
            row = self.by_public_id(session, public_id, lock=True)
            state, given = self._state(session, row), _given(session, row, wanted.idempotency_key)
            if given:
                return _answer(standing(state), given)
            return self._hand_out(session, row, plan(state, wanted.count), wanted)

    def _state(self, session: Session, row: SamplingRow) -> State:
        at = self.clock()
        elapsed = (at - row.created_at).total_seconds()
        deadline = row.definition["deadline"]
        always = bool(row.definition["budget"]) or (deadline is not None and elapsed >= deadline)
        out, lapsed = _out(session, row.id, at)
        prompts = _prompts(session, row.id)
        active = {
            p.position for p in prompts if p.told != p.decided or (p.stop is None and (always or p.position in lapsed))
        }
        draws = _draws(session, row.id, active, at)
        calibration = None if row.calibration_id is None else self.calibrations.of(row.calibration_id)
        states = [
            _prompt_state(p, out.get(p.position, 0), draws.get(p.position, ()), active=p.position in active)
            for p in prompts
        ]
        return State(row.definition, calibration, elapsed, row.tokens, row.stop, states)

    def _hand_out(self, session: Session, row: SamplingRow, made: Plan, wanted: SamplingAsk) -> SamplingAskOut:
        at = self.clock()
        expires = at + timedelta(seconds=row.definition["lease_seconds"])
        rows = {p.position: p for p in _prompts(session, row.id, {one.state.position for one in made.decided})}
        for one in made.decided:
            prompt = rows[one.state.position]
            prompt.decided = one.state.told
            prompt.stop = one.stop
            if one.stop or one.numbers:
                prompt.decisions = [*prompt.decisions, one.to_json()]
            if one.evidence is not None and row.calibration_id is not None:
                prompt.watched = True
                watch(session, row.calibration_id, one.evidence)
            known = {d.number for d in one.state.draws}
            for number in one.numbers:
                place = (row.id, prompt.position, number)
                if number in known:  # its time was up
                    draw = session.get_one(DrawRow, place)
                else:
                    draw = DrawRow(sampling_id=place[0], position=place[1], number=place[2])
                    session.add(draw)
                draw.key, draw.expires_at = wanted.idempotency_key, expires
        if made.decided:
            row.sequence += 1
            row.updated_at = at
        row.stop = None if made.stop is None else dict(made.stop)
        return _answer(made, [_draw_out(one.state.prompt, one.numbers, one.to_json()) for one in made.decided])

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell(self, public_id: str, told: SamplingTell) -> SamplingTellOut:
        """Record answers, all or none. Equal repeats change nothing; Conflict where an answer differs."""
        at = self.clock()
        recorded, tokens = 0, 0.0
        with self.database.write() as session:
            row = self.by_public_id(session, public_id, lock=True)
            prompts = self._addressed(session, row, told.answers)
            draws = _told_before(session, row.id, {p.position for p in prompts})
            for i, (answer, prompt) in enumerate(zip(told.answers, prompts, strict=True)):
                place = prompt.position, answer.number
                draw = draws.get(place)
                if draw is None:
                    draw = draws[place] = DrawRow(sampling_id=row.id, position=place[0], number=place[1])
                    session.add(draw)
                if draw.told_at is not None:
                    _check_equal(draw, answer, f"answers.{i}: draw {answer.number} of prompt {prompt.prompt!r}")
                    continue
                draw.answer, draw.score, draw.tokens, draw.told_at = answer.answer, answer.score, answer.tokens, at
                prompt.told += 1
                prompt.tokens += answer.tokens or 0.0
                recorded += 1
                tokens += answer.tokens or 0.0
            if recorded:
                row.sequence += 1
                row.updated_at = at
                row.samples += recorded
                row.tokens += tokens
            return SamplingTellOut(
                recorded=recorded, repeated=len(told.answers) - recorded, samples=row.samples, tokens=row.tokens
            )

    def _addressed(self, session: Session, row: SamplingRow, answers: Sequence[ToldAnswer]) -> list[PromptRow]:
        """The prompt of each answer; raises InvalidInput for answers that the sampling cannot take."""
        calibration = None if row.calibration_id is None else self.calibrations.of(row.calibration_id)
        sampling, budget = made(row.definition, calibration), row.definition["budget"]
        problems: list[Problem] = []
        names = {a.prompt for a in answers if a.prompt is not None}
        prompts = {p.prompt: p for p in _named(session, row.id, names, first=row.prompts == 1)}
        alone = next(iter(prompts)) if row.prompts == 1 else ""
        for i, a in enumerate(answers):
            if (alone if a.prompt is None else a.prompt) not in prompts:
                expected = "the id of a prompt" if row.prompts > 1 else f"{alone!r}, the only prompt"
                problems.append(Problem(f"answers.{i}.prompt", expected, a.prompt))
            if a.number >= row.definition["max_samples"]:
                problems.append(Problem(f"answers.{i}.number", "a number below max_samples", a.number))
            problems += wrong_score(sampling, a.answer, a.score, f"answers.{i}.score")
            if budget and a.tokens is None:
                problems.append(Problem(f"answers.{i}.tokens", "its tokens, because there is a budget of them", None))
        if problems:
            raise InvalidInput.of(problems)
        return [prompts[alone if a.prompt is None else a.prompt] for a in answers]

    # --- what is known ------------------------------------------------------------------------------------------------

    def sampling(self, public_id: str) -> SamplingOut:
        """A sampling with what is known of each prompt."""
        with self.database.read() as session:
            row = self.by_public_id(session, public_id)
            prompts = _prompts(session, row.id)
            draws = _draws(session, row.id, {p.position for p in prompts}, self.clock())
        calibration = None if row.calibration_id is None else self.calibrations.of(row.calibration_id)
        states = [_prompt_state(p, 0, draws.get(p.position, ()), active=True) for p in prompts]
        results = [
            result(row.definition, calibration, state, p.decisions) for state, p in zip(states, prompts, strict=True)
        ]
        return SamplingOut(**_fields(row), results=results)

    def finished(self) -> dict[tuple[int, str], int]:
        """How many prompts that something was known of have enough, by project and calibration, of all projects."""
        query = (
            select(CalibrationRow.project_id, CalibrationRow.name, func.count())
            .join(SamplingRow, col(SamplingRow.calibration_id) == CalibrationRow.id)
            .join(PromptRow, col(PromptRow.sampling_id) == SamplingRow.id)
            .where(col(PromptRow.stop).is_not(None), col(PromptRow.prior).is_not(None))
            .group_by(col(CalibrationRow.project_id), col(CalibrationRow.name))
        )
        with self.database.read() as session:
            found = Counter({(project, name): count for project, name, count in session.exec(query)})
        return found + Counter(self.calibrations.lessons_so_far())

    def traffic(self, calibration: str) -> list[Lesson]:
        """What finished prompts with features that went by any version of a calibration teach, the newest first.

        Of many, the newest samplings', and the newest that a gateway in this service has decided.
        """
        found: list[tuple[datetime, Lesson]] = []
        models = dict(self.calibrations.named(calibration, v.version) for v in self.calibrations.versions(calibration))
        with self.database.read() as session:
            own = self.own().where(col(SamplingRow.calibration_id).in_(models))
            for row in session.exec(own.order_by(col(SamplingRow.id).desc())):
                known = [p for p in _prompts(session, row.id) if p.stop and p.prior and "features" in p.prior]
                if len(found) + len(known) > MOST:
                    break
                draws = _draws(session, row.id, {p.position for p in known}, self.clock()) if known else {}
                for p in known:
                    assert p.prior is not None
                    sampling = made(row.definition, models[row.calibration_id or 0], None, draws.get(p.position, ()))
                    lesson = Lesson.of(p.prior["features"], sampling)
                    if lesson is not None:
                        found.append((row.updated_at, lesson))
        found += self.calibrations.lessons(calibration)
        found.sort(key=lambda one: one[0], reverse=True)
        return [lesson for _, lesson in found[:MOST]]

    def answers(self, public_id: str, after: tuple[int, int], limit: int, prompt: str | None) -> AnswerPart:
        """Draws by prompt and number, from behind one; and where the next part goes on, if there is one."""
        with self.database.read() as session:
            row = self.by_public_id(session, public_id)
            query = select(DrawRow, PromptRow.prompt).join(
                PromptRow,
                and_(col(PromptRow.sampling_id) == DrawRow.sampling_id, col(PromptRow.position) == DrawRow.position),
            )
            query = query.where(
                DrawRow.sampling_id == row.id, tuple_(col(DrawRow.position), col(DrawRow.number)) > after
            )
            if prompt is not None:
                query = query.where(PromptRow.prompt == prompt)
            query = query.order_by(col(DrawRow.position), col(DrawRow.number)).limit(limit + 1)
            found = session.exec(query).all()
        page = [
            RecordedAnswer(
                prompt=name, number=d.number, answer=d.answer, score=d.score, tokens=d.tokens, told_at=d.told_at
            )
            for d, name in found[:limit]
        ]
        last = found[limit - 1][0] if len(found) > limit else None
        return page, None if last is None else (last.position, last.number)


AnswerPart = tuple[list[RecordedAnswer], tuple[int, int] | None]


def _prompts(session: Session, sampling_id: int, positions: set[int] | None = None) -> Sequence[PromptRow]:
    query = select(PromptRow).where(PromptRow.sampling_id == sampling_id)
    if positions is not None and len(positions) <= 500:  # parameters of one statement
        query = query.where(col(PromptRow.position).in_(positions))
    return session.exec(query.order_by(col(PromptRow.position))).all()


def _named(session: Session, sampling_id: int, names: set[str], *, first: bool) -> Sequence[PromptRow]:
    """Prompts by their ids; ``first``: the only one."""
    query = select(PromptRow).where(PromptRow.sampling_id == sampling_id)
    if not first and len(names) <= 500:  # parameters of one statement
        query = query.where(col(PromptRow.prompt).in_(names))
    return session.exec(query).all()


def _out(session: Session, sampling_id: int, at: datetime) -> tuple[dict[int, int], set[int]]:
    """How many draws of each prompt are out, and the prompts some of whose may be handed out again."""
    query = select(DrawRow.position, DrawRow.expires_at).where(
        DrawRow.sampling_id == sampling_id, col(DrawRow.told_at).is_(None)
    )
    out: Counter[int] = Counter()
    lapsed: set[int] = set()
    for position, expires in session.exec(query):
        out[position] += 1
        if expires is not None and expires <= at:
            lapsed.add(position)
    return out, lapsed


def _draws(session: Session, sampling_id: int, positions: set[int], at: datetime) -> dict[int, list[Told]]:
    """Draws of these prompts, by number."""
    query = select(DrawRow).where(*_of(sampling_id, positions)).order_by(col(DrawRow.position), col(DrawRow.number))
    found: dict[int, list[Told]] = {}
    for d in session.exec(query):
        lapsed = d.told_at is None and d.expires_at is not None and d.expires_at <= at
        one = Told(d.number, d.told_at is not None, lapsed, d.answer, d.score, d.tokens)
        found.setdefault(d.position, []).append(one)
    return found


def _told_before(session: Session, sampling_id: int, positions: set[int]) -> dict[tuple[int, int], DrawRow]:
    rows = session.exec(select(DrawRow).where(*_of(sampling_id, positions)))
    return {(row.position, row.number): row for row in rows}


def _of(sampling_id: int, positions: set[int]) -> list[Any]:
    """Which draws are those of these prompts (and of some between, where they are many)."""
    own = col(DrawRow.sampling_id) == sampling_id
    if len(positions) <= 500:  # parameters of one statement
        return [own, col(DrawRow.position).in_(positions)]
    return [own, col(DrawRow.position).between(min(positions), max(positions))]


def _given(session: Session, row: SamplingRow, key: str | None) -> list[DrawOut]:
    """What an ask with that key was given and is still out."""
    if key is None:
        return []
    query = select(DrawRow.position, DrawRow.number).where(
        DrawRow.sampling_id == row.id, DrawRow.key == key, col(DrawRow.told_at).is_(None)
    )
    numbers: dict[int, list[int]] = {}
    for position, number in session.exec(query.order_by(col(DrawRow.position), col(DrawRow.number))):
        numbers.setdefault(position, []).append(number)
    prompts = [session.get_one(PromptRow, (row.id, position)) for position in numbers]
    return [_draw_out(p.prompt, numbers[p.position], p.decisions[-1]) for p in prompts]


def _check_equal(draw: DrawRow, answer: ToldAnswer, where: str) -> None:
    if (draw.answer, draw.score, draw.tokens) != (answer.answer, answer.score, answer.tokens):
        raise Conflict(f"{where} was told before, with another result")


# --- shapes -----------------------------------------------------------------------------------------------------------


def _prompt_state(row: PromptRow, out: int, draws: Sequence[Told], *, active: bool) -> PromptState:
    return PromptState(row.position, row.prompt, row.prior, row.told, row.watched, row.stop, out, active, draws)


def _draw_out(prompt: str, numbers: list[int], decision: Mapping[str, Any]) -> DrawOut:
    known = {name: decision.get(name) for name in ("samples", "confidence", "gain", "cost")}
    return DrawOut(prompt=prompt, numbers=numbers, **known)  # type: ignore[arg-type]


def _answer(made: Plan, draws: list[DrawOut]) -> SamplingAskOut:
    stop = None if made.stop is None else StopOut(**made.stop)
    return SamplingAskOut(draws=[d for d in draws if d.numbers], open=made.open, out=made.out, stop=stop)


def _fields(row: SamplingRow) -> dict[str, Any]:
    return {
        **row.definition,
        "id": row.public_id,
        "prompts": row.prompts,
        "metadata": row.info,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "samples": row.samples,
        "tokens": row.tokens,
        "stop": row.stop,
    }
