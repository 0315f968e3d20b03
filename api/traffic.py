"""What finished prompts teach of what features tell: nobody labels traffic, so votes and scores stand for labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from suffice.optimizer import Sampling

MOST = 5000  # prompts that features are learned from

Traffic = dict[str, list[Any]]
"""Of each prompt its features, how many of its answers are right, how many there are, and statistics of them."""


@dataclass(frozen=True)
class Lesson:
    """A finished prompt: ``counted`` are statistics of its answers, as optimizer/forecasts.py counts them."""

    features: Sequence[float]
    right: float
    drawn: int
    counted: dict[str, Sequence[float]]

    @classmethod
    def of(cls, features: Sequence[float], sampling: Sampling) -> Lesson | None:
        """From its answers, told to a sampling without a prior: a prior would be learned from itself."""
        from suffice.optimizer.forecasts import counted

        found = sampling.answers
        if not found.n:
            return None
        votes = found.votes[0].tolist()  # in the order in which the posterior has the answers
        right = sum(p * count for p, count in zip(sampling.posterior.answers.values(), votes, strict=False))
        return cls(list(features), right, found.n, {name: list(pair) for name, pair in counted(found).items()})


def traffic(lessons: Iterable[Lesson]) -> Traffic:
    """Lessons as the process that fits takes them."""
    kept = list(lessons)
    return {name: [getattr(one, name) for one in kept] for name in ("features", "right", "drawn", "counted")}
