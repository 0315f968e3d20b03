"""The problems of the comparison, each stated once: its parameters in a neutral form, its value, its known optimum.

`peers.py` turns a neutral space into what each optimizer takes. Every problem is minimised. A synthetic one is scored
by its regret, the noiseless value of the recommended configuration minus the known optimum; a real one, whose optimum
nobody knows, by its cross-validated loss.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np

Params = dict[str, Any]  # one configuration: the active parameters only
VALUE = "value"  # the metric to minimise


# --- spaces -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dim:
    """One parameter. ``only_if``: the choice, and its options, under which it means anything."""

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    options: tuple[str, ...] = ()
    only_if: tuple[str, tuple[str, ...]] | None = None

    def from_unit(self, u: float) -> Any:
        """The value at u in [0, 1]: uniform on the parameter's scale, every whole number and option equally wide."""
        u = min(max(u, 0.0), 1.0)
        if self.kind == "choice":
            return self.options[min(int(u * len(self.options)), len(self.options) - 1)]
        half = 0.5 if self.kind == "int" else 0.0
        low, high = self.low - half, self.high + half
        x = low * (high / low) ** u if self.log else low + u * (high - low)
        return int(min(max(round(x), self.low), self.high)) if half else min(max(x, self.low), self.high)

    def to_unit(self, value: Any) -> float:
        """Where from_unit has ``value``: the middle of its interval for a whole number or an option."""
        if self.kind == "choice":
            return (self.options.index(value) + 0.5) / len(self.options)
        half = 0.5 if self.kind == "int" else 0.0
        low, high = self.low - half, self.high + half
        return math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)


@dataclass(frozen=True)
class Constraint:
    """A parameter constraint: as text, and by how much a configuration exceeds it (above 0: broken)."""

    text: str
    excess: Callable[[Params], float]
    linear: Mapping[str, float] | None = None  # coefficients, where it is linear: sum of coefficient * x <= bound
    bound: float = 0.0


def at_most(coefficients: Mapping[str, float], bound: float) -> Constraint:
    """A linear constraint."""
    text = " + ".join(name if c == 1 else f"{c!r} * {name}" for name, c in coefficients.items())
    return Constraint(f"{text} <= {bound!r}", partial(_linear_excess, coefficients, bound), coefficients, bound)


def product_at_most(a: str, b: str, bound: float) -> Constraint:
    return Constraint(f"{a} * {b} <= {bound!r}", lambda p: math.log(p[a] * p[b] / bound))


def _linear_excess(coefficients: Mapping[str, float], bound: float, params: Params) -> float:
    return float(sum(c * params[name] for name, c in coefficients.items()) - bound)


@dataclass(frozen=True)
class Problem:
    """What is minimised over which space, with how many trials, and how the recommendation is scored."""

    name: str
    title: str
    dims: tuple[Dim, ...]
    evaluate: Callable[[Params], Mapping[str, float]]  # noiseless: VALUE, and one number per name in ``outcomes``
    trials: int = 50
    optimum: float | None = None
    noise: float = 0.0  # standard deviation of what is added to each told value
    outcomes: tuple[str, ...] = ()  # metrics that have to be <= 0; observed with the value
    constraints: tuple[Constraint, ...] = ()  # known before a configuration is tried
    penalty: float = math.nan  # the score of an infeasible recommendation, or of none

    @property
    def start_size(self) -> int:
        """How many configurations of the shared start come first."""
        return max(5, len(self.dims) + 1)

    @property
    def measure(self) -> str:
        """The name of the score."""
        return "loss" if self.optimum is None else "regret"

    def active(self, params: Mapping[str, Any]) -> Params:
        """``params`` without those that mean nothing in this configuration."""
        return {d.name: params[d.name] for d in self.dims if d.only_if is None or params[d.only_if[0]] in d.only_if[1]}

    def filled(self, params: Mapping[str, Any]) -> Params:
        """``params`` with every parameter, the inactive ones at their middle: for peers without conditions."""
        return {d.name: params.get(d.name, d.from_unit(0.5)) for d in self.dims}

    def from_unit(self, u: Any) -> Params:
        """The configuration at a point of the unit cube with one coordinate per parameter."""
        return self.active({d.name: d.from_unit(float(x)) for d, x in zip(self.dims, u, strict=True)})

    def allowed(self, params: Params) -> bool:
        """Whether every parameter constraint holds."""
        return all(c.excess(params) <= 1e-9 for c in self.constraints)

    def score(self, params: Params | None, truth: Mapping[str, float] | None = None) -> float:
        """Regret (or loss) of a recommended configuration; ``truth`` saves evaluating it again."""
        if params is None or not self.allowed(params):
            return self.penalty
        truth = self.evaluate(params) if truth is None else truth
        if any(truth[name] > 1e-9 for name in self.outcomes):
            return self.penalty
        return truth[VALUE] - (self.optimum or 0.0)


def real(name: str, low: float, high: float, log: bool = False) -> Dim:
    return Dim(name, "float", low, high, log)


def whole(name: str, low: int, high: int, log: bool = False) -> Dim:
    return Dim(name, "int", low, high, log)


def choice(name: str, *options: str) -> Dim:
    return Dim(name, "choice", options=options)


def _box(n: int, low: float, high: float) -> tuple[Dim, ...]:
    return tuple(real(f"x{i + 1}", low, high) for i in range(n))


def _of_vector(f: Callable[[np.ndarray], float]) -> Callable[[Params], Mapping[str, float]]:
    return lambda params: {VALUE: f(np.array(list(params.values()), dtype=float))}


# --- synthetic functions ----------------------------------------------------------------------------------------------


def _branin(x: np.ndarray) -> float:
    a, b = x
    return float(
        (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10
    )


HARTMANN_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
HARTMANN_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
HARTMANN_OPTIMUM = -3.322368011415511
HARTMANN_BEST = (0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730054)
# Under x1 + ... + x6 <= 1.5; found by SLSQP from 600 starts.
HARTMANN_SUM = 1.5
HARTMANN_SUM_OPTIMUM = -2.595108293873


def hartmann(x: np.ndarray) -> float:
    return float(-HARTMANN_ALPHA @ np.exp(-(HARTMANN_A * (x - HARTMANN_P) ** 2).sum(1)))


def _ackley(x: np.ndarray) -> float:
    spread, waves = math.sqrt(float(np.mean(x**2))), float(np.mean(np.cos(2 * math.pi * x)))
    return -20 * math.exp(-0.2 * spread) - math.exp(waves) + 20 + math.e


def _levy(x: np.ndarray) -> float:
    w = 1 + (x - 1) / 4
    middle = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2)).sum()
    end = (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return float(math.sin(math.pi * w[0]) ** 2 + middle + end)


def _rosenbrock(x: np.ndarray) -> float:
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


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


def _mixed(p: Params) -> Mapping[str, float]:
    doublings = math.log2(p["width"] / 128)
    loss = MIXED_LOSS[p["optimizer"]][("relu", "gelu", "tanh").index(p["activation"])]
    loss += 0.25 * (math.log10(p["rate"]) - MIXED_RATE[p["optimizer"]] + 0.2 * doublings) ** 2  # wide wants slow
    loss += 0.8 * (p["momentum"] - MIXED_MOMENTUM[p["optimizer"]]) ** 2
    loss += 0.05 * (p["layers"] - MIXED_LAYERS[p["activation"]]) ** 2
    loss += 0.08 * doublings**2
    loss += 2.0 * (p["dropout"] - 0.05 * p["layers"]) ** 2  # deep wants more dropout
    return {VALUE: loss}


def _gramacy(p: Params) -> Mapping[str, float]:
    a, b = p["x1"], p["x2"]
    return {
        VALUE: a + b,
        "wave": 1.5 - a - 2 * b - 0.5 * math.sin(2 * math.pi * (a**2 - 2 * b)),
        "disc": a**2 + b**2 - 1.5,
    }


def _hartmann_sum(p: Params) -> Mapping[str, float]:
    x = np.array(list(p.values()))
    return {VALUE: hartmann(x), "excess": float(x.sum()) - HARTMANN_SUM}


def _bbob(function: int, seed: int) -> Problem:
    """A function of the BBOB suite in 5 dimensions; the seed is its instance (how it is shifted and rotated)."""
    suite: Any = importlib.import_module("cocoex")
    bare = suite.BareProblem("bbob", function, 5, 1 + seed)
    f = _of_vector(lambda x: float(bare(x)))
    return Problem(f"bbob_f{function}", f"BBOB f{function}, 5-d", _box(5, -5, 5), f, optimum=float(bare.best_value()))


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

    def evaluate(params: Params) -> Mapping[str, float]:
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


def _svm(p: Params) -> Mapping[str, float]:
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


def _mlp(p: Params) -> Mapping[str, float]:
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

HARTMANN6 = Problem("hartmann6", "Hartmann, 6-d", _box(6, 0, 1), _of_vector(hartmann), optimum=HARTMANN_OPTIMUM)
_SUM = at_most({f"x{i}": 1.0 for i in range(1, 7)}, HARTMANN_SUM)
_FIXED = (
    Problem(
        "branin",
        "Branin, 2-d",
        (real("x1", -5, 10), real("x2", 0, 15)),
        _of_vector(_branin),
        optimum=0.39788735772973816,
    ),
    HARTMANN6,
    replace(HARTMANN6, name="hartmann6_noisy", title="Hartmann, 6-d, noise sd 0.5", noise=0.5),
    # Off the middle of the box: on [-32.768, 32.768] the first guess of some optimizers is the answer.
    Problem("ackley5", "Ackley, 5-d", _box(5, -15, 30), _of_vector(_ackley), optimum=0.0),
    Problem("levy10", "Levy, 10-d", _box(10, -10, 10), _of_vector(_levy), trials=80, optimum=0.0),
    Problem("rosenbrock4", "Rosenbrock, 4-d", _box(4, -5, 10), _of_vector(_rosenbrock), optimum=0.0),
    Problem("mixed7", "Mixed: 3 floats, 2 integers, 2 categoricals", MIXED, _mixed, optimum=0.0),
    Problem(
        "gramacy",
        "Gramacy, 2-d, two outcome constraints",
        _box(2, 0, 1),
        _gramacy,
        trials=40,
        optimum=0.5997880,
        outcomes=("wave", "disc"),
        penalty=2.0 - 0.5997880,  # as bad as the worst point of the square
    ),
    Problem(
        "hartmann6_outcome",
        "Hartmann, 6-d, an outcome constraint",
        _box(6, 0, 1),
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
PROBLEMS: dict[str, Callable[[int], Problem]] = {p.name: partial(lambda p, _: p, p) for p in _FIXED}
PROBLEMS |= {"digits": partial(_digits, False), "digits_flat": partial(_digits, True)}
PROBLEMS |= {f"bbob_f{f}": partial(_bbob, f) for f in BBOB}


def trials_of(name: str) -> int:
    """A problem's own number of trials; the suite of BBOB's need not be installed for it."""
    return Problem.trials if name.startswith("bbob") else PROBLEMS[name](0).trials
