"""Trials over HTTP: ask, tell, report, heartbeat, fail, cancel, the history and adding to it."""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Service, serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


def value_of(trial: dict[str, Any]) -> Any:
    return sum((x - 1) ** 2 for x in trial["parameters"].values())


def test_an_ask_hands_out_trials_with_leases_and_says_where_they_come_from(service: Service):
    study = service.study("asked")
    first, second = service.ask(study, 2, worker="w1")
    assert (first["number"], second["number"]) == (0, 1)
    assert (first["state"], first["worker"], first["attempts"]) == ("RUNNING", "w1", 1)
    assert first["source"]["method"] == "quasi-random"
    assert first["source"]["data_version"] == 0
    assert first["lease"]["token"] != second["lease"]["token"]
    assert set(first["parameters"]) == {"x1", "x2"}
    assert "lease" not in service.call("GET", f"{study}/trials/0")


def test_a_study_is_tuned(service: Service):
    study = service.study("tuned", noise="none", budget={"trials": 14})
    methods: list[str] = []
    for _ in range(14):
        (trial,) = service.ask(study, fresh=True)
        methods.append(trial["source"]["method"])
        service.tell(study, trial, value_of(trial))
    assert methods[0] == "quasi-random"
    assert "expected_improvement" in methods[-1]
    assert service.stopped(study)["reason"] == "budget spent"
    best = service.call("GET", f"{study}/best")
    assert best["trial"]["measurements"][0]["value"] < 1


def test_a_fresh_ask_knows_everything_told_before(service: Service):
    study = service.study("fresh")
    for told in range(6):
        (trial,) = service.ask(study, fresh=True)
        assert trial["source"]["data_version"] >= told
        assert trial["source"]["observations"] == told
        service.tell(study, trial, value_of(trial))


def test_the_same_seed_and_the_same_tells_give_the_same_asks(service: Service):
    """One study after the other, sequentially; the second continues from an export half way."""
    runs: list[list[Any]] = []
    for name in ("run1", "run2"):
        study, points = service.study(name, seed=7, noise="none"), []
        for i in range(8):
            if name == "run2" and i == 4:
                document = service.call("GET", f"{study}/export")
                service.call("DELETE", study)
                service.call("POST", "/v1/studies:import", document)
            (trial,) = service.ask(study, fresh=True)
            points.append(trial["parameters"])
            service.tell(study, trial, value_of(trial))
        runs.append(points)
    assert runs[0] == runs[1]


def test_concurrent_asks_all_differ(service: Service):
    study = service.study("crowd")
    with ThreadPoolExecutor(12) as pool:
        asked = list(pool.map(lambda i: service.ask(study, worker=f"w{i}", fresh=i % 2 == 0), range(36)))
    trials = [trial for (trial,) in asked]
    assert sorted(t["number"] for t in trials) == list(range(36))
    assert len({tuple(t["parameters"].values()) for t in trials}) == 36


def test_a_finite_space_is_tried_once_and_then_exhausted(service: Service):
    """Concurrent workers that ask and tell at once; no configuration comes twice, none is left out."""
    parameters = [
        {"name": "a", "type": "int", "low": 0, "high": 4},
        {"name": "b", "type": "categorical", "choices": ["x", "y"]},
        {"name": "c", "type": "bool"},
    ]
    study = service.study("finite", parameters=parameters, noise="none")
    tried: list[tuple[Any, ...]] = []
    reasons: list[str] = []

    def work(worker: int) -> None:
        while True:
            body = {"worker": f"w{worker}", "max_wait_s": 60, "fresh": worker % 2 == 0}
            answer = service.call("POST", f"{study}/ask", body)
            if "stop" in answer:
                reasons.append(answer["stop"]["reason"])
                return
            (trial,) = answer["trials"]
            tried.append(tuple(trial["parameters"].values()))
            service.tell(study, trial, trial["parameters"]["a"] + (trial["parameters"]["b"] == "x"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tried) == len(set(tried)) == 20
    assert reasons == ["space exhausted"] * 4


def test_an_ask_that_waits_too_long_leases_nothing(service: Service):
    study = service.study("patience")
    service.ask(study, 16)
    answer = service.http.post(f"{study}/ask", json={"count": 500, "max_wait_s": 0.001})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert service.call("GET", study)["trials"] == {"RUNNING": 16}


def test_an_idempotency_key_gives_the_same_trials_also_at_once(service: Service):
    study = service.study("keys")
    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda _: service.ask(study, 2, idempotency_key="k"), range(16)))
    assert {(t["number"], t["lease"]["token"]) for trials in asked for t in trials} == {
        (t["number"], t["lease"]["token"]) for t in asked[0]
    }
    assert service.call("GET", study)["trials"] == {"RUNNING": 2}
    service.call("POST", f"{study}/ask", {"count": 3, "idempotency_key": "k"}, status=409)


def test_a_result_told_twice_is_recorded_once(service: Service):
    study = service.study("told")
    (trial,) = service.ask(study)
    first = service.tell(study, trial, 1.5)
    assert (first["state"], first["measurements"]) == ("COMPLETED", [{"metric": "loss", "value": 1.5}])
    assert service.tell(study, trial, 1.5, status=200) == first
    assert service.call("GET", study)["data_version"] == 1
    problem = service.tell(study, trial, 2.5, status=409)
    assert "COMPLETED already" in problem["detail"]


def test_what_measurements_say_is_kept(service: Service):
    study = service.study("measured", outcome_constraints=["time <= 5"])
    (trial,) = service.ask(study)
    measurements = [
        {"metric": "loss", "value": 0.1 + 0.2, "stderr": 0.01, "gradient": {"x1": 1e-300, "x2": -2.0}},
        {"metric": "loss", "value": 0.4},
        {"metric": "time", "value": 3.0},
    ]
    body = {"lease_token": trial["lease"]["token"], "measurements": measurements}
    assert service.call("POST", f"{study}/trials/0/tell", body)["measurements"] == measurements
    assert service.call("GET", f"{study}/trials/0")["measurements"] == measurements


def test_infeasible_and_pruned_trials(service: Service):
    study = service.study("ended")
    first, second = service.ask(study, 2)
    body = {"lease_token": first["lease"]["token"], "state": "INFEASIBLE", "reason": "melted"}
    told = service.call("POST", f"{study}/trials/0/tell", body)
    assert (told["state"], told["reason"], told["measurements"]) == ("INFEASIBLE", "melted", [])
    report = {"lease_token": second["lease"]["token"], "measurements": [{"metric": "loss", "value": 9, "step": 1}]}
    reported = service.call("POST", f"{study}/trials/1/report", report)
    assert reported["lease"]["expires_at"] == second["lease"]["expires_at"]  # the clock stands still
    pruned = service.call("POST", f"{study}/trials/1/tell", {**report, "state": "PRUNED"})
    assert pruned["state"] == "PRUNED"
    assert pruned["measurements"] == [{"metric": "loss", "value": 9.0, "step": 1}]


def test_a_lease_is_kept_by_heartbeats_and_lost_without(service: Service):
    study = service.study("leases", lease_seconds=10)
    (trial,) = service.ask(study, worker="slow")
    token = {"lease_token": trial["lease"]["token"]}
    service.clock.advance(8)
    beat = service.call("POST", f"{study}/trials/0/heartbeat", token)
    assert beat["lease"]["expires_at"] > trial["lease"]["expires_at"]
    service.clock.advance(8)
    service.call("POST", f"{study}/trials/0/heartbeat", token)
    service.clock.advance(11)
    (again,) = service.ask(study, worker="quick")
    assert (again["number"], again["attempts"], again["worker"]) == (0, 2, "quick")
    for verb, body in (
        ("heartbeat", token),
        ("tell", {**token, "measurements": [{"metric": "loss", "value": 1}]}),
        ("fail", token),
        ("report", {**token, "measurements": [{"metric": "loss", "value": 1, "step": 0}]}),
    ):
        problem = service.call("POST", f"{study}/trials/0/{verb}", body, status=409)
        assert problem["type"] == "urn:suffice:lease-lost"
        assert problem["errors"][0]["field"] == "lease_token"
    service.tell(study, again, 1.0)


def test_expired_leases_are_swept_up_while_nobody_asks(tmp_path: Path):
    with serving(tmp_path, workers=0, sweep_seconds=0.01) as service:
        study = service.study("swept", lease_seconds=10)
        service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 0, "x2": 0}}]})
        service.ask(study)
        with httpx.stream("GET", f"{service.url}{study}/events?after=0", timeout=60) as events:
            service.clock.advance(11)
            assert any('"state":"WAITING"' in line.replace(" ", "") for line in events.iter_lines())


def test_failed_trials_are_retried_and_cancelled_ones_are_not(service: Service):
    study = service.study("failed", max_retries=1)
    (trial,) = service.ask(study)
    token = {"lease_token": trial["lease"]["token"]}
    failed = service.call("POST", f"{study}/trials/0/fail", {**token, "reason": "no disk"})
    assert (failed["state"], failed["reason"]) == ("WAITING", "no disk")
    (again,) = service.ask(study)
    assert again["number"] == 0
    token = {"lease_token": again["lease"]["token"]}
    assert service.call("POST", f"{study}/trials/0/fail", token)["state"] == "FAILED"
    (other,) = service.ask(study)
    assert service.call("POST", f"{study}/trials/1/cancel", {"reason": "enough"})["state"] == "CANCELLED"
    assert service.call("POST", f"{study}/trials/1/cancel", {})["state"] == "CANCELLED"
    service.call("POST", f"{study}/trials/1/heartbeat", {"lease_token": other["lease"]["token"]}, status=409)


def test_own_points_are_tried_next_and_history_is_learned_from(service: Service):
    study = service.study("added")
    history = [
        {"parameters": {"x1": i / 2, "x2": i}, "measurements": [{"metric": "loss", "value": i}]} for i in range(8)
    ]
    page = service.call("POST", f"{study}/trials", {"trials": history}, status=201)
    assert [t["state"] for t in page["trials"]] == ["COMPLETED"] * 8
    assert page["trials"][0]["source"]["method"] == "added"
    service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 1, "x2": 2}}]})
    queued, suggested = service.ask(study, 2, fresh=True)
    assert queued["parameters"] == {"x1": 1.0, "x2": 2.0}
    assert suggested["source"]["observations"] == 8
    unleased = service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 3, "x2": 2}}]})["trials"][0]
    body = {"measurements": [{"metric": "loss", "value": 1}]}
    path = f"{study}/trials/{unleased['number']}/tell"
    assert service.call("POST", path, body)["state"] == "COMPLETED"


def test_ten_thousand_trials_are_added_in_one_request(tmp_path: Path):
    trials = [
        {"parameters": {"x1": i / 1000, "x2": 1}, "measurements": [{"metric": "loss", "value": i}]}
        for i in range(10_000)
    ]
    with serving(tmp_path, workers=0) as service:
        study = service.study("bulk")
        page = service.call("POST", f"{study}/trials", {"trials": trials}, status=201)
        assert len(page["trials"]) == 10_000
        service.call("POST", f"{study}/trials", {"trials": [*trials, trials[0]]}, status=422)
        assert service.call("GET", study)["trials"] == {"COMPLETED": 10_000}


def test_trials_are_listed_in_pages_and_by_state(service: Service):
    study = service.study("listed")
    for trial in service.ask(study, 5)[:2]:
        service.tell(study, trial, 1.0)
    first = service.call("GET", f"{study}/trials", params={"limit": 3})
    rest = service.call("GET", f"{study}/trials", params={"limit": 3, "cursor": first["next_cursor"]})
    assert [t["number"] for t in first["trials"] + rest["trials"]] == list(range(5))
    assert "next_cursor" not in rest
    completed = service.call("GET", f"{study}/trials", params={"state": "COMPLETED"})
    assert [t["number"] for t in completed["trials"]] == [0, 1]
