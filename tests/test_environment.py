"""Environments: distributions against quadrature, risks against enumeration, and what a study makes of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, truncnorm

from suffice.optimizer import Bool, Categorical, Constant, Float, Int, InvalidInput, Ordinal, Space, Study, Trial
from suffice.optimizer.acquisition import Situation
from suffice.optimizer.environment import Environment
from suffice.optimizer.knowledge_gradient import Fantasies
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.risk import RiskKnowledgeGradient, risk_knowledge_gradient, tails
from suffice.optimizer.target import Risk, Target

SPACE = Space(
    x=Float(0, 1),
    y=Float(0, 1),
    wind=Float(1, 9),
    rate=Float(0.01, 1, log=True),
    load=Int(0, 4),
    grade=Categorical("a", "b", "c"),
    size=Ordinal(1, 2, 4),
)


def nodes(conditions: Any, space: Space = SPACE) -> tuple[list[dict[str, Any]], np.ndarray]:
    environment = Environment.of(conditions, None)
    assert environment is not None
    found, weights = environment.check(space).nodes(space)
    assert math.fsum(weights) == pytest.approx(1.0)
    return found, np.array(weights)


# --- distributions ----------------------------------------------------------------------------------------------------


def test_nodes_integrate_like_their_distribution() -> None:
    def expected(conditions: Any, f: Any) -> float:
        found, weights = nodes(conditions)
        return float(weights @ [f(**node) for node in found])

    assert expected({"wind": "uniform"}, lambda wind: wind**2) == pytest.approx((9**3 - 1) / 24, rel=2e-3)
    log_uniform = (1 - 0.01) / math.log(100)
    assert expected({"rate": "uniform"}, lambda rate: rate) == pytest.approx(log_uniform, rel=2e-2)
    law = truncnorm((1 - 3) / 2, (9 - 3) / 2, 3, 2)
    assert expected({"wind": {"normal": [3, 2]}}, lambda wind: wind) == pytest.approx(law.mean(), rel=1e-2)
    both = {"wind": "uniform", "rate": "uniform"}
    assert expected(both, lambda wind, rate: wind * rate) == pytest.approx(5 * log_uniform, rel=0.05)
    mixed = {"wind": "uniform", "grade": {"weights": [3, 1, 0]}}
    assert expected(mixed, lambda wind, grade: wind * (grade == "a")) == pytest.approx(5 * 0.75, rel=0.1)


def test_finite_conditions_are_exact() -> None:
    found, weights = nodes({"load": "uniform", "grade": {"weights": [0.5, 0.5, 0]}})
    assert len(found) == 10
    np.testing.assert_allclose(weights, 0.1)
    assert {node["grade"] for node in found} == {"a", "b"}
    found, weights = nodes({"load": {"normal": [2, 1]}})
    cells = np.diff(norm.cdf(np.arange(-0.5, 5.0), 2, 1))
    np.testing.assert_allclose(weights, cells / cells.sum())
    found, weights = nodes({"size": {"normal": [2, 1]}})
    assert [node["size"] for node in found] == [1, 2, 4]
    assert weights[1] == weights.max()
    found, weights = nodes({"wind": {"samples": [2.0, 3.0, 2.0]}})
    assert found == [{"wind": 2.0}, {"wind": 3.0}]
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3])


def test_scenarios_keep_what_belongs_together() -> None:
    scenarios = [{"wind": 2.0, "grade": "a"}, {"wind": 8.0, "grade": "b"}, {"wind": 2.0, "grade": "a"}]
    found, weights = nodes(scenarios)
    assert found == scenarios[:2]
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("environment", "risk", "field"),
    [
        ({"z": "uniform"}, None, "environment.z"),
        ({"wind": "even"}, None, "environment.wind"),
        ({"wind": {"normal": [3, 0]}}, None, "environment.wind.normal"),
        ({"wind": {"normal": [3]}}, None, "environment.wind.normal"),
        ({"wind": {"normal": [100, 1]}}, None, "environment.wind.normal"),
        ({"grade": {"normal": [1, 1]}}, None, "environment.grade.normal"),
        ({"wind": {"weights": [1, 1]}}, None, "environment.wind.weights"),
        ({"grade": {"weights": [1, 1]}}, None, "environment.grade.weights"),
        ({"grade": {"weights": [1, -1, 1]}}, None, "environment.grade.weights"),
        ({"grade": {"weights": [0, 0, 0]}}, None, "environment.grade.weights"),
        ({"wind": {"samples": []}}, None, "environment.wind.samples"),
        ({"wind": {"samples": [3, 12]}}, None, "environment.wind.samples.1"),
        ([{"wind": 3.0}, {"rate": 0.1}], None, "environment.1"),
        ([{"wind": 30.0}], None, "environment.0.wind"),
        ({}, None, "environment"),
        ("uniform", None, "environment"),
        (None, "expectation", "risk"),
        ({"wind": "uniform"}, "worst", "risk"),
        ({"wind": "uniform"}, {"var": 1.0}, "risk.var"),
        ({"wind": "uniform"}, {"cvar": "0.9"}, "risk.cvar"),
        ({"wind": "uniform"}, {"var": 0.9, "cvar": 0.9}, "risk"),
        (dict.fromkeys(SPACE.parameters, "uniform"), None, "environment"),
    ],
)
def test_wrong_environments_name_their_field(environment: Any, risk: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Study(SPACE, environment=environment, risk=risk)
    assert error.value.problems[0].field == field


def test_what_an_environment_cannot_be_combined_with() -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("environment", {"outcome_constraints": ["latency <= 1"]}),
        ("environment", {"cost": 0.1}),
        ("environment", {"objective": {"a": "minimize", "b": "minimize"}}),
        ("environment", {"context": ["x"]}),
        ("acquisition", {"acquisition": "thompson"}),
        ("acquisition", {"acquisition": "risk_knowledge_gradient"}),
        ("acquisition", {"acquisition": "knowledge_gradient", "risk": {"var": 0.9}}),
    ]
    for field, settings in wrong:
        with pytest.raises(InvalidInput) as error:
            Study(SPACE, environment={"wind": "uniform"}, **settings)
        assert error.value.problems[0].field == field
    with pytest.raises(InvalidInput, match="risk"):
        Study(SPACE, acquisition="risk_knowledge_gradient")
    with pytest.raises(InvalidInput, match="risk"):
        Study(SPACE, environment=Environment({"wind": "uniform"}, Risk()), risk={"cvar": 0.9})
    with pytest.raises(InvalidInput, match=r"environment\.w"):
        Study(Space(x=Float(0, 1), w=Constant(1)), environment={"w": "uniform"})
    with pytest.raises(InvalidInput, match=r"environment\.w"):
        Study(Space(x=Float(0, 1), w=Bool(), constraints=["x + w <= 1"]), environment={"w": "uniform"})


def test_a_definition_survives_json() -> None:
    for environment in ({"wind": "uniform", "load": {"normal": [2, 1]}}, [{"wind": 2.0}, {"wind": 3.0}]):
        for risk in ("expectation", {"var": 0.9}, {"cvar": 0.75}):
            written = Study(SPACE, environment=environment, risk=risk, seed=1).to_json()
            assert (written["environment"], written["risk"]) == (environment, risk)
            assert Study.from_json(written).to_json() == written
    assert "environment" not in Study(SPACE).to_json()


# --- risks ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 9)), min_size=1, max_size=9),
    st.sampled_from([0.1, 0.5, 0.75, 0.9]),
)
def test_risks_against_their_definitions(pairs: list[tuple[int, int]], level: float) -> None:
    """Larger is better, so that the bad tail are the smallest values."""
    values, weights = np.array(pairs, dtype=float).T
    weights = weights / weights.sum()
    expectation = float((Risk.of("expectation").shares(values, weights) * values).sum())
    var = float((Risk.of({"var": level}).shares(values, weights) * values).sum())
    cvar = float((Risk.of({"cvar": level}).shares(values, weights) * values).sum())
    assert expectation == pytest.approx(float(values @ weights))
    tail = 1 - level
    assert weights[values < var].sum() <= tail + 1e-9
    assert weights[values <= var].sum() >= tail - 1e-9
    # Rockafellar and Uryasev 2000: the conditional one is the largest of v - E[(v - Y)+] / tail
    candidates = [v - float(weights @ np.maximum(v - values, 0)) / tail for v in values]
    assert cvar == pytest.approx(max(candidates))
    assert cvar <= var + 1e-9


# --- posterior and acquisition ----------------------------------------------------------------------------------------

PLANE = Space(x=Float(0, 1), y=Float(0, 1), w=Float(0, 1))
RISKS = {"var": Risk("var", 0.8), "cvar": Risk("cvar", 0.8)}
risks = pytest.mark.parametrize("risk", RISKS.values(), ids=RISKS)


def process(n: int = 12, noise: float = 0.02) -> GaussianProcess:
    rng = np.random.default_rng(0)
    X = rng.random((n, 3))
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 - (1 + X[:, 0]) * np.cos(5 * X[:, 2] + 2 * X[:, 1])
    data = Data(X, (y - y.mean()) / y.std(), np.full(n, math.nan), PLANE.groups)
    return GaussianProcess(data, Hyperparameters(np.array([0.5, 0.7, 0.4]), 1.3, noise))


def target(risk: Risk, q: int = 8) -> Target:
    return Target.of(PLANE, [{"w": (i + 0.5) / q} for i in range(q)], np.full(q, 1 / q).tolist(), risk)


@risks
def test_the_posterior_of_a_risk_against_plain_simulation(risk: Risk) -> None:
    gp, where = process(), target(risk)
    X = np.random.default_rng(1).random((3, 3))
    mean, sd = where.posterior(gp, X)
    rng = np.random.default_rng(2)
    for i in range(3):
        m, covariance = gp.joint(where.rows(X[i : i + 1]))
        draws = np.sort(rng.multivariate_normal(m, covariance, 40000, method="eigh"), axis=1)
        # the worst fifth of eight nodes: the first whole, and 0.6 of the second
        rho = draws[:, 1] if risk.measure == "var" else (draws[:, 0] + 0.6 * draws[:, 1]) / 1.6
        assert mean[i] == pytest.approx(rho.mean(), abs=0.02)
        assert sd[i] == pytest.approx(rho.std(), rel=0.08)


@risks
def test_the_risk_knowledge_gradient_against_nested_simulation(risk: Risk) -> None:
    """Fantasies of the outcome, and joint draws over the nodes given each: the value is nearly the same."""
    gp, where, rng = process(), target(risk), np.random.default_rng(3)
    A, X = where.designs(rng.random((5, 3))), rng.random((6, 3))
    acquisition = RiskKnowledgeGradient(Fantasies(gp, X[:0], 1, 0), where, A)
    value = np.exp(acquisition(X)[0])
    rows, normals = where.rows(A), rng.standard_normal((1500, 8))
    mean, covariance = gp.joint(rows)
    nested = []
    for x in X:
        slopes = Fantasies(gp, X[:0], 1, 0).slopes(rows, x[None])[:, 0]
        rest = covariance - np.outer(slopes, slopes)  # the posterior covariance once x is measured
        after = []
        for z in norm.ppf((np.arange(31) + 0.5) / 31):
            moved = (mean + z * slopes).reshape(8, 5)
            after.append(max(_simulated(risk, moved[:, a], rest[a::5, a::5], normals) for a in range(5)))
        nested.append(np.mean(after))
    now = max(_simulated(risk, mean.reshape(8, 5)[:, a], covariance[a::5, a::5], normals) for a in range(5))
    rises = np.array(nested) - now
    np.testing.assert_allclose(value, rises, rtol=0.25, atol=0.01)
    assert np.argmax(value) == np.argmax(rises)


def _simulated(risk: Risk, mean: np.ndarray, covariance: np.ndarray, normals: np.ndarray) -> float:
    values, vectors = np.linalg.eigh(covariance)
    draws = mean + normals @ (vectors * np.sqrt(np.maximum(values, 0))).T
    return float((risk.shares(draws, np.full(8, 1 / 8)) * draws).sum(1).mean())


@risks
@pytest.mark.parametrize("pending", [0, 2])
def test_gradients_of_the_risk_knowledge_gradient(risk: Risk, pending: int) -> None:
    gp, rng = process(), np.random.default_rng(4)
    where = target(risk)
    acquisition = RiskKnowledgeGradient(Fantasies(gp, rng.random((pending, 3)), 4, 0), where, rng.random((6, 3)))
    X = 0.1 + 0.8 * rng.random((5, 3))
    _, gradient = acquisition(X)
    for j in range(3):
        step = 1e-6 * np.eye(3)[j]
        numeric = (acquisition(X + step)[0] - acquisition(X - step)[0]) / 2e-6
        np.testing.assert_allclose(gradient[:, j], numeric, rtol=2e-4, atol=1e-5)


@risks
def test_promising_designs_are_among_the_choices(risk: Risk) -> None:
    gp, where = process(), target(risk)
    s = Situation(gp, gp.data.X, np.ones(12, bool), gp.data.X[:0], True, PLANE, 0, target=where)
    acquisition = risk_knowledge_gradient(s, 32, 4)
    assert len(acquisition.A) == 32
    lattice = where.designs(PLANE.sample(600, np.random.default_rng(5)))
    f = Fantasies(gp, gp.data.X[:0], 1, 0)
    assert tails(f, where, acquisition.A).mean.max() > tails(f, where, lattice).mean.max() - 0.02


# --- studies ----------------------------------------------------------------------------------------------------------

WINDS = (np.arange(200) + 0.5) / 200


def windy(x: float, y: float, w: float) -> float:
    return (x - 0.5) ** 2 + (y - 0.3) ** 2 + (x + 0.2) * w * math.sin(3 * w + 6 * y)


def truth(design: dict[str, float], risk: Any) -> float:
    losses = np.sort([windy(**design, w=w) for w in WINDS])
    return float({"expectation": losses.mean(), "var": losses[180], "cvar": losses[180:].mean()}[risk])


@pytest.mark.parametrize("measure", ["expectation", "var", "cvar"])
def test_designs_are_judged_over_the_conditions(measure: str) -> None:
    """Within 0.02 of the best of a lattice; the best design under average wind alone is worse by ten times as much."""
    lattice = [{"x": x / 20, "y": y / 20} for x in range(21) for y in range(21)]
    best = min(truth(design, measure) for design in lattice)
    average = min(lattice, key=lambda design: windy(**design, w=0.5))
    risk: Any = "expectation" if measure == "expectation" else {measure: 0.9}
    study = Study(PLANE, environment={"w": "uniform"}, risk=risk, seed=3)
    for _ in range(20):
        trial = study.ask()
        assert isinstance(trial, Trial)
        study.tell(trial, windy(**trial.params))
    found = study.best
    assert set(found.params) == {"x", "y"}
    assert truth(found.params, measure) < best + 0.02
    assert truth(average, measure) > best + 0.02
    assert found.mean is not None
    assert found.sd is not None
    assert abs(found.mean - truth(found.params, measure)) < 3 * found.sd + 0.01
    assert f"best posterior {measure}" in found.why
    last = study.trials[-1].source
    assert last.method == ("knowledge_gradient" if measure == "expectation" else "risk_knowledge_gradient")
    assert last.gain is not None
    again = Study(PLANE, environment={"w": "uniform"}, risk=risk, seed=3)
    again.load(study.trials)
    assert again.ask() == study.ask()
