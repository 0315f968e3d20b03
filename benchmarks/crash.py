"""Does anything get lost when the service is killed? `python benchmarks/crash.py`.

Four workers evaluate 200 trials of one study, while the service is killed with SIGKILL 20 times, at random moments of
the run, and started again on the same database. A worker repeats a request that got no answer: asks with the same
idempotency key, tells with the same values. Afterwards the study is compared with what the workers were told:

- every tell that was acknowledged is there, exactly once, with the value that was told;
- every trial was completed, none is missing, none was evaluated by two workers, no configuration came twice.

The last line is the verdict as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, this folder's parent is not on the path
from benchmarks.service import HARTMANN, Served, call, hartmann

STUDY = "/v1/studies/crash"


@dataclass
class Record:
    """What the workers saw."""

    tells: list[tuple[int, float]] = field(default_factory=list)  # acknowledged: trial number and value
    given: list[int] = field(default_factory=list)  # trial numbers as they were handed out
    unanswered: int = 0  # requests that got no answer and were repeated
    repeated: int = 0  # tells whose answer came at the second attempt or later
    refused: int = 0  # tells answered with 409
    changed: threading.Condition = field(default_factory=threading.Condition)

    def told(self, number: int, value: float) -> None:
        with self.changed:
            self.tells.append((number, value))
            self.changed.notify_all()

    def wait_for(self, tells: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: len(self.tells) >= tells)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pace", type=float, default=0.3, help="mean seconds of an evaluation (0.3)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (0)")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder)) as service:
        service.start()
        with httpx.Client(base_url=service.url) as http:
            call(http, "POST", "/v1/studies", {"name": "crash", **HARTMANN, "budget": {"trials": args.trials}})
        record, began = Record(), time.perf_counter()
        with ThreadPoolExecutor(args.workers) as pool:
            work = [pool.submit(worker, service.url, f"w{i}", args.pace, record) for i in range(args.workers)]
            starts = kill(service, record, args.kills, args.trials, moments)
            for done in work:
                done.result()
        seconds = time.perf_counter() - began
        with httpx.Client(base_url=service.url, timeout=60) as http:
            trials = call(http, "GET", f"{STUDY}/export")["trials"]
    problems = compare(trials, record, args.trials)
    verdict = {
        "kills": len(starts),
        "trials": len(trials),
        "acknowledged_tells": len(record.tells),
        "unanswered_requests": record.unanswered,
        "tells_repeated": record.repeated,
        "restart_s": round(sum(starts) / max(len(starts), 1), 2),
        "seconds": round(seconds, 1),
        "problems": problems,
    }
    print(*(problems or ["nothing was lost, nothing was doubled"]), sep="\n")
    print(json.dumps(verdict))
    return 1 if problems else 0


def kill(service: Served, record: Record, kills: int, trials: int, moments: random.Random) -> list[float]:
    """Kill and restart at random points of the progress, and a random moment later; the seconds of every restart."""
    starts: list[float] = []
    for threshold in sorted(moments.sample(range(2, trials - 10), kills)):
        record.wait_for(threshold)
        time.sleep(moments.uniform(0.0, 0.3))
        service.kill()
        starts.append(service.start())
    return starts


def worker(url: str, name: str, pace: float, record: Record) -> None:
    """Ask, evaluate, tell, until the study stops."""
    with httpx.Client(base_url=url, timeout=60) as http:
        while True:
            body = {"worker": name, "max_wait_s": 30, "idempotency_key": uuid.uuid4().hex}
            answer = insist(http, f"{STUDY}/ask", body, record)[0].json()
            if "stop" in answer:
                return
            (trial,) = answer["trials"]
            record.given.append(trial["number"])
            time.sleep(random.expovariate(1 / pace))
            value = hartmann(trial["parameters"])
            body = {"lease_token": trial["lease"]["token"], "measurements": [{"metric": "loss", "value": value}]}
            response, attempts = insist(http, f"{STUDY}/trials/{trial['number']}/tell", body, record)
            if response.status_code == 200:
                record.repeated += attempts > 1
                record.told(trial["number"], value)
            else:
                record.refused += 1


def insist(http: httpx.Client, path: str, body: dict[str, Any], record: Record) -> tuple[httpx.Response, int]:
    """The answer, however often one has to ask for it; 409 is an answer, 503 is none."""
    for attempt in range(1, 10_000):
        try:
            response = http.post(path, json=body)
        except httpx.TransportError:
            record.unanswered += 1
        else:
            if response.status_code in (200, 201, 409):
                return response, attempt
            if response.status_code != 503:
                raise SystemExit(f"{path}: {response.status_code} {response.text}")
        time.sleep(0.05)
    raise SystemExit(f"{path}: no answer")


def compare(trials: list[dict[str, Any]], record: Record, wanted: int) -> list[str]:
    """What is wrong, in words."""
    problems: list[str] = []
    stored = {trial["number"]: trial for trial in trials}
    if sorted(stored) != list(range(wanted)):
        problems.append(f"trials are numbered {sorted(stored)}, not 0..{wanted - 1}")
    open_ = [t["number"] for t in trials if t["state"] != "COMPLETED"]
    if open_:
        problems.append(f"not completed: {open_}")
    told = dict(record.tells)
    if len(told) != len(record.tells):
        problems.append("a trial was told by two workers")
    if record.refused:
        problems.append(f"{record.refused} tells were refused")
    for number, value in told.items():
        values = [m["value"] for m in stored.get(number, {}).get("measurements", [])]
        if values != [value]:
            problems.append(f"trial {number}: {value} was acknowledged, {values} is stored")
    if sorted(record.given) != sorted(set(record.given)):
        problems.append("a trial was handed to two workers")
    if set(stored) - set(told):
        problems.append(f"completed without an acknowledged tell: {sorted(set(stored) - set(told))}")
    points = [tuple(t["parameters"].values()) for t in trials]
    if len(set(points)) != len(points):
        problems.append(f"{len(points) - len(set(points))} configurations came twice")
    return problems


if __name__ == "__main__":
    sys.exit(main())
