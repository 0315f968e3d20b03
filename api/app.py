"""The service: `create_app` puts its parts together, `serve` runs it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client.core import Metric
from starlette.routing import Match, Route

from suffice.optimizer import InvalidInput

from . import calibration_routes, errors, events, images, key_routes, logs, quick, samplings, studies, trials
from .access import NEEDS, PUBLIC
from .calibrating import Fitting
from .calibration_store import CalibrationStore
from .dashboard import pages, sampling_routes
from .dashboard import routes as dashboard
from .dashboard.history import Histories
from .database import Database, migrate
from .definitions import Definitions
from .deps import Parts, PartsDep, Router, allowed
from .engine import Engine
from .front import Front, loopback
from .group_commit import GroupCommit
from .keys import KeyRing, KeyStore
from .leases import Leases
from .limits import Spending
from .metrics import CONTENT_TYPE, Metrics, gauge, total
from .replicas import Replicas
from .sampling_store import SamplingStore
from .settings import Settings
from .store import Store, now
from .tracing import telemetry, traced
from .wire import Health, ProblemOut
from .workers import WORKER, Hire, processes

if TYPE_CHECKING:
    from .gateway import Gateway

VERSION = version("suffice")
OWN_PATHS = ("/v1/studies", "/v1/samplings", "/v1/calibrations", "/v1/dashboard")
KEY_PATHS = ("/v1/keys", "/v1/projects", "/v1/session")
GATEWAY_PATHS = ("/v1/{path:path}", "/optscale/v1/{path:path}")
log = logging.getLogger("suffice.api")
health = Router(tags=["service"])
METRICS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def create_app(
    settings: Settings | None = None, clock: Callable[[], datetime] = now, worker: Sequence[str] = WORKER
) -> FastAPI:
    """The service as an ASGI application. ``clock`` decides when leases expire, ``worker`` starts an engine worker."""
    settings = settings or Settings()
    database = Database(settings.database)
    calibrations = CalibrationStore(database, clock)
    leases = Leases(database, clock)
    metrics = Metrics()
    parts = Parts(
        settings=settings,
        store=Store(database, clock),
        leases=leases,
        commits=GroupCommit(leases),
        engine=Engine(
            settings.workers,
            _hire(settings, database, worker),
            Replicas(settings.database) if database.postgresql else None,
            traced(metrics.computed) if settings.traces else metrics.computed,
        ),
        definitions=Definitions(),
        samplings=SamplingStore(database, calibrations, clock),
        calibrations=calibrations,
        fitting=Fitting(),
        keys=KeyRing(KeyStore(database)),
        metrics=metrics,
    )
    metrics.watch(lambda: _readings(parts))

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
        parts.commits.close()
        await run_in_threadpool(spending.close)
        database.close()

    spending = Spending(parts.keys.store)
    app = FastAPI(
        title="Suffice",
        version=VERSION,
        summary="Decides how much is enough: what to try next, and when to stop.",
        lifespan=lifespan,
        dependencies=[Depends(allowed)],
        telemetry=telemetry(traces=settings.traces),
    )
    app.add_middleware(
        Front,
        ring=parts.keys,
        metrics=parts.metrics,
        trusted=settings.allow_unauthenticated,
        spending=spending,
        is_gateways=lambda path: gateway is not None and _is_gateways(path),
        max_body=settings.body_mb * 2**20,
        open_metrics=settings.open_metrics,
        traces=settings.traces,
    )
    app.state.parts = parts
    app.state.stopping = False
    app.state.gateway = gateway
    app.state.histories = Histories(database)
    # Requests are compared with the routes in this order: the most frequent ones come first.
    if not settings.traces:  # FastAPI makes the spans
        app.router.routes += quick.ROUTES
    for module in (
        trials,
        studies,
        images,
        events,
        samplings,
        calibration_routes,
        key_routes,
        dashboard,
        sampling_routes,
        pages,
    ):
        app.include_router(module.router)
    app.include_router(health)
    if gateway is not None:
        app.router.routes += [GatewayRoute(path, gateway) for path in GATEWAY_PATHS]
    errors.install(app)
    _describe_problems(app)
    return app


def _hire(settings: Settings, database: Database, worker: Sequence[str]) -> Hire:
    """Who computes: processes of this machine, or actors on a cluster. Raises InvalidInput."""
    if settings.engine == "local":
        return processes(settings.database, settings.worker_threads, worker)
    if not database.postgresql:
        raise InvalidInput("engine", "local with SQLite: the nodes of a cluster share no file", settings.engine)
    if find_spec("ray") is None:
        raise InvalidInput("engine", "local, or ray with suffice[ray] installed", settings.engine)
    from .actors import on_ray

    return on_ray(settings.database, settings.ray_address)


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
    gateway.open_calibrations = lambda project: ServiceCalibrations(calibrations.within(project))


def _is_gateways(path: str) -> bool:
    """Whether a path is none of the service's own."""
    return path.startswith(("/v1/", "/optscale/v1/")) and not path.startswith((*OWN_PATHS, *KEY_PATHS))


class GatewayRoute(Route):
    """What the service has no path of its own for."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        return super().matches(scope) if _is_gateways(scope["path"]) else (Match.NONE, {})


@health.get("/metrics", response_class=Response, responses=METRICS, summary="Figures for Prometheus")
async def read_metrics(parts: PartsDep, request: Request) -> Response:
    """Of the whole service, and of the gateway where there is one; docs/operations.md has a list."""
    text = await run_in_threadpool(parts.metrics.text)
    gateway: Gateway | None = request.app.state.gateway
    if gateway is not None:
        text += gateway.metrics.text(gateway.active)
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


def _readings(parts: Parts) -> Iterable[Metric]:
    """What is known when Prometheus asks."""
    studies, ready = parts.store.pool()
    yield gauge("studies", "studies of all projects", studies)
    yield gauge("suggestions_ready", "suggestions that are ready to be asked for, of all studies", ready)
    yield total("lease_expiries", "leases that ran out", parts.leases.expired)
    yield gauge("engine_workers", "engine workers that are ready for jobs", len(parts.engine.alive))
    yield total("engine_restarts", "engine workers that were replaced", parts.engine.restarts)


@health.get("/healthz", summary="Is the process alive?")
async def healthz(request: Request) -> Health:
    return _health(request)


@health.get("/readyz", responses={503: {"model": Health}}, summary="Can it take work?")
def readyz(parts: PartsDep, request: Request, response: Response) -> Health:
    """The database answers, and an engine worker is ready (503 until then, and once the service is stopping)."""
    parts.store.studies(None, 1)
    found = _health(request)
    if found.status != "ok":
        response.status_code = 503
    return found


def _health(request: Request) -> Health:
    parts: Parts = request.app.state.parts
    alive, wanted = len(parts.engine.alive), parts.settings.workers
    status: Literal["ok", "starting", "stopping"] = "ok" if alive or not wanted else "starting"
    if request.app.state.stopping:
        status = "stopping"
    return Health(status=status, version=VERSION, workers=alive, workers_wanted=wanted)


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
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                    del operation["responses"]["422"]
                _describe_access(f"{method.upper()} {path}", operation)
        problem = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["ProblemOut"] = problem
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_access(route: str, operation: dict[str, Any]) -> None:
    """The role that a route takes, and what any route may answer besides."""
    statuses = (403, 413) if route in PUBLIC else (401, 403, 413, 429)
    body, given = "requestBody" in operation, operation.get("parameters")
    more = (400, 422) if body else (422,) if given else ()
    for status, answer in errors.problems(*more, *statuses, 503).items():
        operation["responses"].setdefault(str(status), answer)
    if route not in PUBLIC:
        operation["security"] = [{"key": []}]
        operation["x-suffice-role"] = NEEDS.get(route, "admin")


# --- running it -------------------------------------------------------------------------------------------------------


def serve(settings: Settings, worker: Sequence[str] = WORKER) -> None:
    """Run the service until it is told to stop. Prints its address, and a line when it is ready.

    ``worker`` starts an engine worker. Raises InvalidInput for an address that others reach, while there are no keys.
    """
    logs.configure(settings)
    app = create_app(settings, worker=worker)
    ring: KeyRing = app.state.parts.keys
    migrate(ring.store.database)
    _check_exposure(settings, ring)
    _run(app, settings)


def serve_gateway(settings: Settings) -> None:
    """Run the gateway alone, in the same way. Raises InvalidInput where it has no upstream."""
    gateway = _gateway(settings)
    if gateway is None:
        raise InvalidInput("upstream", "the address of an inference server", None)
    logs.configure(settings)
    ring: KeyRing | None = None
    if "database" in settings.model_fields_set:  # the gateway keeps nothing else there
        ring = KeyRing(KeyStore(Database(settings.database)))
        migrate(ring.store.database)
    _check_exposure(settings, ring)
    _run(_before(gateway, ring, settings), settings)


def _before(gateway: Gateway, ring: KeyRing | None, settings: Settings) -> Front:
    return Front(
        gateway,
        ring,
        Metrics(),
        trusted=settings.allow_unauthenticated,
        spending=None if ring is None else Spending(ring.store),
        is_gateways=lambda path: path not in ("/healthz", "/readyz"),
        open_metrics=settings.open_metrics,
    )


def _check_exposure(settings: Settings, ring: KeyRing | None) -> None:
    """Without keys only this machine may reach the service, unless told so in as many words."""
    wanted = ring is not None and ring.look_whether_wanted()
    if not (wanted or settings.allow_unauthenticated or loopback(settings.host)):
        expected = "a loopback address while there are no keys (suffice keys create), or --allow-unauthenticated"
        raise InvalidInput("host", expected, settings.host)


def _run(app: FastAPI | Front, settings: Settings) -> None:
    listener = _listen(settings)
    with suppress(KeyboardInterrupt):
        Server(app, lambda: _say("ready"), settings).run(sockets=[listener])


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

    def __init__(self, app: FastAPI | Front, on_ready: Callable[[], object], settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,  # `logs.configure` has done it
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=self._settings.stop_seconds,
            )
        )
        logging.getLogger("uvicorn.access").disabled = True  # it would log queries; --log-requests has lines of its own
        self._app = app if isinstance(app, FastAPI) else None
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: say so to whoever asks whether it is ready, go on for a while, then end what is under way."""
        if self._app is not None:
            self._app.state.stopping = True
            until = time.monotonic() + self._settings.drain_seconds
            while time.monotonic() < until and not self.force_exit:
                await asyncio.sleep(0.1)
            self._app.state.parts.engine.close()
        await super().shutdown(sockets)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
