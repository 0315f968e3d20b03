"""Tuning an inference server: a study over its settings, measured by a load, throughput against latency.

    def serve(params):
        return serving([python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags(params)])

    study = tune_server(serve, Traffic(prompts, requests=200, at_once=32), trials=12)
    for best in study.pareto: print(best.params, best.trial.measurements)

Each trial starts the server anew, sends it a warm-up and then the load, and stops it. Settings under which it does not
start, or fails requests, are infeasible, which the study learns from. The first trial is the server as it is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from suffice.optimizer import Bool, Budget, Int, Objective, Space, Stop, Study, Trial

from .openai import OpenAIServer, Unreachable
from .vllm import NotServing

THROUGHPUT, LATENCY = "throughput", "p95_latency"
OBJECTIVES = (Objective(THROUGHPUT, "maximize"), Objective(LATENCY, "minimize"))
SPACE = Space(
    max_num_seqs=Int(1, 256, log=True),
    max_num_batched_tokens=Int(256, 16384, log=True),
    enable_prefix_caching=Bool(),
    constraints=["max_num_seqs <= max_num_batched_tokens"],
)

Serve = Callable[[Mapping[str, Any]], AbstractContextManager[str]]


@dataclass(frozen=True)
class Traffic:
    """A bounded load: chat requests for ``prompts`` in turn, ``at_once`` of them at a time.

    ``fields`` are added to each request (``temperature``, ``n``, ...); ``warm_up`` requests come first, unmeasured.
    """

    prompts: Sequence[str]
    requests: int = 128
    at_once: int = 16
    max_tokens: int = 128
    warm_up: int = 8
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Generated tokens per second, and the latency in seconds that 95 % of requests stay below; how many failed."""

    throughput: float
    p95: float
    failed: int


def flags(params: Mapping[str, Any]) -> list[str]:
    """A server's command line: ``max_num_seqs=64`` is ``--max-num-seqs 64``, a false ``x`` is ``--no-x``."""
    written: list[str] = []
    for name, value in params.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            written.append(f"--{dashed}" if value else f"--no-{dashed}")
        else:
            written += [f"--{dashed}", str(value)]
    return written


async def measure(url: str, traffic: Traffic) -> Measured:
    """Send the load to the server at ``url``."""
    async with OpenAIServer(url) as server:
        model = (await server.models())[0]["id"]
        await _send(server, model, traffic, traffic.warm_up)
        began = time.perf_counter()
        rows = await _send(server, model, traffic, traffic.requests)
        seconds = time.perf_counter() - began
    good = sorted(took for took, tokens in rows if tokens is not None)
    p95 = good[math.ceil(0.95 * len(good)) - 1] if good else math.inf
    return Measured(sum(tokens or 0 for _, tokens in rows) / seconds, p95, len(rows) - len(good))


async def _send(server: OpenAIServer, model: str, traffic: Traffic, count: int) -> list[tuple[float, int | None]]:
    """Seconds and generated tokens of each request; None for one that failed."""
    left = iter(range(count))
    rows: list[tuple[float, int | None]] = []

    async def work() -> None:
        for i in left:
            message = {"role": "user", "content": traffic.prompts[i % len(traffic.prompts)]}
            body = {"model": model, "messages": [message], "max_tokens": traffic.max_tokens, **(traffic.fields or {})}
            began = time.perf_counter()
            try:
                reply = await server.post("/v1/chat/completions", body)
                tokens = int(reply.json()["usage"]["completion_tokens"]) if reply.status == 200 else None
            except (Unreachable, ValueError, KeyError, TypeError):
                tokens = None
            rows.append((time.perf_counter() - began, tokens))

    await asyncio.gather(*(work() for _ in range(traffic.at_once)))
    return rows


def tune_server(
    serve: Serve,
    traffic: Traffic,
    space: Space = SPACE,
    trials: int = 12,
    first: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
    progress: Callable[[Trial], object] = lambda trial: None,
) -> Study:
    """The study after ``trials`` settings of a server: ``study.pareto`` has those that no other beats in both.

    serve: a context in which the server runs with given settings, at the address it gives.
    first: settings to begin with, the server's own defaults among them.
    progress: called with each finished trial.

    What this process is interrupted by stops the server that runs.
    """
    study = Study(space, OBJECTIVES, budget=Budget(trials=trials), seed=seed)
    for params in first:
        study.enqueue(params)
    while not isinstance(trial := study.ask(), Stop):
        try:
            with serve(trial.params) as url:
                found = asyncio.run(measure(url, traffic))
        except (NotServing, Unreachable) as error:
            progress(study.infeasible(trial, str(error)[-500:]))
            continue
        if found.failed:
            progress(study.infeasible(trial, f"{found.failed} of {traffic.requests} requests failed"))
        else:
            progress(study.tell(trial, {THROUGHPUT: found.throughput, LATENCY: found.p95}))
    return study
