"""Several objectives: dominance, reference points, hypervolume improvement, the front."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.optimizer import Budget, Conflict, Float, InvalidInput, Objective, Space, Stop, Study
from suffice.optimizer.metric_model import MetricModel
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.objective import Scale
from suffice.optimizer.pareto import non_dominated, reference_point

SPACE = Space(x=Float(0, 1), y=Float(0, 1))
TWO = {"cost": "minimize", "quality": "maximize"}


def measure(p: dict[str, Any]) -> dict[str, float]:
    g = 1 + (p["y"] - 0.5) ** 2
    return {"cost": g * math.cos(p["x"] * math.pi / 2), "quality": -g * math.sin(p["x"] * math.pi / 2)}


def volume(Y: np.ndarray, reference: np.ndarray) -> float:
    """The area dominated by two-objective points above the reference."""
    Y = np.maximum(Y, reference)
    area, height = 0.0, reference[1]
    for a, b in sorted(map(tuple, Y), reverse=True):
        if b > height:
            area += (a - reference[0]) * (b - height)
            height = b
    return area


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_dominance_against_its_definition(rows: list[tuple[int, int, int]]) -> None:
    Y = np.array(rows, dtype=float)
    kept = {rows[i] for i in np.flatnonzero(non_dominated(Y))}
    expected = {r for r in rows if not any(all(a >= b for a, b in zip(o, r, strict=True)) and o != r for o in rows)}
    assert kept == expected
    assert non_dominated(Y).sum() == len(expected)  # of equal rows one


def models(noise: float = 1e-6) -> tuple[MetricModel, MetricModel]:
    rng = np.random.default_rng(0)
    X = rng.random((8, 2))
    found = []
    for y in (np.cos(2 * X[:, 0]) + X[:, 1], np.sin(2 * X[:, 0]) - X[:, 1] ** 2):
        data = Data(X, (y - y.mean()) / y.std(), np.full(8, math.nan), np.arange(2))
        gp = GaussianProcess(data, Hyperparameters(np.array([0.5, 0.7]), 1.0, noise))
        found.append(MetricModel(gp, Scale(1.0, 0.0, 1.0), False, np.arange(len(gp.data.y))))
    return found[0], found[1]


def test_the_reference_point_is_below_the_front_or_as_given() -> None:
    Y = np.array([[0.0, 1.0], [1.0, 0.0], [-3.0, -3.0]])
    inferred = reference_point([Objective("a"), Objective("b")], models(), Y)
    np.testing.assert_allclose(inferred, [-0.1, -0.1])
    given_one = reference_point([Objective("a", reference_point=0.25), Objective("b")], models(), Y)
    assert given_one[0] == 0.25


def test_the_front_grows_beyond_a_random_one() -> None:
    def run(study: Study) -> Study:
        while not isinstance(step := study.ask(), Stop):
            study.tell(step, measure(step.params))
        return study

    def dominated(trials: list[dict[str, float]]) -> float:
        return volume(np.array([[-v["cost"], v["quality"]] for v in trials]), np.array([-1.5, -1.5]))

    study = run(Study(SPACE, TWO, budget=Budget(trials=16), seed=0))
    assert study.trials[-1].source.method == "hypervolume_improvement"
    random = [measure(p) for p in SPACE.decode(SPACE.sample(16, np.random.default_rng(0)))]
    front = [b.trial.values for b in study.pareto]
    assert dominated(front) > dominated(random)
    assert dominated(front) == pytest.approx(dominated([t.values for t in study.trials]))
    batch = study.suggest(2)
    assert not isinstance(batch, Stop)
    assert batch[0].params != batch[1].params


def test_one_best_trial_is_refused_and_so_is_what_needs_one_objective() -> None:
    study = Study(SPACE, TWO, seed=0)
    assert study.pareto == []
    study.add({"x": 0.5, "y": 0.5}, measure({"x": 0.5, "y": 0.5}))
    with pytest.raises(Conflict, match="Pareto"):
        _ = study.best
    assert [b.trial.number for b in study.pareto] == [0]
    for arguments, field in (({"cost": 1.0}, "cost"), ({"acquisition": "expected_improvement"}, "acquisition")):
        with pytest.raises(InvalidInput) as error:
            Study(SPACE, TWO, **arguments)
        assert error.value.problems[0].field == field
    with pytest.raises(InvalidInput, match="reference_point"):
        Objective("a", reference_point=math.nan)


def test_reference_points_survive_json() -> None:
    study = Study(SPACE, [Objective("a", "maximize", 0.2), Objective("b")], seed=0)
    assert Study.from_json(study.to_json()).goal == study.goal


def test_the_front_says_how_sure_it_is() -> None:
    rng = np.random.default_rng(3)
    study = Study(SPACE, TWO, seed=0, noise=0.05)
    for params in SPACE.decode(SPACE.sample(24, rng)):
        study.add(params, {k: v + 0.05 * rng.standard_normal() for k, v in measure(params).items()})
    front = study.pareto
    X = SPACE.encode([b.params for b in front])
    assert [b.expected["cost"] for b in front] == [(b.mean, b.sd) for b in front]
    truth = np.array([[measure(b.params)[m] for m in TWO] for b in front])
    expected = np.array([[b.expected[m][0] for m in TWO] for b in front])
    sd = np.array([[b.expected[m][1] for m in TWO] for b in front])
    assert (np.abs(truth - expected) < 4 * sd).all()
    chances = np.array([b.probability for b in front])
    assert ((chances > 0) & (chances <= 1)).all()
    assert chances.min() < 0.98  # noise of this size leaves doubt about some of them
    exact = Study(SPACE, TWO, seed=0, noise="none")
    for params in SPACE.decode(X):
        exact.add(params, measure(params))
    assert all(b.probability is not None and b.probability > 0.99 for b in exact.pareto)
