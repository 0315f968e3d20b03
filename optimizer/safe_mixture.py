"""What a conservative study tries instead: as much of a suggestion as the baseline's cumulative value allows.

Conservative bandits (Wu, Shariff, Lattimore and Szepesvari 2016) ask of every policy that what was gained up to and
with it stays above a share of what the baseline would have gained; StepMix (Li, Huang, Shen and Yang 2023) mixes the
baseline with an exploring policy as far as that holds. Here the mixture is a step on the way from one configuration to
the other, and what holds is known from the joint posterior of all trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr

from .knowledge import Knowledge
from .models import NOISE_FLOOR, Data, FitError, GaussianProcess, Hyperparameters
from .results import Results
from .search import Exclusion
from .space import Params
from .trial import Source, Suggestion, Trial, TrialState

Rows = Float64[np.ndarray, "m d"]

SPREAD = 20.0  # margins: the least standard deviation that the objective is taken to have over the space
REACH = 0.25  # the longest length scales it is taken to have, times the square root of the number of parameters
UNKNOWN_NOISE = 0.5  # margins: the standard deviation of measurements, as long as FEW results leave it unknown
FEW = 10
STEPS = 32  # of the way to a suggestion that are looked at, before the last one is halved
HALVINGS = 8


@dataclass(frozen=True)
class Ledger:
    """The sum of f(x) - f(baseline) + margin over trials, as a Gaussian under ``gp`` (y: larger is better).

    ``rows`` are the configurations whose values count and ``weights`` how often, the baseline's last: minus the number
    of trials, the next one included. ``margin`` is in units of y.
    """

    gp: GaussianProcess
    rows: Rows
    weights: Float64[np.ndarray, " m"]
    margin: float

    def probability(self, X: Float64[np.ndarray, "c d"]) -> Float64[np.ndarray, " c"]:
        """P(the sum is at least 0), for every row of X as the next trial."""
        gp, w, trials = self.gp, self.weights, -self.weights[-1]
        half = gp.half_solve(gp.sites.cross(self.rows).k.T @ w[:, None])[:, 0]
        variance = w @ gp.kernel.covariance(self.rows, self.rows) @ w - half @ half
        mean = w @ gp.posterior_mean(self.rows) + trials * self.margin
        V = gp.half_solve(gp.sites.cross(X).k.T)
        covariance = gp.kernel.covariance(X, self.rows) @ w - half @ V
        own = gp.kernel.variance(X) - (V * V).sum(0)
        floor = 1e-12 * trials * trials * gp.hyperparameters.signal  # rounding of sums that cancel
        sd = np.sqrt(np.maximum(variance + 2.0 * covariance + own, floor))
        return np.asarray(ndtr((mean + gp.posterior_mean(X)) / sd))


def baseline_first(knowledge: Knowledge, taken: Sequence[Params]) -> Suggestion | None:
    """The baseline itself, while no trial of it is finished or under way; None for studies that have none."""
    rule = knowledge.definition.conservative
    if rule is None:
        return None
    known = [t.params for t in knowledge.trials if t.state.informative]
    encode = knowledge.definition.space.encode
    if not Exclusion(encode([*known, *taken])).allows(encode([rule.baseline]))[0]:
        return None
    why = "everything is compared with it, so it is evaluated first"
    return Suggestion(dict(rule.baseline), Source("baseline", why, knowledge.results, len(taken)))


def guarded(knowledge: Knowledge, taken: Sequence[Params], suggestion: Suggestion) -> Suggestion:
    """The suggestion if the cumulative rule allows it, else the farthest step towards it that does, else the baseline.

    ``taken`` are the configurations of running trials and of earlier suggestions.
    """
    rule, space = knowledge.definition.conservative, knowledge.definition.space
    if rule is None or suggestion.source.method == "baseline":
        return suggestion
    ledger = _ledger(knowledge, taken)
    if ledger is None:
        return _replaced(knowledge, suggestion, dict(rule.baseline), 0.0, "no model could be computed")
    start, end = space.encode([rule.baseline, suggestion.params])

    def at(shares: Float64[np.ndarray, " s"]) -> tuple[Rows, Float64[np.ndarray, " s"]]:
        X = space.snap(start + shares[:, None] * (end - start))
        return X, np.where(space.feasible(X), ledger.probability(X), 0.0)

    whole = float(ledger.probability(end[None])[0])
    if whole >= rule.probability:
        why = f"{suggestion.source.why}; keeps to the baseline with probability {whole:.3g}"
        return replace(suggestion, source=replace(suggestion.source, why=why))
    shares = np.arange(STEPS) / STEPS
    _, p = at(shares)
    safe = np.flatnonzero(p >= rule.probability)
    share = float(shares[safe[-1]]) if len(safe) else 0.0
    for k in range(1, HALVINGS + 1) if len(safe) else ():
        farther = share + 2.0**-k / STEPS
        if at(np.array([farther]))[1][0] >= rule.probability:
            share = farther
    X, p = at(np.array([share]))
    why = f"probability {whole:.3g} of keeping to the baseline; here {p[0]:.3g}, and {rule.probability:g} is asked for"
    return _replaced(knowledge, suggestion, space.decode(X)[0], share, why)


def _replaced(knowledge: Knowledge, suggestion: Suggestion, params: Params, share: float, why: str) -> Suggestion:
    old = suggestion.source
    mean = sd = None
    if knowledge.surrogate is not None:
        means, sds = knowledge.surrogate.objective.predict(knowledge.definition.space.encode([params]))
        mean, sd = float(means[0]), float(sds[0])
    why = f"{100 * share:.3g} % of the way to what {old.method} suggested ({old.why}), which has {why}"
    method = "safe_mixture" if share > 0.0 else "baseline"
    return Suggestion(params, replace(old, method=method, why=why, mean=mean, sd=sd, gain=None, cost=None))


def _ledger(knowledge: Knowledge, taken: Sequence[Params]) -> Ledger | None:
    definition = knowledge.definition
    rule, space = definition.conservative, definition.space
    assert rule is not None
    baseline = space.encode([rule.baseline])
    try:
        gp, margin = _model(knowledge, rule.margin, baseline)
    except FitError:
        return None
    counted = [t.params for t in knowledge.trials if _counts(t, definition.goal.objective.metric)]
    rows = np.concatenate([space.encode([*counted, *taken]), baseline])
    weights = np.ones(len(rows))
    weights[-1] = -len(rows)  # so many trials, the next one included, are compared with the baseline
    return Ledger(gp, rows, weights, margin)


def _counts(trial: Trial, metric: str) -> bool:
    """Whether a finished trial has a value that this study has brought about, if only up to where it was stopped.

    FAILED and INFEASIBLE trials have none, whatever they cost.
    """
    ran = trial.state is TrialState.PRUNED or (trial.state is TrialState.COMPLETED and metric in trial.values)
    return ran and trial.source.method != "added"


def _model(knowledge: Knowledge, margin: float, baseline: Rows) -> tuple[GaussianProcess, float]:
    """A model that is careful about what it has not seen, and the margin in units of its y.

    The fitted one, but with a standard deviation of at least SPREAD margins and length scales of at most REACH: results
    from around the baseline say little about how much the objective varies elsewhere, nor can FEW results tell whether
    there is noise. Both bounds loosen in proportion to the results beyond FEW. Before there is a fitted model, they
    are the hyperparameters.
    """
    definition, surrogate = knowledge.definition, knowledge.surrogate
    care = min(1.0, FEW / max(knowledge.results, 1))
    longest = REACH / care * math.sqrt(int(definition.space.groups.max()) + 1)
    if surrogate is not None:
        gp, in_y = surrogate.objective.gp, margin / surrogate.objective.scale.spread
        h = gp.hyperparameters
        careful = replace(
            h,
            signal=max(h.signal, (SPREAD * care * in_y) ** 2),
            lengthscales=np.minimum(h.lengthscales, longest),
            noise=max(h.noise, (UNKNOWN_NOISE * in_y) ** 2) if care == 1.0 else h.noise,
        )
        return GaussianProcess(gp.data, careful), in_y
    data = _first_results(knowledge, SPREAD * margin, baseline)
    return GaussianProcess(data, Hyperparameters(np.full(data.group_count, longest), 1.0, NOISE_FLOOR)), 1.0 / SPREAD


def _first_results(knowledge: Knowledge, unit: float, baseline: Rows) -> Data:
    """What was measured, in ``unit``; for noise that is not known see UNKNOWN_NOISE."""
    definition = knowledge.definition
    objective, space = definition.goal.objective, definition.space
    found = Results.of(space, knowledge.trials, objective.metric, definition.noise)
    if not len(found):  # only differences from the baseline's value count, so it may be taken to be 0
        return Data(baseline, np.zeros(1), np.full(1, NOISE_FLOOR), space.groups)
    y = objective.sign * (found.values - found.values[0]) / unit
    noise = np.where(np.isnan(found.noise), UNKNOWN_NOISE / SPREAD, found.noise / unit)
    return Data(found.X, y, np.maximum(noise**2, NOISE_FLOOR), space.groups)
