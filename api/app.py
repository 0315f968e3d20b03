"""The service: `create_app` puts its parts together; `server.py` runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client.core import Metric
from starlette.routing import Match, Route

from suffice.optimizer import InvalidInput

from . import calibration_routes, document, errors, events, images, key_routes, quick, samplings, studies, trials
from .calibrating import Fitting
from .calibration_store import CalibrationStore
from .dashboard import pages, sampling_routes
from .dashboard import routes as dashboard
from .dashboard.history import Histories
from .database import Database, migrate
from .definitions import Definitions
from .deps import Parts, PartsDep, Router, allowed
from .engine import Engine
from .front import Front
from .group_commit import GroupCommit
from .keys import KeyRing, KeyStore
from .leases import Leases
from .limits import Spending
from .metrics import CONTENT_TYPE, Metrics, gauge, total
from .prompt_learning import PromptLearning
from .replicas import Replicas
from .sampling_store import SamplingStore
from .settings import Settings
from .store import Store, now
from .tracing import telemetry, traced
from .wire import Health
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

    gateway = gateway_of(settings)
    if gateway is not None and gateway.config.calibrations is None:
        _share(calibrations, gateway)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        await run_in_threadpool(migrate, database)
        async with parts.engine.running(), nullcontext() if gateway is None else gateway.running():
            learning = PromptLearning(parts.samplings, parts.fitting).run(settings.learn_seconds)
            background = [asyncio.create_task(one) for one in (_sweep(parts), learning)]
            try:
                yield
            finally:
                for task in background:
                    task.cancel()
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
    document.install(app)
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


def gateway_of(settings: Settings) -> Gateway | None:
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
