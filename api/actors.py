"""Engine workers on a Ray cluster: each does jobs by having the actor of the job's study do them.

The actors run the same `worker.Worker` as the local processes do. `suffice.adapters.ray_cluster` knows Ray, and here is
what they compute.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from .workers import EngineWorker, Hire

if TYPE_CHECKING:
    from suffice.adapters.ray_cluster import StudyActors

IDLE_SECONDS = 120.0  # after which a study's actor ends

log = logging.getLogger("suffice.engine")


class Answering:
    """Made on the driver, called in an actor: opens the database there, and answers jobs."""

    def __init__(self, database: str) -> None:
        self._database = database

    def __call__(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        from .database import Database
        from .store import Store
        from .worker import Worker, answer

        worker = Worker(Store(Database(self._database)))
        return lambda job: answer(worker, job)


class ActorWorker:
    """One job at a time for the engine, on the cluster: as many jobs are done at once as there are of these."""

    _ids = count(1)

    def __init__(self, actors: StudyActors) -> None:
        self._actors = actors
        self._study: int | None = None
        self.id = next(self._ids)

    async def start(self) -> bool:
        try:
            await asyncio.to_thread(self._actors.connect)
        except (ConnectionError, RuntimeError) as error:
            log.error("the Ray cluster cannot be reached: %s", error)
            return False
        return True

    async def do(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        self._study = job["study"]
        try:
            return await self._actors.run(job["study"], dict(job))
        finally:
            self._study = None
            self._actors.evict(IDLE_SECONDS)

    async def gone(self) -> None:
        await asyncio.Event().wait()  # an actor that dies is started again when the next job comes

    def kill(self) -> None:
        if self._study is not None:
            self._actors.kill(self._study)

    async def end(self) -> None:
        self._actors.evict(IDLE_SECONDS)


def on_ray(database: str, address: str | None) -> Hire:
    """Workers on the cluster at ``address``; None: on a Ray of this machine."""
    from suffice.adapters.ray_cluster import StudyActors

    label = "study-" + hashlib.sha256(database.encode()).hexdigest()[:8]  # several services may share a cluster
    actors = StudyActors(address, label, Answering(database))

    def hire(_aside: bool) -> EngineWorker:
        return ActorWorker(actors)

    return hire
