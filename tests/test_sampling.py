"""Sampling: ask, tell, stop with a reason; numbers, orders, JSON."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.optimizer import Conflict, Draw, Enough, EnoughReason, InvalidInput, Sampling, Stop, decide
from suffice.optimizer.stopping import Threshold

answers = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12)


def finish(sampling: Sampling, model) -> Enough:
    """Draw from ``model`` until the sampling has enough."""
    while isinstance(step := sampling.ask(), Draw):
        assert step.count > 0
        for n in step.numbers:
            sampling.tell(model(n))
    return step


def count(told: list[str | None], **options: Any) -> int:
    """How many more answers are drawn."""
    step = decide(told, **options)
    assert isinstance(step, Draw)
    return step.count


def test_agreement_stops_early_and_disagreement_does_not():
    agreed = finish(Sampling(price=0.005), lambda n: "42")
    mixed = finish(Sampling(price=0.005), lambda n: "ab"[n % 2])
    assert agreed.reason is EnoughReason.GAIN
    assert agreed.gain is not None
    assert agreed.gain <= 0.005 == agreed.cost
    assert isinstance(agreed, Stop)
    assert agreed.samples < mixed.samples


def test_a_target_is_reached():
    sampling = Sampling(max_samples=64, target=0.8)
    stop = finish(sampling, lambda n: "42")
    assert stop.reason is EnoughReason.TARGET
    assert stop.confidence >= 0.8
    assert sampling.pick == "42"
    assert sampling.posterior.answers["42"] == stop.confidence
    assert decide(["42"] * (stop.samples - 1), target=0.8).confidence < 0.8


def test_the_budget_the_deadline_and_a_settled_pick_stop_too():
    assert finish(Sampling(max_samples=1), lambda n: "a").reason is EnoughReason.BUDGET
    now = iter(range(100))
    late = Sampling(deadline=2.5, clock=lambda: next(now))
    assert finish(late, lambda n: "ab"[n % 2]).reason is EnoughReason.DEADLINE
    settled = decide(["a", "a", "a", "b"], max_samples=5, least_gain=0.0)
    assert isinstance(settled, Enough)
    assert settled.reason is EnoughReason.SETTLED
    assert settled.gain == 0


def test_hopeless_prompts_are_given_up():
    failed = finish(Sampling(price=0.05, max_samples=32), lambda n: None)
    assert failed.reason is EnoughReason.UNSOLVABLE
    assert failed.samples < 16
    assert failed.confidence == 0
    different = finish(Sampling(price=0.05, max_samples=32), lambda n: str(n))
    assert different.reason is EnoughReason.UNSOLVABLE


def test_tokens_are_what_a_long_prompt_pays():
    short = decide(["a", "b"], tokens=[10, 10], token_price=1e-4)
    long = decide(["a", "b"], tokens=[4000, 4000], token_price=1e-4)
    assert isinstance(short, Draw)
    assert short.cost == pytest.approx(1e-3)
    assert isinstance(long, Enough)
    shrunk = Sampling(token_price=1e-4, price=0.01, expected_tokens=100)
    shrunk.tell("a", tokens=600)
    assert shrunk.cost == pytest.approx(0.01 + 1e-4 * (600 + 4 * 100) / 5)


def test_what_is_drawn_anyway_comes_at_once_and_latency_asks_for_rounds():
    assert count([], price=1e-3) > 1
    assert count(["a", "b"], price=1e-3, latency=0.02) > count(["a", "b"], price=1e-3)
    assert count(["a", "b"], price=1e-3, batch=7) == 7
    assert count([], rule="fixed", settings={"samples": 5}) == 5
    assert count(["a"], rule="early_stopping", settings={"window": 4}) == 3
    assert isinstance(decide(["a", "b"], price=1e-3, latency=0.5), Enough)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.01, 0.002]))
def test_drawing_at_once_never_draws_more(seed: int, price: float):
    def samples(batches: bool) -> int:
        rng = random.Random(seed)
        sampling = Sampling(price=price, max_samples=24)
        while isinstance(step := sampling.ask(), Draw):
            for _ in range(step.count if batches else 1):
                sampling.tell(rng.choice("aab"))
            sampling._issued = sampling.samples  # forget what else was asked for
        return sampling.samples

    assert samples(batches=True) == samples(batches=False)


def test_order_is_that_of_asking():
    sampling = Sampling(price=1e-3)
    step = sampling.ask()
    assert isinstance(step, Draw)
    assert list(step.numbers) == [0, 1, 2, 3][: step.count]
    sampling.tell("late", number=1)
    assert sampling.samples == 0
    assert sampling.pick is None
    waiting = sampling.ask()
    assert isinstance(waiting, Draw)
    assert waiting.count == 0
    sampling.tell("first", number=0)
    assert sampling.samples == 2
    assert sampling.pick == "first"
    assert sampling.pick_number == 0


def test_an_equal_repeat_changes_nothing_and_a_different_one_is_a_conflict():
    sampling = Sampling()
    sampling.tell("a", 0.5, number=0)
    sampling.tell("a", 0.5, number=0)
    assert sampling.samples == 1
    with pytest.raises(Conflict):
        sampling.tell("b", 0.5, number=0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_samples": 0}, "max_samples"),
        ({"target": 1.0}, "target"),
        ({"price": -1.0}, "price"),
        ({"token_price": 0.0}, "token_price"),
        ({"latency": -0.1}, "latency"),
        ({"batch": 1.5}, "batch"),
        ({"rule": "best"}, "rule"),
        ({"rule": "threshold", "settings": {"threshold": "high"}}, "settings.threshold"),
        ({"price": 0.1, "settings": {"price": 0.2}}, "settings.price"),
        ({"rule": Threshold(), "settings": {"threshold": 0.5}}, "settings"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], field: str):
    with pytest.raises(InvalidInput) as error:
        Sampling(**options)
    assert error.value.problems[0].field == field


def test_wrong_answers_are_told():
    with pytest.raises(InvalidInput, match="score"):
        Sampling().tell("a", float("nan"))
    with pytest.raises(InvalidInput, match="score"):
        Sampling("optscale_t").tell("a", -0.1)
    with pytest.raises(InvalidInput, match="tokens"):
        Sampling().tell("a", tokens=True)
    with pytest.raises(InvalidInput, match="number"):
        Sampling().tell("a", number=-1)


@settings(deadline=None, max_examples=40)
@given(
    answers,
    st.sampled_from(
        [
            {"price": 0.01},
            {"target": 0.7, "max_samples": 20},
            {"rule": "optscale0", "settings": {"target": 0.9, "peek": 3}},
            {"rule": "adaptive_consistency", "settings": {"threshold": 0.8}, "deadline": 60.0},
        ]
    ),
)
def test_json_holds_everything(given_answers: list[str | None], options: dict[str, Any]):
    clock = lambda: 5.0  # noqa: E731
    sampling = Sampling(**options, clock=clock)
    for i, answer in enumerate(given_answers):
        sampling.tell(answer, 0.1 + 0.05 * i, 10 + i)
    copy = Sampling.from_json(json.loads(json.dumps(sampling.to_json())), clock=clock)
    assert copy.to_json() == sampling.to_json()
    assert copy.ask().to_json() == sampling.ask().to_json()
    assert copy.posterior == sampling.posterior
    assert copy.pick == sampling.pick


@settings(deadline=None, max_examples=40)
@given(answers, st.randoms())
def test_the_order_of_votes_does_not_change_the_posterior(given_answers: list[str | None], rng: random.Random):
    turned = list(given_answers)
    rng.shuffle(turned)

    def posterior(told: list[str | None]) -> dict[object, float]:
        sampling = Sampling()
        for answer in told:
            sampling.tell(answer)
        return {**sampling.posterior.answers, "none": sampling.posterior.none}

    one, other = posterior(given_answers), posterior(turned)
    assert one == pytest.approx(other)
    assert sum(one.values()) == pytest.approx(1.0)


def test_a_decision_needs_no_torch():
    code = (
        "import sys; from suffice.optimizer import Sampling; s = Sampling(price=0.01); s.tell('a'); s.ask(); "
        "assert 'torch' not in sys.modules, 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
