"""What was measured of one metric, and parts of it: the rows that a model is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from .models import NOISE_FLOOR, Data, Gradients
from .objective import Scale
from .space import Space
from .trial import Trial, TrialState

Noise = Literal["auto", "none"] | float


@dataclass(frozen=True, eq=False)
class Results:
    """Configurations, values and standard deviations of their noise (NaN: unknown).

    ``slopes`` holds partial derivatives of the values in the columns of the cube, NaN where not measured (None: none
    was). ``ordered`` are the columns whose axes may be warped, ``trials`` the numbers of the trials. ``apart`` says
    which columns are fidelities, with an effect of their own, and ``target`` where these count (None: in many places).
    """

    X: Float64[np.ndarray, "n d"]
    values: Float64[np.ndarray, " n"]
    noise: Float64[np.ndarray, " n"]
    groups: Int64[np.ndarray, " d"]
    trials: Int64[np.ndarray, " n"]
    ordered: tuple[int, ...] = ()
    slopes: Float64[np.ndarray, "n d"] | None = None
    apart: tuple[bool, ...] = ()
    target: tuple[float, ...] | None = None

    @classmethod
    def of(cls, space: Space, trials: Sequence[Trial], metric: str, noise: Noise) -> Results:
        """What the completed trials measured of ``metric``; ``noise`` holds where a measurement has no stderr."""
        found = [
            (t, m) for t in measured(trials, metric) for m in t.measurements if m.metric == metric and m.step is None
        ]
        unknown = np.nan if noise == "auto" else 0.0 if noise == "none" else float(noise)
        slopes = None
        if any(m.gradient for _, m in found):
            slopes = np.array([space.slopes(t.params, m.gradient or {}) for t, m in found])
        return cls(
            space.encode([t.params for t, _ in found]),
            np.array([m.value for _, m in found]),
            np.array([unknown if m.stderr is None else m.stderr for _, m in found], dtype=float),
            space.groups,
            np.array([t.number for t, _ in found], dtype=np.int64),
            tuple(int(c) for c in np.flatnonzero(space.ordered)),
            slopes,
        )

    @cached_property
    def _key(self) -> bytes:
        arrays = [self.X, self.values, self.noise, self.groups, *([] if self.slopes is None else [self.slopes])]
        return b"|".join(a.tobytes() for a in arrays)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Results):
            return False
        return (self._key, *self._roles) == (other._key, *other._roles)

    @property
    def _roles(self) -> tuple[tuple[float, ...] | None, ...]:
        return self.ordered, self.apart, self.target

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def observations(self) -> Int64[np.ndarray, " n"]:
        """How many numbers were observed in each row: the value and the derivatives."""
        n = np.ones(len(self), dtype=np.int64)
        return n if self.slopes is None else n + np.isfinite(self.slopes).sum(1)

    @property
    def compares_fidelities(self) -> bool:
        """Whether results at several fidelities are among them."""
        columns = self.X[:, np.array(self.apart, dtype=bool)] if self.apart else self.X[:, :0]
        return bool((columns != columns[:1]).any())

    def log(self) -> Results:
        """The same of the values' logarithm."""
        slopes = None if self.slopes is None else self.slopes / self.values[:, None]
        return replace(self, values=np.log(self.values), noise=self.noise / self.values, slopes=slopes)

    def on(self, scale: Scale) -> Data:
        """Everything on a scale of y."""
        slope = scale.slope(self.values)
        known = np.maximum((self.noise * slope) ** 2, NOISE_FLOOR)
        gradients = None
        if self.slopes is not None and np.isfinite(self.slopes).any():
            row, column = np.nonzero(np.isfinite(self.slopes))
            gradients = Gradients(row, column, scale.sign * slope[row] * self.slopes[row, column])
        return Data(self.X, scale.forward(self.values), known, self.groups, gradients)

    def log_jacobian(self, scale: Scale) -> float:
        """By which factor a scale of y stretches the density of everything observed, as a logarithm."""
        return float((self.observations * np.log(scale.slope(self.values))).sum())

    def first(self, n: int) -> Results:
        return self._take(np.arange(n)) if n < len(self) else self

    def part(self, sign: float, size: int) -> Results:
        """At most ``size`` observations: of the rows the best quarter, and the rest evenly from the others.

        With derivatives, half of the observations are values, and the derivatives are those of the best rows.
        """
        total = int(self.observations.sum())
        if total <= size:
            return self
        rows = size if total == len(self) else size // 2
        return self._best(sign, rows)._with_slopes_of_best(sign, size)

    def _best(self, sign: float, size: int) -> Results:
        if len(self) <= size:
            return self
        order = np.argsort(-sign * self.values, kind="stable")
        top, others = order[: size // 4], np.sort(order[size // 4 :])
        spaced = others[np.linspace(0, len(others) - 1, size - len(top)).astype(int)]
        return self._take(np.sort(np.concatenate([top, spaced])))

    def _with_slopes_of_best(self, sign: float, size: int) -> Results:
        if self.slopes is None:
            return self
        order = np.argsort(-sign * self.values, kind="stable")
        dropped = order[len(self) + np.cumsum(self.observations[order] - 1) > size]
        slopes = self.slopes.copy()
        slopes[dropped] = np.nan
        return replace(self, slopes=slopes)

    def _take(self, rows: np.ndarray) -> Results:
        return replace(
            self,
            X=self.X[rows],
            values=self.values[rows],
            noise=self.noise[rows],
            trials=self.trials[rows],
            slopes=None if self.slopes is None else self.slopes[rows],
        )


def measured(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The completed trials with a result for ``metric``."""
    return [
        t
        for t in trials
        if t.state is TrialState.COMPLETED and any(m.metric == metric and m.step is None for m in t.measurements)
    ]
