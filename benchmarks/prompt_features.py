"""What a prior over prompts brings: GPQA runs, with features of the run and of the question's history.

Half of the questions are traffic to learn from; the others are reported on, and the halves change places. Features of a
(run, question) pair, never of its own answers: the run's share of right answers on the questions learned from ("run"),
the share of right answers of the other runs on this question ("question"), or, without labels, how far their answers
agree ("agreement"); and a random number ("noise").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from suffice.optimizer.answers import FLAT, TypePrior
from suffice.optimizer.frontier import Frontier
from suffice.optimizer.pool import Pool
from suffice.optimizer.prompts import PromptModel, history
from suffice.optimizer.replay import replay, weights
from suffice.optimizer.stopping import rule

KINDS = (("run",), ("run", "agreement"), ("question",), ("run", "question"), ("noise",))
DRAWS = 200


def measure(pool: Pool, cap: int, orders: int) -> dict[str, Any]:
    """T1, T2 and the area with each kind of features, against the flat prior and swept adaptive consistency."""
    prompts = pool.prompts
    single = np.array([p.truth.mean() for p in prompts])
    found = {"adaptive consistency": _points(pool, rule("adaptive_consistency").sweep(cap), cap, orders)}
    found["flat prior"] = _by_prior(pool, [FLAT] * len(prompts), cap, orders)
    signal: dict[str, list[float]] = {}
    ids = np.array([p.id for p in prompts])
    half = np.isin(ids, np.random.default_rng(0).permutation(np.unique(ids))[: len(np.unique(ids)) // 2])
    for kind in KINDS:
        priors: list[TypePrior] = [FLAT] * len(prompts)
        name = " + ".join(kind)
        for learn, report in ((half, ~half), (~half, half)):
            X = _features(pool, learn, kind)
            right = np.array([p.truth.sum() for p in prompts])[learn]
            model = PromptModel.fit(X[learn], right, np.array([float(p.n) for p in prompts])[learn])
            signal.setdefault(name, []).append(model.signal)
            for i, prior in zip(np.flatnonzero(report), model.priors(X[report]), strict=True):
                priors[i] = prior
        found[name] = _by_prior(pool, priors, cap, orders)
    fixed = [float(o.accuracy.mean()) for o in replay(pool, rule("fixed").sweep(cap), cap, orders, 1)]
    T1, T2 = max(fixed) - 0.002, fixed[-1] - 0.005
    even = np.full(len(prompts), 1.0 / len(prompts))

    def numbers(w: np.ndarray) -> dict[str, tuple[float, float, float]]:
        out = {}
        for name, (accuracy, samples) in found.items():
            f = Frontier.of(np.append(samples @ w, 1.0), np.append(accuracy @ w, single @ w))
            out[name] = (f.cost_of(T1), f.cost_of(T2), 100.0 * f.area(1.0, cap))
        return out

    now, boot = numbers(even), [numbers(w) for w in weights(ids.tolist(), DRAWS, 0)]
    rows: dict[str, Any] = {}
    for name, (t1, t2, area) in now.items():
        ratios = [b[name][1] / b["adaptive consistency"][1] for b in boot]
        kept = [r for r in ratios if np.isfinite(r)]
        rows[name] = {
            "T1": t1,
            "T2": t2,
            "AUF": area,
            "T2 ratio": t2 / now["adaptive consistency"][1],
            "T2 interval": [float(np.quantile(kept, q)) for q in (0.025, 0.975)],
            "signal": signal.get(name),
        }
    return {"prompts": len(prompts), "T1": T1, "T2": T2, "rows": rows}


def _features(pool: Pool, learn: np.ndarray, kind: tuple[str, ...]) -> np.ndarray:
    """A row per prompt; what is learned from lies in ``learn`` or in other runs."""
    ids = np.array([p.id for p in pool.prompts])
    runs = np.array([p.group for p in pool.prompts])
    right = np.array([p.truth.sum() for p in pool.prompts])
    drawn = np.array([float(p.n) for p in pool.prompts])
    agree = np.array([float(np.bincount(p.clusters + 1)[1:].max(initial=0)) for p in pool.prompts])
    noise = np.random.default_rng(0).normal(size=len(ids))
    rows = []
    for i in range(len(ids)):
        same = (runs == runs[i]) & learn & (ids != ids[i])
        other = (ids == ids[i]) & (runs != runs[i])
        columns = {
            "run": history(right[same].tolist(), float(drawn[same].sum())),
            "question": history(right[other].tolist(), float(drawn[other].sum())),
            "agreement": history(agree[other].tolist(), float(drawn[other].sum())),
            "noise": float(noise[i]),
        }
        rows.append([columns[name] for name in kind])
    return np.array(rows)


def _by_prior(pool: Pool, priors: list[TypePrior], cap: int, orders: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and samples per price and prompt, each prompt by the rule with its own prior."""
    settings = len(rule("suffice").sweep(cap))
    accuracy, samples = np.zeros((settings, len(priors))), np.zeros((settings, len(priors)))
    for prior in set(priors):
        those = np.array([p == prior for p in priors])
        a, s = _points(pool.only(those), rule("suffice", prior=prior).sweep(cap), cap, orders)
        accuracy[:, those], samples[:, those] = a, s
    return accuracy, samples


def _points(pool: Pool, rules: Any, cap: int, orders: int) -> tuple[np.ndarray, np.ndarray]:
    outcomes = replay(pool, rules, cap, orders, 1)
    return np.array([o.accuracy for o in outcomes]), np.array([o.samples for o in outcomes])
