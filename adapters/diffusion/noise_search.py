"""The best of several start noises per image, with early stops: of the search, and of noises that look poor midway.

Whole runs from different start noises are independent draws of the reward, so that the rules of best-of-N say when
another run is not worth its price. A run also shows what it will become: after ``peek`` of the K calls the estimate of
its image has a reward, and only the ``keep`` best of the noises tried at once are finished.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from suffice.optimizer.errors import InvalidInput
from suffice.optimizer.stopping import Rule, whole

from .candidates import Candidates, check, rewards_of
from .denoiser import Denoiser, State
from .svdd import Reward, Steered


@dataclass(frozen=True)
class NoiseSearch:
    """The best of N start noises.

    Args:
        N: the most start noises that are finished, per image.
        rule: when an image has enough of them; None: at N.
        batch: with a rule, the least number of them that are finished at once after the first.
        peek: after how many calls noises are compared, where ``among`` > 1.
        among: of how many noises each one that is finished is the best after ``peek`` calls.
        eta: how much noise the steps add, from 0 to 1.
    """

    N: int = 16
    rule: Rule | None = None
    batch: int = 1
    peek: int = 1
    among: int = 1
    eta: float = 0.0

    def __post_init__(self) -> None:
        check(self.N, self.rule, self.batch)
        whole("peek", self.peek)
        whole("among", self.among)
        if not 0 <= self.eta <= 1:
            raise InvalidInput("eta", "a number from 0 to 1", self.eta)

    def sample(self, denoiser: Denoiser, reward: Reward, noise: State, generator: torch.Generator) -> Steered:
        """One image per row of ``noise``, which is the first that is tried there; others are drawn.

        ``reward`` maps images (m, c, h, w) in [0, 1] to (m,). Raises InvalidInput for a reward that does not, and for a
        ``peek`` that is no fewer calls than a run.
        """
        if self.among > 1 and self.peek >= denoiser.steps:
            raise InvalidInput("peek", f"fewer than the {denoiser.steps} calls of a run", self.peek)
        candidates = Candidates(len(noise), self.N, self.rule, self.batch)
        best = np.full(len(noise), -np.inf)
        kept: Tensor | None = None
        while count := candidates.count:
            active = candidates.active
            starts = denoiser.noise(len(active) * count * self.among, generator).to(noise.dtype)
            if candidates.drawn == 0:
                starts[:: count * self.among] = noise
            images = self._finish(denoiser, reward, starts, generator)
            rewards = rewards_of(reward, images)
            values = rewards.reshape(-1, count)
            kept = torch.empty(len(noise), *images.shape[1:], dtype=images.dtype) if kept is None else kept
            better = values.max(1) > best[active]
            taken = torch.from_numpy((np.arange(len(active)) * count + values.argmax(1))[better])
            best[active[better]], kept[active[better]] = values.max(1)[better], images[taken]
            candidates.tell(values)
        assert kept is not None
        counts = candidates.counts
        return Steered(kept, best, counts * self.calls(denoiser), (candidates.values,))

    def calls(self, denoiser: Denoiser) -> int:
        """Calls of the network per noise that is finished, those that were given up for it included."""
        return denoiser.steps + (self.among - 1) * self.peek

    def _finish(self, denoiser: Denoiser, reward: Reward, x: State, generator: torch.Generator) -> Tensor:
        """Images of the noises; of each ``among`` that follow one another only the best after ``peek`` calls."""
        if self.among == 1:
            return denoiser.decode(denoiser.run(x, 0, self.eta, generator))
        x0 = x
        for step in range(self.peek):
            estimate = denoiser.estimate(x, step)
            x, x0 = denoiser.advance(estimate, step, self.eta, generator), estimate.x0
        values = rewards_of(reward, denoiser.decode(x0)).reshape(-1, self.among)
        best = torch.from_numpy(np.arange(len(values)) * self.among + values.argmax(1))
        return denoiser.decode(denoiser.run(x[best], self.peek, self.eta, generator))
