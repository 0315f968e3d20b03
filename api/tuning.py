"""The tuning loop: ask, evaluate, tell, on several workers at once, with heartbeats meanwhile.

The loop is a flow like any other (`work`); it yields `Evaluate` where a configuration has to be tried, and the drivers
at the end of this file try it in a thread, in a process of its own, on a Ray cluster, or as a coroutine.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from .children import Child, OnCluster, Raised
from .client_errors import Conflict, Infeasible, InvalidRequest, Pruned
from .client_study import Context, StudyCalls
from .flows import AsyncLink, Flow, SyncLink
from .holding import keeping, keeping_async, lease_third, release, settle
from .progress import Progress, Show, display
from .wire import StopOut

INTERRUPTED = "released: the run was interrupted"


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Try this configuration; answered with the result, or with `Raised`."""

    trial: Any


@dataclass(slots=True)
class Summary:
    """What a call of ``optimize`` did."""

    trials: list[Any] = field(default_factory=list)  # the handles of those that ended here, in the order they ended
    failed: int = 0
    lost: int = 0  # went to another worker because the lease had expired
    stop: StopOut | None = None  # why the service handed out no more; None: as many as were asked for


@dataclass
class Run:
    """One call of ``optimize``: what its workers share."""

    study: StudyCalls[Any]
    count: int | None
    catch: tuple[type[Exception], ...]
    show: Show
    worker: str | None
    context: Context
    fresh: bool  # one worker alone waits for what its last result taught; several would wait for each other
    held: dict[int, Any] = field(default_factory=dict)  # by number: what the heartbeats keep
    summary: Summary = field(default_factory=Summary)
    error: BaseException | None = None
    over: bool = False  # hand out no more
    abandoned: bool = False  # interrupted: what still runs is not told any more
    taken: int = 0
    best: Any = None
    lock: Any = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Whether one more trial may be asked for."""
        with self.lock:
            if self.over or (self.count is not None and self.taken >= self.count):
                return False
            self.taken += 1
            return True

    def end(self, error: BaseException) -> None:
        """Let the other workers finish what they are at, and no more; the first error is raised at the end."""
        with self.lock:
            self.over = True
            self.error = self.error or error

    def ended(self, trial: Any, *, failed: bool = False, lost: bool = False) -> None:
        """Count a trial that ended here; one that was lost does not use up a turn."""
        with self.lock:
            self.held.pop(trial.number, None)
            self.summary.failed += failed
            self.summary.lost += lost
            if lost:
                self.taken -= 1
            else:
                self.summary.trials.append(trial)
            self._compare(trial)
            self.show(self.progress())

    def _compare(self, trial: Any) -> None:
        objectives = self.study.info.objectives
        if len(objectives) == 1 and trial.state == "COMPLETED" and trial.value is not None and self._counts(trial):
            sign = 1 if objectives[0].direction == "minimize" else -1
            if self.best is None or sign * trial.value < sign * self.best.value:
                self.best = trial

    def _counts(self, trial: Any) -> bool:
        """Whether its value is what the study is about, not one at another fidelity or under some conditions."""
        info = self.study.info
        target = {} if info.fidelity is None else info.fidelity.target
        return info.environment is None and all(trial.params[name] == value for name, value in target.items())

    def progress(self) -> Progress:
        """Where the run stands."""
        best = self.best
        done = len(self.summary.trials)
        number, value = (best.number, best.value) if best is not None else (None, None)
        total = self.count or self.study.info.budget.trials
        return Progress(done, total, value, number, self.summary.failed, self.summary.lost)


# --- flows ------------------------------------------------------------------------------------------------------------


def work(run: Run) -> Flow[None]:
    """One worker: ask, evaluate, tell, until there is no more to do."""
    while run.take():
        asked = yield from run.study._ask(1, run.worker, run.fresh, 30.0, run.context)
        if isinstance(asked, StopOut):
            run.summary.stop = asked
            return
        (trial,) = asked
        run.held[trial.number] = trial
        outcome = yield Evaluate(trial)
        if run.abandoned:
            return
        yield from conclude(run, trial, outcome)


def conclude(run: Run, trial: Any, outcome: Any) -> Flow[None]:
    """Send how an evaluation ended; raises what it raised, unless that is to be caught."""
    lost = False
    try:
        try:
            run.over |= _fatal(run, outcome)
            yield from settle(trial, outcome, retry=not _caught(run, outcome))
        except InvalidRequest as error:  # the function returned what is no result
            outcome = Raised(error)
            run.over |= _fatal(run, outcome)
            yield from settle(trial, outcome, retry=not _caught(run, outcome))
    except Conflict:  # the lease had expired, or someone cancelled it
        lost = True
    run.ended(trial, failed=not lost and _failed(outcome), lost=lost)
    if _fatal(run, outcome):
        raise outcome.error


def _failed(outcome: Any) -> bool:
    return isinstance(outcome, Raised) and not isinstance(outcome.error, Infeasible | Pruned)


def _fatal(run: Run, outcome: Any) -> bool:
    return _failed(outcome) and not _caught(run, outcome)


def _caught(run: Run, outcome: Any) -> bool:
    return isinstance(outcome, Raised) and isinstance(outcome.error, run.catch)


def wants_trial(fn: Callable[..., Any]) -> bool:
    """Whether a tuned function wants the trial, not its configuration: its first parameter is called ``trial``."""
    try:
        names = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        return False
    return bool(names) and names[0] == "trial"


# --- blocking ---------------------------------------------------------------------------------------------------------


Executor = Literal["thread", "process", "ray"]
"""Where trials are evaluated: in threads, in processes, or on a Ray cluster."""


def optimize(
    study: Any,
    fn: Callable[[Any], Any],
    count: int | None,
    workers: int,
    executor: Executor,
    progress: Any,
    catch: Any,
    worker: str | None,
    context: Context,
) -> Summary:
    """The body of `Study.optimize`."""
    link: SyncLink = study._link
    with ExitStack() as stack:
        show = stack.enter_context(display(progress, study.name))
        run = Run(study, count, catch, show, worker, context, fresh=workers == 1)
        stack.enter_context(keeping(link, run.held, lease_third(study)))
        if executor != "thread":
            kind: type[Child | OnCluster] = Child if executor == "process" else OnCluster
            children = [kind(fn, wants_trial(fn)) for _ in range(workers)]
            evaluators: list[Callable[[Any], Any]] = [child.evaluate for child in children]
            for child in children:
                stack.enter_context(child)
        else:
            evaluators = [_in_this_process(fn)] * workers
        try:
            _drive(run, link, evaluators)
        except BaseException:
            run.over = run.abandoned = True
            link.run(release(link, run.held, INTERRUPTED))
            raise
        link.run(release(link, run.held, INTERRUPTED))
    if run.error is not None:
        raise run.error
    return run.summary


def _in_this_process(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    whole = wants_trial(fn)

    def evaluate(trial: Any) -> Any:
        try:
            return fn(trial if whole else trial.params)
        except Exception as error:
            return Raised(error)

    return evaluate


def _drive(run: Run, link: SyncLink, evaluators: list[Callable[[Any], Any]]) -> None:
    def one(evaluate: Callable[[Any], Any]) -> None:
        try:
            link.run(work(run), lambda e: evaluate(e.trial) if isinstance(e, Evaluate) else link.perform(e))
        except BaseException as error:
            run.end(error)

    if len(evaluators) == 1:
        one(evaluators[0])  # here, so that Ctrl-C reaches the function itself
        return
    threads = [threading.Thread(target=one, args=(evaluate,), daemon=True) for evaluate in evaluators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- asyncio ----------------------------------------------------------------------------------------------------------


async def optimize_async(
    study: Any,
    fn: Callable[[Any], Awaitable[Any]],
    count: int | None,
    workers: int,
    progress: Any,
    catch: Any,
    worker: str | None,
    context: Context,
) -> Summary:
    """The body of `AsyncStudy.optimize`."""
    link: AsyncLink = study._link
    whole = wants_trial(fn)
    with display(progress, study.name) as show:
        run = Run(study, count, catch, show, worker, context, fresh=workers == 1)

        async def perform(effect: Any) -> Any:
            if not isinstance(effect, Evaluate):
                return await link.perform(effect)
            try:
                return await fn(effect.trial if whole else effect.trial.params)
            except Exception as error:
                return Raised(error)

        async def one() -> None:
            try:
                await link.run(work(run), perform)
            except Exception as error:
                run.end(error)

        async with keeping_async(link, run.held, lease_third(study)):
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(workers):
                        group.create_task(one())
            finally:
                await link.run(release(link, run.held, INTERRUPTED))
    if run.error is not None:
        raise run.error
    return run.summary
