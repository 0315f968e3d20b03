"""What a key may still do: requests in a minute, tokens in a day; counted in the database, by all processes together.

Of a minute's requests a process takes a second's worth at a time, so that few requests wait for the database. Tokens
are counted afterwards: a request that begins within its budget is answered; what it spends counts against the next
ones. So a key's requests that are at work at the same time may exceed its budget by what they spend.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from fastapi.concurrency import run_in_threadpool

from .access import Caller
from .keys import KeyStore, Known

TAIL = 65_536  # bytes at the end of an answer in which its usage is looked for
TOTAL = re.compile(rb'"total_tokens"\s*:\s*(\d{1,15})')
log = logging.getLogger("suffice.api")


class Rates:
    """A minute's requests may come at once, then they come as they are refilled. For the event loop's thread."""

    def __init__(self, store: KeyStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._left: dict[int, int] = {}  # requests that were granted to this process, by key
        self._refused: dict[int, float] = {}  # until when there are none for this process
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take(self, caller: Caller) -> int | None:
        """None if this request is within the key's rate; otherwise the seconds until one will be."""
        key, most = caller.key_row, caller.requests_per_minute
        if most is None or key is None:
            return None
        if not self._left.get(key):
            async with self._turns[key]:
                await self._refill(key, most)
        if self._left[key]:
            self._left[key] -= 1
            return None
        return max(1, math.ceil(self._refused[key] - self._monotonic()))

    async def _refill(self, key: int, most: int) -> None:
        if self._left.get(key) or self._monotonic() < self._refused.get(key, 0.0):
            return
        share = math.ceil(most / 60)
        granted, seconds = await run_in_threadpool(self._store.grant, key, most, share)
        self._left[key] = granted
        self._refused[key] = self._monotonic() + seconds


class Spending:
    """Tokens that keys have spent today. Writing them down is left to a thread; nothing here waits for the database."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._unwritten: Counter[tuple[int, str]] = Counter()
        self._floor: defaultdict[tuple[int, str], int] = defaultdict(int)  # what was spent at least
        self._writer = ThreadPoolExecutor(1, "spending")

    def spent(self, known: Known) -> int:
        """Tokens that a key has spent today, as far as this process knows."""
        key, today = known.caller.key_row, self._store.today()
        assert key is not None
        with self._lock:
            base = known.tokens if known.day == today else 0
            return max(self._floor[key, today], base + self._unwritten[key, today])

    def wait(self, known: Known) -> int | None:
        """None while the key may spend more; otherwise the seconds until tomorrow (UTC)."""
        most = known.caller.tokens_per_day
        if most is None or self.spent(known) < most:
            return None
        at = self._store.clock()
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return max(1, math.ceil((midnight - at).total_seconds()))

    def add(self, known: Known, tokens: int) -> None:
        key, today = known.caller.key_row, self._store.today()
        if tokens <= 0 or key is None:
            return
        spent = self.spent(known)
        with self._lock:
            self._unwritten[key, today] += tokens
            self._floor[key, today] = spent + tokens
            for old in [one for one in self._floor if one[1] < today]:
                del self._floor[old]
        self._writer.submit(self._write, key, today)

    def _write(self, key: int, day: str) -> None:
        with self._lock:
            tokens = self._unwritten[key, day]
        if not tokens:
            return
        try:
            self._store.spend(key, day, tokens)
        except Exception:  # a full disk, a lost connection: counted here, and written with the next
            log.exception("the tokens that a key has spent could not be written down")
            return
        with self._lock:
            self._unwritten[key, day] -= tokens

    def close(self) -> None:
        """Write what is left."""
        self._writer.shutdown()


class Meter:
    """Counts the tokens of a gateway's answer as it passes: its usage, or without one its events."""

    def __init__(self) -> None:
        self._tail = b""
        self._events = 0
        self._size = 0

    def see(self, piece: bytes) -> None:
        self._tail = (self._tail + piece)[-TAIL:]
        self._events += piece.count(b"data: ")
        self._size += len(piece)

    @property
    def tokens(self) -> int:
        """What the answer says it cost; of a stream that does not say, one token an event."""
        if found := TOTAL.findall(self._tail):
            return int(found[-1])
        return self._events
