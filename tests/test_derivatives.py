"""Observed derivatives: from parameters to columns, in the model and in the acquisitions, and what they are worth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

from suffice.optimizer import Categorical, Float, Int, InvalidInput, Measurement, Space, Study
from suffice.optimizer.acquisition import Draws, NoisyExpectedImprovement, normal_draws, posterior_with_gradient
from suffice.optimizer.additive import Growth, Shares
from suffice.optimizer.bounds import hallucinated
from suffice.optimizer.fitting import Free, Prior, fit, negative_log_posterior
from suffice.optimizer.models import Data, GaussianProcess, Gradients, Hyperparameters
from suffice.optimizer.objective import Scale
from suffice.optimizer.results import Results
from suffice.optimizer.thompson import Paths
from suffice.optimizer.trial import Trial, TrialState
from suffice.optimizer.warping import Warp

HYPER = Hyperparameters(np.array([0.5, 0.8]), 1.3, 1e-3, slope_noise=1e-2)
X_TEST = np.random.default_rng(7).random((6, 2))


def f(X: np.ndarray) -> np.ndarray:
    return np.asarray(np.sin(4 * X[:, 0]) + X[:, 1] ** 2 * X[:, 0])


def slopes(X: np.ndarray) -> np.ndarray:
    return np.column_stack([4 * np.cos(4 * X[:, 0]) + X[:, 1] ** 2, 2 * X[:, 1] * X[:, 0]])


def data(n: int = 6, *, partial: bool = True, noise: float = math.nan) -> Data:
    """Values at n rows; both derivatives at the first, one at the third and both at the fourth."""
    X = np.random.default_rng(3).random((n, 2))
    row, column = np.array([0, 0, 2, 3, 3]), np.array([0, 1, 1, 0, 1])
    if not partial:
        row, column = np.repeat(np.arange(n), 2), np.tile([0, 1], n)
    return Data(X, f(X), np.full(n, noise), np.arange(2), Gradients(row, column, slopes(X)[row, column]))


def dense(d: Data, h: Hyperparameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everything observed, its prior mean's basis and its covariance with noise, written out."""
    sites = d.sites(h.kernel(d.groups))
    return d.targets, sites.basis, sites.covariance() + np.diag(d.noise(h))


# --- chain rules ------------------------------------------------------------------------------------------------------


def test_derivatives_by_parameter_become_derivatives_in_columns() -> None:
    numbers = {"n": Int(1, 64, log=True), "m": Int(0, 9)}
    space = Space(numbers, a=Float(-2, 6), c=Categorical("u", "v"), b=Float(1e-3, 10, log=True))
    params = {"a": 1.5, "c": "u", "b": 0.2, "n": 8, "m": 3}

    def along(u: np.ndarray) -> float:  # a function of the parameters, whole numbers relaxed
        n, m, a, b = 64.0 ** u[0], 9 * u[1], -2 + 8 * u[2], 1e-3 * 1e4 ** u[5]
        return float(a * a * b + np.sin(b) * n + m**2 * a)

    a, b, n, m = 1.5, 0.2, 8.0, 3.0
    gradient = {"a": 2 * a * b + m * m, "b": a * a + math.cos(b) * n, "n": math.sin(b), "m": 2 * m * a}
    row = space.slopes(params, gradient)
    expected = approx_fprime(space.encode([params])[0], along, 1e-7)
    assert np.isnan(row).tolist() == [False, False, False, True, True, False]
    np.testing.assert_allclose(row[[0, 1, 2, 5]], expected[[0, 1, 2, 5]], rtol=1e-5)


@pytest.mark.parametrize("headroom", [None, 0.1])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_derivatives_follow_the_scale_of_y(sign: float, headroom: float | None) -> None:
    X = np.random.default_rng(0).random((5, 2))
    values, G = f(X), slopes(X)
    scale = Scale.of(values, sign, headroom)
    results = Results(X, values, np.full(5, np.nan), np.arange(2), np.arange(5), slopes=G)
    gradients = results.on(scale).gradients
    assert gradients is not None
    numeric = [approx_fprime(x, lambda x: scale.forward(f(x[None]))[0], 1e-7) for x in X]
    np.testing.assert_allclose(gradients.values.reshape(5, 2), numeric, rtol=1e-4, atol=1e-5)


def test_derivatives_in_what_is_no_active_number_are_refused() -> None:
    space = Space(a=Float(0, 1), c=Categorical("u", "v"), b=Float(0, 1, active_if="c == 'u'"))
    study = Study(space, seed=0)
    trial = study.add({"a": 0.5, "c": "v"}, 1.0, gradient={"a": 2.0})
    assert trial.final[0].gradient == {"a": 2.0}
    for name in ("c", "b", "z"):
        with pytest.raises(InvalidInput, match=rf"measurements\.0\.gradient\.{name}.*\['a'\]"):
            study.add({"a": 0.5, "c": "v"}, 1.0, gradient={name: 1.0})
    running = study.ask()
    assert isinstance(running, Trial)
    with pytest.raises(InvalidInput, match=r"measurements\.0\.gradient\.c"):
        study.tell(running, Measurement("objective", 1.0, gradient={"c": 1.0}))


def test_with_too_many_observations_the_best_rows_keep_their_derivatives() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((60, 4))
    results = Results(X, X[:, 0], np.full(60, np.nan), np.arange(4), np.arange(60), slopes=np.ones((60, 4)))
    part = results.part(-1.0, 120)
    assert len(part) == 60
    assert part.observations.sum() == 120
    assert part.values[part.observations == 5].max() < part.values[part.observations == 1].min()
    assert len(results.part(-1.0, 40)) == 20
    assert results.part(-1.0, 300) is results


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warp", [None, Warp(np.array([0.7, 1.8]), np.array([1.4, 0.9]))])
@pytest.mark.parametrize("noise", [math.nan, 0.01])
@pytest.mark.parametrize("shares", [None, (0.3, 0.6, 0.1)])
def test_gradient_of_the_posterior_density(shares: Shares | None, noise: float, warp: Warp | None) -> None:
    d, h = data(noise=noise), replace(HYPER, warp=warp, apart=(False, True), shares=shares)
    free = Free(math.isnan(noise), True, () if warp is None else (0, 1))
    theta = free.write(h)

    def value(t: np.ndarray) -> float:
        return negative_log_posterior(t, d, Prior(), free, h)[0]

    found, gradient = negative_log_posterior(theta, d, Prior(), free, h)
    steps = 1e-5 * np.eye(len(theta))
    numeric = [(value(theta + s) - value(theta - s)) / 2e-5 for s in steps]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)
    y, basis, K = dense(d, free.read(theta, d, h))
    C = K + np.outer(basis, basis)  # the constant mean has the prior variance 1
    expected = 0.5 * y @ np.linalg.solve(C, y) + 0.5 * np.linalg.slogdet(K)[1]
    assert found - free.negative_log_prior(theta, 2, Prior())[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shares", [None, (0.3, 0.6, 0.1)])
@pytest.mark.parametrize("warp", [None, Warp(np.array([0.7, 1.8]), np.array([1.4, 0.9]))])
def test_the_posterior_is_that_of_the_joint_normal_distribution_and_botorchs(
    warp: Warp | None, shares: Shares | None
) -> None:
    d, h = data(), replace(HYPER, warp=warp, apart=(False, True), shares=shares)
    gp = GaussianProcess(d, h)
    y, basis, K = dense(d, h)
    k, m = gp.sites.cross(X_TEST).k, gp.hyperparameters.mean
    mean, covariance = gp.joint(X_TEST)
    np.testing.assert_allclose(mean, m + k @ np.linalg.solve(K, y - m * basis), rtol=1e-8)
    prior = gp.kernel.covariance(X_TEST, X_TEST)
    np.testing.assert_allclose(covariance, prior - k @ np.linalg.solve(K, k.T), atol=1e-8)
    theirs: Any = gp.to_botorch().posterior(torch.from_numpy(X_TEST))
    np.testing.assert_allclose(theirs.mean.detach().numpy()[:, 0], mean, atol=1e-6)
    np.testing.assert_allclose(theirs.distribution.covariance_matrix.detach().numpy(), covariance, atol=1e-6)
    single: Any = gp.to_botorch().posterior(torch.from_numpy(X_TEST)[:, None])
    np.testing.assert_allclose(single.variance.detach().numpy()[:, 0, 0], np.diag(covariance), atol=1e-6)


@pytest.mark.parametrize(
    "h",
    [
        replace(HYPER, warp=Warp(np.array([0.7, 1.0]), np.array([1.4, 1.0]))),
        replace(HYPER, apart=(False, True), shares=(0.3, 0.6, 0.1)),
        replace(HYPER, apart=(False, True), shares=(0.3, 0.6, 0.1), growth=Growth((0.0, 0.8), 1.5)),
    ],
    ids=["warp", "sum", "grown"],
)
def test_a_warp_or_a_sum_alone_is_handed_to_botorch(h: Hyperparameters) -> None:
    d = replace(data(), gradients=None)
    gp = GaussianProcess(d, h)
    theirs: Any = gp.to_botorch().posterior(torch.from_numpy(X_TEST))
    np.testing.assert_allclose(theirs.mean.detach().numpy()[:, 0], gp.posterior(X_TEST)[0], atol=1e-6)


def test_close_values_tell_the_same_as_derivatives() -> None:
    d = data(partial=False)
    assert d.gradients is not None
    h = replace(HYPER, noise=1e-8, slope_noise=1e-10)
    with_slopes = GaussianProcess(d, h)
    near = np.concatenate([d.X, *(d.X + 1e-3 * np.eye(2)[c] for c in range(2))])
    with_values = GaussianProcess(Data(near, f(near), np.full(18, math.nan), np.arange(2)), replace(h, noise=1e-8))
    (mean, sd), (mean_v, sd_v) = with_slopes.posterior(X_TEST), with_values.posterior(X_TEST)
    np.testing.assert_allclose(mean, mean_v, atol=0.01)
    np.testing.assert_allclose(sd, sd_v, atol=0.02)
    assert (sd < 0.7 * GaussianProcess(replace(d, gradients=None), h).posterior(X_TEST)[1]).all()


def test_a_value_is_left_out_together_with_its_derivatives() -> None:
    d = data()
    gp = GaussianProcess(d, HYPER)
    assert d.gradients is not None
    mean, sd = gp.leave_one_out()
    y, basis, K = dense(d, HYPER)
    y = y - gp.hyperparameters.mean * basis
    for i in range(len(d.y)):
        own = gp.sites.row == i
        k = K[i, ~own]
        assert mean[i] - gp.hyperparameters.mean == pytest.approx(k @ np.linalg.solve(K[np.ix_(~own, ~own)], y[~own]))
        assert sd[i] ** 2 == pytest.approx(K[i, i] - k @ np.linalg.solve(K[np.ix_(~own, ~own)], k))


def test_noise_of_derivatives_is_inferred_where_the_data_speak_for_it() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((15, 2))
    row, column = np.repeat(np.arange(15), 2), np.tile([0, 1], 15)
    exact = Gradients(row, column, slopes(X).ravel())
    noisy = replace(exact, values=exact.values + 0.5 * np.sqrt(exact.mean_square) * rng.standard_normal(30))
    d = Data(X, f(X) / f(X).std(), np.full(15, 1e-8), np.arange(2), replace(exact, values=exact.values / f(X).std()))
    assert fit(d, Prior(), noise=None).hyperparameters.slope_noise == pytest.approx(1e-8)
    found = fit(replace(d, gradients=replace(noisy, values=noisy.values / f(X).std())), Prior(), noise=None)
    assert 0.08 < found.hyperparameters.slope_noise < 0.6  # the variance is 0.25, less what the ratio's unit gained


# --- acquisitions -----------------------------------------------------------------------------------------------------


def test_posterior_gradients_and_expected_improvement() -> None:
    gp = GaussianProcess(data(), HYPER)
    mean, sd, d_mean, d_sd = posterior_with_gradient(gp, X_TEST)
    every = np.ones(6, dtype=bool)
    improvement = NoisyExpectedImprovement(gp, gp.data.X, every, draws=16, seed=0)
    value, gradient = improvement(X_TEST)
    for i, x in enumerate(X_TEST):
        numeric = approx_fprime(x, lambda x: np.array([p[0] for p in gp.posterior(x[None])]), 1e-6)
        np.testing.assert_allclose([d_mean[i], d_sd[i]], numeric, atol=1e-4)
        np.testing.assert_allclose(gradient[i], approx_fprime(x, lambda x: improvement(x[None])[0][0], 1e-6), rtol=1e-3)
    assert np.isfinite(value).all()
    np.testing.assert_allclose((mean, sd), gp.posterior(X_TEST))


def test_draws_at_base_points_average_to_the_posterior() -> None:
    gp = GaussianProcess(data(), replace(HYPER, noise=0.05, slope_noise=0.1))
    drawn = Draws(gp, gp.data.X, normal_draws(6, 1024, 0)).at(X_TEST)
    mean, sd = gp.posterior(X_TEST)
    np.testing.assert_allclose(drawn.mean.mean(1), mean, atol=5e-3)
    np.testing.assert_allclose(np.sqrt(drawn.sd**2 + drawn.mean.var(1)), sd, rtol=0.02)


@pytest.mark.parametrize("shares", [None, (0.3, 0.6, 0.1)])
def test_paths_are_draws_from_the_posterior(shares: Shares | None) -> None:
    gp = GaussianProcess(data(), replace(HYPER, apart=(False, True), shares=shares))
    mean, sd = gp.posterior(X_TEST)
    paths = [Paths(gp, count=8, features=256, rng=np.random.default_rng(s)) for s in range(150)]
    values = np.concatenate([p(X_TEST) for p in paths], axis=1)
    np.testing.assert_allclose(values.mean(1), mean, atol=0.06)
    np.testing.assert_allclose(values.std(1), sd, rtol=0.2)
    _, slope = paths[0].along(3)(X_TEST)
    numeric = [approx_fprime(x, lambda x: paths[0].along(3)(x[None])[0][0], 1e-6) for x in X_TEST]
    np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-3)


def test_imagined_results_leave_derivatives_in_place() -> None:
    gp = GaussianProcess(data(), HYPER)
    grown = hallucinated(gp, X_TEST[:2])
    assert (grown.posterior(X_TEST)[1][:2] < gp.posterior(X_TEST)[1][:2]).all()
    np.testing.assert_allclose(grown.posterior(X_TEST)[0], gp.posterior(X_TEST)[0], atol=0.02)


# --- studies ----------------------------------------------------------------------------------------------------------


def regret(*, gradients: bool, trials: int, seed: int) -> float:
    """Of a rotated valley with ripples in five dimensions, after so many trials."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    centre, weights = rng.uniform(0.3, 0.7, 5), np.array([1.0, 3.0, 10.0, 2.0, 5.0])
    space = Space({f"x{i}": Float(0, 1) for i in range(5)})
    study = Study(space, seed=seed, noise="none")
    for _ in range(trials):
        trial = study.ask()
        assert isinstance(trial, Trial)
        z = Q @ (np.array(list(trial.params.values())) - centre)
        value = float(weights @ z**2) + 0.2 * float(np.sin(6 * z).sum() ** 2)
        slope = Q.T @ (2 * weights * z + 2.4 * np.sin(6 * z).sum() * np.cos(6 * z))
        told = dict(zip(trial.params, (float(g) for g in slope), strict=True))
        study.tell(trial, value, gradient=told if gradients else None)
    return study.best.trial.value


def test_with_derivatives_a_few_trials_do() -> None:
    assert regret(gradients=True, trials=18, seed=1) < 0.3 * regret(gradients=False, trials=36, seed=1)


@pytest.mark.parametrize("name", ["thompson", "entropy_search", "knowledge_gradient", "upper_confidence_bound"])
def test_every_acquisition_works_beside_derivatives(name: str) -> None:
    study = Study(Space(x=Float(0, 1), y=Float(0, 1)), "maximize", acquisition=name, seed=0)
    for x in X_TEST:
        gradient = {"x": float(slopes(x[None])[0, 0])}
        study.add({"x": x[0], "y": x[1]}, float(f(x[None])[0]), gradient=gradient)
    suggestion = study.ask()
    assert isinstance(suggestion, Trial)
    assert suggestion.state is TrialState.RUNNING
    assert suggestion.source.method == name
