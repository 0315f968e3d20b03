"""Studies over HTTP: define, list, change, delete, export, import, best, predict."""

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from live import BRANIN, Service, serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


def test_a_study_is_returned_as_it_was_defined(service: Service):
    definition = {
        "name": "defined",
        "parameters": [
            {"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "log": True},
            {"name": "layers", "type": "int", "low": 1, "high": 8},
            {"name": "kind", "type": "categorical", "choices": ["a", 2, True]},
            {"name": "momentum", "type": "float", "low": 0, "high": 1, "active_if": "kind == 'a'"},
            {"name": "fixed", "type": "constant", "value": "x"},
        ],
        "objectives": [{"metric": "loss", "direction": "maximize"}],
        "parameter_constraints": ["lr * layers <= 0.5"],
        "outcome_constraints": ["latency <= 0.2"],
        "acquisition": "auto",
        "noise": 0.25,
        "budget": {"trials": 12},
        "seed": 2**53 - 1,
        "lease_seconds": 5.5,
        "max_retries": 0,
        "metadata": {"owner": None, "tags": ["a", {"b": 1}]},
    }
    answer = service.http.post("/v1/studies", json=definition)
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/studies/defined"
    created = answer.json()
    assert {key: created[key] for key in definition} == definition
    assert (created["state"], created["trials"], created["data_version"]) == ("ACTIVE", {}, 0)
    assert service.call("GET", "/v1/studies/defined") == created


def test_a_seed_is_drawn_where_none_is_given(service: Service):
    seeds = {
        service.call("POST", "/v1/studies", {**BRANIN, "name": f"seed{i}", "seed": None})["seed"] for i in range(3)
    }
    assert len(seeds) == 3


def test_a_name_is_taken_once(service: Service):
    service.study("taken")
    problem = service.call("POST", "/v1/studies", {"name": "taken", **BRANIN}, status=409)
    assert "'taken'" in problem["detail"]


def test_studies_are_listed_in_pages(service: Service):
    for i in range(5):
        service.study(f"page{i}")
    names: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = service.call("GET", "/v1/studies", params={"limit": 2, **cursor})
        names += [study["name"] for study in page["studies"]]
        if "next_cursor" not in page:
            break
        assert len(page["studies"]) == 2
        cursor = {"cursor": page["next_cursor"]}
    assert names == sorted(names)
    assert {f"page{i}" for i in range(5)} <= set(names)


def test_what_is_given_changes_and_the_rest_stays(service: Service):
    study = service.study("patched", budget={"trials": 3}, metadata={"a": 1})
    after = service.call("PATCH", study, {"lease_seconds": 7, "budget": {"trials": None}})
    assert (after["lease_seconds"], after["budget"], after["metadata"]) == (7, {}, {"a": 1})
    assert service.call("PATCH", study, {"state": "STOPPED"})["state"] == "STOPPED"
    assert service.stopped(study)["reason"] == "stopped by the user"
    service.call("PATCH", study, {"state": "ACTIVE"})
    assert len(service.ask(study)) == 1
    problem = service.call("PATCH", study, {"parameters": []}, status=422)
    assert problem["errors"][0]["field"] == "parameters"


def test_a_deleted_study_is_gone(service: Service):
    study = service.study("deleted")
    service.ask(study)
    service.call("DELETE", study, status=204)
    for method, path in (("GET", study), ("DELETE", study), ("GET", f"{study}/trials"), ("GET", f"{study}/events")):
        service.call(method, path, status=404)
    service.study("deleted")
    assert service.ask(study)[0]["number"] == 0


def test_best_is_the_recommended_trial(service: Service):
    study = service.study("best", noise="none")
    problem = service.call("GET", f"{study}/best", status=404)
    assert "no trial is completed" in problem["detail"]
    for i in range(8):
        (trial,) = service.ask(study, fresh=True)
        service.tell(study, trial, (i - 5) ** 2)
    best = service.call("GET", f"{study}/best")
    assert best["trial"]["number"] == 5
    assert best["trial"]["measurements"] == [{"metric": "loss", "value": 0.0}]
    assert "best observed" in best["why"]
    assert math.isfinite(best["mean"])
    assert best["sd"] >= 0
    assert service.call("GET", f"{study}/best") == best  # kept: nothing changed


def test_best_does_not_depend_on_the_engine(tmp_path: Path):
    with serving(tmp_path, workers=0) as service:
        study = service.study("observed", outcome_constraints=["cost <= 1"])
        service.call("GET", f"{study}/best", params={"max_wait_s": 0}, status=404)
        results = [(1.0, 5.0), (2.0, 0.5), (3.0, 0.5)]
        trials = [
            {
                "parameters": {"x1": 0, "x2": i},
                "measurements": [{"metric": "loss", "value": loss}, {"metric": "cost", "value": cost}],
            }
            for i, (loss, cost) in enumerate(results)
        ]
        service.call("POST", f"{study}/trials", {"trials": trials})
        best = service.call("GET", f"{study}/best", params={"max_wait_s": 0})
        assert best["trial"]["number"] == 1
        assert "the model could not be asked" in best["why"]
        assert "mean" not in best


def test_predictions_come_from_the_model(service: Service):
    study = service.study("predicted", noise="none")
    point = {"x1": 1.0, "x2": 2.0}
    problem = service.call("POST", f"{study}/predict", {"configurations": [point]}, status=404)
    assert "no model yet" in problem["detail"]
    grid = [{"x1": a, "x2": b} for a in (-4, 0, 3, 9) for b in (1, 7, 14)]
    added = [{"parameters": p, "measurements": [{"metric": "loss", "value": p["x1"] + p["x2"]}]} for p in grid]
    service.call("POST", f"{study}/trials", {"trials": added})
    answer = service.call("POST", f"{study}/predict", {"configurations": [point, grid[4]]})
    assert (answer["metric"], answer["observations"], answer["data_version"]) == ("loss", 12, 1)
    assert answer["predictions"][0]["mean"] == pytest.approx(3.0, abs=0.5)
    assert answer["predictions"][1]["sd"] < answer["predictions"][0]["sd"]
    wrong: Any = {"configurations": [point, {"x1": 99, "x2": 2}]}
    problem = service.call("POST", f"{study}/predict", wrong, status=422)
    assert problem["errors"][0]["field"] == "configurations.1.x1"


def test_an_export_can_be_imported(service: Service):
    study = service.study("exported", metadata={"a": None})
    running, done = service.ask(study, 2)
    service.tell(study, done, 0.1)
    document = service.call("GET", f"{study}/export")
    assert document["format"] == "suffice/study/1"
    service.call("POST", "/v1/studies:import", document, status=409)
    document["study"]["name"] = "imported"
    imported = service.call("POST", "/v1/studies:import", document, status=201)
    assert imported["trials"] == {"WAITING": 1, "COMPLETED": 1}
    assert (imported["seed"], imported["metadata"]) == (0, {"a": None})
    (again,) = service.ask("/v1/studies/imported")
    assert (again["number"], again["parameters"]) == (running["number"], running["parameters"])
    assert service.ask("/v1/studies/imported")[0]["number"] == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d["trials"][1].update(number=0), "trials.1.number"),
        (lambda d: d["trials"][0]["parameters"].update(x1=99), "trials.0.parameters.x1"),
        (
            lambda d: d["trials"][0].update(measurements=[{"metric": "cost", "value": 1}]),
            "trials.0.measurements.0.metric",
        ),
        (lambda d: d["study"]["parameters"][0].update(low=99), "parameters.x1.low"),
        (lambda d: d.update(format="suffice/study/99"), "format"),
    ],
)
def test_a_broken_export_is_refused(service: Service, change: Any, field: str):
    name = f"broken-{field}"
    study = service.study(name)
    for trial in service.ask(study, 2):
        service.tell(study, trial, 1.0)
    document = service.call("GET", f"{study}/export")
    service.call("DELETE", study)
    change(document)
    problem = service.call("POST", "/v1/studies:import", document, status=422)
    assert problem["errors"][0]["field"] == field
    service.call("GET", study, status=404)
