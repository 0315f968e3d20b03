"""Learning from earlier studies: what an earlier study believes, as a function on the space of a new one.

Parameters are matched by name and kind, choices by value. The earlier results are laid out in the columns of the new
space that both share; numbers may lie outside the new ranges, and a choice that no longer exists gets a column of its
own. Parameters that only the earlier study had are left out, and their effect counts as noise; those that only the new
study has, the belief does not depend on. `informed.py` says how beliefs enter the new study's model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from .errors import InvalidInput
from .objective import Goal, Scale
from .parameters import Bool, Categorical, Float, Int, Ordinal, Parameter
from .space import Space
from .timesteps import TimeSteps
from .trial import Trial

if TYPE_CHECKING:
    from .models import GaussianProcess
    from .results import Results

Rows = Float64[np.ndarray, "n d"]

ROWS = 100  # results of an earlier study that a belief stands on: the best quarter, the others evenly
FEWEST = 3  # results of an earlier study that make a belief
DRAWN = (  # acquisitions that draw whole functions, or observe derivatives: not of a process with earlier studies
    "thompson",
    "trust_region",
    "entropy_search",
    "joint_entropy_search",
    "predictive_entropy_search",
    "derivative_knowledge_gradient",
)


def check_earlier(names: Sequence[str]) -> tuple[str, ...]:
    """The names of earlier studies; InvalidInput where they are none."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidInput("earlier", "a list of names of studies", names)
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"earlier.{i}", "the name of a study", name)
        if name in names[:i]:
            raise InvalidInput(f"earlier.{i}", "a study that is not named twice", name)
    return tuple(names)


@dataclass(frozen=True, eq=False)
class Belief:
    """An earlier study's process of one metric, and ``scale``, which leads from its y to the metric's unit.

    ``columns`` are those of the new space that it depends on, ``foreign`` further columns stand for choices that no
    longer exist, and ``visited`` are its results' rows in the new space, the best first.
    """

    name: str
    gp: GaussianProcess
    scale: Scale
    columns: Int64[np.ndarray, " c"]
    foreign: int
    visited: Rows

    def rows(self, X: Rows) -> Rows:
        """Rows of the new space as rows of the belief."""
        return np.concatenate([X[:, self.columns], np.zeros((len(X), self.foreign))], axis=1)

    def pull(self, gradient: Rows, X: Rows) -> Rows:
        """A gradient in the belief's rows as one in the rows X of the new space."""
        out = np.zeros_like(X)
        out[:, self.columns] = gradient[:, : len(self.columns)]
        return out


@dataclass(frozen=True, eq=False)
class Earlier:
    """An earlier study as a new one sees it, whose ``space`` and ``goal`` are the new one's; nothing in it changes.

    Raises InvalidInput when the two share no parameter or no metric.
    """

    name: str
    space: Space
    goal: Goal
    earlier_space: Space
    earlier_goal: Goal
    noise: str | float
    trials: tuple[Trial, ...]

    def __post_init__(self) -> None:
        field = f"earlier.{self.name}"
        if not self.shared:
            expected = f"a study that shares some of the parameters {list(self.space.parameters)}, of the same kind"
            raise InvalidInput(field, expected, list(self.earlier_space.parameters))
        if all(self.match(metric) is None for metric in self.goal.metrics):
            expected = f"a study that measured some of the metrics {list(self.goal.metrics)}"
            raise InvalidInput(field, expected, list(self.earlier_goal.metrics))

    @property
    def shared(self) -> list[str]:
        """The parameters that both studies search, by name."""
        old = self.earlier_space.parameters
        return [n for n, p in self.space.parameters.items() if n in old and _compatible(p, old[n])]

    @property
    def ignored(self) -> list[str]:
        """The parameters that only the earlier study searched."""
        old, shared = self.earlier_space.parameters, self.shared
        return [n for n, p in old.items() if p.cardinality > 1 and n not in shared]

    def match(self, metric: str) -> tuple[str, float | None] | None:
        """The earlier metric that stands for ``metric``; with its own sign if it is another single objective.

        Metrics are matched by name, else a single objective stands for a single objective.
        """
        if metric in self.earlier_goal.metrics:
            return metric, None
        if self.goal.several or self.earlier_goal.several or metric != self.goal.objective.metric:
            return None
        return self.earlier_goal.objective.metric, self.earlier_goal.objective.sign


def beliefs(earlier: Sequence[Earlier], metric: str, sign: float) -> tuple[Belief, ...]:
    """What every earlier study that has something to say believes of a metric."""
    found = [believe(e, metric, sign) for e in earlier]
    return tuple(b for b in found if b is not None)


@lru_cache(maxsize=256)  # an earlier study stays what it is
def believe(earlier: Earlier, metric: str, sign: float) -> Belief | None:
    """What an earlier study believes of a metric, ``sign`` times which is good; None when it says too little."""
    from .fitting import Prior
    from .metric_model import fit_metric
    from .models import FitError

    matched = earlier.match(metric)
    if matched is None:
        return None
    old, own_sign = matched
    sign = sign if own_sign is None else own_sign
    layout = _Layout(earlier.space, earlier.earlier_space, earlier.shared)
    results = _results(earlier, layout, old)
    if results is None:
        return None
    results = results.part(sign, ROWS)
    try:
        model, _ = fit_metric(results, sign, Prior(), linear=False)
    except FitError:
        return None
    order = np.argsort(-model.gp.posterior_mean(results.X), kind="stable")
    visited = layout.visited(results.X[order])
    return Belief(earlier.name, model.gp, model.scale, layout.columns, layout.foreign, visited)


def _results(earlier: Earlier, layout: _Layout, metric: str) -> Results | None:
    """The earlier measurements of a metric in the shared columns; None when they are too few."""
    from .results import Results, measured

    trials = measured(earlier.trials, metric)
    X, kept = layout.rows(trials)
    found = [(i, m) for i, t in enumerate(trials) if kept[i] for m in t.final if m.metric == metric]
    if len(found) < FEWEST:
        return None
    blurred = bool(earlier.ignored)  # by parameters that do not show in the rows
    unknown = np.nan if blurred or earlier.noise == "auto" else 0.0 if earlier.noise == "none" else float(earlier.noise)
    at = np.array([i for i, _ in found])
    return Results(
        X[at],
        np.array([m.value for _, m in found]),
        np.array([unknown if blurred or m.stderr is None else m.stderr for _, m in found], dtype=float),
        layout.groups,
        np.array([trials[i].number for i in at], dtype=np.int64),
    )


def _compatible(new: Parameter, old: Parameter) -> bool:
    """Whether values of one are values of the other: numbers of numbers, choices that both have."""
    if new.cardinality == 1 or old.cardinality == 1:
        return False
    if isinstance(new, Float | Int) or isinstance(old, Float | Int):
        return isinstance(new, Float | Int) and isinstance(old, Float | Int)
    if isinstance(new, TimeSteps) or isinstance(old, TimeSteps):
        return isinstance(new, TimeSteps) and isinstance(old, TimeSteps) and new.width == old.width
    return sum(_position(new, choice) is not None for choice in _choices(old)) >= 2


def _choices(p: Parameter) -> Sequence[Any]:
    assert isinstance(p, Categorical | Ordinal | Bool)
    return (False, True) if isinstance(p, Bool) else p.choices


def _position(p: Parameter, value: Any) -> int | None:
    """Where a choice stands among those of ``p``; None: it is none of them. True and 1 are different choices."""
    same = [i for i, c in enumerate(_choices(p)) if c == value and isinstance(c, bool) == isinstance(value, bool)]
    return same[0] if same else None


class _Layout:
    """Earlier configurations in the shared columns of the new space, then one column per choice that is gone."""

    def __init__(self, space: Space, old: Space, shared: Sequence[str]) -> None:
        self._space = space
        self._where = {name: np.flatnonzero(space.columns([name])) for name in shared}
        conditions = {name: space.conditions[name].text for name in shared if name in space.conditions}
        self._activity = {name: space.column_names.index(f"active[{text}]") for name, text in conditions.items()}
        columns = [int(c) for where in self._where.values() for c in where]
        self.columns = np.array([*columns, *sorted(set(self._activity.values()))], dtype=np.int64)
        self._gone = [
            (name, choice)
            for name in shared
            if isinstance(space.parameters[name], Categorical)
            for choice in _choices(old.parameters[name])
            if _position(space.parameters[name], choice) is None
        ]
        own = [int(space.groups[self._where[name][0]]) for name, _ in self._gone]
        every = np.array([*space.groups[self.columns], *own], dtype=np.int64)
        self.groups: Int64[np.ndarray, " c"] = np.unique(every, return_inverse=True)[1].astype(np.int64)

    @property
    def foreign(self) -> int:
        return len(self._gone)

    def rows(self, trials: Sequence[Trial]) -> tuple[Rows, np.ndarray]:
        """One row per trial, and which of them have a place: those whose values all do."""
        found = [self._row(t.params) for t in trials]
        empty = np.zeros(len(self.columns) + self.foreign)
        X = np.array([empty if row is None else row for row in found]).reshape(len(found), len(empty))
        return X, np.array([row is not None for row in found], dtype=bool)

    def _row(self, params: dict[str, Any]) -> Float64[np.ndarray, " c"] | None:
        whole, gone = np.zeros(self._space.dimension), np.zeros(self.foreign)
        for name, where in self._where.items():
            p = self._space.parameters[name]
            if name in self._activity:
                whole[self._activity[name]] = max(whole[self._activity[name]], float(name in params))
            if name not in params:
                whole[where] = 1 / p.width if isinstance(p, Categorical) else 0.5
                continue
            if not isinstance(p, TimeSteps) and (name, params[name]) in self._gone:
                gone[self._gone.index((name, params[name]))] = 1.0
                continue
            columns = _to_unit(p, params[name])
            if columns is None:
                return None
            whole[where] = columns
        return np.concatenate([whole[self.columns], gone])

    def visited(self, X: Rows) -> Rows:
        """The nearest configurations of the new space; what only the new study has is at its centre."""
        whole = np.full((len(X), self._space.dimension), 0.5)
        whole[:, self.columns] = np.clip(X[:, : len(self.columns)], 0.0, 1.0)
        return self._space.snap(whole)


def _to_unit(p: Parameter, value: Any) -> Float64[np.ndarray, " c"] | None:
    """A value in the columns of ``p``, beyond [0, 1] where it is out of range; None where it has no place."""
    if isinstance(p, Float | Int):
        return None if p.log and value <= 0 else p.to_unit(np.array([float(value)]))[0]
    if isinstance(p, TimeSteps):
        return p.place(value)
    position = _position(p, value)
    return None if position is None else p.to_unit(np.array([float(position)]))[0]
