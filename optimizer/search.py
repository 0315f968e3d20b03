"""Maximise an acquisition over a space: many starts, all climbing at once on what is continuous, moves on what is not.

Small finite spaces are enumerated, so their answer is exact. Everywhere else candidates are quasi-random points and
perturbed incumbents (BoTorch's default of quasi-random points alone misses the maximum once data cluster around the
optimum); the best are polished by quasi-Newton steps over their continuous columns (`ascent.py`) and by one-parameter
moves over the discrete.
A search may be bounded to a `Box` around an incumbent: then everything that is looked at lies in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import minimize
from scipy.stats import qmc

from .acquisition import Acquisition, values_of
from .ascent import ascend
from .space import Space

Cube = Float64[np.ndarray, "_ d"]  # any number of rows
Row = Float64[np.ndarray, " d"]

ENUMERATE_UP_TO = 4096  # configurations
CANDIDATES = 512  # quasi-random, and half as many perturbed incumbents
SCALES = (0.1, 0.02, 0.004)  # of the steps from incumbents
RESTARTS = 8
MOVED = 20  # parameters that are drawn anew in a candidate inside a box, on average
TOLERANCE = 1e-6  # in the logarithm of an acquisition: what a last step of a climb may still gain
DIFFERENCE = 1e-7  # of a column, over which the slope of a constraint is taken
ROUNDS = 5  # of discrete moves with polishing in between


@dataclass(frozen=True)
class Found:
    """The best configuration found (a row of the cube) and its acquisition value."""

    x: np.ndarray
    value: float


@dataclass(frozen=True)
class Box:
    """The part of the cube between two corners; columns that are not limited reach from 0 to 1."""

    low: Row
    high: Row

    def holds(self, X: Cube) -> Bool[np.ndarray, " _"]:
        """Which rows lie inside."""
        return (np.clip(X, self.low - 1e-9, self.high + 1e-9) == X).all(1)

    @classmethod
    def whole(cls, space: Space) -> Box:
        return cls(np.zeros(space.dimension), np.ones(space.dimension))

    def fit(self, X: Cube) -> Cube:
        """The cube's rows scaled into it."""
        return self.low + (self.high - self.low) * X


@dataclass(frozen=True)
class _Continued:
    """An acquisition continued to where the points of time steps are out of order, so that a climb may pass there."""

    acquisition: Acquisition
    space: Space

    def __call__(self, X: Cube) -> tuple[np.ndarray, Cube]:
        order = self.space.falling(X)
        if order is None:
            return self.acquisition(X)
        values, ordered = self.acquisition(np.take_along_axis(X, order, 1))
        gradient = np.empty_like(ordered)
        np.put_along_axis(gradient, order, ordered, 1)
        return values, gradient

    def values(self, X: Cube) -> np.ndarray:
        order = self.space.falling(X)
        return values_of(self.acquisition, X if order is None else np.take_along_axis(X, order, 1))


class Exclusion:
    """Rows that must not be suggested again."""

    def __init__(self, rows: Cube) -> None:
        self._keys = set(_keys(rows))

    def allows(self, X: Cube) -> Bool[np.ndarray, " n"]:
        return np.array([key not in self._keys for key in _keys(X)], dtype=bool)

    def add(self, row: Row) -> None:
        self._keys.update(_keys(row[None]))


def _keys(X: Cube) -> list[bytes]:
    return [row.tobytes() for row in np.round(X, 12) + 0.0]  # + 0.0: no negative zero


def maximise(
    acquisition: Acquisition,
    space: Space,
    rng: np.random.Generator,
    incumbents: Cube,
    excluded: Exclusion,
    box: Box | None = None,
) -> Found | None:
    """The configuration of the largest acquisition value that is not excluded; None when the space holds no other.

    With a ``box``, which holds at least one of the incumbents, it lies in there as long as that holds any that is new.
    """
    if space.falling(incumbents[:0]) is not None:
        acquisition = _Continued(acquisition, space)
    if space.cardinality <= ENUMERATE_UP_TO:
        X = grid(space)
        inside = _best_of(acquisition, X[box.holds(X)], excluded) if box is not None else None
        return inside or _best_of(acquisition, X, excluded)
    X = candidates(space, rng, incumbents) if box is None else _candidates_inside(box, space, rng, incumbents)
    values = evaluate(acquisition, X)
    order = np.argsort(-values, kind="stable")
    starts, start_values = spread_starts(X[order], values[order])
    tops, top_values = polish(acquisition, space, starts, start_values, rng, box)
    X, values = np.concatenate([tops, X]), np.concatenate([top_values, values])
    order = np.argsort(-values, kind="stable")
    for i in order:
        if excluded.allows(X[i : i + 1])[0]:
            return Found(X[i], float(values[i]))
    fresh = space.sample(4 * CANDIDATES, rng)  # everything looked at so far is taken
    return _best_of(acquisition, fresh, excluded)


def grid(space: Space) -> Cube:
    """Every configuration of a small finite space, as rows of the cube."""
    configurations = list(space.enumerate())
    return space.encode(configurations)


def _best_of(acquisition: Acquisition, X: Cube, excluded: Exclusion) -> Found | None:
    X = X[excluded.allows(X)]
    if not len(X):
        return None
    values = evaluate(acquisition, X)
    best = int(np.argmax(values))
    return Found(X[best], float(values[best]))


def evaluate(acquisition: Acquisition, X: Cube) -> np.ndarray:
    """The values of any number of rows, not too many at a time."""
    return np.concatenate([values_of(acquisition, X[i : i + 256]) for i in range(0, len(X), 256)])


def candidates(space: Space, rng: np.random.Generator, incumbents: Cube) -> Cube:
    """Feasible configurations everywhere, the incumbents, and more near them."""
    X = _feasible(space, _quasi_random(space, rng))
    if len(X) < CANDIDATES // 4:  # tight parameter constraints
        X = np.concatenate([X, space.sample(CANDIDATES - len(X), rng)])
    parts = [X, incumbents]
    if len(incumbents):
        copies = incumbents[rng.integers(len(incumbents), size=len(SCALES) * (CANDIDATES // 6))]
        parts.append(space.perturb(copies, np.repeat(SCALES, CANDIDATES // 6)[:, None], rng))
    return _feasible(space, np.concatenate(parts))


def _feasible(space: Space, X: Cube) -> Cube:
    return X[space.feasible(X)] if space.constraints else X


def _candidates_inside(box: Box, space: Space, rng: np.random.Generator, incumbents: Cube) -> Cube:
    """Incumbents in the box with some parameters drawn anew (Eriksson et al. 2019, supplement), or moved a bit."""
    incumbents = incumbents[box.holds(incumbents)]
    copies = incumbents[rng.integers(len(incumbents), size=CANDIDATES)]
    fresh = box.fit(space.sample(CANDIDATES, rng) if space.constraints else _quasi_random(space, rng))
    groups = int(space.groups.max()) + 1
    drawn = rng.random((CANDIDATES, groups)) < min(1.0, MOVED / groups)
    drawn[np.arange(CANDIDATES), rng.integers(groups, size=CANDIDATES)] = True
    parts = [incumbents, space.snap(np.where(drawn[:, space.groups], fresh, copies))]
    moved = space.perturb(
        np.tile(copies[: CANDIDATES // 6], (len(SCALES), 1)), np.repeat(SCALES, CANDIDATES // 6)[:, None], rng
    )
    parts.append(space.snap(np.clip(moved, box.low, box.high)))
    X = np.concatenate(parts)
    return X[space.feasible(X) & box.holds(X)]


def _quasi_random(space: Space, rng: np.random.Generator) -> Cube:
    sobol = qmc.Sobol(space.draws, rng=rng).random(CANDIDATES)
    return space.from_uniform(np.minimum(sobol, 1 - 1e-12))


def spread_starts(X: Cube, values: np.ndarray) -> tuple[Cube, np.ndarray]:
    """Starts from candidates sorted by value: half are simply the best, half lie where no better start is near."""
    chosen = list(range(min(RESTARTS // 2, len(X))))
    distance = np.full(len(X), np.inf)
    for i in chosen:
        distance = np.minimum(distance, ((X - X[i]) ** 2).sum(1))
    while len(chosen) < min(RESTARTS, len(X)):
        far = np.flatnonzero(distance > 0.02 * X.shape[1])
        if not len(far):
            break
        chosen.append(int(far[0]))
        distance = np.minimum(distance, ((X - X[far[0]]) ** 2).sum(1))
    return X[chosen], values[chosen]


def polish(
    acquisition: Acquisition,
    space: Space,
    X: Cube,
    values: np.ndarray,
    rng: np.random.Generator,
    box: Box | None = None,
) -> tuple[Cube, np.ndarray]:
    """Every row moved to a local maximum, and the values there."""
    box = box or Box.whole(space)
    discrete = not bool(space.continuous.all())
    X, values = _climb(acquisition, space, X, values, box, relaxed=discrete)
    if not discrete:
        return X, values
    for _ in range(ROUNDS):
        moved, moved_values = _step(acquisition, space, X, values, rng, box)
        if not (moved_values > values).any():
            break
        X, values = moved, moved_values
        if space.continuous.any():
            X, values = _climb(acquisition, space, X, values, box, relaxed=False)
    return X, values


def _step(
    acquisition: Acquisition, space: Space, X: Cube, values: np.ndarray, rng: np.random.Generator, box: Box
) -> tuple[Cube, np.ndarray]:
    """Every row replaced by the best of itself and its discrete neighbours."""
    neighbours = space.neighbours(X, rng)
    if not len(neighbours):
        return X, values
    allowed = space.feasible(neighbours) & box.holds(neighbours)
    neighbour_values = np.where(allowed, evaluate(acquisition, neighbours), -np.inf)
    table = neighbour_values.reshape(-1, len(X))  # neighbours come move by move, each for all rows
    best = table.argmax(0)
    rows = np.arange(len(X))
    better = table[best, rows] > values
    X = np.where(better[:, None], neighbours[best * len(X) + rows], X)
    return X, np.where(better, table[best, rows], values)


def _climb(
    acquisition: Acquisition, space: Space, X: Cube, values: np.ndarray, box: Box, *, relaxed: bool
) -> tuple[Cube, np.ndarray]:
    """Every row moved uphill along its free columns, where that leads to a better feasible configuration."""
    free = space.free(X, relaxed=relaxed)
    columns = np.flatnonzero(free.any(0))
    if not len(columns):
        return X, values

    whole = bool(free.all())

    def hill(Z: Cube, places: np.ndarray) -> tuple[np.ndarray, Cube]:
        if whole:
            return acquisition(Z)
        rows = X[places]
        mask = free[places][:, columns]
        rows[:, columns] = np.where(mask, Z, rows[:, columns])
        value, gradient = acquisition(rows)
        return value, np.where(mask, gradient[:, columns], 0.0)

    Z, _ = ascend(hill, X[:, columns], box.low[columns], box.high[columns], tolerance=TOLERANCE)
    end = X.copy()
    end[:, columns] = np.where(free[:, columns], Z, X[:, columns])
    end = space.snap(end)
    if space.constraints:
        end = _inside(acquisition, space, X, end, columns, free, box)
    end_values = evaluate(acquisition, end)
    better = (end_values > values) & box.holds(end)
    return np.where(better[:, None], end, X), np.where(better, end_values, values)


def _inside(
    acquisition: Acquisition, space: Space, start: Cube, end: Cube, columns: np.ndarray, free: np.ndarray, box: Box
) -> Cube:
    """Rows that ran out of the feasible set, brought back: by SLSQP along the constraints, else by halving the step."""
    end = end.copy()
    for i in np.flatnonzero(~space.feasible(end)):
        x = _constrained_climb(acquisition, space, start[i], columns[free[i, columns]], box)
        if not space.feasible(x[None])[0]:
            x = _last_feasible(space, start[i], end[i])
        end[i] = x
    return end


def _constrained_climb(acquisition: Acquisition, space: Space, x: Row, columns: np.ndarray, box: Box) -> Row:
    if not len(columns) or space.slacks(x[None]) is None:
        return x
    low, high = box.low[columns], box.high[columns]

    def at(Z: np.ndarray) -> Cube:
        rows = np.tile(x, (len(Z), 1))
        rows[:, columns] = np.clip(Z, low, high)
        return rows

    def loss(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = acquisition(at(z[None]))
        return -float(value[0]), -gradient[0, columns]

    def slacks(Z: np.ndarray) -> np.ndarray:  # a row for every row of Z, a column for every inequality
        parts = space.slacks(at(Z))
        assert parts is not None
        return np.nan_to_num(np.stack(parts, axis=1), nan=-1e6, posinf=1e6, neginf=-1e6) - 1e-9

    def slopes(z: np.ndarray) -> np.ndarray:  # by differences into the box, all in one call
        steps = np.where(z + DIFFERENCE > high, -DIFFERENCE, DIFFERENCE)
        S = slacks(np.concatenate([z[None], z + np.diag(steps)]))
        return ((S[1:] - S[0]) / steps[:, None]).T

    result = minimize(
        loss,
        x[columns],
        jac=True,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints=[{"type": "ineq", "fun": lambda z: slacks(z[None])[0], "jac": slopes}],
        options={"maxiter": 60},
    )
    return space.snap(at(result.x[None]))[0] if np.isfinite(result.x).all() else x


def _last_feasible(space: Space, start: Row, end: Row) -> Row:
    """The farthest feasible configuration on the way from a feasible start, to within 2^-10 of the way."""
    inside, outside = 0.0, 1.0
    x = start
    for _ in range(10):
        middle = 0.5 * (inside + outside)
        row = space.snap((start + middle * (end - start))[None])
        if space.feasible(row)[0]:
            inside, x = middle, row[0]
        else:
            outside = middle
    return x
