"""What could be gained at best: rules that know in hindsight what no rule can know.

Votes: the prior over prompt types is the one under which the reported prompts' own labelled answers are most probable
(nonparametric maximum likelihood over the grid of answers.py, by expectation maximisation), one for the pool or one for
each run. Scores: of all ways to pick and stop that a calibration has, the best on the reported prompts, price by price.
Confidence: the calibration error of a forecaster that knows the law which its prompts are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from suffice.optimizer.answers import ALPHAS, FLAT, THETAS, TypePrior, vote_posterior
from suffice.optimizer.calibration import PRICES, VOTES, WAYS, Calibration, _cells, _gains
from suffice.optimizer.frontier import Frontier
from suffice.optimizer.pool import Pool, Recorded, traces
from suffice.optimizer.prompt_types import likeliest
from suffice.optimizer.replay import replay, weights
from suffice.optimizer.scores import ScoreModel
from suffice.optimizer.stopping import rule

DRAWS = 200
SIMULATED = 40  # pools
SMALL = 500  # prompts of a pool whose calibration error is simulated: luck counts for little in larger ones
ORDERS = {"gpqa_8": 30}  # of votes, where not 60
POOLS = ("gpqa_8", "gpqa_8_weak", "gpqa_16_weak", "tiny_votes", "humaneval", "tiny_lp")
LEAST = 1e-9  # prompts that the flat prior is worth: next to none


def votes(pool: Pool, cap: int, orders: int) -> dict[str, Any]:
    """T1 and T2 over those of swept adaptive consistency, under the flat prior and those of hindsight."""
    from .prompt_features import _by_prior, _points  # the same replay per prior

    runs = [p.group for p in pool.prompts]
    whole = likeliest(pool, LEAST)
    own = {run: likeliest(pool.only([r == run for r in runs]), LEAST) for run in set(runs)}
    priors = {
        "flat prior": [FLAT] * len(runs),
        "the pool's own prior": [whole] * len(runs),
        "each run's own prior": [own[run] for run in runs],
    }
    found = {"adaptive consistency": _points(pool, rule("adaptive_consistency").sweep(cap), cap, orders)}
    found |= {name: _by_prior(pool, each, cap, orders) for name, each in priors.items()}
    fixed = np.array([o.accuracy.mean() for o in replay(pool, rule("fixed").sweep(cap), cap, orders, 1)])
    single = np.array([p.truth.mean() for p in pool.prompts])
    levels = (float(fixed.max()) - 0.002, float(fixed[-1]) - 0.005)

    def costs(w: np.ndarray, name: str) -> list[float]:
        accuracy, samples = found[name]
        frontier = Frontier.of(np.append(samples @ w, 1.0), np.append(accuracy @ w, single @ w))
        return [frontier.cost_of(level) for level in levels]

    even = np.full(len(runs), 1.0 / len(runs))
    draws = weights([p.id for p in pool.prompts], DRAWS, 0)
    rival, rivals = costs(even, "adaptive consistency"), [costs(w, "adaptive consistency") for w in draws]
    rows: dict[str, Any] = {}
    for name in priors:
        now, boot = costs(even, name), [costs(w, name) for w in draws]
        rows[name] = {
            level: {
                "ratio": now[i] / rival[i],
                "interval": _interval([b[i] / r[i] for b, r in zip(boot, rivals, strict=True)]),
            }
            for i, level in enumerate(("T1", "T2"))
        }
    return rows


def scores(pool: Pool, cap: int, orders: int, T1: float, halves: Callable[[Pool, int], np.ndarray]) -> dict[str, Any]:
    """The best accuracy, T1 and the area of each way that a calibration has, and of the best of them per price."""
    shape = (len(WAYS), len(PRICES), len(pool.prompts))
    accuracy, samples = np.zeros(shape), np.zeros(shape)
    half = halves(pool, 0)
    for tune, test in ((half, ~half), (~half, half)):
        fitted = _every_way(pool.only(tune), cap)
        for i, way in enumerate(WAYS):
            outcomes = replay(pool.only(test), [fitted.by(way, p) for p in PRICES], cap, orders, 100)
            accuracy[i][:, test] = [o.accuracy for o in outcomes]
            samples[i][:, test] = [o.samples for o in outcomes]
    single = float(np.mean([p.truth.mean() for p in pool.prompts]))
    right, drawn = accuracy.mean(2), samples.mean(2)

    def row(places: Sequence[int]) -> dict[str, float]:
        a, s = right[places].ravel(), drawn[places].ravel()
        frontier = Frontier.of(np.append(s, 1.0), np.append(a, single))
        return {"best": float(a.max()), "T1": frontier.cost_of(T1), "AUF": 100.0 * frontier.area(1.0, cap)}

    return {way: row([i]) for i, way in enumerate(WAYS)} | {"the best of them in hindsight": row(range(len(WAYS)))}


def _every_way(pool: Pool, cap: int) -> Calibration:
    """A calibration that can go all ways, with nothing chosen among them."""
    parts, quality = traces(pool, cap, 8, 0), not all(np.isin(p.truth, (0.0, 1.0)).all() for p in pool.prompts)
    model = ScoreModel.fit(parts, quality=quality)
    gains, kept = _gains(parts, model), _cells(parts)
    return Calibration("", 1, cap, len(pool.prompts), quality, model, gains, {}, (VOTES,), None, cells=kept)


def confidence(pool: Pool, cap: int, error: Callable[[list[tuple[float, float]]], float]) -> dict[str, float]:
    """The calibration error, as ``error`` measures it, of who knows the law of pools as large as this one."""
    prior, rng = likeliest(pool, LEAST), np.random.default_rng(0)
    found = [error(_honest(_simulated(pool, prior, rng), prior, cap)) for _ in range(SIMULATED)]
    low, high = np.quantile(found, [0.05, 0.95])
    return {"mean": float(np.mean(found)), "low": float(low), "high": float(high)}


def _honest(pool: Pool, prior: TypePrior, cap: int) -> list[tuple[float, float]]:
    """What the posterior states of the majority, and the truth."""
    found: list[tuple[float, float]] = []
    for part in traces(pool, cap, 4, 5):
        rows = np.arange(len(part.prompt))
        for n in sorted({round(x) for x in np.geomspace(1, part.cap, 6)}):
            answers = part.answers.first(n)
            p, _ = vote_posterior(cap, prior).probabilities(answers.votes, answers.failed.sum(1))
            leader = answers.leader
            first = (answers.clusters == leader[:, None]).argmax(1)
            found.extend(zip(p[rows, leader].tolist(), part.truth[rows, first].tolist(), strict=True))
    return found


def _simulated(pool: Pool, prior: TypePrior, rng: np.random.Generator) -> Pool:
    """A pool of the same size from a prior over prompt types; answer 0 is the right one."""
    made: list[Recorded] = []
    for p in pool.prompts:
        theta, alpha = float(rng.choice(THETAS, p=prior.theta)), float(rng.choice(ALPHAS, p=prior.alpha))
        sizes: list[int] = []
        clusters = np.zeros(p.n, dtype=np.int64)
        for i in np.flatnonzero(rng.random(p.n) >= theta):
            seat = int(rng.choice(len(sizes) + 1, p=np.array([*sizes, alpha]) / (sum(sizes) + alpha)))
            sizes = [*sizes, 0] if seat == len(sizes) else sizes
            sizes[seat] += 1
            clusters[i] = seat + 1
        made.append(replace(p, clusters=clusters, truth=(clusters == 0).astype(float)))
    return Pool(tuple(made), pool.source)


def _interval(ratios: Sequence[float]) -> list[float] | None:
    kept = [r for r in ratios if np.isfinite(r)]
    return [float(np.quantile(kept, q)) for q in (0.025, 0.975)] if len(kept) > DRAWS // 4 else None


def measure(tasks: dict[str, Any], folder: Path, results: dict[str, Any], orders: int | None) -> dict[str, Any]:
    """All of it, for POOLS; those with scores once they were measured."""
    from .sampling import halves, reliability

    found: dict[str, Any] = {"votes": {}, "scores": {}, "confidence": {}}
    for name in POOLS:
        task = tasks[name]
        pool, cap = task.load(folder), task.max_samples
        if task.score is None:
            found["votes"][name] = votes(pool, cap, orders or ORDERS.get(name, 60))
            if len(pool.prompts) <= SMALL:
                found["confidence"][name] = confidence(pool, cap, lambda pairs: reliability(pairs)[0])
        elif name in results:
            found["scores"][name] = scores(pool, cap, orders or task.orders, results[name]["T1"], halves)
        print(f"ceilings of {name}", flush=True)
    return found
