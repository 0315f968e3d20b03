"""The best of several candidates per image, with one of the sampling side's rules to say when they are enough.

What holds for answers of a language model scored by a verifier holds for candidate images scored by a reward: each
image is a prompt, each candidate an answer, its value the score. `Pandora` and `Beacon` weigh the gain of one more
candidate against its price, in the reward's own unit; the `OptScale` rules take rewards in [0, 1]; `Fixed` and no rule
at all draw a number that is known beforehand. `Scatter` does what a rule does, by what earlier steps and images taught.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from suffice.optimizer.answers import Answers
from suffice.optimizer.errors import InvalidInput
from suffice.optimizer.stopping import Fixed, Rule, whole

from .worth import Scatter


class Candidates:
    """The values of the candidates of n images so far, and which images draw on: the one object here that changes.

    Args:
        n: the number of images.
        most: candidates per image.
        rule: when an image has enough of them; None: at ``most``.
        batch: the least number drawn at once, after the first that the rule cannot do without.
    """

    def __init__(self, n: int, most: int, rule: Rule | Scatter | None = None, batch: int = 1) -> None:
        check(most, rule, batch)
        self.most, self.rule, self.batch = most, rule, batch
        self.values: Float64[np.ndarray, "n m"] = np.empty((n, 0))  # NaN where an image had stopped
        self.active: Int64[np.ndarray, " r"] = np.arange(n)  # the images that draw on

    @property
    def drawn(self) -> int:
        """Candidates of each active image."""
        return int(self.values.shape[1])

    @property
    def count(self) -> int:
        """How many more to draw now, for every active image; 0 where none is active."""
        if not len(self.active) or self.drawn >= self.most:
            return 0
        if self.rule is None:
            return self.most - self.drawn
        soonest = self.rule.soonest(self.drawn, self.most) if isinstance(self.rule, Rule) else self.drawn + 1
        least = self.batch if self.drawn else 1
        return min(max(soonest - self.drawn, least), self.most - self.drawn)

    @property
    def counts(self) -> Int64[np.ndarray, " n"]:
        """Candidates of each image."""
        counts: np.ndarray = (~np.isnan(self.values)).sum(1)
        return counts

    def tell(self, values: Float64[np.ndarray, "r k"]) -> None:
        """The values of the active images' next candidates. Raises InvalidInput for NaN or infinity."""
        if not np.isfinite(values).all():
            raise InvalidInput("reward", "finite numbers", "NaN or infinity")
        grown = np.full((len(self.values), values.shape[1]), np.nan)
        grown[self.active] = values
        self.values = np.concatenate([self.values, grown], axis=1)
        if self.rule is not None and self.drawn < self.most:
            self.active = self.active[~self._enough(self.rule)]

    def _enough(self, rule: Rule | Scatter) -> Bool[np.ndarray, " r"]:
        scores = self.values[self.active]
        if isinstance(rule, Scatter):
            return rule.enough(scores, self.active)
        clusters = np.tile(np.arange(self.drawn), (len(scores), 1))  # no two candidates are the same
        answers = Answers(clusters, scores, np.full(scores.shape, np.nan))
        return rule.enough(rule.evidence(answers, self.most), self.drawn)


def check(most: int, rule: object, batch: int) -> None:
    """Raises InvalidInput for numbers below 1, and for rules that count equal answers: candidates have none."""
    whole("most", most)
    whole("batch", batch)
    if isinstance(rule, Rule) and not rule.scored and not isinstance(rule, Fixed):
        raise InvalidInput("rule", "one that looks at scores, or a fixed number", rule.name)


def rewards_of(reward: object, images: Float[Tensor, "n c h w"]) -> Float64[np.ndarray, " n"]:
    """The reward of each image, in float64. Raises InvalidInput where the callable does not give one number each."""
    assert callable(reward)
    with torch.no_grad():
        found = reward(images)
    if not isinstance(found, Tensor) or found.shape != (len(images),):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InvalidInput("reward", f"a tensor ({len(images)},)", got)
    values: np.ndarray = found.detach().to("cpu", torch.float64).numpy()
    return values
