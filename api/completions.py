"""One completion under a policy: its draws, and the answer in OpenAI's shape."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.adapters.continuation import NotContinued, counted, total
from suffice.adapters.math_verify import MathEquality
from suffice.adapters.openai import Unreachable
from suffice.adapters.strategies import perturbed
from suffice.adapters.subgroups import ALTERNATIVES
from suffice.adapters.verifiers import Question, Verifier, VerifierFailed
from suffice.optimizer import Sampling
from suffice.optimizer.expected import NOTHING, Expected

from . import chunks, decisions
from .asked import Asked
from .drawing import Answer, DrawFailed, Drawing, Drawn, Limits, Refused
from .extraction import Extractor, extractor
from .gateway_config import GatewayConfig, Scope, sampling_of
from .gateway_strategies import election, strategy
from .signals import rejected
from .upstreams import Upstreams

if TYPE_CHECKING:
    from suffice.optimizer.calibration import Calibration

CALLS = 1000  # seeds from one draw to the next, where a draw takes several calls
NO_COMPLETION = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)  # what reading one raises

PassOn = Callable[[bytes], Awaitable[None]]


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
    expected: Expected = NOTHING  # of the prompt, by its features


@dataclass
class Outcome:
    """What is told to the client: the response, and the record of the decision with its trace."""

    body: dict[str, Any]
    record: dict[str, Any]
    drawn: Drawn
    sampling: Sampling


class Completion:
    """One request under a policy, being answered; ``pass_on`` gets the only draw's events as they come, if streamed."""

    def __init__(self, asked: Asked, tools: Tools, pass_on: PassOn | None = None) -> None:
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
        self._how = tools.config.strategies[asked.wishes.strategy or "independent"]
        self._strategy = strategy(self._how, asked.wishes.extract or "auto")
        self._pass_on = pass_on
        self.begun = False  # whether something was passed on
        self._busy = 0.0
        self._calls = 0
        self._out: dict[int, float] = {}  # calls that have not been answered: when they were sent
        self._paid: dict[str, Any] = {}  # the usage of those that have
        self._total: int | None = None  # all tokens, as the outcome says
        self._took = 0.0  # seconds of those
        self._longest = self._prompt = 0  # completion and prompt tokens, the most of one of those
        self._extra = self._logprobs()
        self._raw = asked.raw(**self._extra)
        self._failures: int | None = 0  # answers that were rejected, or no good; None: there was a good one
        self._elected: dict[str, int] | None = None
        self.drawing = Drawing(
            self._sampling(tools.expected), self._draw, self._limits(), lambda: tools.upstreams.busy, tools.clock
        )

    def _logprobs(self) -> dict[str, Any]:
        """What makes log-probabilities come along, where they are needed and were not asked for."""
        asked = self.asked.alternatives
        if isinstance(self._how, Scope):
            many = ALTERNATIVES if asked is None else asked if asked < 0 else max(asked, ALTERNATIVES)
            return {"logprobs": True, "top_logprobs": many} if self.asked.chat else {"logprobs": many}
        if self._verifier is None or not self._verifier.logprobs or asked is not None:
            return {}
        return {"logprobs": True} if self.asked.chat else {"logprobs": 0}

    def _sampling(self, expected: Expected) -> Sampling:
        wishes, calibration = self.asked.wishes, self.tools.calibration
        more: dict[str, Any] = {} if wishes.rule != "suffice" else {"calibration": calibration}
        return sampling_of(wishes, expected, scores=not self._distrusted, **more)

    def unexpecting(self) -> Sampling:
        """What was counted, told to a sampling that expects nothing: what can be learned from."""
        sampling = self._sampling(NOTHING)
        for number, one in enumerate(self.drawing.result.counted):
            sampling.tell(one.answer, one.score, one.tokens, number=number)
        return sampling

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

    # --- one draw ---

    async def _draw(self, number: int) -> Answer:
        """One draw: sent, read, and scored."""
        sent = self._clock()
        body, score = await self._made(number)
        began = self._clock()
        choice = body["choices"][0]
        reason = rejected(choice, self.asked.body, wants_json=self.asked.wants_json)
        answer = None if reason else self._read(choice)
        if reason is None and answer is None:
            reason = "unreadable"
        self._busy += self._clock() - began
        if answer is not None and self.tools.equality is not None:
            answer = await self._one_of(answer, self.tools.equality)
        if reason is not None:
            score = None
        elif score is None:
            score = await self._score(choice)
        if reason is None and score != 0:
            self._failures = None
        elif self._failures is not None:
            self._failures += 1
        usage = body.get("usage")
        prompt, completion = counted(usage, "prompt_tokens"), counted(usage, "completion_tokens")
        return Answer(number, answer, completion, score, prompt, began - sent, reason, body)

    async def _made(self, number: int) -> tuple[dict[str, Any], float | None]:
        """A draw's response, and its score if it has one already."""
        raw, body = self._raw, self.asked.body
        after = self.asked.wishes.perturb_after
        if after is not None and self._failures is not None and self._failures >= after:
            body = perturbed(body, number)
            raw = json.dumps({"model": self.asked.model, **body, **self._extra}).encode()
        if self._strategy is None:
            return await self._call(raw, number), None
        calls = itertools.count(number * CALLS)

        async def ask(body: Mapping[str, Any]) -> dict[str, Any]:
            return await self._call(json.dumps({"model": self.asked.model, **body}).encode(), next(calls))

        try:
            return await self._strategy.draw(number, {**body, **self._extra}, ask, self._score)
        except NotContinued as error:
            raise Refused(None, str(error)) from None

    async def _call(self, raw: bytes, seed: int) -> dict[str, Any]:
        """One request's response, which is paid for."""
        if self.asked.seed is not None:
            raw = raw[:-1] + b', "seed": %d}' % (self.asked.seed + seed)
        call = self._calls
        self._calls += 1

        def sent() -> None:
            self._out[call] = self._clock()

        try:
            body = await (self._whole(raw, sent) if self._pass_on is None else self._passed_on(raw, sent))
        except (DrawFailed, Refused):
            self._out.pop(call, None)
            raise
        self._took += self._clock() - self._out.pop(call)
        if isinstance(usage := body.get("usage"), Mapping):
            self._paid = total(self._paid, usage)
            self._longest = max(self._longest, counted(usage, "completion_tokens"))
            self._prompt = max(self._prompt, counted(usage, "prompt_tokens"))
        return body

    async def _whole(self, raw: bytes, sent: Callable[[], object]) -> dict[str, Any]:
        asked = self.asked
        reply = await self.tools.upstreams.post(asked.path, raw, asked.headers, asked.model, sent)
        began = self._clock()
        body = _completion(reply.body)
        self._busy += self._clock() - began
        return body

    async def _passed_on(self, raw: bytes, sent: Callable[[], object]) -> dict[str, Any]:
        """The response of the only draw, passed on as it comes, but for its end: that has to wait for the record."""
        assert self._pass_on is not None
        raw = raw[:-1] + b', "stream": true, "stream_options": {"include_usage": true}}'
        asked, whole = self.asked, chunks.Whole()
        try:
            async with self.tools.upstreams.stream(asked.path, raw, asked.headers, asked.model, sent) as stream:
                if "event-stream" not in (stream.header("Content-Type") or ""):
                    return _completion((await stream.read()).body)
                async for chunk in chunks.events(stream.pieces()):
                    whole.add(chunk)
                    if piece := chunks.going_on(chunk, asked.include_usage, asked.logprobs):
                        self.begun = True
                        await self._pass_on(piece)
        except (Unreachable, *NO_COMPLETION) as error:
            failed = (
                f"the upstream broke off: {error}" if isinstance(error, Unreachable) else "no chunk of a completion"
            )
            raise (Refused(None, failed) if self.begun else DrawFailed(failed)) from None
        if not whole.finished:
            raise Refused(None, "the upstream's stream ended before the answer did")
        return whole.body

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
        votes = self.asked.wishes
        if votes.rule != "suffice":  # others may want scores
            votes = votes.model_copy(update={"rule": "suffice", "settings": None})
        self.drawing.go_on_with(sampling_of(votes, self.tools.expected))
        if votes.on_verifier_error in ("fail", "first"):
            self.drawing.finish("the verifier failed")

    @property
    def verifier_error(self) -> str | None:
        """What went wrong with the verifier, if anything."""
        return self._verifier_error

    # --- the answer ---

    def _outcome(self, drawn: Drawn) -> Outcome:
        sampling = self.drawing.sampling
        self._elected = election(self._how, drawn.counted)
        given = self._given(drawn, sampling)
        choices = self._choices(drawn, sampling, given)
        usage, tokens = self._usage(drawn, given)
        record = self._record(drawn, sampling, given, tokens)
        body = {**given.body, "choices": choices, "usage": usage}
        return Outcome(body, record | {"trace": decisions.trace(drawn, given)}, drawn, sampling)

    def _given(self, drawn: Drawn, sampling: Sampling) -> Answer:
        number = None if self._gives_first else sampling.pick_number
        if self._elected and not self._gives_first:
            winner = next(iter(self._elected))
            return next(one for one in drawn.counted if one.answer == winner)
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
        choice: dict[str, Any] = {**one.body["choices"][0], "index": index}
        if choice.get("logprobs") is not None:
            choice["logprobs"] = self.asked.logprobs(choice["logprobs"])
        return choice

    def _usage(self, drawn: Drawn, given: Answer) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything that was paid for, in OpenAI's form; and how it comes about.

        Calls that were cancelled report nothing: their completion tokens are estimated from how long they ran and how
        fast the others came.
        """
        lost = self._lost()
        usage = total(self._paid, lost)
        self._total = counted(usage, "total_tokens")
        came = [*drawn.counted, *drawn.unused]
        each = sum(one.prompt_tokens + one.tokens for one in came) / len(came)
        fixed = (self.asked.wishes.max_samples or 1) * each
        return usage, {
            "prompt": usage["prompt_tokens"],
            "completion": usage["completion_tokens"],
            "aborted_estimate": lost["completion_tokens"],
            "of_answer": given.tokens,
            "saved_vs_fixed": round(fixed - usage["total_tokens"]),
        }

    def _lost(self) -> dict[str, int]:
        """The usage, as estimated, of calls that were sent and will not be answered."""
        now, aborted = self._clock(), 0
        tokens = counted(self._paid, "completion_tokens")
        if self._took > 0:
            aborted = sum(min(round(tokens / self._took * (now - at)), self._longest) for at in self._out.values())
        prompts = self._prompt * len(self._out)
        return {"prompt_tokens": prompts, "completion_tokens": aborted, "total_tokens": prompts + aborted}

    def spent(self) -> int:
        """All tokens so far, prompts included; with an outcome, what its usage says."""
        if self._total is not None:
            return self._total
        return counted(total(self._paid, self._lost()), "total_tokens")

    def _record(self, drawn: Drawn, sampling: Sampling, given: Answer, tokens: dict[str, Any]) -> dict[str, Any]:
        wishes, stop = self.asked.wishes, drawn.stop
        scored = sum(one.score is not None for one in drawn.counted)
        return {
            "decision_id": self.id,
            "model": self.asked.model,
            "policy": self.asked.policy,
            "rule": wishes.rule,
            "strategy": wishes.strategy,
            "asked": self._wished(),
            "calls": self._calls,
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
            "expected": self.tools.expected.to_json() or None,
            "elected": None if self._elected is None else {str(one): n for one, n in self._elected.items()},
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

    def _wished(self) -> dict[str, Any]:
        """What was wished for in effect: by the request, its policy and the defaults."""
        wishes = self.asked.wishes.model_dump(mode="json", by_alias=True, exclude={"tags"})
        return {**wishes, "deadline_ms": 1e3 * self.drawing.limits.seconds, "seed": self.asked.seed, "n": self.asked.n}

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


def _completion(raw: bytes) -> dict[str, Any]:
    """A response with a choice in it. Raises DrawFailed for what is no completion."""
    try:
        body = json.loads(raw)
        if isinstance(body, dict) and isinstance(body["choices"][0], dict):
            return body
    except NO_COMPLETION:
        pass
    raise DrawFailed("the upstream's answer is no completion in JSON")
