"""Can the model be trusted, and what matters: leave-one-out checks, calibration, parameter importance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri
from scipy.stats import qmc

from .choice import inside
from .knowledge import Knowledge
from .metric_model import MetricModel
from .space import Space
from .threads import one_blas_thread

Values = Float64[np.ndarray, " n"]
LEVELS = (0.5, 0.8, 0.95)
SAMPLES = 1024  # of the posterior mean, per parameter, for importances


@dataclass(frozen=True)
class Importance:
    """The share of the objective's variance over the space that a parameter explains alone, and with interactions."""

    alone: float
    total: float


@dataclass(frozen=True)
class Diagnostics:
    """How well each result is predicted from all other trials, and which parameters matter.

    ``observed``, ``mean`` and ``sd`` (of the predicted measurement, noise included) are in the objective's unit, one
    per result. ``coverage`` says how often the truth lies inside the central interval of each level; a calibrated
    model has coverage near the level. ``r2`` is the share of variance explained on the model's scale: 0 or less
    explains nothing. ``earlier`` says which share of the results' variation each earlier study explains.
    """

    observed: Values
    mean: Values
    sd: Values
    coverage: dict[float, float]
    r2: float
    importance: dict[str, Importance]
    earlier: dict[str, float] = field(default_factory=dict)


@one_blas_thread
def diagnose(knowledge: Knowledge) -> Diagnostics | None:
    """Diagnostics of the first objective's model; None while there is none."""
    if knowledge.surrogate is None:
        return None
    model = knowledge.surrogate.objective
    space = knowledge.definition.space
    final = inside(space, model.gp.data.X)  # what was reported on the way is no result,
    final |= not final.any()  # while there are others
    y = model.gp.data.y[final]
    mean, sd = (found[final] for found in model.gp.leave_one_out(model.trials))
    observed, _ = model.scale.backward(y, np.zeros_like(y))
    mean_in_unit, sd_in_unit = model.scale.backward(mean, sd)
    z = np.abs(y - mean) / sd
    coverage = {level: float(np.mean(z <= ndtri(0.5 + 0.5 * level))) for level in LEVELS}
    found = importance(space, lambda X: model.gp.posterior_mean(X), knowledge.definition.seed)
    return Diagnostics(observed, mean_in_unit, sd_in_unit, coverage, _share(y, mean), found, dict(model.earlier))


def explained(model: MetricModel) -> float:
    """The share of the variance of the standardised results that leave-one-out predictions explain."""
    return _share(model.gp.data.y, model.gp.leave_one_out(model.trials)[0])


def _share(y: Values, mean: Values) -> float:
    variance = float(np.var(y))
    return 1.0 - float(np.mean((y - mean) ** 2)) / variance if variance > 0 else 0.0


def importance(
    space: Space, f: Callable[[Float64[np.ndarray, "n d"]], Values], seed: int, samples: int = SAMPLES
) -> dict[str, Importance]:
    """Sobol indices of f over the parameters' own scales, all combinations equally likely (constraints are ignored).

    The estimators of Jansen 1999, on a scrambled Sobol sequence: A and B are independent samples, and AB_i is A with
    the columns of one parameter from B.
    """
    p = space.draws
    u = np.minimum(qmc.Sobol(2 * p, rng=seed).random(samples), math.nextafter(1.0, 0.0))
    A, B = u[:, :p], u[:, p:]
    f_A, f_B = f(space.from_uniform(A)), f(space.from_uniform(B))
    variance = float(np.var(np.concatenate([f_A, f_B])))
    indices: dict[str, Importance] = {}
    for name, parameter in space.parameters.items():
        if parameter.cardinality == 1 or name in space.fixed:
            continue
        AB = A.copy()
        AB[:, space.drawn(name)] = B[:, space.drawn(name)]
        f_AB = f(space.from_uniform(AB))
        if variance <= 0:
            indices[name] = Importance(0.0, 0.0)
            continue
        alone = 1.0 - float(np.mean((f_B - f_AB) ** 2)) / (2.0 * variance)
        total = float(np.mean((f_A - f_AB) ** 2)) / (2.0 * variance)
        indices[name] = Importance(max(alone, 0.0), total)  # the estimate of a share of 0 may fall below it
    return indices
