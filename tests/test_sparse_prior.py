"""The sparse prior of the length scales: its density by quadrature, the fit's optimum, and what it does for a study."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.stats import gamma, halfcauchy, multivariate_normal, norm

from suffice.optimizer import Categorical, Constant, Float, InvalidInput, Space, Study, Trial
from suffice.optimizer.fitting import Prior, fit
from suffice.optimizer.kernel import matern52, squared_distance
from suffice.optimizer.models import NOISE_FLOOR, Data, Vector

SPARSE = Prior(sparse=True)


def density_of_log_rho(log_lengthscales: Vector) -> float:
    """By quadrature over tau ~ half-Cauchy(0.1), with rho_i = lengthscale_i^-2 ~ half-Cauchy(tau)."""
    rho = np.exp(-2.0 * log_lengthscales)
    log_tau = np.linspace(-30.0, 20.0, 1001)
    tau = np.exp(log_tau)
    each = halfcauchy.pdf(rho, scale=tau[:, None]) * rho
    return float(np.trapezoid(np.prod(each, axis=1) * halfcauchy.pdf(tau, scale=0.1) * tau, log_tau))


# --- density and fit -----


def test_the_density_is_that_of_half_cauchys_with_the_shrinkage_integrated_out() -> None:
    rng = np.random.default_rng(0)
    points = [np.log(0.1**-0.5) + 0.8 * rng.standard_normal(4) for _ in range(6)]
    ours = [-SPARSE.negative_log(np.append(p, 0.3), 4)[0] for p in points]
    reference = [math.log(density_of_log_rho(p)) for p in points]
    for (a, b), (c, d) in zip(pairwise(ours), pairwise(reference), strict=True):
        assert a - b == pytest.approx(c - d, abs=1e-3)  # up to the same constant


@pytest.mark.parametrize("groups", [1, 3, 60])
def test_the_gradient_is_that_of_finite_differences(groups: int) -> None:
    rng = np.random.default_rng(groups)
    theta = rng.standard_normal(groups + 2)
    numeric = np.asarray(approx_fprime(theta, lambda t: SPARSE.negative_log(t, groups)[0], 1e-6))
    np.testing.assert_allclose(SPARSE.negative_log(theta, groups)[1], numeric, atol=2e-4)


def test_the_fit_is_at_the_optimum_that_scipys_densities_have() -> None:
    rng = np.random.default_rng(3)
    X = rng.random((18, 3))
    y = np.sin(6 * X[:, 0]) + 0.3 * rng.standard_normal(18)
    y = (y - y.mean()) / y.std()

    normal: Any = multivariate_normal

    def negative_log(theta: Vector) -> float:
        """Over log length scales, log signal, log noise and the constant mean."""
        scaled = X * np.exp(-theta[:3])
        K = math.exp(theta[3]) * matern52(squared_distance(scaled, scaled))[0] + math.exp(theta[4]) * np.eye(18)
        likelihood = normal.logpdf(y, np.full(18, theta[5]), K)
        others = norm.logpdf(theta[3]) + gamma.logpdf(math.exp(theta[4]), 1.1, scale=1 / 5.0) + norm.logpdf(theta[5])
        return -float(likelihood + math.log(density_of_log_rho(theta[:3])) + others)

    found = fit(Data(X, y, np.full(18, np.nan), np.arange(3)), SPARSE, noise=None).hyperparameters
    ours = np.array([*np.log(found.lengthscales), math.log(found.signal), math.log(found.noise), 0.0])
    ours = np.append(ours[:5], minimize(lambda m: negative_log(np.append(ours[:5], m)), [0.0], tol=1e-8).x)
    assert found.noise > NOISE_FLOOR
    better = minimize(negative_log, ours, method="Nelder-Mead", options={"maxiter": 250, "xatol": 1e-5, "fatol": 1e-6})
    assert negative_log(ours) - better.fun < 5e-3
    for start in ([0.0, 0.0, 0.0, 0.0, -2.0, 0.0], [-1.0, 2.0, 2.0, 0.5, -3.0, 0.0]):
        other = minimize(negative_log, start, method="Nelder-Mead", options={"maxiter": 250})
        assert other.fun > negative_log(ours) - 5e-3


def test_parameters_that_do_not_matter_get_long_length_scales() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((50, 30))
    y = np.sin(5 * X[:, 4]) + 2.0 * (X[:, 17] - 0.4) ** 2
    data = Data(X, (y - y.mean()) / y.std(), np.full(50, np.nan), np.arange(30))
    found = fit(data, SPARSE, noise=None).hyperparameters.lengthscales
    others = np.delete(found, [4, 17])
    assert found[[4, 17]].max() < 2.0
    assert others.min() > 3.0 * found[[4, 17]].max()


# --- studies -----


def improved(parameters: int, prior: str, seed: int, trials: int) -> tuple[float, Study]:
    """The best of a function of three of the parameters, with a least value of 0."""
    study = Study(
        Space({f"x{i}": Float(0, 1) for i in range(parameters)}), model={"prior": prior}, noise="none", seed=seed
    )
    for _ in range(trials):
        trial = study.ask()
        assert isinstance(trial, Trial)
        z = np.array([trial.params[name] for name in ("x1", "x7", "x12")]) - np.array([0.2, 0.7, 0.45])
        study.tell(trial, float(np.sum(z**2) + 0.3 * np.sum(1 - np.cos(9 * z))))
    return study.best.trial.value, study


def test_a_study_of_few_parameters_that_matter_among_many_gains_from_it() -> None:
    assert 10 * improved(30, "sparse", 5, 40)[0] < improved(30, "dense", 5, 40)[0]


def test_auto_takes_it_from_twenty_searched_parameters_on_and_says_so() -> None:
    floats = {f"x{i}": Float(0, 1) for i in range(18)}
    nineteen = Space({**floats, "c": Categorical("a", "b"), "k": Constant(3)})
    twenty = Space({**floats, "c": Categorical("a", "b"), "y": Float(0, 1)})
    assert not Study(nineteen)._definition.prior.sparse
    assert Study(twenty)._definition.prior.sparse
    assert not Study(twenty, model={"prior": "dense"})._definition.prior.sparse
    assert Study(nineteen, model={"prior": "sparse"})._definition.prior.sparse
    _, study = improved(20, "auto", 0, 15)
    assert "of 20 parameters few are expected to matter" in study.trials[-1].source.why
    _, study = improved(20, "sparse", 0, 15)
    assert "few are expected" not in study.trials[-1].source.why


def test_the_choice_goes_through_json_and_others_are_refused() -> None:
    study = Study(Space(x=Float(0, 1)), model={"prior": "sparse"})
    assert study.to_json()["model"] == {"prior": "sparse"}
    assert Study.from_json(study.to_json())._definition.prior.sparse
    with pytest.raises(InvalidInput, match=r"model\.prior"):
        Study(Space(x=Float(0, 1)), model={"prior": "horseshoe"})
