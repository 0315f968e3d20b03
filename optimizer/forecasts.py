"""What answers to an unseen prompt will look like besides how many are right: Gaussian processes over past prompts.

prompts.py predicts solve rates. Here, from the same features, each of

    agreement   the share of the most frequent answer
    score       the mean of the verifier's scores (OptScale's mu), and their standard deviation, ``spread`` (its sigma)
    tokens      per answer

is predicted by a process of its own, on a scale on which it is roughly normal: log odds, plain, and logarithms. The
variance with which a statistic of n answers is counted is known to it. Where features predict no better than none, all
prompts together are the prediction. So prompts can be priced before an answer is drawn (``expected_tokens``), and
OptScale-t has the mu and sigma that its source predicts by a fine-tuned model (expected.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from .answers import FLAT, Answers, TypePrior
from .errors import InvalidInput
from .expected import Expected
from .inducing import MeanFunction
from .pool import Pool
from .prompts import EXACT, SIGNAL, Columns, Rows, Values, learned, unit

FEWEST = 8  # prompts that know a statistic, to predict it

Counted = tuple[float, float]  # a statistic of one prompt's answers on its scale, and the variance of counting it


def counted(answers: Answers) -> dict[str, Counted]:
    """The statistics of one prompt's answers, as far as they are known."""
    found = {name: count(answers) for name, (count, _) in STATISTICS.items()}
    return {name: one for name, one in found.items() if one is not None}


@dataclass(frozen=True)
class Predicted:
    """A statistic of prompts to come: its median, and the bounds that two thirds of prompts lie between."""

    median: Values
    low: Values
    high: Values


@dataclass(frozen=True, eq=False)
class Forecast:
    """One statistic: what features tell of it, and the standard deviation ``sd`` of prompts around that, on its scale.

    ``signal`` is what features predict better than none, in nats per prompt left out; ``mean`` is None without any.
    ``low`` and ``high`` are the features' bounds in what was learned from.
    """

    low: Columns
    high: Columns
    mean: MeanFunction | None
    signal: float
    centre: float
    scale: float
    sd: float

    @classmethod
    def fit(cls, X: Rows, y: Values, counting: Values) -> Forecast:
        """From the features of past prompts, a value of each, and the variance with which it was counted."""
        low, high = X.min(0), X.max(0)
        rows = unit(X, low, high)
        centre, scale = float(y.mean()), max(float(y.std()), 1e-9)
        z, noise = (y - centre) / scale, counting / scale**2
        mixed = np.random.default_rng(0).permutation(len(z))
        found = learned(rows[mixed], z[mixed], noise[mixed])
        blind = float(np.mean(z**2))
        mean, left = (None, blind) if found is None else (found[0], float(np.mean((z[mixed] - found[1])[:EXACT] ** 2)))
        signal = 0.5 * float(np.log(blind / left)) if left > 0 and blind > 0 else 0.0
        if signal <= SIGNAL:
            mean, left = None, blind
        own = max(left - float(noise.mean()), 0.0)  # without what is due to counting
        return cls(low, high, mean, signal, centre, scale, scale * own**0.5)

    def __call__(self, X: Rows) -> Values:
        """What is expected of prompts with these features, on the statistic's scale."""
        if self.mean is None:
            return np.full(len(X), self.centre)
        return self.centre + self.scale * self.mean(unit(X, self.low, self.high))

    def log_likelihood(self, X: Rows, y: Values, counting: Values) -> float:
        """log P(values as counted), in nats per prompt: of two forecasts, the better is higher."""
        variance = self.sd**2 + counting + (1e-6 * self.scale) ** 2
        off = (y - self(X)) ** 2 / variance + np.log(2.0 * np.pi * variance)
        return -0.5 * float(off.mean())

    def to_json(self) -> dict[str, Any]:
        return {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "mean": None if self.mean is None else self.mean.to_json(),
            "signal": self.signal,
            "centre": self.centre,
            "scale": self.scale,
            "sd": self.sd,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Forecast:
        low, high = (np.array(document[name], dtype=float) for name in ("low", "high"))
        numbers = (float(document[name]) for name in ("signal", "centre", "scale", "sd"))
        mean = None if (found := document["mean"]) is None else MeanFunction.from_json(found)
        return cls(low, high, mean, *numbers)


@dataclass(frozen=True, eq=False)
class Forecasts:
    """A Forecast of each statistic that past prompts know, by name, from so many features."""

    features: int
    of: Mapping[str, Forecast]

    @classmethod
    def fit(cls, pool: Pool) -> Forecasts:
        """From past prompts with features. Raises InvalidInput where some have none."""
        if not pool.featured:
            raise InvalidInput("features", "numbers for every prompt", "some have none")
        X = np.stack([p.features for p in pool.prompts if p.features is not None])
        return cls.learn(X, [counted(p.answers) for p in pool.prompts])

    @classmethod
    def learn(cls, X: Rows, known: Sequence[Mapping[str, Counted]]) -> Forecasts:
        """From the features of past prompts and the statistics of their answers (``counted``)."""
        found: dict[str, Forecast] = {}
        for name in STATISTICS:
            which, y, counting = _known(known, name)
            if len(which) >= FEWEST:
                found[name] = Forecast.fit(X[which], y, counting)
        return cls(X.shape[1], found)

    def __call__(self, X: Rows) -> dict[str, Predicted]:
        """Each statistic of prompts with these features."""
        self._check(X)
        found: dict[str, Predicted] = {}
        for name, forecast in self.of.items():
            middle, plain = forecast(X), STATISTICS[name][1]
            found[name] = Predicted(*(plain(middle + side * forecast.sd) for side in (0.0, -1.0, 1.0)))
        return found

    @property
    def signal(self) -> dict[str, float]:
        """What features tell of each statistic of which they tell anything, in nats per prompt left out."""
        return {name: one.signal for name, one in self.of.items() if one.mean is not None}

    def expected(self, features: Sequence[float], prior: TypePrior = FLAT) -> Expected:
        """What a prompt with these features is expected to be like; of what features tell nothing, nothing is said."""
        found = self(np.array([features], dtype=float))
        told = {name: float(found[name].median[0]) for name in self.signal}
        if "score" in told and "spread" in found:
            told["spread"] = float(found["spread"].median[0])  # of all prompts together, where features do not tell
        return Expected(prior, told)

    def log_likelihood(self, X: Rows, known: Sequence[Mapping[str, Counted]]) -> dict[str, float]:
        """log P(statistics of other prompts), in nats per prompt, of each that both know."""
        self._check(X)
        found: dict[str, float] = {}
        for name, forecast in self.of.items():
            which, y, counting = _known(known, name)
            if len(which):
                found[name] = forecast.log_likelihood(X[which], y, counting)
        return found

    def _check(self, X: Rows) -> None:
        if X.ndim != 2 or X.shape[1] != self.features or not np.isfinite(X).all():
            raise InvalidInput("features", f"{self.features} finite numbers per prompt", X.tolist())

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``from_json``."""
        return {"features": self.features, "of": {name: forecast.to_json() for name, forecast in self.of.items()}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Forecasts:
        """The forecasts that ``to_json`` wrote."""
        of = {name: Forecast.from_json(document["of"][name]) for name in STATISTICS if name in document["of"]}
        return cls(int(document["features"]), of)


def _known(known: Sequence[Mapping[str, Counted]], name: str) -> tuple[list[int], Values, Values]:
    """Which prompts know a statistic, its values and the variances of counting it."""
    which = [i for i, one in enumerate(known) if name in one]
    pairs = np.array([known[i][name] for i in which], dtype=float).reshape(-1, 2)
    return which, pairs[:, 0], pairs[:, 1]


# --- statistics -------------------------------------------------------------------------------------------------------


def _agreement(answers: Answers) -> Counted | None:
    known = answers.clusters[answers.clusters >= 0]
    if not len(known):
        return None
    most = float(np.bincount(known).max())
    rest = answers.n - most
    return float(np.log((most + 0.5) / (rest + 0.5))), 1.0 / (most + 0.5) + 1.0 / (rest + 0.5)


def _score(answers: Answers) -> Counted | None:
    known = _numbers(answers.scores)
    return None if len(known) < 2 else (float(known.mean()), float(known.var(ddof=1)) / len(known))


def _spread(answers: Answers) -> Counted | None:
    known = _numbers(answers.scores)
    if len(known) < 2 or known.std() == 0:
        return None
    return float(np.log(known.std(ddof=1))), 0.5 / (len(known) - 1)


def _tokens(answers: Answers) -> Counted | None:
    known = _numbers(answers.tokens)
    if not len(known) or known.mean() <= 0:
        return None
    relative = known.std(ddof=1) / known.mean() if len(known) > 1 else 0.5
    return float(np.log(known.mean())), float(relative**2) / len(known)


def _numbers(values: Float64[np.ndarray, "1 n"]) -> Float64[np.ndarray, " k"]:
    found: np.ndarray = values[~np.isnan(values)]
    return found


def _share(log_odds: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1.0 / (1.0 + np.exp(-log_odds))
    return found


def _same(values: np.ndarray) -> np.ndarray:
    return values


STATISTICS: Mapping[str, tuple[Callable[[Answers], Counted | None], Callable[[np.ndarray], np.ndarray]]] = {
    "agreement": (_agreement, _share),
    "score": (_score, _same),
    "spread": (_spread, np.exp),
    "tokens": (_tokens, np.exp),
}
