"""What every request passes first: who is calling, whether it may come in, what is logged and counted of it.

An ASGI application around the service or the gateway. Nothing of a body is read here: a request without a key costs a
look at its headers. Answers that begin here have the form of what lies behind: problem+json, or OpenAI's errors.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from . import logs, tracing
from .access import ANYONE, Forbidden, Visit, gateway_role, need, public
from .errors import CHALLENGE, problem
from .keys import FORM, FRESH_SECONDS, KeyRing, Known, csrf
from .limits import Meter, Rates, Spending
from .metrics import Metrics

COOKIE = "suffice_session"
DISCARDED = 2**24  # bytes of a body that is too large
CSRF = b"x-suffice-csrf"
LOGGED = {"name": "study", "number": "trial"}  # what parts of a path are called in logs
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
BEARER = re.compile(r"bearer +(\S{1,200}) *", re.IGNORECASE)


class Refusal(Exception):
    """Why a request does not come in."""

    def __init__(self, status: int, detail: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.code, self.headers = status, detail, code, headers


class Front:
    """Around ``app``. ``ring`` holds the keys; without one there are none. ``trusted``: anyone may come from anywhere.

    ``is_gateways`` says of a path whether the gateway answers it.
    """

    def __init__(
        self,
        app: Any,
        ring: KeyRing | None,
        metrics: Metrics,
        *,
        trusted: bool = False,
        spending: Spending | None = None,
        is_gateways: Callable[[str], bool] = lambda path: False,
        max_body: float = float("inf"),
        open_metrics: bool = False,
        traces: bool = False,
    ) -> None:
        self._app = app
        self._ring = ring
        self._metrics = metrics
        self._trusted = trusted
        self._rates = None if ring is None else Rates(ring.store)
        self._spending = spending
        self._is_gateways = is_gateways
        self._max_body = max_body
        self._open_metrics = open_metrics
        self._traces = traces

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        visit = Visit(_request_id(headers), None)
        scope["suffice.visit"] = visit
        token = logs.about.set({"request_id": visit.id})
        passing = _Passing(send, visit, scope if self._traces else None)
        try:
            try:
                known = await self._enter(scope, headers, visit)
            except Refusal as refusal:
                if refusal.status == 413:
                    await _discard(receive)
                await self._answer(refusal, scope, headers)(scope, receive, passing)
                return
            if known is not None and self._is_gateways(scope["path"]):
                await self._metered(known, scope, receive, passing)
            else:
                if known is not None and self._ring is not None:
                    passing.still = partial(self._still, self._ring, known, headers)
                counted = receive if b"content-length" in headers else self._counted(receive)
                await self._app(scope, counted, passing)
        finally:
            self._done(scope, visit, passing.status, time.perf_counter() - began)
            logs.about.reset(token)

    # --- who is calling -----------------------------------------------------------------------------------------------

    async def _enter(self, scope: Any, headers: dict[bytes, bytes], visit: Visit) -> Known | None:
        """Note who calls; the key, if there is one. Raises Refusal."""
        method, path, ring = scope["method"], scope["path"], self._ring
        if ".." in path and ".." in path.split("/"):
            raise Refusal(400, "no address here leads upwards", "path")
        wanted = False if ring is None else ring.wanted
        if wanted is None and ring is not None:
            wanted = await run_in_threadpool(ring.look_whether_wanted)
        known = None
        if not wanted or ring is None:
            self._refuse_strangers(scope, headers)
            self._refuse_other_sites(method, headers)
            visit.caller = ANYONE
        elif not (public(method, path) or (self._open_metrics and path == "/metrics")):
            known = await self._known(ring, method, headers, visit)
            visit.caller = known.caller
            await self._limit(known, method, path)
        else:
            self._refuse_other_sites(method, headers)
        if self._is_gateways(path) and visit.caller is not None:
            try:
                need(visit.caller, gateway_role(method, path))
            except Forbidden as error:
                raise Refusal(403, str(error), "forbidden") from None
        elif int(headers.get(b"content-length", b"0")) > self._max_body:
            raise Refusal(413, self._too_large, "too_large")
        return known

    async def _known(self, ring: KeyRing, method: str, headers: dict[bytes, bytes], visit: Visit) -> Known:
        """The key that a header holds, or else the session of a cookie."""
        secret, by_cookie = _bearer(headers), False
        if secret is None:
            secret, by_cookie = _cookie(headers), True
        found = None if secret is None else FORM.fullmatch(secret)
        if secret is None or found is None:
            raise _unknown("a key is needed" if secret is None else "this is no key of this service")
        known = ring.recall(found[1]) or await run_in_threadpool(ring.look_up, found[1])
        if known is None or not ring.opens(known, secret, session=by_cookie):
            raise _unknown("the key is unknown, revoked or expired")
        if by_cookie:
            visit.csrf = csrf(secret)
            self._refuse_other_sites(method, headers)
            if method not in SAFE and not secrets.compare_digest(headers.get(CSRF, b""), visit.csrf.encode()):
                raise Refusal(403, "the header X-Suffice-CSRF is not that of the session", "csrf")
        return known

    async def _still(self, ring: KeyRing, known: Known, headers: dict[bytes, bytes]) -> bool:
        """Whether a key that opened a stream would do so again."""
        secret = _bearer(headers) or _cookie(headers) or ""
        found = FORM.fullmatch(secret)
        now = None if found is None else ring.recall(found[1]) or await run_in_threadpool(ring.look_up, found[1])
        return ring.opens(now, secret, session=known.session)

    def _refuse_strangers(self, scope: Any, headers: dict[bytes, bytes]) -> None:
        """Without keys only this machine's own requests are taken, and only under a name that can be no one else's."""
        client = scope.get("client")
        near = _loopback(headers.get(b"host", b"")) and (client is None or loopback(client[0]))
        if not near and not self._trusted:
            raise Refusal(403, "without keys the service answers at loopback addresses only", "host")

    def _refuse_other_sites(self, method: str, headers: dict[bytes, bytes]) -> None:
        """A browser that another site's page sends here says so."""
        if method in SAFE:
            return
        site = headers.get(b"sec-fetch-site")
        origin = headers.get(b"origin")
        if site is not None:
            foreign = site not in (b"same-origin", b"none")
        else:
            foreign = origin is not None and urlsplit(origin).netloc != headers.get(b"host", b"")
        if foreign:
            raise Refusal(403, "a page of another site may not do this", "cross_site")

    async def _limit(self, known: Known, method: str, path: str) -> None:
        if self._rates is not None and (wait := await self._rates.take(known.caller)) is not None:
            detail = f"more than {known.caller.requests_per_minute} requests a minute"
            raise Refusal(429, detail, "rate_limit_exceeded", {"Retry-After": str(wait)})
        if self._spending is None or method in SAFE or not self._is_gateways(path):
            return
        if (wait := self._spending.wait(known)) is not None:
            detail = f"the key's {known.caller.tokens_per_day} tokens a day are spent; they come back at 0:00 UTC"
            raise Refusal(429, detail, "insufficient_quota", {"Retry-After": str(wait)})

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body / 2**20:g} MiB"

    def _counted(self, receive: Any) -> Any:
        """A body whose length is not known beforehand."""
        size = 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:
                if message.get("more_body"):
                    await _discard(receive)
                raise HTTPException(413, self._too_large)
            return message

        return counted

    # --- what becomes of it -------------------------------------------------------------------------------------------

    async def _metered(self, known: Known, scope: Any, receive: Any, passing: _Passing) -> None:
        """An answer of the gateway, whose tokens are the key's to pay."""
        passing.meter = Meter()
        try:
            await self._app(scope, receive, passing)
        finally:
            counted = passing.visit.tokens
            if self._spending is not None and scope["method"] not in SAFE:
                self._spending.add(known, passing.meter.tokens if counted is None else counted)

    def _answer(self, refusal: Refusal, scope: Any, headers: dict[bytes, bytes]) -> Response:
        if refusal.status == 401 and scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b""):
            return RedirectResponse("/login", 303)
        if not self._is_gateways(scope["path"]):
            return problem(refusal.status, refusal.detail, headers=refusal.headers)
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        error = {
            "message": refusal.detail,
            "type": kind.get(refusal.status, "invalid_request_error"),
            "param": None,
            "code": refusal.code,
        }
        return JSONResponse({"error": error}, refusal.status, headers=refusal.headers)

    def _done(self, scope: Any, visit: Visit, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or ("gateway" if self._is_gateways(scope["path"]) else "none")
        self._metrics.answered(scope["method"], route, status, seconds)
        if logs.requests.isEnabledFor(logging.INFO):
            fields: dict[str, Any] = {"method": scope["method"], "route": route, "status": status}
            fields |= {"milliseconds": round(1e3 * seconds, 3), **_about(scope, visit)}
            logs.requests.info("%s %s %d", scope["method"], route, status, extra={"fields": fields})


def _about(scope: Any, visit: Visit) -> dict[str, Any]:
    """Which study and trial a request is about, and whose key it came with."""
    params: dict[str, Any] = scope.get("path_params", {})
    found = {LOGGED.get(name, name): value for name, value in params.items() if name != "path"}
    if visit.caller is not None and visit.caller.key is not None:
        found |= {"key": visit.caller.key, "project": visit.caller.project_name}
    return found


class _Passing:
    """The way back: the answer's status is noted, and the request's id put on it."""

    __slots__ = ("checked", "meter", "send", "status", "still", "traced", "visit")

    def __init__(self, send: Any, visit: Visit, traced: Any = None) -> None:
        self.send, self.visit, self.traced = send, visit, traced
        self.status = 500  # where something went wrong before there was an answer
        self.meter: Meter | None = None
        self.still: Callable[[], Awaitable[bool]] | None = None  # whether a stream may go on
        self.checked = 0.0

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.traced is not None:
                tracing.about({**_about(self.traced, self.visit), **(logs.about.get() or {})})
            message["headers"] = [*message["headers"], (b"x-request-id", self.visit.id.encode())]
            self.checked = time.monotonic()
        elif self.meter is not None:
            self.meter.see(message.get("body", b""))
        elif self.still is not None and message.get("more_body") and time.monotonic() - self.checked > FRESH_SECONDS:
            self.checked = time.monotonic()
            if not await self.still():
                await self.send({"type": "http.response.body", "body": b""})
                raise OSError("the key opens nothing any more")  # as if the client had gone
        await self.send(message)


async def _discard(receive: Any) -> None:
    """Read some of what is left of a body: who is still sending would not see the answer."""
    left = DISCARDED
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            return


@lru_cache(1024)
def loopback(host: str) -> bool:
    """Whether an address or name is this machine's own alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(1024)
def _loopback(host: bytes) -> bool:
    """The same of a Host header, which may have a port: other names may have been made to lead here."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:]*)(:\d*)?", host.decode("latin-1").lower())
    return found is not None and loopback(found[1])


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The client's, if it is a short word, or a new one."""
    given = headers.get(b"x-request-id")
    return given.decode() if given is not None and REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _bearer(headers: dict[bytes, bytes]) -> str | None:
    given = headers.get(b"authorization")
    if given is None:
        return None
    found = BEARER.fullmatch(given.decode("latin-1"))
    return found[1] if found else ""


def _cookie(headers: dict[bytes, bytes]) -> str | None:
    given = headers.get(b"cookie")
    if given is None:
        return None
    try:
        morsel = SimpleCookie(given.decode("latin-1")).get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _unknown(detail: str) -> Refusal:
    return Refusal(401, f"{detail}: Authorization: Bearer KEY", "invalid_api_key", CHALLENGE)
