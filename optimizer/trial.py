"""A trial: one configuration that was asked for or added, its state, what was measured. All of it is frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from .errors import InvalidInput, NotFound
from .ranges import as_float


class TrialState(StrEnum):
    """Where a trial stands."""

    WAITING = "WAITING"  # queued, nobody works on it
    RUNNING = "RUNNING"  # handed out
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"  # the worker's fault: says nothing about the configuration
    INFEASIBLE = "INFEASIBLE"  # the configuration's fault: learned from
    PRUNED = "PRUNED"  # stopped early, partial measurements kept
    EXPIRED = "EXPIRED"  # the lease was lost too often
    CANCELLED = "CANCELLED"

    @property
    def open(self) -> bool:
        """Whether a result can still come."""
        return self in (TrialState.WAITING, TrialState.RUNNING)

    @property
    def informative(self) -> bool:
        """Whether the trial tells something about its configuration."""
        return self in (TrialState.COMPLETED, TrialState.INFEASIBLE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured value of one metric.

    ``stderr`` is the standard error of ``value`` where it is known, ``step`` marks an intermediate value, ``gradient``
    holds partial derivatives by parameter name where they are known.

    Raises InvalidInput for numbers that are not finite.
    """

    metric: str
    value: float
    stderr: float | None = None
    step: int | None = None
    gradient: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise InvalidInput("metric", "a metric's name", self.metric)
        object.__setattr__(self, "value", _finite(self.value, "value"))
        if self.stderr is not None:
            object.__setattr__(self, "stderr", _finite(self.stderr, "stderr"))
            if self.stderr < 0:
                raise InvalidInput("stderr", "a standard error of at least 0", self.stderr)
        if self.step is not None and (isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 0):
            raise InvalidInput("step", "a whole number of at least 0", self.step)
        if self.gradient is not None:
            checked = {name: _finite(g, f"gradient.{name}") for name, g in self.gradient.items()}
            object.__setattr__(self, "gradient", checked)

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration came from, and what was known when it was chosen.

    ``method`` is ``quasi-random``, ``queued``, ``added`` or the name of an acquisition; ``why`` says in words why that
    one; ``observations`` and ``pending`` count the trials it was conditioned on; ``fallbacks`` names the steps taken
    where numerics failed; ``mean``, ``sd`` (of the first objective) and ``gain`` are what the model expected, in the
    objective's own unit; ``cost`` is what the trial was expected to cost, in the same unit, where trials have a cost.
    """

    method: str
    why: str = ""
    observations: int = 0
    pending: int = 0
    fallbacks: tuple[str, ...] = ()
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    cost: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Source:
        fields: dict[str, Any] = {**data, "fallbacks": tuple(data.get("fallbacks", ()))}
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A configuration worth trying and where it came from; it becomes a trial when it is handed out."""

    params: dict[str, Any]
    source: Source


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration, its state and its measurements; ``params`` holds the active parameters only."""

    number: int
    params: dict[str, Any]
    state: TrialState = TrialState.RUNNING
    measurements: tuple[Measurement, ...] = ()
    source: Source = field(default_factory=lambda: Source("added"))
    reason: str | None = None  # why it failed, was infeasible or cancelled

    @property
    def final(self) -> tuple[Measurement, ...]:
        """The measurements without a step: the result, as opposed to intermediate reports."""
        return tuple(m for m in self.measurements if m.step is None)

    @property
    def values(self) -> dict[str, float]:
        """The result per metric; replicates are averaged."""
        replicates: dict[str, list[float]] = {}
        for m in self.final:
            replicates.setdefault(m.metric, []).append(m.value)
        return {metric: sum(v) / len(v) for metric, v in replicates.items()}

    @property
    def value(self) -> float:
        """The result of a trial that measured one metric."""
        values = self.values
        if len(values) != 1:
            raise NotFound(f"trial {self.number} has {len(values)} metrics {list(values)}: use .values")
        return next(iter(values.values()))

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "state": str(self.state),
            "parameters": dict(self.params),
            "measurements": [m.to_json() for m in self.measurements],
            "source": self.source.to_json(),
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        return cls(
            number=data["number"],
            params=dict(data["parameters"]),
            state=TrialState(data["state"]),
            measurements=tuple(Measurement(**m) for m in data.get("measurements", ())),
            source=Source.from_json(data.get("source") or {"method": "added"}),
            reason=data.get("reason"),
        )


Result = float | Mapping[str, float] | Measurement | Sequence[Measurement]


def _finite(value: Any, field: str) -> float:
    number = as_float(value)
    if not math.isfinite(number):
        raise InvalidInput(field, "a finite number", value)
    return number
