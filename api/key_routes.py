"""Routes for keys, projects and sessions. The first key is made on the command line, by who has the database."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from suffice.optimizer import Conflict

from .access import Unauthorized, visit
from .access_wire import (
    KeyCreate,
    KeyMade,
    KeyOut,
    KeyPage,
    ProjectCreate,
    ProjectOut,
    ProjectPage,
    SessionCreate,
    SessionOut,
)
from .deps import Cursor, Limit, Name, PartsDep, Router, read_cursor, write_cursor
from .errors import problems
from .front import COOKIE
from .keys import FORM, csrf

router = Router(prefix="/v1")
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The key's id, not its secret")]


@router.post("/keys", status_code=201, tags=["keys"], responses=problems(409, 422), summary="Make a key")
def create_key(parts: PartsDep, wanted: KeyCreate, request: Request, response: Response) -> KeyMade:
    """The answer shows its secret, this once: the service keeps a digest."""
    _with_a_key(request)
    response.headers["Cache-Control"] = "no-store"
    return parts.keys.store.create(wanted)


@router.get("/keys", tags=["keys"], responses=problems(422), summary="List keys")
def list_keys(parts: PartsDep, limit: Limit = 100, cursor: Cursor = None) -> KeyPage:
    """Of all projects, in the order in which they were made; revoked and expired ones, too."""
    page, last = parts.keys.store.keys(read_cursor(cursor, int, 0), limit)
    return KeyPage(keys=page, next_cursor=None if last is None else write_cursor(last))


@router.delete("/keys/{id}", tags=["keys"], responses=problems(404, 422), summary="Revoke a key")
def revoke_key(parts: PartsDep, id: KeyId) -> KeyOut:
    """It opens nothing any more: at once here, within five seconds in other processes. Its sessions end, too."""
    revoked = parts.keys.store.revoke(id)
    parts.keys.forget()
    return revoked


@router.post("/projects", status_code=201, tags=["keys"], responses=problems(409, 422), summary="Make a project")
def create_project(parts: PartsDep, wanted: ProjectCreate, request: Request) -> ProjectOut:
    _with_a_key(request)
    return parts.keys.store.create_project(wanted.name)


@router.get("/projects", tags=["keys"], responses=problems(422), summary="List projects")
def list_projects(parts: PartsDep, limit: Limit = 100, cursor: Cursor = None) -> ProjectPage:
    """By name."""
    found = parts.keys.store.projects(read_cursor(cursor, str, None), limit + 1)
    page = found[:limit]
    return ProjectPage(projects=page, next_cursor=write_cursor(page[-1].name) if len(found) > limit else None)


@router.delete(
    "/projects/{name}", status_code=204, tags=["keys"], responses=problems(404, 409), summary="Delete an empty project"
)
def delete_project(parts: PartsDep, name: Name) -> None:
    """And its keys. 409 while studies, samplings or calibrations are in it."""
    parts.keys.store.delete_project(name)
    parts.keys.forget()


@router.post("/session", status_code=201, tags=["keys"], responses=problems(401, 422), summary="Log in with a cookie")
async def begin_session(parts: PartsDep, wanted: SessionCreate, request: Request, response: Response) -> SessionOut:
    """For browsers: the cookie stands for the key, for 12 hours, and no script can read it.

    Whatever changes something says `csrf` in the header X-Suffice-CSRF.
    """
    ring, found = parts.keys, FORM.fullmatch(wanted.key)
    known = None if found is None else await run_in_threadpool(ring.look_up, found[1])
    if known is None or not ring.opens(known, wanted.key, session=False):
        raise Unauthorized("the key is unknown, revoked or expired")
    secret, ends = await run_in_threadpool(ring.store.begin_session, known.caller)
    response.set_cookie(
        COOKIE, secret, expires=ends, path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict"
    )
    response.headers["Cache-Control"] = "no-store"
    caller = known.caller
    return SessionOut(project=caller.project_name, role=caller.role, key=caller.key, csrf=csrf(secret), expires_at=ends)


@router.get("/session", tags=["keys"], summary="Who is calling")
async def read_session(parts: PartsDep, request: Request, response: Response) -> SessionOut:
    """The role and project of the key or the session that the request came with."""
    here = visit(request.scope)
    assert here.caller is not None
    response.headers["Cache-Control"] = "no-store"
    return SessionOut(project=here.caller.project_name, role=here.caller.role, key=here.caller.key, csrf=here.csrf)


@router.delete("/session", status_code=204, tags=["keys"], summary="Log out")
async def end_session(parts: PartsDep, request: Request, response: Response) -> None:
    """The cookie's session ends; a key stays what it is."""
    if found := FORM.fullmatch(request.cookies.get(COOKIE, "")):
        await run_in_threadpool(parts.keys.store.end_session, found[1])
        parts.keys.forget()
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def _with_a_key(request: Request) -> None:
    """A service that wants no key gives none away: whoever makes the first one has it to himself."""
    caller = visit(request.scope).caller
    if caller is None or caller.key is None:
        raise Conflict("there are no keys yet: the first one is made on the command line, with `suffice keys create`")
