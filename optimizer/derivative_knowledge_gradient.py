"""The knowledge gradient when the next trial brings derivatives as well (d-KG; Wu, Poloczek, Wilson and Frazier 2017).

An observation at x is then a vector, the value and partial derivatives, each with noise. It moves the posterior mean at
a by b(a, x) . Z, with Z standard normal in as many dimensions and b(a, x) = cov(f(a), observation) C^-T, where C C' is
the covariance of the observation (eq. 3.3 there). Of Z all components but the first are drawn, quasi-randomly and in
antithetic pairs; given those, the best mean over finitely many points is again a maximum of lines, whose expectation
over the first component has a closed form (`knowledge_gradient.py`). A pair's expectation is at least the best mean
now, so the average is never negative. The gradient in x is by central differences: its closed form would take third
derivatives of the kernel for a gain in speed only.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import logsumexp

from .acquisition import Batch, Situation, Values, normal_draws
from .kernel import SLOPE_VARIANCE, VALUE
from .knowledge_gradient import NOTHING, Fantasies, Points, discretised, expected_rise
from .models import NOISE_FLOOR, GaussianProcess, half_solve

STEP = 1e-5  # of the differences, in the cube
ROWS = 256  # rows of x that are worked on at once


class DerivativeKnowledgeGradient:
    """log of the expected rise of the best posterior mean over A and x, after value and derivatives at x were observed.

    ``columns`` are those whose derivatives come with the next trial, ``moving`` those along which x is moved.
    """

    def __init__(
        self,
        fantasies: Fantasies,
        A: Points,
        columns: Int64[np.ndarray, " c"],
        moving: Int64[np.ndarray, " v"],
        *,
        draws: int,
        seed: int,
    ) -> None:
        self.A, self._fantasies, self._moving = A, fantasies, moving
        self._column = np.concatenate([[VALUE], columns])
        self._sites = fantasies.gp.kernel.sites(A)
        self._V = fantasies.half_solve(fantasies.sites.cross(A))  # (t, l)
        self._means = fantasies.means(A).T  # (f, l)
        # every fantasy gets as many pairs as any other; powers of 2 balance
        pairs = max(draws // 2, self._means.shape[0])
        Z = normal_draws(len(columns), 1 << (pairs - 1).bit_length(), seed)[:, :pairs] if len(columns) else None
        self._Z = np.zeros((0, 2)) if Z is None else np.concatenate([Z, -Z], axis=1)  # (c, s)
        self._fantasy = np.tile(np.arange(self._Z.shape[1] // 2) % self._means.shape[0], 2)

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        steps = STEP * np.eye(X.shape[1])[self._moving]
        moved = [X, *(X + s for s in steps), *(X - s for s in steps)]
        values = self.value(np.concatenate(moved)).reshape(len(moved), len(X))
        gradient = np.zeros_like(X)
        up, down = np.split(values[1:], 2)
        gradient[:, self._moving] = ((up - down) / (2.0 * STEP)).T
        return values[0], gradient

    def value(self, X: Batch) -> Values:
        """The logarithm alone."""
        parts = [self._value(X[i : i + ROWS]) for i in range(0, len(X), ROWS)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _value(self, X: Batch) -> Values:
        m = len(X)
        mean, b = self._lines(X)
        a = np.concatenate([np.broadcast_to(self._means, (m, *self._means.shape)), mean[:, :, None]], axis=2)
        a = a[:, self._fantasy] + (b[:, :, 1:] @ self._Z).transpose(0, 2, 1)  # (m, s, l + 1)
        s, lines = a.shape[1:]
        best = a[:, :, :-1].max(2)
        slopes = np.repeat(b[:, :, 0], s, axis=0)
        rise = expected_rise(a.reshape(m * s, lines), slopes, best.ravel()).log.reshape(m, s)
        shift = best.mean(1) - self._means[self._fantasy].max(1).mean()
        with np.errstate(divide="ignore"):
            shift = np.where(shift > 1e-13 * (1.0 + np.abs(best).max(1)), np.log(np.maximum(shift, 0.0)), NOTHING)
        return np.logaddexp(np.asarray(logsumexp(rise, axis=1)) - math.log(s), shift)

    def _lines(self, X: Batch) -> tuple[Float64[np.ndarray, "m f"], Float64[np.ndarray, "m l q"]]:
        """Means at x per fantasy, and b(a, x) of every a in A and then of x itself."""
        f, m, q = self._fantasies, len(X), len(self._column)
        kernel = f.gp.kernel
        sites = kernel.sites(X, np.repeat(np.arange(m), q), np.tile(self._column, m))
        k = f.sites.between(sites)
        V = half_solve(f.L, k)
        with_A = (self._sites.between(sites) - self._V.T @ V).reshape(-1, m, q).transpose(1, 0, 2)
        V = V.reshape(-1, m, q).transpose(1, 0, 2)
        C = -V.transpose(0, 2, 1) @ V
        C[:, np.arange(q), np.arange(q)] += sites.variance.reshape(m, q)
        own = C[:, :1].copy()
        C[:, np.arange(q), np.arange(q)] += _noises(f, self._column) + 1e-10 * sites.variance.reshape(m, q)
        L = np.linalg.cholesky(C)
        covariances = np.concatenate([with_A, own], axis=1)  # (m, l + 1, q)
        b = np.linalg.solve(L, covariances.transpose(0, 2, 1)).transpose(0, 2, 1)
        values = k.reshape(-1, m, q)[:, :, 0]
        return f.gp.hyperparameters.mean + values.T @ f.alpha, b


def _noises(f: Fantasies, column: Int64[np.ndarray, " q"]) -> Float64[np.ndarray, " q"]:
    """The noise variances of the next value and derivatives: those of the observed ones, per column."""
    gp = f.gp
    noise = np.full(len(column), f.noise)
    for i, c in enumerate(column):
        if c != VALUE:
            noise[i] = _slope_noise(gp, int(c))
    return noise


def _slope_noise(gp: GaussianProcess, column: int) -> float:
    g, h = gp.data.gradients, gp.hyperparameters
    if g is not None and (same := g.column == column).any():
        return h.slope_noise * float(g.mean_square[same][0])
    return NOISE_FLOOR * SLOPE_VARIANCE * h.signal * float(gp.kernel.inverse_lengthscales[column]) ** 2


def derivative_knowledge_gradient(
    s: Situation, discretisation: int, fantasies: int, draws: int
) -> DerivativeKnowledgeGradient:
    """d-KG over a whole small finite space, else over ``discretisation`` points of it.

    The derivatives that come are those in columns where some were observed; before that, in all numbers searched.
    """
    f = Fantasies(s.gp, s.pending, fantasies, s.seed)
    numbers = np.flatnonzero(s.space.ordered & ~s.space.columns(s.space.fixed))
    columns = numbers if s.gp.data.gradients is None else np.unique(s.gp.data.gradients.column)
    A = discretised(s, f, discretisation, np.random.default_rng(s.seed))
    return DerivativeKnowledgeGradient(f, A, columns, numbers, draws=draws, seed=s.seed)
