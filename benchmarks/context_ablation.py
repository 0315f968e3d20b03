"""What is to be improved on in a context: what was visited anywhere, or what was measured there.

    .venv/bin/python benchmarks/context_ablation.py --seeds 6

Three contexts, in turns or one after the other, on problems that are reported nowhere else. Prints the mean log10
regret of what `best_at` recommends, over the contexts, after some trials in all.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import minimize

import suffice.optimizer.choice as choice
from suffice.optimizer import Categorical, Float, Space, Study, Trial

Function = Callable[[np.ndarray, int], float]  # a configuration's loss in a context
CONTEXTS, TRIALS, CHECKED = "abc", 45, (18, 24, 30, 36, 45)
A = np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
P = np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]]) * 1e-4
HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])


def hartmann(x: np.ndarray) -> float:
    return -float(HEIGHTS @ np.exp(-(A * (x - P) ** 2).sum(1)))


def moved(rng: np.random.Generator) -> tuple[int, Function]:
    """Hartmann's function, whose optimum lies elsewhere in every context."""
    shift = rng.uniform(-0.15, 0.15, (3, 3))
    return 3, lambda x, c: hartmann(np.clip(x + shift[c], 0, 1))


def same(rng: np.random.Generator) -> tuple[int, Function]:
    """The same, with the same optimum everywhere."""
    return 3, lambda x, c: hartmann(x) + 0.5 * c


def drawn(rng: np.random.Generator) -> tuple[int, Function]:
    """Drawn from a Gaussian process over four numbers and the context."""
    W, phase = rng.standard_normal((200, 5)) / np.array([0.4] * 4 + [2.0]), rng.uniform(0, 2 * np.pi, 200)
    return 4, lambda x, c: float(np.cos(W @ np.append(x, c / 2) + phase).sum() / 10)


def least(f: Function, dimension: int, c: int) -> float:
    X = np.random.default_rng(0).random((2000, dimension))
    values = np.array([f(x, c) for x in X])
    bounds = [(0.0, 1.0)] * dimension
    return min(float(values.min()), *(float(minimize(f, X[i], c, bounds=bounds).fun) for i in np.argsort(values)[:5]))


def run(dimension: int, f: Function, seed: int, turns: bool) -> list[float]:
    """The mean log10 regret over the contexts, at every number of trials in CHECKED."""
    names = [f"x{i}" for i in range(dimension)]
    space = Space({**{name: Float(0, 1) for name in names}, "context": Categorical(*CONTEXTS)})
    study, lowest = Study(space, context=["context"], seed=seed), [least(f, dimension, c) for c in range(3)]

    def loss(params: dict[str, Any]) -> float:
        return f(np.array([params[name] for name in names]), CONTEXTS.index(params["context"]))

    found = []
    for i in range(TRIALS):
        trial = study.ask(context={"context": CONTEXTS[i % 3 if turns else i * 3 // TRIALS]})
        assert isinstance(trial, Trial)
        study.tell(trial, loss(trial.params))
        if i + 1 in CHECKED:
            bests = [loss(study.best_at({"context": name}).params) for name in CONTEXTS]
            found.append(np.mean([math.log10(max(b - low, 1e-6)) for b, low in zip(bests, lowest, strict=True)]))
    return [float(v) for v in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    arguments = parser.parse_args()
    for variant in ("as it is", "all visited"):
        for problem in (moved, same, drawn):
            for turns in (True, False):
                with nullcontext() if variant == "as it is" else patch.object(choice, "_begun", lambda *_: False):
                    rngs = [np.random.default_rng(seed + 77) for seed in range(arguments.seeds)]
                    runs = [run(*problem(rng), seed, turns) for seed, rng in enumerate(rngs)]
                shown = "  ".join(f"{n}: {v:5.2f}" for n, v in zip(CHECKED, np.mean(runs, 0), strict=True))
                print(f"{variant:12} {problem.__name__:6} {'in turns' if turns else 'in a row':9} {shown}", flush=True)


if __name__ == "__main__":
    main()
