"""Functions drawn from the posterior, which can be evaluated anywhere: Thompson sampling and what builds on it.

Pathwise conditioning (Wilson, Borovitskiy, Terenin, Mostowsky and Deisenroth 2020): a prior draw from random Fourier
features (Rahimi and Recht 2007), corrected by Matheron's rule through the exact Cholesky factor,

    f(x) = m + phi(x) w + k(x, X) K^-1 (y - m - phi(X) w - eps),    eps ~ N(0, noise).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from .acquisition import Acquisition, Batch, Situation, Values, log_positive_part
from .kernel import Indices, Kernel
from .models import GaussianProcess

SOFTNESS = 1e-3  # of the rise of a draw, in standardised units


class FourierFeatures:
    """``count`` draws from the prior of a Matern-5/2 kernel, with the same ``features`` random frequencies.

    Each frequency has a cosine and a sine.
    """

    def __init__(self, kernel: Kernel, *, count: int, features: int, rng: np.random.Generator) -> None:
        self._kernel = kernel
        # The spectral density of the Matern-5/2 kernel is a Student t with 5 degrees of freedom.
        chi = rng.chisquare(5.0, features) / 5.0
        self._omega = rng.standard_normal((features, len(kernel.inverse_lengthscales))) / np.sqrt(chi)[:, None]
        self._w = rng.standard_normal((2, features, count)) * math.sqrt(kernel.signal / features)

    def values(self, X: Batch) -> Float64[np.ndarray, "m s"]:
        """Every draw's value at every row."""
        phase = self._kernel.scaled(X) @ self._omega.T
        return np.cos(phase) @ self._w[0] + np.sin(phase) @ self._w[1]

    def slopes(self, X: Batch, row: Indices, column: Indices) -> Float64[np.ndarray, "t s"]:
        """Every draw's partial derivatives at these rows in these columns."""
        phase = (self._kernel.scaled(X) @ self._omega.T)[row]
        d_phase = self._omega[:, column].T * self._kernel.jacobian(X)[row, column][:, None]
        return (np.cos(phase) * d_phase) @ self._w[1] - (np.sin(phase) * d_phase) @ self._w[0]

    def along(self, i: int, X: Batch) -> tuple[Values, Batch]:
        """The i-th draw and its gradient at every row."""
        w, phase = self._w[:, :, i], self._kernel.scaled(X) @ self._omega.T
        cos, sin = np.cos(phase), np.sin(phase)
        return cos @ w[0] + sin @ w[1], self._kernel.unscaled((cos * w[1] - sin * w[0]) @ self._omega, X)


class Paths:
    """``count`` draws of the noiseless function from the posterior; all share the same random frequencies.

    ``features`` is the number of frequencies, of every part where the kernel is a sum.
    """

    def __init__(self, gp: GaussianProcess, *, count: int, features: int, rng: np.random.Generator) -> None:
        h = gp.hyperparameters
        self._gp = gp
        self._parts = [FourierFeatures(part, count=count, features=features, rng=rng) for part in gp.kernel.parts]
        eps = np.sqrt(gp.noise)[:, None] * rng.standard_normal((len(gp.sites), count))
        residual = gp.data.targets[:, None] - h.mean * gp.sites.basis[:, None] - self._prior_at_data() - eps
        self._v = gp.solve(gp.half_solve(residual))  # (n, count)

    @property
    def count(self) -> int:
        return self._v.shape[1]

    def _prior(self, X: Batch) -> Float64[np.ndarray, "m s"]:
        sizes = self._gp.kernel.sizes(X)
        return np.sum([size[:, None] * part.values(X) for size, part in zip(sizes, self._parts, strict=True)], axis=0)

    def _prior_at_data(self) -> Float64[np.ndarray, "t s"]:
        """What was observed, of the prior draws: their values, and derivatives where those were."""
        gp, g = self._gp, self._gp.data.gradients
        values = self._prior(gp.data.X)
        if g is None:
            return values
        slopes = [part.slopes(gp.data.X, g.row, g.column) for part in self._parts]
        return np.concatenate([values, np.sum(slopes, axis=0)])

    def __call__(self, X: Batch) -> Float64[np.ndarray, "m s"]:
        """Every draw's value at every row."""
        return self._gp.hyperparameters.mean + self._prior(X) + self._gp.sites.cross(X).k @ self._v

    def along(self, i: int) -> Acquisition:
        """The i-th draw itself (no logarithm), with its gradient."""
        gp, v = self._gp, self._v[:, i]

        def draw(X: Batch) -> tuple[Values, Batch]:
            cross = gp.sites.cross(X)
            value = gp.hyperparameters.mean + cross.k @ v
            gradient = cross.pull(np.broadcast_to(v, cross.k.shape))
            for part, size, slope in zip(self._parts, gp.kernel.sizes(X), gp.kernel.log_slopes(X), strict=True):
                prior, d_prior = part.along(i, X)
                value = value + size * prior
                gradient = gradient + size[:, None] * (d_prior + prior[:, None] * slope)
            return value, gradient

        return draw


def thompson(s: Situation, *, features: int) -> Acquisition:
    """One function drawn from the posterior, above its value at the best base point, as the log of its positive part.

    Every suggestion has a draw of its own, so those of a batch differ, and pending trials change nothing.
    """
    paths = Paths(s.gp, count=1, features=features, rng=np.random.default_rng(s.seed))
    return rise(paths.along(0), float(paths(s.base[s.attainable]).max()))


def rise(draw: Acquisition, floor: float) -> Acquisition:
    """A function's rise above a floor, as the log of its positive part."""

    def evaluate(X: Batch) -> tuple[Values, Batch]:
        value, gradient = draw(X)
        value, slope = log_positive_part(value - floor, SOFTNESS)
        return value, slope[:, None] * gradient

    return evaluate
