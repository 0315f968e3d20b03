"""What Ax's experiments and ours are to each other: states, rows of data, parameters at a bound; and quiet."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from suffice.optimizer import Float, Measurement, Space, Trial, TrialState
from suffice.optimizer.space import Params

OURS = "suffice"  # the key of an Ax trial's properties that holds the trial it was made from
CHOICES = 1000  # values of a grid that Ax takes as choices
STATUSES = {
    TrialState.WAITING: "CANDIDATE",
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETED: "COMPLETED",
    TrialState.FAILED: "FAILED",
    TrialState.EXPIRED: "FAILED",
    TrialState.INFEASIBLE: "ABANDONED",  # not to be run again
    TrialState.PRUNED: "EARLY_STOPPED",
    TrialState.CANCELLED: "STALE",  # never run, may be suggested again
}
STATES = {STATUSES[state]: state for state in reversed(STATUSES)} | {
    "STAGED": TrialState.RUNNING,
    "DISPATCHED": TrialState.RUNNING,
}
Row = tuple[str, float, float | None, float | None]  # metric, value, standard error, step


def rows_of(trial: Trial, noise: str | float) -> list[Row]:
    """What was measured, replicates averaged; the standard error is None where it is unknown."""
    groups: dict[tuple[str, int | None], list[Measurement]] = {}
    for m in trial.measurements:
        groups.setdefault((m.metric, m.step), []).append(m)
    known = 0.0 if noise == "none" else None if isinstance(noise, str) else noise
    rows: list[Row] = []
    for (metric, step), group in groups.items():
        errors = [known if m.stderr is None else m.stderr for m in group]
        sem = None if None in errors else math.sqrt(sum(e * e for e in errors if e is not None)) / len(group)
        rows.append((metric, sum(m.value for m in group) / len(group), sem, None if step is None else float(step)))
    return rows


def near_bounds(space: Space, params: Mapping[str, Any]) -> Params:
    """Numbers that rounding carried past a bound, on it."""
    moved = dict(params)
    for name, value in params.items():
        p = space.parameters.get(name)
        if isinstance(p, Float) and p.step is None and isinstance(value, float):
            slack = 1e-9 * (p.high - p.low)
            if p.low - slack <= value <= p.high + slack:
                moved[name] = min(max(value, p.low), p.high)
    return moved


@contextmanager
def quiet(seed: int | None = None) -> Generator[None]:
    """Without logs and warnings, which Ax has many of for its own users; with ``seed``, from a fixed random state."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)  # each of Ax's loggers has a level of its own, so the parent's has no effect
        try:
            from ax.utils.common.random import with_rng_seed

            with with_rng_seed(seed):
                yield
        finally:
            logging.disable(before)
