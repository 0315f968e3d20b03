"""The prior over prompt types that labelled answers make likely, for the confidence that is stated.

With labels, a prompt's r right answers tell of its share theta, and its m wrong ones of K kinds of their diversity
alpha, so that the weights of both grids (answers.py) are fitted separately,

    theta^r (1 - theta)^m    and    alpha^K G(alpha) / G(alpha + m),

by expectation maximisation: the nonparametric maximum likelihood of a mixture (Kiefer and Wolfowitz 1956), with the
flat prior worth ``strength`` prompts. What votes say is honest then. Stopping is better under the flat prior
(docs/sampling_benchmarks.md).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from .answers import ALPHAS, FLAT, THETAS, TypePrior
from .pool import Pool, Recorded

STRENGTH = 10.0  # prompts
STEPS = 300  # of expectation maximisation
LEAST = 1e-9  # no type is impossible

Mixture = tuple[float, ...]


def likeliest(pool: Pool, strength: float = STRENGTH) -> TypePrior:
    """The prior over types of the pool's prompts; their truth is 0 or 1."""
    right = np.array([(p.truth > 0.5).sum() for p in pool.prompts], dtype=float)
    wrong = np.array([float(p.n) for p in pool.prompts]) - right
    kinds = np.array([float(_kinds(p)) for p in pool.prompts])
    theta, alpha = np.array(THETAS), np.array(ALPHAS)
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(right[:, None] == 0, 0.0, right[:, None] * np.log(theta))
        misses = np.where(wrong[:, None] == 0, 0.0, wrong[:, None] * np.log1p(-theta))
    steps = np.log(alpha + np.arange(int(wrong.max(initial=0.0)))[:, None])
    fall = -np.concatenate([np.zeros((1, len(alpha))), np.cumsum(steps, axis=0)])  # log G(alpha) - log G(alpha + m)
    spread = kinds[:, None] * np.log(alpha) + fall[wrong.astype(int)]
    return TypePrior(_mixed(hits + misses, FLAT.theta, strength), _mixed(spread, FLAT.alpha, strength))


def _kinds(p: Recorded) -> int:
    """How many kinds of wrong answers there are; each failure is one of its own."""
    wrong = (p.truth <= 0.5) & (p.clusters >= 0)
    return len(np.unique(p.clusters[wrong])) + int((p.clusters < 0).sum())


def _mixed(log_likelihood: Float64[np.ndarray, "p t"], flat: Mixture, strength: float) -> Mixture:
    """The weights of the types under which prompts are most likely."""
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    weight = np.array(flat)
    for _ in range(STEPS):
        share = likelihood * weight
        share = share / share.sum(1, keepdims=True)
        weight = (share.sum(0) + strength * np.array(flat)) / (len(share) + strength)
    weight = np.maximum(weight, LEAST)
    return tuple((weight / weight.sum()).tolist())
