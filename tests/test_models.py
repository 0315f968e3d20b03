"""The Gaussian process against GPyTorch, finite differences and refitting."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from scipy.optimize import approx_fprime, check_grad

from suffice.optimizer import Categorical, Float, Int, Space
from suffice.optimizer.fitting import Free, Prior, condition_safely, fit, negative_log_posterior, refine
from suffice.optimizer.kernel import matern52, squared_distance
from suffice.optimizer.models import Data, FitError, GaussianProcess, Hyperparameters
from suffice.optimizer.plain_loss import PlainLoss

SPACE = Space(x=Float(0, 1), n=Int(1, 9), c=Categorical("a", "b", "c"), y=Float(0, 1, active_if="c == 'b'"))


def data(n: int = 12, *, known: float = math.nan, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    X = SPACE.sample(n, rng)
    y = np.sin(5 * X[:, 0]) + X[:, 2] - X[:, 5] + 0.1 * rng.standard_normal(n)
    return Data(X, (y - y.mean()) / y.std(), np.full(n, known), SPACE.groups)


HYPER = Hyperparameters(np.array([0.3, 0.8, 1.4, 0.6, 2.0]), 1.7, 0.02)


def test_kernel_is_gpytorchs_matern() -> None:
    d = data()
    scale = HYPER.lengthscales[d.groups]
    kernel = MaternKernel(nu=2.5, ard_num_dims=d.X.shape[1]).double()
    kernel.lengthscale = torch.from_numpy(scale)
    expected = kernel(torch.from_numpy(d.X)).to_dense().detach().numpy()
    np.testing.assert_allclose(matern52(squared_distance(d.X / scale, d.X / scale))[0], expected, atol=1e-7)


def test_kernel_slope_is_its_derivative() -> None:
    r2 = np.array([1e-4, 0.1, 1.0, 7.0])
    h = 1e-6
    numeric = (matern52(r2 + h)[0] - matern52(r2 - h)[0]) / (2 * h)
    np.testing.assert_allclose(matern52(r2)[1], numeric, rtol=1e-5)


def test_marginal_likelihood_agrees_with_gpytorch() -> None:
    d = data()
    theta = np.log(np.concatenate([HYPER.lengthscales, [HYPER.signal, HYPER.noise]]))
    ours, _ = negative_log_posterior(theta, d, Prior(), Free(noise=True), HYPER)
    prior, _ = Prior().negative_log(theta, 5)
    model = GaussianProcess(d, HYPER).to_botorch()
    assert isinstance(model.covar_module, ScaleKernel)
    assert isinstance(model.likelihood, FixedNoiseGaussianLikelihood)
    model.train()
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    theirs = -12 * mll(model(model.train_inputs[0]), model.train_targets).item()
    m = GaussianProcess(d, HYPER).hyperparameters.mean
    assert ours - prior - 0.5 * m * m + 0.5 * 12 * math.log(2 * math.pi) == pytest.approx(theirs, rel=1e-7)


@pytest.mark.parametrize("known", [math.nan, 0.05])
def test_gradient_of_the_posterior_density(known: float) -> None:
    d = data(known=known)
    theta = np.log(np.concatenate([HYPER.lengthscales, [HYPER.signal], [HYPER.noise] if math.isnan(known) else []]))

    free = Free(noise=math.isnan(known))

    def value(t: np.ndarray) -> float:
        return negative_log_posterior(t, d, Prior(), free, HYPER)[0]

    _, gradient = negative_log_posterior(theta, d, Prior(), free, HYPER)
    np.testing.assert_allclose(gradient, approx_fprime(theta, value, 1e-6), rtol=1e-3, atol=1e-3)


def test_posterior_agrees_with_botorch() -> None:
    gp = GaussianProcess(data(), HYPER)
    X = SPACE.sample(20, np.random.default_rng(3))
    theirs: Any = gp.to_botorch().posterior(torch.from_numpy(X))
    mean, sd = gp.posterior(X)
    joint_mean, covariance = gp.joint(X)
    np.testing.assert_allclose(mean, theirs.mean[:, 0].numpy(), atol=1e-6)
    np.testing.assert_allclose(sd, theirs.variance[:, 0].sqrt().numpy(), atol=1e-6)
    np.testing.assert_allclose(joint_mean, mean)
    np.testing.assert_allclose(covariance, theirs.covariance_matrix.numpy(), atol=1e-6)


def test_leave_one_out_agrees_with_leaving_each_out() -> None:
    d = data()
    gp = GaussianProcess(d, HYPER)
    mean, sd = gp.leave_one_out()
    for i in range(len(d.y)):
        keep = np.arange(len(d.y)) != i
        # the constant mean is estimated from all points there and must be the same here
        rest = Data(d.X[keep], d.y[keep] - gp.hyperparameters.mean, d.known_noise[keep], d.groups)
        other = GaussianProcess(rest, HYPER)
        k = other.kernel.covariance(d.X[i : i + 1], rest.X)
        weights = np.linalg.solve(other.kernel.covariance(rest.X, rest.X) + np.diag(rest.diagonal(HYPER.noise)), rest.y)
        assert mean[i] == pytest.approx((k @ weights).item() + gp.hyperparameters.mean, abs=1e-8)
        assert sd[i] == pytest.approx(
            math.hypot(other.posterior(d.X[i : i + 1])[1][0], math.sqrt(HYPER.noise)), abs=1e-8
        )


def test_what_a_trial_measured_is_left_out_together() -> None:
    d = data(7)
    gp = GaussianProcess(d, HYPER)
    trials = np.array([0, 1, 1, 2, 3, 1, 4])
    mean, sd = gp.leave_one_out(trials)
    alone = gp.leave_one_out()
    np.testing.assert_allclose([mean[0], sd[0]], [alone[0][0], alone[1][0]])
    rest = trials != 1
    others = GaussianProcess(Data(d.X[rest], d.y[rest], d.known_noise[rest], d.groups), HYPER)
    k, m = others.kernel.covariance(d.X, d.X[rest]), gp.hyperparameters.mean
    K = others.kernel.covariance(d.X[rest], d.X[rest]) + np.diag(others.noise)
    np.testing.assert_allclose(mean[~rest], m + k[~rest] @ np.linalg.solve(K, d.y[rest] - m), atol=1e-8)
    noisy = np.hypot(others.posterior(d.X[~rest])[1], math.sqrt(HYPER.noise))
    np.testing.assert_allclose(sd[~rest], noisy, atol=1e-8)


def test_order_of_observations_does_not_matter() -> None:
    d = data(20)
    order = np.random.default_rng(1).permutation(20)
    a = fit(d, Prior(), noise=None).hyperparameters
    b = fit(Data(d.X[order], d.y[order], d.known_noise[order], d.groups), Prior(), noise=None).hyperparameters
    np.testing.assert_allclose(np.log(a.lengthscales), np.log(b.lengthscales), atol=2e-2)
    assert a.noise == pytest.approx(b.noise, rel=0.05, abs=1e-6)


def test_fit_recovers_noise_and_irrelevance() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((80, 2))
    y = np.sin(6 * X[:, 0])
    noisy = y + 0.3 * rng.standard_normal(80)
    d = Data(X, (noisy - noisy.mean()) / noisy.std(), np.full(80, math.nan), np.arange(2))
    h = fit(d, Prior(), noise=None).hyperparameters
    assert math.sqrt(h.noise) * noisy.std() == pytest.approx(0.3, rel=0.3)
    assert h.lengthscales[1] > 4 * h.lengthscales[0]


def test_known_noise_is_used_point_by_point() -> None:
    X = np.array([[0.2], [0.8]])
    d = Data(X, np.array([1.0, -1.0]), np.array([1e-6, 1.0]), np.arange(1))
    gp = GaussianProcess(d, Hyperparameters(np.array([0.1]), 1.0, 0.5))
    mean, sd = gp.posterior(X)
    assert sd[0] < 0.01 < 0.5 < sd[1]
    assert abs(mean[0] - 1.0) < 0.01
    assert abs(mean[1] + 1.0) > 0.3


def test_refining_from_a_part_reaches_the_optimum_of_the_whole() -> None:
    d = data(60)
    part = Data(d.X[:30], d.y[:30], d.known_noise[:30], d.groups)
    whole = fit(d, Prior(), noise=None)
    refined = refine(d, Prior(), fit(part, Prior(), noise=None).hyperparameters)
    assert refined.loss == pytest.approx(whole.loss, abs=0.5)


def test_hyperparameters_stay_while_the_slope_promises_little() -> None:
    d = data(40)
    found = fit(d, Prior(), noise=None).hyperparameters
    assert refine(d, Prior(), found).hyperparameters.lengthscales is found.lengthscales
    away = replace(found, lengthscales=2.0 * found.lengthscales)
    assert refine(d, Prior(), away).loss == pytest.approx(refine(d, Prior(), found).loss, abs=0.5)


@pytest.mark.parametrize("known", [1e-8, 0.04, math.nan])
def test_the_fast_loss_is_the_loss(known: float) -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.random((12, 2)), np.eye(3)[rng.integers(3, size=12)]])  # a categorical's columns
    noise = np.full(12, known)
    noise[4] = 0.01
    extra = np.where(np.arange(12) == 2, 0.5, 0.0)
    d = Data(X, rng.standard_normal(12), noise, np.array([0, 1, 2, 2, 2]), extra=extra)
    free = Free(noise=math.isnan(known))
    h = Hyperparameters(np.array([0.3, 0.7, 1.1]), 1.3, 0.02)
    theta = free.write(h)
    fast = PlainLoss(d, Prior().negative_log, infer=free.noise, noise=h.noise)
    value, gradient = fast(theta)
    expected, slope = negative_log_posterior(theta, d, Prior(), free, h)
    assert PlainLoss.suits(d)
    assert value == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(gradient, slope, atol=1e-8)
    assert check_grad(lambda t: fast(t)[0], lambda t: fast(t)[1], theta) < 1e-5


def test_repeated_rows_without_noise_are_survived_and_named() -> None:
    X = np.repeat(np.array([[0.5, 0.5]]), 6, axis=0)
    d = Data(X, np.array([0.0, 1.0, -1.0, 2.0, -2.0, 0.0]), np.full(6, 1e-8), np.arange(2))
    gp, steps = condition_safely(d, Prior(), Hyperparameters(np.ones(2), 1.0, 1e-8))
    assert np.isfinite(gp.posterior(X)[0]).all()
    assert all(step.startswith("jitter") for step in steps)


def test_a_fit_that_fails_falls_back_in_named_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    gp, steps = condition_safely(data(), Prior(), None)
    assert steps == ("wider noise",)
    broken = Hyperparameters(np.full(5, math.nan), 1.0, 1e-3)
    gp, steps = condition_safely(data(), Prior(), broken)
    assert steps == ("wider noise", "hyperparameters from the priors")
    assert np.isfinite(gp.alpha).all()
    bad = data()
    with pytest.raises(FitError):
        condition_safely(Data(bad.X * math.nan, bad.y, bad.known_noise, bad.groups), Prior(), None)
