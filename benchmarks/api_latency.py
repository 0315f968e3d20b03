"""How quick the service answers: `python benchmarks/api_latency.py`.

Starts `suffice serve` with its defaults on an empty SQLite database, loads a study of six parameters with 200 finished
trials for each measurement, and measures from outside, through HTTP on the loopback, with httpx clients in threads of
this process:

- paced: 8 clients, each asking (from the prepared suggestions), "evaluating" for a random time, telling, asking again.
- closed loop: the same without any evaluation time. Asks then outrun the engine, which answers those that wait in
  batches: what is measured is how fast it can think.
- fresh: one client that tells, then asks for a suggestion that knows that result.
- tells: 8 clients telling as fast as they can, of trials they hold already.
- start: from the command to the first answered request, and until an engine worker is ready.

Clients, service and engine worker share the machine; with few cores they wait for each other. The last line is the
result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, this folder's parent is not on the path
from benchmarks.service import HARTMANN, Served, call, hartmann


class Timed:
    """One client, and how long its requests took."""

    def __init__(self, url: str, study: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120)
        self.study = study
        self.asks: list[float] = []
        self.tells: list[float] = []

    def ask(self, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        began = time.perf_counter()
        trials: list[dict[str, Any]] = call(self.http, "POST", f"{self.study}/ask", {"count": count, **fields})[
            "trials"
        ]
        self.asks.append(time.perf_counter() - began)
        return trials

    def tell(self, trial: dict[str, Any]) -> None:
        measurements = [{"metric": "loss", "value": hartmann(trial["parameters"])}]
        body = {"lease_token": trial["lease"]["token"], "measurements": measurements}
        began = time.perf_counter()
        call(self.http, "POST", f"{self.study}/trials/{trial['number']}/tell", body)
        self.tells.append(time.perf_counter() - began)


def main() -> int:
    args = arguments()
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder)) as service:
        found: dict[str, Any] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        found["start_s"] = service.start()
        found["engine_ready_s"] = found["start_s"] + service.until_ready()
        for name, pace in (("paced", args.pace), ("closed_loop", 0.0)):
            found[name] = loop(service.url, prepare(service.url, name, args.trials), args.clients, args.turns, pace)
        found["fresh_ask_ms"] = fresh(service.url, prepare(service.url, "fresh", args.trials), args.turns)
        found |= tells(service.url, prepare(service.url, "tells", args.trials), args.clients, args.tells)
    show(args, found)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="finished trials at the start (200)")
    parser.add_argument("--clients", type=int, default=8, help="at the same time (8)")
    parser.add_argument("--turns", type=int, default=20, help="asks and tells of each client (20)")
    parser.add_argument("--pace", type=float, default=2.0, help="mean seconds of an evaluation, paced (2)")
    parser.add_argument("--tells", type=int, default=800, help="tells for the throughput (800)")
    return parser.parse_args()


def prepare(url: str, name: str, trials: int) -> str:
    """The path of a study with so much history, whose first suggestions know it."""
    study = f"/v1/studies/{name}"
    points = [{f"x{i}": random.random() for i in range(6)} for _ in range(trials)]
    added = [{"parameters": p, "measurements": [{"metric": "loss", "value": hartmann(p)}]} for p in points]
    with httpx.Client(base_url=url, timeout=120) as http:
        call(http, "POST", "/v1/studies", {"name": name, **HARTMANN, "lease_seconds": 3600})
        call(http, "POST", f"{study}/trials", {"trials": added})
        call(http, "POST", f"{study}/ask", {"fresh": True, "max_wait_s": 120})
        call(http, "POST", f"{study}/ask", {"max_wait_s": 120})
    return study


def together(url: str, study: str, clients: int, action: Callable[[Timed], None]) -> tuple[list[Timed], float]:
    """Every client doing the same at the same time, and the seconds that took."""
    all_clients = [Timed(url, study) for _ in range(clients)]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for _ in pool.map(action, all_clients):
            pass
    seconds = time.perf_counter() - began
    for client in all_clients:
        client.http.close()
    return all_clients, seconds


def loop(url: str, study: str, clients: int, turns: int, pace: float) -> dict[str, Any]:
    """Ask, evaluate, tell, again and again; ``pace``: mean seconds of an evaluation (exponential)."""

    def work(client: Timed) -> None:
        time.sleep(random.uniform(0, pace))  # clients do not all begin at once
        for _ in range(turns):
            (trial,) = client.ask(max_wait_s=120)
            time.sleep(random.expovariate(1 / pace) if pace else 0)
            client.tell(trial)

    done, seconds = together(url, study, clients, work)
    asks = [t for client in done for t in client.asks]
    told = [t for client in done for t in client.tells]
    return {"ask_ms": spread(asks), "tell_ms": spread(told), "trials_per_s": len(told) / seconds}


def fresh(url: str, study: str, turns: int) -> dict[str, float]:
    """Tell, then ask for a suggestion that knows it."""
    client = Timed(url, study)
    (trial,) = client.ask(fresh=True)
    client.asks.clear()
    for _ in range(turns):
        client.tell(trial)
        (trial,) = client.ask(fresh=True)
    client.http.close()
    return spread(client.asks)


def tells(url: str, study: str, clients: int, count: int) -> dict[str, Any]:
    """Tells alone, of trials that are held already: queued points, which the engine has nothing to do with."""
    points = [{"parameters": {f"x{i}": random.random() for i in range(6)}} for _ in range(count)]
    with httpx.Client(base_url=url, timeout=120) as http:
        call(http, "POST", f"{study}/trials", {"trials": points})
        held = [call(http, "POST", f"{study}/ask", {"count": count // clients})["trials"] for _ in range(clients)]

    def work(client: Timed) -> None:
        for trial in held.pop():
            client.tell(trial)

    done, seconds = together(url, study, clients, work)
    told = [t for client in done for t in client.tells]
    return {"tell_ms": spread(told), "tells_per_s": len(told) / seconds}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=20)
    return {"p50": 1000 * statistics.median(seconds), "p95": 1000 * cuts[-1], "n": len(seconds)}


def show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    print(f"{args.clients} clients, one study of {args.trials} trials, {found['cores']} cores, load {found['load']}")
    print(f"{'':34}{'p50 ms':>9}{'p95 ms':>9}{'n':>6}")
    rows = {
        f"ask, paced ({args.pace:g} s per evaluation)": found["paced"]["ask_ms"],
        "tell, paced": found["paced"]["tell_ms"],
        "ask, closed loop": found["closed_loop"]["ask_ms"],
        "tell, closed loop": found["closed_loop"]["tell_ms"],
        "fresh ask, one client": found["fresh_ask_ms"],
        "tell, as fast as possible": found["tell_ms"],
    }
    for name, row in rows.items():
        print(f"{name:34}{row['p50']:9.1f}{row['p95']:9.1f}{row['n']:6}")
    print(f"tells per second {found['tells_per_s']:.0f}; trials per second, closed loop "
          f"{found['closed_loop']['trials_per_s']:.1f}")  # fmt: skip
    print(f"start {found['start_s']:.2f} s, engine ready {found['engine_ready_s']:.2f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
