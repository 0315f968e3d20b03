"""What goes wrong around the gateway: nothing hangs, no permit and no connection is lost, and usage stays honest."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import pytest
from upstream import PATIENCE, VOTES, Front, Say, Upstream, serving

POLICIES = {"optscale": VOTES}
ONE_BY_ONE = {**VOTES, "overissue": "none"}


def rising() -> Callable[[Any], Say]:
    """No two answers agree."""
    count = itertools.count()
    return lambda body: Say(f"a{next(count)}")


# --- the upstream ---


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_error_is_tried_again(status: int):
    upstream = Upstream(Say(status=status), Say(status=status))
    with serving(upstream, policies=POLICIES) as front:
        record = front.decided()["optscale"]
        assert record["samples"]["failed"] == 0
        assert record["degraded"] is None
        assert len(upstream.drawn) >= record["samples"]["issued"] + 2 - record["samples"]["aborted"]
        front.idle()


def test_an_error_that_stays_is_told_in_the_upstreams_words():
    with serving(Upstream(default=lambda body: Say(status=500)), policies=POLICIES) as front:
        error = front.decided(status=500)["error"]
        assert error["message"] == "told to fail with 500"
        front.idle()


def test_too_many_requests_is_told_with_its_retry_after():
    told = {"retry-after": "0"}
    with serving(Upstream(default=lambda body: Say(status=429, headers=told)), policies=POLICIES) as front:
        answer = front.chat()
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "0")
        front.idle()


def test_a_request_that_is_wrong_is_not_tried_again():
    upstream = Upstream(default=lambda body: Say(status=400))
    with serving(upstream, policies={"optscale": ONE_BY_ONE}) as front:
        assert front.decided(status=400)["error"]["message"] == "told to fail with 400"
        assert len(upstream.drawn) <= 2, "only what was certain to be drawn at once"
        front.idle()


@pytest.mark.parametrize("raw", [b"{not json", b"[]", b'{"choices": []}', b'{"choices": [3]}', b""])
def test_malformed_answers_are_no_answers(raw: bytes):
    upstream = Upstream(Say(raw=raw), Say(raw=raw))
    with serving(upstream, policies=POLICIES) as front:
        record = front.decided()["optscale"]
        assert record["samples"]["failed"] == 2
        assert record["answer"] == "42"
        upstream.default = lambda body: Say(raw=raw)
        assert front.decided(status=502)["error"]["code"] == "bad_upstream_answer"
        front.idle()


def test_connections_that_break_off_are_made_again():
    upstream = Upstream(Say(breaks=True), Say(breaks=True))
    with serving(upstream, policies=POLICIES) as front:
        assert front.decided()["optscale"]["answer"] == "42"
        front.idle()


def test_a_plain_answer_that_breaks_off_breaks_off_for_the_client_too():
    with serving(Upstream(Say(breaks=True))) as front:
        with pytest.raises(httpx.RemoteProtocolError):
            front.chat("tiny")
        front.idle()


def test_killed_midway_it_decides_on_what_is_in_hand():
    upstream = Upstream(*[Say("42")] * 2, *[Say("41")] * 2, default=lambda body: Say(hold=True))
    with serving(upstream, policies={"optscale": {**VOTES, "concurrency": 4}}, limits={"retries": 1}) as front:

        def kill_when_held() -> None:
            upstream.wait(lambda u: len(u.drawn) >= 8)
            upstream.stop()

        with ThreadPool() as pool:
            killing = pool.submit(kill_when_held)
            answer = front.decided()
            killing.result()
        record = answer["optscale"]
        assert answer["choices"][0]["message"]["content"] == "42"
        assert record["samples"]["counted"] == 4
        assert record["samples"]["failed"] >= 3
        assert record["stop_message"] == "the upstreams failed; decided on what had come"
        assert record["degraded"].startswith("decided on what had come: ")
        assert answer["usage"]["completion_tokens"] >= 40
        front.idle()


def test_dead_before_any_answer_is_a_502():
    upstream = Upstream()
    with serving(upstream, policies=POLICIES, limits={"retries": 1}) as front:
        upstream.stop()
        for model in ("tiny", "tiny:optscale"):
            assert front.decided(status=502, model=model)["error"]["code"] == "upstream_unreachable"
        front.idle()


def test_another_upstream_takes_over_and_the_first_comes_back():
    first, second = Upstream(), Upstream()
    with serving(first, second, policies=POLICIES) as front:
        front.decided()
        first.stop()
        for _ in range(4):
            assert front.decided(model="tiny")["choices"][0]["message"]["content"] == "42"
        record = front.decided()["optscale"]
        assert record["degraded"] is None
        before = len(first.drawn)
        first.start()
        seen = front.gateway.upstreams.all[0]
        until(lambda: seen.well)
        for _ in range(4):
            front.chat("tiny")
        assert len(first.drawn) > before
        front.idle()


def test_the_one_with_least_to_do_is_asked():
    slow, quick = Upstream(default=lambda body: Say(hold=True)), Upstream()
    with serving(slow, quick, policies=POLICIES, limits={"read_s": PATIENCE}) as front, ThreadPool() as pool:
        held = [pool.submit(front.chat, "tiny") for _ in range(2)]
        slow.wait(lambda u: u.running >= 1)
        for _ in range(5):
            front.chat("tiny")
        assert len(quick.drawn) >= 5
        assert len(slow.drawn) <= 2
        slow.release()
        assert all(one.result().status_code == 200 for one in held)
        front.idle()


def test_what_others_ask_of_an_upstream_counts_as_well():
    busy, idle = Upstream(), Upstream()
    busy.others, busy.waiting = 5, 3
    with serving(busy, idle) as front:
        for _ in range(6):
            front.chat("tiny")
        assert (len(busy.drawn), len(idle.drawn)) == (0, 6)
        assert [upstream.others for upstream in front.gateway.upstreams.all] == [8, 0]
        assert not front.gateway.upstreams.busy
        idle.waiting = 1
        until(lambda: front.gateway.upstreams.busy)


def test_an_upstream_that_says_nothing_runs_into_its_timeout():
    upstream = Upstream(default=lambda body: Say(hold=True))
    with serving(upstream, policies=POLICIES, limits={"read_s": 0.1, "retries": 0}) as front:
        assert front.decided(status=504, model="tiny")["error"]["code"] == "upstream_timeout"
        assert front.decided(status=502)["error"]["code"] == "upstream_unreachable"
        upstream.wait(lambda u: u.running == 0)
        front.idle()


# --- time ---


def test_at_the_deadline_it_answers_with_what_it_has_and_cancels_the_rest():
    upstream = Upstream(Say("42"), Say("42", hold=True), Say("41"), default=lambda body: Say(hold=True))
    with serving(upstream, policies={"optscale": {**VOTES, "concurrency": 4}}) as front:
        answer = front.decided(optscale={"deadline_ms": 400})
        record = answer["optscale"]
        assert record["stop_reason"] == "deadline passed"
        assert record["samples"]["counted"] == 2, "also the one behind the draw that was still out"
        upstream.wait(lambda u: u.running == 0)
        assert upstream.cancelled == record["samples"]["aborted"]
        assert answer["usage"]["prompt_tokens"] == 7 * (2 + record["samples"]["aborted"])
        front.idle()


def test_a_deadline_before_any_answer_is_a_504():
    upstream = Upstream(default=lambda body: Say(hold=True))
    with serving(upstream, policies=POLICIES) as front:
        assert front.decided(status=504, optscale={"deadline_ms": 50})["error"]["code"] == "deadline_exceeded"
        upstream.wait(lambda u: u.running == 0)
        front.idle()


def test_what_is_not_needed_any_more_is_cancelled_at_once():
    upstream = Upstream(*[Say("42")] * 4, default=lambda body: Say(hold=True))
    with serving(upstream, policies={"optscale": {**VOTES, "concurrency": 6}}) as front:
        record = front.decided()["optscale"]
        assert record["stop_reason"] == "the rule is satisfied"
        upstream.wait(lambda u: u.running == 0)
        assert record["samples"]["aborted"] > 0
        assert 0 < upstream.cancelled <= record["samples"]["aborted"], (
            "some may have been cancelled before they were sent"
        )
        front.idle()


# --- the client ---


@pytest.mark.parametrize("model", ["tiny", "tiny:optscale"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_cancels_everything(model: str, stream: bool):
    upstream = Upstream(default=lambda body: Say(hold=True))
    with serving(upstream, policies=POLICIES) as front:
        wanted = 1 if model == "tiny" else 4

        async def leave() -> None:
            async with aiohttp.ClientSession() as session:
                body = {"model": model, "messages": [], "stream": stream}
                asking = asyncio.ensure_future(session.post(f"{front.url}/v1/chat/completions", json=body))
                await asyncio.to_thread(upstream.wait, lambda u: u.running >= wanted)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

        asyncio.run(leave())
        upstream.wait(lambda u: u.running == 0)
        assert upstream.cancelled >= wanted
        front.idle()


def test_a_client_that_goes_away_in_the_middle_of_a_stream_cancels_it():
    upstream = Upstream(default=lambda body: Say("4242", pauses=True))
    with serving(upstream, policies={"optscale": {"max_samples": 1}}) as front:
        body = {"model": "tiny:optscale", "messages": [], "stream": True}
        with front.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            next(answer.iter_lines())
        upstream.wait(lambda u: u.running == 0)
        assert upstream.cancelled == 1
        front.idle()


def test_comments_keep_a_stream_alive_and_a_late_failure_is_an_event():
    upstream = Upstream(default=lambda body: Say(hold=True))
    with serving(upstream, policies=POLICIES, limits={"keepalive_s": 0.02}) as front:
        body = {"model": "tiny:optscale", "stream": True, "optscale": {"deadline_ms": 200, "progress": True}}
        with front.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert answer.status_code == 200
        assert lines[0] == ": 0 answers of at most 16"
        assert lines[1] == "event: optscale"
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert lines[-1] == "data: [DONE]"
        front.idle()


def test_an_early_failure_of_a_stream_has_its_status():
    with serving(Upstream(default=lambda body: Say(status=404)), policies=POLICIES) as front:
        assert front.decided(status=404, stream=True)["error"]["message"] == "told to fail with 404"


# --- load ---


def test_more_requests_than_are_taken_get_429_and_a_time_to_come_back():
    upstream = Upstream(default=lambda body: Say(hold=True))
    with serving(upstream, limits={"requests": 2}) as front, ThreadPool() as pool:
        held = [pool.submit(front.chat, "tiny") for _ in range(2)]
        upstream.wait(lambda u: u.running == 2)
        answer = front.chat("tiny")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["code"] == "too_many_requests"
        upstream.release()
        assert [one.result().status_code for one in held] == [200, 200]
        front.idle()


def test_500_requests_with_a_budget_over_the_permits_all_end():
    """Budget 64 on 32 permits: a peer hangs at the third request."""
    upstream = Upstream(default=rising())
    policy = {"rule": "fixed", "settings": {"samples": 20}, "max_samples": 64, "overissue": "all"}
    limits = {"concurrency": 32, "requests": 500}
    quick = {"rule": "fixed", "settings": {"samples": 3}, "max_samples": 64, "concurrency": 8}
    with serving(upstream, policies={"optscale": policy, "quick": quick}, limits=limits) as front:

        async def flood(model: str, count: int) -> list[dict[str, Any]]:
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def ask() -> dict[str, Any]:
                    body = {"model": model, "messages": []}
                    async with session.post(f"{front.url}/v1/chat/completions", json=body) as answer:
                        found: dict[str, Any] = await answer.json()
                        assert answer.status == 200, found
                        return found

                return await asyncio.gather(*(ask() for _ in range(count)))

        for answer in asyncio.run(flood("tiny:optscale", 10)):
            assert answer["optscale"]["samples"]["counted"] == 20
        found = asyncio.run(flood("tiny:quick", 500))
        assert all(answer["optscale"]["samples"]["counted"] == 3 for answer in found)
        assert upstream.most_running <= 64, "32, and those whose end the upstream has not seen yet"
        front.idle()


def test_the_token_budget_binds():
    upstream = Upstream(default=rising())
    with serving(upstream, policies={"optscale": ONE_BY_ONE}) as front:
        answer = front.decided(optscale={"max_tokens_total": 60})
        assert answer["usage"]["total_tokens"] <= 60
        assert answer["optscale"]["samples"]["counted"] == 3
        assert answer["optscale"]["stop_message"] == "the token budget is spent"


# --- answers that are none ---


def test_answers_that_were_cut_off_are_not_given():
    upstream = Upstream(*[Say("4", finish="length")] * 3, default=lambda body: Say("42"))
    with serving(upstream, policies=POLICIES) as front:
        answer = front.decided(optscale={"return": "trace"})
        assert answer["choices"][0]["message"]["content"] == "42"
        assert [line["rejected"] for line in answer["optscale"]["trace"]][:3] == ["cut off"] * 3


def test_where_every_answer_is_rejected_the_first_is_given_and_it_says_so():
    upstream = Upstream(default=lambda body: Say("4", finish="length"))
    with serving(upstream, policies=POLICIES) as front:
        answer = front.decided(optscale={"max_samples": 3})
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["optscale"]["degraded"] == "every answer was rejected; the first is given (cut off)"


# --- the verifier ---


def reward_model(scores: dict[str, Any]) -> Upstream:
    """A reward model on /classify that scores by the answer's text."""

    def classify(body: dict[str, Any]) -> Say:
        text = body["messages"][-1]["content"]
        return Say(raw=json.dumps({"data": [{"probs": [scores[text]]}]}).encode())

    return Upstream(default=classify)


BEST = {"rule": "threshold", "settings": {"threshold": 0.9}, "max_samples": 16, "verifier": "rm", "overissue": "none"}


def scored(upstream: Upstream, scorer: Upstream, **policy: Any) -> Any:
    scorer.start()
    verifiers = {"rm": {"type": "reward", "url": scorer.url, "timeout_s": 5}}
    return serving(upstream, verifiers=verifiers, policies={"optscale": {**BEST, **policy}})


def test_a_reward_model_picks_and_stops():
    upstream, scorer = Upstream(*[Say("41")] * 3, Say("42")), reward_model({"41": 0.2, "42": 0.95})
    with scored(upstream, scorer) as front:
        answer = front.decided(question="6 x 7?")
        record = answer["optscale"]
        assert answer["choices"][0]["message"]["content"] == "42"
        assert record["samples"]["counted"] == record["samples"]["scored"] == 4
        assert scorer.seen[0].path == "/classify"
        assert scorer.seen[0].body["messages"][0] == {"role": "user", "content": "6 x 7?"}
        front.idle()
    scorer.stop()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "high"])
def test_a_verifier_that_gives_no_number_degrades_to_votes(value: Any):
    upstream, scorer = Upstream(default=lambda body: Say("42")), reward_model({"42": value})
    with scored(upstream, scorer) as front:
        record = front.decided()["optscale"]
        assert record["answer"] == "42"
        assert record["samples"]["scored"] == 0
        assert record["verifier"]["error"]
        assert record["degraded"].endswith("decided by votes")
        text = front.http.get("/metrics").text
        assert 'suffice_gateway_verifier_failures_total{policy="optscale"} 1.0' in text
        front.idle()
    scorer.stop()


def test_a_verifier_that_says_nothing_runs_into_its_timeout():
    upstream, scorer = Upstream(default=lambda body: Say("42")), Upstream(default=lambda body: Say(hold=True)).start()
    verifiers = {"rm": {"type": "reward", "url": scorer.url, "timeout_s": 0.05}}
    with serving(upstream, verifiers=verifiers, policies={"optscale": BEST}) as front:
        record = front.decided()["optscale"]
        assert record["degraded"].endswith("decided by votes")
        scorer.wait(lambda u: u.running == 0)
        front.idle()
    scorer.stop()


def test_what_is_cancelled_while_it_is_being_scored_was_paid_for_all_the_same():
    upstream = Upstream(Say("41"), default=lambda body: Say("42"))
    good = b'{"data": [{"probs": [0.95]}]}'
    scorer = Upstream().start()

    def score(body: dict[str, Any]) -> Say:
        if body["messages"][-1]["content"] == "42":
            return Say(hold=True)
        return Say(raw=good, seconds=0.3)  # by then the others have come, and are being scored

    scorer.default = score
    verifiers = {"rm": {"type": "reward", "url": scorer.url}}
    with serving(upstream, verifiers=verifiers, policies={"optscale": {**BEST, "overissue": "all"}}) as front:
        answer = front.decided(optscale={"max_samples": 4})
        samples = answer["optscale"]["samples"]
        assert (samples["counted"], samples["aborted"]) == (1, 3)
        assert answer["usage"]["completion_tokens"] == 40, "four answers came, though one counts"
        front.idle()
    scorer.stop()


def test_a_verifier_that_is_down_does_as_configured():
    upstream, scorer = Upstream(*[Say("41")], default=lambda body: Say("42")), reward_model({})
    with scored(upstream, scorer) as front:
        scorer.stop()
        by_votes = front.decided(optscale={"on_verifier_error": "votes"})
        assert by_votes["choices"][0]["message"]["content"] == "42"
        upstream.script = [Say("41")]
        first = front.decided(optscale={"on_verifier_error": "first"})
        assert first["choices"][0]["message"]["content"] == "41"
        assert first["optscale"]["degraded"].endswith("the first answer was given")
        error = front.decided(status=502, optscale={"on_verifier_error": "fail"})["error"]
        assert error["code"] == "verifier_failed"
        front.idle()


def until(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.005)


def ThreadPool() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(8)


def test_the_front_is_idle_only_when_it_is():
    upstream = Upstream(default=lambda body: Say(hold=True))
    with serving(upstream, policies=POLICIES) as front, ThreadPool() as pool:
        held = pool.submit(front.chat)
        upstream.wait(lambda u: u.running >= 1)
        assert Front._held(front)
        upstream.release()
        assert held.result().status_code == 200
        front.idle()
