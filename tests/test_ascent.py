"""Climbing from many starts at once: to the same tops as SciPy, within bounds, and without what falls behind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from suffice.optimizer.ascent import ascend

LOW, HIGH = np.zeros(5), np.ones(5)


def quartic(seed: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A concave function whose top may lie outside the unit box, and its gradient."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((5, 5))
    A = A @ A.T + 0.05 * np.eye(5)
    c = rng.uniform(-0.5, 1.5, 5)

    def f(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Z = X - c
        return -0.5 * ((Z @ A) * Z).sum(1) - (Z**4).sum(1), -(Z @ A) - 4 * Z**3

    return f


@pytest.mark.parametrize("seed", range(12))
def test_rows_end_where_scipy_ends(seed: int) -> None:
    f = quartic(seed)
    X = np.random.default_rng(seed).random((6, 5))
    tops, values = ascend(lambda Z, _: f(Z), X, LOW, HIGH, tolerance=1e-12)
    alone = [ascend(lambda Z, _: f(Z), x[None], LOW, HIGH, tolerance=1e-12)[1][0] for x in X]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = f(x[None])
        return -float(value[0]), -gradient[0]

    best = -minimize(loss, X[0], jac=True, bounds=[(0, 1)] * 5, options={"ftol": 1e-15, "gtol": 1e-10}).fun
    assert ((tops >= 0) & (tops <= 1)).all()
    np.testing.assert_allclose(values, f(tops)[0])
    np.testing.assert_allclose(values.max(), best, atol=1e-8)
    np.testing.assert_allclose(alone, best, atol=1e-8)  # beside others, some may be given up


def test_a_curved_valley_is_followed_to_its_end() -> None:
    def f(X: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = X.T
        value = -100 * (b - a**2) ** 2 - (1 - a) ** 2
        return value, np.column_stack([400 * a * (b - a**2) + 2 * (1 - a), -200 * (b - a**2)])

    tops, _ = ascend(f, np.array([[-1.2, 1.0]]), np.full(2, -2.0), np.full(2, 2.0), tolerance=1e-14)
    np.testing.assert_allclose(tops, 1.0, atol=1e-5)


def test_columns_without_a_gradient_stay_and_values_that_are_not_finite_are_not_stepped_to() -> None:
    def f(X: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient = np.zeros_like(X)
        gradient[:, 0] = 1.0
        return np.where(X[:, 0] > 0.6, -np.inf, X[:, 0]), gradient

    tops, values = ascend(f, np.array([[0.1, 0.3], [0.9, 0.4]]), np.zeros(2), np.ones(2), tolerance=1e-9)
    np.testing.assert_allclose(tops[:, 1], [0.3, 0.4])
    assert 0.59 < values[0] <= 0.6
    assert (tops[1, 0], values[1]) == (0.9, -np.inf)


def test_a_row_that_falls_behind_is_given_up() -> None:
    """The lower of two hills is broad and slow to climb."""
    asked: list[int] = []

    def f(X: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(rows))
        height, width = np.where(rows == 0, 0.0, -50.0), np.where(rows == 0, 0.1, 1.0)
        z = (X[:, 0] - 0.5) / width
        return height - np.log(np.cosh(z)), (-np.tanh(z) / width)[:, None]

    X = np.array([[0.9], [0.0]])
    _, values = ascend(f, X, np.zeros(1), np.ones(1), tolerance=1e-14)
    assert values[0] == pytest.approx(0.0, abs=1e-9)
    assert values[1] < -50.0 + 1e-6
    assert asked[-1] == 1


def test_no_more_evaluations_than_rounds() -> None:
    f = quartic(1)
    asked: list[int] = []

    def counted(X: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(X))
        return f(X)

    ascend(counted, np.full((3, 5), 0.5), LOW, HIGH, tolerance=0.0, rounds=4)
    assert len(asked) <= 4
