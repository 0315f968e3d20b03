"""When another candidate of a denoising step is worth its price, given what earlier images taught.

Two things that a rule for answers cannot know decide how many candidates a step deserves. One is how much of a gain
survives: a candidate that looks better early owes it partly to an estimate that later steps revise. With m_i the mean
of the candidates' values at step i and g_i what the kept one has more, over n steered images,

    m_(i+1) = c + beta_i m_i + gamma_i g_i + noise,    w_i = gamma_i beta_(i+1) beta_(i+2) ...

is the share of a gain at step i that is left at the end. If values were exact expectations of the reward, coefficients
were 1: they are drawn there as if by ten more images, and kept from rising above. The other is how far candidates
scatter, before any but the first is drawn: sd_i over the images, times the factor that an image showed at its earlier
steps. Another candidate then is worth

    w_i s E[(T - (best - m) / s)+],    s^2 = (1 + 1/n) (nu0 sd^2 + sum (v - m)^2) / nu,    nu = nu0 + n - 1

with T Student-t of nu degrees of freedom, less what lies above a ceiling of the reward. This is the one-step rule; it
is optimal where the law is known (Weitzman 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from suffice.optimizer.beacon import one_step
from suffice.optimizer.errors import InvalidInput
from suffice.optimizer.stopping import positive

LEAST = 30  # images for three coefficients per step
PRIOR = 10.0  # images that the belief in lasting gains weighs as much as
STRENGTH = 3.0  # nu0: candidates that what is known beforehand weighs as much as


@dataclass(frozen=True, eq=False)
class Worth:
    """What gains are worth at each step, and how far candidates scatter there."""

    share: Float64[np.ndarray, " s"]
    sd: Float64[np.ndarray, " s"]

    @classmethod
    def of(cls, values: Sequence[Float64[np.ndarray, "n m"]]) -> Worth:
        """From the candidates' values of n images, per step that chose the best of at least two for each of them.

        Raises InvalidInput for fewer than 30 images, or where a step chose among fewer than two.
        """
        if not values or min(len(v) for v in values) < LEAST or min(v.shape[1] for v in values) < 2:
            got = [v.shape for v in values][:1]
            raise InvalidInput("values", f"of at least {LEAST} images and two candidates at every step", got)
        means = [v.mean(1) for v in values]
        gains = [v.max(1) - m for v, m in zip(values, means, strict=True)]
        share, kept = np.ones(len(values)), 1.0
        for i in reversed(range(len(values) - 1)):
            beta, gamma = _survival(means[i], gains[i], means[i + 1])
            share[i] = gamma * kept
            kept *= beta
        return cls(share, np.array([float(v.var(1, ddof=1).mean() ** 0.5) for v in values]))


def _survival(
    mean: Float64[np.ndarray, " n"], gain: Float64[np.ndarray, " n"], after: Float64[np.ndarray, " n"]
) -> tuple[float, float]:
    """beta and gamma: least squares on standardised inputs with a ridge towards 1, within [0, 1]."""
    found = np.ones(2)
    inputs = np.column_stack([mean, gain])
    inputs = inputs - inputs.mean(0)
    scale = inputs.std(0)
    told = scale > 0
    X = inputs[:, told] / scale[told]
    left = after - after.mean() - inputs.sum(1)
    found[told] += np.linalg.solve(X.T @ X + PRIOR * np.eye(told.sum()), X.T @ left) / scale[told]
    beta, gamma = found.clip(0.0, 1.0).tolist()
    return beta, gamma


@dataclass(frozen=True, eq=False)
class Priced:
    """Draw candidates while another one is worth more than ``price``, in the reward's unit, by what ``worth`` says.

    ``ceiling`` is what no reward exceeds, such as 0 for a log-probability: gains beyond it are not expected.
    """

    worth: Worth
    price: float
    ceiling: float = np.inf

    def __post_init__(self) -> None:
        positive("price", self.price)
        if np.isnan(self.ceiling):
            raise InvalidInput("ceiling", "a number", self.ceiling)


class Scatter:
    """The scatter of candidates' values of n images, carried from step to step: sd_i times each image's own factor."""

    def __init__(self, n: int, priced: Priced) -> None:
        self.priced, self.factor, self.step = priced, np.ones(n), 0

    def enough(self, values: Float64[np.ndarray, "r m"], rows: Int64[np.ndarray, " r"]) -> Bool[np.ndarray, " r"]:
        """Which of these images have enough candidates at the present step."""
        n = values.shape[1]
        nu, variance = self._posterior(values, rows)
        s = np.maximum(np.sqrt(variance * (1.0 + 1.0 / n)), 1e-300)
        mean, best = values.mean(1), values.max(1)
        gain = s * one_step((best - mean) / s, nu)
        if self.priced.ceiling < np.inf:
            gain = gain - s * one_step((np.maximum(self.priced.ceiling, best) - mean) / s, nu)
        enough: np.ndarray = self.priced.worth.share[self.step] * gain <= self.priced.price
        return enough

    def end_step(self, values: Float64[np.ndarray, "n m"]) -> None:
        """Go on to the next step, with what each image's candidates (NaN after it stopped) showed."""
        sd = self.priced.worth.sd[self.step]
        for m in np.unique((~np.isnan(values)).sum(1)):
            rows = np.flatnonzero((~np.isnan(values)).sum(1) == m)
            if m > 1 and sd > 0:
                self.factor[rows] = np.sqrt(self._posterior(values[rows][:, :m], rows)[1]) / sd
        self.step += 1

    def _posterior(self, values: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """Degrees of freedom and variance of an image's candidates."""
        nu = STRENGTH + values.shape[1] - 1.0
        before = STRENGTH * (self.factor[rows] * self.priced.worth.sd[self.step]) ** 2
        return nu, (before + values.shape[1] * values.var(1)) / nu
