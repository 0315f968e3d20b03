"""SVDD: of M candidates at each denoising step keep the best by soft value (Li et al. 2024, arXiv 2408.08252).

The optimal policy for a reward r less alpha times the divergence from the model draws x_s from p(x_s | x_t) in
proportion to exp(v(x_s) / alpha). Their algorithm 1 draws M candidates from p and one of them by these weights; v is
the reward of the image estimated from the candidate (their posterior-mean form, SVDD-PM: v(x_s) = r(x0^(x_s))). alpha =
0 takes the best, as their code for images does.

The call that values a candidate also gives the step after it, if that candidate is kept, so that a step costs as many
calls as it has candidates. They need not be as many at every step and for every image: where the values scatter little,
another candidate is worth little, which is what the rules of best-of-N weigh (see candidates.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from suffice.optimizer.errors import InvalidInput
from suffice.optimizer.stopping import Rule, whole

from .candidates import Candidates, check, rewards_of
from .denoiser import Denoiser, Estimate, State
from .worth import Priced, Scatter, Worth

Reward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Steered:
    """Images made under a reward: what they are worth, and what they cost.

    ``images`` (n, c, h, w) in [0, 1], ``rewards`` of these, ``calls`` of the network per image, all candidates
    included; ``values`` of the candidates (n, most) at each step that chose among them, NaN where there were fewer.
    """

    images: Float[Tensor, "n c h w"]
    rewards: Float64[np.ndarray, " n"]
    calls: Int64[np.ndarray, " n"]
    values: tuple[Float64[np.ndarray, "n _"], ...]

    @property
    def candidates(self) -> Int64[np.ndarray, "n s"]:
        """How many there were, per image at each step that chose among them."""
        counts = [(~np.isnan(v)).sum(1) for v in self.values]
        return np.stack(counts, axis=1) if counts else np.zeros((len(self.calls), 0), dtype=np.int64)


@dataclass(frozen=True)
class SVDD:
    """Soft value-based decoding.

    Args:
        M: the most candidates at a step.
        alpha: temperature, in units of the reward; 0 keeps the best.
        eta: how much noise a step adds, from DDIM's 0 (no two candidates would differ) to DDPM's 1.
        first: the first step whose outcome is chosen among candidates, from 0.
        last: the last such step; None: as late as noise is added at all, which the last of the K steps does not.
        rule: when a step has enough candidates for an image, where alpha = 0: a rule for scores, or `Priced` by what
            `learn` found; None: at M.
        batch: with a rule, the least number of candidates that are tried at once after the first.
        among: each candidate is the most promising of so many draws, by the reward of the image that follows from the
            noise estimated at the step before. That calls the reward ``among`` times more, but not the network.
    """

    M: int = 20
    alpha: float = 0.0
    eta: float = 1.0
    first: int = 0
    last: int | None = None
    rule: Rule | Priced | None = None
    batch: int = 1
    among: int = 1

    def __post_init__(self) -> None:
        check(self.M, self.rule, self.batch)
        whole("among", self.among)
        if self.alpha < 0 or not np.isfinite(self.alpha):
            raise InvalidInput("alpha", "a number of at least 0", self.alpha)
        if not 0 < self.eta <= 1:
            raise InvalidInput("eta", "a number above 0, at most 1", self.eta)
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise InvalidInput("last", f"a step from first = {self.first} on, itself at least 0", self.last)
        if self.rule is not None and self.alpha > 0:
            raise InvalidInput("rule", "none with alpha > 0: rules say when the best is found", self.rule)
        if self.among > 1 and self.alpha > 0:
            raise InvalidInput("among", "1 with alpha > 0, for which candidates are drawn from the model", self.among)

    def sample(self, denoiser: Denoiser, reward: Reward, noise: State, generator: torch.Generator) -> Steered:
        """One image per row of noise.

        ``reward`` maps images (m, c, h, w) in [0, 1] to (m,). Raises InvalidInput for a reward that does not, and for
        steps that the denoiser does not have.
        """
        end = denoiser.steps - 2 if self.last is None else self.last
        if end > denoiser.steps - 2:
            raise InvalidInput("last", f"at most {denoiser.steps - 2}: later steps add no noise", self.last)
        if isinstance(self.rule, Priced) and len(self.rule.worth.share) != end - self.first + 1:
            raise InvalidInput("rule", f"learned at steps {self.first} to {end}", f"{len(self.rule.worth.share)} steps")
        rule = Scatter(len(noise), self.rule) if isinstance(self.rule, Priced) else self.rule
        calls = np.ones(len(noise), dtype=np.int64)
        values: list[Float64[np.ndarray, "n _"]] = []
        estimate = denoiser.estimate(noise, 0)
        for step in range(denoiser.steps - 1):
            if self.first <= step <= end:
                candidates = Candidates(len(noise), self.M, rule, self.batch)
                estimate = self._step(denoiser, reward, estimate, step, candidates, generator)
                values.append(candidates.values)
                calls += candidates.counts
                if isinstance(rule, Scatter):
                    rule.end_step(candidates.values)
            else:
                estimate = denoiser.estimate(denoiser.advance(estimate, step, self.eta, generator), step + 1)
                calls += 1
        images = denoiser.decode(denoiser.transition(estimate, denoiser.steps - 1, self.eta)[0])
        return Steered(images, rewards_of(reward, images), calls, tuple(values))

    def learn(self, denoiser: Denoiser, reward: Reward, noise: State, generator: torch.Generator, M: int = 2) -> Worth:
        """What gains are worth at each step that chooses, from images steered with M candidates everywhere.

        Once per model, reward and number of steps; 30 images at least, 60 are enough.
        """
        return Worth.of(replace(self, M=M, rule=None).sample(denoiser, reward, noise, generator).values)

    def _step(
        self,
        denoiser: Denoiser,
        reward: Reward,
        estimate: Estimate,
        step: int,
        candidates: Candidates,
        generator: torch.Generator,
    ) -> Estimate:
        """What the network says of the candidate that is kept per image."""
        best = np.full(len(estimate.x0), -np.inf)
        x0, noise = torch.empty_like(estimate.x0), torch.empty_like(estimate.noise)
        while count := candidates.count:
            x = self._draw(denoiser, reward, estimate, step, np.repeat(candidates.active, count), generator)
            found = denoiser.estimate(x, step + 1)
            values = rewards_of(reward, denoiser.decode(found.x0)).reshape(-1, count)
            marks = self._marks(values, generator)
            winner, active = marks.argmax(1), candidates.active
            better = marks.max(1) > best[active]
            taken = torch.from_numpy((np.arange(len(active)) * count + winner)[better])
            best[active[better]] = marks.max(1)[better]
            x0[active[better]], noise[active[better]] = found.x0[taken], found.noise[taken]
            candidates.tell(values)
        return Estimate(x0, noise)

    def _draw(
        self,
        denoiser: Denoiser,
        reward: Reward,
        estimate: Estimate,
        step: int,
        images: Int64[np.ndarray, " r"],
        generator: torch.Generator,
    ) -> State:
        """A candidate state at the next step for each of these images: the most promising of ``among`` draws."""
        mean, sd = denoiser.transition(estimate, step, self.eta)
        rows = torch.from_numpy(np.repeat(images, self.among))
        x = mean[rows] + sd * torch.randn(len(rows), *mean.shape[1:], generator=generator, dtype=mean.dtype)
        if self.among == 1:
            return x
        foreseen = denoiser.foresee(x, step + 1, estimate.noise[rows])
        values = rewards_of(reward, denoiser.decode(foreseen)).reshape(-1, self.among)
        if not np.isfinite(values).all():
            raise InvalidInput("reward", "finite numbers", "NaN or infinity")
        return x[torch.from_numpy(np.arange(len(values)) * self.among + values.argmax(1))]

    def _marks(self, values: Float64[np.ndarray, "r k"], generator: torch.Generator) -> Float64[np.ndarray, "r k"]:
        """What the kept candidate has most of: value; with alpha, value and Gumbel noise: a draw by exp(v / alpha)."""
        if self.alpha == 0.0:
            return values
        uniform = torch.rand(values.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300).numpy()
        marks: np.ndarray = values / self.alpha - np.log(-np.log(uniform))
        return marks
