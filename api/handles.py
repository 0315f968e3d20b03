"""What can be done with a trial, a study and a service: each operation once, for blocking and asyncio clients alike."""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from .calls import Result, backoff, body, build, call, define, differences, failure, measurements, retry_after, send
from .client_errors import Conflict, InvalidRequest, LeaseLost, SufficeClientError
from .flows import Emit, Flow, Line, Link, Open, Pause, Request, Stream, operation, stream
from .wire import (
    Ask,
    AskOut,
    BestOut,
    BudgetSpec,
    Cancel,
    Event,
    Fail,
    FieldProblem,
    Heartbeat,
    MeasurementSpec,
    ObjectiveSpec,
    ParameterSpec,
    Predict,
    PredictOut,
    Report,
    SourceOut,
    StopOut,
    StudyExport,
    StudyOut,
    StudyPage,
    StudyPatch,
    Tell,
    TrialAdd,
    TrialOut,
    TrialPage,
    TrialsAdd,
    Value,
)

PAGE = 500  # trials fetched at once

Parameters = Mapping[str, Mapping[str, Any]] | Sequence[ParameterSpec | Mapping[str, Any]] | Any
"""A `suffice.optimizer.Space`, {name: {"type": ..., ...}}, or a list of definitions as the REST API writes them."""

Objectives = str | Mapping[str, str] | Sequence[ObjectiveSpec | Mapping[str, Any]]
""""minimize", "maximize", {metric: direction}, or a list as the REST API writes it."""


class TrialCalls:
    """A trial, as this client last saw it."""

    _link: Any

    def __init__(self, link: Link, study: StudyOut, data: TrialOut) -> None:
        self._link = link
        self._study = study
        self._data = data
        self._token = data.lease.token if data.lease else None
        self._settled = not self._open
        self._lost = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} of {self._study.name}: {self.state}, {self.params}>"

    @property
    def number(self) -> int:
        return self._data.number

    @property
    def state(self) -> str:
        return self._data.state

    @property
    def params(self) -> dict[str, Any]:
        """The configuration: the active parameters and their values."""
        return dict(self._data.parameters)

    @property
    def measurements(self) -> list[MeasurementSpec]:
        return self._data.measurements

    @property
    def values(self) -> dict[str, float]:
        """The result per metric; replicates are averaged, intermediate values left out."""
        return self._data.values

    @property
    def value(self) -> float | None:
        """The result in the study's first objective; None while there is none."""
        return self.values.get(self._study.objectives[0].metric)

    @property
    def source(self) -> SourceOut:
        """Where the configuration came from, and which data it stands on."""
        return self._data.source

    @property
    def reason(self) -> str | None:
        return self._data.reason

    @property
    def data(self) -> TrialOut:
        """Everything the service said."""
        return self._data

    @property
    def lost(self) -> bool:
        """Whether a heartbeat found that the trial was handed to someone else; a result would be refused."""
        return self._lost and not self._settled

    @property
    def settled(self) -> bool:
        """Whether it ended, or was given back, as far as this client knows."""
        return self._settled

    @property
    def _open(self) -> bool:
        return self._data.state in ("WAITING", "RUNNING")

    @operation
    def tell(self, result: Result, stderr: float | None = None) -> Flow[None]:
        """Record the result: a number, {metric: value}, or measurements. Telling the same again changes nothing.

        ``stderr`` is the standard error of the value, where it is known. Raises Conflict when another result is
        recorded, and LeaseLost when the trial went to another worker.
        """
        specs = measurements(result, self._metric, stderr)
        yield from self._settle("tell", self._with_token(Tell, measurements=specs))

    @operation
    def infeasible(self, reason: str = "") -> Flow[None]:
        """This configuration cannot be run: the model learns to keep away from it."""
        yield from self._settle("tell", self._with_token(Tell, state="INFEASIBLE", reason=reason[:2000]))

    @operation
    def prune(self, reason: str = "") -> Flow[None]:
        """It was stopped early on purpose; what was reported so far is kept."""
        yield from self._settle("tell", self._with_token(Tell, state="PRUNED", reason=reason[:2000]))

    @operation
    def report(self, result: Result, step: int) -> Flow[None]:
        """Record an intermediate result; renews the lease."""
        specs = measurements(result, self._metric, step=step)
        self._data = yield from self._post("report", self._with_token(Report, measurements=specs))

    @operation
    def heartbeat(self) -> Flow[None]:
        """Renew the lease. `Study.trials`, `Study.hold` and `Study.optimize` do it by themselves."""
        yield from self._post("heartbeat", self._with_token(Heartbeat))  # may be answered after a tell was: not kept

    @operation
    def fail(self, reason: str = "", retry: bool = True) -> Flow[None]:
        """The worker could not run it, which says nothing about the configuration.

        With ``retry`` it goes back to the queue, while retries are left.
        """
        yield from self._settle("fail", self._with_token(Fail, reason=reason[:2000], retry=retry), once=True)

    @operation
    def cancel(self, reason: str = "") -> Flow[None]:
        """Give it up for good, whoever holds it."""
        yield from self._settle("cancel", build(Cancel, reason=reason[:2000]), once=True)

    @property
    def _metric(self) -> str:
        return self._study.objectives[0].metric

    @property
    def _path(self) -> str:
        return f"{study_path(self._study.name)}/trials/{self.number}"

    def _with_token(self, model: type[BaseModel], **fields: Any) -> BaseModel:
        return build(model, **fields, **({"lease_token": self._token} if self._token else {}))

    def _settle(self, verb: str, message: BaseModel, once: bool = False) -> Flow[None]:
        """Send what ends the trial. ``once``: repeating it is a conflict, which then says that it had been done."""
        try:
            self._data = yield from self._post(verb, message)
        except Conflict as error:
            if not (once and error.repeated):
                raise
            self._data = yield from call(self._link, Request("GET", self._path), TrialOut)
        self._settled = True

    def _post(self, verb: str, message: BaseModel) -> Flow[TrialOut]:
        try:
            return (yield from call(self._link, Request("POST", f"{self._path}/{verb}", body(message)), TrialOut))
        except LeaseLost:
            self._lost = True
            raise


TrialT = TypeVar("TrialT", bound=TrialCalls)


class StudyCalls(Generic[TrialT]):
    """A study of the service."""

    _link: Any
    _trial: ClassVar[Any]

    def __init__(self, link: Link, info: StudyOut) -> None:
        self._link = link
        self.info = info  # as last seen: see refresh()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.info.state}, {self.info.trials}>"

    @property
    def name(self) -> str:
        return self.info.name

    def _ask(self, count: int, worker: str | None, fresh: bool, max_wait: float) -> Flow[list[TrialT] | StopOut]:
        key = uuid.uuid4().hex
        message = build(
            Ask, count=count, worker=worker or default_worker(), fresh=fresh, max_wait_s=max_wait, idempotency_key=key
        )
        request = Request("POST", f"{self._path}/ask", body(message), patience=max_wait)
        answer = yield from call(self._link, request, AskOut)
        if answer.stop is not None:
            return answer.stop
        return [self._handle(data) for data in answer.trials or []]

    @operation
    def tell(self, trial: TrialT | int, result: Result, stderr: float | None = None) -> Flow[TrialT]:
        """Record the result of a trial that was asked for, or by number, of one that nobody holds."""
        handle = yield from self._find(trial)
        yield from TrialCalls.tell.flow(handle, result, stderr)
        return handle

    @operation
    def report(self, trial: TrialT | int, result: Result, step: int) -> Flow[TrialT]:
        """Record an intermediate result."""
        handle = yield from self._find(trial)
        yield from TrialCalls.report.flow(handle, result, step)
        return handle

    @operation
    def fail(self, trial: TrialT | int, reason: str = "", retry: bool = True) -> Flow[TrialT]:
        """The worker could not run it; with ``retry`` it goes back to the queue while retries are left."""
        handle = yield from self._find(trial)
        yield from TrialCalls.fail.flow(handle, reason, retry)
        return handle

    @operation
    def infeasible(self, trial: TrialT | int, reason: str = "") -> Flow[TrialT]:
        """The configuration cannot be run: learned from."""
        handle = yield from self._find(trial)
        yield from TrialCalls.infeasible.flow(handle, reason)
        return handle

    @operation
    def cancel(self, trial: TrialT | int, reason: str = "") -> Flow[TrialT]:
        """Give a trial up for good."""
        handle = yield from self._find(trial)
        yield from TrialCalls.cancel.flow(handle, reason)
        return handle

    @operation
    def trial(self, number: int, lease_token: str | None = None) -> Flow[TrialT]:
        """One trial; with the token of its lease where another process asked for it."""
        trial = self._handle((yield from call(self._link, Request("GET", f"{self._path}/trials/{number}"), TrialOut)))
        trial._token = lease_token or trial._token
        return trial

    @operation
    def enqueue(self, params: Mapping[str, Value]) -> Flow[TrialT]:
        """Queue a configuration of one's own: the next ask hands it out."""
        (trial,) = yield from self._add([build(TrialAdd, parameters=dict(params), state="WAITING")])
        return trial

    @operation
    def add(self, params: Mapping[str, Value], result: Result, stderr: float | None = None) -> Flow[TrialT]:
        """Record a result that was obtained elsewhere."""
        specs = measurements(result, self.info.objectives[0].metric, stderr)
        (trial,) = yield from self._add([build(TrialAdd, parameters=dict(params), measurements=specs)])
        return trial

    @operation
    def add_many(self, trials: Iterable[TrialAdd | tuple[Mapping[str, Value], Result]]) -> Flow[list[TrialT]]:
        """Record history, at most 10,000 trials at once, all or nothing: pairs (params, result), or `TrialAdd`."""
        metric = self.info.objectives[0].metric
        added = [
            t
            if isinstance(t, TrialAdd)
            else build(TrialAdd, parameters=dict(t[0]), measurements=measurements(t[1], metric))
            for t in trials
        ]
        return (yield from self._add(added))

    def _add(self, trials: list[TrialAdd]) -> Flow[list[TrialT]]:
        message = build(TrialsAdd, trials=trials)
        request = Request("POST", f"{self._path}/trials", body(message), patience=60, repeatable=False)
        page = yield from call(self._link, request, TrialPage)
        return [self._handle(data) for data in page.trials]

    @stream
    def history(self, state: str | None = None) -> Stream[TrialT]:
        """Every trial, by number, fetched in pages; ``state`` picks those in one state."""
        cursor: str | None = None
        while True:
            params = {"cursor": cursor, "limit": PAGE, "state": state}
            page = yield from call(self._link, Request("GET", f"{self._path}/trials", params=params), TrialPage)
            for data in page.trials:
                yield Emit(self._handle(data))
            cursor = page.next_cursor
            if cursor is None:
                return

    @operation
    def best(self) -> Flow[BestOut]:
        """The recommended trial, and why it is that one; NotFound while nothing is completed."""
        return (yield from call(self._link, Request("GET", f"{self._path}/best", patience=60), BestOut))

    @operation
    def predict(
        self, configurations: Mapping[str, Value] | Sequence[Mapping[str, Value]], *, max_wait: float = 30.0
    ) -> Flow[PredictOut]:
        """What the model expects of one or more configurations: mean and standard deviation of the objective."""
        several = [configurations] if isinstance(configurations, Mapping) else configurations
        message = build(Predict, configurations=[dict(c) for c in several], max_wait_s=max_wait)
        request = Request("POST", f"{self._path}/predict", body(message), patience=max_wait)
        return (yield from call(self._link, request, PredictOut))

    @stream
    def events(self, after: int | None = None) -> Stream[Event]:
        """What happens in the study, as it happens, without an end; goes on after lost connections where it was.

        ``after`` is the id of the last event already seen.
        """
        lost = 0
        while True:
            headers = {"accept": "text/event-stream"} | ({} if after is None else {"last-event-id": str(after)})
            request = Request("GET", f"{self._path}/events", headers=headers, patience=60)
            response = yield Open(request)
            if isinstance(response, httpx.Response) and response.is_success:
                lost, fields = 0, dict[str, str]()
                while (line := (yield Line())) is not None:
                    if line:
                        name, _, text = line.partition(":")
                        text = text.removeprefix(" ")
                        fields[name] = f"{fields[name]}\n{text}" if name == "data" and name in fields else text
                    elif "data" in fields:
                        event = read_event(fields)
                        after, fields = event.id, {}
                        yield Emit(event)
                    else:
                        fields = {}
            elif isinstance(response, httpx.Response) and response.status_code not in (429, 502, 503, 504):
                raise failure(request, response)
            lost += 1
            if lost > self._link.retries:
                raise failure(request, response)
            yield Pause(backoff(lost, retry_after(response)))

    @operation
    def refresh(self) -> Flow[StudyOut]:
        """Fetch ``info`` anew."""
        self.info = yield from call(self._link, Request("GET", self._path), StudyOut)
        return self.info

    @operation
    def update(
        self,
        *,
        budget: int | BudgetSpec | None = None,
        lease_seconds: float | None = None,
        max_retries: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Flow[StudyOut]:
        """Change what is given; ``BudgetSpec()`` takes the budget away."""
        given = {"lease_seconds": lease_seconds, "max_retries": max_retries, "metadata": metadata}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if budget is not None:
            changes["budget"] = {"trials": budget} if isinstance(budget, int) else budget
        self.info = yield from self._patch(**changes)
        return self.info

    @operation
    def stop(self) -> Flow[StudyOut]:
        """From now on asks answer Stop; results of trials that are running are still taken."""
        self.info = yield from self._patch(state="STOPPED")
        return self.info

    @operation
    def resume(self) -> Flow[StudyOut]:
        """Take up a stopped study again."""
        self.info = yield from self._patch(state="ACTIVE")
        return self.info

    @operation
    def delete(self) -> Flow[None]:
        """Delete the study and its trials."""
        yield from delete(self._link, self.name)

    @operation
    def export(self) -> Flow[StudyExport]:
        """Everything, as one document for `Client.import_study`."""
        return (yield from call(self._link, Request("GET", f"{self._path}/export", patience=60), StudyExport))

    @property
    def _path(self) -> str:
        return study_path(self.name)

    def _patch(self, **changes: Any) -> Flow[StudyOut]:
        return (yield from call(self._link, Request("PATCH", self._path, body(build(StudyPatch, **changes))), StudyOut))

    def _handle(self, data: TrialOut) -> TrialT:
        trial: TrialT = self._trial(self._link, self.info, data)
        return trial

    def _find(self, trial: TrialT | int) -> Flow[TrialT]:
        if isinstance(trial, TrialCalls):
            return trial
        return (yield from StudyCalls.trial.flow(self, trial))


StudyT = TypeVar("StudyT", bound=StudyCalls[Any])


class ClientCalls(Generic[StudyT]):
    """A service."""

    _link: Any
    _study: ClassVar[Any]

    @operation
    def create_study(
        self,
        name: str,
        parameters: Parameters,
        objective: Objectives = "minimize",
        *,
        parameter_constraints: Sequence[str] = (),
        outcome_constraints: Sequence[str] = (),
        budget: int | None = None,
        acquisition: str | None = None,
        noise: float | str | None = None,
        seed: int | None = None,
        lease_seconds: float | None = None,
        max_retries: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> Flow[StudyT]:
        """Create a study. What is left out is the service's to choose.

        ``exist_ok``: when a study of that name exists already, take it, provided that its definition is the same;
        Conflict says where it is not. ``budget`` is how many trials are handed out at most.
        """
        message = define(
            name,
            parameters,
            objective,
            parameter_constraints=list(parameter_constraints),
            outcome_constraints=list(outcome_constraints),
            budget=budget,
            acquisition=acquisition,
            noise=noise,
            seed=seed,
            lease_seconds=lease_seconds,
            max_retries=max_retries,
            metadata=metadata,
        )
        return (yield from self._create(message, exist_ok))

    def _create(self, message: Any, exist_ok: bool) -> Flow[StudyT]:
        try:
            info = yield from call(self._link, Request("POST", "/v1/studies", body(message)), StudyOut)
        except Conflict as error:
            if not (exist_ok or error.repeated):
                raise
            info = yield from call(self._link, Request("GET", study_path(message.name)), StudyOut)
            if problems := differences(message, info):
                where = "; ".join(f"{p.field}: {p.expected}, asked for {p.got!r}" for p in problems)
                raise Conflict(f"a study {message.name!r} of another definition exists: {where}") from None
        return self._handle(info)

    @operation
    def study(self, name: str) -> Flow[StudyT]:
        """A study by its name; NotFound when there is none."""
        return self._handle((yield from call(self._link, Request("GET", study_path(name)), StudyOut)))

    @operation
    def studies(self) -> Flow[list[StudyT]]:
        """All studies."""
        found: list[StudyT] = []
        cursor: str | None = None
        while True:
            page = yield from call(self._link, Request("GET", "/v1/studies", params={"cursor": cursor}), StudyPage)
            found += map(self._handle, page.studies)
            cursor = page.next_cursor
            if cursor is None:
                return found

    @operation
    def import_study(self, document: StudyExport | Mapping[str, Any], name: str | None = None) -> Flow[StudyT]:
        """Take in what `Study.export` gave, under its own name or another one."""
        message = document if isinstance(document, StudyExport) else build(StudyExport, **document)
        if name is not None:
            message = message.model_copy(update={"study": message.study.model_copy(update={"name": name})})
        content = message.model_dump(mode="json", exclude_none=True)
        request = Request("POST", "/v1/studies:import", content, patience=60, repeatable=False)
        return self._handle((yield from call(self._link, request, StudyOut)))

    @operation
    def delete_study(self, name: str) -> Flow[None]:
        """Delete a study and its trials."""
        yield from delete(self._link, name)

    def _handle(self, info: StudyOut) -> StudyT:
        study: StudyT = self._study(self._link, info)
        return study


def delete(link: Link, name: str) -> Flow[None]:
    """Delete a study; one that a lost answer had deleted already counts as deleted."""
    try:
        yield from send(link, Request("DELETE", study_path(name)))
    except SufficeClientError as error:
        if not (isinstance(error, LookupError) and error.repeated):
            raise


def read_event(fields: Mapping[str, str]) -> Event:
    """A server-sent event from its lines."""
    return Event.model_validate({**fields, "data": _json(fields["data"])}, extra="ignore")


def _json(text: str) -> Any:
    return json.loads(text)


def study_path(name: str) -> str:
    """Where a study lives; refuses names that would lead elsewhere."""
    if not name or name in (".", ".."):
        raise InvalidRequest.of(FieldProblem(field="name", expected="a study's name", got=name))
    return f"/v1/studies/{quote(name, safe='')}"


def default_worker() -> str:
    """What this process calls itself."""
    return f"{platform.node()}:{os.getpid()}"[:200]
