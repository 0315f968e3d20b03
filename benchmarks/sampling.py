"""`python -m benchmarks.sampling`: how many answers are enough, on pools of recorded answers.

    python -m benchmarks.sampling --pools DIR     # measure: DIR holds *.json.gz (docs/sampling.md has the format)
    python -m benchmarks.sampling --pools DIR --only humaneval,tiny_lp
    python -m benchmarks.sampling --pools DIR --only ceilings      # what hindsight would gain, once the rest is there
    python -m benchmarks.sampling report          # tables and plots from the results

Each question is reported on exactly once per split, by rules tuned on the other half of the questions. One-parameter
rules are swept and read off the reported half; rules with two settings have a cell chosen per price on the tuning half;
calibrations are fitted there. Intervals are by bootstrap over questions.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from suffice.optimizer import Sampling, decide
from suffice.optimizer.answers import Answers
from suffice.optimizer.calibration import PRICES, Calibration
from suffice.optimizer.frontier import Frontier
from suffice.optimizer.lookahead import vote_table
from suffice.optimizer.optscale import peek_for
from suffice.optimizer.pool import Pool, shuffled, traces
from suffice.optimizer.replay import replay, weights
from suffice.optimizer.stopping import Rule, rule

from . import prompt_features, sampling_ceilings, sampling_drift

ROOT = Path(__file__).parents[1]
OWN_POOL = Path(__file__).parent / "pools" / "digits.json.gz"
RESULTS = ROOT / "docs" / "benchmarks" / "sampling.json"
OURS = "suffice"
PROMPT_FEATURES = "prompt features"
CEILINGS = "ceilings"
SLOW = ("OptScale-0", "OptScale-0, authors' code", "BEACON", "Pandora", "adaptive consistency, weighted")
DRAWS = 200
CELL_PRICES = np.geomspace(0.3, 1e-6, 40)


@dataclass(frozen=True)
class Task:
    """A pool, which of its prompts, which score, the cap, and how many orders and splits."""

    pool: str
    max_samples: int
    orders: int
    score: str | None = None
    kept: Callable[[Pool], np.ndarray] | None = None
    splits: int = 1
    dealt: bool = False  # scores dealt out again at random, on both sides

    def load(self, folder: Path) -> Pool:
        with gzip.open(folder / f"{self.pool}.json.gz", "rt") as file:
            pool = Pool.of(json.load(file), self.score or "no score")
        if self.kept is not None:
            pool = pool.only(self.kept(pool))
        return shuffled(pool, 11) if self.dealt else pool


def cap_of(n: int, weak: bool = False) -> Callable[[Pool], np.ndarray]:
    """Prompts with n answers (or a few fewer); ``weak``: of runs that are right less than 55 % of the time."""

    def marked(pool: Pool) -> np.ndarray:
        groups: dict[str, list[float]] = {}
        for p in pool.prompts:
            groups.setdefault(p.group, []).append(float(p.truth.mean()))
        low = {g for g, values in groups.items() if np.mean(values) < 0.55}
        size = np.array([8 if p.n <= 8 else 16 for p in pool.prompts])
        kept: np.ndarray = (size == n) & np.array([not weak or p.group in low for p in pool.prompts])
        return kept

    return marked


TASKS = {
    "gpqa_8": Task("gpqa_diamond_dev", 8, 60, kept=cap_of(8)),
    "gpqa_8_weak": Task("gpqa_diamond_dev", 8, 300, kept=cap_of(8, weak=True)),
    "gpqa_16_weak": Task("gpqa_diamond_dev", 16, 1000, kept=cap_of(16)),
    "tiny_votes": Task("tiny_addition_vllm", 32, 24),
    "humaneval": Task("humaneval_codegen16b_dev", 64, 5, "score"),
    "tiny_lp": Task("tiny_addition_vllm", 32, 8, "score", splits=2),
    "tiny_bad": Task("tiny_addition_vllm", 32, 3, "bad_score"),
    "game24": Task("game24_gpt4_cot", 64, 3, "score"),
    "writing": Task("creative_writing_gpt4_cot", 8, 40, "score", splits=2),
    "humaneval_shuffled": Task("humaneval_codegen16b_dev", 64, 2, "score", dealt=True),
    "tiny_shuffled": Task("tiny_addition_vllm", 32, 2, "score", dealt=True),
}


# --- rivals -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capped(Rule):
    """Another rule, with a cap of its own."""

    name = "capped"
    inner: Rule
    samples: int

    def evidence(self, answers: Answers, cap: int) -> np.ndarray:
        return self.inner.evidence(answers, cap)

    def enough(self, evidence: np.ndarray, n: int) -> np.ndarray:
        return self.inner.enough(evidence, n) | (n >= self.samples)

    @property
    def pick(self) -> str:
        return self.inner.pick

    def watches(self) -> tuple[Any, ...]:
        return self.inner.watches()


def capped(rules: Sequence[Rule], cap: int) -> list[Rule]:
    """Each rule with each of a few caps."""
    caps = sorted({round(c) for c in np.geomspace(2, cap, 8)})
    return [Capped(r, c) for r in rules for c in caps]


def families(cap: int, scored: bool) -> dict[str, tuple[bool, list[Rule]]]:
    """The rivals: whether cells are chosen on the tuning half, and the settings."""
    found: dict[str, tuple[bool, list[Rule]]] = {
        "majority": (False, list(rule("fixed").sweep(cap))),
        "adaptive consistency": (False, list(rule("adaptive_consistency").sweep(cap))),
        "adaptive consistency, Dirichlet": (False, list(rule("adaptive_consistency", form="dirichlet").sweep(cap))),
        "early stopping": (True, capped(rule("early_stopping").sweep(cap), cap)),
    }
    if not scored:
        return found
    soft = [
        r for s in (0.5, 1.0, 2.0, 4.0) for r in rule("adaptive_consistency", form="weighted", strength=s).sweep(cap)
    ]
    budgets = [b for b in (8, 16, 32, 64) if b <= cap]
    peeking: list[Rule] = [Capped(r, b) for b in budgets for r in rule("optscale0", peek=min(peek_for(b), b)).sweep(b)]
    del found["adaptive consistency, Dirichlet"]
    scored_rules: dict[str, tuple[bool, list[Rule]]] = {
        "best-of-N": (False, list(rule("fixed", picked="best").sweep(cap))),
        "weighted vote": (False, list(rule("fixed", picked="weighted").sweep(cap))),
        "adaptive consistency, weighted": (True, soft),
        "adaptive consistency, weighted pick": (
            False,
            list(rule("adaptive_consistency", picked="weighted").sweep(cap)),
        ),
        "threshold": (True, capped(rule("threshold").sweep(cap), cap)),
        "threshold, weighted pick": (True, capped(rule("threshold", picked="weighted").sweep(cap), cap)),
        "OptScale-0": (True, capped(rule("optscale0").sweep(cap), cap)),
        "OptScale-0, authors' code": (True, peeking),
        "BEACON": (False, list(rule("beacon").sweep(cap))),
        "Pandora": (False, list(rule("pandora").sweep(cap))),
        "votes only": (False, list(rule("suffice").sweep(cap))),
    }
    return found | scored_rules


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Points:
    """Accuracy and samples of each setting, for every prompt."""

    accuracy: np.ndarray
    samples: np.ndarray

    @classmethod
    def empty(cls, settings: int, prompts: int) -> Points:
        return cls(np.zeros((settings, prompts)), np.zeros((settings, prompts)))

    def frontier(self, w: np.ndarray, single: float) -> Frontier:
        return Frontier.of(np.append(self.samples @ w, 1.0), np.append(self.accuracy @ w, single))


def measure(task: Task, folder: Path, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """All families on one task: points, frontiers and what is read off them.

    With the results of ``before``, slow rivals keep theirs: neither their code nor their draws have changed.
    """
    pool, cap = task.load(folder), task.max_samples
    groups = families(cap, task.score is not None)
    kept = {} if before is None else {name: row for name, row in before["rows"].items() if name in SLOW}
    groups = {name: group for name, group in groups.items() if name not in kept}
    rules = [r for _, members in groups.values() for r in members]
    found: dict[str, Points] = {}
    prompts = len(pool.prompts)
    extra: dict[str, Any] = {"ece": [], "ways": [], "fit_seconds": [], "drift": []}
    for split in range(task.splits):
        half = halves(pool, split)
        for tune, test in ((half, ~half), (~half, half)):
            chosen = pool.only(tune), pool.only(test)
            tuned = replay(chosen[0], rules, cap, task.orders, split) if any(t for t, _ in groups.values()) else []
            tested = replay(chosen[1], rules, cap, task.orders, split + 100)
            i = 0
            for name, (cells, members) in groups.items():
                outs, i = tested[i : i + len(members)], i + len(members)
                if cells:
                    outs = [outs[j] for j in best_cells(tuned[i - len(members) : i])]
                put(found, name, outs, test, task.splits)
            started = time.process_time()
            calibration = Calibration.fit(chosen[0], cap, seed=split)
            extra["fit_seconds"].append(time.process_time() - started)
            extra["ways"].append([calibration.way(p) for p in PRICES])
            ours = rule("suffice").sweep(cap) if task.score is None else [calibration.rule(p) for p in PRICES]
            put(found, OURS, replay(chosen[1], ours, cap, task.orders, split + 100), test, task.splits)
            if calibration.drift is not None and not task.dealt:
                extra["drift"].append(sampling_drift.measure(calibration, chosen[1], cap, split))
            if not calibration.quality:
                extra["ece"].extend(stated(calibration, chosen[1], cap))
    return {"prompts": prompts, **read_off(pool, found, cap, kept), **summary(extra)}


def put(found: dict[str, Points], name: str, outcomes: Sequence[Any], test: np.ndarray, splits: int) -> None:
    points = found.setdefault(name, Points.empty(len(outcomes), len(test)))
    points.accuracy[:, test] += np.array([o.accuracy for o in outcomes]) / splits
    points.samples[:, test] += np.array([o.samples for o in outcomes]) / splits


def halves(pool: Pool, seed: int) -> np.ndarray:
    ids = sorted({p.id for p in pool.prompts})
    kept = set(np.random.default_rng(seed).permutation(np.array(ids))[: len(ids) // 2].tolist())
    return np.array([p.id in kept for p in pool.prompts])


def best_cells(outcomes: Sequence[Any]) -> list[int]:
    """The best cell at each price, on the tuning half."""
    accuracy = np.array([o.accuracy.mean() for o in outcomes])
    samples = np.array([o.samples.mean() for o in outcomes])
    return [int((accuracy - price * samples).argmax()) for price in CELL_PRICES]


def read_off(pool: Pool, found: dict[str, Points], cap: int, kept: dict[str, Any]) -> dict[str, Any]:
    """T1, T2 and the area of each family, with differences to the best rival and their intervals; ``kept`` are rows."""
    ids = [p.id for p in pool.prompts]
    single = np.array([p.truth.mean() for p in pool.prompts])
    even = np.full(len(ids), 1.0 / len(ids))
    fixed = [found[f].accuracy @ even for f in ("majority", "best-of-N", "weighted vote") if f in found]
    T1 = max(float(a.max()) for a in fixed) - 0.002
    T2 = float(fixed[0][-1]) - 0.005

    def numbers(w: np.ndarray) -> dict[str, tuple[float, float, float]]:
        out = {}
        for name, points in found.items():
            f = points.frontier(w, float(single @ w))
            out[name] = (f.cost_of(T1), f.cost_of(T2), 100.0 * f.area(1.0, cap))
        return out

    now = numbers(even)
    rivals = [n for n in found if n not in (OURS, "votes only")]
    best = max(rivals, key=lambda n: now[n][2])
    boot = [numbers(w) for w in weights(ids, DRAWS, 0)]
    difference = [b[OURS][2] - b[best][2] for b in boot]
    rows = {
        name: {
            "T1": now[name][0],
            "T2": now[name][1],
            "AUF": now[name][2],
            "max": float((p.accuracy @ even).max()),
            "frontier": [f.tolist() for f in (lambda f: (f.cost, f.accuracy))(p.frontier(even, float(single @ even)))],
        }
        for name, p in found.items()
    }
    rows |= kept
    compare: dict[str, Any] = {}
    for name in ("adaptive consistency", "OptScale-0", "OptScale-0, authors' code"):
        if name in kept:
            compare[name] = {"equal_value": equal_value(rows, name)}
        elif name in found:
            compare[name] = {
                "T1": ratio([(b[OURS][0], b[name][0]) for b in boot], now[OURS][0], now[name][0]),
                "T2": ratio([(b[OURS][1], b[name][1]) for b in boot], now[OURS][1], now[name][1]),
                "equal_value": equal_value(rows, name),
            }
    published = published_saving(found, even, single)
    return {
        "single": float(single @ even),
        "T1": T1,
        "T2": T2,
        "rows": rows,
        "best_rival": best,
        "difference": now[OURS][2] - now[best][2],
        "difference_interval": [float(np.quantile(difference, q)) for q in (0.025, 0.975)],
        "compare": compare,
        "published": published,
    }


def ratio(pairs: Sequence[tuple[float, float]], ours: float, theirs: float) -> dict[str, Any]:
    """Samples of ours over theirs, with an interval over the draws in which both reach the level."""
    ratios = [a / b for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
    known = len(ratios) > DRAWS // 4
    return {
        "ratio": ours / theirs,
        "interval": [float(np.quantile(ratios, q)) for q in (0.025, 0.975)] if known else None,
    }


def equal_value(rows: dict[str, Any], name: str) -> dict[str, float]:
    """Our samples over a rival's, where it has made a share of its gain over one answer."""
    ours, theirs = (Frontier(*(np.array(v) for v in rows[n]["frontier"])) for n in (OURS, name))
    low, high = theirs.accuracy[0], theirs.accuracy[-1]
    shares = (0.5, 0.75, 0.9, 1.0)
    return {f"{s:g}": ours.cost_of(low + s * (high - low)) / theirs.cost_of(low + s * (high - low)) for s in shares}


def published_saving(found: dict[str, Points], even: np.ndarray, single: np.ndarray) -> dict[str, float]:
    """Adaptive consistency at its published threshold of .95, and our samples at its accuracy less .05 points."""
    sweep = rule("adaptive_consistency").sweep(8)
    at = int(np.argmin([abs(r.setting["threshold"] - 0.95) for r in sweep]))
    points = found["adaptive consistency"]
    samples, accuracy = float(points.samples[at] @ even), float(points.accuracy[at] @ even)
    ours = found[OURS].frontier(even, float(single @ even)).cost_of(accuracy - 0.0005)
    return {"threshold": sweep[at].setting["threshold"], "samples": samples, "accuracy": accuracy, "ours": ours}


def stated(calibration: Calibration, pool: Pool, cap: int) -> list[tuple[float, float]]:
    """Stated confidence and truth of picks on held-out prompts, after 1 to ``cap`` answers."""
    way = calibration.way(0.003)
    found: list[tuple[float, float]] = []
    for part in traces(pool, cap, 4, 5):
        rows = np.arange(len(part.prompt))
        for n in sorted({round(x) for x in np.geomspace(1, part.cap, 6)}):
            answers = part.answers.first(n)
            p, _ = calibration.probabilities(answers, way)
            position = calibration.position(answers, way)
            kept = position >= 0
            cluster = np.maximum(answers.clusters[rows, np.maximum(position, 0)], 0)
            pairs = np.column_stack([p[rows, cluster], part.truth[rows, np.maximum(position, 0)]])
            found.extend(map(tuple, pairs[kept].tolist()))
    return found


def reliability(pairs: Sequence[tuple[float, float]]) -> tuple[float, list[list[float]]]:
    """The expected calibration error of stated probabilities against the truth, over ten bins, and the bins."""
    stated, bins, error = np.array(pairs), list[list[float]](), 0.0
    place = np.clip((stated[:, 0] * 10).astype(int), 0, 9)
    for b in range(10):
        inside = stated[place == b]
        if len(inside):
            bins.append([float(inside[:, 0].mean()), float(inside[:, 1].mean()), len(inside)])
            error += len(inside) / len(stated) * abs(bins[-1][0] - bins[-1][1])
    return error, bins


def summary(extra: dict[str, Any]) -> dict[str, Any]:
    error, bins = reliability(extra["ece"]) if extra["ece"] else (None, [])
    return {
        "ece": error,
        "reliability": bins,
        "ways": extra["ways"],
        "fit_seconds": extra["fit_seconds"],
        "drift": extra["drift"],
    }


def timings() -> dict[str, float]:
    """CPU seconds of building the largest table, and of a decision after 16 answers: by votes, and by scores."""
    vote_table.cache_clear()
    started = time.process_time()
    vote_table(64)
    table = time.process_time() - started
    told = list("aabbaabbabcaabcd")
    samplings = [Sampling(max_samples=64, price=1e-4) for _ in range(500)]
    for sampling in samplings:
        for answer in told:
            sampling.tell(answer)
    samplings[0].ask()
    decision = _per_decision(samplings[1:])
    started = time.process_time()
    for _ in range(200):
        decide(told, max_samples=64, price=1e-4)
    stateless = (time.process_time() - started) / 200
    return {"table": table, "decision": decision, "stateless": stateless, "scored": _scored_decision()}


def _scored_decision() -> float:
    """CPU seconds of a decision after 16 scored answers, by the posterior of the pool in the repository."""
    pool = Pool.of(json.loads(gzip.decompress(OWN_POOL.read_bytes())))
    calibration = Calibration.fit(pool, 32)
    price = PRICES[calibration.ways.index("posterior")]
    samplings: list[Sampling] = []
    for prompt in pool.prompts[:200]:
        sampling = Sampling(max_samples=32, price=price, calibration=calibration)
        for cluster, score in zip(prompt.clusters[:16].tolist(), prompt.scores[:16].tolist(), strict=True):
            sampling.tell(*((None,) if cluster < 0 else (cluster, score)))
        samplings.append(sampling)
    samplings[0].ask()
    return _per_decision(samplings[1:])


def _per_decision(samplings: Sequence[Sampling]) -> float:
    started = time.process_time()
    for sampling in samplings:
        sampling.ask()
    return (time.process_time() - started) / len(samplings)


def save(results: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.sampling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument("--pools", type=Path, help="the folder with the pools")
    parser.add_argument("--only", help=f"tasks, of {', '.join(TASKS)}")
    parser.add_argument("--again", action="store_true", help="keep what slow rivals did before: ours has changed")
    parser.add_argument("--orders", type=int, help="random orders, in place of each task's own number")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results file")
    args = parser.parse_args(argv)
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.command == "run":
        if args.pools is None:
            parser.error("--pools: expected the folder with the pools")
        results["timings"] = results.get("timings") if args.again else timings()
        for name in args.only.split(",") if args.only else (*TASKS, PROMPT_FEATURES, CEILINGS):
            if name == PROMPT_FEATURES:
                results[name] = prompt_features.measure(TASKS["gpqa_8"].load(args.pools), 8, args.orders or 60)
                continue
            if name == CEILINGS:
                results[name] = sampling_ceilings.measure(TASKS, args.pools, results, args.orders)
                continue
            task = TASKS[name] if args.orders is None else replace(TASKS[name], orders=args.orders)
            started = time.monotonic()
            results[name] = measure(task, args.pools, results.get(name) if args.again else None)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
            save(results, args.out)
        save(results, args.out)
    if args.out == RESULTS:
        from .sampling_report import write

        write(results, ROOT / "docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
