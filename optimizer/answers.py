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

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .errors import InvalidInput

FAILURE = -1  # the cluster of a failure

Counts = Int64[np.ndarray, " r"]
PerPrompt = Float64[np.ndarray, " r"]
LogWeights = Float64[np.ndarray, "..."]
Whole = Int64[np.ndarray, "..."]


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
        return self.clusters == cluster[:, None]

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
    """Which cluster is right, from votes, under one prior over types; with tables for up to ``tabled`` answers."""

    prior: TypePrior
    tabled: int = 0

    def right(self, K: Whole, v: Whole, m: Whole) -> LogWeights:
        """log W of a cluster with v votes among K clusters, m answers elsewhere; minus infinity for v = 0."""
        if not self.tabled:
            return log_share(v, m, self.prior) + log_spread(K - 1, m, self.prior) - _log_gamma(v)
        shares, spread, _, log_gamma = self._tables
        found: LogWeights = shares[v, m] + spread[K - 1, m] - log_gamma[v]
        return found

    def none(self, K: Whole, n: Whole) -> LogWeights:
        """log W0 of n answers in K clusters."""
        if not self.tabled:
            return log_share(np.zeros_like(n), n, self.prior) + log_spread(K, n, self.prior)
        found: LogWeights = self._tables[2][K, n]
        return found

    def weights(
        self, votes: Int64[np.ndarray, "r k"], failures: Counts
    ) -> tuple[Float64[np.ndarray, "r k"], PerPrompt]:
        """Log weights of "this cluster is right" (minus infinity without votes) and of "none seen is right"."""
        n = votes.sum(1) + failures
        K = (votes > 0).sum(1) + failures
        return self.right(K[:, None], votes, n[:, None] - votes), self.none(K, n)

    def probabilities(
        self, votes: Int64[np.ndarray, "r k"], failures: Counts
    ) -> tuple[Float64[np.ndarray, "r k"], PerPrompt]:
        """P(this cluster is right) and P(none seen is right)."""
        right, none = self.weights(votes, failures)
        joint = np.concatenate([right, none[:, None]], axis=1)
        p = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
        return p[:, :-1], p[:, -1]

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """log_share[v, m], log_spread[K, m], log W0[K, n] and log G(v)."""
        count = np.arange(self.tabled + 1)
        shares = log_share(count[:, None], count[None], self.prior)
        spread = log_spread(count[:, None], count[None], self.prior)
        return shares, spread, spread + shares[0], _log_gamma(count)


TABLED = 256  # answers up to which there are tables: KEPT of them take 100 MB
KEPT = 64


def vote_posterior(n: int, prior: TypePrior = FLAT) -> VotePosterior:
    """The posterior for up to n answers; its tables are made once per power of two."""
    size = 16
    while size < n:
        size *= 2
    return _posterior(size, prior) if size <= TABLED else VotePosterior(prior)


@lru_cache(maxsize=KEPT)
def _posterior(size: int, prior: TypePrior) -> VotePosterior:
    return VotePosterior(prior, size)


def log_share(v: Whole, m: Whole, prior: TypePrior) -> LogWeights:
    """log E[theta^v (1 - theta)^m]."""
    theta = np.array(THETAS)
    with np.errstate(divide="ignore"):
        log_pi, log_hit, log_miss = np.log(prior.theta), np.log(theta), np.log1p(-theta)
    found: LogWeights = np.logaddexp.reduce(log_pi + _times(v, log_hit) + _times(m, log_miss), axis=-1)
    return found


def log_spread(K: Whole, m: Whole, prior: TypePrior) -> LogWeights:
    """log E[alpha^K G(alpha) / G(alpha + m)]: of m wrong answers in K clusters."""
    alpha = np.array(ALPHAS)
    # log G(alpha) - log G(alpha + m), from G(x + 1) = x G(x)
    steps = np.log(alpha + np.arange(int(m.max(initial=0)))[:, None])
    fall = -np.concatenate([np.zeros((1, len(alpha))), np.cumsum(steps, axis=0)])
    found: LogWeights = np.logaddexp.reduce(np.log(prior.alpha) + K[..., None] * np.log(alpha) + fall[m], axis=-1)
    return found


def _log_gamma(v: Whole) -> LogWeights:
    """log G(v) of whole numbers; infinity for 0."""
    steps = np.log(np.maximum(np.arange(-1, int(v.max(initial=0))), 1))
    found: LogWeights = np.cumsum(steps)[v]
    return np.where(v == 0, np.inf, found)


def _times(count: Whole, log_p: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, "... t"]:
    """log p^count, with 0^0 = 1."""
    with np.errstate(invalid="ignore"):
        return np.where(count[..., None] == 0, 0.0, count[..., None] * log_p)
