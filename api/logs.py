"""Logs: lines for people, or one JSON object a line, which says to which request, study and trial it belongs.

What a log may hold is what a line names here: never a header, a query, a body, or a key's secret.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from .settings import Settings

about: ContextVar[dict[str, Any] | None] = ContextVar("suffice_log", default=None)
TEXT = "%(levelname)s: %(name)s: %(message)s"
requests = logging.getLogger("suffice.requests")


class Json(logging.Formatter):
    """One object a line: time, level, logger, message, and what is known of the request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(about.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(settings: Settings) -> None:
    """Have every log of this process go to stderr, as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if settings.log_format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    requests.setLevel(logging.INFO if settings.log_requests else logging.WARNING)


def note(**known: Any) -> None:
    """Say what the present request is about: it is in every line that is logged from here on."""
    line = about.get()
    if line is not None:
        line.update(known)
