"""Gain against cost: the Gittins index, the cost's model, stopping and advice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.optimizer import Budget, Cost, Float, InvalidInput, Space, Stop, StopReason, Study, Trial
from suffice.optimizer.acquisition import LogFeasibility, NoisyExpectedImprovement, log_h
from suffice.optimizer.cost import GittinsIndex, LogCost, PerCost, inverse_log_h
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters

LINE = Space(x=Float(0, 1))


def process(seed: int = 0) -> GaussianProcess:
    rng = np.random.default_rng(seed)
    X = rng.random((9, 2))
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2
    data = Data(X, (y - y.mean()) / y.std(), np.full(9, math.nan), np.arange(2))
    return GaussianProcess(data, Hyperparameters(np.array([0.4, 0.7]), 1.3, 1e-6))


X_TEST = np.random.default_rng(5).random((7, 2))


@given(st.floats(-1e4, 3))
def test_log_h_is_inverted(target: float) -> None:
    z = inverse_log_h(np.array([target]))
    assert log_h(z)[0] == pytest.approx(target, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("constrained", [False, True])
def test_improving_on_the_gittins_index_is_worth_the_cost(constrained: bool) -> None:
    gp, cost = process(), LogCost(0.05, process(1), 0.3, 0.8)
    feasibility = LogFeasibility([(process(2), 0.1)]) if constrained else None
    index, gradient = GittinsIndex(gp, cost, feasibility)(X_TEST)
    mean, sd = gp.posterior(X_TEST)
    improvement = sd * np.exp(log_h((mean - index) / sd))
    chance = np.exp(feasibility(X_TEST)[0]) if feasibility else 1.0
    np.testing.assert_allclose(chance * improvement, np.exp(cost(X_TEST)[0]), rtol=1e-6)
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        above, below = (GittinsIndex(gp, cost, feasibility)(X_TEST + s)[0] for s in (step, -step))
        np.testing.assert_allclose(gradient[:, j], (above - below) / (2 * h), rtol=1e-3, atol=1e-3)


def test_no_index_exceeds_the_best_value_just_when_no_improvement_pays() -> None:
    gp = process()
    X = np.random.default_rng(0).random((200, 2))
    improvement = NoisyExpectedImprovement(gp, gp.data.X, np.ones(9, dtype=bool), draws=1, seed=0)
    best = gp.data.y.max()
    for price in (1e-3, 1e-2, 1e-1):
        pays = improvement(X)[0] > math.log(price)
        exceeds = GittinsIndex(gp, LogCost(price))(X)[0] > best
        assert (pays == exceeds).mean() > 0.97  # but for the noise floor of the incumbent


def test_gradient_per_cost() -> None:
    gp = process()
    improvement = NoisyExpectedImprovement(gp, gp.data.X, np.ones(9, dtype=bool), draws=1, seed=0)
    acquisition = PerCost(improvement, LogCost(0.1, process(3), 0.5, 0.4))
    _, gradient = acquisition(X_TEST)
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        numeric = (acquisition(X_TEST + step)[0] - acquisition(X_TEST - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, j], numeric, rtol=2e-3, atol=2e-3)


def bowl(p: dict[str, Any]) -> float:
    return float((p["x"] - 0.37) ** 2)


def test_a_study_stops_when_no_trial_pays_and_a_dearer_one_stops_sooner() -> None:
    counts = []
    for price in (1e-5, 1e-2):
        study = Study(LINE, cost=price, budget=Budget(trials=40), seed=0)
        while not isinstance(step := study.ask(), Stop):
            study.tell(step, bowl(step.params))
        assert step.reason is StopReason.GAIN
        assert step.gain is not None
        assert step.cost == pytest.approx(price)
        assert step.gain <= price
        assert study.advice.pays is False
        counts.append(len(study.trials))
    assert counts[1] < counts[0] < 40


def test_the_cost_of_a_configuration_is_learned_and_weighed() -> None:
    """Two equal valleys, one of them a hundred times dearer: nearly all trials go to the cheap one."""
    study = Study(LINE, cost=Cost(1e-4, "seconds"), budget=Budget(trials=25), seed=0)
    while not isinstance(step := study.ask(), Stop):
        x = step.params["x"]
        value = min((x - 0.2) ** 2, (x - 0.8) ** 2)
        study.tell(step, {"objective": value, "seconds": 1.0 if x < 0.5 else 100.0})
    late = [t for t in study.trials if t.source.method == "gittins"]
    assert late
    assert sum(t.params["x"] > 0.5 for t in late) <= len(late) / 2
    for t in late[2:]:
        assert (
            t.source.cost == pytest.approx(1e-4 if t.params["x"] < 0.4 else 1e-2, rel=0.9) or 0.4 < t.params["x"] < 0.6
        )


def test_advice_says_what_one_more_trial_is_worth() -> None:
    study = Study(LINE, seed=0)
    assert study.advice.gain is None
    assert "no model yet" in study.advice.why
    for _ in range(6):
        trial = study.ask()
        assert isinstance(trial, Trial)
        study.tell(trial, bowl(trial.params))
    advice = study.advice
    assert advice.pays is None
    assert advice.gain is not None
    assert advice.gain > 0
    assert advice.params is not None
    assert set(advice.params) == {"x"}


def test_noise_uses_improvement_per_cost() -> None:
    rng = np.random.default_rng(0)
    study = Study(LINE, cost=0.02, noise=1.0, budget=Budget(trials=30), seed=0)
    while not isinstance(step := study.ask(), Stop):
        study.tell(step, 5 * bowl(step.params) + rng.standard_normal())
    assert study.trials[-1].source.method == "expected_improvement_per_cost"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"cost": -1}, "cost.price"),
        ({"cost": "free"}, "cost.price"),
        ({"cost": {"metric": "seconds"}}, "cost"),
        ({"cost": {"price": 1, "per": "seconds"}}, "cost"),
        ({"acquisition": "gittins"}, "cost"),
    ],
)
def test_bad_costs_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Study(LINE, **arguments)
    assert error.value.problems[0].field == field


def test_a_cost_must_be_positive() -> None:
    study = Study(LINE, cost=Cost(1, "seconds"), seed=0)
    with pytest.raises(InvalidInput, match="expected a positive seconds"):
        study.tell(study.ask(), {"objective": 1.0, "seconds": 0.0})  # type: ignore[arg-type]


def test_definitions_with_costs_survive_json() -> None:
    study = Study(LINE, cost=Cost(0.5, "seconds"), acquisition="gittins", seed=0)
    assert Study.from_json(study.to_json()).to_json() == study.to_json()
