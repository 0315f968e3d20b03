"""Every error leaves the service as application/problem+json (RFC 9457) that names the fields that are wrong.

SufficeError (suffice.optimizer.errors)
├── InvalidInput          422
├── NotFound              404
│   └── StudyDeleted      404
├── Conflict              409
│   └── LeaseLost         409, with a type of its own: the token is not, or no longer, the trial's
├── Unauthorized          401
├── Forbidden             403
└── Unavailable           503 with Retry-After: nothing was changed, the same request may work later
    └── EngineFailed      503: suggestions or predictions for this study could not be computed; the log has the details
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DatabaseError, DataError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.exceptions import HTTPException

from suffice.optimizer import Conflict, InvalidInput, NotFound, SufficeError
from suffice.optimizer.errors import Problem

from .access import Forbidden, Unauthorized
from .database import Damaged
from .wire import FieldProblem, ProblemOut

MAX_PROBLEMS = 100  # reported per answer
ALTERNATIVES = ("str", "bool", "int", "float", "[key]")  # how Pydantic names the types it tried for a field
STARTS = {  # of Pydantic's messages, as they go on after "expected"
    "Input should be ": "",
    "Value should be ": "",
    "String should have ": "",
    "List should have ": "",
    "String should match pattern ": "text of the pattern ",
}
KINDS = ("literal[", "constrained-", "dict[", "list[", "union[")  # and those that have parts of their own
log = logging.getLogger("suffice.api")
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="suffice"'}
FULL = "the disk is full, nothing was changed"
NO_DISK = "the disk cannot be read or written"
READ_ONLY = "the database is read-only, nothing was changed"
BROKEN = "the database file is damaged: restore a backup (suffice restore)"
# What a database says of its troubles; the status and detail of the answer, and when to come back.
TROUBLES: tuple[tuple[tuple[str, ...], int, str, int], ...] = (
    (("disk is full", "No space left", "could not extend file"), 503, FULL, 30),
    (("disk I/O error",), 503, NO_DISK, 30),
    (("readonly database", "read-only transaction"), 503, READ_ONLY, 30),
    (("malformed", "not a database", "corrupt"), 500, BROKEN, 0),
)
LEASE_LOST = "urn:suffice:lease-lost"


class LeaseLost(Conflict):
    """The lease token is not, or no longer, the trial's."""


class StudyDeleted(NotFound):
    """There is no study of that id any more."""

    def __init__(self) -> None:
        super().__init__("the study was deleted")


class Unavailable(SufficeError):
    """Not now; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineFailed(Unavailable):
    """The engine could not compute what was asked for."""


def problem(
    status: int,
    detail: str,
    *,
    problems: Sequence[Problem] = (),
    type_: str = "about:blank",
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = ProblemOut(
        type=type_,
        title=title or HTTPStatus(status).phrase,
        status=status,
        detail=_clean(detail),
        errors=[
            FieldProblem(field=_clean(p.field), expected=_clean(p.expected), got=_shown(p.got))
            for p in problems[:MAX_PROBLEMS]
        ],
    )
    return JSONResponse(body.model_dump(mode="json"), status, headers=headers, media_type="application/problem+json")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How these answers look, for the OpenAPI document."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Answer every exception of ``app`` with a problem."""
    app.add_exception_handler(SufficeError, _suffice)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database)
    app.add_exception_handler(DatabaseError, _database)
    app.add_exception_handler(Damaged, _damaged)
    app.add_exception_handler(NoConnection, _database)
    app.add_exception_handler(DataError, _unfit)
    app.add_exception_handler(Exception, _unforeseen)


async def _suffice(_request: Request, error: Exception) -> JSONResponse:
    match error:
        case InvalidInput():
            return problem(422, _summary(error.problems), problems=error.problems)
        case NotFound():
            return problem(404, str(error))
        case Unauthorized():
            return problem(401, str(error), headers=CHALLENGE)
        case Forbidden():
            return problem(403, str(error))
        case LeaseLost():
            field = Problem("lease_token", "the token of the trial's present lease", None)
            return problem(409, str(error), problems=[field], type_=LEASE_LOST, title="Lease lost")
        case Conflict():
            return problem(409, str(error))
        case Unavailable():
            title = "Engine failed" if isinstance(error, EngineFailed) else None
            return problem(503, str(error), title=title, headers={"Retry-After": str(error.retry_after)})
        case _:
            return problem(500, "the service met an error of its own; its log has the details")


async def _validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = from_pydantic(error.errors())
    return problem(422, _summary(problems), problems=problems)


def from_pydantic(errors: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Pydantic's errors as problems; where it tried several types for one field, one problem that lists them."""
    found: dict[str, Problem] = {}
    for problem_ in map(_from_pydantic, errors):
        earlier = found.setdefault(problem_.field, problem_)
        if problem_.expected not in earlier.expected:
            expected = f"{earlier.expected} or {problem_.expected}"
            found[problem_.field] = Problem(problem_.field, expected, problem_.got)
    return list(found.values())


def _from_pydantic(error: Mapping[str, Any]) -> Problem:
    place = [str(part) for part in error["loc"]]
    if place[0] in ("body", "query", "path", "header"):
        del place[0]
    if len(place) > 1 and place[-1] in ALTERNATIVES:
        del place[-1]
    place = [part for part in place if not part.startswith(KINDS)]
    if error["type"] == "json_invalid":
        return Problem("body", f"JSON ({error['ctx']['error']} at character {error['loc'][-1]})", None)
    return Problem(".".join(place) or "body", _expectation(error), error.get("input"))


def _expectation(error: Mapping[str, Any]) -> str:
    """What was expected, from Pydantic's message."""
    message = str(error["msg"])
    match error["type"]:
        case "missing":
            return "a value, because this field is required"
        case "extra_forbidden":
            return "no such field"
        case _:
            for start, meant in STARTS.items():
                message = message.replace(start, meant, 1) if message.startswith(start) else message
            return message


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=error.headers)


async def _database(_request: Request, error: Exception) -> JSONResponse:
    """It is full, damaged, restarting, out of reach or locked. In the last three cases repeat the request: it may have
    been done all the same, and answers a repetition as it would have answered the first time.
    """
    said = str(getattr(error, "orig", error))
    found = next((one for one in TROUBLES if any(word in said for word in one[0])), None)
    if found is None and not isinstance(error, OperationalError | NoConnection):
        raise error  # no trouble of the database's: ours
    if found is None:
        log.warning("the database did not answer: %s", said)
        return problem(503, "the database cannot be reached now", headers={"Retry-After": "1"})
    _, status, detail, retry_after = found
    log.error("%s: %s", detail, said)
    return problem(status, detail, headers={"Retry-After": str(retry_after)} if status == 503 else None)


async def _damaged(_request: Request, error: Exception) -> JSONResponse:
    log.error("a record of the database cannot be read: %s", error)
    return problem(500, str(error))


async def _unfit(_request: Request, _error: Exception) -> JSONResponse:
    """PostgreSQL keeps no NUL character in a text, which SQLite does."""
    found = Problem("body", "text and numbers that the database can hold (no NUL character)", None)
    return problem(422, _summary([found]), problems=[found])


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OperationalError | NoConnection):  # met before the routes were reached: a key was looked up
        return await _database(request, error)
    here = request.scope.get("suffice.visit")
    where = "" if here is None else f" under the request id {here.id}"
    return problem(500, f"the service met an error of its own; its log has the details{where}")


def _summary(problems: Sequence[Problem]) -> str:
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{first.field}: expected {first.expected}, got {_short(first.got)}{more}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _shown(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinity by name, anything large or strange as a short text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _clean(value if len(value) <= 200 else value[:197] + "...")
    return _short(value)


def _clean(text: str) -> str:
    """``text`` as UTF-8 can hold it: JSON may carry halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()
