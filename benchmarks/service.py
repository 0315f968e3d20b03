"""`suffice serve` as a process for the benchmarks, on a database of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx

HARTMANN = {
    "parameters": [{"name": f"x{i}", "type": "float", "low": 0, "high": 1} for i in range(6)],
    "objectives": [{"metric": "loss"}],
    "seed": 0,
}
_A = [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
_P = [
    [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
    [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
    [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
    [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
]


def hartmann(parameters: dict[str, float]) -> float:
    """Hartmann's function of six variables, whose minimum is -3.32."""
    from math import exp

    x = [parameters[f"x{i}"] for i in range(6)]
    exponents = [sum(a * (v - p) ** 2 for a, v, p in zip(A, x, P, strict=True)) for A, P in zip(_A, _P, strict=True)]
    return -sum(weight * exp(-e) for weight, e in zip((1.0, 1.2, 3.0, 3.2), exponents, strict=True))


class Served:
    """A running service; `start` it again after `kill`, on the same port and database."""

    def __init__(self, folder: Path, *flags: str, database: str | None = None, program: str | None = None) -> None:
        """On a database in ``folder`` unless told otherwise; ``program`` is Python that takes its port and address."""
        self.database = database or f"sqlite:///{folder / 'suffice.db'}"
        self.flags = flags
        self._program = program
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (folder / f"service-{self.port}.log").open("a")

    def start(self) -> float:
        """Seconds until it takes requests."""
        began = time.perf_counter()
        serve = ["-m", "suffice.api.cli", "serve", "--port", str(self.port), *self.flags, "--database", self.database]
        own = None if self._program is None else ["-c", self._program, str(self.port), self.database]
        command = [sys.executable, *(own or serve)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline(), self.process.stdout.readline()]
        if lines[1] != "ready\n":
            raise SystemExit(f"the service did not start; see {self.log.name}")
        return time.perf_counter() - began

    def until_ready(self) -> float:
        """Seconds until an engine worker is ready, too."""
        began = time.perf_counter()
        while httpx.get(f"{self.url}/readyz").status_code != 200:
            time.sleep(0.01)
        return time.perf_counter() - began

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(sign)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)
        self.log.close()


def call(http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    """The JSON of a successful answer."""
    answer = http.request(method, path, json=body)
    answer.raise_for_status()
    return answer.json()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
