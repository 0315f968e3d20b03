"""The knowledge gradient against quadrature, simulation, BoTorch and finite differences."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from botorch.acquisition.knowledge_gradient import qKnowledgeGradient
from botorch.sampling.normal import SobolQMCNormalSampler
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from suffice.optimizer import Float, Int, Space, Study, Trial
from suffice.optimizer.acquisition import LogFeasibility, NoisyExpectedImprovement, Situation
from suffice.optimizer.knowledge_gradient import (
    Fantasies,
    KnowledgeGradient,
    expected_rise,
    knowledge_gradient,
    one_shot_knowledge_gradient,
    posterior_mean_improvement,
    upper_envelope,
)
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.search import grid

SQUARE = Space(x=Float(0, 1), y=Float(0, 1))
X_TEST = np.random.default_rng(5).random((7, 2))
PENDING = np.array([[0.3, 0.9], [0.6, 0.1]])
NONE = PENDING[:0]


def process(noise: float, n: int = 9, known: float = math.nan) -> GaussianProcess:
    rng = np.random.default_rng(0)
    X = rng.random((n, 2))
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 + math.sqrt(noise) * rng.standard_normal(n)
    data = Data(X, (y - y.mean()) / y.std(), np.full(n, known), np.arange(2))
    return GaussianProcess(data, Hyperparameters(np.array([0.4, 0.7]), 1.3, noise))


def situation(gp: GaussianProcess, pending: np.ndarray = NONE, space: Space = SQUARE) -> Situation:
    base = np.concatenate([gp.data.X, pending])
    return Situation(gp, base, np.ones(len(base), dtype=bool), pending, True, space, 0)


def conditioned(gp: GaussianProcess, points: np.ndarray, values: np.ndarray, noise: float) -> GaussianProcess:
    """The process with more data and the same hyperparameters, its mean constant included."""
    n, m = len(gp.data.X) + len(points), gp.hyperparameters.mean
    X, y = np.concatenate([gp.data.X, points]), np.concatenate([gp.data.y, values])
    grown = GaussianProcess(Data(X, y, np.full(n, math.nan), gp.data.groups), replace(gp.hyperparameters, noise=noise))
    grown.alpha = np.linalg.solve(np.tril(grown.L) @ np.tril(grown.L).T, y - m)
    grown.hyperparameters = replace(grown.hyperparameters, mean=m)
    return grown


# --- the expected maximum of lines ------------------------------------------------------------------------------------


def rise_by_quadrature(a: np.ndarray, b: np.ndarray, best: float) -> float:
    crossings = [(a[i] - a[j]) / (b[j] - b[i]) for i in range(len(a)) for j in range(i) if abs(b[i] - b[j]) > 1e-3]
    inside = sorted({-9.0, 9.0, *(float(c) for c in crossings if abs(c) < 9)})
    parts = [
        quad(lambda z: ((a + b * z).max() - best) * norm.pdf(z), low, high, epsabs=1e-13)[0]
        for low, high in pairwise(inside)
    ]
    return math.fsum(parts)


@pytest.mark.parametrize("lines", [2, 3, 6])
def test_the_expected_maximum_of_lines_against_quadrature(lines: int) -> None:
    a, b = np.random.default_rng(lines).standard_normal((2, 6, lines))
    best = a[:, :-1].max(1)
    rise = expected_rise(a, b, best)
    expected = [rise_by_quadrature(a[i], b[i], best[i]) for i in range(len(a))]
    np.testing.assert_allclose(np.exp(rise.log), expected, rtol=1e-8, atol=1e-10)


ROUGH = st.integers(-3, 3).map(float)  # many ties: equal, parallel and concurrent lines


@given(st.lists(st.tuples(ROUGH, ROUGH), min_size=2, max_size=8))
def test_the_envelope_is_the_maximum_however_lines_meet(lines: list[tuple[float, float]]) -> None:
    a, b = np.array(sorted(lines, key=lambda line: line[1])).T
    _, at = upper_envelope(a[None], b[None])
    z = np.linspace(-50, 50, 1001)[:, None]
    np.testing.assert_allclose((a[at] + b[at] * z).max(1), (a + b * z).max(1), atol=1e-9)
    assert (np.diff(b[at]) > 0).all()
    best = np.array([a[:-1].max()])
    rise = expected_rise(a[None], b[None], best)
    assert np.exp(rise.log[0]) == pytest.approx(rise_by_quadrature(a, b, float(best[0])), abs=1e-6)


def test_derivatives_of_the_expected_maximum() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 40, 6))
    best = a[:, :-1].max(1)
    rise = expected_rise(a, b, best)
    h = 1e-6
    up, down = a.copy(), a.copy()
    up[:, -1] += h
    down[:, -1] -= h
    numeric = (expected_rise(up, b, best).log - expected_rise(down, b, best).log) / (2 * h)
    np.testing.assert_allclose(rise.d_last, numeric, rtol=1e-5, atol=1e-6)
    for j in range(6):
        step = h * np.eye(6)[j]
        numeric = (expected_rise(a, b + step, best).log - expected_rise(a, b - step, best).log) / (2 * h)
        np.testing.assert_allclose(rise.d_slopes[:, j], numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("drop", [5.0, 60.0, 3e3, 2e5])
def test_the_tail_has_no_floor(drop: float) -> None:
    """One line crosses another far out: the logarithm stays exact where the value itself underflows."""
    a, b = np.array([[0.0, -drop]]), np.array([[0.5, 1.25]])
    with mpmath.workdps(60):
        z = -mpmath.mpf(drop) / mpmath.mpf(0.75)
        h = mpmath.npdf(z) + z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2
        expected = float(mpmath.log(mpmath.mpf(0.75) * h))
    rise = expected_rise(a, b, np.zeros(1))
    assert rise.log[0] == pytest.approx(expected, rel=1e-7)
    h = 1e-6 * drop
    step = np.array([0.0, h])
    numeric = (expected_rise(a + step, b, np.zeros(1)).log - expected_rise(a - step, b, np.zeros(1)).log) / (2 * h)
    np.testing.assert_allclose(rise.d_last, numeric, rtol=1e-4)


def test_parallel_and_coinciding_lines_leave_nothing_to_gain() -> None:
    a, b = np.array([[0.0, -1.0, 0.0], [2.0, 2.0, 2.0]]), np.array([[0.3, 0.3, 0.3], [1e-9, 1e-9 + 1e-24, 1e-9]])
    rise = expected_rise(a, b, a[:, :-1].max(1))
    assert np.isfinite(rise.log).all()
    assert (rise.log < -1e6).all()
    assert not rise.d_slopes.any()


# --- the acquisition --------------------------------------------------------------------------------------------------


def test_knowledge_gradient_against_simulated_results() -> None:
    """Exact enumeration: on a small finite space, condition the process anew on every outcome of every trial."""
    space = Space(x=Int(0, 4), y=Int(0, 3))
    A = grid(space)
    gp = process(0.05)
    acquisition = knowledge_gradient(situation(gp, space=space), 64, 16)
    best = gp.posterior(A)[0].max()
    z, weights = np.polynomial.hermite_e.hermegauss(60)
    ours = np.exp(acquisition(A)[0])
    now = max(best, gp.posterior(gp.data.X)[0].max())
    everything = np.concatenate([A, gp.data.X])
    for i in range(0, len(A), 3):
        mean, sd = gp.posterior(A[i : i + 1])
        results = mean + math.sqrt(sd[0] ** 2 + 0.05) * z
        after = [conditioned(gp, A[i : i + 1], np.array([y]), 0.05).posterior(everything)[0].max() for y in results]
        assert ours[i] == pytest.approx(weights @ after / math.sqrt(2 * math.pi) - now, abs=4e-3)


def test_knowledge_gradient_agrees_with_botorch() -> None:
    """Its one-shot form, given the best of a finite set for each of many fantasies."""
    gp = process(0.05)
    A = np.random.default_rng(1).random((30, 2))
    ours = KnowledgeGradient(Fantasies(gp, NONE, 1, 0), A)
    model = gp.to_botorch()
    sampler = SobolQMCNormalSampler(torch.Size([1024]), seed=0)
    current = torch.tensor(gp.posterior(A)[0].max())
    theirs = qKnowledgeGradient(model, num_fantasies=None, sampler=sampler, current_value=current)
    for x in torch.from_numpy(X_TEST[:4]):
        candidates = torch.cat([torch.from_numpy(A), x[None]])
        means = model.fantasize(x[None], sampler).posterior(candidates).mean[..., 0]
        solutions = candidates[means.argmax(-1)]
        value = theirs(torch.cat([x[None], solutions])[None]).item()
        assert math.exp(ours(x[None].numpy())[0][0]) == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize("pending", [NONE, PENDING], ids=["alone", "pending"])
@pytest.mark.parametrize("noise", [1e-8, 0.05])
@pytest.mark.parametrize("method", ["whole", "visited", "one shot"])
def test_gradients(method: str, noise: float, pending: np.ndarray) -> None:
    s = situation(process(noise), pending)
    match method:
        case "whole":
            acquisition = knowledge_gradient(s, 32, 4)
        case "visited":
            acquisition = posterior_mean_improvement(s, 4)
        case _:
            acquisition = one_shot_knowledge_gradient(s, 3, 1, 4)
    value, gradient = acquisition(X_TEST)
    assert np.isfinite(value).all()
    h = 1e-6
    for j in range(2):
        step = h * np.eye(2)[j]
        numeric = (acquisition(X_TEST + step)[0] - acquisition(X_TEST - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, j], numeric, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(gradient).max()))


def test_with_exact_values_the_rise_over_visited_points_is_expected_improvement() -> None:
    gp = process(1e-8)
    s = situation(gp)
    X = np.random.default_rng(2).random((200, 2))
    improvement = NoisyExpectedImprovement(gp, gp.data.X, s.attainable, draws=1, seed=0)(X)[0]
    ours = posterior_mean_improvement(s, 1)(X)[0]
    assert improvement.min() < -100
    np.testing.assert_allclose(ours, improvement, rtol=1e-3, atol=1e-3)


def test_the_more_points_count_the_higher_the_expected_best_mean() -> None:
    """E max is at least the expected best over the visited points, and at most a rise over all points allows."""
    space = Space(x=Int(0, 15), y=Int(0, 15))
    gp = process(0.05)
    s = situation(gp, space=space)
    X = grid(space)
    whole, visited = knowledge_gradient(s, 64, 1), posterior_mean_improvement(s, 1)
    now = [gp.posterior(a.A)[0].max() for a in (whole, visited)]
    assert (now[0] + np.exp(whole(X)[0]) >= now[1] + np.exp(visited(X)[0]) - 1e-12).all()
    discretised = knowledge_gradient(situation(gp), 128, 1)
    dense = KnowledgeGradient(Fantasies(gp, NONE, 1, 0), grid(Space(x=Int(0, 40), y=Int(0, 40))))
    ratio = np.exp(discretised(X_TEST)[0] - dense(X_TEST)[0])
    assert (ratio[np.exp(dense(X_TEST)[0]) > 1e-2] > 0.8).all()


def test_far_from_everything_the_logarithm_stays_finite() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((6, 2)) * 0.1
    y = np.where(np.arange(6) == 0, 60.0, -60.0) + rng.standard_normal(6)
    gp = GaussianProcess(Data(X, y, np.full(6, math.nan), np.arange(2)), Hyperparameters(np.full(2, 0.02), 1.0, 1e-8))
    value, gradient = posterior_mean_improvement(situation(gp), 1)(np.concatenate([X_TEST, X]))
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    assert value.min() < -1000


def test_a_pending_point_lowers_the_gain_around_it() -> None:
    gp = process(0.01)
    alone = knowledge_gradient(situation(gp), 64, 32)
    x = X_TEST[alone(X_TEST)[0].argmax()][None]
    beside = knowledge_gradient(situation(gp, x), 64, 32)
    assert beside(x + 1e-3)[0][0] < alone(x + 1e-3)[0][0] - 1.0


def test_fantasies_are_what_conditioning_on_drawn_results_gives() -> None:
    gp = process(0.05)
    f = Fantasies(gp, PENDING, 3, seed=0)
    A = X_TEST
    for i in range(3):
        # the drawn result, read back from the weights: alpha = K^-1 (y - mean)
        values = (np.tril(f.L) @ np.tril(f.L).T @ f.alpha[:, i])[-2:] + gp.hyperparameters.mean
        grown = conditioned(gp, PENDING, values, 0.05)
        np.testing.assert_allclose(f.means(A)[:, i], grown.posterior(A)[0], atol=1e-6)
        covariance = grown.joint(np.concatenate([A, A[:1]]))[1][:-1, -1]
        expected = covariance / math.sqrt(covariance[0] + 0.05)
        np.testing.assert_allclose(f.slopes(A, A[:1])[:, 0], expected, atol=1e-6)
        after = f.mean_after(A[:1], 0.0)
        np.testing.assert_allclose(after(A)[0], f.means(A).mean(1), atol=1e-9)


def test_the_mean_after_a_result() -> None:
    gp = process(0.05)
    x = X_TEST[:1]
    mean, sd = gp.posterior(x)
    after = Fantasies(gp, NONE, 1, 0).mean_after(x, 1.7)
    grown = conditioned(gp, x, mean + 1.7 * math.sqrt(sd[0] ** 2 + 0.05), 0.05)
    value, gradient = after(X_TEST)
    np.testing.assert_allclose(value, grown.posterior(X_TEST)[0], atol=1e-9)
    for j in range(2):
        step = 1e-6 * np.eye(2)[j]
        numeric = (after(X_TEST + step)[0] - after(X_TEST - step)[0]) / 2e-6
        np.testing.assert_allclose(gradient[:, j], numeric, atol=1e-6)


def test_a_trial_is_as_noisy_as_those_that_are_known() -> None:
    assert Fantasies(process(0.05), NONE, 1, 0).noise == 0.05
    assert Fantasies(process(0.05, known=0.3), NONE, 1, 0).noise == 0.3


def test_what_is_not_feasible_does_not_count() -> None:
    space = Space(x=Int(0, 7), y=Int(0, 7))
    gp = process(0.05)
    feasibility = LogFeasibility([(gp, 0.0)])
    attainable = gp.posterior(gp.data.X)[0] >= 0.0
    s = replace(situation(gp, space=space), attainable=attainable, feasibility=feasibility)
    A = knowledge_gradient(s, 64, 1).A
    assert 0 < len(A) < 64
    assert (gp.posterior(A)[0] >= -1e-9).all()
    np.testing.assert_array_equal(posterior_mean_improvement(s, 1).A, gp.data.X[attainable])
    wide = replace(s, space=SQUARE)
    assert (gp.posterior(knowledge_gradient(wide, 64, 1).A)[0] >= -1e-9).all()
    assert (gp.posterior(one_shot_knowledge_gradient(wide, 4, 1, 1).A)[0] >= -1e-9).all()


def test_improving_the_solutions_raises_the_value_that_is_found() -> None:
    s = situation(process(0.05))
    f = Fantasies(s.gp, NONE, 1, 0)
    X = np.random.default_rng(3).random((400, 2))
    coarse = knowledge_gradient(s, 16, 1)
    x = X[coarse(X)[0].argmax()][None]
    better = one_shot_knowledge_gradient(s, 4, 2, 1)
    now = [f.means(a.A).max() for a in (coarse, better)]
    assert now[1] + math.exp(better(X)[0].max()) >= now[0] + math.exp(coarse(x)[0][0]) - 1e-3


def bowl(x: float, y: float) -> float:
    return (x - 0.5) ** 2 + 0.5 * (y - 1.5) ** 2


BOX = Space(x=Float(-2, 2), y=Float(-1, 3))


def test_a_noisy_study() -> None:
    rng = np.random.default_rng(0)
    study = Study(BOX, "minimize", acquisition={"name": "knowledge_gradient", "discretisation": 64}, seed=0)
    for _ in range(15):
        trial = study.ask()
        assert isinstance(trial, Trial)
        study.tell(trial, bowl(**trial.params) + 0.1 * rng.standard_normal())
    assert study.trials[-1].source.method == "knowledge_gradient"
    assert bowl(**study.best.params) < 0.15


@pytest.mark.parametrize(
    "acquisition",
    [
        {"name": "knowledge_gradient", "fantasies": 3},
        {"name": "posterior_mean_improvement", "fantasies": 4},
        {"name": "one_shot_knowledge_gradient", "solutions": 4, "rounds": 1, "fantasies": 4},
    ],
    ids=lambda definition: definition["name"],
)
def test_batches_of_different_trials_that_gain(acquisition: dict[str, object]) -> None:
    study = Study(BOX, "minimize", acquisition=acquisition, seed=0)
    rng = np.random.default_rng(0)
    for x, y in rng.uniform((-2, -1), (2, 3), (10, 2)):
        study.add({"x": x, "y": y}, bowl(x, y) + 0.1 * rng.standard_normal())
    batch = study.ask(count=2)
    assert isinstance(batch, list)
    first, second = batch
    for trial in (first, second):
        assert trial.source.method == acquisition["name"]
        assert trial.source.gain is not None
        assert trial.source.gain > 0
    assert math.dist(first.params.values(), second.params.values()) > 0.01
