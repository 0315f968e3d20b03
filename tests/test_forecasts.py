"""What answers to an unseen prompt will look like: signal is used, noise is not, bounds hold what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from suffice.optimizer import InvalidInput, Sampling
from suffice.optimizer.answers import FLAT, TypePrior
from suffice.optimizer.forecasts import Forecasts, counted
from suffice.optimizer.pool import Pool
from suffice.optimizer.prompts import text_features


def traffic(prompts: int, seed: int, samples: int = 6) -> tuple[np.ndarray, dict[str, Any]]:
    """Two features: the first makes answers longer, scores higher and agreement better, the second is noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (prompts, 2))
    found: list[dict[str, Any]] = []
    for i, (x, _) in enumerate(X):
        mean, share = np.exp(5 + x + 0.2 * rng.normal()), 1 / (1 + np.exp(-2 - 2 * x))
        drawn = [
            {
                "answer": "a" if rng.random() < share else f"b{rng.integers(20)}",
                "correct": 1,
                "score": float(0.5 + 0.2 * x + 0.05 * rng.normal()),
                "tokens": float(mean * np.exp(0.3 * rng.normal())),
            }
            for _ in range(samples)
        ]
        found.append({"id": i, "features": X[i].tolist(), "samples": drawn})
    return X, {"prompts": found}


def recorded(document: dict[str, Any], field: str) -> np.ndarray:
    return np.array([[s[field] for s in p["samples"]] for p in document["prompts"]])


@pytest.fixture(scope="module")
def forecasts() -> Forecasts:
    return Forecasts.fit(Pool.of(traffic(150, 0)[1]))


def test_what_features_tell_is_predicted(forecasts: Forecasts):
    X, unseen = traffic(200, 1)
    found = forecasts(X)
    assert set(found) == {"agreement", "score", "spread", "tokens"}
    tokens = np.log(recorded(unseen, "tokens").mean(1))
    assert np.mean((np.log(found["tokens"].median) - tokens) ** 2) < 0.25 * tokens.var()
    scores = recorded(unseen, "score").mean(1)
    assert np.mean((found["score"].median - scores) ** 2) < 0.1 * scores.var()
    easy, hard = forecasts(np.array([[0.9, 0.0], [-0.9, 0.0]]))["agreement"].median
    assert easy > 0.85 > 0.7 > hard
    assert found["spread"].median == pytest.approx(np.full(200, 0.05), rel=0.2)
    assert forecasts.of["spread"].mean is None, "it is the same everywhere"


def test_two_thirds_of_prompts_lie_between_the_bounds(forecasts: Forecasts):
    X, unseen = traffic(400, 2, samples=60)  # many answers: what is left is how prompts differ
    found = forecasts(X)["tokens"]
    mean = recorded(unseen, "tokens").mean(1)
    assert 0.55 < np.mean((found.low < mean) & (mean < found.high)) < 0.8


def test_noise_and_what_nobody_counted_tell_nothing():
    _, document = traffic(60, 3)
    rng = np.random.default_rng(4)
    for prompt in document["prompts"]:
        prompt["features"] = rng.normal(size=2).tolist()
        for sample in prompt["samples"]:
            del sample["score"]
    forecasts = Forecasts.fit(Pool.of(document))
    assert set(forecasts.of) == {"agreement", "tokens"}
    assert [one.mean for one in forecasts.of.values()] == [None, None]
    a, b = forecasts(np.array([[3.0, 3.0], [-3.0, 0.0]]))["tokens"].median
    assert a == b


def test_wrong_features_are_named(forecasts: Forecasts):
    for wrong in (np.zeros((1, 3)), np.full((1, 2), np.nan)):
        with pytest.raises(InvalidInput, match="features"):
            forecasts(wrong)
    with pytest.raises(InvalidInput, match="features"):
        Forecasts.fit(Pool.of({"prompts": [{"id": 1, "samples": [{"answer": "a", "correct": 1}]}]}))


def test_text_has_features():
    assert text_features("") == [0.0] * 8
    sum_, essay = text_features("37+85=?"), text_features("Write an essay.\nPlease\u2026")
    assert sum_[0] == pytest.approx(np.log1p(7))
    assert sum_[2:] == pytest.approx([np.log1p(2), 4 / 7, 0, 1 / 7, 2 / 7, 0])
    assert essay[1] == pytest.approx(np.log1p(1))
    assert essay[-1] == pytest.approx(1 / 23)


def test_json_holds_everything(forecasts: Forecasts):
    copy = Forecasts.from_json(json.loads(json.dumps(forecasts.to_json())))
    X, _ = traffic(5, 5)
    for name, one in forecasts(X).items():
        assert copy(X)[name].high.tolist() == one.high.tolist()
    assert copy.signal == forecasts.signal


def test_of_two_forecasts_the_better_is_more_likely(forecasts: Forecasts):
    X, unseen = traffic(100, 6)
    known = [counted(p.answers) for p in Pool.of(unseen).prompts]
    told = forecasts.log_likelihood(X, known)
    misled = forecasts.log_likelihood(-X, known)
    blind = replace(forecasts, of={name: replace(one, mean=None) for name, one in forecasts.of.items()})
    for name in forecasts.signal:
        assert told[name] > max(misled[name], blind.log_likelihood(X, known)[name])
    value, variance = known[0]["tokens"]
    spread = np.sqrt(forecasts.of["tokens"].sd ** 2 + variance)
    by_hand = norm.logpdf(value, np.log(forecasts(X[:1])["tokens"].median[0]), spread)
    assert forecasts.log_likelihood(X[:1], known[:1])["tokens"] == pytest.approx(by_hand)


def test_a_sampling_takes_what_is_expected(forecasts: Forecasts):
    found = forecasts.expected([0.5, 0.0], FLAT)
    median = {name: float(one.median[0]) for name, one in forecasts(np.array([[0.5, 0.0]])).items()}
    assert found.told == pytest.approx(median), "spread goes with the score, although features do not tell it"
    assert found.to_json() == found.told
    own = {"mu": median["score"], "sigma": median["spread"], "target": 0.9}
    options = found.options("optscale_t", {"target": 0.9}, None)
    assert options == {"expected_tokens": pytest.approx(median["tokens"]), "settings": pytest.approx(own)}
    assert Sampling("optscale_t", **options).rule.prior[0] == pytest.approx(median["score"])  # type: ignore[attr-defined]
    said = found.options("optscale_t", {"mu": 0.3}, 7.0)
    assert (said["settings"]["mu"], said["expected_tokens"]) == (0.3, 7.0)
    hard = TypePrior((0.5, *(0.5 / 22,) * 22))
    assert forecasts.expected([0.5, 0.0], hard).options("suffice", {}, None)["prior"] == hard
    assert forecasts.expected([0.5, 0.0], hard).to_json()["solve_rate"] == pytest.approx(0.5 * 23 / 44)
    blind = replace(forecasts, of={name: replace(one, mean=None) for name, one in forecasts.of.items()})
    assert blind.expected([0.5, 0.0]).options("optscale_t", {}, None) == {"expected_tokens": None, "settings": {}}
