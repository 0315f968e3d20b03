"""The gateway before a real vLLM that serves the tiny model: shapes field by field, cancelling, votes and scores."""

import json
import os
import random
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx
import openai
import pytest
from upstream import PATIENCE, Running

from suffice.api.gateway import Gateway
from suffice.api.gateway_config import GatewayConfig

VLLM = os.environ.get("VLLM_URL", "")
LOGPROB = {"rule": "threshold", "settings": {"threshold": 0.999}, "max_samples": 8, "verifier": "log_probability"}
POLICIES = {"optscale": {"extract": "number", "max_samples": 16, "price": 0.01}, "logprob": LOGPROB}
LONG = "+".join(["98"] * 9) + "=?"


def question(seed: int, terms: int = 4) -> tuple[str, str]:
    """A question, and the number that is right."""
    rng = random.Random(seed)
    numbers = [rng.randint(10, 99) for _ in range(terms)]
    return "+".join(map(str, numbers)) + "=?", str(sum(numbers))


@pytest.fixture(scope="module")
def gateway() -> Generator[str]:
    config = {"upstreams": [{"url": VLLM}], "policies": POLICIES, "limits": {"health_s": 1}}
    running = Running(Gateway(GatewayConfig.of(config)), lifespan="on").start()
    yield running.url
    running.stop()


@pytest.fixture(scope="module")
def client(gateway: str) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client


def ask(url: str, model: str = "tiny", seed: int = 0, **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": question(seed)[0]}]
    sent = {"model": model, "messages": messages, "max_tokens": 96, **body}
    return httpx.post(f"{url}/v1/chat/completions", json=sent, timeout=PATIENCE)


def shape(value: Any) -> Any:
    """Names and types, without the values."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def running() -> int:
    """How many requests vLLM works on."""
    text = httpx.get(f"{VLLM}/metrics", timeout=PATIENCE).text
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{"))
    ]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def until(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.02)


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}, {"max_tokens": 3}])
def test_answers_have_vllms_own_fields_and_types(gateway: str, more: dict[str, Any]):
    plain, decided = ask(VLLM, **more), ask(gateway, "tiny:optscale", **more)
    assert plain.status_code == decided.status_code == 200
    record = decided.json().pop("optscale")
    assert record["samples"]["counted"] >= 2
    assert shape({k: v for k, v in decided.json().items() if k != "optscale"}) == shape(plain.json())


def test_completions_have_vllms_own_fields_and_types(gateway: str):
    body = {"prompt": question(0)[0] + "\n", "max_tokens": 96}
    plain = httpx.post(f"{VLLM}/v1/completions", json={"model": "tiny", **body}, timeout=PATIENCE).json()
    decided = httpx.post(f"{gateway}/v1/completions", json={"model": "tiny:optscale", **body}, timeout=PATIENCE).json()
    assert decided.pop("optscale")
    assert shape(decided) == shape(plain)


def test_streams_have_vllms_own_fields(gateway: str):
    def chunks(url: str, model: str) -> list[dict[str, Any]]:
        text = ask(url, model, stream=True, stream_options={"include_usage": True}).text
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]

    plain, decided = chunks(VLLM, "tiny"), chunks(gateway, "tiny:optscale")
    for place in (0, 1, -2, -1):
        ours = {k: v for k, v in decided[place].items() if k != "optscale"}
        theirs = plain[place]
        assert set(ours) - {"usage"} <= set(theirs), place
        assert {"id", "object", "created", "model", "choices"} <= set(ours)
        if place != -1:
            assert set(ours["choices"][0]["delta"]) <= set(theirs["choices"][0]["delta"]) | {"content"}
            assert ours["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"]
    assert shape(decided[-1]["usage"]) == shape(plain[-1]["usage"])


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}, {"logprobs": True}])
def test_one_draw_is_streamed_as_vllm_streams_it(gateway: str, more: dict[str, Any]):
    def chunks(url: str, model: str) -> list[dict[str, Any]]:
        text = ask(url, model, stream=True, temperature=0, **more).text
        assert text.endswith("data: [DONE]\n\n")
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]

    plain, ours = chunks(VLLM, "tiny"), chunks(gateway, "tiny:optscale")
    record = ours[-1].pop("optscale")
    assert record["samples"]["issued"] == 1
    text = ["".join(c["choices"][0]["delta"].get("content") or "" for c in s if c["choices"]) for s in (plain, ours)]
    assert text[0] == text[1]
    assert len(ours) > len(text[0]) // 2, "it came in pieces"
    for mine, theirs in ((ours[0], plain[0]), (ours[1], plain[1]), (ours[-1], plain[-1])):
        assert set(mine) - {"usage"} <= set(theirs)
    if "stream_options" in more:
        assert shape(ours[-1]["usage"]) == shape(plain[-1]["usage"])
        assert ours[-1]["usage"]["completion_tokens"] == plain[-1]["usage"]["completion_tokens"]
    else:
        assert ours[-1]["choices"][0]["finish_reason"] == plain[-1]["choices"][0]["finish_reason"] == "stop"
        assert bool(ours[1]["choices"][0]["logprobs"]) == bool(plain[1]["choices"][0]["logprobs"])


def test_a_plain_model_is_passed_through(gateway: str):
    direct, through = ask(VLLM, temperature=0).json(), ask(gateway, temperature=0).json()
    for answer in (direct, through):
        del answer["id"], answer["created"]
    assert direct == through


def test_the_official_client_gets_more_right_than_one_draw_does(client: openai.OpenAI):
    asked = 30
    right = {"tiny": 0, "tiny:optscale": 0}
    for seed in range(asked):
        text, truth = question(seed, 5)
        for model in right:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], max_tokens=96, seed=seed
            )
            said = (answer.choices[0].message.content or "").rstrip(";").rpartition("=")[2]
            right[model] += said == truth
    assert right["tiny:optscale"] >= right["tiny"]
    assert right["tiny:optscale"] >= asked // 2


def test_scores_are_vllms_log_probabilities(gateway: str):
    record = ask(gateway, "tiny:logprob", optscale={"return": "trace"}).json()["optscale"]
    assert record["samples"]["scored"] == record["samples"]["counted"] - record["samples"]["rejected"]
    assert all(0 < line["score"] <= 1 for line in record["trace"] if line["score"] is not None)


def test_an_error_is_vllms_own(gateway: str, client: openai.OpenAI):
    direct, decided = ask(VLLM, max_tokens=-1), ask(gateway, "tiny:optscale", max_tokens=-1)
    assert decided.status_code == direct.status_code == 400
    assert decided.json()["error"]["message"] == direct.json()["error"]["message"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none:optscale", messages=[{"role": "user", "content": "1"}])


def test_what_is_not_needed_stops_at_once(gateway: str):
    body: dict[str, Any] = {"ignore_eos": True, "max_tokens": 400, "optscale": {"deadline_ms": 300, "overissue": "all"}}
    answer = ask(gateway, "tiny:optscale", **body)
    assert answer.status_code in (200, 504)
    until(lambda: running() == 0)


@pytest.mark.parametrize("model", ["tiny", "tiny:optscale"])
def test_a_client_that_leaves_stops_vllm(gateway: str, model: str):
    body = {"ignore_eos": True, "max_tokens": 480, "n": 8 if model == "tiny" else 1}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": LONG}], **body},
            timeout=0.2,
        )
    until(lambda: running() == 0)


def test_structured_outputs_reach_vllm(gateway: str):
    answer = ask(gateway, "tiny:optscale", structured_outputs={"regex": "[0-9]{3}"}).json()
    assert answer["choices"][0]["message"]["content"].isdigit()
