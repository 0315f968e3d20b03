"""The prior over prompts: signal is used, noise is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from suffice.optimizer import InvalidInput
from suffice.optimizer.answers import FLAT, THETAS, TypePrior
from suffice.optimizer.inducing import condition
from suffice.optimizer.lookahead import outlook
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.prompts import PromptModel, Shape, history, type_prior


def traffic(prompts: int = 120, drawn: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A feature, and counts whose rate follows it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, prompts)
    right = rng.binomial(drawn, 1 / (1 + np.exp(-2.0 * x))).astype(float)
    return x[:, None], right, np.full(prompts, float(drawn))


def mean(prior: TypePrior) -> float:
    return float(np.dot(prior.theta, THETAS))


def test_a_feature_with_signal_tells_easy_prompts_from_hard_ones():
    X, right, drawn = traffic()
    model = PromptModel.fit(X, right, drawn)
    hard, easy = model.priors(np.array([[-1.8], [1.8]]))
    assert model.signal > 0.1
    assert mean(hard) < 0.2
    assert mean(easy) > 0.8
    unseen, unseen_right, unseen_drawn = traffic(seed=1)
    error = np.mean(
        [(mean(p) - r / n) ** 2 for p, r, n in zip(model.priors(unseen), unseen_right, unseen_drawn, strict=True)]
    )
    blind = np.var(unseen_right / unseen_drawn)
    assert error < 0.4 * blind


def test_without_signal_the_prior_stays_flat():
    _, right, drawn = traffic()
    noise = np.random.default_rng(3).normal(size=(len(right), 2))
    model = PromptModel.fit(noise, right, drawn)
    assert model.signal < 0.02
    assert model.priors(noise[:3]) == [FLAT] * 3


def test_inducing_points_everywhere_are_the_process_itself():
    rng = np.random.default_rng(0)
    X, noise = rng.uniform(size=(60, 2)), rng.uniform(0.05, 0.5, 60)
    y = np.sin(5 * X[:, 0]) + rng.normal(size=60) * np.sqrt(noise)
    groups = np.arange(2)
    exact = GaussianProcess(Data(X, y, noise, groups), Hyperparameters(np.array([0.4, 1.0]), 1.3, 0.1))
    mean, left_out = condition(exact.kernel, X, y, noise, 60)
    new = rng.uniform(size=(20, 2))
    np.testing.assert_allclose(mean(new), exact.posterior_mean(new), atol=1e-6)
    for i in (0, 17, 59):
        others = np.arange(60) != i
        without, _ = condition(exact.kernel, X[others], y[others], noise[others], 60)
        assert left_out[i] == pytest.approx(without(X[[i]])[0], abs=1e-5)
    few, _ = condition(exact.kernel, X, y, noise, 20)
    assert len(few.points) == 20
    np.testing.assert_allclose(few(new), exact.posterior_mean(new), atol=0.05)


def test_more_prompts_than_the_exact_process_takes(monkeypatch: pytest.MonkeyPatch):
    X, right, drawn = traffic(prompts=400)
    exact = PromptModel.fit(X, right, drawn)
    monkeypatch.setattr("suffice.optimizer.prompts.EXACT", 200)
    sparse = PromptModel.fit(X, right, drawn)
    grid = np.linspace(-2, 2, 9)[:, None]
    np.testing.assert_allclose(sparse.log_odds(grid), exact.log_odds(grid), atol=0.02)
    assert sparse.signal > 0.1


def test_json_holds_the_model():
    X, right, drawn = traffic()
    noise = np.random.default_rng(3).normal(size=(len(right), 2))
    for features in (X, noise):
        model = PromptModel.fit(features, right, drawn)
        copy = PromptModel.from_json(json.loads(json.dumps(model.to_json())))
        assert copy.priors(features[:5]) == model.priors(features[:5])
        np.testing.assert_array_equal(copy.log_odds(features[:5]), model.log_odds(features[:5]))
    for wrong in (np.zeros((2, 3)), np.full((1, 2), np.nan)):
        with pytest.raises(InvalidInput, match="features"):
            model.priors(wrong)


def test_an_easy_prompt_is_worth_fewer_answers():
    easy, hard = type_prior(3.0, Shape(1.0, 0.5, 0.03)), type_prior(0.0, Shape(1.0, 0.5, 0.03))
    assert outlook((1,), 8, easy).index < outlook((1,), 8, hard).index


def test_rounding_shares_priors():
    shape = Shape(1.0, 1.2, 0.1)
    assert type_prior(0.9, shape) is type_prior(1.1, shape)
    assert sum(type_prior(-9.0, shape).theta) == pytest.approx(1.0)


def test_history_is_shrunk():
    assert history([], 0) == 0
    assert 0 < history([1.0], 1) < history([1.0] * 20, 20)


@pytest.mark.parametrize(
    ("X", "right", "field"),
    [
        (np.zeros((3, 1)), np.array([1.0, 9.0, 2.0]), "right"),
        (np.array([[np.nan], [0.0], [1.0]]), np.ones(3), "X"),
        (np.zeros((2, 1)), np.ones(3), "X"),
    ],
)
def test_wrong_traffic_is_told(X: np.ndarray, right: np.ndarray, field: str):
    with pytest.raises(InvalidInput) as error:
        PromptModel.fit(X, right, np.full(3, 8.0))
    assert error.value.problems[0].field == field
