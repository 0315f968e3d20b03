"""Tuning real models with several workers at once: ask while results are still out.

    .venv-bench/bin/python -m benchmarks.workers [--workers 4] [--seeds 5] [--peers suffice optuna_gp optuna_tpe random]
    .venv-bench/bin/python -m benchmarks.workers --table

Eight problems on data that scikit-learn brings or makes, cross-validated with fixed folds: exact, but jagged, with
integers, log scales and categoricals. Every peer is asked for the next configuration while the others' results are
outstanding; results come back in the order of the asks. Nobody is told whether the objective is exact. Appends a line
per run to `docs/benchmarks/workers.jsonl` and goes on where it stopped; prints the table of docs/benchmarks.md, where 0
is the best value that any run found, and 1 the median of random search.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from rich.progress import track
from sklearn import datasets
from sklearn.base import BaseEstimator
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from .peers import optuna_value, suffice_parameter
from .problem import VALUE, Dim, Params, Problem, choice, real, whole
from .run import ROOT

WORST = 10.0  # the value of what diverges, in standard deviations of y or in nats


# --- problems ---------------------------------------------------------------------------------------------------------


def _tuned(
    name: str,
    dims: tuple[Dim, ...],
    model: Callable[[Params], BaseEstimator],
    data: Callable[[], tuple[np.ndarray, np.ndarray]],
    scoring: str,
    trials: int = 40,
) -> Problem:
    X, y = data()
    if scoring == "neg_root_mean_squared_error":
        y, folds = (y - y.mean()) / y.std(), KFold(3, shuffle=True, random_state=0)
    else:
        folds = StratifiedKFold(3, shuffle=True, random_state=0)

    def loss(params: Params) -> dict[str, float]:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                scores = cross_val_score(model(params), X, y, cv=folds, scoring=scoring, error_score=-WORST)
            except ValueError:  # when every fold fails
                return {VALUE: WORST}
        value = 1.0 - scores.mean() if scoring == "accuracy" else min(-scores.mean(), WORST)
        return {VALUE: float(value)}

    return Problem(name, name, dims, loss, trials=trials)


def _boosting(kind: Any) -> Callable[[Params], BaseEstimator]:
    return lambda p: kind(**p, early_stopping=False, random_state=0)


def _network(kind: Any, epochs: int) -> Callable[[Params], BaseEstimator]:
    def network(params: Params) -> BaseEstimator:
        settings = dict(params)
        layers = (settings.pop("width"),) * settings.pop("depth")
        model = kind(hidden_layer_sizes=layers, **settings, max_iter=epochs, random_state=0)
        return make_pipeline(StandardScaler(), model)

    return network


_TREES = (
    real("learning_rate", 1e-3, 1, log=True),
    whole("max_iter", 5, 40, log=True),
    whole("max_leaf_nodes", 2, 63, log=True),
    whole("min_samples_leaf", 1, 80, log=True),
    real("l2_regularization", 1e-6, 100, log=True),
)
_LAYERS = (
    whole("width", 2, 48, log=True),
    whole("depth", 1, 3),
    real("learning_rate_init", 1e-4, 1, log=True),
    whole("batch_size", 8, 128, log=True),
)


def problems() -> tuple[Problem, ...]:
    classes = datasets.make_classification(300, 20, n_informative=8, n_classes=3, flip_y=0.03, random_state=3)
    return (
        _tuned(
            "linear, cancer",
            (
                choice("loss", "hinge", "log_loss", "modified_huber", "perceptron"),
                real("alpha", 1e-7, 0.1, log=True),
                real("eta0", 1e-4, 10, log=True),
                real("l1_ratio", 0, 1),
                real("power_t", 0.05, 1),
                choice("learning_rate", "constant", "invscaling", "adaptive"),
                whole("max_iter", 2, 30, log=True),
            ),
            lambda p: make_pipeline(
                StandardScaler(), SGDClassifier(**p, penalty="elasticnet", tol=None, random_state=0)
            ),
            lambda: datasets.load_breast_cancer(return_X_y=True),
            "accuracy",
        ),
        _tuned(
            "boosting, classes",
            (*_TREES, real("max_features", 0.02, 1, log=True)),
            _boosting(HistGradientBoostingClassifier),
            lambda: classes,
            "accuracy",
        ),
        _tuned(
            "boosting, Friedman 1",
            _TREES,
            _boosting(HistGradientBoostingRegressor),
            lambda: datasets.make_friedman1(300, 10, noise=1.0, random_state=1),
            "neg_root_mean_squared_error",
        ),
        _tuned(
            "network, moons",
            (*_LAYERS, choice("activation", "relu", "tanh", "logistic"), real("alpha", 1e-6, 1, log=True)),
            _network(MLPClassifier, 25),
            lambda: datasets.make_moons(240, noise=0.25, random_state=2),
            "neg_log_loss",
        ),
        _tuned(
            "network, diabetes",
            (*_LAYERS, choice("solver", "adam", "sgd"), real("alpha", 1e-6, 10, log=True)),
            _network(MLPRegressor, 15),
            lambda: datasets.load_diabetes(return_X_y=True),
            "neg_root_mean_squared_error",
        ),
        _tuned(
            "SVM, Friedman 2",
            (
                real("C", 1e-3, 1e3, log=True),
                real("gamma", 1e-4, 10, log=True),
                real("epsilon", 1e-3, 1, log=True),
                choice("kernel", "rbf", "poly", "sigmoid"),
                Dim("degree", "int", 2, 5, only_if=("kernel", ("poly",))),
            ),
            lambda p: make_pipeline(StandardScaler(), SVR(**p, max_iter=20000)),
            lambda: datasets.make_friedman2(300, noise=30.0, random_state=1),
            "neg_root_mean_squared_error",
        ),
        _tuned(
            "SVM, classes",
            (real("C", 1e-3, 1e3, log=True), real("gamma", 1e-5, 10, log=True)),
            lambda p: make_pipeline(StandardScaler(), SVC(**p, max_iter=20000)),
            lambda: classes,
            "accuracy",
            trials=25,
        ),
        _tuned(
            "forest, wine",
            (
                whole("n_estimators", 2, 25, log=True),
                whole("max_depth", 1, 20, log=True),
                whole("min_samples_split", 2, 60, log=True),
                whole("min_samples_leaf", 1, 30, log=True),
                real("max_features", 0.05, 1),
                choice("criterion", "gini", "entropy"),
            ),
            lambda p: ExtraTreesClassifier(**p, random_state=0),
            lambda: datasets.load_wine(return_X_y=True),
            "neg_log_loss",
        ),
    )


# --- peers: each is asked while results are out, and told in the order of its asks ------------------------------------


class Suffice:
    def __init__(self, problem: Problem, seed: int) -> None:
        from suffice.optimizer import Space, Study

        self.study = Study(Space({d.name: suffice_parameter(d) for d in problem.dims}), "minimize", seed=seed)

    def ask(self) -> tuple[Any, Params]:
        trial: Any = self.study.ask()
        return trial, dict(trial.params)

    def tell(self, trial: Any, value: float) -> None:
        self.study.tell(trial, value)


class Optuna:
    """Conditions as Optuna's users write them; of a flat space, as in `peers.py`, GPSampler makes less here."""

    def __init__(self, problem: Problem, seed: int, sampler: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.problem = problem
        self.study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=seed))

    def ask(self) -> tuple[Any, Params]:
        trial = self.study.ask()
        params: Params = {}
        for d in self.problem.dims:
            if d.only_if is None or params[d.only_if[0]] in d.only_if[1]:
                params[d.name] = optuna_value(trial, d)
        return trial, params

    def tell(self, trial: Any, value: float) -> None:
        self.study.tell(trial, value)


PEERS: Mapping[str, Callable[[Problem, int], Any]] = {
    "suffice": Suffice,
    "optuna_gp": lambda problem, seed: Optuna(problem, seed, "GPSampler"),
    "optuna_tpe": lambda problem, seed: Optuna(problem, seed, "TPESampler"),
    "random": lambda problem, seed: Optuna(problem, seed, "RandomSampler"),
}


def optimise(peer: Any, problem: Problem, workers: int) -> list[float]:
    """The values of all trials, in the order of their asks."""
    out: deque[tuple[Any, Params]] = deque()
    values: list[float] = []
    asked = 0
    while len(values) < problem.trials:
        while len(out) < workers and asked < problem.trials:
            out.append(peer.ask())
            asked += 1
        trial, params = out.popleft()
        values.append(problem.evaluate(params)[VALUE])
        peer.tell(trial, values[-1])
    return values


# --- results ----------------------------------------------------------------------------------------------------------

Runs = dict[tuple[str, str], dict[int, list[float]]]  # (peer, problem) -> seed -> values


def read(path: Path, workers: int) -> Runs:
    runs: Runs = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        if line["workers"] == workers:
            runs.setdefault((line["peer"], line["problem"]), {})[line["seed"]] = line["values"]
    return runs


def table(runs: Runs, peers: list[str]) -> str:
    """Each peer's mean over the seeds of the best value, from 0 (best known) to 1 (random search's median)."""
    names = list(dict.fromkeys(problem for _, problem in runs))
    lines = [f"| problem | {' | '.join(peers)} |", f"| --- |{' --: |' * len(peers)}"]
    rows = []
    for name in names:
        bests = {p: [min(values) for values in runs.get((p, name), {}).values()] for p in (*peers, "random")}
        least = min(min(values) for (_, problem), seeds in runs.items() if problem == name for values in seeds.values())
        unit = float(np.median(bests["random"])) - least
        rows.append([float(np.mean((np.array(bests[p]) - least) / unit)) for p in peers])
        lines.append(f"| {name} | {' | '.join(f'{x:.2f}' for x in rows[-1])} |")
    lines.append(f"| mean | {' | '.join(f'**{x:.2f}**' for x in np.mean(rows, axis=0))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "workers.jsonl")
    parser.add_argument("--table", action="store_true", help="only print the table of what was run")
    arguments = parser.parse_args()
    known = read(arguments.out, arguments.workers)
    cells = [(s, problem, p) for s in range(arguments.seeds) for problem in problems() for p in arguments.peers]
    left = [(s, problem, p) for s, problem, p in cells if s not in known.get((p, problem.name), {})]
    for seed, problem, name in [] if arguments.table else track(left, "runs"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = optimise(PEERS[name](problem, seed), problem, arguments.workers)
        kept = {"peer": name, "problem": problem.name, "seed": seed, "workers": arguments.workers}
        with arguments.out.open("a") as file:
            file.write(json.dumps({**kept, "values": [float(f"{v:.6g}") for v in values]}) + "\n")
    print(table(read(arguments.out, arguments.workers), arguments.peers))


if __name__ == "__main__":
    main()
