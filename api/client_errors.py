"""What a client can raise, as one tree.

SufficeClientError
├── ConnectionFailed             no answer came: is the service running, is the address right?
├── UnexpectedAnswer             an answer came that is none of the service's
├── InvalidRequest (ValueError)  a field is wrong: .problems says which, what was expected and what came
├── Unauthorized                 the key is missing or wrong
├── NotFound (LookupError)       no such study or trial
├── Conflict                     the request contradicts what is recorded (a name that is taken, a second result)
│   └── LeaseLost                the trial is no longer this worker's: its lease expired and it went back to the queue
├── Unavailable                  not now: nothing is ready, or a restart; .retry_after says when to come back
└── ServerError                  the service failed; its log says why

    try:
        study = client.create_study("branin", space)
    except suffice.api.client.Conflict:
        study = client.study("branin")

What a tuned function may raise to say how its trial ended:

TrialOutcome
├── Infeasible                   this configuration cannot be run, and neighbours may not either: learned from
└── Pruned                       stopped early on purpose: what was reported is kept
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .wire import FieldProblem


class SufficeClientError(Exception):
    """Anything that goes wrong between this client and the service."""

    repeated = False  # whether the request had been sent before without an answer: then it may have been done already


class ConnectionFailed(SufficeClientError):
    """No answer came."""


class UnexpectedAnswer(SufficeClientError):
    """An answer came that the service does not give: something else may be listening at that address."""


class InvalidRequest(SufficeClientError, ValueError):
    """The request cannot be accepted; nothing was changed. ``problems`` names every wrong field."""

    def __init__(self, message: str, problems: Iterable[FieldProblem] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__(message)

    @classmethod
    def of(cls, *problems: FieldProblem) -> InvalidRequest:
        """From the fields that are wrong."""
        return cls(describe(problems), problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.problems))


class Unauthorized(SufficeClientError):
    """The service wants another key, or any."""


class NotFound(SufficeClientError, LookupError):
    """There is no study or trial of that name or number."""


class Conflict(SufficeClientError):
    """The request contradicts what is recorded."""


class LeaseLost(Conflict):
    """The trial was handed to another worker, because its lease had expired."""


class Unavailable(SufficeClientError):
    """The service cannot answer now; ``retry_after`` seconds is when it asks to be tried again, where it says so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ServerError(SufficeClientError):
    """The service failed while it answered."""


class TrialOutcome(Exception):
    """Raised by a tuned function to end its trial in another way than with a result."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


class Infeasible(TrialOutcome):
    """The configuration cannot be run (out of memory, diverged): the model learns to keep away."""


class Pruned(TrialOutcome):
    """The trial was stopped early on purpose; what was reported so far is kept."""


def describe(problems: Iterable[FieldProblem]) -> str:
    """Problems as one sentence each: ``parameters.lr.low: expected a number > 0, got -1``."""
    return "; ".join(f"{p.field}: expected {p.expected}, got {p.got!r}" for p in problems)
