"""Does anything get lost when processes die? `make chaos`, or `python -m benchmarks.chaos --database postgresql`.

Workers ask, evaluate and tell on several studies, and write down what they were answered, while service and engine
processes are killed with SIGKILL at random moments and started again; on PostgreSQL, which three replicas share, also
every connection is cut and the server itself is stopped at once, several times. A worker repeats a request that got no
answer, at any replica: asks with the same idempotency key, tells with the same value. Afterwards the logs of the
workers are compared with the database (`chaos_check.py`): nothing that was acknowledged is lost or doubled, no trial
was in two leases at a time, no configuration was suggested twice, every study has finished.

Suggestions are random points from a stand-in for the model, which is not fitted: that would take hours over so many
trials. Everything else is the real service. With `--engine real` the engine is, too; then fewer `--tells` will do. The
last line is the verdict as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import httpx
from benchmarks.chaos_check import check, read
from benchmarks.http_load import Caller
from benchmarks.postgres import Postgres
from benchmarks.service import HARTMANN, Served, call

from suffice.api.database import Database
from suffice.api.store import Store

WORKER = """
import random
from suffice.api import worker
from suffice.optimizer import Source, Suggestion

def chooser(definition):
    def choose(study, count, number, context):
        draws = random.Random(f"{definition['seed']} {number}")
        points = [{p["name"]: draws.random() for p in definition["parameters"]} for _ in range(count)]
        return [Suggestion(point, Source("random")) for point in points]
    return choose

worker.chooser, worker.HEAVY = chooser, ()
worker.Study._learned = lambda study: None
worker.main()
"""
SERVICE = """
import sys
from suffice.api import server, workers
from suffice.api.settings import Settings

engines = {{"plain": (sys.executable, "-c", {worker!r}), "real": workers.WORKER}}
settings = Settings(port=int(sys.argv[1]), database=sys.argv[2], sweep_seconds=0.5, log_level="error")
server.serve(settings, worker=engines[{engine!r}])
"""
REPLICAS = 3  # on PostgreSQL
LEASE_SECONDS = 30.0
PATIENCE = 300.0  # seconds without an answer; an engine that is killed loads its models' code anew


@dataclass
class Run:
    """What is going on."""

    ports: list[int]
    tells: int = 0
    unanswered: int = 0
    refused: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def told(self) -> None:
        async with self.changed:
            self.tells += 1
            self.changed.notify_all()

    async def until(self, tells: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.tells >= tells)


class Client:
    """One worker: its connections, and what it was answered."""

    def __init__(self, run: Run, name: str, log: TextIO) -> None:
        self.run = run
        self.name = name
        self.log = log
        self.callers = [Caller("127.0.0.1", port) for port in run.ports]

    def note(self, what: str, study: str, **fields: Any) -> None:
        self.log.write(json.dumps({"what": what, "worker": self.name, "study": study, **fields}) + "\n")
        self.log.flush()

    def close(self) -> None:
        for caller in self.callers:
            caller.close()

    async def insist(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The answer, however often one has to ask for it, at whichever replica; 503 is none."""
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE:
            caller = random.choice(self.callers)
            try:
                status, answer = await asyncio.wait_for(caller.post(path, body), 40)
            except (OSError, TimeoutError):
                caller.close()
                self.run.unanswered += 1
            else:
                if status in (200, 201, 409):
                    return status, answer
                if status != 503:
                    raise SystemExit(f"{path}: {status} {answer}")
            await asyncio.sleep(random.uniform(0.02, 0.4))
        raise SystemExit(f"{path}: no answer for {PATIENCE:g} s")

    async def work(self, study: str, pace: float) -> None:
        """Ask, evaluate, tell, until the study stops."""
        path = f"/v1/studies/{study}"
        while True:
            key = uuid.uuid4().hex
            _, answer = await self.insist(
                f"{path}/ask", {"worker": self.name, "max_wait_s": 30, "idempotency_key": key}
            )
            if "stop" in answer:
                self.note("stopped", study)
                return
            (trial,) = answer["trials"]
            if "lease" not in trial:  # it lapsed before the answer came, and went to someone else
                continue
            number, lease = trial["number"], trial["lease"]
            times = {"started_at": trial["started_at"], "expires_at": lease["expires_at"]}
            self.note("given", study, number=number, token=lease["token"], **times)
            await asyncio.sleep(random.expovariate(1 / pace) if pace else 0)
            value = random.random()
            body = {"lease_token": lease["token"], "measurements": [{"metric": "loss", "value": value}]}
            status, _ = await self.insist(f"{path}/trials/{number}/tell", body)
            if status == 200:
                self.note("told", study, number=number, value=value)
                await self.run.told()
            else:
                self.run.refused += 1
                self.note("refused", study, number=number)


class Chaos:
    """What is killed, and how often."""

    def __init__(self, services: list[Served], postgres: Postgres | None, moments: random.Random) -> None:
        self.services = services
        self.moments = moments
        self.postgres = postgres
        self.done: Counter[str] = Counter()

    def strike(self, turn: int) -> None:
        """Kill something; what was killed is running again afterwards."""
        action = self.engine if turn % 2 else self.service
        if self.postgres is not None and turn % 5 == 1:
            action = self.connections
        if self.postgres is not None and turn % 10 == 3:
            action = self.database
        action()
        self.done[action.__name__] += 1

    def service(self) -> None:
        """A replica, and with it its engine worker."""
        service = self.moments.choice(self.services)
        service.kill()
        service.start()

    def engine(self) -> None:
        """A replica's engine worker, which the replica replaces."""
        pid = self.moments.choice(self.services).process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    def connections(self) -> None:
        assert self.postgres is not None
        self.postgres.drop_connections()

    def database(self) -> None:
        assert self.postgres is not None
        self.postgres.restart()


async def run(args: argparse.Namespace, folder: Path, services: list[Served], chaos: Chaos) -> Run:
    """Everyone at work, until every study has stopped."""
    going = Run([service.port for service in services])
    studies = [f"chaos-{i}" for i in range(args.studies)]
    with ExitStack() as stack:
        logs = [stack.enter_context((folder / f"w{i}.jsonl").open("w")) for i in range(args.workers)]
        clients = [Client(going, f"w{i}", log) for i, log in enumerate(logs)]
        killing = asyncio.create_task(kill(args, going, chaos))
        work = [client.work(studies[i % len(studies)], args.pace) for i, client in enumerate(clients)]
        await asyncio.gather(*work)
        await killing
        for client in clients:
            client.close()
    return going


async def kill(args: argparse.Namespace, going: Run, chaos: Chaos) -> None:
    """Strike at random points of the progress, and a random moment later."""
    last = int(0.95 * args.tells)
    for turn, threshold in enumerate(sorted(chaos.moments.choices(range(args.workers, last), k=args.kills))):
        await going.until(threshold)
        await asyncio.sleep(chaos.moments.uniform(0.0, 0.2))
        await asyncio.to_thread(chaos.strike, turn)


def stored(database: str, studies: int) -> dict[str, list[dict[str, Any]]]:
    """What the database holds, read without the service."""
    opened = Database(database)
    store = Store(opened)
    names = [f"chaos-{i}" for i in range(studies)]
    found = {name: store.trials(store.facts(name).id, -1, None) for name in names}
    opened.close()
    return {name: [t.model_dump(mode="json") for t in trials] for name, trials in found.items()}


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--engine", choices=["plain", "real"], default="plain", help="real: models are fitted (plain)")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--tells", type=int, default=20_000, help="of all studies together (20,000)")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pace", type=float, default=0.02, help="mean seconds of an evaluation (0.02)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (0)")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    budget = args.tells // args.studies
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres()) if args.database == "postgresql" else None
        database = postgres.new() if postgres else f"sqlite:///{folder / 'chaos.db'}"
        replicas = REPLICAS if postgres else 1
        program = SERVICE.format(worker=WORKER, engine=args.engine)
        services = [stack.enter_context(Served(folder, database=database, program=program)) for _ in range(replicas)]
        for service in services:
            service.start()
        with httpx.Client(base_url=services[0].url, timeout=60) as http:
            for i in range(args.studies):
                fields = {"budget": {"trials": budget}, "lease_seconds": LEASE_SECONDS, "max_retries": 100}
                call(http, "POST", "/v1/studies", {**HARTMANN, "name": f"chaos-{i}", **fields, "seed": i})
        chaos, began = Chaos(services, postgres, random.Random(args.seed)), time.perf_counter()
        going = asyncio.run(run(args, folder, services, chaos))
        seconds = time.perf_counter() - began
        for service in services:
            service.kill(signal.SIGTERM)
        problems = check(read(folder), stored(database, args.studies), budget)
    verdict = {
        "database": args.database,
        "engine": args.engine,
        "replicas": replicas,
        "acknowledged_tells": going.tells,
        "kills": dict(chaos.done),
        "unanswered_requests": going.unanswered,
        "refused_tells": going.refused,
        "seconds": round(seconds, 1),
        "problems": len(problems),
    }
    print(*(problems[:20] or ["nothing was lost, nothing was doubled"]), sep="\n")
    print(json.dumps(verdict))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
