"""Cheap signs that an answer is not worth a verifier: it is rejected without a model call.

The idea is that of Signals (arXiv 2604.00356): traces tell by themselves where something went wrong. Only what needs no
judgement is used here.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .extraction import canonical, text_of

LOOP_CHARACTERS = 400  # shorter answers may repeat themselves
LOOP_RATIO = 12.0  # of a text's length to its compressed length; prose has 2 to 4, tables and code up to 8
REPEATED_CALLS = 2  # times the same call was made before, with the same arguments


def rejected(choice: Mapping[str, Any], request: Mapping[str, Any], *, wants_json: bool = False) -> str | None:
    """Why an answer is rejected, in a word or two; None for one that is not."""
    if choice.get("finish_reason") == "length":
        return "cut off"
    if choice.get("finish_reason") == "content_filter":
        return "filtered"
    text, calls = text_of(choice), _calls(choice.get("message"))
    if not text.strip() and not calls:
        return "empty"
    if calls:
        return _bad_calls(calls, request)
    if wants_json and not _is_json(text):
        return "broken JSON"
    return "loop" if looping(text) else None


def looping(text: str) -> bool:
    """Whether the end of a text says the same again and again."""
    end = text[-4 * LOOP_CHARACTERS :].encode()
    return len(end) >= LOOP_CHARACTERS and len(end) / len(zlib.compress(end, 1)) > LOOP_RATIO


def _bad_calls(calls: list[tuple[str, str]], request: Mapping[str, Any]) -> str | None:
    if not all(_is_json(arguments or "{}") for _, arguments in calls):
        return "broken JSON"
    messages = request.get("messages")
    earlier: Counter[str] = Counter()
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, Mapping) and message.get("role") == "assistant":
            earlier.update(_written(call) for call in _calls(message))
    return "repeated tool call" if any(earlier[_written(call)] >= REPEATED_CALLS for call in calls) else None


def _calls(message: Any) -> list[tuple[str, str]]:
    """Name and arguments of each call of a message."""
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    found: list[tuple[str, str]] = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            found.append((str(function.get("name")), str(function.get("arguments") or "")))
    return found


def _written(call: tuple[str, str]) -> str:
    name, arguments = call
    try:
        return canonical([name, json.loads(arguments or "{}")])
    except ValueError:
        return canonical([name, arguments])


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
