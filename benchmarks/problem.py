"""What a problem of the comparison is, in a neutral form: parameters, constraints, objectives, fidelity, and the score.

`peers.py` turns it into what each optimizer takes; `problems.py` lists the problems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

Params = dict[str, Any]  # one configuration: the active parameters only
Truth = Mapping[str, float]  # what an evaluation gives without noise
VALUE = "value"  # the metric to minimise
SECOND = "second"  # the other one, where there are two
Family = Literal["one objective", "two objectives", "fidelities"]  # problems that are compared with each other


# --- spaces -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dim:
    """One parameter. ``only_if``: the choice, and its options, under which it means anything."""

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    options: tuple[str, ...] = ()
    only_if: tuple[str, tuple[str, ...]] | None = None

    def from_unit(self, u: float) -> Any:
        """The value at u in [0, 1]: uniform on the parameter's scale, every whole number and option equally wide."""
        u = min(max(u, 0.0), 1.0)
        if self.kind == "choice":
            return self.options[min(int(u * len(self.options)), len(self.options) - 1)]
        half = 0.5 if self.kind == "int" else 0.0
        low, high = self.low - half, self.high + half
        x = low * (high / low) ** u if self.log else low + u * (high - low)
        return int(min(max(round(x), self.low), self.high)) if half else min(max(x, self.low), self.high)

    def to_unit(self, value: Any) -> float:
        """Where from_unit has ``value``: the middle of its interval for a whole number or an option."""
        if self.kind == "choice":
            return (self.options.index(value) + 0.5) / len(self.options)
        half = 0.5 if self.kind == "int" else 0.0
        low, high = self.low - half, self.high + half
        return math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)


@dataclass(frozen=True)
class Constraint:
    """A parameter constraint: as text, and by how much a configuration exceeds it (above 0: broken)."""

    text: str
    excess: Callable[[Params], float]
    linear: Mapping[str, float] | None = None  # coefficients, where it is linear: sum of coefficient * x <= bound
    bound: float = 0.0


def at_most(coefficients: Mapping[str, float], bound: float) -> Constraint:
    """A linear constraint."""
    text = " + ".join(name if c == 1 else f"{c!r} * {name}" for name, c in coefficients.items())
    return Constraint(f"{text} <= {bound!r}", partial(_linear_excess, coefficients, bound), coefficients, bound)


def product_at_most(a: str, b: str, bound: float) -> Constraint:
    return Constraint(f"{a} * {b} <= {bound!r}", lambda p: math.log(p[a] * p[b] / bound))


def _linear_excess(coefficients: Mapping[str, float], bound: float, params: Params) -> float:
    return float(sum(c * params[name] for name, c in coefficients.items()) - bound)


@dataclass(frozen=True)
class Front:
    """What a problem of two objectives, VALUE and SECOND, is scored by.

    ``reference``: what both have to be below to count; ``hypervolume``: the area between it and the best front there
    is; ``units``: what the problem's noise is measured in.
    """

    reference: tuple[float, float]
    hypervolume: float
    units: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Fidelity:
    """A parameter that makes evaluations cheaper and coarser; at its high end is what counts.

    An evaluation costs ``fixed`` plus the share of the high end, in units of an evaluation there. ``resumable``: of a
    configuration that was evaluated before, only what is added has to be paid.
    """

    dim: Dim
    fixed: float = 0.0
    resumable: bool = False

    def cost(self, value: float) -> float:
        return (self.fixed + value / self.dim.high) / (self.fixed + 1.0)

    @property
    def formula(self) -> str:
        """The cost in words of the parameter's name, in a unit of its own."""
        return f"{self.fixed!r} + {self.dim.name} / {self.dim.high!r}"


@dataclass(frozen=True)
class Problem:
    """What is minimised over which space, with how many trials, and how the recommendation is scored.

    ``trials`` is a budget: with a fidelity, evaluations cost less than one trial. ``dims`` leave the fidelity out, and
    ``evaluate`` takes its high end where it is not named, so that whoever knows no fidelities can ignore it.
    """

    name: str
    title: str
    dims: tuple[Dim, ...]
    evaluate: Callable[[Params], Truth]  # noiseless: the objectives, and one number per name in ``outcomes``
    trials: int = 50
    optimum: float | None = None
    noise: float = 0.0  # standard deviation of what is added to each told value
    outcomes: tuple[str, ...] = ()  # metrics that have to be <= 0; observed with the value
    constraints: tuple[Constraint, ...] = ()  # known before a configuration is tried
    penalty: float = math.nan  # the score of an infeasible recommendation, or of none
    front: Front | None = None
    fidelity: Fidelity | None = None

    @property
    def start_size(self) -> int:
        """How many configurations of the shared start come first."""
        return max(5, len(self.dims) + 1)

    @property
    def measure(self) -> str:
        """The name of the score."""
        if self.front is not None:
            return "area missed"
        return "loss" if self.optimum is None else "regret"

    @property
    def family(self) -> Family:
        if self.front is not None:
            return "two objectives"
        return "one objective" if self.fidelity is None else "fidelities"

    @property
    def objectives(self) -> tuple[str, ...]:
        return (VALUE,) if self.front is None else (VALUE, SECOND)

    @property
    def target(self) -> Params:
        """The fidelity that counts."""
        return {} if self.fidelity is None else {self.fidelity.dim.name: self.fidelity.dim.from_unit(1.0)}

    def active(self, params: Mapping[str, Any]) -> Params:
        """``params`` without those that mean nothing in this configuration."""
        return {d.name: params[d.name] for d in self.dims if d.only_if is None or params[d.only_if[0]] in d.only_if[1]}

    def filled(self, params: Mapping[str, Any]) -> Params:
        """``params`` with every parameter, the inactive ones at their middle: for peers without conditions."""
        return {d.name: params.get(d.name, d.from_unit(0.5)) for d in self.dims}

    def from_unit(self, u: Any) -> Params:
        """The configuration at a point of the unit cube with one coordinate per parameter."""
        return self.active({d.name: d.from_unit(float(x)) for d, x in zip(self.dims, u, strict=True)})

    def allowed(self, params: Params) -> bool:
        """Whether every parameter constraint holds."""
        return all(c.excess(params) <= 1e-9 for c in self.constraints)

    def feasible(self, truth: Truth) -> bool:
        """Whether every outcome constraint holds."""
        return all(truth[name] <= 1e-9 for name in self.outcomes)

    def score(self, params: Params | None, truth: Truth | None = None) -> float:
        """Regret (or loss) of a recommended configuration; ``truth`` saves evaluating it again."""
        if params is None or not self.allowed(params):
            return self.penalty
        truth = self.evaluate({**params, **self.target}) if truth is None else truth
        return truth[VALUE] - (self.optimum or 0.0) if self.feasible(truth) else self.penalty

    def shortfall(self, truths: Iterable[Truth]) -> float:
        """With two objectives: the share of the best front's area that a set of configurations does not dominate."""
        assert self.front is not None
        points = [(t[VALUE], t[SECOND]) for t in truths if self.feasible(t)]
        return 1.0 - hypervolume(points, self.front.reference) / self.front.hypervolume


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area that points dominate below a reference, both coordinates being better the smaller."""
    area, lowest = 0.0, reference[1]
    for a, b in sorted(points):
        if a < reference[0] and b < lowest:
            area += (reference[0] - a) * (lowest - b)
            lowest = b
    return area


def real(name: str, low: float, high: float, log: bool = False) -> Dim:
    return Dim(name, "float", low, high, log)


def whole(name: str, low: int, high: int, log: bool = False) -> Dim:
    return Dim(name, "int", low, high, log)


def choice(name: str, *options: str) -> Dim:
    return Dim(name, "choice", options=options)


def box(n: int, low: float, high: float) -> tuple[Dim, ...]:
    return tuple(real(f"x{i + 1}", low, high) for i in range(n))


def of_vector(f: Callable[[np.ndarray], float]) -> Callable[[Params], Truth]:
    return lambda params: {VALUE: f(np.array(list(params.values()), dtype=float))}
