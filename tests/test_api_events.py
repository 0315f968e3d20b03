"""Server-sent events: what happens in a study, in order, and again from where one left off."""

import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from live import PATIENCE, Service, add, parse, serving, watching


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service"), workers=0) as service:
        yield service


def test_what_happens_is_seen_in_order(service: Service):
    study = service.study("watched")
    with watching(service, study) as events:
        add(service, study)
        (trial,) = service.ask(study)
        service.tell(study, trial, 1.0)
        seen = [next(events)]
        while seen[-1]["data"].get("state") != "COMPLETED":
            seen.append(next(events))
        assert {e["event"] for e in seen} == {"trial"}
        assert [int(e["id"]) for e in seen] == sorted(int(e["id"]) for e in seen)
        assert seen[-1]["data"]["measurements"] == [{"metric": "loss", "value": 1.0}]
        assert "lease" not in seen[0]["data"]
        service.call("PATCH", study, {"metadata": {"a": 1}})
        assert next(events)["data"]["metadata"] == {"a": 1}


def test_a_stream_continues_where_it_broke_off(service: Service):
    study = service.study("resumed")
    add(service, study, 5)
    with watching(service, study, params={"after": 0}) as events:
        first = [next(events) for _ in range(2)]
    assert [e["data"]["number"] for e in first] == [0, 1]
    with watching(service, study, headers={"Last-Event-ID": first[-1]["id"]}) as events:
        assert [next(events)["data"]["number"] for _ in range(3)] == [2, 3, 4]


def test_an_id_from_the_future_is_no_reason_to_hear_nothing(service: Service):
    study = service.study("future")
    add(service, study)
    with watching(service, study, headers={"Last-Event-ID": "999"}) as events:
        add(service, study)
        assert next(events)["data"]["number"] == 1


def test_many_watchers_and_a_slow_one_stop_nobody(service: Service):
    study = service.study("crowded")
    add(service, study, 200)
    with watching(service, study, params={"after": 0}) as slow:
        next(slow)  # and reads no further
        seen: list[int] = []

        def watch() -> None:
            with watching(service, study, params={"after": 0}) as events:
                seen.append(sum(1 for _ in zip(range(200), events, strict=False)))

        threads = [threading.Thread(target=watch) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert seen == [200] * 5
        assert len(service.ask(study)) == 1


def test_the_stream_of_a_deleted_study_ends(service: Service):
    study = service.study("gone")
    add(service, study)
    with watching(service, study, params={"after": 0}) as events:
        next(events)
        service.call("DELETE", study)
        assert list(events) == []


def test_refreshed_suggestions_are_an_event(tmp_path: Path):
    with serving(tmp_path) as service:
        study = service.study("refreshed")
        with watching(service, study, params={"after": 0}) as events:
            event = next(events)
            assert event["event"] == "suggestions"
            assert event["data"] == {"ready": 16, "data_version": 0}


def test_watchers_do_not_keep_the_service_from_stopping(tmp_path: Path):
    with serving(tmp_path, workers=0) as service:
        study = service.study("last")
        add(service, study)
        answer = httpx.Client(base_url=service.url, timeout=PATIENCE)
        request = answer.build_request("GET", f"{study}/events", params={"after": 0})
        stream = answer.send(request, stream=True)
        events = parse(stream.iter_lines())
        next(events)
    assert list(events) == []
    answer.close()
