"""The Python client: `Client` for blocking code, `AsyncClient` for asyncio. Needs httpx and pydantic, nothing more.

    with Client("http://127.0.0.1:8000") as client:
        study = client.create_study("branin", space, objective="minimize", exist_ok=True)
        for trial in study.trials(50):
            trial.tell(run(**trial.params))
        print(study.best().trial.params)

What can be done is in client_service.py, client_study.py, client_trial.py and client_sampling.py, once for both; here
is only what blocking and asyncio code write differently.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar, Self, Unpack, overload

import httpx

from . import holding, sampling_loop, tuning
from .calls import Result as Result
from .children import Remote as Remote
from .children import WorkerDied as WorkerDied
from .client_errors import Conflict as Conflict
from .client_errors import ConnectionFailed as ConnectionFailed
from .client_errors import Infeasible as Infeasible
from .client_errors import InvalidRequest as InvalidRequest
from .client_errors import LeaseLost as LeaseLost
from .client_errors import NotFound as NotFound
from .client_errors import Pruned as Pruned
from .client_errors import ServerError as ServerError
from .client_errors import SufficeClientError as SufficeClientError
from .client_errors import TrialOutcome as TrialOutcome
from .client_errors import Unauthorized as Unauthorized
from .client_errors import Unavailable as Unavailable
from .client_errors import UnexpectedAnswer as UnexpectedAnswer
from .client_sampling import Answer as Answer
from .client_sampling import BatchOptions, SamplingCalls, SamplingsCalls
from .client_service import ClientCalls
from .client_study import Context, StudyCalls
from .client_trial import TrialCalls
from .flows import AsyncLink, Awaiting, Blocking, SyncLink
from .progress import Progress as Progress
from .progress import Show as Show
from .sampling_loop import Drawn, Features, Prompts
from .sampling_loop import Picked as Picked
from .sampling_loop import Sampled as Sampled
from .sampling_wire import DrawOut as Draw
from .sampling_wire import ToldAnswer as ToldAnswer
from .tuning import Executor as Executor
from .tuning import Summary as Summary
from .wire import BudgetSpec as BudgetSpec
from .wire import MeasurementSpec as Measurement
from .wire import StopOut as Stop
from .wire import TrialAdd as TrialAdd

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 10.0  # seconds for an answer, on top of what a request may take on purpose
DEFAULT_RETRIES = 10  # about a minute in all: a restart of the service does not end a run

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncSampling",
    "AsyncStudy",
    "AsyncTrial",
    "BudgetSpec",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Draw",
    "Executor",
    "Infeasible",
    "InvalidRequest",
    "LeaseLost",
    "Measurement",
    "NotFound",
    "Picked",
    "Progress",
    "Pruned",
    "Remote",
    "Result",
    "Sampled",
    "Sampling",
    "ServerError",
    "Show",
    "Stop",
    "Study",
    "SufficeClientError",
    "Summary",
    "ToldAnswer",
    "Trial",
    "TrialAdd",
    "TrialOutcome",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "WorkerDied",
]

# --- blocking ---------------------------------------------------------------------------------------------------------


class Trial(TrialCalls, Blocking):
    """A trial of a `Study`."""


class Study(StudyCalls[Trial], Blocking):
    """A study of the service; from `Client.create_study` or `Client.study`."""

    _trial: ClassVar[Any] = Trial

    @overload
    def ask(
        self,
        count: None = None,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
        max_wait: float = 30.0,
    ) -> Trial | Stop: ...
    @overload
    def ask(
        self,
        count: int,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
        max_wait: float = 30.0,
    ) -> list[Trial] | Stop: ...
    def ask(
        self,
        count: int | None = None,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
        max_wait: float = 30.0,
    ) -> Trial | list[Trial] | Stop:
        """The next trial, or Stop with its reason; with ``count`` a list of at most that many.

        ``context`` gives the values of the study's contexts, where it has any. ``fresh`` waits for a suggestion that
        knows everything told so far, ``max_wait`` seconds at most.
        """
        asked: list[Trial] | Stop = self._link.run(self._ask(count or 1, worker, fresh, max_wait, context))
        return asked[0] if count is None and isinstance(asked, list) else asked

    def trials(
        self,
        count: int | None = None,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
    ) -> Iterator[Trial]:
        """The tuning loop: asks ``count`` times, or until the service says Stop. Heartbeats run while a trial is held.

        A turn that ends without a result fails its trial; leaving the loop (break, an exception, Ctrl-C) puts the trial
        back into the queue. ``fresh``: wait for suggestions that know the last result; for a worker on its own.
        """
        for _ in itertools.repeat(None) if count is None else range(count):
            trial = self.ask(context=context, worker=worker, fresh=fresh)
            if isinstance(trial, Stop):
                return
            with self.hold(trial):
                yield trial

    def hold(self, trial: Trial) -> AbstractContextManager[Trial]:
        """Keep a trial's lease while a block runs. Where the block ends without a result, the trial fails.

        An exception puts it back into the queue with its text as the reason; `Infeasible` and `Pruned` end here.
        """
        return holding.hold(self, trial)

    def optimize(
        self,
        fn: Callable[[Any], Any],
        trials: int | None = None,
        *,
        workers: int = 1,
        executor: Executor = "thread",
        progress: bool | Show = True,
        catch: tuple[type[Exception], ...] = (),
        context: Context = None,
        worker: str | None = None,
    ) -> Summary:
        """Ask, evaluate ``fn`` and tell, ``workers`` at a time, for ``trials`` trials or until the service says Stop.

        ``fn`` gets the configuration as a dict, or the trial itself when its first parameter is called ``trial``. It
        returns a number, {metric: value} or measurements, or raises `Infeasible` or `Pruned`. Any other exception fails
        the trial: without another try when its class is in ``catch``; else the trial goes back to the queue, the other
        workers finish what they are at, and the exception is raised here.

        ``executor="process"`` gives every worker a process of its own; ``fn`` must then be importable;
        ``executor="ray"`` evaluates on the Ray cluster that is connected, or on a Ray of this machine. Ctrl-C puts what
        is held back into the queue. ``progress`` may be a function that takes a `Progress`.
        """
        return tuning.optimize(self, fn, trials, workers, executor, progress, catch, worker, context)


class Sampling(SamplingCalls, Blocking):
    """A sampling of the service; from `Client.create_sampling` or `Client.sampling`."""


class Client(ClientCalls[Study], SamplingsCalls[Sampling], Blocking):
    """A service, for blocking code. May be shared between threads.

    Requests that got no answer, or 502, 503 or 504, are sent again up to ``retries`` times, with growing pauses; while
    the service never answered at all, only twice. ``transport`` is httpx's seam for tests.
    """

    _study: ClassVar[Any] = Study
    _sampling: ClassVar[Any] = Sampling

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        url, headers = _address(base_url, api_key)
        http = httpx.Client(base_url=url, headers=headers, transport=transport, limits=LIMITS)
        self._link = SyncLink(timeout, retries, http=http)

    def sample(
        self,
        draw: Callable[[Any, int], Drawn],
        prompts: Prompts,
        *,
        workers: int = 1,
        features: Features | None = None,
        **options: Unpack[BatchOptions],
    ) -> Sampled[Sampling]:
        """Draw answers to ``prompts`` until each has enough, and say which to give.

        ``draw(prompt, count)`` returns that many answers, each an `Answer` or what is voted on; what it raises is
        raised here. ``workers`` prompts are drawn for at a time, in threads. ``features(prompt)`` are numbers that tell
        how hard it is, for the calibration. The options are those of `create_sampling`.
        """
        named = sampling_loop.named(prompts, workers)
        sampling: Sampling = self._link.run(self._begin(sampling_loop.described(named, features), options))
        return sampling_loop.sample(sampling, draw, named, workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._link.http.close()


# --- asyncio ----------------------------------------------------------------------------------------------------------


class AsyncTrial(TrialCalls, Awaiting):
    """A trial of an `AsyncStudy`."""


class AsyncStudy(StudyCalls[AsyncTrial], Awaiting):
    """A study of the service; from `AsyncClient.create_study` or `AsyncClient.study`."""

    _trial: ClassVar[Any] = AsyncTrial

    @overload
    async def ask(
        self,
        count: None = None,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
        max_wait: float = 30.0,
    ) -> AsyncTrial | Stop: ...
    @overload
    async def ask(
        self,
        count: int,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
        max_wait: float = 30.0,
    ) -> list[AsyncTrial] | Stop: ...
    async def ask(
        self,
        count: int | None = None,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
        max_wait: float = 30.0,
    ) -> AsyncTrial | list[AsyncTrial] | Stop:
        """As `Study.ask`."""
        asked: list[AsyncTrial] | Stop = await self._link.run(self._ask(count or 1, worker, fresh, max_wait, context))
        return asked[0] if count is None and isinstance(asked, list) else asked

    async def trials(
        self,
        count: int | None = None,
        *,
        context: Context = None,
        worker: str | None = None,
        fresh: bool = False,
    ) -> AsyncGenerator[AsyncTrial, None]:
        """As `Study.trials`. Wrap it in `contextlib.aclosing` where the loop may be left early."""
        for _ in itertools.repeat(None) if count is None else range(count):
            trial = await self.ask(context=context, worker=worker, fresh=fresh)
            if isinstance(trial, Stop):
                return
            async with self.hold(trial):
                yield trial

    def hold(self, trial: AsyncTrial) -> AbstractAsyncContextManager[AsyncTrial]:
        """As `Study.hold`."""
        return holding.hold_async(self, trial)

    async def optimize(
        self,
        fn: Callable[[Any], Awaitable[Any]],
        trials: int | None = None,
        *,
        workers: int = 1,
        progress: bool | Show = True,
        catch: tuple[type[Exception], ...] = (),
        context: Context = None,
        worker: str | None = None,
    ) -> Summary:
        """As `Study.optimize`, with a coroutine function; cancelling it puts what is held back into the queue."""
        return await tuning.optimize_async(self, fn, trials, workers, progress, catch, worker, context)


class AsyncSampling(SamplingCalls, Awaiting):
    """A sampling of the service; from `AsyncClient.create_sampling` or `AsyncClient.sampling`."""


class AsyncClient(ClientCalls[AsyncStudy], SamplingsCalls[AsyncSampling], Awaiting):
    """A service, for asyncio code; otherwise as `Client`."""

    _study: ClassVar[Any] = AsyncStudy
    _sampling: ClassVar[Any] = AsyncSampling

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        url, headers = _address(base_url, api_key)
        http = httpx.AsyncClient(base_url=url, headers=headers, transport=transport, limits=LIMITS)
        self._link = AsyncLink(timeout, retries, http=http)

    async def sample(
        self,
        draw: Callable[[Any, int], Awaitable[Drawn]],
        prompts: Prompts,
        *,
        workers: int = 1,
        features: Features | None = None,
        **options: Unpack[BatchOptions],
    ) -> Sampled[AsyncSampling]:
        """As `Client.sample`, with a coroutine function."""
        named = sampling_loop.named(prompts, workers)
        sampling: AsyncSampling = await self._link.run(self._begin(sampling_loop.described(named, features), options))
        return await sampling_loop.sample_async(sampling, draw, named, workers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._link.http.aclose()


LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)  # as many as there are workers


def _address(base_url: str | None, api_key: str | None) -> tuple[str, dict[str, str]]:
    url = base_url or os.environ.get("SUFFICE_URL") or DEFAULT_URL
    key = api_key or os.environ.get("SUFFICE_API_KEY")
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest(f"base_url: expected an address that starts with http:// or https://, got {url!r}")
    return url, {"authorization": f"Bearer {key}"} if key else {}
