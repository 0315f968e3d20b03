"""What answers to an unseen prompt will look like: signal is used, noise is not, bounds hold what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from suffice.optimizer import InvalidInput
from suffice.optimizer.forecasts import Forecasts
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


def known(document: dict[str, Any], field: str) -> np.ndarray:
    return np.array([[s[field] for s in p["samples"]] for p in document["prompts"]])


@pytest.fixture(scope="module")
def forecasts() -> Forecasts:
    return Forecasts.fit(Pool.of(traffic(150, 0)[1]))


def test_what_features_tell_is_predicted(forecasts: Forecasts):
    X, unseen = traffic(200, 1)
    found = forecasts(X)
    assert set(found) == {"agreement", "score", "spread", "tokens"}
    tokens = np.log(known(unseen, "tokens").mean(1))
    assert np.mean((np.log(found["tokens"].median) - tokens) ** 2) < 0.25 * tokens.var()
    scores = known(unseen, "score").mean(1)
    assert np.mean((found["score"].median - scores) ** 2) < 0.1 * scores.var()
    easy, hard = forecasts(np.array([[0.9, 0.0], [-0.9, 0.0]]))["agreement"].median
    assert easy > 0.85 > 0.7 > hard
    assert found["spread"].median == pytest.approx(np.full(200, 0.05), rel=0.2)
    assert forecasts.of["spread"].mean is None, "it is the same everywhere"


def test_two_thirds_of_prompts_lie_between_the_bounds(forecasts: Forecasts):
    X, unseen = traffic(400, 2, samples=60)  # many answers: what is left is how prompts differ
    found = forecasts(X)["tokens"]
    mean = known(unseen, "tokens").mean(1)
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
