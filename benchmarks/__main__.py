"""`python -m benchmarks`: compare Suffice's core with its peers, side by side in one run.

    python -m benchmarks --set quick             # what `make bench` runs
    python -m benchmarks --set full --seeds 10
    python -m benchmarks --problems branin,svm --peers suffice,ax --seeds 3
    python -m benchmarks latency --peers suffice,optuna_gp --sizes 50,100,200
    python -m benchmarks growth                  # time and memory of Suffice's suggestions up to 5,000 trials
    python -m benchmarks quality                 # how close the search comes to the acquisition's maximum
    python -m benchmarks report                  # tables and plots from the results

A run goes on where it stopped: cells that the results file already holds are skipped.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from .problems import BBOB, PROBLEMS
from .roster import PEERS
from .run import ROOT, comparison, latencies, main, qualities, run_all

RESULTS = ROOT / "docs" / "benchmarks"
_SYNTHETIC = ("branin", "hartmann6", "hartmann6_noisy", "ackley5", "levy10", "rosenbrock4", "mixed7", "gramacy")
_CONSTRAINED = ("hartmann6_outcome", "hartmann6_sum")
_FRONTS = ("branin_currin", "branin_currin_noisy", "zdt3", "tube")
_FIDELITIES = ("branin_fidelity", "hartmann6_fidelity", "boosting_fidelity")
GROWTH = (10, 20, 50, 100, 200, 500, 1000, 2000, 3000, 5000)
_CORE = ("suffice", "optuna_gp", "optuna_tpe", "ax")
# name: problems, peers, seeds
SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "first": (("branin", "hartmann6", "hartmann6_noisy", "digits"), _CORE, 5),
    "quick": (("branin", "hartmann6_noisy", "mixed7", "gramacy", "svm"), _CORE, 5),
    "main": ((*_SYNTHETIC, "hartmann6_sum", "svm", "mlp"), (*_CORE, "botorch", "optuna_cma", "sobol"), 5),
    "full": (
        (*_SYNTHETIC, *_CONSTRAINED, "svm", "mlp", "digits", "digits_flat", *(f"bbob_f{f}" for f in BBOB)),
        (*_CORE, "botorch", "smac", "hebo", "optuna_cma", "sobol", "random"),
        5,
    ),
    "fronts": (_FRONTS, (*_CORE, "botorch", "optuna_nsga2", "sobol", "random"), 5),
    "fidelities": (
        _FIDELITIES,
        (*_CORE, "suffice_single", "botorch", "optuna_hyperband", "smac_hyperband", "sobol"),
        5,
    ),
}


def command(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    match args.command:
        case "cell":
            print(json.dumps(main(json.load(sys.stdin))))
        case "report":
            from .report import write

            write(args.out, args.page, args.start, args.peers or (), args.problems or ())
        case "latency":
            peers = args.peers or ["suffice", "optuna_gp", "ax"]
            jobs = latencies(peers, args.sizes or (50, 100, 200, 500, 1000, 2000), args.seeds or range(3))
            run_all(jobs, args.out, args.limit, args.redo, args.retry)
        case "growth":
            jobs = latencies(args.peers or ["suffice"], args.sizes or GROWTH, args.seeds or range(3))
            run_all(jobs, args.out, args.limit, args.redo, args.retry)
        case "quality":
            jobs = qualities(args.sizes or (20, 50, 100, 200, 500, 1000), args.seeds or range(3))
            run_all(jobs, args.out, args.limit, args.redo, args.retry)
        case _:
            problems, peers, seeds = SETS[args.set]
            jobs = comparison(
                args.problems or problems, args.peers or peers, args.seeds or range(seeds), args.start, args.trials
            )
            run_all(jobs, args.out, args.limit, args.redo, args.retry)
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", nargs="?", choices=("run", "latency", "growth", "quality", "report", "cell"), default="run"
    )
    parser.add_argument("--set", choices=SETS, default="quick", help="which problems, peers and seeds (quick)")
    parser.add_argument("--problems", type=_among(PROBLEMS), help=f"instead of the set's, of: {', '.join(PROBLEMS)}")
    parser.add_argument("--peers", type=_among(PEERS), help=f"instead of the set's, of: {', '.join(PEERS)}")
    parser.add_argument("--seeds", type=_seeds, help="how many (from 0), or a range such as 5:10")
    parser.add_argument("--trials", type=int, help="instead of each problem's own number")
    parser.add_argument(
        "--start", choices=("shared", "own"), default="shared", help="the same first trials for all, or each its own"
    )
    parser.add_argument("--sizes", type=_numbers, help="of latency, growth, quality: trials told")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a cell may take (1800)")
    parser.add_argument("--redo", type=_among(PEERS), default=[], help="run the cells of these peers again")
    parser.add_argument("--retry", action="store_true", help="run again what failed, timed out or was missing")
    parser.add_argument("--out", type=Path, default=RESULTS / "results.jsonl", help="the results file")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="report: where tables go")
    return parser.parse_args(argv)


def _among(known: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return names

    return parse


def _seeds(text: str) -> range:
    low, _, high = text.rpartition(":")
    return range(int(low or 0), int(high))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run that is ended takes its cell along
    sys.exit(command())
