"""The scale of y: the map itself, and which of several makes the results most probable."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from suffice.optimizer.fitting import Prior
from suffice.optimizer.metric_model import HEADROOMS, choose_headroom
from suffice.optimizer.objective import Scale
from suffice.optimizer.results import Results


def results(values: np.ndarray, d: int, seed: int) -> Results:
    n = len(values)
    X = np.random.default_rng([seed, 1]).random((n, d))
    return Results(X, values, np.zeros(n), np.arange(d), np.arange(n))


def chosen(values: np.ndarray, seed: int = 0) -> float | None:
    return choose_headroom(results(values, 6, seed), -1.0, Prior(), linear=False)[0]


@given(st.integers(0, 10**6), st.sampled_from([None, *HEADROOMS]), st.sampled_from([1.0, -1.0]))
def test_values_keep_their_order_and_come_back(seed: int, headroom: float | None, sign: float) -> None:
    values = np.random.default_rng(seed).normal(size=8)
    scale = Scale.of(values, sign, headroom)
    y = scale.forward(values)
    np.testing.assert_array_equal(np.argsort(y), np.argsort(sign * values))
    np.testing.assert_allclose([y.mean(), y.std()], [0.0, 1.0], atol=1e-9)
    np.testing.assert_allclose(scale.backward(y, np.zeros(8))[0], values, atol=1e-9)


@pytest.mark.parametrize("headroom", [None, 0.1])
def test_the_improvement_in_the_unit_is_its_integral(headroom: float | None) -> None:
    values = np.array([0.3, 0.5, 1.0, 2.0, 4.0])
    scale = Scale.of(values, -1.0, headroom)
    mean, sd, best = 0.4, 0.7, float(scale.forward(values).max())
    least = float(scale.backward(np.array([best]), np.zeros(1))[0][0])

    def gain(y: float) -> float:
        value = float(scale.backward(np.array([y]), np.zeros(1))[0][0])
        return max(least - value, 0.0) * float(norm.pdf(y, mean, sd))

    rise, in_unit = scale.improvement(mean, sd, best)
    assert in_unit == pytest.approx(quad(gain, best, best + 12.0)[0], rel=1e-6)
    assert rise == pytest.approx(quad(lambda y: (y - best) * norm.pdf(y, mean, sd), best, best + 12.0)[0], rel=1e-6)


def test_the_best_result_alone_does_not_pull_the_limit_to_itself() -> None:
    """With values that tell nothing of the limit, the nearest one is rare; it was taken in half of such cases."""
    drawn = [chosen(np.exp(np.random.default_rng(seed).normal(size=10)), seed) for seed in range(20)]
    assert drawn.count(min(HEADROOMS)) <= 2
    assert len([h for h in drawn if h is not None]) >= 8


def test_a_near_limit_is_found_where_results_show_it() -> None:
    """A valley whose floor is at 0: values fall towards it over orders of magnitude."""
    n = 40
    X = np.random.default_rng(0).random((n, 2))
    values = np.exp(-8.0 * X[:, 0]) + 1e-6
    r = Results(X, values, np.zeros(n), np.arange(2), np.arange(n))
    headroom, found = choose_headroom(r, -1.0, Prior(), linear=False)
    assert headroom == min(HEADROOMS)
    assert found is not None
    assert math.isfinite(found.loss)


def test_a_scale_that_was_asked_to_be_linear_stays_so() -> None:
    values = np.exp(4.0 * np.random.default_rng(0).random(20))
    assert choose_headroom(results(values, 2, 0), -1.0, Prior(), linear=True)[0] is None
