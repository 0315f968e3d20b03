"""What can be done with a trial, for blocking and asyncio clients alike."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from .calls import Result, body, build, call, measurements, send, study_path
from .client_errors import Conflict, LeaseLost, Unavailable
from .flows import Flow, Link, Request, operation
from .wire import (
    Cancel,
    Fail,
    Heartbeat,
    MeasurementSpec,
    PruneOut,
    Report,
    ShouldPruneOut,
    SourceOut,
    StudyOut,
    Tell,
    TrialOut,
)


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
        self._prune: PruneOut | None = None

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
    def should_prune(self) -> PruneOut | None:
        """Why the trial should be stopped early, as the answer to the last report had it; None: it should go on."""
        return self._prune

    @property
    def _open(self) -> bool:
        return self._data.state in ("WAITING", "RUNNING")

    @operation
    def tell(
        self, result: Result, stderr: float | None = None, gradient: Mapping[str, float] | None = None
    ) -> Flow[None]:
        """Record the result: a number, {metric: value}, or measurements. Telling the same again changes nothing.

        ``stderr`` is the standard error of the value, ``gradient`` its partial derivatives by parameter, where they
        are known. Raises Conflict when another result is recorded, LeaseLost when the trial went to another worker.
        """
        specs = measurements(result, self._metric, stderr=stderr, gradient=gradient)
        yield from self._settle("tell", self._with_token(Tell, measurements=specs))

    @operation
    def infeasible(self, reason: str = "") -> Flow[None]:
        """This configuration cannot be run: the model learns to keep away from it."""
        yield from self._settle("tell", self._with_token(Tell, state="INFEASIBLE", reason=reason[:2000]))

    @operation
    def prune(self, reason: str = "") -> Flow[None]:
        """It was stopped early on purpose; what was reported so far is kept."""
        reason = reason or (self._prune.reason if self._prune else "")
        yield from self._settle("tell", self._with_token(Tell, state="PRUNED", reason=reason[:2000]))

    @operation
    def report(self, result: Result, step: int) -> Flow[PruneOut | None]:
        """Record an intermediate result; renews the lease.

        In a study with early stopping, returns why the trial should be stopped, or None where it should go on (also
        in `should_prune`): ``if trial.report(loss, step=epoch): raise Pruned``. The policy ``gain`` asks the model.
        """
        specs = measurements(result, self._metric, step=step)
        self._data = yield from self._post("report", self._with_token(Report, measurements=specs))
        self._prune = self._data.prune
        stopping = self._study.early_stopping
        if stopping is not None and stopping.policy == "gain":
            request = Request("GET", f"{self._path}/should_prune", patience=30)
            with suppress(Unavailable):  # it goes on where nobody can tell
                self._prune = (yield from call(self._link, request, ShouldPruneOut)).prune
        return self._prune

    @operation
    def attach(self, name: str, image: bytes) -> Flow[None]:
        """Keep an image with the trial, for the dashboard: PNG, JPEG or WebP, up to 1 MiB, up to 8 of a trial.

        Best before `tell`, which then shows it. One of the same name is replaced.
        """
        path = f"{self._path}/images/{quote(name, safe='')}"
        yield from send(self._link, Request("PUT", path, content=image))

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
