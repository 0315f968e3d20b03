"""Ways of drawing that are no independent draws of the same prompt, over plain HTTP.

Only the first rung of one ladder is here: after failures the prompt is perturbed (LoPE, "Nonsense Helps: Prompt Space
Perturbation Broadens Reasoning Exploration"): words that mean nothing before the question move the model to other
reasoning. Methods that continue a shared prefix step by step, or that reach into the engine, are not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

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
