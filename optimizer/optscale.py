"""OptScale (Wang et al. 2025, arXiv 2506.22376): how many answers until one scores at least s_min, by a fitted bound.

Scores of a prompt follow a normal truncated to [0, 1], with distribution function F. The best of N scores reaches s_min
with probability alpha when

    1 - F(s_min)^N >= alpha,    that is    N* = ceil(log(1 - alpha) / log F(s_min)).

As in the paper, mu and sigma are fitted again after each answer and drawing stops at N* (or the cap); with ``peek``, as
the authors' code does it, they are fitted once to the first ``peek`` answers, and N* is at least as many. N* counts
from the first answer, whether or not one has reached s_min already: so does the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .answers import Answers
from .errors import InvalidInput
from .stopping import Enough, Evidence, Rule, finite, positive, probability, whole
from .truncated_normal import fit, log_cdf

TARGETS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99)  # s_min and 1 - alpha as the authors' grid
LEVELS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1)
PEEKS = {8: 3, 16: 5, 32: 10, 64: 20}  # by budget


def peek_for(cap: int) -> int:
    """How many answers the authors' code looks at before it fits, for a budget of ``cap``."""
    return next((peek for budget, peek in PEEKS.items() if cap <= budget), 20)


@dataclass(frozen=True)
class OptScale0(Rule):
    """OptScale-0: maximum likelihood from the scores of the prompt alone."""

    name: ClassVar[str] = "optscale0"
    swept: ClassVar[tuple[str, ...]] = ("target", "alpha")
    score_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    target: float = 0.95
    alpha: float = 0.95
    peek: int | None = None

    def __post_init__(self) -> None:
        probability("target", self.target)
        probability("alpha", self.alpha)
        if self.peek is not None:
            whole("peek", self.peek)

    @property
    def pick(self) -> str:
        return "best"

    @property
    def prior(self) -> tuple[float, float, float, float] | None:
        """(mean of mu, its sd, mean of sigma, its sd), where there is a prior."""
        return None

    def evidence(self, answers: Answers, cap: int) -> Evidence:
        """mu and sigma; NaN where there is nothing to fit yet."""
        n = answers.n if self.peek is None else min(self.peek, cap)
        if answers.n == 0 or answers.n < n:
            return np.full((len(answers.clusters), 2), np.nan)
        scores = np.where(answers.failed[:, :n], 0.0, answers.scores[:, :n])  # a failure scores 0, as in the source
        if np.isnan(scores).any():
            raise InvalidInput("score", "a score for every answer", None)
        self.check(float(scores.min()))
        self.check(float(scores.max()))
        return np.column_stack(fit(scores, self.prior))

    def enough(self, evidence: Evidence, n: int) -> Enough:
        fitted = ~np.isnan(evidence[:, 0])
        return fitted & (n >= needed(evidence[:, 0], evidence[:, 1], self.target, self.alpha))

    def soonest(self, n: int, cap: int) -> int:
        return min(max(n + 1, self.peek or 1), cap)

    def sweep(self, cap: int) -> Sequence[Rule]:
        peek = None if self.peek is None else min(peek_for(cap), cap)
        return [replace(self, target=t, alpha=1.0 - p, peek=peek) for t in TARGETS for p in LEVELS]


@dataclass(frozen=True)
class OptScaleT(OptScale0):
    """OptScale-t: maximum a posteriori, with a predicted mu and sigma as normal prior of sd 0.1.

    The source predicts them by a fine-tuned model; here the caller gives ``mu`` and ``sigma``.
    """

    name: ClassVar[str] = "optscale_t"
    mu: float = 0.8
    sigma: float = 0.2
    prior_sd: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("mu", self.mu)
        positive("sigma", self.sigma)
        positive("prior_sd", self.prior_sd)

    @property
    def prior(self) -> tuple[float, float, float, float] | None:
        return (self.mu, self.prior_sd, self.sigma, self.prior_sd)


def needed(mu: Any, sigma: Any, target: float, alpha: float) -> np.ndarray:
    """N* of each (mu, sigma), at least 1; infinity where F(s_min) is 1."""
    log_f = log_cdf(target, np.nan_to_num(np.atleast_1d(mu)), np.nan_to_num(np.atleast_1d(sigma), nan=1.0))
    with np.errstate(divide="ignore"):
        n = np.ceil(np.log1p(-alpha) / np.minimum(log_f, -1e-300) - 1e-9)
    return np.maximum(np.where(log_f == 0, np.inf, n), 1.0)
