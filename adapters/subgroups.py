"""Votes weighed by confidence within subgroups of the answers (SCOPE, arXiv 2512.15146).

From the paper: a token's confidence is the mean negative log-probability of its likeliest alternatives (a flat
distribution has many likely ones, so a low mean); a step's is the mean over its tokens, an answer's the mean over its
steps; each subgroup, drawn from the answers without replacement, elects the answer with the largest sum of confidences.

The paper trains on what subgroups elect, each for its own part of the batch, and chooses their size by the trade-off
between quality and diversity. An answer is wanted here, so the one that most subgroups elect is given, and the size is
a setting. When to stop drawing is up to the stopping rule, which counts votes.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

A = TypeVar("A", bound=Hashable)  # an answer
ALTERNATIVES = 5  # log-probabilities asked for per token


def step_confidence(choice: Mapping[str, Any], separator: str = "\n\n") -> float | None:
    """Confidence in a choice, averaged over its steps; None where no alternatives came along. Larger is surer."""
    steps: list[list[float]] = [[]]
    for text, logprobs in _alternatives(choice):
        if logprobs:
            steps[-1].append(-sum(logprobs) / len(logprobs))
        if separator in text:
            steps.append([])
    means = [sum(step) / len(step) for step in steps if step]
    return sum(means) / len(means) if means else None


def _alternatives(choice: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """Each token with the log-probabilities of its alternatives, from a chat's or a completion's form."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        return []
    if isinstance(content := logprobs.get("content"), list):
        return [(e["token"], [float(one["logprob"]) for one in e.get("top_logprobs") or ()]) for e in content]
    tokens, tops = logprobs.get("tokens"), logprobs.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(tops, list):
        return []
    return [(t, [float(v) for v in (top or {}).values()]) for t, top in zip(tokens, tops, strict=False)]


def elected(
    answers: Sequence[A | None], weights: Sequence[float], groups: int = 16, share: float = 0.5, seed: int = 0
) -> dict[A, int]:
    """How many of ``groups`` subgroups elect each answer, the most elected first.

    A subgroup is ``share`` of the answers, at least one, without replacement; None never stands for election, but is
    drawn like the others. All together decide between answers that are elected equally often.
    """
    rng = random.Random(seed)
    everyone = range(len(answers))
    size = max(1, math.ceil(share * len(answers)))
    votes = Counter[A]()
    whole = _sums(answers, weights, everyone)
    for _ in range(groups):
        sums = _sums(answers, weights, sorted(rng.sample(everyone, size)))
        if sums:
            votes[max(sums, key=lambda one: (sums[one], whole[one]))] += 1
    return dict(sorted(votes.items(), key=lambda item: (-item[1], -whole[item[0]])))


def _sums(answers: Sequence[A | None], weights: Sequence[float], members: Sequence[int]) -> dict[A, float]:
    sums = defaultdict[A, float](float)
    for i in members:
        if (answer := answers[i]) is not None:
            sums[answer] += weights[i]
    return sums
