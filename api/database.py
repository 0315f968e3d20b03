"""The database: how it is opened, brought to the newest tables, and read and written in short transactions.

SQLite is used as one writer wants it: write-ahead log, so that readers never wait; every writing transaction takes the
write lock when it begins, so that what it has read still holds when it writes, in this process or another;
``synchronous=FULL``, so that what was committed survives kill -9 and power loss alike. On PostgreSQL the same order
comes from locking the study's row, which every writing transaction does first.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlmodel import Session

from suffice.optimizer import InvalidInput

HEAD = "0003"  # the newest revision in migrations/versions
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0


class Database:
    """Sessions for reading and for writing; safe to share between threads."""

    def __init__(self, url: str) -> None:
        self.engine = connect(url)
        self._writer = self.engine.execution_options(write=True)
        # Who writes next inside this process is decided here, not by SQLite's busy handler, which sleeps. Between
        # processes the database's own lock decides: nothing depends on this one.
        self._turn = threading.Lock()

    @contextmanager
    def read(self) -> Generator[Session]:
        """A session that sees one state of the database, and changes nothing."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Generator[Session]:
        """A session that has the write lock; committed at the end, rolled back on an exception."""
        with self._turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def connect(url: str) -> Engine:
    """An engine for ``url``; raises InvalidInput for what cannot be shared by several processes."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed)
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidInput("database", "a database file: the service and its engine workers share it", url)
    engine = create_engine(parsed, pool_size=20, max_overflow=30)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own: `_begin_sqlite` does
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def migrate(database: Database) -> None:
    """Bring the tables to the newest revision; nothing to do is found out without loading Alembic."""
    with database.engine.connect() as connection:
        if revision(connection) == HEAD:
            return
    upgrade(database)


def upgrade(database: Database, to: str = HEAD) -> None:
    """Bring the tables to a revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.engine.execution_options(write=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def revision(connection: Connection) -> str | None:
    """The revision that the database is at."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
