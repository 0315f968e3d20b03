"""The real service on a real socket, in a thread of the test process: it can be watched, disturbed and restarted."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import uvicorn

from suffice.api.app import create_app
from suffice.api.settings import Settings
from suffice.api.store import now

PATIENCE = 60.0  # seconds until a test that waits in vain gives up


class Clock:
    """The service's time, which only moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Withheld:
    """An answer that the service has, and gives when it may."""

    def __init__(self) -> None:
        self.done, self.answer = threading.Event(), threading.Event()


class Watched:
    """An ASGI application whose requests are counted, and some of whose answers go wrong as told."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: list[str] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []  # status and headers instead of doing anything
        self.losing: list[str] = []  # paths' ends: done, but answered 502 as a proxy would that lost the answer
        self.withheld: dict[str, Withheld] = {}  # paths' ends: done, but not answered yet
        self._changed = threading.Condition()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self._changed:
            self.seen.append(f"{scope['method']} {scope['path']}")
            self._changed.notify_all()
        if self.refusals:
            await _answer(send, *self.refusals.pop(0))
        elif lost := next((end for end in self.losing if scope["path"].endswith(end)), None):
            self.losing.remove(lost)
            await self.app(scope, receive, _nowhere)
            await _answer(send, 502, {})
        elif held := next((how for end, how in self.withheld.items() if scope["path"].endswith(end)), None):
            messages: list[Any] = []

            async def keep(message: Any) -> None:
                messages.append(message)

            await self.app(scope, receive, keep)
            held.done.set()
            await asyncio.to_thread(held.answer.wait, PATIENCE)
            for message in messages:
                await send(message)
        else:
            await self.app(scope, receive, send)

    def wait_for(self, end: str, count: int = 1) -> None:
        """Until so many requests to paths with that end were seen."""
        with self._changed:
            found = self._changed.wait_for(lambda: self.count(end) >= count, PATIENCE)
        assert found, f"{count} requests to {end} never came: {self.seen}"

    def count(self, end: str) -> int:
        return sum(seen.endswith(end) for seen in self.seen)


async def _nowhere(_message: Any) -> None:
    pass


async def _answer(send: Callable[[Any], Any], status: int, headers: dict[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": b"busy"})


class Server:
    """The service on a free loopback port; ``workers=0`` hands out queued points only, and needs no torch."""

    def __init__(self, folder: Path, *, workers: int = 0, clock: Clock | None = None, app: Any = None) -> None:
        self._settings = Settings(database=f"sqlite:///{folder}/test.db", workers=workers)
        self._clock = clock
        self._given = app
        self._port = 0
        self.watched = Watched(None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Take requests, on the same port as before."""
        self.watched.app = self._given or create_app(self._settings, self._clock or now)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.watched, log_level="error", timeout_graceful_shutdown=1, lifespan="off" if self._given else "on"
        )
        ready = threading.Event()
        self._server = _Server(config, ready)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([listener])), daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE), "the service did not start"

    def stop(self) -> None:
        """Stop, as SIGTERM would."""
        if not self._given:
            self.watched.app.state.parts.engine.close()  # whoever waits there is let go
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the service did not stop"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()
