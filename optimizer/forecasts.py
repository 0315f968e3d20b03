"""What answers to an unseen prompt will look like besides how many are right: Gaussian processes over past prompts.

prompts.py predicts solve rates. Here, from the same features, each of

    agreement   the share of the most frequent answer
    score       the mean of the verifier's scores (OptScale's mu), and their standard deviation, ``spread`` (its sigma)
    tokens      per answer

is predicted by a process of its own, on a scale on which it is roughly normal: log odds, plain, and logarithms. The
variance with which a statistic of n answers is counted is known to it. Where features predict no better than none, all
prompts together are the prediction. So prompts can be priced before an answer is drawn (``expected_tokens``), and
OptScale-t has the mu and sigma that its source predicts by a fine-tuned model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from .errors import InvalidInput
from .inducing import MeanFunction
from .pool import Pool, Recorded
from .prompts import EXACT, SIGNAL, Columns, Rows, Values, learned, unit

FEWEST = 8  # prompts that know a statistic, to predict it

Counted = tuple[float, float]  # a statistic of one prompt's answers on its scale, and the variance of counting it


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
    """

    mean: MeanFunction | None
    signal: float
    centre: float
    scale: float
    sd: float
    plain: Callable[[np.ndarray], np.ndarray]

    def __call__(self, unit_rows: Rows) -> Predicted:
        at = np.zeros(len(unit_rows)) if self.mean is None else self.mean(unit_rows)
        middle = self.centre + self.scale * at
        return Predicted(*(self.plain(middle + side * self.sd) for side in (0.0, -1.0, 1.0)))


@dataclass(frozen=True, eq=False)
class Forecasts:
    """A Forecast of each statistic that the pool knows, by name."""

    low: Columns
    high: Columns
    of: Mapping[str, Forecast]

    @classmethod
    def fit(cls, pool: Pool) -> Forecasts:
        """From past prompts with features. Raises InvalidInput where some have none."""
        if not pool.featured:
            raise InvalidInput("features", "numbers for every prompt", "some have none")
        X = np.stack([p.features for p in pool.prompts if p.features is not None])
        low, high = X.min(0), X.max(0)
        found: dict[str, Forecast] = {}
        for name, (count, plain) in STATISTICS.items():
            counted = [count(p) for p in pool.prompts]
            known = [i for i, one in enumerate(counted) if one is not None]
            if len(known) >= FEWEST:
                values = np.array([one for one in counted if one is not None])
                found[name] = _forecast(unit(X[known], low, high), values[:, 0], values[:, 1], plain)
        return cls(low, high, found)

    def __call__(self, X: Rows) -> dict[str, Predicted]:
        """Each statistic of prompts with these features."""
        if X.ndim != 2 or X.shape[1] != len(self.low) or not np.isfinite(X).all():
            raise InvalidInput("features", f"{len(self.low)} finite numbers per prompt", X.tolist())
        rows = unit(X, self.low, self.high)
        return {name: forecast(rows) for name, forecast in self.of.items()}


def _forecast(rows: Rows, y: Values, counting: Values, plain: Callable[[np.ndarray], np.ndarray]) -> Forecast:
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
    return Forecast(mean, signal, centre, scale, scale * own**0.5, plain)


# --- statistics -------------------------------------------------------------------------------------------------------


def _agreement(p: Recorded) -> Counted | None:
    known = p.clusters[p.clusters >= 0]
    if not len(known):
        return None
    most = float(np.bincount(known).max())
    rest = p.n - most
    return float(np.log((most + 0.5) / (rest + 0.5))), 1.0 / (most + 0.5) + 1.0 / (rest + 0.5)


def _score(p: Recorded) -> Counted | None:
    known = _known(p.scores)
    return None if len(known) < 2 else (float(known.mean()), float(known.var(ddof=1)) / len(known))


def _spread(p: Recorded) -> Counted | None:
    known = _known(p.scores)
    if len(known) < 2 or known.std() == 0:
        return None
    return float(np.log(known.std(ddof=1))), 0.5 / (len(known) - 1)


def _tokens(p: Recorded) -> Counted | None:
    known = _known(p.tokens)
    if not len(known) or known.mean() <= 0:
        return None
    relative = known.std(ddof=1) / known.mean() if len(known) > 1 else 0.5
    return float(np.log(known.mean())), float(relative**2) / len(known)


def _known(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " k"]:
    found: np.ndarray = values[~np.isnan(values)]
    return found


def _share(log_odds: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1.0 / (1.0 + np.exp(-log_odds))
    return found


def _same(values: np.ndarray) -> np.ndarray:
    return values


STATISTICS: Mapping[str, tuple[Callable[[Recorded], Counted | None], Callable[[np.ndarray], np.ndarray]]] = {
    "agreement": (_agreement, _share),
    "score": (_score, _same),
    "spread": (_spread, np.exp),
    "tokens": (_tokens, np.exp),
}
