"""What a verifier's scores say about which answer is right, learned from labelled answers.

Adding up log-likelihood ratios of scores is wrong: samples of one cluster share their score, so that they are no
independent evidence. Instead a conditional logit, fitted for each range of the number of answers, weighs what the votes
say, the scores summed over a cluster, and its best score:

    cluster j:      b1 log W_j + b2 log sum c(s_i) + b3 log sum u(s_i) + b4 max logit c(s_i) + b5 max z(s_i)
    none of them:   b1 log W0  + b6 + b7 max over all logit c(s_i)

with W of answers.py; c(s) = P(right | score s), the isotonic regression of truth on score; u(s), the score from 0 to 1
between the least and the largest seen; z(s), its rank as a normal quantile, which tells apart what c does not. Where
truth is a quality rather than right or wrong, and no two answers are equal, c(s) alone is the expected quality.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.optimize import isotonic_regression
from scipy.special import ndtri

from .answers import FLAT, Answers, PerPrompt, TypePrior, vote_posterior
from .logit import Choices, fit
from .lookahead import HORIZON
from .pool import Traces

FROM = (1, 2, 3, 5, 9, 17, 33)  # the first number of answers of each range
START = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # votes alone
RIDGE = 1e-2  # towards votes alone, of the weights for all n together
RANGE_RIDGE = 0.1  # towards those, of the weights for one range of n
RANKS = 129  # knots of z
FLOOR = 0.005  # no single score makes sure


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """c(s): the expected truth of an answer with score s, linear between knots and rising."""

    score: Float64[np.ndarray, " m"]
    value: Float64[np.ndarray, " m"]
    ranked: Float64[np.ndarray, " l"]  # scores, and their mid ranks as normal quantiles
    quantile: Float64[np.ndarray, " l"]

    @classmethod
    def fit(cls, scores: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"], floor: float) -> ScoreCurve:
        """Isotonic regression; values are kept ``floor`` away from 0 and 1."""
        knots, which = np.unique(scores, return_inverse=True)
        count = np.bincount(which).astype(float)
        mean = np.bincount(which, truth) / count
        value = isotonic_regression(mean, weights=count).x
        if floor:
            value = np.clip(value, floor, 1.0 - floor)
        corner = np.ones(len(value), dtype=bool)  # inside flat stretches knots say nothing
        corner[1:-1] = (np.diff(value)[:-1] > 0) | (np.diff(value)[1:] > 0)
        rank = (np.cumsum(count) - 0.5 * count) / count.sum()
        thin = np.unique(np.linspace(0, len(knots) - 1, min(len(knots), RANKS)).astype(int))
        return cls(knots[corner], value[corner], knots[thin], np.clip(ndtri(rank[thin]), -3.0, 3.0))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ScoreCurve:
        return cls(*(np.array(document[name]) for name in ("score", "value", "ranked", "quantile")))

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("score", "value", "ranked", "quantile")}

    def unit(self, scores: np.ndarray) -> np.ndarray:
        """u(s)."""
        low, high = self.ranked[0], self.ranked[-1]
        return np.clip((scores - low) / max(high - low, 1e-12), 0.0, 1.0)

    def normal(self, scores: np.ndarray) -> np.ndarray:
        """z(s)."""
        return np.interp(scores, self.ranked, self.quantile)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return np.interp(scores, self.score, self.value)


@dataclass(frozen=True, eq=False)
class ScoreModel:
    """P(right) per cluster from votes and scores; with ``quality``, the expected quality of each answer."""

    curve: ScoreCurve
    weights: tuple[Float64[np.ndarray, " f"], ...]
    quality: bool

    @classmethod
    def fit(cls, parts: Sequence[Traces], *, quality: bool) -> ScoreModel:
        """From labelled answers in random orders."""
        scores = np.concatenate([p.answers.scores[~p.answers.failed] for p in parts])
        truth = np.concatenate([p.truth[~p.answers.failed] for p in parts])
        known = ~np.isnan(scores)
        curve = ScoreCurve.fit(scores[known], truth[known], 0.0 if quality else FLOOR)
        if quality:
            return cls(curve, (), quality)
        ranges = [
            [
                choices(p.answers.first(n), curve, p.truth[:, :n])
                for p in parts
                for n in _spread(low, min(high - 1, p.cap))
            ]
            for low, high in zip(FROM, (*FROM[1:], 10**6), strict=True)
        ]
        shared = fit([batch for batches in ranges for batch in batches], START, RIDGE)
        weights = [fit(batches, shared, RANGE_RIDGE) if batches else shared for batches in ranges]
        return cls(curve, tuple(weights), quality)

    def probabilities(self, answers: Answers, prior: TypePrior = FLAT) -> tuple[Float64[np.ndarray, "r k"], PerPrompt]:
        """P(this cluster is right) and P(none seen is right); the prior over types changes what votes say."""
        if self.quality:
            value = np.where(answers.failed, 0.0, self.curve(answers.scores))
            return np.where(answers.one_hot, value[:, :, None], 0.0).max(1), np.zeros(len(value))
        weights = self.weights[bisect_right(FROM, answers.n) - 1]
        p = np.exp(choices(answers, self.curve, prior=prior).log_probabilities(weights))
        return p[:, :-1], p[:, -1]

    def to_json(self) -> dict[str, Any]:
        return {
            "curve": self.curve.to_json(),
            "weights": [w.tolist() for w in self.weights],
            "quality": self.quality,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ScoreModel:
        return cls(
            ScoreCurve.from_json(document["curve"]),
            tuple(np.array(w) for w in document["weights"]),
            document["quality"],
        )


def choices(
    answers: Answers, curve: ScoreCurve, truth: Float64[np.ndarray, "r n"] | None = None, prior: TypePrior = FLAT
) -> Choices:
    """Clusters and "none" as alternatives; with ``truth``, the share that each is right."""
    right, none = vote_posterior(max(answers.n, HORIZON), prior).weights(answers.votes, answers.failed.sum(1))
    c = np.where(answers.failed, 0.0, curve(answers.scores))
    logit = np.where(answers.failed, -np.inf, np.log(np.maximum(c, 1e-9)) - np.log(np.maximum(1.0 - c, 1e-9)))
    there = answers.votes > 0
    unit = np.where(answers.failed, 0.0, curve.unit(answers.scores))
    normal = np.where(answers.failed, -np.inf, curve.normal(answers.scores))
    one_hot = answers.one_hot
    columns = (
        right - none[:, None],
        np.log(np.maximum(np.einsum("rn,rnk->rk", c, one_hot), 1e-9)),
        np.log(np.einsum("rn,rnk->rk", unit, one_hot) + 0.01),
        np.where(one_hot, logit[:, :, None], -np.inf).max(1),
        np.where(one_hot, normal[:, :, None], -np.inf).max(1),
    )
    x = np.zeros((*there.shape, 7))
    x[..., :5] = np.where(there[..., None], np.stack(columns, axis=2), 0.0)
    alone = np.zeros((len(there), 1, 7))
    alone[:, 0, 5] = 1.0
    alone[:, 0, 6] = np.maximum(logit.max(1), -10.0)
    features = np.concatenate([x, alone], axis=1)
    present = np.concatenate([there, np.ones((len(there), 1), dtype=bool)], axis=1)
    if truth is None:
        return Choices(features, present)
    share = np.einsum("rn,rnk->rk", np.where(answers.failed, 0.0, truth), answers.one_hot) / np.maximum(
        answers.votes, 1
    )
    share = share / np.maximum(share.sum(1, keepdims=True), 1.0)  # several clusters can be right
    return Choices(features, present, np.concatenate([share, 1.0 - share.sum(1, keepdims=True)], axis=1))


def _spread(low: int, high: int) -> Iterable[int]:
    """At most four numbers from low to high."""
    return sorted({round(x) for x in np.linspace(low, high, 4)}) if high >= low else ()
