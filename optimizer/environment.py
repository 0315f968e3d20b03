"""Random environmental conditions: parameters that a trial can set, but that chance will set in the end.

A design is judged over the distribution of the conditions, by its expected value or by how bad it may get (`Risk`). A
trial is one design under one condition; which condition tells most is chosen like everything else (Toscano-Palmerin and
Frazier 2018; Cakmak, Astudillo, Frazier and Zhou 2020).

Distributions are represented by nodes: all values of finite parameters, quantiles of a single continuous one, and
quasi-random points otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from .errors import InvalidInput
from .fidelity import refuse_structure
from .parameters import Categorical, Constant, Parameter, Scalar
from .ranges import as_float
from .space import Params, Space
from .target import Risk, Target
from .timesteps import TimeSteps

EXACT = 64  # combinations of finite conditions that are all taken
QUANTILES = 16  # of a single continuous condition
DRAWN = 32  # quasi-random points of several conditions
SCENARIOS = 256  # that may be given


@dataclass(frozen=True)
class Environment:
    """The distribution of environmental conditions, and the risk by which designs are judged over it.

    ``conditions`` gives each environmental parameter of the space its distribution, independent of the others:
    "uniform" (over its range and scale, or its choices), ``{"normal": [mean, sd]}`` (truncated to its range),
    ``{"weights": [...]}`` (in the order of a finite parameter's values) or ``{"samples": [...]}``. A list of equally
    likely scenarios, ``[{"wind": 3.0, "load": "full"}, ...]``, gives conditions that depend on each other.

    Raises InvalidInput naming the wrong field.
    """

    conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    risk: Risk

    @classmethod
    def of(cls, environment: Any, risk: Any) -> Environment | None:
        """From conditions as above; None where there are none, and then there is no risk."""
        if environment is None:
            if risk is not None:
                raise InvalidInput("risk", "none, since there is no environment", risk)
            return None
        if isinstance(environment, Environment):
            if risk is not None:
                raise InvalidInput("risk", "none beside an Environment, which has one", risk)
            return environment
        if isinstance(environment, str) or not isinstance(environment, Mapping | Sequence) or not environment:
            expected = 'distributions such as {"wind": "uniform"}, or a list of scenarios'
            raise InvalidInput("environment", expected, environment)
        return cls(environment, Risk.of("expectation" if risk is None else risk))

    def to_json(self) -> dict[str, Any] | list[Any]:
        """The conditions; the risk is a field of its own."""
        if isinstance(self.conditions, Mapping):
            return dict(self.conditions)
        return [dict(scenario) for scenario in self.conditions]

    def check(self, space: Space) -> Environment:
        """This environment; raises InvalidInput where it does not fit the space."""
        nodes, _ = self.nodes(space)
        refuse_structure(space, nodes[0], "environment")
        return self

    def at(self, space: Space) -> Target:
        """Where values count: at the nodes, by their probabilities."""
        return Target.of(space, *self.nodes(space), self.risk)

    def nodes(self, space: Space) -> tuple[list[Params], list[float]]:
        """Conditions that represent the distribution, each once, and their probabilities."""
        if not isinstance(self.conditions, Mapping):
            return _merged([(scenario, 1.0) for scenario in _scenarios(space, self.conditions)])
        for name in self.conditions:
            if name not in space.parameters:
                raise InvalidInput(f"environment.{name}", f"one of the parameters {list(space.parameters)}", name)
        names = list(self.conditions)
        marginals = [
            _Marginal.of(space.parameters[name], spec, f"environment.{name}") for name, spec in self.conditions.items()
        ]
        weighted = [(dict(zip(names, values, strict=True)), weight) for values, weight in _joint(marginals)]
        return _merged(weighted)


@dataclass(frozen=True)
class _Marginal:
    """One condition's distribution: finitely many ``values`` with their ``weights``, or the quantiles of any other."""

    parameter: Scalar
    values: tuple[Any, ...] = ()
    weights: tuple[float, ...] = ()
    normal: tuple[float, float] | None = None

    @classmethod
    def of(cls, p: Parameter, spec: Any, field: str) -> _Marginal:
        if isinstance(p, Constant):
            raise InvalidInput(field, "a parameter that is not constant", p.value)
        if isinstance(p, TimeSteps):
            raise InvalidInput(field, "a parameter of single values, no sequence of time steps", p.type)
        if spec == "uniform":
            return cls._over_grid(p, np.ones(int(p.cardinality))) if math.isfinite(p.cardinality) else cls(p)
        if isinstance(spec, Mapping) and len(spec) == 1:
            ((kind, given),) = spec.items()
            if kind == "normal":
                return cls._normal(p, given, f"{field}.normal")
            if kind == "weights":
                return cls._over_grid(p, _weights(p, given, f"{field}.weights"))
            if kind == "samples":
                if isinstance(given, str) or not isinstance(given, Sequence) or not given:
                    raise InvalidInput(f"{field}.samples", "a list of values", given)
                values = tuple(_value(p, v, f"{field}.samples.{i}") for i, v in enumerate(given))
                return cls(p, values, (1.0 / len(values),) * len(values))
        expected = '"uniform", {"normal": [mean, sd]}, {"weights": [...]} or {"samples": [...]}'
        raise InvalidInput(field, expected, spec)

    @classmethod
    def _normal(cls, p: Scalar, given: Any, field: str) -> _Marginal:
        pair = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
        if not pair or not math.isfinite(as_float(given[0])) or not 0 < as_float(given[1]) < math.inf:
            raise InvalidInput(field, "[mean, sd], the standard deviation positive", given)
        numeric = not isinstance(p, Categorical) and all(not math.isnan(as_float(p.to_native(v))) for v in _ends(p))
        if not numeric:
            raise InvalidInput(field, f"a parameter with an order of numbers, not {p.type}", given)
        mean, sd = float(given[0]), float(given[1])
        low, high = (float(p.to_native(v)) for v in _ends(p))
        inside = NormalDist(mean, sd).cdf(high) - NormalDist(mean, sd).cdf(low)
        if math.isfinite(p.cardinality):
            return cls._over_grid(p, _cells(np.array([float(p.to_native(v)) for v in p.grid()]), mean, sd, field))
        if inside < 1e-6:
            raise InvalidInput(field, f"a distribution that is not far outside [{low:g}, {high:g}]", given)
        return cls(p, normal=(mean, sd))

    @classmethod
    def _over_grid(cls, p: Scalar, weights: np.ndarray) -> _Marginal:
        values, total = [p.to_native(v) for v in p.grid()], float(weights.sum())
        kept = [(v, float(w) / total) for v, w in zip(values, weights, strict=True) if w > 0]
        return cls(p, tuple(v for v, _ in kept), tuple(w for _, w in kept))

    @property
    def finite(self) -> bool:
        return bool(self.values)

    def quantile(self, u: float) -> Any:
        """The value that is not exceeded with probability u (of choices without an order: some value)."""
        if self.finite:
            order = sorted(range(len(self.values)), key=lambda i: self.parameter.to_number(self.values[i]))
            until = np.cumsum([self.weights[i] for i in order])
            return self.values[order[min(int(np.searchsorted(until, u)), len(order) - 1)]]
        if self.normal is None:
            return self.parameter.to_native(float(self.parameter.from_uniform(np.array([u]))[0]))
        law = NormalDist(*self.normal)
        low, high = (float(self.parameter.to_native(v)) for v in _ends(self.parameter))
        between = law.cdf(low) + u * (law.cdf(high) - law.cdf(low))
        return min(max(law.inv_cdf(min(max(between, 1e-15), 1.0 - 1e-15)), low), high)


def _joint(marginals: Sequence[_Marginal]) -> list[tuple[tuple[Any, ...], float]]:
    """Nodes of independent conditions and their weights."""
    if all(m.finite for m in marginals) and math.prod(len(m.values) for m in marginals) <= EXACT:
        pairs = itertools.product(*(zip(m.values, m.weights, strict=True) for m in marginals))
        return [(tuple(v for v, _ in node), math.prod(w for _, w in node)) for node in pairs]
    if len(marginals) == 1:
        U = (np.arange(QUANTILES)[:, None] + 0.5) / QUANTILES
    else:
        from scipy.stats import qmc

        U = np.clip(qmc.Sobol(len(marginals), rng=0).random(DRAWN), 1e-9, 1.0 - 1e-9)
    return [(tuple(m.quantile(float(u)) for m, u in zip(marginals, row, strict=True)), 1.0) for row in U]


def _merged(weighted: Sequence[tuple[Params, float]]) -> tuple[list[Params], list[float]]:
    """Every node once, and probabilities that sum to 1."""
    nodes: list[Params] = []
    weights: list[float] = []
    for node, weight in weighted:
        if node in nodes:
            weights[nodes.index(node)] += weight
        else:
            nodes.append(node)
            weights.append(weight)
    total = math.fsum(weights)
    return nodes, [w / total for w in weights]


def _scenarios(space: Space, scenarios: Sequence[Mapping[str, Any]]) -> list[Params]:
    if not 1 <= len(scenarios) <= SCENARIOS:
        raise InvalidInput("environment", f"from 1 to {SCENARIOS} scenarios", f"{len(scenarios)} scenarios")
    checked: list[Params] = []
    for i, scenario in enumerate(scenarios):
        if not isinstance(scenario, Mapping) or not scenario:
            raise InvalidInput(f"environment.{i}", "values of environmental parameters", scenario)
        checked.append(space.check_values(scenario, f"environment.{i}"))
        if checked[i].keys() != checked[0].keys():
            raise InvalidInput(f"environment.{i}", f"values of {list(checked[0])}, as in the first scenario", scenario)
    return checked


def _value(p: Scalar, value: Any, field: str) -> Any:
    try:
        return p.check(value)
    except InvalidInput as error:
        raise InvalidInput(field, error.problems[0].expected, error.problems[0].got) from None


def _weights(p: Scalar, given: Any, field: str) -> np.ndarray:
    if not math.isfinite(p.cardinality):
        raise InvalidInput(field, "a parameter of finitely many values", f"a {p.type} without a step")
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != p.cardinality:
        raise InvalidInput(field, f"{int(p.cardinality)} weights, one per value", given)
    weights = np.array([as_float(w) for w in given])
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.sum() > 0:
        raise InvalidInput(field, "weights that are not negative, some of them positive", list(given))
    return weights


def _ends(p: Scalar) -> tuple[float, float]:
    """The first and last value of an ordered parameter, as numbers inside the library."""
    ends = p.from_unit(np.array([[0.0], [1.0]]))
    return float(ends[0]), float(ends[1])


def _cells(values: np.ndarray, mean: float, sd: float, field: str) -> np.ndarray:
    """The probability of each value's cell, half-way to its neighbours, under a normal law."""
    middles = 0.5 * (values[1:] + values[:-1])
    law = NormalDist(mean, sd)
    ends = [1.5 * values[0] - 0.5 * values[1], *middles, 1.5 * values[-1] - 0.5 * values[-2]]
    weights = np.diff([law.cdf(float(e)) for e in ends])
    if not weights.sum() > 1e-6:
        raise InvalidInput(field, f"a distribution that is not far outside [{values[0]:g}, {values[-1]:g}]", [mean, sd])
    return weights
