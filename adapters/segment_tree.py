"""Answers as paths of one tree, grown by segments of fixed length and forked where the model was unsure.

From TreePO (arXiv 2508.17445): generation in segments of a fixed number of tokens, paths that share their beginnings,
new branches where the model is locally unsure, an early stop for paths that are finished or have gone astray, and, when
paths have ended, the return to an earlier segment for another branch. A path that shares its beginning pays only for
what is new.

What is not the paper's: it fills a tree of a given width level by level, for training; here a path is grown to its end
for each draw that a stopping rule still wants, so that answers come one after the other. It divides branches among
paths evenly or by probability; here the next fork is where the least certain segment began (the lowest mean
log-probability), halved for each branch that is there already. Its advantage estimate, which is for training, has no
place here. Paths of one tree are no independent draws: votes of siblings say less than as many of strangers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .continuation import Prefix, counted, total
from .strategies import Ask, Found, Score
from .verifiers import token_logprobs

Looks = Callable[[str], bool]


@dataclass(eq=False)
class Node:
    """A place between two segments; ``doubts`` are the mean negative log-probabilities of the segments from here."""

    prefix: Prefix
    depth: int = 0
    branches: int = 0
    doubts: list[float] = field(default_factory=list[float])

    @property
    def worth(self) -> float:
        """How much another branch from here promises."""
        return sum(self.doubts) / len(self.doubts) / 2**self.branches if self.doubts else -1.0


class SegmentTree:
    """The tree of one request.

    segment: tokens from one possible fork to the next.
    roots: paths that begin at the question; the further ones fork.
    depth: segments of a path at most.
    astray: whether a text is not worth going on with; answered: whether the answer is in it already.
    """

    def __init__(
        self,
        segment: int = 256,
        roots: int = 2,
        depth: int = 64,
        astray: Looks = lambda text: False,
        answered: Looks = lambda text: False,
    ) -> None:
        self.segment, self.roots, self.depth = segment, roots, depth
        self._astray, self._answered = astray, answered
        self._root = Node(Prefix())
        self._nodes = [self._root]
        self._grown = asyncio.Event()  # a segment has come, or failed
        self.shared = 0  # tokens that were not generated again

    async def draw(self, number: int, body: Mapping[str, Any], ask: Ask, score: Score) -> Found:
        """One path to its end: the response, with the usage of its new segments."""
        if number >= self.roots:
            await self._grown.wait()
        node = self._root if number < self.roots else self._fork()
        self.shared += node.prefix.tokens
        usage: dict[str, Any] = {}
        while True:
            node.branches += 1
            try:
                response = await ask(node.prefix.request(body, max_tokens=self.segment, **_with_logprobs(body)))
            finally:
                self._grown.set()
            usage = total(usage, response.get("usage") or {})
            choice = response["choices"][0]
            prefix = node.prefix.then(response, choice, counted(response.get("usage"), "completion_tokens"))
            logprobs = token_logprobs(choice)
            if logprobs:
                node.doubts.append(-sum(logprobs) / len(logprobs))
            if self._over(prefix, body, node.depth + 1):
                return Found(self._ended(prefix).response(usage), None)
            node = Node(replace(prefix, finish=None), node.depth + 1)
            self._nodes.append(node)

    def _fork(self) -> Node:
        """Where the next path leaves the others; the question, which comes first, while no segment is known."""
        return max(self._nodes, key=lambda node: node.worth)

    def _over(self, prefix: Prefix, body: Mapping[str, Any], depth: int) -> bool:
        """Whether a path has come to its end."""
        if prefix.finish != "length" or depth >= self.depth:
            return True
        left = prefix.left(body)
        return (left is not None and left <= 0) or self._answered(prefix.text) or self._astray(prefix.text)

    def _ended(self, prefix: Prefix) -> Prefix:
        """With the reason why a whole answer would have ended."""
        return replace(prefix, finish="stop") if prefix.finish == "length" and self._answered(prefix.text) else prefix


def _with_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    """What makes log-probabilities come along."""
    if body.get("logprobs"):
        return {}
    return {"logprobs": True} if "messages" in body else {"logprobs": 1}
