"""Every setting of a study over HTTP: it is defined, asked, told, and recommends."""

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import Bench, Service, measured, serving, token

from suffice.api import wire
from suffice.api.cli import main
from suffice.api.client import Client
from suffice.api.definitions import SERVICE, should_prune
from suffice.api.wire import Report
from suffice.optimizer import Float, Measurement, Source, Space, Study
from suffice.optimizer import study as core
from suffice.optimizer.conservative import Conservative
from suffice.optimizer.fidelity import Fidelity
from suffice.optimizer.model_choice import ModelChoice
from suffice.optimizer.pruning import EarlyStopping, Prune

pytestmark = pytest.mark.timeout(120)

LINE: dict[str, Any] = {
    "parameters": [{"name": "x", "type": "float", "low": 0, "high": 1}],
    "objectives": [{"metric": "loss"}],
    "seed": 0,
}
SITE = {"name": "site", "type": "categorical", "choices": ["north", "south"]}
EPOCHS = {"name": "epochs", "type": "int", "low": 1, "high": 9}
WIND = {"name": "wind", "type": "float", "low": -1, "high": 1}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


def with_also(*parameters: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**LINE, "parameters": [*LINE["parameters"], *parameters], **settings}


def run(service: Service, study: str, count: int, loss: Callable[..., float], **asked: Any) -> list[dict[str, Any]]:
    """So many trials, one after the other, each asked for freshly."""
    ran: list[dict[str, Any]] = []
    for _ in range(count):
        (trial,) = service.ask(study, fresh=True, **asked)
        service.tell(study, trial, loss(**trial["parameters"]))
        ran.append(trial)
    return ran


def bowl(x: float) -> float:
    return (x - 0.3) ** 2


# --- the shapes -------------------------------------------------------------------------------------------------------


def test_the_interface_has_every_setting_of_the_core():
    assert set(core._KEYS) | SERVICE <= set(wire.StudyCreate.model_fields)


@pytest.mark.parametrize(
    ("shape", "setting"),
    [
        (wire.ModelSpec, ModelChoice),
        (wire.FidelitySpec, Fidelity),
        (wire.ConservativeSpec, Conservative),
        (wire.EarlyStoppingSpec, EarlyStopping),
        (wire.PruneOut, Prune),
        (wire.MeasurementSpec, Measurement),
    ],
)
def test_shapes_mirror_the_settings_of_the_core(shape: type[wire.Wire], setting: Any):
    assert list(shape.model_fields) == [field.name for field in fields(setting)]


LIGHT = """
import json, sys
import suffice.api.app
from suffice.api.definitions import check_study
from suffice.api.wire import StudyCreate
for definition in json.load(sys.stdin):
    check_study(StudyCreate(name="s", **definition))
print(sorted({"ax", "torch", "botorch", "gpytorch", "scipy"} & set(sys.modules)))
"""


def test_definitions_are_checked_without_what_computes():
    definitions = [
        with_also(engine="ax", global_stopping={"min_trials": 5}),
        with_also(EPOCHS, fidelity={"target": {"epochs": 9}, "cost": "epochs"}, budget={"cost": 5}),
        with_also(WIND, environment={"wind": "uniform"}, risk={"cvar": 0.9}),
        with_also(SITE, context=["site"], model={"prior": "sparse"}),
        with_also(early_stopping={"policy": "gain", "steps": 9}),
        with_also(conservative={"baseline": {"x": 0.5}, "margin": 0.1}),
    ]
    command = [sys.executable, "-c", LIGHT]
    done = subprocess.run(command, input=json.dumps(definitions), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_trial_says_everything_about_its_source():
    assert {*(field.name for field in fields(Source)), "data_version"} == set(wire.SourceOut.model_fields)


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        (with_also(model={"prior": "magic"}), "model.prior"),
        (with_also(model={"warp": True}), "model.warp"),
        (with_also(context=["site"]), "context.0"),
        (with_also(EPOCHS, fidelity={"target": {"epochs": 10}, "cost": "epochs"}), "fidelity.target.epochs"),
        (with_also(EPOCHS, fidelity={"target": {"epochs": 9}}), "fidelity"),
        (with_also(EPOCHS, fidelity={"target": {"epochs": 9}, "cost": "epochs - 5"}), "fidelity.cost"),
        (with_also(WIND, environment={"wind": "normal"}), "environment.wind"),
        (with_also(WIND, environment={"wind": {"normal": [0, -1]}}), "environment.wind.normal"),
        (with_also(WIND, environment={"wind": {"normal": [0, "a"]}}), "environment.wind.normal"),
        (with_also(WIND, environment={"rain": "uniform"}), "environment.rain"),
        (with_also(WIND, environment={"wind": "uniform"}, risk={"cvar": 2}), "risk.cvar"),
        (with_also(risk="expectation"), "risk"),
        (with_also(budget={"cost": 5}), "budget.cost"),
        (with_also(conservative={"baseline": {"x": 2}, "margin": 1}), "conservative.baseline.x"),
        (with_also(conservative={"baseline": {"x": 1}, "margin": 0}), "conservative.margin"),
        (with_also(earlier=["nobody"]), "earlier.0"),
        (with_also(early_stopping={"policy": "luck"}), "early_stopping.policy"),
        (with_also(early_stopping={"policy": "median", "bound": 1}), "early_stopping.bound"),
        (with_also(early_stopping={"policy": "gain"}), "early_stopping.steps"),
        (with_also(engine="hebo"), "engine"),
        (with_also(SITE, engine="ax", context=["site"]), "context"),
        (with_also(engine="ax", acquisition="thompson"), "acquisition"),
        (with_also(global_stopping={"window": 0}), "global_stopping.window"),
        (with_also(global_stopping={"name": "never"}), "global_stopping.name"),
    ],
)
def test_what_is_wrong_in_a_setting_is_named_as_the_core_names_it(
    service: Service, definition: dict[str, Any], field: str
):
    problem = service.call("POST", "/v1/studies", {"name": "wrong", **definition}, status=422)
    assert problem["errors"][0]["field"] == field


def test_settings_are_returned_and_survive_an_export(service: Service):
    chosen = {
        "model": {"warping": True, "outliers": True, "prior": "sparse"},
        "environment": {"wind": {"normal": [0.0, 0.5]}},
        "risk": {"cvar": 0.9},
        "global_stopping": {"name": "improvement", "min_trials": 8, "window": 3, "bar": 0.2, "while_running": True},
    }
    study = service.study("exported", **with_also(WIND), **chosen)
    document = service.call("GET", f"{study}/export")
    document["study"]["name"] = "imported"
    service.call("POST", "/v1/studies:import", document, status=201)
    for name in ("exported", "imported"):
        found = service.call("GET", f"/v1/studies/{name}")
        assert {key: found[key] for key in chosen} == chosen


# --- one study for each -----------------------------------------------------------------------------------------------


def test_contexts_are_given_with_every_ask(service: Service):
    study = service.study("context", **with_also(SITE, context=["site"]))

    def loss(x: float, site: str) -> float:
        return (x - (0.3 if site == "north" else 0.4)) ** 2

    north = run(service, study, 8, loss, context={"site": "north"})
    south = run(service, study, 4, loss, context={"site": "south"})
    assert {t["parameters"]["site"] for t in north} == {"north"}
    assert {t["parameters"]["site"] for t in south} == {"south"}
    best = service.call("POST", f"{study}/best", {"context": {"site": "south"}})
    assert best["parameters"]["site"] == "south"
    assert abs(best["parameters"]["x"] - 0.4) < 0.1
    advice = service.call("POST", f"{study}/advice", {"context": {"site": "south"}})
    assert advice["gain"] > 0
    assert advice["parameters"]["site"] == "south"
    service.call("POST", f"{study}/predict", {"configurations": [best["parameters"]]})


def test_asks_in_several_contexts_at_once_each_get_their_own(service: Service):
    study = service.study("contexts", **with_also(SITE, context=["site"]))
    with ThreadPoolExecutor(6) as pool:
        sites = ["north", "south"] * 3
        asked = list(pool.map(lambda site: service.ask(study, context={"site": site}), sites))
    assert [t["parameters"]["site"] for (t,) in asked] == sites
    assert len({t["number"] for (t,) in asked}) == 6
    assert len({t["parameters"]["x"] for (t,) in asked}) == 6


def test_what_is_queued_waits_for_its_context(service: Service):
    study = service.study("queued-context", **with_also(SITE, context=["site"]))
    service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x": 0.25, "site": "south"}}]})
    (north,) = service.ask(study, context={"site": "north"})
    (south,) = service.ask(study, context={"site": "south"})
    assert (north["source"]["method"], south["source"]["method"]) == ("quasi-random", "queued")


@pytest.mark.parametrize(
    ("verb", "context", "field"),
    [
        ("ask", None, "context.site"),
        ("ask", {"site": "west"}, "context.site"),
        ("ask", {"site": "north", "x": 1}, "context.x"),
        ("best", {}, "context.site"),
        ("advice", {"site": 1}, "context.site"),
    ],
)
def test_a_wrong_context_is_named(service: Service, verb: str, context: Any, field: str):
    if verb == "ask" and context is None:
        service.study("wrong-context", **with_also(SITE, context=["site"]))
    body = {} if context is None else {"context": context}
    problem = service.call("POST", f"/v1/studies/wrong-context/{verb}", body, status=422)
    assert problem["errors"][0]["field"] == field


def test_what_depends_on_a_context_wants_it(service: Service):
    study = service.study("no-context", **with_also(SITE, context=["site"]))
    for what in ("best", "pareto", "advice"):
        assert "POST it" in service.call("GET", f"{study}/{what}", status=409)["detail"]


def test_a_front_in_a_context(service: Service):
    objectives = [{"metric": "loss"}, {"metric": "time"}]
    study = service.study("front-context", **with_also(SITE, context=["site"], objectives=objectives))
    for i in range(8):
        (trial,) = service.ask(study, context={"site": "north" if i % 2 else "south"})
        x = trial["parameters"]["x"]
        measured = [{"metric": "loss", "value": x**2}, {"metric": "time", "value": (1 - x) ** 2}]
        service.call("POST", f"{study}/trials/{trial['number']}/tell", {**held(trial), "measurements": measured})
    front = service.call("POST", f"{study}/pareto", {"context": {"site": "north"}})
    assert front["trials"]
    for point in front["trials"]:
        assert point["parameters"]["site"] == "north"
        assert set(point["expected"]) == {"loss", "time"}
        assert 0 <= point["probability"] <= 1


def held(trial: dict[str, Any]) -> dict[str, Any]:
    return {"lease_token": trial["lease"]["token"]}


def test_a_fidelity_with_a_budget_of_cost(service: Service):
    fidelity = {"target": {"epochs": 9}, "cost": "epochs / 9"}
    study = service.study("fidelity", **with_also(EPOCHS, fidelity=fidelity, budget={"cost": 6}))
    spent = 0.0
    while spent < 6:
        (trial,) = service.ask(study, fresh=True)
        spent += trial["parameters"]["epochs"] / 9
        service.tell(study, trial, bowl(trial["parameters"]["x"]) + 0.1 * (9 - trial["parameters"]["epochs"]) / 9)
    assert service.stopped(study)["reason"] == "budget spent"
    assert service.call("GET", study)["budget"] == {"cost": 6.0}
    best = service.call("GET", f"{study}/best")
    assert best["parameters"]["epochs"] == 9
    assert abs(best["parameters"]["x"] - 0.3) < 0.1
    service.call("PATCH", study, {"budget": {"cost": 20}})
    assert service.ask(study)


def test_a_budget_of_cost_wants_a_fidelity_also_later(service: Service):
    study = service.study("patched", **LINE)
    problem = service.call("PATCH", study, {"budget": {"cost": 3}}, status=422)
    assert problem["errors"][0]["field"] == "budget.cost"
    assert service.call("GET", study)["budget"] == {}


def test_an_environment_with_a_risk(service: Service):
    study = service.study("environment", **with_also(WIND, environment={"wind": "uniform"}, risk={"cvar": 0.7}))
    run(service, study, 10, lambda x, wind: (x - 0.3 + 0.1 * wind) ** 2)
    best = service.call("GET", f"{study}/best")
    assert set(best["parameters"]) == {"x"}
    assert abs(best["parameters"]["x"] - 0.3) < 0.15
    assert "cvar" in best["why"]


@pytest.mark.parametrize("model", [{"warping": True}, {"outliers": True}, {"prior": "sparse"}], ids=str)
def test_a_model_is_chosen(service: Service, model: dict[str, Any]):
    study = service.study("-".join(["model", *model]), **LINE, model=model)
    run(service, study, 7, bowl)
    assert abs(service.call("GET", f"{study}/best")["parameters"]["x"] - 0.3) < 0.1


def test_derivatives_are_told(service: Service):
    study = service.study("derivatives", **with_also(SITE))
    for _ in range(6):
        (trial,) = service.ask(study, fresh=True)
        x = trial["parameters"]["x"]
        measured = [{"metric": "loss", "value": bowl(x), "gradient": {"x": 2 * (x - 0.3)}}]
        told = service.call("POST", f"{study}/trials/{trial['number']}/tell", {**held(trial), "measurements": measured})
        assert told["measurements"] == measured
    assert abs(service.call("GET", f"{study}/best")["parameters"]["x"] - 0.3) < 0.1
    (trial,) = service.ask(study)
    measured = [{"metric": "loss", "value": 1.0, "gradient": {"site": 1.0}}]
    body = {**held(trial), "measurements": measured}
    problem = service.call("POST", f"{study}/trials/{trial['number']}/tell", body, status=422)
    assert problem["errors"][0]["field"] == "measurements.0.gradient.site"


def test_conservative_search_starts_at_the_baseline(service: Service):
    conservative = {"baseline": {"x": 0.6}, "margin": 0.2, "probability": 0.95}
    study = service.study("conservative", **LINE, conservative=conservative)
    ran = run(service, study, 8, bowl)
    assert ran[0]["parameters"] == {"x": 0.6}
    assert sum(bowl(**t["parameters"]) - bowl(0.6) - 0.2 for t in ran) <= 0
    assert service.call("GET", study)["conservative"] == conservative
    assert bowl(**service.call("GET", f"{study}/best")["parameters"]) < bowl(0.6)


@pytest.mark.parametrize(
    "policy",
    [
        {"policy": "median", "warmup_trials": 6},
        {"policy": "percentile", "percentile": 60, "warmup_trials": 6},
        {"policy": "threshold", "bound": 0.5},
        {"policy": "gain", "steps": 4, "warmup_steps": 2},
    ],
    ids=lambda policy: str(policy["policy"]),
)
def test_trials_are_stopped_early(service: Service, policy: dict[str, Any]):
    study = service.study("early-" + policy["policy"], **LINE, early_stopping=policy)
    assert service.call("GET", study)["early_stopping"] == policy
    for x in (0.2, 0.25, 0.35, 0.4, 0.45, 0.15):
        service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x": x}}]})
        (trial,) = service.ask(study)
        for step in range(4):
            assert "prune" not in reported(service, study, trial, bowl(x) + 0.1 / (1 + step), step)
        service.tell(study, trial, bowl(x))
    service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x": 1.0}}]})
    (trial,) = service.ask(study)
    answer = reported(service, study, trial, 0.9, 2)
    found = service.call("GET", f"{study}/trials/{trial['number']}/should_prune")["prune"]
    assert policy["policy"] == "gain" or answer["prune"] == found
    assert (found["policy"], found["step"], found["value"]) == (policy["policy"], 2, 0.9)
    body = {**held(trial), "state": "PRUNED", "reason": found["reason"]}
    assert service.call("POST", f"{study}/trials/{trial['number']}/tell", body)["state"] == "PRUNED"
    service.call("GET", f"{study}/trials/{trial['number']}/should_prune", status=409)
    assert service.ask(study, fresh=True)
    assert service.call("GET", f"{study}/best")["trial"]["state"] == "COMPLETED"


def reported(service: Service, study: str, trial: dict[str, Any], value: float, step: int) -> Any:
    body = {**held(trial), "measurements": [{"metric": "loss", "value": value, "step": step}]}
    return service.call("POST", f"{study}/trials/{trial['number']}/report", body)


def test_reports_end_with_the_last_step(service: Service):
    study = service.study("steps", **LINE, early_stopping={"policy": "median", "steps": 3})
    (trial,) = service.ask(study)
    reported(service, study, trial, 1.0, 3)
    body = {**held(trial), "measurements": [{"metric": "loss", "value": 1.0, "step": 4}]}
    problem = service.call("POST", f"{study}/trials/{trial['number']}/report", body, status=422)
    assert problem["errors"][0]["field"] == "measurements.0.step"


def test_without_a_policy_nothing_is_stopped(service: Service):
    study = service.study("never-early", **LINE)
    (trial,) = service.ask(study)
    assert "prune" not in reported(service, study, trial, 1e9, 1)
    assert service.call("GET", f"{study}/trials/{trial['number']}/should_prune") == {}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_database_decides_as_the_core_does(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """What is compared is condensed by SQL: the decision is that of all trials with all their reports."""
    bench = Bench(tmp_path_factory.mktemp("bench"))
    direction = data.draw(st.sampled_from(["minimize", "maximize"]))
    policy = EarlyStopping("percentile", percentile=data.draw(st.floats(10, 90)), warmup_trials=2)
    study = Study(Space(x=Float(0, 1e6)), direction, early_stopping=policy)
    curves = data.draw(
        st.lists(st.dictionaries(st.integers(0, 5), st.floats(-9, 9), min_size=1), min_size=3, max_size=6)
    )
    for curve in curves:
        trial = bench.take()
        reports = [measured(value, step) for step, value in curve.items()]
        bench.leases.report(bench.id, trial.number, Report(lease_token=token(trial), measurements=reports))
    study.load(bench.store.changes(bench.id, 0).trials)
    for number, curve in enumerate(curves):
        trial = bench.store.known_trial(bench.id, number)
        others = [t for t in bench.store.reached(bench.id, study.goal.objective, max(curve)) if t.number != number]
        mine, cores = should_prune(study, trial, others), study.should_prune(number)
        assert (mine and mine.model_dump(exclude_none=True)) == (cores and cores.to_json())


def test_earlier_studies_are_learned_from_also_what_they_learn_later(service: Service):
    source = service.study("source", **LINE)
    run(service, source, 6, bowl)
    study = service.study("later", **LINE, earlier=["source"])
    assert service.call("GET", study)["earlier"] == ["source"]
    problem = service.call("DELETE", source, status=409)
    assert "'later'" in problem["detail"]
    added = [{"parameters": {"x": x}, "measurements": [{"metric": "loss", "value": bowl(x)}]} for x in (0.29, 0.31)]
    service.call("POST", f"{source}/trials", {"trials": added})
    ran = run(service, study, 5, bowl)
    assert min(bowl(**t["parameters"]) for t in ran[:3]) < 0.005  # without: the first trials are spread over the space
    assert service.call("GET", f"{study}/diagnostics")["earlier"]["source"] > 0.5
    service.call("DELETE", study)
    service.call("DELETE", source)


def test_a_study_with_nothing_in_common_is_not_learned_from(service: Service):
    service.study("elsewhere")
    problem = service.call("POST", "/v1/studies", {"name": "lonely", **LINE, "earlier": ["elsewhere"]}, status=422)
    assert problem["errors"][0]["field"] == "earlier.elsewhere"


# --- Ax ---------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_ax_chooses_says_when_to_stop_and_analyses(service: Service, tmp_path: Path):
    stopping = {"min_trials": 6, "window": 2, "bar": 0.5}
    study = service.study("ax", **LINE, engine="ax", global_stopping=stopping)
    methods: list[str] = []
    answer: dict[str, Any] = {}
    for _ in range(14):
        answer = service.call("POST", f"{study}/ask", {"fresh": True, "max_wait_s": 200}, timeout=200)
        if "stop" in answer:
            break
        (trial,) = answer["trials"]
        methods.append(trial["source"]["method"])
        service.tell(study, trial, bowl(**trial["parameters"]))
    assert methods[0] == "ax:CenterOfSearchSpace"
    assert methods[1] == "ax:Sobol"
    assert answer["stop"]["reason"] == "no progress"
    assert answer["stop"]["message"]
    assert service.call("GET", f"{study}/best")["parameters"]["x"] == pytest.approx(0.3, abs=0.1)
    found = service.call("GET", f"{study}/analyses?max_wait_s=200", timeout=200)
    assert {card["name"] for card in found["cards"]} >= {"CrossValidationPlot"}
    assert all(card["plotly"]["data"] for card in found["cards"])
    assert found["data_version"] == service.call("GET", study)["data_version"]
    with Client(service.url) as client:
        assert [card.name for card in client.study("ax").analyses().cards] == [card["name"] for card in found["cards"]]
    assert main(["analyses", "ax", "--output", str(tmp_path / "cards.json"), "--url", service.url]) == 0
    assert json.loads((tmp_path / "cards.json").read_text())["cards"] == found["cards"]


def test_what_ax_cannot_express_is_said_to_who_asks(service: Service):
    study = service.study("not-ax", **with_also(WIND), engine="ax", parameter_constraints=["x * wind <= 0.5"])
    problem = service.call("POST", f"{study}/ask", {"max_wait_s": 60}, status=422)
    assert problem["errors"][0]["field"] == "parameter_constraints.0"


# --- what was learned -------------------------------------------------------------------------------------------------


def test_diagnostics_say_whether_the_model_can_be_trusted(service: Service):
    study = service.study("diagnosed", **with_also(SITE))
    assert "no model" in service.call("GET", f"{study}/diagnostics", status=404)["detail"]
    run(service, study, 8, lambda x, site: bowl(x))
    found = service.call("GET", f"{study}/diagnostics")
    assert found["r2"] > 0.5
    assert [c["level"] for c in found["coverage"]] == [0.5, 0.8, 0.95]
    assert [i["parameter"] for i in found["importance"]] == ["x", "site"]
    assert found["importance"][0]["total"] > 0.9 > 0.1 > found["importance"][1]["total"]
    assert len(found["leave_one_out"]) == 8
    assert all(row["sd"] > 0 for row in found["leave_one_out"])
    assert found["data_version"] == service.call("GET", study)["data_version"]
