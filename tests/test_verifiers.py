"""Verifiers: the numbers they read out of answers and of servers, and that they never fail silently."""

import asyncio
import math
import re
from collections.abc import Mapping
from typing import Any

import pytest

from suffice.adapters.verifiers import (
    Conforms,
    Function,
    Judge,
    LogProbability,
    Matches,
    Question,
    Reward,
    Verifier,
    VerifierFailed,
    p_yes,
)

ASKED = Question.of({"messages": [{"role": "system", "content": "add"}, {"role": "user", "content": "1+2"}]})


def said(text: str, *logprobs: float) -> dict[str, Any]:
    content = [{"token": "x", "logprob": value} for value in logprobs]
    return {"message": {"content": text}, "logprobs": {"content": content} if logprobs else None}


def score(verifier: Verifier, choice: Mapping[str, Any]) -> float:
    return asyncio.run(verifier.score(ASKED, choice))


class Server:
    """Answers in turn, and keeps what it was asked."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, path: str, body: Mapping[str, Any]) -> Any:
        self.asked.append((path, dict(body)))
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def test_the_question_is_what_users_said():
    assert ASKED.text == "1+2"
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert Question.of({"messages": [{"role": "user", "content": parts}]}).text == "look"
    assert Question.of({"prompt": "1+2"}).messages == [{"role": "user", "content": "1+2"}]


def test_log_probability_is_the_geometric_mean_whatever_the_length():
    assert score(LogProbability(), said("a", -0.5, -1.5)) == pytest.approx(math.exp(-1))
    assert score(LogProbability(), said("a", *[-1.0] * 50)) == pytest.approx(math.exp(-1))
    legacy = {"text": "a", "logprobs": {"token_logprobs": [None, -2.0]}}
    assert score(LogProbability(), legacy) == pytest.approx(math.exp(-2))
    with pytest.raises(VerifierFailed, match="no log-probabilities"):
        score(LogProbability(), said("a"))


def test_checks_are_one_or_zero():
    assert score(Matches(re.compile(r"\d+")), said("42")) == 1.0
    assert score(Matches(re.compile(r"\d+")), said("none")) == 0.0
    schema = Conforms({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}})
    assert [score(schema, said(t)) for t in ('{"a": 1}', '{"a": "1"}', "{}", "{broken")] == [1.0, 0.0, 0.0, 0.0]


def test_a_callable_scores_in_either_colour():
    async def later(question: str, answer: str) -> float:
        return len(question) + len(answer)

    assert score(Function(lambda question, answer: len(answer)), said("four")) == 4.0
    assert score(Function(later), said("four")) == 7.0
    with pytest.raises(VerifierFailed, match="ZeroDivisionError"):
        score(Function(lambda question, answer: 1 / 0), said("a"))
    with pytest.raises(VerifierFailed, match="no finite number"):
        score(Function(lambda question, answer: float("nan")), said("a"))


def test_a_classifier_is_asked_with_the_conversation():
    server = Server({"data": [{"probs": [0.2, 0.8]}]})
    assert score(Reward(server, model="rm"), said("3")) == 0.8
    path, body = server.asked[0]
    assert path == "/classify"
    assert body["model"] == "rm"
    assert body["messages"] == [*ASKED.messages, {"role": "assistant", "content": "3"}]
    assert score(Reward(server, label=0), said("3")) == 0.2
    score(Reward(server, raw=True, template="Q {prompt} A {answer}"), said("3"))
    assert server.asked[-1][1] == {"use_activation": False, "input": "Q 1+2 A 3"}


def test_a_cross_encoder_gets_question_and_answer():
    server = Server({"data": [{"score": 0.7}]})
    assert score(Reward(server, path="score"), said("3")) == 0.7
    assert server.asked == [("/score", {"text_1": "1+2", "text_2": "3"})]


@pytest.mark.parametrize(
    ("aggregate", "value"), [("min", 0.5), ("prod", 0.5 * 0.8 * 0.9), ("mean", 2.2 / 3), ("last", 0.9)]
)
def test_steps_are_folded(aggregate: Any, value: float):
    server = Server({"data": [{"data": [[0.2, 0.8], [0.5, 0.5], [0.1, 0.9]]}]})
    found = score(Reward(server, path="pooling", aggregate=aggregate, step_separator="<s>"), said("a\n\nb\n\nc"))
    assert found == pytest.approx(value)
    assert server.asked[0][1]["messages"][-1]["content"] == "a<s>b<s>c<s>"


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"data": []},
        {"data": [{"probs": []}]},
        {"data": [{"probs": ["high"]}]},
        {"data": [{"probs": [math.nan]}]},
        [],
    ],
)
def test_a_reply_of_another_shape_is_a_failure(reply: Any):
    with pytest.raises(VerifierFailed):
        score(Reward(Server(reply)), said("3"))


# --- judges ---


def verdict(yes: float, text: str = "Yes") -> dict[str, Any]:
    top = [{"token": " Yes", "logprob": math.log(yes * 0.9)}, {"token": "no", "logprob": math.log((1 - yes) * 0.9)}]
    top.append({"token": "Maybe", "logprob": math.log(0.1)})
    thought = {"token": "Hm", "logprob": -1.0, "top_logprobs": []}
    content = [thought, {"token": text, "logprob": math.log(0.9), "top_logprobs": top}, {"token": ".", "logprob": 0.0}]
    return {"choices": [{"logprobs": {"content": content}}]}


def test_p_yes_is_among_yes_and_no():
    assert p_yes(verdict(0.8)["choices"][0]["logprobs"]["content"]) == pytest.approx(0.8)
    assert p_yes([{"token": "no", "logprob": -0.1}]) == 0.0


def test_a_judge_is_asked_once():
    server = Server(verdict(0.7))
    assert score(Judge(server, "judge", "{prompt} = {answer}?"), said("3")) == pytest.approx(0.7)
    assert server.asked[0][1]["messages"] == [{"role": "user", "content": "1+2 = 3?"}]
    assert len(server.asked) == 1


def test_critiques_end_when_they_agree():
    agreed = Server(verdict(0.9))
    assert score(Judge(agreed, "judge", "?", critiques=16), said("3")) == pytest.approx(0.9)
    assert len(agreed.asked) < 8
    torn = Server(*[verdict(0.9), verdict(0.1)] * 8)
    assert score(Judge(torn, "judge", "?", critiques=8), said("3")) == pytest.approx(0.5)
    assert len(torn.asked) == 8


@pytest.mark.parametrize("reply", [{}, {"choices": [{"logprobs": None}]}, {"choices": [{"logprobs": {"content": []}}]}])
def test_a_judge_that_says_neither_is_a_failure(reply: Any):
    """A judge whose verdict is hidden by a reasoning parser must not become a silent 0.5."""
    with pytest.raises(VerifierFailed):
        score(Judge(Server(reply), "judge", "?"), said("3"))
