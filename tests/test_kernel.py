"""Covariances of values and derivatives, of one kernel and of a sum, against GPyTorch and finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gpytorch.kernels import Matern52KernelGrad, MaternKernel

from suffice.optimizer.additive import VANISHING, AdditiveKernel, Growth
from suffice.optimizer.kernel import VALUE, Kernel
from suffice.optimizer.warping import Warp

LENGTHSCALES = np.array([0.4, 0.9, 0.6])
WARP = Warp(np.array([0.6, 1.0, 2.0]), np.array([1.5, 1.0, 0.7]))
X = np.random.default_rng(0).random((4, 3))
ROW, COLUMN = np.array([0, 1, 2, 3, 0, 0, 2, 2, 2]), np.array([VALUE] * 4 + [0, 2, 0, 1, 2])
H = 1e-5
KERNELS = [
    Kernel(1.7, 1 / LENGTHSCALES),
    Kernel(1.7, 1 / LENGTHSCALES, WARP),
    AdditiveKernel(1.7, 1 / LENGTHSCALES, WARP, (False, True, False), (0.5, 0.3, 0.2)),
]
GROWN = AdditiveKernel(1.7, 1 / LENGTHSCALES, WARP, (False, True, False), (0.5, 0.3, 0.2), Growth((0.0, 0.7, 0.0), 1.5))
OF_DESIGNS = COLUMN != 1  # with growth, derivatives are those in the columns of designs


def test_values_and_all_gradients_are_gpytorchs() -> None:
    theirs = Matern52KernelGrad(ard_num_dims=3).double()
    theirs.lengthscale = torch.from_numpy(LENGTHSCALES)
    expected = 1.7 * theirs(torch.from_numpy(X)).to_dense().detach().numpy()
    row, column = np.repeat(np.arange(4), 4), np.tile([VALUE, 0, 1, 2], 4)
    np.testing.assert_allclose(KERNELS[0].sites(X, row, column).covariance(), expected, atol=1e-7)


def test_a_sum_of_kernels_is_gpytorchs() -> None:
    expected = torch.zeros(4, 5, dtype=torch.float64)
    A = np.random.default_rng(1).random((5, 3))
    for share, columns in ((0.5, [0, 2]), (0.3, [1]), (0.2, [0, 1, 2])):
        part = MaternKernel(nu=2.5, ard_num_dims=len(columns), active_dims=columns).double()
        part.lengthscale = torch.from_numpy(LENGTHSCALES[columns])
        expected += 1.7 * share * part(torch.from_numpy(X), torch.from_numpy(A)).to_dense().detach()
    kernel = AdditiveKernel(1.7, 1 / LENGTHSCALES, None, (False, True, False), (0.5, 0.3, 0.2))
    np.testing.assert_allclose(kernel.covariance(X, A), expected, atol=1e-7)
    np.testing.assert_allclose(kernel.variance(X), np.diag(kernel.covariance(X, X)))


def test_designs_differ_the_less_the_farther_from_the_target() -> None:
    """f = a(s) (g(x) + delta(x, s)) + h(s), with a = 1 - (|s - target| / the largest)^power."""
    A = np.random.default_rng(1).random((5, 3))
    plain = [
        AdditiveKernel(1.7, 1 / LENGTHSCALES, WARP, GROWN.apart, shares) for shares in ((0.5, 0, 0.2), (0, 0.3, 0))
    ]
    a, b = (1 - (1 - VANISHING) * (np.abs(rows[:, 1] - 0.7) / 0.7) ** 1.5 for rows in (X, A))
    expected = np.outer(a, b) * plain[0].covariance(X, A) + plain[1].covariance(X, A)
    np.testing.assert_allclose(GROWN.covariance(X, A), expected)
    np.testing.assert_allclose(GROWN.sites(X).cross(A).k, expected.T)
    np.testing.assert_allclose(GROWN.variance(X), np.diag(GROWN.covariance(X, X)))
    np.testing.assert_allclose(GROWN.sites(X).variance, GROWN.variance(X))
    weights = np.random.default_rng(2).standard_normal(5)
    numeric = np.zeros_like(A)
    for c in range(3):
        step = H * np.eye(3)[c]
        numeric[:, c] = weights * (GROWN.variance(A + step) - GROWN.variance(A - step)) / (2 * H)
    np.testing.assert_allclose(GROWN.pull_variance(weights, A), numeric, atol=1e-8)


def test_derivatives_of_what_grows() -> None:
    rng, row, column = np.random.default_rng(1), ROW[OF_DESIGNS], COLUMN[OF_DESIGNS]
    sites, A = GROWN.sites(X, row, column), rng.random((5, 3))
    K, k, weights = sites.covariance(), sites.cross(A).k, rng.standard_normal((5, len(row)))
    for t in np.flatnonzero(column != VALUE):
        step = H * np.eye(3)[column[t]]
        up, down = X[row[t]][None] + step, X[row[t]][None] - step
        numeric = (GROWN.covariance(A, up) - GROWN.covariance(A, down))[:, 0] / (2 * H)
        np.testing.assert_allclose(k[:, t], numeric, atol=1e-7)
    np.testing.assert_allclose(sites.between(sites), K, atol=1e-6)
    assert np.linalg.eigvalsh(K).min() > 0
    numeric = np.zeros_like(A)
    for c in range(3):
        step = H * np.eye(3)[c]
        numeric[:, c] = (weights * (sites.cross(A + step).k - sites.cross(A - step).k)).sum(1) / (2 * H)
    np.testing.assert_allclose(sites.cross(A).pull(weights), numeric, atol=1e-6)

    W = rng.standard_normal((len(row), len(row)))
    W += W.T

    def value(log_lengthscales: np.ndarray) -> float:
        moved = replace(GROWN, inverse_lengthscales=np.exp(-log_lengthscales))
        return 0.5 * float((W * moved.sites(X, row, column).covariance()).sum())

    d_scaled, d_log_J = sites.among().pull(W)
    theta = np.log(LENGTHSCALES)
    numeric = np.array([(value(theta + s) - value(theta - s)) / (2 * H) for s in H * np.eye(3)])
    np.testing.assert_allclose(-(d_scaled * sites.scaled + d_log_J).sum(0), numeric, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_derivatives_are_limits_of_differences(kernel: Kernel) -> None:
    sites = kernel.sites(X, ROW, COLUMN)
    K, A = sites.covariance(), np.random.default_rng(1).random((5, 3))
    k = sites.cross(A).k
    for t in np.flatnonzero(COLUMN != VALUE):
        step = H * np.eye(3)[COLUMN[t]]
        up, down = X[ROW[t]][None] + step, X[ROW[t]][None] - step
        np.testing.assert_allclose(
            k[:, t], (kernel.covariance(A, up) - kernel.covariance(A, down))[:, 0] / (2 * H), atol=1e-7
        )
        apart = ROW[t] != ROW
        np.testing.assert_allclose(
            K[t, apart], ((sites.cross(up).k - sites.cross(down).k)[0] / (2 * H))[apart], rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(np.diag(K), sites.variance)
    assert np.linalg.eigvalsh(K).min() > 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_covariances_with_derivatives_are_pulled_back_to_rows(kernel: Kernel) -> None:
    sites, rng = kernel.sites(X, ROW, COLUMN), np.random.default_rng(1)
    A = rng.random((5, 3))
    weights = rng.standard_normal((5, len(sites)))
    numeric = np.zeros_like(A)
    for c in range(3):
        step = H * np.eye(3)[c]
        numeric[:, c] = (weights * (sites.cross(A + step).k - sites.cross(A - step).k)).sum(1) / (2 * H)
    np.testing.assert_allclose(sites.cross(A).pull(weights), numeric, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_covariance_among_sites_is_pulled_back_to_hyperparameters(kernel: Kernel) -> None:
    rng = np.random.default_rng(1)
    W = rng.standard_normal((9, 9))
    W += W.T
    warp = kernel.warp or Warp(np.ones(3), np.ones(3))
    theta = np.log(np.concatenate([LENGTHSCALES, warp.a, warp.b]))

    def value(theta: np.ndarray) -> float:
        scales, a, b = np.exp(theta).reshape(3, 3)
        moved = replace(kernel, inverse_lengthscales=1 / scales, warp=None if kernel.warp is None else Warp(a, b))
        return 0.5 * float((W * moved.sites(X, ROW, COLUMN).covariance()).sum())

    sites = kernel.sites(X, ROW, COLUMN)
    d_scaled, d_log_J = sites.among().pull(W)
    ours = [-(d_scaled * sites.scaled + d_log_J).sum(0), *warp.pull(X, d_scaled / LENGTHSCALES, d_log_J)]
    steps = H * np.eye(9)
    numeric = np.array([(value(theta + s) - value(theta - s)) / (2 * H) for s in steps]).reshape(3, 3)
    still = kernel.warp is None
    np.testing.assert_allclose(ours[0], numeric[0], rtol=1e-5)
    if not still:  # a column that is as it was stays so: a = b = 1 means that it is not warped
        for mine, theirs in zip(ours[1:], numeric[1:], strict=True):
            np.testing.assert_allclose(mine[[0, 2]], theirs[[0, 2]], rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_sites_grow_by_values_and_by_derivatives(kernel: Kernel) -> None:
    more = np.random.default_rng(2).random((2, 3))
    values = kernel.sites(X).beside(more)
    np.testing.assert_array_equal(values.covariance(), kernel.sites(np.concatenate([X, more])).covariance())
    grown = kernel.sites(X, ROW, COLUMN).beside(more, np.array([VALUE, 1]))
    assert grown.row[-4:].tolist() == [4, 4, 5, 5]
    assert grown.basis.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0]
    np.testing.assert_allclose(grown.covariance()[:9, :9], kernel.sites(X, ROW, COLUMN).covariance())
    np.testing.assert_allclose(grown.covariance()[[9, 11], :9], kernel.sites(X, ROW, COLUMN).cross(more).k)


@pytest.mark.parametrize("kernel", KERNELS)
def test_covariances_between_two_sets_of_sites(kernel: Kernel) -> None:
    sites = kernel.sites(X, ROW, COLUMN)
    np.testing.assert_allclose(sites.between(sites), sites.covariance(), atol=1e-6)
    A = np.random.default_rng(1).random((3, 3))
    np.testing.assert_allclose(sites.between(kernel.sites(A)), sites.cross(A).k.T, atol=1e-12)
    others = kernel.sites(A, np.array([0, 0, 1, 2, 2]), np.array([1, 2, VALUE, 0, 1]))
    both = kernel.sites(np.concatenate([X, A]), np.concatenate([ROW, 4 + others.row]), np.r_[COLUMN, others.column])
    np.testing.assert_allclose(sites.between(others), both.covariance()[:9, 9:], atol=1e-12)


def test_a_warp_is_monotone_keeps_the_ends_and_knows_its_slope() -> None:
    x = np.linspace(0.0, 1.0, 101)[:, None] * np.ones(3)
    w = WARP(x)
    assert (np.diff(w, axis=0) > 0).all()
    np.testing.assert_allclose(w[[0, -1]], [[0, 0, 0], [1, 1, 1]], atol=1e-3)
    np.testing.assert_array_equal(w[:, 1], x[:, 1])
    inside = x[5:-5]
    np.testing.assert_allclose(WARP.slope(inside), (WARP(inside + H) - WARP(inside - H)) / (2 * H), rtol=1e-6)
    assert math.isclose(
        float(Warp(np.array([2.0]), np.array([3.0]))(np.array([[0.5]]))[0, 0]), 1 - 0.75**3, rel_tol=1e-5
    )
