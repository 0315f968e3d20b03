"""Fidelity: parameters that say how exactly, or by which source of information, a trial is measured.

They are ordinary parameters of the space (a number or an ordinal is a level of fidelity, a categorical a source). What
counts is the value at their target; a trial elsewhere may say much about it for less. So trials are chosen by what they
are expected to be worth at the target per unit of what they cost (Poloczek, Wang and Frazier 2017).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float64

from .errors import InvalidInput
from .expression import Formula
from .parameters import Constant
from .space import Space
from .target import Target
from .trial import Trial

Rows = Float64[np.ndarray, "m d"]

CHECKED = 256  # configurations at which a cost has to be positive
WORTHWHILE = 0.5  # of the cost at the target: a trial elsewhere has to cost less
STEP = 1e-5  # of a continuous column, for the slope of a cost
KEYS = ("target", "cost", "metric")


@dataclass(frozen=True)
class Fidelity:
    """Where fidelity parameters count, and what a trial costs.

    ``target`` maps fidelity parameters to the values at which the objective counts. ``cost`` is a formula over the
    parameters, such as ``"0.1 + epochs / 81"`` or ``"10 if source == 'lab' else 1"``; or ``metric`` names what trials
    measure as their cost, from which it is learned. One of the two is given. The unit of cost is free.

    Raises InvalidInput naming the wrong field.
    """

    target: Mapping[str, Any]
    cost: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.target, Mapping) or not self.target:
            raise InvalidInput("fidelity.target", 'values of fidelity parameters, such as {"epochs": 81}', self.target)
        if (self.cost is None) == (self.metric is None):
            expected = 'either "cost", a formula, or "metric", what trials measure as their cost'
            raise InvalidInput("fidelity", expected, {"cost": self.cost, "metric": self.metric})
        if self.cost is not None:
            Formula(self.cost, "fidelity.cost")
        elif not isinstance(self.metric, str) or not self.metric:
            raise InvalidInput("fidelity.metric", "a metric's name", self.metric)

    @classmethod
    def of(cls, fidelity: Any) -> Fidelity | None:
        """From a Fidelity, ``{"target": ..., "cost": ...}``, ``{"target": ..., "metric": ...}`` or None."""
        if fidelity is None or isinstance(fidelity, Fidelity):
            return fidelity
        if not isinstance(fidelity, Mapping) or "target" not in fidelity:
            raise InvalidInput("fidelity", '{"target": {...}, "cost": "..."}, or "metric" for the cost', fidelity)
        for key in fidelity:
            if key not in KEYS:
                raise InvalidInput(f"fidelity.{key}", f"one of {list(KEYS)}", fidelity[key])
        return cls(**fidelity)

    def to_json(self) -> dict[str, Any]:
        cost = {"metric": self.metric} if self.cost is None else {"cost": self.cost}
        return {"target": dict(self.target), **cost}

    @cached_property
    def formula(self) -> Formula | None:
        return None if self.cost is None else Formula(self.cost, "fidelity.cost")

    def check(self, space: Space) -> Fidelity:
        """This fidelity with values as the space has them; raises InvalidInput where it does not fit the space."""
        checked = space.check_values(self.target, "fidelity.target")
        refuse_structure(space, checked, "fidelity.target")
        if (formula := self.formula) is not None:
            _check_cost(space, formula)
        return Fidelity(checked, self.cost, self.metric)

    def at(self, space: Space) -> Target:
        """Where values count: at the target."""
        return Target.of(space, [self.target], [1.0])

    def cost_of(self, trial: Trial) -> float:
        """What a trial costs or is expected to cost; 0 where nothing is known of it yet."""
        if (formula := self.formula) is not None:
            return float(formula.values(trial.params))
        measured = [m.value for m in trial.measurements if m.metric == self.metric]
        return measured[-1] if measured else trial.source.cost or 0.0

    def worthwhile(self, space: Space) -> bool:
        """Whether any trial elsewhere may be worth its cost; taken to be so where cost is learned."""
        formula = self.formula
        return (
            formula is None
            or not dear(FormulaCost(formula, space), self.at(space), _rows_to_check(space, formula)).all()
        )

    def settled(self, space: Space, X: Rows) -> Rows:
        """Rows, those that are not worth their cost moved to the target; all as they are where cost is learned."""
        if (formula := self.formula) is None:
            return X
        target = self.at(space)
        return np.where(dear(FormulaCost(formula, space), target, X)[:, None], target.designs(X), X)

    def spent(self, trials: Iterable[Trial]) -> float:
        """What trials cost together."""
        return sum(self.cost_of(trial) for trial in trials)


class FormulaCost:
    """log of a formula's value at every row, per ``unit``, and its gradient.

    Between the values of a whole number or an ordinal the gradient is that of the line through the neighbours.
    """

    def __init__(self, formula: Formula, space: Space, unit: float = 1.0) -> None:
        self._formula, self._space, self._unit = formula, space, unit
        self._columns = [
            (int(column), STEP if np.isinf(p.cardinality) else 1.0 / (p.cardinality - 1.0))
            for name, p in space.parameters.items()
            if name in formula.names
            for column in np.flatnonzero(space.columns([name]) & space.ordered)
        ]

    def __call__(self, X: Rows) -> tuple[Float64[np.ndarray, " m"], Rows]:
        gradient = np.zeros_like(X)
        for column, step in self._columns:
            up, down = X.copy(), X.copy()
            up[:, column] = np.minimum(X[:, column] + step, 1.0)
            down[:, column] = np.maximum(X[:, column] - step, 0.0)
            rise = np.log(self.mean(up)) - np.log(self.mean(down))
            gradient[:, column] = rise / (up[:, column] - down[:, column])
        return np.log(self.mean(X)), gradient

    def mean(self, X: Rows) -> Float64[np.ndarray, " m"]:
        """The cost itself."""
        values = self._formula.values(self._space.named(X))
        return np.broadcast_to(np.asarray(values, dtype=float) / self._unit, (len(X),))


class Priced(Protocol):
    """Whatever says what each row costs (cost.py has the learned one)."""

    def mean(self, X: Rows) -> Float64[np.ndarray, " m"]: ...


def dear(cost: Priced, target: Target, X: Rows) -> Bool[np.ndarray, " m"]:
    """Which rows cost too much to be worth a trial that is not at the target."""
    return np.asarray(cost.mean(X) >= (1.0 - 1e-9) * WORTHWHILE * cost.mean(target.designs(X)))


def refuse_structure(space: Space, names: Collection[str], field: str) -> None:
    """Raises InvalidInput where one of these parameters bears on which other configurations there are.

    What says how a trial is run has to be free of what is chosen: else a design would have no value at the target.
    """
    for name in names:
        if isinstance(space.parameters[name], Constant):
            raise InvalidInput(f"{field}.{name}", "a parameter that is not constant", name)
        if space.parameters[name].active_if is not None:
            raise InvalidInput(f"{field}.{name}", "a parameter that is always active", space.parameters[name].active_if)
    for other, condition in space.conditions.items():
        if shared := sorted(condition.names & set(names)):
            expected = f"a parameter that no other depends on ({other} is active if {condition.text})"
            raise InvalidInput(f"{field}.{shared[0]}", expected, shared[0])
    for constraint in space.constraints:
        if shared := sorted(constraint.names & set(names)):
            expected = f"a parameter that no parameter constraint mentions (there is {constraint.text})"
            raise InvalidInput(f"{field}.{shared[0]}", expected, shared[0])
    if all(p.cardinality == 1 for name, p in space.parameters.items() if name not in names):
        raise InvalidInput(field, "at least one parameter that is left to choose", sorted(names))


def _check_cost(space: Space, formula: Formula) -> None:
    space.check_expression(formula, "fidelity.cost")
    for name in sorted(formula.names):
        if space.parameters[name].active_if is not None:
            raise InvalidInput("fidelity.cost", f"parameters that are always active, {name} is not", formula.text)
    values = FormulaCost(formula, space).mean(_rows_to_check(space, formula))
    wrong = values[~(np.isfinite(values) & (values > 0))]
    if len(wrong):
        raise InvalidInput("fidelity.cost", f"a cost that is positive everywhere, not {wrong[0]:g}", formula.text)


def _rows_to_check(space: Space, formula: Formula) -> Rows:
    """Rows everywhere in the cube, and at the ends of what the formula mentions."""
    U = np.random.default_rng(0).random((CHECKED, space.draws))
    corners = np.array(list(itertools.islice(itertools.product([0.0, 1.0 - 1e-12], repeat=len(formula.names)), 4096)))
    positions = [space.drawn(name).start for name in space.parameters if name in formula.names]
    if positions:
        at_corners = np.full((len(corners), U.shape[1]), 0.5)
        at_corners[:, positions] = corners
        U = np.concatenate([U, at_corners])
    return space.from_uniform(U)
