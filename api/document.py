"""What the OpenAPI document says beside what FastAPI writes: problems, roles, and which request follows which.

Links name a request that follows from an answer, and where its values stand in that answer; tools read them, among
them the fuzzer that goes along them (benchmarks/fuzz.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import FastAPI

from . import errors
from .access import NEEDS, PUBLIC
from .wire import ProblemOut

STUDY = "/v1/studies/{name}"
TRIAL = f"{STUDY}/trials/{{number}}"
SAMPLING = "/v1/samplings/{id}"
CALIBRATION = "/v1/calibrations/{name}"
MADE = {"name": "$response.body#/name"}
SAME = {"name": "$request.path.name"}
GIVEN = {**SAME, "number": "$response.body#/trials/0/number"}
ON = {**SAME, "number": "$request.path.number"}
BEGUN = {"id": "$response.body#/id"}
ON_SAMPLING = {"id": "$request.path.id"}
LEASED = {"lease_token": "$response.body#/trials/0/lease/token"}
DRAWN = {
    "prompt": "$response.body#/draws/0/prompt",
    "number": "$response.body#/draws/0/numbers/0",
    "answer": "42",
}


class Link(NamedTuple):
    """A request that follows: its route, and where its values stand."""

    route: str
    values: dict[str, str]
    body: Any = None


LINKS: dict[tuple[str, str], list[Link]] = {
    ("POST /v1/studies", "201"): [
        Link(f"POST {STUDY}/ask", MADE),
        Link(f"POST {STUDY}/trials", MADE),
        *(Link(f"GET {STUDY}{end}", MADE) for end in ("", "/best", "/trials", "/export", "/diagnostics")),
        Link(f"PATCH {STUDY}", MADE),
        Link(f"DELETE {STUDY}", MADE),
    ],
    (f"POST {STUDY}/ask", "201"): [
        *(Link(f"POST {TRIAL}/{end}", GIVEN, LEASED) for end in ("tell", "heartbeat", "report", "fail")),
        Link(f"POST {TRIAL}/cancel", GIVEN),
        Link(f"GET {TRIAL}", GIVEN),
    ],
    (f"POST {STUDY}/trials", "201"): [
        Link(f"POST {STUDY}/ask", SAME),
        Link(f"POST {TRIAL}/tell", GIVEN),
        Link(f"GET {TRIAL}", GIVEN),
    ],
    (f"POST {TRIAL}/report", "200"): [
        Link(f"GET {TRIAL}/should_prune", ON),
        Link(f"POST {TRIAL}/tell", ON),
    ],
    (f"POST {TRIAL}/tell", "200"): [
        Link(f"GET {TRIAL}", ON),
        *(Link(f"GET {STUDY}/{end}", SAME) for end in ("best", "pareto", "advice", "diagnostics")),
        Link(f"POST {STUDY}/predict", SAME),
        Link(f"POST {STUDY}/ask", SAME),
    ],
    (f"GET {STUDY}/export", "200"): [Link("POST /v1/studies:import", {}, "$response.body")],
    ("POST /v1/samplings", "201"): [
        Link(f"POST {SAMPLING}/ask", BEGUN),
        Link(f"GET {SAMPLING}", BEGUN),
        Link(f"DELETE {SAMPLING}", BEGUN),
    ],
    (f"POST {SAMPLING}/ask", "201"): [
        Link(f"POST {SAMPLING}/tell", ON_SAMPLING, {"answers": [DRAWN]}),
        Link(f"GET {SAMPLING}/answers", ON_SAMPLING),
    ],
    (f"POST {SAMPLING}/tell", "200"): [
        Link(f"POST {SAMPLING}/ask", ON_SAMPLING),
        Link(f"GET {SAMPLING}", ON_SAMPLING),
    ],
    ("POST /v1/calibrations", "201"): [
        *(Link(f"GET {CALIBRATION}{end}", MADE) for end in ("", "/versions", "/export")),
        Link(f"POST {CALIBRATION}/prompts", MADE),
        Link(f"DELETE {CALIBRATION}", MADE),
    ],
    ("POST /v1/keys", "201"): [Link("DELETE /v1/keys/{id}", BEGUN)],
    ("POST /v1/projects", "201"): [Link("DELETE /v1/projects/{name}", MADE)],
}


def install(app: FastAPI) -> None:
    """Have it say so, and not what FastAPI says errors look like."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        operations = {
            f"{method.upper()} {path}": operation
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        for route, operation in operations.items():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
            _describe_access(route, operation)
        for (route, status), links in LINKS.items():
            found = [_link(link, operations[link.route]["operationId"]) for link in links]
            operations[route]["responses"][status]["links"] = {link["operationId"]: link for link in found}
        problem = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["ProblemOut"] = problem
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _link(link: Link, operation_id: str) -> dict[str, Any]:
    body = {} if link.body is None else {"requestBody": link.body}
    return {"operationId": operation_id, "parameters": link.values, **body}


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
