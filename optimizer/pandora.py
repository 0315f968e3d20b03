"""Pandora's box for best-of-N (Kalayci et al. 2025, arXiv 2510.01394): stop at the fair cap of what is learned.

When scores have a known law, Weitzman's rule (1979) stops at the fair cap tau with E[(v - tau)+] = c. Its tail is
learned as a shifted exponential: above the median m, v - m is Exp(lambda) with probability 1/2, so that

    E[(v - tau)+] = exp(-lambda (tau - m)) / (2 lambda) = c,    tau = m + log(1 / (2 lambda c)) / lambda.

1 / lambda is the mean excess over the median, raised by an upper confidence bound of its relative error,
``width`` / sqrt(number of excesses): with few scores the cap is believed to be higher.

The abstract and introduction were at hand, not the details: which quantile the tail starts at and the bound's exact
form are this module's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .answers import Answers
from .stopping import Enough, Evidence, Rule, known_pick, number, positive

FIRST = 2


@dataclass(frozen=True)
class Pandora(Rule):
    """Stop when the best score reaches the upper confidence bound of the fair cap at ``price``."""

    name: ClassVar[str] = "pandora"
    swept: ClassVar[tuple[str, ...]] = ("price",)
    scored: ClassVar[bool] = True
    price: float = 0.01
    width: float = 0.5
    picked: str = "best"

    def __post_init__(self) -> None:
        positive("price", self.price)
        number("width", self.width)
        known_pick(self.picked)

    @property
    def pick(self) -> str:
        return self.picked

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        """The price whose fair cap is the best score so far: the highest at which another answer pays."""
        if answers.n < FIRST:
            return np.full(len(answers.clusters), np.inf)
        known = answers.known_scores
        bottom = np.where(np.isneginf(known), np.inf, known).min(1)
        scores = np.where(np.isneginf(known), np.where(np.isinf(bottom), 0.0, bottom)[:, None], known)
        middle = np.median(scores, axis=1)
        excess = np.maximum(scores - middle[:, None], 0.0)
        count = np.maximum((excess > 0).sum(1), 1)
        mean = excess.sum(1) / count * (1.0 + self.width / np.sqrt(count))
        with np.errstate(invalid="ignore", divide="ignore"):
            price = 0.5 * mean * np.exp(-(scores.max(1) - middle) / mean)
        return np.where(mean > 0, price, 0.0)

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return evidence <= self.price

    def soonest(self, n: int, cap: int) -> int:
        return min(max(n + 1, FIRST), cap)

    def sweep(self, cap: int) -> Sequence[Rule]:
        return [replace(self, price=float(p)) for p in np.geomspace(0.5, 1e-5, 50)]
