"""Tuning vLLM itself, for real: its settings against throughput and p95 latency, on this machine's CPU.

    make tune-vllm                  (or: python benchmarks/tune_vllm.py .venv-vllm/bin/python [--trials 8])

Each trial starts a server that serves the tiny model of tests/models, sends it the load and stops it; the first is vLLM
as it comes. Interrupting it stops the server. The figures are of this machine at that hour: compare them with each
other. They are written to demo/tuning.json.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from suffice.adapters.vllm import ON_CPU, SERVER, serving
from suffice.adapters.vllm_tuning import LATENCY, THROUGHPUT, Traffic, flags, tune_server
from suffice.optimizer import Bool, Int, Space, Trial

MODEL = Path(__file__).parents[1] / "tests" / "models" / "tiny-addition"
SMALL = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--distributed-executor-backend", "uni")
SPACE = Space(
    max_num_seqs=Int(1, 128, log=True),
    max_num_batched_tokens=Int(512, 8192, log=True),
    enable_prefix_caching=Bool(),
    async_scheduling=Bool(),
)
USUAL = {"max_num_seqs": 128, "max_num_batched_tokens": 4096, "enable_prefix_caching": True, "async_scheduling": True}


def questions(count: int) -> list[str]:
    """Sums behind a long common beginning, so that there is a prefix to cache."""
    rng = random.Random(0)
    beginning = "Add up the numbers. " * 8
    return [
        beginning + "+".join(str(rng.randint(10, 99)) for _ in range(rng.randint(2, 9))) + "=?" for _ in range(count)
    ]


def line(trial: Trial) -> str:
    """A trial's row of the table."""
    found = {one.metric: one.value for one in trial.measurements}
    measured = f"{found[THROUGHPUT]:7.0f} {found[LATENCY]:7.2f}" if found else f"{trial.state}: {trial.reason}"
    return f"{trial.number:3} {' '.join(flags(trial.params)):110} {measured}"


def main() -> None:
    """Tune, with a line per trial; then what no other setting beats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="of vLLM's environment")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo/tuning.json"))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an interrupt: what was started is stopped

    def serve(params: Mapping[str, Any]) -> AbstractContextManager[str]:
        where = ("--model", str(MODEL), "--served-model-name", "tiny")
        return serving([args.python, *SERVER, *SMALL, *where, *flags(params)], ON_CPU)

    traffic = Traffic(questions(48), args.requests, args.at_once, max_tokens=96, fields={"seed": 0})
    print(f"{'':3} {'settings':110} tokens/s p95 (s)")
    study = tune_server(
        serve, traffic, SPACE, args.trials, [USUAL], args.seed, lambda trial: print(line(trial), flush=True)
    )
    best = sorted(one.trial.number for one in study.pareto if one.trial is not None)
    print(f"no other setting beats {', '.join(map(str, best))}")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"study": study.to_json(), "pareto": best}, indent=1) + "\n")


if __name__ == "__main__":
    main()
