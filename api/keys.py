"""Keys and projects in the database, and which of them this process knows by heart.

A key is `sfc_<id>_<secret>`. The secret has 256 random bits, so its SHA-256 is kept, and nothing slower: a slow hash
makes up for secrets that can be guessed, and would cost every request what it costs a thief. A row is found by the id;
the digests are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from suffice.optimizer import Conflict, InvalidInput, NotFound

from .access import Caller
from .access_wire import KeyCreate, KeyMade, KeyOut, ProjectOut, Role
from .database import Database
from .store import Clock, now
from .tables import CalibrationRow, KeyRow, ProjectRow, SamplingRow, StudyRow, UsageRow

FORM = re.compile(r"sfc_([0-9a-f]{12})_[A-Za-z0-9_\-]{43}")
FRESH_SECONDS = 5.0  # for which a key is not looked up again: so long a key revoked elsewhere still opens
KEPT = 10_000  # keys known by heart
SESSION = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Known:
    """A key as it was looked up."""

    digest: str
    caller: Caller
    expires_at: datetime | None
    revoked: bool
    session: bool  # good in a cookie only, as a key is good in a header only
    day: str
    tokens: int  # spent on that day, by all processes


class KeyStore:
    """Each method is one transaction."""

    def __init__(self, database: Database, clock: Clock = now) -> None:
        self.database = database
        self.clock = clock

    # --- projects -----------------------------------------------------------------------------------------------------

    def create_project(self, name: str) -> ProjectOut:
        """Raises Conflict where there is one of that name."""
        row = ProjectRow(name=name, created_at=self.clock())
        try:
            with self.database.write() as session:
                session.add(row)
        except IntegrityError as error:
            raise Conflict(f"there is a project named {name!r} already") from error
        return ProjectOut(name=row.name, created_at=row.created_at)

    def projects(self, after: str | None = None, limit: int = 1000) -> list[ProjectOut]:
        """By name, from behind ``after``."""
        query = select(ProjectRow).order_by(col(ProjectRow.name)).limit(limit)
        if after is not None:
            query = query.where(ProjectRow.name > after)
        with self.database.read() as session:
            return [ProjectOut(name=row.name, created_at=row.created_at) for row in session.exec(query)]

    def delete_project(self, name: str) -> None:
        """Delete an empty project and its keys. Raises NotFound, and Conflict while anything is in it."""
        with self.database.write() as session:
            row = _project(session, name, lock=True)
            for table, what in ((StudyRow, "studies"), (SamplingRow, "samplings"), (CalibrationRow, "calibrations")):
                query = select(func.count()).select_from(table).where(col(table.project_id) == row.id)
                if count := session.exec(query).one():
                    raise Conflict(f"{count} {what} are in the project {name!r}: delete those first")
            if row.name == "default":
                raise Conflict("the project 'default' stays: it is where requests without a key belong")
            if session.exec(select(KeyRow.id).where(KeyRow.project_id != row.id).limit(1)).first() is None:
                raise Conflict("all keys are of this project; without any, the service would be open again")
            session.exec(delete(KeyRow).where(col(KeyRow.project_id) == row.id))
            session.delete(row)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def wanted(self) -> bool:
        """Whether there ever was a key; from then on every request needs one."""
        with self.database.read() as session:
            return session.exec(select(KeyRow.id).limit(1)).first() is not None

    def create(self, wanted: KeyCreate) -> KeyMade:
        """A new key, with its secret. Raises InvalidInput where its project is not there."""
        days = None if wanted.days is None else timedelta(days=wanted.days)
        with self.database.write() as session:
            try:
                project = _project(session, wanted.project)
            except NotFound:
                raise InvalidInput("project", "the name of a project", wanted.project) from None
            row, secret = self._made(project.id, wanted.role, wanted.name, days)
            row.tokens_per_day, row.requests_per_minute = wanted.tokens_per_day, wanted.requests_per_minute
            session.add(row)
            return KeyMade(**_key_out(row, project.name, 0).model_dump(), secret=secret)

    def begin_session(self, key: Caller) -> tuple[str, datetime]:
        """What goes into a cookie, for a key: a key of its own that ends soon, and when. Old ones are cleared away."""
        at = self.clock()
        with self.database.write() as session:
            session.exec(delete(KeyRow).where(col(KeyRow.parent_id).is_not(None), col(KeyRow.expires_at) <= at))
            row, secret = self._made(key.project, key.role, None, SESSION)
            row.parent_id = key.key_row
            session.add(row)
        assert row.expires_at is not None
        return secret, row.expires_at

    def _made(self, project: int, role: Role, name: str | None, lasts: timedelta | None) -> tuple[KeyRow, str]:
        at = self.clock()
        public_id = secrets.token_hex(6)
        secret = f"sfc_{public_id}_{secrets.token_urlsafe(32)}"
        row = KeyRow(
            public_id=public_id,
            digest=digest(secret),
            project_id=project,
            role=role,
            name=name,
            created_at=at,
            expires_at=None if lasts is None else at + lasts,
        )
        return row, secret

    def keys(self, after: int = 0, limit: int = 1000) -> tuple[list[KeyOut], int | None]:
        """Keys in the order in which they were made, from behind one; and where the next page goes on."""
        today = _day(self.clock())
        used = (col(UsageRow.key_id) == KeyRow.id) & (col(UsageRow.day) == today)
        query = (
            select(KeyRow, ProjectRow.name, func.coalesce(UsageRow.tokens, 0))
            .join(ProjectRow, col(ProjectRow.id) == KeyRow.project_id)
            .outerjoin(UsageRow, used)
            .where(KeyRow.id > after, col(KeyRow.parent_id).is_(None))
            .order_by(col(KeyRow.id))
            .limit(limit + 1)
        )
        with self.database.read() as session:
            rows = session.exec(query).all()
        page = [_key_out(row, project, tokens) for row, project, tokens in rows[:limit]]
        return page, rows[limit - 1][0].id if len(rows) > limit else None

    def revoke(self, public_id: str) -> KeyOut:
        """A key that opens nothing any more, and its sessions neither. Raises NotFound."""
        with self.database.write() as session:
            query = select(KeyRow, ProjectRow.name).join(ProjectRow, col(ProjectRow.id) == KeyRow.project_id)
            found = session.exec(query.where(KeyRow.public_id == public_id, col(KeyRow.parent_id).is_(None))).first()
            if found is None:
                raise NotFound(f"there is no key {public_id!r}")
            row, project = found
            row.revoked_at = row.revoked_at or self.clock()
            session.exec(delete(KeyRow).where(col(KeyRow.parent_id) == row.id))
            return _key_out(row, project, 0)

    def end_session(self, public_id: str) -> None:
        with self.database.write() as session:
            session.exec(delete(KeyRow).where(col(KeyRow.public_id) == public_id, col(KeyRow.parent_id).is_not(None)))

    def look_up(self, public_id: str) -> Known | None:
        """The key, or session, of that id."""
        today = _day(self.clock())
        used = (col(UsageRow.key_id) == KeyRow.id) & (col(UsageRow.day) == today)
        query = (
            select(KeyRow, ProjectRow.name, func.coalesce(UsageRow.tokens, 0))
            .join(ProjectRow, col(ProjectRow.id) == KeyRow.project_id)
            .outerjoin(UsageRow, used)
            .where(KeyRow.public_id == public_id)
        )
        with self.database.read() as session:
            found = session.exec(query).first()
            if found is None:
                return None
            row, project, tokens = found
            parent = None if row.parent_id is None else session.get(KeyRow, row.parent_id)
        ends = [one.expires_at for one in (row, parent) if one is not None and one.expires_at is not None]
        caller = Caller(
            row.project_id,
            row.role,  # type: ignore[arg-type]
            project,
            (parent or row).public_id,
            (parent or row).id,
            (parent or row).tokens_per_day,
            (parent or row).requests_per_minute,
        )
        revoked = any(one is not None and one.revoked_at is not None for one in (row, parent))
        return Known(
            row.digest, caller, min(ends, default=None), revoked, row.parent_id is not None, today, int(tokens)
        )

    # --- what keys may do ---------------------------------------------------------------------------------------------

    def grant(self, key_row: int, per_minute: int, wanted: int) -> tuple[int, float]:
        """As many requests of a key as it may make now, at most so many; if none, the seconds until it may make those.

        The row says when all that was granted will have been refilled (the generic cell rate algorithm): that may be
        up to a minute ahead.
        """
        minute = timedelta(minutes=1)
        with self.database.write() as session:
            found = session.exec(select(KeyRow.refilled_at).where(KeyRow.id == key_row).with_for_update()).first()
            at = self.clock()
            refilled = min(max(found or at, at), at + minute)  # a clock that was set may say anything
            left = per_minute * ((at + minute - refilled) / minute)
            granted = min(wanted, int(left + 0.01))  # times are rounded to microseconds
            refilled += granted * minute / per_minute
            session.exec(update(KeyRow).where(col(KeyRow.id) == key_row).values(refilled_at=refilled))
        wait = refilled + wanted * minute / per_minute - minute - at
        return granted, 0.0 if granted else wait.total_seconds()

    def spend(self, key_row: int, day: str, tokens: int) -> None:
        """Add to what a key has spent on a day."""
        with self.database.write() as session:
            session.exec(select(KeyRow.id).where(KeyRow.id == key_row).with_for_update())
            row = session.get(UsageRow, (key_row, day))
            if row is None:
                session.add(UsageRow(key_id=key_row, day=day, tokens=tokens))
            else:
                session.exec(
                    update(UsageRow)
                    .where(col(UsageRow.key_id) == key_row, col(UsageRow.day) == day)
                    .values(tokens=UsageRow.tokens + tokens)
                )

    def today(self) -> str:
        return _day(self.clock())


class KeyRing:
    """The keys that were used lately. Lookups are as old as `FRESH_SECONDS`, a key revoked here is unknown at once."""

    def __init__(self, store: KeyStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self._monotonic = monotonic
        self._kept: OrderedDict[str, tuple[float, Known]] = OrderedDict()
        self._lock = threading.Lock()
        self._wanted: tuple[float, bool] | None = None

    def recall(self, public_id: str) -> Known | None:
        """What is known by heart."""
        kept = self._kept.get(public_id)
        return kept[1] if kept is not None and self._monotonic() - kept[0] < FRESH_SECONDS else None

    def look_up(self, public_id: str) -> Known | None:
        """The same from the database: not for the event loop's thread."""
        at, found = self._monotonic(), self.store.look_up(public_id)
        with self._lock:
            self._kept.pop(public_id, None)
            if found is not None:
                self._kept[public_id] = at, found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def forget(self) -> None:
        """Keys have changed."""
        with self._lock:
            self._kept.clear()
            if self._wanted is not None and not self._wanted[1]:
                self._wanted = None

    @property
    def wanted(self) -> bool | None:
        """Whether requests need a key, where that is known: for ever once they do, for a moment while they do not."""
        if self._wanted is None:
            return None
        at, wanted = self._wanted
        return wanted if wanted or self._monotonic() - at < FRESH_SECONDS else None

    def look_whether_wanted(self) -> bool:
        """The same from the database."""
        at, wanted = self._monotonic(), self.store.wanted()
        self._wanted = at, wanted
        return wanted

    def opens(self, known: Known | None, secret: str, *, session: bool) -> bool:
        """Whether a secret is that of a key that was looked up, and still good."""
        if known is None or known.session != session:
            return False
        if not hmac.compare_digest(known.digest, digest(secret)) or known.revoked:
            return False
        return known.expires_at is None or self.store.clock() < known.expires_at


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def csrf(secret: str) -> str:
    """What a page shows that it was given the session, which it cannot read: the cookie is the browser's alone."""
    return hmac.new(secret.encode(), b"suffice csrf", hashlib.sha256).hexdigest()


def _day(at: datetime) -> str:
    return at.date().isoformat()


def _project(session: Session, name: str, *, lock: bool = False) -> ProjectRow:
    query = select(ProjectRow).where(ProjectRow.name == name)
    row = session.exec(query.with_for_update() if lock else query.with_for_update(read=True)).first()
    if row is None:
        raise NotFound(f"there is no project named {name!r}")
    return row


def _key_out(row: KeyRow, project: str, tokens: int) -> KeyOut:
    return KeyOut(
        id=row.public_id,
        project=project,
        role=row.role,  # type: ignore[arg-type]
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        tokens_per_day=row.tokens_per_day,
        tokens_today=tokens,
        requests_per_minute=row.requests_per_minute,
    )
