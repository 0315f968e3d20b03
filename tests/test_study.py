"""The study as its users see it: ask, tell, best, stop, reproducibility, refusals."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

import suffice.optimizer.knowledge as knowledge_module
from suffice.optimizer import (
    Bool,
    Budget,
    Categorical,
    Conflict,
    Float,
    Int,
    InvalidInput,
    Measurement,
    NotFound,
    Space,
    Stop,
    StopReason,
    Study,
    Trial,
    TrialState,
)
from suffice.optimizer.models import FitError

PLANE = Space(x=Float(-5, 10), y=Float(0, 15))


def branin(p: dict[str, Any]) -> float:
    x, y = float(p["x"]), float(p["y"])
    bowl = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    return bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def run(study: Study, f: Any, trials: int) -> Study:
    for _ in range(trials):
        step = study.ask()
        if isinstance(step, Stop):
            break
        study.tell(step, f(step.params))
    return study


@pytest.mark.parametrize("seed", [0, 1])
def test_branin_is_solved(seed: int) -> None:
    study = Study(PLANE, budget=Budget(trials=35), seed=seed)
    while not isinstance(step := study.ask(), Stop):
        study.tell(step, branin(step.params))
    assert step.reason is StopReason.BUDGET
    assert study.best.trial.value < 0.397887 + 5e-3
    assert study.best.why == "best observed value"
    assert {t.source.method for t in study.trials} == {"quasi-random", "expected_improvement"}
    assert study.trials[-1].source.observations == 34


def test_maximising_is_minimising_the_negative() -> None:
    down = run(Study(PLANE, "minimize", seed=3), branin, 12)
    up = run(Study(PLANE, "maximize", seed=3), lambda p: -branin(p), 12)
    assert [t.params for t in down.trials] == [t.params for t in up.trials]
    assert up.best.trial.number == down.best.trial.number


def test_the_same_seed_and_tells_give_the_same_asks_also_after_reloading() -> None:
    first = run(Study(PLANE, seed=7), branin, 14)
    second = run(Study(PLANE, seed=7), branin, 14)
    assert first.trials == second.trials
    stored = json.loads(json.dumps([t.to_json() for t in first.trials]))
    third = Study.from_json(json.loads(json.dumps(first.to_json())))
    third.load(Trial.from_json(t) for t in stored)
    assert third.trials == first.trials
    assert third.ask() == first.ask()
    assert third.suggest(3) == first.suggest(3)
    assert run(Study(PLANE, seed=8), branin, 2).trials[0].params != first.trials[0].params


def test_the_order_of_tells_does_not_matter() -> None:
    def tell_in(order: list[int]) -> Any:
        study = Study(PLANE, seed=1)
        trials = study.ask(count=8)
        assert isinstance(trials, list)
        for i in order:
            study.tell(trials[i], branin(trials[i].params))
        return study.ask()

    assert tell_in(list(range(8))) == tell_in([5, 2, 7, 0, 1, 6, 3, 4])


def test_batches_are_joint_and_pending_trials_count() -> None:
    study = run(Study(PLANE, seed=0), branin, 10)
    batch = study.ask(count=4)
    assert isinstance(batch, list)
    assert [t.source.pending for t in batch] == [0, 1, 2, 3]
    assert [t.source.method for t in batch] == ["expected_improvement"] + ["noisy_expected_improvement"] * 3
    X = PLANE.encode([t.params for t in batch])
    distances = np.sqrt(((X[:, None] - X[None]) ** 2).sum(-1)) + np.eye(4)
    assert distances.min() > 1e-3
    assert study.ask().source.pending == 4  # type: ignore[union-attr]


def test_noise_is_inferred_and_best_is_the_recommended_point() -> None:
    rng = np.random.default_rng(0)
    study = run(
        Study(Space(x=Float(0, 1)), seed=0), lambda p: (p["x"] - 0.3) ** 2 * 10 + 0.5 * rng.standard_normal(), 30
    )
    best = study.best
    assert "posterior mean" in best.why
    assert best.mean is not None
    assert abs(best.params["x"] - 0.3) < 0.2
    assert min(t.value for t in study.trials) < best.mean  # not the luckiest observation
    assert study.trials[-1].source.method == "noisy_expected_improvement"


def test_known_noise_by_trial_and_for_the_study() -> None:
    rng = np.random.default_rng(0)
    known = Study(Space(x=Float(0, 1)), noise=0.5, seed=0)
    single = Study(Space(x=Float(0, 1)), seed=0)
    for _ in range(8):
        for study, stderr in ((known, None), (single, 0.5)):
            trial = study.ask()
            assert isinstance(trial, Trial)
            study.tell(trial, float(rng.standard_normal()), stderr=stderr)
    assert known.ask().source.method == single.ask().source.method == "noisy_expected_improvement"  # type: ignore[union-attr]


def test_outcome_constraints_are_kept_by_the_best_trial() -> None:
    study = Study(Space(x=Float(0, 1), y=Float(0, 1)), "maximize", outcome_constraints=["c <= 0.5"], seed=0)
    for _ in range(22):
        t = study.ask()
        assert isinstance(t, Trial)
        study.tell(t, {"objective": t.params["x"] + t.params["y"], "c": t.params["x"] ** 2 + t.params["y"] ** 2})
    assert study.best.trial.values["c"] <= 0.5
    assert study.best.trial.values["objective"] > 0.97


def test_without_a_feasible_trial_best_says_so() -> None:
    study = Study(Space(x=Float(0, 1)), outcome_constraints=["c <= 0"], seed=0)
    for c in (3.0, 1.0, 2.0):
        study.add({"x": c / 4}, {"objective": -c, "c": c})
    assert study.best.trial.values["c"] == 1.0
    assert "no trial satisfies" in study.best.why


def test_infeasible_configurations_are_avoided() -> None:
    study = Study(Space(x=Float(0, 1), y=Float(0, 1)), seed=0)
    for _ in range(30):
        t = study.ask()
        assert isinstance(t, Trial)
        if t.params["x"] > 0.5:
            study.infeasible(t, "diverged")
        else:
            study.tell(t, (t.params["x"] - 0.3) ** 2 + (t.params["y"] - 0.4) ** 2)
    late = study.trials[15:]
    assert sum(t.state is TrialState.INFEASIBLE for t in late) < len(late) / 2
    assert study.best.trial.value < 1e-3


def test_a_finite_space_is_tried_once_each_and_then_stops() -> None:
    space = Space(n=Int(1, 4), b=Bool(), c=Categorical("u", "v"), constraints=["n <= 3 or b"])
    study = Study(space, seed=0)
    while not isinstance(step := study.ask(), Stop):
        study.tell(step, float(step.params["n"] ** 2 + step.params["b"]))
    assert step.reason is StopReason.EXHAUSTED
    assert len({json.dumps(t.params) for t in study.trials}) == len(study.trials) == 14


def test_a_finite_space_is_never_handed_out_twice_while_pending() -> None:
    study = Study(Space(n=Int(1, 5)), seed=0)
    first = study.ask(count=9)
    assert isinstance(first, list)
    assert sorted(t.params["n"] for t in first) == [1, 2, 3, 4, 5]
    assert isinstance(study.ask(), Stop)


def test_noise_makes_repeats_possible_in_a_finite_space() -> None:
    rng = np.random.default_rng(0)
    study = run(Study(Space(n=Int(1, 4)), noise=1.0, seed=0), lambda p: p["n"] + rng.standard_normal(), 12)
    assert len(study.trials) == 12


def test_queued_points_come_first_and_count() -> None:
    study = Study(PLANE, budget=Budget(trials=2), seed=0)
    study.enqueue({"x": 1.0, "y": 2.0})
    batch = study.ask(count=5)
    assert isinstance(batch, list)
    assert [t.source.method for t in batch] == ["queued", "quasi-random"]
    assert batch[0].params == {"x": 1.0, "y": 2.0}
    assert isinstance(study.ask(), Stop)


def test_added_history_is_learned_from_and_costs_nothing() -> None:
    study = Study(PLANE, budget=Budget(trials=1), seed=0)
    for p in PLANE.decode(PLANE.sample(10, np.random.default_rng(0))):
        study.add(p, branin(p))
    trial = study.ask()
    assert isinstance(trial, Trial)
    assert trial.source.method == "expected_improvement"


def test_failed_and_cancelled_trials_do_not_count() -> None:
    study = Study(PLANE, budget=Budget(trials=2), seed=0)
    for end in (study.fail, study.cancel):
        trial = study.ask()
        assert isinstance(trial, Trial)
        end(trial, "worker died")
    assert len(study.ask(count=5)) == 2  # type: ignore[arg-type]


def test_telling_again_is_harmless_and_telling_otherwise_is_refused() -> None:
    study = Study(PLANE, seed=0)
    trial = study.ask()
    assert isinstance(trial, Trial)
    done = study.tell(trial, 1.0)
    assert study.tell(trial.number, 1.0) is done
    with pytest.raises(Conflict, match="trial 0 is COMPLETED with other values"):
        study.tell(trial, 2.0)
    with pytest.raises(Conflict, match="trial 0 is COMPLETED"):
        study.fail(trial)
    with pytest.raises(NotFound, match="there is no trial 9"):
        study.tell(9, 1.0)


def test_reports_are_kept_beside_the_result() -> None:
    study = Study(PLANE, seed=0)
    trial = study.ask()
    assert isinstance(trial, Trial)
    study.report(trial, 3.0, step=1)
    study.report(trial, Measurement("objective", 2.0, step=2))
    done = study.tell(trial, Measurement("objective", 1.0, stderr=0.1))
    assert [m.step for m in done.measurements] == [1, 2, None]
    assert done.value == 1.0
    with pytest.raises(InvalidInput, match="step"):
        study.report(study.ask(), 3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (math.nan, r"measurements.objective.value: expected a finite number, got nan"),
        (math.inf, r"expected a finite number, got inf"),
        (10**400, r"expected a finite number, got 1000"),
        ("1", r"expected a finite number, got '1'"),
        (True, r"expected a finite number, got True"),
        ({"loss": 1.0}, r"expected one of the metrics \['objective'\], got 'loss'; measurements: expected a value of"),
        ({}, "measurements: expected a value of"),
        ([], "measurements: expected a value of"),
    ],
)
def test_bad_results_are_refused_and_change_nothing(result: Any, message: str) -> None:
    study = Study(PLANE, seed=0)
    trial = study.ask()
    with pytest.raises(InvalidInput, match=message):
        study.tell(trial, result)  # type: ignore[arg-type]
    assert study.trials == [trial]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"objective": "smallest"}, "direction"),
        ({"objective": ["minimize", "maximize"]}, "objective"),
        ({"acquisition": "magic"}, "acquisition"),
        ({"noise": -1}, "noise"),
        ({"noise": "some"}, "noise"),
        ({"noise": None}, "noise"),
        ({"seed": -1}, "seed"),
        ({"budget": 5}, "budget"),
        ({"outcome_constraints": ["latency < 0.2"]}, "outcome_constraints.0"),
        ({"outcome_constraints": "latency <= 0.2"}, "outcome_constraints"),
    ],
)
def test_bad_definitions_name_the_field(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Study(PLANE, **arguments)
    assert error.value.problems[0].field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"objectives": []}, "objectives"),
        ({"context": ""}, "context"),
        ({"earlier": 0}, "earlier"),
        ({"budget": {"trails": 5}}, "budget.trails"),
        ({"budget": 5}, "budget"),
        ({"outcome_constraints": ""}, "outcome_constraints"),
    ],
)
def test_bad_json_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Study.from_json({**Study(Space(x=Float(0, 1))).to_json(), **change})
    assert caught.value.problems[0].field == field


def test_loaded_derivatives_are_checked() -> None:
    informed = Study(Space(x=Float(0, 1)), earlier=["before"])
    trial = Trial(0, {"x": 0.5}, TrialState.COMPLETED, (Measurement("objective", 1.0, gradient={"x": 2.0}),))
    with pytest.raises(InvalidInput, match="earlier"):
        informed.load([trial])
    with pytest.raises(InvalidInput):
        Study(Space(y=Float(0, 1))).load([trial])


def test_a_space_without_a_feasible_point_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="parameter_constraints"):
        Study(Space(x=Float(0, 1), constraints=["x >= 2"]))


def test_a_fit_that_fails_everywhere_gives_a_named_quasi_random_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    study = run(Study(PLANE, seed=0), branin, 10)

    def broken(*_: object, **__: object) -> None:
        raise FitError

    monkeypatch.setattr(knowledge_module, "fit_surrogate", broken)
    study.load([Trial(99, {"x": 0.0, "y": 0.0}, TrialState.COMPLETED, (Measurement("objective", 3.0),))])
    trial = study.ask()
    assert isinstance(trial, Trial)
    assert trial.source.method == "quasi-random"
    assert trial.source.why == "the model could not be fitted"
    assert trial.source.fallbacks == ("wider noise", "hyperparameters from the priors", "quasi-random")


DEGENERATE = {
    "constant": lambda p: 1.0,
    "huge": lambda p: 1e300 * p["x"],
    "tiny": lambda p: 1e-300 * p["x"],
    "step": lambda p: float(p["x"] > 0),
}


@pytest.mark.parametrize("f", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_objectives_are_survived(f: Any) -> None:
    study = run(Study(PLANE, seed=0), f, 12)
    assert len(study.trials) == 12
    assert math.isfinite(study.best.trial.value)


def test_predict_and_its_refusals() -> None:
    study = Study(PLANE, seed=0)
    with pytest.raises(NotFound, match="no model yet"):
        study.predict({"x": 1, "y": 1})
    run(study, branin, 25)
    prediction = study.predict([t.params for t in study.trials])
    np.testing.assert_allclose(prediction.mean, [t.value for t in study.trials], rtol=0.05, atol=2.0)
    assert (prediction.sd >= 0).all()
    assert study.predict({"x": 1, "y": 1}).mean.shape == (1,)
    with pytest.raises(InvalidInput, match=r"configurations.0.y"):
        study.predict({"x": 1, "y": 99})


@pytest.mark.parametrize("acquisition", ["auto", "upper_confidence_bound", "thompson"])
def test_the_next_trial_is_where_the_acquisition_is_largest(acquisition: str) -> None:
    study = Study(Space(x=Float(0, 1)), acquisition=acquisition, seed=3)
    grid = [{"x": float(x)} for x in np.linspace(0, 1, 201)]
    with pytest.raises(NotFound):
        study.acquisition_values(grid)
    for x in (0.05, 0.3, 0.5, 0.8):
        study.add({"x": x}, (x - 0.4) ** 2)
    running = study.ask()
    suggested = study.suggest()
    assert isinstance(running, Trial)
    assert isinstance(suggested, list)
    chosen = suggested[0]
    found = study.acquisition_values([chosen.params, running.params, *grid])
    assert found.method == chosen.source.method
    assert found.log_value[0] >= found.log_value.max() - 1e-6
    if chosen.source.gain is not None:
        assert found.log_value[1] < found.log_value[0] - 0.1, "the pending trial is known of"


def test_errors_travel_between_processes() -> None:
    with pytest.raises(InvalidInput) as error:
        PLANE.check({"x": 99, "y": 99})
    again = pickle.loads(pickle.dumps(error.value))
    assert again.problems == error.value.problems
    assert str(again) == str(error.value)


def test_the_start_spreads_out_and_repeats_nothing_however_it_is_asked() -> None:
    one_by_one, together = Study(PLANE, seed=5), Study(PLANE, seed=5)
    trials = [one_by_one.ask() for _ in range(12)]
    batch = together.ask(count=12)
    assert isinstance(batch, list)
    assert [t.params for t in trials] == [t.params for t in batch]  # type: ignore[union-attr]
    X = PLANE.encode([t.params for t in batch])
    distances = np.sqrt(((X[:, None] - X[None]) ** 2).sum(-1)) + np.eye(12)
    assert distances.min() > 0.05


def test_beyond_the_exact_size_the_model_stands_on_a_part_and_says_so() -> None:
    study = Study(PLANE, seed=0)
    study.load(
        Trial(i, params, TrialState.COMPLETED, (Measurement("objective", branin(params)),))
        for i, params in enumerate(PLANE.decode(PLANE.sample(2100, np.random.default_rng(0))))
    )
    trial = study.ask()
    assert isinstance(trial, Trial)
    assert trial.source.fallbacks[0].startswith("a model of 2000 of 2100 results")
    assert trial.source.observations == 2100
