"""Search in 20 to 100 dimensions: the study's ways of coping against their peers, on problems made for this.

    .venv-bench/bin/python benchmarks/high_dimensions.py --seeds 0:3 [--problems ackley-20 ...] [--peers auto turbo ...]

Prints one line of JSON per run (regret of what is recommended after every quarter of the trials, CPU seconds), and with
`--table FILE ...` the mean log10 regret per problem of such lines, for the seeds that all of `--peers` have. Every peer
begins as it does by default. A peer may also be options of a study in JSON: '{"model": {"prior": "sparse"}}'.
Decisions about high dimensions are made here, never on the problems of `benchmarks/problem.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

Function = Callable[[np.ndarray], float]
Asker = Generator[np.ndarray, float, None]  # yields points of the cube; the values measured there are sent back

# --- problems: in the unit cube, with a least value of 0 at a random place of which every seed has another --------


def ackley(z: np.ndarray) -> float:
    return float(20 - 20 * np.exp(-0.2 * np.sqrt(np.mean(z**2))) + math.e - np.exp(np.mean(np.cos(2 * np.pi * z))))


def rosenbrock(z: np.ndarray) -> float:
    return float(np.sum(100 * ((z[1:] + 1) - (z[:-1] + 1) ** 2) ** 2 + z[:-1] ** 2))


def levy(z: np.ndarray) -> float:
    w = 1 + z / 4
    middle = np.sum((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2))
    return float(np.sin(np.pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2))


def rastrigin(z: np.ndarray) -> float:
    return float(np.sum(z**2 - 10 * np.cos(2 * np.pi * z) + 10))


def ellipsoid(z: np.ndarray) -> float:
    return float(np.sum(10 ** (3 * np.arange(len(z)) / max(len(z) - 1, 1)) * z**2))


@dataclass(frozen=True)
class Problem:
    """``function`` of ``active`` of the ``dimension`` coordinates, its domain ``width`` wide."""

    function: Function
    width: float
    dimension: int
    active: int
    trials: int
    noise: float = 0.0  # standard deviation

    def drawn(self, seed: int) -> Function:
        rng = np.random.default_rng([17, seed])
        optimum = rng.uniform(0.15, 0.85, self.active)
        chosen = rng.permutation(self.dimension)[: self.active]
        return lambda x: self.function((x[chosen] - optimum) * self.width)


PROBLEMS = {
    "ackley-20": Problem(ackley, 15.0, 20, 20, 100),
    "rosenbrock-20": Problem(rosenbrock, 4.0, 20, 20, 100),
    "levy-20 noisy": Problem(levy, 20.0, 20, 20, 150, noise=5.0),
    "rastrigin-5 in 20": Problem(rastrigin, 10.24, 20, 5, 100),
    "ellipsoid-50": Problem(ellipsoid, 10.0, 50, 50, 150),
    "ackley-6 in 50": Problem(ackley, 15.0, 50, 6, 150),
    "rosenbrock-4 in 100": Problem(rosenbrock, 4.0, 100, 4, 150),
}

# --- peers ------------------------------------------------------------------------------------------------------


def suffice(problem: Problem, seed: int, **options: Any) -> tuple[Asker, Callable[[], np.ndarray]]:
    from suffice.optimizer import Float, Space, Study, Trial

    study = Study(Space({f"x{i}": Float(0, 1) for i in range(problem.dimension)}), seed=seed, **options)

    def asker() -> Asker:
        while True:
            trial = study.ask()
            assert isinstance(trial, Trial)
            study.tell(trial, (yield np.array(list(trial.params.values()))))

    return asker(), lambda: np.array(list(study.best.params.values()))


def tpe(problem: Problem, seed: int) -> Asker:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    while True:
        trial = study.ask()
        value = yield np.array([trial.suggest_float(f"x{i}", 0, 1) for i in range(problem.dimension)])
        study.tell(trial, value)


def cma(problem: Problem, seed: int) -> Asker:
    cmaes: Any = importlib.import_module("cmaes")

    bounds = np.array([[0.0, 1.0]] * problem.dimension)
    strategy = cmaes.CMA(mean=np.full(problem.dimension, 0.5), sigma=0.25, bounds=bounds, seed=seed)
    while True:
        generation = []
        for _ in range(strategy.population_size):
            x = strategy.ask()
            value = yield x
            generation.append((x, value))
        strategy.tell(generation)


def random(problem: Problem, seed: int) -> Asker:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.random(problem.dimension)


def turbo(problem: Problem, seed: int) -> Asker:
    """BoTorch's tutorial of TuRBO-1, one point at a time: Thompson sampling in the region, refitted after each."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.generation.sampling import MaxPosteriorSampling
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import Interval
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from torch.quasirandom import SobolEngine

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d, design = problem.dimension, SobolEngine(problem.dimension, scramble=True, seed=seed)
    while True:  # one pass is one region
        X, Y = torch.empty((0, d), dtype=torch.double), torch.empty((0, 1), dtype=torch.double)
        for x in design.draw(2 * d).double():
            value = yield x.numpy()
            X, Y = torch.cat([X, x[None]]), torch.cat([Y, torch.tensor([[-value]], dtype=torch.double)])
        length, successes, failures = 0.8, 0, 0
        while length >= 0.5**7:
            kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=d, lengthscale_constraint=Interval(0.005, 4.0)))
            model = SingleTaskGP(
                X,
                (Y - Y.mean()) / Y.std(),
                covar_module=kernel,
                likelihood=GaussianLikelihood(noise_constraint=Interval(1e-8, 1e-3)),
                outcome_transform=None,
            )
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            centre, weights = X[Y.argmax()], kernel.base_kernel.lengthscale.squeeze().detach()
            weights = weights / weights.log().mean().exp()
            low, high = (centre - weights * length / 2).clamp(0, 1), (centre + weights * length / 2).clamp(0, 1)
            count = min(5000, max(2000, 200 * d))
            moves = low + (high - low) * SobolEngine(d, scramble=True).draw(count).double()
            mask = torch.rand(count, d) <= min(20.0 / d, 1.0)
            mask[torch.arange(count), torch.randint(d, (count,))] = True
            with torch.no_grad():
                x = MaxPosteriorSampling(model=model, replacement=False)(torch.where(mask, moves, centre), 1)
            value = yield x[0].numpy()
            y = torch.tensor([[-value]], dtype=torch.double)
            success = bool(y > Y.max() + 1e-3 * Y.max().abs())
            X, Y = torch.cat([X, x]), torch.cat([Y, y])
            successes, failures = (successes + 1, 0) if success else (0, failures + 1)
            if successes == 10:
                length, successes = min(2 * length, 1.6), 0
            elif failures == max(4, d):
                length, failures = length / 2, 0


PEERS: dict[str, Callable[[Problem, int], Any]] = {
    "auto": suffice,
    "dense": partial(suffice, model={"prior": "dense"}),
    "trust region": partial(suffice, acquisition="trust_region"),
    "dense trust region": partial(suffice, model={"prior": "dense"}, acquisition="trust_region"),
    "turbo": turbo,
    "cma": cma,
    "tpe": tpe,
    "random": random,
}


def run(name: str, peer: str, seed: int) -> dict[str, Any]:
    """One run: the noiseless regret of what is recommended after each quarter of the trials.

    That is the best measured point, except that a study says itself what it recommends.
    """
    problem = PROBLEMS[name]
    f, rng = problem.drawn(seed), np.random.default_rng([18, seed])
    made = PEERS[peer](problem, seed) if peer in PEERS else suffice(problem, seed, **json.loads(peer))
    asker, recommended = made if isinstance(made, tuple) else (made, None)
    measured: list[float] = []
    regrets: list[float] = []
    quarters: list[float] = []
    started = time.process_time()
    x = next(asker)
    while True:
        regrets.append(f(x))
        measured.append(regrets[-1] + problem.noise * rng.standard_normal())
        last = len(measured) == problem.trials
        x = asker.send(measured[-1]) if not last or recommended else x
        if len(measured) % (problem.trials // 4) == 0:
            regret = regrets[int(np.argmin(measured))] if recommended is None else f(recommended())
            quarters.append(float(f"{regret:.6g}"))
        if last:
            break
    cpu = round(time.process_time() - started, 2)
    return {"problem": name, "peer": peer, "seed": seed, "regret": quarters, "cpu": cpu}


def table(lines: list[dict[str, Any]], peers: list[str]) -> str:
    """Mean log10 regret over the seeds that all peers have (how many: in brackets), and CPU seconds, in Markdown."""
    cells: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        cells[line["problem"], line["peer"]][line["seed"]] = line
    rows = [["", *peers], ["---", *["---:"] * len(peers)]]
    for name in PROBLEMS:
        seeds = set.intersection(*(set(cells[name, peer]) for peer in peers))
        if not seeds:
            continue
        row = [f"{name}, {PROBLEMS[name].trials} trials ({len(seeds)})"]
        for peer in peers:
            regrets = [max(cells[name, peer][seed]["regret"][-1], 1e-12) for seed in seeds]
            row.append(f"{np.mean(np.log10(regrets)):.2f}")
        rows.append(row)
    cpu = [[line["cpu"] for (_, p), runs in cells.items() if p == peer for line in runs.values()] for peer in peers]
    rows.append(["CPU seconds per run", *(f"{np.mean(c):.1f}" for c in cpu)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:3", help="first:end")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--table", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.table:
        text = "".join(Path(name).read_text(encoding="utf-8") for name in arguments.table)
        print(table([json.loads(line) for line in text.splitlines()], arguments.peers))
        return
    for seed in range(*map(int, arguments.seeds.split(":"))):
        for name in arguments.problems:
            for peer in arguments.peers:
                print(json.dumps(run(name, peer, seed)), flush=True)


if __name__ == "__main__":
    main()
