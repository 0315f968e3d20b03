"""Several replicas of the service on one PostgreSQL: what one does, the others know; one of them computes."""

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from benchmarks.postgres import Postgres
from live import PATIENCE, Service, add, serving, watching

# A worker that has suggestions and no model: it never loads torch.
PLAIN = "from suffice.api import worker; worker.HEAVY = (); worker.main()"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def replica(new_postgres: Callable[[], str], tmp_path: Path) -> Generator[Callable[..., Service]]:
    """Starts one more replica."""
    database = new_postgres()
    with ExitStack() as stack:
        yield lambda: stack.enter_context(serving(tmp_path, (sys.executable, "-c", PLAIN), database=database))


def owned(service: Service) -> set[int]:
    return set(service.parts.engine._replicas.owned)


def test_a_change_is_heard_of_by_whoever_watches_elsewhere(
    replica: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("suffice.api.events.POLL_SECONDS", PATIENCE)
    one, other = replica(), replica()
    study = one.study("watched")
    with watching(other, study, params={"after": 0}) as events:
        assert next(events)["event"] == "suggestions"
        add(one, study)
        assert next(events)["data"]["state"] == "WAITING"
        one.call("DELETE", study)
        assert list(events) == []


def test_one_replica_computes_for_all(replica: Callable[..., Service], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suffice.api.engine.REFILL_SECONDS", PATIENCE)  # nobody looks before being told to
    one, other = replica(), replica()
    study = one.study("shared")
    trials = [t for turn in range(30) for t in (one, other)[turn % 2].ask(study, 3)]  # more than were prepared
    assert [t["number"] for t in trials] == list(range(90))
    assert len({tuple(t["parameters"].values()) for t in trials}) == 90
    assert (len(owned(one)), len(owned(other))) == (1, 0)
    assert "worker" in one.call("POST", f"{study}/ask", {"worker": "\0"}, status=422)["detail"]
    own = other.study("own")
    other.ask(own)
    assert owned(one).isdisjoint(owned(other))


def test_a_study_goes_to_the_next_replica_when_its_own_one_stops(
    new_postgres: Callable[[], str], tmp_path: Path, replica: Callable[..., Service]
):
    other = replica()
    database = other.parts.settings.database
    with serving(tmp_path, (sys.executable, "-c", PLAIN), database=database) as one:
        study = one.study("left")
        one.ask(study, 5)
        other.ask(study, 5)
        assert (len(owned(one)), len(owned(other))) == (1, 0)
    assert len(other.ask(study, 40)) == 40
    assert len(owned(other)) == 1


def test_a_study_that_nobody_asks_about_is_left(replica: Callable[..., Service], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suffice.api.engine.IDLE_SECONDS", 0.01)
    one, other = replica(), replica()
    study = one.study("idle")
    one.ask(study)
    while owned(one) or one.parts.engine._desks:  # what it hears of its own ask may bring the study back for a moment
        one.call("GET", "/healthz")
    monkeypatch.setattr("suffice.api.engine.IDLE_SECONDS", PATIENCE)
    other.ask(study, 40)
    assert len(owned(other)) == 1


@pytest.mark.parametrize("how", ["drop_connections", "restart"])
def test_replicas_go_on_when_the_database_was_away(postgres: Postgres, replica: Callable[..., Service], how: str):
    services = [replica(), replica()]
    study = services[0].study("away")
    told = services[0].ask(study, 2)
    getattr(postgres, how)()
    for service, trial in zip(services, told, strict=True):
        answer: dict[str, Any] = {}
        while answer.get("state") != "COMPLETED":  # 503 as long as it is away
            body = {"lease_token": trial["lease"]["token"], "measurements": [{"metric": "loss", "value": 1.0}]}
            answer = service.http.post(f"{study}/trials/{trial['number']}/tell", json=body).json()
    trials = [t for service in services for t in service.ask(study, 20)]
    assert len({t["number"] for t in trials}) == 40
