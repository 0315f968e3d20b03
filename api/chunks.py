"""The answer that was chosen, as the stream of chunks that OpenAI's clients read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

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


def stream(body: Mapping[str, Any], record: Mapping[str, Any], *, include_usage: bool) -> Iterator[bytes]:
    """A whole response as events: the role, the text in pieces, the finish; usage if wanted; the end.

    The decision record rides on the last chunk; so does the system's fingerprint, as vLLM has it.
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
