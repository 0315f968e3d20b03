"""Learned changes of the axes: taken where the results speak for them, and worth it there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from suffice.optimizer import Float, Space, Study
from suffice.optimizer.fitting import EVIDENCE, Free, Prior, fit, fit_warped, negative_log_posterior, refine
from suffice.optimizer.metric_model import fit_metric
from suffice.optimizer.model_choice import ModelChoice
from suffice.optimizer.models import Data, Hyperparameters
from suffice.optimizer.results import Results
from suffice.optimizer.warping import Warp

WARPED = Hyperparameters(np.array([0.3, 0.5]), 1.2, 0.01, warp=Warp(np.array([0.5, 1.0]), np.array([2.0, 1.0])))


def data(n: int = 30, power: float = 0.2) -> Data:
    """A function that is rough near x = 0, and hardly changes elsewhere."""
    X = np.random.default_rng(0).random((n, 2))
    y = np.sin(9 * X[:, 0] ** power) + 0.5 * X[:, 1]
    return Data(X, (y - y.mean()) / y.std(), np.full(n, 1e-8), np.arange(2))


def test_gradient_of_the_posterior_density() -> None:
    d, free = replace(data(), known_noise=np.full(30, math.nan)), Free(noise=True, warped=(0,))
    theta = free.write(WARPED)

    def value(t: np.ndarray) -> float:
        return negative_log_posterior(t, d, Prior(), free, WARPED)[0]

    _, gradient = negative_log_posterior(theta, d, Prior(), free, WARPED)
    numeric = [(value(theta + s) - value(theta - s)) / 2e-5 for s in 1e-5 * np.eye(len(theta))]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-4)
    assert len(theta) == 6
    read = free.read(theta, d, WARPED)
    assert read.warp is not None
    np.testing.assert_allclose([read.warp.a, read.warp.b], [[0.5, 1.0], [2.0, 1.0]])


def test_an_axis_is_warped_where_the_results_speak_for_it() -> None:
    d = data()
    plain = fit(d, Prior(), noise=None)
    warped = fit_warped(d, Prior(), plain, (0, 1))
    assert plain.loss - warped.loss > EVIDENCE
    warp = warped.hyperparameters.warp
    assert warp is not None
    w = warp(np.column_stack([[0.1, 0.3, 0.7, 0.9]] * 2))[:, 0]
    assert w[1] - w[0] > 1.5 * (w[3] - w[2])  # the rough end is stretched
    assert refine(d, Prior(), warped.hyperparameters).loss == pytest.approx(warped.loss, abs=0.01)
    even = data(power=1.0)
    plain = fit(even, Prior(), noise=None)
    assert fit_warped(even, Prior(), plain, (0, 1)) is plain


def test_only_studies_that_ask_for_it_learn_warps() -> None:
    d = data()
    results = Results(d.X, d.y, np.zeros(30), np.arange(2), np.arange(30), ordered=(0,))
    plain, _ = fit_metric(results, 1.0, Prior())
    warped, _ = fit_metric(results, 1.0, Prior(), ModelChoice(warping=True))
    assert plain.gp.hyperparameters.warp is None
    assert warped.gp.hyperparameters.warp is not None
    assert warped.gp.hyperparameters.warp.a[1] == 1.0  # not among the columns that may be
    x = np.random.default_rng(1).random((200, 2))
    truth = np.sin(9 * x[:, 0] ** 0.2) + 0.5 * x[:, 1]
    raw = np.sin(9 * d.X[:, 0] ** 0.2) + 0.5 * d.X[:, 1]
    truth = (truth - raw.mean()) / raw.std()
    errors = [float(np.mean((m.predict(x)[0] - truth) ** 2)) for m in (plain, warped)]
    assert errors[1] < 0.5 * errors[0]


def test_a_study_finds_the_rough_end() -> None:
    def regret(model: dict[str, bool] | None) -> float:
        study = Study(Space(x=Float(0, 1), y=Float(0, 1)), seed=1, model=model, noise="none")
        for _ in range(22):
            trial = study.ask()
            assert not hasattr(trial, "reason") or trial.reason is None
            x, y = trial.params["x"], trial.params["y"]  # type: ignore[union-attr]
            study.tell(trial, math.sin(9 * x**0.2) + (y - 0.4) ** 2)  # type: ignore[arg-type]
        return study.best.trial.value + 1.0

    assert regret({"warping": True}) < 1e-3
