"""Designs judged by how bad they may get: the posterior of a risk measure, and its knowledge gradient.

The value rho(x) of a design is a risk measure of f at x over the environment's nodes (`target.py`). It is not linear in
f, so its posterior is that of joint draws over the nodes. Each draw says which nodes make the tail: rho is the sum over
pi_j f_j with shares pi that do not change where f moves a little. Hence, by Stein's lemma, an observation at x that is
Z standard deviations off moves the posterior mean of rho(a) by

    Cov(rho(a), Z) Z = sum_j E[pi_j(a)] b(T_j a, x) Z

and a remainder without a linear part. The risk's knowledge gradient (Cakmak, Astudillo, Frazier and Zhou 2020, eq. 2)
without that remainder is the expected maximum of lines again: in closed form, where nested fantasies are usual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import logsumexp

from .acquisition import Batch, Situation, Values, normal_draws
from .knowledge_gradient import Fantasies, counting, distinct, expected_rise, visited_designs
from .models import GaussianProcess
from .search import candidates, grid
from .target import Target

Points = Float64[np.ndarray, "_ d"]

DRAWS = 64  # of f over the nodes of a design
JITTER = 1e-9  # of the covariance among nodes, relative to the signal variance
EXACT_UP_TO = 256  # designs of a finite space that are all taken
REFINED = ((0.05, 8), (0.01, 4))  # steps around the best designs so far, and copies of each
BEST = 16  # of them


@dataclass(frozen=True)
class Tails:
    """What joint draws say of designs: the mean and standard deviation of the risk, per fantasy, and the shares of the
    nodes in it."""

    mean: Float64[np.ndarray, "f m"]
    sd: Float64[np.ndarray, " m"]
    shares: Float64[np.ndarray, "q m"]


def tails(f: Fantasies, target: Target, X: Points, draws: int = DRAWS) -> Tails:
    """The risk of the designs at the rows of X beside pending trials, from quasi-random draws common to all of them."""
    q, m = len(target.weights), len(X)
    rows = target.rows(X)
    cross = f.sites.cross(rows)
    V = f.half_solve(cross).reshape(-1, q, m)
    means = (f.gp.hyperparameters.mean + cross.k @ f.alpha).reshape(q, m, -1)  # (q, m, fantasies)
    signal = f.gp.hyperparameters.signal
    prior = f.gp.kernel.covariance(target.nodes, target.nodes) + JITTER * signal * np.eye(q)
    root = _roots(prior - np.einsum("tim,tjm->mij", V, V))
    spread = np.einsum("mij,js->sim", root, normal_draws(q, draws, 0))  # (draws, q, m)
    mean, shares, sd = np.empty((means.shape[2], m)), np.zeros((q, m)), np.zeros(m)
    for i in range(means.shape[2]):
        values = np.moveaxis(means[:, :, i] + spread, 1, -1)  # (draws, m, q)
        share = target.risk.shares(values, target.weights)
        risk = (share * values).sum(-1)
        mean[i], sd = risk.mean(0), sd + risk.std(0) / means.shape[2]
        shares += share.mean(0).T / means.shape[2]
    return Tails(mean, sd, shares)


def risk_posterior(
    target: Target, gp: GaussianProcess, X: Points
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Mean and standard deviation of the risk of the designs at the rows of X, in standardised units."""
    found = tails(Fantasies(gp, X[:0], 1, 0), target, X, 4 * DRAWS)
    return found.mean[0], found.sd


def _roots(covariances: Float64[np.ndarray, "m q q"]) -> Float64[np.ndarray, "m q q"]:
    """Symmetric roots, also of covariances that are singular up to rounding."""
    values, vectors = np.linalg.eigh(covariances)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]


class RiskKnowledgeGradient:
    """log of the expected rise of the best posterior mean of the risk over the designs A, and its gradient."""

    def __init__(self, fantasies: Fantasies, target: Target, A: Points) -> None:
        self.A, self._f = A, fantasies
        found = tails(fantasies, target, A)
        self._means, self._best = found.mean, found.mean.max(1)
        self._shares = found.shares  # (q, l)
        rows = target.rows(A)
        self._sites = fantasies.gp.kernel.sites(rows)
        self._V = self._weighted(fantasies.half_solve(fantasies.sites.cross(rows)))  # (t, l)

    def _weighted(self, by_row: Float64[np.ndarray, "m ql"]) -> Float64[np.ndarray, "m l"]:
        q, lines = self._shares.shape
        return np.einsum("mql,ql->ml", by_row.reshape(-1, q, lines), self._shares)

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        f = self._f
        cross, cross_A = f.sites.cross(X), self._sites.cross(X)
        prior = f.gp.kernel.variance(X)
        V = f.half_solve(cross)  # (t, m)
        total = np.maximum(prior - (V * V).sum(0), 1e-14 * prior) + f.noise
        sd: np.ndarray = np.sqrt(total)
        b = (self._weighted(cross_A.k) - V.T @ self._V) / sd[:, None]
        value, d_b = self._rise(b)
        d_covariance = d_b / sd[:, None]
        d_variance = -(d_b * b).sum(1) / (2.0 * total)
        observed = f.solve(self._V @ d_covariance.T + 2.0 * d_variance * V).T
        by_row = (d_covariance[:, None, :] * self._shares).reshape(len(X), -1)
        return value, cross_A.pull(by_row) - cross.pull(observed)

    def _rise(self, b: np.ndarray) -> tuple[Values, np.ndarray]:
        """The log of the mean rise over the fantasies, and its derivatives by the slopes (m, l)."""
        (m, lines), fantasies = b.shape, len(self._means)
        a = np.broadcast_to(self._means, (m, fantasies, lines)).reshape(m * fantasies, lines)
        rise = expected_rise(a, np.repeat(b, fantasies, 0), np.tile(self._best, m))
        log = rise.log.reshape(m, fantasies)
        value = np.asarray(logsumexp(log, axis=1))
        weights = np.exp(log - value[:, None])
        return value - math.log(fantasies), (weights[:, :, None] * rise.d_slopes.reshape(m, fantasies, lines)).sum(1)


def risk_knowledge_gradient(s: Situation, discretisation: int, fantasies: int) -> RiskKnowledgeGradient:
    """The knowledge gradient of the risk, over all designs of a small finite space or promising ones."""
    assert s.target is not None
    f = Fantasies(s.gp, s.pending, fantasies, s.seed)
    return RiskKnowledgeGradient(f, s.target, _designs(s, s.target, f, discretisation, np.random.default_rng(s.seed)))


def _designs(s: Situation, target: Target, f: Fantasies, size: int, rng: np.random.Generator) -> Points:
    """All designs of a small finite space, else those of the best risk, half of them by its upper end.

    They are found among visited, quasi-random and perturbed designs, then around the best of these.
    """
    space = target.space
    if space.cardinality <= EXACT_UP_TO:
        A = grid(space)
        return distinct(np.concatenate([visited_designs(s), A[counting(s, A)]]))
    A = visited_designs(s)
    new = candidates(space, rng, A)
    mean, upper = np.empty(0), np.empty(0)
    A = A[:0]
    for scale, copies in ((0.0, 0), *REFINED):
        if copies:
            best = A[np.argsort(-mean, kind="stable")[:BEST]]
            new = space.perturb(np.repeat(best, copies, 0), scale, rng)
            new = new[space.feasible(new)]
        else:
            new = np.concatenate([visited_designs(s), new])
        new = target.designs(new)
        new = distinct(new[counting(s, new)])
        if len(new):
            found = tails(f, target, new, DRAWS // 2)
            A = np.concatenate([A, new])
            mean = np.concatenate([mean, found.mean.mean(0)])
            upper = np.concatenate([upper, found.mean.mean(0) + found.sd])
    order = np.concatenate([np.argsort(-mean, kind="stable")[: size // 2], np.argsort(-upper, kind="stable")])
    return distinct(A[order])[:size]
