"""What the pages ask for: studies at a glance, the table, CSV, samplings. No engine, no browser."""

import csv
import gzip
import io
import re
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import Service, serving
from upstream import Say, Upstream

from suffice.api.dashboard import assets
from suffice.api.dashboard.history import Histories
from suffice.api.dashboard.summary import BUCKETS, spark, thinned

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def service(tmp_path: Path) -> Generator[Service]:
    with serving(tmp_path, workers=0) as service:
        yield service


def history(service: Service, study: str, count: int, first: int = 0):
    """Finished trials whose loss falls, then rises."""
    trials = [
        {"parameters": {"x1": i % 15 - 5, "x2": i % 7}, "measurements": [{"metric": "loss", "value": abs(i - 6) + 1}]}
        for i in range(first, first + count)
    ]
    return service.call("POST", f"{study}/trials", {"trials": trials}, status=201)


def test_a_study_at_a_glance(service: Service):
    study = service.study("glance", budget={"trials": 5}, outcome_constraints=["heat <= 1"])
    history(service, study, 10)
    hot = [{"metric": "loss", "value": 0.1}, {"metric": "heat", "value": 2}]
    point = {"parameters": {"x1": 0, "x2": 0}}
    service.call("POST", f"{study}/trials", {"trials": [{**point, "measurements": hot}, point]})
    (running,) = service.ask(study, worker="w7")
    found = service.call("GET", "/v1/dashboard/studies/glance")
    (progress,) = found["progress"]
    assert progress["best_numbers"] == [0, 1, 2, 3, 4, 5, 6]
    assert progress["best_values"] == [7, 6, 5, 4, 3, 2, 1]  # 0.1 breaks the constraint
    assert progress["feasible"] == [True] * 10 + [False]
    assert found["running"] == [{"number": 11, "worker": "w7", "started_at": running["started_at"]}]
    assert found["methods"] == {"added": 11, "queued": 1}
    (constraint,) = found["constraints"]
    assert (constraint["values"], constraint["share"]) == ([2], 0)
    assert found["used"] == 1
    assert found["study"]["trials"] == {"COMPLETED": 11, "RUNNING": 1}
    assert found["parallel"]["columns"]["x1"] == [*range(-5, 5), 0]


def test_with_fidelities_the_best_is_that_at_the_target(service: Service):
    x = {"name": "x", "type": "float", "low": 0, "high": 1}
    parameters = [x, {"name": "epochs", "type": "int", "low": 1, "high": 9}]
    study = service.study("rough", parameters=parameters, fidelity={"target": {"epochs": 9}, "cost": "epochs"})
    results = [(1, 0.1), (9, 0.5), (3, 0.2), (9, 0.4)]
    trials = [
        {"parameters": {"x": 0.1 * i, "epochs": epochs}, "measurements": [{"metric": "loss", "value": value}]}
        for i, (epochs, value) in enumerate(results)
    ]
    service.call("POST", f"{study}/trials", {"trials": trials}, status=201)
    (progress,) = service.call("GET", "/v1/dashboard/studies/rough")["progress"]
    assert progress["values"] == [0.1, 0.5, 0.2, 0.4]
    assert (progress["best_numbers"], progress["best_values"]) == ([1, 3], [0.5, 0.4])
    (line,) = service.call("GET", "/v1/dashboard/studies")["studies"]
    assert (line["best"], line["spark"]) == (0.4, [0.5, 0.4])


def test_what_the_front_dominates_grows(service: Service):
    two = [{"metric": "loss", "reference_point": 5}, {"metric": "heat", "direction": "maximize"}]
    study = service.study("front", objectives=two, outcome_constraints=["size <= 1"])
    results = [(3, 1, 0), (2, 1, 0), (1, 4, 2), (2, 3, 1)]  # the third breaks the constraint
    trials = [
        {
            "parameters": {"x1": i, "x2": i},
            "measurements": [{"metric": m, "value": v} for m, v in zip(names, values, strict=True)],
        }
        for i, values in enumerate(results)
        for names in [("loss", "heat", "size")]
    ]
    service.call("POST", f"{study}/trials", {"trials": trials}, status=201)
    found = service.call("GET", "/v1/dashboard/studies/front")["hypervolume"]
    assert found["numbers"] == [0, 1, 3]
    assert found["reference"] == {"loss": 5, "heat": 2.7}  # one point: a tenth of its size below
    assert found["values"] == pytest.approx([0, 0, 3 * 0.3])


def test_the_next_look_knows_what_changed_since(service: Service):
    study = service.study("again")
    history(service, study, 3)
    path = "/v1/dashboard/studies/again"
    assert service.call("GET", path)["progress"][0]["total"] == 3
    service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 1, "x2": 1}}]})
    (trial,) = service.ask(study)
    assert service.call("GET", path)["running"][0]["number"] == 3
    service.tell(study, trial, 0.5)
    after = service.call("GET", path)
    assert (after["progress"][0]["total"], after["progress"][0]["best_values"][-1]) == (4, 0.5)
    assert "running" not in after or after["running"] == []
    service.call("DELETE", study, status=204)
    service.call("GET", path, status=404)


def test_histories_of_the_studies_looked_at_last_are_kept(service: Service):
    found = Histories(service.parts.store.database, size=25)
    ids = []
    for name in ("one", "two", "three"):
        history(service, service.study(name), 10)
        ids.append(service.parts.store.facts(name).id)
    first = found.of(ids[0])
    assert found.of(ids[0]).trials is first.trials  # nothing changed
    for study_id in ids[1:]:
        assert len(found.of(study_id).trials) == 10
    assert found.of(ids[0]).trials is not first.trials  # it made room
    assert found.of(ids[0]).trials == first.trials


def test_why_it_stops_is_said(service: Service):
    study = service.study("stopping", budget={"trials": 1})
    service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 1, "x2": 1}}]})
    service.ask(study)
    path = "/v1/dashboard/studies/stopping"
    assert service.call("GET", path)["stop"]["reason"] == "budget spent"
    service.call("PATCH", study, {"budget": {}})
    assert "stop" not in service.call("GET", path)
    service.call("PATCH", study, {"state": "STOPPED"})
    assert service.call("GET", path)["stop"]["reason"] == "stopped by the user"


def test_the_list_has_the_newest_first_in_pages(service: Service):
    for name in ("one", "two", "t_o"):
        history(service, service.study(name, budget={"trials": 9}), 7)
    found = service.call("GET", "/v1/dashboard/studies", params={"limit": 2})
    assert [line["name"] for line in found["studies"]] == ["t_o", "two"]
    rest = service.call("GET", "/v1/dashboard/studies", params={"limit": 2, "cursor": found["next_cursor"]})
    assert [line["name"] for line in rest["studies"]] == ["one"]
    line = rest["studies"][0]
    assert (line["best"], line["spark"], line["budget"]) == (1, [7, 6, 5, 4, 3, 2, 1], 9)
    underscore = service.call("GET", "/v1/dashboard/studies", params={"text": "T_"})
    assert [line["name"] for line in underscore["studies"]] == ["t_o"]


def test_the_table_is_filtered_sorted_and_paged(service: Service):
    study = service.study("table")
    history(service, study, 9)
    service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 9, "x2": 9}}]})

    def numbers(**wanted: object):
        found = service.call("GET", "/v1/dashboard/studies/table/trials", params=wanted)
        return [t["number"] for t in found["trials"]], found["matching"]

    assert numbers(limit=3) == ([0, 1, 2], 10)
    assert numbers(limit=2, offset=8, sort="number", descending=True) == ([1, 0], 10)
    assert numbers(sort="metric:loss", limit=3) == ([6, 5, 7], 10)
    assert numbers(sort="metric:loss", descending=True)[0][-1] == 9  # without a value: last, either way
    assert numbers(state="WAITING") == ([9], 1)
    assert numbers(text="x2=5 ADDED") == ([5], 1)
    assert numbers(text="nothing") == ([], 0)
    assert numbers(sort="parameter:x1", descending=True, limit=1) == ([9], 10)
    service.call("GET", "/v1/dashboard/studies/table/trials", params={"sort": "secret"}, status=422)


def test_csv_has_every_trial_and_no_formula(service: Service):
    parameters = [{"name": "x", "type": "categorical", "choices": ["=1+1", "plain", '"quoted", with comma']}]
    study = service.study("sheet", parameters=parameters)
    measured = [{"metric": "loss", "value": -1.5, "stderr": 0.5}, {"metric": "loss", "value": -2.5, "stderr": 0.5}]
    trials = [{"parameters": {"x": x}, "measurements": measured} for x in parameters[0]["choices"]]
    service.call("POST", f"{study}/trials", {"trials": trials})
    answer = service.http.get("/v1/dashboard/studies/sheet/trials.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["x"] for row in rows] == ["'=1+1", "plain", '"quoted", with comma']
    assert rows[0]["loss"] == "-2.0"
    assert float(rows[0]["loss stderr"]) == pytest.approx(0.5**0.5 / 2)


def test_reports_come_as_curves(service: Service):
    study = service.study("curves")
    service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 1, "x2": 1}}]})
    (trial,) = service.ask(study)
    for step, value in enumerate([3.0, 2.0]):
        body = {
            "lease_token": trial["lease"]["token"],
            "measurements": [{"metric": "loss", "value": value, "step": step}],
        }
        service.call("POST", f"{study}/trials/0/report", body)
    found = service.call("GET", "/v1/dashboard/studies/curves/curves")
    assert found["curves"] == [{"number": 0, "state": "RUNNING", "steps": [0, 1], "values": [3, 2]}]
    assert service.call("GET", "/v1/dashboard/studies/curves")["reports"]


def test_a_large_study_is_thinned_but_keeps_its_extremes(service: Service):
    study = service.study("large")
    history(service, study, 4000)
    progress = service.call("GET", "/v1/dashboard/studies/large")["progress"][0]
    assert progress["total"] == 4000
    assert len(progress["numbers"]) <= 3 * BUCKETS
    assert {0, 6, 3999} <= set(progress["numbers"])
    assert len(service.call("GET", "/v1/dashboard/studies/large")["parallel"]["numbers"]) <= 301


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5000).map(lambda x: x * 3))
def test_thinning_keeps_the_smallest_and_the_largest(values: list[float]):
    kept = [values[i] for i in thinned(values)]
    assert (min(kept), max(kept)) == (min(values), max(values))
    assert len(kept) <= 3 * BUCKETS
    best = spark(values, -1.0)
    assert best == sorted(best, reverse=True)
    assert best[-1] == min(values)


# --- samplings --------------------------------------------------------------------------------------------------------


def sampled(service: Service, answers: dict[str, list[str]], **fields: object) -> str:
    """A sampling whose prompts were answered so, as far as they were asked for."""
    made = service.call("POST", "/v1/samplings", {"prompts": list(answers), "max_samples": 8, **fields}, status=201)
    path = f"/v1/samplings/{made['id']}"
    while draws := service.call("POST", f"{path}/ask", {})["draws"]:
        told = [
            {"prompt": d["prompt"], "number": n, "answer": answers[d["prompt"]][n], "tokens": 10}
            for d in draws
            for n in d["numbers"]
        ]
        service.call("POST", f"{path}/tell", {"answers": told})
    return str(made["id"])


ANSWERS = {"easy": ["42"] * 8, "hard": ["1", "2", "3", "1", "2", "3", "1", "2"]}


def test_tokens_saved_and_reasons(service: Service):
    made = sampled(service, ANSWERS, price=0.005)
    found = service.call("GET", "/v1/dashboard/samplings")
    (line,) = found["samplings"]
    record = service.call("GET", f"/v1/samplings/{made}")
    drawn = sum(result["samples"] for result in record["results"])
    assert (line["prompts"], line["samples"], line["tokens"]) == (2, drawn, 10 * drawn)
    assert (line["fixed_samples"], line["fixed_tokens"]) == (16, 160)
    assert sum(found["total"]["reasons"].values()) == 2
    one = service.call("GET", f"/v1/dashboard/samplings/{made}")
    assert [p["samples"] for p in one["prompts"]] == [r["samples"] for r in record["results"]]
    told = [ANSWERS[r["prompt"]][: r["samples"]] for r in record["results"]]
    assert [p["agreement"] for p in one["prompts"]] == [max(map(a.count, a)) / len(a) for a in told]


def test_a_replay_ends_where_the_decision_did(service: Service):
    made = sampled(service, ANSWERS, price=0.005)
    record = {r["prompt"]: r for r in service.call("GET", f"/v1/samplings/{made}")["results"]}
    for prompt in ANSWERS:
        path = f"/v1/dashboard/samplings/{made}/replay"
        found = service.call("GET", path, params={"prompt": prompt})
        assert len(found["steps"]) == found["drawn"] + 1 == record[prompt]["samples"] + 1
        last = found["steps"][-1]
        assert last["stop"]["reason"] == record[prompt]["stop"]["reason"]
        assert last["confidence"] == pytest.approx(record[prompt]["confidence"])
        assert last["posterior"][0]["probability"] == pytest.approx(
            record[prompt]["posterior"]["answers"][0]["probability"]
        )
        assert not any("stop" in step for step in found["steps"][:-1])
        for step in found["steps"]:
            assert sum(a["probability"] for a in step["posterior"]) + step["none"] == pytest.approx(1)
    service.call("GET", path, params={"prompt": "none"}, status=404)


def test_reliability_where_the_right_answers_are_known(service: Service):
    made = sampled(service, ANSWERS, price=0.005, metadata={"labels": {"easy": 42, "hard": "9"}})
    path = f"/v1/dashboard/samplings/{made}"
    assert service.call("GET", path)["labels"] == 2
    found = service.call("POST", f"{path}/reliability", {})
    assert (found["prompts"], found["accuracy"], found["right"]) == (2, 0.5, {"easy": True, "hard": False})
    assert sum(one["prompts"] for one in found["bins"]) == 2
    given = service.call("POST", f"{path}/reliability", {"labels": {"easy": "42"}})
    assert (given["prompts"], given["accuracy"]) == (1, 1)
    assert given["error"] == pytest.approx(1 - given["confidence"])
    service.call("POST", f"{path}/reliability", {"labels": {"other": "42"}}, status=422)


def test_without_a_gateway_there_are_no_decisions(service: Service):
    assert service.call("GET", "/v1/dashboard/decisions") == {"decisions": [], "gateway": False}
    service.call("GET", "/v1/dashboard/decisions/x/replay", status=404)


def test_the_gateways_decisions_are_listed_and_replayed(tmp_path: Path):
    upstream = Upstream(default=lambda body: Say("It is 42."))
    upstream.start()
    try:
        with serving(tmp_path, workers=0, upstream=upstream.url) as service:
            body = {"model": "tiny:optscale", "messages": [], "optscale": {"rule": "adaptive_consistency"}}
            given = service.call("POST", "/v1/chat/completions", body)["optscale"]
            (line,) = service.call("GET", "/v1/dashboard/decisions")["decisions"]
            assert (line["id"], line["samples"]) == (given["decision_id"], given["samples"]["counted"])
            found = service.call("GET", f"/v1/dashboard/decisions/{line['id']}/replay")
            assert found["drawn"] >= line["samples"]
            assert found["steps"][-1]["pick"] == given["answer"]
            assert service.http.get(f"/decisions/{line['id']}").status_code == 200
    finally:
        upstream.stop()


def test_schedules_are_beside_those_in_common_use(service: Service):
    parameters = [{"name": "times", "type": "time_steps", "k": 4, "low": 0, "high": 999}]
    study = service.study("schedules", parameters=parameters)
    for loss, steps in ((2.0, [900, 600, 300, 0]), (1.0, [999, 500, 200, 10])):
        trial = {"parameters": {"times": steps}, "measurements": [{"metric": "loss", "value": loss}]}
        service.call("POST", f"{study}/trials", {"trials": [trial]}, status=201)
    (found,) = service.call("GET", "/v1/dashboard/studies/schedules")["schedules"]
    assert [one["number"] for one in found["trials"]] == [1, 0]
    assert found["trials"][0]["steps"] == [999, 500, 200, 10]
    assert found["known"]["trailing"] == [999, 749, 499, 249]
    assert all(len(steps) == 4 for steps in found["known"].values())


# --- pages and files --------------------------------------------------------------------------------------------------


def test_pages_are_shells_with_a_strict_policy(service: Service):
    service.study("there")
    for path in (
        "/",
        "/new",
        "/login",
        "/samplings",
        "/studies/there",
        "/studies/there/trials/0",
        f"/samplings/{EVIL}",
    ):
        answer = service.http.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", answer.text), path
        assert EVIL not in answer.text
    missing = service.http.get("/studies/missing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "text/html; charset=utf-8")


def test_files_are_packed_and_kept_for_ever(service: Service):
    shell = service.http.get("/").text
    (style,) = re.findall(r'href="(/assets/\w+/page.css)"', shell)
    answer = service.http.get(style, headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    found = assets.asset("page.css")
    assert found is not None
    assert gzip.decompress(found.packed) == found.plain == answer.content
    assert service.http.get(style, headers={"accept-encoding": "identity"}).content == found.plain
    for name in ("nothing.js", "page.html", "..%2fassets.py", "%2e%2e%2fpages.py"):
        assert service.http.get(f"/assets/x/{name}").status_code in (400, 404), name


def test_a_page_names_what_it_will_need(service: Service):
    """All modules, however deep they are imported, and the first question, before a script can ask it."""
    service.study("first.of_all")
    answer = service.http.get("/studies/first.of_all")
    named = set(re.findall(r'rel="modulepreload" href="/assets/\w+/(\w+)\.js"', answer.text))
    assert {"api", "dom", "charts", "scales", "contour"} <= named
    assert all((assets.STATIC / f"{module}.js").exists() for module in named)
    path = "/v1/dashboard/studies/first.of_all"
    assert answer.headers["link"] == f"<{path}>; rel=preload; as=fetch; crossorigin"
    assert service.http.get(path).status_code == 200
    assert "link" not in service.http.get("/studies/missing").headers


def test_nothing_is_fetched_from_elsewhere():
    for name in assets.names():
        text = (assets.STATIC / name).read_text()
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, name
        assert "innerHTML" not in text, name
        assert "insertAdjacent" not in text, name


def test_plotly_comes_from_its_package():
    found = assets.asset(assets.PLOTLY)
    assert found is not None
    assert len(found.packed) < len(found.plain) / 2
