"""What can be done with samplings and calibrations, for blocking and asyncio clients alike."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from .calls import _number, body, build, call, send
from .client_errors import InvalidRequest
from .flows import Emit, Flow, Link, Request, Stream, operation, stream
from .sampling_wire import (
    AnswerPage,
    AnswerSoFar,
    CalibrationCreate,
    CalibrationExport,
    CalibrationOut,
    CalibrationPage,
    DrawOut,
    RecordedAnswer,
    SamplingAsk,
    SamplingAskOut,
    SamplingCreate,
    SamplingDecide,
    SamplingDecideOut,
    SamplingInfo,
    SamplingOut,
    SamplingPage,
    SamplingTell,
    SamplingTellOut,
    ToldAnswer,
)
from .wire import FieldProblem, StopOut

FIT_SECONDS = 600.0  # that fitting a calibration may take
DECIDE_SECONDS = 30.0  # that a decision may take: the first of its kind computes tables
PAGE = 500  # answers fetched at once


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was drawn. ``answer`` is what is voted on, None for a failure; ``content`` stays here."""

    answer: str | int | float | None
    score: float | None = None
    tokens: float | None = None
    content: Any = None


Reading = Answer | str | int | float | None
"""An `Answer`, or where there is neither score nor tokens, what is voted on."""


class Options(TypedDict, total=False):
    """How a prompt is decided: the options of the core's `Sampling`, and a calibration's name."""

    rule: str
    settings: Mapping[str, Any]
    max_samples: int
    target: float | None
    price: float | None
    token_price: float | None
    expected_tokens: float | None
    latency: float
    batch: int
    least_gain: float | None
    calibration: str | None
    calibration_version: int | None
    scores: bool
    on_drift: str


class BatchOptions(Options, total=False):
    """The same for a batch: ``budget`` is how many tokens all prompts may take together."""

    budget: float | None
    deadline: float | None
    lease_seconds: float
    metadata: Mapping[str, Any]


class SamplingCalls:
    """A sampling of the service."""

    _link: Any

    def __init__(self, link: Link, info: SamplingInfo) -> None:
        self._link = link
        self.info = info  # as last seen: see read()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.info.prompts} prompts, {self.info.samples} answers>"

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def _path(self) -> str:
        return f"/v1/samplings/{quote(self.id, safe='')}"

    @operation
    def ask(self, count: int | None = None) -> Flow[list[DrawOut] | StopOut]:
        """Which answers to draw next, for ``count`` prompts at most; or Stop, once every prompt has enough.

        An empty list: what is out has to be told first.
        """
        message = build(SamplingAsk, count=count, idempotency_key=uuid.uuid4().hex)
        request = Request("POST", f"{self._path}/ask", body(message), patience=DECIDE_SECONDS)
        answer = yield from call(self._link, request, SamplingAskOut)
        return answer.draws if answer.stop is None else answer.stop

    @operation
    def tell(self, draw: DrawOut, answers: Sequence[Reading]) -> Flow[SamplingTellOut]:
        """Record the answers of a draw, one for each of its numbers."""
        if isinstance(answers, str) or len(answers) != len(draw.numbers):
            expected = f"{len(draw.numbers)} answers to prompt {draw.prompt!r}"
            raise InvalidRequest.of(FieldProblem(field="answers", expected=expected, got=repr(answers)[:200]))
        told = [
            build(ToldAnswer, prompt=draw.prompt, number=number, **_fields(answer))
            for number, answer in zip(draw.numbers, answers, strict=True)
        ]
        return (yield from self._tell(told))

    @operation
    def add(self, answers: Iterable[ToldAnswer | Mapping[str, Any]]) -> Flow[SamplingTellOut]:
        """Record answers by prompt and number, also such that were not asked for; all or none."""
        told = [a if isinstance(a, ToldAnswer) else build(ToldAnswer, **a) for a in answers]
        return (yield from self._tell(told))

    def _tell(self, told: list[ToldAnswer]) -> Flow[SamplingTellOut]:
        message = build(SamplingTell, answers=told)
        return (yield from call(self._link, Request("POST", f"{self._path}/tell", body(message)), SamplingTellOut))

    @operation
    def read(self) -> Flow[SamplingOut]:
        """What is known: of each prompt the pick, the posterior, why it has enough, and every decision."""
        found = yield from call(self._link, Request("GET", self._path, patience=DECIDE_SECONDS), SamplingOut)
        self.info = found
        return found

    @stream
    def answers(self, prompt: str | None = None) -> Stream[RecordedAnswer]:
        """Every draw, by prompt and number, fetched in pages."""
        cursor: str | None = None
        while True:
            params = {"cursor": cursor, "limit": PAGE, "prompt": prompt}
            page = yield from call(self._link, Request("GET", f"{self._path}/answers", params=params), AnswerPage)
            for one in page.answers:
                yield Emit(one)
            cursor = page.next_cursor
            if cursor is None:
                return

    @operation
    def delete(self) -> Flow[None]:
        """Delete the sampling and its answers."""
        yield from send(self._link, Request("DELETE", self._path))


SamplingT = TypeVar("SamplingT", bound=SamplingCalls)


class SamplingsCalls(Generic[SamplingT]):
    """Samplings and calibrations of a service."""

    _link: Any
    _sampling: ClassVar[Any]

    @operation
    def create_sampling(
        self, prompts: Sequence[str | Mapping[str, Any]] = ("0",), **options: Unpack[BatchOptions]
    ) -> Flow[SamplingT]:
        """Begin a sampling of one prompt or several. ``prompts`` are ids, or ``{"id":, "features":}`` or "prior"."""
        return (yield from self._begin(prompts, options))

    def _begin(self, prompts: Sequence[Any], options: Mapping[str, Any]) -> Flow[SamplingT]:
        fields = {name: value for name, value in options.items() if value is not None}
        if "budget" in fields:
            fields["budget"] = {"tokens": fields["budget"]}
        message = build(SamplingCreate, prompts=list(map(_prompt, prompts)), idempotency_key=uuid.uuid4().hex, **fields)
        return self._made((yield from call(self._link, Request("POST", "/v1/samplings", body(message)), SamplingOut)))

    @operation
    def sampling(self, id: str) -> Flow[SamplingT]:
        """A sampling by its id; NotFound when there is none."""
        path = f"/v1/samplings/{quote(id, safe='')}"
        return self._made((yield from call(self._link, Request("GET", path, patience=DECIDE_SECONDS), SamplingOut)))

    @stream
    def samplings(self) -> Stream[SamplingT]:
        """All samplings, the newest first, fetched in pages."""
        cursor: str | None = None
        while True:
            page = yield from call(self._link, Request("GET", "/v1/samplings", params={"cursor": cursor}), SamplingPage)
            for info in page.samplings:
                yield Emit(self._made(info))
            cursor = page.next_cursor
            if cursor is None:
                return

    @operation
    def decide(self, answers: Sequence[Reading], **options: Unpack[Options]) -> Flow[SamplingDecideOut]:
        """The decision after these answers, and which of them to give; nothing is kept."""
        so_far = [build(AnswerSoFar, **_fields(answer)) for answer in answers]
        message = build(SamplingDecide, answers=so_far, **{k: v for k, v in options.items() if v is not None})
        request = Request("POST", "/v1/samplings:decide", body(message), patience=DECIDE_SECONDS)
        return (yield from call(self._link, request, SamplingDecideOut))

    @operation
    def fit_calibration(
        self,
        name: str,
        pool: Mapping[str, Any],
        max_samples: int = 32,
        *,
        score: str = "score",
        orders: int = 8,
        seed: int = 0,
    ) -> Flow[CalibrationOut]:
        """Fit a calibration to a pool of labelled answers, in seconds to minutes; a known name gets a new version."""
        options = {"max_samples": max_samples, "score": score, "orders": orders, "seed": seed}
        message = build(CalibrationCreate, name=name, pool=dict(pool), **options)
        return (yield from self._calibration(message))

    @operation
    def import_calibration(self, name: str, document: Mapping[str, Any] | CalibrationExport) -> Flow[CalibrationOut]:
        """Take in what `export_calibration` gave, or a calibration's ``to_json``."""
        content = document.document if isinstance(document, CalibrationExport) else dict(document)
        return (yield from self._calibration(build(CalibrationCreate, name=name, document=content)))

    @operation
    def learn_prompts(self, name: str) -> Flow[CalibrationOut]:
        """A new version of a calibration that learned what features tell from the service's own finished prompts."""
        path = f"{_calibration_path(name)}/prompts"
        request = Request("POST", path, patience=FIT_SECONDS, repeatable=False)
        return (yield from call(self._link, request, CalibrationOut))

    def _calibration(self, message: CalibrationCreate) -> Flow[CalibrationOut]:
        request = Request("POST", "/v1/calibrations", body(message), patience=FIT_SECONDS, repeatable=False)
        return (yield from call(self._link, request, CalibrationOut))

    @operation
    def calibrations(self) -> Flow[list[CalibrationOut]]:
        """The newest version of each calibration, by name."""
        found: list[CalibrationOut] = []
        cursor: str | None = None
        while True:
            page = yield from call(
                self._link, Request("GET", "/v1/calibrations", params={"cursor": cursor}), CalibrationPage
            )
            found += page.calibrations
            cursor = page.next_cursor
            if cursor is None:
                return found

    @operation
    def calibration(self, name: str, version: int | None = None) -> Flow[CalibrationOut]:
        """What a calibration stands on, and whether its drift alarm is on; the newest version unless told otherwise."""
        request = Request("GET", _calibration_path(name), params={"version": version})
        return (yield from call(self._link, request, CalibrationOut))

    @operation
    def calibration_versions(self, name: str) -> Flow[list[CalibrationOut]]:
        """All versions of a calibration, the newest first."""
        page = yield from call(self._link, Request("GET", f"{_calibration_path(name)}/versions"), CalibrationPage)
        return page.calibrations

    @operation
    def export_calibration(self, name: str, version: int | None = None) -> Flow[CalibrationExport]:
        """A calibration as a document."""
        request = Request("GET", f"{_calibration_path(name)}/export", params={"version": version})
        return (yield from call(self._link, request, CalibrationExport))

    @operation
    def delete_calibration(self, name: str, version: int | None = None) -> Flow[None]:
        """Delete a version of a calibration, or all; Conflict while samplings use it."""
        yield from send(self._link, Request("DELETE", _calibration_path(name), params={"version": version}))

    def _made(self, info: SamplingInfo) -> SamplingT:
        made: SamplingT = self._sampling(self._link, info)
        return made


def _calibration_path(name: str) -> str:
    return f"/v1/calibrations/{quote(name, safe='')}"


def _prompt(prompt: Any) -> Any:
    """A prompt as JSON; the prior may be the core's `TypePrior`."""
    if not isinstance(prompt, Mapping):
        return prompt
    prior: Any = prompt.get("prior")
    if hasattr(prior, "theta"):
        prior = {"theta": list(prior.theta), "alpha": list(prior.alpha)}
    return {**prompt, "prior": prior}


def reading(given: Reading) -> Answer:
    """What a draw gave, as an `Answer`."""
    return given if isinstance(given, Answer) else Answer(given)


def _fields(given: Reading) -> dict[str, Any]:
    """An answer as the REST API writes it; numbers may be arrays and tensors of one element."""
    answer = reading(given)
    voted: Any = answer.answer
    numbers = {"score": answer.score, "tokens": answer.tokens}
    plain = {name: _number(value) for name, value in numbers.items() if value is not None}
    for name, value in plain.items():
        if value is None:
            raise InvalidRequest.of(FieldProblem(field=name, expected="a finite number", got=repr(numbers[name])))
    return {"answer": voted.item() if hasattr(voted, "item") else voted, **plain}
