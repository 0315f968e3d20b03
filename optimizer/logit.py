"""Conditional logit: which of several alternatives is chosen, from features of each (McFadden 1974).

P(j) is proportional to exp(w . x_j) over the alternatives that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import minimize

Weights = Float64[np.ndarray, " f"]


@dataclass(frozen=True, eq=False)
class Choices:
    """Features of the alternatives in r choices, which of them there are, and how often each was right or taken."""

    features: Float64[np.ndarray, "r k f"]
    there: Bool[np.ndarray, "r k"]
    share: Float64[np.ndarray, "r k"] | None = None

    def log_probabilities(self, weights: Weights) -> Float64[np.ndarray, "r k"]:
        """log P(j); minus infinity for what is not there."""
        u = np.where(self.there, self.features @ weights, -np.inf)
        u = u - u.max(1, keepdims=True)
        return u - np.log(np.exp(u).sum(1, keepdims=True))


def fit(batches: Sequence[Choices], start: Weights, ridge: float) -> Weights:
    """The weights that maximise the mean log likelihood, less ``ridge`` times their squared distance from ``start``."""
    n = sum(len(b.there) for b in batches)

    def loss(w: Weights) -> tuple[float, Weights]:
        value, slope = ridge * float((w - start) @ (w - start)), 2.0 * ridge * (w - start)
        for b in batches:
            assert b.share is not None
            log_p = b.log_probabilities(w)
            value -= float((b.share * np.where(b.there, log_p, 0.0)).sum()) / n
            gap = b.share - b.share.sum(1, keepdims=True) * np.exp(log_p)
            slope = slope - np.einsum("rk,rkf->f", gap, b.features) / n
        return value, slope

    found: Weights = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return found
