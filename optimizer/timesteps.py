"""Time steps: a decreasing sequence of times or noise levels as one parameter, and the schedules in common use.

A model sees the sorted positions themselves, one column each. That beats every coding by gaps: a gap that moves shifts
all later times along, while the quality of a schedule depends on where its times are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from .errors import InvalidInput
from .ranges import as_float, check_bounds, check_log, real, whole

Steps = Float64[np.ndarray, "n k"]  # n sequences
Points = Float64[np.ndarray, "n m"]  # their control points
Schedule = Float64[np.ndarray, " k"]

MANY = 10  # steps, up to which each is searched on its own
FEW = 5  # control points of longer sequences
FINEST = 1000  # the default gap between real numbers is this part of their range
LONGEST = 10_000  # steps


@dataclass(frozen=True)
class TimeSteps:
    """k numbers in [low, high], each at least ``gap`` below the one before: ``TimeSteps(4, 0, 999)``.

    Whole numbers, or with ``integer=False`` real ones such as noise levels; ``log=True`` searches their logarithms, and
    ``gap`` is then one of logarithms. The first time is free like all others. ``points`` of the steps, evenly spread
    over the sequence, are searched, and the others lie on straight lines between them: all up to 10 steps, else 5. As
    the columns mean the same for any k, studies of different k with equally many points can learn from each other.

    A configuration holds the sequence as a list. ``gap`` is 1 for whole numbers, else a thousandth of the range.
    """

    k: int
    low: float
    high: float
    integer: bool = True
    log: bool = False
    gap: float | None = None
    points: int | None = None
    active_if: str | None = None
    type: ClassVar[str] = "time_steps"

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole(self.k, "k"))
        if not 1 <= self.k <= LONGEST:
            raise InvalidInput("k", f"from 1 to {LONGEST} steps", self.k)
        if not isinstance(self.integer, bool):
            raise InvalidInput("integer", "true or false", self.integer)
        number = whole if self.integer else real
        for field in ("low", "high"):
            object.__setattr__(self, field, number(getattr(self, field), field))
        check_bounds(self.low, self.high)
        check_log(self.log, self.low)
        if self.log and self.integer:
            raise InvalidInput("log", "false for whole numbers (integer=False searches real ones)", self.log)
        self._check_gap()
        self._check_points()

    def _check_gap(self) -> None:
        low, high = self._range
        if self.gap is None:
            object.__setattr__(self, "gap", 1 if self.integer else min((high - low) / FINEST, (high - low) / self.k))
        else:
            object.__setattr__(self, "gap", whole(self.gap, "gap") if self.integer else real(self.gap, "gap"))
        if not 0 < self._gap * max(self.k - 1, 1) <= high - low:
            expected = f"a positive number of which {max(self.k - 1, 1)} fit between low and high ({high - low:g})"
            raise InvalidInput("gap", expected, self.gap)

    def _check_points(self) -> None:
        default = self.k if self.k <= MANY else FEW
        object.__setattr__(self, "points", default if self.points is None else whole(self.points, "points"))
        if not min(self.k, 2) <= self.width <= self.k:
            raise InvalidInput("points", f"from {min(self.k, 2)} to k ({self.k})", self.points)

    # --- what every parameter has -------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        assert self.points is not None
        return self.points

    @property
    def cardinality(self) -> float:
        return math.comb(self._levels + self.width - 1, self.width) if self.integer else math.inf

    def check(self, value: Any) -> list[float]:
        """``value`` as a list of numbers of this parameter; raises InvalidInput when it is none."""
        kind = "whole numbers" if self.integer else "numbers"
        expected = f"{self.k} {kind} in [{self.low!r}, {self.high!r}], each at least {self.gap!r} below the one before"
        if self.log:
            expected += " in their logarithms"
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray) or len(value) != self.k:
            raise InvalidInput("value", expected, value)
        steps = np.array([as_float(v) for v in value])
        inside = bool(np.isfinite(steps).all()) and self.low <= steps.min() and steps.max() <= self.high
        if not inside or (self.integer and (steps != np.round(steps)).any()):
            raise InvalidInput("value", expected, list(value))
        gaps = -np.diff(self._forward(steps))
        low, high = self._range
        if (np.diff(steps) >= 0).any() or (gaps < self._gap - 1e-9 * (high - low)).any():
            raise InvalidInput("value", expected, list(value))
        return self.to_native(steps)

    def to_unit(self, values: Steps) -> Points:
        low, high = self._range
        return np.clip((self._forward(values[:, self._indices]) - low) / (high - low), 0.0, 1.0)

    def from_unit(self, U: Points) -> Steps:
        """The nearest sequences of points in any order: sorted, then moved apart as little as possible."""
        low, high = self._range
        y = -np.sort(-(low + np.clip(U, 0.0, 1.0) * (high - low)), axis=1) - self._ramp[self._indices]
        return self._through(np.clip(_decreasing(y), low, high - self._ramp[0]))

    def from_uniform(self, u: Points) -> Steps:
        """Uniform draws in [0, 1) as sequences whose points are equally likely to lie anywhere."""
        low, high = self._range
        ordered = -np.sort(-u, axis=1)
        if self.integer:
            return self._through(low + np.floor(ordered * self._levels))
        return self._through(low + ordered * (high - self._ramp[0] - low))

    def grid(self) -> Steps:
        falling = range(self._levels - 1, -1, -1)
        y = np.array(list(itertools.combinations_with_replacement(falling, self.width)), dtype=float)
        return self._through(self.low + y)

    def moves(self, values: Steps, rng: np.random.Generator) -> Iterator[Steps]:
        """Neighbours of every sequence: one point at a time by the smallest step, and anywhere between its own."""
        low, high = self._range
        U, step = self.to_unit(values), self._gap / (high - low)
        padded = np.concatenate([np.ones((len(U), 1)), U, np.zeros((len(U), 1))], axis=1)
        for j in range(self.width):
            above, below = padded[:, j], padded[:, j + 2]
            for place in (U[:, j] + step, U[:, j] - step, below + (above - below) * rng.random(len(U))):
                moved = U.copy()
                moved[:, j] = place
                yield self.from_unit(moved)

    def to_native(self, value: Schedule) -> list[float]:
        return [int(v) if self.integer else float(v) for v in value]

    def to_number(self, value: Any) -> Schedule:
        return np.array(value, dtype=float)

    def place(self, steps: Sequence[float]) -> Schedule | None:
        """The columns of a sequence of any length, beyond [0, 1] where it is out of range; None where it has no place.

        Its points are where they would be if it was one of this parameter's.
        """
        if len(steps) < self.width or (self.log and min(steps) <= 0):
            return None
        low, high = self._range
        at = np.round(np.linspace(0, len(steps) - 1, self.width)).astype(np.int64)
        placed: Schedule = (self._forward(np.asarray(steps, dtype=float)[at]) - low) / (high - low)
        return placed

    # --- sequences ----------------------------------------------------------------------------------------------------

    def nearest(self, steps: Sequence[float] | Schedule) -> list[float]:
        """The sequence of this parameter nearest to any numbers: resampled to k, brought inside, and moved apart."""
        inside = np.clip(np.sort(np.asarray(steps, dtype=float))[::-1], self.low, self.high)
        inside = resample(inside, self.k, log=self.log)
        try:
            return self.check(np.round(inside) if self.integer else inside)
        except InvalidInput:
            every = TimeSteps(self.k, self.low, self.high, self.integer, self.log, self.gap, points=self.k)
            return self.to_native(every.from_unit(every.to_unit(inside[None]))[0])

    @property
    def _range(self) -> tuple[float, float]:
        """The ends on the scale that is searched."""
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    @property
    def _gap(self) -> float:
        assert self.gap is not None
        return self.gap

    @property
    def _levels(self) -> int:
        """How many places there are for the last of the times, in whole numbers."""
        return int(self.high - self.low - (self.k - 1) * self._gap) + 1

    @property
    def _ramp(self) -> Schedule:
        """What the gaps take: less this, a sequence only has to fall or stay level."""
        return self._gap * np.arange(self.k - 1, -1, -1, dtype=float)

    @property
    def _indices(self) -> Int64[np.ndarray, " m"]:
        """Which of the steps are the control points."""
        return np.round(np.linspace(0, self.k - 1, self.width)).astype(np.int64)

    def _forward(self, values: np.ndarray) -> np.ndarray:
        return np.log(values) if self.log else values

    def _through(self, y: Points) -> Steps:
        """The sequences through control points that are given less the ramp."""
        if self.width < self.k:
            at, where = np.arange(self.k), self._indices
            y = np.stack([np.interp(at, where, row) for row in y]) if len(y) else np.empty((0, self.k))
        if self.integer:
            y = np.round(y)
        z = y + self._ramp
        low, high = self._range
        return np.where(z >= high, self.high, np.where(z <= low, self.low, np.exp(z) if self.log else z))


def _decreasing(y: Points) -> Points:
    """The nearest rows that never rise, in the sum of squares (isotonic regression by its min-max formula)."""
    rising = (np.diff(y, axis=1) > 0).any(1)
    if not rising.any():
        return y
    part, m = y[rising], y.shape[1]
    total = np.concatenate([np.zeros((len(part), 1)), np.cumsum(part, axis=1)], axis=1)
    a, b = np.arange(m)[:, None], np.arange(m)[None]
    means = (total[:, b + 1] - total[:, a]) / np.maximum(b - a + 1, 1)
    upper = np.maximum.accumulate(np.where(b >= a, means, -np.inf)[:, :, ::-1], axis=2)[:, :, ::-1]
    result = y.copy()
    result[rising] = np.where(a <= b, upper, np.inf).min(1)
    return result


def resample(steps: Sequence[float] | Schedule, k: int, *, log: bool = False) -> Schedule:
    """A sequence of k numbers along the same curve, its ends included; ``log``: along straight lines of logarithms."""
    values = np.asarray(steps, dtype=float)
    if len(values) == k:
        return values
    along = np.interp(np.linspace(0.0, 1.0, k), np.linspace(0.0, 1.0, len(values)), np.log(values) if log else values)
    return np.exp(along) if log else along


# --- schedules in common use ------------------------------------------------------------------------------------------


def trailing(k: int, T: int = 1000) -> Schedule:
    """Evenly spaced times that begin at the last training step T - 1 (Lin et al. 2024, table 2)."""
    return np.round(np.arange(T, 0, -T / k))[:k] - 1.0


def leading(k: int, T: int = 1000) -> Schedule:
    """Evenly spaced times that end at 0 and begin short of T - 1: DDIM's and DDPM's own in many pipelines."""
    return (T // k) * np.arange(k - 1, -1, -1, dtype=float)


def linspace(k: int, T: int = 1000) -> Schedule:
    """Evenly spaced times from T - 1 to 0."""
    return np.linspace(T - 1.0, 0.0, k)


def power(k: int, T: int = 1000, exponent: float = 2.0, last: float | None = None) -> Schedule:
    """Times that are dense towards the end: exponent 2 is DDIM's quadratic schedule (Song et al. 2021, appendix D.2).

    Without ``last`` the next one would be 0. Exponents of 1.1 and 1.4 from T - 1 down to 0.024 T and 0.013 T come
    within 3.2 % of T of the ten steps that Align Your Steps (Sabour et al. 2024) found for Stable Diffusion 1.5 and XL.
    """
    if last is None:
        return (T - 1.0) * (np.arange(k, 0, -1) / k) ** exponent
    return last + (T - 1.0 - last) * np.linspace(1.0, 0.0, k) ** exponent


def beta(k: int, T: int = 1000, a: float = 0.6, b: float = 0.6) -> Schedule:
    """Times at evenly spaced quantiles of a beta distribution: dense at both ends (Lee et al. 2024)."""
    from scipy.special import betaincinv

    return (T - 1.0) * betaincinv(a, b, np.arange(k, 0, -1) / k)


def karras(k: int, low: float, high: float, rho: float = 7.0) -> Schedule:
    """Noise levels evenly spaced in their rho-th root (Karras et al. 2022, equation 5)."""
    return (high ** (1 / rho) + np.linspace(0.0, 1.0, k) * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def exponential(k: int, low: float, high: float) -> Schedule:
    """Noise levels evenly spaced in their logarithm, that is in log-SNR (Lu et al. 2022, section 3.1)."""
    return np.exp(np.linspace(math.log(high), math.log(low), k))


def flow(k: int, shift: float = 1.0) -> Schedule:
    """Noise levels of flow matching from 1 towards 0, shifted to more noise (Esser et al. 2024, equation 23)."""
    s = np.arange(k, 0, -1) / k
    return shift * s / (1.0 + (shift - 1.0) * s)


def times_at(levels: Schedule, sigmas: Float64[np.ndarray, " T"]) -> Schedule:
    """The training times at which noise levels occur, where ``sigmas`` are those of the times 0, 1, ...

    A noise level is the standard deviation of the noise beside a clean image of unchanged scale,
    sqrt((1 - alpha_bar) / alpha_bar); between two times its logarithm is linear.
    """
    return np.interp(np.log(levels), np.log(sigmas), np.arange(len(sigmas), dtype=float))


def known_schedules(p: TimeSteps, sigmas: Float64[np.ndarray, " T"] | None = None) -> dict[str, list[float]]:
    """The schedules in common use as values of a parameter, by name: what to try first, or to compare with.

    Whole numbers are times of a model that was trained on those from 0 to ``p.high``; with its noise levels ``sigmas``
    there are also the schedules that are made of those. Real numbers are noise levels. Which of them is best differs
    from model to model, so they are to be tried, not trusted.
    """
    k = p.k
    found: dict[str, Schedule]
    if p.integer:
        T = int(p.high) + 1
        found = {
            "trailing": trailing(k, T),
            "leading": leading(k, T),
            "linspace": linspace(k, T),
            "quadratic": power(k, T),
            "align_sd": power(k, T, 1.1, 0.024 * T),
            "align_sdxl": power(k, T, 1.4, 0.013 * T),
            "beta": beta(k, T),
        }
        if sigmas is not None:
            found |= _by_noise(k, sigmas)
    else:
        span = p.high - p.low
        found = {f"flow_{shift}": p.low + span * flow(k, shift) for shift in (1, 3, 5, 7)}
        found["linspace"] = np.linspace(p.high, p.low, k)
        found["quadratic"] = p.low + span * power(k, 2)
        if p.low > 0:
            found |= {"karras": karras(k, p.low, p.high), "exponential": exponential(k, p.low, p.high)}
    return {name: p.nearest(steps) for name, steps in found.items()}


def _by_noise(k: int, sigmas: Float64[np.ndarray, " T"]) -> dict[str, Schedule]:
    """Schedules of noise levels over the whole range, and over the middle of it, where images take shape."""
    low, high = float(sigmas[0]), float(sigmas[-1])
    inner = max(low, 0.1), min(high, 10.0)
    found = {"karras": karras(k, low, high), "exponential": exponential(k, low, high)}
    if inner[0] < inner[1]:
        found |= {"karras_inner": karras(k, *inner), "exponential_inner": exponential(k, *inner)}
    return {name: times_at(levels, sigmas) for name, levels in found.items()}
