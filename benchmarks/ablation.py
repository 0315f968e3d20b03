"""What each ingredient of the core is worth, on problems that are reported nowhere else.

    .venv/bin/python benchmarks/ablation.py --seeds 6 --trials 40 [--variants default linear-scale ...]

Prints the mean log10 regret of the recommended point per problem and variant (smaller is better), and CPU seconds.
Decisions about the core are made here, never on the problems of `benchmarks/problems.py`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from botorch.test_functions import synthetic
from scipy.optimize import minimize

import suffice.optimizer.fitting as fitting
import suffice.optimizer.metric_model as metric_model
from suffice.optimizer import Budget, Float, Space, Stop, Study

Function = Callable[[np.ndarray], float]
Problem = tuple[list[tuple[float, float]], Function, float]  # bounds, function to minimise, its least value

NOISE = 0.3  # of a noisy problem, in standard deviations of the function over its domain


def from_botorch(function: Any, sign: float = 1.0) -> Problem:
    f = function.to(torch.float64)
    bounds = [(float(low), float(high)) for low, high in zip(f.bounds[0], f.bounds[1], strict=True)]
    return bounds, lambda x: sign * float(f.evaluate_true(torch.tensor(x)[None])[0]), sign * float(f.optimal_value)


def drawn(dimension: int, lengthscale: float, power: float = 1.0) -> Callable[[int], Problem]:
    """A function drawn from a Gaussian process, another one for every seed.

    ``power``: of x in it, and its inverse in every other parameter; the function is then rough at one end of its axes.
    """

    def problem(seed: int) -> Problem:
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((400, dimension)) / lengthscale / np.sqrt(rng.chisquare(5, size=(400, 1)) / 5)
        powers = power ** (-1.0) ** np.arange(dimension)
        phase, weights = rng.uniform(0, 2 * np.pi, 400), rng.standard_normal(400) * math.sqrt(2 / 400)

        def f(x: np.ndarray) -> float:
            return float(weights @ np.cos(W @ x**powers + phase))

        X = rng.random((4000, dimension))
        starts = X[np.argsort(np.cos(X**powers @ W.T + phase) @ weights)[:10]]
        least = min(float(minimize(f, x, bounds=[(0, 1)] * dimension).fun) for x in starts)
        return [(0.0, 1.0)] * dimension, f, least

    return problem


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "six-hump camel": lambda _: from_botorch(synthetic.SixHumpCamel()),
    "michalewicz 5": lambda _: from_botorch(synthetic.Michalewicz(5)),
    "styblinski-tang 4": lambda _: from_botorch(synthetic.StyblinskiTang(4)),
    "dixon-price 4": lambda _: from_botorch(synthetic.DixonPrice(4)),
    "griewank 5": lambda _: from_botorch(synthetic.Griewank(5)),
    "powell 4": lambda _: from_botorch(synthetic.Powell(4)),
    "shekel 5": lambda _: from_botorch(synthetic.Shekel(5)),
    "cosine 8": lambda _: from_botorch(synthetic.Cosine8(), -1.0),
    "drawn 4, smooth": drawn(4, 0.3),
    "drawn 6, smooth": drawn(6, 0.5),
    "drawn 2, warped": drawn(2, 0.25, 4.0),
    "drawn 4, warped": drawn(4, 0.3, 3.0),
    "drawn 4, warped, noisy": drawn(4, 0.4, 3.0),
    "hartmann 3, noisy": lambda _: from_botorch(synthetic.Hartmann(3)),
    "cosine 8, noisy": lambda _: from_botorch(synthetic.Cosine8(), -1.0),
    "styblinski-tang 4, noisy": lambda _: from_botorch(synthetic.StyblinskiTang(4)),
    "drawn 4, noisy": drawn(4, 0.4),
    "drawn 6, noisy": drawn(6, 0.5),
    "drawn 2, noisy": drawn(2, 0.25),
    "shekel 5, noisy": lambda _: from_botorch(synthetic.Shekel(5)),
    "six-hump camel, noisy": lambda _: from_botorch(synthetic.SixHumpCamel()),
}

ACQUISITIONS = ("posterior_mean_improvement", "knowledge_gradient", "one_shot_knowledge_gradient", "entropy_search")
VARIANTS: dict[str, Callable[[], None]] = {
    "default": lambda: None,
    "noise-always": lambda: setattr(fitting, "EVIDENCE", -math.inf),
    "linear-scale": lambda: setattr(metric_model, "HEADROOMS", ()),
    "no-short-tail": lambda: setattr(fitting.Prior, "shortest", 0.0),
    **{name: lambda: None for name in (*ACQUISITIONS, "warping", "outliers")},
}


def run(name: str, seed: int, trials: int, acquisition: str = "auto", model: dict[str, bool] | None = None) -> float:
    """log10 of the regret of the recommended point."""
    bounds, f, least = PROBLEMS[name](seed)
    rng = np.random.default_rng(1000 + seed)
    domain = np.array(bounds)
    sample = domain[:, 0] + (domain[:, 1] - domain[:, 0]) * np.random.default_rng(99).random((500, len(bounds)))
    sd = NOISE * float(np.std([f(x) for x in sample])) if name.endswith("noisy") else 0.0
    space = Space({f"x{i}": Float(low, high) for i, (low, high) in enumerate(bounds)})
    study = Study(space, seed=seed, budget=Budget(trials=trials), acquisition=acquisition, model=model)
    while not isinstance(step := study.ask(), Stop):
        study.tell(step, f(np.array(list(step.params.values()))) + sd * rng.standard_normal())
    return math.log10(max(f(np.array(list(study.best.params.values()))) - least, 1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--variants", nargs="+", default=["default"], choices=list(VARIANTS))
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    arguments = parser.parse_args()
    if len(arguments.variants) > 1:  # every variant in a process of its own, since it changes module constants
        for variant in arguments.variants:
            shared = [
                "--seeds",
                str(arguments.seeds),
                "--trials",
                str(arguments.trials),
                "--problems",
                *arguments.problems,
            ]
            if os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, "--variants", variant, *shared]):
                sys.exit(1)
        return
    (variant,) = arguments.variants
    VARIANTS[variant]()
    for name in arguments.problems:
        started = time.process_time()
        acquisition = variant if variant in ACQUISITIONS else "auto"
        model = {variant: True} if variant in ("warping", "outliers") else None
        regrets = [run(name, seed, arguments.trials, acquisition, model) for seed in range(arguments.seeds)]
        cpu = (time.process_time() - started) / arguments.seeds
        print(f"{variant:14} {name:26} {np.mean(regrets):7.2f}   {cpu:5.1f} CPU s a run", flush=True)


if __name__ == "__main__":
    main()
