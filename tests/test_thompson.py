"""Draws of functions: they have the posterior's mean and covariance, go through exact data, and differ in a batch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from suffice.optimizer import Float, Int, Space, Study
from suffice.optimizer.acquisition import LogFeasibility, Situation, Sum
from suffice.optimizer.additive import Growth
from suffice.optimizer.methods import METHODS
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.thompson import Paths, thompson

X_TEST = np.random.default_rng(5).random((7, 2))


def process(noise: float, n: int = 9) -> GaussianProcess:
    rng = np.random.default_rng(0)
    X = rng.random((n, 2))
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 + math.sqrt(noise) * rng.standard_normal(n)
    data = Data(X, (y - y.mean()) / y.std(), np.full(n, math.nan), np.arange(2))
    return GaussianProcess(data, Hyperparameters(np.array([0.4, 0.7]), 1.3, noise))


def situation(gp: GaussianProcess, seed: int = 0) -> Situation:
    every = np.ones(len(gp.data.X), dtype=bool)
    return Situation(gp, gp.data.X, every, np.empty((0, 2)), False, Space(x=Float(0, 1), y=Float(0, 1)), seed)


def draw(gp: GaussianProcess, seed: int, *, count: int = 1, features: int = 64) -> Paths:
    return Paths(gp, count=count, features=features, rng=np.random.default_rng(seed))


def additive(noise: float, growth: Growth | None = None) -> GaussianProcess:
    gp = process(noise)
    h = replace(gp.hyperparameters, apart=(False, True), shares=(0.3, 0.6, 0.1), growth=growth)
    return GaussianProcess(gp.data, h)


GROWTH = Growth((0.0, 0.8), 1.5)


@pytest.mark.parametrize(
    "gp", [process(1e-6), process(0.05), additive(0.05), additive(0.05, GROWTH)], ids=["exact", "noisy", "sum", "grown"]
)
def test_draws_have_the_posterior_mean_and_covariance(gp: GaussianProcess) -> None:
    mean, covariance = gp.joint(X_TEST)
    F = np.array([draw(gp, seed)(X_TEST)[:, 0] for seed in range(2000)])
    error = np.sqrt(np.diag(covariance) / len(F))
    np.testing.assert_array_less(np.abs(F.mean(0) - mean), 4 * error)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    # random frequencies make the draws a mixture, with somewhat heavier tails than a normal
    np.testing.assert_array_less(np.abs(np.cov(F.T) - covariance) / scale, 6 * math.sqrt(2 / len(F)))


def test_draws_that_share_frequencies_have_it_up_to_the_features() -> None:
    gp = process(0.05)
    mean, covariance = gp.joint(X_TEST)
    F = draw(gp, 0, count=2000, features=2048)(X_TEST).T
    np.testing.assert_array_less(np.abs(F.mean(0) - mean), 4 * np.sqrt(np.diag(covariance) / len(F)))
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_array_less(np.abs(np.cov(F.T) - covariance) / scale, 0.12)


def test_draws_go_through_exact_data() -> None:
    gp = process(1e-8)
    values = draw(gp, 3, count=20)(gp.data.X)
    np.testing.assert_allclose(values, np.repeat(gp.data.y[:, None], 20, axis=1), atol=1e-3)


@pytest.mark.parametrize(
    "gp", [process(0.01), additive(0.01), additive(0.01, GROWTH)], ids=["one kernel", "sum", "grown"]
)
def test_gradients(gp: GaussianProcess) -> None:
    paths = draw(gp, 0, count=3)
    for acquisition in (paths.along(2), thompson(situation(gp), features=64)):
        _, gradient = acquisition(X_TEST)
        h = 1e-6
        for j in range(2):
            step = h * np.eye(2)[j]
            numeric = (acquisition(X_TEST + step)[0] - acquisition(X_TEST - step)[0]) / (2 * h)
            np.testing.assert_allclose(gradient[:, j], numeric, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(paths.along(2)(X_TEST)[0], paths(X_TEST)[:, 2])


def test_the_value_orders_as_the_draw_and_is_the_log_of_its_rise() -> None:
    gp = process(0.01)
    s = situation(gp, seed=4)
    paths = draw(gp, 4, features=128)
    X = np.random.default_rng(0).random((300, 2))
    value, f = thompson(s, features=128)(X)[0], paths(X)[:, 0]
    np.testing.assert_array_equal(np.argsort(value), np.argsort(f))
    rise = f - paths(gp.data.X).max()
    assert (rise > 0.02).any()
    np.testing.assert_allclose(value[rise > 0.02], np.log(rise[rise > 0.02]), atol=1e-6)
    assert np.isfinite(Sum(thompson(s, features=128), LogFeasibility([(gp, 0.5)]))(X)[0]).all()


def test_each_seed_is_a_draw_of_its_own_and_the_same_one_again() -> None:
    gp = process(0.01)
    first, again, other = (METHODS["thompson"].build(situation(gp, seed), {})(X_TEST)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_a_batch_is_spread_out_and_a_study_improves() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1), k=Int(0, 3))
    study = Study(space, "minimize", acquisition={"name": "thompson", "features": 256}, seed=0)
    for _ in range(8):
        trials = study.ask(count=3)
        assert isinstance(trials, list)
        for trial in trials:
            x, y, k = trial.params.values()
            study.tell(trial, (x - 0.3) ** 2 + (y - 0.6) ** 2 + 0.1 * abs(k - 2))
    batch = study.ask(count=4)
    assert isinstance(batch, list)
    assert all(t.source.method == "thompson" for t in batch)
    assert len({tuple(t.params.values()) for t in batch}) == 4
    values = [t.values["objective"] for t in study.trials if t.values]
    assert min(values) < min(values[:5]) / 2
    assert min(values) < 0.01
