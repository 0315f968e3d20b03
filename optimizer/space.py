"""The search space: parameters, conditions and parameter constraints, and the one transform of x.

Everything that leaves this file towards the models is a matrix in the unit cube, one column per number, ordinal or
boolean, one per choice of a categorical (one-hot), one per point of a sequence of time steps, and one 0/1 column per
distinct `active_if` condition. A parameter
that is inactive in a configuration sits at the centre of its columns, so configurations differ there only by the
activity column; this keeps every distance Euclidean, hence every stationary kernel on the cube valid.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool as BoolArray
from jaxtyping import Float64, Int64

from .errors import InvalidInput, Problem
from .expression import Expression, Formula
from .parameters import KINDS, Bool, Categorical, Constant, Float, Int, Ordinal, Parameter
from .ranges import unscale
from .timesteps import TimeSteps

__all__ = ["Bool", "Categorical", "Constant", "Float", "Int", "Ordinal", "Parameter", "Params", "Space", "TimeSteps"]

Params = dict[str, Any]  # one configuration: the active parameters and their values, in the space's order
Cube = Float64[np.ndarray, "n d"]
Batch = dict[str, np.ndarray]  # per parameter n numbers, or n sequences of them, as parameters.py defines them

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
RESERVED = {"and", "or", "not", "in", "if", "else", "is", "for", "lambda", "True", "False", "None"}
MAX_PARAMETERS = 500
SAMPLING_TRIES = 2**16  # uniform draws before the space falls back to walking from the feasible points it has


class Space:
    """The set of configurations that may be tried.

    >>> space = Space(lr=Float(1e-5, 1e-1, log=True), layers=Int(1, 8), constraints=["lr * layers <= 0.1"])

    Parameters are given by name, or as one mapping. ``active_if`` on a parameter is a condition over other parameters;
    where it does not hold, the parameter is left out of the configuration. ``constraints`` are conditions that every
    configuration satisfies; one that mentions an inactive parameter does not apply.

    Raises InvalidInput naming the field, for example ``parameters.lr.low``.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter] | None = None,
        /,
        *,
        constraints: Sequence[str] = (),
        **named: Parameter,
    ) -> None:
        given = {**(parameters or {}), **named}
        _check_names(given)
        if isinstance(constraints, str):
            raise InvalidInput("parameter_constraints", "a list of conditions", constraints)
        self.parameters: dict[str, Parameter] = given
        self.constraints: tuple[Expression, ...] = tuple(
            Expression(text, f"parameter_constraints.{i}") for i, text in enumerate(constraints)
        )
        self._conditions = {
            name: Expression(p.active_if, f"parameters.{name}.active_if")
            for name, p in given.items()
            if p.active_if is not None
        }
        self._order = self._topological_order()
        for i, constraint in enumerate(self.constraints):
            self.check_expression(constraint, f"parameter_constraints.{i}")
            smooth = sorted(n for n in constraint.equated if math.isinf(given[n].cardinality))
            if smooth:
                expected = f"no == on {smooth[0]}, which is continuous (allow a tolerance: a - b <= 0.01)"
                raise InvalidInput(f"parameter_constraints.{i}", expected, constraint.text)
        self._lay_out_columns()
        self.fixed: Params = {}
        self._fixed_numbers: dict[str, float | np.ndarray] = {}

    def at(self, fixed: Mapping[str, Any]) -> Space:
        """The part of this space in which some parameters have given values; its columns of the cube are the same.

        Rows are moved there by `snap`, and decoded there: whatever moves in this space keeps the ``fixed`` values.
        Raises InvalidInput for unknown names and impossible values.
        """
        part = copy.copy(self)
        part.fixed = {**self.fixed, **self.check_values(fixed)}
        part._fixed_numbers = {name: self.parameters[name].to_number(v) for name, v in part.fixed.items()}
        return part

    def columns(self, names: Collection[str]) -> BoolArray[np.ndarray, " d"]:
        """Which columns of the cube belong to these parameters."""
        mask = np.zeros(self.dimension, dtype=bool)
        for name in names:
            mask[self._slices[name]] = True
        return mask

    @property
    def conditions(self) -> Mapping[str, Expression]:
        """The conditions of the parameters that have one."""
        return self._conditions

    def named(self, X: Cube) -> Batch:
        """The values of every parameter in the configurations nearest to rows, as a person would write them."""
        return self._named(self._split(X))

    # --- columns of the cube ------------------------------------------------------------------------------------------

    def _lay_out_columns(self) -> None:
        self._slices: dict[str, slice] = {}
        self.column_names: list[str] = []
        groups: list[int] = []
        for name, p in self.parameters.items():
            start = len(groups)
            first = max(groups, default=-1) + 1
            groups += range(first, first + p.width) if isinstance(p, TimeSteps) else [first] * p.width
            self._slices[name] = slice(start, start + p.width)
            self.column_names += _column_names(name, p)
        self._activity: dict[str, int] = {}
        for name in self._conditions:
            text = self._conditions[name].text
            if text not in self._activity and self.parameters[name].width:
                self._activity[text] = len(groups)
                groups.append(max(groups, default=-1) + 1)
                self.column_names.append(f"active[{text}]")
        self.groups: Int64[np.ndarray, " d"] = np.array(groups, dtype=np.int64)
        self.continuous: BoolArray[np.ndarray, " d"] = np.zeros(len(groups), dtype=bool)
        self.ordered: BoolArray[np.ndarray, " d"] = np.zeros(
            len(groups), dtype=bool
        )  # numbers and long orders: can be relaxed
        for name, p in self.parameters.items():
            self.continuous[self._slices[name]] = math.isinf(p.cardinality)
            self.ordered[self._slices[name]] = isinstance(p, Float | Int | Ordinal | TimeSteps) and p.cardinality > 6
        draws = [p.width if isinstance(p, TimeSteps) else 1 for p in self.parameters.values()]
        ends = list(itertools.accumulate(draws))
        self._drawn = {n: slice(end - m, end) for n, m, end in zip(self.parameters, draws, ends, strict=True)}
        self.draws = ends[-1]

    @property
    def dimension(self) -> int:
        """The number of columns d of the cube."""
        return len(self.groups)

    @property
    def cardinality(self) -> float:
        """An upper bound on how many configurations there are; infinite with a continuous parameter."""
        return math.prod(p.cardinality for name, p in self.parameters.items() if name not in self.fixed)

    def encode(self, configurations: Sequence[Mapping[str, Any]]) -> Cube:
        """Configurations as rows of the unit cube."""
        values: Batch = {}
        for name, p in self.parameters.items():
            idle = p.from_unit(np.full((1, p.width), 0.5))[0]  # any value will do where it is inactive
            found = [p.to_number(c[name]) if name in c else idle for c in configurations]
            values[name] = np.array(found, dtype=float).reshape(len(found), *idle.shape)
        active = {name: np.array([name in c for c in configurations], dtype=bool) for name in self.parameters}
        return self._join(values, active, len(configurations))

    def decode(self, X: Cube) -> list[Params]:
        """The configurations nearest to rows of the cube; ``decode(encode(c)) == c`` up to rounding of floats."""
        values = self._split(X)
        active = self._active(values, len(X))
        return [
            {n: p.to_native(values[n][i]) for n, p in self.parameters.items() if active[n][i]} for i in range(len(X))
        ]

    def snap(self, X: Cube) -> Cube:
        """Rows moved onto the nearest configurations: ``encode(decode(X))``, for whole batches at once."""
        values = self._split(X)
        return self._join(values, self._active(values, len(X)), len(X))

    def feasible(self, X: Cube) -> BoolArray[np.ndarray, " n"]:
        """Which rows, once decoded, satisfy every parameter constraint."""
        values = self._split(X)
        return self._satisfied(values, self._active(values, len(X)), len(X))

    def slacks(self, X: Cube) -> list[Float64[np.ndarray, " n"]] | None:
        """How far each inequality is satisfied (>= 0: holds); None where a constraint is not a plain inequality.

        Numbers are taken as they are in the cube, between the steps of their grid, so that slacks change smoothly.
        """
        values = self._between(X)
        active = self._active(values, len(X))
        named = self._named(values)
        result: list[np.ndarray] = []
        for constraint in self.constraints:
            parts = constraint.slacks(named)
            if parts is None:
                return None
            applies = np.logical_and.reduce([active[n] for n in constraint.names])
            result += [np.where(applies, np.broadcast_to(part, len(X)), np.inf) for part in parts]
        return result

    def free(self, X: Cube, *, relaxed: bool = False) -> BoolArray[np.ndarray, "n d"]:
        """Which columns of which rows may move continuously: continuous (``relaxed``: all ordered) and active."""
        active = self._active(self._split(X), len(X))
        mask = np.broadcast_to(self.ordered if relaxed else self.continuous, X.shape).copy()
        for name in self._conditions:
            mask[:, self._slices[name]] &= active[name][:, None]
        for name in self.fixed:
            mask[:, self._slices[name]] = False
        return mask

    def falling(self, X: Cube) -> Int64[np.ndarray, "n d"] | None:
        """Per row the order of columns in which the points of every sequence fall; None where there are no sequences.

        Points in any order mean the sorted ones, so f(X in this order) is f continued to the whole cube.
        """
        sequences = [self._slices[n] for n, p in self.parameters.items() if isinstance(p, TimeSteps) and p.width > 1]
        if not sequences:
            return None
        order = np.tile(np.arange(self.dimension), (len(X), 1))
        for where in sequences:
            order[:, where] = where.start + np.argsort(-X[:, where], axis=1, kind="stable")
        return order

    def perturb(self, X: Cube, scale: float | Float64[np.ndarray, "n 1"], rng: np.random.Generator) -> Cube:
        """Every row with its numbers moved by normal steps of ``scale`` and some of its choices redrawn."""
        moved = np.clip(X + scale * rng.standard_normal(X.shape), 0.0, 1.0)
        choices = [n for n, p in self.parameters.items() if not isinstance(p, Float | Int | Ordinal | TimeSteps)]
        if choices:
            fresh = self.from_uniform(rng.random((len(X), self.draws)))
            for where in (self._slices[name] for name in choices):
                redrawn = rng.random(len(X)) < 0.2
                moved[:, where] = np.where(redrawn[:, None], fresh[:, where], X[:, where])
        return self.snap(moved)

    def neighbours(self, X: Cube, rng: np.random.Generator) -> Cube:
        """Configurations that differ from a row in one discrete parameter: other choices, nearby and random numbers."""
        values = self._split(X)
        active = self._active(values, len(X))
        batches = [self._join(moved, self._active(moved, len(X)), len(X)) for moved in self._moves(values, active, rng)]
        return np.concatenate(batches) if batches else np.empty((0, self.dimension))

    def _moves(self, values: Batch, active: dict[str, np.ndarray], rng: np.random.Generator) -> Iterator[Batch]:
        n = len(next(iter(values.values())))
        for name, p in self.parameters.items():
            if math.isinf(p.cardinality) or p.cardinality == 1 or name in self.fixed or not active[name].any():
                continue
            if isinstance(p, TimeSteps):
                for moved in p.moves(values[name], rng):
                    yield {**values, name: moved}
                continue
            grid = p.grid()
            here = np.searchsorted(grid, values[name] - 1e-9 * (1.0 + np.abs(values[name])))
            if isinstance(p, Categorical | Bool) or len(grid) <= 6:
                targets = [(here + k) % len(grid) for k in range(1, len(grid))]
            else:
                steps = [np.clip(here + k, 0, len(grid) - 1) for k in (-2, -1, 1, 2)]
                targets = [*steps, rng.integers(len(grid), size=n), rng.integers(len(grid), size=n)]
            for target in targets:
                yield {**values, name: grid[target]}

    def _split(self, X: Cube) -> Batch:
        return self._with_fixed({name: p.from_unit(X[:, self._slices[name]]) for name, p in self.parameters.items()})

    def _between(self, X: Cube) -> Batch:
        """Like `_split`, but numbers are not rounded to their grid."""
        numbers = {
            name: unscale(X[:, self._slices[name]][:, 0], p.low, p.high, p.log)
            for name, p in self.parameters.items()
            if isinstance(p, Float | Int)
        }
        return self._with_fixed(self._split(X) | numbers)

    def _with_fixed(self, values: Batch) -> Batch:
        for name, number in self._fixed_numbers.items():
            values[name] = np.full(values[name].shape, number)
        return values

    def _join(self, values: Batch, active: dict[str, np.ndarray], n: int) -> Cube:
        X = np.empty((n, self.dimension))
        for name, p in self.parameters.items():
            if p.width:
                centre = 1 / p.width if isinstance(p, Categorical) else 0.5
                X[:, self._slices[name]] = np.where(active[name][:, None], p.to_unit(values[name]), centre)
        for name, condition in self._conditions.items():
            if condition.text in self._activity:
                X[:, self._activity[condition.text]] = active[name]
        return X

    def _named(self, values: Batch) -> dict[str, np.ndarray]:
        """Values as a person would write them in a condition: choices instead of their positions."""
        named: dict[str, np.ndarray] = {}
        for name, p in self.parameters.items():
            if isinstance(p, Categorical | Ordinal):
                named[name] = np.array(p.choices, dtype=object)[values[name].astype(int)]
                if all(isinstance(c, int | float) for c in p.choices):
                    named[name] = named[name].astype(float)
            elif isinstance(p, Constant):
                named[name] = np.full(len(values[name]), p.value, dtype=object if isinstance(p.value, str) else float)
            else:
                named[name] = values[name]
        return named

    def _active(self, values: Batch, n: int) -> dict[str, np.ndarray]:
        """Per parameter, in which rows it is active: its condition holds and what the condition mentions is active."""
        named = self._named(values) if self._conditions else {}
        active: dict[str, np.ndarray] = {}
        for name in self._order:
            active[name] = np.ones(n, dtype=bool)
            if name in self._conditions:
                condition = self._conditions[name]
                active[name] &= np.broadcast_to(condition.holds(named), n)
                for parent in condition.names:
                    active[name] &= active[parent]
        return active

    def _satisfied(self, values: Batch, active: dict[str, np.ndarray], n: int) -> np.ndarray:
        ok = np.ones(n, dtype=bool)
        if self.constraints:
            named = self._named(values)
            for constraint in self.constraints:
                applies = np.logical_and.reduce([active[name] for name in constraint.names])
                ok &= ~applies | np.broadcast_to(constraint.holds(named), n)
        return ok

    # --- configurations from outside ----------------------------------------------------------------------------------

    def check(self, params: Mapping[str, Any], field: str = "parameters") -> Params:
        """``params`` as a configuration of this space, in its order and with its types; constants may be left out.

        Raises InvalidInput that lists every unknown, missing, inactive or out-of-range parameter, or the parameter
        constraint that does not hold.
        """
        if not isinstance(params, Mapping):
            raise InvalidInput(field, "a mapping from parameter names to values", params)
        return self._check_whole(self.check_values(params, field), field)

    def check_values(self, params: Mapping[str, Any], field: str = "parameters") -> Params:
        """Values of some of the parameters, each on its own, with this space's types; InvalidInput lists the wrong."""
        problems = [
            Problem(f"{field}.{name}", f"one of the parameters {list(self.parameters)}", name)
            for name in params
            if name not in self.parameters
        ]
        checked: dict[str, Any] = {}
        for name, p in self.parameters.items():
            if name in params:
                try:
                    checked[name] = p.check(params[name])
                except InvalidInput as error:
                    problems += [Problem(f"{field}.{name}", e.expected, e.got) for e in error.problems]
        if problems:
            raise InvalidInput.of(problems)
        return checked

    def _check_whole(self, checked: dict[str, Any], field: str) -> Params:
        """Activity, completeness and constraints of values that are right one by one."""
        result: Params = {}
        problems: list[Problem] = []
        active: dict[str, bool] = {}
        for name in self._order:
            p, condition = self.parameters[name], self._conditions.get(name)
            on = condition is None or all(active[n] for n in condition.names)
            if condition is not None and on:
                on = (
                    bool(condition.holds({n: result[n] for n in condition.names if n in result}).item())
                    if all(n in result for n in condition.names)
                    else False
                )
            active[name] = on
            if not on and name in checked and not isinstance(p, Constant):
                assert condition is not None
                problems.append(
                    Problem(f"{field}.{name}", f"no value, because {condition.text} does not hold", checked[name])
                )
            elif on and name in checked:
                result[name] = checked[name]
            elif on and isinstance(p, Constant):
                result[name] = p.value
            elif on:
                problems.append(Problem(f"{field}.{name}", f"a value for this {p.type} parameter", None))
        if problems:
            raise InvalidInput.of(problems)
        for constraint in self.constraints:
            if all(active[n] for n in constraint.names) and not constraint.holds(result):
                raise InvalidInput(
                    field, f"values that satisfy {constraint.text}", {n: result[n] for n in constraint.names}
                )
        return {name: result[name] for name in self.parameters if name in result}

    def check_slopes(self, params: Params, gradient: Mapping[str, float], field: str = "gradient") -> None:
        """Refuses partial derivatives in what is no number, or not active in this configuration (InvalidInput)."""
        names = [n for n, p in self.parameters.items() if isinstance(p, Float | Int) and n in params]
        problems = [
            Problem(f"{field}.{name}", f"a derivative in one of the active numbers {names}", value)
            for name, value in gradient.items()
            if name not in names
        ]
        if problems:
            raise InvalidInput.of(problems)

    def slopes(self, params: Params, gradient: Mapping[str, float]) -> Float64[np.ndarray, " d"]:
        """Partial derivatives by parameter as those in the columns of the cube; NaN where none is given.

        A whole number counts as the real number it is.
        """
        row = np.full(self.dimension, np.nan)
        for name, slope in gradient.items():
            p = self.parameters[name]
            assert isinstance(p, Float | Int)
            stretch = params[name] * math.log(p.high / p.low) if p.log else p.high - p.low
            row[self._slices[name]] = slope * stretch
        return row

    # --- many configurations ------------------------------------------------------------------------------------------

    def sample(self, n: int, rng: np.random.Generator) -> Cube:
        """n independent feasible configurations: uniform over the parameters' scales and, within them, the constraints.

        Raises InvalidInput when no feasible configuration can be found.
        """
        found = np.empty((0, self.dimension))
        tried = 0
        while len(found) < n and tried < SAMPLING_TRIES:
            size = min(max(2 * n, 256), 4096)
            tried += size
            X = self.from_uniform(rng.random((size, self.draws)))
            found = np.concatenate([found, X[self.feasible(X)]])
        if len(found) >= n:
            return found[:n]
        seeds = found if len(found) else self._repair(rng)
        return np.concatenate([found, self._walk(seeds, n - len(found), rng)])

    def drawn(self, name: str) -> slice:
        """The columns of uniform draws that decide a parameter: one, of time steps one per point."""
        return self._drawn[name]

    def from_uniform(self, U: Float64[np.ndarray, "n u"]) -> Cube:
        """Draws in [0, 1)^u, in columns as `drawn` says, as configurations (which may break parameter constraints)."""
        u = {n: U[:, where] for n, where in self._drawn.items()}
        values = self._with_fixed(
            {n: p.from_uniform(u[n] if isinstance(p, TimeSteps) else u[n][:, 0]) for n, p in self.parameters.items()}
        )
        return self._join(values, self._active(values, len(U)), len(U))

    def _walk(self, seeds: Cube, n: int, rng: np.random.Generator) -> Cube:
        """n feasible rows by random walks from feasible seeds: one parameter at a time, by shrinking slices.

        Uniform over the feasible set in the long run (slice sampling; Neal 2003, figure 8), for any constraints.
        """
        X = seeds[rng.integers(len(seeds), size=n)].copy()
        names = [name for name, p in self.parameters.items() if p.cardinality > 1 and name not in self.fixed]
        for name in [names[i] for _ in range(8) for i in rng.permutation(len(names))]:
            p = self.parameters[name]
            U = X[:, self._slices[name]]
            low, high = np.zeros(n), np.ones(n)
            here = U[:, 0].copy()
            open_ = np.ones(n, dtype=bool)
            for _ in range(30):
                u = low + (high - low) * rng.random(n)
                trial = X.copy()
                if isinstance(p, TimeSteps):
                    trial[:, self._slices[name]] = p.to_unit(p.from_uniform(rng.random((n, p.width))))
                elif isinstance(p, Categorical | Bool):
                    trial[:, self._slices[name]] = p.to_unit(p.from_uniform(u))
                else:
                    trial[:, self._slices[name]] = u[:, None]
                trial = self.snap(trial)
                accepted = open_ & self.feasible(trial)
                X[accepted] = trial[accepted]
                open_ &= ~accepted
                if not isinstance(p, Categorical | Bool | TimeSteps):
                    low, high = np.where(open_ & (u < here), u, low), np.where(open_ & (u >= here), u, high)
                if not open_.any():
                    break
        return X

    def _repair(self, rng: np.random.Generator) -> Cube:
        """Feasible rows found by minimising the violation of the inequalities from random starts."""
        from scipy.optimize import minimize

        def violation(x: np.ndarray) -> float:
            parts = self.slacks(x[None])
            assert parts is not None
            return sum(
                float(np.nan_to_num(np.minimum(part - 1e-9, 0), nan=-1e6, neginf=-1e6)[0]) ** 2 for part in parts
            )

        starts = self.from_uniform(rng.random((32, self.draws)))
        if self.slacks(starts) is not None:
            for x in starts:
                free = self.continuous

                def along(z: np.ndarray, x: np.ndarray = x, free: np.ndarray = free) -> float:
                    return violation(np.where(free, np.clip(_spread(z, free), 0, 1), x))

                best = x
                if free.any():
                    z = minimize(
                        along, x[free], method="Powell", bounds=[(0, 1)] * int(free.sum()), options={"maxfev": 4000}
                    ).x
                    best = np.where(free, np.clip(_spread(z, free), 0, 1), x)
                row = self.snap(best[None])
                if self.feasible(row)[0]:
                    return row
        texts = [c.text for c in self.constraints]
        raise InvalidInput(
            "parameter_constraints", "conditions that some configuration satisfies (none was found)", texts
        )

    def enumerate(self) -> Iterator[Params]:
        """Every feasible configuration of a finite space, each once."""
        if math.isinf(self.cardinality):
            raise InvalidInput("space", "a finite space to enumerate", f"{self!r}")
        seen: set[tuple[float, ...]] = set()
        grids = [
            np.array([self._fixed_numbers[name]]) if name in self.fixed else p.grid()
            for name, p in self.parameters.items()
        ]
        for block in _blocks(itertools.product(*grids), 4096):
            columns = zip(*block, strict=True)
            values = {n: np.array(column, dtype=float) for n, column in zip(self.parameters, columns, strict=True)}
            active = self._active(values, len(block))
            X = self._join(values, active, len(block))[self._satisfied(values, active, len(block))]
            for row, params in zip(X, self.decode(X), strict=True):
                if (key := tuple(row)) not in seen:  # values of inactive parameters do not count as different
                    seen.add(key)
                    yield params

    # --- definitions --------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The definition as the REST API writes it: ``{"parameters": [...], "parameter_constraints": [...]}``."""
        return {
            "parameters": [_parameter_json(name, p) for name, p in self.parameters.items()],
            "parameter_constraints": [c.text for c in self.constraints],
        }

    @classmethod
    def from_json(cls, parameters: Sequence[Mapping[str, Any]], parameter_constraints: Sequence[str] = ()) -> Space:
        """The space of a definition as the REST API writes it; every error names its field."""
        built: dict[str, Parameter] = {}
        problems: list[Problem] = []
        for i, definition in enumerate(parameters):
            fields = dict(definition)
            name = fields.pop("name", None)
            if not isinstance(name, str):
                problems.append(Problem(f"parameters.{i}.name", "a name", name))
            elif name in built:
                problems.append(Problem(f"parameters.{i}.name", "a name that is not used twice", name))
            else:
                try:
                    built[name] = _parameter_from_json(fields, f"parameters.{name}")
                except InvalidInput as error:
                    problems += error.problems
        if problems:
            raise InvalidInput.of(problems)
        return cls(built, constraints=parameter_constraints)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_json() == other.to_json() and self.fixed == other.fixed

    def __hash__(self) -> int:
        return hash(str(self.to_json()))

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={p!r}" for name, p in self.parameters.items())
        return f"Space({inner}, constraints={[c.text for c in self.constraints]})"

    def _topological_order(self) -> list[str]:
        """Parameters ordered so that conditions only look back."""
        for name, condition in self._conditions.items():
            self.check_expression(condition, f"parameters.{name}.active_if")
        order: list[str] = []
        waiting = dict.fromkeys(self.parameters)
        while waiting:
            ready = [n for n in waiting if n not in self._conditions or self._conditions[n].names <= set(order)]
            if not ready:
                name = next(iter(waiting))
                raise InvalidInput(
                    f"parameters.{name}.active_if", "conditions without a cycle", self._conditions[name].text
                )
            order += ready
            for name in ready:
                del waiting[name]
        return order

    def check_expression(self, expression: Expression | Formula, field: str) -> None:
        """Raises InvalidInput where an expression does not fit the parameters that it mentions."""
        for name in sorted(expression.names):
            if name not in self.parameters:
                raise InvalidInput(field, f"names among the parameters {list(self.parameters)}", name)
            if isinstance(self.parameters[name], TimeSteps):
                raise InvalidInput(field, "no sequence of time steps: arithmetic and order are those of numbers", name)
        for name, literal in expression.literals():
            p = self.parameters[name]
            if isinstance(p, Categorical | Ordinal) and literal not in p.choices:
                raise InvalidInput(field, f"a choice of {name}: {list(p.choices)}", literal)
        corner = {name: p.from_unit(np.zeros((1, p.width))) for name, p in self.parameters.items()}
        try:
            evaluate = expression.holds if isinstance(expression, Expression) else expression.values
            evaluate(self._named(corner))
        except (TypeError, ValueError):
            raise InvalidInput(field, "arithmetic and order only on numbers", expression.text) from None


def _check_names(parameters: Mapping[str, Parameter]) -> None:
    if not 1 <= len(parameters) <= MAX_PARAMETERS:
        raise InvalidInput("parameters", f"from 1 to {MAX_PARAMETERS} parameters", len(parameters))
    for name, p in parameters.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
            expected = "a name of letters, digits and _ (at most 100), not starting with a digit, no reserved word"
            raise InvalidInput(f"parameters.{name}.name", expected, name)
        if not isinstance(p, Parameter):
            raise InvalidInput(f"parameters.{name}", "Float, Int, Categorical, Ordinal, Bool, Constant or TimeSteps", p)
    if all(p.cardinality == 1 for p in parameters.values()):
        raise InvalidInput("parameters", "at least one parameter that is not constant", list(parameters))


def _column_names(name: str, p: Parameter) -> list[str]:
    if isinstance(p, Categorical):
        return [f"{name}={choice}" for choice in p.choices]
    return [f"{name}.{i}" for i in range(p.width)] if isinstance(p, TimeSteps) else [name] * p.width


def _parameter_json(name: str, p: Parameter) -> dict[str, Any]:
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(p).items()}
    return {"name": name, "type": p.type, **{k: v for k, v in fields.items() if v is not None}}


def _parameter_from_json(fields: dict[str, Any], field: str) -> Parameter:
    type_ = fields.pop("type", None)
    kind = KINDS.get(type_) if isinstance(type_, str) else None
    if kind is None:
        raise InvalidInput(f"{field}.type", f"one of {list(KINDS)}", type_)
    fields = {k: v for k, v in fields.items() if v is not None}
    allowed = list(kind.__dataclass_fields__)
    for key in fields:
        if key not in allowed:
            raise InvalidInput(f"{field}.{key}", f"for a {kind.type} parameter one of {allowed}", fields[key])
    for key in ("k", "low", "high", "choices", "value"):
        if key in allowed and key not in fields:
            raise InvalidInput(f"{field}.{key}", f"a value, because {kind.type} parameters need it", None)
    choices = fields.pop("choices", None)
    if "choices" in allowed and (isinstance(choices, str) or not isinstance(choices, Sequence)):
        raise InvalidInput(f"{field}.choices", "a list of choices", choices)
    try:
        return kind(*choices, **fields) if choices is not None else kind(**fields)
    except InvalidInput as error:
        raise error.under(field) from None


def _spread(z: np.ndarray, free: np.ndarray) -> np.ndarray:
    x = np.zeros(len(free))
    x[free] = z
    return x


def _blocks(items: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while block := list(itertools.islice(items, size)):
        yield block
