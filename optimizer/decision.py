"""Gain against cost: the budget, and stopping with a reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
    NO_PROGRESS = "no progress"  # as a policy for the whole study has it
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
class Cost:
    """What a trial costs, in the objective's unit: ``price``, or ``price`` per unit of the measured ``metric``.

    ``Cost(0.01)``: a trial is worth running while it can be expected to improve the objective by 0.01.
    ``Cost(1e-5, "seconds")``: a second is worth 1e-5; how many a trial takes is learned from the trials.
    """

    price: float
    metric: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.price, bool) or not isinstance(self.price, int | float) or not 0 < self.price < math.inf:
            raise InvalidInput("cost.price", "a positive number, in the objective's unit", self.price)
        if self.metric is not None and (not isinstance(self.metric, str) or not self.metric):
            raise InvalidInput("cost.metric", "a metric's name", self.metric)

    @classmethod
    def of(cls, cost: Any) -> Cost | None:
        """From a Cost, a price, ``{"price": ..., "metric": ...}`` or None."""
        if cost is None or isinstance(cost, Cost):
            return cost
        if isinstance(cost, Mapping):
            unknown = [k for k in cost if k not in ("price", "metric")]
            if unknown or "price" not in cost:
                raise InvalidInput("cost", '{"price": ..., "metric": ...}, the metric optional', dict(cost))
            return cls(cost["price"], cost.get("metric"))
        return cls(cost)

    def to_json(self) -> dict[str, Any]:
        return {"price": self.price, **({} if self.metric is None else {"metric": self.metric})}


@dataclass(frozen=True, slots=True)
class Advice:
    """What one more trial is worth: the largest expected gain over cost, where, and whether it pays.

    ``gain`` and ``cost`` are in the objective's unit. ``pays`` is None without a cost, and both numbers are None while
    there is no model.
    """

    pays: bool | None
    gain: float | None
    cost: float | None
    params: dict[str, Any] | None
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"pays": self.pays, "gain": self.gain, "cost": self.cost, "parameters": self.params, "why": self.why}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent at most: ``trials`` handed out, and their ``cost`` together (None: no limit).

    The cost is in the unit of a study's `Fidelity`; nothing more is handed out once it is reached, so that the last
    trial may exceed it. Trials that never gave a result (FAILED, EXPIRED, CANCELLED) and finished trials added from
    outside do not count.
    """

    trials: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        t, c = self.trials, self.cost
        if t is not None and (isinstance(t, bool) or not isinstance(t, int) or t < 1):
            raise InvalidInput("budget.trials", "a whole number of at least 1", t)
        if c is not None and (isinstance(c, bool) or not isinstance(c, int | float) or not 0 < c < math.inf):
            raise InvalidInput("budget.cost", "a positive number", c)

    @classmethod
    def of(cls, budget: Any) -> Budget:
        """From a Budget, ``{"trials": ..., "cost": ...}`` with either or both, or None; raises InvalidInput."""
        if isinstance(budget, Budget):
            return budget
        if budget is not None and not isinstance(budget, Mapping):
            raise InvalidInput("budget", '{"trials": ..., "cost": ...}', budget)
        given = dict(budget or {})
        for key, value in given.items():
            if key not in ("trials", "cost"):
                raise InvalidInput(f"budget.{key}", "trials or cost", value)
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        return {"trials": self.trials, **({} if self.cost is None else {"cost": self.cost})}

    def left(self, used: int) -> int | None:
        """How many more trials may be handed out after ``used``; None: no limit."""
        return None if self.trials is None else max(self.trials - used, 0)

    def stop(self, used: int, spent: float = 0.0) -> Stop | None:
        """The Stop that is due when ``used`` trials were handed out, which cost ``spent`` together, or None."""
        if self.left(used) == 0:
            return Stop(StopReason.BUDGET, f"all {self.trials} trials of the budget are handed out")
        if self.cost is not None and spent >= self.cost:
            return Stop(StopReason.BUDGET, f"trials cost {spent:.6g} of a budget of {self.cost:.6g}")
        return None


def used(trials: Iterable[Trial]) -> int:
    """How many trials count against the budget."""
    return len(counted(trials))


def counted(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that count against the budget."""
    return [t for t in trials if counts(t.state, t.source.method)]


def counts(state: TrialState, method: str) -> bool:
    """Whether a trial in ``state`` that came from ``method`` counts against the budget."""
    return method != "added" and state not in (TrialState.FAILED, TrialState.EXPIRED, TrialState.CANCELLED)
