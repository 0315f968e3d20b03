"""Any server that speaks OpenAI's HTTP interface: vLLM, SGLang, a hosted one, over one pool of connections.

    async with OpenAIServer("http://127.0.0.1:8000") as server:
        reply = await server.post("/v1/chat/completions", {"model": "tiny", "messages": [...]})

Bodies are bytes, as the server sent them; nothing is retried here. Cancelling a call closes its connection, by which
vLLM and others learn that the generation is not wanted any more.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

CONNECT_SECONDS = 5.0
READ_SECONDS = 600.0  # between two pieces of an answer
IDLE_SECONDS = 4.0  # uvicorn, and so vLLM, closes idle connections after 5
PIECE = 1 << 16

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class Unreachable(Exception):
    """No answer: the connection could not be made, or it broke, or nothing came in time.

    ``sent`` is False where the server has not seen the request for certain.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class TimedOut(Unreachable):
    """Nothing came in time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is none."""
        return json.loads(self.body)


class Stream:
    """An answer whose body is still coming."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """As they came on the wire."""
        return self._response.raw_headers

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def read(self) -> Reply:
        """The whole answer. Raises Unreachable where it breaks off."""
        with _named():
            whole = await self._response.read()
        return Reply(self.status, self._response.headers, whole)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises Unreachable where it breaks off."""
        content = self._response.content
        with _named():
            while piece := await content.readany():
                yield piece


def as_json(headers: Headers) -> Headers:
    """The headers of a request whose body is JSON, and whose answer is read here."""
    plain = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    plain = [(name, value) for name, value in plain if name.lower() not in ("content-type", "accept-encoding")]
    return [*plain, ("Content-Type", "application/json"), ("Accept-Encoding", "identity")]


class OpenAIServer:
    """The server at ``url`` (with or without ``/v1``); ``api_key`` goes along as a bearer token."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._authorization = None if api_key is None else f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds, sock_read=read_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def open(
        self, method: str, path: str, body: bytes | None = None, headers: Headers = ()
    ) -> AsyncGenerator[Stream]:
        """Send a request and give its answer as a stream, undecoded; leaving early closes the connection.

        ``path`` is as on the wire, with its query. Raises Unreachable.
        """
        sent = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if self._authorization is not None:
            sent = [(name, value) for name, value in sent if name.lower() != "authorization"]
            sent.append(("Authorization", self._authorization))
        with _named():
            response = await self._pool().request(
                method,
                URL(self.url + path, encoded=True),
                data=io.BytesIO(body) if body and len(body) > PIECE else body,  # large ones are written in pieces
                headers=sent,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
            )
        try:
            yield Stream(response)
        finally:
            if not response.content.at_eof():
                response.close()
            response.release()

    async def request(self, method: str, path: str, body: bytes | None = None, headers: Headers = ()) -> Reply:
        """Send a request and wait for its whole answer. Raises Unreachable."""
        async with self.open(method, path, body, headers) as stream:
            return await stream.read()

    async def post(self, path: str, body: bytes | Mapping[str, Any], headers: Headers = ()) -> Reply:
        """Send JSON and wait for the whole answer. Raises Unreachable."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.request("POST", path, raw, as_json(headers))

    async def models(self) -> list[dict[str, Any]]:
        """The entries of ``/v1/models``. Raises Unreachable, also for an answer that is no list of models."""
        reply = await self.request("GET", "/v1/models", headers=[("Accept-Encoding", "identity")])
        try:
            entries: list[dict[str, Any]] = [dict(entry) for entry in reply.json()["data"]]
            if reply.status == 200 and all(isinstance(entry["id"], str) for entry in entries):
                return entries
        except (ValueError, KeyError, TypeError):
            pass
        raise Unreachable(f"{self.url}/v1/models answered {reply.status}, no list of models", sent=True)

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=PIECE,
            )
        return self._session


class _named:
    """Calls what goes wrong by our names."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            raise TimedOut(str(error) or "no connection in time", sent=False) from error
        if isinstance(error, asyncio.TimeoutError):
            raise TimedOut(str(error) or "no answer in time", sent=True) from error
        if isinstance(error, aiohttp.ClientConnectorError):
            raise Unreachable(str(error), sent=False) from error
        if isinstance(error, aiohttp.ClientError | OSError):
            raise Unreachable(str(error) or type(error).__name__, sent=True) from error
