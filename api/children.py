"""A process that evaluates configurations, one at a time, for one worker of the tuning loop.

A thread would share the interpreter with the others; a process has its own, and when it dies (out of memory, a crash in
native code) it takes one trial with it and not the run.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from .client_errors import InvalidRequest
from .wire import FieldProblem, PruneOut

SPAWN = multiprocessing.get_context("spawn")  # the parent has threads, which a fork would cut off


class WorkerDied(RuntimeError):
    """The process that evaluated a trial ended before it gave a result."""


@dataclass(frozen=True, slots=True)
class Raised:
    """What the tuned function raised, in place of a result."""

    error: Exception


class Remote:
    """A trial as a function in another process sees it: its configuration, and `report`."""

    def __init__(self, connection: Any, number: int, params: dict[str, Any]) -> None:
        self._connection = connection
        self.number = number
        self.params = params
        self.should_prune: PruneOut | None = None

    def report(self, result: Any, step: int) -> PruneOut | None:
        """Record an intermediate result; returns why to stop early, or None: go on."""
        self._connection.send(("report", (result, step)))
        answer = self._connection.recv()
        if isinstance(answer, Raised):
            raise answer.error
        self.should_prune = answer
        return self.should_prune


class Child:
    """The process; started when first needed, and again after it died."""

    def __init__(self, fn: Callable[[Any], Any], whole: bool) -> None:
        try:
            self._task = pickle.dumps((fn, whole))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            expected = "a function that other processes can import: defined at the top of a module or script"
            raise InvalidRequest.of(FieldProblem(field="fn", expected=expected, got=repr(fn))) from error
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()  # between an evaluation that starts the process and an interrupt that ends it
        self._closed = False

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            self._end()

    def evaluate(self, trial: Any) -> Any:
        """What the function returned for this trial, or `Raised`."""
        try:
            connection = self._start()
            connection.send((trial.number, trial.params))
            while True:
                kind, content = connection.recv()
                if kind == "report":
                    connection.send(_outcome(partial(trial.report, *content)))
                elif kind == "raised":
                    return Raised(content)
                else:
                    return content
        except (EOFError, OSError) as error:
            code = self._exit_code()
            died = WorkerDied(
                f"the process that ran trial {trial.number} ended with exit code {code} before it gave a result"
            )
            died.__cause__ = error
            return Raised(died)

    def _start(self) -> Connection:
        with self._lock:
            if self._closed:
                raise EOFError
            if self._connection is None:
                self._connection, theirs = SPAWN.Pipe()
                self._process = SPAWN.Process(target=serve, args=(theirs, self._task), name="suffice worker")
                self._process.start()
                theirs.close()
            return self._connection

    def _exit_code(self) -> int | None:
        with self._lock:
            process = self._process
            if process is not None:
                process.join(timeout=5)
            code = process.exitcode if process is not None else None
            self._end()
            return code

    def _end(self) -> None:
        if self._process is not None and self._connection is not None:
            self._process.terminate()
            self._process.join()
            self._process.close()
            self._connection.close()
        self._process = self._connection = None


class OnCluster:
    """The same on a Ray cluster: wherever there is room, and once more elsewhere when a node dies."""

    def __init__(self, fn: Callable[[Any], Any], whole: bool) -> None:
        from suffice.adapters.ray_cluster import Evaluator

        self._task = (fn, whole)
        self._evaluator = Evaluator()

    def __enter__(self) -> OnCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._evaluator.close()

    def evaluate(self, trial: Any) -> Any:
        """What the function returned for this trial, or `Raised`."""
        task = partial(attempt, unpack=_as_it_is, task=self._task, number=trial.number, params=trial.params)
        try:
            found = self._evaluator.evaluate(task, lambda message: _outcome(partial(trial.report, *message[1])))
        except RuntimeError as error:
            died = WorkerDied(f"trial {trial.number} could not be run to its end on the cluster")
            died.__cause__ = error
            return Raised(died)
        kind, content = pickle.loads(found)
        return Raised(content) if kind == "raised" else content


def _as_it_is(task: Any) -> Any:
    return task


def serve(connection: Connection, task: bytes) -> None:
    """The life of the process: configurations in, results out, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while True:
        try:
            number, params = connection.recv()
        except EOFError:
            return
        connection.send_bytes(attempt(connection, pickle.loads, task, number, params))


def attempt(
    connection: Any, unpack: Callable[[Any], tuple[Callable[[Any], Any], bool]], task: Any, number: int, params: Any
) -> bytes:
    """What became of an evaluation, pickled: its result, or what was raised."""
    try:
        fn, whole = unpack(task)
        kind, content = "result", fn(Remote(connection, number, params) if whole else params)
    except Exception as error:
        error.add_note("In the worker process:\n" + traceback.format_exc())
        kind, content = "raised", error
    try:
        message = pickle.dumps((kind, content))
        pickle.loads(message)  # an exception with arguments of its own may not come back
    except Exception as error:
        message = pickle.dumps(("raised", RuntimeError(f"{content!r} cannot be sent between processes: {error}")))
    return message


def _outcome(action: Callable[[], object]) -> object:
    try:
        return action()
    except Exception as error:
        return Raised(error)
