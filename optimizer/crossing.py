"""Stopping at the first good score, as a way of a calibration: which score is good enough pays at which price.

A rival of the gain tables (gain.py) that a calibration can choose. For each price the threshold and the cap are those
that paid best on labelled answers; then the best answer is given, or the one that the score-weighted vote elects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from .picks import PICKS
from .pool import Traces

LEVELS = tuple(float(1.0 - tail) for tail in (*np.linspace(0.9, 0.2, 8), *np.geomspace(0.15, 0.002, 12)))
CAPS = 8  # numbers of answers that are tried as caps


@dataclass(frozen=True)
class Cell:
    """Stop at the first score of at least ``threshold``, or after ``samples`` answers."""

    threshold: float
    samples: int


FIRST = Cell(-np.inf, 1)  # the first answer, whatever it is


def cells(parts: Sequence[Traces], pick: str, prices: Sequence[float]) -> tuple[Cell, ...]:
    """For each price the cell with the largest accuracy less the price of its answers, from labelled answers."""
    scores = np.concatenate([part.answers.scores[~part.answers.failed] for part in parts])
    most = max(part.cap for part in parts)
    caps = sorted({round(c) for c in np.geomspace(1, most, CAPS)})
    thresholds = np.unique(np.quantile(scores, LEVELS))
    tried = [Cell(float(t), c) for t in thresholds for c in caps]
    right, drawn = np.zeros(len(tried)), np.zeros(len(tried))
    for part in parts:
        truth, best = _given(part, pick), np.maximum.accumulate(part.answers.known_scores, axis=1)
        rows = np.arange(len(best))
        for i, cell in enumerate(tried):
            good = best >= cell.threshold
            n = np.minimum(np.where(good.any(1), good.argmax(1) + 1, part.cap), min(cell.samples, part.cap))
            right[i] += truth[rows, n - 1].sum()
            drawn[i] += n.sum()
    return tuple(tried[int((right - price * drawn).argmax())] for price in prices)


def _given(part: Traces, pick: str) -> Float64[np.ndarray, "r n"]:
    """The truth of the answer that is given after 1, 2, ... answers."""
    rows, found = np.arange(len(part.prompt)), np.zeros(part.truth.shape)
    for n in range(1, part.cap + 1):
        position = PICKS[pick](part.answers.first(n))
        found[:, n - 1] = np.where(position >= 0, part.truth[rows, position], 0.0)
    return found
