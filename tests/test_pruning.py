"""Early stopping: policies against their definitions, the model's outlook against the model, and what a study gains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from suffice.optimizer import (
    Categorical,
    Conflict,
    Float,
    Int,
    InvalidInput,
    Measurement,
    Space,
    Study,
    Trial,
    TrialState,
)
from suffice.optimizer.pruning import KEPT, STEP, EarlyStopping, Prune, outlook, stepped, unroll
from suffice.optimizer.transfer import DRAWN

LINE = Space(x=Float(0, 1))


def reporting(policy: Any, curves: list[list[float]], direction: str = "minimize") -> tuple[Study, list[Trial]]:
    """A study with one running trial per curve, whose values were reported at steps 1, 2, ..."""
    study = Study(LINE, direction, early_stopping=policy, seed=0)
    trials = []
    for curve in curves:
        trial = study.ask()
        assert isinstance(trial, Trial)
        for step, value in enumerate(curve, 1):
            study.report(trial, value, step=step)
        trials.append(trial)
    return study, trials


# --- policies by hand -------------------------------------------------------------------------------------------------


def test_the_median_is_that_of_what_others_reached_at_the_same_step() -> None:
    others: list[list[float]] = [
        [5, 4, 3],
        [9, 9, 9],
        [6, 2, 7],
        [8, 7],
        [1],
    ]  # up to step 2: 4, 9, 2, 7; the last never came so far
    study, trials = reporting("median", [*others, [7, 6]])
    found = study.should_prune(trials[-1])
    assert found is not None
    assert (found.policy, found.step, found.value, found.bound) == ("median", 2, 6.0, 5.5)
    assert "4 other trials" in found.reason
    study, trials = reporting("median", [*others, [5.4, 6]])
    assert study.should_prune(trials[-1]) is None  # its best so far counts
    study, trials = reporting("median", [*others[:3], [7, 6]])
    assert study.should_prune(trials[-1]) is None  # too few others
    study, trials = reporting({"policy": "median", "warmup_trials": 3}, [*others[:3], [7, 6]])
    assert study.should_prune(trials[-1]) is not None
    study, trials = reporting({"policy": "median", "warmup_steps": 3}, [*others, [7, 6]])
    assert study.should_prune(trials[-1]) is None


def test_maximising_is_minimising_the_negative() -> None:
    curves = [[5.0, 4.0], [9.0, 9.0], [6.0, 2.0], [8.0, 7.0], [7.0, 6.0]]
    for policy in ("median", {"policy": "percentile", "percentile": 30}, {"policy": "threshold", "bound": 5.0}):
        if isinstance(policy, dict) and "bound" in policy:
            negative: Any = {**policy, "bound": -5.0}
        else:
            negative = policy
        study, trials = reporting(policy, curves)
        mirrored, same = reporting(negative, [[-v for v in curve] for curve in curves], "maximize")
        for a, b in zip(trials, same, strict=True):
            one, other = study.should_prune(a), mirrored.should_prune(b)
            assert (one is None) == (other is None)
            if one is not None and other is not None and one.bound is not None and other.bound is not None:
                assert one.bound == pytest.approx(-other.bound)


@pytest.mark.parametrize(("percentile", "pruned"), [(10, True), (50, True), (75, False), (90, False)])
def test_a_percentile_keeps_the_better_share(percentile: float, pruned: bool) -> None:
    others = [[float(v)] for v in range(11)]
    study, trials = reporting({"policy": "percentile", "percentile": percentile}, [*others, [6.5]])
    assert (study.should_prune(trials[-1]) is not None) is pruned


def test_a_threshold_judges_the_last_report() -> None:
    study, trials = reporting({"policy": "threshold", "bound": 2.0}, [[1.0, 3.0], [3.0, 2.0]])
    first, second = (study.should_prune(t) for t in trials)
    assert first is not None
    assert (first.bound, first.step) == (2.0, 2)
    assert second is None


def test_stopped_trials_keep_their_reports() -> None:
    study, trials = reporting({"policy": "threshold", "bound": 2.0}, [[3.0]])
    decision = study.should_prune(trials[0])
    assert decision is not None
    trial = study.prune(trials[0], decision)
    assert (trial.state, trial.reason) == (TrialState.PRUNED, decision.reason)
    assert [m.value for m in trial.measurements] == [3.0]
    assert study.prune(trial, decision) == trial
    with pytest.raises(Conflict):
        study.should_prune(trial)
    assert decision.to_json()["bound"] == 2.0
    assert "chance" not in decision.to_json()


def test_without_a_policy_nothing_is_stopped() -> None:
    study, trials = reporting(None, [[1.0], [2.0], [3.0], [4.0], [100.0]])
    assert study.should_prune(trials[-1]) is None


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ("best", "early_stopping"),
        ({"policy": "median", "bound": 3}, "early_stopping.bound"),
        ({"policy": "percentile", "percentile": 100}, "early_stopping.percentile"),
        ({"policy": "threshold"}, "early_stopping.bound"),
        ({"policy": "threshold", "bound": math.inf}, "early_stopping.bound"),
        ({"policy": "gain"}, "early_stopping.steps"),
        ({"policy": "gain", "steps": 1}, "early_stopping.steps"),
        ({"policy": "gain", "steps": 9, "probability": 1.5}, "early_stopping.probability"),
        ({"policy": "gain", "steps": 9, "price": -1}, "early_stopping.price"),
        ({"policy": "median", "warmup_steps": -1}, "early_stopping.warmup_steps"),
        ({"policy": "median", "warmup_trials": 0}, "early_stopping.warmup_trials"),
    ],
)
def test_wrong_policies_name_their_field(definition: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Study(LINE, early_stopping=definition)
    assert error.value.problems[0].field == field


def test_what_learning_from_reports_cannot_be_combined_with() -> None:
    settings: list[dict[str, Any]] = [
        {"objective": {"a": "minimize", "b": "minimize"}},
        {"context": ["x"]},
        {"fidelity": {"target": {"x": 1.0}, "cost": "1"}},
        {"environment": {"x": "uniform"}},
        {"earlier": ["last year"]},
    ]
    space = Space(x=Float(0, 1), y=Float(0, 1))
    for setting in settings:
        Study(space, early_stopping="median", **setting)
        with pytest.raises(InvalidInput, match=r"early_stopping\.steps"):
            Study(space, early_stopping={"policy": "median", "steps": 9}, **setting)
    with pytest.raises(InvalidInput, match=STEP):
        Study(Space({STEP: Float(0, 1)}), early_stopping={"policy": "median", "steps": 9})
    study = Study(space, early_stopping={"policy": "median", "steps": 9})
    with pytest.raises(InvalidInput, match="at most 9"):
        study.report(study.ask(), 1.0, step=10)  # type: ignore[arg-type]
    beyond = [Measurement("objective", 1.0, step=10), Measurement("objective", 1.0)]
    with pytest.raises(InvalidInput, match="at most 9"):
        study.tell(0, beyond)
    with pytest.raises(InvalidInput, match="at most 9"):
        study.add({"x": 0.5, "y": 0.5}, beyond)


def test_a_definition_survives_json() -> None:
    for policy in ("median", {"policy": "gain", "steps": 27, "price": 0.01}, {"policy": "threshold", "bound": 0.5}):
        written = Study(LINE, early_stopping=policy, seed=1).to_json()
        assert written["early_stopping"] == ({"policy": policy} if isinstance(policy, str) else policy)
        assert Study.from_json(written).to_json() == written
    assert "early_stopping" not in Study(LINE).to_json()


# --- the model over steps ---------------------------------------------------------------------------------------------


def test_trials_are_unrolled_into_results_at_few_steps() -> None:
    reports = tuple(Measurement("loss", 1.0 / step, step=step) for step in range(1, 81))
    final = (Measurement("loss", 0.01),)
    done = Trial(0, {"x": 0.5}, TrialState.COMPLETED, reports + final)
    stopped = Trial(1, {"x": 0.2}, TrialState.PRUNED, reports[:13])
    failed = Trial(2, {"x": 0.1}, TrialState.FAILED, reports[:5])
    found = unroll([done, stopped, failed], "loss", 81)
    of_done = [t for t in found if t.number == 0]
    assert of_done[0].params == {"x": 0.5, STEP: 82}
    assert of_done[0].values == {"loss": 0.01}
    assert [(t.params[STEP] - 1, t.values["loss"]) for t in of_done[1:]] == [(s, 1.0 / s) for s in (2, 8, 26, 80)]
    assert len(of_done) == 1 + KEPT
    of_stopped = [t for t in found if t.number == 1]
    assert [t.state for t in of_stopped] == [TrialState.PRUNED, *[TrialState.COMPLETED] * 2]
    assert [t.params[STEP] - 1 for t in of_stopped[1:]] == [3, 13]
    assert [t.number for t in found].count(2) == 1


def test_the_stepped_space_is_complete_at_the_last_step() -> None:
    space = stepped(Space(x=Float(0, 1), kind=Categorical("a", "b"), n=Int(1, 5, active_if="kind == 'a'")), 27)
    (params,) = space.decode(space.sample(1, np.random.default_rng(0)))
    assert params[STEP] == 28


def learning(policy: dict[str, Any], seed: int = 0, trials: int = 9, acquisition: str = "auto") -> Study:
    """Trials of 27 steps whose loss falls from 1 above (x - .3)^2; told in full."""
    study = Study(LINE, early_stopping=policy, acquisition=acquisition, noise="none", seed=seed)
    for _ in range(trials):
        trial = study.ask()
        assert isinstance(trial, Trial)
        for step in (1, 3, 9, 18):
            study.report(trial, loss(trial.params["x"], step), step=step)
        study.tell(trial, loss(trial.params["x"], 27))
    return study


def loss(x: float, step: int) -> float:
    return (x - 0.3) ** 2 + math.exp(-step / 6)


def test_the_outlook_is_the_models() -> None:
    study = learning({"policy": "gain", "steps": 27})
    assert list(study.diagnostics.importance) == ["x"]  # and not the step of what was reported on the way
    bad = study.enqueue({"x": 0.9})
    assert study.ask() == study.trials[bad.number]
    assert study.should_prune(bad) is None  # it reported nothing
    study.report(bad, loss(0.9, 3), step=3)
    decision = study.should_prune(bad)
    assert decision is not None
    prediction = study.predict({"x": 0.9})
    assert decision.mean == pytest.approx(prediction.mean[0])
    assert decision.sd == pytest.approx(prediction.sd[0])
    best = min(t.values["objective"] for t in study.trials if t.state is TrialState.COMPLETED)
    assert decision.bound == best
    model = study._learned().surrogate
    assert model is not None
    if model.objective.scale.limit is None:
        z = (best - prediction.mean[0]) / prediction.sd[0]
        assert decision.chance == pytest.approx(norm.cdf(z))
    assert decision.chance is not None
    assert decision.chance < 0.05
    assert decision.mean == pytest.approx(loss(0.9, 27), abs=0.1)


def test_a_trial_need_not_beat_what_breaks_an_outcome_constraint() -> None:
    policy = {"policy": "gain", "steps": 27}
    study = Study(LINE, outcome_constraints=["weight <= 1"], early_stopping=policy, noise="none", seed=0)
    for x in (0.1, 0.3, 0.5, 0.7, 0.9):
        study.add({"x": x}, {"objective": loss(x, 27), "weight": 2.0 if x < 0.6 else 0.5})
    trial = study.ask()
    assert isinstance(trial, Trial)
    study.report(trial, loss(trial.params["x"], 3), step=3)
    expected = outlook(study._learned(), study.trials[-1])
    assert expected is not None
    assert expected.best == loss(0.7, 27)


def test_a_good_trial_goes_on_and_a_price_may_still_end_it() -> None:
    decisions = []
    for price in ({}, {"price": 1.0}):
        study = learning({"policy": "gain", "steps": 27, **price}, trials=5)
        trial = study.enqueue({"x": 0.3})  # better than the five, which are quasi-random
        study.ask()
        study.report(trial, loss(0.3, 3), step=3)
        decisions.append(study.should_prune(trial))
    assert decisions[0] is None
    dear = decisions[1]
    assert dear is not None
    assert dear.gain is not None
    assert (dear.cost, dear.policy) == (24.0, "gain")
    assert 0 < dear.gain < 0.1


def test_a_suggestion_says_that_reports_were_no_final_values() -> None:
    """While few trials ran to the end; from then on those are what is to be improved on."""
    study = learning({"policy": "median", "steps": 27}, trials=4)
    trial = study.ask()
    assert isinstance(trial, Trial)
    study.report(trial, loss(trial.params["x"], 3), step=3)
    study.prune(trial, "enough")
    after = study.ask()
    assert isinstance(after, Trial)
    assert after.source.why == "what was only reported on the way was not measured at the last step"


@pytest.mark.parametrize("acquisition", DRAWN)
def test_draws_and_derivatives_follow_the_model_over_steps(acquisition: str) -> None:
    study = learning({"policy": "median", "steps": 27}, trials=5, acquisition=acquisition)
    trial = study.ask()
    assert isinstance(trial, Trial)
    assert (trial.source.method, trial.source.fallbacks) == (acquisition, ())
    if acquisition != "predictive_entropy_search":  # its approximation finds nothing to learn where so much is known
        assert trial.params["x"] == pytest.approx(0.3, abs=0.1)
    model = study._learned().surrogate
    assert model is not None
    assert model.objective.gp.hyperparameters.shares is not None


def wavy(x: float, step: int) -> float:
    return math.sin(6 * x) + math.exp(-step / 6)


def test_what_was_stopped_is_learned_from() -> None:
    """Far from all whole trials, the reports of a stopped one tell what its final value would have been."""
    study = Study(LINE, early_stopping={"policy": "median", "steps": 27}, noise="none", seed=0)
    for x in (0.0, 0.1, 0.2, 0.3, 0.4):
        trial = study.enqueue({"x": x})
        study.ask()
        for step in (3, 9, 18):
            study.report(trial, wavy(x, step), step=step)
        study.tell(trial, wavy(x, 27))
    before = study.predict({"x": 0.95})
    trial = study.enqueue({"x": 0.95})
    study.ask()
    for step in (3, 9, 18):
        study.report(trial, wavy(0.95, step), step=step)
    study.prune(trial, "by hand")
    after = study.predict({"x": 0.95})
    truth = wavy(0.95, 27)
    assert abs(after.mean[0] - truth) < 0.2 * abs(before.mean[0] - truth)
    assert after.sd[0] < 0.5 * before.sd[0]
    assert study.best.trial.state is TrialState.COMPLETED
    assert STEP not in study.best.params
    suggested = study.suggest(3)
    assert isinstance(suggested, list)
    assert all(s.params.keys() == {"x"} and s.params["x"] != 0.95 for s in suggested)
    assert study.advice.params is None or STEP not in study.advice.params


def bumpy(params: dict[str, float], step: int) -> float:
    """The Styblinski-Tang function of ten units, least at -0.7833, on top of a falling curve."""
    final = sum(z**4 - 16 * z * z + 5 * z for z in (10 * v - 5 for v in params.values())) / 200
    return final + 3 * math.exp(-step / (4 + 3 * params["a"]))


def found_within(steps: int, policy: Any, seed: int) -> float:
    study = Study(Space(a=Float(0, 1), b=Float(0, 1)), early_stopping=policy, seed=seed)
    while steps > 0:
        trial = study.ask()
        assert isinstance(trial, Trial)
        decision: Prune | None = None
        for step in (3, 9):
            study.report(trial, bumpy(trial.params, step), step=step)
            if (decision := study.should_prune(trial)) is not None:
                study.prune(trial, decision)
                steps -= step
                break
        if decision is None:
            study.tell(trial, bumpy(trial.params, 27))
            steps -= 27
    return bumpy(study.best.params, 27)


def test_stopping_early_finds_more_in_the_same_steps() -> None:
    """In the steps of six whole trials: with the model's policy against never stopping."""
    with_policy = [found_within(6 * 27, {"policy": "gain", "steps": 27}, seed) for seed in range(3)]
    without = [found_within(6 * 27, None, seed) for seed in range(3)]
    assert np.mean(with_policy) < np.mean(without) - 0.05


def test_decisions_repeat_after_loading() -> None:
    study = learning({"policy": "gain", "steps": 27}, trials=6)
    trial = study.enqueue({"x": 0.8})
    study.ask()
    study.report(trial, loss(0.8, 3), step=3)
    again = Study.from_json(study.to_json())
    again.load(study.trials)
    assert again.should_prune(trial.number) == study.should_prune(trial.number)
    assert again.ask() == study.ask()
    assert isinstance(EarlyStopping.of(study.to_json()["early_stopping"]), EarlyStopping)
