"""A fitted Gaussian process as a BoTorch model with the same posterior, its hyperparameters fixed, in float64.

BoTorch's models know values only. Derivatives that were observed become part of the prior: conditioned on them, the
process is again Gaussian, with a mean and a covariance that are written here as modules; the values are then the data.
Warped axes and sums of kernels are written as modules, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from botorch.models import SingleTaskGP
from gpytorch.kernels import Kernel, MaternKernel, ScaleKernel
from gpytorch.means import ConstantMean, Mean
from gpytorch.settings import min_fixed_noise
from torch import Tensor

from .additive import VANISHING, AdditiveKernel
from .kernel import SQRT5, Sites
from .kernel import Kernel as OurKernel
from .models import NOISE_FLOOR, GaussianProcess
from .warping import INSET


def to_botorch(gp: GaussianProcess) -> SingleTaskGP:
    """The model; its training data are the observed values."""
    h, n = gp.hyperparameters, len(gp.data.y)
    mean: Mean
    if gp.data.gradients is None and h.warp is None and h.shares is None:
        kernel: Kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=gp.data.X.shape[1])).double()
        kernel.base_kernel.lengthscale = torch.from_numpy(h.lengthscales[gp.data.groups])
        kernel.outputscale = torch.tensor(h.signal, dtype=torch.float64)
        mean = ConstantMean().double()
        mean.constant = torch.tensor(h.mean, dtype=torch.float64)
    else:
        slopes = _Slopes(gp)
        kernel, mean = _GivenSlopes(slopes), _MeanGivenSlopes(slopes, h.mean)
    with min_fixed_noise(double_value=NOISE_FLOOR / 2):
        model: Any = SingleTaskGP(
            torch.from_numpy(gp.data.X),
            torch.from_numpy(gp.data.y)[:, None],
            train_Yvar=torch.from_numpy(gp.noise[:n])[:, None],
            covar_module=kernel,
            mean_module=mean,
            outcome_transform=None,
        )
    model.requires_grad_(False)
    return model.eval()


class _Slopes:
    """The observed derivatives of a process, and covariances of values with them, as tensors."""

    def __init__(self, gp: GaussianProcess) -> None:
        g, empty = gp.data.gradients, np.empty(0, dtype=np.int64)
        row, column, values = (empty, empty, np.empty(0)) if g is None else (g.row, g.column, g.values)
        K = gp.kernel.sites(gp.data.X, row, column).covariance() + np.diag(gp.noise[len(gp.data.y) :])
        self.L = torch.from_numpy(np.linalg.cholesky(K))
        self.weights = torch.cholesky_solve(torch.from_numpy(values)[:, None], self.L)[:, 0]
        self._parts = [_Part(Sites(part, gp.data.X, row, column)) for part in gp.kernel.parts]
        self._growth = _growth(gp.kernel)

    def prior(self, X: Tensor, Z: Tensor) -> Tensor:
        """The covariances of the values at rows with one another before any derivative."""
        k = torch.stack([part.values(X, Z) for part in self._parts])
        if self._growth is not None:
            k = k * (self._growth(X)[..., :, None] * self._growth(Z)[..., None, :])
        return k.sum(0)

    def variance(self, X: Tensor) -> Tensor:
        """The variances of the values at rows before any derivative."""
        signals = torch.stack([torch.full(X.shape[:-1], part.signal, dtype=X.dtype) for part in self._parts])
        return (signals if self._growth is None else signals * self._growth(X).square()).sum(0)

    def half(self, X: Tensor) -> Tensor:
        """L^-1 times the covariances of the derivatives with the values at rows."""
        k = torch.stack([part.slopes(X) for part in self._parts]).sum(0)
        return torch.linalg.solve_triangular(self.L, k, upper=False)


def _growth(kernel: OurKernel) -> Callable[[Tensor], Tensor] | None:
    """The sizes of the kernel's parts at rows, part by part; None where they are 1."""
    if not isinstance(kernel, AdditiveKernel) or kernel.growth is None:
        return None
    power, columns = kernel.growth.power, torch.from_numpy(kernel.columns)
    target = torch.tensor(kernel.growth.target, dtype=torch.float64)[columns]

    def sizes(X: Tensor) -> Tensor:
        far = (X[..., columns] - target).abs() / torch.maximum(target, 1.0 - target)
        size = (1.0 - (1.0 - VANISHING) * far**power).prod(-1)
        return torch.stack([size, torch.ones_like(size), size])

    return sizes


class _Part:
    """A Matern kernel's covariances of values with values and with derivatives."""

    def __init__(self, sites: Sites) -> None:
        kernel = sites.kernel
        self.signal, self._inverse_lengthscales = kernel.signal, torch.from_numpy(kernel.inverse_lengthscales)
        self._warp = None if kernel.warp is None else (torch.from_numpy(kernel.warp.a), torch.from_numpy(kernel.warp.b))
        self._U, self._column = torch.from_numpy(sites.scaled)[sites.row], torch.from_numpy(sites.column)
        self._J = torch.from_numpy(sites.slopes.J)
        self._u = self._U[torch.arange(len(sites)), self._column]

    def _scaled(self, X: Tensor) -> Tensor:
        if self._warp is not None:
            a, b = self._warp
            log_t = torch.log(INSET + (1.0 - 2.0 * INSET) * X.clamp(0.0, 1.0))
            X = torch.where((a == 1.0) & (b == 1.0), X, -torch.expm1(b * torch.log(-torch.expm1(a * log_t))))
        return X * self._inverse_lengthscales

    def values(self, X: Tensor, Z: Tensor) -> Tensor:
        r = SQRT5 * _distance(self._scaled(X), self._scaled(Z))
        return self.signal * (1.0 + r + r * r / 3.0) * torch.exp(-r)

    def slopes(self, X: Tensor) -> Tensor:
        U = self._scaled(X)
        r = SQRT5 * _distance(self._U, U)
        differences = self._u[:, None] - U.transpose(-1, -2)[..., self._column, :]
        return -(5.0 / 3.0) * self.signal * self._J[:, None] * (1.0 + r) * torch.exp(-r) * differences


class _GivenSlopes(Kernel):
    """The covariance of values given the observed derivatives."""

    def __init__(self, slopes: _Slopes) -> None:
        super().__init__()
        self._slopes = slopes

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: Any
    ) -> Tensor:
        s = self._slopes
        if diag:
            return s.variance(x1) - s.half(x1).square().sum(-2) if x1 is x2 else self._pairs(x1, x2)
        return s.prior(x1, x2) - s.half(x1).transpose(-1, -2) @ s.half(x2)

    def _pairs(self, x1: Tensor, x2: Tensor) -> Tensor:
        s = self._slopes
        each = s.prior(x1[..., None, :], x2[..., None, :])[..., 0, 0]
        return each - (s.half(x1) * s.half(x2)).sum(-2)


class _MeanGivenSlopes(Mean):
    """The mean of values given the observed derivatives."""

    def __init__(self, slopes: _Slopes, constant: float) -> None:
        super().__init__()
        self._slopes, self._constant = slopes, constant

    def forward(self, x: Tensor) -> Tensor:
        s = self._slopes
        half = s.half(x)
        values = s.L.T @ s.weights  # L^-1 times the derivatives
        return self._constant + (half * values[:, None]).sum(-2)


def _distance(U: Tensor, V: Tensor) -> Tensor:
    difference = U[..., :, None, :] - V[..., None, :, :]
    return difference.square().sum(-1).clamp_min(1e-30).sqrt()
