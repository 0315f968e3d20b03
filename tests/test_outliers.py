"""Values set aside as outliers: the closed forms against brute force, and what studies make of them."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models.robust_relevance_pursuit_model import RobustRelevancePursuitSingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood
from scipy.optimize import minimize_scalar

from suffice.optimizer import Float, InvalidInput, Space, Study
from suffice.optimizer.fitting import Free, Prior, fit, negative_log_posterior
from suffice.optimizer.model_choice import ModelChoice
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.objective import Scale
from suffice.optimizer.outliers import PENALTY, _Pursuit, fit_with_outliers, set_aside
from suffice.optimizer.trial import Trial

BAD = [3, 8]
HYPER = Hyperparameters(np.array([0.3]), 1.0, 0.01)


def data(n: int = 12, *, bad: list[int] = BAD, noise: float = 0.05) -> Data:
    rng = np.random.default_rng(0)
    X = rng.random((n, 1))
    y = np.sin(6 * X[:, 0]) + noise * rng.standard_normal(n)
    y[bad] += [4.0, -3.0][: len(bad)]
    return Data(X, y, np.full(n, math.nan), np.arange(1))


def test_one_values_variance_maximises_the_marginal_likelihood() -> None:
    d = data()
    gp = GaussianProcess(d, HYPER)
    m = gp.hyperparameters.mean

    def loss(rho: float, i: int, rest: np.ndarray) -> float:
        extra = rest.copy()
        extra[i] = rho
        K = gp.kernel.covariance(d.X, d.X) + np.diag(0.01 + extra)
        return float(0.5 * (d.y - m) @ np.linalg.solve(K, d.y - m) + 0.5 * np.linalg.slogdet(K)[1])

    pursuit = _Pursuit(d, HYPER)
    gains = []
    for i in range(12):
        found = minimize_scalar(lambda r, i=i: loss(r, i, np.zeros(12)), bounds=(0, 100), method="bounded")
        gains.append(loss(0.0, i, np.zeros(12)) - found.fun)
    gain, i = pursuit.candidate()
    assert i == int(np.argmax(gains))
    assert gain == pytest.approx(max(gains), rel=1e-4)
    pursuit._improve(i)
    other = pursuit.candidate()[1]
    pursuit._improve(other)
    found = minimize_scalar(
        lambda r: loss(r, other, np.where(np.arange(12) == i, pursuit.rho, 0.0)), bounds=(0, 100), method="bounded"
    )
    assert pursuit.rho[other] == pytest.approx(found.x, rel=1e-3)


def test_outliers_are_found_with_and_without_the_hyperparameters() -> None:
    d = data()
    plain = fit(d, Prior(), noise=None)
    robust, rho = fit_with_outliers(d, Prior(), plain)
    assert rho is not None
    extra = set_aside(replace(d, extra=rho), robust.hyperparameters)
    assert extra is not None
    assert np.flatnonzero(rho).tolist() == np.flatnonzero(extra).tolist() == BAD
    assert robust.hyperparameters.noise < 0.02 < plain.hyperparameters.noise
    free = Free(noise=robust.hyperparameters.noise > 1e-8)
    theta = free.write(robust.hyperparameters)
    own = negative_log_posterior(theta, replace(d, extra=rho), Prior(), free, robust.hyperparameters)[0]
    assert robust.loss == pytest.approx(own + 2 * PENALTY, abs=0.1)  # the prior odds of two outliers
    x = np.linspace(0.1, 0.9, 9)[:, None]
    error = GaussianProcess(replace(d, extra=extra), robust.hyperparameters).posterior(x)[0] - np.sin(6 * x[:, 0])
    misled = GaussianProcess(d, plain.hyperparameters).posterior(x)[0] - np.sin(6 * x[:, 0])
    assert np.abs(error).mean() < 0.5 * np.abs(misled).mean()


def test_nothing_is_set_aside_where_nothing_is_contradicted() -> None:
    d = data(bad=[])
    plain = fit(d, Prior(), noise=None)
    assert fit_with_outliers(d, Prior(), plain) == (plain, None)
    assert set_aside(d, plain.hyperparameters) is None


def test_a_robust_scale_does_not_move_with_values_far_away() -> None:
    values = np.random.default_rng(0).standard_normal(200)
    far = np.r_[values, 1e6, -1e7]
    assert Scale.robust(far, 1.0).centre == pytest.approx(Scale.robust(values, 1.0).centre, abs=0.05)
    assert Scale.robust(far, 1.0).spread == pytest.approx(np.std(values), rel=0.2)
    assert Scale.robust(np.array([1.0, 1.0, 1.0, 2.0]), -1.0).spread > 0


def quadratic(*, outliers: bool, seed: int = 0) -> Study:
    """20 trials of a parabola; two far from its minimum are told as better than any."""
    rng = np.random.default_rng(seed)
    study = Study(Space(x=Float(-1, 1), y=Float(-1, 1)), seed=seed, model={"outliers": True} if outliers else None)
    for i in range(20):
        x, y = rng.uniform(-1, 1, 2) if i not in (5, 11) else (0.9, -0.8 + 0.1 * i)
        value = (x - 0.2) ** 2 + (y + 0.1) ** 2
        study.add({"x": x, "y": y}, -3.0 if i in (5, 11) else value)
    return study


def test_the_best_trial_is_no_outlier() -> None:
    study = quadratic(outliers=True)
    best = study.best.params
    assert math.hypot(best["x"] - 0.2, best["y"] + 0.1) < 0.4
    trial = study.ask()
    assert isinstance(trial, Trial)
    assert "set aside as outliers: 5, 11" in trial.source.fallbacks
    assert math.hypot(trial.params["x"] - 0.2, trial.params["y"] + 0.1) < 0.6
    misled = quadratic(outliers=False).best.params
    assert math.hypot(misled["x"] - 0.2, misled["y"] + 0.1) > 0.6


def test_the_choice_of_a_model_is_written_and_read() -> None:
    study = Study(Space(x=Float(0, 1)), model={"outliers": True}, seed=0)
    assert Study.from_json(study.to_json()).model == ModelChoice(outliers=True)
    assert "model" not in Study(Space(x=Float(0, 1)), seed=0).to_json()
    for wrong, field in (({"outliers": 1}, "model.outliers"), ({"robust": True}, "model.robust"), ("robust", "model")):
        with pytest.raises(InvalidInput, match=field):
            Study(Space(x=Float(0, 1)), model=wrong)  # type: ignore[arg-type]


def test_botorchs_relevance_pursuit_sets_the_same_values_aside() -> None:
    d = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that 12 values with outliers are not standardised
        model: Any = RobustRelevancePursuitSingleTaskGP(
            torch.from_numpy(d.X), torch.from_numpy(d.y)[:, None], outcome_transform=None
        )
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        fit_gpytorch_mll(mll, numbers_of_outliers=[0, 1, 2, 3], optimizer_kwargs={"options": {"maxiter": 60}})
    assert sorted(model.likelihood.noise_covar.support) == BAD
