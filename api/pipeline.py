"""PostgreSQL's pipeline: the statements of a transaction in two messages to the server, where each takes one otherwise.

What is written waits for the next queries, or for the commit, and goes along with them. So an ask or a tell that comes
alone is a message with BEGIN, the study's lock and all it reads, and another one with all it writes and COMMIT. In
between the thread waits twice for the server, and for its turn among the other threads, where it waited ten times.

Each query sees what was committed until the lock was taken, as if they were sent one by one: in READ COMMITTED each has
a snapshot of its own, and the server begins with it when the one before has ended.

SQLAlchemy compiles the statements and knows the types; they are prepared once per connection and executed through
libpq, as psycopg wraps it. Its own pipeline sends every statement apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import count
from select import POLLIN, POLLOUT, poll
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.adapt import PyFormat, Transformer
from sqlalchemy import Connection, Dialect, Executable, Select, make_url
from sqlalchemy.exc import DBAPIError

from .statements import Query, Statements, Values
from .tables import Moment

KNOWN = "suffice.known"  # in a connection's info
FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED)
_names = count()


@dataclass(frozen=True)
class Prepared:
    """A statement as the server gets it, and how values go in and out."""

    name: bytes
    text: bytes
    parameters: tuple[tuple[str, Any], ...] = ()  # their names, and what makes of a value one that psycopg knows
    columns: tuple[Any, ...] = ()  # what makes of what psycopg read a value of ours
    formats: tuple[PyFormat, ...] = ()

    def given(self, values: Values) -> list[Any]:
        return [values[name] if convert is None else convert(values[name]) for name, convert in self.parameters]

    def row(self, found: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(v if convert is None else convert(v) for v, convert in zip(found, self.columns, strict=True))


@dataclass
class Known:
    """What is known of a connection: which statements the server has, and psycopg's conversions."""

    conversions: Any  # psycopg's Transformer
    prepared: set[bytes] = field(default_factory=set)


BEGIN, COMMIT = Prepared(b"suffice_begin", b"BEGIN"), Prepared(b"suffice_commit", b"COMMIT")


class Pipeline(Statements):
    """Between its messages the connection is as SQLAlchemy and psycopg left it, in the same transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        driver: Any = connection.connection.driver_connection
        self._driver: psycopg.Connection[Any] = driver
        self._known: Known = connection.info.setdefault(KNOWN, Known(Transformer(driver)))
        self._waiting: list[tuple[Prepared, Values]] = []

    def read(self, *queries: Query) -> list[Sequence[Any]]:
        asked = [(prepared(query), values) for query, values in queries]
        results = self._send(asked)[-len(asked) :]
        return [self._rows(one, result) for (one, _), result in zip(asked, results, strict=True)]

    def write(self, statement: Executable, rows: Sequence[Values]) -> None:
        one = prepared(statement)
        self._waiting += [(one, row) for row in rows]

    def flush(self) -> None:
        if self._waiting:
            self._send([])

    def commit(self) -> None:
        if self._waiting or self._driver.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            self._send([(COMMIT, {})])

    def _rows(self, one: Prepared, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        self._known.conversions.set_pgresult(result)
        return [one.row(row) for row in self._known.conversions.load_rows(0, result.ntuples, tuple)]

    def _send(self, last: list[tuple[Prepared, Values]]) -> list[pq.abc.PGresult]:
        """The results of what waits and of these, in one message. Raises SQLAlchemy's errors."""
        idle = self._driver.pgconn.transaction_status == pq.TransactionStatus.IDLE
        sent, self._waiting = [*([(BEGIN, {})] if idle else []), *self._waiting, *last], []
        try:
            return self._executed(sent)
        except psycopg.Error as error:
            lost = self._driver.closed
            if lost:
                self.connection.invalidate(error)
            raise DBAPIError.instance(None, None, error, psycopg.Error, connection_invalidated=lost) from error

    def _executed(self, sent: list[tuple[Prepared, Values]]) -> list[pq.abc.PGresult]:
        server, known = self._driver.pgconn, self._known
        given = [known.conversions.dump_sequence(one.given(values), one.formats) for one, values in sent]
        news = list(dict.fromkeys(one for one, _ in sent if one.name not in known.prepared))
        server.enter_pipeline_mode()
        for one in news:
            server.send_prepare(one.name, one.text)
        for (one, _), values in zip(sent, given, strict=True):
            server.send_query_prepared(one.name, values)
        server.pipeline_sync()
        results = list(_results(server))
        server.exit_pipeline_mode()
        known.prepared |= {one.name for one, result in zip(news, results, strict=False) if result.status not in FAILED}
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
        return results[len(news) :]


def _results(server: pq.abc.PGconn) -> Iterator[pq.abc.PGresult]:
    """One for each statement. Other threads run while this one waits. Raises OperationalError where there is no end."""
    events = poll()
    while True:
        while (unsent := server.flush()) or server.is_busy():
            events.register(server.socket, POLLIN | POLLOUT if unsent else POLLIN)
            events.poll()
            server.consume_input()
        result = server.get_result()
        if result is None:
            if server.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError(f"the connection was lost: {server.get_error_message()}")
        elif result.status == pq.ExecStatus.PIPELINE_SYNC:
            return
        else:
            yield result


@cache
def prepared(statement: Executable) -> Prepared:
    """A statement as SQLAlchemy compiles it. Kept for ever: for those that are made once."""
    dialect = _dialect()
    compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    names: list[str] = compiled.positiontup
    columns = statement.selected_columns if isinstance(statement, Select) else ()
    return Prepared(
        f"suffice_{next(_names)}".encode(),
        str(compiled).encode(),
        tuple((name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in names),
        tuple(_utc if isinstance(column.type, Moment) else None for column in columns),
        (PyFormat.TEXT,) * len(names),
    )


def _utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


@cache
def _dialect() -> Dialect:
    """psycopg's, with parameters as the server numbers them."""
    psycopg3: Any = make_url("postgresql+psycopg://").get_dialect()
    found: Dialect = psycopg3(paramstyle="numeric_dollar", dbapi=psycopg3.import_dbapi())
    return found
