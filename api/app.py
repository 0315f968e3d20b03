"""The service: `create_app` puts its parts together, `serve` runs it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from starlette.routing import Match, Route

from suffice.optimizer import InvalidInput

from . import calibration_routes, errors, events, samplings, studies, trials
from .calibrating import Fitting
from .calibration_store import CalibrationStore
from .database import Database, migrate
from .definitions import Definitions
from .deps import Parts, PartsDep, Router
from .engine import Engine
from .leases import Leases
from .replicas import Replicas
from .sampling_store import SamplingStore
from .settings import Settings
from .store import Store, now
from .wire import Health, ProblemOut
from .workers import WORKER, processes

if TYPE_CHECKING:
    from .gateway import Gateway

VERSION = version("suffice")
OWN_PATHS = ("/v1/studies", "/v1/samplings", "/v1/calibrations")
GATEWAY_PATHS = ("/v1/{path:path}", "/optscale/v1/{path:path}", "/metrics")
STOP_SECONDS = 5  # that requests get to end when the service stops
log = logging.getLogger("suffice.api")
health = Router(tags=["service"])


def create_app(
    settings: Settings | None = None, clock: Callable[[], datetime] = now, worker: Sequence[str] = WORKER
) -> FastAPI:
    """The service as an ASGI application. ``clock`` decides when leases expire, ``worker`` starts an engine worker."""
    settings = settings or Settings()
    database = Database(settings.database)
    calibrations = CalibrationStore(database, clock)
    parts = Parts(
        settings=settings,
        store=Store(database, clock),
        leases=Leases(database, clock),
        engine=Engine(
            settings.workers,
            processes(settings.database, settings.worker_threads, worker),
            Replicas(settings.database) if database.postgresql else None,
        ),
        definitions=Definitions(),
        samplings=SamplingStore(database, calibrations, clock),
        calibrations=calibrations,
        fitting=Fitting(),
    )

    gateway = _gateway(settings)
    if gateway is not None and gateway.config.calibrations is None:
        _share(calibrations, gateway)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        await run_in_threadpool(migrate, database)
        async with parts.engine.running(), nullcontext() if gateway is None else gateway.running():
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
    for module in (studies, trials, events, samplings, calibration_routes):
        app.include_router(module.router)
    app.include_router(health)
    if gateway is not None:
        app.router.routes += [GatewayRoute(path, gateway) for path in GATEWAY_PATHS]
    errors.install(app)
    _describe_problems(app)
    return app


def _gateway(settings: Settings) -> Gateway | None:
    """The gateway, where the settings have upstreams for one. Raises InvalidInput."""
    if settings.gateway_config is None and settings.upstream is None:
        if settings.verifier is not None:
            raise InvalidInput("verifier", "none without an upstream", settings.verifier)
        return None
    from .gateway import Gateway  # not at the top: a service without one does not load it
    from .gateway_config import GatewayConfig

    if settings.gateway_config is None:
        return Gateway(GatewayConfig.brief(settings.upstream or "", settings.verifier))
    for name in ("upstream", "verifier"):
        if (given := getattr(settings, name)) is not None:
            raise InvalidInput(name, "none beside gateway_config, which has its own", given)
    return Gateway(GatewayConfig.read(settings.gateway_config))


def _share(calibrations: CalibrationStore, gateway: Gateway) -> None:
    """Have a gateway that has no folder of calibrations use the service's."""
    from .service_calibrations import ServiceCalibrations

    gateway.calibrations = ServiceCalibrations(calibrations)


class GatewayRoute(Route):
    """What the service has no path of its own for."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        if scope["path"].startswith(OWN_PATHS):
            return Match.NONE, {}
        return super().matches(scope)


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
    """Put the shape of problems into the OpenAPI document, and take out what FastAPI says errors look like."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for operations in document["paths"].values():
            for operation in operations.values():
                if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                    del operation["responses"]["422"]
        problem = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["ProblemOut"] = problem
        return document

    app.openapi = openapi  # type: ignore[method-assign]


# --- running it -------------------------------------------------------------------------------------------------------


def serve(settings: Settings) -> None:
    """Run the service until it is told to stop. Prints its address, and a line when it is ready."""
    _run(create_app(settings), settings)


def serve_gateway(settings: Settings) -> None:
    """Run the gateway alone, in the same way. Raises InvalidInput where it has no upstream."""
    gateway = _gateway(settings)
    if gateway is None:
        raise InvalidInput("upstream", "the address of an inference server", None)
    _run(gateway, settings)


def _run(app: FastAPI | Gateway, settings: Settings) -> None:
    listener = _listen(settings)
    with suppress(KeyboardInterrupt):
        Server(app, lambda: _say("ready"), log_level=settings.log_level).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms an answer) off only where the protocol is named.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        sys.exit(f"suffice: cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    _say(f"http://{host}:{listener.getsockname()[1]}")
    return listener


class Server(uvicorn.Server):
    """Uvicorn, saying when it is ready, and letting go of those who wait when it stops."""

    def __init__(self, app: FastAPI | Gateway, on_ready: Callable[[], object], log_level: str = "warning") -> None:
        super().__init__(
            uvicorn.Config(app, log_level=log_level, access_log=False, timeout_graceful_shutdown=STOP_SECONDS)
        )
        self._engine: Engine | None = app.state.parts.engine if isinstance(app, FastAPI) else None
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._engine is not None:
            self._engine.close()
        await super().shutdown(sockets)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
