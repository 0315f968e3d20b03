"""Expected improvement against arbitrary precision, quadrature, finite differences and BoTorch."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import LogExpectedImprovement
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.sampling.normal import SobolQMCNormalSampler
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from suffice.optimizer.acquisition import LogFeasibility, NoisyExpectedImprovement, log_h, posterior_with_gradient
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters


def process(noise: float = 1e-6, n: int = 9, seed: int = 0) -> GaussianProcess:
    rng = np.random.default_rng(seed)
    X = rng.random((n, 2))
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 + math.sqrt(noise) * rng.standard_normal(n)
    data = Data(X, (y - y.mean()) / y.std(), np.full(n, math.nan), np.arange(2))
    return GaussianProcess(data, Hyperparameters(np.array([0.4, 0.7]), 1.3, noise))


def everywhere(gp: GaussianProcess) -> np.ndarray:
    return np.ones(len(gp.data.X), dtype=bool)


X_TEST = np.random.default_rng(5).random((7, 2))


@pytest.mark.parametrize("z", [8.0, 1.0, 0.0, -0.5, -0.999, -1.001, -3.0, -12.0, -40.0, -1e3, -9.9e3, -1.01e4, -1e6])
def test_log_h_to_the_last_digits(z: float) -> None:
    with mpmath.workdps(60):
        x = mpmath.mpf(z)
        h = mpmath.npdf(x) + x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2
        expected = float(mpmath.log(h))
    assert log_h(np.array([z]))[0] == pytest.approx(expected, rel=1e-7, abs=1e-12)


@given(st.floats(-1e5, 30), st.floats(1e-3, 10))
def test_log_h_rises_with_z(z: float, step: float) -> None:
    a, b = log_h(np.array([z, z + step]))
    assert a <= b


def test_expected_improvement_against_quadrature_and_botorch() -> None:
    gp = process(1e-8)
    acquisition = NoisyExpectedImprovement(gp, gp.data.X, everywhere(gp), draws=1, seed=0)
    ours, _ = acquisition(X_TEST)
    best = gp.data.y.max()
    theirs = LogExpectedImprovement(gp.to_botorch(), best_f=best)(torch.from_numpy(X_TEST)[:, None])
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=2e-3)
    for i, (mean, sd) in enumerate(zip(*gp.posterior(X_TEST), strict=True)):
        if ours[i] > -15:
            integral = quad(lambda f, m=mean, s=sd: (f - best) * norm.pdf(f, m, s), best, best + 12 * sd)[0]
            assert math.exp(ours[i]) == pytest.approx(integral, rel=5e-3)


def test_noisy_expected_improvement_agrees_with_botorch() -> None:
    gp = process(0.05)
    pending = np.array([[0.3, 0.9], [0.6, 0.1]])
    base = np.concatenate([gp.data.X, pending])
    ours = NoisyExpectedImprovement(gp, base, np.ones(len(base), dtype=bool), draws=4096, seed=0)(X_TEST)[0]
    theirs = qLogNoisyExpectedImprovement(
        gp.to_botorch(),
        X_baseline=torch.from_numpy(base),
        sampler=SobolQMCNormalSampler(torch.Size([8192]), seed=1),
        prune_baseline=False,
        tau_relu=1e-8,
        tau_max=1e-4,
    )(torch.from_numpy(X_TEST)[:, None])
    np.testing.assert_allclose(np.exp(ours), np.exp(theirs.detach().numpy()), rtol=0.05, atol=2e-4)


@pytest.mark.parametrize(("noise", "draws"), [(1e-6, 1), (0.05, 32)])
def test_gradient_of_noisy_expected_improvement(noise: float, draws: int) -> None:
    gp = process(noise)
    acquisition = NoisyExpectedImprovement(gp, gp.data.X, everywhere(gp), draws=draws, seed=0)
    value, gradient = acquisition(X_TEST)
    assert np.isfinite(value).all()
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        numeric = (acquisition(X_TEST + step)[0] - acquisition(X_TEST - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, j], numeric, rtol=2e-3, atol=2e-3)


def test_gradients_of_posterior_and_feasibility() -> None:
    gp = process(0.01)
    feasibility = LogFeasibility([(gp, 0.2), (process(0.01, seed=1), -0.3)])
    mean, sd, d_mean, d_sd = posterior_with_gradient(gp, X_TEST)
    np.testing.assert_allclose(mean, gp.posterior(X_TEST)[0])
    np.testing.assert_allclose(sd, gp.posterior(X_TEST)[1], rtol=1e-6)
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        above, below = gp.posterior(X_TEST + step), gp.posterior(X_TEST - step)
        np.testing.assert_allclose(d_mean[:, j], (above[0] - below[0]) / (2 * h), atol=1e-5)
        np.testing.assert_allclose(d_sd[:, j], (above[1] - below[1]) / (2 * h), atol=1e-4)
        numeric = (feasibility(X_TEST + step)[0] - feasibility(X_TEST - step)[0]) / (2 * h)
        np.testing.assert_allclose(feasibility(X_TEST)[1][:, j], numeric, rtol=1e-4, atol=1e-4)


def test_a_pending_point_lowers_the_gain_around_it() -> None:
    gp = process(1e-6)
    alone = NoisyExpectedImprovement(gp, gp.data.X, everywhere(gp), draws=1, seed=0)
    x = X_TEST[alone(X_TEST)[0].argmax()][None]
    base = np.concatenate([gp.data.X, x])
    beside = NoisyExpectedImprovement(gp, base, np.ones(len(base), dtype=bool), draws=128, seed=0)
    assert beside(x + 1e-3)[0][0] < alone(x + 1e-3)[0][0] - 2.0
