"""What more votes are worth: for every state of a vote, the highest price of an answer at which drawing on pays.

With V_N = P(leader is right) at the cap N and a price of lambda per answer, dynamic programming gives

    V_n(v; lambda) = max(P(leader is right), sum_u P(u | v) V_(n+1)(u; lambda) - lambda).

One step does not see far enough: with a lead of two, one more vote cannot change the pick, so that its gain is nothing.
Drawing on pays just while lambda is below the state's *index*, the largest gain per answer that any way of stopping
later reaches. An index holds for all prices at once, so that one table per cap serves every prompt, whatever its
answers cost. It is the Gittins index of this problem (compare Weitzman 1979, and cost.py for configurations).

A state is a partition of n into votes per cluster. Up to EXACT answers all partitions are solved. Beyond, a state is
compact: (n, v1, v2, K), with the other votes spread over the other K - 2 clusters as evenly as they can be; the two
largest counts are what decides (Huang, Ma and Zhou 2026, arXiv 2602.05395).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int32

from .answers import FLAT, TypePrior, vote_posterior

EXACT = 20  # answers up to which all partitions are solved
HORIZON = 64  # the largest cap with a table of its own; beyond, states are shrunk to SHRUNK answers
SHRUNK = 32
BRANCHES = 12  # states that are looked at to draw several answers at once
PRICES = np.concatenate([[0.0], np.geomspace(1e-6, 1e-3, 10), np.geomspace(1.25e-3, 0.6, 28)])

Votes = tuple[int, ...]  # in falling order
Row = Float64[np.ndarray, " l"]


@dataclass(frozen=True)
class Outlook:
    """What drawing on is worth from a state: the ``index`` (largest gain per answer), and the gain when answers are
    free, ``attainable``."""

    index: float
    attainable: float


NOTHING = Outlook(0.0, 0.0)


class VoteTable:
    """The outlook of every vote state for one cap and one prior over prompt types."""

    def __init__(self, cap: int, prior: TypePrior) -> None:
        self.cap = cap
        self._exact = _exact(cap, prior)
        self._outlooks: dict[Votes, Outlook] = {}
        self._compact: _Compact | None = None
        last = self._exact_last = min(cap, EXACT)
        if last < cap:
            self._compact = _Compact(cap, last, prior)
        self._solve(last)

    def outlook(self, votes: Votes) -> Outlook:
        """The outlook of a vote; ``votes`` in falling order, without zeros."""
        n = sum(votes)
        if n >= self.cap:
            return NOTHING
        if n <= self._exact_last:
            return self._outlooks[votes]
        assert self._compact is not None
        return self._compact.outlook(n, *compact(votes))

    def _solve(self, last: int) -> None:
        above: dict[Votes, Row] = {}
        for n in range(last, -1, -1):
            level: dict[Votes, Row] = {}
            for v in partitions(n):
                now = self._exact.leader(v)
                if n == self.cap or (v and lead(v) >= self.cap - n):
                    level[v] = np.full(len(PRICES), now)  # the pick cannot change any more
                    self._outlooks[v] = NOTHING
                    continue
                ahead = np.zeros(len(PRICES))
                for p, u in self._exact.successors(v):
                    ahead += p * (above[u] if n < last else self._beyond(u))
                ahead -= PRICES
                level[v] = np.maximum(now, ahead)
                self._outlooks[v] = outlook_of(ahead - now)
            above = level

    def _beyond(self, votes: Votes) -> Row:
        assert self._compact is not None
        return self._compact.value(*compact(votes))


@lru_cache(maxsize=32)  # 32 of the largest take 350 MB
def vote_table(cap: int, prior: TypePrior = FLAT) -> VoteTable:
    """The table for up to ``cap`` answers, made once per process."""
    return VoteTable(cap, prior)


def outlook(votes: Votes, cap: int, prior: TypePrior = FLAT) -> Outlook:
    """The outlook of a vote with up to ``cap`` answers.

    A cap beyond HORIZON is looked ahead to HORIZON only, and beyond HORIZON - SHRUNK / 2 answers the votes are shrunk
    in proportion to SHRUNK: with all counts twice as large, the same gain takes about twice as many answers.
    """
    n = sum(votes)
    if cap <= HORIZON or n <= HORIZON - SHRUNK // 2:
        return vote_table(min(cap, HORIZON), prior).outlook(votes)
    if n >= cap or lead(votes) >= cap - n:
        return NOTHING
    s = n / SHRUNK
    shrunk = tuple(sorted((max(1, round(v / s)) for v in votes), reverse=True))
    while sum(shrunk) > HORIZON // 2:
        shrunk = shrunk[:-1]
    found = vote_table(HORIZON, prior).outlook(shrunk)
    return Outlook(found.index / s, found.attainable)


def gains(votes: Votes, most: int, prior: TypePrior = FLAT) -> list[float]:
    """What exactly k more answers, drawn whatever they are, raise P(leader is right) by, for k = 1 to ``most``."""
    exact = _exact(sum(votes) + most, prior)
    found: list[float] = []
    ahead = {votes: 1.0}
    for _ in range(most):
        later: dict[Votes, float] = {}
        for v, weight in ahead.items():
            for p, u in exact.successors(v):
                later[u] = later.get(u, 0.0) + weight * p
        ahead = later
        found.append(sum(p * exact.leader(v) for v, p in ahead.items()) - exact.leader(votes))
    return found


@lru_cache(maxsize=256)
def _exact(n: int, prior: TypePrior) -> _Exact:
    return _Exact(n, prior)


def certain(votes: Votes, cap: int, most: int, stops: Callable[[Votes], bool]) -> int:
    """How many more answers, up to ``most``, are drawn whatever they are: after fewer, ``stops`` holds nowhere.

    Fewer are found where the ways in which votes can fall get too many to look at.
    """
    states, most = {votes}, min(most, cap - sum(votes))
    for k in range(1, most):
        states = {u for v in states for u in successors(v)}
        if len(states) > BRANCHES or any(map(stops, states)):
            return k
    return most


def successors(votes: Votes) -> set[Votes]:
    """The votes that one more answer can lead to."""
    grown = {(*votes[:j], v + 1, *votes[j + 1 :]) for j, v in enumerate(votes) if j == 0 or votes[j - 1] > v}
    return grown | {(*votes, 1)}


def outlook_of(advantage: Row) -> Outlook:
    """From the advantage of drawing on over stopping, at each of PRICES: it falls in the price, and is convex."""
    positive = int((advantage > 1e-12).sum())
    if positive == 0:
        return NOTHING
    if positive == len(PRICES):
        return Outlook(float(PRICES[-1]), float(advantage[0]))
    a, b = advantage[positive - 1], advantage[positive]
    low, high = PRICES[positive - 1], PRICES[positive]
    return Outlook(float(low + (high - low) * a / (a - b)), float(advantage[0]))


def partitions(n: int, largest: int | None = None) -> Iterator[Votes]:
    """All ways to write n as a sum of counts in falling order."""
    if n == 0:
        yield ()
        return
    for first in range(min(n, largest or n), 0, -1):
        for rest in partitions(n - first, first):
            yield (first, *rest)


def lead(votes: Votes) -> int:
    """By how much the first is ahead of the second."""
    return votes[0] - (votes[1] if len(votes) > 1 else 0)


def compact(votes: Votes) -> tuple[int, int, int]:
    """(v1, v2, K) of a vote."""
    return votes[0], votes[1] if len(votes) > 1 else 0, len(votes)


class _Exact:
    """P(leader is right) and where the next answer falls, by partition."""

    def __init__(self, cap: int, prior: TypePrior) -> None:
        self._posterior = vote_posterior(cap + 1, prior)
        self._mass: dict[Votes, float] = {}

    def leader(self, v: Votes) -> float:
        if not v:
            return 0.0
        K, first, others = np.array([[len(v)], [v[0]], [sum(v[1:])]])
        return float(np.exp(self._posterior.right(K, first, others)[0] - self._log_mass(v)))

    def successors(self, v: Votes) -> list[tuple[float, Votes]]:
        """Each way the next answer can fall, with its probability."""
        found: list[tuple[float, Votes]] = []
        log_z = self._log_mass(v)
        for j, size in enumerate(v):
            if j and size == v[j - 1]:
                continue  # equal clusters go together
            u = (*v[:j], size + 1, *v[j + 1 :])
            p = v.count(size) * size * np.exp(self._log_mass(u) - log_z)  # G(size + 1) / G(size) = size
            found.append((float(p), u))
        found.append((float(np.exp(self._log_mass((*v, 1)) - log_z)), (*v, 1)))
        return found

    def _log_mass(self, v: Votes) -> float:
        """log of sum_j W(n, K, v_j) + W0(n, K)."""
        if v not in self._mass:
            sizes, K, n = np.array(v, dtype=np.int64), np.array([len(v)]), np.array([sum(v)])
            terms = np.concatenate([self._posterior.right(K, sizes, n - sizes), self._posterior.none(K, n)])
            self._mass[v] = float(np.logaddexp.reduce(terms))
        return self._mass[v]


@dataclass(frozen=True, eq=False)
class _Level:
    """Of all states of one n: V, and P(right) of the leader and of the second."""

    value: Float64[np.ndarray, "s l"]
    now: Float64[np.ndarray, " s"]
    second: Float64[np.ndarray, " s"]


class _Compact:
    """Values and outlooks of the states (v1, v2, K) at each n beyond the exact ones."""

    def __init__(self, cap: int, exact: int, prior: TypePrior) -> None:
        self._cap, self._exact = cap, exact
        self._posterior = vote_posterior(cap + 1, prior)
        self._index: dict[int, Int32[np.ndarray, "a b k"]] = {}
        self._values: Float64[np.ndarray, "s l"] = np.zeros((0, 0))
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._solve()

    def value(self, v1: int, v2: int, K: int) -> Row:
        """V at the first level beyond the exact ones."""
        return self._values[self._index[self._exact + 1][v1, v2, K]]

    def outlook(self, n: int, v1: int, v2: int, K: int) -> Outlook:
        row = self._index[n][v1, v2, K]
        index, attainable = self._found[n]
        return Outlook(float(index[row]), float(attainable[row]))

    def _solve(self) -> None:
        above = _Level(np.zeros((0, 0)), np.zeros(0), np.zeros(0))
        for n in range(self._cap, self._exact, -1):
            v1, v2, K = _states(n)
            self._index[n] = _numbering(n, v1, v2, K)
            log_mass = self._log_mass(n, K, _blocks(n, v1, v2, K))
            now = np.exp(self._posterior.right(K, v1, n - v1) - log_mass)
            second = np.exp(self._posterior.right(K, v2, n - v2) - log_mass)
            values = np.repeat(now[:, None], len(PRICES), axis=1)
            index, attainable = np.zeros(len(now)), np.zeros(len(now))
            some = np.flatnonzero(v1 - v2 < self._cap - n)
            if len(some):
                advantage = self._advantage(n, v1[some], v2[some], K[some], log_mass[some], above)
                index[some], attainable[some] = _outlooks(advantage)
                values[some] += np.maximum(advantage, 0.0)
            above = _Level(values, now, second)
            self._found[n] = index, attainable
        self._values = above.value

    def _advantage(
        self, n: int, v1: np.ndarray, v2: np.ndarray, K: np.ndarray, log_mass: np.ndarray, above: _Level
    ) -> np.ndarray:
        """What drawing on gains over stopping: the expected value after one more answer, over the present leader's.

        The present leader's expected probability to be right after one more answer is its present one. Differences
        from it keep that exact, although neighbouring states stand for partitions that do not quite match.
        """
        number = self._index[n + 1]
        gain = np.zeros((len(v1), len(PRICES)))
        sizes, counts = _blocks(n, v1, v2, K)
        for j in range(5):
            here = np.flatnonzero(counts[:, j] > 0) if j < 4 else np.arange(len(v1))
            size = sizes[here, j] if j < 4 else np.zeros(len(here), dtype=np.int64)
            grown = np.column_stack([sizes[here], size + 1])
            more = np.column_stack([counts[here], np.ones(len(here), dtype=np.int64)])
            if j < 4:
                more[:, j] -= 1
            clusters = K[here] + (j == 4)
            ways = counts[here, j] * size if j < 4 else np.ones(len(here))
            p = ways * np.exp(self._log_mass(n + 1, clusters, (grown, more)) - log_mass[here])
            u1, u2 = _top_two(v1[here], v2[here], size, j)
            u = number[u1, u2, clusters]
            overtaken = (j > 0) & (size == v1[here])
            leader = np.where(overtaken, above.second[u], above.now[u])
            gain[here] += p[:, None] * (above.value[u] - leader[:, None])
        return gain - PRICES

    def _log_mass(self, n: int, K: np.ndarray, blocks: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        sizes, counts = blocks
        terms = self._posterior.right(K[:, None], sizes, n - sizes)
        none = self._posterior.none(K, np.full_like(K, n))
        peak = np.maximum(np.where(counts > 0, terms, -np.inf).max(1), none)
        with np.errstate(under="ignore"):
            inner = (counts * np.exp(np.where(counts > 0, terms - peak[:, None], -np.inf))).sum(1)
            return peak + np.log(inner + np.exp(none - peak))


def _states(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (v1, v2, K) that some partition of n has."""
    v1, v2, K = np.meshgrid(np.arange(1, n + 1), np.arange(n // 2 + 1), np.arange(1, n + 1), indexing="ij")
    rest = n - v1 - v2
    alone = (K == 1) & (v2 == 0) & (rest == 0)
    others = (K >= 2) & (v2 >= 1) & (v1 >= v2) & (rest >= K - 2) & (rest <= (K - 2) * v2)
    possible = alone | others
    return v1[possible], v2[possible], K[possible]


def _numbering(n: int, v1: np.ndarray, v2: np.ndarray, K: np.ndarray) -> np.ndarray:
    number = np.full((n + 1, n // 2 + 1, n + 1), -1, dtype=np.int32)
    number[v1, v2, K] = np.arange(len(v1), dtype=np.int32)
    return number


def _blocks(n: int, v1: np.ndarray, v2: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the clusters (leader, second, larger and smaller ones of the others) and how many of each there are."""
    others = np.maximum(K - 2, 0)
    rest = n - v1 - v2
    q = rest // np.maximum(others, 1)
    larger = rest - q * others
    sizes = np.column_stack([v1, v2, np.where(larger > 0, q + 1, 0), np.where(others > larger, q, 0)])
    counts = np.column_stack([np.ones_like(v1), (v2 > 0).astype(np.int64), larger, others - larger])
    return sizes, np.where(sizes > 0, counts, 0)


def _top_two(v1: np.ndarray, v2: np.ndarray, size: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    """The two largest counts once a cluster of the given size has grown by one; j == 4: a new one."""
    if j == 0:
        return v1 + 1, v2
    if j == 1:
        return np.maximum(v1, v2 + 1), np.minimum(v1, v2 + 1)
    ranked = np.sort(np.column_stack([v1, v2, size + 1]), axis=1)
    return ranked[:, 2], ranked[:, 1]


def _outlooks(advantage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``outlook_of`` for many rows."""
    positive = (advantage > 1e-12).sum(1)
    inside = np.clip(positive, 1, len(PRICES) - 1)
    rows = np.arange(len(advantage))
    a, b = advantage[rows, inside - 1], advantage[rows, inside]
    low, high = PRICES[inside - 1], PRICES[inside]
    with np.errstate(invalid="ignore", divide="ignore"):
        index = low + (high - low) * a / (a - b)
    index = np.where(positive == 0, 0.0, np.where(positive == len(PRICES), PRICES[-1], index))
    return index, np.where(positive == 0, 0.0, advantage[:, 0])
