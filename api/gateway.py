"""The OptScale gateway: OpenAI's interface in front of inference servers, better answers for fewer tokens.

`<model>` is passed through byte for byte. `<model>:optscale`, `<model>:<policy>` and the configured aliases get as many
draws as pay, and the best answer of them. docs/gateway.md describes it; this is an ASGI application, which runs alone
(`suffice gateway`) or within the service.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.adapters import math_verify
from suffice.adapters.math_verify import MathEquality
from suffice.adapters.openai import Reply, TimedOut, Unreachable
from suffice.adapters.verifiers import Question, VerifierFailed
from suffice.optimizer import InvalidInput, NotFound, SufficeError
from suffice.optimizer.expected import NOTHING, Expected

from . import chunks, decisions
from .access import DEFAULT_PROJECT, Visit
from .asked import CHAT, Asked, read
from .calibrations import Calibrations
from .completions import Completion, Outcome, Tools
from .drawing import DrawFailed, OutOfTime, Refused
from .gateway_config import DEFAULTS, SUFFIX, GatewayConfig, sampling_of
from .gateway_metrics import CONTENT_TYPE, GatewayMetrics
from .gateway_verifiers import Verifiers
from .upstreams import NoUpstream, Upstreams

if TYPE_CHECKING:
    from suffice.optimizer.calibration import Calibration

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Header = tuple[str, str]

COMPLETIONS = (CHAT, "/v1/completions")
HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "host", "content-length", "expect"}
)
NOT_BACK = frozenset({*HOP, "date", "server"} - {"content-length"})
PASSED = "pass-through"  # the policy of what has none
AHEAD = 64  # chunks that a slow client may be behind
OURS = frozenset({"authorization", "cookie", "x-suffice-csrf"})  # a key of this service is no upstream's business
WARM = 12  # answers that rules are tried on before requests come
RETRY_AFTER = "1"  # second
DECISION_ID = "x-optscale-decision-id"
log = logging.getLogger("suffice.gateway")


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    path: str
    target: str  # as on the wire, with the query
    headers: Sequence[Header]
    body: bytes
    began: float
    visit: Visit | None = None  # who makes it, where the gateway has a front

    @property
    def project(self) -> int:
        """Where its decisions and calibrations belong."""
        caller = None if self.visit is None else self.visit.caller
        return DEFAULT_PROJECT if caller is None else caller.project


class Failure(Exception):
    """An answer in OpenAI's form of errors."""

    def __init__(
        self, status: int, message: str, kind: str = "api_error", param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.retry_after: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class Gateway:
    """The gateway as an ASGI application; ``running()`` keeps it alive where it has no lifespan of its own."""

    def __init__(self, config: GatewayConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.upstreams = Upstreams(config.upstreams, config.limits)
        self.decisions = decisions.Decisions(config.limits.decisions)
        self.calibrations = Calibrations(config.calibrations)  # of the first project, and those that policies name
        self.open_calibrations: Callable[[int], Calibrations] = self._open_calibrations
        self._others: dict[int, Calibrations] = {}
        self.metrics = GatewayMetrics(self.upstreams)
        self.active = 0
        self._clock = clock
        self._math = MathEquality()
        self._verifiers = Verifiers(config.verifiers, config.limits.connect_s)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Connections are open and health is watched inside."""
        await asyncio.to_thread(self._warm)
        async with self.upstreams.running():
            try:
                yield
            finally:
                await self._math.close()
                await self._verifiers.close()

    def _warm(self) -> None:
        """Compute the tables of all policies' rules before the first request would wait for them."""
        for policy in self.config.policies.values():
            for answers in ((0,) * WARM, tuple(range(WARM)), (0, 1) * (WARM // 2)):
                sampling = sampling_of(policy.over(DEFAULTS))
                for number, answer in enumerate(answers[: sampling.max_samples]):
                    sampling.tell(answer, 0.5, number=number)
                    sampling.ask()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: turned away, or answered until the client goes."""
        path = scope["path"]
        if path in ("/healthz", "/readyz", "/metrics"):
            await self._probe(path, send)
            return
        if self.active >= self.config.limits.requests:
            message = f"{self.active} requests are at work, the most that are taken at once"
            await _fail(send, Failure(429, message, "rate_limit_error", code="too_many_requests"))
            self.metrics.answered("none", 429, 0.0)
            return
        self.active += 1
        try:
            await self._until_gone(scope, receive, send)
        finally:
            self.active -= 1

    async def _until_gone(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await self._read(scope, receive)
        except Failure as failure:
            await _fail(send, failure)
            return
        if request is None:
            return
        work = asyncio.ensure_future(self._answer(request, send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.metrics.answered("none", 499, self._clock() - request.began)
        finally:
            for task in (work, gone):
                if not task.done():
                    task.cancel()
            results = await asyncio.gather(work, gone, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _read(self, scope: Scope, receive: Receive) -> Request | None:
        """The whole request; None where the client left before its end. Raises Failure for too large a one."""
        began = self._clock()
        most = self.config.limits.body_mb * 2**20
        parts: list[bytes] = []
        size = 0
        while True:
            came = await receive()
            if came["type"] == "http.disconnect":
                return None
            parts.append(came.get("body", b""))
            size += len(parts[-1])
            if size > most:
                message = f"the body is larger than {self.config.limits.body_mb:g} MB"
                raise Failure(413, message, "invalid_request_error")
            if not came.get("more_body"):
                break
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        visit: Visit | None = scope.get("suffice.visit")
        known = visit is not None and visit.caller is not None and visit.caller.key is not None
        kept_back = HOP | OURS if known else HOP
        headers = [(name, value) for name, value in headers if name not in kept_back]
        target = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        if query := scope.get("query_string"):
            target = f"{target}?{query.decode('latin-1')}"
        return Request(scope["method"], scope["path"], target, headers, b"".join(parts), began, visit)

    # --- which request is answered how ---

    async def _answer(self, request: Request, send: Send) -> None:
        try:
            await self._route(request, send)
        except (Failure, SufficeError) as error:
            failure = _failure(error)
            self.metrics.answered("none", failure.status, self._clock() - request.began)
            await _fail(send, failure)

    async def _route(self, request: Request, send: Send) -> None:
        """Raises Failure, or a SufficeError, where there is no answer."""
        if request.path in COMPLETIONS and request.method == "POST":
            await self._completion(request, send)
        elif request.path.startswith("/optscale/v1/"):
            await self._own(request, send)
        elif request.path.startswith("/v1/models") and request.method == "GET":
            await self._models(request, send)
        elif request.path.startswith("/v1/"):
            await self._pass(request, send, None)
        else:
            raise Failure(404, f"there is nothing at {request.path}", "invalid_request_error")

    async def _completion(self, request: Request, send: Send) -> None:
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):  # the upstream says what is wrong with it
            await self._pass(request, send, None)
            return
        asked = read(self.config, request.path, request.headers, body) if isinstance(body, dict) else None
        if asked is None:
            model = body.get("model") if isinstance(body, dict) else None
            await self._pass(request, send, model if isinstance(model, str) else None)
        else:
            await self._decide(request, asked, send)

    # --- passed through ---

    async def _pass(self, request: Request, send: Send, model: str | None) -> None:
        """The upstream's answer, byte for byte."""
        started = False
        added = self._clock() - request.began
        try:
            opened = self.upstreams.open(request.method, request.target, request.body, request.headers, model)
            async with opened as stream:
                headers = [(n, v) for n, v in stream.headers if n.lower().decode("latin-1") not in NOT_BACK]
                headers.append((b"server-timing", f"gateway;dur={1e3 * added:.3f}".encode()))
                await send({"type": "http.response.start", "status": stream.status, "headers": headers})
                started = True
                async for piece in stream.pieces():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                self.metrics.answered(PASSED, stream.status, self._clock() - request.began, added)
        except Unreachable as error:
            if started:  # whoever reads sees it break off, as it did
                self.metrics.answered(PASSED, 502, self._clock() - request.began)
                log.warning("an upstream broke off: %s", error)
                raise
            raise _unreachable(error) from None

    async def _models(self, request: Request, send: Send) -> None:
        """The upstreams' models, and beside each what the policies make of it."""
        entries = self.upstreams.models()
        if not entries:
            await self._pass(request, send, None)
            return
        every = dict(entries)
        for name, entry in entries.items():
            every[f"{name}:{SUFFIX}"] = {**entry, "id": f"{name}:{SUFFIX}", "parent": name}
        for name, alias in self.config.aliases.items():
            if alias.model in entries:
                every[name] = {**entries[alias.model], "id": name, "parent": alias.model}
        if request.path.rstrip("/") == "/v1/models":
            await _json(send, 200, {"object": "list", "data": list(every.values())})
            return
        name = request.path.removeprefix("/v1/models/")
        if name not in every:
            await self._pass(request, send, None)
            return
        await _json(send, 200, every[name])

    # --- decided ---

    async def _decide(self, request: Request, asked: Asked, send: Send) -> None:
        calibration, drifted = self._calibration(request, asked)
        features = _features(asked)
        expected = await asyncio.to_thread(_expected, asked, calibration, features) if features else NOTHING
        tools = Tools(
            self.config,
            self.upstreams,
            self._verifiers.get(asked.wishes.verifier),
            calibration,
            drifted,
            self._equality(asked),
            self._clock,
            expected,
        )
        ready: asyncio.Queue[bytes] = asyncio.Queue(AHEAD)
        completion = Completion(asked, tools, ready.put if asked.streamed else None)
        work = asyncio.ensure_future(self._run(completion))
        try:
            if asked.stream:
                await self._stream(request, completion, work, ready, send)
                self._learn(request, completion, features)
                return
            outcome = await work
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            if request.visit is not None:
                request.visit.tokens = completion.spent()
        self._finish(request, asked, outcome)
        self._learn(request, completion, features)
        await _json(send, 200, outcome.body | {"optscale": self._shown(asked, outcome)}, self._headers(outcome))

    async def _run(self, completion: Completion) -> Outcome:
        """The outcome. Raises Failure, in the upstream's words where it has said something."""
        try:
            return await completion.run()
        except (Refused, NoUpstream) as error:
            raise _repeated(error.reply, str(error)) from None
        except OutOfTime as error:
            raise Failure(504, str(error), "timeout_error", code="deadline_exceeded") from None
        except DrawFailed as error:
            raise Failure(502, str(error), "upstream_error", code="bad_upstream_answer") from None
        except VerifierFailed as error:
            raise Failure(502, f"the verifier failed: {error}", "verifier_error", code="verifier_failed") from None

    async def _stream(
        self,
        request: Request,
        completion: Completion,
        work: asyncio.Future[Outcome],
        ready: asyncio.Queue[bytes],
        send: Send,
    ) -> None:
        """The chosen answer as chunks; comments until it is known. What fails at once fails with its status.

        Where one draw is wanted, its chunks are ``ready`` as they come, and only the end waits for the decision.
        """
        asked = completion.asked
        started = False
        while (piece := await self._next(completion, work, ready)) is not None:
            if not started:
                one = [("x-optscale-samples", "1")] if asked.streamed else []
                await _start_stream(send, [(DECISION_ID, completion.id), *one])
                started = True
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        try:
            outcome = work.result()
        except Failure as failure:
            if not started:
                raise
            await send({"type": "http.response.body", "body": chunks.event(failure.body) + chunks.DONE})
            return
        if not started:
            await _start_stream(send, self._headers(outcome))
        self._finish(request, asked, outcome)
        shown = self._shown(asked, outcome)
        for piece in chunks.stream(outcome.body, shown, include_usage=asked.include_usage, begun=completion.begun):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _next(
        self, completion: Completion, work: asyncio.Future[Outcome], ready: asyncio.Queue[bytes]
    ) -> bytes | None:
        """What the stream says next before the decision: a chunk of the only draw, or a comment; None: it is made."""
        if ready.empty():
            chunk = asyncio.ensure_future(ready.get())
            await asyncio.wait(
                (work, chunk), timeout=self.config.limits.keepalive_s, return_when=asyncio.FIRST_COMPLETED
            )
            if chunk.done():
                return chunk.result()
            chunk.cancel()
            return None if work.done() else self._progress(completion)
        return ready.get_nowait()

    def _progress(self, completion: Completion) -> bytes:
        """That it is still being drawn."""
        wishes, result = completion.asked.wishes, completion.drawing.result
        n = len(result.counted)
        piece = chunks.comment(f"{n} answers of at most {wishes.max_samples}")
        if wishes.progress:
            counts = {"counted": n, "issued": result.issued, "max_samples": wishes.max_samples}
            piece += chunks.event(counts, "optscale")
        return piece

    def _equality(self, asked: Asked) -> MathEquality | None:
        if asked.wishes.extract != "math":
            return None
        if not math_verify.installed():
            raise InvalidInput("optscale.extract", "math only with math-verify: pip install 'suffice[math]'", "math")
        return self._math

    def _calibration(self, request: Request, asked: Asked) -> tuple[Any, bool]:
        """The calibration that is asked for, and whether its alarm is on."""
        name = asked.wishes.calibration
        if name is None:
            return None, False
        known = self._calibrations(request.project, name)
        if name not in known:
            raise InvalidInput("optscale.calibration", "the name of a calibration", name)
        calibration = known.get(name)
        if calibration.model is not None and asked.wishes.verifier in (None, "none"):
            raise InvalidInput("optscale.verifier", f"the one whose scores {name} was learned from", None)
        return calibration, known.drifted(name)

    def _calibrations(self, project: int, name: str | None = None) -> Calibrations:
        """Those of a project; with a ``name`` that it has not and a policy says, everyone's."""
        if project == DEFAULT_PROJECT:
            return self.calibrations
        if project not in self._others:
            self._others[project] = self.open_calibrations(project)
        own = self._others[project]
        if name is None or name in own:
            return own
        named = any(policy.calibration == name for policy in self.config.policies.values())
        return self.calibrations if named else own

    def _open_calibrations(self, project: int) -> Calibrations:
        folder = self.config.calibrations
        return Calibrations(None if folder is None else folder / f"project-{project}")

    def _finish(self, request: Request, asked: Asked, outcome: Outcome) -> None:
        """Remember and count what was decided."""
        self.decisions.keep(outcome.record, request.project)
        self.metrics.decided(outcome, asked.policy)
        added = outcome.record["latency_ms"]["gateway"] / 1e3
        self.metrics.answered(asked.policy, 200, self._clock() - request.began, added)
        if asked.wishes.calibration is not None and not outcome.record["degraded"]:
            good = outcome.drawn.counted
            known = self._calibrations(request.project, asked.wishes.calibration)
            answers, scores = [one.answer for one in good], [one.score for one in good]
            known.watch(asked.wishes.calibration, answers, scores, by_score=outcome.sampling.scores)

    def _learn(self, request: Request, completion: Completion, features: Sequence[float] | None) -> None:
        """Have the calibration learn what the prompt's features told of its answers."""
        name = completion.asked.wishes.calibration
        if features and name is not None and completion.verifier_error is None:
            self._calibrations(request.project, name).learn(name, features, completion.unexpecting())

    def _shown(self, asked: Asked, outcome: Outcome) -> dict[str, Any]:
        """The record as the client gets it."""
        if asked.wishes.returns == "trace":
            return outcome.record
        return {name: value for name, value in outcome.record.items() if name != "trace"}

    def _headers(self, outcome: Outcome) -> list[Header]:
        record = outcome.record
        latency = record["latency_ms"]
        return [
            (DECISION_ID, record["decision_id"]),
            ("x-optscale-samples", str(record["samples"]["counted"])),
            ("x-optscale-stop-reason", record["stop_reason"]),
            ("x-optscale-overhead-ms", f"{latency['gateway']:.3f}"),
            ("server-timing", f"gateway;dur={latency['gateway']:.3f}, total;dur={latency['total']:.3f}"),
        ]

    # --- the gateway's own interface ---

    async def _own(self, request: Request, send: Send) -> None:
        parts = request.path.removeprefix("/optscale/v1/").split("/")
        calibrations = self._calibrations(request.project)
        match request.method, parts:
            case "GET", ["decisions", decision_id]:
                await _json(send, 200, self.decisions.get(decision_id, request.project))
            case "POST", ["replay"]:
                await _json(send, 200, await self._replay(_object(request), request.project))
            case "GET", ["calibrations"]:
                await _json(send, 200, {"calibrations": calibrations.facts()})
            case "GET", ["calibrations", name]:
                await _json(send, 200, calibrations.get(name).to_json())
            case "PUT", ["calibrations", name]:
                made = await asyncio.to_thread(calibrations.put, name, _object(request))
                facts = next(one for one in calibrations.facts() if one["name"] == made.name)
                await _json(send, 200, facts)
            case "DELETE", ["calibrations", name]:
                calibrations.delete(name)
                await _json(send, 200, {"deleted": name})
            case _:
                raise Failure(404, f"there is no {request.method} {request.path}", "invalid_request_error")

    async def _replay(self, document: Mapping[str, Any], project: int) -> dict[str, Any]:
        """Recorded decisions, or a labelled pool, under other rules."""
        unknown = set(document) - {"decisions", "pool", "rules", "max_samples", "orders"}
        if unknown or ("decisions" in document) == ("pool" in document):
            raise InvalidInput("replay", "decisions or pool; rules, max_samples, orders", sorted(document))
        rules = document.get("rules") or [{}]
        if not isinstance(rules, list):
            raise InvalidInput("rules", "a list of objects as in optscale", rules)
        said = [decisions.replayed(rule, "pool" in document) for rule in rules]
        wished = [one.over(self.config.policies[SUFFIX]).over(DEFAULTS) for one in said]
        if "pool" in document:
            most, orders = document.get("max_samples", 16), document.get("orders", 20)
            rows = await asyncio.to_thread(decisions.replay_pool, document["pool"], wished, most, orders)
            return {"results": rows}
        if not isinstance(document["decisions"], list):
            raise InvalidInput("decisions", "a list of decision ids", document["decisions"])
        records = [self.decisions.get(str(one), project) for one in document["decisions"]]
        found: list[list[dict[str, Any]]] = []
        for own, one in zip(said, wished, strict=True):
            name = one.calibration if own.calibration is not None or one.rule == "suffice" else None
            calibration = None if name is None else self._calibrations(project, name).get(name)
            found.append([decisions.decide_again(record, one, calibration) for record in records])
        return {"results": found}

    async def _probe(self, path: str, send: Send) -> None:
        if path == "/metrics":
            await _plain(send, 200, self.metrics.text(self.active), CONTENT_TYPE)
            return
        well = sum(upstream.well for upstream in self.upstreams.all)
        ready = path == "/healthz" or well > 0
        facts = {"status": "ok" if ready else "no upstream", "upstreams": len(self.upstreams.all), "well": well}
        await _json(send, 200 if ready else 503, facts)


# --- answers ----------------------------------------------------------------------------------------------------------


async def _gone(receive: Receive) -> None:
    """Until the client is."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _features(asked: Asked) -> list[float] | None:
    """The features of a request's prompt, if any are wished for."""
    if asked.wishes.features != "text":
        return asked.wishes.features
    from suffice.optimizer.prompts import text_features

    return text_features(Question.of(asked.body).text)


def _expected(asked: Asked, calibration: Calibration | None, features: Sequence[float]) -> Expected:
    """What a calibration expects of a prompt; the tables that its prior needs are made here, in a thread."""
    if calibration is None or not calibration.featured:
        return NOTHING
    try:
        found = calibration.expected(features)
    except InvalidInput as error:
        raise error.under("optscale") from None
    if asked.wishes.rule == "suffice":
        sampling_of(asked.wishes, found).ask()
    return found


def _object(request: Request) -> dict[str, Any]:
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Failure(400, "the body is no JSON", "invalid_request_error") from None
    if not isinstance(document, dict):
        raise Failure(400, "the body is no JSON object", "invalid_request_error")
    return document


def _failure(error: Exception) -> Failure:
    """In OpenAI's form of errors."""
    match error:
        case Failure():
            return error
        case InvalidInput():
            return Failure(400, str(error), "invalid_request_error", error.problems[0].field, "invalid_value")
        case NotFound():
            return Failure(404, str(error), "invalid_request_error", code="not_found")
        case _:
            return Failure(409, str(error), "invalid_request_error")


def _unreachable(error: Unreachable) -> Failure:
    if isinstance(error, TimedOut):
        return Failure(504, f"the upstream did not answer in time: {error}", "timeout_error", code="upstream_timeout")
    return Failure(502, f"the upstream cannot be reached: {error}", "upstream_error", code="upstream_unreachable")


def _repeated(reply: Any, message: str) -> Failure:
    """The upstream's error with its status, in OpenAI's form if it had another."""
    if not isinstance(reply, Reply):
        return Failure(502, f"the upstream cannot be reached: {message}", "upstream_error", code="upstream_unreachable")
    try:
        error = reply.json()["error"]
        failure = Failure(reply.status, str(error["message"]), error.get("type"), error.get("param"), error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError):
        failure = Failure(reply.status, f"the upstream answered {reply.status}", "upstream_error")
    if (after := reply.headers.get("Retry-After")) is not None:
        failure.retry_after = after
    return failure


async def _fail(send: Send, failure: Failure) -> None:
    after = failure.retry_after or (RETRY_AFTER if failure.status in (429, 503) else None)
    await _json(send, failure.status, failure.body, [] if after is None else [("retry-after", after)])


async def _json(send: Send, status: int, document: Any, headers: Sequence[Header] = ()) -> None:
    await _plain(send, status, json.dumps(document).encode(), headers=headers)


async def _plain(
    send: Send, status: int, body: bytes, kind: str = "application/json", headers: Sequence[Header] = ()
) -> None:
    written = [("content-type", kind), ("content-length", str(len(body))), *headers]
    pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in written]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def _start_stream(send: Send, headers: Sequence[Header]) -> None:
    written = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"), *headers]
    pairs = [(name.encode(), value.encode()) for name, value in written]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})
