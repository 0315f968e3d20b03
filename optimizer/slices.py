"""Slices of the posterior: what the model expects along one parameter, or over two, through a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import log_ndtr, ndtri

from .errors import InvalidInput, NotFound
from .front import pareto
from .knowledge import Knowledge
from .metric_model import MetricModel
from .parameters import Bool as BoolParameter
from .parameters import Categorical, Float, Int, Ordinal, Parameter
from .recommend import recommend
from .results import measured
from .space import Params
from .study import Study
from .threads import one_blas_thread

FINE, COARSE = 61, 29  # values along a slice, and along each side of a contour
DATA = 300  # results that are shown with it: those nearest to the configuration
LEVELS = (0.5, 0.95)  # of the bands

Values = Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class Belief:
    """What the model expects of a metric at ``n`` configurations, in the metric's unit.

    ``median`` is the mean too, unless the model's scale is logarithmic. ``bands`` are central intervals of the
    noiseless metric by level: lower and upper ends. ``feasible`` is the probability that all outcome constraints hold
    (None: there are none, or nothing is known of them); ``allowed`` says where the parameter constraints do.
    """

    median: Values
    sd: Values
    bands: dict[float, tuple[Values, Values]]
    feasible: Values | None
    allowed: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Slice:
    """The belief along one parameter. ``data`` are trials: number, value of the parameter, result, nearness.

    ``nearness`` is the prior correlation of the trial with the slice at the same value: 1 lies on it, 0 says nothing.
    """

    parameter: str
    through: Params
    values: list[Any]
    belief: Belief
    data: list[tuple[int, Any, float, float]]


@dataclass(frozen=True)
class Contour:
    """The belief over two parameters, row after row of ``y``, each for all of ``x``."""

    names: tuple[str, str]
    through: Params
    x: list[Any]
    y: list[Any]
    belief: Belief
    data: list[tuple[int, Any, Any, float]]


@one_blas_thread
def slices(
    study: Study, parameters: Sequence[str] | None = None, through: int | None = None, metric: str | None = None
) -> list[Slice]:
    """Slices along ``parameters`` (None: all that have more than one value), through a trial's configuration.

    Without a trial's number through the recommended one, with several objectives through the best in the first of them.
    Parameters that are inactive there are left out. Raises NotFound without a model or for an unknown trial,
    InvalidInput for unknown names.
    """
    knowledge = study._learned()
    model = _model(knowledge, metric)
    base = _base(study, knowledge, through)
    names = sliceable(knowledge) if parameters is None else [_known(knowledge, name) for name in parameters]
    trials = _near(knowledge, model, base, metric)
    found: list[Slice] = []
    for name in names:
        if name not in base:
            continue
        values = grid(knowledge.definition.space.parameters[name], FINE)
        belief = _belief(knowledge, model, [{**base, name: value} for value in values], {name})
        found.append(Slice(name, base, values, belief, _data(knowledge, model, base, name, trials)))
    return found


@one_blas_thread
def contour(study: Study, x: str, y: str, through: int | None = None, metric: str | None = None) -> Contour:
    """The belief over two parameters, with all others as in a configuration; arguments and errors as for `slices`."""
    if x == y:
        raise InvalidInput("y", f"another parameter than {x!r}", y)
    knowledge = study._learned()
    model = _model(knowledge, metric)
    base = _base(study, knowledge, through)
    for field, name in (("x", x), ("y", y)):
        if _known(knowledge, name, field) not in base:
            raise InvalidInput(field, f"a parameter that is active in {base}", name)
    parameters = knowledge.definition.space.parameters
    xs, ys = grid(parameters[x], COARSE), grid(parameters[y], COARSE)
    belief = _belief(knowledge, model, [{**base, x: u, y: v} for v in ys for u in xs], {x, y})
    trials = _near(knowledge, model, base, metric)
    data = [(n, p[x], p[y], value) for n, p, value in trials if x in p and y in p]
    return Contour((x, y), base, xs, ys, belief, data)


def sliceable(knowledge: Knowledge) -> list[str]:
    """The parameters that a slice can go along."""
    space = knowledge.definition.space
    return [
        name
        for name, p in space.parameters.items()
        if isinstance(p, Float | Int | Categorical | Ordinal | BoolParameter)
        and p.cardinality > 1
        and name not in space.fixed
    ]


def grid(parameter: Parameter, count: int) -> list[Any]:
    """Up to ``count`` values, evenly over the parameter's own scale; all choices of one without an order."""
    if parameter.cardinality <= count or isinstance(parameter, Categorical):
        numbers = parameter.grid()
    else:
        numbers = np.unique(parameter.from_uniform(np.linspace(0.0, np.nextafter(1.0, 0.0), count)))
    return [parameter.to_native(number) for number in numbers]


def _model(knowledge: Knowledge, metric: str | None) -> MetricModel:
    if knowledge.surrogate is None:
        raise NotFound("there is no model yet: too few trials are completed")
    metrics = [o.metric for o in knowledge.definition.goal.objectives]
    if metric is not None and metric not in metrics:
        raise InvalidInput("metric", f"one of the objectives {metrics}", metric)
    return knowledge.surrogate.objectives[0 if metric is None else metrics.index(metric)]


def _known(knowledge: Knowledge, name: str, field: str = "parameters") -> str:
    names = sliceable(knowledge)
    if name not in names:
        raise InvalidInput(field, f"one of {names}", name)
    return name


def _base(study: Study, knowledge: Knowledge, through: int | None) -> Params:
    """The configuration that everything goes through."""
    if through is not None:
        for trial in study.trials:
            if trial.number == through:
                return trial.params
        raise NotFound(f"there is no trial {through}")
    if not knowledge.definition.goal.several:
        return recommend(knowledge).trial.params
    front = pareto(knowledge)
    if not front:
        raise NotFound("no trial is completed yet")
    return front[0].trial.params


def _belief(knowledge: Knowledge, model: MetricModel, configurations: Sequence[Params], moving: set[str]) -> Belief:
    definition, surrogate = knowledge.definition, knowledge.surrogate
    assert surrogate is not None
    space, target = definition.space, definition.target
    X = space.snap(space.encode(configurations))
    if target is None or moving & set(target.names):
        mean, sd = model.gp.posterior(X)
        rows = X
    else:
        mean, sd = target.posterior(model.gp, X)
        rows = target.rows(X)
    bands = {level: _band(model, mean, sd, level) for level in LEVELS}
    log_feasible = np.zeros(len(rows))
    for gp, bound in surrogate.feasibility:
        m, s = gp.posterior(rows)
        log_feasible += log_ndtr((m - bound) / s)
    feasible = np.exp(log_feasible.reshape(-1, len(X)).min(0)) if surrogate.feasibility else None
    _, spread = model.scale.backward(mean, sd)
    return Belief(_in_unit(model, mean), spread, bands, feasible, space.feasible(X))


def _band(model: MetricModel, mean: Values, sd: Values, level: float) -> tuple[Values, Values]:
    z = float(ndtri(0.5 + 0.5 * level))
    one, other = _in_unit(model, mean - z * sd), _in_unit(model, mean + z * sd)
    return np.minimum(one, other), np.maximum(one, other)


def _in_unit(model: MetricModel, y: Values) -> Values:
    """Quantiles keep their place on any scale."""
    return model.scale.backward(y, np.zeros_like(y))[0]


Near = list[tuple[int, Params, float]]


def _near(knowledge: Knowledge, model: MetricModel, base: Params, metric: str | None) -> Near:
    """The trials with a result that are most correlated with the configuration."""
    metric = metric or knowledge.definition.goal.objective.metric
    trials = {t.number: t for t in measured(knowledge.trials, metric)}.values()
    found = [(t.number, t.params, t.values[metric]) for t in trials if metric in t.values]
    if len(found) > DATA:
        space = knowledge.definition.space
        X = space.encode([{**params, **space.fixed} for _, params, _ in found])
        nearness = model.gp.kernel.covariance(X, space.encode([{**base, **space.fixed}]))[:, 0]
        found = [found[i] for i in sorted(np.argsort(-nearness, kind="stable")[:DATA])]
    return found


def _data(
    knowledge: Knowledge, model: MetricModel, base: Params, name: str, trials: Near
) -> list[tuple[int, Any, float, float]]:
    space = knowledge.definition.space
    here = [(n, params, value) for n, params, value in trials if name in params]
    if not here:
        return []
    own = space.encode([{**params, **space.fixed} for _, params, _ in here])
    on = space.snap(space.encode([{**base, name: params[name], **space.fixed} for _, params, _ in here]))
    kernel = model.gp.kernel
    between = np.diag(kernel.covariance(own, on))
    nearness = np.clip(between / np.sqrt(kernel.variance(own) * kernel.variance(on)), 0.0, 1.0)
    return [(n, params[name], value, float(c)) for (n, params, value), c in zip(here, nearness, strict=True)]


# --- for the wire -----------------------------------------------------------------------------------------------------


def slice_json(found: Slice) -> dict[str, Any]:
    """A slice as JSON; what is beyond all numbers is null."""
    return {
        "parameter": found.parameter,
        "through": found.through,
        "values": found.values,
        **_belief_json(found.belief),
        "data": [{"number": n, "at": at, "value": value, "nearness": c} for n, at, value, c in found.data],
    }


def contour_json(found: Contour) -> dict[str, Any]:
    """A contour as JSON, like `slice_json`."""
    return {
        "through": found.through,
        "x": found.x,
        "y": found.y,
        **_belief_json(found.belief),
        "data": [{"number": n, "x": x, "y": y, "value": value} for n, x, y, value in found.data],
    }


def _belief_json(belief: Belief) -> dict[str, Any]:
    bands = [
        {"level": level, "lower": _finite(low), "upper": _finite(high)} for level, (low, high) in belief.bands.items()
    ]
    return {
        "median": _finite(belief.median),
        "sd": _finite(belief.sd),
        "bands": bands,
        "feasible": None if belief.feasible is None else _finite(belief.feasible),
        "allowed": belief.allowed.tolist(),
    }


def _finite(numbers: Values) -> list[float | None]:
    return [float(number) if np.isfinite(number) else None for number in numbers]
