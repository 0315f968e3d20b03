"""A real tuning problem that runs in seconds: gradient-boosted trees on the digits that come with scikit-learn.

Minimise the 5-fold cross-validation error of `HistGradientBoostingClassifier` on all 1,797 images (8 x 8 pixels). The
folds and the model's own seed are fixed, so a configuration has one error, whoever evaluates it; one image more or less
is 0.056 points of a percent. The demo, the notebook and the comparison with other optimizers share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from suffice.optimizer import Categorical, Float, Int, Space

IMAGES = 1797
FOLDS = 5

# Wide, as one searches without knowing the answer: two or three decades around the defaults (learning_rate 0.1,
# max_iter 100, max_leaf_nodes 31, min_samples_leaf 20, max_features 1), with max_iter up to its default for speed.
SPACE = Space(
    learning_rate=Float(0.001, 1.0, log=True),
    l2_regularization=Float(1e-6, 100.0, log=True),
    max_iter=Int(5, 100, log=True),
    max_leaf_nodes=Int(2, 63, log=True),
    min_samples_leaf=Int(1, 200, log=True),
    max_features=Float(0.02, 1.0, log=True),
    features=Categorical("pixels", "components", "both"),  # principal components in place of, or beside, the pixels
    components=Int(2, 40, active_if="features != 'pixels'"),
    constraints=["max_iter * max_leaf_nodes <= 3200"],  # a cap on the model's size, which the defaults (3100) keep
)


def error(params: Mapping[str, Any] | None, images: int = IMAGES, split: int = 0) -> float:
    """The cross-validation error of a configuration (None: scikit-learn's defaults): the share of wrong images.

    One thread: the workers of a tuning run are the parallel part, and OpenMP's threads would only fight with them.
    ``images`` takes only the first so many, for tests that need it to run and no more. ``split`` other than 0 divides
    the images into other folds, and so tells how much of an error was luck with the folds.
    """
    X, y = _data()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=split)
    with threadpool_limits(1):
        return 1.0 - float(cross_val_score(_model(params), X[:images], y[:images], cv=folds).mean())


def _model(params: Mapping[str, Any] | None) -> Any:
    if params is None:  # pixels, no regularization
        return HistGradientBoostingClassifier(early_stopping=False, random_state=0)
    settings = {name: value for name, value in params.items() if name not in ("features", "components")}
    trees = HistGradientBoostingClassifier(**settings, early_stopping=False, random_state=0)
    if params["features"] == "pixels":
        return trees
    components = PCA(params["components"], random_state=0)
    if params["features"] == "components":
        return make_pipeline(components, trees)
    return make_pipeline(make_union(FunctionTransformer(), components), trees)


@cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X, y
