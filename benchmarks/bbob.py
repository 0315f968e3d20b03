"""Every function of the BBOB suite, in 2, 5 and 10 dimensions: where is Suffice behind?

    .venv-bench/bin/python -m benchmarks.bbob [--dims 2 5 10] [--seeds 3] [--peers suffice optuna_gp optuna_tpe]
    .venv-bench/bin/python -m benchmarks.bbob --table

50 trials from the same start, as in `benchmarks/run.py`, but all in one process, so that 216 runs of each peer take
no longer than they must. Appends a line per run to `docs/benchmarks/bbob.jsonl` and goes on where it stopped; prints
the tables of docs/benchmarks.md. The seed chooses the instance, as it does in the comparison of all peers.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from rich.progress import track

from .problems import PROBLEMS, bbob
from .run import ROOT, main

TRIALS = 50
PEERS = ("suffice", "optuna_gp", "optuna_tpe")
GROUPS = {  # of the suite's own definition
    "separable": range(1, 6),
    "moderate conditioning": range(6, 10),
    "high conditioning, unimodal": range(10, 15),
    "multimodal, with structure": range(15, 20),
    "multimodal, weak structure": range(20, 25),
}
Scores = dict[tuple[str, int, int], dict[int, float]]  # (peer, function, dimension) -> seed -> regret


def run(peers: list[str], dims: list[int], functions: list[int], seeds: int, out: Path) -> None:
    """Run what has no line yet."""
    scores = read(out)
    cells = [(d, s, f, p) for d in dims for s in range(seeds) for f in functions for p in peers]
    left = [(d, s, f, p) for d, s, f, p in cells if s not in scores.get((p, f, d), {})]
    for dimension, seed, function, peer in track(left, "runs"):
        name = f"bbob_f{function}_{dimension}d"
        PROBLEMS[name] = partial(bbob, function, dimension)
        line = main({"kind": "run", "peer": peer, "problem": name, "seed": seed, "start": "shared", "trials": TRIALS})
        kept = {"peer": peer, "function": function, "dimension": dimension, "seed": seed}
        measured = {key: line.get(key) for key in ("status", "why", "score", "cpu") if key in line}
        with out.open("a") as file:
            file.write(json.dumps({**kept, **measured}) + "\n")


def read(path: Path) -> Scores:
    scores: Scores = defaultdict(dict)
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        if line["status"] == "ok":
            scores[line["peer"], line["function"], line["dimension"]][line["seed"]] = line["score"]
    return scores


def ranks(scores: Scores, peers: list[str], function: int, dimension: int) -> np.ndarray | None:
    """Each peer's rank by its median over the seeds that all have; equal medians share their mean rank."""
    found = [scores.get((p, function, dimension), {}) for p in peers]
    seeds = set.intersection(*(set(f) for f in found))
    if not seeds:
        return None
    medians = np.array([np.median([f[s] for s in seeds]) for f in found])
    better, no_worse = (medians[:, None] > medians).sum(1), (medians[:, None] >= medians).sum(1)
    return np.asarray(0.5 + 0.5 * (better + no_worse))


def tables(scores: Scores, peers: list[str], dims: list[int]) -> str:
    """Mean ranks per dimension and kind of function, and how often each is first and last."""
    by_function = {(f, d): ranks(scores, peers, f, d) for d in dims for f in range(1, 25)}
    known = {key: value for key, value in by_function.items() if value is not None}
    rows = [(f"{d} dimensions", [v for (_, at), v in known.items() if at == d]) for d in dims]
    rows += [(name, [v for (f, _), v in known.items() if f in functions]) for name, functions in GROUPS.items()]
    rows += [("all", list(known.values()))]
    lines = [f"| mean rank | problems | {' | '.join(peers)} |", f"| --- |{' --: |' * (len(peers) + 1)}"]
    for name, part in rows:
        if part:
            lines.append(f"| {name} | {len(part)} | {' | '.join(f'{rank:.2f}' for rank in np.mean(part, axis=0))} |")
    everything = np.array(list(known.values()))
    for name, count in (("first", (everything == 1)), ("last", everything == len(peers))):
        lines.append(f"| {name} | {len(known)} | {' | '.join(str(n) for n in count.sum(0))} |")
    return "\n".join(lines)


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 5, 10])
    parser.add_argument("--functions", nargs="+", type=int, default=list(range(1, 25)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "bbob.jsonl")
    parser.add_argument("--table", action="store_true", help="only print the tables of what was run")
    arguments = parser.parse_args()
    if not arguments.table:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(arguments.peers, arguments.dims, arguments.functions, arguments.seeds, arguments.out)
    print(tables(read(arguments.out), arguments.peers, arguments.dims))


if __name__ == "__main__":
    command()
