"""A Gaussian process over prompts: what answers to an unseen prompt will look like, before any is drawn.

OptScale predicts each prompt's scores by a fine-tuned model; here a Gaussian process learns from past traffic how often
a prompt is answered right, from features that the caller has: which run it is, how earlier prompts of the run and
earlier runs of the prompt went, an embedding. Solve rates are modelled by their empirical log odds,

    y = log((r + 1/2) / (n - r + 1/2)) for r of n answers right, with variance 1/(r + 1/2) + 1/(n - r + 1/2),

and what is predicted for a prompt becomes its prior over prompt types (answers.py): theta with normal log odds around
the predicted ones. Its shape is the one under which past counts were most probable, each predicted without the prompt
itself. Where features predict no better than none, the flat prior stays: priors fitted to other prompts were seen to
hurt. Up to EXACT prompts the process is exact; more are seen through inducing points (inducing.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr

from .answers import FLAT, THETAS, TypePrior
from .errors import InvalidInput
from .fitting import Prior, fit
from .inducing import MeanFunction, condition
from .models import Data, FitError, GaussianProcess, Hyperparameters

EXACT = 2000  # prompts up to which the process is exact
INDUCING = 512  # inducing points for more
FITTED = 300  # prompts that hyperparameters are fitted to, at random
NUMBER = re.compile(r"\d+")
OWN = (0.1, 0.3, 1.0, 3.0)  # variances of log odds among prompts of equal features, of which the most probable is taken
SIGNAL = 0.02  # nats per prompt by which features have to predict better than none
CENTRES = np.arange(-5.0, 5.01, 0.5)  # to which log odds are rounded, so that prompts share tables
STRETCH = (1.0, 1.4, 2.0, 2.8)  # of predicted log odds: those of counts are drawn to the middle
SPREADS = (0.5, 0.8, 1.2, 2.0, 3.0)
FLAT_SHARES = (0.01, 0.03, 0.1, 0.3)  # of the flat prior in each prompt's: features may be wrong

Rows = Float64[np.ndarray, "p d"]
Values = Float64[np.ndarray, " p"]
Columns = Float64[np.ndarray, " d"]


@dataclass(frozen=True)
class Shape:
    """How predicted log odds become a prior: stretched around 0, with a spread, and a share of the flat prior."""

    stretch: float
    spread: float
    flat: float


@dataclass(frozen=True, eq=False)
class PromptModel:
    """Log odds of the solve rate of prompts with given features; ``mean`` is None where features carry no signal.

    ``signal`` is what they predict better than none, in nats per prompt left out.
    """

    mean: MeanFunction | None
    signal: float
    low: Columns
    high: Columns
    centre: float
    shape: Shape

    @classmethod
    def fit(cls, X: Rows, right: Values, drawn: Values, seed: int = 0) -> PromptModel:
        """From past prompts: features, and how many of the drawn answers were right (by labels, or by the final vote).

        Raises InvalidInput where shapes differ or counts make no sense.
        """
        if X.ndim != 2 or not len(X) == len(right) == len(drawn) or not np.isfinite(X).all():
            raise InvalidInput("X", "a finite row of features per prompt", X.shape)
        if (drawn < 1).any() or (right < 0).any() or (right > drawn).any():
            raise InvalidInput("right", "counts from 0 to the number of answers drawn", right)
        mixed = np.random.default_rng(seed).permutation(len(X))
        X, right, drawn = X[mixed], right[mixed], drawn[mixed]
        low, high = X.min(0), X.max(0)
        y = np.log((right + 0.5) / (drawn - right + 0.5))
        centre = float(y.mean())
        found = learned(unit(X, low, high), y - centre, 1.0 / (right + 0.5) + 1.0 / (drawn - right + 0.5))
        if found is None:
            return cls(None, 0.0, low, high, centre, _SHAPES[0])
        mean, left_out = found
        part = slice(0, EXACT)
        known, none = (centre + left_out)[part].tolist(), [centre] * len(X[part])
        counts = right[part], drawn[part]
        likelihood = {s: _log_likelihood([type_prior(m, s) for m in known], *counts) for s in _SHAPES}
        blind = max(_log_likelihood([type_prior(m, s) for m in none], *counts) for s in _SHAPES)
        best = max(likelihood, key=likelihood.__getitem__)
        signal = (likelihood[best] - blind) / min(len(X), EXACT)
        return cls(mean if signal > SIGNAL else None, signal, low, high, centre, best)

    def log_odds(self, X: Rows) -> Values:
        """The expected log odds of a right answer, as counted, per prompt."""
        self._check(X)
        if self.mean is None:
            return np.full(len(X), self.centre)
        return self.centre + self.mean(unit(X, self.low, self.high))

    def priors(self, X: Rows) -> list[TypePrior]:
        """The prior over types of each prompt; flat without signal."""
        self._check(X)
        if self.mean is None:
            return [FLAT] * len(X)
        return [type_prior(m, self.shape) for m in self.log_odds(X).tolist()]

    def log_likelihood(self, X: Rows, right: Values, drawn: Values) -> float:
        """log P(counts of right answers) under the priors, in nats per prompt: of two models, the better is higher."""
        return _log_likelihood(self.priors(X), right, drawn) / len(X)

    def _check(self, X: Rows) -> None:
        if X.ndim != 2 or X.shape[1] != len(self.low) or not np.isfinite(X).all():
            raise InvalidInput("features", f"{len(self.low)} finite numbers per prompt", X.tolist())

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``from_json``."""
        return {
            "signal": self.signal,
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "centre": self.centre,
            "shape": [self.shape.stretch, self.shape.spread, self.shape.flat],
            "mean": None if self.mean is None else self.mean.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PromptModel:
        """The model that ``to_json`` wrote."""
        low = np.array(document["low"], dtype=float)
        mean = None if (found := document["mean"]) is None else MeanFunction.from_json(found)
        high, shape = np.array(document["high"], dtype=float), Shape(*document["shape"])
        return cls(mean, document["signal"], low, high, document["centre"], shape)


def type_prior(mean: float, shape: Shape) -> TypePrior:
    """A prior with normal log odds of theta around the stretched ``mean``, rounded to CENTRES."""
    return _rounded(float(CENTRES[np.abs(CENTRES - shape.stretch * mean).argmin()]), shape.spread, shape.flat)


@lru_cache(maxsize=1024)
def _rounded(centre: float, spread: float, flat: float) -> TypePrior:
    theta = np.array(THETAS)
    edges = 0.5 * (theta[1:] + theta[:-1])
    below = ndtr((np.log(edges / (1.0 - edges)) - centre) / spread)
    mass = np.maximum(np.diff(np.concatenate([[0.0], below, [1.0]])), 1e-9)
    mixed = (1.0 - flat) * mass + flat * np.array(FLAT.theta)
    return TypePrior(theta=tuple((mixed / mixed.sum()).tolist()))


_SHAPES = [Shape(b, s, f) for b in STRETCH for s in SPREADS for f in FLAT_SHARES]


def learned(rows: Rows, y: Values, counting: Values) -> tuple[MeanFunction, Values] | None:
    """The posterior mean of centred values of prompts, and that of each given all others; None where numerics fail.

    ``rows`` are features from 0 to 1, in random order; ``counting`` is the variance with which each value was counted.
    """
    groups, part = np.arange(rows.shape[1]), slice(0, FITTED)
    found: list[tuple[float, float, Hyperparameters]] = []
    for own in OWN:
        try:
            fitted = fit(Data(rows[part], y[part], counting[part] + own, groups), Prior(), noise=None)
            found.append((fitted.loss, own, fitted.hyperparameters))
        except FitError:
            continue
    if not found:
        return None
    _, own, hyperparameters = min(found, key=lambda f: f[0])
    if len(rows) > EXACT:
        return condition(hyperparameters.kernel(groups), rows, y, counting + own, INDUCING)
    try:
        gp = GaussianProcess(Data(rows, y, counting + own, groups), hyperparameters)
    except FitError:
        return None
    return MeanFunction(gp.kernel, rows, gp.alpha, gp.hyperparameters.mean), gp.leave_one_out()[0]


def _log_likelihood(priors: Sequence[TypePrior], right: Values, drawn: Values) -> float:
    """log P(counts) of all prompts under a prior each."""
    theta = np.array(THETAS)
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(right[:, None] == 0, 0.0, right[:, None] * np.log(theta))
        misses = np.where(right[:, None] == drawn[:, None], 0.0, (drawn - right)[:, None] * np.log1p(-theta))
    prior = np.array([one.theta for one in priors])
    return float(np.log((np.exp(hits + misses) * prior).sum(1)).sum())


def unit(X: Rows, low: Columns, high: Columns) -> Rows:
    """Features from 0 to 1 over the prompts learned from; a little beyond for others."""
    return np.clip((X - low) / np.maximum(high - low, 1e-12), -0.2, 1.2)


def text_features(text: str) -> list[float]:
    """Cheap features of a prompt's text, where there is no embedding: how long it is, and what it is made of.

    The logarithms of its characters, lines and numbers, and shares of its characters: digits, capitals, punctuation,
    what formulas and code are full of, and what is not ASCII.
    """
    n = max(len(text), 1)
    shares = (str.isdigit, str.isupper, ".,;:!?".__contains__, "\\^_{}()[]<>=+*/$".__contains__)
    counts = [*(sum(map(kind, text)) for kind in shares), sum(not c.isascii() for c in text)]
    sizes = [len(text), text.count("\n"), len(NUMBER.findall(text))]
    return [*(float(np.log1p(size)) for size in sizes), *(count / n for count in counts)]


def history(values: Sequence[float], n: float, mean: float = 0.5, strength: float = 2.0) -> float:
    """Log odds of a rate seen in ``n`` earlier cases that sum to ``values``, shrunk to ``mean``: a feature."""
    total = float(np.sum(values)) + strength * mean
    return float(np.log(total / (n + strength - total)))
