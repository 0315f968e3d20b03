"""A trained diffusion or flow-matching model as the samplers here see it.

Both noise an image x0 along x_t = a_t x0 + b_t e with e standard normal: a_t^2 + b_t^2 = 1 for diffusion (variance
preserving), a_t + b_t = 1 for flow matching. A `Denoiser` knows a and b at the K times that it is run at, and estimates
x0 and e from x_t by one call of the network; everything else follows:

    x_s = a_s x0^ + sqrt(b_s^2 - sigma^2) e^ + sigma z,   sigma = eta (b_s / b_t) sqrt(b_t^2 - (a_t / a_s)^2 b_s^2)

which is DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16) for diffusion, and Euler's step at eta = 0 for flow
matching; eta = 1 draws from the true posterior given x0^, as DDPM does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from suffice.optimizer.errors import InvalidInput

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow")

State = Float[Tensor, "n ..."]
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Estimate:
    """The network's estimates at x_t: ``x0``, the image without its noise, and ``noise``."""

    x0: State
    noise: State


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network, and the times at which it is called.

    Args:
        predict: (x_t of shape (n, ...), time of shape ()) to the network's output, shaped like x_t.
        prediction: what that output is: e ("epsilon"), x0 ("sample"), a e - b x0 ("v_prediction") or e - x0 ("flow").
        times: what the network is told at each of the K steps, from noise to image.
        a: a_t at each, then 1.
        b: b_t at each, then 0.
        shape: of one x_t.
        clip: the estimate of x0 is cut to [-clip, clip]; None: not at all.
        decode: x0 to images in [0, 1].
        encode: images in [0, 1] to x0.
    """

    predict: Predict
    prediction: str
    times: Float[Tensor, " K"]
    a: Float64[Tensor, " K+1"]
    b: Float64[Tensor, " K+1"]
    shape: tuple[int, ...]
    clip: float | None = None
    decode: Callable[[Tensor], Tensor] = lambda x0: (x0 / 2 + 0.5).clamp(0, 1)
    encode: Callable[[Tensor], Tensor] = lambda images: 2 * images - 1

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise InvalidInput("prediction", f"one of {', '.join(PREDICTIONS)}", self.prediction)
        if float(self.a[-1]) != 1.0 or float(self.b[-1]) != 0.0 or bool((self.b[1:] >= self.b[:-1]).any()):
            raise InvalidInput("b", "noise that falls from step to step, to 0 with a = 1", self.b.tolist())
        if self.prediction == "epsilon" and float(self.a[0]) == 0.0:
            raise InvalidInput("a", "above 0 where the network predicts the noise: x0 cannot be told from it", 0.0)

    @classmethod
    def from_pipeline(
        cls,
        pipeline: Any,
        steps: int,
        *,
        predict: Predict | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
    ) -> Denoiser:
        """Of a diffusers pipeline, at the times that its scheduler chooses for so many steps.

        Without ``predict`` the pipeline needs a ``unet`` that is told nothing but the time; with prompts or guidance,
        give a callable that adds them. Latent models need ``decode`` (and ``encode`` for FlowOpt): the VAE's. Raises
        InvalidInput for schedulers whose states are scaled otherwise, such as Euler's.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InvalidInput("steps", "a whole number of at least 1", steps)
        unet: Any = getattr(pipeline, "unet", None)
        if predict is None and unet is None:
            raise InvalidInput("predict", "a callable, for a pipeline without unet", None)
        scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        scheduler.set_timesteps(steps)
        times, a, b = _path(scheduler)
        size = unet.config.sample_size if unet is not None else None
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        config = scheduler.config
        found: dict[str, Any] = {"decode": decode, "encode": encode}
        return cls(
            predict or _alone(unet),
            "flow" if "prediction_type" not in config else config.prediction_type,
            times,
            a,
            b,
            (unet.config.in_channels, *sides) if unet is not None else (),
            float(config.clip_sample_range) if config.get("clip_sample") else None,
            **{name: value for name, value in found.items() if value is not None},
        )

    @property
    def steps(self) -> int:
        """K, the number of calls that make an image."""
        return len(self.times)

    def noise(self, n: int, generator: torch.Generator) -> State:
        """n start states."""
        return float(self.b[0]) * torch.randn(n, *self.shape, generator=generator)

    def estimate(self, x: State, step: int) -> Estimate:
        """One call of the network per row of x, which is at that step."""
        a, b = float(self.a[step]), float(self.b[step])
        with torch.no_grad():
            out = self.predict(x, self.times[step])
        match self.prediction:
            case "epsilon":
                x0, noise = (x - b * out) / a, out
            case "sample":
                x0, noise = out, (x - a * out) / b
            case "v_prediction":
                x0, noise = a * x - b * out, a * out + b * x
            case _:
                x0, noise = x - b * out, x + a * out
        return Estimate(x0 if self.clip is None else x0.clamp(-self.clip, self.clip), noise)

    def foresee(self, x: State, step: int, noise: State) -> State:
        """x0 of states at that step if the network found this ``noise`` in them: an estimate that calls nothing."""
        x0 = (x - float(self.b[step]) * noise) / float(self.a[step])
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def transition(self, estimate: Estimate, step: int, eta: float) -> tuple[State, float]:
        """The mean and the standard deviation of the state at the next step, given the estimate at this one."""
        (a, after), (b, left) = self.a[step : step + 2].tolist(), self.b[step : step + 2].tolist()
        sd = eta * (left / b) * max(b**2 - (a / after) ** 2 * left**2, 0.0) ** 0.5
        return after * estimate.x0 + max(left**2 - sd**2, 0.0) ** 0.5 * estimate.noise, sd

    def advance(self, estimate: Estimate, step: int, eta: float, generator: torch.Generator | None) -> State:
        """A state at the next step, drawn where eta > 0."""
        mean, sd = self.transition(estimate, step, eta)
        return mean if sd == 0.0 else mean + sd * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)

    def run(self, x: State, start: int = 0, eta: float = 0.0, generator: torch.Generator | None = None) -> State:
        """x0 from a state at step ``start``: `steps` - start calls per row."""
        for step in range(start, self.steps):
            x = self.advance(self.estimate(x, step), step, eta, generator)
        return x


def _alone(unet: Any) -> Predict:
    """The network told nothing but the time."""

    def predict(x: Tensor, time: Tensor) -> Tensor:
        found: Tensor = unet(x, time).sample
        return found

    return predict


def _path(scheduler: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Times, a and b of a scheduler whose times are set."""
    times = scheduler.timesteps.to("cpu")
    config = scheduler.config
    if hasattr(scheduler, "alphas_cumprod") and not config.get("use_flow_sigmas") and _unscaled(scheduler):
        kept = scheduler.alphas_cumprod[times.long()].double()
        a = torch.cat([kept.sqrt(), torch.ones(1, dtype=torch.float64)])
        b = torch.cat([(1 - kept).sqrt(), torch.zeros(1, dtype=torch.float64)])
        return times.float(), a, b
    if hasattr(scheduler, "sigmas") and "num_train_timesteps" in config and config.get("invert_sigmas") is False:
        b = scheduler.sigmas.to("cpu").double()
        return times.float(), 1 - b, b
    name = type(scheduler).__name__
    raise InvalidInput("pipeline", "a scheduler of the DDPM, DDIM or flow-matching Euler kind", name)


def _unscaled(scheduler: Any) -> bool:
    """Whether states have the variance that the network was trained on, so that it is called on them as they are."""
    return float(scheduler.init_noise_sigma) == 1.0
