"""Fidelities: values at a target against enumeration and simulation, costs, budgets, and what a study makes of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from suffice.optimizer import (
    Bool,
    Budget,
    Categorical,
    Constant,
    Cost,
    Float,
    Int,
    InvalidInput,
    Ordinal,
    Source,
    Space,
    Stop,
    StopReason,
    Study,
    Trial,
    TrialState,
)
from suffice.optimizer.acquisition import Situation
from suffice.optimizer.expression import Formula
from suffice.optimizer.fidelity import Fidelity, FormulaCost
from suffice.optimizer.knowledge_gradient import Fantasies, KnowledgeGradient, knowledge_gradient
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.target import OwnCross, Target, ValueCross, ValueSites

SPACE = Space(x=Float(0, 1), y=Float(0, 1), s=Float(0, 1), source=Categorical("lab", "field", "simulation"))
TARGETS = {
    "one node": Target.of(SPACE, [{"s": 1.0, "source": "lab"}], [1.0]),
    "three nodes": Target.of(
        SPACE,
        [{"s": 1.0, "source": "lab"}, {"s": 0.4, "source": "field"}, {"s": 0.5, "source": "lab"}],
        [0.5, 0.2, 0.3],
    ),
}
targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def process(n: int = 12, noise: float = 0.02) -> GaussianProcess:
    rng = np.random.default_rng(0)
    X = SPACE.sample(n, rng)
    y = np.sin(4 * X[:, 0]) + X[:, 1] ** 2 + 0.5 * X[:, 2] + 0.3 * X[:, 3] + 0.1 * rng.standard_normal(n)
    data = Data(X, (y - y.mean()) / y.std(), np.full(n, math.nan), SPACE.groups)
    return GaussianProcess(data, Hyperparameters(np.array([0.4, 0.7, 0.8, 1.5]), 1.3, noise))


def moved(X: np.ndarray, target: Target) -> list[np.ndarray]:
    """The rows of X at each node, by the space itself."""
    nodes = SPACE.decode(target.nodes)
    return [SPACE.at({"s": node["s"], "source": node["source"]}).snap(X) for node in nodes]


# --- where values count -----------------------------------------------------------------------------------------------


@targets
def test_rows_are_those_of_the_space_with_the_parameters_fixed(target: Target) -> None:
    X = SPACE.sample(5, np.random.default_rng(1))
    np.testing.assert_allclose(target.rows(X), np.concatenate(moved(X, target)), atol=1e-12)
    np.testing.assert_allclose(target.designs(X), moved(X, target)[0], atol=1e-12)
    assert target.design({"x": 0.1, "y": 0.2, "s": 0.3, "source": "lab"}) == {"x": 0.1, "y": 0.2}


@targets
def test_posteriors_of_values_are_sums_over_the_joint_posterior(target: Target) -> None:
    gp, X = process(), SPACE.sample(4, np.random.default_rng(2))
    mean, sd = target.posterior(gp, X)
    for i in range(len(X)):
        rows = np.concatenate([m[i : i + 1] for m in moved(X, target)])
        each, covariance = gp.joint(rows)
        assert mean[i] == pytest.approx(target.weights @ each)
        assert sd[i] == pytest.approx(math.sqrt(target.weights @ covariance @ target.weights))


def numeric_gradient(value: Any, X: np.ndarray, columns: int = 3) -> np.ndarray:
    """Central differences in the columns of the continuous parameters."""
    gradient = np.zeros((len(X), columns))
    for j in range(columns):
        step = 1e-6 * np.eye(X.shape[1])[j]
        gradient[:, j] = (value(X + step) - value(X - step)) / 2e-6
    return gradient


@targets
def test_gradients_of_covariances_with_values(target: Target) -> None:
    gp, X = process(), 0.1 + 0.8 * SPACE.sample(4, np.random.default_rng(3))
    A, rng = SPACE.sample(5, np.random.default_rng(4)), np.random.default_rng(5)
    w_t, w_a, w = rng.standard_normal((4, 12)), rng.standard_normal((4, 5)), rng.standard_normal(4)
    sites = ValueSites(target, gp.kernel, A)
    for cross, weights in (
        (lambda X: ValueCross(target, gp.sites, X), w_t),
        (sites.cross, w_a),
        (lambda X: OwnCross(target, gp.kernel, X), w),
    ):

        def value(X: np.ndarray, cross: Any = cross, weights: Any = weights) -> np.ndarray:
            return np.asarray((weights * cross(X).k).reshape(len(X), -1).sum(1))

        pulled = cross(X).pull(weights)[:, :3]
        np.testing.assert_allclose(pulled, numeric_gradient(value, X), rtol=1e-5, atol=1e-8)
    direct = sum(
        weight * gp.kernel.covariance(X, rows) for weight, rows in zip(target.weights, moved(A, target), strict=True)
    )
    np.testing.assert_allclose(sites.cross(X).k, direct, atol=1e-12)
    np.testing.assert_allclose(OwnCross(target, gp.kernel, SPACE.snap(X)).k, _own(gp, target, SPACE.snap(X)))


def _own(gp: GaussianProcess, target: Target, X: np.ndarray) -> list[float]:
    at_nodes = moved(X, target)
    return [
        float(target.weights @ [gp.kernel.covariance(m[i : i + 1], X[i : i + 1])[0, 0] for m in at_nodes])
        for i in range(len(X))
    ]


# --- the knowledge gradient at the target -----------------------------------------------------------------------------


def simulated(gp: GaussianProcess, target: Target, A: np.ndarray, x: np.ndarray) -> float:
    """The expected rise of the best value over A and x, by conditioning the process anew on each of many outcomes."""
    choices = np.concatenate([A, x[None]])
    mean, sd = gp.posterior(x[None])
    total, best = 0.0, target.posterior(gp, A)[0].max()
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    for z, weight in zip(nodes, weights / weights.sum(), strict=True):
        y = mean + z * np.sqrt(sd**2 + gp.hyperparameters.noise)
        data = replace(
            gp.data,
            X=np.concatenate([gp.data.X, x[None]]),
            y=np.concatenate([gp.data.y, y]),
            known_noise=np.append(gp.data.known_noise, math.nan),
        )
        grown = GaussianProcess(data, gp.hyperparameters)
        m = gp.hyperparameters.mean  # the constant stays as it was
        grown.alpha = np.linalg.solve(np.tril(grown.L) @ np.tril(grown.L).T, data.y - m)
        grown.hyperparameters = replace(grown.hyperparameters, mean=m)
        total += weight * (target.posterior(grown, choices)[0].max() - best)
    return float(total)


@targets
def test_the_knowledge_gradient_at_a_target_against_simulated_results(target: Target) -> None:
    gp, rng = process(), np.random.default_rng(6)
    A, X = target.designs(SPACE.sample(6, rng)), SPACE.sample(2, rng)
    acquisition = KnowledgeGradient(Fantasies(gp, X[:0], 1, 0, target), A)
    value, _ = acquisition(X)
    expected = [simulated(gp, target, A, x) for x in X]
    np.testing.assert_allclose(np.exp(value), expected, rtol=0.05, atol=5e-4)


@targets
@pytest.mark.parametrize("pending", [0, 2])
def test_gradients_of_the_knowledge_gradient_at_a_target(target: Target, pending: int) -> None:
    gp, rng = process(), np.random.default_rng(7)
    f = Fantasies(gp, SPACE.sample(pending, rng), 4, 0, target)
    acquisition = KnowledgeGradient(f, target.designs(SPACE.sample(6, rng)))
    X = 0.1 + 0.8 * SPACE.sample(5, rng)
    _, gradient = acquisition(X)
    np.testing.assert_allclose(gradient[:, :3], numeric_gradient(lambda X: acquisition(X)[0], X), rtol=2e-4, atol=1e-5)


def test_a_target_at_the_row_itself_changes_nothing() -> None:
    """With one node, rows that lie there are valued as the plain knowledge gradient values them."""
    gp, rng, target = process(), np.random.default_rng(8), TARGETS["one node"]
    A, X = target.designs(SPACE.sample(6, rng)), target.designs(SPACE.sample(5, rng))
    there = KnowledgeGradient(Fantasies(gp, X[:0], 1, 0, target), A)
    plain = KnowledgeGradient(Fantasies(gp, X[:0], 1, 0), A)
    np.testing.assert_allclose(there(X)[0], plain(X)[0], rtol=1e-9)
    np.testing.assert_allclose(there(X)[1][:, :2], plain(X)[1][:, :2], rtol=1e-7, atol=1e-10)


def test_what_may_be_picked_lies_at_the_target() -> None:
    gp, target = process(), TARGETS["one node"]
    s = Situation(gp, gp.data.X, np.ones(12, bool), gp.data.X[:0], True, SPACE, 0, target=target)
    acquisition = knowledge_gradient(s, 32, 4)
    np.testing.assert_allclose(acquisition.A, target.designs(acquisition.A))
    assert len(acquisition.A) == len(np.unique(acquisition.A, axis=0)) == 32


# --- costs ------------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_formula_and_its_gradient() -> None:
    space = Space(n=Int(1, 81), x=Float(1, 10, log=True), source=Categorical("lab", "web"), k=Ordinal("S", "M"))
    formula = Formula("(0.1 + n / 81) * sqrt(x) * (10 if source == 'lab' else 1) + (k == 'M')")
    cost = FormulaCost(formula, space, unit=2.0)
    params = [{"n": 41, "x": 4.0, "source": "lab", "k": "S"}, {"n": 81, "x": 1.0, "source": "web", "k": "M"}]
    X = space.encode(params)
    expected = [(0.1 + 41 / 81) * 2 * 10 / 2, ((0.1 + 1) + 1) / 2]
    np.testing.assert_allclose(cost.mean(X), expected)
    log, gradient = cost(X)
    np.testing.assert_allclose(log, np.log(expected))
    # by hand: d log / dx is 1/2 per log x where nothing is added; n rises from 40 to 42
    assert gradient[0, 1] == pytest.approx(0.5 * math.log(10), rel=1e-4)
    assert gradient[0, 0] == pytest.approx(math.log((0.1 + 42 / 81) / (0.1 + 40 / 81)) / (2 / 80), rel=1e-6)


@pytest.mark.parametrize(
    ("fidelity", "field"),
    [
        ({"target": {}, "cost": "1"}, "fidelity.target"),
        ({"target": {"s": 1.0}}, "fidelity"),
        ({"target": {"s": 1.0}, "cost": "1", "metric": "seconds"}, "fidelity"),
        ({"target": {"z": 1.0}, "cost": "1"}, "fidelity.target.z"),
        ({"target": {"s": 2.0}, "cost": "1"}, "fidelity.target.s"),
        ({"target": {"s": 1.0}, "cost": "1 + t"}, "fidelity.cost"),
        ({"target": {"s": 1.0}, "cost": "s - 0.5"}, "fidelity.cost"),
        ({"target": {"s": 1.0}, "cost": "1 / s"}, "fidelity.cost"),
        ({"target": {"s": 1.0}, "cost": "1 + source"}, "fidelity.cost"),
        ({"target": {"s": 1.0}, "cost": "1 if source == 'lap' else 2"}, "fidelity.cost"),
        ({"target": {"s": 1.0}, "cost": "s +"}, "fidelity.cost"),
        ({"target": {"s": 1.0}, "cost": 3}, "fidelity.cost"),
        ({"target": {"s": 1.0}, "metric": ""}, "fidelity.metric"),
        ({"target": {"s": 1.0}, "price": 1}, "fidelity.price"),
        ({"cost": "1"}, "fidelity"),
        ("s", "fidelity"),
        ({"target": {"x": 1.0, "y": 1.0, "s": 1.0, "source": "lab"}, "cost": "1"}, "fidelity.target"),
    ],
)
def test_wrong_fidelities_name_their_field(fidelity: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Study(SPACE, fidelity=fidelity)
    assert error.value.problems[0].field == field


def test_what_a_fidelity_cannot_be_combined_with() -> None:
    fidelity = {"target": {"s": 1.0}, "cost": "0.1 + s"}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("fidelity", {"cost": Cost(0.1)}),
        ("fidelity", {"objective": {"a": "minimize", "b": "minimize"}}),
        ("fidelity", {"context": ["x"]}),
        ("acquisition", {"acquisition": "expected_improvement"}),
        ("environment", {"environment": {"x": "uniform"}}),
    ]
    for field, settings in wrong:
        with pytest.raises(InvalidInput) as error:
            Study(SPACE, fidelity=fidelity, **settings)
        assert error.value.problems[0].field == field
    with pytest.raises(InvalidInput, match=r"budget\.cost"):
        Study(SPACE, budget=Budget(cost=3.0))
    spaces = [
        Space(x=Float(0, 1, active_if="s"), s=Bool()),
        Space(x=Float(0, 1), on=Bool(), s=Float(0, 1, active_if="on")),
        Space(x=Float(0, 1), s=Float(0, 1), constraints=["x + s <= 1"]),
        Space(x=Float(0, 1), s=Constant(1)),
    ]
    for space in spaces:
        with pytest.raises(InvalidInput, match=r"fidelity\.target\.s"):
            Study(
                space,
                fidelity={"target": {"s": 1}, "cost": "1"} | ({"target": {"s": True}} if space is spaces[0] else {}),
            )


def test_a_definition_survives_json() -> None:
    for fidelity in ({"target": {"s": 1.0}, "cost": "0.1 + s"}, {"target": {"s": 1.0}, "metric": "seconds"}):
        study = Study(SPACE, fidelity=fidelity, budget=Budget(cost=3.5), seed=1)
        written = study.to_json()
        assert written["fidelity"] == fidelity
        assert written["budget"] == {"trials": None, "cost": 3.5}
        assert Study.from_json(written).to_json() == written
    assert "fidelity" not in Study(SPACE).to_json()


def test_what_trials_cost_together() -> None:
    by_formula = Fidelity({"s": 1.0}, "0.1 + s").check(SPACE)
    trial = Trial(0, {"x": 0.0, "y": 0.0, "s": 0.5, "source": "lab"})
    assert by_formula.spent([trial, trial]) == pytest.approx(1.2)
    measured = Fidelity({"s": 1.0}, metric="seconds")
    study = Study(SPACE, fidelity=measured, seed=0)
    first = study.ask()
    assert isinstance(first, Trial)
    assert measured.cost_of(first) == 0.0  # nothing is known of it yet
    assert measured.cost_of(replace(first, source=Source("posterior_mean_improvement_per_cost", cost=3.0))) == 3.0
    assert measured.cost_of(study.tell(first, {"objective": 1.0, "seconds": 7.0})) == 7.0
    with pytest.raises(InvalidInput, match="positive seconds"):
        study.tell(study.ask(), {"objective": 1.0, "seconds": 0.0})  # type: ignore[arg-type]


def test_the_budget_of_cost_ends_a_study() -> None:
    study = Study(
        Space(x=Float(0, 1), s=Float(0, 1)),
        fidelity={"target": {"s": 1.0}, "cost": "0.5 + s"},
        budget=Budget(cost=3.0),
        seed=0,
    )
    while not isinstance(step := study.ask(), Stop):
        study.tell(step, step.params["x"])
    assert step.reason is StopReason.BUDGET
    assert study.fidelity is not None
    spent = study.fidelity.spent(study.trials)
    assert spent >= 3.0 > spent - study.fidelity.cost_of(study.trials[-1])
    assert f"{spent:.6g} of a budget of 3" in step.message


# --- studies ----------------------------------------------------------------------------------------------------------


def coarse(p: dict[str, Any]) -> float:
    """Least 0 at x = .3, y = .6 and s = 1; elsewhere the optimum is shifted."""
    shift = 0.15 * (1 - p["s"])
    return float((p["x"] - 0.3 - shift) ** 2 + (p["y"] - 0.6 + shift) ** 2 + 0.2 * (1 - p["s"]))


def currin(p: dict[str, Any]) -> float:
    """Currin's exponential function with a fidelity in one factor (Xiong, Qian and Wu 2013), above -13.79873."""
    x, y, s = p["x"], max(p["y"], 1e-9), p.get("s", 1.0)
    rise = 1 - (1 - 0.5 * (1 - s)) * math.exp(-1 / (2 * y))
    return float(-rise * (2300 * x**3 + 1900 * x**2 + 2092 * x + 60) / (100 * x**3 + 500 * x**2 + 4 * x + 20))


def regret_of(study: Study, cost: float) -> float:
    """What a study recommends in the end, after trials of this cost together (each 0.1 + s^2)."""
    spent = 0.0
    while spent < cost:
        trial = study.ask()
        assert isinstance(trial, Trial)
        spent += 0.1 + trial.params.get("s", 1.0) ** 2
        study.tell(trial, currin(trial.params))
    return currin({**study.best.params, "s": 1.0}) + 13.79873


def test_cheap_trials_pay() -> None:
    """With the cost of four trials at the target it finds more than trials at the target alone."""
    square, whole = Space(x=Float(0, 1), y=Float(0, 1), s=Float(0, 1)), Space(x=Float(0, 1), y=Float(0, 1))
    fidelity = {"target": {"s": 1.0}, "cost": "0.1 + s**2"}
    ours = [regret_of(Study(square, fidelity=fidelity, seed=seed), 4.0) for seed in range(2)]
    alone = [regret_of(Study(whole, seed=seed), 4.0) for seed in range(2)]
    assert np.mean(np.log10(ours)) < np.mean(np.log10(alone)) - 0.3


@pytest.mark.parametrize(
    ("cost", "cheap"), [("5 + s", False), ("1 + s", False), ("0.32 + s", True), ("1 + 9 * (s == 1)", True)]
)
def test_where_other_fidelities_cost_nearly_as_much_the_search_begins_at_the_target(cost: str, cheap: bool) -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1), s=Float(0, 1))
    fidelity = {"target": {"s": 1.0}, "cost": cost}
    study, alone = Study(space, fidelity=fidelity, seed=0), Study(Space(x=Float(0, 1), y=Float(0, 1)), seed=0)
    trials = study.ask(5)
    assert isinstance(trials, list)
    assert (all(t.params["s"] == 1.0 for t in trials)) is not cheap
    if not cheap:
        assert study._definition.design_size == alone._definition.design_size


def test_a_trial_that_saves_little_is_not_run() -> None:
    """Though it would tell as much as one at the target for five sixths of the cost."""
    space, fidelity = Space(x=Float(0, 1), y=Float(0, 1), s=Float(0, 1)), {"target": {"s": 1.0}, "cost": "5 + s"}
    study = Study(space, fidelity=fidelity, seed=0)
    for _ in range(10):
        trial = study.ask()
        assert isinstance(trial, Trial)
        assert trial.params["s"] == 1.0
        study.tell(trial, (trial.params["x"] - 0.3) ** 2 + (trial.params["y"] - 0.6) ** 2)
    assert "nearly as much" in study.trials[-1].source.why
    assert study.trials[-1].source.cost == pytest.approx(6.0)
    assert study.best.params == pytest.approx({"x": 0.3, "y": 0.6, "s": 1.0}, abs=0.1)

    suggestions = study.suggest(1)
    assert isinstance(suggestions, list)
    (chosen,) = suggestions
    grid = [{"x": x, "y": y, "s": s} for x in np.linspace(0, 1, 6) for y in np.linspace(0, 1, 6) for s in (0.5, 1.0)]
    found = study.acquisition_values([chosen.params, *grid])
    assert (found.method, found.why) == (chosen.source.method, chosen.source.why)
    assert found.log_value[0] >= found.log_value.max() - 1e-9, "the suggestion is where it is largest"
    assert np.isneginf(found.log_value[1::2]).all(), "and no cheaper trial is considered"
    assert np.isfinite(found.log_value[2::2]).all()


def test_trials_that_tell_as_much_for_less_than_half_of_the_cost_are_run() -> None:
    space, fidelity = Space(x=Float(0, 1), y=Float(0, 1), s=Float(0, 1)), {"target": {"s": 1.0}, "cost": "0.5 + s"}
    study = Study(space, fidelity=fidelity, seed=0)
    for i in range(8):  # the fidelity changes nothing, which is known from the start
        x, y = (i * 0.618) % 1, (i + 0.5) / 8
        study.add({"x": x, "y": y, "s": float(i % 2)}, math.sin(6 * x) + (y - 0.6) ** 2)
    cheap = 0.0
    for _ in range(8):
        trial = study.ask()
        assert isinstance(trial, Trial)
        if trial.params["s"] < 1.0:
            cost = 0.5 + trial.params["s"]
            assert cost <= 0.5 * 1.5
            assert trial.source.cost == pytest.approx(cost)
            cheap += cost
        study.tell(trial, math.sin(6 * trial.params["x"]) + (trial.params["y"] - 0.6) ** 2)
    assert cheap > 0.0


def test_before_there_is_a_model_what_breaks_an_outcome_constraint_is_not_recommended() -> None:
    space, fidelity = Space(x=Float(0, 1), s=Float(0, 1)), {"target": {"s": 1.0}, "cost": "0.1 + s"}
    study = Study(space, outcome_constraints=["weight <= 1"], fidelity=fidelity, seed=0)
    study.add({"x": 0.1, "s": 1.0}, {"objective": 0.0, "weight": 2.0})
    assert study.best.trial.number == 0  # there is no other
    study.add({"x": 0.2, "s": 1.0}, {"objective": 1.0, "weight": 0.5})
    assert study.best.trial.number == 1


def test_the_recommendation_counts_at_the_target() -> None:
    study = Study(
        Space(x=Float(0, 1), y=Float(0, 1), s=Float(0, 1)), fidelity={"target": {"s": 1.0}, "cost": "0.1 + s"}, seed=0
    )
    trial = study.ask()
    assert isinstance(trial, Trial)
    study.tell(trial, coarse(trial.params))
    assert study.best.params["s"] == 1.0
    assert "no model yet" in study.best.why
    for _ in range(11):
        trial = study.ask()
        assert isinstance(trial, Trial)
        study.tell(trial, coarse(trial.params))
    best = study.best
    assert best.params == {**best.trial.params, "s": 1.0}
    assert "at the target among" in best.why
    here = study.predict([{**t.params, "s": 1.0} for t in study.trials])
    assert best.mean == pytest.approx(here.mean.min(), rel=1e-6)
    assert {t.source.method for t in study.trials[6:]} == {"posterior_mean_improvement_per_cost"}
    for trial in study.trials[6:]:
        assert trial.source.cost == pytest.approx(0.1 + trial.params["s"])
        assert trial.source.gain is not None
        assert 0 < trial.source.gain < 1
    assert study.advice.gain is not None
    assert study.advice.pays is None


def test_replay_gives_the_same_asks_also_in_batches() -> None:
    def new() -> Study:
        space = Space(x=Float(0, 1), level=Ordinal("S", "M", "L"))
        return Study(space, fidelity={"target": {"level": "L"}, "cost": "1 + 4 * (level == 'L')"}, seed=3)

    study = new()
    for _ in range(3):
        trials = study.ask(3)
        assert isinstance(trials, list)
        for t in trials:
            study.tell(t, (t.params["x"] - 0.4) ** 2 + {"S": 0.3, "M": 0.1, "L": 0.0}[t.params["level"]])
    again = new()
    again.load(study.trials)
    assert again.ask(2) == study.ask(2)


def test_a_cost_that_is_learned_sends_trials_where_they_are_cheap() -> None:
    """Source a costs 20 times as much as source b, and b tells all but a constant: b is asked more often."""
    study = Study(
        Space(x=Float(0, 1), source=Categorical("a", "b")),
        fidelity={"target": {"source": "a"}, "metric": "seconds"},
        seed=0,
    )
    for _ in range(16):
        t = study.ask()
        assert isinstance(t, Trial)
        b = t.params["source"] == "b"
        study.tell(t, {"objective": (t.params["x"] - 0.37) ** 2 + 0.1 * b, "seconds": 1.0 if b else 20.0})
    chosen = [t for t in study.trials if t.source.method != "quasi-random"]
    assert len(chosen) >= 10
    assert sum(t.params["source"] == "b" for t in chosen) > len(chosen) / 2
    assert abs(study.best.params["x"] - 0.37) < 0.05
    assert all(t.state is TrialState.COMPLETED for t in study.trials)
