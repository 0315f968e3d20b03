"""Deciding over HTTP: costs that stop a study, advice, several objectives, acquisitions with options."""

from collections.abc import Generator
from typing import Any

import pytest
from live import Service, serving

LINE: dict[str, Any] = {
    "parameters": [{"name": "x", "type": "float", "low": 0, "high": 1}],
    "objectives": [{"metric": "loss"}],
    "seed": 0,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


def test_a_study_with_a_cost_stops_when_no_trial_pays(service: Service):
    study = service.study("cost", **LINE, cost={"price": 0.01}, budget={"trials": 40})
    handed_out = 0
    while True:
        answer = service.call("POST", f"{study}/ask", {"fresh": True})
        if answer.get("stop"):
            break
        (trial,) = answer["trials"]
        handed_out += 1
        service.tell(study, trial, (trial["parameters"]["x"] - 0.3) ** 2)
    assert answer["stop"]["reason"] == "gain below cost"
    assert answer["stop"]["gain"] <= answer["stop"]["cost"] == pytest.approx(0.01)
    assert 5 <= handed_out < 40
    advice = service.call("GET", f"{study}/advice")
    assert advice["pays"] is False
    assert advice["gain"] <= advice["cost"]
    assert "does not pay" in advice["why"]
    assert service.call("GET", study)["cost"] == {"price": 0.01}


def test_a_finite_space_with_a_cost_says_which_of_the_two_ended_it(service: Service):
    choices = {"parameters": [{"name": "n", "type": "int", "low": 1, "high": 3}], "objectives": [{"metric": "loss"}]}
    study = service.study("finite", **choices, parameter_constraints=[], cost={"price": 1e-9}, seed=0)
    assert sorted(t["parameters"]["n"] for t in service.ask(study, 9)) == [1, 2, 3]
    assert service.stopped(study)["reason"] == "space exhausted"


def test_advice_without_a_cost_or_a_model(service: Service):
    study = service.study("advice", **LINE)
    empty = service.call("GET", f"{study}/advice")
    assert "gain" not in empty
    assert "no model yet" in empty["why"]
    for trial in service.ask(study, 6):
        service.tell(study, trial, (trial["parameters"]["x"] - 0.3) ** 2)
    advice = service.call("GET", f"{study}/advice")
    assert "pays" not in advice
    assert advice["gain"] > 0
    assert 0 <= advice["parameters"]["x"] <= 1


def test_several_objectives_have_a_front_and_no_single_best(service: Service):
    objectives = [{"metric": "a", "reference_point": 2.0}, {"metric": "b", "direction": "maximize"}]
    study = service.study("front", **{**LINE, "objectives": objectives})
    values = [(0.0, 0.0), (1.0, 2.0), (0.5, -1.0), (0.2, 1.0)]
    added = [
        {"parameters": {"x": a}, "measurements": [{"metric": "a", "value": a}, {"metric": "b", "value": b}]}
        for a, b in values
    ]
    service.call("POST", f"{study}/trials", {"trials": added})
    front = service.call("GET", f"{study}/pareto")
    assert [t["trial"]["number"] for t in front["trials"]] == [0, 3, 1]
    assert "Pareto" in front["trials"][0]["why"] or "every objective" in front["trials"][0]["why"]
    problem = service.call("GET", f"{study}/best", status=409)
    assert "pareto" in problem["detail"]


def test_an_acquisition_is_chosen_with_options(service: Service):
    study = service.study("kg", **LINE, acquisition={"name": "upper_confidence_bound", "beta": 2.0})
    for trial in service.ask(study, 6):
        service.tell(study, trial, (trial["parameters"]["x"] - 0.3) ** 2)
    (trial,) = service.ask(study, fresh=True)
    assert trial["source"]["method"] == "upper_confidence_bound"
    assert service.call("GET", study)["acquisition"] == {"name": "upper_confidence_bound", "beta": 2.0}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"acquisition": {"name": "upper_confidence_bound", "beta": -1}}, "acquisition.beta"),
        ({"acquisition": "magic"}, "acquisition"),
        ({"acquisition": "gittins"}, "cost"),
        ({"cost": {"price": 0}}, "cost.price"),
        ({"objectives": [{"metric": "a"}, {"metric": "b"}], "cost": {"price": 1}}, "cost"),
    ],
)
def test_wrong_definitions_name_the_field(service: Service, fields: dict[str, Any], field: str):
    problem = service.call("POST", "/v1/studies", {"name": "wrong", **LINE, **fields}, status=422)
    assert problem["errors"][0]["field"] == field
