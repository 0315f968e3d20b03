"""Verifiers: how good an answer is, as a number. Each has one method, ``score(question, choice)``.

    Verifier
    ├── LogProbability   exp of the mean log-probability of the answer's tokens: no further model call
    ├── Matches          1 or 0: a regular expression is found
    ├── Conforms         1 or 0: the text is JSON that a schema allows
    ├── Function         a Python callable
    ├── Reward           a reward model behind vLLM's /classify, /score or /pooling; of single answers or of their steps
    └── Judge            a model that is asked whether the answer is right: P(yes) over a few critiques

Servers are spoken to through ``post(path, body) -> JSON``, which the caller gives: retries, keys and connections are
its own. A score that is no finite number, and an answer of another shape than expected, raise VerifierFailed: a
verifier that fails silently is worse than none.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from suffice.optimizer import Draw, Sampling

Post = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
SURE = 0.95  # P(the critiques' majority is right) at which no more are asked for
ALTERNATIVES = 20  # log-probabilities per token that a judge is asked for: what vLLM gives at most by default


class VerifierFailed(Exception):
    """There is no score; the message says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked: the request's messages or its prompt."""

    messages: Sequence[Mapping[str, Any]]
    text: str

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Question:
        """From the body of a chat or of a completion."""
        messages = request.get("messages")
        if isinstance(messages, list):
            users = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
            return cls(messages, "\n".join(_plain(m.get("content")) for m in users))
        text = _plain(request.get("prompt"))
        return cls([{"role": "user", "content": text}], text)


class Verifier(Protocol):
    """Scores answers. ``logprobs``: whether the answer has to come with its tokens' log-probabilities."""

    logprobs: ClassVar[bool]

    async def score(self, question: Question, choice: Mapping[str, Any]) -> float:
        """The score of a choice of a response; higher is better. Raises VerifierFailed."""
        ...


def text_of(choice: Mapping[str, Any]) -> str:
    """What a choice of a chat or a completion says."""
    message = choice.get("message")
    return _plain(message.get("content") if isinstance(message, Mapping) else choice.get("text"))


def _plain(content: Any) -> str:
    """The text of a message's content; images and sounds are left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(p["text"]) for p in content if isinstance(p, Mapping) and p.get("type") == "text")
    return ""


# --- without another model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogProbability:
    """exp of the mean log-probability of the answer's tokens, in (0, 1]: the geometric mean of their probabilities.

    Normalised by length, since sums prefer short answers.
    """

    logprobs: ClassVar[bool] = True

    async def score(self, question: Question, choice: Mapping[str, Any]) -> float:
        values = token_logprobs(choice)
        if not values:
            raise VerifierFailed("the answer has no log-probabilities")
        return checked(math.exp(sum(values) / len(values)))


def token_logprobs(choice: Mapping[str, Any]) -> list[float]:
    """The log-probability of each token, from a chat's or a completion's form."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        return []
    if isinstance(content := logprobs.get("content"), list):
        return [float(entry["logprob"]) for entry in content]
    values = logprobs.get("token_logprobs")
    return [float(value) for value in values if value is not None] if isinstance(values, list) else []


@dataclass(frozen=True)
class Matches:
    """1 where the pattern is found in the answer's text, else 0."""

    pattern: re.Pattern[str]
    logprobs: ClassVar[bool] = False

    async def score(self, question: Question, choice: Mapping[str, Any]) -> float:
        return float(self.pattern.search(text_of(choice)) is not None)


@dataclass(frozen=True)
class Conforms:
    """1 where the answer's text is JSON that the schema allows, else 0."""

    schema: Mapping[str, Any]
    logprobs: ClassVar[bool] = False

    async def score(self, question: Question, choice: Mapping[str, Any]) -> float:
        from jsonschema import Draft202012Validator

        try:
            return float(Draft202012Validator(dict(self.schema)).is_valid(json.loads(text_of(choice))))
        except (ValueError, RecursionError):
            return 0.0


@dataclass(frozen=True)
class Function:
    """A callable's score of (question text, answer text); one that is no coroutine runs in a thread."""

    function: Callable[[str, str], float | Awaitable[float]]
    logprobs: ClassVar[bool] = False

    async def score(self, question: Question, choice: Mapping[str, Any]) -> float:
        try:
            if inspect.iscoroutinefunction(self.function):
                return checked(await self.function(question.text, text_of(choice)))
            return checked(await asyncio.to_thread(self.function, question.text, text_of(choice)))
        except VerifierFailed:
            raise
        except Exception as error:  # a user's own code
            raise VerifierFailed(f"{type(error).__name__}: {error}") from error


# --- reward models ----------------------------------------------------------------------------------------------------

Aggregate = Literal["min", "prod", "mean", "last"]
FOLDS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "prod": math.prod,
    "mean": lambda scores: sum(scores) / len(scores),
    "last": lambda scores: scores[-1],
}


@dataclass(frozen=True)
class Reward:
    """A reward model on vLLM.

    path: ``classify`` (a sequence classifier), ``score`` (a cross-encoder of question and answer), or ``pooling``
        (token or step scores of a process reward model, folded by ``aggregate``).
    label: which of the outputs per answer or step is the score.
    template: the text that is scored, with {prompt} and {answer}; None: the messages, by the model's chat template.
    step_separator: put between paragraphs, as process reward models are trained to expect.
    raw: ask for logits, where the activation saturates.
    """

    post: Post
    path: Literal["classify", "score", "pooling"] = "classify"
    model: str | None = None
    aggregate: Aggregate = "last"
    label: int = -1
    template: str | None = None
    step_separator: str | None = None
    raw: bool = False
    logprobs: ClassVar[bool] = False

    async def score(self, question: Question, choice: Mapping[str, Any]) -> float:
        answer = text_of(choice)
        if self.step_separator is not None:
            steps = [step for step in re.split(r"\n\s*\n", answer) if step.strip()]
            answer = self.step_separator.join([*steps, ""])
        reply = await self.post(f"/{self.path}", self._body(question, answer))
        try:
            return checked(self._read(reply["data"][0]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise VerifierFailed(f"/{self.path} answered in another shape than expected ({error!r})") from error

    def _body(self, question: Question, answer: str) -> dict[str, Any]:
        body: dict[str, Any] = {} if self.model is None else {"model": self.model}
        if self.raw:
            body["use_activation"] = False
        if self.path == "score":
            return body | {"text_1": question.text, "text_2": answer}
        if self.template is not None:
            return body | {"input": self.template.replace("{prompt}", question.text).replace("{answer}", answer)}
        return body | {"messages": [*question.messages, {"role": "assistant", "content": answer}]}

    def _read(self, entry: Mapping[str, Any]) -> float:
        if self.path == "score":
            return float(entry["score"])
        if self.path == "classify":
            return float(entry["probs"][self.label])
        rows = entry["data"]
        if not rows:
            raise VerifierFailed("no step was scored")
        scores = [float(row[self.label]) if isinstance(row, list) else float(row) for row in rows]
        return FOLDS[self.aggregate](scores)


# --- judges -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """P(yes) of a model that is asked whether an answer is right, from the log-probabilities of its yes or no.

    With ``critiques`` above 1 it writes a critique first, and is asked again until the verdicts agree well enough
    (adaptive consistency on yes and no); the score is their mean.
    """

    post: Post
    model: str
    question: str
    critiques: int = 1
    critique_tokens: int = 512
    logprobs: ClassVar[bool] = False

    async def score(self, question: Question, choice: Mapping[str, Any]) -> float:
        asked = self.question.replace("{prompt}", question.text).replace("{answer}", text_of(choice))
        if self.critiques == 1:
            return checked(await self._verdict(asked))
        verdicts: list[float] = []
        votes = Sampling("adaptive_consistency", max_samples=self.critiques, settings={"threshold": SURE})
        while isinstance(votes.ask(), Draw):
            verdicts.append(await self._verdict(asked))
            votes.tell(verdicts[-1] > 0.5)
        return checked(sum(verdicts) / len(verdicts))

    async def _verdict(self, asked: str) -> float:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": asked}],
            "logprobs": True,
            "top_logprobs": ALTERNATIVES,
            "temperature": 0.0 if self.critiques == 1 else 1.0,
            "max_tokens": 8 if self.critiques == 1 else self.critique_tokens,
        }
        reply = await self.post("/v1/chat/completions", body)
        try:
            return p_yes(reply["choices"][0]["logprobs"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise VerifierFailed(f"the judge answered without log-probabilities ({error!r})") from error


def p_yes(tokens: Sequence[Mapping[str, Any]]) -> float:
    """P(yes) at the last token that says yes or no, among yes and no. Raises VerifierFailed where none does."""
    for token in reversed(tokens):
        if _verdict(token["token"]) is None:
            continue
        mass = {True: 0.0, False: 0.0}
        for one in token.get("top_logprobs") or [token]:
            said = _verdict(one["token"])
            if said is not None:
                mass[said] += math.exp(one["logprob"])
        total = mass[True] + mass[False]
        if total > 0:
            return mass[True] / total
    raise VerifierFailed("the judge says neither yes nor no")


def _verdict(token: str) -> bool | None:
    return {"yes": True, "no": False}.get(token.strip(" \n\t.,!*\"'▁Ġ").lower())


def checked(score: Any) -> float:
    """The score, if it is a finite number."""
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise VerifierFailed(f"the score is {score!r}, no finite number")
    return float(score)
