"""An answer that is written in several requests: each continues what the earlier ones said.

A completion is continued by a longer prompt. A chat is continued by an assistant message at its end, with
``continue_final_message``, which vLLM and SGLang know and hosted APIs do not. The text is what is handed on, so the
server cuts it into tokens anew; where a cut falls within a word the tokens may differ from those generated in one go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class NotContinued(Exception):
    """The server cannot continue an answer, or does not say what is needed for it."""


@dataclass(frozen=True)
class Prefix:
    """An answer so far; ``finish`` says why it ended, None: it may go on. ``tokens`` are the completion's own."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    logprobs: Mapping[str, Any] | None = None
    last: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the last response, with the choice that was taken

    def request(self, body: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """The request that goes on from here, for at most as many tokens as are left of what ``body`` allows."""
        found = {**body, **more}
        if (left := self.left(body)) is not None:
            named = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
            found.pop("max_tokens", None)
            found[named] = min(left, more.get("max_tokens", left))
        if not self.text:
            return found
        if "messages" in body:
            said = {"role": "assistant", "content": self.text}
            going_on = {"add_generation_prompt": False, "continue_final_message": True}
            return {**found, "messages": [*body["messages"], said], **going_on}
        return {**found, "prompt": f"{body.get('prompt') or ''}{self.text}"}

    def left(self, body: Mapping[str, Any]) -> int | None:
        """Tokens that may still be generated; None: the server knows."""
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        return most - self.tokens if isinstance(most, int) else None

    def then(self, response: Mapping[str, Any], choice: Mapping[str, Any], tokens: int) -> Prefix:
        """With a choice of a response behind it, which took ``tokens``."""
        logprobs = {name: list(v) if isinstance(v, list) else v for name, v in (self.logprobs or {}).items()}
        if isinstance(choice.get("logprobs"), Mapping):
            join(logprobs, choice["logprobs"])
        last = {**response, "choices": [choice]}
        return Prefix(
            self.text + said(choice), self.tokens + tokens, choice.get("finish_reason"), logprobs or None, last
        )

    def choice(self) -> dict[str, Any]:
        """The choice as if it had been generated in one go."""
        last: dict[str, Any] = dict(self.last["choices"][0]) if self.last else {}
        last |= {"index": 0, "finish_reason": self.finish, "logprobs": self.logprobs}
        if "message" in last:
            last["message"] = {**last["message"], "content": self.text}
        else:
            last["text"] = self.text
        return last

    def response(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The response as if it had been generated in one go, for what it took."""
        return {**self.last, "choices": [self.choice()], "usage": dict(usage)}


def said(choice: Mapping[str, Any]) -> str:
    """The text of a choice."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return text if isinstance(text, str) else ""


def join(mine: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Continue log-probabilities of one's own, a chat's or a completion's: every list by the other's."""
    for name, value in more.items():
        if isinstance(value, list):
            mine[name] = mine.get(name) or []
            mine[name].extend(value)
        else:
            mine.setdefault(name, value)


def total(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two ``usage``: of what is a number in either, inside objects too; what is null in both stays so."""
    found = dict(one)
    for name, value in other.items():
        mine = found.get(name)
        if isinstance(value, Mapping):
            found[name] = total(mine if isinstance(mine, Mapping) else {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = (mine if isinstance(mine, int | float) else 0) + value
        else:
            found.setdefault(name, value)
    return found


def counted(usage: Any, name: str) -> int:
    """A number of ``usage``; 0 where there is none."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else 0
