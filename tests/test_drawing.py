"""The rolling window decides as drawing one by one would, whatever order answers come in."""

import asyncio
from typing import Any

import pytest
from benchmarks.gateway import in_theory
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.api.drawing import Answer, DrawFailed, Drawing, Drawn, Limits, OutOfTime, Refused
from suffice.optimizer import Draw, EnoughReason, Sampling

MOST = 12


class Draws:
    """Scripted draws: number k gives ``answers[k]`` after ``delays[k]`` turns of the loop; None fails."""

    def __init__(self, answers: list[str | None], delays: list[int]) -> None:
        self.answers, self.delays = answers, delays
        self.out = self.most_out = 0
        self.started: list[int] = []

    async def __call__(self, number: int) -> Answer:
        self.started.append(number)
        self.out += 1
        self.most_out = max(self.out, self.most_out)
        try:
            for _ in range(self.delays[number % len(self.delays)]):
                await asyncio.sleep(0)
        finally:
            self.out -= 1
        answer = self.answers[number % len(self.answers)]
        if answer is None:
            raise DrawFailed("told to fail")
        return Answer(number, answer, 10)


def run(draws: Draws, limits: Limits, rule: str = "suffice", **options: Any) -> Drawn:
    return drawn_by(Sampling(rule, max_samples=limits.max_samples, **options), draws, limits)


def drawn_by(sampling: Sampling, draws: Draws, limits: Limits) -> Drawn:
    found = asyncio.run(Drawing(sampling, draws, limits).run())
    assert draws.out == 0, "every draw that is out is ended"
    assert found.issued == found.completed + found.aborted + found.failed
    assert found.completed == len(found.counted) + len(found.unused)
    return found


def one_by_one(answers: list[str], **options: Any) -> tuple[int, EnoughReason, Any]:
    sampling = Sampling(max_samples=MOST, **options)
    n = 0
    while isinstance(step := sampling.ask(), Draw):
        sampling.tell(answers[n % len(answers)], tokens=10)
        n += 1
    return step.samples, step.reason, sampling.pick


@settings(max_examples=60)
@given(
    answers=st.lists(st.sampled_from("abc"), min_size=1, max_size=MOST),
    delays=st.lists(st.integers(0, 30), min_size=1, max_size=MOST),
    window=st.one_of(st.none(), st.integers(1, 8)),
    overissue=st.sampled_from(["idle", "none", "all"]),
)
def test_decisions_are_those_of_one_by_one(answers: list[str], delays: list[int], window: int | None, overissue: str):
    draws = Draws(list(answers), delays)
    sampling = Sampling(max_samples=MOST, price=0.02)
    found = drawn_by(sampling, draws, Limits(MOST, window=window, overissue=overissue))
    assert [one.number for one in found.counted] == list(range(len(found.counted)))
    assert (len(found.counted), found.stop.reason, sampling.pick) == one_by_one(answers, price=0.02)
    if window is not None and overissue != "all":
        assert draws.most_out <= window


@settings(max_examples=40)
@given(failing=st.sets(st.integers(0, 20), max_size=6), delays=st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_draws_that_fail_are_made_up_for(failing: set[int], delays: list[int]):
    answers: list[str | None] = [None if k in failing else "a" for k in range(64)]
    draws = Draws(answers, delays)
    limits = Limits(6, window=4)
    try:
        found = run(draws, limits, "fixed", settings={"samples": 6})
    except DrawFailed:
        assert len(failing) >= 3, "only where several failed in a row"
        return
    if found.error is None:
        assert len(found.counted) == 6
    else:
        assert found.failed >= 3


def test_a_straggler_holds_up_the_decision_but_not_for_ever_many_draws():
    draws = Draws(["a"] * 64, [10_000, *[0] * 63])
    found = run(draws, Limits(64, window=4), "fixed", settings={"samples": 2})
    assert found.issued <= 6
    assert [one.number for one in found.counted] == [0, 1]


def test_the_budget_is_never_exceeded():
    draws = Draws([str(k) for k in range(64)], [3, 1, 2])
    found = run(draws, Limits(7, overissue="all"), "fixed", settings={"samples": 64})
    assert found.issued == 7
    assert found.stop.reason == EnoughReason.BUDGET


def test_nothing_is_over_issued_while_others_wait():
    draws = Draws(["a", "b"], [1])
    sampling = Sampling("fixed", max_samples=8, settings={"samples": 3})
    found = asyncio.run(Drawing(sampling, draws, Limits(8), busy=lambda: True).run())
    assert found.issued == 3


def test_the_window_grows_where_the_deadline_is_near():
    clock = iter(range(10_000))
    draws = Draws([str(k) for k in range(64)], [2])
    sampling = Sampling("adaptive_consistency", max_samples=64)
    limits = Limits(64, seconds=150)
    near = Drawing(sampling, draws, limits, clock=lambda: float(next(clock)))
    asyncio.run(near.run())
    assert draws.most_out > 6


def test_a_refusal_ends_it_at_once_and_later_it_is_decided_on_what_is_there():
    async def refuse(number: int) -> Answer:
        raise Refused("no")

    with pytest.raises(Refused):
        asyncio.run(Drawing(Sampling(max_samples=4), refuse, Limits(4)).run())

    async def refuse_later(number: int) -> Answer:
        if number:
            await asyncio.sleep(0)
            raise Refused("no")
        return Answer(0, "a", 1)

    found = asyncio.run(Drawing(Sampling(max_samples=4), refuse_later, Limits(4)).run())
    assert [one.answer for one in found.counted] == ["a"]
    assert isinstance(found.error, Refused)


def test_a_deadline_without_an_answer_is_an_error():
    with pytest.raises(OutOfTime):
        run(Draws(["a"], [10**9]), Limits(4, seconds=0.02))


def test_the_window_takes_at_most_a_third_of_the_time_of_one_by_one():
    one, window = in_theory(60).values()
    assert one["counted"] == window["counted"]
    assert one["issued"] == one["counted"]
    assert window["seconds"] <= one["seconds"] / 3
    assert window["issued"] < 2 * window["counted"]
