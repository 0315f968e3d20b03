"""What fidelities are worth, on problems that are reported nowhere else.

    .venv/bin/python benchmarks/fidelity_ablation.py --seeds 4 --cost 12 [--variants fidelity single plain-kernel ...]

Prints the mean log10 regret at the target of the recommended design, after trials of so much cost together (1 is about
one trial at the target), CPU seconds per ask, and differences at the end from the search at the target alone. Decisions
about fidelities are made here, never on the problems of `benchmarks/fidelities.py`.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import minimize

import suffice.optimizer.fitting as fitting
import suffice.optimizer.metric_model as metric_model
from suffice.optimizer import Categorical, Float, Int, Space, Study, Trial
from suffice.optimizer.expression import Formula
from suffice.optimizer.fitting import Fit, Prior
from suffice.optimizer.models import Data

COSTS = (2, 3, 5, 8, 12, 20, 30)
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """A function to minimise over so many numbers in [0, 1], and what says how exactly it is measured."""

    function: Callable[[np.ndarray, Any], float]
    dimension: int
    fidelity: Float | Int | Categorical
    target: Any
    cost: str
    bound: float | None = None  # no value can be, or was ever seen, below it, where looking for the least takes long

    def __call__(self, params: Params, at_target: bool = False) -> float:
        x = np.array([params[f"x{i}"] for i in range(self.dimension)])
        return float(self.function(x, self.target if at_target else params.get("s", self.target)))

    def least(self) -> float:
        if self.bound is not None:
            return self.bound
        X = np.random.default_rng(0).random((4000, self.dimension))
        values = [self.function(x, self.target) for x in X]
        bounds = [(0.0, 1.0)] * self.dimension
        ends = [minimize(self.function, X[i], self.target, bounds=bounds).fun for i in np.argsort(values)[:8]]
        return min(*values, *map(float, ends))


def currin(x: np.ndarray, s: float) -> float:
    a, b = x[0], max(float(x[1]), 1e-9)
    rise = 1 - (1 - 0.5 * (1 - s)) * math.exp(-1 / (2 * b))
    return float(-rise * (2300 * a**3 + 1900 * a**2 + 2092 * a + 60) / (100 * a**3 + 500 * a**2 + 4 * a + 20))


LOW = np.array([0.05, 100, 63070, 990, 63.1, 700, 1120, 9855])
HIGH = np.array([0.15, 50000, 115600, 1110, 116, 820, 1680, 12045])


def borehole(x: np.ndarray, s: float) -> float:
    rw, r, Tu, Hu, Tl, Hl, L, Kw = LOW + (HIGH - LOW) * x
    log = math.log(r / rw)
    part = 2 * L * Tu / (log * rw**2 * Kw)
    exact = 2 * math.pi * Tu * (Hu - Hl) / (log * (1 + part + Tu / Tl))
    coarse = 5 * Tu * (Hu - Hl) / (log * (1.5 + part + Tu / Tl))
    return -float(s * exact + (1 - s) * coarse)


def park(x: np.ndarray, source: str) -> float:
    a, b, c, d = np.maximum(x, 1e-9)
    exact = a / 2 * (math.sqrt(1 + (b + c**2) * d / a**2) - 1) + (a + 3 * d) * math.exp(1 + math.sin(c))
    return -float(exact if source == "exact" else (1 + math.sin(a) / 10) * exact - 2 * a + b**2 + c**2 + 0.5)


def forrester(x: np.ndarray, source: str) -> float:
    exact = (6 * x[0] - 2) ** 2 * math.sin(12 * x[0] - 4)
    return float(exact if source == "exact" else 0.5 * exact + 10 * (x[0] - 0.5) - 5)


def learning_curve(x: np.ndarray, epochs: float) -> float:
    a, b, c = x
    final = 0.1 + (a - 0.3) ** 2 + 0.5 * (b - 0.7) ** 2 + 0.3 * (c - 0.4) ** 2 + 0.05 * math.sin(9 * a + 3 * b)
    return float(final + (1 - final) * epochs ** -(0.3 + 1.2 * a * (1 - 0.5 * c)))


def crossing(x: np.ndarray, epochs: float) -> float:
    """Learning curves that begin elsewhere and cross: what learns fast does not end well."""
    a, b, c, d = x
    final = 0.2 + (a - 0.35) ** 2 + 0.4 * (b - 0.6) ** 2 + 0.2 * (c - d) ** 2 + 0.1 * (d - 0.5) ** 2
    return float(final + (1.5 + 0.5 * b - final) * math.exp(-(0.03 + 0.25 * a * (1 - 0.5 * b)) * epochs))


CENTRES = np.array([[0.2, 0.3, 0.6, 0.7], [0.7, 0.6, 0.3, 0.2], [0.5, 0.8, 0.5, 0.4]])
HEIGHTS, WIDTHS = np.array([1.0, 0.8, 0.9]), np.array([0.25, 0.3, 0.35])


def mixture(x: np.ndarray, s: float) -> float:
    """Three hills, which a low fidelity moves and makes lower or higher."""
    centres = CENTRES + (1 - s) * np.array([0.12, -0.08, 0.1, 0.05])
    heights = HEIGHTS * (1 - 0.3 * (1 - s) * np.array([1.0, 0.0, -0.5]))
    return -float((heights * np.exp(-((x - centres) ** 2).sum(1) / (2 * WIDTHS**2))).sum())


def camel(x: np.ndarray, s: float) -> float:
    """The six-hump camel, whose humps a low fidelity makes higher and turns."""
    a, b, t = 4 * x[0] - 2, 2 * x[1] - 1, 1 - s
    return float((4 + 0.8 * t - 2.1 * a**2 + a**4 / 3) * a**2 + (1 + t) * a * b + (4 * b**2 - 4) * b**2)


def goldstein(x: np.ndarray, s: float) -> float:
    """Goldstein and Price's function, over five orders of magnitude; a low fidelity moves it."""
    a, b = 4 * x[0] - 2 + 0.1 * (1 - s), 4 * x[1] - 2 - 0.05 * (1 - s)
    first = 1 + (a + b + 1) ** 2 * (19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2)
    second = 30 + (2 * a - 3 * b) ** 2 * (18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2)
    return float(first * second)


def rosenbrock(x: np.ndarray, s: float) -> float:
    """Rosenbrock's valley of three variables, which a low fidelity bends."""
    z = 4 * x - 2
    return float((100 * (z[1:] - (1 - 0.1 * (1 - s)) * z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2).sum())


HARTMANN3_A = np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
HARTMANN3_P = np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]]) * 1e-4


def hartmann3(x: np.ndarray, s: float) -> float:
    heights = np.array([1.0 - 0.1 * (1 - s), 1.2, 3.0, 3.2])
    return -float(heights @ np.exp(-(HARTMANN3_A * (x - HARTMANN3_P) ** 2).sum(1)))


WAVES = np.random.default_rng(5).standard_normal((200, 6)) / np.array([0.5] * 5 + [2.0])
PHASES = np.random.default_rng(6).uniform(0, 2 * np.pi, 200)


def drawn(x: np.ndarray, s: float) -> float:
    """A function drawn from a Gaussian process over five variables and the fidelity."""
    return float(np.cos(WAVES @ np.append(x, s) + PHASES).sum() / 10)


@lru_cache
def halves(name: str) -> Any:
    """Scikit-learn's data in two parts, standardised: (X, y) to learn from and (X, y) to be judged by."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X, X_held, y, y_held = train_test_split(
        X, y, test_size=1 / 3, random_state=0, stratify=None if name == "diabetes" else y
    )
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), y, scaler.transform(X_held), y_held


def network(x: np.ndarray, epochs: int) -> float:
    """Logistic loss of a neural network on wines: rate, width, momentum and weight decay; at most that of no idea."""
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    X, y, X_held, y_held = halves("wine")
    model = MLPClassifier(
        (round(2 * 32 ** x[1]),),
        solver="sgd",
        learning_rate_init=10 ** (-3.5 + 3.5 * x[0]),
        momentum=0.98 * x[2],
        alpha=10 ** (-5 + 6 * x[3]),
        batch_size=32,
        max_iter=int(epochs),
        tol=0,
        n_iter_no_change=10**6,
        random_state=0,
    )
    no_idea = math.log(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was told to stop early, and may diverge
        try:
            p = model.fit(X, y).predict_proba(X_held)
        except ValueError:  # its weights became infinite
            return no_idea
    return min(float(log_loss(y_held, p)), no_idea) if np.isfinite(p).all() else no_idea


def boosting(x: np.ndarray, trees: int) -> float:
    """Error of boosted trees on diabetes: rate, depth, subsample and leaf size; with too many trees it rises again."""
    from sklearn.ensemble import GradientBoostingRegressor

    X, y, X_held, y_held = halves("diabetes")
    model = GradientBoostingRegressor(
        learning_rate=10 ** (-2.5 + 2.5 * x[0]),
        max_depth=round(1 + 5 * x[1]),
        subsample=0.3 + 0.7 * x[2],
        min_samples_leaf=round(40 ** x[3]),
        n_estimators=int(trees),
        random_state=0,
    )
    return float(np.sqrt(((model.fit(X, y).predict(X_held) - y_held) ** 2).mean()) / y_held.std())


def support_vectors(x: np.ndarray, share: float) -> float:
    """Error of a support vector machine on digits, learned from a share of them: its price and width."""
    from sklearn.svm import SVC

    X, y, X_held, y_held = halves("digits")
    n = round(share * len(X))
    model = SVC(C=10 ** (-2 + 5 * x[0]), gamma=10 ** (-5 + 4 * x[1]))
    return float((model.fit(X[:n], y[:n]).predict(X_held) != y_held).mean())


SHARE, SOURCE = Float(0, 1), Categorical("exact", "cheap")
PROBLEMS = {
    "currin": Problem(currin, 2, SHARE, 1.0, "0.1 + s**2"),
    "borehole": Problem(borehole, 8, SHARE, 1.0, "0.1 + s**2"),
    "mixture": Problem(mixture, 4, SHARE, 1.0, "0.05 + s"),
    "learning curve": Problem(learning_curve, 3, Int(1, 81, log=True), 81, "0.02 + s / 81"),
    "crossing curves": Problem(crossing, 4, Int(1, 50), 50, "0.02 + s / 50"),
    "park": Problem(park, 4, SOURCE, "exact", "1 if s == 'exact' else 0.1"),
    "forrester": Problem(forrester, 1, SOURCE, "exact", "1 if s == 'exact' else 0.1"),
    "camel": Problem(camel, 2, SHARE, 1.0, "(0.5 + s) / 1.5"),
    "goldstein": Problem(goldstein, 2, SHARE, 1.0, "(0.5 + s) / 1.5"),
    "rosenbrock": Problem(rosenbrock, 3, SHARE, 1.0, "(0.2 + s) / 1.2"),
    "hartmann 3": Problem(hartmann3, 3, SHARE, 1.0, "(5 + s) / 6"),
    "drawn": Problem(drawn, 5, SHARE, 1.0, "(1 + s) / 2"),
    "network": Problem(network, 4, Int(1, 81, log=True), 81, "0.02 + s / 81", bound=-0.005),
    "boosting": Problem(boosting, 4, Int(1, 81, log=True), 81, "0.02 + s / 81", bound=0.76),
    "support vectors": Problem(support_vectors, 2, Float(1 / 16, 1, log=True), 1.0, "0.02 + s", bound=0.008),
}


def run(problem: Problem, seed: int, budget: float, single: bool) -> tuple[dict[int, float], float]:
    """The recommended design's value at the target, by cost; and CPU seconds per ask."""
    numbers = {f"x{i}": Float(0, 1) for i in range(problem.dimension)}
    formula = Formula(problem.cost)
    if single:
        study = Study(Space(numbers), seed=seed)
    else:
        fidelity = {"target": {"s": problem.target}, "cost": problem.cost}
        study = Study(Space({**numbers, "s": problem.fidelity}), fidelity=fidelity, seed=seed)
    spent, cpu, found = 0.0, 0.0, dict[int, float]()
    while spent < budget:
        began = time.process_time()
        trial = study.ask()
        cpu += time.process_time() - began
        assert isinstance(trial, Trial)
        spent += float(formula.values({"s": problem.target, **trial.params}))
        study.tell(trial, problem(trial.params))
        for cost in COSTS:
            if cost not in found and spent >= cost:
                found[cost] = problem(study.best.params, at_target=True)
                assert problem.bound is None or found[cost] > problem.bound, f"{found[cost]} is below the bound"
    return found, cpu / len(study.trials)


def plain(data: Data, prior: Prior, fit: Fit, apart: tuple[bool, ...]) -> Fit:
    """In place of the additive kernel: one kernel over all columns."""
    return fit


PATCHES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain-kernel": lambda: patch.object(metric_model, "fit_additive", plain),
    "no-growth": lambda: patch.object(fitting, "POWERS", ()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--cost", type=float, default=12)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    variants = ["fidelity", "plain-kernel", "no-growth", "single"]
    parser.add_argument("--variants", nargs="+", default=variants, choices=variants)
    arguments = parser.parse_args()
    for name in arguments.problems:
        problem = PROBLEMS[name]
        least = problem.least()
        ends: dict[str, np.ndarray] = {}
        for variant in arguments.variants:
            metric_model._decide.cache_clear()
            metric_model._follow.cache_clear()
            with PATCHES.get(variant, nullcontext)():
                runs = [run(problem, s, arguments.cost, variant == "single") for s in range(arguments.seeds)]
            regrets = {
                cost: np.array([math.log10(max(values[cost] - least, 1e-9)) for values, _ in runs])
                for cost in COSTS
                if cost <= arguments.cost
            }
            ends[variant] = regrets[max(regrets)]
            shown = "  ".join(f"{cost}: {regret.mean():6.2f}" for cost, regret in regrets.items())
            print(f"{name:15s} {variant:13s} {shown}   {np.mean([cpu for _, cpu in runs]):.3f} s", flush=True)
        if "single" in ends and arguments.seeds > 1:
            for variant in [v for v in ends if v != "single"]:
                apart = ends[variant] - ends["single"]
                error = apart.std(ddof=1) / math.sqrt(len(apart))
                print(f"{name:15s} {variant} - single: {apart.mean():+.2f} +- {error:.2f}, paired by seed", flush=True)


if __name__ == "__main__":
    main()
