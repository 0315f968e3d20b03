"""Expected hypervolume improvement: the volume that one more configuration is expected to add, in closed form.

A set of configurations is worth the volume it dominates above a reference point, in standardised y with all objectives
larger better. What is not dominated yet falls into boxes [l, u); a value y adds the product over objectives of
(min(y, u) - l)+ in each of them, and for independent normal objectives the expectation of a product is the product of
expectations (Emmerich, Yang, Deutz, Wang and Fonseca 2016 for two objectives; Yang, Emmerich, Deutz and Back 2019).
As in `NoisyExpectedImprovement`, the values of observed and pending configurations are drawn, and the improvement is
averaged over the draws (the noisy form of Daulton, Balandat and Bakshy 2021, exact in x instead of Monte Carlo).
Everything is a logarithm, so that nothing underflows far from the front (Ament et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import log_ndtr, logsumexp

from .acquisition import LOG_SQRT_2PI, Batch, Draws, Values, log_h, normal_draws
from .models import GaussianProcess
from .pareto import non_dominated

DRAWS = 16  # of the noiseless values at observed and pending points
NARROW = 1e-5  # width of a box, in standard deviations, up to which its middle stands for it
NOTHING = -1e300  # log of the volume in a box that does not count

Boxes = Float64[np.ndarray, "s c k"]  # per draw (s), box (c) and objective (k)
Cells = Float64[np.ndarray, "m s c"]


class HypervolumeImprovement:
    """log of the expected rise in dominated volume above ``reference``, one process per objective.

    ``attainable`` says which base points form the front. Raises FitError as `Draws` does.
    """

    def __init__(
        self,
        gps: Sequence[GaussianProcess],
        reference: Float64[np.ndarray, " k"],
        base: Float64[np.ndarray, "b d"],
        attainable: Bool[np.ndarray, " b"],
        *,
        draws: int,
        seed: int,
    ) -> None:
        normals = normal_draws(len(gps) * len(base), draws, seed).reshape(len(gps), len(base), -1)  # independent ones
        self._draws = [Draws(gp, base, z if draws > 1 else None) for gp, z in zip(gps, normals, strict=True)]
        Y = np.stack([d.values[attainable] for d in self._draws], axis=2)  # (a, s, k)
        self._lower, self._upper = _stacked([boxes(Y[:, s], reference) for s in range(Y.shape[1])])

    def __call__(self, X: Batch) -> tuple[Values, Batch]:
        """The logarithm, and its gradient, at every row of X."""
        drawn = [d.at(X) for d in self._draws]
        sides = [
            _side(d.mean[:, :, None], d.sd[:, None, None], self._lower[:, :, j], self._upper[:, :, j])
            for j, d in enumerate(drawn)
        ]
        log_volume = sum(side.log for side in sides)
        total = np.asarray(logsumexp(log_volume, axis=(1, 2)))
        share = np.exp(log_volume - total[:, None, None])
        gradient = np.zeros_like(X)
        for d, side in zip(drawn, sides, strict=True):
            gradient += d.pull((share * side.d_mean).sum(2), (share * side.d_sd).sum((1, 2)))
        return total - math.log(len(self._lower)), gradient


@dataclass(frozen=True)
class _Side:
    """log E[(min(y, u) - l)+] of a normal y, and its derivatives in the mean and the standard deviation."""

    log: Cells
    d_mean: Cells
    d_sd: Cells


def _side(
    mean: Float64[np.ndarray, "m s 1"],
    sd: Float64[np.ndarray, "m 1 1"],
    lower: Float64[np.ndarray, "s c"],
    upper: Float64[np.ndarray, "s c"],
) -> _Side:
    """One side of the boxes: E = sd (h(z_l) - h(z_u)), with h(z) = phi(z) + z Phi(z); no upper end: the first term."""
    exists = np.isfinite(lower)
    z = (mean - np.where(exists, lower, 0.0)) / sd
    bounded = np.isfinite(upper) & exists
    if not bounded.any():
        log = log_h(z)
        by_mean, by_sd = np.exp(log_ndtr(z) - log), np.exp(-0.5 * z * z - LOG_SQRT_2PI - log)
    else:
        width = np.where(bounded, np.where(bounded, upper, 1.0) - np.where(exists, lower, 0.0), math.inf) / sd
        log, by_mean, by_sd = _between(z, width)
    return _Side(np.where(exists, log + np.log(sd), NOTHING), by_mean / sd, by_sd / sd)


def _between(z: Cells, width: Cells) -> tuple[Cells, Cells, Cells]:
    """log(h(z) - h(z - width)), and the differences of Phi and of phi over that difference."""
    z_u = np.where(np.isfinite(width), z - width, np.minimum(z, 0.0) - 1e3)  # no upper end: nothing is beyond
    log = log_h(z)
    log = log + np.log(np.maximum(-np.expm1(np.minimum(log_h(z_u) - log, 0.0)), 1e-300))
    # far above the box h(z) = z + h(-z) leaves the width; of a narrow box only the middle counts
    above, narrow = z_u > 2.0, width < NARROW
    over = np.exp(log_h(np.where(above, -z_u, -1.0))) - np.exp(log_h(np.where(above, -z, -1.0)))
    log = np.where(above, np.log(np.maximum(np.where(above, width, 1.0) - over, 1e-300)), log)
    middle = np.where(narrow, z - 0.5 * np.where(narrow, width, 0.0), 0.0)
    log_Phi = log_ndtr(middle)
    log = np.where(narrow, np.log(np.maximum(width, 1e-300)) + log_Phi, log)
    by_mean = np.exp(log_ndtr(z) - log) - np.exp(np.where(narrow, -np.inf, log_ndtr(z_u) - log))
    by_sd = np.exp(_log_phi(z) - log) - np.exp(np.where(narrow, -np.inf, _log_phi(z_u) - log))
    ratio = np.exp(_log_phi(middle) - log_Phi)
    return log, np.where(narrow, ratio, by_mean), np.where(narrow, -middle * ratio, by_sd)


def _log_phi(z: np.ndarray) -> np.ndarray:
    return -0.5 * z * z - LOG_SQRT_2PI


def boxes(
    Y: Float64[np.ndarray, "n k"], reference: Float64[np.ndarray, " k"]
) -> tuple[Float64[np.ndarray, "c k"], Float64[np.ndarray, "c k"]]:
    """Lower and upper corners of disjoint boxes that make up what no row of Y dominates above ``reference``.

    Two objectives give one strip per point of the front and one more; with others the boxes come from BoTorch.
    """
    Y = Y[(reference < Y).all(1)]
    front = Y[non_dominated(Y)]
    if len(reference) != 2:
        return _partitioned(front, reference)
    front = front[np.argsort(front[:, 0])]
    edges = np.concatenate([[reference[0]], front[:, 0], [math.inf]])
    floor = np.concatenate([front[:, 1], [reference[1]]])
    return np.column_stack([edges[:-1], floor]), np.column_stack([edges[1:], np.full(len(floor), math.inf)])


def _partitioned(
    front: Float64[np.ndarray, "n k"], reference: Float64[np.ndarray, " k"]
) -> tuple[Float64[np.ndarray, "c k"], Float64[np.ndarray, "c k"]]:
    import torch
    from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning

    partitioning = FastNondominatedPartitioning(torch.from_numpy(reference), torch.from_numpy(front))
    lower, upper = partitioning.get_hypercell_bounds().numpy()
    return lower, upper


def _stacked(decompositions: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Boxes, Boxes]:
    """The boxes of every draw; where a draw has fewer than another, the rest have no lower corner."""
    size = max(len(lower) for lower, _ in decompositions)
    shape = (len(decompositions), size, decompositions[0][0].shape[1])
    lower, upper = np.full(shape, math.inf), np.full(shape, math.inf)
    for s, (low, high) in enumerate(decompositions):
        lower[s, : len(low)], upper[s, : len(high)] = low, high
    return lower, upper
