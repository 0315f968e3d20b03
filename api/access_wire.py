"""The shapes of keys, projects and sessions in the REST API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from .wire import NO_NUL, Name, Wire

Role = Literal["reader", "worker", "owner", "admin"]
Label = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class KeyCreate(Wire):
    """POST /v1/keys"""

    project: Name = "default"
    role: Role
    name: Label | None = None  # what it is for
    days: float | None = Field(default=None, gt=0, le=36_500)  # until it expires; None: never
    tokens_per_day: int | None = Field(default=None, ge=1, lt=2**53)  # of the gateway, in a day of UTC
    requests_per_minute: int | None = Field(default=None, ge=1, lt=2**31)


class KeyOut(Wire):
    """A key, without its secret."""

    id: str
    project: str
    role: Role
    name: str | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    tokens_per_day: int | None = None
    tokens_today: int = 0
    requests_per_minute: int | None = None


class KeyMade(KeyOut):
    """A new key; ``secret`` is shown this once."""

    secret: str


class KeyPage(Wire):
    keys: list[KeyOut]
    next_cursor: str | None = None


class ProjectCreate(Wire):
    """POST /v1/projects"""

    name: Name


class ProjectOut(Wire):
    name: str
    created_at: datetime


class ProjectPage(Wire):
    projects: list[ProjectOut]
    next_cursor: str | None = None


class SessionCreate(Wire):
    """POST /v1/session: a key for a cookie."""

    key: str = Field(max_length=200)


class SessionOut(Wire):
    """Who is calling. ``csrf`` goes into the header X-Suffice-CSRF of whatever a page changes with its cookie."""

    project: str
    role: Role
    key: str | None = None  # its id; None where the service wants no keys
    csrf: str | None = None  # with a cookie
    expires_at: datetime | None = None
