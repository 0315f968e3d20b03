"""An inference server for tests of the gateway: on a real socket it speaks, waits, breaks off and refuses as told."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import httpx
import uvicorn

from suffice.api.gateway import Gateway
from suffice.api.gateway_config import GatewayConfig

PATIENCE = 30.0  # seconds; nothing waits so long unless it is broken
MODEL = {"id": "tiny", "object": "model", "created": 1, "owned_by": "us", "root": "tiny", "parent": None}


@dataclass
class Say:
    """One answer: a text, and all that may be unusual about it."""

    text: str = "42"
    tokens: int = 10
    finish: str = "stop"
    tool_calls: list[dict[str, Any]] | None = None
    logprob: float = -0.5  # of each token
    status: int = 200
    raw: bytes | None = None  # the body, in place of a completion
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False  # off in the middle of the body
    seconds: float = 0.0
    hold: bool = False  # until released
    pauses: bool = False  # in the middle of a stream, until released
    stop_reason: str | None = None
    choices: list[str] | None = None  # several texts in one response


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Running:
    """An ASGI application served by a thread."""

    def __init__(self, app: Any, lifespan: Literal["on", "off"] = "off") -> None:
        self.app = app
        self._lifespan: Literal["on", "off"] = lifespan
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.app, log_level="critical", lifespan=self._lifespan, timeout_graceful_shutdown=1, backlog=1024
        )
        ready = threading.Event()
        self._server = _Server(config, ready)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([listener])), daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE), "the server did not start"
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not stop"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


class Upstream(Running):
    """Answers ``script`` one by one, then what ``default`` makes of the request's body."""

    def __init__(self, *script: Say, default: Callable[[dict[str, Any]], Say] = lambda body: Say()) -> None:
        super().__init__(self)
        self.script = list(script)
        self.default = default
        self.seen: list[Seen] = []
        self.running = self.most_running = self.cancelled = 0
        self.others = self.waiting = 0  # requests from elsewhere, as /metrics tells
        self._changed = threading.Condition()
        self._released = threading.Event()

    # --- for the test ---

    def stop(self) -> None:
        """As kill would: connections break off."""
        self._server.force_exit = True
        super().stop()

    @property
    def drawn(self) -> list[Seen]:
        """The requests for completions."""
        return [seen for seen in self.seen if seen.path.endswith("completions")]

    def release(self) -> None:
        """Let the held answers go."""
        self._released.set()

    def wait(self, condition: Callable[[Upstream], bool]) -> None:
        """Until something is so."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), PATIENCE), vars(self)

    # --- serving ---

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen = Seen(scope["method"], scope["path"], scope["query_string"].decode(), headers, b"".join(parts))
        if seen.path == "/v1/models":
            await _send(send, 200, json.dumps({"object": "list", "data": [MODEL]}).encode())
            return
        if seen.path == "/metrics":
            lines = (
                f'vllm:num_requests_running{{engine="0"}} {self.others}.0\nvllm:num_requests_waiting {self.waiting}.0\n'
            )
            await _send(send, 200, lines.encode())
            return
        with self._changed:
            self.seen.append(seen)
            number = len(self.seen)
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            say = self.script.pop(0) if self.script else self.default(_read(seen.raw))
            self._changed.notify_all()
        work = asyncio.ensure_future(self._say(say, seen, number, send))
        gone = asyncio.ensure_future(_gone(receive))
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        with self._changed:
            self.running -= 1
            self.cancelled += not work.done()
            self._changed.notify_all()
        for task in (work, gone):
            task.cancel()
        results = await asyncio.gather(work, gone, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _until_released(self) -> None:
        while not self._released.is_set():
            await asyncio.sleep(0.005)

    async def _say(self, say: Say, seen: Seen, number: int, send: Any) -> None:
        if say.hold:
            await self._until_released()
        if say.seconds:
            await asyncio.sleep(say.seconds)
        body = _read(seen.raw)
        if say.raw is None and say.status == 200 and body.get("stream"):
            await self._stream(say, seen, body, number, send)
            return
        raw = say.raw if say.raw is not None else json.dumps(completion(say, seen, body, number)).encode()
        if say.breaks:
            pairs = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
            await send({"type": "http.response.start", "status": say.status, "headers": pairs})
            await send({"type": "http.response.body", "body": raw[: len(raw) // 2], "more_body": True})
            raise ConnectionError("broken off, as told")
        await _send(send, say.status, raw, say.headers)

    async def _stream(self, say: Say, seen: Seen, body: dict[str, Any], number: int, send: Any) -> None:
        chat = seen.path.endswith("chat/completions")
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = {"id": f"chatcmpl-{number}", "object": kind, "created": 1, "model": body["model"]}
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
        await send(start)
        pieces = chunks(say, body, chat=chat)
        for i, choice in enumerate(pieces):
            await _event(send, {**head, "choices": [choice]})
            if say.breaks:
                raise ConnectionError("broken off, as told")
            if say.pauses and i == len(pieces) // 2:
                await self._until_released()
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = completion(say, seen, body, number)["usage"]
            await _event(send, {**head, "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def chunks(say: Say, body: dict[str, Any], *, chat: bool) -> list[dict[str, Any]]:
    """The choices of a stream's chunks, a character each, as vLLM would write them."""
    end = {"finish_reason": say.finish, "stop_reason": say.stop_reason}
    if not chat:
        return [{"index": 0, "text": c, "logprobs": None, "finish_reason": None} for c in say.text] + [
            {"index": 0, "text": "", "logprobs": None, **end}
        ]
    found: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}}]
    for c in say.text if not say.tool_calls else "":
        found.append({"delta": {"content": c}})
        if body.get("logprobs"):
            token = {"token": c, "logprob": say.logprob, "bytes": list(c.encode()), "top_logprobs": []}
            found[-1]["logprobs"] = {"content": [token]}
    for i, call in enumerate(say.tool_calls or ()):
        named, arguments = {**call["function"], "arguments": ""}, call["function"]["arguments"]
        found.append({"delta": {"tool_calls": [{"index": i, **call, "function": named}]}})
        found += [{"delta": {"tool_calls": [{"index": i, "function": {"arguments": c}}]}} for c in arguments]
    found.append({"delta": {}, **end})
    return [{"index": 0, "logprobs": None, "finish_reason": None, **one} for one in found]


async def _event(send: Any, document: dict[str, Any]) -> None:
    body = f"data: {json.dumps(document)}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})


def completion(say: Say, seen: Seen, body: dict[str, Any], number: int) -> dict[str, Any]:
    """As vLLM would write it."""
    if say.status != 200:
        return {
            "error": {"message": f"told to fail with {say.status}", "type": "Told", "param": None, "code": say.status}
        }
    chat = seen.path.endswith("chat/completions")
    top = [{"token": say.text, "logprob": say.logprob}] if body.get("top_logprobs") else []
    tokens = [{"token": say.text, "logprob": say.logprob, "bytes": list(say.text.encode()), "top_logprobs": top}]
    choice: dict[str, Any] = {
        "index": 0, "finish_reason": say.finish, "stop_reason": say.stop_reason, "logprobs": None,
    }  # fmt: skip
    if chat:
        choice["message"] = {
            "role": "assistant", "content": None if say.tool_calls else say.text, "refusal": None,
            "tool_calls": say.tool_calls or [],
        }  # fmt: skip
        if body.get("logprobs"):
            choice["logprobs"] = {"content": tokens}
    else:
        choice["text"] = say.text
        if body.get("logprobs") is not None:
            choice["logprobs"] = {
                "tokens": [say.text],
                "token_logprobs": [say.logprob],
                "top_logprobs": [],
                "text_offset": [0],
            }
    choices = [choice]
    for text in say.choices or ():
        other = json.loads(json.dumps(choice)) | ({} if chat else {"text": text}) | {"index": len(choices) - 1}
        if chat:
            other["message"]["content"] = text
        choices.append(other)
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{number}",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": body.get("model"),
        "choices": choices[1:] or choices,
        "usage": {
            "prompt_tokens": 7, "completion_tokens": say.tokens, "total_tokens": 7 + say.tokens,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }  # fmt: skip


async def _send(send: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    given = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _read(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


class Front(Running):
    """A gateway before upstreams."""

    def __init__(self, *upstreams: Upstream, **config: Any) -> None:
        limits = {"backoff_s": 0.01, "health_s": 0.2, **config.pop("limits", {})}
        urls = [{"url": upstream.url} for upstream in upstreams]
        self.gateway = Gateway(GatewayConfig.of({"upstreams": urls, "limits": limits, **config}))
        super().__init__(self.gateway, lifespan="on")

    def start(self) -> Self:
        super().start()
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)
        return self

    def stop(self) -> None:
        self.http.close()
        super().stop()

    def chat(self, model: str = "tiny:optscale", question: str = "?", **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": question}]
        return self.http.post("/v1/chat/completions", json={"model": model, "messages": messages, **body})

    def decided(self, *, status: int = 200, **body: Any) -> dict[str, Any]:
        """The answer, checked."""
        answer = self.chat(**body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def idle(self) -> None:
        """Nothing is left behind: no permit is held, no upstream is at work, no connection is in use."""
        patience = time.monotonic() + PATIENCE
        while held := self._held():  # the answer is read before the gateway has put everything away
            assert time.monotonic() < patience, held
            time.sleep(0.002)

    def _held(self) -> list[str]:
        upstreams = self.gateway.upstreams
        held = [f"{self.gateway.active} requests"] if self.gateway.active else []
        if upstreams.permits._value != self.gateway.config.limits.concurrency:
            held.append(f"{upstreams.permits._value} permits left")
        for upstream in upstreams.all:
            session = upstream.server._session
            if upstream.running or (session is not None and session.connector._acquired):  # type: ignore[union-attr]
                held.append(f"{upstream.url} is in use")
        return held


@contextmanager
def serving(*upstreams: Upstream, **config: Any) -> Generator[Front]:
    """Upstreams, and a gateway before them."""
    for upstream in upstreams:
        upstream.start()
    front = Front(*upstreams, **config)
    try:
        front.start()
        yield front
    finally:
        front.stop()
        for upstream in upstreams:
            upstream.release()
            if upstream._thread.is_alive():
                upstream.stop()


VOTES = {"rule": "adaptive_consistency", "settings": {"threshold": 0.9}, "max_samples": 16}
