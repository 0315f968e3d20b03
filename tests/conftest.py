"""What every test starts from: repeatable examples, no window, no settings of the developer's own; and databases."""

import logging
import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from benchmarks.postgres import Postgres
from hypothesis import settings

from suffice.api.database import Database, migrate

settings.register_profile("suffice", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("suffice")  # `--hypothesis-profile default` looks for new examples

os.environ["MPLBACKEND"] = "Agg"  # for the processes that tests start, too
for name in [name for name in os.environ if name.startswith("SUFFICE_")]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def same_logging() -> Generator[None]:
    """A command that runs inside of a test sends the process's log to the test's own stderr, which ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers and "pytest" not in type(handler).__module__:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture(scope="session")
def postgres() -> Generator[Postgres]:
    """A real PostgreSQL server, started when the first test wants one."""
    with Postgres(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def new_postgres(postgres: Postgres) -> Callable[[], str]:
    """Makes databases with all tables on it; returns their addresses."""
    first = postgres.new()
    database = Database(first)
    migrate(database)
    database.close()
    return lambda: postgres.new(first)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database; a test that wants it runs twice."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    new: Callable[[], str] = request.getfixturevalue("new_postgres")
    return new()
