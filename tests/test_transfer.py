"""Learning from earlier studies: what they believe on another space, how it enters the model, what it is worth."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from suffice.optimizer import (
    Bool,
    Categorical,
    Conflict,
    Constant,
    Float,
    Int,
    InvalidInput,
    Objective,
    Ordinal,
    Space,
    Study,
    Trial,
)
from suffice.optimizer.acquisition import NoisyExpectedImprovement, posterior_with_gradient
from suffice.optimizer.fitting import Prior
from suffice.optimizer.informed import (
    InformedHyperparameters,
    InformedKernel,
    Recalled,
    fit_informed,
    negative_log_posterior,
)
from suffice.optimizer.knowledge_gradient import Fantasies, KnowledgeGradient
from suffice.optimizer.models import Data, GaussianProcess
from suffice.optimizer.transfer import Belief, believe

PLANE = Space(x=Float(0, 1), y=Float(0, 1))


def wavy(x: float, y: float) -> float:
    """Several valleys; the deepest is near (0.62, 0.36)."""
    return float(np.sin(9 * x) + np.cos(8 * y) + 3 * (x - 0.65) ** 2 + 3 * (y - 0.4) ** 2)


def run(study: Study, f: Any, trials: int) -> Study:
    for _ in range(trials):
        trial = study.ask()
        assert isinstance(trial, Trial), trial
        study.tell(trial, f(**trial.params))
    return study


def old_study(f: Any = wavy, trials: int = 25, space: Space = PLANE, seed: int = 100) -> Study:
    """An earlier study with quasi-random trials."""
    study = Study(space, seed=seed)
    for p in space.decode(space.sample(trials, np.random.default_rng(seed))):
        study.add(p, f(**p))
    return study


def one_belief(space: Space, study: Study) -> Belief:
    new = Study(space, seed=0)
    new.learn_from("old", study)
    (earlier,) = new._definition.earlier
    belief = believe(earlier, "objective", -1.0)
    assert belief is not None
    return belief


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def informed() -> GaussianProcess:
    """A process with two earlier studies, one of them blind to the second parameter."""
    beliefs = (
        one_belief(PLANE, old_study(trials=15)),
        one_belief(PLANE, old_study(lambda x: 3 - x, 8, Space(x=Float(0.2, 1.4)))),
    )
    X = np.random.default_rng(0).random((7, 2))
    y = np.array([-wavy(*x) for x in X])
    h = InformedHyperparameters(np.array([0.7, 0.9]), 0.4, 1e-3, beliefs=beliefs, weights=(0.8, 0.2))
    return GaussianProcess(Data(X, (y - y.mean()) / y.std(), np.full(7, np.nan), PLANE.groups), h)


def test_what_is_recalled_is_the_second_moment_of_the_belief(informed: GaussianProcess) -> None:
    assert isinstance(informed.kernel, InformedKernel)
    belief = informed.kernel.beliefs[0]
    A = np.random.default_rng(1).random((4, 2))
    mean, covariance = belief.gp.joint(belief.rows(A))
    rng = np.random.default_rng(2)
    draws = rng.multivariate_normal(mean, covariance, 200_000)
    assert Recalled(belief, A).cross(A)[0] == pytest.approx(draws.T @ draws / len(draws), abs=0.02)


def test_the_covariance_is_the_sum_of_its_parts_and_positive(informed: GaussianProcess) -> None:
    kernel = informed.kernel
    assert isinstance(kernel, InformedKernel)
    X = np.random.default_rng(3).random((6, 2))
    K = kernel.covariance(X, X)
    bare = InformedKernel(kernel.signal, kernel.inverse_lengthscales)
    parts = [s * Recalled(b, X).cross(X)[0] for s, b in zip(kernel.shares, kernel.beliefs, strict=True)]
    assert pytest.approx(bare.covariance(X, X) + sum(parts)) == K
    assert kernel.variance(X) == pytest.approx(np.diag(K))
    assert pytest.approx(K) == kernel.sites(X).covariance()
    assert pytest.approx(K) == kernel.sites(X).cross(X).k
    assert np.linalg.eigvalsh(0.5 * (K + K.T)).min() > -1e-9


def test_gradients_in_the_rows(informed: GaussianProcess) -> None:
    x = np.array([0.37, 0.58])
    kernel, Z = informed.kernel, np.random.default_rng(4).random((5, 2))
    weights = np.random.default_rng(5).standard_normal((1, 5))
    sites = kernel.sites(Z)

    def of_cross(x: np.ndarray) -> float:
        return float((weights * sites.cross(x[None]).k).sum())

    def of_variance(x: np.ndarray) -> float:
        return float(kernel.variance(x[None])[0])

    assert sites.cross(x[None]).pull(weights)[0] == pytest.approx(approx_fprime(x, of_cross, 1e-7), rel=1e-4, abs=1e-5)
    assert kernel.pull_variance(np.ones(1), x[None])[0] == pytest.approx(
        approx_fprime(x, of_variance, 1e-7), rel=1e-4, abs=1e-5
    )
    _, _, d_mean, d_sd = posterior_with_gradient(informed, x[None])
    for i, d in enumerate((d_mean, d_sd)):
        numeric = approx_fprime(x, lambda x, i=i: float(informed.posterior(x[None])[i][0]), 1e-7)
        assert d[0] == pytest.approx(numeric, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["improvement", "knowledge gradient"])
def test_acquisitions_have_the_right_gradient(informed: GaussianProcess, kind: str) -> None:
    X = informed.data.X
    if kind == "improvement":
        a: Any = NoisyExpectedImprovement(informed, X, np.ones(len(X), dtype=bool), draws=16, seed=0)
    else:
        a = KnowledgeGradient(Fantasies(informed, np.empty((0, 2)), 4, 0), np.random.default_rng(6).random((5, 2)))
    for x in np.random.default_rng(7).random((3, 2)):
        numeric = approx_fprime(x, lambda x: float(a(x[None])[0][0]), 1e-7)
        assert a(x[None])[1][0] == pytest.approx(numeric, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("infer", [False, True])
def test_gradient_of_the_fit(informed: GaussianProcess, infer: bool) -> None:
    data, kernel = informed.data, informed.kernel
    assert isinstance(kernel, InformedKernel)
    data = data if infer else replace(data, known_noise=np.full(len(data.y), 1e-4))
    Q = [Recalled(b, data.X).cross(data.X)[0] for b in kernel.beliefs]
    theta = np.log([0.5, 0.8, 0.6, *([0.02] if infer else []), 0.7, 0.1])
    value, grad = negative_log_posterior(theta, data, Prior(), Q, infer)
    assert np.isfinite(value)
    numeric = approx_fprime(theta, lambda t: negative_log_posterior(t, data, Prior(), Q, infer)[0], 1e-6)
    assert grad == pytest.approx(numeric, rel=1e-4, abs=1e-4)
    best = fit_informed(data, Prior(), kernel.beliefs)
    assert best.loss <= value


# --- another space ----------------------------------------------------------------------------------------------------


def test_numbers_are_laid_out_on_the_new_scale() -> None:
    old = Space(rate=Float(0, 10), size=Int(1, 9))
    new = Space(size=Float(3, 5), rate=Float(1e-2, 1, log=True), more=Float(0, 1))
    study = Study(old, seed=0)
    for rate, size in ((0.0, 1), (0.1, 4), (1.0, 5), (10.0, 9)):
        study.add({"rate": rate, "size": size}, rate + size)
    belief = one_belief(new, study)
    assert list(belief.columns) == [0, 1]  # size and rate; nothing is believed of "more"
    rows = belief.gp.data.X[np.argsort(belief.gp.data.X[:, 0])]
    assert rows == pytest.approx(np.array([[0.5, 0.5], [1.0, 1.0], [3.0, 1.5]]))  # 0 has no logarithm
    X = np.array([[0.2, 0.3, 0.1], [0.2, 0.3, 0.9]])
    assert np.ptp(belief.gp.posterior_mean(belief.rows(X))) == 0.0


def test_choices_are_matched_by_value_and_lost_ones_get_a_column() -> None:
    old = Space(kind=Categorical("a", "b", "gone"), order=Ordinal(1, 2, 4, 8), flag=Bool())
    new = Space(kind=Categorical("new", "b", "a"), order=Ordinal(4, 2), flag=Bool())
    study = Study(old, seed=0)
    points = [("a", 2, True), ("b", 4, False), ("gone", 2, False), ("a", 8, True), ("b", 2, True)]
    for i, (kind, order, flag) in enumerate(points):
        study.add({"kind": kind, "order": order, "flag": flag}, float(i))
    belief = one_belief(new, study)
    assert belief.foreign == 1
    rows = belief.gp.data.X  # the fourth has an order that is no longer there
    expected = [[0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1], [0, 1, 0, 1, 1, 0]]
    assert rows.tolist() == np.array(expected, dtype=float).tolist()
    assert belief.gp.data.groups.tolist() == [0, 0, 0, 1, 2, 0]
    assert belief.visited.shape == (4, 5)
    assert (new.snap(belief.visited) == belief.visited).all()


def test_conditional_parameters_keep_their_activity() -> None:
    space = Space(kind=Categorical("a", "b"), depth=Int(1, 9, active_if="kind == 'b'"))
    study = Study(space, seed=0)
    for kind, depth in (("a", None), ("b", 3), ("b", 9), ("a", None)):
        study.add({"kind": kind} | ({} if depth is None else {"depth": depth}), 1.0 + (depth or 0))
    belief = one_belief(space, study)
    assert pytest.approx(space.encode([t.params for t in study.trials])) == belief.gp.data.X


def test_what_only_the_earlier_study_varied_is_noise() -> None:
    rng = np.random.default_rng(0)
    old = Space(x=Float(0, 1), hidden=Float(0, 1))
    study = Study(old, noise="none", seed=0)
    for x, hidden in rng.random((40, 2)):
        study.add({"x": x, "hidden": hidden}, np.sin(6 * x) + 0.6 * hidden)
    belief = one_belief(Space(x=Float(0, 1)), study)
    assert belief.gp.hyperparameters.noise > 1e-3
    x = np.linspace(0.05, 0.95, 20)[:, None]
    assert np.corrcoef(-np.sin(6 * x[:, 0]), belief.gp.posterior_mean(belief.rows(x)))[0, 1] > 0.98


# --- studies ----------------------------------------------------------------------------------------------------------


def test_a_related_study_saves_most_trials_whatever_its_unit() -> None:
    old = old_study(lambda x, y: 100 - 7 * wavy(x - 0.03, y + 0.02), 40)  # of the other direction, too
    old.goal = Study(PLANE, "maximize").goal
    new = Study(PLANE, seed=1)
    new.learn_from("old", old)
    run(new, wavy, 9)
    alone = run(Study(PLANE, seed=1), wavy, 9)
    floor = -1.98  # just below the least value
    assert new.best.trial.value - floor < 0.1 * (alone.best.trial.value - floor)
    assert new.trials[0].source.method == "earlier_best"
    assert new.trials[0].source.why == "the best that the earlier study old expects"
    assert "explained by earlier studies: old" in new.trials[-1].source.why
    assert new.diagnostics.earlier["old"] > 0.3


def test_an_unrelated_study_is_found_out() -> None:
    old = old_study(lambda x, y: np.sin(31 * x * y + 5 * y) + np.cos(17 * x), 40)
    new = Study(PLANE, seed=1)
    new.learn_from("old", old)
    run(new, wavy, 13)
    alone = run(Study(PLANE, seed=1), wavy, 11)  # it may cost two trials
    assert new.best.trial.value < alone.best.trial.value + 0.02
    assert new.diagnostics.earlier["old"] < 0.5


def test_the_helpful_one_of_several_counts() -> None:
    new = Study(PLANE, seed=2)
    new.learn_from("other", old_study(lambda x, y: np.cos(20 * x * y), 25, seed=7))
    new.learn_from("alike", old_study(wavy, 40))
    run(new, wavy, 8)
    shares = new.diagnostics.earlier
    assert shares["alike"] > 0.5 > shares["other"]
    assert [t.source.method for t in new.trials[:3]] == ["earlier_best", "earlier_best", "quasi-random"]


def test_overlapping_spaces() -> None:
    """A narrower range, a parameter more, one less and a choice that is gone: it still helps."""
    old_space = Space(x=Float(-1, 2), y=Float(0, 1), z=Float(0, 1), kind=Categorical("a", "b"))
    old = old_study(lambda x, y, z, kind: wavy(x, y) + 0.1 * z + (kind == "b"), 60, old_space)
    space = Space(x=Float(0.4, 0.9), y=Float(0, 1), w=Float(0, 1), kind=Categorical("a", "c"))
    with pytest.raises(InvalidInput, match=r"earlier\.apart"):
        Study(space, seed=0).learn_from("apart", old_study(lambda u: u, 5, Space(u=Float(0, 1))))
    new = Study(space, seed=0)
    new.learn_from("old", old)
    run(new, lambda x, y, w, kind: wavy(x, y) + (w - 0.5) ** 2 + 0.5 * (kind == "c"), 12)
    assert new.best.trial.value < -1.6
    assert new.diagnostics.earlier["old"] > 0.2


def test_noise_and_outcome_constraints() -> None:
    rng = np.random.default_rng(0)

    def f(x: float, y: float) -> dict[str, float]:
        return {"loss": wavy(x, y) + 0.1 * rng.standard_normal(), "weight": x + y}

    def study(seed: int) -> Study:
        return Study(PLANE, {"loss": "minimize"}, outcome_constraints=["weight <= 0.9"], seed=seed)

    old = study(0)
    for p in PLANE.decode(PLANE.sample(40, rng)):
        old.add(p, f(**p))
    new = study(1)
    new.learn_from("old", old)
    run(new, f, 8)
    assert new.trials[0].values["weight"] <= 0.95  # the first trial, too, knows of the bound
    assert new.best.trial.values["weight"] <= 0.9
    assert wavy(**new.best.params) < -1.2
    assert new.trials[-1].source.method == "noisy_expected_improvement"


def test_several_objectives() -> None:
    objectives = [Objective("u"), Objective("v", "maximize")]

    def f(x: float, y: float) -> dict[str, float]:
        return {"u": wavy(x, y), "v": -((x - 0.2) ** 2) - (y - 0.9) ** 2}

    old = Study(PLANE, objectives, seed=0)
    for p in PLANE.decode(PLANE.sample(40, np.random.default_rng(0))):
        old.add(p, f(**p))
    new = Study(PLANE, objectives, seed=1)
    new.learn_from("old", old)
    run(new, f, 8)
    assert [t.source.method for t in new.trials[:2]] == ["earlier_best", "earlier_best"]
    assert min(t.values["u"] for t in new.trials) < -1.8
    assert max(t.values["v"] for t in new.trials) > -0.02


def test_contexts_and_earlier_studies() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1), site=Categorical("a", "b"))
    new = Study(space, context=["site"], seed=0)
    new.learn_from("old", old_study(wavy, 40))
    for site in "abab":
        trial = new.ask(context={"site": site})
        assert isinstance(trial, Trial)
        assert trial.params["site"] == site
        new.tell(trial, wavy(trial.params["x"], trial.params["y"]) + (site == "b"))
    assert new.best_at({"site": "b"}).params["site"] == "b"
    assert min(t.value for t in new.trials) < -1.8


def test_json_round_trip_asks_the_same_and_names_must_be_loaded() -> None:
    old = old_study(wavy, 20)
    new = Study(PLANE, earlier=["old"], seed=3)
    with pytest.raises(Conflict, match=r"\['old'\] are named but not loaded"):
        new.ask()
    new.learn_from("old", old)
    run(new, wavy, 5)
    definition = json.loads(json.dumps(new.to_json()))
    assert definition["earlier"] == ["old"]
    again = Study.from_json(definition)
    again.load(Trial.from_json(json.loads(json.dumps(t.to_json()))) for t in new.trials)
    with pytest.raises(Conflict):
        again.suggest()
    loaded = Study.from_json(json.loads(json.dumps(old.to_json())))
    loaded.load(Trial.from_json(json.loads(json.dumps(t.to_json()))) for t in old.trials)
    again.learn_from("old", loaded)
    assert again.suggest(2) == new.suggest(2)
    assert "earlier" not in Study(PLANE, seed=3).to_json()


def test_an_earlier_study_is_taken_as_it_is_now() -> None:
    old = old_study(wavy, 20)
    new = Study(PLANE, seed=3)
    new.learn_from("old", old)
    first = new.suggest()
    old.add({"x": 0.1, "y": 0.1}, -100.0)
    assert new.suggest() == first
    new.learn_from("old", old)
    assert new.suggest() != first


def test_too_few_earlier_results_change_nothing() -> None:
    new = Study(PLANE, seed=3)
    new.learn_from("old", old_study(wavy, 2))
    assert new.suggest() == Study(PLANE, seed=3).suggest()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Study(PLANE, earlier="old"), "earlier"),
        (lambda: Study(PLANE, earlier=["old", "old"]), "earlier.1"),
        (lambda: Study(PLANE, earlier=[""]), "earlier.0"),
        (lambda: Study(PLANE, earlier=["old"], model={"warping": True}), "earlier"),
        (lambda: Study(PLANE, earlier=["old"], acquisition="thompson"), "acquisition"),
        (lambda: Study(PLANE, acquisition="thompson").learn_from("old", old_study(trials=3)), "acquisition"),
        (
            lambda: Study(PLANE, {"a": "minimize", "b": "minimize"}).learn_from("old", old_study(trials=3)),
            "earlier.old",
        ),
        (lambda: Study(PLANE).learn_from("old", Study(Space(x=Constant(0.5), u=Float(0, 1)))), "earlier.old"),
        (lambda: Study(PLANE).learn_from("old", Study(Space(x=Categorical("a", "b")))), "earlier.old"),
    ],
    ids=["names", "twice", "empty", "warping", "thompson", "thompson later", "metrics", "constant", "kind"],
)
def test_what_is_refused(make: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        make()
    assert error.value.problems[0].field == field


def test_a_study_does_not_learn_from_itself_nor_from_derivatives() -> None:
    study = Study(PLANE, seed=0)
    with pytest.raises(InvalidInput, match="another study"):
        study.learn_from("me", study)
    study.learn_from("old", old_study(wavy, 5))
    with pytest.raises(InvalidInput, match="no derivatives"):
        study.add({"x": 0.5, "y": 0.5}, 1.0, gradient={"x": 0.1})
    told = Study(PLANE, seed=0)
    told.add({"x": 0.5, "y": 0.5}, 1.0, gradient={"x": 0.1})
    with pytest.raises(InvalidInput, match="derivatives were told"):
        told.learn_from("old", old_study(wavy, 5))
