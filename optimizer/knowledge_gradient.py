"""The knowledge gradient: how much one more trial is expected to raise the largest posterior mean.

An observation at x moves the posterior mean at a by a standard normal Z times b(a, x) = k_n(a, x) / sqrt(k_n(x, x) +
noise), so after it the best mean over finitely many points is the maximum of the lines mu(a) + b(a, x) Z. Its
expectation is a sum over the corners of their upper envelope (Frazier, Powell and Dayanik 2009, Algorithm 1). The sum
and its gradient in x are computed here in closed form, as logarithms.

`knowledge_gradient` takes all of a small finite space, otherwise a discretisation of it (Scott, Frazier and Powell
2011). `posterior_mean_improvement` takes the visited points only (Frazier 2018, on noisy evaluations).
`one_shot_knowledge_gradient` improves x and the points that would be best afterwards in turn: what Balandat et al. 2020
maximise over all of them at once (BoTorch's qKnowledgeGradient), with the sum over corners in place of a Monte Carlo
average, as Ungredda, Pearce and Branke 2022 do.

While trials are pending, all of them average over joint outcomes that these may have.

Where the value of a configuration counts at other rows (`target.py`), mu and b are the means and covariances of values.
They are linear in f, so that an observation still moves them along lines: at another fidelity (Poloczek, Wang and
Frazier 2017) or under one of many conditions (Toscano-Palmerin and Frazier 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import log_ndtr, logsumexp, ndtri

from .acquisition import LOG_SQRT_2PI, Acquisition, Batch, Situation, Values, log_h, normal_draws, root
from .cost import PerCost
from .kernel import Cross, Sites
from .models import GaussianProcess, half_solve
from .search import Exclusion, candidates, evaluate, grid, maximise, polish, spread_starts
from .space import Space
from .target import CrossWithValues, OwnCross, Target, ValueCross, ValueSites

Points = Float64[np.ndarray, "_ d"]
Lines = Float64[np.ndarray, "r l"]  # intercepts or slopes: one row per maximum, one column per line

EXACT_UP_TO = 1024  # configurations of a finite space that are all taken
PARALLEL = 1e-12  # difference of slopes, relative to the largest, up to which lines count as parallel
ROUNDING = 1e-12  # of a posterior mean
NOTHING = -1e12  # log of the rise where no line crosses another
TRIALS = 64  # possible next trials, and
LEVELS = 9  # possible outcomes of each, that say which points may be best afterwards


# --- the expected maximum of lines ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rise:
    """log E[max_i (a_i + b_i Z)] - max of the base intercepts, per row, and its derivatives."""

    log: Float64[np.ndarray, " r"]
    d_last: Float64[np.ndarray, " r"]  # by the last line's intercept
    d_slopes: Lines


def expected_rise(a: Lines, b: Lines, best: Float64[np.ndarray, " r"]) -> Rise:
    """The logarithm of E[max_i (a_i + b_i Z)] - ``best`` in every row, Z standard normal.

    ``best`` is the largest intercept of all lines but the last, so the rise is never negative. Where c_j is the Z at
    which the envelope's line j crosses line j + 1, it is the sum over j of (b_{j+1} - b_j) h(-|c_j|), with
    h(z) = phi(z) + z Phi(z), plus what the last line is already above ``best``.
    """
    row, first, second, gap, c = _corners(a, b)
    terms = np.log(gap) + log_h(-np.abs(c))
    above = np.maximum(a[:, -1] - best - ROUNDING * (1.0 + np.abs(best)), 0.0)
    log = _log_sum(terms, row, above)
    # d rise = sum_j phi(c_j) d gap_j - sign(c_j) Phi(-|c_j|) d (a_j - a_{j+1}) + d above
    phi, Phi = _over_h(np.abs(c))
    share = np.exp(terms - log[row]) / gap
    by_gap, by_fall = share * phi, -np.sign(c) * share * Phi
    last = a.shape[1] - 1
    d_last = np.where(above > 0.0, np.exp(-np.where(above > 0.0, log, 0.0)), 0.0)
    d_last += np.bincount(row, by_fall * (1.0 * (first == last) - (second == last)), len(a))
    d_slopes = _scatter(row, second, by_gap, a.shape) - _scatter(row, first, by_gap, a.shape)
    return Rise(log, d_last, d_slopes)


def _corners(a: Lines, b: Lines) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per corner of the rows' upper envelopes: row, lines before and after it, their difference in slope, and its Z."""
    order = np.argsort(b, axis=1, kind="stable")
    row, column = upper_envelope(np.take_along_axis(a, order, 1), np.take_along_axis(b, order, 1))
    line = order[row, column]
    corner = np.flatnonzero(row[:-1] == row[1:])
    row, first, second = row[corner], line[corner], line[corner + 1]
    gap = b[row, second] - b[row, first]
    return row, first, second, gap, (a[row, first] - a[row, second]) / gap


def upper_envelope(a: Lines, b: Lines) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Rows and columns of the lines a + b z that are largest for some z; the slopes b of each row come in order.

    All rows are worked on at once: every line that its two neighbours cover together, or a parallel one alone, is
    dropped, until there are none. A line that is the largest somewhere is never covered.
    """
    keep = np.arange(a.size)
    columns = a.shape[1]
    tolerance = PARALLEL * np.abs(b).max(1)
    while True:
        row = keep // columns
        same = row[1:] == row[:-1]
        gap, fall = np.diff(b.ravel()[keep]), -np.diff(a.ravel()[keep])
        parallel = same & (gap <= tolerance[row[1:]])
        if parallel.any():
            drop = np.zeros(len(keep), dtype=bool)
            drop[:-1] |= parallel & (fall <= 0.0)
            drop[1:] |= parallel & (fall > 0.0)
        else:
            c = fall / np.where(same, gap, 1.0)
            since = np.concatenate([[-np.inf], np.where(same, c, -np.inf)])
            until = np.concatenate([np.where(same, c, np.inf), [np.inf]])
            drop = since >= until
        if not drop.any():
            return row, keep % columns
        keep = keep[~drop]


def _log_sum(terms: np.ndarray, row: np.ndarray, above: np.ndarray) -> np.ndarray:
    """log(above + sum of exp(terms)) per row."""
    with np.errstate(divide="ignore"):
        log_above = np.log(above)
    top = np.maximum(log_above, NOTHING)
    np.maximum.at(top, row, terms)
    total = np.bincount(row, weights=np.exp(terms - top[row]), minlength=len(above)) + np.exp(log_above - top)
    return np.where(total > 0.0, top + np.log(np.maximum(total, 1e-300)), NOTHING)


def _over_h(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """phi(c) / h(-c) and Phi(-c) / h(-c) for c >= 0; beyond 1e5 they are c^2 and c."""
    near = np.minimum(c, 1e5)
    lh = log_h(-near)
    phi, Phi = np.exp(-0.5 * near * near - LOG_SQRT_2PI - lh), np.exp(log_ndtr(-near) - lh)
    return np.where(c > 1e5, c * c, phi), np.where(c > 1e5, c, Phi)


def _scatter(row: np.ndarray, column: np.ndarray, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    sums = np.bincount(row * shape[1] + column, weights=weights, minlength=shape[0] * shape[1])
    return sums.astype(np.float64, copy=False).reshape(shape)  # bincount of nothing counts in integers


# --- the posterior, conditioned on what pending trials may bring ------------------------------------------------------


class Fantasies:
    """A Gaussian process beside pending trials: one covariance, and one mean per joint outcome drawn for them.

    An outcome is a measurement with the model's noise. ``count`` outcomes are drawn, one where nothing is pending.
    Means and slopes are those of values, which count at the ``target`` (None: at the rows themselves).
    """

    def __init__(
        self, gp: GaussianProcess, pending: Points, count: int, seed: int, target: Target | None = None
    ) -> None:
        h = gp.hyperparameters
        self.gp, self.target = gp, target
        self.noise = gp.next_noise
        self.sites, self.L = gp.sites, gp.L
        half = gp.half_solve((gp.data.targets - h.mean * gp.sites.basis)[:, None])
        if len(pending):
            self._condition(pending)
            draws = normal_draws(len(pending), 1 << (count - 1).bit_length(), seed)[:, :count]  # powers of 2 balance
            half = np.concatenate([np.repeat(half, count, 1), draws])
        self.alpha = half_solve(self.L, half, transposed=True)  # (t, fantasies)

    def _condition(self, points: Points) -> None:
        """The factor of the covariance, longer by ``points``."""
        gp = self.gp
        V = self.half_solve(self.sites.cross(points))
        corner = gp.kernel.covariance(points, points) - V.T @ V + self.noise * np.eye(len(points))
        n, p = len(self.sites), len(points)
        L = np.zeros((n + p, n + p))
        L[:n, :n], L[n:, :n], L[n:, n:] = np.tril(self.L), V.T, root(corner, gp.hyperparameters.signal)
        self.sites, self.L = self.sites.beside(points), L

    def values(self, X: Points) -> Cross | ValueCross:
        """The prior covariances of the values at the rows of X with the observations."""
        return self.sites.cross(X) if self.target is None else ValueCross(self.target, self.sites, X)

    def value_sites(self, A: Points) -> Sites | ValueSites:
        """The values at the rows of A, as what observations are compared with."""
        kernel = self.gp.kernel
        return kernel.sites(A) if self.target is None else ValueSites(self.target, kernel, A)

    def half_solve(self, cross: Cross | ValueCross) -> Float64[np.ndarray, "t _"]:
        return half_solve(self.L, cross.k.T)

    def solve(self, half: Float64[np.ndarray, "t _"]) -> Float64[np.ndarray, "t _"]:
        return half_solve(self.L, half, transposed=True)

    def means(self, X: Points) -> Float64[np.ndarray, "_ f"]:
        """Posterior means of the values at the rows of X, one column per fantasy."""
        return self.gp.hyperparameters.mean + self.values(X).k @ self.alpha

    def slopes(self, A: Points, X: Points) -> Float64[np.ndarray, "a x"]:
        """b(a, x): how far one standard deviation of an observation at x moves the mean of the value at a."""
        V = self.half_solve(self.sites.cross(X))
        variance = np.maximum(self.gp.kernel.variance(X) - (V * V).sum(0), 0.0)
        covariance = self.value_sites(A).cross(X).k.T - self.half_solve(self.values(A)).T @ V
        return covariance / np.sqrt(variance + self.noise)

    def mean(self) -> PosteriorMean:
        """The posterior mean of the values, averaged over the fantasies."""
        return PosteriorMean(self.gp.hyperparameters.mean, self.values, self.alpha.mean(1))

    def mean_after(self, x: Points, z: float) -> PosteriorMean:
        """The same after an observation at x (one row) that is z standard deviations off."""
        V = self.half_solve(self.sites.cross(x))
        deviation = math.sqrt(max(float(self.gp.kernel.variance(x)[0]) - float((V * V).sum()), 0.0) + self.noise)
        weights = np.concatenate([self.alpha.mean(1) - z / deviation * self.solve(V)[:, 0], [z / deviation]])
        sites, target = self.sites.beside(x), self.target
        values = sites.cross if target is None else lambda X: ValueCross(target, sites, X)
        return PosteriorMean(self.gp.hyperparameters.mean, values, weights)


class PosteriorMean:
    """mean + sum_i weights_i k(x, site_i) and its gradient: something to maximise."""

    def __init__(self, mean: float, values: Callable[[Batch], Cross | ValueCross], weights: np.ndarray) -> None:
        self._mean, self._values, self._weights = mean, values, weights

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        cross = self._values(X)
        return self._mean + cross.k @ self._weights, cross.pull(np.broadcast_to(self._weights, cross.k.shape))


# --- the acquisition --------------------------------------------------------------------------------------------------


class KnowledgeGradient:
    """log of E[max of the posterior mean over A and x after observing x] - max of it over A now, and its gradient."""

    def __init__(self, fantasies: Fantasies, A: Points) -> None:
        self.A, self._fantasies = A, fantasies
        self._V = fantasies.half_solve(fantasies.values(A))  # (t, l)
        self._means = fantasies.means(A).T  # (f, l)
        self._best = self._means.max(1)
        self._sites = fantasies.value_sites(A)

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        f = self._fantasies
        cross, cross_A = f.sites.cross(X), self._sites.cross(X)
        prior = f.gp.kernel.variance(X)
        V = f.half_solve(cross)  # (t, m)
        variance = np.maximum(prior - (V * V).sum(0), 1e-14 * prior)
        total = variance + f.noise
        sd: np.ndarray = np.sqrt(total)
        if f.target is not None:
            return self._at_target(f.target, X, cross, cross_A, V, sd)
        b = np.column_stack([cross_A.k - V.T @ self._V, variance]) / sd[:, None]
        value, d_mean, d_b = self._rise(f.gp.hyperparameters.mean + cross.k @ f.alpha, b)
        # the slopes are the covariances, and the variance for x itself, over sd
        d_covariance = d_b[:, :-1] / sd[:, None]
        d_variance = d_b[:, -1] / sd - (d_b * b).sum(1) / (2.0 * total)
        inner = self._V @ d_covariance.T + 2.0 * d_variance * V  # (t, m)
        to_k = d_mean @ f.alpha.T - f.solve(inner).T
        own = f.gp.kernel.pull_variance(d_variance, X)
        return value, cross.pull(to_k) + cross_A.pull(d_covariance) + own

    def _at_target(
        self,
        target: Target,
        X: Batch,
        cross: Cross,
        cross_A: Cross | CrossWithValues,
        V: Float64[np.ndarray, "t m"],
        sd: Values,
    ) -> tuple[Values, Batch]:
        """The same where the line of x is that of its value, which is not what is observed at x."""
        f = self._fantasies
        values, own = f.values(X), OwnCross(target, f.gp.kernel, X)
        U = f.half_solve(values)  # (t, m)
        b = np.column_stack([cross_A.k - V.T @ self._V, own.k - (U * V).sum(0)]) / sd[:, None]
        value, d_mean, d_b = self._rise(f.gp.hyperparameters.mean + values.k @ f.alpha, b)
        d_covariance = d_b / sd[:, None]
        d_variance = -(d_b * b).sum(1) / (2.0 * sd * sd)
        d_A, d_own = d_covariance[:, :-1], d_covariance[:, -1]
        observed = f.solve(self._V @ d_A.T + 2.0 * d_variance * V + d_own * U).T
        valued = d_mean @ f.alpha.T - f.solve(d_own * V).T
        gradient = cross_A.pull(d_A) + own.pull(d_own) - cross.pull(observed) + values.pull(valued)
        return value, gradient

    def _rise(self, mean: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The log of the mean rise over fantasies; its derivatives by the means at x (m, f) and slopes (m, l + 1)."""
        (m, f), lines = mean.shape, b.shape[1]
        a = np.concatenate([np.broadcast_to(self._means, (m, f, lines - 1)), mean[:, :, None]], 2)
        rise = expected_rise(a.reshape(m * f, lines), np.repeat(b, f, 0), np.tile(self._best, m))
        log = rise.log.reshape(m, f)
        value = np.asarray(logsumexp(log, axis=1))
        shares = np.exp(log - value[:, None])
        d_b = (shares[:, :, None] * rise.d_slopes.reshape(m, f, lines)).sum(1)
        return value - math.log(f), shares * rise.d_last.reshape(m, f), d_b


def knowledge_gradient(s: Situation, discretisation: int, fantasies: int) -> KnowledgeGradient:
    """The knowledge gradient over a whole small finite space, else over ``discretisation`` points of it."""
    f = Fantasies(s.gp, s.pending, fantasies, s.seed, s.target)
    return KnowledgeGradient(f, discretised(s, f, discretisation, np.random.default_rng(s.seed)))


def knowledge_gradient_per_cost(s: Situation, discretisation: int, fantasies: int) -> PerCost:
    """The knowledge gradient per unit of expected cost."""
    assert s.cost is not None
    return PerCost(knowledge_gradient(s, discretisation, fantasies), s.cost)


def posterior_mean_improvement(s: Situation, fantasies: int) -> KnowledgeGradient:
    """The expected rise of the best posterior mean over the visited points and x; with exact values EI."""
    f = Fantasies(s.gp, s.pending, fantasies, s.seed, s.target)
    return KnowledgeGradient(f, visited_designs(s))


def posterior_mean_improvement_per_cost(s: Situation, fantasies: int) -> PerCost:
    """That rise per unit of expected cost."""
    assert s.cost is not None
    return PerCost(posterior_mean_improvement(s, fantasies), s.cost)


def one_shot_knowledge_gradient(s: Situation, solutions: int, rounds: int, fantasies: int) -> KnowledgeGradient:
    """The knowledge gradient over points that would be best after the trial that it prefers.

    Each of ``rounds`` rounds finds the best x for the points so far, then adds the maximisers of the posterior mean
    after each of ``solutions`` equally likely outcomes at x, found by search over the space.
    """
    f = Fantasies(s.gp, s.pending, fantasies, s.seed, s.target)
    rng = np.random.default_rng(s.seed)
    acquisition = KnowledgeGradient(f, discretised(s, f, 4 * solutions, rng))
    if s.space.cardinality <= EXACT_UP_TO:
        return acquisition
    for _ in range(rounds):
        found = maximise(acquisition, s.space, rng, acquisition.A, Exclusion(s.base[:0]))
        if found is None:
            break
        x = found.x[None]
        best = [_peaks(s, f.mean_after(x, z), acquisition.A, rng)[:1] for z in _levels(solutions)]
        A = distinct(np.concatenate([acquisition.A, _designs(s, x), *best]))
        acquisition = KnowledgeGradient(f, A[counting(s, A)])
    return acquisition


# --- where the best mean may lie --------------------------------------------------------------------------------------


def discretised(s: Situation, f: Fantasies, size: int, rng: np.random.Generator) -> Points:
    """The points whose best mean is to rise: all of a small finite space, else visited, peaks and possible bests."""
    visited, designs = visited_designs(s), _design_space(s)
    if designs.cardinality <= EXACT_UP_TO:
        A = grid(designs)
        return distinct(np.concatenate([visited, A[counting(s, A)]]))
    visited = visited[np.argsort(-f.means(visited).mean(1), kind="stable")]
    peaks = _peaks(s, f.mean(), visited[:16], rng)[: max(size // 4, 1)]
    A = np.concatenate([visited[: max(size // 4, 1)], peaks[counting(s, peaks)]])
    pool = candidates(s.space, rng, A)
    trials = pool[rng.choice(len(pool), min(TRIALS, len(pool)), replace=False)]
    pool = _designs(s, pool)
    pool = pool[counting(s, pool)]
    pool = pool[_possible_best(f, pool, trials)] if len(pool) else pool
    return distinct(np.concatenate([A, pool]))[:size]


def _design_space(s: Situation) -> Space:
    """What may be picked in the end."""
    return s.space if s.target is None else s.target.space


def _designs(s: Situation, X: Points) -> Points:
    """The rows as what may be picked in the end."""
    return X if s.target is None else s.target.designs(X)


def visited_designs(s: Situation) -> Points:
    """The attainable designs that some trial tried."""
    visited = _designs(s, s.base[s.attainable])
    return visited if s.target is None else distinct(visited)


def _peaks(s: Situation, mean: Acquisition, near: Points, rng: np.random.Generator) -> Points:
    """Local maxima of a posterior mean, the highest first."""
    space = _design_space(s)
    X = candidates(space, rng, near)
    values = evaluate(mean, X)
    order = np.argsort(-values, kind="stable")
    tops, values = polish(mean, space, *spread_starts(X[order], values[order]), rng)
    return tops[np.argsort(-values, kind="stable")]


def _possible_best(f: Fantasies, pool: Points, trials: Points) -> Int64[np.ndarray, " k"]:
    """Indices into the pool: first what is most often best after a possible outcome of one of the trials, then any."""
    mean, slopes = f.means(pool).mean(1), f.slopes(pool, trials)
    wins = np.zeros(len(pool), dtype=int)
    for z in _levels(LEVELS):
        wins += np.bincount((mean[:, None] + z * slopes).argmax(0), minlength=len(pool))
    return np.argsort(-wins, kind="stable")


def _levels(count: int) -> list[float]:
    """Equally likely standard normal outcomes: the middles of ``count`` parts of the distribution."""
    return [float(z) for z in ndtri((np.arange(count) + 0.5) / count)]


def counting(s: Situation, A: Points) -> Bool[np.ndarray, " a"]:
    """Which points may be picked in the end: with outcome constraints, those that more likely hold them than not."""
    if s.feasibility is None or not len(A):
        return np.ones(len(A), dtype=bool)
    return evaluate(s.feasibility, A) >= math.log(0.5)


def distinct(A: Points) -> Points:
    """The rows without repetitions, in order of first appearance."""
    _, first = np.unique(np.round(A, 9), axis=0, return_index=True)
    return A[np.sort(first)]
