"""Engine workers as processes of the service: started, given jobs as lines of JSON, ended (see `worker.py`)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

WORKER = (sys.executable, "-m", "suffice.api.worker")
JOB_SECONDS = 300.0  # after which a worker counts as stuck
PATIENCE = 2.0  # seconds a worker gets to end by itself
LINE_LIMIT = 2**26  # bytes of one answer

log = logging.getLogger("suffice.engine")


class EngineWorker(Protocol):
    """Someone who does one job at a time for the engine."""

    async def start(self) -> bool:
        """Whether it got ready for jobs."""
        ...

    async def do(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to a job, as `worker.answer` has it; None when it died over the job."""
        ...

    async def gone(self) -> None:
        """Wait until it died."""
        ...

    def kill(self) -> None:
        """End it, whatever it is doing."""
        ...

    async def end(self) -> None:
        """It is not needed any more, or died."""
        ...

    @property
    def id(self) -> int: ...


Hire = Callable[[bool], EngineWorker]  # a new worker, or one for what is done aside


class WorkerProcess:
    """A process that computes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process
        self._reply: asyncio.Future[bytes]

    async def start(self) -> bool:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment},
            limit=LINE_LIMIT,
        )
        assert self._process.stdout is not None
        if not await self._process.stdout.readline():
            log.error("an engine worker did not start (exit status %s)", await self._process.wait())
            return False
        self._listen()
        return True

    def _listen(self) -> None:
        """Wait for the next line, which is the answer to the next job; its end without one is the worker's."""
        assert self._process.stdout is not None
        self._reply = asyncio.ensure_future(self._process.stdout.readline())

    async def do(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        line = await _within(JOB_SECONDS, self._reply)
        if not line:
            return None
        self._listen()
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def gone(self) -> None:
        await self._process.wait()

    def kill(self) -> None:
        self._process.kill()

    async def end(self) -> None:
        """Close its input, at which it exits; kill it if it does not."""
        if hasattr(self, "_reply"):
            self._reply.cancel()
        if not hasattr(self, "_process"):
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(TimeoutError):
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._process.wait()
            finally:  # also when the service stops meanwhile
                if self._process.returncode is None:
                    self._process.kill()
                    await self._process.wait()

    @property
    def id(self) -> int:
        """The process id."""
        return self._process.pid


def processes(database: str, threads: int, program: Sequence[str] = WORKER) -> Hire:
    """Workers on ``database``, each with so many threads for linear algebra; ``program`` runs one."""
    environment = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    return lambda aside: WorkerProcess([*program, database, *(["aside"] if aside else [])], environment)


async def _within(seconds: float, reply: asyncio.Future[bytes]) -> bytes:
    """The reply; nothing if it does not come in time, as if the worker had died."""
    try:
        return await asyncio.wait_for(reply, seconds)
    except TimeoutError:
        return b""
