"""Conservative search: a baseline that the study as a whole must not fall behind. Light: `safe_mixture.py` computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import InvalidInput
from .ranges import as_float
from .space import Params, Space


@dataclass(frozen=True)
class Conservative:
    """The configuration in use, and how far the study may fall behind it.

    Every suggestion keeps P(sum over the trials of (value - (value of the baseline - ``margin``)) >= 0) at
    ``probability`` or more, values counted so that larger is better: on average no trial may cost more than ``margin``,
    which is in the objective's unit. Raises InvalidInput naming the wrong field.
    """

    baseline: Params
    margin: float
    probability: float = 0.95

    def __post_init__(self) -> None:
        if not isinstance(self.baseline, Mapping):
            raise InvalidInput("conservative.baseline", "a mapping from parameter names to values", self.baseline)
        margin = as_float(self.margin)
        if not 0 < margin < math.inf:
            raise InvalidInput("conservative.margin", "a positive number, in the objective's unit", self.margin)
        probability = as_float(self.probability)
        if not 0.5 <= probability < 1:
            raise InvalidInput("conservative.probability", "a number from 0.5 to below 1", self.probability)
        object.__setattr__(self, "margin", margin)
        object.__setattr__(self, "probability", probability)

    @classmethod
    def of(cls, definition: Conservative | Mapping[str, Any] | None) -> Conservative | None:
        """From a Conservative, ``{"baseline": {...}, "margin": ..., "probability": ...}`` or None."""
        if definition is None or isinstance(definition, Conservative):
            return definition
        names = ("baseline", "margin", "probability")
        if not isinstance(definition, Mapping):
            raise InvalidInput("conservative", f"a mapping with {list(names)}", definition)
        for key, value in definition.items():
            if key not in names:
                raise InvalidInput(f"conservative.{key}", f"one of {list(names)}", value)
        for key in ("baseline", "margin"):
            if key not in definition:
                raise InvalidInput(f"conservative.{key}", "a value", None)
        return cls(**definition)

    def check(self, space: Space) -> Conservative:
        """With the baseline as a configuration of the space; InvalidInput where it is none."""
        return replace(self, baseline=space.check(self.baseline, "conservative.baseline"))

    def to_json(self) -> dict[str, Any]:
        return {"baseline": dict(self.baseline), "margin": self.margin, "probability": self.probability}
