"""Contexts: given with every ask, learned from together, each with its own choices, repeats and recommendation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from suffice.optimizer import (
    Categorical,
    Conflict,
    Constant,
    Float,
    Int,
    InvalidInput,
    NotFound,
    Objective,
    Space,
    Stop,
    StopReason,
    Study,
    Trial,
)
from suffice.optimizer.choice import choose

SITES = Space(x=Float(0, 1), y=Float(0, 1), site=Categorical("a", "b", "c"))
SHIFT = {"a": 0.0, "b": 0.1, "c": 0.25}


def bowl(p: dict[str, Any]) -> float:
    return float(10 * (p["x"] - 0.3 - SHIFT[p["site"]]) ** 2 + 10 * (p["y"] - 0.5) ** 2)


def run(study: Study, f: Any, trials: int, **context: Any) -> list[Trial]:
    done: list[Trial] = []
    for _ in range(trials):
        trial = study.ask(context=context)
        assert isinstance(trial, Trial), trial
        done.append(study.tell(trial, f(trial.params)))
    return done


def test_later_contexts_need_far_fewer_trials() -> None:
    tilt = {"a": 0.0, "b": 0.3, "c": -0.3}

    def wavy(p: dict[str, Any]) -> float:
        bowl = 3 * (p["x"] - 0.65) ** 2 + 3 * (p["y"] - 0.4) ** 2
        return float(math.sin(9 * p["x"]) + math.cos(8 * p["y"]) + bowl + tilt[p["site"]] * (p["x"] + 1))

    later, alone = [], []
    for seed in (0, 1):
        study = Study(SITES, context=["site"], seed=seed)
        run(study, wavy, 12, site="a")
        run(study, wavy, 5, site="b")
        later.append(min(t.value for t in run(study, wavy, 4, site="c")))
        fresh = Study(SITES, context=["site"], seed=seed)
        alone.append(min(t.value for t in run(fresh, wavy, 5, site="c")))
    least = -2.415  # at site c
    assert np.mean(later) - least < 0.1 * (np.mean(alone) - least)
    assert all(t.params["site"] == "c" for t in study.trials[17:])
    assert study.trials[18].source.why == "what was visited in other contexts was not measured in this one"


def test_a_number_may_be_a_context() -> None:
    study = Study(Space(x=Float(0, 1), size=Int(100, 10_000, log=True)), context=["size"], seed=1)

    def f(p: dict[str, Any]) -> float:
        return float((p["x"] - 0.1 * math.log10(p["size"])) ** 2)

    for size in (100, 1000):
        run(study, f, 9, size=size)
    best = study.best_at({"size": 10_000})  # where nothing was measured
    assert "not measured here but by trial" in best.why
    assert best.params["size"] == 10_000
    assert best.mean is not None
    first, second = run(study, f, 2, size=10_000)
    assert min(first.value, second.value) < 0.01


def test_improvement_is_over_what_visited_configurations_are_worth_here() -> None:
    """With one visited design m, f(x) - f(m) at the new context is normal: its expected positive part is known."""
    study = Study(Space(x=Float(0, 1), t=Float(0, 1)), context=["t"], noise="none", seed=0)
    for t, value in ((0.0, 1.0), (0.2, 0.7), (0.5, 0.9), (0.6, 0.4), (0.7, 0.2)):
        study.add({"x": 0.4, "t": t}, value)
    knowledge = study._learned().at({"t": 0.85})
    surrogate = knowledge.surrogate
    assert surrogate is not None
    chosen = choose(knowledge.definition, surrogate, np.empty((0, 2)), 0)
    assert chosen.method == "noisy_expected_improvement"
    X = np.column_stack([np.linspace(0, 1, 7), np.full(7, 0.85)])
    mean, covariance = surrogate.objective.gp.joint(np.concatenate([X, [[0.4, 0.85]]]))
    d = mean[:-1] - mean[-1]
    variance = np.diag(covariance)[:-1] + covariance[-1, -1] - 2 * covariance[:-1, -1]
    sd = np.sqrt(np.maximum(variance, 1e-300))
    expected = d * norm.cdf(d / sd) + sd * norm.pdf(d / sd)
    assert np.exp(chosen.acquisition(X)[0]) == pytest.approx(expected, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("name", ["expected_improvement", "entropy_search", "knowledge_gradient", "thompson"])
def test_every_acquisition_stays_in_the_context(name: str) -> None:
    study = Study(SITES, context=["site"], acquisition=name, seed=2)
    run(study, bowl, 6, site="a")
    run(study, bowl, 1, site="b")
    suggestions = study.suggest(2, context={"site": "b"})
    assert not isinstance(suggestions, Stop)
    assert [s.params["site"] for s in suggestions] == ["b", "b"]
    assert [s.source.method for s in suggestions] == [name, name]


def test_repeats_are_excluded_and_the_space_ends_in_every_context_by_itself() -> None:
    study = Study(Space(k=Int(1, 8), site=Categorical("a", "b")), context=["site"], noise="none", seed=0)

    def f(p: dict[str, Any]) -> float:
        return float(abs(p["k"] - 3) + 0.2 * p["k"] * (p["site"] == "b"))

    for site in ("a", "b"):
        assert {t.params["k"] for t in run(study, f, 8, site=site)} == set(range(1, 9))
        end = study.ask(context={"site": site})
        assert isinstance(end, Stop)
        assert end.reason is StopReason.EXHAUSTED
    assert study.best_at({"site": "b"}).params == {"k": 3, "site": "b"}
    assert "measured here" in study.best_at({"site": "b"}).why


def test_the_start_does_not_repeat_a_design_in_another_context() -> None:
    study = Study(SITES, context=["site"], seed=0)
    points = [run(study, bowl, 1, site=site)[0].params for site in "abcab"]
    assert len({(p["x"], p["y"]) for p in points}) == 5


def test_queued_trials_wait_for_their_context() -> None:
    study = Study(SITES, context=["site"], seed=0)
    mine = {"x": 0.5, "y": 0.5, "site": "b"}
    study.enqueue(mine)
    (other,) = run(study, bowl, 1, site="a")
    assert other.source.method == "quasi-random"
    (queued,) = run(study, bowl, 1, site="b")
    assert queued.params == mine


def test_pending_trials_elsewhere_count() -> None:
    study = Study(SITES, context=["site"], seed=3)
    run(study, bowl, 8, site="a")
    study.ask(context={"site": "b"})
    batch = study.ask(2, context={"site": "c"})
    assert isinstance(batch, list)
    assert [t.source.pending for t in batch] == [1, 2]


def test_what_was_measured_here_is_what_is_to_be_improved_on() -> None:
    """What did best elsewhere is tried here, too; until then its value here is drawn."""
    study = Study(SITES, context=["site"], noise="none", seed=0)

    def same(p: dict[str, Any]) -> float:
        return float((p["x"] - 0.3) ** 2 + (p["y"] - 0.6) ** 2)

    run(study, same, 12, site="a")
    there = run(study, same, 8, site="b")
    size = study._definition.design_size
    assert [t.source.method for t in there[:size]] == ["noisy_expected_improvement"] * size
    assert [t.source.method for t in there[size:]] == ["expected_improvement"] * (8 - size)
    best = study.best_at({"site": "b"})
    assert "others that were never visited" in best.why
    assert best.trial.params["site"] == "b"
    assert min(map(same, (t.params for t in there[size:]))) < 1e-4


def test_noise_and_outcome_constraints() -> None:
    rng = np.random.default_rng(0)
    study = Study(SITES, "minimize", outcome_constraints=["weight <= 0.5"], context=["site"], noise=0.1, seed=0)

    def f(p: dict[str, Any]) -> dict[str, float]:
        return {"objective": bowl(p) + 0.1 * rng.standard_normal(), "weight": p["x"]}

    run(study, f, 9, site="a")
    run(study, f, 8, site="c")  # where the best, x = 0.55, is too heavy
    best = study.best_at({"site": "c"})
    assert best.params["site"] == "c"
    assert 0.3 < best.params["x"] <= 0.5 + 0.02
    assert study.trials[-1].source.method == "noisy_expected_improvement"


def test_several_objectives_have_a_front_in_every_context() -> None:
    study = Study(
        Space(x=Float(0, 1), site=Categorical("a", "b")),
        [Objective("u"), Objective("v")],
        context=["site"],
        seed=0,
    )

    def f(p: dict[str, Any]) -> dict[str, float]:
        top = 0.3 if p["site"] == "a" else 0.6
        return {"u": p["x"] ** 2, "v": (p["x"] - top) ** 2}

    run(study, f, 8, site="a")
    run(study, f, 6, site="b")
    for site, top in (("a", 0.3), ("b", 0.6)):
        front = study.pareto_at({"site": site})
        assert len(front) >= 3
        assert all(b.params["site"] == site and -0.02 <= b.params["x"] <= top + 0.05 for b in front)
    with pytest.raises(Conflict, match=r"pareto_at\(context\)"):
        _ = study.pareto


def test_a_study_with_a_cost_stops_by_context() -> None:
    study = Study(SITES, cost=0.05, context=["site"], seed=0)
    while not isinstance(step := study.ask(context={"site": "a"}), Stop):
        study.tell(step, bowl(step.params))
    assert step.reason is StopReason.GAIN
    assert len(study.trials) < 40
    assert study.advice_at({"site": "a"}).pays is False
    assert study.advice_at({"site": "c"}).pays is True


def test_a_context_decides_which_parameters_there_are() -> None:
    space = Space(x=Float(0, 1), gpu=Categorical("yes", "no"), batch=Int(1, 64, active_if="gpu == 'yes'"))
    study = Study(space, context=["gpu"], seed=0)

    def f(p: dict[str, Any]) -> float:
        return float(abs(p["x"] - 0.5) + abs(p.get("batch", 32) - 32) / 64)

    run(study, f, 7, gpu="no")
    trials = run(study, f, 3, gpu="yes")
    assert all("batch" in t.params for t in trials)
    assert all("batch" not in t.params for t in study.trials[:7])
    assert "batch" in study.best_at({"gpu": "yes"}).params


def test_parameter_constraints_hold_in_every_context() -> None:
    space = Space(x=Float(0, 1), limit=Float(-1, 1), constraints=["x <= limit"])
    study = Study(space, context=["limit"], seed=0)
    run(study, lambda p: (p["x"] - 0.9) ** 2, 8, limit=1.0)
    trials = run(study, lambda p: (p["x"] - 0.9) ** 2, 3, limit=0.05)
    assert all(t.params["x"] <= 0.05 for t in trials)
    with pytest.raises(InvalidInput, match="satisfies the parameter constraints"):
        study.ask(context={"limit": -0.5})


def test_json_round_trip_asks_the_same() -> None:
    study = Study(SITES, context=["site"], seed=5)
    run(study, bowl, 7, site="a")
    definition = json.loads(json.dumps(study.to_json()))
    assert definition["context"] == ["site"]
    again = Study.from_json(definition)
    again.load(Trial.from_json(json.loads(json.dumps(t.to_json()))) for t in study.trials)
    assert again.suggest(2, context={"site": "b"}) == study.suggest(2, context={"site": "b"})
    assert "context" not in Study(SITES, seed=5).to_json()


def test_what_is_recommended_before_there_is_a_model() -> None:
    study = Study(SITES, context=["site"], seed=0)
    run(study, bowl, 2, site="a")
    assert study.best_at({"site": "a"}).trial.value == min(t.value for t in study.trials)
    with pytest.raises(NotFound, match="no trial is completed in the context"):
        study.best_at({"site": "b"})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (None, "context.site"),
        ({}, "context.site"),
        ({"site": "d"}, "context.site"),
        ({"site": "a", "x": 0.5}, "context.x"),
        ("a", "context"),
    ],
)
def test_a_wrong_context_is_refused(given: Any, field: str) -> None:
    study = Study(SITES, context=["site"], seed=0)
    for refuses in (lambda: study.ask(context=given), lambda: study.suggest(context=given)):
        with pytest.raises(InvalidInput) as error:
            refuses()
        assert field in [p.field for p in error.value.problems]
    assert study.trials == []


def test_a_study_without_contexts_takes_none() -> None:
    with pytest.raises(InvalidInput, match="the study has no contexts"):
        Study(SITES, seed=0).ask(context={"site": "a"})


@pytest.mark.parametrize(
    ("names", "field"),
    [
        ("site", "context"),
        (["place"], "context.0"),
        (["site", "site"], "context.1"),
        (["fixed"], "context.0"),
        (["child"], "context.0"),
        (["x", "site", "child"], "context.2"),
        ([3], "context.0"),
    ],
)
def test_wrong_names_are_refused(names: Any, field: str) -> None:
    space = Space(
        x=Float(0, 1),
        site=Categorical("a", "b"),
        fixed=Constant(1),
        child=Float(0, 1, active_if="site == 'a'"),
    )
    with pytest.raises(InvalidInput) as error:
        Study(space, context=names)
    assert error.value.problems[0].field == field


def test_something_has_to_be_left_to_choose() -> None:
    with pytest.raises(InvalidInput, match="left to choose"):
        Study(Space(x=Float(0, 1), k=Constant(1)), context=["x"])


def test_what_depends_on_the_context_asks_for_it() -> None:
    study = Study(SITES, context=["site"], seed=0)
    run(study, bowl, 7, site="a")
    with pytest.raises(Conflict, match=r"best_at\(context\)"):
        _ = study.best
    with pytest.raises(Conflict, match=r"advice_at\(context\)"):
        _ = study.advice
