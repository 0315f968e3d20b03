"""The service: `create_app` puts its parts together, `serve` runs it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool

from . import errors, events, studies, trials
from .database import Database, migrate
from .definitions import Definitions
from .deps import Parts, PartsDep, Router
from .engine import Engine
from .leases import Leases
from .settings import Settings
from .store import Store, now
from .wire import Health, ProblemOut

VERSION = version("suffice")
STOP_SECONDS = 5  # that requests get to end when the service stops
log = logging.getLogger("suffice.api")
health = Router(tags=["service"])


def create_app(settings: Settings | None = None, clock: Callable[[], datetime] = now) -> FastAPI:
    """The service as an ASGI application. ``clock`` decides when leases expire."""
    settings = settings or Settings()
    database = Database(settings.database)
    parts = Parts(
        settings=settings,
        store=Store(database, clock),
        leases=Leases(database, clock),
        engine=Engine(settings.database, settings.workers, settings.worker_threads),
        definitions=Definitions(),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        await run_in_threadpool(migrate, database)
        async with parts.engine.running():
            sweeper = asyncio.create_task(_sweep(parts))
            try:
                yield
            finally:
                sweeper.cancel()
        database.close()

    app = FastAPI(
        title="Suffice",
        version=VERSION,
        summary="Decides how much is enough: what to try next, and when to stop.",
        lifespan=lifespan,
    )
    app.state.parts = parts
    for router in (studies.router, trials.router, events.router, health):
        app.include_router(router)
    errors.install(app)
    _describe_problems(app)
    return app


@health.get("/healthz", summary="Is the process alive?")
async def healthz(parts: PartsDep) -> Health:
    return _health(parts)


@health.get("/readyz", responses={503: {"model": Health}}, summary="Can it take work?")
def readyz(parts: PartsDep, response: Response) -> Health:
    """The database answers, and an engine worker is ready (503 until then)."""
    parts.store.studies(None, 1)
    found = _health(parts)
    if found.status != "ok":
        response.status_code = 503
    return found


def _health(parts: Parts) -> Health:
    alive, wanted = len(parts.engine.alive), parts.settings.workers
    return Health(
        status="ok" if alive or not wanted else "starting", version=VERSION, workers=alive, workers_wanted=wanted
    )


async def _sweep(parts: Parts) -> None:
    """Take back expired leases now and then, also while nobody asks."""
    while True:
        await asyncio.sleep(parts.settings.sweep_seconds)
        try:
            for study_id in await run_in_threadpool(parts.leases.sweep):
                parts.engine.wake(study_id)
        except Exception:  # a full disk, a lost connection: it may work the next time
            log.exception("expired leases could not be swept")


def _describe_problems(app: FastAPI) -> None:
    """Put the shape of problems into the OpenAPI document; FastAPI would describe an error body that is not ours."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        problem = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["ProblemOut"] = problem
        return document

    app.openapi = openapi  # type: ignore[method-assign]


# --- running it -------------------------------------------------------------------------------------------------------


def serve(settings: Settings) -> None:
    """Run the service until it is told to stop. Prints its address, and a line when it is ready."""
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    _say(f"http://{host}:{listener.getsockname()[1]}")
    app = create_app(settings)
    config = uvicorn.Config(app, log_level=settings.log_level, access_log=False, timeout_graceful_shutdown=STOP_SECONDS)
    with suppress(KeyboardInterrupt):
        _Server(config, app.state.parts.engine).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Uvicorn, saying when it is ready, and letting go of those who wait when it stops."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _say("ready")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.close()
        super().handle_exit(sig, frame)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
