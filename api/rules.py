"""When a lease holds, and what becomes of a trial: rules about rows, which the transactions in `leases.py` follow.

A lease is a token that the trial remembers and the time it is granted until. The token is good until the trial ends or
is handed to someone else: a worker that was out of reach for too long finds its trial in the queue again, but its
result is taken all the same if nobody has started it anew. So, until the retries are used up, it makes no difference
when expired leases are swept up.

- RUNNING, token, time to come: leased.
- RUNNING, token, time past: lapsed; the next ask or sweep puts it back into the queue, or ends it as EXPIRED.
- WAITING, token, time past: in the queue after it lapsed. Its last worker may still resume it or tell its result.
- WAITING, token, no time: in the queue after its worker gave it back.
- WAITING, no token: in the queue, never handed out.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from suffice.optimizer import TrialState

from .errors import LeaseLost
from .records import Study, Trial


def lease(study: Study, trial: Trial, worker: str | None, at: datetime) -> None:
    trial.attempts += 1
    trial.worker = worker
    trial.reason = None
    trial.started_at = at
    trial.lease_token = secrets.token_urlsafe(18)
    trial.lease_expires_at = at + timedelta(seconds=study.lease_seconds)
    study.move(trial, TrialState.RUNNING, at)


def renew(study: Study, trial: Trial, at: datetime) -> None:
    trial.lease_expires_at = at + timedelta(seconds=study.lease_seconds)
    if trial.state != str(TrialState.RUNNING):  # it had lapsed, and nobody took it meanwhile
        study.move(trial, TrialState.RUNNING, at)


def resumable(trial: Trial) -> bool:
    """Whether the trial's last worker has not given it back (and it was not taken away)."""
    return trial.lease_expires_at is not None


def check_token(trial: Trial, token: str | None, at: datetime) -> None:
    """The right token, or none where nobody holds a lease."""
    if token is None:
        leased = trial.state == str(TrialState.RUNNING) and resumable(trial)
        if leased and trial.lease_expires_at is not None and trial.lease_expires_at > at:
            raise LeaseLost(f"trial {trial.number} is leased to a worker: the lease's token is needed")
    elif token != trial.lease_token:
        raise LeaseLost(f"trial {trial.number} is not leased by this token (any more)")


def within(trial: Trial, context: Mapping[str, Any]) -> bool:
    return all(trial.parameters[name] == value for name, value in context.items())


def stop(study: Study, key: str) -> dict[str, Any] | None:
    """Why there was nothing more to suggest in this context, while that is still so."""
    stop = study.stop
    current = stop is not None and (stop["data_version"], stop.get("context", "")) == (study.data_version, key)
    return stop if current else None
