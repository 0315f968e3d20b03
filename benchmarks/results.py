"""What the lines of a comparison say: scores by problem, peer and seed, ranks, and what is within noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .problem import Family
from .problems import PROBLEMS, family_of, kind_of, trials_of
from .roster import PEERS, VARIANTS
from .run import Line, cost

DRAWS = 4000  # bootstrap resamples of the seeds
SMALLEST = 1e-8  # regrets below it are the same
MEASURED = ("ok", "cannot", "failed", "timeout")  # a peer that was not installed was not measured


@dataclass(frozen=True)
class Results:
    """The runs of one kind of start and one number of trials, and the latencies."""

    lines: Sequence[Line]
    start: str

    @cached_property
    def runs(self) -> dict[tuple[str, str, int], Line]:
        """By problem, peer and seed; only with each problem's own number of trials."""
        return {
            (j["problem"], j["peer"], j["seed"]): line
            for line in self.lines
            for j in [line["job"]]
            if j["kind"] == "run"
            and j["start"] == self.start
            and j["trials"] == trials_of(j["problem"])
            and line["status"] in MEASURED
        }

    @property
    def peers(self) -> list[str]:
        return [p for p in PEERS if any(peer == p for _, peer, _ in self.runs)]

    @property
    def ranked(self) -> list[str]:
        return [p for p in self.peers if p not in VARIANTS]

    @property
    def problems(self) -> list[str]:
        return [p for p in PROBLEMS if any(problem == p for problem, _, _ in self.runs)]

    def peers_of(self, problem: str) -> list[str]:
        """The peers, without variants, that were run on a problem."""
        return [p for p in self.ranked if any((q, peer) == (problem, p) for q, peer, _ in self.runs)]

    def of(self, problem: str, peer: str) -> list[Line]:
        return [line for (q, p, _), line in self.runs.items() if (q, p) == (problem, peer)]

    def scores(self, problem: str, among: Sequence[str] | None = None) -> np.ndarray:
        """Peer by seed, over the seeds that all the problem's peers were run with; infinite without a result.

        Whoever cannot express the problem would say so for every seed, and takes none away.
        """
        peers = [p for p in self.peers_of(problem) if among is None or p in among]
        able = [p for p in peers if self.expressible(problem, [p])]
        seeds = [{s for q, p, s in self.runs if (q, p) == (problem, peer)} for peer in able]
        common = sorted(set.intersection(*seeds)) if seeds else []
        rows = [[score_of(self.runs[problem, p, s]) if p in able else math.inf for s in common] for p in peers]
        return np.array(rows)

    def expressible(self, problem: str, among: Sequence[str]) -> bool:
        """Whether none of these peers had to say that it cannot express the problem."""
        return all(line["status"] != "cannot" for (q, p, _), line in self.runs.items() if q == problem and p in among)

    def family(self, family: Family) -> Results:
        """The runs on problems of one family, and nothing else."""
        runs = [line for line in self.lines if line["job"]["kind"] == "run"]
        return replace(self, lines=[line for line in runs if family_of(line["job"]["problem"]) == family])

    @property
    def latencies(self) -> list[Line]:
        return [line for line in self.lines if line["job"]["kind"] == "latency"]

    @property
    def qualities(self) -> list[Line]:
        return [line for line in self.lines if line["job"]["kind"] == "quality" and line["status"] == "ok"]


def score_of(line: Line) -> float:
    if line["status"] != "ok":
        return math.inf
    score = float(line["score"])
    return score if line["measure"] == "loss" else max(score, SMALLEST)


# --- statistics -------------------------------------------------------------------------------------------------------


def ranks(scores: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean rank per peer over the problems by median score, and its 95 % interval over resampled seeds.

    ``scores``: one array of peer by seed per problem; equal medians share their mean rank.
    """
    draws = np.array(
        [_mean_rank([s[:, rng.integers(s.shape[1], size=s.shape[1])] for s in scores]) for _ in range(DRAWS)]
    )
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return _mean_rank(scores), low, high


def _mean_rank(scores: Sequence[np.ndarray]) -> np.ndarray:
    from scipy.stats import rankdata

    per_problem = np.array([rankdata(median(s)) for s in scores])
    mean: np.ndarray = per_problem.mean(0)
    return mean


def median(scores: np.ndarray) -> np.ndarray:
    """Median per row; a row of which half is infinite is infinite."""
    middle = np.sort(scores, axis=1)
    n = middle.shape[1]
    pair: np.ndarray = np.maximum(middle[:, n // 2], middle[:, (n - 1) // 2]) if n else middle
    return np.where(np.isinf(pair), np.inf, (middle[:, n // 2] + middle[:, (n - 1) // 2]) / 2)


def tied(best: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> bool:
    """Whether the median difference over paired seeds may be zero: its 95 % bootstrap interval reaches it."""
    if np.isinf(other).all():
        return False
    difference = np.where(np.isinf(other), np.inf, other - np.where(np.isinf(best), other, best))
    medians = median(difference[rng.integers(len(difference), size=(DRAWS, len(difference)))])
    return bool(np.percentile(medians, 2.5, method="lower") <= 0)


Rank = tuple[str, float, float, float]  # a peer, its mean rank, and the interval's ends


def rank_groups(results: Results) -> list[tuple[str, list[Rank]]]:
    """Mean ranks, best first: of the peers that were run on every problem, and of all on those that they share."""
    measured = [q for q in results.problems if results.scores(q).shape[-1]]
    everywhere = [p for p in results.ranked if all(p in results.peers_of(q) for q in measured)]
    expressible = [q for q in measured if results.expressible(q, everywhere)]
    shared = [q for q in measured if results.peers_of(q) == results.ranked]
    groups = [
        (f"all {len(measured)} problems", everywhere, measured),
        (f"the {len(expressible)} that each of these can express", everywhere, expressible),
        (f"the {len(shared)} on which everybody was run", results.ranked, shared),
    ]
    found = []
    for i, (title, peers, problems) in enumerate(groups):
        repeated = any((peers, problems) == (p, q) for _, p, q in groups[:i])
        if len(peers) > 1 and problems and not repeated:
            mean, low, high = ranks([results.scores(q, peers) for q in problems], np.random.default_rng(0))
            rows = zip(peers, mean.tolist(), low.tolist(), high.tolist(), strict=True)
            found.append((title, sorted(rows, key=lambda row: row[1])))
    return found


@dataclass(frozen=True)
class Verdict:
    """How Suffice did on a problem: who is best, who is within noise of it, and Suffice's place among ``of`` peers."""

    problem: str
    best: str
    level: tuple[str, ...]
    place: int
    of: int

    @property
    def standing(self) -> str:
        if self.best == "suffice":
            return "first, tied within noise" if self.level else "first, alone"
        return "tied within noise" if "suffice" in self.level else "behind"

    @property
    def worst_third(self) -> bool:
        return self.place > self.of - self.of // 3

    @property
    def kind(self) -> str:
        return kind_of(self.problem)


def verdicts(results: Results) -> list[Verdict]:
    """Problem by problem, where Suffice and another peer were run with the same seeds."""
    rng = np.random.default_rng(0)
    found = []
    for problem in results.problems:
        peers, scores = results.peers_of(problem), results.scores(problem)
        if len(peers) < 2 or "suffice" not in peers or not scores.shape[-1]:
            continue
        medians = median(scores)
        order = np.argsort(medians, kind="stable")
        best = int(order[0])
        if medians[peers.index("suffice")] == medians[best]:
            best = peers.index("suffice")
        level = tuple(peers[i] for i in order if i != best and tied(scores[best], scores[i], rng))
        place = 1 + int((medians < medians[peers.index("suffice")]).sum())
        found.append(Verdict(problem, peers[best], level, place, len(peers)))
    return found


def latency_lines(results: Results, peer: str, n: int, data: str) -> list[Line]:
    wanted = (peer, n, data)
    return [line for line in results.latencies if tuple(line["job"][k] for k in ("peer", "n", "data")) == wanted]


def latency_of(results: Results, peer: str, n: int, data: str) -> float:
    """CPU seconds per fresh ask, the median over seeds; infinite where none ended in time, NaN where there is none."""
    lines = latency_lines(results, peer, n, data)
    costs = [cost(line) for line in lines if line["status"] == "ok"]
    if not costs:
        return math.inf if any(line["status"] == "timeout" for line in lines) else math.nan
    return float(np.median(costs))
