"""The database: how it is opened, brought to the newest tables, and read and written in short transactions.

SQLite is used as one writer wants it: write-ahead log, so that readers never wait; every writing transaction takes the
write lock when it begins, so that what it has read still holds when it writes, in this process or another;
``synchronous=FULL``, so that what was committed survives kill -9 and power loss alike.

On PostgreSQL a writing transaction locks the row of its study (or sampling) first of all, and only then reads what it
depends on; so two replicas never hand out the same trial, and transactions on different studies never wait for each
other. A reading one sees one snapshot (REPEATABLE READ), as SQLite's readers do.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from select import POLLIN, poll
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlmodel import Session

from suffice.optimizer import InvalidInput

from .statements import Statements

HEAD = "0008"  # the newest revision in migrations/versions
MIGRATIONS = Path(__file__).parent / "migrations"
EXPECTED = "sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
BUSY_SECONDS = 30.0
POSTGRESQL_CONNECTIONS = 10  # of one replica, at most; each of its engine workers needs one more
CONNECTION = {  # unless the address says otherwise
    "application_name": "suffice",
    "keepalives_idle": "30",  # seconds; so whoever is gone without a word is noticed after a minute, not two hours
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
MIGRATION_LOCK = 0x5FF1CE  # an advisory lock: replicas that start together migrate one after the other


class Damaged(Exception):
    """A record that cannot be read. The others can: a backup, or deleting what it belongs to, mends it."""


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Damaged(f"a record of the database is damaged ({error}): restore a backup, or delete it") from None


class Database:
    """Sessions for reading and for writing; safe to share between threads."""

    def __init__(self, url: str) -> None:
        self.engine = connect(url)
        self._reader: Engine = self.engine
        self._writer: Engine = self.engine
        self._statements: type[Statements] = Statements
        self.postgresql = self.engine.dialect.name == "postgresql"
        if self.postgresql:
            from .pipeline import Pipeline

            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._statements = Pipeline
        else:
            self._writer = self.engine.execution_options(write=True)
        # Who writes next to an SQLite file is decided here inside this process, not by SQLite's busy handler, which
        # sleeps. Between processes the database's own lock decides: nothing depends on this one.
        self._turn = nullcontext() if self.postgresql else threading.Lock()

    @contextmanager
    def read(self) -> Generator[Session]:
        """A session that sees one state of the database, and changes nothing."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Generator[Session]:
        """A session that is committed at the end, and rolled back on an exception; on SQLite with the write lock."""
        with self._turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def begin(self) -> Generator[Statements]:
        """The same without a session, for statements whose rows are no objects of SQLAlchemy's."""
        with self._turn, self._writer.begin() as connection:
            statements = self._statements(connection)
            yield statements
            statements.commit()

    def close(self) -> None:
        self.engine.dispose()


def address(url: str) -> URL:
    """``url`` in its parts. Raises InvalidInput."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        shown = "something with a password" if "@" in url or "password" in url else url
        raise InvalidInput("database", EXPECTED, shown) from None


def connect(url: str) -> Engine:
    """An engine for ``url``. Raises InvalidInput for what is neither PostgreSQL nor a file of SQLite."""
    parsed = address(url)
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed)
        case "postgresql" | "postgres":
            return _postgresql(parsed)
        case _:
            raise InvalidInput("database", EXPECTED, _shown(parsed))


def _shown(url: URL) -> str:
    """Without what may be secret: a password may stand among the options, too."""
    return url.set(query={}).render_as_string(hide_password=True)


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInput("database", "a database file: the service and its engine workers share it", _shown(url))
    if not url.database.startswith("file:") and not Path(url.database).parent.is_dir():
        raise InvalidInput("database", "a file in a folder that is there", _shown(url))
    engine = create_engine(url, pool_size=20, max_overflow=30, json_deserializer=_read_json)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL) -> Engine:
    """Connections are looked at before they are used: the server may have been restarted meanwhile."""
    if find_spec("psycopg") is None:
        raise InvalidInput("database", "an SQLite file, or PostgreSQL with suffice[postgres] installed", url.drivername)
    lock_timeout = f"-c lock_timeout={int(BUSY_SECONDS * 1000)}"
    options: dict[str, Any] = unsaid(url)
    options["options"] = f"{url.query.get('options', '')} {lock_timeout}".strip()
    # psycopg's own way of preparing statements ends with DEALLOCATE ALL: also of what `pipeline.py` prepared
    options["prepare_threshold"] = None
    url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_size=POSTGRESQL_CONNECTIONS, max_overflow=0, connect_args=options)
    event.listen(engine, "checkout", _refuse_closed)
    return engine


def unsaid(url: URL) -> dict[str, str]:
    """What an address leaves to us of `CONNECTION`."""
    return {name: value for name, value in CONNECTION.items() if name not in url.query}


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """Raises DisconnectionError, upon which the pool connects anew, where the server has ended an idle connection.

    It costs no message, as a ping before each transaction would: what a server said to someone who is idle is here
    already. Usually that is nothing.
    """
    from psycopg import OperationalError

    try:
        said = poll()
        said.register(connection.fileno(), POLLIN)
        while said.poll(0):
            connection.pgconn.consume_input()
    except OperationalError as error:
        raise DisconnectionError(str(error)) from error


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own: `_begin_sqlite` does
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def migrate(database: Database) -> None:
    """Bring the tables to the newest revision; nothing to do is found out without loading Alembic.

    Raises InvalidInput for tables of a newer version.
    """
    with database.engine.connect() as connection:
        found = revision(connection)
    if found is not None and found > HEAD:
        raise InvalidInput("database", f"one of revision {HEAD} or before: a newer version of Suffice made this", found)
    if found != HEAD:
        upgrade(database)


def upgrade(database: Database, to: str = HEAD) -> None:
    """Bring the tables to a revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.engine.execution_options(write=True).connect() as connection, _rebuilding(connection):
        if database.postgresql:
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, to)


@contextmanager
def _rebuilding(connection: Connection) -> Generator[None]:
    """A transaction in which SQLite's tables may be rebuilt: dropping one must not delete what refers to it."""
    raw: Any = connection.connection.driver_connection
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        raw.execute("PRAGMA foreign_keys = OFF")  # takes no effect inside a transaction
    try:
        with connection.begin():
            yield
            if sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
                raise RuntimeError(f"rows would refer to nothing: {broken[:10]}")
    finally:
        if sqlite:
            raw.execute("PRAGMA foreign_keys = ON")


def revision(connection: Connection) -> str | None:
    """The revision that the database is at."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
