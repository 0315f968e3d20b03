"""The problems of the comparison with one objective and one fidelity, and the list of all of them.

Every problem is minimised. A synthetic one is scored by its regret, the noiseless value of the recommended
configuration minus the known optimum; a real one, whose optimum nobody knows, by its cross-validated loss.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from .fidelities import FIDELITIES
from .fronts import FRONTS
from .functions import HARTMANN_OPTIMUM, ackley, branin, hartmann, levy, rosenbrock
from .problem import (
    VALUE,
    Dim,
    Family,
    Params,
    Problem,
    Truth,
    at_most,
    box,
    choice,
    of_vector,
    product_at_most,
    real,
    whole,
)

# --- synthetic functions ----------------------------------------------------------------------------------------------

# Under x1 + ... + x6 <= 1.5; found by SLSQP from 600 starts.
HARTMANN_SUM = 1.5
HARTMANN_SUM_OPTIMUM = -2.595108293873

# Mixed: the loss of an imagined training run with four optimizers and three activations. Rows: optimizer, columns:
# activation (relu, gelu, tanh). Relu is the best activation of every optimizer but one, with which tanh is best of all.
MIXED_LOSS = {
    "sgd": (0.30, 0.40, 0.55),
    "adam": (0.15, 0.20, 0.45),
    "rmsprop": (0.25, 0.30, 0.0),
    "lion": (0.20, 0.35, 0.40),
}
MIXED_RATE = {"sgd": -1.5, "adam": -3.0, "rmsprop": -2.5, "lion": -4.0}  # best log10(rate) at width 128
MIXED_MOMENTUM = {"sgd": 0.9, "adam": 0.6, "rmsprop": 0.3, "lion": 0.8}
MIXED_LAYERS = {"relu": 5, "gelu": 6, "tanh": 3}
MIXED = (
    real("rate", 1e-5, 1e-1, log=True),
    real("momentum", 0.0, 0.99),
    real("dropout", 0.0, 0.6),
    whole("width", 8, 512, log=True),
    whole("layers", 1, 8),
    choice("optimizer", *MIXED_LOSS),
    choice("activation", "relu", "gelu", "tanh"),
)


def _mixed(p: Params) -> Truth:
    doublings = math.log2(p["width"] / 128)
    loss = MIXED_LOSS[p["optimizer"]][("relu", "gelu", "tanh").index(p["activation"])]
    loss += 0.25 * (math.log10(p["rate"]) - MIXED_RATE[p["optimizer"]] + 0.2 * doublings) ** 2  # wide wants slow
    loss += 0.8 * (p["momentum"] - MIXED_MOMENTUM[p["optimizer"]]) ** 2
    loss += 0.05 * (p["layers"] - MIXED_LAYERS[p["activation"]]) ** 2
    loss += 0.08 * doublings**2
    loss += 2.0 * (p["dropout"] - 0.05 * p["layers"]) ** 2  # deep wants more dropout
    return {VALUE: loss}


def _gramacy(p: Params) -> Truth:
    a, b = p["x1"], p["x2"]
    return {
        VALUE: a + b,
        "wave": 1.5 - a - 2 * b - 0.5 * math.sin(2 * math.pi * (a**2 - 2 * b)),
        "disc": a**2 + b**2 - 1.5,
    }


def _hartmann_sum(p: Params) -> Truth:
    x = np.array(list(p.values()))
    return {VALUE: hartmann(x), "excess": float(x.sum()) - HARTMANN_SUM}


def bbob(function: int, dimension: int, seed: int) -> Problem:
    """A function of the BBOB suite; the seed is its instance (how it is shifted and rotated)."""
    suite: Any = importlib.import_module("cocoex")
    bare = suite.BareProblem("bbob", function, dimension, 1 + seed)
    f = of_vector(lambda x: float(bare(x)))
    name, title = f"bbob_f{function}", f"BBOB f{function}, {dimension}-d"
    return Problem(name, title, box(dimension, -5, 5), f, optimum=float(bare.best_value()))


# --- real models ------------------------------------------------------------------------------------------------------


def _digits(flat: bool, _: int) -> Problem:
    """Gradient-boosted trees on digits (digits.py); flat: without its condition and its parameter constraint."""
    digits: Any = importlib.import_module("benchmarks.digits")
    dims = []
    for field in digits.SPACE.to_json()["parameters"]:
        name, kind = field["name"], field["type"]
        if kind == "categorical":
            dims.append(choice(name, *field["choices"]))
        else:
            dims.append(Dim(name, kind, field["low"], field["high"], field["log"]))
    if not flat:
        dims = [replace(d, only_if=("features", ("components", "both"))) if d.name == "components" else d for d in dims]

    def evaluate(params: Params) -> Truth:
        return {VALUE: digits.error(params)}

    if flat:
        return Problem("digits_flat", "Boosted trees on digits, box only", tuple(dims), evaluate)
    size = product_at_most("max_iter", "max_leaf_nodes", 3200)
    return Problem("digits", "Boosted trees on digits", tuple(dims), evaluate, constraints=(size,), penalty=0.9)


@cache
def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    datasets: Any = importlib.import_module("sklearn.datasets")
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X, y


def _svm(p: Params) -> Truth:
    """5-fold root mean squared error of a support vector regression of diabetes progression."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler
    from sklearn.svm import SVR

    X, y = _table("diabetes")
    scalers = {"standard": StandardScaler(), "minmax": MinMaxScaler(), "ranks": QuantileTransformer(n_quantiles=100)}
    model = make_pipeline(scalers[p["scaler"]], SVR(C=p["C"], gamma=p["gamma"], epsilon=p["epsilon"]))
    folds = KFold(5, shuffle=True, random_state=0)
    scores = cross_val_score(model, X, y, cv=folds, scoring="neg_mean_squared_error")
    return {VALUE: math.sqrt(-float(scores.mean()))}


SVM = (
    real("C", 1e-2, 1e4, log=True),
    real("gamma", 1e-4, 1e1, log=True),
    real("epsilon", 1e-1, 1e2, log=True),
    choice("scaler", "standard", "minmax", "ranks"),
)


def _mlp(p: Params) -> Truth:
    """5-fold logistic loss of a neural network on the breast cancer data, 40 epochs."""
    import warnings

    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = _table("breast_cancer")
    network = MLPClassifier(
        hidden_layer_sizes=(p["width"],) * p["layers"],
        activation=p["activation"],
        alpha=p["alpha"],
        learning_rate_init=p["rate"],
        batch_size=p["batch"],
        beta_1=p["momentum"],
        max_iter=40,
        random_state=0,
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 epochs need not converge
        scores = cross_val_score(make_pipeline(StandardScaler(), network), X, y, cv=folds, scoring="neg_log_loss")
    return {VALUE: -float(scores.mean())}


MLP = (
    whole("width", 4, 64, log=True),
    whole("layers", 1, 3),
    real("rate", 1e-4, 1e-1, log=True),
    real("alpha", 1e-6, 1e1, log=True),
    whole("batch", 16, 256, log=True),
    real("momentum", 0.5, 0.99),
    choice("activation", "relu", "tanh", "logistic"),
)


# --- the list ---------------------------------------------------------------------------------------------------------

HARTMANN6 = Problem("hartmann6", "Hartmann, 6-d", box(6, 0, 1), of_vector(hartmann), optimum=HARTMANN_OPTIMUM)
_SUM = at_most({f"x{i}": 1.0 for i in range(1, 7)}, HARTMANN_SUM)
_FIXED = (
    Problem(
        "branin",
        "Branin, 2-d",
        (real("x1", -5, 10), real("x2", 0, 15)),
        of_vector(lambda x: branin(*x)),
        optimum=0.39788735772973816,
    ),
    HARTMANN6,
    replace(HARTMANN6, name="hartmann6_noisy", title="Hartmann, 6-d, noise sd 0.5", noise=0.5),
    # Off the middle of the box: on [-32.768, 32.768] the first guess of some optimizers is the answer.
    Problem("ackley5", "Ackley, 5-d", box(5, -15, 30), of_vector(ackley), optimum=0.0),
    Problem("levy10", "Levy, 10-d", box(10, -10, 10), of_vector(levy), trials=80, optimum=0.0),
    Problem("rosenbrock4", "Rosenbrock, 4-d", box(4, -5, 10), of_vector(rosenbrock), optimum=0.0),
    Problem("mixed7", "Mixed: 3 floats, 2 integers, 2 categoricals", MIXED, _mixed, optimum=0.0),
    Problem(
        "gramacy",
        "Gramacy, 2-d, two outcome constraints",
        box(2, 0, 1),
        _gramacy,
        trials=40,
        optimum=0.5997880,
        outcomes=("wave", "disc"),
        penalty=2.0 - 0.5997880,  # as bad as the worst point of the square
    ),
    Problem(
        "hartmann6_outcome",
        "Hartmann, 6-d, an outcome constraint",
        box(6, 0, 1),
        _hartmann_sum,
        optimum=HARTMANN_SUM_OPTIMUM,
        outcomes=("excess",),
        penalty=-HARTMANN_SUM_OPTIMUM,
    ),
    replace(
        HARTMANN6,
        name="hartmann6_sum",
        title="Hartmann, 6-d, a parameter constraint",
        optimum=HARTMANN_SUM_OPTIMUM,
        constraints=(_SUM,),
        penalty=-HARTMANN_SUM_OPTIMUM,
    ),
    Problem("svm", "Support vector regression of diabetes", SVM, _svm, trials=40),
    Problem("mlp", "Neural network on breast cancer", MLP, _mlp, trials=40),
)

BBOB = (3, 8, 13, 15, 21)
PROBLEMS: dict[str, Callable[[int], Problem]] = {
    p.name: partial(lambda p, _: p, p) for p in (*_FIXED, *FRONTS.values(), *FIDELITIES.values())
}
PROBLEMS |= {"digits": partial(_digits, False), "digits_flat": partial(_digits, True)}
PROBLEMS |= {f"bbob_f{f}": partial(bbob, f, 5) for f in BBOB}


def trials_of(name: str) -> int:
    """A problem's own number of trials; the suite of BBOB's need not be installed for it."""
    return Problem.trials if name.startswith("bbob") else PROBLEMS[name](0).trials


def family_of(name: str) -> Family:
    """A problem's family, likewise."""
    return "one objective" if name.startswith("bbob") else PROBLEMS[name](0).family


def kind_of(name: str) -> str:
    """Noisy, constrained or mixed; empty for all others."""
    if name.startswith("bbob"):
        return ""
    problem = PROBLEMS[name](0)
    if problem.noise:
        return "noisy"
    if problem.outcomes or problem.constraints:
        return "constrained"
    return "mixed" if any(d.kind != "float" for d in problem.dims) else ""
