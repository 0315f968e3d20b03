"""A label-free alarm: do scores still mean what they meant when they were calibrated?

Nobody labels live traffic, but answers vote: while scores are good, popular answers have higher ones, and equal answers
have similar ones. So prompts of the tuning traffic are stopped as they are live, at many prices, once as they are and
once with each prompt's scores dealt out again at random, and a logistic regression on a few features of what was drawn
tells the two apart. Its log odds are the evidence of a prompt that scores mean nothing any more. Where a prompt stops
depends on its scores while they are looked at, and not once they are left alone, so that there is a regression for
each, and one for each range of the number of answers. Odds are shrunk until exp(evidence) has mean 1 or less on prompts
that the regression was not fitted to: an e-value. Scores that are still alike for equal answers, but mean the opposite,
are heard only where right answers are the popular ones.

The alarm is a cumulative sum (Page 1954) between 0 and LIMIT. It comes on at LIMIT, which good scores reach once in
e^LIMIT prompts or less often, and goes off at 0: by votes alone more answers are drawn, so that a false alarm is soon
found out. Where so few are drawn that nothing is found out, ALLOWANCE has scores tried again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from .answers import Answers, PerPrompt
from .logit import Choices, Weights
from .logit import fit as logistic
from .scores import ScoreCurve

LIMIT = 7.0
ALLOWANCE = 0.02  # what the sum loses per prompt: an alarm that nothing speaks for goes off in the end
LONGEST = 16  # answers of a prompt that are looked at
FROM = (2, 3, 5, 9)  # the first number of answers of each range with weights of its own
FEATURES = 6
RIDGE = 1e-3
LARGEST = 3.0  # of one prompt's evidence, either way: none raises the alarm alone
FACTORS = (*(float(f) for f in np.linspace(1.0, 0.1, 19)), 0.0)
SAFE = 1.0  # standard errors by which the mean of exp(evidence) has to lie below 1


@dataclass(frozen=True, eq=False)
class Stopped:
    """Prompts as they were stopped: features, after how many answers, of which question, and whether scores were dealt
    out again."""

    features: Float64[np.ndarray, "r f"]
    n: Int64[np.ndarray, " r"]
    question: Int64[np.ndarray, " r"]
    dealt: bool

    @classmethod
    def of(
        cls,
        curve: ScoreCurve,
        answers: Answers,
        stops: Iterable[Int64[np.ndarray, " r"]],
        question: Int64[np.ndarray, " r"],
        *,
        dealt: bool,
    ) -> Stopped:
        """Each of the prompts at each of its stops."""
        after = features(curve, answers)
        rows = np.arange(len(question))
        n = [np.minimum(stop, len(after)) for stop in stops]
        x = np.concatenate([after[stop - 1, rows] for stop in n])
        return cls(x, np.concatenate(n), np.tile(question, len(n)), dealt)


@dataclass(frozen=True, eq=False)
class DriftModel:
    """What a prompt that has enough answers says about whether scores still mean something.

    Weights of ``features`` for each range of FROM: where scores were looked at (``scored``), and by ``votes`` alone.
    """

    curve: ScoreCurve
    scored: Float64[np.ndarray, "b f"]
    votes: Float64[np.ndarray, "b f"]

    @classmethod
    def fit(cls, curve: ScoreCurve, scored: Sequence[Stopped], votes: Sequence[Stopped]) -> DriftModel:
        """From prompts that what decided on them was not fitted to; no labels are looked at."""
        return cls(curve, _weights(scored), _weights(votes))

    def evidence(self, answers: Answers, *, scores: bool = True) -> PerPrompt:
        """The evidence of each prompt that scores mean nothing any more: the log of an e-value.

        ``scores``: whether they were looked at to decide.
        """
        if answers.n < FROM[0]:
            return np.zeros(len(answers.clusters))
        after = features(self.curve, answers)
        weights = self.scored if scores else self.votes
        return _bounded(after[-1] @ weights[bisect_right(FROM, len(after)) - 1])

    def to_json(self) -> dict[str, Any]:
        return {"scored": self.scored.tolist(), "votes": self.votes.tolist()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], curve: ScoreCurve) -> DriftModel:
        return cls(curve, np.array(document["scored"]), np.array(document["votes"]))


@dataclass(frozen=True, slots=True)
class Watch:
    """The alarm's state over the prompts seen so far: the cumulative sum, and whether the alarm is on."""

    total: float = 0.0
    alarm: bool = False

    def after(self, evidence: float) -> Watch:
        """The state once the answers to one more prompt are complete."""
        total = min(max(self.total + evidence - ALLOWANCE, 0.0), LIMIT)
        return Watch(total, total > 0 if self.alarm else total == LIMIT)


# --- features ---------------------------------------------------------------------------------------------------------


def features(curve: ScoreCurve, answers: Answers) -> Float64[np.ndarray, "n r f"]:
    """Features of the prompts after 1, 2, ... answers, up to LONGEST: a constant, and sums over draws.

    The sums are divided by the square root of the number of draws, so that their spread hardly depends on it.
    """
    last = min(answers.n, LONGEST)
    x = np.zeros((last, len(answers.clusters), FEATURES))
    for n in range(2, last + 1):
        x[n - 1, :, 1:] = _of_draw(answers.first(n), curve)
    x = x.cumsum(0) / np.sqrt(np.arange(1, last + 1))[:, None, None]
    x[..., 0] = 1.0
    return x


def _of_draw(answers: Answers, curve: ScoreCurve) -> Float64[np.ndarray, "r f"]:
    """How the last draw's score goes with those before; 0 for failures.

    Where the answer was there before: how much better those like it are than all, how far its score is from theirs,
    how much better it is than all, and whether one of them has the very same score. Where it is new: how much better
    it is than all.
    """
    c = np.clip(curve(answers.scores), 1e-3, 1.0 - 1e-3)
    logit = np.where(answers.failed | np.isnan(answers.scores), 0.0, np.log(c / (1.0 - c)))
    before = answers.first(answers.n - 1)
    past, last = logit[:, :-1], logit[:, -1]
    valid = ~before.failed
    mean = (past * valid).sum(1) / np.maximum(valid.sum(1), 1)
    same = valid & (before.clusters == answers.clusters[:, -1:])
    joined = same.any(1)
    own = np.where(joined, (past * same).sum(1) / np.maximum(same.sum(1), 1), 0.0)
    x = np.column_stack(
        [
            joined * (own - mean),
            joined * np.abs(last - own),
            joined * (last - mean),
            (same & (before.scores == answers.scores[:, -1:])).any(1),
            ~joined * (last - mean),
        ]
    )
    known = ~answers.failed[:, -1] & valid.any(1)
    return np.where(known[:, None], x, 0.0)


# --- fitting ----------------------------------------------------------------------------------------------------------


def _weights(stopped: Sequence[Stopped]) -> Float64[np.ndarray, "b f"]:
    """The weights of each range of FROM, shrunk until they are safe; 0 where they never are."""
    found = np.zeros((len(FROM), FEATURES))
    for i, (low, high) in enumerate(zip(FROM, (*FROM[1:], LONGEST + 1), strict=True)):
        inside = [(s, (s.n >= low) & (s.n < high)) for s in stopped]
        x = np.concatenate([s.features[kept] for s, kept in inside])
        question = np.concatenate([s.question[kept] for s, kept in inside])
        dealt = np.concatenate([np.full(int(kept.sum()), s.dealt) for s, kept in inside])
        fold = question % 2
        if all(len(np.unique(dealt[fold == k])) == 2 for k in (0, 1)):
            unseen = np.zeros(len(x))
            for k in (0, 1):
                unseen[fold == k] = x[fold == k] @ _told_apart(x[fold != k], dealt[fold != k])
            found[i] = safe_factor(unseen[~dealt], question[~dealt]) * _told_apart(x, dealt)
    return found


def _told_apart(x: Float64[np.ndarray, "r f"], dealt: np.ndarray) -> Weights:
    """A logistic regression, as a choice between two: whether scores were dealt out again; both are as likely."""
    weight = np.where(dealt, 0.5 / dealt.mean(), 0.5 / (1.0 - dealt.mean()))
    share = weight[:, None] * np.column_stack([dealt, ~dealt])
    pair = Choices(np.stack([x, np.zeros_like(x)], axis=1), np.ones(share.shape, dtype=bool), share)
    return logistic([pair], np.zeros(x.shape[1]), RIDGE)


def safe_factor(log_odds: PerPrompt, question: Int64[np.ndarray, " r"]) -> float:
    """The largest of FACTORS at which exp(evidence) of good prompts has mean 1 or less by SAFE standard errors.

    Rows of one ``question`` go together. 0 is always safe.
    """
    for factor in FACTORS:
        e = np.exp(_bounded(factor * log_odds)) - 1.0
        error = np.sqrt(np.square(np.bincount(question, e - e.mean())).sum()) / len(e)
        if e.mean() + SAFE * error <= 0:
            return factor
    return 0.0


def _bounded(evidence: np.ndarray) -> np.ndarray:
    return np.clip(evidence, -LARGEST, LARGEST)
