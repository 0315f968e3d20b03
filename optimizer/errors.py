"""What can go wrong, as one tree.

SufficeError
├── InvalidInput (also ValueError)    a field is wrong: .problems says which, what was expected and what came
├── NotFound (also LookupError)       no such study, trial or metric
└── Conflict                          the request contradicts what is already recorded
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class SufficeError(Exception):
    """Any error that Suffice raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong field: its path (``parameters.lr.low``), what was expected there, and what came."""

    field: str
    expected: str
    got: Any

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.got!r}"


class InvalidInput(SufficeError, ValueError):
    """Input that cannot be accepted; nothing was changed.

    ``problems`` holds every wrong field that was found, so that one reply is enough to mend them all.
    """

    def __init__(self, field: str, expected: str, got: Any) -> None:
        self.problems: tuple[Problem, ...] = (Problem(field, expected, got),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> InvalidInput:
        """One error that carries several problems."""
        found = tuple(problems)
        error = cls(found[0].field, found[0].expected, found[0].got)
        error.problems = found
        error.args = ("; ".join(map(str, found)),)
        return error

    def under(self, prefix: str) -> InvalidInput:
        """The same error with every field path placed under ``prefix``."""
        return InvalidInput.of(Problem(f"{prefix}.{p.field}", p.expected, p.got) for p in self.problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return (InvalidInput.of, (self.problems,))


class NotFound(SufficeError, LookupError):
    """There is no study, trial or metric of that name."""


class Conflict(SufficeError):
    """The request contradicts what is already recorded, for example a second, different result for a trial."""
