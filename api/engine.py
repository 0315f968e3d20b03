"""The service's side of the engine: which job comes next, who does it, and waking whoever waits for it.

Suggestions are computed by workers (`workers.py`) and reach asks through the database, so nothing here is needed for
correctness: a lost process, here or there, costs the time of the job it was doing. One `Engine` lives in the event loop
of the service; `wake` may be called from any thread.

A study gets a refresh of its ready suggestions when something changed what is known (many changes in a burst: one
refresh), or when asks wait because too few are ready (many asks: one joint batch). Never two at once. With several
replicas of the service on one PostgreSQL, one of them refreshes a study (`replicas.py`): the one that needed it first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from suffice.optimizer import Conflict, InvalidInput, NotFound
from suffice.optimizer.errors import Problem

from .errors import EngineFailed, Unavailable
from .replicas import News, Replicas
from .workers import EngineWorker, Hire

GATHER_SECONDS = 0.05  # asks that come together are answered together: wait so long, at most, for more of them
BURST_SECONDS = 0.03  # a refresh waits this long for what often follows: the next ask of the worker that told
FEWEST = 4  # suggestions that are kept ready: one more costs far less than the model that they all stand on
ATTEMPTS = 3  # workers that one job may bring down
RESTART_SECONDS = 1.0  # between workers that do not even start
FORGET_SECONDS = 2.0  # that a worker may still spend on a study that was deleted
CLAIM_SECONDS = 0.5  # between claims of a study that another replica has: it may have gone
REFILL_SECONDS = 1.0  # that an ask waits for what another replica computes, before it looks for itself
TICK = 0.001  # seconds of uvloop's clock: its timers may come a rounding error before their time
IDLE_SECONDS = 60.0  # after which a study that nobody asks about is left to other replicas, and forgotten

Answer = asyncio.Future[dict[str, Any]]

log = logging.getLogger("suffice.engine")


@dataclass(slots=True)
class Pulse:
    """Whoever waits for the next change of a study waits for this; there is a new one after it."""

    waiting: Counter[str] = field(default_factory=Counter)  # suggestions that asks wait for, by context (JSON)
    due: float = 0.0  # not to be computed before, while more asks are on their way
    passed_on: int = 0  # of those that wait, to the replica that has the study
    event: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Desk:
    """What the engine knows of one study."""

    changed: bool = False  # something happened that the ready suggestions do not know
    due: float = 0.0  # not to be refreshed before, unless asks wait
    busy: bool = False
    asking: int = 0  # asks that look whether enough suggestions are ready
    asked: int = 0  # suggestions asked for since the last refresh began
    on_demand: bool = False  # the last ask wanted fresh ones: preparing any beforehand would be in vain
    crashes: int = 0
    failures: int = 0
    error: Exception | None = None  # why the last of them failed
    left: int = 0  # ready suggestions, less those that were handed out since
    number: int = 0  # the next trial's, as far as is known here
    version: int = 0  # of the study's data, as far as is known here
    used: float = 0.0  # when somebody was last interested
    claiming: bool = False
    claim_due: float = 0.0  # not to be claimed again before
    pulse: Pulse = field(default_factory=Pulse)

    def beat(self) -> None:
        """Wake everyone who waits; those who still miss something will be back at the next pulse."""
        self.pulse.event.set()
        self.pulse = Pulse()


@dataclass(slots=True)
class Job:
    kind: str
    study: int
    payload: dict[str, Any]
    answer: Answer | None = None  # None: a refresh, whose answer is in the database
    aside: bool = False
    crashes: int = 0


class Engine:
    """``observe`` is told of every job that was done: its kind, seconds, and what the worker says of its parts."""

    def __init__(
        self,
        workers: int,
        hire: Hire,
        replicas: Replicas | None = None,
        observe: Callable[[str, float, dict[str, float] | None], object] = lambda kind, seconds, parts: None,
    ) -> None:
        self.workers = workers
        self.alive: set[int] = set()  # ids of workers that are ready for jobs
        self.closing = False
        self.restarts = 0  # workers that were replaced
        self._hire = hire
        self._observe = observe
        self._replicas = replicas  # None: there are no others
        self._desks: dict[int, Desk] = {}
        self._calls: tuple[deque[Job], deque[Job]] = (deque(), deque())  # the second ones are done aside
        self._analyses: dict[int, asyncio.Task[dict[str, Any]]] = {}  # under way, by study
        self._answers: set[Answer] = set()  # that somebody waits for
        self._doing: dict[EngineWorker, Job] = {}
        self._work = asyncio.Event()  # there may be a job
        self._aside = asyncio.Event()  # there may be one that is done aside
        self._claims: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Engine]:
        self._loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(self._keep_worker(), name=f"engine-{i}") for i in range(self.workers)]
        if self.workers:
            tasks.append(asyncio.create_task(self._keep_aside(), name="engine-aside"))
        tasks.append(asyncio.create_task(self._retire(), name="engine-retire"))
        if self._replicas is not None:
            tasks.append(asyncio.create_task(self._replicas.listen(self._heard), name="engine-replicas"))
        try:
            yield self
        finally:
            self.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Answer everyone who waits that the service is going; new ones too."""
        self.closing = True
        for desk in self._desks.values():
            desk.beat()
        for answer in self._answers:
            _fail(answer, Unavailable("the service is stopping"))

    # --- for the routes -----------------------------------------------------------------------------------------------

    def wake(self, study_id: int, *, refresh: bool = True) -> None:
        """Something changed in the study; with ``refresh``, something that suggestions should know."""
        if self._loop is not None and not self.closing:
            self._loop.call_soon_threadsafe(self._wake, study_id, refresh)

    def _wake(self, study_id: int, refresh: bool) -> None:
        desk = self._desk(study_id)
        if self._replicas is None:  # with others, the database tells all of them, this one too
            desk.beat()
        if refresh and not desk.changed:
            desk.changed = True
            desk.due = self._later(BURST_SECONDS)

    def noted(self, study_id: int, count: int, *, fresh: bool) -> None:
        """That many suggestions are being asked for: the next refresh prepares about as many."""
        desk = self._desk(study_id)
        desk.asked += count
        desk.on_demand = fresh

    @contextmanager
    def asking(self, study_id: int) -> Generator[None]:
        """Meanwhile an ask looks whether enough is ready; if not, it will wait, and belongs into the same batch."""
        desk = self._desk(study_id)
        desk.asking += 1
        try:
            yield
        finally:
            desk.asking -= 1
            self._work.set()

    async def refill(self, study_id: int, count: int, context: Mapping[str, Any] | None = None) -> None:
        """Have so many suggestions computed, and wait until something changed; raises EngineFailed.

        What changed may not be enough yet: the caller asks the store again.
        """
        desk = self._desk(study_id)
        pulse, failures = desk.pulse, desk.failures
        if not pulse.waiting.total():
            pulse.due = self._later(GATHER_SECONDS)
        key = json.dumps(context or {}, sort_keys=True)
        pulse.waiting[key] += count
        self._work.set()
        try:
            if self._replicas is None:
                await self._wait(pulse)
            else:  # what another replica does may not be heard of
                await self._wait_within(pulse, REFILL_SECONDS)
        finally:
            pulse.waiting[key] -= count
        if desk.failures > failures:
            assert desk.error is not None
            raise desk.error

    async def changed(self, study_id: int, seconds: float) -> None:
        """Wait until something changes in the study, at most so long."""
        await self._wait_within(self._desk(study_id).pulse, seconds)

    async def call(self, kind: str, study_id: int, *, aside: bool = False, **payload: Any) -> dict[str, Any]:
        """The answer to a job; raises what it raised. ``aside``: by a worker of its own, since it takes long."""
        if self.closing:
            raise Unavailable("the service is stopping")
        answer: Answer = asyncio.get_running_loop().create_future()
        job = Job(kind, study_id, payload, answer, aside)
        self._calls[aside].append(job)
        self._answers.add(answer)
        (self._aside if aside else self._work).set()
        try:
            return await answer
        finally:
            self._answers.discard(answer)

    async def analyse(self, study_id: int) -> None:
        """Have the study analysed; goes on when the caller does not wait for its end, and others may join."""
        if study_id not in self._analyses:
            task = asyncio.create_task(self.call("analyses", study_id, aside=True), name=f"analyses-{study_id}")
            self._analyses[study_id] = task
            task.add_done_callback(lambda done: (self._analyses.pop(study_id), done.cancelled() or done.exception()))
        await asyncio.shield(self._analyses[study_id])

    def forget(self, study_id: int) -> None:
        """The study was deleted; may be called from any thread."""
        if self._loop is not None and not self.closing:
            self._loop.call_soon_threadsafe(self._forget, study_id)

    def _forget(self, study_id: int) -> None:
        assert self._loop is not None
        if desk := self._desks.pop(study_id, None):
            desk.beat()
        for worker, job in self._doing.items():
            if job.study == study_id:
                self._loop.call_later(FORGET_SECONDS, self._interrupt, worker, job)

    def _interrupt(self, worker: EngineWorker, job: Job) -> None:
        """End a worker that is still at that job."""
        if self._doing.get(worker) is job:
            log.warning("an engine worker is ended, because study %s was deleted", job.study)
            worker.kill()

    def _later(self, seconds: float) -> float:
        """When that will be; somebody will look for work then."""
        assert self._loop is not None
        due = self._loop.time() + seconds
        self._loop.call_at(due + TICK, self._work.set)
        return due

    def _desk(self, study_id: int) -> Desk:
        assert self._loop is not None
        desk = self._desks.setdefault(study_id, Desk())
        desk.used = self._loop.time()
        return desk

    async def _wait_within(self, pulse: Pulse, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait(pulse)

    async def _wait(self, pulse: Pulse) -> None:
        if not self.closing:
            await pulse.event.wait()
        if self.closing:
            raise Unavailable("the service is stopping")

    # --- which job comes next -----------------------------------------------------------------------------------------

    def _pick(self, aside: bool) -> Job | None:
        """Calls first, then studies that asks wait for, then those that changed; aside only what is done there."""
        while self._calls[aside]:
            job = self._calls[aside].popleft()
            if job.answer is not None and not job.answer.done():
                return job
        if aside:
            return None
        assert self._loop is not None
        now = self._loop.time()
        idle = [(study_id, desk) for study_id, desk in self._desks.items() if not desk.busy]
        for study_id, desk in idle:
            if desk.pulse.waiting.total() and (not desk.asking or desk.pulse.due <= now) and self._have(study_id, desk):
                return self._refresh(study_id, desk)
        for study_id, desk in idle:
            if desk.changed and not desk.on_demand and desk.due <= now and self._have(study_id, desk):
                return self._refresh(study_id, desk)
        return None

    def _refresh(self, study_id: int, desk: Desk) -> Job:
        """As many as asks wait for, and some for those to come: twice what was asked for during the last refresh.

        One context at a time, so that the next one knows what was handed out in it.
        """
        spare = 0 if desk.on_demand else max(2 * desk.asked, FEWEST)
        context, waiting = next(((k, n) for k, n in desk.pulse.waiting.items() if n), ("{}", 0))
        count = waiting or (0 if spare else 1)
        self._desks[study_id] = self._desks.pop(study_id)  # to the end: every study has its turn
        desk.busy, desk.changed, desk.asked = True, False, 0
        return Job("refresh", study_id, {"count": count, "spare": spare, "context": json.loads(context)})

    def _done(self, job: Job, message: dict[str, Any]) -> None:
        error = message.get("error")
        if job.answer is not None:
            if error is not None:
                _fail(job.answer, _as_exception(error))
            elif not job.answer.done():
                job.answer.set_result(message["result"])
            return
        desk = self._desks.get(job.study)
        if desk is None:
            return
        desk.busy, desk.crashes = False, 0
        if error is not None:
            desk.failures += 1
            desk.error = _why_none(error)
        else:
            desk.left = message["result"]["ready"]
            if not message["result"]["current"]:
                self._wake(job.study, refresh=True)
        desk.beat()
        self._work.set()

    def _lost(self, job: Job) -> None:
        """The worker died over this job: again, with another one, but not for ever."""
        desk = self._desks.get(job.study)
        counted = job if job.answer is not None else desk
        if counted is None:
            return  # a refresh of a study that was deleted
        counted.crashes += 1
        message = f"{counted.crashes} engine workers died over {job.kind} of study {job.study}"
        log.error("%s", message)
        if counted.crashes >= ATTEMPTS:
            self._done(job, {"error": {"type": "EngineCrashed", "message": message}})
        elif isinstance(counted, Job):
            self._calls[counted.aside].appendleft(counted)
        else:
            counted.busy, counted.changed = False, True
        self._work.set()

    # --- other replicas -----------------------------------------------------------------------------------------------

    def _have(self, study_id: int, desk: Desk) -> bool:
        """Whether this replica is the one that refreshes the study; if not, it tries to be."""
        if self._replicas is None or study_id in self._replicas.owned:
            return True
        assert self._loop is not None
        waiting = desk.pulse.waiting.total()
        if not desk.claiming and (waiting > desk.pulse.passed_on or desk.claim_due <= self._loop.time()):
            desk.claiming = True
            task = asyncio.create_task(self._claim(self._replicas, study_id, desk))
            self._claims.add(task)
            task.add_done_callback(self._claims.discard)
        return False

    async def _claim(self, replicas: Replicas, study_id: int, desk: Desk) -> None:
        """Have the study from now on, or have the replica that has it compute what is waited for here."""
        pulse = desk.pulse
        try:
            if not await replicas.claim(study_id):
                desk.changed = False  # the other one hears of it
                pulse.passed_on = pulse.waiting.total()
                await replicas.want(study_id, pulse.waiting)
        finally:
            desk.claiming = False
            desk.claim_due = self._later(CLAIM_SECONDS)
            self._work.set()

    def _heard(self, news: News) -> None:
        """A study changed, here or elsewhere; or another replica wants suggestions for it."""
        desk = self._desks.get(news.study)
        if news.gone:
            self._forget(news.study)
            return
        owned = self._replicas is not None and news.study in self._replicas.owned
        if news.waiting and owned:
            self._wanted(self._desk(news.study), news.waiting)
        if desk is None or news.waiting:
            return
        desk.beat()
        if not owned:
            return
        handed_out = max(news.next_number - desk.number, 0) if desk.number else 0
        desk.number, desk.left = max(desk.number, news.next_number), desk.left - handed_out
        if news.data_version > desk.version or (handed_out and desk.left <= 0):
            desk.version = max(desk.version, news.data_version)
            self._wake(news.study, refresh=True)

    def _wanted(self, desk: Desk, waiting: Mapping[str, int]) -> None:
        if not desk.pulse.waiting.total():
            desk.pulse.due = self._later(GATHER_SECONDS)
        for context, count in waiting.items():
            desk.pulse.waiting[context] += count  # until the next pulse: who still misses something then says so again
        self._work.set()

    async def _retire(self) -> None:
        """Leave studies that nobody is interested in any more."""
        assert self._loop is not None
        while True:
            await asyncio.sleep(IDLE_SECONDS / 4)
            for study_id, desk in list(self._desks.items()):
                idle = not (desk.busy or desk.asking or desk.claiming or desk.changed or desk.pulse.waiting.total())
                if idle and self._loop.time() - desk.used > IDLE_SECONDS:
                    del self._desks[study_id]
                    desk.beat()
                    if self._replicas is not None:
                        await self._replicas.release(study_id)

    # --- workers ------------------------------------------------------------------------------------------------------

    async def _keep_worker(self) -> None:
        """Have a worker at work, always; a new one when it dies."""
        while True:
            await self._employ(self._hire(False))
            self.restarts += 1

    async def _keep_aside(self) -> None:
        """Have one more worker for long jobs, at low priority, while there are any."""
        while True:
            while not self._calls[True]:
                self._aside.clear()
                await self._aside.wait()
            await self._employ(self._hire(True), aside=True)

    async def _employ(self, worker: EngineWorker, aside: bool = False) -> None:
        """Start a worker, and give it jobs until it dies, or aside until there are none."""
        try:
            if not await worker.start():
                await asyncio.sleep(RESTART_SECONDS)
                return
            if not aside:
                self.alive.add(worker.id)
            death = asyncio.ensure_future(worker.gone())
            try:
                while not death.done():
                    job = self._pick(aside)
                    if job is None and aside:
                        return
                    if job is None:
                        await self._until_work(death)
                    elif not await self._do(worker, job):
                        return
            finally:
                death.cancel()
                self.alive.discard(worker.id)
        finally:
            await worker.end()

    async def _do(self, worker: EngineWorker, job: Job) -> bool:
        """Have a job done; whether the worker survived it."""
        began = time.perf_counter()
        self._doing[worker] = job
        try:
            answer = await worker.do({"kind": job.kind, "study": job.study, **job.payload})
        finally:
            del self._doing[worker]
        if answer is None:
            self._lost(job)
            return False
        self._observe(job.kind, time.perf_counter() - began, answer.get("result", {}).get("seconds"))
        self._done(job, answer)
        return True

    async def _until_work(self, death: asyncio.Future[None]) -> None:
        """Wait until there may be a job, or the worker died over nothing."""
        self._work.clear()
        work = asyncio.ensure_future(self._work.wait())
        try:
            await asyncio.wait((work, death), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()


def _why_none(error: dict[str, Any]) -> Exception:
    """Why there are no suggestions: what the study's engine cannot do is the definition's fault."""
    if error["type"] == "InvalidInput":
        return _as_exception(error)
    return EngineFailed(f"suggestions could not be computed: {error['type']}: {error['message']}")


def _fail(answer: Answer, error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _as_exception(error: dict[str, Any]) -> Exception:
    match error["type"]:
        case "NotFound":
            return NotFound(error["message"])
        case "Conflict":
            return Conflict(error["message"])
        case "InvalidInput":
            return InvalidInput.of(Problem(**p) for p in error["problems"])
        case kind:
            return EngineFailed(f"{kind}: {error['message']}")
