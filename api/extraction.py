"""What counts as the answer in what a model wrote: two draws with equal answers are votes for the same.

    auto         the tool calls, if there are any; JSON, where the request asks for it; what is boxed; else the text
    text         the whole text, in lower case, without surrounding punctuation and with single spaces
    boxed        the last \\boxed{...}
    number       the last number
    json         the whole text as JSON, in canonical form
    json:a.b[0]  one value in it
    tool_calls   names and arguments, in canonical form
    math         what is boxed, or the last number; answers that are the same mathematically are equal

Patterns of one's own are named in the configuration (``extractors``); what the first group matches is the answer. An
answer that cannot be read is None: a draw that failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from suffice.optimizer import InvalidInput

Extractor = Callable[[Mapping[str, Any]], str | None]

NAMES = ("auto", "text", "boxed", "number", "json", "tool_calls", "math")
LONGEST = 200_000  # characters of an answer that are looked at, from its end
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?:/\d+)?")
STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d+)\]")


def extractor(name: str, patterns: Mapping[str, str] | None = None, *, wants_json: bool = False) -> Extractor:
    """The extractor of that name: a choice of the response gives its answer, or None.

    ``patterns`` are the configured ones, ``wants_json`` is whether the request asked for JSON. Raises InvalidInput.
    """
    if patterns and name in patterns:
        return _matching(re.compile(patterns[name], re.DOTALL))
    if name == "auto":
        return lambda choice: automatic(choice, wants_json=wants_json)
    if name.startswith("json:"):
        steps = path(name.removeprefix("json:"))
        return lambda choice: json_value(text_of(choice), steps)
    if name not in _NAMED:
        known = ", ".join([*NAMES, "json:PATH", *(patterns or ())])
        raise InvalidInput("extract", f"one of {known}", name)
    return _NAMED[name]


def automatic(choice: Mapping[str, Any], *, wants_json: bool = False) -> str | None:
    """Tool calls, JSON where it was asked for, what is boxed, or the text: the first that there is."""
    if _calls(choice):
        return tool_calls(choice)
    text = text_of(choice)
    if wants_json:
        return json_value(text, ())
    return boxed(text) or plain(text)


def text_of(choice: Mapping[str, Any]) -> str:
    """What a choice of a chat or of a completion says."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return text[-LONGEST:] if isinstance(text, str) else ""


def plain(text: str) -> str | None:
    """The text in lower case, without surrounding punctuation, with single spaces."""
    return " ".join(text.lower().split()).strip(" .,;:!?\"'`*_") or None


def number(text: str) -> str | None:
    """The last number, written in one way: 1,234.50 is 1234.5."""
    found = NUMBER.findall(text)
    return _one_way(found[-1]) if found else None


def _one_way(found: str) -> str:
    found = found.replace(",", "").replace("−", "-").removeprefix("+")
    if "/" in found or "e" in found.lower():
        return found
    whole, point, rest = found.partition(".")
    rest = rest.rstrip("0")
    sign = "-" if whole.startswith("-") else ""
    digits = whole.lstrip("-").lstrip("0") or "0"
    value = digits + (point + rest if rest else "")
    return value if value == "0" else sign + value


def boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...}, without spaces; braces inside are matched."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    first = text.index("{", start) + 1
    depth = 1
    for i in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            inside = re.sub(r"\s+", "", text[first:i])
            return number(inside) if NUMBER.fullmatch(inside) else inside or None
    return None


def path(written: str) -> tuple[str | int, ...]:
    """The steps of ``a.b[0]``. Raises InvalidInput."""
    written = written.removeprefix("$")
    steps: list[str | int] = []
    position = 0
    while position < len(written):
        step = STEP.match(written, position)
        if step is None:
            raise InvalidInput("extract", "a path like a.b[0] after json:", written)
        steps.append(step[1] if step[1] is not None else int(step[2]))
        position = step.end()
    return tuple(steps)


def json_value(text: str, steps: tuple[str | int, ...]) -> str | None:
    """The JSON that the text is, or the part that ``steps`` lead to, in canonical form."""
    try:
        value = json.loads(_unfenced(text))
        for step in steps:
            value = value[step]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return canonical(value)


def _unfenced(text: str) -> str:
    """Without the ```json ... ``` that models like to put around JSON."""
    found = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    return found[1] if found else text


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; 1.0 is 1."""
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _whole(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(one) for one in value]
        case dict():
            return {name: _whole(one) for name, one in value.items()}
        case _:
            return value


def tool_calls(choice: Mapping[str, Any]) -> str | None:
    """The calls with their arguments in canonical form, in any order; None where there are none, or no JSON."""
    written: list[list[str]] = []
    for call in _calls(choice):
        function = call.get("function") or {}
        arguments = json_value(function.get("arguments") or "{}", ())
        if arguments is None:
            return None
        written.append([str(function.get("name")), arguments])
    return canonical(sorted(written)) if written else None


def _calls(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    message = choice.get("message")
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    return [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []


def _matching(pattern: re.Pattern[str]) -> Extractor:
    def found(choice: Mapping[str, Any]) -> str | None:
        matches = list(pattern.finditer(text_of(choice)))
        return (matches[-1][1] if pattern.groups else matches[-1][0]) if matches else None

    return found


_NAMED: dict[str, Extractor] = {
    "text": lambda choice: plain(text_of(choice)),
    "boxed": lambda choice: boxed(text_of(choice)),
    "number": lambda choice: number(text_of(choice)),
    "json": lambda choice: json_value(text_of(choice), ()),
    "tool_calls": tool_calls,
    "math": lambda choice: boxed(text_of(choice)) or number(text_of(choice)),
}
