"""The inference servers behind the gateway: which of them serves a model, which is well, which has least to do."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from suffice.adapters.openai import Headers, OpenAIServer, Reply, Stream, Unreachable, as_json
from suffice.adapters.vllm import Load

from .drawing import DrawFailed, Refused
from .gateway_config import LimitsConfig, UpstreamConfig

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # another try may be answered otherwise
LONGEST_WAIT = 10.0  # seconds before a retry
log = logging.getLogger("suffice.gateway")


@dataclass(eq=False)
class Upstream:
    """One inference server, as the gateway sees it."""

    server: OpenAIServer
    fixed: bool  # its models are given by the configuration
    models: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    well: bool = True
    running: int = 0
    others: int = 0  # requests at it that are not from here, as far as it tells: at work, or queued
    queued: bool = False  # whether it says that requests wait

    @property
    def url(self) -> str:
        return self.server.url

    def serves(self, model: str | None) -> bool:
        """Whether it serves a model, as far as is known."""
        return model is None or not self.models or model in self.models

    @contextmanager
    def busier(self) -> Generator[None]:
        """With one more request at it."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


class NoUpstream(DrawFailed):
    """None could be reached, or every answer was an error; ``reply`` is the last one."""

    def __init__(self, message: str, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.reply = reply


class Upstreams:
    """All of them."""

    def __init__(self, configs: Sequence[UpstreamConfig], limits: LimitsConfig) -> None:
        self.limits = limits
        self.all = [self._upstream(config) for config in configs]
        self.permits = asyncio.Semaphore(limits.concurrency)
        self._turn = 0

    def _upstream(self, config: UpstreamConfig) -> Upstream:
        seconds = {"connect_seconds": self.limits.connect_s, "read_seconds": self.limits.read_s}
        server = OpenAIServer(config.url, config.api_key, **seconds)
        models = {name: {"id": name, "object": "model"} for name in config.models or ()}
        return Upstream(server, bool(models), models)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Look after their health until the end, then close all connections."""
        await self._look()
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            for upstream in self.all:
                await upstream.server.close()

    # --- which ---

    def choose(self, model: str | None, tried: Collection[Upstream] = ()) -> Upstream:
        """The one with least to do among those that serve the model and are well; the next best where there is none."""
        self._turn += 1
        order = self.all[self._turn % len(self.all) :] + self.all[: self._turn % len(self.all)]
        serving = [u for u in order if u.serves(model)] or order
        fresh = [u for u in serving if u not in tried] or serving
        return min(fresh, key=lambda u: (not u.well, u.running + u.others))

    def models(self) -> dict[str, dict[str, Any]]:
        """The models that are served, with their entries of /v1/models."""
        return {name: entry for upstream in reversed(self.all) for name, entry in upstream.models.items()}

    @property
    def busy(self) -> bool:
        """Whether requests wait: here for a permit, or at every upstream that is well."""
        well = [u for u in self.all if u.well]
        return self.permits.locked() or (bool(well) and all(u.queued for u in well))

    # --- use ---

    @asynccontextmanager
    async def open(
        self, method: str, path: str, body: bytes | None, headers: Headers, model: str | None
    ) -> AsyncGenerator[Stream]:
        """A request to be passed through. It goes to another upstream only where the first never saw it."""
        tried: list[Upstream] = []
        async with AsyncExitStack() as stack:
            while True:
                upstream = self.choose(model, tried)
                tried.append(upstream)
                attempt = await stack.enter_async_context(AsyncExitStack())
                attempt.enter_context(upstream.busier())
                try:
                    stream = await attempt.enter_async_context(upstream.server.open(method, path, body, headers))
                    break
                except Unreachable as error:
                    await attempt.aclose()
                    upstream.well = upstream.well and error.sent
                    if error.sent or len(tried) >= len(self.all):
                        raise
            yield stream

    async def post(
        self, path: str, body: bytes, headers: Headers, model: str | None, on_sent: Callable[[], object]
    ) -> Reply:
        """A draw's whole answer, after as many tries as the limits allow; ``on_sent`` is called at each.

        Raises Refused for an answer that says the request is wrong, NoUpstream where nobody gave a good one.
        """
        tried: list[Upstream] = []
        while True:
            async with AsyncExitStack() as attempt:
                came = await self._begin(attempt, tried, path, body, headers, model, on_sent)
                if isinstance(came, Stream):
                    try:
                        return await came.read()
                    except Unreachable as error:
                        came = error
            await self._again(came, tried, model)

    @asynccontextmanager
    async def stream(
        self, path: str, body: bytes, headers: Headers, model: str | None, on_sent: Callable[[], object]
    ) -> AsyncGenerator[Stream]:
        """A draw's answer as it comes, tried again like ``post`` until one begins.

        Raises Refused and NoUpstream like ``post``; what breaks off later is Unreachable.
        """
        tried: list[Upstream] = []
        while True:
            async with AsyncExitStack() as attempt:
                came = await self._begin(attempt, tried, path, body, headers, model, on_sent)
                if isinstance(came, Stream):
                    yield came
                    return
            await self._again(came, tried, model)

    async def _begin(
        self,
        attempt: AsyncExitStack,
        tried: list[Upstream],
        path: str,
        body: bytes,
        headers: Headers,
        model: str | None,
        on_sent: Callable[[], object],
    ) -> Stream | Reply | Unreachable:
        """A good answer's beginning; it holds a permit while ``attempt`` is open. Or what came in its place."""
        upstream = self.choose(model, tried)
        tried.append(upstream)
        await attempt.enter_async_context(self.permits)
        on_sent()
        attempt.enter_context(upstream.busier())
        try:
            stream = await attempt.enter_async_context(upstream.server.open("POST", path, body, as_json(headers)))
            return stream if stream.status < 400 else await stream.read()
        except Unreachable as error:
            if not error.sent and upstream.well:
                upstream.well = False
                log.warning("upstream %s is down: %s", upstream.url, error)
            return error

    async def _again(self, came: Reply | Unreachable, tried: Sequence[Upstream], model: str | None) -> None:
        """Wait until it makes sense to try again. Raises Refused or NoUpstream where it does not."""
        if isinstance(came, Reply) and came.status not in PASSING:
            raise Refused(came)
        attempt = len(tried) - 1
        if attempt >= self.limits.retries:
            raise _failed(came)
        # Another upstream can be asked at once.
        if isinstance(came, Reply) or self.choose(model, tried) in tried:
            await asyncio.sleep(self._pause(attempt, came))

    def _pause(self, attempt: int, failed: Reply | Unreachable) -> float:
        """Seconds before the next try: as told, or twice as long each time, and never the same for all."""
        seconds: float = self.limits.backoff_s * 2.0**attempt * random.uniform(0.5, 1.5)
        if isinstance(failed, Reply):
            told = failed.headers.get("Retry-After", "")
            seconds = max(seconds, float(told)) if told.isdigit() else seconds
        return min(seconds, LONGEST_WAIT)

    # --- health ---

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.limits.health_s)
            await self._look()

    async def _look(self) -> None:
        await asyncio.gather(*(self._visit(upstream) for upstream in self.all))

    async def _visit(self, upstream: Upstream) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_s):
                entries = await upstream.server.models()
                await self._weigh(upstream)
        except (Unreachable, TimeoutError) as error:
            if upstream.well:
                log.warning("upstream %s is not well: %s", upstream.url, str(error) or "no answer in time")
            upstream.well = False
            return
        if not upstream.well:
            log.warning("upstream %s is back", upstream.url)
        upstream.well = True
        if not upstream.fixed:
            upstream.models = {entry["id"]: entry for entry in entries}

    async def _weigh(self, upstream: Upstream) -> None:
        """How much it has to do besides, if it is a vLLM that says so."""
        reply = await upstream.server.request("GET", "/metrics")
        load = Load.of(reply.body) if reply.status == 200 else None
        upstream.others = max(load.running + load.waiting - upstream.running, 0) if load else 0
        upstream.queued = load is not None and load.waiting > 0


def _failed(came: Reply | Unreachable) -> NoUpstream:
    if isinstance(came, Reply):
        return NoUpstream(f"the upstream answered {came.status}", came)
    return NoUpstream(str(came))
