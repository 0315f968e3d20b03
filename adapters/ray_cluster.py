"""Suffice on a Ray cluster: functions that are evaluated there, and actors that compute suggestions there.

`Evaluator` is what ``study.optimize(fn, executor="ray")`` evaluates with. `StudyActors` are what
``suffice serve --engine ray`` computes with: one actor per study in use.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.queue import Queue

# --- evaluating functions ---------------------------------------------------------------------------------------------


class Wire:
    """The far end of two queues: what a task sends to the loop that started it, and is answered."""

    def __init__(self, up: Queue, down: Queue) -> None:
        self._up, self._down = up, down

    def send(self, message: Any) -> None:
        self._up.put(message)

    def recv(self) -> Any:
        return self._down.get()


@ray.remote
def _evaluate(task: bytes, wire: Wire) -> Any:
    return pickle.loads(task)(wire)


class Evaluator:
    """Evaluates one trial at a time somewhere on the cluster; connects to it, or starts a Ray on this machine.

    When the node dies, Ray evaluates again on another one, three times at most.
    """

    def __init__(self) -> None:
        if not ray.is_initialized():
            ray.init(configure_logging=False, log_to_driver=False)
        self._up, self._down = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))

    def evaluate(self, task: Callable[[Wire], Any], report: Callable[[Any], Any]) -> Any:
        """What ``task`` returns there; each message that it sends meanwhile is answered with what ``report`` returns.

        Raises RuntimeError where it could not be run to its end.
        """
        cluster: Any = ray
        done = _evaluate.remote(cluster.cloudpickle.dumps(task), Wire(self._up, self._down))
        reports: Any = self._up.actor
        while True:
            message = reports.get.remote()
            ready, _ = ray.wait([done, message])
            if done in ready:
                ray.cancel(message)
                try:
                    return ray.get(done)
                except RayError as error:
                    raise RuntimeError(f"the evaluation on the cluster ended: {error}") from error
            self._down.put(report(ray.get(message)))

    def close(self) -> None:
        for queue in (self._up, self._down):
            queue.shutdown(force=True)


# --- actors -----------------------------------------------------------------------------------------------------------


class _StudyActor:
    """Computes for one study, where Ray has put it."""

    def __init__(self, make: Callable[[], Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
        self._answer = make()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._answer(job)

    def where(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


class StudyActors:
    """One actor per study: started when there is a job for it, found again by its name, ended when it is idle.

    ``make`` gives an actor what it answers jobs with. When a node dies, Ray starts its actors elsewhere, and does again
    what they were doing.
    """

    NAMESPACE: ClassVar[str] = "suffice"
    RETRIES: ClassVar[int] = 3

    def __init__(
        self, address: str | None, label: str, make: Callable[[], Callable[[dict[str, Any]], dict[str, Any]]]
    ) -> None:
        self._address = address
        self._label = label
        self._make = make
        self._actors: dict[int, Any] = {}
        self._used: dict[int, float] = {}
        self._lock = threading.Lock()

    def connect(self) -> None:
        """To the cluster at the address; without one, start a Ray on this machine. Once is enough."""
        with self._lock:
            if not ray.is_initialized():
                options: dict[str, Any] = {
                    "configure_logging": False,
                    "log_to_driver": False,
                    "namespace": self.NAMESPACE,
                }
                ray.init(address=self._address, **options)

    async def run(self, study: int, job: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a job; None when the study's actor died over it more often than is tried again."""
        self._used[study] = time.monotonic()
        actor = await asyncio.to_thread(self._actor, study)
        try:
            answer: dict[str, Any] = await actor.run.remote(job)
        except RayActorError:
            self._actors.pop(study, None)
            return None
        return answer

    def _actor(self, study: int) -> Any:
        if study not in self._actors:
            options: dict[str, Any] = {
                "max_restarts": -1,
                "max_task_retries": self.RETRIES,
                "num_cpus": 1,
                "get_if_exists": True,
            }
            remote = ray.remote(_StudyActor).options(name=f"{self._label}-{study}", namespace=self.NAMESPACE, **options)
            self._actors[study] = remote.remote(self._make)
        return self._actors[study]

    def evict(self, idle: float) -> None:
        """End the actors that had nothing to do for so many seconds."""
        now = time.monotonic()
        for study in [study for study, used in self._used.items() if now - used >= idle]:
            del self._used[study]
            self.kill(study)

    def kill(self, study: int) -> None:
        """End a study's actor, whatever it is doing; the next job has a new one."""
        if actor := self._actors.pop(study, None):
            ray.kill(actor)
