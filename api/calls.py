"""Requests and answers: how a body is built, when a request is sent again, which error an answer stands for."""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
import pydantic

from .client_errors import (
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    LeaseLost,
    NotFound,
    ServerError,
    SufficeClientError,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    describe,
)
from .flows import Flow, Link, Pause, Request
from .wire import FieldProblem, MeasurementSpec, ParameterSpec, ProblemOut, StudyCreate

M = TypeVar("M", bound=pydantic.BaseModel)

Result = float | Mapping[str, float] | MeasurementSpec | Sequence[MeasurementSpec]
"""What a trial gave: a number, {metric: value}, or measurements."""


class Writable(Protocol):
    """A setting of the core, which knows how it is written."""

    def to_json(self) -> Any: ...


Setting = Mapping[str, Any] | Writable

FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0  # seconds between attempts: doubled each time, less up to half at random
BEFORE_THE_FIRST_ANSWER = 2  # retries while the service never answered: its address may simply be wrong
BUSY = {429, 502, 503, 504}
NOTHING_DONE = {429, 503}  # of these: the service refused before it did anything
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


# --- sending ----------------------------------------------------------------------------------------------------------


def call(link: Link, request: Request, answer: type[M]) -> Flow[M]:
    """Send `request` until it is answered, and read the answer."""
    response = yield from send(link, request)
    return read(answer, response)


def send(link: Link, request: Request) -> Flow[httpx.Response]:
    """Send `request` until it is answered with success; raises the error that the answer stands for."""
    attempt = 0
    while True:
        attempt += 1
        got: httpx.Response | httpx.TransportError = yield request
        link.reached |= isinstance(got, httpx.Response)
        if isinstance(got, httpx.Response) and got.is_success:
            return got
        retries = link.retries if link.reached else min(link.retries, BEFORE_THE_FIRST_ANSWER)
        if attempt > retries or not _again(request, got):
            error = failure(request, got)
            error.repeated = attempt > 1
            raise error
        yield Pause(backoff(attempt, retry_after(got)))


def _again(request: Request, got: httpx.Response | httpx.TransportError) -> bool:
    if isinstance(got, httpx.Response):
        return got.status_code in (BUSY if request.repeatable else NOTHING_DONE)
    return request.repeatable or isinstance(got, NEVER_SENT)


def backoff(attempt: int, at_least: float | None = None) -> float:
    """Seconds to wait before the next attempt; never less than the service asked for."""
    wait: float = min(FIRST_WAIT * 2.0 ** min(attempt - 1, 16), LONGEST_WAIT) * random.uniform(0.5, 1.0)
    return max(wait, at_least or 0.0)


def retry_after(got: httpx.Response | httpx.TransportError) -> float | None:
    """The Retry-After header in seconds, where there is one."""
    text = got.headers.get("retry-after", "") if isinstance(got, httpx.Response) else ""
    return float(text) if text.replace(".", "", 1).isdecimal() else None


# --- reading ----------------------------------------------------------------------------------------------------------


def read(answer: type[M], response: httpx.Response) -> M:
    """The body of a successful answer; fields that a newer service adds are passed over."""
    try:
        return answer.model_validate_json(response.content, extra="ignore")
    except pydantic.ValidationError as error:
        start = response.text[:200]
        raise UnexpectedAnswer(
            f"{_where(response.request)} answered what is no {answer.__name__}: {start!r}"
        ) from error


def failure(request: Request, got: httpx.Response | httpx.TransportError) -> SufficeClientError:
    """The error that an answer, or its absence, stands for."""
    if isinstance(got, httpx.TransportError):
        sent = (
            ""
            if request.repeatable or isinstance(got, NEVER_SENT)
            else " It may have been done: look before repeating it."
        )
        where = _where(got.request) if got._request is not None else request.path
        return ConnectionFailed(
            f"no answer from {where}: {str(got) or type(got).__name__}. Is the service running?{sent}"
        )
    problem = _problem(got)
    message = _message(problem) if problem else f"{_where(got.request)} answered {got.status_code}: {got.text[:200]!r}"
    status = got.status_code
    if status in (401, 403):
        return Unauthorized(message)
    if status == 404:
        return NotFound(message) if problem else UnexpectedAnswer(message)
    if status == 409:
        return LeaseLost(message) if problem and _about_the_lease(problem) else Conflict(message)
    if status in BUSY:
        return Unavailable(message, retry_after(got))
    if status >= 500:
        return ServerError(message)
    return InvalidRequest(message, problem.errors if problem else ()) if status >= 400 else UnexpectedAnswer(message)


def _problem(response: httpx.Response) -> ProblemOut | None:
    try:
        return ProblemOut.model_validate_json(response.content, extra="ignore")
    except pydantic.ValidationError:
        return None


def _message(problem: ProblemOut) -> str:
    fields = describe(problem.errors) if problem.status == 422 else ""
    return fields or problem.detail or problem.title


def _about_the_lease(problem: ProblemOut) -> bool:
    return "lease" in problem.type or any(p.field == "lease_token" for p in problem.errors)


def _where(request: httpx.Request) -> str:
    return f"{request.method} {request.url.copy_with(query=None)}"


def study_path(name: str) -> str:
    """Where a study lives; refuses names that would lead elsewhere."""
    if not name or name in (".", ".."):
        raise InvalidRequest.of(FieldProblem(field="name", expected="a study's name", got=name))
    return f"/v1/studies/{quote(name, safe='')}"


# --- bodies -----------------------------------------------------------------------------------------------------------


def build(model: type[M], /, **fields: Any) -> M:
    """A body of the REST API; raises InvalidRequest naming the field, before anything is sent."""
    try:
        return model.model_validate(fields)
    except pydantic.ValidationError as error:
        raise InvalidRequest.of(*map(_as_problem, error.errors())) from None


def _as_problem(error: Any) -> FieldProblem:
    place = ".".join(str(part) for part in error["loc"])
    got = error["input"] if isinstance(error["input"], str | int | float | bool | None) else repr(error["input"])
    return FieldProblem(field=place, expected=error["msg"].lower(), got=got)


def body(model: pydantic.BaseModel) -> dict[str, Any]:
    """A body as JSON, without the fields that were left to their defaults."""
    return model.model_dump(mode="json", exclude_unset=True)


def measurements(result: Any, default_metric: str, **known: Any) -> list[MeasurementSpec]:
    """A result as measurements: a number, {metric: value}, or measurements.

    ``known`` is what goes with a value where it is known: ``stderr``, ``step``, ``gradient``.
    """
    match result:
        case MeasurementSpec():
            return [result]
        case _ if hasattr(result, "to_json"):  # a suffice.optimizer.Measurement, without importing it
            return [build(MeasurementSpec, **result.to_json())]
        case Mapping():
            return [_measurement(str(metric), value, known) for metric, value in result.items()]
        case [*several]:
            return [m for one in several for m in measurements(one, default_metric, **known)]
        case _:
            return [_measurement(default_metric, result, known)]


def _measurement(metric: str, value: Any, known: Mapping[str, Any]) -> MeasurementSpec:
    number = _number(value)
    if number is None:
        expected = "a finite number, {metric: value}, or a list of measurements"
        raise InvalidRequest.of(FieldProblem(field=f"measurements.{metric}.value", expected=expected, got=value))
    given = {name: _plainly(extra) for name, extra in known.items() if extra is not None}
    return build(MeasurementSpec, metric=metric, value=number, **given)


def _number(value: Any) -> float | None:
    """A finite number as a float, out of arrays and tensors too; None for anything else."""
    if hasattr(value, "item") and not isinstance(value, numbers.Real):
        with suppress(ValueError, RuntimeError):  # more than one element
            value = value.item()
    fine = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fine else None


# --- definitions ------------------------------------------------------------------------------------------------------

CHANGEABLE = {"name", "budget", "lease_seconds", "max_retries", "metadata"}  # of a study: not its definition


def define(name: str, parameters: Any, objective: Any, **options: Any) -> StudyCreate:
    """The definition of a study from what `Client.create_study` takes."""
    fields: dict[str, Any] = {key: _plainly(value) for key, value in options.items() if value is not None}
    if hasattr(parameters, "to_json"):  # a suffice.optimizer.Space, without importing it
        space = parameters.to_json()
        parameters = space["parameters"]
        fields["parameter_constraints"] = [*space["parameter_constraints"], *fields.get("parameter_constraints", ())]
    elif isinstance(parameters, Mapping):
        parameters = [{"name": key, **value} for key, value in parameters.items()]
    if "budget" in fields and not isinstance(fields["budget"], pydantic.BaseModel | Mapping):
        fields["budget"] = {"trials": fields["budget"]}
    if isinstance(objective, str):
        objective = [{"direction": objective}]
    elif isinstance(objective, Mapping):
        objective = [{"metric": metric, "direction": direction} for metric, direction in objective.items()]
    return build(StudyCreate, name=name, parameters=list(parameters), objectives=list(objective), **fields)


def _plainly(value: Any) -> Any:
    """A setting as JSON: a mapping is a dict, and the core's own settings know how they are written."""
    if hasattr(value, "to_json"):
        return value.to_json()
    return dict(value) if isinstance(value, Mapping) else value


def differences(wanted: StudyCreate, found: StudyCreate) -> list[FieldProblem]:
    """Where an existing study departs from what was asked for; what was left open matches anything."""
    problems: list[FieldProblem] = []
    for name in StudyCreate.model_fields:
        if name in CHANGEABLE or name not in wanted.model_fields_set:
            continue
        want, have = getattr(wanted, name), getattr(found, name)
        if name == "parameters":
            want, have = [_plain(p) for p in want], [_plain(p) for p in have]
        if want != have:
            problems.append(FieldProblem(field=name, expected=f"{have!r} as recorded", got=want))
    return problems


def _plain(parameter: ParameterSpec) -> dict[str, Any]:
    """A parameter without what says the same as leaving it out."""
    fields = parameter.model_dump(exclude_none=True)
    defaults = {"log": False, "step": 1} if parameter.type == "int" else {"log": False}
    return {name: value for name, value in fields.items() if defaults.get(name) != value}
