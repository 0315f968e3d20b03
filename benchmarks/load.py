"""How much the service takes, and what it costs: `make bench-load`, or `python -m benchmarks.load`.

For 1, 8 and 64 clients, on SQLite and on PostgreSQL, next to Optuna on the same databases and its gRPC proxy:

- tells: results of trials that the clients hold already, as fast as they are answered (a closed loop);
- turns: ask, tell, ask, tell, as fast as they are answered;
- paced: 64 clients whose trials take a random while, so that about `--rate` asks and tells come each second.

All trials are points that were queued before, so that no engine computes anything: the figures are about the store and
what lies before it. Clients, service and database share the machine; therefore processor seconds per request are
measured as well, of the service and of the database server. Those depend little on what else runs. One JSON line per
cell goes to `--out`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
from benchmarks.http_load import Caller
from benchmarks.postgres import Postgres, cpu_seconds
from benchmarks.service import HARTMANN, Served, call

CLIENTS = (1, 8, 64)
ADDED = 5000  # points of one request
HELD = 1000  # trials of one ask


@dataclass(frozen=True)
class Cell:
    """What was measured for so many clients."""

    system: str
    kind: str
    clients: int
    requests: int
    seconds: float
    service_cpu_ms: float  # per request
    database_cpu_ms: float  # per request: of PostgreSQL; SQLite's is the service's
    ask_ms: dict[str, float]
    tell_ms: dict[str, float]
    load: float  # of the machine

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Target:
    """Replicas of the service on one database, and what they cost."""

    def __init__(self, name: str, folder: Path, replicas: int = 1, postgres: Postgres | None = None) -> None:
        self.name = name
        self.cells = 0
        self._postgres = postgres
        database = None if postgres is None else postgres.new()
        self.services = [Served(folder, "--workers", "0", database=database) for _ in range(replicas)]

    def __enter__(self) -> Target:
        for service in self.services:
            service.start()
        return self

    def __exit__(self, *_: object) -> None:
        for service in self.services:
            service.__exit__()

    @property
    def ports(self) -> list[int]:
        return [service.port for service in self.services]

    def cpu(self) -> tuple[float, float]:
        """Processor seconds so far: of the service, of the database server."""
        own = sum(cpu_seconds(service.process.pid) for service in self.services)
        return own, 0.0 if self._postgres is None else self._postgres.cpu_seconds()

    def study(self, name: str, points: int, studies: int = 1) -> list[str]:
        """Paths of new studies with so many queued points in all."""
        paths = [f"/v1/studies/{name}-{i}" for i in range(studies)]
        with httpx.Client(base_url=self.services[0].url, timeout=120) as http:
            for path in paths:
                name = path.rpartition("/")[2]
                call(http, "POST", "/v1/studies", {**HARTMANN, "name": name, "lease_seconds": 3600})
                for start in range(0, points // studies, ADDED):
                    wanted = range(min(ADDED, points // studies - start))
                    added = [{"parameters": {f"x{i}": random.random() for i in range(6)}} for _ in wanted]
                    call(http, "POST", f"{path}/trials", {"trials": added})
        return paths

    def hold(self, paths: list[str], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Trials that were asked for."""
        with httpx.Client(base_url=self.services[0].url, timeout=120) as http:
            held = []
            for path in paths:
                left = count // len(paths)
                while left:
                    trials = call(http, "POST", f"{path}/ask", {"count": min(left, HELD)})["trials"]
                    held.append([(path, trial) for trial in trials])
                    left -= len(trials)
        random.shuffle(held)
        return (pair for part in held for pair in part)


def result(trial: dict[str, Any]) -> dict[str, Any]:
    measurements = [{"metric": "loss", "value": random.random()}]
    return {"lease_token": trial["lease"]["token"], "measurements": measurements}


async def tells(ports: list[int], clients: int, held: Iterator[tuple[str, dict[str, Any]]]) -> tuple[Any, Any]:
    """Everything that is held, told by so many clients."""

    async def work(caller: Caller) -> None:
        for path, trial in held:
            status, answer = await caller.post(f"{path}/trials/{trial['number']}/tell", result(trial))
            assert status == 200, answer

    callers = [Caller("127.0.0.1", port) for port, _ in zip(cycle(ports), range(clients), strict=False)]
    await asyncio.gather(*(work(caller) for caller in callers))
    for caller in callers:
        caller.close()
    return [], [s for caller in callers for s in caller.seconds]


async def turns(
    ports: list[int], clients: int, paths: list[str], count: int, pause: Callable[[], float] | None = None
) -> tuple[Any, Any]:
    """So many asks and tells in all; with a ``pause``, that long in between."""
    left = iter(range(count))
    asks: list[float] = []
    told: list[float] = []

    async def work(caller: Caller, path: str) -> None:
        if pause is not None:
            await asyncio.sleep(random.random() * 2 * pause())  # they do not all begin at once
        for _ in left:
            status, answer = await caller.post(f"{path}/ask", {"worker": "w"})
            assert status == 201, answer
            asks.append(caller.seconds.pop())
            (trial,) = answer["trials"]
            if pause is not None:
                await asyncio.sleep(pause())
            status, answer = await caller.post(f"{path}/trials/{trial['number']}/tell", result(trial))
            assert status == 200, answer
            told.append(caller.seconds.pop())

    callers = [Caller("127.0.0.1", port) for port, _ in zip(cycle(ports), range(clients), strict=False)]
    await asyncio.gather(*(work(caller, path) for caller, path in zip(callers, cycle(paths), strict=False)))
    for caller in callers:
        caller.close()
    return asks, told


def measure(target: Target, kind: str, clients: int, count: int, studies: int, rate: float) -> Cell:
    """One cell, on new studies."""
    spare = 1 if kind == "tells" else 2  # clients share the work, not their studies' queues
    target.cells += 1
    paths = target.study(f"cell-{target.cells}", spare * count, studies)
    if kind == "tells":
        held = target.hold(paths, count)
        work = tells(target.ports, clients, held)
    else:
        mean = 2 * clients / rate
        pause = (lambda: random.expovariate(1 / mean)) if kind == "paced" else None
        work = turns(target.ports, clients, paths, count, pause)
    before, began = target.cpu(), time.perf_counter()
    asks, told = asyncio.run(work)
    seconds, after = time.perf_counter() - began, target.cpu()
    requests = len(asks) + len(told)
    own, databases = (1000 * (b - a) / requests for a, b in zip(before, after, strict=True))
    load = round(os.getloadavg()[0], 1)
    return Cell(target.name, kind, clients, requests, seconds, own, databases, spread(asks), spread(told), load)


def spread(seconds: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds; nothing of nothing."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": 1000 * cuts[49], "p95": 1000 * cuts[94], "p99": 1000 * cuts[98]}


def service(args: argparse.Namespace, name: str) -> Iterator[Cell]:
    """The cells of the service on one database."""
    replicas = int(name.partition("x")[2] or 1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres()) if name.startswith("postgresql") else None
        target = stack.enter_context(Target(name, folder, replicas, postgres))
        measure(target, "turns", 8, 200, 1, args.rate)  # warm
        for clients in args.clients:
            count = args.count if clients > 1 else args.count // 4
            yield measure(target, "tells", clients, count, min(args.studies, clients), args.rate)
            yield measure(target, "turns", clients, count // 2, min(args.studies, clients), args.rate)
        yield measure(target, "paced", max(args.clients), args.count // 2, args.studies, args.rate)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["sqlite", "postgresql", "postgresqlx2", "optuna-sqlite", "optuna-postgresql", "optuna-grpc"]
    parser.add_argument("--systems", nargs="+", default=names, help=" ".join(names))
    parser.add_argument("--clients", nargs="+", type=int, default=list(CLIENTS))
    parser.add_argument("--count", type=int, default=8000, help="tells of a cell (8000; a quarter with one client)")
    parser.add_argument("--studies", type=int, default=4, help="that share the clients (4)")
    parser.add_argument("--rate", type=float, default=300, help="asks and tells per second, paced (300)")
    parser.add_argument("--out", type=Path, help="JSON lines are added to it")
    args = parser.parse_args()
    random.seed(0)
    print(HEAD)
    for name in args.systems:
        if name.startswith("optuna"):
            from benchmarks.load_optuna import optuna

            cells = optuna(args, name)
        else:
            cells = service(args, name)
        for cell in cells:
            print(line(cell), flush=True)
            if args.out:
                with args.out.open("a") as out:
                    out.write(json.dumps({**asdict(cell), "rate": cell.rate}) + "\n")
    return 0


HEAD = f"{'':18}{'':7}{'clients':>8}{'per s':>8}{'cpu ms':>8}{'db ms':>7}  {'ask ms p50/p95/p99':22}{'tell ms':22}load"


def line(cell: Cell) -> str:
    asks, told = (
        "/".join(f"{spread[p]:.1f}" for p in ("p50", "p95", "p99")) if spread else "-"
        for spread in (cell.ask_ms, cell.tell_ms)
    )
    figures = f"{cell.rate:8.0f}{cell.service_cpu_ms:8.2f}{cell.database_cpu_ms:7.2f}"
    return f"{cell.system:18}{cell.kind:7}{cell.clients:8}{figures}  {asks:22}{told:22}{cell.load:4}"


if __name__ == "__main__":
    sys.exit(main())
