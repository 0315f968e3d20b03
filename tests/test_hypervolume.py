"""The closed-form hypervolume improvement against BoTorch, counting and differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.utils.multi_objective.box_decompositions.non_dominated import NondominatedPartitioning
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_ndtr

from suffice.optimizer.hypervolume import HypervolumeImprovement, _between, boxes
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters


def processes(objectives: int, noise: float = 1e-8) -> list[GaussianProcess]:
    rng = np.random.default_rng(0)
    X = rng.random((10, 2))
    Y = np.column_stack([np.cos(2 * X[:, 0]) + X[:, 1], np.sin(2 * X[:, 0]) - X[:, 1] ** 2, (X - 0.4).prod(1)])
    Y = (Y - Y.mean(0)) / Y.std(0)
    return [
        GaussianProcess(
            Data(X, Y[:, j], np.full(10, math.nan), np.arange(2)),
            Hyperparameters(np.array([0.5, 0.7]) + 0.1 * j, 1.0, noise),
        )
        for j in range(objectives)
    ]


def exact(objectives: int) -> tuple[HypervolumeImprovement, ExpectedHypervolumeImprovement]:
    gps = processes(objectives)
    X = gps[0].data.X
    Y = np.column_stack([gp.posterior(X)[0] for gp in gps])
    reference = np.quantile(Y, 0.3, axis=0)
    ours = HypervolumeImprovement(gps, reference, X, np.ones(len(X), dtype=bool), draws=1, seed=0)
    partitioning = NondominatedPartitioning(torch.from_numpy(reference), torch.from_numpy(Y))
    model = ModelListGP(*(gp.to_botorch() for gp in gps))
    return ours, ExpectedHypervolumeImprovement(model, reference.tolist(), partitioning)


@pytest.mark.parametrize("objectives", [2, 3])
def test_exact_values_against_botorch(objectives: int) -> None:
    ours, theirs = exact(objectives)
    X = np.random.default_rng(1).random((32, 2))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(X[:, None])).numpy()
    value = np.exp(ours(X)[0])
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-9)
    assert (expected > 1e-3).any()


@pytest.mark.parametrize("draws", [1, 8])
@pytest.mark.parametrize("objectives", [2, 3])
def test_the_gradient_against_differences(objectives: int, draws: int) -> None:
    gps = processes(objectives, noise=0.05)
    X = gps[0].data.X
    attainable = np.arange(len(X)) % 4 != 0
    acquisition = HypervolumeImprovement(gps, np.full(objectives, -1.0), X, attainable, draws=draws, seed=3)
    x = np.random.default_rng(2).random((12, 2))
    _, gradient = acquisition(x)
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        numeric = (acquisition(x + step)[0] - acquisition(x - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, j], numeric, rtol=2e-4, atol=1e-5)


def test_noise_and_pending_trials_are_averaged_over() -> None:
    gps = processes(2, noise=0.2)
    base = np.concatenate([gps[0].data.X, [[0.5, 0.5]]])
    reference = np.array([-1.0, -1.0])
    everywhere = np.ones(len(base), dtype=bool)
    many = HypervolumeImprovement(gps, reference, base, everywhere, draws=4096, seed=0)
    rng = np.random.default_rng(5)
    X = rng.random((64, 2))
    x = X[[many(X)[0].argmax()]]  # elsewhere the average hangs on a few draws
    joint = [gp.joint(np.concatenate([base, x])) for gp in gps]
    draws = [
        m[:, None] + np.linalg.cholesky(c + 1e-9 * np.eye(len(c))) @ rng.standard_normal((len(c), 4_000))
        for m, c in joint
    ]
    Y = np.stack(draws, axis=2)  # (points, draws, objectives)
    gains = [added(Y[:-1, s], Y[-1, s], reference) for s in range(Y.shape[1])]
    error = 4 * np.std(gains) / math.sqrt(len(gains))
    assert abs(math.exp(many(x)[0][0]) - np.mean(gains)) < error + 0.03 * np.mean(gains)


def added(front: np.ndarray, y: np.ndarray, reference: np.ndarray) -> float:
    return area(np.vstack([front, y]), reference) - area(front, reference)


def area(Y: np.ndarray, reference: np.ndarray) -> float:
    """What two-objective points dominate above the reference."""
    total, height = 0.0, reference[1]
    for a, b in sorted(map(tuple, np.maximum(Y, reference)), reverse=True):
        if b > height:
            total += (a - reference[0]) * (b - height)
            height = b
    return total


coordinates = st.integers(-1, 5)


@given(st.lists(st.tuples(coordinates, coordinates), max_size=8), coordinates, coordinates)
def test_boxes_hold_exactly_what_is_not_dominated(points: list[tuple[int, int]], a: int, b: int) -> None:
    Y = np.array(points, dtype=float).reshape(-1, 2)
    reference = np.zeros(2)
    y = np.array([a, b]) + 0.5
    lower, upper = boxes(Y, reference)
    volume = float(np.prod(np.maximum(np.minimum(y, upper) - lower, 0.0), axis=1).sum())
    assert volume == pytest.approx(added(Y, y, reference))


def test_far_below_the_front_there_is_still_a_direction() -> None:
    gps = processes(2)
    X = gps[0].data.X
    acquisition = HypervolumeImprovement(gps, np.array([30.0, 30.0]), X, np.ones(len(X), dtype=bool), draws=1, seed=0)
    value, gradient = acquisition(np.random.default_rng(0).random((16, 2)))
    assert np.isfinite(value).all()
    assert (value < -100).all()
    assert (np.abs(gradient).max(1) > 0).all()


@given(st.floats(-40.0, 40.0), st.floats(-9.0, 1.5))
def test_a_box_of_any_width_against_quadrature(z: float, log_width: float) -> None:
    width = 10.0**log_width
    log, by_mean, by_sd = (float(v[0, 0, 0]) for v in _between(np.array([[[z]]]), np.array([[[width]]])))
    # h(z) - h(z - width) is the integral of Phi, and the differences are those of its end points
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = z - 0.5 * width * (1.0 + nodes)
    logs = log_ndtr(t)
    integral = float(logs.max() + np.log(0.5 * width * (weights * np.exp(logs - logs.max())).sum()))
    assert log == pytest.approx(integral, rel=1e-6, abs=1e-5)
    slope = float((weights * np.exp(-0.5 * t * t - 0.5 * math.log(2 * math.pi) - logs.max())).sum())
    assert by_mean == pytest.approx(slope / float((weights * np.exp(logs - logs.max())).sum()), rel=1e-3, abs=1e-6)
    assert math.isfinite(by_sd)
