"""BoTorch's acquisition functions as ours: rows of the cube in, logarithms with gradients out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from .acquisition import Acquisition, Batch, Values, log_positive_part

if TYPE_CHECKING:
    from torch import Tensor

SOFTNESS = 1e-4  # below it a value counts as nothing
ROWS = 64  # per evaluation: what automatic differentiation keeps grows with them


def from_botorch(
    acquisition: Callable[[Tensor], Tensor], *, logarithmic: bool = False, rows: int = ROWS
) -> Acquisition:
    """A BoTorch acquisition of one point (rows 1 d in, larger is better), evaluated with automatic gradients.

    The logarithm of its positive part, or its value itself where it is ``logarithmic`` already. Rows at which it fails
    numerically come out as -inf, and gradients that are not finite as zero.
    """

    def evaluate(X: Batch) -> tuple[Values, Batch]:
        if not len(X):
            return np.empty(0), np.empty_like(X)
        pieces = [_evaluate(acquisition, X[i : i + rows]) for i in range(0, len(X), rows)]
        value, gradient = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        sound = np.isfinite(value)
        if not logarithmic:
            value, slope = log_positive_part(np.where(sound, value, 0.0), SOFTNESS)
            gradient = slope[:, None] * gradient
        return np.where(sound, value, -np.inf), np.where(sound[:, None] & np.isfinite(gradient), gradient, 0.0)

    return evaluate


def _evaluate(acquisition: Callable[[Tensor], Tensor], X: Batch) -> tuple[Values, Batch]:
    """Values and gradients; where the rows fail together each is tried alone, and is not a number if it fails again."""
    import torch

    x = torch.tensor(X[:, None, :], dtype=torch.float64, requires_grad=True)
    try:
        with quiet():
            value = acquisition(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
    except numerical_failures():
        if len(X) == 1:
            return np.full(1, np.nan), np.zeros_like(X)
        values, gradients = zip(*(_evaluate(acquisition, row[None]) for row in X), strict=True)
        return np.concatenate(values), np.concatenate(gradients)
    return value.detach().numpy(), gradient[:, 0].numpy()


@contextmanager
def quiet() -> Generator[None]:
    """Without warnings of jitter that was added: what a suggestion needed is in its source."""
    from linear_operator.utils.warnings import NumericalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        yield


def numerical_failures() -> tuple[type[Exception], ...]:
    """What BoTorch raises where a matrix is not positive definite or a number is none."""
    from botorch.exceptions.errors import InputDataError
    from linear_operator.utils.errors import NanError, NotPSDError
    from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # it is there, but not in the stubs

    return InputDataError, LinAlgError, NanError, NotPSDError
