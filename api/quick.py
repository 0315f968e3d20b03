"""The short way of asks, tells and heartbeats, which are nearly all the requests there are.

FastAPI takes longer over such a request than everything else together. So these routes stand before its own, and hand
what is plainly right (JSON that fits, of a study and a number that may be) to the same functions. Whatever is not goes
on to FastAPI's route of the same path, which says what is wrong with it. The OpenAPI document is FastAPI's, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from . import trials
from .access import check
from .deps import Parts
from .wire import Ask, Heartbeat, Tell

LEFT = "suffice.left"  # in a request's scope: the short way has left it to FastAPI
PLAIN = (b"content-type", b"application/json")
NUMBER = re.compile("[0-9]{1,9}")


class Quick(BaseRoute):
    """A route whose ``answer`` is given the parts, what stands in the path, and the body."""

    def __init__(self, path: str, body: type[BaseModel], answer: Callable[..., Awaitable[Response]]) -> None:
        self.path = path
        self._body = body
        self._answer = answer
        self._form = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/\\0]+)", path))

    def matches(self, scope: Any) -> tuple[Match, Any]:
        if scope["type"] != "http" or scope["method"] != "POST" or LEFT in scope:
            return Match.NONE, {}
        found = self._form.fullmatch(scope["path"])
        return (Match.NONE, {}) if found is None else (Match.FULL, {"route": self, "path_params": found.groupdict()})

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        parts: Parts = scope["app"].state.parts.within(check(scope, f"POST {self.path}"))
        data = await _read(receive)
        given = self._given(scope, data)
        if given is None:
            scope[LEFT] = True
            await scope["router"](scope, _again(data, receive), send)
            return
        response = await self._answer(parts, *given)
        await response(scope, receive, send)

    def _given(self, scope: Any, data: bytes) -> list[Any] | None:
        """What the answer depends on; None where it is not as it should be."""
        if PLAIN not in scope["headers"]:
            return None
        found = dict(scope["path_params"])
        if (number := found.get("number")) is not None:
            if not NUMBER.fullmatch(number):
                return None
            found["number"] = int(number)
        try:
            return [*found.values(), self._body.model_validate(json.loads(data))]
        except (ValueError, ValidationError):
            return None


ROUTES = (
    Quick(f"{trials.router.prefix}/trials/{{number}}/tell", Tell, trials.tell),
    Quick(f"{trials.router.prefix}/ask", Ask, trials.ask),
    Quick(f"{trials.router.prefix}/trials/{{number}}/heartbeat", Heartbeat, trials.heartbeat),
)


async def _read(receive: Any) -> bytes:
    """The body. Raises HTTPException where the client left before its end."""
    data: bytes = b""
    while True:
        message: dict[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the body has no end")
        data += message.get("body", b"")
        if not message.get("more_body"):
            return data


def _again(data: bytes, receive: Any) -> Any:
    """A ``receive`` that begins with the body once more."""
    read = False

    async def receive_again() -> Any:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": data, "more_body": False}

    return receive_again
