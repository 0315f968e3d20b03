"""One completion under a policy: what the client asked for, its draws, and the answer in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.adapters.math_verify import MathEquality
from suffice.adapters.openai import Reply
from suffice.adapters.strategies import perturbed
from suffice.adapters.verifiers import Question, Verifier, VerifierFailed
from suffice.optimizer import InvalidInput, Sampling

from . import decisions
from .drawing import Answer, DrawFailed, Drawing, Drawn, Limits, Refused
from .extraction import Extractor, extractor
from .gateway_config import DEFAULTS, SUFFIX, GatewayConfig, Wishes, sampling_of, wishes_of
from .signals import rejected
from .upstreams import Upstreams

if TYPE_CHECKING:
    from suffice.optimizer.calibration import Calibration

CHAT = "/v1/chat/completions"
OURS = ("optscale", "budget", "best_of", "n", "stream", "stream_options", "model", "seed")
HEADER = "x-optscale-"
BUDGET_HEADER = "x-its-budget"  # as another gateway calls max_samples
OWN_HEADERS = ("x-request-id",)  # each draw is a request of its own


@dataclass(frozen=True)
class Asked:
    """A request under a policy; ``body`` is the client's, without what is ours to say."""

    path: str
    model: str
    policy: str
    wishes: Wishes
    body: dict[str, Any]
    headers: Sequence[tuple[str, str]]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    seed: int | None = None
    note: str | None = None

    @property
    def chat(self) -> bool:
        return self.path == CHAT

    @property
    def wants_json(self) -> bool:
        form = self.body.get("response_format")
        return isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema")

    @property
    def single(self) -> bool:
        """Whether one draw is all there is to it."""
        return self.wishes.max_samples == 1 and self.n == 1

    def raw(self, **more: Any) -> bytes:
        """The body of a draw."""
        return json.dumps({"model": self.model, **self.body, **more}).encode()


def read(config: GatewayConfig, path: str, headers: Sequence[tuple[str, str]], body: Mapping[str, Any]) -> Asked | None:
    """What a request asks of a policy; None for one that names none, which is passed through. Raises InvalidInput."""
    named = body.get("model")
    model, policy = _named(config, named if isinstance(named, str) else "")
    ours = {name: value for name, value in headers if name.startswith(HEADER) or name == BUDGET_HEADER}
    if policy is None and not ours and "optscale" not in body and "budget" not in body:
        return None
    policy = policy or SUFFIX
    wished = _wished(body, ours)
    wishes = wished.over(config.policies[policy]).over(DEFAULTS)
    n = _whole(body, "n", 1)
    if wished.max_samples is not None and n > wished.max_samples:
        raise InvalidInput("n", f"at most the {wished.max_samples} samples that may be drawn", n)
    if n > (wishes.max_samples or 1):  # n answers take n draws, whatever the policy's default is
        wishes = wishes.model_copy(update={"max_samples": n})
    wishes = wishes.model_copy(update={"min_samples": max(wishes.min_samples or 1, n)})
    try:
        config.check(wishes)
    except InvalidInput as error:
        raise error.under("optscale") from None
    note = None
    if wishes.dry_run:
        wishes, note = wishes.model_copy(update={"max_samples": n}), "dry run: one draw per choice"
    elif body.get("temperature") == 0 and n == 1 and wished.max_samples is None:
        wishes, note = wishes.model_copy(update={"max_samples": 1}), "temperature 0: every draw would be the same"
    if not isinstance(stream := body.get("stream") or False, bool):
        raise InvalidInput("stream", "true or false", stream)
    options = body.get("stream_options")
    return Asked(
        path=path,
        model=model,
        policy=policy,
        wishes=wishes,
        body={name: value for name, value in body.items() if name not in OURS},
        headers=[(name, value) for name, value in headers if name not in ours and name not in OWN_HEADERS],
        n=n,
        stream=stream,
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
        seed=wishes.seed if body.get("seed") is None else _integer(body, "seed"),
        note=note,
    )


def _named(config: GatewayConfig, named: str) -> tuple[str, str | None]:
    """The upstream's model and the policy that a model's name stands for."""
    if named in config.aliases:
        alias = config.aliases[named]
        return alias.model, alias.policy
    model, colon, suffix = named.rpartition(":")
    return (model, suffix) if colon and suffix in config.policies else (named, None)


def _wished(body: Mapping[str, Any], headers: Mapping[str, str]) -> Wishes:
    """From headers, over the body's object, over the aliases of max_samples."""
    wishes = wishes_of(body.get("optscale"))
    for alias in ("budget", "best_of"):
        if body.get(alias) is not None:
            wishes = wishes.over(Wishes(max_samples=_whole(body, alias, 1)))
    written: dict[str, Any] = {}
    for name, value in headers.items():
        field_ = "max_samples" if name == BUDGET_HEADER else name.removeprefix(HEADER).replace("-", "_")
        written[field_] = _json(value) if field_ in ("settings", "tags") else value
    return wishes_of(written).over(wishes) if written else wishes


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _whole(body: Mapping[str, Any], name: str, default: int) -> int:
    if body.get(name) is None:
        return default
    value = _integer(body, name)
    if value < 1:
        raise InvalidInput(name, "a whole number of at least 1", value)
    return value


def _integer(body: Mapping[str, Any], name: str) -> int:
    value = body[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(name, "a whole number", value)
    return value


# --- drawing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tools:
    """What a completion works with."""

    config: GatewayConfig
    upstreams: Upstreams
    verifier: Verifier | None = None
    calibration: Calibration | None = None
    drifted: bool = False  # scores seem to mean something else than when they were calibrated
    equality: MathEquality | None = None
    clock: Callable[[], float] = time.monotonic


@dataclass
class Outcome:
    """What is told to the client: the response, and the record of the decision with its trace."""

    body: dict[str, Any]
    record: dict[str, Any]
    drawn: Drawn
    sampling: Sampling


class Completion:
    """One request under a policy, being answered."""

    def __init__(self, asked: Asked, tools: Tools) -> None:
        self.asked, self.tools = asked, tools
        self.id = f"dec_{secrets.token_hex(12)}"
        self._clock = tools.clock
        self._began = tools.clock()
        self._read: Extractor = extractor(
            asked.wishes.extract or "auto", tools.config.extractors, wants_json=asked.wants_json
        )
        self._distinct: list[str] = []  # answers, where equality takes more than a comparison
        self._comparing = asyncio.Lock()
        self._verifier = tools.verifier
        self._verifier_error: str | None = None
        self._question = Question.of(asked.body)
        self._add_logprobs = tools.verifier is not None and tools.verifier.logprobs and not asked.body.get("logprobs")
        self._sent: dict[int, float] = {}
        self._busy = 0.0
        self._extra: dict[str, Any] = {}
        if self._add_logprobs:
            self._extra = {"logprobs": True} if asked.chat else {"logprobs": 0}
        self._raw = asked.raw(**self._extra)
        self._failures: int | None = 0  # answers that were rejected, or no good; None: there was a good one
        self.drawing = Drawing(self._sampling(), self._draw, self._limits(), lambda: tools.upstreams.busy, tools.clock)

    def _sampling(self) -> Sampling:
        calibration = self.tools.calibration
        more: dict[str, Any] = {} if calibration is None else {"calibration": calibration}
        return sampling_of(self.asked.wishes, scores=not self._distrusted, **more)

    @property
    def _distrusted(self) -> bool:
        return self.tools.drifted and self.asked.wishes.on_drift == "votes"

    def _limits(self) -> Limits:
        wishes, limits = self.asked.wishes, self.tools.config.limits
        seconds = limits.deadline_s if wishes.deadline_ms is None else wishes.deadline_ms / 1e3
        return Limits(
            max_samples=wishes.max_samples or 1,
            min_samples=wishes.min_samples or 1,
            window=wishes.concurrency,
            overissue=wishes.overissue or "idle",
            seconds=seconds,
            tokens=wishes.max_tokens_total,
        )

    async def run(self) -> Outcome:
        """Draw, decide and write the answer. Raises Refused, DrawFailed or VerifierFailed where there is none."""
        drawn = await self.drawing.run()
        if self._verifier_error is not None and self.asked.wishes.on_verifier_error == "fail":
            raise VerifierFailed(self._verifier_error)
        began = self._clock()
        outcome = self._outcome(drawn)
        self._busy += self._clock() - began
        outcome.record["latency_ms"] = {
            "total": round(1e3 * (self._clock() - self._began), 3),
            "gateway": round(1e3 * (self._busy + self.drawing.busy_seconds), 3),
        }
        return outcome

    async def _draw(self, number: int) -> Answer:
        """One draw: sent, read, and scored."""
        raw = self._raw
        after = self.asked.wishes.perturb_after
        if after is not None and self._failures is not None and self._failures >= after:
            changed = {"model": self.asked.model, **perturbed(self.asked.body, number), **self._extra}
            raw = json.dumps(changed).encode()
        if self.asked.seed is not None:
            raw = raw[:-1] + b', "seed": %d}' % (self.asked.seed + number)

        def sent() -> None:
            self._sent[number] = self._clock()

        try:
            reply = await self.tools.upstreams.post(self.asked.path, raw, self.asked.headers, self.asked.model, sent)
        except (DrawFailed, Refused):
            self._sent.pop(number, None)
            raise
        began = self._clock()
        seconds = began - self._sent.pop(number)
        body, choice = _parsed(reply)
        reason = rejected(choice, self.asked.body, wants_json=self.asked.wants_json)
        answer = None if reason else self._read(choice)
        if reason is None and answer is None:
            reason = "unreadable"
        self._busy += self._clock() - began
        if answer is not None and self.tools.equality is not None:
            answer = await self._one_of(answer, self.tools.equality)
        score = await self._score(choice) if reason is None else None
        if reason is None and score != 0:
            self._failures = None
        elif self._failures is not None:
            self._failures += 1
        usage = body.get("usage")
        prompt, completion = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
        return Answer(number, answer, completion, score, prompt, seconds, reason, body)

    async def _one_of(self, answer: str, equality: MathEquality) -> str:
        """The answer, as it was written first."""
        async with self._comparing:
            for earlier in self._distinct:
                if await equality.same(earlier, answer):
                    return earlier
            self._distinct.append(answer)
            return answer

    async def _score(self, choice: Mapping[str, Any]) -> float | None:
        """The verifier's score; None without one, or where it failed and the policy goes on without."""
        if self._verifier is None or self._verifier_error is not None:
            return None
        try:
            return await self._verifier.score(self._question, choice)
        except VerifierFailed as error:
            self._fall_back(str(error))
            return None

    def _fall_back(self, message: str) -> None:
        """Go on as the policy says when the verifier fails."""
        if self._verifier_error is not None:
            return
        self._verifier_error = message
        votes = self.asked.wishes.model_copy(update={"rule": "suffice", "settings": None})
        if self.asked.wishes.rule == "suffice":
            votes = self.asked.wishes
        self.drawing.go_on_with(sampling_of(votes))
        if self.asked.wishes.on_verifier_error in ("fail", "first"):
            self.drawing.finish("the verifier failed")

    @property
    def verifier_error(self) -> str | None:
        """What went wrong with the verifier, if anything."""
        return self._verifier_error

    # --- the answer ---

    def _outcome(self, drawn: Drawn) -> Outcome:
        sampling = self.drawing.sampling
        given = self._given(drawn, sampling)
        choices = self._choices(drawn, sampling, given)
        usage, tokens = self._usage(drawn, given)
        record = self._record(drawn, sampling, given, tokens)
        body = {**given.body, "choices": choices, "usage": usage}
        return Outcome(body, record | {"trace": decisions.trace(drawn, given)}, drawn, sampling)

    def _given(self, drawn: Drawn, sampling: Sampling) -> Answer:
        number = None if self._gives_first else sampling.pick_number
        if number is not None:
            return drawn.counted[number]
        return (drawn.counted or drawn.unused)[0]

    @property
    def _gives_first(self) -> bool:
        return self._verifier_error is not None and self.asked.wishes.on_verifier_error == "first"

    def _choices(self, drawn: Drawn, sampling: Sampling, given: Answer) -> list[dict[str, Any]]:
        """The answer given, then as many other answers as were asked for: distinct ones first, the likeliest first."""
        many = len(drawn.counted) if self.asked.wishes.returns == "all" else self.asked.n
        chosen = [given]
        if many > 1:
            p = sampling.posterior.answers
            others = [one for one in drawn.counted if one is not given]
            others.sort(key=lambda one: (-(p.get(one.answer, 0.0) if one.answer is not None else -1.0), one.number))
            firsts: dict[str | None, Answer] = {one.answer: one for one in reversed(others)}
            firsts.pop(None, None)
            firsts.pop(given.answer, None)
            distinct = [one for one in others if firsts.get(one.answer) is one]
            rest = [one for one in others if firsts.get(one.answer) is not one]
            chosen += [*distinct, *rest][: many - 1]
        return [self._choice(one, index) for index, one in enumerate(chosen)]

    def _choice(self, one: Answer, index: int) -> dict[str, Any]:
        choice = {**one.body["choices"][0], "index": index}
        if self._add_logprobs:
            choice["logprobs"] = None
        return choice

    def _usage(self, drawn: Drawn, given: Answer) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything that was paid for, in OpenAI's form; and how it comes about.

        Draws that were cancelled report nothing: their completion tokens are estimated from how long they ran and how
        fast the others came.
        """
        came = [*drawn.counted, *drawn.unused]
        usage: dict[str, Any] = {}
        for one in came:
            reported = one.body.get("usage")
            if isinstance(reported, Mapping):
                usage = _sum(usage, reported)
        prompt = max((one.prompt_tokens for one in came), default=0)
        now, aborted = self._clock(), 0
        seconds, tokens = sum(one.seconds for one in came), sum(one.tokens for one in came)
        longest = max((one.tokens for one in came), default=0)
        if seconds > 0:
            aborted = sum(min(round(tokens / seconds * (now - at)), longest) for at in self._sent.values())
        lost = {"prompt_tokens": prompt * len(self._sent), "completion_tokens": aborted}
        usage = _sum(usage, {**lost, "total_tokens": sum(lost.values())})
        mean = tokens / len(came) if came else 0.0
        fixed = (self.asked.wishes.max_samples or 1) * (mean + prompt)
        return usage, {
            "prompt": usage["prompt_tokens"],
            "completion": usage["completion_tokens"],
            "aborted_estimate": aborted,
            "of_answer": given.tokens,
            "saved_vs_fixed": round(fixed - usage["total_tokens"]),
        }

    def _record(self, drawn: Drawn, sampling: Sampling, given: Answer, tokens: dict[str, Any]) -> dict[str, Any]:
        wishes, stop = self.asked.wishes, drawn.stop
        scored = sum(one.score is not None for one in drawn.counted)
        return {
            "decision_id": self.id,
            "model": self.asked.model,
            "policy": self.asked.policy,
            "rule": wishes.rule,
            "samples": {
                "issued": drawn.issued,
                "completed": drawn.completed,
                "counted": len(drawn.counted),
                "aborted": drawn.aborted,
                "failed": drawn.failed,
                "rejected": sum(one.rejected is not None for one in drawn.counted),
                "scored": scored,
            },
            "stop_reason": str(stop.reason),
            "stop_message": self.asked.note or stop.message,
            "answer": given.answer,
            "confidence": round(stop.confidence, 6),
            "expected_gain": stop.gain,
            "cost": stop.cost,
            "posterior": decisions.posterior(sampling),
            "verifier": None
            if self._verifier is None
            else {
                "name": wishes.verifier,
                "calibration": wishes.calibration,
                "drift": self.tools.drifted,
                "error": self._verifier_error,
            },
            "tokens": tokens,
            "degraded": self._degraded(drawn, given),
            "tags": wishes.tags,
        }

    def _degraded(self, drawn: Drawn, given: Answer) -> str | None:
        """What was not as it should be."""
        if self._verifier_error is not None:
            how = "the first answer was given" if self._gives_first else "decided by votes"
            return f"verifier failed ({self._verifier_error}); {how}"
        if drawn.error is not None:
            return f"decided on what had come: {drawn.error}"
        if given.rejected is not None:
            return f"every answer was rejected; the first is given ({given.rejected})"
        if self._distrusted:
            return "scores do not seem to mean what they were calibrated for: decided by votes"
        return None


def _parsed(reply: Reply) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body and its choice. Raises DrawFailed for what is no completion."""
    try:
        body = reply.json()
        choice = body["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise DrawFailed("the upstream's answer is no completion in JSON") from None
    if not isinstance(body, dict) or not isinstance(choice, dict):
        raise DrawFailed("the upstream's answer is no completion in JSON")
    return body, choice


def _tokens(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else 0


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Sums of what is a number in either, inside objects too; what is null in both stays so."""
    total = dict(one)
    for name, value in other.items():
        mine = total.get(name)
        if isinstance(value, Mapping):
            total[name] = _sum(mine if isinstance(mine, Mapping) else {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[name] = (mine if isinstance(mine, int | float) else 0) + value
        else:
            total.setdefault(name, value)
    return total
