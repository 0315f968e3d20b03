"""Running the service, or the gateway alone, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from suffice.optimizer import InvalidInput

from . import logs
from .app import create_app, gateway_of
from .database import Database, migrate
from .front import Front, loopback
from .keys import KeyRing, KeyStore
from .limits import Spending
from .metrics import Metrics
from .settings import Settings, unknown_variables
from .workers import WORKER

if TYPE_CHECKING:
    from .gateway import Gateway

log = logging.getLogger("suffice.api")


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
    gateway = gateway_of(settings)
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
    for name in unknown_variables():
        log.warning("the environment has %s, which is no setting", name)
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
