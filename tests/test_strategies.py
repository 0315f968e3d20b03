"""Strategies: what they ask of a server, which step or fork they take, what they elect; and the gateway with them."""

import asyncio
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream import Say, Upstream, serving

from suffice.adapters.continuation import NotContinued, Prefix, total
from suffice.adapters.segment_tree import SegmentTree
from suffice.adapters.step_search import StepSearch
from suffice.adapters.strategies import FEWEST, MOST, Found, nonsense, perturbed
from suffice.adapters.subgroups import elected, step_confidence

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "1+2+3=?"}], "max_tokens": 40, "stop": "!"}


def test_nonsense_differs_by_number_and_only_by_it():
    assert nonsense(1) == nonsense(1) != nonsense(2)
    assert all(FEWEST <= len(nonsense(number).split()) <= MOST for number in range(50))


def test_only_the_last_question_is_perturbed():
    system = {"role": "system", "content": "add"}
    body: dict[str, Any] = {
        "messages": [system, {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}],
        "temperature": 0.5,
    }
    again = {"role": "user", "content": "2+2", "name": "me"}
    found = perturbed({**body, "messages": [*body["messages"], again]}, 3)
    assert found["messages"][:-1] == body["messages"]
    assert found["messages"][-1] == {"role": "user", "content": f"{nonsense(3)} 2+2", "name": "me"}
    assert found["temperature"] == 0.5
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    shown = perturbed({"messages": [{"role": "user", "content": [image]}]}, 3)
    assert shown["messages"][0]["content"] == [{"type": "text", "text": nonsense(3)}, image]
    assert perturbed({"prompt": "2+2"}, 3) == {"prompt": f"{nonsense(3)} 2+2"}
    assert perturbed({"prompt": [1, 2]}, 3) == {"prompt": [1, 2]}


# --- continuing ---


def chosen(text: str, finish: str = "stop", stopped_by: str | None = None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"index": 0, "message": message, "finish_reason": finish, "stop_reason": stopped_by, **more}


def response(*choices: Mapping[str, Any], tokens: int = 4) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    return {"id": "c", "choices": list(choices), "usage": usage}


def test_a_chat_is_continued_by_what_the_assistant_said():
    prefix = Prefix().then({}, chosen("1+2=3;", "length"), 6)
    asked = prefix.request(BODY, n=2)
    assert asked["messages"] == [*BODY["messages"], {"role": "assistant", "content": "1+2=3;"}]
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
    assert (asked["max_tokens"], asked["n"]) == (34, 2)
    assert Prefix().request(BODY) == BODY


def test_a_completion_is_continued_by_a_longer_prompt():
    prefix = Prefix().then({}, {"text": "1+2=3;", "finish_reason": "length"}, 6)
    assert prefix.request({"prompt": "1+2="}, max_tokens=9) == {"prompt": "1+2=1+2=3;", "max_tokens": 9}
    assert prefix.request({"prompt": "", "max_completion_tokens": 8})["max_completion_tokens"] == 2


def test_pieces_make_one_choice():
    one = chosen("ab", "length", logprobs={"content": [{"token": "ab", "logprob": -1.0}]})
    two = chosen("c", "stop", logprobs={"content": [{"token": "c", "logprob": -2.0}]})
    whole = Prefix().then(response(one), one, 2).then(response(two), two, 1)
    choice = whole.response({"completion_tokens": 3})["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "abc"}
    assert [token["logprob"] for token in choice["logprobs"]["content"]] == [-1.0, -2.0]
    assert (choice["finish_reason"], whole.tokens) == ("stop", 3)


def test_usage_adds_up():
    one: dict[str, Any] = {"a": 1, "of": {"b": 2, "c": None}, "d": None}
    assert total(one, {"a": 2, "of": {"b": 3}, "d": 4}) == {"a": 3, "of": {"b": 5, "c": None}, "d": 4}


# --- steps ---


class Server:
    """Answers requests with scripted choices, and remembers them."""

    def __init__(self, *script: dict[str, Any]) -> None:
        self.script, self.asked = list(script), list[Mapping[str, Any]]()

    async def __call__(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        return self.script.pop(0)


async def by_length(choice: Mapping[str, Any]) -> float:
    return float(len(choice["message"]["content"]))


def drawn(strategy: StepSearch | SegmentTree, server: Server, number: int = 0, score: Any = by_length) -> Found:
    return asyncio.run(strategy.draw(number, BODY, server, score))


def test_the_best_candidate_of_each_step_is_gone_on_from():
    server = Server(
        response(chosen("1", "stop", ";"), chosen("1+2", "stop", ";"), tokens=4),
        response(chosen("=6"), chosen("=", "stop", ";"), tokens=3),
    )
    found = drawn(StepSearch(2, ";"), server)
    first, second = server.asked
    assert (first["n"], first["stop"], first["max_tokens"]) == (2, ["!", ";"], 40)
    assert second["messages"][-1]["content"] == "1+2;"
    assert second["max_tokens"] == 38
    choice = found.response["choices"][0]
    assert choice["message"]["content"] == "1+2;=6", "the other is as long, but comes second"
    assert (choice["finish_reason"], found.score) == ("stop", 6.0)
    assert found.response["usage"] == {"prompt_tokens": 14, "completion_tokens": 7, "total_tokens": 21}


def test_candidates_stop_at_one_that_is_good_enough():
    server = Server(response(chosen("a", "stop", ";")), response(chosen("abc", "stop", ";")), response(chosen("done")))
    drawn(StepSearch(4, ";", rule="threshold", settings={"threshold": 4.0}), server)
    assert [asked["n"] for asked in server.asked] == [1, 1, 1]
    assert "messages" in server.asked[2]
    assert server.asked[2]["messages"][-1]["content"] == "abc;"


def test_greedily_there_is_one_candidate():
    server = Server(response(chosen("1", "stop", ";")), response(chosen("2")))
    found = asyncio.run(StepSearch(4, ";").draw(0, {**BODY, "temperature": 0}, server, by_length))
    assert [asked["n"] for asked in server.asked] == [1, 1], "vLLM refuses more"
    assert found.response["choices"][0]["message"]["content"] == "1;2"


def test_the_last_step_goes_on_to_the_end():
    server = Server(response(chosen("a", "stop", ";")), response(chosen("b;c;d")))
    found = drawn(StepSearch(1, ";", depth=2), server)
    assert server.asked[1]["stop"] == "!"
    assert found.response["choices"][0]["message"]["content"] == "a;b;c;d"


def test_without_scores_the_first_candidate_is_taken():
    async def none(choice: Mapping[str, Any]) -> None:
        return None

    for search in (StepSearch(2, ";"), StepSearch(2, ";", rule="threshold", settings={"threshold": 0.5})):
        found = drawn(search, Server(response(chosen("a"), chosen("bc"))), score=none)
        assert found.response["choices"][0]["message"]["content"] == "a"
        assert found.score is None


def test_a_server_that_does_not_say_why_it_stopped_is_refused():
    said = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    with pytest.raises(NotContinued, match="which stop string"):
        drawn(StepSearch(1, ";"), Server(response(said)))


def test_a_template_that_drops_separators_is_refused():
    server = Server(response(chosen("a", "stop", ";")), response(chosen("", "stop", ";")))
    with pytest.raises(NotContinued, match="drops the separator"):
        drawn(StepSearch(1, ";"), server)


# --- segments ---


def segment(text: str, finish: str = "length", logprob: float = -0.1) -> dict[str, Any]:
    return response(chosen(text, finish, logprobs={"content": [{"token": text, "logprob": logprob}]}), tokens=10)


def test_paths_go_on_by_segments_and_fork_where_the_model_was_unsure():
    tree = SegmentTree(10, roots=1)
    first = Server(segment("aa"), segment("bb", logprob=-2.0), segment("cc", "stop"))
    assert drawn(tree, first).response["choices"][0]["message"]["content"] == "aabbcc"
    assert [asked["max_tokens"] for asked in first.asked] == [10, 10, 10]
    second = Server(segment("dd", "stop"))
    found = drawn(tree, second, 1)
    assert second.asked[0]["messages"][-1]["content"] == "aa", "bb was the segment with the largest doubt"
    assert found.response["choices"][0]["message"]["content"] == "aadd"
    assert found.response["usage"]["completion_tokens"] == 10
    assert tree.shared == 10


def test_the_first_paths_begin_at_the_question():
    tree = SegmentTree(10, roots=2)
    servers = [Server(segment("aa", logprob=-9.0), segment("bb", "stop")) for _ in range(2)]
    for number, server in enumerate(servers):
        drawn(tree, server, number)
        assert server.asked[0]["messages"] == BODY["messages"]


def test_a_path_that_is_to_fork_waits_for_one_to_fork_from():
    tree, asked, go_on = SegmentTree(10, roots=1), list[str](), asyncio.Event()

    async def ask(body: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(body["messages"][-1]["content"])
        if len(asked) == 1:
            await go_on.wait()
        return segment("aa" if len(asked) == 1 else "bb", "length" if len(asked) == 1 else "stop")

    async def both() -> None:
        paths = [asyncio.ensure_future(tree.draw(number, BODY, ask, by_length)) for number in (0, 1)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(asked) == 1
        go_on.set()
        await asyncio.gather(*paths)

    asyncio.run(both())
    assert len(asked) == 3

    async def broken(body: Mapping[str, Any]) -> dict[str, Any]:
        raise ConnectionError

    async def neither() -> None:
        tree = SegmentTree(10, roots=1)
        paths = [tree.draw(number, BODY, broken, by_length) for number in (0, 1)]
        found = await asyncio.gather(*paths, return_exceptions=True)
        assert all(isinstance(one, ConnectionError) for one in found), "it waits for none that does not come"

    asyncio.run(neither())


def test_paths_end_at_the_answer_astray_and_at_the_limit():
    answered = SegmentTree(10, answered=lambda text: "42" in text)
    found = drawn(answered, Server(segment("it is 42 "))).response["choices"][0]
    assert found["finish_reason"] == "stop", "the answer is there"
    astray = SegmentTree(10, astray=lambda text: text.endswith("hmm hmm"))
    assert drawn(astray, Server(segment("hmm hmm"))).response["choices"][0]["finish_reason"] == "length"
    limit = Server(segment("a"), segment("b"), segment("c"), segment("d"))
    assert drawn(SegmentTree(10), limit).response["choices"][0]["finish_reason"] == "length"
    assert [asked["max_tokens"] for asked in limit.asked] == [10] * 4, "40 in all"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_a_tree_pays_for_no_segment_twice(lengths: list[int]):
    tree, paid = SegmentTree(10, roots=1, depth=8), 0
    for number, length in enumerate(lengths):
        server = Server(*[segment("x", logprob=-0.1 * k) for k in range(length)], segment("y", "stop"))
        usage = drawn(tree, server, number).response["usage"]
        paid += usage["completion_tokens"]
        assert usage["completion_tokens"] == 10 * len(server.asked)
    assert paid <= sum(10 * (length + 1) for length in lengths)


# --- subgroups ---


def confident(text: str, alternatives: list[float]) -> dict[str, Any]:
    top = [{"token": str(k), "logprob": value} for k, value in enumerate(alternatives)]
    return {"token": text, "logprob": alternatives[0], "top_logprobs": top}


def test_confidence_is_the_mean_over_steps_of_the_mean_over_tokens():
    sure, unsure = [-0.1, -5.9], [-1.0, -1.0]
    content = [confident("a", sure), confident(";", sure), confident("b", unsure)]
    assert step_confidence({"logprobs": {"content": content}}, ";") == pytest.approx((3.0 + 1.0) / 2)
    assert step_confidence({"logprobs": None}) is None
    text = {"tokens": ["a", ";", "b"], "top_logprobs": [{"a": -0.1, "x": -5.9}, {";": -0.1, "x": -5.9}, {"b": -1.0}]}
    assert step_confidence({"logprobs": text}, ";") == pytest.approx((3.0 + 1.0) / 2)


def test_confident_votes_outweigh_many():
    answers = ["41", "41", "41", "42", "42"]
    assert next(iter(elected(answers, [1.0] * 5))) == "41"
    assert next(iter(elected(answers, [1.0, 1.0, 1.0, 9.0, 9.0]))) == "42"
    assert elected([None, None], [1.0, 1.0]) == {}


@given(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=12), st.integers(1, 40))
def test_every_subgroup_elects_one_of_its_own(answers: list[str | None], groups: int):
    votes = elected(answers, [1.0] * len(answers), groups, share=1.0)
    assert sum(votes.values()) == (groups if any(answers) else 0)
    assert set(votes) <= set(answers) - {None}
    if votes:  # the whole is the only subgroup
        assert len(votes) == 1


# --- the gateway ---

SUMS = ["1+2=3;", "+3=6;"]


def adder(body: dict[str, Any]) -> Say:
    """Writes a sum step by step, wrong in the first candidate; ends where the separator is no stop string."""
    said = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else ""
    rest = "".join(SUMS).removeprefix(said)
    if ";" not in body.get("stop", ()):
        return Say(rest)
    step = rest.split(";")[0]
    return Say(choices=["oops", *[step] * (body["n"] - 1)], stop_reason=";" if rest != SUMS[1] else None, tokens=20)


VERIFIER = {"right": {"type": "regex", "pattern": r"^1\+2=3(;\+3=6)?;?$"}}
FIXED = {"rule": "fixed", "settings": {"samples": 2}, "max_samples": 2, "extract": "number"}


@pytest.mark.parametrize(("strategy", "calls"), [("pairs", 4), ("careful", 8)])
def test_the_gateway_draws_trees_of_steps(strategy: str, calls: int):
    upstream = Upstream(default=adder)
    config: dict[str, Any] = {
        "strategies": {
            "pairs": {"type": "dvts", "width": 2, "separator": ";"},
            "careful": {"type": "slate", "width": 4, "separator": ";", "enough": 1.0},
        },
        "verifiers": VERIFIER,
        "policies": {"optscale": {**FIXED, "strategy": strategy, "verifier": "right"}},
    }
    if strategy == "careful":  # one candidate at a time: a wrong one, then a right one
        turns = itertools.cycle([slice(0, 1), slice(1, 2)])

        def one(body: dict[str, Any]) -> Say:
            say = adder({**body, "n": 2})
            return replace(say, choices=(say.choices or [])[next(turns)])

        upstream.default = one
    with serving(upstream, **config) as front:
        answer = front.decided(question="1+2+3=?", optscale={"concurrency": 1})
        record = answer["optscale"]
        assert answer["choices"][0]["message"]["content"] == "1+2=3;+3=6"
        assert (record["strategy"], record["calls"]) == (strategy, calls)
        assert record["samples"]["counted"] == 2
        assert answer["usage"]["completion_tokens"] == 20 * len(upstream.drawn)
        front.idle()


def test_the_gateway_grows_one_tree_of_segments():
    pieces = itertools.cycle(["so ", "it is ", "42"])

    def say(body: dict[str, Any]) -> Say:
        text = next(pieces)
        return Say(text, finish="stop" if text == "42" else "length", logprob=-1.0)

    upstream = Upstream(default=say)
    policies = {"optscale": {**FIXED, "strategy": "short"}}
    with serving(upstream, strategies={"short": {"type": "treepo", "segment": 10}}, policies=policies) as front:
        answer = front.decided(optscale={"concurrency": 1}, max_tokens=64)
        assert answer["choices"][0]["message"]["content"] == "so it is 42"
        assert answer["choices"][0]["logprobs"] is None
        assert answer["optscale"]["calls"] == 6
        assert [seen.body["max_tokens"] for seen in upstream.drawn] == [10] * 6
        assert all(seen.body["logprobs"] for seen in upstream.drawn)
        front.idle()


def test_the_gateway_elects_by_confidence():
    says = itertools.cycle([Say("41", logprob=-1.0), Say("41", logprob=-1.0), Say("42", logprob=-9.0)])

    def say(body: dict[str, Any]) -> Say:
        assert body["top_logprobs"] == 5
        return next(says)

    upstream = Upstream(default=say)
    policies = {"optscale": {**FIXED, "settings": {"samples": 3}, "max_samples": 3, "strategy": "scope"}}
    with serving(upstream, policies=policies) as front:
        answer = front.decided(optscale={"concurrency": 1})
        record = answer["optscale"]
        assert answer["choices"][0]["message"]["content"] == "42"
        assert next(iter(record["elected"])) == record["answer"] == "42"
        assert sum(record["elected"].values()) == 16
        assert answer["choices"][0]["logprobs"] is None
        shown = front.decided(optscale={"concurrency": 1}, logprobs=True)["choices"][0]["logprobs"]["content"][0]
        assert shown["top_logprobs"] == [], "no alternatives were asked for"


TOP = [{"4": -0.1, "5": -2.0, "6": -3.0}, {"7": -4.0, "2": -0.5, "3": -1.0, "1": -2.5}]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({}, None),
        ({"logprobs": 0}, [{"4": -0.1}, {"7": -4.0}]),
        ({"logprobs": 1}, [{"4": -0.1}, {"7": -4.0, "2": -0.5}]),
        ({"logprobs": 9}, TOP),
        ({"logprobs": -1}, TOP),
    ],
)
def test_a_completion_shows_the_alternatives_that_were_asked_for(asked: dict[str, int], shown: Any):
    logprobs = {"tokens": ["4", "7"], "token_logprobs": [-0.1, -4.0], "top_logprobs": TOP, "text_offset": [0, 1]}
    choice = {"index": 0, "text": "47", "finish_reason": "stop", "logprobs": logprobs}
    raw = json.dumps({"object": "text_completion", "model": "tiny", "choices": [choice], "usage": {}}).encode()
    upstream = Upstream(default=lambda body: Say(raw=raw))
    with serving(upstream, policies={"optscale": {**FIXED, "strategy": "scope"}}) as front:
        answer = front.http.post("/v1/completions", json={"model": "tiny:optscale", "prompt": "?", **asked}).json()
        assert {seen.body["logprobs"] for seen in upstream.drawn} == {{9: 9, -1: -1}.get(asked.get("logprobs", 0), 5)}
        found = answer["choices"][0]["logprobs"]
        assert (None if found is None else found["top_logprobs"]) == shown


def test_what_cannot_be_made_piece_by_piece_is_refused():
    with serving(Upstream(), policies={"optscale": FIXED}) as front:
        asked = {"strategy": "treepo"}
        refused: list[dict[str, Any]] = [{"tools": [{}]}, {"response_format": {"type": "json_object"}}]
        for more in refused:
            assert front.decided(status=400, optscale=asked, **more)["error"]["param"] in more
        error = front.decided(status=400, optscale={"strategy": "dvts"})["error"]
        assert error["param"] == "optscale.verifier"
        assert front.decided(status=400, optscale={"strategy": "magic"})["error"]["param"] == "optscale.strategy"


def test_a_server_that_cannot_continue_is_told_as_such():
    raw = b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}'
    upstream = Upstream(default=lambda body: Say(raw=raw))
    policies = {"optscale": {**FIXED, "strategy": "dvts", "verifier": "right"}}
    with serving(upstream, verifiers=VERIFIER, policies=policies) as front:
        assert "which stop string" in front.decided(status=502)["error"]["message"]
        front.idle()
