"""Samplings and calibrations over HTTP: the library's decisions; repeats, conflicts, restarts, bad input."""

import asyncio
import json
import math
import random
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import Service, serving
from scored_answers import document
from strategies import STRANGE, places, replaced

from suffice.api.calibrating import Fitting
from suffice.api.calibration_store import CalibrationStore
from suffice.api.database import Database, migrate
from suffice.api.prompt_learning import FEWEST, PromptLearning
from suffice.api.sampling_store import SamplingStore
from suffice.api.service_calibrations import ServiceCalibrations
from suffice.api.traffic import Lesson
from suffice.optimizer import Draw, Enough, Sampling, decide
from suffice.optimizer.allocation import Batch
from suffice.optimizer.answers import ALPHAS, THETAS
from suffice.optimizer.calibration import Calibration
from suffice.optimizer.drift import Watch
from suffice.optimizer.pool import Pool

Model = Callable[[str, int], dict[str, Any]]


def reading(prompt: str, number: int, right: float = 0.6) -> dict[str, Any]:
    """What a simulated model and its verifier give for a draw, whoever asks and whenever."""
    rng = random.Random(f"{prompt} {number}")
    answer = None if rng.random() < 0.05 else "42" if rng.random() < right else rng.choice("xyz")
    score = min(max(rng.gauss(0.7 if answer == "42" else 0.4, 0.15), 0.0), 1.0)
    return {"answer": answer, "score": score, "tokens": float(rng.randrange(50, 400))}


def pool(prompts: int = 40, samples: int = 8) -> dict[str, Any]:
    def labelled(i: int, n: int) -> dict[str, Any]:
        one = reading(f"p{i}", n, right=(i % 10 + 0.5) / 10)
        return {**one, "correct": int(one["answer"] == "42")}

    return {"prompts": [{"id": str(i), "samples": [labelled(i, n) for n in range(samples)]} for i in range(prompts)]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service"), workers=0) as service:
        service.call("POST", "/v1/calibrations", {"name": "fitted", "pool": pool(), "max_samples": 8}, status=201)
        yield service


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.fit(Pool.of(pool()), 8, name="fitted")


def create(service: Service, **fields: Any) -> str:
    made = service.call("POST", "/v1/samplings", fields, status=201)
    return f"/v1/samplings/{made['id']}"


def ask(service: Service, path: str, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = service.call("POST", f"{path}/ask", fields)
    return found


def told(draw: dict[str, Any], model: Model = reading) -> list[dict[str, Any]]:
    prompt = draw["prompt"]
    return [{"prompt": prompt, "number": n, **model(prompt, n)} for n in draw["numbers"]]


def tell(service: Service, path: str, answers: list[dict[str, Any]], **options: Any) -> Any:
    return service.call("POST", f"{path}/tell", {"answers": answers}, **options)


def loop(service: Service, path: str, model: Model = reading, **fields: Any) -> list[dict[str, Any]]:
    """Ask, draw and tell until there is a stop; every answer to an ask."""
    found = [ask(service, path, **fields)]
    while "stop" not in found[-1]:
        tell(service, path, [answer for draw in found[-1]["draws"] for answer in told(draw, model)])
        found.append(ask(service, path, **fields))
    return found


def steps(sampling: Sampling, prompt: str) -> Generator[Draw | Enough]:
    """The same in the library."""
    while isinstance(step := sampling.ask(), Draw):
        yield step
        for n in step.numbers:
            sampling.tell(**reading(prompt, n), number=n)
    yield step


def same_as(sampling: Sampling, result: dict[str, Any]) -> None:
    assert result.get("pick") == sampling.pick
    assert result.get("pick_number") == sampling.pick_number
    assert (result["samples"], result["tokens"]) == (sampling.samples, sampling.tokens)
    assert {a["answer"]: a["probability"] for a in result["posterior"]["answers"]} == sampling.posterior.answers
    assert result["posterior"]["none"] == sampling.posterior.none


# --- the same decisions -----------------------------------------------------------------------------------------------

PRIOR = {"theta": [0.4, *[0.6 / (len(THETAS) - 1)] * (len(THETAS) - 1)], "alpha": [1 / len(ALPHAS)] * len(ALPHAS)}
OPTIONS: list[dict[str, Any]] = [
    {"price": 0.005},
    {"target": 0.8},
    {"token_price": 2e-5, "expected_tokens": 100.0, "least_gain": 0.01},
    {"price": 0.003, "latency": 0.02, "batch": 2},
    {"rule": "fixed", "settings": {"samples": 5, "picked": "best"}},
    {"rule": "early_stopping", "settings": {"window": 3}},
    {"rule": "adaptive_consistency", "settings": {"threshold": 0.9, "form": "dirichlet"}},
    {"rule": "optscale0", "settings": {"target": 0.8}},
    {"rule": "beacon", "price": 0.01},
]


@pytest.mark.parametrize("options", OPTIONS, ids=json.dumps)
def test_a_loop_decides_as_the_library_does(service: Service, options: dict[str, Any]):
    path = create(service, prompts=["q"], max_samples=16, **options)
    sampling = Sampling(**{"max_samples": 16, **options})
    there, here = loop(service, path), list(steps(sampling, "q"))
    assert len(there) == len(here)
    for found, step in zip(there[:-1], here[:-1], strict=True):
        (draw,) = found["draws"]
        assert isinstance(step, Draw)
        assert draw["numbers"] == list(step.numbers)
        assert (draw["samples"], draw["confidence"]) == (step.samples, step.confidence)
        assert (draw.get("gain"), draw.get("cost")) == (step.gain, step.cost)
    stop = here[-1]
    assert isinstance(stop, Enough)
    known = {name: value for name, value in stop.to_json().items() if value is not None}
    read = service.call("GET", path)
    (result,) = read["results"]
    assert result["stop"] == known
    assert read["stop"] == there[-1]["stop"] == {k: v for k, v in known.items() if k not in ("samples", "confidence")}
    assert [decision["samples"] for decision in result["decisions"]] == [step.samples for step in here]
    same_as(sampling, result)


def test_a_calibration_decides_as_the_library_does(service: Service, calibration: Calibration):
    stored = service.call("GET", "/v1/calibrations/fitted/export")["document"]
    assert stored == {**calibration.to_json(), "version": 1}
    path = create(service, prompts=["q"], max_samples=8, price=0.01, calibration="fitted")
    sampling = Sampling(max_samples=8, price=0.01, calibration=calibration)
    there, here = loop(service, path), list(steps(sampling, "q"))
    assert [found["draws"][0]["gain"] for found in there[:-1]] == [step.gain for step in here[:-1]]
    read = service.call("GET", path)
    assert (read["calibration"], read["calibration_version"], read["scores"]) == ("fitted", 1, True)
    same_as(sampling, read["results"][0])


def test_prompts_of_a_batch_go_by_one_price(service: Service):
    prompts = [f"q{i}" for i in range(6)]
    path = create(service, prompts=prompts, price=0.004, max_samples=16)
    loop(service, path, count=2)
    for result in service.call("GET", path)["results"]:
        sampling = Sampling(price=0.004, max_samples=16)
        stop = list(steps(sampling, result["prompt"]))[-1]
        assert isinstance(stop, Enough)
        assert result["stop"]["reason"] == str(stop.reason)
        same_as(sampling, result)


def test_a_budget_of_tokens_goes_where_the_library_sends_it(service: Service):
    prompts = [f"b{i}" for i in range(5)]
    options: dict[str, Any] = {"max_samples": 16, "expected_tokens": 200.0}
    path = create(service, prompts=prompts, budget={"tokens": 6000}, **options)
    batch = Batch([Sampling(least_gain=0.0, **options) for _ in prompts], tokens=6000, expected_tokens=200)
    for found in loop(service, path, count=2):
        chosen = batch.ask(2)
        assert {draw["prompt"]: draw["numbers"] for draw in found["draws"]} == {
            prompts[i]: [batch.samplings[i].samples] for i in chosen
        }
        for i in chosen:
            batch.samplings[i].tell(**reading(prompts[i], batch.samplings[i].samples))
    read = service.call("GET", path)
    assert read["stop"]["reason"] == "budget spent"
    assert read["tokens"] == batch.spent
    assert batch.tokens - 200 < batch.spent < batch.tokens + 400, "an answer may take more than was expected"
    for sampling, result in zip(batch.samplings, read["results"], strict=True):
        same_as(sampling, result)


def test_a_prompt_may_have_a_prior_of_its_own(service: Service):
    path = create(service, prompts=["flat", {"id": "hard", "prior": PRIOR}], price=0.01, max_samples=8)
    flat, hard = ask(service, path)["draws"]
    assert hard["gain"] < flat["gain"]


@pytest.mark.parametrize("options", OPTIONS[:6], ids=json.dumps)
def test_decisions_without_keeping_anything(service: Service, options: dict[str, Any]):
    answers = [reading("q", n) for n in range(4)]
    found = service.call("POST", "/v1/samplings:decide", {"answers": answers, "max_samples": 16, **options})
    columns = {name: [a[name] for a in answers] for name in ("answer", "score", "tokens")}
    step = decide(columns["answer"], columns["score"], columns["tokens"], **{"max_samples": 16, **options})
    if isinstance(step, Draw):
        assert (found["draw"], found.get("stop")) == (step.count, None)
    else:
        assert found["stop"]["reason"] == str(step.reason)
    assert (found["samples"], found["confidence"], found.get("gain")) == (step.samples, step.confidence, step.gain)


# --- draws ------------------------------------------------------------------------------------------------------------


def test_equal_repeats_change_nothing_and_others_conflict(service: Service):
    path = create(service, price=0.001)
    (draw,) = ask(service, path)["draws"]
    answers = told(draw)
    count = len(answers)
    assert tell(service, path, answers)["recorded"] == count
    assert tell(service, path, answers) == {
        "recorded": 0,
        "repeated": count,
        "samples": count,
        "tokens": sum(a["tokens"] for a in answers),
    }
    new = {**reading("0", 40), "number": 40}
    problem = tell(service, path, [new, {**answers[0], "answer": "other"}], status=409)
    assert "answers.1: draw 0 of prompt '0'" in problem["detail"]
    assert tell(service, path, [new])["recorded"] == 1, "nothing of the refused request was kept"
    assert "41" not in json.dumps(tell(service, path, [new, new])), "twice in one request is told once"


def test_decisions_wait_for_the_first_draw_that_is_out(service: Service):
    path = create(service, price=0.001)
    (draw,) = ask(service, path)["draws"]
    late, *early = told(draw)
    tell(service, path, early)
    waiting = service.http.post(f"{path}/ask", json={})
    assert waiting.status_code == 200
    assert waiting.json() == {"draws": [], "open": 1, "out": 1}
    assert service.call("GET", path)["results"][0]["samples"] == 0
    tell(service, path, [late])
    assert service.call("GET", path)["results"][0]["samples"] == len(early) + 1


def test_draws_that_are_not_told_are_handed_out_again(service: Service):
    path = create(service, price=0.001, lease_seconds=10)
    (draw,) = ask(service, path)["draws"]
    first, *others = told(draw)
    tell(service, path, others)
    service.clock.advance(9)
    assert ask(service, path)["draws"] == []
    service.clock.advance(2)
    (again,) = ask(service, path)["draws"]
    assert again["numbers"] == [first["number"]]
    assert ask(service, path)["draws"] == []
    tell(service, path, [first])
    assert "draws" in ask(service, path)


def test_an_ask_that_is_repeated_hands_out_the_same(service: Service):
    path = create(service, prompts=["a", "b"], price=0.001)
    first = ask(service, path, idempotency_key="k")
    assert ask(service, path, idempotency_key="k") == first
    assert ask(service, path, idempotency_key="l")["draws"] == []
    tell(service, path, told(first["draws"][0]))
    assert ask(service, path, idempotency_key="k")["draws"] == first["draws"][1:]


def test_a_creation_that_is_repeated_is_one(service: Service):
    wanted = {"prompts": ["a"], "price": 0.01, "idempotency_key": "mine", "calibration": "fitted", "max_samples": 8}
    first = service.call("POST", "/v1/samplings", wanted, status=201)
    assert service.call("POST", "/v1/samplings", wanted, status=201) == first
    problem = service.call("POST", "/v1/samplings", {**wanted, "price": 0.02}, status=409)
    assert "'mine'" in problem["detail"]


def test_the_deadline_stops_what_waits(service: Service):
    path = create(service, deadline=60, price=1e-4)
    ask(service, path)
    service.clock.advance(59)
    assert "stop" not in ask(service, path)
    service.clock.advance(1)
    assert ask(service, path)["stop"]["reason"] == "deadline passed"


def test_an_answer_after_the_stop_is_kept_and_decided_on(service: Service):
    path = create(service, rule="fixed", settings={"samples": 2})
    tell(service, path, [{"number": 0, "answer": "a"}, {"number": 1, "answer": "b"}])
    assert ask(service, path)["stop"]["reason"] == "the rule is satisfied"
    tell(service, path, [{"number": 2, "answer": "b"}])
    assert ask(service, path)["stop"]["reason"] == "the rule is satisfied"
    assert service.call("GET", path)["results"][0]["pick"] == "b"


def test_answers_are_listed_in_pages(service: Service):
    path = create(service, prompts=["a", "b"], rule="fixed", settings={"samples": 3})
    draws = ask(service, path)["draws"]
    tell(service, path, told(draws[1]))
    tell(service, path, [{"prompt": "a", "number": 1, "answer": None}])
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = service.call("GET", f"{path}/answers", params={"limit": 4, **cursor})
        found += page["answers"]
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert [(a["prompt"], a["number"], "told_at" in a, "answer" in a) for a in found[:3]] == [
        ("a", 0, False, False),
        ("a", 1, True, False),
        ("a", 2, False, False),
    ]
    assert found[3:] == service.call("GET", f"{path}/answers", params={"prompt": "b"})["answers"]


# --- many at once, and restarts ---------------------------------------------------------------------------------------


def test_many_workers_share_a_sampling(service: Service):
    path = create(service, prompts=[f"q{i}" for i in range(8)], price=0.003, max_samples=12)

    def work(_: int) -> list[tuple[str, int]]:
        mine: list[tuple[str, int]] = []
        while "stop" not in (found := ask(service, path, count=1)):
            for draw in found["draws"]:
                answers = told(draw)
                mine += [(draw["prompt"], n) for n in draw["numbers"]]
                assert tell(service, path, answers)["recorded"] == len(answers)
        return mine

    with ThreadPoolExecutor(4) as workers:
        drawn = [place for mine in workers.map(work, range(4)) for place in mine]
    assert len(drawn) == len(set(drawn)), "no draw was handed out twice"
    read = service.call("GET", path)
    assert read["samples"] == len(drawn)
    for result in read["results"]:
        sampling = Sampling(price=0.003, max_samples=12)
        list(steps(sampling, result["prompt"]))
        same_as(sampling, result)


def test_the_same_answers_told_by_many_at_once_are_recorded_once(service: Service):
    path = create(service, rule="fixed", settings={"samples": 16})
    answers = told(ask(service, path)["draws"][0])
    with ThreadPoolExecutor(8) as workers:
        found = list(workers.map(lambda _: tell(service, path, answers)["recorded"], range(8)))
    assert sorted(found) == [0] * 7 + [16]
    with ThreadPoolExecutor(8) as workers:
        contradicting = [{**answers[0], "number": 20, "answer": f"a{i}"} for i in range(8)]
        send = [service.http.post for _ in contradicting]
        statuses = list(
            workers.map(
                lambda post, one: post(f"{path}/tell", json={"answers": [one]}).status_code, send, contradicting
            )
        )
    assert sorted(statuses) == [200] + [409] * 7


def test_a_sampling_goes_on_after_a_restart(tmp_path: Path):
    with serving(tmp_path, workers=0) as service:
        path = create(service, prompts=["q"], price=0.001, max_samples=16)
        first = ask(service, path)["draws"][0]
        tell(service, path, told(first))
    with serving(tmp_path, workers=0) as service:
        loop(service, path)
        read = service.call("GET", path)
    sampling = Sampling(price=0.001, max_samples=16)
    list(steps(sampling, "q"))
    same_as(sampling, read["results"][0])


# --- managing them ----------------------------------------------------------------------------------------------------


def test_samplings_are_listed_newest_first_and_deleted(service: Service):
    paths = [create(service, metadata={"i": i}) for i in range(3)]
    page = service.call("GET", "/v1/samplings", params={"limit": 2})
    assert [f"/v1/samplings/{s['id']}" for s in page["samplings"]] == [paths[2], paths[1]]
    rest = service.call("GET", "/v1/samplings", params={"limit": 1, "cursor": page["next_cursor"]})
    assert rest["samplings"][0]["metadata"] == {"i": 0}
    service.call("DELETE", paths[1], status=204)
    for method, path in (("GET", paths[1]), ("DELETE", paths[1]), ("GET", f"{paths[1]}/answers")):
        service.call(method, path, status=404)
    service.call("POST", f"{paths[1]}/ask", {}, status=404)
    tell(service, paths[1], [{"number": 0, "answer": "a"}], status=404)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"rule": "best"}, "rule"),
    ({"max_samples": 257}, "max_samples"),
    ({"target": 1.5}, "target"),
    ({"price": 0}, "price"),
    ({"settings": {"window": 3}}, "settings.window"),
    ({"rule": "threshold", "settings": {"threshold": "high"}}, "settings.threshold"),
    ({"settings": {"price": 0.1}}, "settings.price"),
    ({"prompts": []}, "prompts"),
    ({"prompts": ["a", "b", "a"]}, "prompts.2.id"),
    ({"prompts": [{"id": "a", "prior": {"theta": [1.0], "alpha": [1.0]}}]}, "prompts.0.prior.theta"),
    ({"prompts": [{"id": "a", "prior": PRIOR}], "rule": "fixed"}, "prompts.0.prior"),
    ({"prompts": [{"id": "a", "prior": PRIOR}], "max_samples": 128}, "max_samples"),
    ({"budget": {"tokens": 100}}, "expected_tokens"),
    ({"budget": {"tokens": 100}, "expected_tokens": 10, "rule": "fixed"}, "rule"),
    ({"budget": {"tokens": -1}, "expected_tokens": 10}, "budget.tokens"),
    ({"calibration": "nobody"}, "calibration"),
    ({"calibration": "fitted", "calibration_version": 99}, "calibration"),
    ({"calibration_version": 1}, "calibration_version"),
    ({"calibration": "fitted", "rule": "fixed"}, "calibration"),
    ({"prompts": [{"id": "a", "features": [1.0]}]}, "prompts.0.features"),
    ({"calibration": "fitted", "rule": "optscale_t"}, "calibration"),
    ({"deadline": -1}, "deadline"),
    ({"clock": 1}, "clock"),
]


@pytest.mark.parametrize(("fields", "field"), BAD, ids=json.dumps)
def test_what_is_wrong_with_a_sampling_is_named(service: Service, fields: dict[str, Any], field: str):
    problem = service.call("POST", "/v1/samplings", fields, status=422)
    assert [p["field"] for p in problem["errors"]] == [field]


@pytest.mark.parametrize(
    ("fields", "answer", "field"),
    [
        ({}, {"number": 0}, "answers.0.answer"),
        ({}, {"number": -1, "answer": "a"}, "answers.0.number"),
        ({"max_samples": 4}, {"number": 4, "answer": "a"}, "answers.0.number"),
        ({}, {"number": 0, "answer": True}, "answers.0.answer"),
        ({}, {"number": 0, "answer": ["a"]}, "answers.0.answer"),
        ({}, {"number": 0, "answer": "a", "tokens": -1}, "answers.0.tokens"),
        ({}, {"number": 0, "answer": "a", "prompt": "b"}, "answers.0.prompt"),
        ({"prompts": ["a", "b"]}, {"number": 0, "answer": "a"}, "answers.0.prompt"),
        ({"calibration": "fitted", "max_samples": 8}, {"number": 0, "answer": "a"}, "answers.0.score"),
        ({"budget": {"tokens": 9}, "expected_tokens": 1}, {"number": 0, "answer": "a"}, "answers.0.tokens"),
        ({"rule": "optscale0"}, {"number": 0, "answer": "a", "score": 1.5}, "answers.0.score"),
    ],
    ids=json.dumps,
)
def test_what_is_wrong_with_an_answer_is_named(
    service: Service, fields: dict[str, Any], answer: dict[str, Any], field: str
):
    path = create(service, **fields)
    problem = tell(service, path, [answer], status=422)
    assert [p["field"] for p in problem["errors"]] == [field]
    if field == "answers.0.score":
        wanted = {**fields, "answers": [{name: value for name, value in answer.items() if name != "number"}]}
        problem = service.call("POST", "/v1/samplings:decide", wanted, status=422)
        assert [p["field"] for p in problem["errors"]] == [field]


# --- calibrations -----------------------------------------------------------------------------------------------------


def test_calibrations_have_versions(service: Service):
    document = service.call("GET", "/v1/calibrations/fitted/export")["document"]
    for version in (1, 2):
        made = service.http.post("/v1/calibrations", json={"name": "copy", "document": document})
        assert made.status_code == 201
        assert made.headers["location"] == f"/v1/calibrations/copy?version={version}"
    first = service.call("GET", "/v1/calibrations/copy", params={"version": 1})
    newest = service.call("GET", "/v1/calibrations/copy")
    assert (first["version"], newest["version"], newest["prompts"], newest["scored"]) == (1, 2, 40, True)
    assert service.call("GET", "/v1/calibrations/copy/versions")["calibrations"] == [newest, first]
    assert newest in service.call("GET", "/v1/calibrations")["calibrations"]
    path = create(service, calibration="copy", max_samples=8)
    problem = service.call("DELETE", "/v1/calibrations/copy", status=409)
    assert "1 samplings" in problem["detail"]
    service.call("DELETE", "/v1/calibrations/copy", params={"version": 1}, status=204)
    service.call("DELETE", path, status=204)
    service.call("DELETE", "/v1/calibrations/copy", status=204)
    for method, where in (("GET", ""), ("GET", "/versions"), ("GET", "/export"), ("DELETE", "")):
        service.call(method, f"/v1/calibrations/copy{where}", status=404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a"}, "pool"),
        ({"name": "a", "pool": {}, "document": {}}, "pool"),
        ({"name": "a b", "document": {}}, "name"),
        ({"name": "a", "document": {}}, "document.schema"),
        ({"name": "a", "pool": {"prompts": [3]}}, "pool.prompts[0]"),
        ({"name": "a", "document": {"schema": 2}}, "document"),
        ({"name": "a", "document": {"schema": 2, "model": 3, "drift": None}}, "document"),
        ({"name": "a", "pool": {"prompts": []}}, "pool.prompts"),
        ({"name": "a", "pool": {"prompts": [{"id": 1, "samples": [{}]}]}}, "pool.prompts[0].samples[0].correct"),
        ({"name": "a", "pool": pool(prompts=2)}, "pool"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_with_a_calibration_is_named(service: Service, body: dict[str, Any], field: str):
    problem = service.call("POST", "/v1/calibrations", body, status=422)
    assert [p["field"] for p in problem["errors"]] == [field]


@pytest.fixture(scope="module")
def watched() -> Calibration:
    """Of a verifier good enough that it would be missed."""
    found = Calibration.fit(Pool.of(document(80, 0)), 8, orders=4)
    assert found.drift is not None
    return found


def samples_of(prompts: int, *, good: bool) -> list[list[dict[str, Any]]]:
    """Answers with their scores; unless ``good``, those of a prompt are dealt out again."""
    found = [entry["samples"] for entry in document(prompts, 5, samples=8)["prompts"]]
    for samples in found if not good else ():
        scores = [one["score"] for one in samples]
        random.Random(str(scores)).shuffle(scores)
        for one, score in zip(samples, scores, strict=True):
            one["score"] = score
    return found


def test_the_alarm_comes_on_once_scores_stop_to_mean_anything_and_goes_off_again(
    service: Service, watched: Calibration
):
    service.call("POST", "/v1/calibrations", {"name": "drifting", "document": watched.to_json()})
    prompts = [f"d{i}" for i in range(60)]
    kept = Watch()
    for good in (False, True):
        entries = samples_of(60, good=good)
        path = create(service, prompts=prompts, calibration="drifting", max_samples=8, price=0.01)
        answers = [
            {"prompt": p, "number": n, "answer": one["answer"], "score": one["score"]}
            for p, samples in zip(prompts, entries, strict=True)
            for n, one in enumerate(samples)
        ]
        tell(service, path, answers)
        for _ in range(2):
            assert "stop" in ask(service, path)
        for p in prompts:
            own = [answer for answer in answers if answer["prompt"] == p]
            found = watched.drift_evidence([a["answer"] for a in own], [a["score"] for a in own], by_score=not good)
            assert found is not None
            kept = kept.after(found)
        drift = service.call("GET", "/v1/calibrations/drifting")["drift"]
        assert drift == {"total": pytest.approx(kept.total), "alarm": not good}, "each prompt counts once"
        if not good:
            check_drifted(service)


def check_drifted(service: Service) -> None:
    """New samplings say so, and leave scores alone unless told otherwise."""
    wanted = {"calibration": "drifting", "max_samples": 8, "price": 0.01}
    for more, scores in (({}, False), ({"on_drift": "warn"}, True), ({"on_drift": "votes"}, False)):
        made = service.call("POST", "/v1/samplings", {**wanted, **more})
        assert (made["drift"], made["scores"]) == (True, scores)
        both = [
            service.call("POST", "/v1/samplings:decide", {**wanted, **more, "answers": [answer]})
            for answer in ({"answer": "a", "score": 0.1}, {"answer": "a", "score": 0.9})
        ]
        assert both[0]["drift"]
        assert (both[0] != both[1]) == scores


def test_a_gateway_in_the_service_has_the_same_calibrations(service: Service, tmp_path: Path):
    document = service.call("GET", "/v1/calibrations/fitted/export")["document"]
    with serving(tmp_path, workers=0, upstream="http://127.0.0.1:9") as both:
        own = "/optscale/v1/calibrations"
        both.call("POST", "/v1/calibrations", {"name": "a", "document": document}, status=201)
        assert both.call("PUT", f"{own}/a", document)["version"] == 2
        assert both.call("GET", f"{own}/a") == {**document, "name": "a", "version": 2}
        assert both.call("PUT", f"{own}/b", {"pool": pool(8, 4), "max_samples": 4, "orders": 1})["prompts"] == 8
        facts = both.call("GET", own)["calibrations"]
        assert [(one["name"], one["version"], one["drift"]) for one in facts] == [("a", 2, False), ("b", 1, False)]
        assert [one["name"] for one in both.call("GET", "/v1/calibrations")["calibrations"]] == ["a", "b"]
        both.call("DELETE", f"{own}/b")
        both.call("GET", "/v1/calibrations/b", status=404)
        both.call("GET", f"{own}/b", status=404)
        both.call("PUT", f"{own}/b", {"pool": 3}, status=400)
        both.call("PUT", "/v1/samplings", {}, status=405)


def test_what_a_gateway_sees_raises_the_alarm_for_all(tmp_path: Path, watched: Calibration):
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    migrate(database)
    store = CalibrationStore(database)
    store.add("mine", watched.to_json())
    shared = ServiceCalibrations(store)
    for samples in samples_of(60, good=False):
        shared.watch("mine", [a["answer"] for a in samples], [a["score"] for a in samples])
    shared.watch("mine", ["a", "b"], [0.5, None])
    shared.watch("nobody", ["a", "b"], [0.5, 0.5])
    shared._writer.shutdown()
    shared._seen.clear()
    assert shared.drifted("mine")
    assert store.wanted("mine", None)[2]
    assert "mine" in shared
    assert "nobody" not in shared
    assert shared.get("mine").to_json() == {**watched.to_json(), "name": "mine"}
    database.close()


# --- anything at all --------------------------------------------------------------------------------------------------

CREATIONS: list[dict[str, Any]] = [
    {
        "prompts": ["a", {"id": "b", "prior": PRIOR}],
        "max_samples": 8,
        "target": 0.9,
        "price": 0.01,
        "token_price": 1e-5,
        "expected_tokens": 10,
        "latency": 0.01,
        "batch": 2,
        "least_gain": 0.1,
        "deadline": 5,
        "lease_seconds": 5,
        "scores": False,
        "metadata": {"a": 1},
    },
    {"budget": {"tokens": 100}, "expected_tokens": 10, "max_samples": 8},
    {"calibration": "fitted", "calibration_version": 1, "max_samples": 8},
    {"rule": "adaptive_consistency", "settings": {"threshold": 0.9, "form": "beta", "strength": 2, "picked": "best"}},
    {"rule": "optscale_t", "settings": {"target": 0.9, "mu": 0.5, "sigma": 0.1}},
    {"rule": "early_stopping", "settings": {"window": 3}},
]
ANSWERS: list[dict[str, Any]] = [
    {"answer": "a", "score": 0.5, "tokens": 10},
    {"answer": None, "score": 0.1, "tokens": 3},
]


DECIDES = ("max_samples", "target", "price", "expected_tokens", "calibration", "rule", "settings")
BODIES: list[tuple[str, Any]] = [
    *(("/v1/samplings", wanted) for wanted in CREATIONS),
    *(
        ("/v1/samplings:decide", {"answers": ANSWERS, **{k: wanted[k] for k in DECIDES if k in wanted}})
        for wanted in CREATIONS
    ),
    ("ask", {"count": 1, "idempotency_key": "a"}),
    ("tell", {"answers": [{"prompt": "a", "number": 1, **ANSWERS[0]}]}),
    ("/v1/calibrations", {"name": "strange", "document": None}),
]


@st.composite
def requests(draw: st.DrawFn, document: dict[str, Any]) -> tuple[str, Any]:
    """A path and a body that is right but for one or two values."""
    path, body = draw(st.sampled_from(BODIES))
    if path == "/v1/calibrations":
        body = {**body, "document": document}
    for _ in range(draw(st.integers(1, 2))):
        body = replaced(body, draw(st.sampled_from(places(body))), draw(STRANGE))
    return path, body


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_is_too_strange(service: Service, calibration: Calibration, data: st.DataObject):
    path, body = data.draw(requests(calibration.to_json()))
    if not path.startswith("/"):
        path = f"{create(service, prompts=['a', 'b'], price=0.1, max_samples=4)}/{path}"
    answer = service.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    found = json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.status_code != 422 or found["errors"]
    elif path == "/v1/samplings":
        made = f"/v1/samplings/{found['id']}"
        for draw in ask(service, made)["draws"]:
            tell(service, made, [{"prompt": draw["prompt"], "number": n, **ANSWERS[0]} for n in draw["numbers"]])
        ask(service, made)
        service.call("GET", made)
    elif path == "/v1/calibrations":
        wanted = {"answers": ANSWERS, "calibration": found["name"], "price": 0.01}
        service.call("POST", "/v1/samplings:decide", wanted, status=200)


# --- features of prompts ----------------------------------------------------------------------------------------------


def known_pool(prompts: int) -> dict[str, Any]:
    """Prompts whose feature is how hard they are."""
    made = pool(prompts)
    for i, prompt in enumerate(made["prompts"]):
        prompt["features"] = [i % 10 / 10, 1.0]
        for sample in prompt["samples"]:
            del sample["score"]
    return made


def test_features_become_priors_and_finished_prompts_are_learned_from(service: Service):
    made = service.call(
        "POST", "/v1/calibrations", {"name": "known", "pool": known_pool(60), "max_samples": 8}, status=201
    )
    assert made["signal"] > 0.05
    prompts: list[Any] = [{"id": f"k{i}", "features": [i % 10 / 10, 1.0]} for i in range(40)]
    wanted = {"calibration": "known", "max_samples": 8, "price": 0.002}
    path = create(service, prompts=[*prompts, "unknown"], **wanted)
    tell(service, path, [{"prompt": p, "number": 0, "answer": "a"} for p in ("k9", "k0", "unknown")])
    sure = {r["prompt"]: r["confidence"] for r in service.call("GET", path)["results"] if r["samples"]}
    assert sure["k9"] > sure["unknown"] > sure["k0"]
    one = {**wanted, "answers": [{"answer": "a"}]}
    found = service.call("POST", "/v1/samplings:decide", {**one, "features": [0.9, 1.0]})
    assert found["confidence"] == pytest.approx(sure["k9"])
    for fields, where in (
        ({"features": [0.9]}, "features"),
        ({"features": [0.9, 1.0], "prior": PRIOR}, "prior"),
        ({"features": [0.9, 1.0], "rule": "fixed", "calibration": None}, "features"),
    ):
        wrong = service.call("POST", "/v1/samplings:decide", {**one, **fields}, status=422)
        assert [problem["field"] for problem in wrong["errors"]] == [where]

    path = create(service, prompts=prompts, **wanted)
    for i, prompt in enumerate(prompts):
        own = [reading(prompt["id"], n, right=(i % 10 + 0.5) / 10) for n in range(8)]
        tell(service, path, [{"prompt": prompt["id"], "number": n, "answer": a["answer"]} for n, a in enumerate(own)])
    while "stop" not in ask(service, path):
        pass
    learned = service.call("POST", "/v1/calibrations/known/prompts", status=201)
    assert (learned["version"], learned["prompts"]) == (2, 60)
    assert learned["signal"] is not None
    one_feature = {"name": "bare", "document": service.call("GET", "/v1/calibrations/known/export")["document"]}
    service.call("POST", "/v1/calibrations", one_feature, status=201)
    nothing = service.call("POST", "/v1/calibrations/bare/prompts", status=422)
    assert nothing["errors"][0]["field"] == "features"
    service.call("POST", "/v1/calibrations/nobody/prompts", status=404)


def answer_all(service: Service, path: str) -> None:
    """Have all prompts of a sampling answered, those with a larger feature right more often."""
    while "stop" not in (found := ask(service, path)):
        told: list[dict[str, Any]] = []
        for draw in found["draws"]:
            right = (int(draw["prompt"].removeprefix("k")) % 10 + 0.5) / 10
            own = [(n, reading(draw["prompt"], n, right=right)["answer"]) for n in draw["numbers"]]
            told += [{"prompt": draw["prompt"], "number": n, "answer": answer} for n, answer in own]
        tell(service, path, told)


def test_what_features_tell_is_learned_without_being_asked_for(service: Service):
    learning = PromptLearning(service.parts.samplings, Fitting())
    bare = known_pool(12)
    for prompt in bare["prompts"]:
        del prompt["features"]
    wished = {"name": "k", "pool": bare, "max_samples": 8, "orders": 2}
    assert "signal" not in service.call("POST", "/v1/calibrations", wished, status=201)
    wanted = {"calibration": "k", "max_samples": 8, "price": 0.001}
    prompts = [{"id": f"k{i}", "features": [i % 10 / 10, 1.0]} for i in range(FEWEST)]

    answer_all(service, create(service, prompts=prompts[:-1], **wanted))
    asyncio.run(learning.look())
    assert service.call("GET", "/v1/calibrations/k")["version"] == 1, "one prompt too few"
    answer_all(service, create(service, prompts=prompts[-1:], **wanted))
    made = next(one for one in asyncio.run(learning.look()) if one.name == "k")
    assert (made.name, made.version) == ("k", 2)
    assert made.signal is not None
    assert made.signal > 0.02, "the larger the feature, the more answers are right"
    assert asyncio.run(learning.look()) == [], "nothing is new"

    answer_all(service, create(service, prompts=prompts, **wanted))
    asyncio.run(learning.look())
    assert service.call("GET", "/v1/calibrations/k")["version"] == 2, "what is new is what was known"


def looking(prompts: int) -> dict[str, Any]:
    """A pool whose first feature tells how long answers are, and whose second how high they score."""
    found: list[dict[str, Any]] = []
    for i in range(prompts):
        long, high = i % 5 / 4, i % 3 / 2
        rng = random.Random(i)
        samples = [
            {
                "answer": rng.choice("aab"),
                "correct": int(n % 2),
                "score": min(max(rng.gauss(0.3 + 0.4 * high, 0.1), 0.0), 1.0),
                "tokens": 100 * math.exp(2 * long + rng.gauss(0, 0.2)),
            }
            for n in range(8)
        ]
        found.append({"id": str(i), "features": [long, high], "samples": samples})
    return {"prompts": found}


def test_features_tell_the_price_of_an_answer_and_optscale_t_its_scores(service: Service):
    fit = {"name": "looking", "pool": looking(45), "max_samples": 8, "orders": 1}
    made = service.call("POST", "/v1/calibrations", fit, status=201)
    assert {"score", "tokens"} <= set(made["forecasts"])
    own = Calibration.from_json(service.call("GET", "/v1/calibrations/looking/export")["document"])
    expected = own.expected([1.0, 0.5])
    assert expected.told["tokens"] == pytest.approx(100 * math.exp(2), rel=0.3)

    priced = {"calibration": "looking", "max_samples": 8, "token_price": 1e-5, "scores": False}
    path = create(
        service, prompts=[{"id": "long", "features": [1.0, 0.5]}, {"id": "short", "features": [0.0, 0.5]}], **priced
    )
    costs = {draw["prompt"]: draw["cost"] for draw in ask(service, path)["draws"]}
    assert costs["long"] == pytest.approx(1e-5 * expected.told["tokens"])
    assert costs["short"] < costs["long"] / 4
    results = {one["prompt"]: one["expected"] for one in service.call("GET", path)["results"]}
    assert results["long"] == pytest.approx(expected.to_json()), "the record says what was expected"
    said = {**priced, "expected_tokens": 50.0, "answers": [], "features": [1.0, 0.5]}
    assert service.call("POST", "/v1/samplings:decide", said)["cost"] == 5e-4, "what the caller says stays"

    answers: list[dict[str, Any]] = [{"answer": "a", "score": 0.6}, {"answer": "b", "score": 0.7}]
    chosen = {"target": 0.8, "alpha": 0.9}
    wanted = {"rule": "optscale_t", "calibration": "looking", "settings": chosen}
    for features in ([0.5, 1.0], [0.5, 0.0]):
        told = own.expected(features).told
        sampling = Sampling("optscale_t", settings={**chosen, "mu": told["score"], "sigma": told["spread"]})
        for one in answers:
            sampling.tell(one["answer"], one["score"])
        step = sampling.ask()
        found = service.call("POST", "/v1/samplings:decide", {**wanted, "answers": answers, "features": features})
        assert found.get("draw") == (step.count if isinstance(step, Draw) else None)
        assert found["expected"]["score"] == told["score"]

    batch = [{"id": f"l{i}", "features": [i / 4, 0.5]} for i in range(5)]
    shared = {"prompts": batch, "calibration": "looking", "max_samples": 8, "scores": False, "budget": {"tokens": 900}}
    path = create(service, **shared)  # no expected_tokens: features tell them
    while "stop" not in (found := ask(service, path, count=1)):
        (draw,) = found["draws"]
        length = 100 * math.exp(2 * int(draw["prompt"][1:]) / 4)
        own_answers = [
            {**reading(draw["prompt"], n), "prompt": draw["prompt"], "number": n, "tokens": length}
            for n in draw["numbers"]
        ]
        tell(service, path, own_answers)
    assert 0 < service.call("GET", path)["tokens"] < 1300
    unknown = {**shared, "prompts": [*batch, "who"]}
    wrong = service.call("POST", "/v1/samplings", unknown, status=422)
    assert [problem["field"] for problem in wrong["errors"]] == ["expected_tokens"]
    service.call("POST", "/v1/samplings:decide", {"answers": [], "features": [1.0]}, status=422)


def test_what_gateways_decide_is_learned_from(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    migrate(database)
    store = CalibrationStore(database)
    bare = known_pool(12)
    for prompt in bare["prompts"]:
        del prompt["features"]
    store.add("seen", Calibration.fit(Pool.of(bare), 8, orders=2).to_json())
    shared = ServiceCalibrations(store)
    sampling = SamplingStore(database, store)
    learning = PromptLearning(sampling, Fitting())
    for i in range(FEWEST):
        decided, said = Sampling(price=0.001, max_samples=8, calibration=shared.get("seen")), list[Any]()
        while isinstance(step := decided.ask(), Draw):
            for n in step.numbers:
                answer = reading(f"k{i}", n, right=(i % 10 + 0.5) / 10)["answer"]
                decided.tell(answer, tokens=100.0 * (1 + i % 10))
                said.append(answer)
        shared.learn("seen", [i % 10 / 10, 1.0], decided)
    shared.learn("nobody", [1.0, 1.0], decided)
    shared._writer.shutdown()
    assert sampling.finished() == {(store.project, "seen"): FEWEST}
    newest = sampling.traffic("seen")[0]
    assert (list(newest.features), newest.drawn) == ([(FEWEST - 1) % 10 / 10, 1.0], decided.samples)
    p = decided.posterior.answers
    assert newest.right == pytest.approx(sum(p[a] for a in said if a is not None))
    assert math.exp(newest.counted["tokens"][0]) == pytest.approx(100.0 * (1 + (FEWEST - 1) % 10))

    (made,) = asyncio.run(learning.look())
    assert (made.version, set(made.forecasts or {}) >= {"tokens"}) == (2, True)
    found = shared._store.named("seen")[1].expected([0.9, 1.0])
    assert found.told["tokens"] == pytest.approx(1000, rel=0.1)
    assert asyncio.run(learning.look()) == []
    store.delete("seen")
    assert sampling.finished() == {}
    database.close()


def test_lessons_of_gateways_are_kept_while_they_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suffice.api.calibration_store.MOST", 3)
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    migrate(database)
    store = CalibrationStore(database)
    for i in range(5):
        store.learn("k", Lesson([float(i)], 1.0, 2, {"tokens": (1.0, 0.5)}))
    kept = [lesson for _, lesson in store.lessons("k")]
    assert kept == [Lesson([float(i)], 1.0, 2, {"tokens": [1.0, 0.5]}) for i in (4, 3, 2)]
    assert store.lessons_so_far() == {(store.project, "k"): 5}
    assert store.within(2).lessons("k") == []
    database.close()
