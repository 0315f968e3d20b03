"""Answers drawn so far, and the posterior over which of them is right.

Answers to one prompt fall into clusters of equal answers. A prompt has a type k = (theta, alpha): each answer is right
with probability theta (0: the model cannot solve it), and wrong answers are spread over distinct wrong ones as by a
Chinese restaurant process with concentration alpha. Given votes v over K clusters, n in all, the weight of "the cluster
with v votes is right" and of "none of those seen is right" are, up to a factor that they share (Pitman 1995 gives the
partition probability of the process),

    W(n, K, v) = sum_k pi_k theta^v (1 - theta)^(n - v) alpha^(K - 1) G(alpha) / (G(alpha + n - v) G(v))
    W0(n, K)   = sum_k pi_k (1 - theta)^n alpha^K G(alpha) / G(alpha + n)

and Z(v) = (sum_j W(n, K, v_j) + W0) prod_j G(v_j) is the probability of the partition, so that Z(v + e_j) / Z(v)
predicts where the next answer falls. A failure (an answer cut off, or none that can be read) was drawn, cannot be
picked, and counts as a wrong answer like no other.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .errors import InvalidInput

FAILURE = -1  # the cluster of a failure

Counts = Int64[np.ndarray, " r"]
PerPrompt = Float64[np.ndarray, " r"]


@dataclass(frozen=True, eq=False)
class Answers:
    """The first n answers to each of r prompts, in the order in which they were asked for.

    Equal numbers in a row of ``clusters`` are equal answers, numbered from 0 as they first appear; FAILURE marks a
    failure. ``scores`` and ``tokens`` are NaN where unknown.
    """

    clusters: Int64[np.ndarray, "r n"]
    scores: Float64[np.ndarray, "r n"]
    tokens: Float64[np.ndarray, "r n"]

    @classmethod
    def of(
        cls,
        answers: Sequence[Hashable | None],
        scores: Sequence[float | None] | None = None,
        tokens: Sequence[float | None] | None = None,
    ) -> Answers:
        """One prompt's answers; None is a failure."""
        return cls(label(answers)[None], _row(scores, len(answers)), _row(tokens, len(answers)))

    @property
    def n(self) -> int:
        return self.clusters.shape[1]

    def first(self, n: int) -> Answers:
        """The first n answers of each prompt."""
        return Answers(self.clusters[:, :n], self.scores[:, :n], self.tokens[:, :n])

    @cached_property
    def failed(self) -> Bool[np.ndarray, "r n"]:
        return self.clusters == FAILURE

    @cached_property
    def one_hot(self) -> Bool[np.ndarray, "r n k"]:
        """Which answer lies in which cluster."""
        k = int(self.clusters.max(initial=FAILURE)) + 1
        return self.clusters[:, :, None] == np.arange(max(k, 1))

    @cached_property
    def votes(self) -> Int64[np.ndarray, "r k"]:
        """Answers per cluster, by number."""
        return self.one_hot.sum(1)

    def within(self, cluster: Counts) -> Bool[np.ndarray, "r n"]:
        """Which answers lie in the prompt's given cluster."""
        return np.take_along_axis(self.one_hot, cluster[:, None, None], axis=2)[:, :, 0]

    @cached_property
    def leader(self) -> Counts:
        """The cluster with the most votes, the first seen among equals."""
        return self.votes.argmax(1)

    @cached_property
    def ranked(self) -> Int64[np.ndarray, "r k"]:
        """Votes in falling order, padded with zeros."""
        return -np.sort(-self.votes, axis=1)

    @cached_property
    def known_scores(self) -> Float64[np.ndarray, "r n"]:
        """Scores, minus infinity for failures and where there is none."""
        return np.where(self.failed | np.isnan(self.scores), -np.inf, self.scores)


def label(answers: Iterable[Hashable | None]) -> Int64[np.ndarray, " n"]:
    """Numbers from 0 as answers first appear; FAILURE for None."""
    numbers: dict[Hashable, int] = {}
    return np.array([FAILURE if a is None else numbers.setdefault(a, len(numbers)) for a in answers], dtype=np.int64)


def _row(values: Sequence[float | None] | None, n: int) -> Float64[np.ndarray, "1 n"]:
    if values is None:
        return np.full((1, n), np.nan)
    return np.array([[np.nan if v is None else float(v) for v in values]], dtype=float).reshape(1, n)


# --- types of prompts -------------------------------------------------------------------------------------------------

THETAS = tuple(float(t) for t in np.linspace(0.0, 1.0, 23))
ALPHAS = tuple(float(a) for a in np.geomspace(0.3, 100.0, 9))
UNSOLVABLE = 4 / 26  # what the flat prior gives to theta = 0: as much as to four other shares


@dataclass(frozen=True)
class TypePrior:
    """Probabilities of prompt types: of each share ``THETAS`` of right answers, and each diversity ``ALPHAS`` of wrong
    ones, independently. Flat unless given, but for UNSOLVABLE.

    Flat was no worse than priors fitted to other models, and better on weak ones (docs/sampling_benchmarks.md).
    """

    theta: tuple[float, ...] = (UNSOLVABLE, *((1.0 - UNSOLVABLE) / (len(THETAS) - 1),) * (len(THETAS) - 1))
    alpha: tuple[float, ...] = (1.0 / len(ALPHAS),) * len(ALPHAS)

    def __post_init__(self) -> None:
        for field, found, grid in (("theta", self.theta, THETAS), ("alpha", self.alpha, ALPHAS)):
            ok = len(found) == len(grid) and min(found) > 0 and abs(sum(found) - 1.0) < 1e-9
            if not ok:
                raise InvalidInput(f"prior.{field}", f"{len(grid)} positive probabilities that sum to 1", found)


FLAT = TypePrior()


def right_after_failures(failures: int, prior: TypePrior = FLAT) -> float:
    """P(the next answer is right) where all so far were failures: E[theta (1 - theta)^f] / E[(1 - theta)^f]."""
    theta = np.array(THETAS)
    missed = np.array(prior.theta) * (1.0 - theta) ** failures
    return float((theta * missed).sum() / missed.sum())


@dataclass(frozen=True, eq=False)
class VotePosterior:
    """log W(n, K, v) as ``log_right[K, v, n - v]`` and log W0(n, K) as ``log_none[K, n]``."""

    log_right: Float64[np.ndarray, "s s s"]
    log_none: Float64[np.ndarray, "s s"]

    def weights(
        self, votes: Int64[np.ndarray, "r k"], failures: Counts
    ) -> tuple[Float64[np.ndarray, "r k"], PerPrompt]:
        """Log weights of "this cluster is right" (minus infinity without votes) and of "none seen is right"."""
        n = votes.sum(1) + failures
        K = (votes > 0).sum(1) + failures
        right = self.log_right[K[:, None], votes, n[:, None] - votes]
        return np.where(votes > 0, right, -np.inf), self.log_none[K, n]

    def probabilities(
        self, votes: Int64[np.ndarray, "r k"], failures: Counts
    ) -> tuple[Float64[np.ndarray, "r k"], PerPrompt]:
        """P(this cluster is right) and P(none seen is right)."""
        right, none = self.weights(votes, failures)
        joint = np.concatenate([right, none[:, None]], axis=1)
        p = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
        return p[:, :-1], p[:, -1]


def vote_posterior(n: int, prior: TypePrior = FLAT) -> VotePosterior:
    """The posterior's tables for up to n answers, made once per power of two."""
    size = 16
    while size < n:
        size *= 2
    return _tables(size, prior)


@lru_cache(maxsize=64)
def _tables(size: int, prior: TypePrior) -> VotePosterior:
    theta, alpha = np.array(THETAS), np.array(ALPHAS)
    with np.errstate(divide="ignore"):
        log_pi_theta, log_pi_alpha = np.log(prior.theta), np.log(prior.alpha)
        log_theta, log_not = np.log(theta), np.log1p(-theta)
    count = np.arange(size + 1)
    hits, misses = _times(count, log_theta), _times(count, log_not)
    # A[v, m]: v right answers and m wrong ones; C[K, m]: m wrong answers in K clusters
    A = np.logaddexp.reduce(log_pi_theta + hits[:, None] + misses[None], axis=2)
    # log G(alpha) - log G(alpha + m), from G(x + 1) = x G(x)
    steps = np.log(alpha + count[:-1, None])
    spread = -np.concatenate([np.zeros((1, len(alpha))), np.cumsum(steps, axis=0)])
    C = np.logaddexp.reduce(log_pi_alpha + count[:, None, None] * np.log(alpha) + spread[None], axis=2)
    none = C + np.logaddexp.reduce(log_pi_theta + misses, axis=1)
    log_factorial = np.array([math.lgamma(v) for v in count[1:]])  # of v - 1
    right = np.full((size + 1,) * 3, -np.inf)
    right[1:, 1:] = A[None, 1:] + C[:-1, None] - log_factorial[None, :, None]
    return VotePosterior(right, none)


def _times(count: Int64[np.ndarray, " s"], log_p: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, "s t"]:
    """log p^count, with 0^0 = 1."""
    with np.errstate(invalid="ignore"):
        return np.where(count[:, None] == 0, 0.0, count[:, None] * log_p)
