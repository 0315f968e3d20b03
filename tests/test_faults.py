"""A full disk, a read-only or damaged database, a migration that is cut off: a clear error, and nothing is lost."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.postgres import Postgres
from live import BRANIN, Service, serving
from sqlalchemy import event, inspect, text

from suffice.api.backup import backup, restore
from suffice.api.cli import main
from suffice.api.database import HEAD, MIGRATIONS, Database, migrate, revision, upgrade
from suffice.optimizer import Conflict, InvalidInput

POINT = {"parameters": {"x1": 1.0, "x2": 2.0}}
TOLD = {"measurements": [{"metric": "loss", "value": 1.0}]}


@contextmanager
def connections(service: Service, *pragmas: str) -> Generator[None]:
    """The service's connections to its database, each set up so."""
    engine = service.parts.store.database.engine

    def prepare(connection: Any, _record: Any) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    engine.dispose()
    event.listen(engine, "connect", prepare)
    try:
        yield
    finally:
        event.remove(engine, "connect", prepare)
        engine.dispose()


def pages(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "suffice.db")) as connection:
        count: int = connection.execute("PRAGMA page_count").fetchone()[0]
        return count


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_nothing_that_was_acknowledged_is_lost(tmp_path: Path):
    with serving(tmp_path, workers=0) as service:
        study = service.study("full")
        service.call("POST", f"{study}/trials", {"trials": [POINT] * 300})
        told: list[int] = []
        with connections(service, f"max_page_count = {pages(tmp_path) + 4}"):
            for number in range(300):
                answer = service.http.post(f"{study}/trials/{number}/tell", json=TOLD)
                if answer.status_code != 200:
                    break
                told.append(number)
            assert answer.status_code == 503, "the disk was not full"
            assert answer.headers["retry-after"] == "30"
            assert "the disk is full" in answer.json()["detail"]
            assert service.call("GET", study)["trials"]["COMPLETED"] == len(told), "reading goes on"
            refused = service.http.post(
                "/v1/studies", json={"name": "x" * 100, **BRANIN, "metadata": {"a": "y" * 50_000}}
            )
            assert refused.status_code == 503
        assert 0 < len(told) < 300
        after = service.http.post(f"{study}/trials/{len(told)}/tell", json=TOLD)  # there is room again
        assert after.status_code == 200
        page = service.call("GET", f"{study}/trials", params={"state": "COMPLETED", "limit": 1000})
        assert [trial["number"] for trial in page["trials"]] == [*told, len(told)]


def test_a_read_only_database_is_said_and_can_be_read(tmp_path: Path):
    with serving(tmp_path, workers=0) as service:
        study = service.study("kept")
        with connections(service, "query_only = ON"):
            answer = service.http.post(f"{study}/trials", json={"trials": [POINT]})
            assert answer.status_code == 503
            assert "read-only" in answer.json()["detail"]
            assert service.call("GET", study)["trials"] == {}
            assert service.http.get("/readyz").status_code == 200
        service.call("POST", f"{study}/trials", {"trials": [POINT]}, status=201)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["trials", "studies"])
def test_a_damaged_record_is_named_and_the_others_are_fine(tmp_path: Path, table: str):
    with serving(tmp_path, workers=0) as service:
        damaged, fine = service.study("damaged"), service.study("fine")
        for study in (damaged, fine):
            service.call("POST", f"{study}/trials", {"trials": [POINT, POINT]})
        with closing(sqlite3.connect(tmp_path / "suffice.db")) as connection, connection:
            column = "parameters" if table == "trials" else "definition"
            where = "study_id = 1 AND number = 0" if table == "trials" else "id = 1"
            connection.execute(f"UPDATE {table} SET {column} = '{{broken' WHERE {where}")
        for path in (f"{damaged}/export", f"{damaged}/trials"):
            answer = service.http.get(path)
            assert answer.status_code == 500
            assert "damaged" in answer.json()["detail"]
            assert "broken" not in answer.text
        assert len(service.call("GET", f"{fine}/trials")["trials"]) == 2
        service.call("POST", f"{fine}/trials/0/tell", TOLD)
        if table == "trials":
            assert service.call("GET", f"{damaged}/trials/1")["number"] == 1
            service.call("POST", f"{damaged}/trials/1/tell", TOLD)
            service.call("DELETE", damaged)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "a.db"
    file.write_bytes(b"not a database at all, but long enough to be one" * 100)
    url = f"sqlite:///{file}"
    for command in (["serve", "--workers", "0", "--database", url], ["keys", "list", "--database", url]):
        assert main(command) == 1
        err = capsys.readouterr().err
        assert "the database cannot be used: file is not a database" in err
        assert "Traceback" not in err


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(database)
    with database.engine.execution_options(write=True).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidInput, match="newer version"):
        migrate(database)
    database.close()


# --- migrations -------------------------------------------------------------------------------------------------------

REVISIONS = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def filled(url: str, at: str) -> dict[str, list[dict[str, Any]]]:
    """A database of a revision with two rows in every table; what is in it."""
    database = Database(url)
    upgrade(database, at)
    with database.engine.execution_options(write=True).begin() as connection:
        tables = [name for name in inspect(connection).get_table_names() if name != "alembic_version"]
        for name in sorted(tables, key=_after):
            for i in (1, 2):
                row = {c["name"]: _value(c, i) for c in inspect(connection).get_columns(name)}
                if name == "projects" and i == 1:
                    continue  # it is there from the beginning
                marks = ", ".join(f":{column}" for column in row)
                columns = ", ".join(f'"{column}"' for column in row)
                connection.execute(text(f'INSERT INTO "{name}" ({columns}) VALUES ({marks})'), row)
    found = contents(database)
    database.close()
    return found


def _after(table: str) -> int:
    """Tables that others refer to come first."""
    order = ("projects", "keys", "studies", "calibrations", "samplings", "prompts")
    return order.index(table) if table in order else len(order)


def _value(column: Any, i: int) -> Any:
    name, kind = column["name"], str(column["type"])
    if name == "source_id":
        return 3 - i
    if name in ("exhausted_version", "parent_id"):
        return None
    if kind == "JSON":
        return json.dumps({"method": "queued", "row": i})
    if kind in ("DATETIME", "TIMESTAMP"):
        return "2026-01-01 00:00:00.000000"
    if kind in ("INTEGER", "BIGINT", "FLOAT", "DOUBLE PRECISION", "BOOLEAN"):
        return i if kind != "BOOLEAN" else False
    return "WAITING" if name == "state" else f"{name}-{i}"[: getattr(column["type"], "length", None) or 99]


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    with database.engine.connect() as connection:
        return {
            name: [dict(row._mapping) for row in connection.execute(text(f'SELECT * FROM "{name}" ORDER BY 1, 2'))]
            for name in inspect(connection).get_table_names()
            if name != "alembic_version"
        }


CHANGED = {"best", "exhausted_version", "counts"}  # what migrations compute anew, or leave out


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'old.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new()


@pytest.mark.parametrize("at", REVISIONS)
def test_every_schema_there_was_is_brought_up_with_all_that_is_in_it(empty: str, at: str):
    url = empty
    before = filled(url, at)
    database = Database(url)
    migrate(database)
    after = contents(database)
    for name, rows in before.items():
        assert len(after[name]) == len(rows), name
        for old, new in zip(rows, after[name], strict=True):
            kept = {column: value for column, value in old.items() if column not in CHANGED}
            assert kept == {column: new[column] for column in kept}, name
    assert all(row["project_id"] == 1 for row in after["studies"]) or at >= "0005"
    with database.engine.connect() as connection:
        assert revision(connection) == HEAD
        if not database.postgresql:
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    database.close()


CUT_OFF = """
import os, sys
from alembic import op
from suffice.api.database import Database, migrate
calls = 0
def cut_off(name, **options):
    global calls
    calls += 1
    if calls == {at}:
        os._exit(9)
    return whole(name, **options)
whole, op.batch_alter_table = op.batch_alter_table, cut_off
migrate(Database(sys.argv[1]))
"""


@pytest.mark.parametrize("at", [1, 3])
def test_a_migration_that_is_cut_off_leaves_what_was_there(tmp_path: Path, at: int):
    url = f"sqlite:///{tmp_path / 'old.db'}"
    before = filled(url, "0004")
    killed = subprocess.run([sys.executable, "-c", CUT_OFF.format(at=at), url])
    assert killed.returncode == 9, "it came to its end"
    database = Database(url)
    with database.engine.connect() as connection:
        assert revision(connection) == "0004"
    assert contents(database) == before
    migrate(database)
    after = contents(database)
    assert {name: len(rows) for name, rows in before.items()} == {name: len(after[name]) for name in before}
    database.close()


# --- backups ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_taken_while_the_service_runs_and_put_back_while_it_does_not(tmp_path: Path):
    file, url = tmp_path / "kept" / "backup.db", f"sqlite:///{tmp_path / 'suffice.db'}"
    file.parent.mkdir()
    with serving(tmp_path, workers=0) as service:
        study = service.study("kept")
        service.call("POST", f"{study}/trials", {"trials": [POINT] * 20})
        copied = backup(url, file)
        assert (copied.studies, copied.trials, copied.revision) == (1, 20, HEAD)
        exported = service.call("GET", f"{study}/export")
        service.call("DELETE", study)
        with pytest.raises(Conflict, match="exists"):
            backup(url, file)
        with pytest.raises(Conflict, match="in use"):
            restore(file, url, replace=True)
        service.call("GET", "/v1/studies")
    with pytest.raises(Conflict, match="--replace"):
        restore(file, url)
    assert restore(file, url, replace=True).trials == 20
    with serving(tmp_path, workers=0) as service:
        assert service.call("GET", f"{study}/export") == exported
    assert sorted(path.name for path in file.parent.iterdir()) == ["backup.db"]


@pytest.mark.parametrize("harm", ["missing", "empty", "text", "torn", "foreign", "newer"])
def test_what_is_no_backup_is_not_put_in_a_databases_place(tmp_path: Path, harm: str):
    url, file = f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "backup.db"
    database = Database(url)
    migrate(database)
    database.close()
    backup(url, file)
    before = (tmp_path / "a.db").read_bytes()
    harms: dict[str, Callable[[], object]] = {
        "missing": file.unlink,
        "empty": lambda: file.write_bytes(b""),
        "text": lambda: file.write_text("nothing of the kind" * 1000),
        "torn": lambda: file.write_bytes(file.read_bytes()[:20_000]),
        "foreign": lambda: _foreign(file),
        "newer": lambda: _newer(file),
    }
    harms[harm]()
    with pytest.raises(InvalidInput, match="file"):
        restore(file, url, replace=True)
    assert (tmp_path / "a.db").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def _foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE other (a)")


def _newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def test_other_databases_have_tools_of_their_own(tmp_path: Path):
    with pytest.raises(InvalidInput, match="pg_dump") as refused:
        backup("postgresql://me:secret@host/db", tmp_path / "a")
    assert "secret" not in str(refused.value)
