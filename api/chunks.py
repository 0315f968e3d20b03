"""Streams of chunks, as OpenAI's clients read them: writing the answer that was chosen, and reading one that comes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from suffice.adapters.continuation import join
from suffice.adapters.openai import Unreachable

DONE = b"data: [DONE]\n\n"
PIECES = 64  # chunks that a long text is cut into, at most
WORDS = re.compile(r"\s*\S+\s*|\s+")


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def comment(text: str) -> bytes:
    """A line that keeps the connection alive and that clients skip."""
    return f": {text}\n\n".encode()


def stream(
    body: Mapping[str, Any], record: Mapping[str, Any], *, include_usage: bool, begun: bool = False
) -> Iterator[bytes]:
    """A whole response as events: the role, the text in pieces, the finish; usage if wanted; the end.

    The decision record rides on the last chunk; so does the system's fingerprint, as vLLM has it. ``begun``: the text
    was passed on already, and the finish is what is left.
    """
    chat = body.get("object") == "chat.completion" or "message" in body["choices"][0]
    head = {
        "id": body.get("id"),
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": body.get("created"),
        "model": body.get("model"),
    }
    last = {"optscale": record}
    if body.get("system_fingerprint") is not None:
        last["system_fingerprint"] = body["system_fingerprint"]
    chunks = [chunk for choice in body["choices"] for chunk in (_chat if chat else _text)(choice)]
    if begun:
        chunks = chunks[-1:]
    for i, chunk in enumerate(chunks):
        written: dict[str, Any] = {**head, "choices": [chunk]}
        if include_usage:
            written["usage"] = None
        elif i == len(chunks) - 1:
            written |= last
        yield event(written)
    if include_usage:
        usage = {name: value for name, value in body["usage"].items() if value is not None}  # as vLLM streams it
        yield event({**head, "choices": [], "usage": usage, **last})
    yield DONE


def going_on(chunk: Mapping[str, Any], include_usage: bool, logprobs: Callable[[Any], Any]) -> bytes:
    """An upstream's chunk, to be passed on without the finish, which comes last; empty where it says nothing else.

    ``logprobs`` says which of its log-probabilities are passed on.
    """
    if all(one.get("finish_reason") and not (one.get("delta") or one.get("text")) for one in chunk["choices"]):
        return b""
    choices = [{k: v for k, v in one.items() if k != "stop_reason"} for one in chunk["choices"]]
    for one in choices:
        one["finish_reason"] = None
        if one.get("logprobs") is not None:
            one["logprobs"] = logprobs(one["logprobs"])
    rest = {k: v for k, v in chunk.items() if k != "usage"} | ({"usage": None} if include_usage else {})
    return event({**rest, "choices": choices})


def _chat(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    message = choice["message"]
    yield _delta(choice, {"role": message.get("role", "assistant"), "content": ""})
    for name in ("reasoning_content", "reasoning", "refusal"):
        if isinstance(message.get(name), str):
            for piece in pieces(message[name]):
                yield _delta(choice, {name: piece})
    for piece, logprobs in _with_logprobs(message.get("content"), choice.get("logprobs")):
        yield _delta(choice, {"content": piece}, logprobs)
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield _delta(choice, {"tool_calls": [{"index": index, **call}]})
    yield _delta(choice, {}) | _finish(choice)


def _delta(choice: Mapping[str, Any], delta: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
    return {"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _text(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    text = choice.get("text") or ""
    whole = choice.get("logprobs")
    for piece in pieces(text) if whole is None else [text]:
        yield {"index": choice["index"], "text": piece, "logprobs": whole, "finish_reason": None}
    yield {"index": choice["index"], "text": "", "logprobs": None} | _finish(choice)


def _finish(choice: Mapping[str, Any]) -> dict[str, Any]:
    found = {"finish_reason": choice.get("finish_reason")}
    return found | {"stop_reason": choice["stop_reason"]} if "stop_reason" in choice else found


def _with_logprobs(text: Any, logprobs: Any) -> Iterator[tuple[str, Any]]:
    """The text in pieces; token by token, with what belongs to each, where log-probabilities come along."""
    if not isinstance(text, str) or not text:
        return
    if not isinstance(logprobs, Mapping) or not logprobs.get("content"):
        yield from ((piece, None) for piece in pieces(text))
        return
    tokens = logprobs["content"]
    if "".join(token["token"] for token in tokens) == text:
        yield from ((token["token"], {"content": [token]}) for token in tokens)
    else:  # special tokens, or characters that took several
        yield text, logprobs


def pieces(text: str) -> Iterator[str]:
    """The text, cut between words into PIECES pieces at most."""
    words = WORDS.findall(text)
    step = max(1, -(-len(words) // PIECES))
    for i in range(0, len(words), step):
        yield "".join(words[i : i + step])


# --- reading ----------------------------------------------------------------------------------------------------------


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The data of a stream's events, in JSON, until it says that it is done. Raises ValueError for what is none."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)


class Whole:
    """A response put together from its chunks; ``body`` is what it would have been without streaming."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choice: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self.usage: dict[str, Any] | None = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in one more chunk. Raises Unreachable for an error, KeyError and the like for what is none."""
        if isinstance(chunk.get("error"), Mapping):
            raise Unreachable(str(chunk["error"].get("message")), sent=True)
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        self._head = {**{k: v for k, v in chunk.items() if k not in ("choices", "usage")}, **self._head}
        for choice in chunk["choices"]:
            if "delta" in choice:
                self._said(choice["delta"])
            else:
                self._choice["text"] = self._choice.get("text", "") + (choice.get("text") or "")
            for name in ("finish_reason", "stop_reason"):
                if choice.get(name) is not None or (name in choice and name not in self._choice):
                    self._choice[name] = choice[name]
            if choice.get("logprobs") is not None:
                self._choice["logprobs"] = self._choice.get("logprobs") or {}
                join(self._choice["logprobs"], choice["logprobs"])

    @property
    def finished(self) -> bool:
        """Whether it says why it ended."""
        return self._choice.get("finish_reason") is not None

    @property
    def body(self) -> dict[str, Any]:
        chat = "message" in self._choice
        if chat and self._calls:
            self._choice["message"]["tool_calls"] = [self._calls[i] for i in sorted(self._calls)]
        choice = {"index": 0, "logprobs": None, "finish_reason": None, **self._choice}
        kind = "chat.completion" if chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": self.usage}

    def _said(self, delta: Mapping[str, Any]) -> None:
        message = self._choice.setdefault("message", {"role": "assistant", "content": None})
        for name, value in delta.items():
            if name == "tool_calls":
                for call in value or ():
                    self._called(call)
            elif isinstance(value, str) and name != "role":
                message[name] = (message.get(name) or "") + value
            elif value is not None:
                message[name] = value

    def _called(self, call: Mapping[str, Any]) -> None:
        """A tool call's arguments come in pieces, the rest at once."""
        mine = self._calls.setdefault(call["index"], {"function": {"name": None, "arguments": ""}})
        mine |= {k: v for k, v in call.items() if k not in ("index", "function")}
        function = call.get("function") or {}
        mine["function"]["name"] = mine["function"]["name"] or function.get("name")
        mine["function"]["arguments"] += function.get("arguments") or ""
