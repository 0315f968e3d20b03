"""The verifiers of the configuration, and the connections of those that ask a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from suffice.adapters.openai import OpenAIServer, Unreachable
from suffice.adapters.verifiers import Conforms, Judge, LogProbability, Matches, Reward, Verifier, VerifierFailed

from .gateway_config import Judge as JudgeConfig
from .gateway_config import LogProbability as LogProbabilityConfig
from .gateway_config import Pattern as PatternConfig
from .gateway_config import Reward as RewardConfig
from .gateway_config import VerifierConfig

TRIES = 2


class Verifiers:
    """By name."""

    def __init__(self, configs: Mapping[str, VerifierConfig], connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._servers: list[OpenAIServer] = []
        self._made = {name: self._verifier(config) for name, config in configs.items()}

    def get(self, name: str | None) -> Verifier | None:
        """The verifier of that name; None for none."""
        return self._made.get(name or "")

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers:
            await server.close()

    def _verifier(self, config: VerifierConfig) -> Verifier:
        match config:
            case LogProbabilityConfig():
                return LogProbability()
            case PatternConfig():
                return Matches(re.compile(config.pattern, re.DOTALL))
            case RewardConfig():
                return Reward(
                    self._poster(config.url, config.api_key, config.timeout_s),
                    path=config.path,
                    model=config.model,
                    aggregate=config.aggregate,
                    label=config.label,
                    template=config.template,
                    step_separator=config.step_separator,
                    raw=config.raw,
                )
            case JudgeConfig():
                post = self._poster(config.url, config.api_key, config.timeout_s)
                return Judge(post, config.model, config.question, config.critiques)
            case _:
                return Conforms(config.json_schema)

    def _poster(self, url: str, key: str | None, seconds: float) -> Callable[[str, Mapping[str, Any]], Awaitable[Any]]:
        server = OpenAIServer(url, key, connect_seconds=self._connect_seconds, read_seconds=seconds)
        self._servers.append(server)
        return partial(_ask, server, seconds)


async def _ask(server: OpenAIServer, seconds: float, path: str, body: Mapping[str, Any]) -> Any:
    """JSON from a verifier's server; tried twice. Raises VerifierFailed."""
    error = "no answer"
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(seconds):
                reply = await server.post(path, body)
            if reply.status == 200:
                return reply.json()
            error = f"status {reply.status}"
            if reply.status < 500 and reply.status != 429:
                break
        except (Unreachable, TimeoutError, ValueError) as wrong:
            error = str(wrong) or "no answer in time"
    raise VerifierFailed(f"{path}: {error}")
