"""The knowledge gradient with derivatives against plain Monte Carlo over refitted posteriors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from suffice.optimizer import Float, InvalidInput, Space, Study
from suffice.optimizer.derivative_knowledge_gradient import DerivativeKnowledgeGradient
from suffice.optimizer.knowledge_gradient import Fantasies, KnowledgeGradient
from suffice.optimizer.models import Data, GaussianProcess, Gradients, Hyperparameters
from suffice.optimizer.trial import Trial

HYPER = Hyperparameters(np.array([0.4, 0.6]), 1.2, 0.02, slope_noise=0.05)
BOTH, A = np.arange(2), np.random.default_rng(4).random((6, 2))
NOTHING_PENDING = np.empty((0, 2))


def model(*, gradients: bool) -> GaussianProcess:
    X = np.random.default_rng(3).random((5, 2))
    y = np.sin(4 * X[:, 0]) + X[:, 1]
    row, column = np.array([0, 0, 1, 1, 3]), np.array([0, 1, 0, 1, 1])
    found = Gradients(row, column, np.array([3.0, 1.0, -2.0, 1.0, 0.8]))
    return GaussianProcess(Data(X, y, np.full(5, math.nan), BOTH, found if gradients else None), HYPER)


def acquisition(
    gp: GaussianProcess, pending: np.ndarray = NOTHING_PENDING, *, draws: int
) -> DerivativeKnowledgeGradient:
    return DerivativeKnowledgeGradient(Fantasies(gp, pending, 2, 0), A, BOTH, BOTH, draws=draws, seed=0)


def test_it_is_the_mean_rise_of_the_best_mean_over_simulated_trials() -> None:
    gp, x = model(gradients=True), np.array([[0.45, 0.6]])
    assert gp.data.gradients is not None
    points, rng = np.concatenate([A, x]), np.random.default_rng(0)
    # the observation's distribution, from a process that also knows nothing of value at x: a joint normal by hand
    data_sites = gp.sites
    own = gp.kernel.sites(np.repeat(x, 1, axis=0), np.zeros(3, dtype=np.int64), np.array([-1, 0, 1]))
    V = gp.half_solve(data_sites.between(own))
    unit = [gp.data.gradients.mean_square[gp.data.gradients.column == c][0] for c in BOTH]
    noise = np.array([HYPER.noise, *(HYPER.slope_noise * u for u in unit)])
    C = own.covariance() - V.T @ V + np.diag(noise)
    with_points = gp.kernel.sites(points).between(own) - gp.half_solve(gp.sites.cross(points).k.T).T @ V
    gain = np.linalg.solve(np.linalg.cholesky(C), with_points.T).T
    now = gp.posterior(points)[0]
    after = now[:, None] + gain @ rng.standard_normal((3, 400_000))
    expected = after.max(0).mean() - now[:-1].max()
    error = after.max(0).std() / math.sqrt(400_000)
    assert math.exp(acquisition(gp, draws=512).value(x)[0]) == pytest.approx(expected, abs=4 * error)
    # the shift of the mean is that of the model itself, conditioned on such an observation
    z = np.array([0.7, -1.1, 0.4])
    told = np.linalg.cholesky(C) @ z
    value, slopes = (
        gp.posterior(x)[0][0] + told[0],
        (V.T @ gp.half_solve((gp.data.targets - gp.hyperparameters.mean * gp.sites.basis)[:, None]))[1:, 0] + told[1:],
    )
    d = gp.data.with_values(x, np.array([value]), math.nan)
    g = gp.data.gradients
    grown = replace(d, gradients=Gradients(np.r_[g.row, 5, 5], np.r_[g.column, 0, 1], np.r_[g.values, slopes]))
    sites = grown.sites(gp.kernel)
    K = sites.covariance() + np.diag(np.concatenate([gp.noise[:5], noise[:1], gp.noise[5:], noise[1:]]))
    residual = grown.targets - gp.hyperparameters.mean * sites.basis
    mean = gp.hyperparameters.mean + sites.cross(points).k @ np.linalg.solve(K, residual)
    np.testing.assert_allclose(mean, now + gain @ z, atol=1e-6)


def test_derivatives_add_to_what_a_value_tells() -> None:
    gp, X = model(gradients=False), np.random.default_rng(1).random((8, 2))
    plain = KnowledgeGradient(Fantasies(gp, NOTHING_PENDING, 1, 0), A)(X)[0]
    none = DerivativeKnowledgeGradient(
        Fantasies(gp, NOTHING_PENDING, 1, 0), A, np.empty(0, dtype=np.int64), BOTH, draws=2, seed=0
    )
    np.testing.assert_allclose(none.value(X), plain, rtol=1e-6)
    assert (acquisition(gp, draws=256).value(X) > plain - 0.01).all()
    assert (acquisition(gp, draws=256).value(X) > plain + 0.05).any()


@pytest.mark.parametrize("pending", [NOTHING_PENDING, np.array([[0.2, 0.3]])])
def test_gradient_in_x(pending: np.ndarray) -> None:
    kg = acquisition(model(gradients=True), pending, draws=8)
    X = np.random.default_rng(2).random((3, 2))
    value, gradient = kg(X)
    np.testing.assert_array_equal(value, kg.value(X))
    numeric = [approx_fprime(x, lambda x: kg.value(x[None])[0], 1e-6) for x in X]
    np.testing.assert_allclose(gradient, numeric, rtol=2e-3, atol=2e-3)


def test_through_a_study() -> None:
    study = Study(
        Space(x=Float(-1, 1), y=Float(-1, 1)), seed=0, acquisition="derivative_knowledge_gradient", noise="none"
    )
    for _ in range(8):
        trial = study.ask()
        assert isinstance(trial, Trial)
        x, y = trial.params["x"] - 0.3, trial.params["y"] + 0.2
        study.tell(trial, x * x + x * y + y * y + 0.3 * x**4, gradient={"x": 2 * x + y + 1.2 * x**3, "y": x + 2 * y})
    assert study.trials[-1].source.method == "derivative_knowledge_gradient"
    assert study.best.trial.value < 2e-3
    with pytest.raises(InvalidInput, match="draws"):
        Study(study.space, acquisition={"name": "derivative_knowledge_gradient", "draws": 1})
