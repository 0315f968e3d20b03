"""Routes for the pages and the files they load. Pages are shells: their scripts fill them with what the API says.

So nothing that a user named ever becomes HTML, and the policy below lets no script run but the dashboard's own files.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from suffice.api.deps import Name, PartsDep
from suffice.optimizer import NotFound

from .assets import asset, page

router = APIRouter(include_in_schema=False)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
LOOSE = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Plotly styles its figures in place
FOR_EVER = "public, max-age=31536000, immutable"


@router.get("/")
async def studies() -> Response:
    return _page("studies", "Studies", data="/v1/dashboard/studies")


@router.get("/login")
async def login() -> Response:
    """Where browsers without a key are sent."""
    return _page("login", "Log in")


@router.get("/new")
async def new_study() -> Response:
    return _page("create", "New study")


@router.get("/studies/{name}")
async def study(parts: PartsDep, name: Name) -> Response:
    return _page("study", "Study", await _status(parts, name), data=f"/v1/dashboard/studies/{name}")


@router.get("/studies/{name}/trials/{number}")
async def trial(parts: PartsDep, name: Name, number: int) -> Response:
    return _page("trial", "Trial", await _status(parts, name), data=f"/v1/studies/{name}/trials/{number}")


@router.get("/studies/{name}/analyses")
async def analyses(parts: PartsDep, name: Name) -> Response:
    return _page("analyses", "Analyses", await _status(parts, name), policy=LOOSE)


@router.get("/samplings")
async def samplings() -> Response:
    return _page("samplings", "Samplings", data="/v1/dashboard/samplings")


@router.get("/samplings/{id}")
async def sampling(id: str) -> Response:
    return _page("sampling", "Sampling")


@router.get("/decisions/{id}")
async def decision(id: str) -> Response:
    return _page("sampling", "Decision")


@router.get("/assets/{digest}/{name}")
async def file(request: Request, digest: str, name: str) -> Response:
    """Any digest will do: an open page of an older version gets what there is."""
    found = await run_in_threadpool(asset, name)
    if found is None or name == "page.html":
        raise NotFound(f"there is no file {name!r}")
    headers = {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=found.type)
    return Response(found.plain, headers=headers, media_type=found.type)


@router.get("/favicon.ico")
async def icon(request: Request) -> Response:
    return await file(request, "", "icon.svg")


async def _status(parts: PartsDep, name: Name) -> int:
    """404 for a study that is not there; the page then says so."""
    try:
        await run_in_threadpool(parts.study, name)
    except NotFound:
        return 404
    return 200


def _page(script: str, title: str, status: int = 200, *, policy: str = POLICY, data: str | None = None) -> Response:
    """``data``: what the page asks for first. Browsers are told, so that they ask before the scripts are there.

    The names of studies that exist have no character that would end an address.
    """
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    if data is not None and status == 200:
        headers["Link"] = f"<{data}>; rel=preload; as=fetch; crossorigin"
    return Response(page(script, title), status, headers, media_type="text/html; charset=utf-8")
