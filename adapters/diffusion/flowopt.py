"""FlowOpt: optimise the start of a flow through all of its steps at once, without gradients (Ronai et al. 2025,
arXiv 2510.22010).

The flow f, K calls of the network, is a black box; to make it end at y, its start z moves by the residual there:

    z <- z - eta (f(z) - y)

as if f were the identity. Two starts come nearer to each other in an iteration just while
eta < 2 <dz, df> / |df|^2, with df = f(z) - f(z'); `step_bound` is the least of that over pairs. (The paper proves a
sufficient condition of its own and estimates it empirically; this bound was derived from the iteration, not copied.)
The iteration begins, as in the authors' code, with the target led back up the flow (`lead_back`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from suffice.optimizer.errors import InvalidInput
from suffice.optimizer.stopping import positive, whole

from .denoiser import Denoiser, State


@dataclass(frozen=True, eq=False)
class Flowed:
    """What an optimization through the flow ended with, per image.

    ``images`` (n, c, h, w) in [0, 1] and ``start`` (n, ...), the z they came from: the best iterate's, by residual.
    ``residuals`` (iterations + 1, n): root mean squares of f(z) - y, in the model's units; infinite from where the
    iteration left the finite numbers. ``calls`` of the network per image.
    """

    images: Float[Tensor, "n c h w"]
    start: State
    residuals: Float64[Tensor, "i n"]
    calls: int


@dataclass(frozen=True)
class FlowOpt:
    """Zero-order optimization through the whole flow; T is the denoiser's number of steps.

    Args:
        eta: the step size. The authors' is 0.01 for Stable Diffusion 3, 0.0025 for FLUX.
        n_max: how many of the T steps are run, the last ones: fewer keep nearer to what is given. None: all.
        iterations: of n_max calls each.
        tolerance: stop when no image's best residual fell by this share in an iteration; 0: never.
    """

    eta: float = 0.01
    n_max: int | None = None
    iterations: int = 8
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        positive("eta", self.eta)
        whole("iterations", self.iterations)
        if self.n_max is not None:
            whole("n_max", self.n_max)
        if not 0 <= self.tolerance < 1:
            raise InvalidInput("tolerance", "a number from 0, below 1", self.tolerance)

    def start(self, denoiser: Denoiser) -> int:
        """The step that f starts at. Raises InvalidInput for an n_max of more steps than there are."""
        n = denoiser.steps if self.n_max is None else self.n_max
        if n > denoiser.steps:
            raise InvalidInput("n_max", f"at most the {denoiser.steps} steps of the denoiser", n)
        return denoiser.steps - n

    def invert(self, denoiser: Denoiser, images: Float[Tensor, "n c h w"]) -> Flowed:
        """The starts that the flow leads to the given images in [0, 1]."""
        target = denoiser.encode(images)
        start = self.start(denoiser)
        found = self.optimize(denoiser, lead_back(denoiser, target, start), lambda x0: x0 - target)
        return Flowed(found.images, found.start, found.residuals, found.calls + denoiser.steps - start)

    def optimize(self, denoiser: Denoiser, z: State, residual: Callable[[Tensor], Tensor]) -> Flowed:
        """From z on, moved by ``residual`` of the flow's end x0: x0 - y for a target, masked where parts of it are
        free, or minus the gradient of a reward by the image.
        """
        start = self.start(denoiser)
        best = torch.full((len(z),), torch.inf, dtype=torch.float64)
        best_z, best_x0 = z.clone(), torch.zeros_like(z)
        residuals: list[Tensor] = []
        for _ in range(self.iterations + 1):
            x0 = denoiser.run(z, start)
            moved = residual(x0)
            norm = moved.double().flatten(1).square().mean(1).sqrt().nan_to_num(torch.inf, torch.inf)
            residuals.append(norm)
            fell = bool((norm < best * (1 - self.tolerance)).any())
            lower = norm < best
            best[lower], best_z[lower], best_x0[lower] = norm[lower], z[lower], x0[lower]
            if self.tolerance and not fell:
                break
            z = z - self.eta * moved
        calls = len(residuals) * (denoiser.steps - start)
        return Flowed(denoiser.decode(best_x0), best_z, torch.stack(residuals), calls)


def lead_back(denoiser: Denoiser, x0: State, start: int) -> State:
    """A state at step ``start`` that leads roughly to x0: the flow backwards, one call per row and step.

    A step goes along the velocity at its far end, which is asked for where the velocity before leads to. Raises
    InvalidInput for a model that is no flow-matching one.
    """
    if not torch.allclose(denoiser.a + denoiser.b, torch.ones_like(denoiser.a)):
        raise InvalidInput("denoiser", "a flow-matching model, with a + b = 1", denoiser.prediction)
    x, velocity = x0, torch.zeros_like(x0)
    for step in reversed(range(start, denoiser.steps)):
        ahead = float(denoiser.b[step] - denoiser.b[step + 1])
        estimate = denoiser.estimate(x + ahead * velocity, step)
        velocity = estimate.noise - estimate.x0
        x = x + ahead * velocity
    return x


def step_bound(denoiser: Denoiser, z: State, other: State, start: int = 0) -> Float64[Tensor, " n"]:
    """2 <dz, df> / |df|^2 per pair of rows: for larger eta the two move apart in an iteration; negative: for any."""
    dz = (z - other).double().flatten(1)
    df = (denoiser.run(z, start) - denoiser.run(other, start)).double().flatten(1)
    bound: Tensor = 2 * (dz * df).sum(1) / df.square().sum(1)
    return bound
