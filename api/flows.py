"""Every conversation with the service is written once, as a flow, and run by a blocking or an asyncio driver.

A flow is a generator. It yields what it wants done (`Request`, `Pause`, ...), gets the outcome back, and returns its
result; it does no I/O itself, so that retries, paging and the tuning loop exist in one copy. `operation` turns a
method that is a flow into a plain method on handles of a blocking client, into a coroutine on those of an async one.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Request:
    """Send this; the answer is an `httpx.Response`, or the `httpx.TransportError` that came instead."""

    method: str
    path: str
    json: Any = None
    content: bytes | None = None  # in place of JSON
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    patience: float = 0.0  # seconds that the service may take on purpose, on top of the client's timeout
    repeatable: bool = True  # whether doing it twice is the same as doing it once


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """Send this and keep the answer open, to be read by lines; answered like `Request`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Line:
    """The next line of what was opened; None at its end or when the connection breaks."""


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Hand an item to whoever iterates."""

    item: T


Flow = Generator[Any, Any, T]  # a conversation that returns T
Stream = Generator[Emit[T] | Request | Pause | Open | Line, Any, None]  # one that emits Ts


@dataclass(slots=True)
class Link:
    """What the handles of one client share."""

    timeout: float
    retries: int
    reached: bool = False  # whether the service ever answered: before that, one does not wait long for it

    def options(self, request: Request) -> dict[str, Any]:
        """`request` as httpx's arguments."""
        timeout = httpx.Timeout(self.timeout, read=self.timeout + request.patience)
        params = {name: value for name, value in request.params.items() if value is not None}
        return {
            "method": request.method,
            "url": request.path,
            "json": request.json,
            "content": request.content,
            "params": params,
            "headers": request.headers,
            "timeout": timeout,
        }


@dataclass(slots=True)
class SyncLink(Link):
    """Runs flows with blocking calls."""

    http: httpx.Client = field(kw_only=True)

    def run(self, flow: Flow[T], perform: Callable[[Any], Any] | None = None) -> T:
        """The result of `flow`; `perform` may take over how effects are done."""
        answer: Any = None
        try:
            while True:
                effect = flow.send(answer)
                answer = perform(effect) if perform else self.perform(effect)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            flow.close()

    def perform(self, effect: Any) -> Any:
        """Do one thing that a flow asked for."""
        match effect:
            case Request():
                try:
                    return self.http.request(**self.options(effect))
                except httpx.TransportError as error:
                    return error
            case Pause():
                return time.sleep(effect.seconds)
            case _:
                raise TypeError(f"unknown effect {effect!r}")

    def iterate(self, flow: Stream[T]) -> Iterator[T]:
        """What `flow` emits, one by one."""
        with ExitStack() as stack:
            lines: Iterator[str] = iter(())
            answer: Any = None
            while True:
                try:
                    effect = flow.send(answer)
                except StopIteration:
                    return
                match effect:
                    case Emit():
                        answer = yield effect.item
                    case Open():
                        stack.close()
                        try:
                            answer = stack.enter_context(self.http.stream(**self.options(effect.request)))
                            if answer.is_success:
                                lines = answer.iter_lines()
                            else:
                                answer.read()
                        except httpx.TransportError as error:
                            answer = error
                    case Line():
                        try:
                            answer = next(lines, None)
                        except httpx.TransportError:
                            answer = None
                    case _:
                        answer = self.perform(effect)


@dataclass(slots=True)
class AsyncLink(Link):
    """Runs flows on an asyncio event loop."""

    http: httpx.AsyncClient = field(kw_only=True)

    async def run(self, flow: Flow[T], perform: Callable[[Any], Coroutine[Any, Any, Any]] | None = None) -> T:
        """The result of `flow`; `perform` may take over how effects are done."""
        answer: Any = None
        try:
            while True:
                effect = flow.send(answer)
                answer = await (perform(effect) if perform else self.perform(effect))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            flow.close()

    async def perform(self, effect: Any) -> Any:
        """Do one thing that a flow asked for."""
        match effect:
            case Request():
                try:
                    return await self.http.request(**self.options(effect))
                except httpx.TransportError as error:
                    return error
            case Pause():
                return await asyncio.sleep(effect.seconds)
            case _:
                raise TypeError(f"unknown effect {effect!r}")

    async def iterate(self, flow: Stream[T]) -> AsyncIterator[T]:
        """What `flow` emits, one by one."""
        async with AsyncExitStack() as stack:
            lines: AsyncIterator[str] | None = None
            answer: Any = None
            while True:
                try:
                    effect = flow.send(answer)
                except StopIteration:
                    return
                match effect:
                    case Emit():
                        answer = yield effect.item
                    case Open():
                        await stack.aclose()
                        try:
                            answer = await stack.enter_async_context(self.http.stream(**self.options(effect.request)))
                            if answer.is_success:
                                lines = answer.aiter_lines()
                            else:
                                await answer.aread()
                        except httpx.TransportError as error:
                            answer = error
                    case Line():
                        try:
                            answer = await anext(lines, None) if lines is not None else None
                        except httpx.TransportError:
                            answer = None
                    case _:
                        answer = await self.perform(effect)


class Blocking:
    """A handle of `Client`: its operations return results."""

    _link: SyncLink


class Awaiting:
    """A handle of `AsyncClient`: its operations are coroutines."""

    _link: AsyncLink


class operation(Generic[P, T]):
    """A flow as a method: blocking on `Blocking` handles, a coroutine on `Awaiting` ones; checkers see which."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, instance: Blocking, owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Awaiting, owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> operation[P, T]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._link.run(self.flow(instance, *args, **kwargs))

        return functools.update_wrapper(call, self.flow)


class stream(Generic[P, T]):
    """A flow that emits items as a method: an iterator on `Blocking` handles, an async one on `Awaiting` ones."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, instance: Blocking, owner: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, instance: Awaiting, owner: Any = None) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None) -> stream[P, T]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._link.iterate(self.flow(instance, *args, **kwargs))

        return functools.update_wrapper(call, self.flow)
