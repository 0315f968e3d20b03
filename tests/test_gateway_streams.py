"""One draw whose tokens are passed on as they come: deadline, verifier and record are those of any other draw."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from upstream import Front, Say, Upstream, serving

ONE = {"rule": "suffice", "max_samples": 1}
POLICIES = {"optscale": ONE, "sure": {**ONE, "verifier": "log_probability"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def front(upstream: Upstream) -> Generator[Front]:
    with serving(upstream, policies=POLICIES, limits={"retries": 1}) as front:
        yield front
        front.idle()


@contextmanager
def streaming(front: Front, model: str = "tiny:optscale", **body: Any) -> Generator[Iterator[str]]:
    """The data of the events, one by one."""
    sent = {"model": model, "messages": [], "stream": True, **body}
    with front.http.stream("POST", "/v1/chat/completions", json=sent) as answer:
        assert answer.status_code == 200, answer.read()
        yield (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))


def streamed(front: Front, **body: Any) -> list[dict[str, Any]]:
    """All chunks of a stream that ends as it should."""
    with streaming(front, **body) as events:
        *found, done = list(events)
    assert done == "[DONE]"
    return [json.loads(event) for event in found]


def test_tokens_come_before_the_answer_is_whole(front: Front, upstream: Upstream):
    upstream.script = [Say("4242", pauses=True)]
    with streaming(front) as events:
        assert [json.loads(next(events))["choices"][0]["delta"].get("content") for _ in range(3)] == ["", "4", "2"]
        upstream.release()
        assert list(events)[-1] == "[DONE]"


def test_the_record_rides_on_the_last_chunk_and_is_kept(front: Front, upstream: Upstream):
    *rest, last = streamed(front)
    record = last["optscale"]
    assert not any("optscale" in chunk or "usage" in chunk for chunk in rest)
    assert last["choices"][0] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "stop_reason": None,
    }  # fmt: skip
    assert [chunk["choices"][0]["finish_reason"] for chunk in rest] == [None] * 3
    assert (record["answer"], record["samples"]["counted"], record["tokens"]["completion"]) == ("42", 1, 10)
    kept = front.http.get(f"/optscale/v1/decisions/{record['decision_id']}").json()
    assert kept["trace"][0]["answer"] == "42"
    assert 'suffice_gateway_stops_total{policy="optscale"' in front.http.get("/metrics").text
    assert upstream.drawn[0].body["stream_options"] == {"include_usage": True}, "whoever pays wants to know"


def test_usage_is_streamed_where_it_was_asked_for(front: Front):
    *rest, last = streamed(front, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 10
    assert last["optscale"]["answer"] == "42"
    assert [chunk["usage"] for chunk in rest] == [None] * 4


def test_a_verifier_scores_what_was_streamed(front: Front, upstream: Upstream):
    chunks = streamed(front, model="tiny:sure")
    assert upstream.drawn[0].body["logprobs"] is True
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in chunks), "nobody asked for them"
    record = chunks[-1]["optscale"]
    assert record["samples"]["scored"] == 1
    kept = front.http.get(f"/optscale/v1/decisions/{record['decision_id']}").json()
    assert kept["trace"][0]["score"] == pytest.approx(0.6065, abs=1e-4)
    shown = streamed(front, model="tiny:sure", logprobs=True)
    assert shown[1]["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5


def test_a_verifier_that_fails_is_told_at_the_end(upstream: Upstream):
    scorer = Upstream(default=lambda body: Say(raw=b'{"data": [{"probs": [null]}]}')).start()
    verifiers = {"rm": {"type": "reward", "url": scorer.url}}
    with serving(upstream, verifiers=verifiers, policies={"optscale": {**ONE, "verifier": "rm"}}) as front:
        assert streamed(front)[-1]["optscale"]["degraded"].endswith("decided by votes")
        with streaming(front, optscale={"on_verifier_error": "fail"}) as events:
            *_, error, done = list(events)
        assert json.loads(error)["error"]["code"] == "verifier_failed"
        assert done == "[DONE]"
        front.idle()
    scorer.stop()


def test_a_deadline_before_the_first_token_is_a_504(front: Front, upstream: Upstream):
    upstream.default = lambda body: Say(hold=True)
    assert front.decided(status=504, stream=True, optscale={"deadline_ms": 50})["error"]["code"] == "deadline_exceeded"
    upstream.wait(lambda u: u.running == 0)


def test_a_deadline_after_it_ends_the_stream_with_an_error(front: Front, upstream: Upstream):
    upstream.default = lambda body: Say("4242", pauses=True)
    with streaming(front, optscale={"deadline_ms": 300}) as events:
        *said, error, done = list(events)
    assert len(said) == 4
    assert json.loads(error)["error"]["code"] == "deadline_exceeded"
    assert done == "[DONE]"
    upstream.wait(lambda u: u.running == 0)


def test_what_fails_before_the_first_token_is_tried_again(front: Front, upstream: Upstream):
    upstream.script = [Say(status=500)]
    assert streamed(front)[-1]["optscale"]["answer"] == "42"
    assert len(upstream.drawn) == 2
    upstream.default = lambda body: Say(status=400)
    assert front.decided(status=400, stream=True)["error"]["message"] == "told to fail with 400"


def test_what_breaks_off_is_not_begun_again(front: Front, upstream: Upstream):
    upstream.script = [Say(breaks=True)]
    with streaming(front) as events:
        *_, error, done = list(events)
    assert "broke off" in json.loads(error)["error"]["message"]
    assert done == "[DONE]"
    assert len(upstream.drawn) == 1


@pytest.mark.parametrize("raw", [b'data: {"error": {"message": "no"}}\n\n', b"data: {oh\n\n", b"data: 3\n\n", b""])
def test_a_stream_that_is_none_is_no_answer(front: Front, upstream: Upstream, raw: bytes):
    upstream.default = lambda body: Say(raw=raw, headers={"content-type": "text/event-stream"})
    assert front.decided(status=502, stream=True)["error"]["code"]


def test_an_upstream_that_does_not_stream_is_streamed_for(front: Front, upstream: Upstream):
    whole = {"id": "c", "created": 1, "model": "tiny", "usage": {"completion_tokens": 3, "prompt_tokens": 1}}
    choice = {"index": 0, "message": {"role": "assistant", "content": "forty two"}, "finish_reason": "stop"}
    upstream.default = lambda body: Say(raw=json.dumps({**whole, "choices": [choice]}).encode())
    chunks = streamed(front)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "forty two"
    assert chunks[-1]["optscale"]["tokens"]["completion"] == 3


def test_the_official_client_reads_text_calls_and_completions(front: Front, upstream: Upstream):
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client:
        with client.completions.create(model="tiny:optscale", prompt="?", stream=True) as stream:
            assert "".join(chunk.choices[0].text for chunk in stream) == "42"
        upstream.default = lambda body: Say(tool_calls=[CALL], finish="tool_calls")
        with client.chat.completions.create(model="tiny:optscale", messages=[], stream=True) as chunks:
            found = list(chunks)
    calls = [chunk.choices[0].delta.tool_calls[0] for chunk in found if chunk.choices[0].delta.tool_calls]
    assert "".join(call.function.arguments or "" for call in calls if call.function) == '{"a": 1}'
    assert found[-1].choices[0].finish_reason == "tool_calls"
    assert (found[-1].model_extra or {})["optscale"]["answer"] == '[["add","{\\"a\\":1}"]]'
