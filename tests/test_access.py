"""Who may do what: over every route of the OpenAPI document, so that a new one is covered before it is finished."""

import itertools
import json
import re
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import BRANIN, PATIENCE, Clock, Service, serving

from suffice.api.access import ANYONE, NEEDS, PUBLIC, RANK, TAKES, Forbidden, Unauthorized, Visit, check
from suffice.api.access_wire import KeyCreate, KeyMade, Role
from suffice.api.app import create_app
from suffice.api.cli import main
from suffice.api.client import Client
from suffice.api.client_errors import Unauthorized as NotLetIn
from suffice.api.database import Database, migrate
from suffice.api.front import loopback
from suffice.api.keys import FRESH_SECONDS, KeyRing, KeyStore, digest
from suffice.api.settings import Settings
from suffice.api.tables import KeyRow
from suffice.optimizer import Conflict, InvalidInput, NotFound

METHODS = {"get", "post", "put", "patch", "delete"}
HERS = "her-secret-study"
OURS = {"default", "owner", "admin", "worker", "reader"}


def routes(app: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of all operations."""
    found = [
        (method.upper(), path, operation)
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if method in METHODS
    ]
    assert len(found) > 40
    return found


class Tenants:
    """A service that two projects share: hers has something of everything, his has nothing."""

    def __init__(self, service: Service) -> None:
        self.service = service
        keys: KeyStore = service.parts.keys.store
        keys.create_project("hers")
        keys.create_project("his")
        self.keys: dict[tuple[str, Role], KeyMade] = {
            (project, role): keys.create(KeyCreate(project=project, role=role))
            for project, role in itertools.product(("hers", "his"), RANK)
        }
        service.parts.keys.forget()
        self.study = self.call("hers", "POST", "/v1/studies", {"name": HERS, **BRANIN, "metadata": {"hers": 1}}, 201)
        point = {"parameters": {"x1": 1.25, "x2": 2.5}}
        (self.trial,) = self.call("hers", "POST", f"/v1/studies/{HERS}/trials", {"trials": [point]}, 201)["trials"]
        (asked,) = self.call("hers", "POST", f"/v1/studies/{HERS}/ask", {}, 201)["trials"]
        self.token = asked["lease"]["token"]
        sampling = {"max_samples": 4, "idempotency_key": "k", "metadata": {"hers": 1}}
        self.sampling = self.call("hers", "POST", "/v1/samplings", sampling, 201)["id"]

    def headers(self, project: str, role: Role = "admin") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[project, role].secret}"}

    def call(self, project: str, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        return self.service.call(method, path, body, status=status, headers=self.headers(project))


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Generator[Tenants]:
    with serving(tmp_path_factory.mktemp("service"), workers=0) as service:
        yield Tenants(service)


def filled(path: str, tenants: Tenants) -> str:
    """The path of a route, leading to what is hers."""
    values = {"number": "0", "id": tenants.sampling, "name": HERS}
    return re.sub(r"\{(\w+)[^}]*\}", lambda found: values.get(found[1], "0"), path)


def example(operation: dict[str, Any], document: dict[str, Any]) -> Any:
    """A body with every required field, of the right type: right enough to be refused for better reasons."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return None
    return _value(content["application/json"]["schema"], document)


def _value(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return _value(schema["anyOf"][0], document)
    match schema.get("type"):
        case "object":
            return {name: _value(schema["properties"][name], document) for name in schema.get("required", ())}
        case "array":
            return [_value(schema["items"], document)] * schema.get("minItems", 0)
        case "number" | "integer":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return schema.get("enum", [schema.get("const", "a")])[0]


def test_the_table_names_every_route_and_no_other(tenants: Tenants):
    app = create_app(tenants.service.parts.settings)
    documented = {f"{method} {path}" for method, path, _ in routes(app)}
    listed = set(NEEDS) | PUBLIC
    assert documented - listed == set(), "say in api/access.py which role they take"
    assert {route for route in listed - documented if "/v1/" in route} == set(), "routes that are no more"
    assert sum(map(len, TAKES.values())) == len(NEEDS), "a route takes one role"
    for method, path, operation in routes(app):
        route = f"{method} {path}"
        assert operation.get("x-suffice-role") == NEEDS.get(route)
        assert ("401" in operation["responses"]) == (route not in PUBLIC or route == "POST /v1/session")


def test_without_a_key_no_route_answers(tenants: Tenants):
    app = create_app(tenants.service.parts.settings)
    key = tenants.keys["hers", "admin"].secret
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {key[:-1]}{'a' if key[-1] != 'a' else 'b'}"},
        {"Authorization": f"Basic {key}"},
        {"Authorization": f"Bearer sfc_{'0' * 12}_{'a' * 43}"},
        {"Cookie": f"suffice_session={key}"},  # a key is none in a cookie
        {"X-Api-Key": key},
    )
    for method, path, _ in routes(app):
        if f"{method} {path}" in PUBLIC:
            continue
        for headers in wrong:
            answer = tenants.service.http.request(method, filled(path, tenants), headers=headers)
            assert answer.status_code == 401, (method, path, headers, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert HERS not in answer.text
    assert tenants.service.http.get("/nowhere").status_code == 401


def test_public_routes_say_nothing_of_what_is_there(tenants: Tenants):
    for route in PUBLIC:
        method, path = route.split()
        answer = tenants.service.http.request(method, path.replace("{digest}/{name}", "0/page.js"), json={})
        assert HERS not in answer.text


@pytest.mark.parametrize("role", RANK)
def test_a_role_does_what_it_may_and_no_more(tenants: Tenants, role: Role):
    app = create_app(tenants.service.parts.settings)
    document = app.openapi()
    for method, path, operation in routes(app):
        route = f"{method} {path}"
        allowed = route in PUBLIC or RANK[role] >= RANK[NEEDS[route]]
        if allowed and (method == "DELETE" or path.endswith(("/events", "/ask", "/analyses"))):
            continue  # nothing is to be lost, and nothing waited for
        answer = tenants.service.http.request(
            method,
            filled(path, tenants),
            json=example(operation, document),
            headers=tenants.headers("his", role),
        )
        assert (answer.status_code == 403) == (not allowed), (route, role, answer.text)


def test_nobody_sees_or_guesses_what_is_anothers(tenants: Tenants):
    """Every route, as an admin of another project: the answer is that for what does not exist, to the letter."""
    app = create_app(tenants.service.parts.settings)
    document = app.openapi()
    before = tenants.call("hers", "GET", f"/v1/studies/{HERS}/export")
    for method, path, operation in routes(app):
        if f"{method} {path}" in PUBLIC or path.startswith(("/v1/keys", "/v1/projects")) or path == "/metrics":
            continue
        if method == "POST" and path in ("/v1/studies", "/v1/samplings", "/v1/calibrations"):
            continue  # makes something of his own
        body = example(operation, document)
        place = filled(path, tenants)
        elsewhere = place.replace(HERS, "n" * len(HERS)).replace(tenants.sampling, "0" * 16)
        there, nowhere = (
            tenants.service.http.request(method, where, json=body, headers=tenants.headers("his"))
            for where in (place, elsewhere)
        )
        assert there.status_code == nowhere.status_code, (method, path, there.text)
        told = there.text.replace(HERS, "").replace(tenants.sampling, "")
        assert told == nowhere.text.replace("n" * len(HERS), "").replace("0" * 16, ""), (method, path)
        for secret in (tenants.token, "1.25", '"hers"'):
            assert secret not in there.text, (method, path)
        if "{" in path:
            assert there.status_code in (404, 409, 422), (method, path, there.text)
    assert tenants.call("hers", "GET", f"/v1/studies/{HERS}/export") == before


def test_names_and_idempotency_keys_are_each_projects_own(tenants: Tenants):
    tenants.call("his", "POST", "/v1/studies", {"name": HERS, **BRANIN, "seed": 5}, 201)
    assert tenants.call("hers", "GET", f"/v1/studies/{HERS}")["seed"] == 0
    assert tenants.call("his", "GET", f"/v1/studies/{HERS}")["trials"] == {}
    assert [s["name"] for s in tenants.call("his", "GET", "/v1/studies")["studies"]].count(HERS) == 1
    sampling = {"max_samples": 5, "idempotency_key": "k"}
    his = tenants.call("his", "POST", "/v1/samplings", sampling, 201)["id"]
    assert his != tenants.sampling
    seen = {s["id"] for s in tenants.call("his", "GET", "/v1/samplings", None)["samplings"]}
    assert his in seen
    assert tenants.sampling not in seen
    refused = {"name": "learner", **BRANIN, "earlier": ["hers-alone"]}
    tenants.call("hers", "POST", "/v1/studies", {"name": "hers-alone", **BRANIN}, 201)
    assert tenants.call("his", "POST", "/v1/studies", refused, 422)["errors"][0]["field"] == "earlier.0"
    tenants.call("his", "DELETE", f"/v1/studies/{HERS}", status=204)
    assert tenants.call("hers", "GET", f"/v1/studies/{HERS}")["seed"] == 0


def test_no_route_takes_an_address_a_file_or_code(tenants: Tenants):
    """Nothing that a client sends is opened, fetched, imported or run; formulas have a parser of their own."""
    suspicious = re.compile(
        r"ur[il]|uri|href|host|path|file|folder|directory|pickle|code|script|module|import|command|callback|webhook|"
        r"endpoint|upstream|database|eval|exec|class|function|shell"
    )
    # What looks like one: the loss function of nothing, a model's name; each was looked at.
    looked_at = {"idempotency_key"}
    app = create_app(tenants.service.parts.settings)
    document = app.openapi()
    taken: set[str] = set()
    for _, _, operation in routes(app):
        taken |= {parameter["name"] for parameter in operation.get("parameters", ())}
        for content, media in operation.get("requestBody", {}).get("content", {}).items():
            if content.startswith("image/"):
                continue  # bytes that are kept, and never opened
            assert content == "application/json"
            taken |= _fields(media["schema"], document, set())
    assert {name for name in taken - looked_at if suspicious.search(name.lower())} == set()
    assert not re.search(r'"format": "(uri|binary|byte)', json.dumps(document["components"]["schemas"]))


def _fields(schema: Any, document: dict[str, Any], seen: set[str]) -> set[str]:
    """The names of all fields that a schema has, at any depth."""
    if isinstance(schema, list):
        return set().union(*(_fields(part, document, seen) for part in schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    if (name := schema.get("$ref", "").rpartition("/")[2]) and name not in seen:
        seen.add(name)
        found |= _fields(document["components"]["schemas"][name], document, seen)
    return found.union(*(_fields(part, document, seen) for key, part in schema.items() if key != "$ref"))


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(database: str, clock: Clock) -> Generator[KeyStore]:
    opened = Database(database)
    migrate(opened)
    yield KeyStore(opened, clock)
    opened.close()


def test_only_digests_are_kept(keys: KeyStore):
    made = keys.create(KeyCreate(role="worker", name="ci", days=2, tokens_per_day=10, requests_per_minute=5))
    assert re.fullmatch(r"sfc_[0-9a-f]{12}_[A-Za-z0-9_\-]{43}", made.secret)
    with keys.database.read() as session:
        row = session.get_one(KeyRow, 1)
    assert row.digest == digest(made.secret)
    assert made.secret.split("_", 2)[2] not in repr(row)
    (listed,), more = keys.keys()
    assert (listed, more) == (listed.model_copy(update=made.model_dump(exclude={"secret"})), None)


def test_a_key_opens_until_it_is_revoked_or_expires(keys: KeyStore, clock: Clock):
    ring = KeyRing(keys, lambda: clock.time.timestamp())
    assert not ring.look_whether_wanted()
    made, other = (keys.create(KeyCreate(role="owner", days=days)) for days in (1, None))
    ring.forget()
    assert ring.look_whether_wanted()

    def opens(key: KeyMade) -> bool:
        return ring.opens(ring.recall(key.id) or ring.look_up(key.id), key.secret, session=False)

    assert opens(made)
    assert opens(other)
    assert not ring.opens(ring.look_up(made.id), other.secret, session=False)
    clock.advance(86_400)
    assert not opens(made)
    assert opens(other)
    keys.revoke(other.id)  # as another process would
    assert opens(other), "known by heart for a moment"
    clock.advance(FRESH_SECONDS)
    assert not opens(other)
    assert ring.wanted, "once there was a key, there is no going back"
    with pytest.raises(NotFound):
        keys.revoke("0" * 12)


def test_a_project_is_deleted_only_when_nothing_is_in_it_and_never_with_the_last_keys(keys: KeyStore):
    keys.create_project("mine")
    with pytest.raises(Conflict):
        keys.create_project("mine")
    keys.create(KeyCreate(project="mine", role="owner"))
    with pytest.raises(Conflict, match="open again"):
        keys.delete_project("mine")
    keys.create(KeyCreate(role="admin"))
    keys.delete_project("mine")
    assert [project.name for project in keys.projects()] == ["default"]
    with pytest.raises(Conflict, match="stays"):
        keys.delete_project("default")
    with pytest.raises(InvalidInput, match="project"):
        keys.create(KeyCreate(project="mine", role="owner"))


def test_a_request_past_the_front_has_no_access():
    with pytest.raises(Unauthorized):
        check({}, "GET /v1/studies")
    with pytest.raises(Unauthorized):
        check({"suffice.visit": Visit("id", None)}, "GET /v1/studies")
    reader = {"suffice.visit": Visit("id", ANYONE.__class__(2, "owner", "his"))}
    assert check(reader, "GET /v1/studies") == 2
    with pytest.raises(Forbidden, match="admin"):
        check(reader, "GET /v1/what-nobody-listed")


# --- keys over HTTP ---------------------------------------------------------------------------------------------------


def test_an_admin_makes_and_revokes_keys(tenants: Tenants):
    wanted = {"project": "his", "role": "reader", "name": "look"}
    made = tenants.call("hers", "POST", "/v1/keys", wanted, 201)
    headers = {"Authorization": f"Bearer {made['secret']}"}
    http = tenants.service.http
    assert http.get("/v1/session", headers=headers).json()["project"] == "his"
    listed = {key["id"]: key for key in tenants.call("hers", "GET", "/v1/keys")["keys"]}
    assert listed[made["id"]]["name"] == "look"
    assert all("secret" not in key and "digest" not in key for key in listed.values())
    assert tenants.call("hers", "DELETE", f"/v1/keys/{made['id']}")["revoked_at"]
    assert http.get("/v1/session", headers=headers).status_code == 401
    assert tenants.call("hers", "POST", "/v1/keys", {"project": "nobodys", "role": "reader"}, 422)


def test_a_session_stands_for_its_key(tenants: Tenants):
    with httpx.Client(base_url=tenants.service.url) as browser:
        assert browser.post("/v1/session", json={"key": "nonsense"}).status_code == 401
        begun = browser.post("/v1/session", json={"key": tenants.keys["hers", "owner"].secret})
        assert begun.status_code == 201
        cookie = begun.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
        assert "secure" not in cookie, "this is http"
        csrf = begun.json()["csrf"]
        assert browser.get(f"/v1/studies/{HERS}").status_code == 200
        assert browser.get("/v1/session").json() == {
            "project": "hers", "role": "owner", "key": tenants.keys["hers", "owner"].id, "csrf": csrf,
        }  # fmt: skip
        patch = {"metadata": {"seen": True}}
        assert browser.patch(f"/v1/studies/{HERS}", json=patch).status_code == 403
        assert browser.patch(f"/v1/studies/{HERS}", json=patch, headers={"x-suffice-csrf": "0" * 64}).status_code == 403
        good = {"x-suffice-csrf": csrf}
        for foreign in ({"sec-fetch-site": "cross-site"}, {"origin": "https://elsewhere.example"}, {"origin": "null"}):
            assert browser.patch(f"/v1/studies/{HERS}", json=patch, headers={**good, **foreign}).status_code == 403
        assert browser.patch(f"/v1/studies/{HERS}", json=patch, headers=good).status_code == 200
        stolen = {"Authorization": f"Bearer {browser.cookies['suffice_session']}"}
        assert httpx.get(f"{tenants.service.url}/v1/studies", headers=stolen).status_code == 401
        kept = dict(browser.cookies)
        assert browser.delete("/v1/session", headers=good).status_code == 204
        assert "suffice_session" not in browser.cookies
        assert httpx.get(f"{tenants.service.url}/v1/studies", cookies=kept).status_code == 401


def test_the_client_and_the_command_line_take_a_key(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    url, secret = tenants.service.url, tenants.keys["hers", "reader"].secret
    with Client(url, retries=0) as nobody, pytest.raises(NotLetIn):
        nobody.studies()
    with Client(url, secret, retries=0) as reader:
        assert HERS in [study.name for study in reader.studies()]
        with pytest.raises(NotLetIn, match="takes the role owner"):
            reader.create_study("refused", {"x": {"type": "float", "low": 0, "high": 1}})
    assert main(["studies", "--url", url]) == 6
    monkeypatch.setenv("SUFFICE_API_KEY", secret)
    assert main(["studies", "--url", url]) == 0
    shown = capsys.readouterr()
    assert HERS in shown.out
    assert secret not in shown.out + shown.err


def test_a_stream_ends_with_its_key(tenants: Tenants, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suffice.api.front.FRESH_SECONDS", -1.0)  # look at every message
    made = tenants.call("hers", "POST", "/v1/keys", {"project": "hers", "role": "reader"}, 201)
    headers = {"Authorization": f"Bearer {made['secret']}"}
    tenants.call("hers", "POST", "/v1/studies", {"name": "watched", **BRANIN}, 201)
    path = "/v1/studies/watched/events"
    own = httpx.Client(base_url=tenants.service.url, timeout=PATIENCE)  # a connection that ends, too
    with own, own.stream("GET", path, params={"after": 0}, headers=headers) as stream:
        lines = stream.iter_lines()
        tenants.call("hers", "PATCH", "/v1/studies/watched", {"metadata": {"a": 1}})
        assert next(lines).startswith("event:")
        tenants.call("hers", "DELETE", f"/v1/keys/{made['id']}")
        tenants.call("hers", "PATCH", "/v1/studies/watched", {"metadata": {"a": 2}})
        assert not [line for line in lines if '"a": 2' in line or '"a":2' in line]


def test_pages_lead_to_the_login(tenants: Tenants):
    page = tenants.service.http.get("/", headers={"accept": "text/html,*/*"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")


# --- without keys -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("alone"), workers=0) as service:
        yield service


def test_without_keys_this_machine_may_do_everything_but_give_keys_away(alone: Service):
    alone.study("mine")
    assert alone.call("GET", "/v1/session") == {"project": "default", "role": "admin"}
    for path, body in (("/v1/keys", {"role": "admin"}), ("/v1/projects", {"name": "a"})):
        assert "command line" in alone.call("POST", path, body, status=409)["detail"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:80", "", "localhost.", "[::2]"])
def test_without_keys_other_names_do_not_lead_here(alone: Service, host: str):
    assert alone.http.get("/v1/studies", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.8.9.1:1", "[::1]:8000"])
def test_without_keys_its_own_names_do(alone: Service, host: str):
    assert alone.http.get("/v1/studies", headers={"host": host}).status_code == 200


def test_without_keys_pages_of_other_sites_can_do_nothing(alone: Service):
    for foreign in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
    ):
        answer = alone.http.post("/v1/studies", json={"name": "foreign", **BRANIN}, headers=foreign)
        assert answer.status_code == 403
    form = alone.http.post(
        "/v1/studies", content=json.dumps({"name": "f", **BRANIN}), headers={"content-type": "text/plain"}
    )
    assert form.status_code == 422
    own = {"sec-fetch-site": "same-origin", "origin": alone.url}
    assert alone.http.post("/v1/studies", json={"name": "own", **BRANIN}, headers=own).status_code == 201


def test_who_reaches_it_through_a_proxy_is_no_neighbour(alone: Service):
    headers = {"x-forwarded-for": "203.0.113.7"}  # uvicorn believes a proxy on this machine
    assert alone.http.get("/v1/studies", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_which_addresses_are_this_machines_own(name: str, own: bool):
    assert loopback(name) is own


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_rate_limit_says_when_to_come_back(tenants: Tenants):
    wanted = {"project": "his", "role": "reader", "requests_per_minute": 3}
    made = tenants.call("his", "POST", "/v1/keys", wanted, 201)
    headers = {"Authorization": f"Bearer {made['secret']}"}
    answers = [tenants.service.http.get("/v1/session", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert answers[-1].headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_not_too_large(tmp_path: Path, chunked: bool):
    with serving(tmp_path, workers=0, body_mb=0.1) as service:
        content = json.dumps({"name": "large", **BRANIN, "metadata": {"a": "x" * 110_000}}).encode()
        headers = {"content-type": "application/json"}
        answer = service.http.post("/v1/studies", content=iter([content]) if chunked else content, headers=headers)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 413
        service.call("GET", "/v1/studies/large", status=404)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parameters": [{"name": f"p{i}", "type": "float", "low": 0, "high": 1} for i in range(3000)]}, "parameters"),
        (
            {"parameters": [{"name": "c", "type": "categorical", "choices": list(range(20_000))}]},
            "parameters.0.choices",
        ),
        ({"parameter_constraints": ["x1 <= 1"] * 2000}, "parameter_constraints"),
        ({"parameter_constraints": ["(" * 9000 + "x1" + ")" * 9000 + " <= 1"]}, "parameter_constraints.0"),
        ({"objectives": [{"metric": f"m{i}"} for i in range(200)]}, "objectives"),
        ({"earlier": ["a"] * 200}, "earlier"),
    ],
)
def test_a_study_has_no_more_dimensions_than_can_be_searched(alone: Service, fields: dict[str, Any], field: str):
    problem = alone.call("POST", "/v1/studies", {"name": "large", **BRANIN, **fields}, status=422)
    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"9" * 100_000])
def test_json_is_not_nested_for_ever(alone: Service, content: bytes):
    answer = alone.http.post("/v1/studies", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_pages_are_no_longer_than_a_thousand(alone: Service):
    for path in ("/v1/studies", "/v1/samplings", "/v1/calibrations", "/v1/keys", "/v1/projects"):
        problem = alone.call("GET", path, status=422, params={"limit": 1001})
        assert problem["errors"][0]["field"] == "limit"


def test_secrets_are_in_no_log(tenants: Tenants, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    http, headers = tenants.service.http, tenants.headers("hers")
    secret = tenants.keys["hers", "admin"].secret
    http.get(f"/v1/studies?cursor={secret}", headers=headers)
    http.post("/v1/session", json={"key": secret + "x"})
    http.post("/v1/session", json={"key": secret})
    http.post(f"/v1/studies/{HERS}/trials/0/heartbeat", json={"lease_token": tenants.token}, headers=headers)
    http.get("/v1/studies", headers={"Authorization": f"Bearer {secret}extra"})
    assert caplog.records
    logged = [
        record.getMessage() for record in caplog.records if not record.name.startswith("http")
    ]  # not the client's
    for hidden in (secret, secret.split("_", 2)[2], tenants.token):
        assert hidden not in "\n".join(logged)


def test_a_service_without_keys_is_not_exposed_by_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    database = f"sqlite:///{tmp_path / 'a.db'}"
    assert main(["serve", "--host", "0.0.0.0", "--database", database, "--workers", "0"]) == 2
    assert "--allow-unauthenticated" in capsys.readouterr().err
    assert main(["gateway", "--host", "0.0.0.0", "--upstream", "http://127.0.0.1:1"]) == 2
    assert "--allow-unauthenticated" in capsys.readouterr().err
    assert Settings(allow_unauthenticated=True).allow_unauthenticated


def test_keys_have_an_end(clock: Clock, tmp_path: Path):
    opened = Database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(opened)
    made = KeyStore(opened, clock).create(KeyCreate(role="reader", days=1.5))
    assert made.expires_at == clock() + timedelta(days=1.5)
    opened.close()
