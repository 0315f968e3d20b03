"""How replicas of the service that share one PostgreSQL work together.

The database tells every replica of every change of a study (NOTIFY, from the trigger in migration 0004), with the
commit that made it: event streams go on, asks that wait look again, and the engine learns that there is something new.

Which replica refreshes a study is decided by an advisory lock: the first one that needs suggestions takes it, and keeps
it while the study is in use. When a replica dies, its connection does, and so do its locks: the next one that needs
suggestions takes over. The lock only keeps two engines from doing the same work; were two of them to hold a study for a
moment, after a connection was cut, what they write would still be consistent, since the store decides that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url

from .database import unsaid

if TYPE_CHECKING:
    from psycopg import AsyncConnection

ENGINE_LOCK = 0x5FF1CE  # the first half of an advisory lock's key; the second is the study's id
RECONNECT_SECONDS = 1.0
CHANGES, WANTED = "suffice_studies", "suffice_wanted"

log = logging.getLogger("suffice.engine")


@dataclass(frozen=True, slots=True)
class News:
    """Where a study stands after a change; or, with ``waiting``, how many suggestions are wanted for it, by context."""

    study: int
    sequence: int | None = None  # None: it was deleted
    data_version: int = 0
    next_number: int = 0
    waiting: Mapping[str, int] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        return self.sequence is None and not self.waiting


class Replicas:
    """This replica among the others; ``owned`` are the studies that it refreshes."""

    def __init__(self, database: str) -> None:
        url = make_url(database).set(drivername="postgresql")
        self._address = url.render_as_string(hide_password=False)
        self._options = {**unsaid(url), "application_name": f"suffice replica {os.getpid()}"}
        self.owned: set[int] = set()
        self._connection: AsyncConnection[Any] | None = None  # what holds the locks

    async def listen(self, heard: Callable[[News], None]) -> None:
        """Pass on what happens, for ever; connects again when the database was away."""
        from psycopg import OperationalError

        while True:
            try:
                await self._listen(heard)
            except OperationalError as error:
                log.warning("the database does not tell of changes any more: %s", str(error).strip())
            finally:
                await self._close()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, heard: Callable[[News], None]) -> None:
        self._connection = await self._connect()
        async with await self._connect() as connection:
            # for what comes along with the answer to LISTEN, before the socket is watched
            connection.add_notify_handler(lambda notification: heard(News(**json.loads(notification.payload))))
            await connection.execute(f"LISTEN {CHANGES}; LISTEN {WANTED}".encode())
            arrived, loop, socket = asyncio.Event(), asyncio.get_running_loop(), connection.fileno()
            loop.add_reader(socket, arrived.set)  # once: psycopg's own way does so for every notification
            try:
                while await arrived.wait():
                    arrived.clear()
                    connection.pgconn.consume_input()
                    while (notification := connection.pgconn.notifies()) is not None:
                        heard(News(**json.loads(notification.extra)))
            finally:
                loop.remove_reader(socket)

    async def claim(self, study_id: int) -> bool:
        """Whether this replica has the study now."""
        found = await self._execute("SELECT pg_try_advisory_lock(%s, %s)", ENGINE_LOCK, study_id)
        if found:
            self.owned.add(study_id)
        return bool(found)

    async def release(self, study_id: int) -> None:
        """Leave the study to whoever needs it next."""
        if study_id in self.owned:
            self.owned.discard(study_id)
            await self._execute("SELECT pg_advisory_unlock(%s, %s)", ENGINE_LOCK, study_id)

    async def want(self, study_id: int, waiting: Mapping[str, int]) -> None:
        """Ask the replica that has the study for so many suggestions, by context."""
        wanted = {context: count for context, count in waiting.items() if count}
        if wanted:
            await self._execute("SELECT pg_notify(%s, %s)", WANTED, json.dumps({"study": study_id, "waiting": wanted}))

    async def _execute(self, statement: str, *values: Any) -> Any:
        """The first value of the answer; None where the database is out of reach, and then everything owned is lost."""
        from psycopg import Error

        if self._connection is None:
            return None
        try:
            cursor = await self._connection.execute(statement.encode(), values)
            row = await cursor.fetchone()
        except Error as error:
            log.warning("the database does not answer: %s", str(error).strip())
            await self._close()
            with suppress(Error):
                self._connection = await self._connect()
            return None
        return None if row is None else row[0]

    async def _connect(self) -> AsyncConnection[Any]:
        from psycopg import AsyncConnection

        options: Any = self._options
        return await AsyncConnection.connect(self._address, autocommit=True, **options)

    async def _close(self) -> None:
        self.owned.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
