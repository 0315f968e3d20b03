"""The service for its own tests: the real application on a real socket in a thread, or `suffice serve` as a process."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from suffice.api.app import Server, create_app
from suffice.api.engine import WORKER
from suffice.api.settings import Settings

PATIENCE = 60.0  # seconds; nothing waits so long unless it is broken

BRANIN = {
    "parameters": [
        {"name": "x1", "type": "float", "low": -5, "high": 10},
        {"name": "x2", "type": "float", "low": 0, "high": 15},
    ],
    "objectives": [{"metric": "loss"}],
    "seed": 0,
}


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Caller:
    """Requests to a service, whose answers' status is checked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=PATIENCE)

    def call(self, method: str, path: str, body: Any = None, *, status: int | None = None, **options: Any) -> Any:
        """The JSON of the answer."""
        answer = self.http.request(method, path, json=body, **options)
        expected = answer.is_success if status is None else answer.status_code == status
        assert expected, f"{answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def study(self, name: str, **fields: Any) -> str:
        """Create a study (of Branin's parameters unless told otherwise); its path."""
        self.call("POST", "/v1/studies", {"name": name, **BRANIN, **fields}, status=201)
        return f"/v1/studies/{name}"

    def ask(self, study: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        answer = self.call("POST", f"{study}/ask", {"count": count, "max_wait_s": PATIENCE, **fields}, status=201)
        trials: list[dict[str, Any]] = answer["trials"]
        return trials

    def stopped(self, study: str, **fields: Any) -> dict[str, Any]:
        """Why an ask was answered with stop."""
        answer = self.call("POST", f"{study}/ask", {"max_wait_s": PATIENCE, **fields}, status=200)
        stop: dict[str, Any] = answer["stop"]
        return stop

    def tell(self, study: str, trial: dict[str, Any], value: float, **options: Any) -> Any:
        body = {"lease_token": trial["lease"]["token"], "measurements": [{"metric": "loss", "value": value}]}
        return self.call("POST", f"{study}/trials/{trial['number']}/tell", body, **options)


class Service(Caller):
    """A service in this process."""

    def __init__(self, app: FastAPI, url: str, clock: Clock) -> None:
        super().__init__(url)
        self.parts = app.state.parts
        self.clock = clock


@contextmanager
def serving(folder: Path, worker: Sequence[str] = WORKER, **settings: Any) -> Generator[Service]:
    """A service on a database in ``folder``; ``worker`` starts its engine workers."""
    clock = Clock()
    app = create_app(Settings(database=f"sqlite:///{folder / 'suffice.db'}", **settings), clock, worker)
    ready = threading.Event()
    server = Server(app, ready.set)
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        service = Service(app, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", clock)
        with service.http:
            yield service
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


class Process(Caller):
    """`suffice serve` as a process."""

    def __init__(self, folder: Path, *flags: str) -> None:
        database = f"sqlite:///{folder / 'suffice.db'}"
        command = [sys.executable, "-m", "suffice.api.cli", "serve", "--port", "0", "--database", database, *flags]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        super().__init__(self.popen.stdout.readline().strip())
        assert self.popen.stdout.readline() == "ready\n"

    def children(self) -> list[int]:
        """The engine workers' process ids."""
        return [int(pid) for pid in Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()]

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.http.close()
        self.popen.send_signal(sign)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return self.popen.wait(PATIENCE)


def ending(pid: int) -> Callable[[], bool]:
    """For a process that runs now: a function that waits for its end, and says whether it came."""
    fd = os.pidfd_open(pid)

    def ended() -> bool:
        try:
            return bool(select.select([fd], [], [], PATIENCE)[0])
        finally:
            os.close(fd)

    return ended
