"""Distances of images agree with closed forms, enumeration and SciPy, and say what they cannot take."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor

from suffice.adapters.diffusion.quality import (
    Anchor,
    Frechet,
    Kernel,
    Paired,
    Reference,
    Reward,
    corrected_distance,
    covariance_root,
    featurize,
    frechet_distance,
    mean_kernel,
)
from suffice.optimizer.errors import InvalidInput


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def as_images(X: Tensor) -> Tensor:
    return X[:, None, None, :]


def test_the_frechet_distance_of_two_normal_laws_is_the_closed_form():
    # Diagonal covariances: the distance is a sum of (m1 - m2)^2 + (s1 - s2)^2.
    m1, s1 = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 2.0, 0.0]).double()
    m2, s2 = torch.tensor([3.0, 1.0, -1.0]).double(), torch.tensor([0.5, 2.5, 4.0]).double()
    expected = 9.0 + 1.0 + 0.25 + 0.25 + 16.0
    assert frechet_distance(m1, torch.diag(s1), m2, torch.diag(s2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 5), (6, 300, 20), (6, 9, 20), (2, 2, 3)])
def test_the_frechet_distance_is_scipys_matrix_root(n: int, m: int, d: int):
    mix = normal(d, d, 3)
    X, Y = normal(n, d, 1) @ mix + 1.0, normal(m, d, 2)
    S1, S2 = np.cov(X.numpy().T), np.cov(Y.numpy().T)
    # With few images the product is singular, where sqrtm loses digits: a tiny ridge on its side only.
    middle = sqrtm(S1 @ S2 + (1e-12 * np.eye(d) if min(n, m) <= d else 0.0))
    expected = ((X.mean(0) - Y.mean(0)) ** 2).sum().item() + np.trace(S1 + S2 - 2 * np.real(middle))
    got = Frechet(Reference.of(as_images(Y), flat))(as_images(X), X).value
    assert got == pytest.approx(expected, rel=1e-4 if min(n, m) <= d else 1e-10)


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000))
def test_the_root_gives_the_covariance_whatever_the_number_of_images(n: int, d: int, seed: int):
    X = normal(n, d, seed)
    A = covariance_root(X)
    assert A.shape == (min(n, d), d)
    np.testing.assert_allclose((A.T @ A).numpy(), np.atleast_2d(np.cov(X.numpy().T)), atol=1e-12)


def test_equal_sets_are_at_no_distance_and_a_shift_is_its_square():
    X = normal(40, 7)
    quality = Frechet(Reference.of(as_images(X), flat))
    assert quality(as_images(X), X).value == pytest.approx(0.0, abs=1e-9)
    assert quality(as_images(X + 0.5), X).value == pytest.approx(7 * 0.25, rel=1e-9)


def test_a_ridge_is_that_on_both_diagonals():
    X, Y = normal(30, 4, 1) * torch.tensor([1.0, 2.0, 3.0, 0.0]).double(), normal(50, 4, 2)
    S1, S2 = np.cov(X.numpy().T) + 0.3 * np.eye(4), np.cov(Y.numpy().T) + 0.3 * np.eye(4)
    expected = ((X.mean(0) - Y.mean(0)) ** 2).sum().item() + np.trace(S1 + S2 - 2 * np.real(sqrtm(S1 @ S2)))
    got = Frechet(Reference.of(as_images(Y), flat), ridge=0.3)(as_images(X), X).value
    assert got == pytest.approx(expected, rel=1e-10)


def test_a_covariance_that_needs_no_root_gives_the_same_distance():
    X, Y = normal(30, 4, 1) * torch.tensor([1.0, 2.0, 3.0, 0.0]).double(), normal(50, 4, 2)
    for ridge in (0.0, 0.3):
        rooted = frechet_distance(X.mean(0), covariance_root(X), Y.mean(0), covariance_root(Y), ridge)
        got = corrected_distance(X.mean(0), X.T.cov(), Y.mean(0), covariance_root(Y), ridge)
        assert got == pytest.approx(rooted, rel=1e-6)  # the root of a rounding error is what differs


def test_an_anchor_says_how_special_a_few_noises_are():
    # What is judged shrinks what the anchor makes of a noise to 0.9 of it: at a distance of 0.1^2 per feature.
    d, n, expected = 16, 64, 16 * 0.01
    reference = Reference.of(as_images(normal(20_000, d, 1)), flat)
    noise = normal(4096, d, 2)
    anchor = Anchor.of(as_images(noise), noise, flat)
    plain, anchored = Frechet(reference), Frechet(reference, anchor=anchor)
    few = [noise[i : i + n] for i in range(0, 640, n)]
    without = torch.tensor([plain(as_images(0.9 * z), z).value for z in few])
    corrected = torch.tensor([anchored(as_images(0.9 * z), z).value for z in few])
    assert (without - expected).abs().min() > 1.0  # mostly what 64 normal draws are from a normal law
    assert (corrected - expected).abs().max() < 0.2
    assert corrected.std() < without.std() / 5
    # all of its noises are special by nothing
    assert anchored(as_images(0.9 * noise), noise).value == pytest.approx(plain(as_images(0.9 * noise), noise).value)
    assert plain.positive
    assert not anchored.positive


def test_an_anchor_knows_its_own_noise_alone():
    noise = normal(20, 3)
    anchor = Anchor.of(as_images(noise), noise, flat)
    with pytest.raises(InvalidInput, match="1 of 2"):
        anchor.excess(torch.cat([noise[:1], normal(1, 3, 9)]))
    with pytest.raises(InvalidInput, match="noise"):
        Anchor.of(as_images(noise), noise[:5], flat)
    with pytest.raises(InvalidInput, match="ridge"):
        corrected_distance(noise[0], noise.T.cov(), noise[1], covariance_root(noise), -1.0)


def test_the_kernel_distance_is_the_average_over_all_pairs():
    X, Y = normal(7, 3, 1), normal(5, 3, 2) + 0.3

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    expected = (
        np.mean([k(a, b) for a, b in itertools.permutations(X, 2)])
        + np.mean([k(a, b) for a, b in itertools.permutations(Y, 2)])
        - 2 * np.mean([k(a, b) for a, b in itertools.product(X, Y)])
    )
    assert Kernel(Reference.of(as_images(Y), flat))(as_images(X), X).value == pytest.approx(expected, rel=1e-12)
    assert mean_kernel(X, rows=2) == pytest.approx(mean_kernel(X), rel=1e-12)
    assert mean_kernel(X, Y, rows=3) == pytest.approx(mean_kernel(X, Y), rel=1e-12)


def test_the_kernel_distance_has_no_bias_and_the_frechet_distance_has():
    # Images of the reference's own law: the mean over many draws against zero, in its standard errors.
    reference = Reference.of(as_images(normal(4000, 3, 99)), flat)
    kernel, frechet = [], []
    for seed in range(400):
        X = normal(8, 3, seed)
        kernel.append(Kernel(reference)(as_images(X), X).value)
        frechet.append(Frechet(reference)(as_images(X), X).value)
    assert abs(np.mean(kernel)) < 3.5 * np.std(kernel) / 20
    assert np.mean(frechet) > 20 * np.std(frechet) / 20


def test_the_paired_distance_asks_the_teacher_once_per_noise():
    asked: list[int] = []

    def teacher(noise: Tensor) -> Tensor:
        asked.append(len(noise))
        return noise / 2

    quality, noise = Paired(teacher), normal(12, 4).reshape(12, 1, 2, 2)
    first = quality(noise[:4] / 2 + 0.1, noise[:4])
    assert first.value == pytest.approx(0.1)
    assert first.stderr == pytest.approx(0.0, abs=1e-12)
    shift = torch.arange(12.0).double()[:, None, None, None]
    all_of_them = quality(noise / 2 - shift, noise)
    assert all_of_them.value == pytest.approx(5.5)
    assert all_of_them.stderr == pytest.approx(np.std(np.arange(12), ddof=1) / 12**0.5)
    assert asked == [4, 8]


def test_the_paired_distance_in_a_feature_space():
    noise = normal(3, 4).reshape(3, 1, 2, 2)
    quality = Paired(lambda z: z, space=lambda images: images.flatten(1).sum(1, keepdim=True))
    assert quality(noise + 0.25, noise).value == pytest.approx(1.0)


def test_a_reward_is_averaged():
    images = torch.arange(4.0)[:, None, None, None] * torch.ones(4, 1, 2, 2)
    score = Reward(lambda x: x.flatten(1).mean(1))(images, images)
    assert score.value == pytest.approx(1.5)
    assert score.stderr == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2)


def test_what_is_no_batch_of_images_is_refused():
    with pytest.raises(InvalidInput, match="images"):
        featurize(torch.zeros(1, 1, 2, 2), flat)
    with pytest.raises(InvalidInput, match="space"):
        featurize(torch.zeros(3, 1, 2, 2), lambda images: images)
    with pytest.raises(InvalidInput, match="finite"):
        featurize(torch.full((3, 1, 2, 2), float("nan")), flat)
    with pytest.raises(InvalidInput, match="reward"):
        Reward(lambda images: images.flatten(1))(torch.zeros(3, 1, 2, 2), torch.zeros(3, 4))
    with pytest.raises(InvalidInput, match="noise"):
        Paired(lambda z: z)(torch.zeros(3, 1, 2, 2), torch.zeros(2, 1, 2, 2))
    with pytest.raises(InvalidInput, match="ridge"):
        Frechet(Reference.of(torch.rand(3, 1, 2, 2), flat), ridge=-1.0)(torch.rand(3, 1, 2, 2), torch.zeros(3, 4))
