"""BoTorch's acquisition functions as ours: rows of the cube in, logarithms with gradients out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .acquisition import Acquisition, Batch, Values, log_positive_part

if TYPE_CHECKING:
    from botorch.acquisition.acquisition import AcquisitionFunction

SOFTNESS = 1e-4  # below it a value counts as nothing
ROWS = 64  # per evaluation: what automatic differentiation keeps grows with them


def from_botorch(acquisition: AcquisitionFunction, *, logarithmic: bool = False, rows: int = ROWS) -> Acquisition:
    """A BoTorch acquisition of one point (q = 1, larger is better), evaluated row by row with automatic gradients.

    The logarithm of its positive part, or its value itself where it is ``logarithmic`` already. Rows at which it is not
    a number come out as -inf, and gradients that are not finite as zero.
    """

    def evaluate(X: Batch) -> tuple[Values, Batch]:
        if not len(X):
            return np.empty(0), np.empty_like(X)
        pieces = [_evaluate(acquisition, X[i : i + rows]) for i in range(0, len(X), rows)]
        value, gradient = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        if not logarithmic:
            value, slope = log_positive_part(value, SOFTNESS)
            gradient = slope[:, None] * gradient
        sound = np.isfinite(gradient) & np.isfinite(value)[:, None]
        return np.where(np.isnan(value), -np.inf, value), np.where(sound, gradient, 0.0)

    return evaluate


def _evaluate(acquisition: AcquisitionFunction, X: Batch) -> tuple[Values, Batch]:
    import torch

    x = torch.tensor(X[:, None, :], dtype=torch.float64, requires_grad=True)
    value = acquisition(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach().numpy(), gradient[:, 0].numpy()
