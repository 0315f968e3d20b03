"""Gain against cost: the budget, and stopping with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .errors import InvalidInput
from .trial import Trial, TrialState


class StopReason(StrEnum):
    """Why nothing more is worth trying."""

    BUDGET = "budget spent"
    EXHAUSTED = "space exhausted"
    GAIN = "gain below cost"
    STOPPED = "stopped by the user"


@dataclass(frozen=True, slots=True)
class Stop:
    """The answer to an ask when nothing more should be tried.

    ``gain`` and ``cost`` of one more trial are in the objective's unit, where they are known.
    """

    reason: StopReason
    message: str
    gain: float | None = None
    cost: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"reason": str(self.reason), "message": self.message, "gain": self.gain, "cost": self.cost}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent at most: ``trials`` handed out (None: no limit).

    Trials that never gave a result (FAILED, EXPIRED, CANCELLED) and finished trials added from outside do not count.
    """

    trials: int | None = None

    def __post_init__(self) -> None:
        t = self.trials
        if t is not None and (isinstance(t, bool) or not isinstance(t, int) or t < 1):
            raise InvalidInput("budget.trials", "a whole number of at least 1", t)

    def left(self, used: int) -> int | None:
        """How many more trials may be handed out after ``used``; None: no limit."""
        return None if self.trials is None else max(self.trials - used, 0)

    def stop(self, used: int) -> Stop | None:
        """The Stop that is due when ``used`` trials were handed out, or None."""
        if self.left(used) != 0:
            return None
        return Stop(StopReason.BUDGET, f"all {self.trials} trials of the budget are handed out")


def used(trials: Iterable[Trial]) -> int:
    """How many trials count against the budget."""
    return sum(counts(t.state, t.source.method) for t in trials)


def counts(state: TrialState, method: str) -> bool:
    """Whether a trial in ``state`` that came from ``method`` counts against the budget."""
    return method != "added" and state not in (TrialState.FAILED, TrialState.EXPIRED, TrialState.CANCELLED)
