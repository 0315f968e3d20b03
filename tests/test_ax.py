"""Ax reads what we write and we read what Ax writes; its analyses, policies and generator see the study as it is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suffice.adapters.ax import (
    AxGenerator,
    Improvement,
    Percentile,
    Threshold,
    analyse,
    from_ax,
    from_snapshot,
    policy,
    stop_early,
    stop_study,
    to_ax,
    to_snapshot,
)
from suffice.optimizer import (
    Bool,
    Categorical,
    Constant,
    Float,
    Int,
    InvalidInput,
    Measurement,
    NotFound,
    Objective,
    Ordinal,
    Space,
    Stop,
    StopReason,
    Study,
    Trial,
    TrialState,
)

pytest.importorskip("ax")
axs_own = pytest.mark.filterwarnings("ignore")  # where a test speaks to Ax itself, which warns about its own calls

SPACE = Space(
    {
        "x": Float(0.0, 1.0),
        "lr": Float(1e-5, 1e-1, log=True),
        "n": Int(1, 8),
        "wide": Int(1, 1000, log=True),
        "share": Float(0.0, 1.0, step=0.25),
        "even": Int(2, 10, step=4),
        "kind": Categorical("a", "b", "c"),
        "y": Float(0.0, 2.0, active_if="kind == 'a'"),
        "flag": Bool(),
        "depth": Int(1, 4, active_if="flag == True"),
        "size": Ordinal("S", "M", "L"),
        "fixed": Constant("v"),
    },
    constraints=["1.0 * n + 1.0 * x <= 8.0"],
)
PARAMS = {
    "x": 0.5, "lr": 1e-3, "n": 2, "wide": 40, "share": 0.25, "even": 6, "kind": "b", "flag": False, "size": "M",
}  # fmt: skip


def a_study() -> Study:
    """A study with a trial in every state."""
    study = Study(SPACE, {"loss": "minimize"}, outcome_constraints=["lat <= 0.5", "acc >= 0.1"], seed=0)
    states = [state for state in TrialState if state is not TrialState.PRUNED]
    for number, state in enumerate(states):
        done = state is TrialState.COMPLETED
        results = [Measurement("loss", 1.25, 0.1, gradient={"x": 2.0}), Measurement("loss", 1.75, 0.2)] if done else []
        reason = "why not" if state in (TrialState.FAILED, TrialState.INFEASIBLE) else None
        params = study.space.check({**PARAMS, "x": number / 10})
        study.load([Trial(number, params, state, tuple(results), reason=reason)])
    early = (Measurement("loss", 3.0, step=1), Measurement("loss", 2.5, step=2), Measurement("lat", 0.3, step=2))
    params = study.space.check({**PARAMS, "kind": "a", "y": 1.5, "flag": True, "depth": 2})
    study.load([Trial(len(states), params, TrialState.PRUNED, early)])
    return study


# --- import and export ------------------------------------------------------------------------------------------------


def test_a_study_comes_back_as_it_went():
    study = a_study()
    for back in (from_ax(to_ax(study)), from_snapshot(json.loads(json.dumps(to_snapshot(study))))):
        assert back.left_out == ()
        assert back.study.space == study.space
        assert back.study.goal == study.goal
        assert back.study.trials == study.trials


@axs_own
def test_axs_client_goes_on_from_a_snapshot(tmp_path: Path):
    from ax.api.client import Client
    from ax.core.trial_status import TrialStatus

    study = a_study()
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(to_snapshot(study)))
    client = Client.load_from_json_file(str(path))
    experiment: Any = client._experiment
    statuses = ["CANDIDATE", "RUNNING", "COMPLETED", "FAILED", "ABANDONED", "FAILED", "STALE", "EARLY_STOPPED"]
    assert [t.status for t in experiment.trials.values()] == [TrialStatus[s] for s in statuses]
    row = experiment.lookup_data().df.query("trial_index == 2").iloc[0]
    assert row["mean"] == pytest.approx(1.5)  # two replicates
    assert row["sem"] == pytest.approx(math.hypot(0.1, 0.2) / 2)
    client.complete_trial(1, {"loss": (0.5, 0.01), "lat": 0.2, "acc": 0.9})
    back = from_ax(experiment)
    assert back.study.trials[1].state is TrialState.COMPLETED
    assert back.study.trials[1].values == {"loss": 0.5, "lat": 0.2, "acc": 0.9}
    assert back.study.trials[1].final[0].stderr == 0.01
    assert back.study.trials[2] == study.trials[2]


@axs_own
def test_an_experiment_of_axs_own_is_read():
    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    client = Client()
    client.configure_experiment(
        [
            RangeParameterConfig("x", (0, 1), "float"),
            RangeParameterConfig("lr", (1e-4, 1), "float", scaling="log"),
            RangeParameterConfig("half", (0, 2), "float", step_size=0.5),
            RangeParameterConfig("n", (1, 9), "int"),
            ChoiceParameterConfig("k", ["a", "b", "c"], "str", is_ordered=False, dependent_parameters={"a": ["y"]}),
            RangeParameterConfig("y", (0, 1), "float"),
            ChoiceParameterConfig("o", [1, 2, 4], "int", is_ordered=True),
            ChoiceParameterConfig("f", [True, False], "bool", is_ordered=True),
            ChoiceParameterConfig("one", [3], "int"),
        ],
        parameter_constraints=["x + 2*n <= 12"],
    )
    client.configure_optimization("-loss, acc", ["lat <= 0.5", "acc >= 0.2"])
    params: dict[str, Any] = {"x": 0.5, "lr": 0.1, "half": 1.5, "n": 2, "k": "b", "o": 4, "f": True, "one": 3}
    client.complete_trial(client.attach_trial({**params}), {"loss": (1.0, 0.1), "acc": 0.5, "lat": 0.1, "seconds": 9.0})
    client.attach_data(client.attach_trial({**params, "k": "a", "y": 0.25}), {"loss": 2.0}, progression=3)
    client.mark_trial_abandoned(client.attach_trial({**params, "n": 3}))
    client.complete_trial(client.attach_trial({**params, "n": 4}), {"loss": math.nan, "acc": 1.0, "lat": 0.0})

    found = from_snapshot(client._to_json_snapshot())
    study = found.study
    assert study.space == Space(
        {
            "x": Float(0, 1),
            "lr": Float(1e-4, 1, log=True),
            "half": Float(0, 2, step=0.5),
            "n": Int(1, 9),
            "k": Categorical("a", "b", "c"),
            "y": Float(0, 1, active_if="k == 'a'"),
            "o": Ordinal(1, 2, 4),
            "f": Bool(),
            "one": Constant(3),
        },
        constraints=[study.space.constraints[0].text],
    )
    assert [study.space.constraints[0].holds({"x": 1.0, "n": n}) for n in (5, 6)] == [True, False]
    assert study.goal.objectives == (Objective("loss", "minimize"), Objective("acc", "maximize", 0.2))
    assert [str(c) for c in study.goal.outcome_constraints] == ["lat <= 0.5"]
    done, running, abandoned, failed = study.trials
    assert (done.values, done.final[0].stderr) == ({"loss": 1.0, "acc": 0.5, "lat": 0.1}, 0.1)
    assert (running.state, running.measurements) == (TrialState.RUNNING, (Measurement("loss", 2.0, step=3),))
    assert running.params["y"] == 0.25
    assert abandoned.state is TrialState.INFEASIBLE
    assert (failed.state, failed.reason) == (TrialState.FAILED, "no finite loss")
    assert found.left_out == (
        "the metric seconds: neither objective nor constraint uses it",
        "trial 3: loss = nan",
    )


@pytest.mark.parametrize(
    ("space", "field"),
    [
        (Space(x=Float(1, 2, log=True), y=Float(0, 1), constraints=["x + y <= 2"]), "parameter_constraints.0"),
        (Space(x=Float(1, 2), y=Float(0, 1), constraints=["x * y <= 2"]), "parameter_constraints.0"),
        (Space(n=Int(1, 4), y=Float(0, 1, active_if="n >= 2")), "parameters.y.active_if"),
        (Space(k=Categorical(*"abc"), y=Float(0, 1, active_if="k != 'a'")), "parameters.y.active_if"),
        (Space(k=Categorical(1, "a")), "parameters.k.choices"),
        (Space(k=Ordinal(3, 1, 2)), "parameters.k.choices"),
        (Space(x=Float(0, 1, step=1e-6)), "parameters.x.step"),
    ],
)
def test_what_ax_cannot_express_is_named(space: Space, field: str):
    with pytest.raises(InvalidInput) as raised:
        to_ax(Study(space))
    assert raised.value.problems[0].field == field


def test_goals_that_ax_cannot_express_are_named():
    for study in (Study(SPACE, {"a-b": "minimize"}), Study(SPACE, outcome_constraints=["objective <= 1"])):
        with pytest.raises(InvalidInput, match="for Ax"):
            to_ax(study)


@axs_own
def test_relaxed_it_leaves_out_what_only_a_generator_needs():
    space = Space(n=Int(1, 4), y=Float(0, 1, active_if="n >= 2"), constraints=["n * y <= 3"])
    study = Study(space, seed=0)
    study.add({"n": 1}, 1.0)
    experiment: Any = to_ax(study, relaxed=True)
    assert experiment.trials[0].arm.parameters == {"n": 1, "y": 0.5}
    assert experiment.search_space.parameter_constraints == []


def test_a_snapshot_cannot_run_code():
    snapshot = to_snapshot(a_study())
    for text in ("-loss + exit()", "9**9**9", "loss.__class__('x')"):
        snapshot["experiment"]["optimization_config"]["objective"]["expression"] = text
        with pytest.raises(InvalidInput, match="plain linear arithmetic"):
            from_snapshot(snapshot)


@pytest.mark.parametrize("snapshot", [{}, [], {"experiment": {"__type": "Runner"}}, {"__type": "Experiment"}])
def test_what_is_no_snapshot_is_refused(snapshot: Any):
    with pytest.raises(InvalidInput, match="snapshot"):
        from_snapshot(snapshot)


@axs_own
def test_what_a_study_cannot_express_is_named():
    from ax.core.arm import Arm
    from ax.core.parameter import ParameterType, RangeParameter
    from ax.core.search_space import SearchSpace

    experiment: Any = to_ax(Study(Space(x=Float(0, 1))))
    experiment._search_space = SearchSpace(
        [RangeParameter("x", ParameterType.FLOAT, 0, 1, is_fidelity=True, target_value=1)]
    )
    with pytest.raises(InvalidInput, match=r"parameters\.x\.is_fidelity"):
        from_ax(experiment)
    experiment = to_ax(Study(Space(x=Float(0, 1))))
    experiment.new_batch_trial().add_arms_and_weights([Arm({"x": 0.1}), Arm({"x": 0.2})])
    with pytest.raises(InvalidInput, match=r"trials\.0"):
        from_ax(experiment)


# --- analyses ---------------------------------------------------------------------------------------------------------


def test_analyses_are_figures_and_tables():
    space = Space(
        x=Float(0, 1), y=Float(0, 1), z=Float(0, 1), k=Categorical("a", "b"), w=Float(0, 1, active_if="k=='a'")
    )
    study = Study(space, {"loss": "minimize"}, outcome_constraints=["lat <= 1"], seed=0)
    with pytest.raises(NotFound, match="fewer than three"):
        analyse(study)
    for _ in range(10):
        trial = study.ask()
        assert isinstance(trial, Trial)
        x, y = trial.params["x"], trial.params["y"]
        study.tell(trial, {"loss": 4 * x + y, "lat": y})
    cards = analyse(study)
    names = ["SensitivityAnalysisPlot", "CrossValidationPlot", "CrossValidationPlot", "ContourPlot"]
    assert [c.name for c in cards] == 2 * names
    assert ["lat" in c.title for c in cards] == [False] * 4 + [True, True, False, True]  # the third is a summary
    for card in cards:
        assert card.plotly is not None
        assert card.plotly["data"]
        json.dumps(card.to_json(), allow_nan=False)
    sensitivity, validation, _, contour = (c.table for c in cards[:4])
    ranked = sorted(sensitivity, key=lambda row: -abs(row["sensitivity"]))
    assert [row["parameter_name"] for row in ranked[:2]] == ["x", "y"]
    assert {"x", "y", "loss_mean"} <= contour[0].keys()
    assert sorted(row["observed"] for row in validation) == pytest.approx(
        sorted(t.values["loss"] for t in study.trials)
    )
    assert {c.name for c in analyse(study, ["cross_validation"], metric="lat")} == {"CrossValidationPlot"}
    wrong: list[dict[str, Any]] = [{"analyses": ["tea leaves"]}, {"metric": "speed"}]
    for bad in wrong:
        with pytest.raises(InvalidInput):
            analyse(study, **bad)


# --- stopping ---------------------------------------------------------------------------------------------------------


def curves(direction: Any = "minimize") -> Study:
    """Six completed trials that end at 1 to 6, and two that run: trial 6 at 9 after step 4, trial 7 at 0.5."""
    study = Study(Space(x=Float(0, 10)), {"loss": direction}, seed=0)
    for number, end in enumerate([1, 2, 3, 4, 5, 6, 9, 0.5]):
        steps = tuple(Measurement("loss", end + (4 - s), step=s) for s in range(5))
        done = number < 6
        state = TrialState.COMPLETED if done else TrialState.RUNNING
        study.load([Trial(number, {"x": float(end)}, state, (*steps, Measurement("loss", end)) if done else steps)])
    return study


def test_trials_are_stopped_early_for_axs_reasons():
    assert stop_early(curves(), Percentile(min_step=2)).keys() == {6}
    assert stop_early(curves("maximize"), Percentile(min_step=2)).keys() == {7}
    assert "percentile" in stop_early(curves(), Percentile(min_step=2))[6]
    assert stop_early(curves(), Percentile(min_step=10)) == {}
    assert stop_early(curves(), Percentile(min_step=2, min_curves=7)) == {}
    assert stop_early(curves(), Percentile(min_step=2, keep_best=8)) == {}
    assert stop_early(curves(), Threshold(8.0, min_step=2)).keys() == {6}
    assert stop_early(curves(), Threshold(0.1, min_step=2)).keys() == {6, 7}
    assert stop_early(Study(Space(x=Float(0, 1))), Percentile()) == {}


def test_numbers_of_stopped_trials_are_the_studys():
    study = curves()
    shifted = Study(study.space, {"loss": "minimize"})
    shifted.load(replace(t, number=3 * t.number + 2) for t in study.trials)
    assert stop_early(shifted, Percentile(min_step=2)).keys() == {20}


def test_a_study_is_stopped_when_it_no_longer_improves():
    study = Study(Space(x=Float(0, 10)), {"loss": "minimize"}, seed=0)
    assert stop_study(study, Improvement(min_trials=5)) is None
    for number, value in enumerate([9.0, 5.0, 4.0, 2.0, 1.0]):
        study.add({"x": float(number)}, value)
    assert stop_study(study, Improvement(min_trials=5, window=3)) is None
    for number in range(5):
        study.add({"x": number + 0.5}, 3.0)
    assert "improvement" in str(stop_study(study, Improvement(min_trials=5, window=3)))
    assert stop_study(study, Improvement(min_trials=11, window=3)) is None
    study.ask()
    assert stop_study(study, Improvement(min_trials=5, window=3)) is None
    assert stop_study(study, Improvement(min_trials=5, window=3, while_running=True)) is not None


def test_several_objectives_stop_by_their_volume():
    study = Study(Space(x=Float(0, 10)), {"a": "minimize", "b": "maximize"}, seed=0)
    for x in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        study.add({"x": x}, {"a": (x - 3) ** 2, "b": -((x - 5) ** 2)})
    for _ in range(4):
        study.add({"x": 9.0}, {"a": 50.0, "b": -50.0})
    assert "hypervolume" in str(stop_study(study, Improvement(min_trials=5, window=3)))
    with pytest.raises(InvalidInput, match=r"policy\.metric"):
        stop_early(study, Percentile())


def test_policies_are_checked_by_name():
    assert policy({"name": "percentile", "percentile": 25, "min_step": 3}) == Percentile(25, min_step=3)
    assert policy({"name": "threshold", "threshold": 0.2}) == Threshold(0.2)
    assert policy({"name": "improvement", "min_trials": 8}) == Improvement(8)


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ({"name": "luck"}, "policy.name"),
        ({}, "policy.name"),
        ({"name": "percentile", "bar": 1}, "policy.bar"),
        ({"name": "percentile", "percentile": 101}, "policy.percentile"),
        ({"name": "percentile", "min_curves": 1.5}, "policy.min_curves"),
        ({"name": "percentile", "metric": 3}, "policy.metric"),
        ({"name": "threshold"}, "policy.threshold"),
        ({"name": "threshold", "threshold": "low"}, "policy.threshold"),
        ({"name": "improvement", "window": 0}, "policy.window"),
        ({"name": "improvement", "while_running": 1}, "policy.while_running"),
    ],
)
def test_bad_policies_are_refused(definition: dict[str, Any], field: str):
    with pytest.raises(InvalidInput) as raised:
        policy(definition)
    assert raised.value.problems[0].field == field


def test_options_that_do_not_fit_together_are_refused():
    with pytest.raises(InvalidInput, match="fit together"):
        stop_early(curves(), Percentile(min_step=2, patience=5))


# --- generator --------------------------------------------------------------------------------------------------------


def test_ax_suggests_in_the_studys_place():
    study = Study(Space(x=Float(0, 1), y=Float(0, 1)), noise="none", seed=1)
    generator = AxGenerator()
    methods = []
    for number in range(7):
        found = generator.suggest(study, 1, first_number=number)
        assert not isinstance(found, Stop)
        (suggestion,) = found
        methods.append(suggestion.source.method)
        params = suggestion.params
        study.load([Trial(number, params, source=suggestion.source)])
        study.tell(number, (params["x"] - 0.7) ** 2 + (params["y"] - 0.2) ** 2)
    assert methods == ["ax:CenterOfSearchSpace", *["ax:Sobol"] * 4, *["ax:MBM"] * 2]
    answer = generator.suggest(study, 2)
    assert not isinstance(answer, Stop)
    one, two = answer
    assert generator.suggest(study, 1) == [one]
    assert one.params != two.params
    assert (one.source.observations, one.source.pending, two.source.pending) == (7, 0, 1)
    assert one.source.mean == pytest.approx(
        (one.params["x"] - 0.7) ** 2 + (one.params["y"] - 0.2) ** 2, abs=4 * float(one.source.sd or 0.0)
    )


def test_a_constraint_holds_from_the_start():
    study = Study(Space(x=Float(0, 1), y=Float(0, 1), constraints=["x + y <= 0.5"]), seed=1)
    answer = AxGenerator().suggest(study, 4)
    assert not isinstance(answer, Stop)
    assert all(s.params["x"] + s.params["y"] <= 0.5 for s in answer)


def test_ax_stops_when_a_finite_space_is_exhausted():
    study = Study(Space(k=Categorical("a", "b", "c")), seed=1)
    for k in "ab":
        study.add({"k": k}, 1.0)
    answer = AxGenerator().suggest(study, 2)
    assert not isinstance(answer, Stop)
    assert [s.params for s in answer] == [{"k": "c"}]
    study.add({"k": "c"}, 1.0)
    stop = AxGenerator().suggest(study)
    assert isinstance(stop, Stop)
    assert stop.reason is StopReason.EXHAUSTED


def test_what_ax_would_ignore_is_refused():
    settings: list[dict[str, Any]] = [
        {"cost": 1.0},
        {"acquisition": "thompson"},
        {"context": ["y"]},
        {"earlier": ["last year"]},
        {"fidelity": {"target": {"y": 1.0}, "cost": "1"}},
        {"environment": {"y": "uniform"}},
        {"conservative": {"baseline": {"x": 0.5, "y": 0.5}, "margin": 0.1}},
        {"early_stopping": {"policy": "median", "steps": 27}},
    ]
    for setting in settings:
        study = Study(Space(x=Float(0, 1), y=Float(0, 1)), **setting)
        with pytest.raises(InvalidInput, match="because Ax") as error:
            AxGenerator().suggest(study)
        assert error.value.problems[0].field.split(".")[0] in setting
