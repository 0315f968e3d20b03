"""What k more answers add to the pick, learned from labelled answers.

For each k of STEPS a ridge regression predicts truth(pick after n + k) - truth(pick after n) from a few features of the
state, pooled over n. Drawing on is worth the largest gain per answer, max over k of gain(k) / k: the largest k matters,
because one more answer can rarely change the pick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from .answers import Answers, Counts, PerPrompt
from .pool import Traces
from .scores import ScoreModel

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
RIDGE = 1e-3  # per row, of standardised features

Choose = Callable[[Answers, Float64[np.ndarray, "r k"]], Counts]  # from answers and P(right) per cluster


@dataclass(frozen=True, eq=False)
class GainTable:
    """Per k of ``steps``, the coefficients of ``features``."""

    steps: tuple[int, ...]
    coefficients: Float64[np.ndarray, "s f"]

    @classmethod
    def fit(cls, walks: Sequence[Walk], choose: Choose) -> GainTable:
        """For the pick that ``choose`` makes, from labelled answers in random orders."""
        seen = [walk.seen(choose) for walk in walks]
        steps: list[int] = []
        rows: list[np.ndarray] = []
        for k in STEPS:
            pairs = [(x[n], t[n + k] - t[n]) for x, t in seen for n in range(len(t) - k)]
            if pairs:
                steps.append(k)
                rows.append(_ridge(np.concatenate([x for x, _ in pairs]), np.concatenate([g for _, g in pairs])))
        return cls(tuple(steps), np.array(rows).reshape(len(steps), -1))

    def per_answer(self, x: Float64[np.ndarray, "r f"], left: int) -> tuple[PerPrompt, PerPrompt]:
        """The largest gain per answer, and the largest gain, with at most ``left`` more answers; at least 0."""
        possible = [i for i, k in enumerate(self.steps) if k <= left]
        if not possible:
            return np.zeros(len(x)), np.zeros(len(x))
        gain = np.maximum(x @ self.coefficients[possible].T, 0.0)
        return (gain / np.array(self.steps)[possible]).max(1), gain.max(1)

    def to_json(self) -> dict[str, Any]:
        return {"steps": list(self.steps), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> GainTable:
        return cls(tuple(document["steps"]), np.array(document["coefficients"]))


def features(
    answers: Answers, model: ScoreModel, p: Float64[np.ndarray, "r k"], none: PerPrompt, position: Counts
) -> Float64[np.ndarray, "r f"]:
    """What a state looks like: how sure the pick and the leader are, what else there is, and how scores spread."""
    rows = np.arange(len(p))
    top = -np.sort(-p, axis=1)
    first, second = top[:, 0], top[:, 1] if top.shape[1] > 1 else np.zeros(len(p))
    picked = np.where(position >= 0, p[rows, np.maximum(answers.clusters[rows, position], 0)], 0.0)
    c = np.where(answers.failed, 0.0, model.curve(answers.scores))
    columns = (picked, first, first * (1 - first), second, none, c.max(1), c.mean(1), c.std(1))
    base = np.column_stack([np.ones(len(p)), *columns])
    log_n = np.log(answers.n)
    return np.concatenate([base, base * log_n, np.full((len(p), 1), log_n * log_n)], axis=1)


@dataclass(frozen=True, eq=False)
class Walk:
    """Labelled answers in random orders, with what the model says after 1, 2, ... of them."""

    part: Traces
    model: ScoreModel
    said: Sequence[tuple[np.ndarray, np.ndarray]]  # (r, k) and (r,): scores.py

    @classmethod
    def of(cls, part: Traces, model: ScoreModel) -> Walk:
        return cls(part, model, [model.probabilities(part.answers.first(n)) for n in range(1, part.cap + 1)])

    def seen(self, choose: Choose) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Features and the pick's truth after 1, 2, ... answers."""
        seen: list[np.ndarray] = []
        truth: list[np.ndarray] = []
        rows = np.arange(len(self.part.prompt))
        for n, (p, none) in enumerate(self.said, 1):
            answers = self.part.answers.first(n)
            position = choose(answers, p)
            seen.append(features(answers, self.model, p, none, position))
            truth.append(np.where(position >= 0, self.part.truth[rows, position], 0.0))
        return seen, truth


def _ridge(x: Float64[np.ndarray, "r f"], y: Float64[np.ndarray, " r"]) -> Float64[np.ndarray, " f"]:
    """Coefficients for x as it is; the penalty is on standardised columns, and not on the constant."""
    mean, sd = x.mean(0), x.std(0) + 1e-9
    mean[0], sd[0] = 0.0, 1.0
    z = (x - mean) / sd
    penalty = np.full(len(mean), RIDGE * len(z))
    penalty[0] = 0.0
    b = np.linalg.solve(z.T @ z + np.diag(penalty + 1e-9), z.T @ y) / sd
    b[0] -= float(mean @ b)
    return b
