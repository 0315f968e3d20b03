"""The database's tables. `store.py` alone reads and writes them; `migrations/` holds their history.

A study's counters are what keeps every request short: ``sequence`` numbers each change of the study or its trials (an
event id, and how the engine reads only what is new), ``data_version`` rises with what the model would want to know,
``used`` counts what the budget counts, ``counts`` the trials in each state. They change in the transaction that changes
the rows they stand for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, ForeignKey, Index, Integer, MetaData, UniqueConstraint
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from suffice.optimizer import TrialState
from suffice.optimizer.decision import counts


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC; SQLite keeps no time zones, PostgreSQL answers in the session's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Document(TypeDecorator[Any]):
    """A JSON value; None is no document, not the document ``null``."""

    impl = JSON(none_as_null=True)
    cache_ok = True


LONG = BigInteger().with_variant(Integer, "sqlite")  # whose integers are long, but count up as INTEGER only


class Base(SQLModel):
    __tablename__: ClassVar[Any]
    metadata = MetaData()


class ProjectRow(Base, table=True):
    """What belongs to one project is unknown in all others. The first one is there from the beginning."""

    __tablename__ = "projects"
    __table_args__ = {"sqlite_autoincrement": True}  # an id is never used twice

    id: int = Field(default=None, primary_key=True)
    name: str = Field(max_length=100, unique=True)
    created_at: datetime = Field(sa_type=Moment)


class KeyRow(Base, table=True):
    """An API key, or with a ``parent_id`` a session that was begun with one. Only the digest of its secret is kept."""

    __tablename__ = "keys"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int = Field(default=None, primary_key=True)
    public_id: str = Field(max_length=16, unique=True, index=True)
    digest: str = Field(max_length=64)
    project_id: int = Field(sa_column_args=[ForeignKey("projects.id", ondelete="RESTRICT")])
    parent_id: int | None = Field(default=None, index=True, sa_column_args=[ForeignKey("keys.id", ondelete="CASCADE")])
    role: str = Field(max_length=16)
    name: str | None = Field(default=None, max_length=100)
    tokens_per_day: int | None = Field(default=None, sa_type=BigInteger)
    requests_per_minute: int | None = None
    refilled_at: datetime | None = Field(default=None, sa_type=Moment)  # when all requests that it made are (`grant`)
    created_at: datetime = Field(sa_type=Moment)
    expires_at: datetime | None = Field(default=None, sa_type=Moment)
    revoked_at: datetime | None = Field(default=None, sa_type=Moment)


class UsageRow(Base, table=True):
    """The tokens that a key has spent at the gateway on a day of UTC."""

    __tablename__ = "usage"

    key_id: int = Field(sa_column_args=[ForeignKey("keys.id", ondelete="CASCADE")], primary_key=True)
    day: str = Field(max_length=10, primary_key=True)
    tokens: int = Field(sa_type=BigInteger)


class Counting:
    """How a study's counters move, in whatever object holds them."""

    if TYPE_CHECKING:  # annotations would become columns
        sequence: int
        data_version: int
        used: int
        counts: dict[str, int]

    def tick(self) -> int:
        """The number of the change that is being made."""
        self.sequence += 1
        return self.sequence

    def enter(self, state: TrialState, method: str) -> None:
        """Count a new trial."""
        self.used += spent(state, method)
        self.counts = {**self.counts, str(state): self.counts.get(str(state), 0) + 1}

    def move(self, trial: Any, state: TrialState, now: datetime) -> None:
        """Put ``trial`` into ``state``; the counters follow."""
        method = trial.source["method"]
        self.counts = {**self.counts, trial.state: self.counts[trial.state] - 1}
        self.counts[str(state)] = self.counts.get(str(state), 0) + 1
        self.used += spent(state, method) - spent(TrialState(trial.state), method)
        trial.state = str(state)
        trial.sequence = self.tick()
        if not state.open:
            trial.finished_at = now
            trial.lease_token = trial.lease_expires_at = None
            self.data_version += 1


class StudyRow(Base, Counting, table=True):
    """A study. ``definition`` never changes: the space, the goal, and every setting of how it is searched."""

    __tablename__ = "studies"
    __table_args__ = (Index("ix_studies_name", "project_id", "name", unique=True), {"sqlite_autoincrement": True})

    id: int = Field(default=None, primary_key=True)
    project_id: int = Field(sa_column_args=[ForeignKey("projects.id", ondelete="RESTRICT")])
    name: str = Field(max_length=100)
    definition: dict[str, Any] = Field(sa_type=Document)
    seed: int = Field(sa_type=BigInteger)
    state: str = "ACTIVE"
    budget: int | None = None
    budget_cost: float | None = None
    lease_seconds: float
    max_retries: int
    info: dict[str, Any] = Field(
        sa_type=Document
    )  # what the API calls metadata, a name that SQLAlchemy keeps for itself
    created_at: datetime = Field(sa_type=Moment)
    updated_at: datetime = Field(sa_type=Moment)

    next_number: int = 0
    used: int = 0
    counts: dict[str, int] = Field(default_factory=dict, sa_type=Document)  # of trials, by state
    sequence: int = 0
    data_version: int = 0
    changed_at: int = 0  # the sequence of the last change of the study itself
    refreshed_at: int = 0  # the sequence of the last refresh of its ready suggestions
    stop: dict[str, Any] | None = Field(default=None, sa_type=Document)  # why no more was suggested, at which version
    best: dict[str, Any] | None = Field(default=None, sa_type=Document)  # the engine's last recommendation


class TrialRow(Base, table=True):
    """A trial. A lease is (``lease_token``, ``lease_expires_at``); `store.py` says when it holds."""

    __tablename__ = "trials"
    __table_args__ = (
        Index("ix_trials_sequence", "study_id", "sequence"),
        Index("ix_trials_state", "study_id", "state", "number"),
        Index("ix_trials_key", "study_id", "key"),
        Index("ix_trials_lease", "state", "lease_expires_at"),
    )

    study_id: int = Field(sa_column_args=[ForeignKey("studies.id", ondelete="CASCADE")], primary_key=True)
    number: int = Field(primary_key=True)
    state: str
    parameters: dict[str, Any] = Field(sa_type=Document)
    key: str = Field(max_length=32)  # equal for equal configurations
    source: dict[str, Any] = Field(sa_type=Document)
    reason: str | None = None
    worker: str | None = None
    attempts: int = 0
    lease_token: str | None = None
    lease_expires_at: datetime | None = Field(default=None, sa_type=Moment)
    created_at: datetime = Field(sa_type=Moment)
    started_at: datetime | None = Field(default=None, sa_type=Moment)
    finished_at: datetime | None = Field(default=None, sa_type=Moment)
    sequence: int


class MeasurementRow(Base, table=True):
    """One measured value; results have no step, intermediate ones at most one value per metric and step."""

    __tablename__ = "measurements"
    __table_args__ = (Index("ix_measurements_trial", "study_id", "number", "id"),)

    id: int = Field(default=None, primary_key=True, sa_type=LONG)
    study_id: int = Field(sa_column_args=[ForeignKey("studies.id", ondelete="CASCADE")])
    number: int
    metric: str
    value: float
    stderr: float | None = None
    step: int | None = Field(default=None, sa_type=BigInteger)
    gradient: dict[str, float] | None = Field(default=None, sa_type=Document)


class ImageRow(Base, table=True):
    """An image that a trial made; `images.py` reads and writes them."""

    __tablename__ = "images"

    study_id: int = Field(primary_key=True, sa_column_args=[ForeignKey("studies.id", ondelete="CASCADE")])
    number: int = Field(primary_key=True)
    name: str = Field(primary_key=True, max_length=64)
    type: str = Field(max_length=16)
    data: bytes
    created_at: datetime = Field(sa_type=Moment)


class SuggestionRow(Base, table=True):
    """A suggestion that is ready to be asked for; an ask that takes it turns it into a trial."""

    __tablename__ = "suggestions"
    __table_args__ = (Index("ix_suggestions_study", "study_id", "id"),)

    id: int = Field(default=None, primary_key=True, sa_type=LONG)
    study_id: int = Field(sa_column_args=[ForeignKey("studies.id", ondelete="CASCADE")])
    parameters: dict[str, Any] = Field(sa_type=Document)
    key: str = Field(max_length=32)
    source: dict[str, Any] = Field(sa_type=Document)
    context: str = Field(default="", max_length=32)  # `context_key` of what it was computed for
    data_version: int  # what was known when it was computed
    next_number: int  # trials from this number on were not


class AskRow(Base, table=True):
    """What a request with an idempotency key was given: the trials' numbers and which attempt at each.

    ``request`` is "ask", or "add" for points of one's own, which are no attempt yet.
    """

    __tablename__ = "asks"

    study_id: int = Field(sa_column_args=[ForeignKey("studies.id", ondelete="CASCADE")], primary_key=True)
    key: str = Field(max_length=200, primary_key=True)
    request: str = "ask"
    count: int
    given: list[tuple[int, int]] = Field(sa_type=Document)


class EarlierRow(Base, table=True):
    """That a study learns from another one, which therefore cannot be deleted before it."""

    __tablename__ = "earlier"
    __table_args__ = (Index("ix_earlier_source", "source_id"),)

    study_id: int = Field(sa_column_args=[ForeignKey("studies.id", ondelete="CASCADE")], primary_key=True)
    source_id: int = Field(sa_column_args=[ForeignKey("studies.id", ondelete="RESTRICT")], primary_key=True)


class AnalysesRow(Base, table=True):
    """The last analyses of a study, and on which data they stand."""

    __tablename__ = "analyses"

    study_id: int = Field(sa_column_args=[ForeignKey("studies.id", ondelete="CASCADE")], primary_key=True)
    data_version: int
    cards: list[dict[str, Any]] = Field(sa_type=Document)


class CalibrationRow(Base, table=True):
    """One version of a calibration, which never changes, and what the drift alarm has seen since."""

    __tablename__ = "calibrations"
    __table_args__ = (UniqueConstraint("project_id", "name", "version"), {"sqlite_autoincrement": True})

    id: int = Field(default=None, primary_key=True)
    project_id: int = Field(sa_column_args=[ForeignKey("projects.id", ondelete="RESTRICT")])
    name: str = Field(max_length=100)
    version: int
    document: dict[str, Any] = Field(sa_type=Document)
    drift_total: float = 0.0
    drift_alarm: bool = False
    created_at: datetime = Field(sa_type=Moment)


class LessonRow(Base, table=True):
    """What a prompt of a gateway taught of what features tell (`traffic.py`); numbers go on where old ones are gone."""

    __tablename__ = "lessons"

    project_id: int = Field(primary_key=True, sa_column_args=[ForeignKey("projects.id", ondelete="RESTRICT")])
    calibration: str = Field(primary_key=True, max_length=100)
    number: int = Field(primary_key=True)
    features: list[float] = Field(sa_type=Document)
    right: float
    drawn: int
    counted: dict[str, Any] = Field(sa_type=Document)
    created_at: datetime = Field(sa_type=Moment)


class SamplingRow(Base, table=True):
    """A sampling. ``definition`` never changes; ``sequence`` numbers the changes of its answers and decisions."""

    __tablename__ = "samplings"
    __table_args__ = (
        UniqueConstraint("project_id", "key"),
        Index("ix_samplings_calibration", "calibration_id"),
        {"sqlite_autoincrement": True},
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = Field(sa_column_args=[ForeignKey("projects.id", ondelete="RESTRICT")])
    public_id: str = Field(max_length=32, unique=True, index=True)
    key: str | None = Field(default=None, max_length=200)  # of the request that created it
    definition: dict[str, Any] = Field(sa_type=Document)
    calibration_id: int | None = Field(
        default=None, sa_column_args=[ForeignKey("calibrations.id", ondelete="RESTRICT")]
    )
    info: dict[str, Any] = Field(sa_type=Document)  # metadata
    prompts: int
    sequence: int = 0
    samples: int = 0
    tokens: float = 0.0
    stop: dict[str, Any] | None = Field(default=None, sa_type=Document)  # the last ask's
    created_at: datetime = Field(sa_type=Moment)
    updated_at: datetime = Field(sa_type=Moment)


class PromptRow(Base, table=True):
    """A prompt of a sampling. It is to be decided on while ``told`` is not ``decided``."""

    __tablename__ = "prompts"
    __table_args__ = (UniqueConstraint("sampling_id", "prompt"),)

    sampling_id: int = Field(sa_column_args=[ForeignKey("samplings.id", ondelete="CASCADE")], primary_key=True)
    position: int = Field(primary_key=True)
    prompt: str = Field(max_length=200)
    prior: dict[str, Any] | None = Field(default=None, sa_type=Document)  # what is known of it beforehand
    told: int = 0
    decided: int = -1  # how many answers were told when it was last decided on
    tokens: float = 0.0
    watched: bool = False  # whether the drift alarm has seen it
    stop: dict[str, Any] | None = Field(default=None, sa_type=Document)
    decisions: list[dict[str, Any]] = Field(default_factory=list, sa_type=Document)


class DrawRow(Base, table=True):
    """A draw that was asked for, or told; its answer counts once ``told_at`` is set (null: a failure)."""

    __tablename__ = "draws"
    __table_args__ = (
        Index("ix_draws_key", "sampling_id", "key"),
        Index("ix_draws_out", "sampling_id", "told_at", "expires_at"),
    )

    sampling_id: int = Field(sa_column_args=[ForeignKey("samplings.id", ondelete="CASCADE")], primary_key=True)
    position: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    key: str | None = Field(default=None, max_length=200)  # of the ask that handed it out
    expires_at: datetime | None = Field(default=None, sa_type=Moment)  # when it may be handed out again
    told_at: datetime | None = Field(default=None, sa_type=Moment)
    answer: str | int | float | None = Field(default=None, sa_type=Document)
    score: float | None = None
    tokens: float | None = None


def spent(state: TrialState, method: str) -> bool:
    """Whether a trial counts against the budget: what waits in the queue does once it is handed out."""
    return state is not TrialState.WAITING and counts(state, method)


def context_key(context: Mapping[str, Any] | None) -> str:
    """A fingerprint of a context; empty where there is none."""
    return key_of(context) if context else ""


def key_of(parameters: Mapping[str, Any]) -> str:
    """A fingerprint that equal configurations share."""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
