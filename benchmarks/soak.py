"""Does the service grow? `make soak`, or `python -m benchmarks.soak --minutes 30`: half an hour of ordinary work.

A few workers tune one small study after another on the real service with its real engine: they ask, keep their leases,
report, tell, and now and then read what a dashboard would. Studies end and new ones begin all the time, so whatever is
kept of them has to be let go again. The rate is low: this may run beside other work. Every minute the memory of the
service's and the engine's processes is written down; the verdict compares the last third of the time with the third
before, when every cache is full.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from benchmarks.postgres import cpu_seconds
from benchmarks.service import HARTMANN, Served, hartmann

GROWTH = 1.03  # of the last third's memory to that of the third before: what is flat
READ_EVERY = 10  # turns of a worker


@dataclass
class Work:
    """What is going on: one study at a time, which all workers share."""

    trials: int  # of a study
    studies: int = 0
    requests: int = 0
    seconds: list[float] = field(default_factory=list)  # that asks took, since the last sample
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def path(self) -> str:
        return f"/v1/studies/soak-{self.studies}"

    async def next_study(self, http: httpx.AsyncClient, ended: str) -> None:
        """Begin another study, unless somebody did so meanwhile."""
        async with self.lock:
            if self.studies and ended != self.path:
                return
            number = self.studies + 1
            fields = {"name": f"soak-{number}", "budget": {"trials": self.trials}, "seed": number}
            await self.call(http, "POST", "/v1/studies", {**HARTMANN, **fields})
            self.studies = number

    async def call(self, http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
        answer = await http.request(method, path, json=body)
        answer.raise_for_status()
        self.requests += 1
        return answer.json()


async def worker(http: httpx.AsyncClient, work: Work, name: str, pace: float) -> None:
    """Turns without end, each of about ``pace`` seconds."""
    turn = 0
    while True:
        path, began = work.path, time.perf_counter()
        answer = await work.call(http, "POST", f"{path}/ask", {"worker": name})
        if "stop" in answer:
            await work.next_study(http, path)
            continue
        work.seconds.append(time.perf_counter() - began)
        (trial,) = answer["trials"]
        own, token = f"{path}/trials/{trial['number']}", {"lease_token": trial["lease"]["token"]}
        value = hartmann(trial["parameters"])
        await asyncio.sleep(random.expovariate(2 / pace))
        await work.call(http, "POST", f"{own}/heartbeat", token)
        step = {"metric": "loss", "value": value + 1, "step": 1}
        await work.call(http, "POST", f"{own}/report", {**token, "measurements": [step]})
        await asyncio.sleep(random.expovariate(2 / pace))
        await work.call(http, "POST", f"{own}/tell", {**token, "measurements": [{"metric": "loss", "value": value}]})
        turn += 1
        if turn % READ_EVERY == 0:
            await work.call(http, "GET", f"{path}/trials?limit=100")
            await work.call(http, "GET", f"{path}/best")


@dataclass
class Sample:
    """One minute."""

    minute: int
    requests: int
    studies: int
    service_mb: float
    engine_mb: float
    service_cpu: float  # seconds so far
    engine_cpu: float
    database_mb: float
    ask_p95_ms: float


def memory(pid: int) -> float:
    """What a process holds, in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def sample(minute: int, service: Served, work: Work) -> Sample:
    pid = service.process.pid
    engine = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    asks, work.seconds = work.seconds, []
    return Sample(
        minute,
        work.requests,
        work.studies,
        round(memory(pid), 1),
        round(sum(map(memory, engine)), 1),
        round(cpu_seconds(pid), 1),
        round(sum(map(cpu_seconds, engine)), 1),
        round(sum(file.stat().st_size for file in Path(service.log.name).parent.glob("*.db*")) / 2**20, 1),
        round(1000 * statistics.quantiles(asks, n=20)[-1], 1) if len(asks) > 1 else 0.0,
    )


async def soak(args: argparse.Namespace, service: Served) -> list[Sample]:
    work, samples = Work(args.trials), []
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as http:
        await work.next_study(http, "")
        workers = [
            asyncio.create_task(worker(http, work, f"w{i}", args.workers / args.rate)) for i in range(args.workers)
        ]
        for minute in range(1, args.minutes + 1):
            done, _ = await asyncio.wait(workers, timeout=60, return_when=asyncio.FIRST_EXCEPTION)
            for ended in done:
                ended.result()
            samples.append(sample(minute, service, work))
            print(json.dumps(vars(samples[-1])), flush=True)
        for task in workers:
            task.cancel()
        for task in workers:
            with suppress(asyncio.CancelledError):
                await task
    return samples


def growth(megabytes: list[float]) -> float:
    """The median of the last third over that of the third before."""
    third = len(megabytes) // 3
    return statistics.median(megabytes[-third:]) / statistics.median(megabytes[third : 2 * third])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=30, help="at least 3 (30)")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5, help="results per second, of all workers (1.5)")
    parser.add_argument("--trials", type=int, default=25, help="of a study (25)")
    args = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder)) as service:
        service.start()
        service.until_ready()
        samples = asyncio.run(soak(args, service))
    grown = {"service": growth([s.service_mb for s in samples]), "engine": growth([s.engine_mb for s in samples])}
    flat = all(ratio < GROWTH for ratio in grown.values())
    print(json.dumps({"flat": flat, "grown": {name: round(ratio, 3) for name, ratio in grown.items()}}))
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
