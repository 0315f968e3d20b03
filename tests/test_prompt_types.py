"""The prior over prompt types that labelled answers make likely: the likeliest, and flat where little is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln

from suffice.optimizer.answers import ALPHAS, FLAT, THETAS
from suffice.optimizer.pool import Pool
from suffice.optimizer.prompt_types import likeliest


def pool(prompts: int, seed: int, samples: int = 12) -> Pool:
    """Half the prompts hopeless, half mostly right; wrong answers all differ, but for some that failed."""
    rng = np.random.default_rng(seed)
    entries = []
    for i in range(prompts):
        share = (0.0, 0.8)[i % 2]
        drawn = [
            {"answer": "right", "correct": 1}
            if rng.random() < share
            else {"answer": None if rng.random() < 0.2 else f"w{k}", "correct": 0}
            for k in range(samples)
        ]
        entries.append({"id": i, "samples": drawn})
    return Pool.of({"prompts": entries})


def log_likelihood(pool: Pool, theta: np.ndarray, alpha: np.ndarray) -> float:
    """Of labelled partitions, prompt by prompt."""
    total = 0.0
    for p in pool.prompts:
        r, kinds = int(p.truth.sum()), p.clusters[p.truth == 0]
        m, K = p.n - r, len(set(kinds[kinds >= 0])) + int((kinds < 0).sum())
        shares = [t**r * (1 - t) ** m * weight for t, weight in zip(THETAS, theta, strict=True)]
        spread = np.array(ALPHAS) ** K * np.exp(gammaln(ALPHAS) - gammaln(np.array(ALPHAS) + m)) * alpha
        total += np.log(sum(shares)) + np.log(spread.sum())
    return total


def test_no_prior_makes_the_labels_more_likely():
    seen = pool(40, 0)
    found = likeliest(seen, 1e-9)
    best = log_likelihood(seen, np.array(found.theta), np.array(found.alpha))
    rng = np.random.default_rng(1)
    for scale in (0.01, 0.1, 1.0):
        for _ in range(20):
            theta = 0.9 * np.array(found.theta) + 0.1 * rng.dirichlet(np.full(len(THETAS), scale))
            alpha = 0.9 * np.array(found.alpha) + 0.1 * rng.dirichlet(np.full(len(ALPHAS), scale))
            assert log_likelihood(seen, theta, alpha) <= best + 1e-3
    assert best > log_likelihood(seen, np.array(FLAT.theta), np.array(FLAT.alpha)) + 10


def test_what_prompts_are_like_is_found():
    found = likeliest(pool(300, 2), 1e-9)
    assert found.theta[0] == pytest.approx(0.5, abs=0.02)
    assert sum(w for w, t in zip(found.theta, THETAS, strict=True) if 0.65 < t < 0.95) == pytest.approx(0.5, abs=0.02)
    assert sum(w for w, a in zip(found.alpha, ALPHAS, strict=True) if a > 20) > 0.95, "wrong answers all differ"


def test_the_flat_prior_is_worth_its_strength():
    seen = pool(20, 3)
    weights = [likeliest(seen, strength).theta[0] for strength in (1e-9, 10.0, 1e9)]
    assert weights[0] > weights[1] > weights[2] == pytest.approx(FLAT.theta[0])
    assert likeliest(seen, 1e9).alpha == pytest.approx(FLAT.alpha)
