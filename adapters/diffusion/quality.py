"""How good images are: against a reference set, against the many-step output of the same noise, or by a reward.

A `Quality` looks at images together with the start noise they came from, and gives a `Score`. Everywhere in this folder
images are tensors (n, channels, height, width) with values in [0, 1], as pipelines give them with ``output_type="pt"``,
noise is what a pipeline starts from, of n rows in the same order, and a feature space is any callable from images to
(n, d). Sums are taken in float64 on the CPU.

    reference = Reference.of(photographs, features)
    quality = Frechet(reference)
    quality(images, noise).value

Only compare values of the same number of images: the Fréchet distance falls with it (its bias is positive and of order
d / n), the kernel distance scatters more with few but has no bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from suffice.optimizer.errors import InvalidInput

Images = Float[Tensor, "n c h w"]
Noise = Float[Tensor, "k ..."]  # k is n, and checked where it matters
Features = Float64[Tensor, "n d"]
FeatureSpace = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Score:
    """A quality's value, and the standard error of it as a mean over images where it is one, else None."""

    value: float
    stderr: float | None = None


@runtime_checkable
class Quality(Protocol):
    """What a schedule, a solver or a sampler is judged by."""

    @property
    def name(self) -> str:
        """What the value is called in studies and reports."""
        ...

    @property
    def direction(self) -> str:
        """ "minimize" or "maximize"."""
        ...

    @property
    def positive(self) -> bool:
        """Whether values are above 0, so that their logarithm may be modelled."""
        ...

    def __call__(self, images: Images, noise: Noise) -> Score:
        """The quality of ``images`` made from ``noise``. Raises InvalidInput for what is no batch of such."""
        ...


# --- against a reference set ---


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference set in a feature space, of m >= 2 images.

    ``features`` (m, d), ``space`` gives the same features of other images.
    """

    features: Float64[Tensor, "m d"]
    space: FeatureSpace

    @classmethod
    def of(cls, images: Images, space: FeatureSpace, batch: int = 512) -> Reference:
        """From real images. Raises InvalidInput for fewer than two, or for a space that is none."""
        return cls(featurize(images, space, batch), space)

    @cached_property
    def mean(self) -> Float64[Tensor, " d"]:
        return self.features.mean(0)

    @cached_property
    def root(self) -> Float64[Tensor, "r d"]:
        """A with A'A the covariance (denominator m - 1), of min(m, d) rows."""
        return covariance_root(self.features)

    @cached_property
    def mean_kernel(self) -> float:
        """The mean of the kernel of `Kernel` over the pairs of the set."""
        return mean_kernel(self.features)


def featurize(images: Images, space: FeatureSpace, batch: int = 512) -> Features:
    """Features of the images in float64, computed ``batch`` images at a time, without gradients.

    Raises InvalidInput for fewer than two images, and where the space does not give finite (n, d).
    """
    if images.ndim != 4 or len(images) < 2:
        raise InvalidInput("images", "a tensor (n, channels, height, width) of n >= 2", tuple(images.shape))
    with torch.no_grad():
        parts: list[Tensor] = [space(images[i : i + batch]) for i in range(0, len(images), batch)]
        found: Tensor = torch.cat([part.detach().to("cpu", torch.float64) for part in parts])
    if found.ndim != 2 or len(found) != len(images):
        raise InvalidInput("space", f"a callable that gives ({len(images)}, d)", tuple(found.shape))
    if not bool(torch.isfinite(found).all()):
        raise InvalidInput("space", "finite features", "NaN or infinity")
    return found


@dataclass(frozen=True, eq=False)
class Frechet:
    """The Fréchet distance of Heusel et al. 2017 (arXiv 1706.08500), eq. 6, in any feature space; FID in Inception's.

    ``ridge`` is added to the diagonal of both covariances, in squared units of the features. 0, the default, changes
    nothing and is stable for any number of images, since no covariance is inverted; a ridge weakens the dependence on
    directions in which either set hardly varies.

    With an ``anchor`` the moments of the images are corrected by what is special about their noises (see `Anchor`), and
    the distance of few images is near to that of many. Where little is left of it, it may be negative.
    """

    reference: Reference
    ridge: float = 0.0
    anchor: Anchor | None = None
    name: str = "frechet"
    direction: str = "minimize"

    @property
    def positive(self) -> bool:
        return self.anchor is None

    def __call__(self, images: Images, noise: Noise) -> Score:
        X = featurize(images, self.reference.space)
        reference = self.reference
        if self.anchor is None:
            root = covariance_root(X)
            return Score(frechet_distance(X.mean(0), root, reference.mean, reference.root, self.ridge))
        mean, covariance = self.anchor.excess(noise)
        corrected = X.mean(0) - mean, X.T.cov() - covariance
        return Score(corrected_distance(*corrected, reference.mean, reference.root, self.ridge))


@dataclass(frozen=True, eq=False)
class Anchor:
    """What many steps make of each noise: it tells which noises are special, whatever schedule runs them.

    The first 256 noises become too many threes, say, and every schedule is judged by that luck. A sampler without noise
    of its own makes much the same of a noise in four steps as in ten, so the luck shows in the anchor's images: by how
    much the moments of those few differ from the moments of all of the anchor's. That is a control variate (with the
    coefficient 1 on the difference to all, which is N / (n + N) on that to the N others).

    ``features`` (N, d) of all of the anchor's images, and ``known``, by noise, in which row its image is.
    """

    features: Features
    known: Mapping[bytes, int]

    @classmethod
    def of(cls, images: Images, noise: Noise, space: FeatureSpace) -> Anchor:
        """From images of many steps and the noise they began with. Raises InvalidInput where their numbers differ."""
        if len(images) != len(noise):
            raise InvalidInput("noise", f"the {len(images)} rows that the images were made from", tuple(noise.shape))
        return cls(featurize(images, space), {key: i for i, key in enumerate(_keys(noise))})

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean (d,) and the covariance (d, d) of all of the anchor's images."""
        return self.features.mean(0), self.features.T.cov()

    def excess(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """By how much the mean and the covariance of these noises' images are above those of all.

        Raises InvalidInput for noise that the anchor was not made from.
        """
        rows = [self.known.get(key) for key in _keys(noise)]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            expected = "noise that the anchor's images were made from"
            raise InvalidInput("noise", expected, f"{len(rows) - len(found)} of {len(rows)} are others")
        X = self.features[found]
        mean, covariance = self.moments
        return X.mean(0) - mean, X.T.cov() - covariance


def _keys(noise: Tensor) -> list[bytes]:
    return [row.detach().cpu().contiguous().numpy().tobytes() for row in noise]


def corrected_distance(
    mean: Float64[Tensor, " d"],
    covariance: Float64[Tensor, "d d"],
    other_mean: Float64[Tensor, " d"],
    other_root: Float64[Tensor, "s d"],
    ridge: float = 0.0,
) -> float:
    """`frechet_distance` with a covariance that may have negative eigenvalues, as a corrected one has.

    They have no root, and add nothing to the last term.
    """
    if ridge < 0:
        raise InvalidInput("ridge", "a number of at least 0", ridge)
    if ridge:
        unit = torch.eye(len(mean), dtype=torch.float64)
        covariance, other_root = covariance + ridge * unit, torch.cat([other_root, ridge**0.5 * unit])
    shared = torch.linalg.eigvalsh(other_root @ covariance @ other_root.T).clamp_min(0.0).sqrt().sum()
    traces = covariance.trace() + other_root.square().sum()
    return float((mean - other_mean).square().sum() + traces - 2.0 * shared)


def frechet_distance(
    mean: Float64[Tensor, " d"],
    root: Float64[Tensor, "r d"],
    other_mean: Float64[Tensor, " d"],
    other_root: Float64[Tensor, "s d"],
    ridge: float = 0.0,
) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) of two normal laws, S = A'A given by their roots A.

    tr (S1 S2)^1/2 is the sum of the singular values of A1 A2', which no rounding can make complex or negative.
    """
    if ridge < 0:
        raise InvalidInput("ridge", "a number of at least 0", ridge)
    if ridge:
        side = ridge**0.5 * torch.eye(len(mean), dtype=torch.float64)
        root, other_root = torch.cat([root, side]), torch.cat([other_root, side])
    shared = torch.linalg.svdvals(root @ other_root.T).sum()
    traces = root.square().sum() + other_root.square().sum()
    return max(float((mean - other_mean).square().sum() + traces - 2.0 * shared), 0.0)


def covariance_root(X: Features) -> Float64[Tensor, "r d"]:
    """A with A'A the covariance of the rows of X (denominator n - 1), of min(n, d) rows."""
    centred: Tensor = (X - X.mean(0)) / (len(X) - 1) ** 0.5
    if len(X) <= X.shape[1]:
        return centred
    R: Tensor = torch.linalg.qr(centred, mode="r").R
    return R


@dataclass(frozen=True, eq=False)
class Kernel:
    """KID, the kernel distance of Binkowski et al. 2018 (arXiv 1801.01401), section 4: the unbiased squared MMD.

    All pairs are used, not random subsets of them. No bias in the number of images: negative where the images are as
    near to the reference as other real ones would be.
    """

    reference: Reference
    name: str = "kid"
    direction: str = "minimize"
    positive: bool = False

    def __call__(self, images: Images, noise: Noise) -> Score:
        X, Y = featurize(images, self.reference.space), self.reference.features
        return Score(mean_kernel(X) + self.reference.mean_kernel - 2.0 * mean_kernel(X, Y))


def mean_kernel(X: Float64[Tensor, "n d"], Y: Float64[Tensor, "m d"] | None = None, rows: int = 1024) -> float:
    """The mean of k(x, y) = (x'y / d + 1)^3 over all pairs; without Y over the pairs of different rows of X.

    ``rows`` bounds the memory: so many rows of the kernel matrix at once.
    """
    n, d = X.shape
    other = X if Y is None else Y
    total = sum(float(((X[i : i + rows] @ other.T / d + 1.0) ** 3).sum()) for i in range(0, n, rows))
    if Y is not None:
        return total / (n * len(Y))
    return (total - float(((X.square().sum(1) / d + 1.0) ** 3).sum())) / (n * (n - 1))


# --- against the many-step output of the same noise ---


@dataclass(frozen=True, eq=False)
class Paired:
    """The distance to what ``teacher`` makes of the same noise: a mean over images, so that few of them say much.

    ``teacher`` maps noise (n, ...) to images, usually the same pipeline at many steps; every noise goes through it
    once. The distance is the root mean square difference of an image's pixels, or with ``space`` of its features; in
    units of these.
    """

    teacher: Callable[[Tensor], Tensor]
    space: FeatureSpace | None = None
    name: str = "paired"
    direction: str = "minimize"
    positive: bool = True
    _known: dict[bytes, Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, images: Images, noise: Noise) -> Score:
        if len(images) != len(noise) or not len(images):
            raise InvalidInput("noise", f"the {len(images)} rows that the images were made from", tuple(noise.shape))
        difference = self._seen(images) - self.targets(noise)
        each = difference.flatten(1).square().mean(1).sqrt()
        return _mean(each)

    def targets(self, noise: Noise) -> Float64[Tensor, "k ..."]:
        """What the teacher makes of the noise, in float64, as features where there is a space."""
        keys = _keys(noise)
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            with torch.no_grad():
                made = self._seen(self.teacher(noise[new]))
            self._known.update(zip((keys[i] for i in new), made, strict=True))
        return torch.stack([self._known[key] for key in keys])

    def _seen(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return (images if self.space is None else self.space(images)).detach().to("cpu", torch.float64)


# --- by a reward ---


@dataclass(frozen=True, eq=False)
class Reward:
    """The mean of a reward: a callable from images (n, c, h, w) to one number each (n,)."""

    reward: Callable[[Tensor], Tensor]
    name: str = "reward"
    direction: str = "maximize"
    positive: bool = False

    def __call__(self, images: Images, noise: Noise) -> Score:
        with torch.no_grad():
            each = self.reward(images).detach().to("cpu", torch.float64)
        if each.shape != (len(images),) or not bool(torch.isfinite(each).all()):
            raise InvalidInput("reward", f"{len(images)} finite numbers", tuple(each.shape))
        return _mean(each)


def _mean(each: Float64[Tensor, " n"]) -> Score:
    stderr = float(each.std() / len(each) ** 0.5) if len(each) > 1 else None
    return Score(float(each.mean()), stderr)
