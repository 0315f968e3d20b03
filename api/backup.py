"""Backups of an SQLite database: taken while the service runs, put back while it does not.

Both go through SQLite's own online backup, which copies one consistent state, write-ahead log included, and both check
the copy before it gets its name. PostgreSQL brings tools of its own.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from suffice.optimizer import Conflict, InvalidInput

from .database import HEAD, MIGRATIONS, address

PAGES = 2048  # that are copied at a time; writers get their turn in between
PAUSE = 0.002  # seconds


@dataclass(frozen=True)
class Copied:
    """What a backup holds."""

    file: str
    bytes: int
    revision: str
    studies: int
    trials: int


def backup(database: str, file: Path, *, replace: bool = False) -> Copied:
    """Copy the database into a file. Raises InvalidInput for what is no SQLite, Conflict where the file exists."""
    source = _path(database)
    there(database)
    if not file.parent.is_dir():
        raise InvalidInput("file", "a file in a folder that is there", str(file))
    if file.exists() and not replace:
        raise Conflict(f"{file} exists already")
    return _copy(source, file)


def restore(file: Path, database: str, *, replace: bool = False) -> Copied:
    """Put a backup in the database's place.

    Raises InvalidInput for a file that is no backup of this service or of a newer one, and Conflict where a database is
    there already, unless it is to be replaced, or is in use.
    """
    target = _path(database)
    if not target.parent.is_dir():
        raise InvalidInput("database", "a file in a folder that is there", database)
    _look(file)
    if target.exists():
        if not replace:
            raise Conflict(f"{target} exists already: stop the service, then say --replace")
        _alone(target)
    copied = _copy(file, target)
    for end in ("-wal", "-shm"):  # of what was there before
        Path(f"{target}{end}").unlink(missing_ok=True)
    return copied


def there(database: str) -> None:
    """Raises InvalidInput for an SQLite database that is none yet: opening it would make one."""
    url = address(database)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise InvalidInput("database", "a database file that is there", database)


def _path(database: str) -> Path:
    url = address(database)
    if url.get_backend_name() != "sqlite" or not url.database:
        shown = url.render_as_string(hide_password=True)
        raise InvalidInput("database", "sqlite:///FILE (pg_dump and pg_restore are PostgreSQL's own)", shown)
    return Path(url.database)


def _copy(source: Path, target: Path) -> Copied:
    part = target.with_name(f"{target.name}.part")
    try:
        with _open(source) as old, closing(sqlite3.connect(part)) as new:
            old.backup(new, pages=PAGES, sleep=PAUSE)
            new.execute("PRAGMA journal_mode = DELETE")  # one file, whole
        copied = _look(part)
        _sync(part)
        part.replace(target)
        _sync(target.parent)
    except sqlite3.Error as error:
        raise InvalidInput("file", "a database that can be copied", f"{source} ({error})") from None
    finally:
        part.unlink(missing_ok=True)
        Path(f"{part}-journal").unlink(missing_ok=True)
    return Copied(str(target), copied.bytes, copied.revision, copied.studies, copied.trials)


def _look(file: Path) -> Copied:
    """What a database file holds, if it is sound, ours, and of a version that is known here. Raises InvalidInput."""
    known = {path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    try:
        with _open(file) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise InvalidInput("file", "a sound database", f"{file} ({found})")
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
            studies, trials = (
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("studies", "trials")
            )
    except (sqlite3.Error, TypeError) as error:
        raise InvalidInput("file", "a database of this service", f"{file} ({error})") from None
    if revision not in known:
        raise InvalidInput("file", f"a database of revision {HEAD} or before", revision)
    return Copied(str(file), file.stat().st_size, revision, studies, trials)


@contextmanager
def _open(file: Path) -> Generator[sqlite3.Connection]:
    """A file that is there already."""
    if not file.is_file():
        raise InvalidInput("file", "a file that is there", str(file))
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
        yield connection


def _alone(file: Path) -> None:
    """Raises Conflict while anyone else has the database open: leaving the write-ahead log takes it alone."""
    with suppress(InvalidInput), _open(file) as connection:
        try:
            mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        except sqlite3.OperationalError:
            raise Conflict(f"{file} is in use: stop the service first") from None
        except sqlite3.DatabaseError:  # damaged: that is why it is replaced
            return
        if mode != "delete":
            raise Conflict(f"{file} is in use: stop the service first")


def _sync(path: Path) -> None:
    """Have it on the disk before anyone relies on it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
