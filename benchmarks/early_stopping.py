"""What stopping trials early is worth: the table of docs/early_stopping.md.

    .venv/bin/python benchmarks/early_stopping.py [--seeds 8] [--trials 24]

The Styblinski-Tang function of ten units in four dimensions on top of a falling curve, reported at steps 1, 3 and 9 of
27. Every policy may spend the steps of so many whole trials; regret is that of the best completed trial.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from rich.console import Console
from rich.progress import track

from suffice.optimizer import Float, Space, Study, Trial

STEPS, REPORTED = 27, (1, 3, 9)
BEST = (-2.903534 + 5) / 10  # of every parameter, but for what the rest of the curve moves
POLICIES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "`median`": {"policy": "median"},
    "`median` with `steps`": {"policy": "median", "steps": STEPS},
    "`gain` with `steps`": {"policy": "gain", "steps": STEPS},
}


def loss(params: Mapping[str, float], step: int) -> float:
    """The value after a step; the first parameter decides how fast the curve falls."""
    final = sum(z**4 - 16 * z * z + 5 * z for z in (10 * v - 5 for v in params.values())) / 200
    return float(final + 3 * math.exp(-step / (4 + 3 * params["a"])))


def search(policy: dict[str, Any] | None, trials: int, seed: int) -> tuple[float, int]:
    """The regret after the steps of so many whole trials, and how many trials were begun."""
    study = Study(Space({name: Float(0, 1) for name in "abcd"}), early_stopping=policy, seed=seed)
    left = trials * STEPS
    while left > 0:
        trial = study.ask()
        assert isinstance(trial, Trial)
        left -= _run(study, trial)
    return loss(study.best.params, STEPS) - loss(dict.fromkeys("abcd", BEST), STEPS), len(study.trials)


def _run(study: Study, trial: Trial) -> int:
    """Runs a trial to its end or to where the policy stops it; the steps that took."""
    for step in REPORTED if study.early_stopping is not None else ():
        study.report(trial, loss(trial.params, step), step=step)
        if (decision := study.should_prune(trial)) is not None:
            study.prune(trial, decision)
            return step
    study.tell(trial, loss(trial.params, STEPS))
    return STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=24)
    arguments = parser.parse_args()
    print("| policy | regret | trials begun |\n|---|--:|--:|")
    for name, policy in POLICIES.items():
        seeds = track(range(arguments.seeds), name, console=Console(stderr=True), transient=True)
        found = np.array([search(policy, arguments.trials, seed) for seed in seeds])
        error = found[:, 0].std(ddof=1) / math.sqrt(len(found))
        print(f"| {name} | {found[:, 0].mean():.2f} ± {error:.2f} | {found[:, 1].mean():.0f} |", flush=True)


if __name__ == "__main__":
    main()
