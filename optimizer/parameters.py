"""The kinds of parameter. Each maps its values to columns of the unit cube and back; `space.py` puts them together.

Inside the library a batch of values is an array: floats for numbers, positions in ``choices`` for `Categorical` and
`Ordinal`, 0/1 for `Bool`, one row of numbers per sequence for `TimeSteps` (`timesteps.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64

from .errors import InvalidInput
from .ranges import check_bounds, check_log, real, scale, unscale, whole
from .timesteps import TimeSteps

Values = Float64[np.ndarray, " n"]
Columns = Float64[np.ndarray, "n c"]
Choice = str | int | float | bool


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]. ``log=True`` searches its logarithm; ``step`` allows only low, low + step, ..."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    active_if: str | None = None
    type: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        for field in ("low", "high"):
            object.__setattr__(self, field, real(getattr(self, field), field))
        check_bounds(self.low, self.high)
        check_log(self.log, self.low)
        if self.step is not None:
            object.__setattr__(self, "step", real(self.step, "step"))
            if not 0 < self.step <= self.high - self.low:
                raise InvalidInput(
                    "step", f"a positive number, at most high - low ({self.high - self.low!r})", self.step
                )

    @property
    def width(self) -> int:
        return 1

    @property
    def cardinality(self) -> float:
        return math.inf if self.step is None else math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def check(self, value: Any) -> float:
        """``value`` as a float of this parameter; raises InvalidInput when it is none."""
        number = real(value, "value")
        if not self.low <= number <= self.high:
            raise InvalidInput("value", f"a number in [{self.low!r}, {self.high!r}]", value)
        if self.step is not None and not math.isclose(number, self._on_grid(number), rel_tol=1e-9, abs_tol=1e-12):
            raise InvalidInput("value", f"low + k * step ({self.low!r} + k * {self.step!r})", value)
        return number

    def _on_grid(self, number: float) -> float:
        assert self.step is not None
        return min(self.low + self.step * round((number - self.low) / self.step), self.high)

    def to_unit(self, values: Values) -> Columns:
        return scale(values, self.low, self.high, self.log)[:, None]

    def from_unit(self, U: Columns) -> Values:
        values = unscale(U[:, 0], self.low, self.high, self.log)
        if self.step is not None:
            k = np.clip(np.round((values - self.low) / self.step), 0, self.cardinality - 1)
            values = self._at(k)
        return values

    def from_uniform(self, u: Values) -> Values:
        """Uniform draws in [0, 1) as values of equal probability (on the log scale where ``log``)."""
        if self.step is not None and not self.log:
            return self._at(np.floor(u * self.cardinality))
        return self.from_unit(u[:, None])

    def grid(self) -> Values:
        return self._at(np.arange(self.cardinality))

    def _at(self, k: Values) -> Values:
        assert self.step is not None
        return np.minimum(self.low + self.step * k, self.high)  # rounding may carry the last one past high

    def to_native(self, value: float) -> float:
        return float(value)

    def to_number(self, value: Any) -> float:
        return float(value)


@dataclass(frozen=True)
class Int:
    """A whole number from low to high, both included, in steps of ``step``. ``log=True`` searches its logarithm."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    active_if: str | None = None
    type: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        for field in ("low", "high", "step"):
            object.__setattr__(self, field, whole(getattr(self, field), field))
        check_bounds(self.low, self.high)
        check_log(self.log, self.low)
        if not 0 < self.step <= self.high - self.low:
            raise InvalidInput("step", f"a whole number from 1 to high - low ({self.high - self.low})", self.step)

    @property
    def width(self) -> int:
        return 1

    @property
    def cardinality(self) -> float:
        return (self.high - self.low) // self.step + 1

    def check(self, value: Any) -> int:
        number = whole(value, "value")
        if not self.low <= number <= self.high:
            raise InvalidInput("value", f"a whole number in [{self.low}, {self.high}]", value)
        if (number - self.low) % self.step:
            raise InvalidInput("value", f"low + k * step ({self.low} + k * {self.step})", value)
        return number

    def to_unit(self, values: Values) -> Columns:
        return scale(values, self.low, self.high, self.log)[:, None]

    def from_unit(self, U: Columns) -> Values:
        values = unscale(U[:, 0], self.low, self.high, self.log)
        k = np.clip(np.round((values - self.low) / self.step), 0, self.cardinality - 1)
        return self.low + self.step * k

    def from_uniform(self, u: Values) -> Values:
        if self.log:  # every whole number owns the interval half-way to its neighbours
            return self.from_unit(
                scale(unscale(u, self.low - 0.5, self.high + 0.5, True), self.low, self.high, True)[:, None]
            )
        return self.low + self.step * np.floor(u * self.cardinality)

    def grid(self) -> Values:
        return self.low + self.step * np.arange(self.cardinality)

    def to_native(self, value: float) -> int:
        return int(value)

    def to_number(self, value: Any) -> float:
        return float(value)


@dataclass(frozen=True, init=False)
class _Choices:
    """What `Categorical` and `Ordinal` share: a list of different choices."""

    choices: tuple[Choice, ...]
    active_if: str | None

    def __init__(self, *choices: Any, active_if: str | None = None) -> None:
        if len(choices) == 1 and isinstance(choices[0], Sequence) and not isinstance(choices[0], str):
            choices = tuple(choices[0])  # Categorical(["a", "b"]) and Categorical("a", "b") mean the same
        for i, choice in enumerate(choices):
            if not isinstance(choice, str | int | float | bool) or choice != choice:
                raise InvalidInput(f"choices.{i}", "a string, number or boolean", choice)
            if choice in choices[:i]:
                raise InvalidInput(f"choices.{i}", "a choice that differs from the others", choice)
        if len(choices) < 2:
            raise InvalidInput("choices", "at least two choices (use Constant for one)", list(choices))
        object.__setattr__(self, "choices", tuple(choices))
        object.__setattr__(self, "active_if", active_if)

    @property
    def cardinality(self) -> float:
        return len(self.choices)

    def check(self, value: Any) -> Choice:
        for choice in self.choices:
            if choice == value and isinstance(choice, str) == isinstance(value, str):
                return choice
        raise InvalidInput("value", f"one of {list(self.choices)}", value)

    def from_uniform(self, u: Values) -> Values:
        return np.floor(u * len(self.choices))

    def grid(self) -> Values:
        return np.arange(len(self.choices), dtype=float)

    def to_native(self, value: float) -> Choice:
        return self.choices[int(value)]

    def to_number(self, value: Any) -> float:
        return float(self.choices.index(value))


@dataclass(frozen=True, init=False)
class Categorical(_Choices):
    """One of several choices without an order: ``Categorical("adam", "sgd")``. One column per choice (one-hot)."""

    type: ClassVar[str] = "categorical"

    @property
    def width(self) -> int:
        return len(self.choices)

    def to_unit(self, values: Values) -> Columns:
        return np.eye(len(self.choices))[values.astype(int)]

    def from_unit(self, U: Columns) -> Values:
        return np.argmax(U, axis=1).astype(float)


@dataclass(frozen=True, init=False)
class Ordinal(_Choices):
    """One of several choices in the given order, evenly spaced in one column: ``Ordinal("S", "M", "L")``."""

    type: ClassVar[str] = "ordinal"

    @property
    def width(self) -> int:
        return 1

    def to_unit(self, values: Values) -> Columns:
        return (values / (len(self.choices) - 1))[:, None]

    def from_unit(self, U: Columns) -> Values:
        return np.clip(np.round(U[:, 0] * (len(self.choices) - 1)), 0, len(self.choices) - 1)


@dataclass(frozen=True)
class Bool:
    """True or False."""

    active_if: str | None = None
    type: ClassVar[str] = "bool"

    @property
    def width(self) -> int:
        return 1

    @property
    def cardinality(self) -> float:
        return 2

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise InvalidInput("value", "true or false", value)
        return bool(value)

    def to_unit(self, values: Values) -> Columns:
        return values[:, None]

    def from_unit(self, U: Columns) -> Values:
        return np.floor(U[:, 0] + 0.5)

    def from_uniform(self, u: Values) -> Values:
        return np.floor(2 * u)

    def grid(self) -> Values:
        return np.array([0.0, 1.0])

    def to_native(self, value: float) -> bool:
        return bool(value)

    def to_number(self, value: Any) -> float:
        return float(value)


@dataclass(frozen=True)
class Constant:
    """A value that is handed to every trial and never searched."""

    value: Choice
    active_if: str | None = None
    type: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        if (
            not isinstance(self.value, str | int | float | bool)
            or self.value in (math.inf, -math.inf)
            or self.value != self.value
        ):
            raise InvalidInput("value", "a string, finite number or boolean", self.value)

    @property
    def width(self) -> int:
        return 0

    @property
    def cardinality(self) -> float:
        return 1

    def check(self, value: Any) -> Choice:
        if value != self.value or isinstance(value, str) != isinstance(self.value, str):
            raise InvalidInput("value", f"{self.value!r}, the constant", value)
        return self.value

    def to_unit(self, values: Values) -> Columns:
        return np.empty((len(values), 0))

    def from_unit(self, U: Columns) -> Values:
        return np.zeros(len(U))

    def from_uniform(self, u: Values) -> Values:
        return np.zeros(len(u))

    def grid(self) -> Values:
        return np.zeros(1)

    def to_native(self, value: float) -> Choice:
        return self.value

    def to_number(self, value: Any) -> float:
        return 0.0


Scalar = Float | Int | Categorical | Ordinal | Bool | Constant  # parameters of single values
Parameter = Scalar | TimeSteps
KINDS: dict[str, type[Parameter]] = {
    kind.type: kind for kind in (Float, Int, Categorical, Ordinal, Bool, Constant, TimeSteps)
}
