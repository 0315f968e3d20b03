"""Replay: what rules would have done on recorded answers.

Answers of each prompt are drawn in many random orders without replacement, and every rule stops in each of them where
it would have stopped live. Rules that look at the same evidence share one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from .answers import Answers
from .errors import InvalidInput
from .pool import Pool, Traces, traces
from .stopping import Rule, rule, whole


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one rule did, averaged over the orders of each prompt."""

    rule: Rule
    accuracy: Float64[np.ndarray, " p"]
    samples: Float64[np.ndarray, " p"]
    tokens: Float64[np.ndarray, " p"]  # NaN where the pool knows none

    def row(self, ids: Sequence[str], draws: int = 300, seed: int = 0) -> dict[str, Any]:
        """Means, with a 95 % interval of the accuracy by bootstrap over questions (prompts of one id go together)."""
        low, high = interval(self.accuracy, ids, draws, seed)
        tokens = float(self.tokens.mean())
        return {
            "rule": self.rule.name,
            "setting": self.rule.setting,
            "accuracy": float(self.accuracy.mean()),
            "interval": [low, high],
            "samples": float(self.samples.mean()),
            "tokens": None if np.isnan(tokens) else tokens,
        }


def rows(
    document: Any, names: Sequence[str], max_samples: int, orders: int = 50, seed: int = 0, *, score: str = "score"
) -> list[dict[str, Any]]:
    """One row per rule and setting, for a pool in its JSON form: accuracy, its interval, mean samples and tokens."""
    pool = Pool.of(document, score)
    ids = [p.id for p in pool.prompts]
    rules = [one for name in names for one in rule(name).sweep(max_samples)]
    return [outcome.row(ids) for outcome in replay(pool, rules, max_samples, orders, seed)]


def replay(pool: Pool, rules: Iterable[Rule], max_samples: int, orders: int = 50, seed: int = 0) -> list[Outcome]:
    """What each rule does with up to ``max_samples`` answers to each prompt of the pool.

    Raises InvalidInput where a rule needs scores, and some answer has none.
    """
    whole("max_samples", max_samples)
    whole("orders", orders)
    rules = list(rules)
    for one in rules:
        if one.scored and not pool.all_scored:
            raise InvalidInput("rules", "rules that need no scores: the pool has none, or not everywhere", one.name)
    parts = traces(pool, max_samples, orders, seed)
    found = [np.zeros((3, len(pool.prompts))) for _ in rules]
    for part in parts:
        for total, (stop, position) in zip(found, run(part, rules), strict=True):
            rows = np.arange(len(stop))
            right = np.where(position >= 0, part.truth[rows, position], 0.0)
            tokens = np.cumsum(part.answers.tokens, axis=1)[rows, stop - 1]
            for sums, values in zip(total, (right, stop, tokens), strict=True):
                np.add.at(sums, part.prompt, values)
    return [Outcome(one, *(total / orders)) for one, total in zip(rules, found, strict=True)]


def run(part: Traces, rules: Sequence[Rule]) -> list[tuple[Int64[np.ndarray, " r"], Int64[np.ndarray, " r"]]]:
    """Where each rule stops in each row, and the position of the answer that it gives."""
    stops = [np.full(len(part.prompt), part.cap, dtype=np.int64) for _ in rules]
    families: dict[tuple[Any, ...], list[int]] = {}
    for i, one in enumerate(rules):
        families.setdefault(one.watches(), []).append(i)
    prefixes = [part.answers.first(n) for n in range(part.cap + 1)]
    for members in families.values():
        _stop(prefixes, [rules[i] for i in members], [stops[i] for i in members])
    given = _Given(prefixes)
    return [(stop, given.at(one, stop)) for one, stop in zip(rules, stops, strict=True)]


def _stop(prefixes: Sequence[Answers], rules: Sequence[Rule], stops: Sequence[np.ndarray]) -> None:
    """Write into ``stops`` where each of the rules, which share their evidence, stops."""
    cap = len(prefixes) - 1
    going = np.ones((len(rules), len(stops[0])), dtype=bool)
    for n in range(1, cap):
        active = np.flatnonzero(going.any(0))
        if not len(active):
            return
        evidence = rules[0].evidence(_rows(prefixes[n], active), cap)
        for one, stop, still in zip(rules, stops, going, strict=True):
            halt = active[one.enough(evidence, n) & still[active]]
            stop[halt] = n
            still[halt] = False


def _rows(answers: Answers, which: np.ndarray) -> Answers:
    if len(which) == len(answers.clusters):
        return answers
    return Answers(answers.clusters[which], answers.scores[which], answers.tokens[which])


class _Given:
    """The answer that each pick gives after n answers, computed once per pick and n."""

    def __init__(self, prefixes: Sequence[Answers]) -> None:
        self._prefixes = prefixes
        self._found: dict[tuple[str, int], np.ndarray] = {}

    def at(self, rule: Rule, stop: np.ndarray) -> np.ndarray:
        position = np.full(len(stop), -1, dtype=np.int64)
        for n in np.unique(stop):
            key = (rule.pick, int(n))
            if key not in self._found:
                self._found[key] = rule.choose(self._prefixes[n])
            position = np.where(stop == n, self._found[key], position)
        return position


def interval(values: Float64[np.ndarray, " p"], ids: Sequence[str], draws: int, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean, over questions."""
    means = weights(ids, draws, seed) @ values
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def weights(ids: Sequence[str], draws: int, seed: int) -> Float64[np.ndarray, "b p"]:
    """What each prompt weighs in each bootstrap draw of questions; rows sum to 1."""
    _, question = np.unique(np.array(ids), return_inverse=True)
    count = int(question.max()) + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)[:, question].astype(float)
    return times / times.sum(1, keepdims=True)
