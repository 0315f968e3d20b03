"""From trials to models: one Gaussian process per metric, and what they say in the metrics' own units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from .models import NOISE_FLOOR, Data, GaussianProcess, Prior, fit_safely
from .objective import Goal, Scale
from .space import Space
from .trial import Trial, TrialState

Noise = Literal["auto", "none"] | float
NOISY_FROM = 1e-4  # inferred noise variance, relative to the spread of y, from which an objective counts as noisy


@dataclass(frozen=True)
class MetricModel:
    """A metric's Gaussian process and the scale of its y."""

    gp: GaussianProcess
    scale: Scale
    noisy: bool

    def predict(self, X: Float64[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Mean and standard deviation of the noiseless metric, in its unit."""
        mean, sd = self.gp.posterior(X)
        return self.scale.backward(mean), self.scale.spread * sd


@dataclass(frozen=True)
class Surrogate:
    """What the finished trials say about every configuration.

    ``feasibility`` models bound metrics and, where trials were INFEASIBLE, whether a configuration works at all: pairs
    of a model and the standardised value above which it counts as feasible.
    """

    objective: MetricModel
    feasibility: tuple[tuple[GaussianProcess, float], ...]
    observations: int
    fallbacks: tuple[str, ...]

    def feasible(self, X: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, " n"]:
        """Where every constraint more likely holds than not."""
        ok = np.ones(len(X), dtype=bool)
        for gp, bound in self.feasibility:
            ok &= gp.posterior(X)[0] >= bound
        return ok


def measured(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The completed trials with a result for ``metric``."""
    return [t for t in trials if t.state is TrialState.COMPLETED and metric in t.values]


def fit_surrogate(space: Space, goal: Goal, noise: Noise, trials: Sequence[Trial], prior: Prior) -> Surrogate:
    """Models of everything the trials measured. Raises FitError when the objective cannot be modelled."""
    objective, fallbacks = _fit_metric(space, trials, goal.objective.metric, goal.objective.sign, noise, prior)
    feasibility: list[tuple[GaussianProcess, float]] = []
    for constraint in goal.outcome_constraints:
        if measured(trials, constraint.metric):
            sign = -1.0 if constraint.upper else 1.0
            model, steps = _fit_metric(space, trials, constraint.metric, sign, "auto", prior)
            bound = float(model.scale.forward(np.array([constraint.bound]))[0])
            feasibility.append((model.gp, bound))
            fallbacks += tuple(f"{constraint.metric}: {s}" for s in steps)
    worked, failed = _outcomes(trials)
    if failed:
        labels = np.array([1.0] * len(worked) + [-1.0] * len(failed))
        X = space.encode([t.params for t in worked + failed])
        gp, steps = fit_safely(Data(X, labels, np.full(len(labels), np.nan), space.groups), prior, noise=None)
        feasibility.append((gp, 0.0))
        fallbacks += tuple(f"feasibility: {s}" for s in steps)
    return Surrogate(objective, tuple(feasibility), len(measured(trials, goal.objective.metric)), fallbacks)


def _outcomes(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    worked = [t for t in trials if t.state is TrialState.COMPLETED]
    return worked, [t for t in trials if t.state is TrialState.INFEASIBLE]


def _fit_metric(
    space: Space, trials: Sequence[Trial], metric: str, sign: float, noise: Noise, prior: Prior
) -> tuple[MetricModel, tuple[str, ...]]:
    rows = [(t.params, m) for t in measured(trials, metric) for m in t.final if m.metric == metric]
    values = np.array([m.value for _, m in rows])
    scale = Scale.of(values, sign)
    fixed = _fixed_noise(noise, scale)
    stderr = np.array([np.nan if m.stderr is None else m.stderr for _, m in rows], dtype=float)
    known = np.where(np.isnan(stderr), np.nan if fixed is None else fixed, (stderr / scale.spread) ** 2)
    data = Data(space.encode([params for params, _ in rows]), scale.forward(values), known, space.groups)
    gp, steps = fit_safely(data, prior, noise=fixed)
    noisy = bool((data.diagonal(gp.hyperparameters.noise) > NOISY_FROM).any())
    return MetricModel(gp, scale, noisy), steps


def _fixed_noise(noise: Noise, scale: Scale) -> float | None:
    """The noise variance in standardised units, or None where it is to be inferred."""
    if noise == "auto":
        return None
    if noise == "none":
        return NOISE_FLOOR
    assert not isinstance(noise, str)
    return max((noise / scale.spread) ** 2, NOISE_FLOOR)
