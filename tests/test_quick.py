"""Asks, tells and heartbeats pass by FastAPI, and nobody can tell."""

import json
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from live import Service, add, serving

from suffice.api import quick

LONG_WAY = {"content-type": "application/json; charset=utf-8"}
SHORT_WAY = {"content-type": "application/json"}
STUDY = "/v1/studies/one"
RESULT: dict[str, Any] = {"measurements": [{"metric": "loss", "value": 1.0}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service"), workers=0) as service:
        add(service, service.study("one"), 3)
        yield service


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that were left to FastAPI."""
    bodies: list[bytes] = []
    again = quick._again

    def counted(data: bytes, receive: Any) -> Any:
        bodies.append(data)
        return again(data, receive)

    monkeypatch.setattr(quick, "_again", counted)
    return bodies


def post(service: Service, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, Any]:
    answer = service.http.post(path, content=body, headers=headers)
    assert answer.headers["x-request-id"]
    return answer.status_code, answer.headers["content-type"], answer.json()


def test_what_is_right_takes_the_short_way(service: Service, left: list[bytes]):
    (trial,) = service.ask(STUDY, worker="w")
    token = {"lease_token": trial["lease"]["token"]}
    path = f"{STUDY}/trials/{trial['number']}"
    service.call("POST", f"{path}/heartbeat", token, status=200)
    told = service.call("POST", f"{path}/tell", {**RESULT, **token}, status=200)
    assert (told["state"], told["measurements"]) == ("COMPLETED", RESULT["measurements"])
    assert not left
    body = json.dumps({**RESULT, **token}).encode()
    assert post(service, f"{path}/tell", body, SHORT_WAY) == post(service, f"{path}/tell", body, LONG_WAY)
    assert left == [body]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{STUDY}/ask", b"{}x"),
        (f"{STUDY}/ask", b""),
        (f"{STUDY}/ask", b"[]"),
        (f"{STUDY}/ask", b'{"count": 0}'),
        (f"{STUDY}/ask", b'{"count": 1, "strange": true}'),
        (f"{STUDY}/ask", b'{"worker": "\xff"}'),
        (f"{STUDY}/ask", b'{"count": 1000, "max_wait_s": 0.01}'),
        (f"{STUDY}/ask", b'{"context": {"x1": 1}}'),
        ("/v1/studies/none/ask", b"{}"),
        ("/v1/studies/%6Fne/trials/77/tell", json.dumps(RESULT).encode()),
        (f"{STUDY}/trials/-1/tell", json.dumps(RESULT).encode()),
        (f"{STUDY}/trials/one/tell", json.dumps(RESULT).encode()),
        (f"{STUDY}/trials/99999999999/tell", json.dumps(RESULT).encode()),
        (f"{STUDY}/trials/2/tell", b'{"measurements": [{"metric": "loss", "value": NaN}]}'),
        (f"{STUDY}/trials/2/tell", b'{"measurements": [{"metric": "gain", "value": 1}]}'),
        (f"{STUDY}/trials/2/tell", b'{"lease_token": "a", "measurements": [{"metric": "loss", "value": 1}]}'),
        (f"{STUDY}/trials/2/heartbeat", b"{}"),
        (f"{STUDY}/trials/2/heartbeat", b'{"lease_token": "a"}'),
        (f"{STUDY}/trials/2/heartbeat", b'{"lease_token": "\\ud800"}'),
    ],
)
def test_what_is_wrong_is_answered_alike_on_both_ways(service: Service, path: str, body: bytes):
    short = post(service, path, body, SHORT_WAY)
    assert short == post(service, path, body, LONG_WAY)
    assert short[0] >= 400


@pytest.mark.parametrize("body", [b"count=1", b'{"count": 1}'])
def test_what_is_no_json_is_refused(service: Service, left: list[bytes], body: bytes):
    status, _, problem = post(service, f"{STUDY}/ask", body, {"content-type": "text/plain"})
    assert (status, left) == (422, [body])
    assert problem["errors"]


def test_a_body_without_a_length_is_read(service: Service, left: list[bytes]):
    parts = iter([b'{"cou', b'nt": 0', b"}"])
    answer = httpx.post(f"{service.url}{STUDY}/ask", content=parts, headers=SHORT_WAY)
    assert (answer.status_code, left) == (422, [b'{"count": 0}'])
    assert answer.json()["errors"][0]["field"] == "count"


def test_other_methods_are_fastapis(service: Service):
    assert service.http.get(f"{STUDY}/ask").status_code == 405
    assert "suffice_requests_total" in service.http.get("/metrics").text
    assert f'route="{STUDY.replace("one", "{name}")}/ask",status="422"' in service.http.get("/metrics").text
