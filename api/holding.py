"""Holding a trial: its lease is renewed while it is worked on, and it never stays behind unsettled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

from .children import Raised
from .client_errors import Conflict, Infeasible, NotFound, Pruned, SufficeClientError
from .client_study import StudyCalls
from .client_trial import TrialCalls
from .flows import AsyncLink, Flow, Link, Pause, SyncLink

BEATS_PER_LEASE = 3  # a lost heartbeat or two must not lose the trial
QUICK = 1  # retries of what is sent on the way out, for example after Ctrl-C
WITHOUT = "the worker ended without telling a result"
LEFT = "released: the worker left"


def settle(trial: TrialCalls, outcome: Any, retry: bool = True) -> Flow[None]:
    """Tell a result, or what was raised instead of it; nothing where the trial was settled already."""
    if trial.settled:
        return
    match outcome:
        case Raised(Infeasible() as signal):
            yield from TrialCalls.infeasible.flow(trial, signal.reason)
        case Raised(Pruned() as signal):
            yield from TrialCalls.prune.flow(trial, signal.reason)
        case Raised(error):
            yield from TrialCalls.fail.flow(trial, f"{type(error).__name__}: {error}", retry)
        case _:
            yield from TrialCalls.tell.flow(trial, outcome)


def keep(held: dict[int, Any], every: float) -> Flow[None]:
    """Renew the leases of what is held, for ever. A heartbeat that does not get through is tried again next time."""
    while True:
        yield Pause(every)
        for trial in list(held.values()):
            try:
                yield from TrialCalls.heartbeat.flow(trial)
            except (Conflict, NotFound):
                held.pop(trial.number, None)
            except SufficeClientError:
                continue


def release(link: Link, held: dict[int, Any], reason: str) -> Flow[None]:
    """Put what is held back into the queue, without insisting: where that fails, the leases run out by themselves."""
    quick = replace(link, retries=min(link.retries, QUICK))
    for trial in list(held.values()):
        held.pop(trial.number, None)
        if not trial.settled:
            trial._link = quick
            with suppress(SufficeClientError):
                yield from TrialCalls.fail.flow(trial, reason, True)


def lease_third(study: StudyCalls[Any]) -> float:
    """Seconds between heartbeats."""
    return study.info.lease_seconds / BEATS_PER_LEASE


# --- blocking ---------------------------------------------------------------------------------------------------------


class _Over(Exception):
    pass


@contextmanager
def keeping(link: SyncLink, held: dict[int, Any], every: float) -> Generator[None, None, None]:
    """Heartbeats from a thread of their own."""
    over = threading.Event()

    def perform(effect: Any) -> Any:
        if not isinstance(effect, Pause):
            return link.perform(effect)
        if over.wait(effect.seconds):
            raise _Over

    def beat() -> None:
        with suppress(_Over):
            link.run(keep(held, every), perform)

    thread = threading.Thread(target=beat, name="suffice heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def hold(study: Any, trial: Any) -> Generator[Any, None, None]:
    """Keep one trial's lease while the block runs; see `Study.hold`."""
    link: SyncLink = study._link
    held = {trial.number: trial}
    try:
        with keeping(link, held, lease_third(study)):
            yield trial
    except (Infeasible, Pruned) as signal:
        link.run(settle(trial, Raised(signal)))
    except Exception as error:
        with suppress(SufficeClientError):
            link.run(settle(trial, Raised(error)))
        raise
    except BaseException:  # Ctrl-C, or a loop that was left
        link.run(release(link, {trial.number: trial}, LEFT))
        raise
    else:
        if not trial.settled and not trial.lost:
            link.run(TrialCalls.fail.flow(trial, WITHOUT, False))


# --- asyncio ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def keeping_async(link: AsyncLink, held: dict[int, Any], every: float) -> AsyncGenerator[None, None]:
    """Heartbeats from a task of their own."""
    task = asyncio.create_task(link.run(keep(held, every)))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def hold_async(study: Any, trial: Any) -> AsyncGenerator[Any, None]:
    """Keep one trial's lease while the block runs; see `AsyncStudy.hold`."""
    link: AsyncLink = study._link
    try:
        async with keeping_async(link, {trial.number: trial}, lease_third(study)):
            yield trial
    except (Infeasible, Pruned) as signal:
        await link.run(settle(trial, Raised(signal)))
    except Exception as error:
        with suppress(SufficeClientError):
            await link.run(settle(trial, Raised(error)))
        raise
    except BaseException:  # cancelled, or a loop that was left
        await link.run(release(link, {trial.number: trial}, LEFT))
        raise
    else:
        if not trial.settled and not trial.lost:
            await link.run(TrialCalls.fail.flow(trial, WITHOUT, False))
