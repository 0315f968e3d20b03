"""The loop around a sampler: ask, draw, tell, until every prompt has enough. One flow for blocking and asyncio code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .client_errors import InvalidRequest
from .client_sampling import Answer, Reading, SamplingCalls, reading
from .flows import AsyncLink, Flow, Pause, SyncLink
from .sampling_wire import DrawOut, EnoughOut
from .wire import FieldProblem, StopOut

ELSEWHERE_SECONDS = 1.0  # between asks while all that is out is in other hands

Prompts = Mapping[str, Any] | Sequence[Any]
"""Prompts by id, or in order; they are handed to ``draw`` and not sent to the service."""

Features = Callable[[Any], Sequence[float]]
"""What is known of a prompt beforehand, as numbers (an embedding, how earlier runs went)."""

Drawn = Sequence[Reading]
SamplingT = TypeVar("SamplingT", bound=SamplingCalls)


@dataclass(frozen=True, slots=True)
class Picked:
    """What came of a prompt: the answer to give (None where all failed), P(it is right), and why no more was drawn."""

    prompt: Any
    answer: Answer | None
    confidence: float
    samples: int
    tokens: float
    stop: EnoughOut | None


@dataclass(frozen=True, slots=True)
class Sampled(Generic[SamplingT]):
    """What `Client.sample` returns: the results in the order of the prompts, and the sampling they are kept in."""

    sampling: SamplingT
    results: list[Picked]

    @property
    def picks(self) -> list[Any]:
        """The answers to give, as they were voted on."""
        return [None if one.answer is None else one.answer.answer for one in self.results]


@dataclass(frozen=True, slots=True)
class Begin:
    """Start to draw."""

    draw: DrawOut


@dataclass(frozen=True, slots=True)
class Finished:
    """The draws that ended, with their answers, once there is one."""


@dataclass(slots=True)
class Loop:
    """A sampling, and what its draws gave so far."""

    sampling: Any
    prompts: dict[str, Any]
    workers: int
    drawn: dict[tuple[str, int], Answer] = field(default_factory=dict)


def named(prompts: Prompts, workers: int) -> dict[str, Any]:
    """Prompts by id."""
    if workers < 1:
        raise InvalidRequest.of(FieldProblem(field="workers", expected="at least 1", got=workers))
    if isinstance(prompts, Mapping):
        return dict(prompts)
    if isinstance(prompts, str):
        raise InvalidRequest.of(FieldProblem(field="prompts", expected="a list of prompts", got=prompts[:200]))
    return {str(i): prompt for i, prompt in enumerate(prompts)}


def described(prompts: dict[str, Any], features: Features | None) -> list[Any]:
    """Prompts as they are sent: ids, with features where there are some."""
    if features is None:
        return list(prompts)
    return [{"id": name, "features": [float(x) for x in features(prompt)]} for name, prompt in prompts.items()]


def work(loop: Loop) -> Flow[Sampled[Any]]:
    """Keep ``workers`` prompts at work until nothing is left to draw."""
    sampling, busy = loop.sampling, 0
    while True:
        if busy < loop.workers:
            step = yield from SamplingCalls.ask.flow(sampling, loop.workers - busy)
            if isinstance(step, StopOut) and not busy:
                return (yield from _results(loop))
            for draw in [] if isinstance(step, StopOut) else step:
                busy += 1
                yield Begin(draw)
            if not busy:
                yield Pause(ELSEWHERE_SECONDS)
                continue
        for draw, given in (yield Finished()):
            busy -= 1
            yield from SamplingCalls.tell.flow(sampling, draw, given)
            answers = map(reading, given)
            loop.drawn |= {(draw.prompt, n): a for n, a in zip(draw.numbers, answers, strict=True)}


def _results(loop: Loop) -> Flow[Sampled[Any]]:
    found = yield from SamplingCalls.read.flow(loop.sampling)
    results: list[Picked] = []
    for one in found.results:
        picked = None if one.pick_number is None else loop.drawn.get((one.prompt, one.pick_number), Answer(one.pick))
        results.append(Picked(loop.prompts[one.prompt], picked, one.confidence, one.samples, one.tokens, one.stop))
    return Sampled(loop.sampling, results)


def sample(sampling: Any, draw: Callable[[Any, int], Drawn], prompts: dict[str, Any], workers: int) -> Sampled[Any]:
    """The body of `Client.sample`."""
    link: SyncLink = sampling._link
    loop = Loop(sampling, prompts, workers)
    running: dict[Future[Drawn], DrawOut] = {}
    with ThreadPoolExecutor(workers, "draw") as pool:

        def perform(effect: Any) -> Any:
            match effect:
                case Begin():
                    prompt = prompts[effect.draw.prompt]
                    running[pool.submit(draw, prompt, len(effect.draw.numbers))] = effect.draw
                    return None
                case Finished():
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    return [(running.pop(future), future.result()) for future in done]
                case _:
                    return link.perform(effect)

        return link.run(work(loop), perform)


async def sample_async(
    sampling: Any, draw: Callable[[Any, int], Awaitable[Drawn]], prompts: dict[str, Any], workers: int
) -> Sampled[Any]:
    """The body of `AsyncClient.sample`."""
    link: AsyncLink = sampling._link
    loop = Loop(sampling, prompts, workers)
    running: dict[asyncio.Future[Drawn], DrawOut] = {}

    async def perform(effect: Any) -> Any:
        match effect:
            case Begin():
                drawing = draw(prompts[effect.draw.prompt], len(effect.draw.numbers))
                running[asyncio.ensure_future(drawing)] = effect.draw
                return None
            case Finished():
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                return [(running.pop(future), future.result()) for future in done]
            case _:
                return await link.perform(effect)

    try:
        return await link.run(work(loop), perform)
    finally:
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)
