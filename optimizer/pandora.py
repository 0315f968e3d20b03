"""Pandora's box for best-of-N (Kalayci et al. 2025, arXiv 2510.01394): stop at the fair cap of what is learned.

When scores have a known law, Weitzman's rule (1979) stops at the fair cap tau with E[(v - tau)+] = c. Its tail is
learned as a shifted exponential: above the median m, v - m is Exp(lambda) with probability 1/2, so that

    E[(v - tau)+] = exp(-lambda (tau - m)) / (2 lambda) = c,    tau = m + log(1 / (2 lambda c)) / lambda.

1 / lambda is the mean excess over the median, raised by an upper confidence bound of its relative error,
``width`` / sqrt(number of excesses): with few scores the cap is believed to be higher.

The abstract and introduction were at hand, not the details: which quantile the tail starts at and the bound's exact
form are this module's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from .answers import PerPrompt
from .best_of_n import BestOfN
from .stopping import finite


@dataclass(frozen=True)
class Pandora(BestOfN):
    """Stop when the best score reaches the upper confidence bound of the fair cap at ``price``."""

    name: ClassVar[str] = "pandora"
    first: ClassVar[int] = 2
    width: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("width", self.width)

    def worth(self, scores: Float64[np.ndarray, "r n"], cap: int) -> PerPrompt:
        """The price whose fair cap is the best score so far."""
        middle = np.median(scores, axis=1)
        excess = np.maximum(scores - middle[:, None], 0.0)
        count = np.maximum((excess > 0).sum(1), 1)
        mean = excess.sum(1) / count * (1.0 + self.width / np.sqrt(count))
        with np.errstate(invalid="ignore", divide="ignore"):
            price = 0.5 * mean * np.exp(-(scores.max(1) - middle) / mean)
        return np.where(mean > 0, price, 0.0)
