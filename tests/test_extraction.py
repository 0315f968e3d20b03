"""What counts as the answer, and what is rejected without a look at it."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.api.extraction import canonical, extractor, number
from suffice.api.signals import looping, rejected
from suffice.optimizer import InvalidInput


def said(text: str | None, *calls: tuple[str, str]) -> dict[str, Any]:
    made = [
        {"id": str(i), "type": "function", "function": {"name": n, "arguments": a}} for i, (n, a) in enumerate(calls)
    ]
    return {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, "tool_calls": made}}


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("text", "  The  Answer is\n42. ", "the answer is 42"),
        ("text", " ... ", None),
        ("number", "first 3, then 1,234.50 apples.", "1234.5"),
        ("number", "x = -0.0", "0"),
        ("number", "it is 007", "7"),
        ("number", "a fraction 3/4", "3/4"),
        ("number", "+12=134;", "134"),
        ("number", "none", None),
        ("boxed", r"so \boxed{\frac{1}{2}} and \boxed{ 1,000 }", "1000"),
        ("boxed", r"so \boxed{\frac{1}{ 2}}", r"\frac{1}{2}"),
        ("boxed", r"so \boxed{unfinished", None),
        ("json", ' {"b": 1.0, "a": [true]} ', '{"a":[true],"b":1}'),
        ("json", '```json\n{"a": 1}\n```', '{"a":1}'),
        ("json", "{broken", None),
        ("json:a.b[1]", '{"a": {"b": [1, "two"]}}', '"two"'),
        ("json:a.c", '{"a": {}}', None),
        ("auto", r"\boxed{5}", "5"),
        ("auto", "Plain.", "plain"),
        ("total", "TOTAL 7 and TOTAL 9", "9"),
    ],
)
def test_answers_are_read(name: str, text: str, answer: str | None):
    assert extractor(name, {"total": r"TOTAL (\d+)"})(said(text)) == answer


def test_tool_calls_count_by_name_and_arguments_in_any_order():
    one = said(None, ("add", '{"a": 1, "b": 2}'), ("get", ""))
    other = said("so be it", ("get", "{}"), ("add", '{"b":2,"a":1.0}'))
    read = extractor("auto")
    assert read(one) == read(other) == '[["add","{\\"a\\":1,\\"b\\":2}"],["get","{}"]]'
    assert read(said(None, ("add", "{broken"))) is None


def test_json_is_read_by_itself_where_it_was_asked_for():
    read = extractor("auto", wants_json=True)
    assert read(said('{"b": 1, "a": 2}')) == read(said('{"a":2,"b":1}'))


def test_a_completions_text_is_read_too():
    assert extractor("number")({"text": "it is 12"}) == "12"


@pytest.mark.parametrize("name", ["", "regex", "json:a..b", "json:a[x]"])
def test_an_extractor_that_is_none_is_refused(name: str):
    with pytest.raises(InvalidInput, match="extract"):
        extractor(name)


@given(st.integers(-(10**9), 10**9), st.integers(0, 3))
def test_numbers_are_equal_however_they_are_written(value: int, zeros: int):
    forms = {
        number(f"{value}"),
        number(f"so {value:,}."),
        number(f"{value}.{'0' * zeros}") if zeros else number(f"{value}"),
    }
    assert forms == {str(value)}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_canonical_json_is_json_of_the_same_value(value: Any):
    assert json.loads(canonical(value)) == value


@given(st.text(max_size=300))
def test_no_text_breaks_an_extractor(text: str):
    for name in ("auto", "text", "boxed", "number", "json", "json:a", "tool_calls"):
        extractor(name)(said(text))


# --- signals ---


def test_signals():
    request: dict[str, Any] = {"messages": []}
    assert rejected(said("fine"), request) is None
    assert rejected(said(" "), request) == "empty"
    assert rejected(said("fine") | {"finish_reason": "length"}, request) == "cut off"
    assert rejected(said("fine") | {"finish_reason": "content_filter"}, request) == "filtered"
    assert rejected(said("{broken"), request, wants_json=True) == "broken JSON"
    assert rejected(said("{}"), request, wants_json=True) is None
    assert rejected(said(None, ("add", "{broken")), request) == "broken JSON"
    assert rejected(said("wait, " * 400), request) == "loop"


def test_a_call_made_twice_before_is_rejected():
    call = said(None, ("look", '{"at": 1}'))
    again = {**call["message"]}
    request = {"messages": [again, {"role": "tool", "content": "nothing"}, again]}
    assert rejected(call, request) == "repeated tool call"
    assert rejected(call, {"messages": [again]}) is None
    assert rejected(said(None, ("look", '{"at": 2}')), request) is None


def test_prose_code_and_tables_do_not_loop():
    rng = random.Random(0)
    prose = " ".join("".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(800))
    table = "\n".join(f"| {i} | {i * i} | {rng.random():.3f} |" for i in range(200))
    assert not looping(prose)
    assert not looping(table)
    assert not looping("ha" * 20)
