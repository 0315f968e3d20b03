"""Probability of improvement and upper confidence bound against BoTorch, simulation and finite differences."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import LogProbabilityOfImprovement, UpperConfidenceBound
from hypothesis import given
from hypothesis import strategies as st

from suffice.optimizer import Float, Space, Study
from suffice.optimizer.acquisition import Situation, log_positive_part
from suffice.optimizer.bounds import ProbabilityOfImprovement, hallucinated, upper_confidence_bound
from suffice.optimizer.methods import METHODS
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters

X_TEST = np.random.default_rng(5).random((7, 2))
PENDING = np.array([[0.3, 0.9], [0.6, 0.1]])
NONE = PENDING[:0]


def process(noise: float = 1e-6, n: int = 9) -> GaussianProcess:
    rng = np.random.default_rng(0)
    X = rng.random((n, 2))
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 + math.sqrt(noise) * rng.standard_normal(n)
    data = Data(X, (y - y.mean()) / y.std(), np.full(n, math.nan), np.arange(2))
    return GaussianProcess(data, Hyperparameters(np.array([0.4, 0.7]), 1.3, noise))


def situation(gp: GaussianProcess, pending: np.ndarray = NONE, *, noisy: bool = False) -> Situation:
    base = np.concatenate([gp.data.X, pending])
    return Situation(gp, base, np.ones(len(base), dtype=bool), pending, noisy, Space(x=Float(0, 1), y=Float(0, 1)), 0)


# --- probability of improvement ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_the_probability_of_improvement_is_that_of_botorch(margin: float) -> None:
    gp = process(1e-8)
    ours, _ = METHODS["probability_of_improvement"].build(situation(gp), {"margin": margin})(X_TEST)
    acquisition = LogProbabilityOfImprovement(gp.to_botorch(), best_f=gp.data.y.max() + margin)
    theirs = acquisition(torch.from_numpy(X_TEST)[:, None]).detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-3)


def test_with_noise_and_pending_trials_it_is_the_share_of_draws_that_improve() -> None:
    gp, margin = process(0.05), 0.1
    s = situation(gp, PENDING, noisy=True)
    acquisition = ProbabilityOfImprovement(gp, s.base, s.attainable, draws=4096, seed=0)
    acquisition.margin = margin
    mean, covariance = gp.joint(np.concatenate([X_TEST, s.base]))
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, 40_000, method="eigh")
    share = (draws[:, :7] > draws[:, 7:].max(1)[:, None] + margin).mean(0)
    np.testing.assert_allclose(np.exp(acquisition(X_TEST)[0]), share, atol=0.012)


def test_it_is_right_far_below_what_a_float_can_hold() -> None:
    gp = process(1e-8)
    acquisition = METHODS["probability_of_improvement"].build(situation(gp), {"margin": 10.0})
    x = gp.data.X[gp.data.y.argmin()][None] + 0.02
    (value,), (gradient,) = acquisition(x)
    with mpmath.workdps(40):
        mean, sd = (mpmath.mpf(float(a[0])) for a in gp.posterior(x))
        expected = mpmath.log(mpmath.ncdf((mean - gp.data.y.max() - 10) / sd))
    assert value == pytest.approx(float(expected), rel=1e-3)
    assert value < -1e4
    assert np.isfinite(gradient).all()


# --- upper confidence bound -------------------------------------------------------------------------------------------


def test_the_bound_is_that_of_botorch() -> None:
    gp = process(0.05)
    acquisition = upper_confidence_bound(situation(gp), beta=2.5)
    theirs = UpperConfidenceBound(gp.to_botorch(), beta=2.5)(torch.from_numpy(X_TEST)[:, None])
    np.testing.assert_allclose(acquisition.bound(X_TEST)[0], theirs.detach().numpy(), rtol=1e-6)


def test_its_logarithm_keeps_the_order_and_is_that_of_the_possible_rise() -> None:
    gp = process(0.05)
    acquisition = upper_confidence_bound(situation(gp), beta=1.0)
    X = np.random.default_rng(0).random((200, 2))
    bound, value = acquisition.bound(X)[0], acquisition(X)[0]
    np.testing.assert_array_equal(np.argsort(bound), np.argsort(value))
    rise = bound - gp.posterior(gp.data.X)[0].max()
    np.testing.assert_allclose(np.exp(value[rise > 0.02]), rise[rise > 0.02], rtol=1e-8)
    assert (rise < -0.5).any()
    assert np.isfinite(value).all()


@pytest.mark.parametrize("noise", [1e-8, 0.05])
def test_pending_results_come_out_as_expected(noise: float) -> None:
    gp = process(noise)
    grown = hallucinated(gp, PENDING)
    np.testing.assert_allclose(grown.posterior(X_TEST)[0], gp.posterior(X_TEST)[0], atol=1e-6)
    _, C = gp.joint(np.concatenate([X_TEST, PENDING]))
    B = C[7:, 7:] + noise * np.eye(2)
    variance = np.diag(C)[:7] - np.einsum("ij,ij->i", C[:7, 7:], np.linalg.solve(B, C[7:, :7]).T)
    np.testing.assert_allclose(grown.posterior(X_TEST)[1] ** 2, variance, atol=1e-7)


def test_a_known_noise_is_expected_of_pending_results_too() -> None:
    gp = process(0.05)
    known = Data(gp.data.X, gp.data.y, np.full(9, 0.05), gp.data.groups)
    ours = hallucinated(GaussianProcess(known, gp.hyperparameters), PENDING).posterior(X_TEST)
    np.testing.assert_allclose(ours, hallucinated(gp, PENDING).posterior(X_TEST))


@given(st.floats(-1e6, 1e3), st.floats(1e-3, 1e3))
def test_the_log_of_the_positive_part_rises_and_has_no_bottom(u: float, step: float) -> None:
    value, slope = log_positive_part(np.array([u, u + step]), 1e-3)
    assert value[0] < value[1]
    assert (slope > 0).all()
    if u > 0.05:
        assert value[0] == pytest.approx(math.log(u), abs=1e-12)


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["probability_of_improvement", "upper_confidence_bound"])
@pytest.mark.parametrize("pending", [NONE, PENDING], ids=["alone", "pending"])
@pytest.mark.parametrize("noisy", [False, True])
def test_gradients(name: str, pending: np.ndarray, noisy: bool) -> None:
    gp = process(0.05 if noisy else 1e-6)
    acquisition = METHODS[name].build(situation(gp, pending, noisy=noisy), {})
    value, gradient = acquisition(X_TEST)
    assert np.isfinite(value).all()
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        numeric = (acquisition(X_TEST + step)[0] - acquisition(X_TEST - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, j], numeric, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["probability_of_improvement", "upper_confidence_bound"])
def test_a_pending_point_lowers_the_value_around_it(name: str) -> None:
    gp = process(1e-6)
    alone = METHODS[name].build(situation(gp), {})
    x = X_TEST[alone(X_TEST)[0].argmax()][None]
    beside = METHODS[name].build(situation(gp, x), {})
    assert beside(x + 1e-3)[0][0] < alone(x + 1e-3)[0][0] - 0.3


@pytest.mark.parametrize("name", ["probability_of_improvement", "upper_confidence_bound"])
def test_a_study_improves_within_its_constraint(name: str) -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1))
    study = Study(space, "minimize", acquisition=name, outcome_constraints=["weight <= 0.8"], seed=1)
    for _ in range(5):
        trials = study.ask(count=3)
        assert isinstance(trials, list)
        for trial in trials:
            x, y = trial.params["x"], trial.params["y"]
            study.tell(trial, {"objective": (x - 0.3) ** 2 + (y - 0.9) ** 2, "weight": x + y})
    assert name in {t.source.method for t in study.trials}
    best = study.best
    assert best.params["x"] + best.params["y"] <= 0.81
    assert best.mean is not None
    assert best.mean < 0.11  # the constrained minimum is 0.08
