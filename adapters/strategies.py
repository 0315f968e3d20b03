"""Ways of drawing that are no independent draws of the same prompt, over plain HTTP.

    step_search.py    SLATE and DVTS: several candidates for each step, of which a judge takes the best
    segment_tree.py   TreePO: segments of fixed length, forked where the model was unsure
    subgroups.py      SCOPE: independent draws, whose votes are weighed by confidence in subgroups
    here              LoPE ("Nonsense Helps: Prompt Space Perturbation Broadens Reasoning Exploration"): after failures
                      words that mean nothing before the question move the model to other reasoning

Whatever makes an answer, stopping rules see it as one draw. What reaches into the engine is not here: HTTP cannot.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Ask = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]  # a request's body -> the response's
Score = Callable[[Mapping[str, Any]], Awaitable[float | None]]  # a choice so far -> the verifier's score


class Found(NamedTuple):
    """What a draw found."""

    response: dict[str, Any]  # as if the answer had been generated in one go; its usage is that of the whole draw
    score: float | None  # of the whole answer; None: not scored yet


class Strategy(Protocol):
    """How an answer is made. One serves all draws of a request, and may remember what earlier ones found."""

    async def draw(self, number: int, body: Mapping[str, Any], ask: Ask, score: Score) -> Found:
        """Draw ``number``'s answer to the request ``body``."""
        ...


WORDS = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna "
    "aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat"
)
FEWEST, MOST = 8, 24  # words


def nonsense(number: int) -> str:
    """Words that mean nothing, always the same for the same number."""
    rng = random.Random(number)
    return " ".join(rng.choices(WORDS.split(), k=rng.randint(FEWEST, MOST)))


def perturbed(body: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A request's body with nonsense before its last question; the rest of the prompt, and its cached prefix, stay.

    A body without a question in text is returned as it is.
    """
    messages = body.get("messages")
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        for i in reversed(range(len(messages))):
            if messages[i].get("role") == "user":
                changed = {**messages[i], "content": _before(messages[i].get("content"), nonsense(number))}
                return {**body, "messages": [*messages[:i], changed, *messages[i + 1 :]]}
    if isinstance(body.get("prompt"), str):
        return {**body, "prompt": f"{nonsense(number)} {body['prompt']}"}
    return dict(body)


def _before(content: Any, words: str) -> Any:
    if isinstance(content, str):
        return f"{words} {content}"
    return [{"type": "text", "text": words}, *content] if isinstance(content, list) else content
