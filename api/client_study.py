"""What can be done with a study, for blocking and asyncio clients alike."""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import httpx

from .calls import BUSY, Result, backoff, body, build, call, failure, measurements, retry_after, send, study_path
from .client_errors import SufficeClientError
from .client_trial import TrialCalls
from .flows import Emit, Flow, Line, Link, Open, Pause, Request, Stream, operation, stream
from .wire import (
    AdviceOut,
    AnalysesOut,
    Ask,
    AskOut,
    BestOut,
    BudgetSpec,
    DiagnosticsOut,
    Event,
    ParameterValue,
    ParetoOut,
    Predict,
    PredictOut,
    StopOut,
    StudyExport,
    StudyOut,
    StudyPatch,
    TrialAdd,
    TrialOut,
    TrialPage,
    TrialsAdd,
    Within,
)

Context = Mapping[str, ParameterValue] | None
PAGE = 500  # trials fetched at once

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

    def _ask(
        self, count: int, worker: str | None, fresh: bool, max_wait: float, context: Context
    ) -> Flow[list[TrialT] | StopOut]:
        message = build(
            Ask,
            count=count,
            context=_given(context),
            worker=worker or default_worker(),
            fresh=fresh,
            max_wait_s=max_wait,
            idempotency_key=uuid.uuid4().hex,
        )
        request = Request("POST", f"{self._path}/ask", body(message), patience=max_wait)
        answer = yield from call(self._link, request, AskOut)
        if answer.stop is not None:
            return answer.stop
        return [self._handle(data) for data in answer.trials or []]

    @operation
    def tell(
        self,
        trial: TrialT | int,
        result: Result,
        stderr: float | None = None,
        gradient: Mapping[str, float] | None = None,
    ) -> Flow[TrialT]:
        """Record the result of a trial that was asked for, or by number, of one that nobody holds."""
        handle = yield from self._find(trial)
        yield from TrialCalls.tell.flow(handle, result, stderr, gradient)
        return handle

    @operation
    def report(self, trial: TrialT | int, result: Result, step: int) -> Flow[TrialT]:
        """Record an intermediate result; `should_prune` of the trial then says whether to stop it early."""
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
    def enqueue(self, params: Mapping[str, ParameterValue]) -> Flow[TrialT]:
        """Queue a configuration of one's own: the next ask hands it out."""
        (trial,) = yield from self._add([build(TrialAdd, parameters=dict(params), state="WAITING")])
        return trial

    @operation
    def add(
        self,
        params: Mapping[str, ParameterValue],
        result: Result,
        stderr: float | None = None,
        gradient: Mapping[str, float] | None = None,
    ) -> Flow[TrialT]:
        """Record a result that was obtained elsewhere."""
        specs = measurements(result, self.info.objectives[0].metric, stderr=stderr, gradient=gradient)
        (trial,) = yield from self._add([build(TrialAdd, parameters=dict(params), measurements=specs)])
        return trial

    @operation
    def add_many(self, trials: Iterable[TrialAdd | tuple[Mapping[str, ParameterValue], Result]]) -> Flow[list[TrialT]]:
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
        message = build(TrialsAdd, trials=trials, idempotency_key=uuid.uuid4().hex)
        request = Request("POST", f"{self._path}/trials", body(message), patience=60)
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
    def best(self, context: Context = None) -> Flow[BestOut]:
        """The recommended trial, and why it is that one; NotFound while nothing is completed.

        Of a study with contexts, the configuration to use in ``context``.
        """
        return (yield from call(self._link, self._question("best", context), BestOut))

    @operation
    def pareto(self, context: Context = None) -> Flow[ParetoOut]:
        """With several objectives: the trials that no other beats in all of them."""
        return (yield from call(self._link, self._question("pareto", context), ParetoOut))

    @operation
    def advice(self, context: Context = None) -> Flow[AdviceOut]:
        """What one more trial is worth beside those that run, and whether it pays."""
        return (yield from call(self._link, self._question("advice", context), AdviceOut))

    @operation
    def diagnostics(self) -> Flow[DiagnosticsOut]:
        """Whether the model can be trusted, and which parameters matter; NotFound while there is none."""
        return (yield from call(self._link, self._question("diagnostics", None), DiagnosticsOut))

    @operation
    def analyses(self, *, max_wait: float = 300.0) -> Flow[AnalysesOut]:
        """Ax's analyses as Plotly figures; they take seconds to minutes. NotFound with fewer than three results.

        When those of the newest results take longer than ``max_wait`` seconds, the last ones, or Unavailable.
        """
        params = {"max_wait_s": max_wait}
        request = Request("GET", f"{self._path}/analyses", params=params, patience=max_wait)
        return (yield from call(self._link, request, AnalysesOut))

    def _question(self, what: str, context: Context) -> Request:
        """Asks the model something, in a context if there is one."""
        path = f"{self._path}/{what}"
        if context is None:
            return Request("GET", path, patience=60)
        return Request("POST", path, body(build(Within, context=_given(context))), patience=60)

    @operation
    def predict(
        self,
        configurations: Mapping[str, ParameterValue] | Sequence[Mapping[str, ParameterValue]],
        *,
        max_wait: float = 30.0,
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
            elif isinstance(response, httpx.Response) and response.status_code not in BUSY:
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


def _given(context: Context) -> dict[str, ParameterValue] | None:
    return None if context is None else dict(context)


def default_worker() -> str:
    """What this process calls itself."""
    return f"{platform.node()}:{os.getpid()}"[:200]
