"""A label-free alarm: do scores still mean what they meant when they were calibrated?

Nobody labels live traffic, but answers vote: while scores are good, popular answers have higher ones, and equal answers
have similar ones. So each draw of the tuning traffic is compared with the same draw after the prompt's scores were
dealt out again at random; a logistic regression on a few features tells the two apart, and its log odds are the
evidence of one draw that scores mean nothing any more. Draws of a prompt depend on each other, prompts do not: a
prompt's evidence is the sum over its draws, times the factor at which exp(evidence) has mean 1 on the tuning traffic
(Lundberg's exponent). The alarm is Page's cumulative sum (1954); while nothing changes, it passes LIMIT once in e^LIMIT
prompts, or less often.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.optimize import brentq

from .answers import Answers, PerPrompt
from .logit import Choices
from .logit import fit as logistic
from .pool import Traces
from .scores import ScoreCurve

LIMIT = 12.0
LONGEST = 16  # draws of a prompt that are looked at
FROM = (2, 3, 5, 9)  # the first number of answers of each range with weights of its own
FEATURES = 7
RIDGE = 1e-3
LARGEST = 5.0  # of one prompt's evidence, either way: no single prompt raises the alarm


@dataclass(frozen=True, eq=False)
class DriftModel:
    """What a draw says about whether scores still mean something.

    ``weights`` are those of each range of FROM; ``scale[n]`` is the factor after n answers, 0 where they say nothing.
    """

    curve: ScoreCurve
    weights: Float64[np.ndarray, "b f"]
    scale: Float64[np.ndarray, " s"]

    @classmethod
    def fit(cls, parts: Sequence[Traces], curve: ScoreCurve, seed: int = 0) -> DriftModel:
        """From answers in random orders; no labels are looked at."""
        rng = np.random.default_rng(seed)
        dealt = [(part, _dealt(part.answers, rng)) for part in parts]
        weights = np.zeros((len(FROM), FEATURES))
        for i, (low, high) in enumerate(zip(FROM, (*FROM[1:], LONGEST + 1), strict=True)):
            batches = [
                _told_apart(answers.first(n), curve, label)
                for part, other in dealt
                for answers, label in ((part.answers, 0.0), (other, 1.0))
                for n in range(low, min(high, part.cap + 1))
            ]
            if batches:
                weights[i] = logistic(batches, np.zeros(FEATURES), RIDGE)
        model = cls(curve, weights, np.ones(LONGEST + 1))
        longest = min(max(part.cap for part in parts), LONGEST)
        scale = np.zeros(LONGEST + 1)
        for n in range(2, longest + 1):
            scale[n] = _scale(np.concatenate([model.evidence(p.answers.first(n)) for p in parts if p.cap >= n]))
        return cls(curve, weights, scale)

    def evidence(self, answers: Answers) -> PerPrompt:
        """The evidence of each prompt that scores mean nothing any more: a log likelihood ratio."""
        total = np.zeros(len(answers.clusters))
        last = min(answers.n, LONGEST)
        for n in range(2, last + 1):
            total += _features(answers.first(n), self.curve) @ self.weights[bisect_right(FROM, n) - 1]
        return np.clip(self.scale[last] * total, -LARGEST, LARGEST)

    def to_json(self) -> dict[str, Any]:
        return {"weights": self.weights.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], curve: ScoreCurve) -> DriftModel:
        return cls(curve, np.array(document["weights"]), np.array(document["scale"]))


@dataclass(frozen=True, slots=True)
class Watch:
    """The alarm's state over the prompts seen so far: the cumulative sum, and whether it ever passed LIMIT."""

    total: float = 0.0
    alarm: bool = False

    def after(self, evidence: float) -> Watch:
        """The state once the answers to one more prompt are complete."""
        total = max(self.total + evidence, 0.0)
        return Watch(total, self.alarm or total > LIMIT)


def _features(answers: Answers, curve: ScoreCurve) -> Float64[np.ndarray, "r f"]:
    """What the last draw and its score say, given those before; 0 for failures."""
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
            ~joined * (last - mean),
            joined,
            ~joined,
            (same & (before.scores == answers.scores[:, -1:])).any(1),
        ]
    )
    known = ~answers.failed[:, -1] & valid.any(1)
    return np.where(known[:, None], x, 0.0)


def _dealt(answers: Answers, rng: np.random.Generator) -> Answers:
    """The same answers with each prompt's scores dealt out again."""
    return Answers(answers.clusters, rng.permuted(answers.scores, axis=1), answers.tokens)


def _told_apart(answers: Answers, curve: ScoreCurve, dealt: float) -> Choices:
    """A logistic regression as a choice between two: whether scores were dealt out again."""
    x = _features(answers, curve)
    share = np.tile([dealt, 1.0 - dealt], (len(x), 1))
    return Choices(np.stack([x, np.zeros_like(x)], axis=1), np.ones(share.shape, dtype=bool), share)


def _scale(evidence: PerPrompt) -> float:
    """The largest factor of at most 1 at which exp(factor x evidence) has mean 1 or less; 0 if there is none."""

    def excess(factor: float) -> float:
        return float(np.exp(factor * evidence).mean()) - 1.0

    least = 0.05
    if excess(1.0) <= 0:
        return 1.0
    if excess(least) >= 0:
        return 0.0
    found: Any = brentq(excess, least, 1.0)
    return float(found)
