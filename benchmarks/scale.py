"""A thousand studies with ten thousand workers, simulated: `python -m benchmarks.scale`.

Each study has workers that ask, evaluate for a random while (exponential) and tell. An ask takes a ready suggestion, or
waits for the next refresh of its study; a tell makes one due. A refresh takes one of the engine's cores for a random
while around ``--refresh`` seconds, leaves ready what the engine would (twice what was asked for meanwhile, at least
four, one for each worker that may be back), and tells that come during it share the next one. Requests take one of the
replicas' cores for the processor time that `benchmarks.load` measured. What comes out: how busy replicas and engine
are, how long asks wait, and how many results a suggestion did not know when it was handed out.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import count

MOST = 16  # spare suggestions of a refresh (api/worker.py)
FEWEST = 4  # and the fewest (api/engine.py)


@dataclass
class Study:
    ready: int = MOST
    known: int = 0  # results that the ready suggestions stand on
    told: int = 0
    asked: int = 0  # since the last refresh began
    busy: bool = False
    due: bool = False
    waiting: deque[float] = field(default_factory=deque)  # asks, by when they came


class Cores:
    """Servers with one queue."""

    def __init__(self, number: int) -> None:
        self._free = [0.0] * number
        self.used = 0.0
        self._number = number

    def take(self, now: float, seconds: float) -> float:
        """When work that comes now is done."""
        begin = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, begin + seconds)
        self.used += seconds
        return begin + seconds

    def busy(self, seconds: float) -> float:
        return self.used / (self._number * seconds)


def simulate(args: argparse.Namespace) -> dict[str, float]:
    draw = random.Random(args.seed)
    studies = [Study() for _ in range(args.studies)]
    replicas, engine = Cores(args.replicas), Cores(args.engine_cores)
    order = count()
    events: list[tuple[float, int, str, int]] = []
    waits: list[float] = []
    stale: list[int] = []

    def later(at: float, what: str, study: int) -> None:
        heapq.heappush(events, (at, next(order), what, study))

    def hand_out(now: float, i: int, came: float) -> None:
        study = studies[i]
        study.ready -= 1
        waits.append(now - came)
        stale.append(study.told - study.known)
        later(now + draw.expovariate(1 / args.evaluation), "tell", i)

    def refresh(now: float, i: int) -> None:
        study = studies[i]
        study.due = study.busy
        if not study.busy:
            study.busy = True
            later(engine.take(now, draw.uniform(0.5, 1.5) * args.refresh), f"refreshed {study.told}", i)

    for i in range(args.studies):
        for _ in range(args.workers // args.studies):
            later(draw.uniform(0, args.evaluation), "ask", i)
    while events:
        now, _, what, i = heapq.heappop(events)
        if now > args.seconds:
            break
        study = studies[i]
        match what.split():
            case ["ask"]:
                later(replicas.take(now, args.ask_ms / 1000), "asked", i)
            case ["asked"]:
                study.asked += 1
                if study.ready:
                    hand_out(now, i, now)
                else:
                    study.waiting.append(now)
                    refresh(now, i)
            case ["tell"]:
                later(replicas.take(now, args.tell_ms / 1000), "told", i)
            case ["told"]:
                study.told += 1
                refresh(now, i)
                later(now, "ask", i)
            case _:  # refreshed, knowing so many results
                study.busy, study.known = False, int(what.split()[1])
                workers = args.workers // args.studies
                study.ready = len(study.waiting) + min(max(2 * study.asked, FEWEST, workers), MOST)
                study.asked = 0
                while study.waiting and study.ready:
                    hand_out(now, i, study.waiting.popleft())
                if study.due:
                    refresh(now, i)
    waits.sort()
    return {
        "tells_per_s": sum(s.told for s in studies) / args.seconds,
        "replicas_busy": replicas.busy(args.seconds),
        "engine_busy": engine.busy(args.seconds),
        "asks_that_waited": sum(wait > 0 for wait in waits) / len(waits),
        "wait_p95_s": waits[int(0.95 * len(waits))],
        "wait_p99_s": waits[int(0.99 * len(waits))],
        "results_not_known": sum(stale) / len(stale),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--evaluation", type=float, default=60.0, help="mean seconds of an evaluation (60)")
    parser.add_argument("--refresh", type=float, default=0.1, help="mean processor seconds of a refresh (0.1)")
    parser.add_argument("--ask-ms", type=float, default=1.2, help="processor time of an ask (1.2)")
    parser.add_argument("--tell-ms", type=float, default=0.8, help="and of a tell (0.8)")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--engine-cores", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=600.0, help="simulated (600)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, figure in simulate(args).items():
        print(f"{name:20}{figure:10.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
