"""Stopping for the best of N scores: draw on while another score is worth its price, in the score's own unit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from .answers import Answers, PerPrompt
from .stopping import ByScore, Enough, Evidence, Rule, positive


@dataclass(frozen=True)
class BestOfN(ByScore):
    """Stop when the ``worth`` of another score is below ``price``; scores are looked at from ``first`` of them on."""

    swept: ClassVar[tuple[str, ...]] = ("price",)
    first: ClassVar[int]
    price: float = 0.01
    picked: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("price", self.price)

    @abstractmethod
    def worth(self, scores: Float64[np.ndarray, "r n"], cap: int) -> PerPrompt:
        """The highest price at which another answer pays, after n of at most ``cap``."""

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        if answers.n < self.first:
            return np.full(len(answers.clusters), np.inf)
        if answers.n >= cap:
            return np.zeros(len(answers.clusters))
        return self.worth(scores_of(answers), cap)

    def enough(self, evidence: Evidence, n: int) -> Enough:
        return evidence <= self.price

    def soonest(self, n: int, cap: int) -> int:
        return min(max(n + 1, self.first), cap)

    def sweep(self, cap: int) -> Sequence[Rule]:
        return [replace(self, price=float(p)) for p in np.geomspace(0.5, 1e-5, 50)]


def scores_of(answers: Answers) -> Float64[np.ndarray, "r n"]:
    """Scores; of failures the prompt's lowest, or 0 where all failed."""
    known = answers.known_scores
    failed = np.isneginf(known)
    lowest = np.where(failed, np.inf, known).min(1)
    return np.where(failed, np.where(np.isinf(lowest), 0.0, lowest)[:, None], known)
