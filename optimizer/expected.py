"""What answers to a prompt are expected to look like before any is drawn, and what a sampling makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .answers import FLAT, THETAS, TypePrior

RULES = ("suffice", "optscale_t")  # that anything expected of a prompt matters to


@dataclass(frozen=True)
class Expected:
    """The prior over types of a prompt, and its agreement, score, spread and tokens: those of which features tell."""

    prior: TypePrior = FLAT
    told: Mapping[str, float] = field(default_factory=dict[str, float])

    def options(
        self, rule: str, settings: Mapping[str, Any] | None = None, expected_tokens: float | None = None
    ) -> dict[str, Any]:
        """Options of a Sampling by this rule: its prior, or mu and sigma of OptScale-t, and the tokens of an answer.

        What the caller says itself, in ``settings`` and ``expected_tokens``, stays.
        """
        tokens = self.told.get("tokens") if expected_tokens is None else expected_tokens
        found: dict[str, Any] = {"expected_tokens": tokens, "settings": dict(settings or {})}
        if rule == "optscale_t" and {"score", "spread"} <= set(self.told):
            found["settings"] = {"mu": self.told["score"], "sigma": self.told["spread"], **(settings or {})}
        return found if rule != "suffice" else found | {"prior": self.prior}

    def to_json(self) -> dict[str, Any]:
        """For a record: the mean solve rate under the prior, unless that is flat, and all that is told."""
        rate = sum(share * p for share, p in zip(THETAS, self.prior.theta, strict=True))
        return ({} if self.prior == FLAT else {"solve_rate": rate}) | dict(self.told)


NOTHING = Expected()
