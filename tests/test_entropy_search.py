"""Entropy search against quadrature of the entropies, BoTorch and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import LogExpectedImprovement, PosteriorMean
from botorch.acquisition.joint_entropy_search import qJointEntropySearch
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy, qMaxValueEntropy
from botorch.acquisition.predictive_entropy_search import qPredictiveEntropySearch
from linear_operator.utils.errors import NotPSDError
from scipy.integrate import quad
from scipy.special import log_ndtr
from scipy.stats import norm

from suffice.optimizer import Float, Space, Study
from suffice.optimizer.acquisition import Acquisition, LogFeasibility, NoisyExpectedImprovement, Situation
from suffice.optimizer.entropy_search import (
    JointEntropy,
    LowerBoundMaxValueEntropy,
    MaxValueEntropy,
    information,
    lower_bound,
    optima,
    predictive_entropy_search,
)
from suffice.optimizer.from_botorch import from_botorch
from suffice.optimizer.methods import METHODS
from suffice.optimizer.models import Data, FitError, GaussianProcess, Hyperparameters

SQUARE = Space(x=Float(0, 1), y=Float(0, 1))
X_TEST = np.random.default_rng(5).random((7, 2))
PENDING = np.array([[0.3, 0.9], [0.6, 0.1]])
NONE = PENDING[:0]
MAXIMA = np.array([1.6, 2.0, 1.8, 2.9])
PLACES = np.array([[0.5, 0.95], [0.35, 0.8], [0.9, 0.9], [0.1, 0.3]])


def process(noise: float = 0.01, n: int = 9, known: float = math.nan) -> GaussianProcess:
    rng = np.random.default_rng(0)
    X = rng.random((n, 2))
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 + math.sqrt(noise) * rng.standard_normal(n)
    data = Data(X, (y - y.mean()) / y.std(), np.full(n, known), np.arange(2))
    return GaussianProcess(data, Hyperparameters(np.array([0.4, 0.7]), 1.3, noise))


def situation(gp: GaussianProcess, pending: np.ndarray = NONE) -> Situation:
    base = np.concatenate([gp.data.X, pending])
    return Situation(gp, base, np.ones(len(base), dtype=bool), pending, True, SQUARE, 0)


def tensor(X: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(X)[:, None]


def check_gradient(acquisition: Acquisition, X: np.ndarray = X_TEST) -> None:
    value, gradient = acquisition(X)
    assert np.isfinite(value).all()
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        numeric = (acquisition(X + step)[0] - acquisition(X - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, j], numeric, rtol=2e-4, atol=2e-4)


# --- information about a maximum's value ------------------------------------------------------------------------------


def entropy_difference(gamma: float, rho2: float) -> float:
    """H(y) - H(y | f <= y*) with y of unit variance, by quadrature of both densities."""
    rho, c = math.sqrt(rho2), math.sqrt(1 - rho2)

    def surprise(w: float, truncated: bool) -> float:
        log_p = norm.logpdf(w) + truncated * (log_ndtr((gamma - rho * w) / c) - log_ndtr(gamma))
        return float(-math.exp(log_p) * log_p)

    edges = [-12.0, *sorted({-3.0, 0.0, 3.0, float(np.clip(gamma / rho, -11, 11))}), 12.0]
    parts = [
        quad(surprise, a, b, args=(truncated,), epsabs=1e-12, limit=200)[0] * (-1 if truncated else 1)
        for truncated in (False, True)
        for a, b in pairwise(edges)
    ]
    return math.fsum(parts)


@pytest.mark.parametrize("rho2", [0.9999, 0.9, 0.5, 0.1, 1e-3])
@pytest.mark.parametrize("gamma", [-5.0, -1.0, 0.0, 0.7, 2.0, 3.5])
def test_information_is_the_difference_of_the_entropies(gamma: float, rho2: float) -> None:
    log_I, _, _ = information(np.array([gamma]), np.array([rho2]))
    assert math.exp(log_I[0]) == pytest.approx(entropy_difference(gamma, rho2), rel=2e-6, abs=2e-11)


def test_without_noise_it_is_wang_and_jegelkas() -> None:
    gamma = np.array([-3.0, -0.5, 0.0, 1.0, 4.0])
    log_I, _, _ = information(gamma, np.full(5, 1 - 1e-15))
    cdf, pdf = norm.cdf(gamma), norm.pdf(gamma)
    np.testing.assert_allclose(np.exp(log_I), gamma * pdf / (2 * cdf) - np.log(cdf), rtol=1e-6)


GAMMA, RHO2 = (a.ravel() for a in np.meshgrid([-30, -4, -0.3, 0, 1, 6, 12], [1 - 1e-9, 0.99, 0.6, 0.05, 1e-5, 1e-9]))


@pytest.mark.parametrize("measure", [information, lower_bound])
def test_slopes_of_the_information(measure: Callable[..., tuple[np.ndarray, ...]]) -> None:
    _, d_gamma, d_log = measure(GAMMA, RHO2)
    h = 1e-5
    numeric = (measure(GAMMA + h, RHO2)[0] - measure(GAMMA - h, RHO2)[0]) / (2 * h)
    np.testing.assert_allclose(d_gamma, numeric, rtol=1e-3, atol=2e-2)  # differences lose digits where rho is small
    v = RHO2 / (1 - RHO2)  # with unit noise
    above, below = (measure(GAMMA, v * e / (v * e + 1))[0] for e in (math.exp(1e-3), math.exp(-1e-3)))
    np.testing.assert_allclose(d_log, (above - below) / 2e-3, rtol=1e-3, atol=1e-4)


def test_the_bound_is_one_and_both_agree_where_little_is_learned() -> None:
    exact, bound = np.exp(information(GAMMA, RHO2)[0]), lower_bound(GAMMA, RHO2)[0]
    assert (bound <= exact * (1 + 1e-6)).all()
    small = (RHO2 < 1e-4) & (GAMMA < 10)
    np.testing.assert_allclose(bound[small], exact[small], rtol=1e-4)


def test_extremes_stay_finite() -> None:
    gamma, rho2 = np.meshgrid([-1e9, -1e4, 1e4, 1e7], [1e-15, 1e-4, 0.5, 1 - 1e-15])
    for part in (*information(gamma, rho2), *lower_bound(gamma, rho2)):
        assert np.isfinite(part).all()


# --- max-value entropy search -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [1e-3, 0.05])
def test_max_value_entropy_agrees_with_botorch(noise: float) -> None:
    gp = process(noise)
    theirs = qMaxValueEntropy(gp.to_botorch(), torch.rand(10, 2, dtype=torch.float64), num_y_samples=4096)
    theirs.posterior_max_values = torch.from_numpy(MAXIMA)[:, None]
    ours = np.exp(MaxValueEntropy(gp, MAXIMA)(X_TEST)[0])
    np.testing.assert_allclose(ours, theirs(tensor(X_TEST)).detach().numpy(), rtol=0.03, atol=3e-3)


@pytest.mark.parametrize("pending", [NONE, PENDING], ids=["alone", "pending"])
@pytest.mark.parametrize("known", [math.nan, 0.05])
def test_its_lower_bound_is_botorchs(pending: np.ndarray, known: float) -> None:
    gp = process(0.05, known=known)
    theirs = qLowerBoundMaxValueEntropy(
        gp.to_botorch(),
        torch.rand(10, 2, dtype=torch.float64),
        X_pending=torch.from_numpy(pending) if len(pending) else None,
    )
    theirs.posterior_max_values = torch.from_numpy(MAXIMA)[:, None]
    ours = LowerBoundMaxValueEntropy(gp, MAXIMA, pending).bound(X_TEST)[0]
    np.testing.assert_allclose(ours, theirs(tensor(X_TEST)).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [1e-6, 0.05])
def test_gradients_of_max_value_entropy(noise: float) -> None:
    gp = process(noise)
    check_gradient(MaxValueEntropy(gp, MAXIMA))
    check_gradient(LowerBoundMaxValueEntropy(gp, MAXIMA, PENDING))


# --- joint entropy search ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pending", [NONE, PENDING], ids=["alone", "pending"])
def test_joint_entropy_is_botorchs(pending: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    # a new observation has the mean of all noises there, that of the conditioning among them: make them the same
    monkeypatch.setattr("botorch.acquisition.joint_entropy_search.MIN_INFERRED_NOISE_LEVEL", 0.05)
    monkeypatch.setattr("suffice.optimizer.entropy_search.OPTIMUM_NOISE", 0.05)
    gp = process(0.05)
    acquisition = qJointEntropySearch(
        gp.to_botorch(),
        torch.from_numpy(PLACES),
        torch.from_numpy(MAXIMA)[:, None],
        X_pending=torch.from_numpy(pending) if len(pending) else None,
    )
    theirs = acquisition(tensor(X_TEST)).detach().numpy()
    ours = JointEntropy(gp, PLACES, MAXIMA, pending).bound(X_TEST)[0]
    if len(pending):  # theirs counts what the pending points tell, too
        ours, theirs = ours - ours[0], theirs - theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_joint_entropy_conditions_as_a_process_with_one_more_point() -> None:
    gp, noise = process(0.05), 0.05
    value = JointEntropy(gp, PLACES[:1], MAXIMA[:1], NONE).bound(X_TEST)[0]
    mean, C = gp.joint(np.concatenate([X_TEST, PLACES[:1]]))
    spread = C[7, 7] + 1e-4
    m = mean[:7] + C[:7, 7] / spread * (MAXIMA[0] - mean[7])
    v = np.diag(C)[:7] - C[:7, 7] ** 2 / spread
    truncated, _, _ = lower_bound((MAXIMA[0] - m) / np.sqrt(v), v / (v + noise))
    np.testing.assert_allclose(value, 0.5 * np.log((np.diag(C)[:7] + noise) / (v + noise)) + truncated, rtol=1e-8)


@pytest.mark.parametrize("noise", [1e-6, 0.05])
@pytest.mark.parametrize("pending", [NONE, PENDING], ids=["alone", "pending"])
def test_gradients_of_joint_entropy(noise: float, pending: np.ndarray) -> None:
    check_gradient(JointEntropy(process(noise), PLACES, MAXIMA, pending))


# --- sampled optima ---------------------------------------------------------------------------------------------------


LINE = np.linspace(0, 1, 300)


def test_sampled_maxima_are_those_of_the_joint_posterior() -> None:
    X = np.array([[0.1], [0.45], [0.8]])
    data = Data(X, np.array([-1.0, 0.8, 0.2]), np.full(3, math.nan), np.arange(1))
    gp = GaussianProcess(data, Hyperparameters(np.array([0.25]), 1.0, 1e-4))
    every = np.ones(3, dtype=bool)
    places, maxima = optima(Situation(gp, X, every, X[:0], False, Space(x=Float(0, 1)), 0), 64)
    mean, covariance = gp.joint(LINE[:, None])
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, 4000, method="eigh")
    error = draws.max(1).std() / 8
    assert maxima.mean() == pytest.approx(draws.max(1).mean(), abs=4 * error)
    assert places.mean() == pytest.approx(LINE[draws.argmax(1)].mean(), abs=0.15)


def test_optima_lie_where_the_constraints_probably_hold() -> None:
    gp = process(1e-4)
    rng = np.random.default_rng(2)
    X = rng.random((25, 2))
    y = np.where(X[:, 0] < 0.5, 1.0, -1.0)
    constraint = GaussianProcess(
        Data(X, y, np.full(25, math.nan), np.arange(2)), Hyperparameters(np.array([0.3, 3.0]), 1.0, 1e-4)
    )
    feasibility = LogFeasibility([(constraint, 0.0)])
    base = gp.data.X
    attainable = base[:, 0] < 0.5
    places, maxima = optima(Situation(gp, base, attainable, NONE, False, SQUARE, 0, feasibility=feasibility), 8)
    assert (places[:, 0] < 0.65).all()
    assert (maxima > gp.data.y[attainable].max() - 0.1).all()


# --- BoTorch's --------------------------------------------------------------------------------------------------------


def test_botorchs_expected_improvement_comes_out_as_ours() -> None:
    gp = process(1e-8)
    ours = NoisyExpectedImprovement(gp, gp.data.X, np.ones(9, dtype=bool), draws=1, seed=0)
    theirs = from_botorch(LogExpectedImprovement(gp.to_botorch(), best_f=gp.data.y.max()), logarithmic=True, rows=3)
    near = ours(X_TEST)[0] > -50  # farther out the rounding of the variances counts
    for a, b in zip(ours(X_TEST), theirs(X_TEST), strict=True):
        np.testing.assert_allclose(a[near], b[near], rtol=1e-3, atol=2e-3)
    assert [len(a) for a in theirs(X_TEST[:0])] == [0, 0]


def test_values_that_may_be_negative_become_logarithms_in_the_same_order() -> None:
    gp = process()
    X = np.random.default_rng(0).random((40, 2))
    mean = gp.posterior(X)[0]
    acquisition = from_botorch(PosteriorMean(gp.to_botorch()))
    value = acquisition(X)[0]
    assert (mean < -0.1).any()
    np.testing.assert_array_equal(np.argsort(value), np.argsort(mean))
    np.testing.assert_allclose(np.exp(value[mean > 0.01]), mean[mean > 0.01], rtol=1e-6)
    check_gradient(acquisition, X[mean > 0.01])


def test_a_row_that_fails_does_not_take_the_others_with_it() -> None:
    def fragile(x: torch.Tensor) -> torch.Tensor:
        if (x[..., 0] > 0.8).any():
            raise NotPSDError("not positive definite")
        return torch.where(x[..., 0, 1] > 0.5, torch.nan, 1.0) * x[..., 0, 0]

    X = np.array([[0.5, 0.1], [0.9, 0.1], [0.25, 0.9], [0.25, 0.3]])
    value, gradient = from_botorch(fragile)(X)
    np.testing.assert_allclose(value, [math.log(0.5), -np.inf, -np.inf, math.log(0.25)])
    np.testing.assert_allclose(gradient, [[2, 0], [0, 0], [0, 0], [4, 0]])


@pytest.mark.parametrize("pending", [NONE, PENDING], ids=["alone", "pending"])
def test_predictive_entropy_search_is_botorchs(pending: np.ndarray) -> None:
    gp = process(0.05)
    s = situation(gp, pending)
    acquisition = predictive_entropy_search(s, samples=3)
    places = torch.from_numpy(optima(s, 3)[0])
    theirs = qPredictiveEntropySearch(gp.to_botorch(), places)
    known = 0.0
    if len(pending):
        known = float(theirs(torch.from_numpy(pending)[None]))
        theirs.set_X_pending(torch.from_numpy(pending))
    expected = theirs(tensor(X_TEST)).detach().numpy() - known
    value = acquisition(X_TEST)[0]
    positive = expected > 1e-3
    assert positive.any()
    np.testing.assert_allclose(np.exp(value[positive]), expected[positive], rtol=1e-4)
    check_gradient(acquisition, X_TEST[positive])


def test_predictive_entropy_search_that_fails_is_a_failed_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NotPSDError("not positive definite")

    monkeypatch.setattr(qPredictiveEntropySearch, "_expectation_propagation", fail)
    with pytest.raises(FitError):
        predictive_entropy_search(situation(process()), samples=2)


# --- by name ----------------------------------------------------------------------------------------------------------

NAMES = ["entropy_search", "joint_entropy_search", "predictive_entropy_search"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pending_point_lowers_the_value_around_it(name: str) -> None:
    gp = process(1e-3)
    alone = METHODS[name].build(situation(gp), {"samples": 6})
    x = X_TEST[alone(X_TEST)[0].argmax()][None]
    beside = METHODS[name].build(situation(gp, x), {"samples": 6})
    assert beside(x + 1e-3)[0][0] < alone(x + 1e-3)[0][0] - 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_study_improves(name: str) -> None:
    study = Study(SQUARE, "minimize", acquisition={"name": name, "samples": 4}, seed=0)
    for _ in range(5):
        trials = study.ask(count=2)
        assert isinstance(trials, list)
        for trial in trials:
            study.tell(trial, (trial.params["x"] - 0.3) ** 2 + (trial.params["y"] - 0.6) ** 2)
    assert name in {t.source.method for t in study.trials}
    assert all(t.source.gain is None for t in study.trials)
    values = [t.values["objective"] for t in study.trials]
    assert min(values) < min(values[:5]) / 2
