"""Maximising an acquisition: exact where enumeration is possible, feasible and new everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces

from suffice.optimizer import Bool, Categorical, Float, Int, Space
from suffice.optimizer.acquisition import NoisyExpectedImprovement
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.search import Exclusion, grid, maximise


def hill(centre: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return lambda X: (-((X - centre) ** 2).sum(1), -2.0 * (X - centre))


def nothing(space: Space) -> Exclusion:
    return Exclusion(np.empty((0, space.dimension)))


def search(space: Space, acquisition: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    found = maximise(
        acquisition, space, np.random.default_rng(0), space.sample(2, np.random.default_rng(1)), nothing(space)
    )
    assert found is not None
    assert found.value == pytest.approx(acquisition(found.x[None])[0][0])
    return found.x


def test_a_smooth_maximum_is_found_to_many_digits() -> None:
    space = Space({f"x{i}": Float(0, 1) for i in range(6)})
    centre = np.linspace(0.1, 1.2, 6)
    np.testing.assert_allclose(search(space, hill(centre)), np.clip(centre, 0, 1), atol=1e-5)


def test_mixed_spaces_are_searched_in_every_part() -> None:
    space = Space(x=Float(0, 1), n=Int(1, 5000), k=Int(0, 3), c=Categorical(*"abcdefgh"), b=Bool())
    target = space.encode([{"x": 0.37, "n": 3217, "k": 2, "c": "f", "b": True}])[0]
    np.testing.assert_allclose(search(space, hill(target)), target, atol=1e-5)


def test_linear_and_nonlinear_constraints_bind_at_the_maximum() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1), constraints=["x + y <= 1"])
    np.testing.assert_allclose(search(space, hill(np.array([0.9, 0.7]))), [0.6, 0.4], atol=1e-3)
    disc = Space(x=Float(-1, 1), y=Float(-1, 1), constraints=["x ** 2 + y ** 2 <= 0.5"])
    np.testing.assert_allclose(search(disc, hill(np.array([1.0, 1.0]))), [0.75, 0.75], atol=5e-3)
    logs = Space(a=Float(1e-3, 1e3, log=True), b=Float(1e-3, 1e3, log=True), constraints=["a * b <= 1"])
    x = search(logs, hill(np.array([1.0, 0.5])))
    np.testing.assert_allclose(x, [0.75, 0.25], atol=1e-3)


def test_a_constraint_on_whole_numbers_binds_at_the_maximum() -> None:
    space = Space(n=Int(1, 5000, log=True), m=Int(1, 500), constraints=["n * m <= 3200"])
    target = space.encode([{"n": 90, "m": 300}])[0]
    every = space.encode([{"n": n, "m": m} for n in range(1, 400) for m in range(1, min(500, 3200 // n) + 1)])
    found = search(space, hill(target))
    assert hill(target)(found[None])[0][0] == pytest.approx(hill(target)(every)[0].max(), abs=1e-4)


def test_constraints_that_are_no_inequalities_are_kept_too() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1), constraints=["x <= 0.2 or y <= 0.2"])
    x = search(space, hill(np.array([0.9, 0.6])))
    assert space.feasible(x[None])[0]
    assert x[1] > 0.19
    assert abs(x[0] - 0.9) < 0.1


def test_small_spaces_are_enumerated_exactly() -> None:
    space = Space(n=Int(0, 20), k=Int(0, 20), c=Categorical("a", "b", "c"), constraints=["n + k <= 30"])
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((space.dimension, 5))

    def rugged(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.sin(40 * X @ weights).sum(1), np.zeros_like(X)

    X = grid(space)
    x = search(space, rugged)
    assert rugged(x[None])[0][0] == pytest.approx(rugged(X)[0].max())


def test_what_is_excluded_is_not_suggested_until_nothing_is_left() -> None:
    space = Space(n=Int(1, 3), b=Bool())
    excluded = nothing(space)
    for _ in range(6):
        found = maximise(hill(np.zeros(2)), space, np.random.default_rng(0), np.empty((0, 2)), excluded)
        assert found is not None
        assert excluded.allows(found.x[None])[0]
        excluded.add(found.x)
    assert maximise(hill(np.zeros(2)), space, np.random.default_rng(0), np.empty((0, 2)), excluded) is None


@given(spaces(), st.integers(0, 2**31))
def test_what_is_found_is_a_configuration(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = maximise(hill(rng.random(space.dimension)), space, rng, space.sample(1, rng), nothing(space))
    assert found is not None
    space.check(space.decode(found.x[None])[0])


def test_the_maximum_is_found_where_data_cluster_around_the_optimum() -> None:
    """Quasi-random starts alone miss it here: the acquisition's peak is narrow (compared with 40,000 starts)."""
    rng = np.random.default_rng(0)
    space = Space({f"x{i}": Float(0, 1) for i in range(4)})
    X = np.concatenate([rng.random((15, 4)), np.clip(0.6 + 0.02 * rng.standard_normal((25, 4)), 0, 1)])
    y = -((X - 0.61) ** 2).sum(1)
    data = Data(X, (y - y.mean()) / y.std(), np.full(40, math.nan), np.arange(4))
    gp = GaussianProcess(data, Hyperparameters(np.full(4, 0.8), 1.0, 1e-8))
    acquisition = NoisyExpectedImprovement(gp, X, np.ones(40, dtype=bool), draws=1, seed=0)
    top = X[np.argsort(-y)[:8]]
    found = maximise(acquisition, space, rng, top, nothing(space))
    assert found is not None
    dense = np.concatenate([rng.random((20000, 4)), 0.61 + 0.02 * rng.standard_normal((20000, 4))])
    values = np.concatenate([acquisition(dense[i : i + 1000])[0] for i in range(0, len(dense), 1000)])
    assert found.value >= values.max()
