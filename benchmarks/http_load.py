"""Many clients of the service in one event loop, that cost little themselves: requests as bytes, answers by length."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

IDLE = 4.0  # seconds after which a connection is not trusted any more: servers close theirs after five


class Caller:
    """One connection that stays open."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._used = 0.0
        self.seconds: list[float] = []  # that requests took

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of the answer. Raises OSError where there is none."""
        if time.perf_counter() - self._used > IDLE:
            self.close()
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._place)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {self._place[0]}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(data)}\r\n\r\n"
        began = time.perf_counter()
        try:
            self._writer.write(head.encode() + data)
            answer = await self._reader.readuntil(b"\r\n\r\n")
            status, length, closing = _head(answer)
            text = await self._reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ConnectionError(str(error)) from error
        self._used = time.perf_counter()
        self.seconds.append(self._used - began)
        if closing:
            self.close()
        return status, json.loads(text) if text else None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _head(answer: bytes) -> tuple[int, int, bool]:
    """Status, length of the body, and whether the connection is closed after it."""
    lines = answer.lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    return int(lines[0].split()[1]), length, b"connection: close" in lines
