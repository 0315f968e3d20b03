"""The gateway on a real socket, before a scripted upstream: what is passed through, what the official client sees."""

import asyncio
import itertools
import json
from collections.abc import Generator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from upstream import VOTES, Front, Say, Upstream, serving

from suffice.api.gateway_config import DEFAULTS

POLICY = {"optscale": VOTES}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def front(upstream: Upstream) -> Generator[Front]:
    with serving(upstream, policies=POLICY, aliases={"sums": {"model": "tiny"}}) as front:
        yield front
        front.idle()


@pytest.fixture
def client(front: Front) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="sk-client", max_retries=0) as client:
        yield client


def says(*texts: str):
    """An upstream's default that says these in turn."""
    cycle = itertools.cycle(texts)
    return lambda body: Say(next(cycle))


def extra(answer: BaseModel) -> dict[str, Any]:
    """The fields that the official client does not know."""
    assert answer.model_extra is not None
    return answer.model_extra


# --- passed through ---


def test_a_plain_model_is_passed_through_byte_for_byte(front: Front, upstream: Upstream):
    raw = b'{ "model":"tiny","messages":[], "temperature":0.70,"strange":{"\\u00e9":[1e2]} }'
    upstream.script = [Say(raw=b'{"odd":  "spacing", "x": 1.50}', headers={"x-told": "1"})]
    answer = front.http.post("/v1/chat/completions?a=%20b", content=raw, headers={"authorization": "Bearer k"})
    (seen,) = upstream.drawn
    assert seen.raw == raw
    assert (seen.path, seen.query) == ("/v1/chat/completions", "a=%20b")
    assert seen.headers["authorization"] == "Bearer k"
    assert answer.content == b'{"odd":  "spacing", "x": 1.50}'
    assert answer.headers["x-told"] == "1"
    assert answer.headers["server-timing"].startswith("gateway;dur=")


def test_a_plain_stream_is_passed_through_byte_for_byte(front: Front, upstream: Upstream):
    body = {"model": "tiny", "messages": [], "stream": True}
    through = front.http.post("/v1/chat/completions", json=body).content.replace(b"chatcmpl-1", b"chatcmpl-2")
    direct = front.http.post(upstream.url + "/v1/chat/completions", json=body).content
    assert through == direct


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/audio/speech", "/v1/completions"])
def test_other_paths_are_passed_through(front: Front, upstream: Upstream, path: str):
    upstream.script = [Say(raw=b"\x00\xff", status=201)]
    answer = front.http.post(path, content=b'{"model": "tiny"}')
    assert (answer.status_code, answer.content) == (201, b"\x00\xff")
    assert upstream.seen[-1].path == path


def test_an_error_of_the_upstream_is_passed_through(front: Front, upstream: Upstream):
    upstream.script = [Say(status=418)]
    answer = front.chat("tiny")
    assert answer.status_code == 418
    assert answer.json()["error"]["message"] == "told to fail with 418"
    assert len(upstream.drawn) == 1, "what is passed through is not tried again"


def test_a_body_that_is_no_json_is_the_upstreams_to_refuse(front: Front, upstream: Upstream):
    upstream.script = [Say(status=400)]
    answer = front.http.post("/v1/chat/completions", content=b'{"model": ')
    assert answer.status_code == 400
    assert upstream.drawn[0].raw == b'{"model": '


def test_ten_megabytes_go_through_both_ways(front: Front, upstream: Upstream):
    text = "x" * 10_000_000
    upstream.script = [Say(raw=json.dumps({"echo": text}).encode())]
    answer = front.chat("tiny", text)
    assert answer.json()["echo"] == text
    assert upstream.drawn[0].body["messages"][0]["content"] == text
    upstream.default = says("42")
    assert front.decided(question=text)["choices"][0]["message"]["content"] == "42"
    assert upstream.drawn[-1].body["messages"][0]["content"] == text


def test_a_body_over_the_limit_is_refused():
    with serving(Upstream(), limits={"body_mb": 0.001}) as front:
        answer = front.chat("tiny", "x" * 2000)
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"


# --- the official client ---


def test_the_official_client_gets_the_majority_and_the_sum_of_usage(client: openai.OpenAI, upstream: Upstream):
    upstream.default = says("it is 41", "it is 42", "it is 42")
    answer = client.chat.completions.create(
        model="tiny:optscale",
        messages=[{"role": "user", "content": "?"}],
        temperature=0.8,
        max_tokens=64,
        stop=["\n"],
        extra_body={"optscale": {"extract": "number", "return": "trace"}, "top_k": 7, "unheard_of": {"a": 1}},
    )
    assert answer.choices[0].message.content == "it is 42"
    assert answer.choices[0].finish_reason == "stop"
    record = extra(answer)["optscale"]
    paid = record["samples"]["completed"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10 * paid + record["tokens"]["aborted_estimate"]
    assert answer.usage.prompt_tokens == 7 * (paid + record["samples"]["aborted"])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4 * paid
    for seen in upstream.drawn:
        body = {k: v for k, v in seen.body.items() if k != "messages"}
        expected = {"model": "tiny", "temperature": 0.8, "max_tokens": 64, "stop": ["\n"], "top_k": 7}
        assert body == expected | {"unheard_of": {"a": 1}}
        assert seen.headers["authorization"] == "Bearer sk-client"


def test_the_fields_of_an_answer_are_the_upstreams_and_the_record(front: Front, upstream: Upstream):
    plain, decided = front.decided(model="tiny"), front.decided()
    assert set(decided) == set(plain) | {"optscale"}
    assert set(decided["choices"][0]) == set(plain["choices"][0])
    assert set(decided["choices"][0]["message"]) == set(plain["choices"][0]["message"])
    assert set(decided["usage"]) == set(plain["usage"])
    assert decided["model"] == "tiny"


def test_the_official_client_reads_the_stream(client: openai.OpenAI, upstream: Upstream):
    upstream.default = says("the answer is forty two", "something else", "the answer is forty two")
    with client.chat.completions.create(
        model="tiny:optscale", messages=[], stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "the answer is forty two"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 30
    assert extra(chunks[-1])["optscale"]["answer"] == text
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_stream_without_usage_ends_with_the_finish(front: Front):
    with front.http.stream("POST", "/v1/chat/completions", json={"model": "tiny:optscale", "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert "usage" not in last
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["optscale"]["samples"]["counted"] >= 2


def test_the_async_client_works(front: Front, upstream: Upstream):
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key="k", max_retries=0) as client:
            asked = [client.chat.completions.create(model="tiny:optscale", messages=[]) for _ in range(8)]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == ["42"] * 8


def test_completions_work_as_well(client: openai.OpenAI, upstream: Upstream):
    upstream.default = says("41", "42", "42")
    answer = client.completions.create(model="tiny:optscale", prompt="?")
    assert answer.choices[0].text == "42"
    assert answer.object == "text_completion"
    with client.completions.create(model="tiny:optscale", prompt="?", stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == "42"


def test_tools_are_voted_on_by_name_and_arguments(client: openai.OpenAI, upstream: Upstream):
    other = {**CALL, "id": "call_2", "function": {"name": "add", "arguments": '{"b":2,  "a":1.0}'}}
    wrong = {**CALL, "id": "call_3", "function": {"name": "mul", "arguments": "{}"}}
    calls = itertools.cycle([wrong, CALL, other, other])
    upstream.default = lambda body: Say(tool_calls=[next(calls)], finish="tool_calls")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(model="tiny:optscale", messages=[], tools=tools)  # type: ignore[arg-type]
    (call,) = answer.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"a": 1, "b": 2}  # type: ignore[union-attr]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert upstream.drawn[0].body["tools"] == tools
    with client.chat.completions.create(model="tiny:optscale", messages=[], tools=tools, stream=True) as stream:  # type: ignore[arg-type, union-attr]
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    (streamed,) = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert streamed.index == 0
    assert streamed.function is not None
    assert streamed.function.name == "add"


def test_structured_outputs_are_parsed_and_voted_on_as_json(client: openai.OpenAI, upstream: Upstream):
    class Sum(BaseModel):
        total: int

    upstream.default = says('{"total": 41}', '{"total":42}', ' {"total": 42.0}', '{"total": 42}', "{broken")
    answer = client.chat.completions.parse(model="tiny:optscale", messages=[], response_format=Sum)
    assert answer.choices[0].message.parsed == Sum(total=42)
    assert upstream.drawn[0].body["response_format"]["type"] == "json_schema"


def test_answers_that_are_the_same_mathematically_are_votes_for_one(front: Front, upstream: Upstream):
    pytest.importorskip("math_verify")
    upstream.default = says(r"\boxed{0.25}", r"\boxed{\frac{1}{2}}", r"so \boxed{0.5}", r"\boxed{\frac{2}{4}}")
    record = front.decided(optscale={"extract": "math"})["optscale"]
    assert record["answer"] == r"\frac{1}{2}"
    assert len(record["posterior"]["answers"]) == 2


def test_after_failures_the_question_is_perturbed(front: Front, upstream: Upstream):
    upstream.script = [Say("4", finish="length")] * 3
    front.decided(question="6 x 7?", optscale={"perturb_after": 3, "concurrency": 1})
    asked = [seen.body["messages"][-1]["content"] for seen in upstream.drawn]
    assert asked[:3] == ["6 x 7?"] * 3
    assert asked[3].endswith(" 6 x 7?")
    assert asked[4:] == ["6 x 7?"] * len(asked[4:]), "what works is not perturbed"


def test_images_reach_the_upstream(front: Front, upstream: Upstream):
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    answer = front.http.post(
        "/v1/chat/completions", json={"model": "tiny:optscale", "messages": [{"role": "user", "content": content}]}
    )
    assert answer.status_code == 200
    assert all(seen.body["messages"][0]["content"] == content for seen in upstream.drawn)


def test_n_is_how_many_distinct_answers_come_back(client: openai.OpenAI, upstream: Upstream):
    upstream.default = says("42", "42", "41", "40", "42")
    answer = client.chat.completions.create(model="tiny:optscale", messages=[], n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert texts[0] == "42"
    assert len(set(texts)) == 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all("n" not in seen.body for seen in upstream.drawn)


def test_the_seed_differs_from_draw_to_draw(front: Front, upstream: Upstream):
    front.decided(seed=5)
    seeds = [seen.body["seed"] for seen in upstream.drawn]
    assert sorted(seeds) == list(range(5, 5 + len(seeds)))


def test_log_probabilities_come_only_where_asked_for(upstream: Upstream):
    with serving(upstream, policies={"optscale": {**VOTES, "verifier": "log_probability"}}) as front:
        assert front.decided()["choices"][0]["logprobs"] is None
        assert all(seen.body["logprobs"] is True for seen in upstream.drawn)
        shown = front.decided(logprobs=True)["choices"][0]["logprobs"]
        assert shown["content"][0]["logprob"] == -0.5


@pytest.mark.parametrize("wrong", [{"logprobs": True, "top_logprobs": "five"}, {"logprobs": True, "top_logprobs": 0.5}])
def test_a_wrong_number_of_alternatives_is_named(front: Front, wrong: dict[str, Any]):
    assert front.decided(status=400, **wrong)["error"]["param"] == "top_logprobs"


# --- one draw ---


def test_tokens_are_passed_on_as_they_come_where_one_draw_is_wanted(front: Front, upstream: Upstream):
    body = {"model": "tiny:optscale", "messages": [], "stream": True, "optscale": {"max_samples": 1}}
    with front.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("data: {")]
        assert answer.headers["x-optscale-samples"] == "1"
    assert [json.loads(event[6:])["choices"][0]["delta"].get("content") for event in events] == ["", "4", "2", None]
    assert len(upstream.drawn) == 1


def test_greedy_requests_are_drawn_once(front: Front, upstream: Upstream):
    record = front.decided(temperature=0)["optscale"]
    assert record["samples"]["issued"] == len(upstream.drawn) == 1
    assert record["stop_message"] == "temperature 0: every draw would be the same"


def test_a_dry_run_draws_once(front: Front, upstream: Upstream):
    assert front.decided(optscale={"dry_run": True})["optscale"]["samples"]["issued"] == 1


# --- what a request may say ---


@pytest.mark.parametrize(
    ("headers", "body", "most"),
    [
        ({}, {"budget": 3}, 3),
        ({"X-ITS-Budget": "2"}, {"budget": 3}, 2),
        ({"X-OptScale-Max-Samples": "4"}, {"optscale": {"max_samples": 3}}, 4),
        ({}, {"optscale": {"max_samples": 5}, "budget": 3}, 5),
    ],
)
def test_the_budget_by_its_names(front: Front, upstream: Upstream, headers: dict, body: dict, most: int):
    upstream.default = lambda body: Say(f"a{len(upstream.drawn)}")  # no two agree
    sent = {"model": "tiny", "messages": [], **body}
    answer = front.http.post("/v1/chat/completions", json=sent, headers=headers).json()
    assert answer["optscale"]["samples"]["issued"] == len(upstream.drawn) == most
    assert answer["optscale"]["stop_reason"] == "budget spent"


def test_legacy_best_of_is_the_budget_of_a_completion(front: Front, upstream: Upstream):
    upstream.default = lambda body: Say(f"a{len(upstream.drawn)}")
    front.http.post("/v1/completions", json={"model": "sums", "prompt": "?", "best_of": 3})
    assert len(upstream.drawn) == 3


def test_one_prompt_a_request_is_decided(client: openai.OpenAI, front: Front, upstream: Upstream):
    for prompt in ("2+2=?", ["2+2=?"], [5, 7]):
        assert client.completions.create(model="tiny:optscale", prompt=prompt).choices[0].text == "42"
    before = len(upstream.drawn)
    for several in (["2+2=?", "3+3=?"], [[5], [7]]):
        sent = {"model": "tiny:optscale", "prompt": several}
        assert front.http.post("/v1/completions", json=sent).json()["error"]["param"] == "prompt"
    assert len(upstream.drawn) == before


def test_null_is_nothing_wished_for(front: Front, upstream: Upstream):
    assert "optscale" not in front.chat("tiny", optscale=None, budget=None).json()
    assert len(upstream.drawn) == 1


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"max_samples": 65}, "optscale.max_samples"),
        ({"max_samples": 0}, "optscale.max_samples"),
        ({"min_samples": 9, "max_samples": 8}, "optscale.min_samples"),
        ({"deadline_ms": 600_001}, "optscale.deadline_ms"),
        ({"verifier": "http://127.0.0.1/steal"}, "optscale.verifier"),
        ({"upstream": "http://127.0.0.1"}, "optscale.upstream"),
        ({"rule": "guess"}, "optscale.rule"),
        ({"extract": "everything"}, "optscale.extract"),
        ({"target": 1.5}, "optscale.target"),
        ({"settings": {"threshold": 3}}, "optscale.settings.threshold"),
        ({"settings": {"picked": []}}, "optscale.settings.picked"),
        ({"settings": {"magic": 3}}, "optscale.settings.magic"),
        ({"rule": "suffice", "settings": {"price": 0.1}, "price": 0.2}, "optscale.settings.price"),
        ({"calibration": "none"}, "optscale.calibration"),
        ({"rule": "optscale0", "settings": {}}, "optscale.verifier"),
        ({"settings": {"picked": "weighted"}}, "optscale.verifier"),
        (7, "optscale"),
    ],
)
def test_a_wrong_wish_is_named(front: Front, upstream: Upstream, wishes: object, field: str):
    error = front.decided(status=400, optscale=wishes)["error"]
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert not upstream.drawn


def test_more_choices_than_may_be_drawn_are_refused_and_so_is_half_a_stream(front: Front, upstream: Upstream):
    assert front.decided(status=400, n=9, optscale={"max_samples": 8})["error"]["param"] == "n"
    assert front.decided(status=400, stream="yes")["error"]["param"] == "stream"
    assert not upstream.drawn


def test_models_and_what_policies_make_of_them(client: openai.OpenAI):
    assert {model.id for model in client.models.list()} == {"tiny", "tiny:optscale", "sums"}
    assert extra(client.models.retrieve("tiny:optscale"))["parent"] == "tiny"


# --- the record ---


def test_the_decision_is_kept_and_can_be_decided_again(front: Front, upstream: Upstream):
    upstream.default = says("41", "42", "42", "42", "43")
    answer = front.chat(seed=3, optscale={"price": 0.5})
    record = answer.json()["optscale"]
    assert answer.headers["x-optscale-decision-id"] == record["decision_id"]
    assert answer.headers["x-optscale-samples"] == str(record["samples"]["counted"])
    assert "trace" not in record
    wished = {
        **DEFAULTS.model_dump(mode="json", by_alias=True, exclude={"tags"}),
        **VOTES, "deadline_ms": 600_000.0, "n": 1, "seed": 3, "price": 0.5,
    }  # fmt: skip
    assert record["asked"] == wished
    kept = front.http.get(f"/optscale/v1/decisions/{record['decision_id']}").json()
    assert kept["answer"] == "42"
    assert [line["counted"] for line in kept["trace"]].count(True) == record["samples"]["counted"]
    again = {"decisions": [record["decision_id"]], "rules": [VOTES, {"rule": "fixed", "settings": {"samples": 1}}]}
    same, first = front.http.post("/optscale/v1/replay", json=again).json()["results"]
    assert same[0]["samples"] == record["samples"]["counted"]
    assert same[0]["answer"] == "42"
    assert first[0]["samples"] == 1
    assert front.http.get("/optscale/v1/decisions/dec_none").status_code == 404


def test_a_pool_is_replayed(front: Front):
    samples = [{"answer": "a", "correct": 1, "tokens": 5}] * 6 + [{"answer": "b", "correct": 0, "tokens": 5}] * 2
    pool = {"prompts": [{"id": str(i), "samples": samples} for i in range(4)]}
    bare = {name: value for name, value in VOTES.items() if name != "max_samples"}
    answer = front.http.post("/optscale/v1/replay", json={"pool": pool, "max_samples": 8, "rules": [{}, bare]})
    assert [row["rule"] for row in answer.json()["results"]] == ["adaptive_consistency"] * 2
    assert answer.json()["results"][0]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"decisions": "dec_1"}, "decisions"),
        ({"decisions": [], "rules": 3}, "rules"),
        ({"decisions": [], "rules": [{"verifier": "log_probability"}]}, "verifier"),
        ({"pool": {"prompts": [3]}}, "prompts[0]"),
        ({"pool": {"prompts": [{"id": 1, "samples": [3]}]}}, "prompts[0].samples"),
        ({"pool": {"prompts": []}, "rules": [{"target": 0.9}]}, "target"),
        ({"pool": {"prompts": []}, "decisions": []}, "replay"),
    ],
)
def test_what_cannot_be_replayed_is_named(front: Front, document: dict[str, Any], field: str):
    answer = front.http.post("/optscale/v1/replay", json=document)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_metrics_add_up(front: Front, upstream: Upstream):
    record = front.decided()["optscale"]
    front.chat("tiny")
    front.idle()
    lines = dict(line.rsplit(" ", 1) for line in front.http.get("/metrics").text.splitlines() if line[0] != "#")
    issued = 'suffice_gateway_samples_total{outcome="issued",policy="optscale"}'
    assert float(lines[issued]) == record["samples"]["issued"]
    assert float(lines['suffice_gateway_requests_total{policy="pass-through",status="200"}']) == 1
    assert float(lines[f'suffice_gateway_upstream_well{{url="{upstream.url}"}}']) == 1
    assert float(lines["suffice_gateway_requests_active"]) == 0


def test_health(front: Front):
    assert front.http.get("/healthz").json() == {"status": "ok", "upstreams": 1, "well": 1}
    assert front.http.get("/readyz").status_code == 200
    assert front.http.get("/nothing").json()["error"]["type"] == "invalid_request_error"


def test_a_calibration_is_learned_used_exported_and_deleted(front: Front, upstream: Upstream):
    right, wrong = {"answer": "42", "correct": 1, "score": 0.9}, {"answer": "41", "correct": 0, "score": 0.2}
    others = [{"answer": str(k), "correct": 0, "score": 0.3} for k in range(3)]
    prompts = [{"id": f"q{k}", "samples": [right] * (2 + k % 3) + [wrong] * (4 - k % 3) + others} for k in range(16)]
    path = "/optscale/v1/calibrations/tiny"
    learned = front.http.put(path, json={"pool": {"prompts": prompts}, "max_samples": 8}).json()
    assert learned == {"name": "tiny", "version": 1, "prompts": 16, "max_samples": 8, "drift": False}
    exported = front.http.get(path).json()

    says_what = itertools.cycle([("41", -1.6), ("41", -1.6), ("42", -0.1), ("43", -1.2)])
    upstream.default = lambda body: Say((said := next(says_what))[0], logprob=said[1])
    wishes = {"rule": "suffice", "settings": {}, "price": 0.01, "max_samples": 8, "verifier": "log_probability"}
    by_scores = front.decided(optscale={**wishes, "calibration": "tiny"})
    assert by_scores["choices"][0]["message"]["content"] == "42", "two votes for 41 count less than a good score"
    assert by_scores["optscale"]["verifier"] == {
        "name": "log_probability", "calibration": "tiny", "drift": False, "error": None,
    }  # fmt: skip

    replay = {
        "decisions": [by_scores["optscale"]["decision_id"]],
        "rules": [{"rule": "suffice", "settings": {}, "price": 0.01, "calibration": "tiny", "max_samples": 8}],
    }
    ((again,),) = front.http.post("/optscale/v1/replay", json=replay).json()["results"]
    assert again["answer"] == "42", "by scores, too"
    unscored = front.decided(status=400, optscale={"rule": "suffice", "settings": {}, "calibration": "tiny"})
    assert unscored["error"]["param"] == "optscale.verifier"

    assert front.http.delete(path).json() == {"deleted": "tiny"}
    assert front.http.get(path).status_code == 404
    front.decided(status=400, optscale={"calibration": "tiny"})
    gone = front.http.post("/optscale/v1/replay", json=replay)
    assert gone.status_code == 404
    assert front.http.put(path, json=exported).json()["version"] == 1
    assert front.http.put(path, json={"name": "tiny"}).status_code == 400
    assert front.http.put(path, content=b"{").status_code == 400


def known_prompts() -> list[dict[str, Any]]:
    """Labelled prompts that are easy where their text is short; long ones take more tokens."""
    from suffice.optimizer.prompts import text_features

    found: list[dict[str, Any]] = []
    for k in range(24):
        text = "7*6" if k % 2 else "What is the answer to all of this, " * (k // 2 + 2)
        share, tokens = (7, 10) if k % 2 else (2, 40 + k)
        samples = [
            {"answer": "42" if i < share else str(i), "correct": int(i < share), "tokens": tokens} for i in range(8)
        ]
        found.append({"id": f"q{k}", "features": text_features(text), "samples": samples})
    return found


def test_what_a_prompt_looks_like_is_expected_of_its_text(front: Front, upstream: Upstream):
    path = "/optscale/v1/calibrations/known"
    assert front.http.put(path, json={"pool": {"prompts": known_prompts()}, "max_samples": 8}).status_code == 200
    upstream.default = says("42")
    wishes = {"rule": "suffice", "settings": {}, "price": 0.01, "max_samples": 8, "calibration": "known"}
    found = {}
    for text in ("5+5", "What is the answer to all of this, " * 8):
        body = {"messages": [{"role": "user", "content": text}], "optscale": {**wishes, "features": "text"}}
        found[text] = front.decided(**body)["optscale"]
    easy, hard = found.values()
    assert easy["expected"]["solve_rate"] > 0.6 > hard["expected"]["solve_rate"]
    assert easy["expected"]["tokens"] < 15 < 40 < hard["expected"]["tokens"]
    assert easy["confidence"] > hard["confidence"], "after equal answers"
    assert easy["samples"]["counted"] <= hard["samples"]["counted"]
    plain = front.decided(optscale=wishes)["optscale"]
    assert plain["expected"] is None

    numbers = known_prompts()[1]["features"]
    given = front.decided(optscale={**wishes, "features": numbers})["optscale"]
    assert given["expected"] == pytest.approx(easy["expected"])
    for wrong, field in (
        ({"features": [1.0]}, "features"),
        ({"features": "text", "calibration": None}, "features"),
        ({"features": "text", "rule": "fixed"}, "features"),
        ({"features": "words"}, "features"),
    ):
        refused = front.decided(status=400, optscale={**wishes, **wrong})["error"]
        assert refused["param"].startswith(f"optscale.{field}")
