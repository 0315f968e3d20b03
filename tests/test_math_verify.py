"""Mathematical equality in a process that can be killed."""

import asyncio

import pytest

from suffice.adapters import math_verify
from suffice.adapters.math_verify import MathEquality, equal

pytest.importorskip("math_verify")

EQUAL = [(r"\frac{1}{2}", "0.5"), ("x+1", "1+x"), (r"\sqrt{4}", "2"), ("1000", "1,000"), (r"\{1,2\}", r"\{2,1\}")]
UNEQUAL = [("1", "2"), ("x", "y"), (r"\frac{1}{3}", "0.5"), ("", "1"), ("no formula", "another")]


@pytest.mark.parametrize("pair", EQUAL)
def test_equal(pair: tuple[str, str]):
    assert equal(*pair)
    assert equal(*pair[::-1])


@pytest.mark.parametrize("pair", UNEQUAL)
def test_unequal(pair: tuple[str, str]):
    assert not equal(*pair)


def test_what_takes_too_long_is_killed_and_the_next_question_is_answered(monkeypatch: pytest.MonkeyPatch):
    async def ask() -> list[bool]:
        async with MathEquality() as equality:
            found = [await equality.same(r"\frac{1}{2}", "0.5"), await equality.same("1", "2")]
            assert equality._process is not None
            first = equality._process.pid
            equality._seconds = 0.0
            found.append(await equality.same("3", r"\frac{6}{2}"))
            equality._seconds = 30.0
            found.append(await equality.same("4", r"\frac{8}{2}"))
            assert equality._process.pid != first
            assert equality.killed == 1
            left = equality._process
        assert left.returncode is not None
        return found

    assert asyncio.run(ask()) == [True, False, False, True]


def test_text_that_is_equal_or_too_long_needs_no_process():
    async def ask() -> tuple[bool, bool]:
        equality = MathEquality()
        found = await equality.same("a", "a"), await equality.same("1" * math_verify.LONGEST, "2" * 3000)
        assert equality._process is None
        return found

    assert asyncio.run(ask()) == (True, False)
