"""Several objectives: which results no other beats in all of them, and from where volumes are measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from .metric_model import MetricModel
from .objective import Objective

Front = Float64[np.ndarray, "n m"]


def reference_point(
    objectives: Sequence[Objective], models: Sequence[MetricModel], Y: Front
) -> Float64[np.ndarray, " m"]:
    """The reference in standardised y: as given, else a tenth of the front's range below its worst (Ishibuchi 2011).

    ``Y`` are standardised values, for example posterior means, of the feasible observed configurations.
    """
    front = Y[non_dominated(Y)]
    span = front.max(0) - front.min(0)
    spread = Y.max(0) - Y.min(0)
    inferred = front.min(0) - 0.1 * np.where(span > 0, span, np.where(spread > 0, spread, 1.0))
    given = [o.reference_point for o in objectives]
    return np.array(
        [
            inferred[j] if point is None else float(model.scale.forward(np.array([point]))[0])
            for j, (point, model) in enumerate(zip(given, models, strict=True))
        ]
    )


def non_dominated(Y: Front) -> Bool[np.ndarray, " n"]:
    """Which rows no other row beats in every objective (larger is better); of equal rows the first."""
    keep = np.ones(len(Y), dtype=bool)
    for i in range(len(Y)):
        at_least = (Y[i] <= Y).all(1)
        better = at_least & (Y[i] < Y).any(1)
        twin = at_least & ~better & (np.arange(len(Y)) < i)
        keep[i] = not (better | twin).any()
    return keep
