"""What the command line does with the database itself: keys, projects, backups. No service is asked."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from suffice.optimizer import InvalidInput

from . import backup as backups
from .access_wire import KeyCreate, KeyOut, ProjectCreate
from .commands import table
from .database import Database, migrate
from .errors import from_pydantic
from .keys import KeyStore
from .settings import Settings

COMMANDS = ("keys", "projects", "backup", "restore")


def run(args: Namespace) -> int:
    """Run one command; raises InvalidInput, Conflict and NotFound."""
    name = args.command if args.command in ("backup", "restore") else f"{args.command} {args.action}"
    database = Settings().database if args.database is None else args.database
    data, show = ACTIONS[name](database, args)
    if args.json:
        print(json.dumps(data, indent=2))
    else:
        show()
    return 0


Answer = tuple[Any, Callable[[], None]]


def create_key(database: str, args: Namespace) -> Answer:
    """The secret alone goes to standard output, for scripts."""
    fields = ("project", "role", "name", "days", "tokens_per_day", "requests_per_minute")
    given = {name: getattr(args, name) for name in fields if getattr(args, name) is not None}
    made = _keys(database, new=True).create(_checked(KeyCreate, **given))

    def show() -> None:
        print(made.secret)
        ends = f"until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else "until it is revoked"
        print(f"{made.role} of {made.project}, {ends}; it is not shown again", file=sys.stderr)

    return _plain(made), show


def list_keys(database: str, args: Namespace) -> Answer:
    found: list[KeyOut] = []
    store = _keys(database)
    last: int | None = 0
    while last is not None:
        page, last = store.keys(last)
        found += page
    rows = [
        (k.id, k.project, k.role, k.name or "", f"{k.created_at:%Y-%m-%d}", _state(k), k.tokens_today) for k in found
    ]
    header = ("key", "project", "role", "name", "created", "state", "tokens today")
    return [_plain(key) for key in found], lambda: table(header, rows)


def _state(key: KeyOut) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    return "good" if key.expires_at is None else f"until {key.expires_at:%Y-%m-%d %H:%M}"


def revoke_key(database: str, args: Namespace) -> Answer:
    revoked = _keys(database).revoke(args.id)
    return _plain(revoked), lambda: print(f"revoked {revoked.id}: running services know within five seconds")


def create_project(database: str, args: Namespace) -> Answer:
    wanted = _checked(ProjectCreate, name=args.name)
    made = _keys(database, new=True).create_project(wanted.name)
    return _plain(made), lambda: print(f"made {made.name}")


def list_projects(database: str, args: Namespace) -> Answer:
    found = _keys(database).projects(limit=100_000)
    rows = [(p.name, f"{p.created_at:%Y-%m-%d}") for p in found]
    return [_plain(project) for project in found], lambda: table(("project", "created"), rows)


def delete_project(database: str, args: Namespace) -> Answer:
    _keys(database).delete_project(args.name)
    return {"deleted": args.name}, lambda: print(f"deleted {args.name}")


def backup(database: str, args: Namespace) -> Answer:
    return _copied(backups.backup(database, Path(args.file), replace=args.replace))


def restore(database: str, args: Namespace) -> Answer:
    return _copied(backups.restore(Path(args.file), database, replace=args.replace))


def _copied(made: backups.Copied) -> Answer:
    text = f"{made.file}: {made.studies} studies, {made.trials} trials, {made.bytes / 2**20:.1f} MiB"
    return asdict(made), lambda: print(text)


ACTIONS: Mapping[str, Callable[[str, Namespace], Answer]] = {
    "keys create": create_key, "keys list": list_keys, "keys revoke": revoke_key,
    "projects create": create_project, "projects list": list_projects, "projects delete": delete_project,
    "backup": backup, "restore": restore,
}  # fmt: skip


def _keys(database: str, *, new: bool = False) -> KeyStore:
    """Those of a database, which may be new only where something is made."""
    if not new:
        backups.there(database)
    opened = Database(database)
    migrate(opened)
    return KeyStore(opened)


Wanted = TypeVar("Wanted", bound=BaseModel)


def _checked(kind: type[Wanted], **given: Any) -> Wanted:
    """What is wanted, as it is checked over HTTP. Raises InvalidInput."""
    try:
        return kind(**given)
    except ValidationError as error:
        raise InvalidInput.of(from_pydantic(error.errors())) from None


def _plain(data: BaseModel) -> dict[str, Any]:
    return data.model_dump(mode="json", exclude_none=True)
