"""What schedules have been searched with before, in the same space and by the same evaluations: for fair comparison.

A proposer is asked for the next configuration, knowing what all earlier ones were worth (less is better).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from suffice.optimizer import Constant, Space, TimeSteps

Params = dict[str, Any]
Past = Sequence[tuple[Params, float]]
TRIES = 100  # draws until a child is accepted that was evaluated before


class Proposer(Protocol):
    """Says what to try next."""

    def propose(self, past: Past) -> Params:
        """The next configuration, after ``past``: configurations and their values, in the order they were tried."""
        ...


@dataclass
class RandomSearch:
    """Configurations drawn uniformly."""

    space: Space
    rng: np.random.Generator

    def propose(self, past: Past) -> Params:
        return self.space.decode(self.space.sample(1, self.rng))[0]


@dataclass
class AutoDiffusion:
    """The evolutionary search of AutoDiffusion (Li et al. 2023, arXiv 2309.10438), by its released settings.

    Of every generation half are mutations of the best, 3 in 10 uniform crossovers of two of them, and the rest random;
    a mutation redraws every time with probability 0.25. The first generation is ``uniform``, random ones, and mutations
    of ``uniform`` with probability 0.1. Released: a population of 50, the best 10, 10 generations; smaller budgets want
    smaller populations. Solver settings are redrawn and crossed over like times.
    """

    space: Space
    uniform: Params
    rng: np.random.Generator
    population: int = 50
    best: int = 10
    _waiting: list[Params] = field(default_factory=list)

    def propose(self, past: Past) -> Params:
        if not self._waiting:
            self._waiting = self._generation(past) if past else self._first()
        return self._waiting.pop(0)

    def _first(self) -> list[Params]:
        random = [draw(self.space, self.rng) for _ in range((self.population - 1) // 2)]
        rest = self.population - 1 - len(random)
        return [self.uniform, *random, *(mutated(self.space, self.uniform, 0.1, self.rng) for _ in range(rest))]

    def _generation(self, past: Past) -> list[Params]:
        parents = fittest(past, self.best)
        seen = [params for params, _ in past]
        children: list[Params] = []

        def add(child: Callable[[], Params]) -> None:
            made = child()
            for _ in range(TRIES):
                if made not in seen and made not in children:
                    break
                made = child()
            children.append(made)

        for _ in range(self.population // 2):
            add(lambda: mutated(self.space, self._one_of(parents), 0.25, self.rng))
        for _ in range(round(0.3 * self.population)):
            add(lambda: crossed(self.space, self._one_of(parents), self._one_of(parents), self.rng))
        while len(children) < self.population:
            add(lambda: draw(self.space, self.rng))
        return children

    def _one_of(self, parents: list[Params]) -> Params:
        return parents[int(self.rng.integers(len(parents)))]


@dataclass
class UnifiedSampling:
    """The search of USF (Liu et al. 2024, arXiv 2312.07243) as released: one child at a time of the best 15 so far.

    A child is a crossover of two with probability 0.3, else a copy of one; then every time is multiplied by
    1 + 0.08 z with z normal, and every decision (solver, order, corrector at each step, ...) redrawn with probability
    ``redraw``. Begins with ``begin`` random configurations.
    """

    space: Space
    rng: np.random.Generator
    begin: int = 15
    best: int = 15
    redraw: float = 0.2

    def propose(self, past: Past) -> Params:
        if len(past) < self.begin:
            return draw(self.space, self.rng)
        parents = fittest(past, self.best)
        first, second = (parents[int(i)] for i in self.rng.integers(len(parents), size=2))
        child = crossed(self.space, first, second, self.rng) if self.rng.random() < 0.3 else first
        values = dict(mutated(self.space, child, self.redraw, self.rng, keep_times=True))
        for name, p in self.space.parameters.items():
            if isinstance(p, TimeSteps) and name in values:
                values[name] = p.nearest(np.array(values[name]) * (1.0 + 0.08 * self.rng.standard_normal(p.k)))
        return values


def fittest(past: Past, count: int) -> list[Params]:
    """The best different configurations."""
    kept: list[Params] = []
    for params, _ in sorted(past, key=lambda pair: pair[1]):
        if params not in kept:
            kept.append(params)
        if len(kept) == count:
            break
    return kept


def draw(space: Space, rng: np.random.Generator) -> Params:
    return space.decode(space.sample(1, rng))[0]


def mutated(space: Space, params: Params, p: float, rng: np.random.Generator, *, keep_times: bool = False) -> Params:
    """Every time, and every other value, drawn anew with probability p."""
    fresh = _all_drawn(space, rng)
    values = dict(fresh)
    for name, value in params.items():
        parameter = space.parameters[name]
        if isinstance(parameter, TimeSteps):
            kept = np.ones(parameter.k, dtype=bool) if keep_times else rng.random(parameter.k) >= p
            anew = rng.uniform(parameter.low, parameter.high, parameter.k)
            values[name] = parameter.nearest(np.where(kept, np.array(value), anew))
        elif rng.random() >= p:
            values[name] = value
    return _active(space, values)


def crossed(space: Space, first: Params, second: Params, rng: np.random.Generator) -> Params:
    """Every time, and every other value, from one of two parents with equal probability."""
    values = {**_all_drawn(space, rng), **second, **first}
    for name in second:
        parameter = space.parameters[name]
        if isinstance(parameter, TimeSteps) and name in first:
            own = rng.random(parameter.k) < 0.5
            values[name] = parameter.nearest(np.where(own, np.array(first[name]), np.array(second[name])))
        elif rng.random() < 0.5:
            values[name] = second[name]
    return _active(space, values)


def _all_drawn(space: Space, rng: np.random.Generator) -> Params:
    """A random value of every parameter, active or not."""
    drawn: Params = {}
    for name, p in space.parameters.items():
        u = rng.random((1, p.width)) if isinstance(p, TimeSteps) else rng.random(1)
        drawn[name] = p.value if isinstance(p, Constant) else p.to_native(p.from_uniform(u)[0])
    return drawn


def _active(space: Space, values: Params) -> Params:
    """The values of the parameters that are active among them."""
    kept = {n: v for n, v in values.items() if n not in space.conditions or space.conditions[n].holds(values)}
    return space.check(kept)
