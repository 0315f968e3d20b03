"""What is measured and what "better" means: objectives, outcome constraints, and the signs and scales of y."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from .decision import Cost
from .errors import InvalidInput, Problem
from .trial import Measurement, Result

Floats = Float64[np.ndarray, " n"]
Direction = Literal["minimize", "maximize"]
DEFAULT_METRIC = "objective"
_METRIC = r"[A-Za-z_][A-Za-z0-9_.\-/]{0,99}"
_CONSTRAINT = re.compile(rf"\s*({_METRIC})\s*(<=|>=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric to make small or large.

    With several objectives, ``reference_point`` is the value at which it becomes worth having (None: inferred).
    """

    metric: str = DEFAULT_METRIC
    direction: Direction = "minimize"
    reference_point: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not re.fullmatch(_METRIC, self.metric):
            raise InvalidInput("metric", "a metric's name of letters, digits and _ . - /", self.metric)
        if self.direction not in ("minimize", "maximize"):
            raise InvalidInput("direction", "minimize or maximize", self.direction)
        r = self.reference_point
        if r is not None and (isinstance(r, bool) or not isinstance(r, int | float) or not math.isfinite(r)):
            raise InvalidInput("reference_point", "a finite number", r)

    @property
    def sign(self) -> float:
        """What a value is multiplied by so that larger is better."""
        return 1.0 if self.direction == "maximize" else -1.0

    def to_json(self) -> dict[str, Any]:
        reference = {} if self.reference_point is None else {"reference_point": self.reference_point}
        return {"metric": self.metric, "direction": self.direction, **reference}


@dataclass(frozen=True, slots=True)
class OutcomeConstraint:
    """A bound that a measured metric has to keep, as in ``latency <= 0.2``."""

    metric: str
    upper: bool  # True: metric <= bound
    bound: float

    @classmethod
    def parse(cls, text: str, field: str = "outcome_constraints") -> OutcomeConstraint:
        match = _CONSTRAINT.fullmatch(text) if isinstance(text, str) else None
        try:
            bound = float(match[3]) if match else None
        except ValueError:
            bound = None
        if match is None or bound is None:
            raise InvalidInput(field, 'a bound on a metric such as "latency <= 0.2"', text)
        return cls(match[1], match[2] == "<=", bound)

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.upper else '>='} {self.bound!r}"

    def slack(self, value: float) -> float:
        """How far ``value`` is on the right side of the bound; negative: violated."""
        return self.bound - value if self.upper else value - self.bound


@dataclass(frozen=True, slots=True)
class Goal:
    """The objectives and outcome constraints of a study: which metrics exist, and which results are acceptable.

    ``cost_metric`` is what trials measure as their cost, in a unit of its own; `Cost` is in the objective's.
    """

    objectives: tuple[Objective, ...]
    outcome_constraints: tuple[OutcomeConstraint, ...] = ()
    cost: Cost | None = None
    cost_metric: str | None = None

    def __post_init__(self) -> None:
        if not self.objectives:
            raise InvalidInput("objectives", "at least one objective", [])
        metrics = [o.metric for o in self.objectives]
        for i, metric in enumerate(metrics):
            if metric in metrics[:i]:
                raise InvalidInput(f"objectives.{i}.metric", "a metric that no other objective uses", metric)

    @classmethod
    def of(cls, objective: Any, outcome_constraints: Sequence[str] = (), cost: Any = None) -> Goal:
        """From "minimize", an Objective, {metric: direction}, or a list of objectives; cost as in `Cost.of`."""
        if isinstance(outcome_constraints, str):
            raise InvalidInput("outcome_constraints", "a list of bounds", outcome_constraints)
        constraints = tuple(
            OutcomeConstraint.parse(text, f"outcome_constraints.{i}") for i, text in enumerate(outcome_constraints)
        )
        match objective:
            case str():
                objectives: list[Objective] = [Objective(direction=objective)]  # type: ignore[arg-type]
            case Objective():
                objectives = [objective]
            case Mapping():
                objectives = [Objective(metric, direction) for metric, direction in objective.items()]
            case Sequence() if all(isinstance(o, Objective) for o in objective):
                objectives = list(objective)
            case _:
                raise InvalidInput(
                    "objective", '"minimize", "maximize", an Objective, or {metric: direction}', objective
                )
        return cls(tuple(objectives), constraints, Cost.of(cost))

    @classmethod
    def from_json(
        cls, objectives: Sequence[Mapping[str, Any]], outcome_constraints: Sequence[str] = (), cost: Any = None
    ) -> Goal:
        built: list[Objective] = []
        for i, definition in enumerate(objectives):
            fields = ("metric", "direction", "reference_point")
            unknown = [k for k in definition if k not in fields]
            if unknown:
                raise InvalidInput(f"objectives.{i}.{unknown[0]}", f"one of {list(fields)}", definition[unknown[0]])
            try:
                built.append(Objective(**definition))
            except InvalidInput as error:
                raise error.under(f"objectives.{i}") from None
        return cls.of(built, outcome_constraints, cost)

    @property
    def several(self) -> bool:
        """Whether there are several objectives, so that trials are compared by the volume they dominate."""
        return len(self.objectives) > 1

    @property
    def objective(self) -> Objective:
        """The first objective."""
        return self.objectives[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric the study knows, objectives first, the costs' last, each once."""
        names = [o.metric for o in self.objectives] + [c.metric for c in self.outcome_constraints]
        return tuple(dict.fromkeys([*names, *self._costs]))

    @property
    def _costs(self) -> list[str]:
        """The metrics that are costs, which have to be positive."""
        price = None if self.cost is None else self.cost.metric
        return [metric for metric in (price, self.cost_metric) if metric is not None]

    def check(
        self,
        result: Result,
        stderr: float | None = None,
        gradient: Mapping[str, float] | None = None,
        *,
        complete: bool = True,
    ) -> tuple[Measurement, ...]:
        """The measurements in ``result``: a number, {metric: value}, or Measurement(s).

        ``complete`` asks for a value of every objective (metrics of outcome constraints may be missing). Raises
        InvalidInput for unknown or missing metrics and for numbers that are not finite.
        """
        measurements = self._measurements(result, stderr, gradient)
        problems = [
            Problem(f"measurements.{i}.metric", f"one of the metrics {list(self.metrics)}", m.metric)
            for i, m in enumerate(measurements)
            if m.metric not in self.metrics
        ]
        problems += [
            Problem(f"measurements.{i}.value", f"a positive {m.metric}, since it is the cost", m.value)
            for i, m in enumerate(measurements)
            if m.metric in self._costs and m.value <= 0
        ]
        given = {m.metric for m in measurements if m.step is None}
        missing = [o.metric for o in self.objectives if o.metric not in given]
        if complete and missing:
            problems.append(Problem("measurements", f"a value of {missing}", sorted(given)))
        if not measurements:
            problems.append(Problem("measurements", "at least one measurement", []))
        if problems:
            raise InvalidInput.of(problems)
        return measurements

    def _measurements(
        self, result: Result, stderr: float | None, gradient: Mapping[str, float] | None
    ) -> tuple[Measurement, ...]:
        if isinstance(result, Measurement):
            return (result,)
        if isinstance(result, Mapping):
            if (stderr is not None or gradient is not None) and len(result) > 1:
                raise InvalidInput("stderr", "Measurements that carry their own stderr and gradient", stderr)
            return tuple(_measure(metric, value, stderr, gradient) for metric, value in result.items())
        if isinstance(result, Sequence) and not isinstance(result, str):
            for i, m in enumerate(result):
                if not isinstance(m, Measurement):
                    raise InvalidInput(f"measurements.{i}", "a Measurement", m)
            return tuple(result)
        return (_measure(self.objective.metric, result, stderr, gradient),)

    def satisfied(self, values: Mapping[str, float]) -> bool | None:
        """Whether measured values keep every outcome constraint; None while a bounded metric is unmeasured."""
        slacks = [c.slack(values[c.metric]) if c.metric in values else None for c in self.outcome_constraints]
        if any(s is not None and s < 0 for s in slacks):
            return False
        return None if None in slacks else True


NORMAL_QUARTILES = 1.3489795003921634  # interquartile range of a standard normal variable


@dataclass(frozen=True, slots=True)
class Scale:
    """The map between a metric's unit and the standardised y of the models, where larger is better.

    Linear, or with a ``limit`` logarithmic: ``t = -log(limit - s)`` of the signed value s, for objectives whose values
    span orders of magnitude above their best. Then t is standardised: ``y = (t - centre) / spread``.
    """

    sign: float
    centre: float
    spread: float
    limit: float | None = None

    @classmethod
    def of(cls, values: Floats, sign: float, headroom: float | None = None) -> Scale:
        """The scale that gives ``values`` mean 0 and standard deviation 1 (a spread of 1 where they do not vary).

        ``headroom`` makes it logarithmic, with the limit so many interquartile ranges beyond the best value.
        """
        s = sign * values
        limit = None
        if headroom is not None:
            low, high = np.percentile(s, [25.0, 75.0])
            limit = float(s.max() + headroom * (high - low))
            if not math.isfinite(limit) or not limit > s.max():
                raise ValueError("values without spread have no logarithmic scale")
            s = -np.log(limit - s)
        size = float(np.abs(s).max()) or 1.0  # squares of what remains neither overflow nor vanish
        spread = float(np.std(s / size))
        return cls(sign, size * float(np.mean(s / size)), size * spread if spread > 1e-12 else 1.0, limit)

    @classmethod
    def robust(cls, values: Floats, sign: float) -> Scale:
        """A linear scale by the median and the interquartile range, which single values far away do not move."""
        low, centre, high = (float(q) for q in np.percentile(sign * values, [25.0, 50.0, 75.0]))
        spread = (high - low) / NORMAL_QUARTILES
        return cls(sign, centre, spread) if 1e-12 * abs(centre) < spread < math.inf else cls.of(values, sign)

    def forward(self, values: Floats) -> Floats:
        """Standardised y of values on the good side of the limit."""
        s = self.sign * values
        return ((s if self.limit is None else -np.log(self.limit - s)) - self.centre) / self.spread

    def slope(self, values: Floats) -> Floats:
        """|dy/dvalue|: what standard errors are multiplied by, and the density of y by."""
        if self.limit is None:
            return np.full(len(values), 1.0 / self.spread)
        return 1.0 / ((self.limit - self.sign * values) * self.spread)

    def backward(self, mean: Floats, sd: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the value where y is normal with these."""
        t, d = self.centre + self.spread * mean, self.spread * sd
        if self.limit is None:
            return self.sign * t, d
        with np.errstate(over="ignore"):  # far from all data the model may expect anything
            distance = np.exp(-t + 0.5 * d * d)  # below the limit: log-normal
            return self.sign * (self.limit - distance), distance * np.sqrt(np.expm1(d * d))

    def improvement(self, mean: float, sd: float, best: float) -> tuple[float, float]:
        """The expected rise above y = ``best`` of a normal y, in units of y and in the metric's unit."""
        z = (mean - best) / sd
        rise = sd * (_density(z) + z * _probability(z))
        if self.limit is None:
            return rise, rise * self.spread
        d = self.spread * sd
        t, t_best = self.centre + self.spread * mean, self.centre + self.spread * best
        return rise, math.exp(-t_best) * _probability(z) - math.exp(-t + 0.5 * d * d) * _probability(z - d)


def _density(z: float) -> float:
    return math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def _probability(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _measure(metric: str, value: Any, stderr: float | None, gradient: Mapping[str, float] | None) -> Measurement:
    try:
        return Measurement(metric, value, stderr, gradient=gradient)
    except InvalidInput as error:
        raise error.under(f"measurements.{metric}") from None
