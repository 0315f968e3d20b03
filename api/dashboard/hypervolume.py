"""How much the front has come to dominate, by trial: what the best so far is for one objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PLACES = 60  # at which it is computed
MARGIN = 0.1  # of the front's range, by which the reference lies below its worst (Ishibuchi 2011)


def reference(front: np.ndarray, given: Sequence[float | None]) -> np.ndarray:
    """Where volume begins, with larger better: as given, else a tenth of the front's range below its worst."""
    low, high = front.min(0), front.max(0)
    room = np.where(high > low, high - low, np.maximum(np.abs(low), 1.0))  # of one point alone: its own size
    inferred = low - MARGIN * room
    return np.array([inferred[k] if r is None else r for k, r in enumerate(given)])


def front_of(Y: np.ndarray) -> np.ndarray:
    """The rows that no other beats in one objective without losing in another, each once; larger is better."""
    Y = np.unique(Y, axis=0)
    kept = np.ones(len(Y), bool)
    for i in range(len(Y)):
        if kept[i]:
            kept &= (Y[i] < Y).any(1) | (Y[i] == Y).all(1)
    return Y[kept]


def volume(front: np.ndarray, reference: np.ndarray) -> float:
    """What a front dominates above the reference, in the product of the objectives' units: slab by slab."""
    front = front[(front > reference).all(1)]
    if not len(front):
        return 0.0
    if front.shape[1] == 1:
        return float(front.max() - reference[0])
    front = front[np.argsort(-front[:, -1])]
    ends = [*front[1:, -1], reference[-1]]
    slabs = [(i, float(front[i, -1] - end)) for i, end in enumerate(ends)]
    return sum(height * volume(front_of(front[: i + 1, :-1]), reference[:-1]) for i, height in slabs if height > 0)


def over_trials(Y: np.ndarray, given: Sequence[float | None]) -> tuple[list[int], list[float], list[float]]:
    """After how many rows of Y which volume is dominated, and the reference; larger is better in every column."""
    if not len(Y):
        return [], [], []
    places = np.unique(np.linspace(1, len(Y), min(len(Y), PLACES)).astype(int))
    fronts: list[np.ndarray] = []
    front, before = Y[:0], 0
    for place in places:
        front, before = front_of(np.concatenate([front, Y[before:place]])), int(place)
        fronts.append(front)
    r = reference(front, given)
    return [int(place) for place in places], [volume(found, r) for found in fronts], [float(x) for x in r]
