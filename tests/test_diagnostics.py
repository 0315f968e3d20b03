"""Leave-one-out checks, calibration and importance against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from suffice.optimizer import Categorical, Constant, Float, NotFound, Space, Study
from suffice.optimizer.diagnostics import importance

ISHIGAMI = Space(x1=Float(-math.pi, math.pi), x2=Float(-math.pi, math.pi), x3=Float(-math.pi, math.pi), k=Constant(1))


def ishigami(X: np.ndarray) -> np.ndarray:
    x1, x2, x3 = (math.pi * (2 * X[:, j] - 1) for j in range(3))
    return np.asarray(np.sin(x1) + 7 * np.sin(x2) ** 2 + 0.1 * x3**4 * np.sin(x1))


def test_sobol_indices_of_the_ishigami_function() -> None:
    found = importance(ISHIGAMI, ishigami, seed=0, samples=4096)
    variance = 0.5 + 7**2 / 8 + 0.1 * math.pi**4 / 5 + 0.1**2 * math.pi**8 / 18
    first = [0.5 * (1 + 0.1 * math.pi**4 / 5) ** 2 / variance, 7**2 / 8 / variance, 0.0]
    interaction = 0.1**2 * math.pi**8 * (1 / 18 - 1 / 50) / variance
    total = [first[0] + interaction, first[1], interaction]
    assert list(found) == ["x1", "x2", "x3"]
    assert [found[n].alone for n in found] == pytest.approx(first, abs=0.02)
    assert [found[n].total for n in found] == pytest.approx(total, abs=0.02)


def test_a_choice_is_one_parameter() -> None:
    space = Space(c=Categorical("a", "b", "c"), x=Float(0, 1))
    found = importance(space, lambda X: X[:, 0] + 0.0 * X[:, 3], seed=0)
    assert found["c"].total == pytest.approx(1.0, abs=0.05)
    assert found["x"].total == 0.0
    assert importance(space, lambda X: np.zeros(len(X)), seed=0)["c"].alone == 0.0


def filled(noise: float, n: int, *, signal: bool = True) -> Study:
    space = Space(x=Float(0, 1), idle=Float(0, 1))
    rng = np.random.default_rng(0)
    study = Study(space, seed=0)
    for params in space.decode(space.sample(n, rng)):
        study.add(params, (math.sin(6 * params["x"]) if signal else 0.0) + noise * rng.standard_normal())
    return study


def test_intervals_cover_as_often_as_they_say() -> None:
    found = filled(0.3, 120).diagnostics
    assert found.coverage[0.5] == pytest.approx(0.5, abs=0.12)
    assert found.coverage[0.8] == pytest.approx(0.8, abs=0.1)
    assert found.coverage[0.95] == pytest.approx(0.95, abs=0.05)
    assert found.r2 > 0.6
    assert found.importance["x"].total > 0.9 > 0.1 > found.importance["idle"].total
    errors = found.observed - found.mean
    assert float(np.std(errors / found.sd)) == pytest.approx(1.0, abs=0.2)


def test_a_model_that_explains_nothing_is_called_so() -> None:
    study = filled(1.0, 40, signal=False)
    assert study.diagnostics.r2 < 0.2
    assert ("explains nothing" in study.best.why) == (study.diagnostics.r2 <= 0)
    assert "explains nothing" not in filled(0.3, 60).best.why


def test_without_a_model_there_is_nothing_to_check() -> None:
    with pytest.raises(NotFound, match="no model yet"):
        _ = Study(Space(x=Float(0, 1)), seed=0).diagnostics
