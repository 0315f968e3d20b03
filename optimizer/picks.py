"""Which of the answers drawn so far to give: by votes, by score, or by both.

Each function returns, for each prompt, the position of the answer to give, and -1 where every answer failed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from .answers import Answers, Counts
from .errors import InvalidInput


def majority(answers: Answers) -> Counts:
    """The first of the most frequent answers (self-consistency; Wang et al. 2022, arXiv 2203.11171)."""
    return member(answers, answers.leader)


def best(answers: Answers) -> Counts:
    """The answer with the highest score, the first among equals (best-of-N)."""
    scores = answers.known_scores
    found = scores.argmax(1)
    return np.where(np.isneginf(scores.max(1)), majority(answers), found)


def weighted(answers: Answers) -> Counts:
    """The best-scored answer of the cluster with the largest sum of scores."""
    return member(answers, weighted_votes(answers).argmax(1))


def weighted_votes(answers: Answers) -> Float64[np.ndarray, "r k"]:
    """The sum of scores per cluster; votes, where no answer has a score. Scores are taken to be non-negative."""
    scores = np.where(np.isneginf(answers.known_scores), 0.0, answers.known_scores)
    sums = np.einsum("rn,rnk->rk", scores, answers.one_hot)
    scored = np.any(answers.known_scores > -np.inf, axis=1)
    return np.where(scored[:, None], sums, answers.votes)


def member(answers: Answers, cluster: Int64[np.ndarray, " r"]) -> Counts:
    """The best-scored member of a cluster, the first among equals; -1 for an empty one."""
    inside = answers.within(cluster)
    position = np.where(inside, answers.known_scores, -np.inf).argmax(1)
    first = inside.argmax(1)
    rows = np.arange(len(cluster))
    position = np.where(inside[rows, position], position, first)
    return np.where(inside.any(1), position, -1)


PICKS: dict[str, Callable[[Answers], Counts]] = {"majority": majority, "best": best, "weighted": weighted}


def pick(name: str) -> Callable[[Answers], Counts]:
    """The pick of that name."""
    if name not in PICKS:
        raise InvalidInput("pick", f"one of {', '.join(PICKS)}", name)
    return PICKS[name]
