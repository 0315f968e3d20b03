"""Group commit: while one transaction is being written and made durable, the requests that come meanwhile gather, and
share the next one. Nobody waits for others to come; the more come, the more share.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import DBAPIError

from suffice.optimizer import SufficeError

from .batches import Answer, Request
from .leases import Leases

MOST = 256  # requests of one transaction: the last one's wait stays short
THREADS = 8  # that write to PostgreSQL, each for another study
ALL = 0  # the lane of every study, where the database has one writer

Waiting = tuple[Request, "asyncio.Future[Answer]"]


class GroupCommit:
    """Brings requests of the event loop to the database, in threads.

    An SQLite file has one writer, so all studies share a transaction; on PostgreSQL each study has its own.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._apart = leases.database.postgresql
        self._threads = ThreadPoolExecutor(THREADS if self._apart else 1, thread_name_prefix="commit")
        self._lanes: dict[int, list[Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, request: Request) -> Answer:
        """The answer, once it is durable; raises what refuses the request."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        lane = request.study if self._apart else ALL
        if lane in self._lanes:
            self._lanes[lane].append((request, answer))
        else:
            self._lanes[lane] = [(request, answer)]
            task = asyncio.create_task(self._write(lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _write(self, lane: int) -> None:
        """Write what has gathered in a lane, until nothing has."""
        await asyncio.sleep(0)  # whoever comes in this turn of the loop comes along
        while self._lanes[lane]:
            batch, self._lanes[lane] = self._lanes[lane][:MOST], self._lanes[lane][MOST:]
            await self._commit([(request, answer) for request, answer in batch if not answer.done()])
        del self._lanes[lane]

    async def _commit(self, batch: list[Waiting], *, again: bool = False) -> None:
        """Once more where it fails, each request alone: whoever is to blame, the others are not.

        Alone already, once more where the connection was lost: as its client would, who does not have to know.
        """
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._threads, self._leases.together, [one for one, _ in batch])
        except Exception as error:
            if len(batch) > 1 or (_lost(error) and not again):
                for one in batch:
                    await self._commit([one], again=True)
            else:
                _settle(batch, [error])
        else:
            _settle(batch, answers)

    def close(self) -> None:
        """Nothing comes any more; what was begun is ended."""
        self._threads.shutdown()


def _lost(error: Exception) -> bool:
    """Whether the connection to the database was lost."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _settle(batch: list[Waiting], answers: list[Answer | SufficeError] | list[Exception]) -> None:
    for (_, waiting), answer in zip(batch, answers, strict=True):
        if waiting.done():  # whoever asked has left
            continue
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)
