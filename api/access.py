"""Who may do what: a request has a caller, the caller one project and a role in it, every route the role it takes.

`front.py` finds out who calls before anything else of a request is read. The dependency that every route has
(`deps.py`) asks `check` here, and gives the route the parts of the service bound to the caller's project; so a route
that forgets about access has none. A route that is not in the table below takes an admin.

    reader   reads studies, samplings, decisions and calibrations, and asks the models about them
    worker   also asks, tells, reports, draws through the gateway
    owner    also makes, changes and deletes studies, samplings and calibrations
    admin    also makes and revokes keys, makes projects, reads metrics

Roles are of one project, but for what an admin does with keys and projects. While there is no key at all, whoever
reaches the service (`front.py` says from where) is an admin without a key, who can make none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from suffice.optimizer import SufficeError

from .access_wire import Role

RANK: dict[Role, int] = {"reader": 0, "worker": 1, "owner": 2, "admin": 3}
DEFAULT_PROJECT = 1  # its id: of everything that was made without a key
NO_PROJECT = 0  # where nothing is

_TRIAL = "/v1/studies/{name}/trials/{number}"
PUBLIC = frozenset(
    {
        *("GET /healthz", "GET /readyz"),
        *("GET /openapi.json", "GET /docs", "GET /docs/oauth2-redirect", "GET /redoc"),
        "POST /v1/session",
        *("GET /login", "GET /assets/{digest}/{name}", "GET /favicon.ico"),
    }
)
TAKES: dict[Role, tuple[str, ...]] = {
    "reader": (
        *("GET /", "GET /new", "GET /studies/{name}", "GET /studies/{name}/analyses"),
        *("GET /studies/{name}/trials/{number}", "GET /samplings", "GET /samplings/{id}", "GET /decisions/{id}"),
        *("GET /v1/session", "DELETE /v1/session"),
        *(
            "GET /v1/studies",
            "GET /v1/studies/{name}",
            "GET /v1/studies/{name}/export",
            "GET /v1/studies/{name}/events",
        ),
        *("GET /v1/studies/{name}/best", "GET /v1/studies/{name}/pareto", "GET /v1/studies/{name}/advice"),
        *("POST /v1/studies/{name}/best", "POST /v1/studies/{name}/pareto", "POST /v1/studies/{name}/advice"),
        *("GET /v1/studies/{name}/diagnostics", "GET /v1/studies/{name}/analyses", "POST /v1/studies/{name}/predict"),
        *("GET /v1/dashboard/studies", "GET /v1/dashboard/studies/{name}", "GET /v1/dashboard/studies/{name}/curves"),
        *("GET /v1/dashboard/studies/{name}/trials", "GET /v1/dashboard/studies/{name}/trials.csv"),
        *("GET /v1/dashboard/studies/{name}/slices", "GET /v1/dashboard/studies/{name}/contour"),
        *("GET /v1/dashboard/samplings", "GET /v1/dashboard/samplings/{id}"),
        *("GET /v1/dashboard/decisions", "GET /v1/dashboard/decisions/{id}/replay"),
        *("GET /v1/dashboard/samplings/{id}/replay", "POST /v1/dashboard/samplings/{id}/reliability"),
        *("GET /v1/studies/{name}/trials", f"GET {_TRIAL}", f"GET {_TRIAL}/should_prune"),
        *(f"GET {_TRIAL}/images", f"GET {_TRIAL}/images/{{image}}"),
        *("GET /v1/samplings", "GET /v1/samplings/{id}", "GET /v1/samplings/{id}/answers", "POST /v1/samplings:decide"),
        *("GET /v1/calibrations", "GET /v1/calibrations/{name}", "GET /v1/calibrations/{name}/versions"),
        "GET /v1/calibrations/{name}/export",
    ),
    "worker": (
        *("POST /v1/studies/{name}/ask", f"POST {_TRIAL}/tell", f"POST {_TRIAL}/report"),
        *(f"POST {_TRIAL}/heartbeat", f"POST {_TRIAL}/fail", f"PUT {_TRIAL}/images/{{image}}"),
        *("POST /v1/samplings/{id}/ask", "POST /v1/samplings/{id}/tell"),
    ),
    "owner": (
        *("POST /v1/studies", "POST /v1/studies:import", "PATCH /v1/studies/{name}", "DELETE /v1/studies/{name}"),
        *("POST /v1/studies/{name}/trials", f"POST {_TRIAL}/cancel"),
        *("POST /v1/samplings", "DELETE /v1/samplings/{id}"),
        *("POST /v1/calibrations", "POST /v1/calibrations/{name}/prompts", "DELETE /v1/calibrations/{name}"),
    ),
    "admin": (
        *("POST /v1/keys", "GET /v1/keys", "DELETE /v1/keys/{id}"),
        *("POST /v1/projects", "GET /v1/projects", "DELETE /v1/projects/{name}"),
        "GET /metrics",
    ),
}
NEEDS: dict[str, Role] = {route: role for role, routes in TAKES.items() for route in routes}


class Unauthorized(SufficeError):
    """It is not known who is calling."""


class Forbidden(SufficeError):
    """It is known, and it may not."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a key's role in a project. Without a key, whoever reaches a service that wants none."""

    project: int
    role: Role
    project_name: str
    key: str | None = None  # its id
    key_row: int | None = None
    tokens_per_day: int | None = None
    requests_per_minute: int | None = None


ANYONE = Caller(DEFAULT_PROJECT, "admin", "default")


@dataclass(slots=True)
class Visit:
    """A request, as `front.py` hands it on in its scope: its id, who makes it, and what it cost at the gateway."""

    id: str
    caller: Caller | None
    csrf: str | None = None  # of the session, where a cookie said who calls
    tokens: int | None = None  # None: nobody counted yet


def public(method: str, path: str) -> bool:
    """Whether a request may come without a key, as its address says; `check` has the last word, by its route."""
    return f"{method} {path}" in PUBLIC or (method == "GET" and path.startswith("/assets/"))


def visit(scope: Any) -> Visit:
    """What is known of a request. Raises Unauthorized where it came past `front.py`."""
    found: Visit | None = scope.get("suffice.visit")
    if found is None:
        raise Unauthorized("the request did not come through the front")
    return found


def check(scope: Any, route: str) -> int:
    """The project in which a request to a route, ``GET /v1/studies``, may act. Raises Unauthorized and Forbidden."""
    if route in PUBLIC:
        return NO_PROJECT
    caller = visit(scope).caller
    if caller is None:
        raise Unauthorized("a key is needed: Authorization: Bearer KEY")
    need(caller, NEEDS.get(route, "admin"))
    return caller.project


def need(caller: Caller, role: Role) -> None:
    """Raises Forbidden for a lower role."""
    if RANK[caller.role] < RANK[role]:
        raise Forbidden(f"this takes the role {role}; the key has the role {caller.role}")


def gateway_role(method: str, path: str) -> Role:
    """Which role a request to the gateway takes."""
    if path == "/metrics":
        return "admin"
    if path.startswith("/optscale/v1/calibrations") and method != "GET":
        return "owner"
    return "reader" if method == "GET" else "worker"
