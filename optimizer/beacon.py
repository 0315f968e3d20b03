"""BEACON (Wan et al. 2025, arXiv 2510.15945): optimal stopping for the best of N under normal scores.

Scores of a prompt are normal with unknown mean and variance; from the uninformative prior, the next score after k of
them is mean_k + sigma_k T with T Student-t of k - 1 degrees of freedom. Stopping keeps the best score M so far, going
on costs c. The problem is invariant to shift and scale, so that its solution is an index of the standardised gap
z = (M - mean_k) / sigma_k: draw on just while h_{n,k}(z) > c / sigma_k (Baucells and Zorc 2024 prove that form). h is
computed here by backward induction over (z, c / sigma_k), from n answers down.

The recursion was derived from the model as the abstract and introduction state it, not copied from the paper's tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from scipy.stats import t as student_t

from .answers import PerPrompt
from .best_of_n import BestOfN

FIRST = 3  # fewer scores leave the predictive distribution without a variance worth the name
Z = np.concatenate([np.linspace(-1.0, 4.0, 51), np.linspace(4.25, 12.0, 32)])
LOG_COST = np.linspace(np.log(1e-6), np.log(10.0), 60)  # of c / sigma_k
NODES = 64


@dataclass(frozen=True)
class Beacon(BestOfN):
    """Stop when the value of another score, in the score's unit, is below ``price``."""

    name: ClassVar[str] = "beacon"
    first: ClassVar[int] = FIRST

    def worth(self, scores: Float64[np.ndarray, "r n"], cap: int) -> PerPrompt:
        k = scores.shape[1]
        sd = scores.std(1, ddof=1) * np.sqrt(1.0 + 1.0 / k)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.where(sd > 0, (scores.max(1) - scores.mean(1)) / sd, 0.0)
        return np.where(sd > 1e-12, sd * np.interp(z, Z, indices(cap)[k]), 0.0)


@lru_cache(maxsize=16)
def indices(cap: int) -> Float64[np.ndarray, "k z"]:
    """h_{cap,k} at the standardised gaps Z, by k; rows below FIRST are unused."""
    h = np.zeros((cap + 1, len(Z)))
    cost = np.exp(LOG_COST)
    ahead = np.zeros((len(Z), len(LOG_COST)))  # value of going on optimally, by gap and cost
    levels = (np.arange(NODES) + 0.5) / NODES
    for k in range(cap - 1, FIRST - 1, -1):
        nu = k - 1
        T = student_t.ppf(levels, nu)
        growth = np.sqrt((nu + T * T) * (k + 2.0)) / (k + 1.0)  # sigma_(k+1) / sigma_k
        gap = (np.maximum(Z[:, None], T) - T / (k + 1.0)) / growth
        later = np.zeros((len(Z), len(LOG_COST)))
        for j in range(NODES):
            later += growth[j] * _at(ahead, gap[:, j], LOG_COST - np.log(growth[j]))
        net = one_step(Z, nu)[:, None] + later / NODES - cost
        h[k] = _crossing(net, cost)
        ahead = np.maximum(net, 0.0)
    return h


def one_step(z: np.ndarray, nu: float) -> np.ndarray:
    """E[(T - z)+] for Student's t with nu degrees of freedom."""
    return (nu + z * z) / (nu - 1.0) * student_t.pdf(z, nu) - z * student_t.sf(z, nu)


def _at(table: np.ndarray, z: np.ndarray, log_cost: np.ndarray) -> np.ndarray:
    """Bilinear interpolation in a table over (Z, LOG_COST), constant beyond its edges."""
    across = _columns(table, log_cost)
    place = np.clip(np.searchsorted(Z, z) - 1, 0, len(Z) - 2)
    share = np.clip((z - Z[place]) / (Z[place + 1] - Z[place]), 0.0, 1.0)[:, None]
    return (1.0 - share) * across[place] + share * across[place + 1]


def _columns(table: np.ndarray, log_cost: np.ndarray) -> np.ndarray:
    step = LOG_COST[1] - LOG_COST[0]
    place = np.clip((log_cost - LOG_COST[0]) / step, 0.0, len(LOG_COST) - 1.000001)
    low = place.astype(int)
    share = place - low
    return (1.0 - share) * table[:, low] + share * table[:, low + 1]


def _crossing(net: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The cost at which going on is worth nothing, per row: net falls in the cost."""
    positive = np.clip((net > 0).sum(1), 1, len(cost) - 1)
    rows = np.arange(len(net))
    a, b = net[rows, positive - 1], net[rows, positive]
    share = np.clip(a / (a - b), 0.0, 1.0)
    return np.where((net > 0).any(1), cost[positive - 1] + share * (cost[positive] - cost[positive - 1]), 0.0)
