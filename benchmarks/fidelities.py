"""Problems with a fidelity: evaluations that are cheaper and coarser. What counts is the value at the high end.

The two synthetic ones are BoTorch's, their parameter `fidelity` in [0, 1]; the costs of the second are those of its
tutorial on continuous multi-fidelity optimization. The real one is a boosted model, coarse with few trees.
"""

from __future__ import annotations

import math

import numpy as np

from .functions import HARTMANN_OPTIMUM, branin, hartmann
from .problem import VALUE, Fidelity, Params, Problem, Truth, box, real, whole

SHARE = real("fidelity", 0, 1)


def _branin(p: Params) -> Truth:
    return {VALUE: branin(p["x1"], p["x2"], p.get("fidelity", 1.0))}


def _hartmann(p: Params) -> Truth:
    return {VALUE: hartmann(np.array([p[f"x{i}"] for i in range(1, 7)]), p.get("fidelity", 1.0))}


TREES = whole("trees", 3, 81, log=True)
BOOSTING = (
    real("learning_rate", 1e-3, 1.0, log=True),
    real("l2_regularization", 1e-6, 1e2, log=True),
    whole("max_leaf_nodes", 2, 63, log=True),
    whole("min_samples_leaf", 1, 200, log=True),
    real("max_features", 0.02, 1.0, log=True),
)


def _boosting(p: Params) -> Truth:
    """Logistic loss of gradient-boosted trees on a third of the digits held out, at most that of knowing nothing."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    settings = {d.name: p[d.name] for d in BOOSTING}
    trees = p.get(TREES.name, int(TREES.high))
    model = HistGradientBoostingClassifier(**settings, max_iter=trees, early_stopping=False, random_state=0)
    X, y = load_digits(return_X_y=True)
    X, X_held, y, y_held = train_test_split(X, y, test_size=1 / 3, stratify=y, random_state=0)
    loss = float(log_loss(y_held, model.fit(X, y).predict_proba(X_held)))
    return {VALUE: min(loss, math.log(10.0))}


_FIDELITIES = (
    Problem(
        "branin_fidelity",
        "Branin, 2-d, with a fidelity",
        (real("x1", -5, 10), real("x2", 0, 15)),
        _branin,
        trials=20,
        optimum=0.39788735772973816,
        penalty=300.0,
        fidelity=Fidelity(SHARE, fixed=0.5),
    ),
    Problem(
        "hartmann6_fidelity",
        "Hartmann, 6-d, with a fidelity",
        box(6, 0, 1),
        _hartmann,
        trials=30,
        optimum=HARTMANN_OPTIMUM,
        penalty=-HARTMANN_OPTIMUM,
        fidelity=Fidelity(SHARE, fixed=5.0),
    ),
    Problem(
        "boosting_fidelity",
        "Boosted trees on digits, few trees or many",
        BOOSTING,
        _boosting,
        trials=20,
        penalty=math.log(10.0),
        fidelity=Fidelity(TREES, fixed=0.2, resumable=True),
    ),
)
FIDELITIES = {p.name: p for p in _FIDELITIES}
