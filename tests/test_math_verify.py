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


def pids(equality: MathEquality) -> list[int]:
    return [one.process.pid for one in equality._all if one.process is not None]


def test_questions_are_looked_into_side_by_side():
    async def ask() -> list[bool]:
        async with MathEquality(processes=2) as equality:
            asked = [
                equality.same(r"\frac{1}{2}", "0.5"),
                equality.same("1", "2"),
                equality.same(r"\frac{1}{2}", "0.5"),
            ]
            found = await asyncio.gather(*asked)
            assert len(pids(equality)) == 2
            return found

    assert asyncio.run(ask()) == [True, False, True]


def test_what_takes_too_long_is_killed_and_the_next_question_is_answered(monkeypatch: pytest.MonkeyPatch):
    async def ask() -> list[bool]:
        async with MathEquality() as equality:
            found = [await equality.same(r"\frac{1}{2}", "0.5"), await equality.same("1", "2")]
            first = pids(equality)
            assert len(first) == 1, "one after the other: one process"
            equality._seconds = 0.0
            found.append(await equality.same("3", r"\frac{6}{2}"))
            equality._seconds = 30.0
            found.append(await equality.same("4", r"\frac{8}{2}"))
            assert pids(equality) != first
            assert equality.killed == 1
            left = [one.process for one in equality._all if one.process is not None]
        assert [process.returncode is not None for process in left] == [True]
        return found

    assert asyncio.run(ask()) == [True, False, False, True]


def test_text_that_is_equal_or_too_long_needs_no_process():
    async def ask() -> tuple[bool, bool]:
        equality = MathEquality()
        found = await equality.same("a", "a"), await equality.same("1" * math_verify.LONGEST, "2" * 3000)
        assert not pids(equality)
        return found

    assert asyncio.run(ask()) == (True, False)
