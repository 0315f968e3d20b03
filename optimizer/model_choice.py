"""What a study asks of its models. Light: nothing is fitted here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import InvalidInput

PRIORS = ("auto", "dense", "sparse")


@dataclass(frozen=True)
class ModelChoice:
    """How the objective's model is built.

    ``warping``: whether monotone changes of the numbers' axes may be learned, where the results speak for them.
    ``outliers``: whether single results may be set aside as outliers. ``prior``: of the length scales, one of PRIORS.

    Raises InvalidInput for values of another kind.
    """

    warping: bool = False
    outliers: bool = False
    prior: str = "auto"

    def __post_init__(self) -> None:
        for name in ("warping", "outliers"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"model.{name}", "true or false", getattr(self, name))
        if self.prior not in PRIORS:
            raise InvalidInput("model.prior", f"one of {list(PRIORS)}", self.prior)

    @classmethod
    def of(cls, definition: ModelChoice | Mapping[str, Any] | None) -> ModelChoice:
        """From what users write: ``{"outliers": True}``, for example; raises InvalidInput naming the wrong field."""
        if isinstance(definition, ModelChoice):
            return definition
        if definition is None:
            return cls()
        names = [f.name for f in fields(cls)]
        if not isinstance(definition, Mapping):
            raise InvalidInput("model", f"a mapping with some of {names}", definition)
        for key, value in definition.items():
            if key not in names:
                raise InvalidInput(f"model.{key}", f"one of {names}", value)
        return cls(**definition)

    def to_json(self) -> dict[str, Any] | None:
        """What differs from the defaults; None where nothing does."""
        plain = asdict(ModelChoice())
        return {k: v for k, v in asdict(self).items() if v != plain[k]} or None
