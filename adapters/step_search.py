"""Answers that are written step by step: several candidates for each next step, of which a judge takes the best.

From *Truncated Step-Level Sampling with Process Rewards* (SLATE, arXiv 2602.23440) come the candidates that share one
prefix and differ in the next step only, and a judge that grades every step as it is made. From DVTS (Hugging Face,
"Scaling test-time compute with open models", 2024) comes what a tree is: one greedy descent, each independent of the
others, so that whole answers can be voted on and drawn until it is enough.

What is not theirs: how many candidates a step gets is up to a stopping rule (``rule``, like any number of draws here),
where both papers fix it; the judge is whichever verifier is configured, where SLATE's asks a language model for grades
-1, 0 and 1 of thinking, query and answer; nothing is trained, which SLATE is for, and nothing is looked ahead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from suffice.optimizer import Draw, Sampling

from .continuation import NotContinued, Prefix, counted, said, total
from .strategies import Ask, Found, Score

STOPPED_BY = {"stop_reason", "matched_stop"}  # vLLM's name, and SGLang's


@dataclass(frozen=True)
class StepSearch:
    """Steps end with ``separator`` and get at most ``width`` candidates each; the one at ``depth`` goes on to the end.

    ``rule`` and ``settings`` say when a step has candidates enough, as a Sampling's do: ``fixed`` draws ``width`` of
    them at once (DVTS); ``threshold`` stops at the first that is good enough.
    """

    width: int = 4
    separator: str = "\n\n"
    depth: int = 40
    rule: str = "fixed"
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    async def draw(self, number: int, body: Mapping[str, Any], ask: Ask, score: Score) -> Found:
        """One tree's answer: the response, with the usage of all that the tree took, and its last step's score."""
        tree = _Tree(self, body, ask, score)
        prefix, worth = Prefix(), None
        for depth in range(self.depth):
            prefix, worth = await tree.step(prefix, free=depth == self.depth - 1)
            if prefix.finish is not None:
                break
        return Found(prefix.response(tree.usage), worth)


class _Tree:
    """One tree being grown."""

    def __init__(self, search: StepSearch, body: Mapping[str, Any], ask: Ask, score: Score) -> None:
        self.search, self.body, self.ask, self.score = search, body, ask, score
        self.usage: dict[str, Any] = {}
        stop = body.get("stop")
        self._stops = [stop] if isinstance(stop, str) else list(stop or ())

    async def step(self, prefix: Prefix, *, free: bool) -> tuple[Prefix, float | None]:
        """The best of the candidates for the next step, and its score; ``free``: it goes on to the answer's end."""
        seen: dict[str, tuple[Prefix, float]] = {}
        width = 1 if self.body.get("temperature") == 0 else self.search.width  # greedily there is one candidate
        settings = dict(self.search.settings)
        if self.search.rule == "fixed":
            settings["samples"] = width
        enough = Sampling(self.search.rule, max_samples=width, settings=settings)
        while isinstance(more := enough.ask(), Draw):
            for candidate in await self._candidates(prefix, more.count, free=free):
                if candidate.text not in seen:
                    worth = await self.score(candidate.choice())
                    if worth is None:  # without a judge any candidate will do
                        return candidate, None
                    seen[candidate.text] = candidate, worth
                enough.tell(candidate.text, seen[candidate.text][1], candidate.tokens - prefix.tokens)
        return max(seen.values(), key=lambda one: one[1])

    async def _candidates(self, prefix: Prefix, count: int, *, free: bool) -> list[Prefix]:
        more: dict[str, Any] = {"n": count}
        if not free:
            more["stop"] = [*self._stops, self.search.separator]
        response = await self.ask(prefix.request(self.body, **more))
        self.usage = total(self.usage, response.get("usage") or {})
        choices = response["choices"]
        each = math.ceil(counted(response.get("usage"), "completion_tokens") / len(choices))
        found = [self._ended(prefix.then(response, choice, each), choice, free=free) for choice in choices]
        if prefix.text and all(
            one.finish is None and not said(choice) for one, choice in zip(found, choices, strict=True)
        ):
            raise NotContinued("steps come out empty: the chat template drops the separator at a step's end")
        return found

    def _ended(self, candidate: Prefix, choice: Mapping[str, Any], *, free: bool) -> Prefix:
        """With ``finish`` None, and the separator, where only a step has ended: the server says by which string."""
        if free or candidate.finish != "stop":
            return candidate
        if not STOPPED_BY & choice.keys():
            raise NotContinued("the server does not say which stop string ended a step (vLLM's stop_reason does)")
        if self.search.separator not in (choice.get(name) for name in STOPPED_BY):
            return candidate
        return replace(candidate, text=candidate.text + self.search.separator, finish=None)
