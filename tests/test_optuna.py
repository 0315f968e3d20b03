"""The sampler passes Optuna's own cases, learns what switches parameters on, and suggests what the core itself asks."""

import itertools
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suffice.optimizer import Bool, Categorical, Constant, Float, Int, InvalidInput, Ordinal, Space, Study, Trial

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.samplers import BaseSampler, RandomSampler  # noqa: E402
from optuna.testing.pytest_samplers import (  # noqa: E402
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from suffice.adapters.optuna import SufficeSampler, distributions, suggest  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)

cases: tuple[Any, ...] = (
    BasicSamplerTestCase.test_single_parameter_objective,
    BasicSamplerTestCase.test_combination_of_different_distributions_objective,
)
for case in cases:
    # Optuna parametrizes these with lambdas, whose names are all the same, which a strict pytest refuses.
    case.pytestmark = [pytest.mark.parametrize(*m.args, ids=range(len(m.args[1]))).mark for m in case.pytestmark]


class TestOptunasOwnCases(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SufficeSampler(seed=0)


class Counting(RandomSampler):
    """An independent sampler that takes note of what it was asked for."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.asked: list[tuple[int, str]] = []

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        self.asked.append((trial.number, param_name))
        return super().sample_independent(study, trial, param_name, param_distribution)


SPACE = Space(
    {
        "kind": Categorical("linear", "tree"),
        "lr": Float(1e-4, 1.0, log=True, active_if="kind == 'linear'"),
        "depth": Int(1, 9, active_if="kind == 'tree'"),
        "share": Float(0.0, 1.0, step=0.25),
        "other": Float(0.0, 1.0),
        "size": Ordinal(1, 2, 4),
        "flag": Bool(),
        "fixed": Constant("yes"),
    },
    constraints=["share + other <= 1.2"],
)


def loss(params):
    part = math.log10(params["lr"]) + 2.0 if params["kind"] == "linear" else params["depth"] - 4.0
    return part**2 + (params["share"] - 0.5) ** 2 + (params["other"] - 0.6) ** 2 + params["size"] - params["flag"]


# --- a given space ----------------------------------------------------------------------------------------------------


def test_with_a_given_space_it_suggests_exactly_what_the_core_asks():
    native = Study(SPACE, noise="none", seed=3)
    study = optuna.create_study(sampler=SufficeSampler(SPACE, noise="none", seed=3))
    for _ in range(12):
        asked = native.ask()
        assert isinstance(asked, Trial)
        native.tell(asked, loss(asked.params))
        trial = study.ask()
        params = suggest(trial, SPACE)
        assert params == asked.params
        study.tell(trial, loss(params))
    assert study.best_value == native.best.trial.value


def test_distributions_say_what_the_space_says():
    assert distributions(SPACE) == {
        "kind": CategoricalDistribution(["linear", "tree"]),
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "depth": IntDistribution(1, 9),
        "share": FloatDistribution(0.0, 1.0, step=0.25),
        "other": FloatDistribution(0.0, 1.0),
        "size": CategoricalDistribution([1, 2, 4]),
        "flag": CategoricalDistribution([False, True]),
    }
    with pytest.raises(InvalidInput, match=r"parameters\.x\.step"):
        distributions(Space(x=Int(1, 9, log=True, step=2)))


def test_a_fixed_parameter_of_a_condition_is_refused_and_any_other_is_left_out():
    plain = Space(x=Float(0, 1), y=Float(0, 1), z=Float(0, 1), constraints=["x + y <= 1"])
    study = optuna.create_study(sampler=SufficeSampler(plain, seed=0))
    study.ask()
    trial = study.trials[0]
    found = study.sampler.sample_relative(study, trial, {n: d for n, d in distributions(plain).items() if n != "z"})
    assert found.keys() == {"x", "y"}
    with pytest.raises(InvalidInput, match="fixed outside the sampler"):
        study.sampler.sample_relative(study, trial, {n: d for n, d in distributions(plain).items() if n != "y"})


@pytest.mark.parametrize("options", [{"noise": -1.0}, {"acquisition": "luck"}, {"seed": -1}])
def test_bad_options_are_refused_at_once(options: dict[str, Any]):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        SufficeSampler(**options)


# --- a learned space --------------------------------------------------------------------------------------------------


def test_it_learns_which_choice_switches_a_parameter_on():
    def objective(trial):
        kind = trial.suggest_categorical("kind", ["a", "b", None])
        x = trial.suggest_float("x", 0, 1)
        if kind == "a":
            return x + trial.suggest_float("y", 0, 1) + trial.suggest_float("y2", 0, 1)
        if kind == "b":
            deep = trial.suggest_categorical("deep", [True, False])
            return x + (trial.suggest_int("z", 1, 100, log=True) if deep else 2.0)
        return 1.0

    independent = Counting()
    study = optuna.create_study(sampler=SufficeSampler(seed=1, independent_sampler=independent))
    for params in ({"kind": "a"}, {"kind": "b", "deep": True}, {"kind": "b", "deep": False}, {"kind": None}):
        study.enqueue_trial(params)
    study.optimize(objective, n_trials=20)
    assert {number for number, _ in independent.asked} <= {0, 1, 2, 3}
    later = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert later.keys() == {"kind", "x", "y", "y2", "deep", "z"}
    assert len({t.params["kind"] for t in study.trials[4:]}) > 1


def test_it_learns_from_which_number_a_parameter_is_there():
    def objective(trial):
        layers = trial.suggest_int("layers", 1, 4)
        return sum((trial.suggest_int(f"units{i}", 1, 64) - 20.0) ** 2 for i in range(layers)) - 300.0 * layers

    independent = Counting()
    study = optuna.create_study(sampler=SufficeSampler(seed=1, noise="none", independent_sampler=independent))
    for layers in (1, 2, 3, 4):
        study.enqueue_trial({"layers": layers})
    study.optimize(objective, n_trials=16)
    assert {number for number, _ in independent.asked} <= {0, 1, 2, 3}
    assert study.best_params["layers"] > 1


def test_what_nothing_explains_is_drawn_independently():
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        y = trial.suggest_float("y", 0, 0.5 + x)  # another range in every trial
        return x + y + (trial.suggest_float("z", 0, 1) if trial.number % 2 else 0.0)

    independent = Counting()
    study = optuna.create_study(sampler=SufficeSampler(seed=1, independent_sampler=independent))
    study.optimize(objective, n_trials=6)
    assert {name for number, name in independent.asked if number > 1} == {"y", "z"}


def test_after_a_change_of_range_it_searches_the_new_one():
    independent = Counting()
    study = optuna.create_study(sampler=SufficeSampler(seed=1, noise="none", independent_sampler=independent))
    study.optimize(lambda t: (t.suggest_float("x", 0, 10) - 7) ** 2, n_trials=6)
    study.optimize(lambda t: (t.suggest_float("x", 0, 5) - 7) ** 2, n_trials=8)
    # The first trial of the new range is a guess into the old one; when two agree, the range has settled.
    assert {number for number, _ in independent.asked} <= {0, 6, 7}
    assert max(t.params["x"] for t in study.trials[6:]) > 4.9


def test_a_parameter_that_someone_else_fixes_leaves_the_rest_to_the_model():
    independent = Counting()
    study = optuna.create_study(sampler=SufficeSampler(seed=1, independent_sampler=independent))

    def objective(trial):
        return trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1)

    study.optimize(objective, n_trials=2)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.sampler = optuna.samplers.PartialFixedSampler({"y": 0.5}, study.sampler)
    study.optimize(objective, n_trials=3)
    assert [t.params["y"] for t in study.trials[2:]] == [0.5] * 3
    assert {number for number, _ in independent.asked} == {0}


# --- trials -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_trials_also_after_pickling():
    def run(pickled: bool) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=SufficeSampler(seed=5))
        for _ in range(9):
            study.optimize(lambda t: loss(suggest(t, SPACE)), n_trials=1)
            if pickled:
                study.sampler = pickle.loads(pickle.dumps(study.sampler))
        return [t.params for t in study.trials]

    assert run(False) == run(False) == run(True)


def test_running_trials_are_pending_for_every_worker(tmp_path: Path):
    names = [f"a_parameter_with_a_long_name_{i}" for i in range(50)]  # suggestions longer than one attribute
    space = Space({name: Float(0, 1) for name in names})
    storage = f"sqlite:///{tmp_path}/study.db"
    workers = [
        optuna.create_study(
            study_name="s", storage=storage, load_if_exists=True, sampler=SufficeSampler(space, seed=0, noise="none")
        )
        for _ in range(2)
    ]
    first, second = (w.ask(distributions(space)) for w in workers)  # neither asks for its parameters one by one
    late = [w.ask() for w in workers]
    late[0].suggest_float(names[0], 0, 1)  # the others of this trial are decided, but the storage has one parameter
    third = workers[1].ask(distributions(space))
    known = workers[1].sampler._loaded.core.trials
    assert [t.params for t in known if t.number != late[1].number] == [
        first.params,
        second.params,
        {n: late[0].relative_params[n] for n in names},
    ]
    assert third.params not in [t.params for t in known]


def test_a_batch_of_open_trials_is_spread_out():
    space = Space(x=Float(0, 1))
    study = optuna.create_study(sampler=SufficeSampler(space, seed=0, noise="none"))
    study.optimize(lambda t: (t.suggest_float("x", 0, 1) - 0.4) ** 2, n_trials=6)
    xs = sorted(study.ask().suggest_float("x", 0, 1) for _ in range(4))
    assert min(b - a for a, b in itertools.pairwise(xs)) > 1e-4


def test_threads_share_a_sampler():
    study = optuna.create_study(sampler=SufficeSampler(SPACE, seed=0))
    study.optimize(lambda t: loss(suggest(t, SPACE)), n_trials=8, n_jobs=2)
    assert len({str(sorted(t.params.items())) for t in study.trials}) == 8


def test_an_enqueued_configuration_is_run_as_it_is():
    study = optuna.create_study(sampler=SufficeSampler(Space(x=Float(0, 1)), seed=0))
    study.enqueue_trial({"x": 0.25})
    assert study.ask().suggest_float("x", 0, 1) == 0.25
    assert study.sampler._loaded is None  # nothing was computed for it


def test_constraints_are_learned_whichever_way_they_are_told():
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("excess", 0.3 - x)
        return x

    def told(trial):
        value = objective(trial)
        trial.set_constraint("at least 0.3", 0.3 - value)
        return value

    by_function = SufficeSampler(seed=2, noise="none", constraints_func=lambda t: [t.user_attrs["excess"]])
    for sampler, run in ((by_function, objective), (SufficeSampler(seed=2, noise="none"), told)):
        study = optuna.create_study(sampler=sampler)
        study.optimize(run, n_trials=14)
        assert 0.3 <= study.best_trial.params["x"] < 0.31
        assert sum(abs(t.params["x"] - 0.3) < 0.1 for t in study.trials[-6:]) >= 3


def test_a_constraint_that_is_no_number_is_refused():
    study = optuna.create_study(sampler=SufficeSampler(seed=2, constraints_func=lambda t: [math.nan]))
    with pytest.raises(InvalidInput, match="constraints_func"):
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)


def test_failures_and_infinities_are_not_repeated_and_can_be_avoided():
    def objective(trial):
        x = trial.suggest_int("x", 0, 40)
        return math.nan if x < 10 else math.inf if x > 35 else float(x)

    for avoid in (False, True):
        study = optuna.create_study(sampler=SufficeSampler(seed=2, noise="none", avoid_failures=avoid))
        study.optimize(objective, n_trials=24)
        xs = [t.params["x"] for t in study.trials]
        assert len(set(xs)) == len(xs)
    assert study.best_value == 10.0
    assert sum(t.state is optuna.trial.TrialState.FAIL for t in study.trials[12:]) <= 4


def test_pruned_trials_keep_their_reports_and_are_not_repeated():
    def objective(trial):
        x = trial.suggest_int("x", 0, 5)
        trial.report(x + 0.5, step=3)
        trial.report(math.nan, step=4)
        if x > 2:
            raise optuna.TrialPruned
        return float(x)

    study = optuna.create_study(sampler=SufficeSampler(seed=2, noise="none"))
    study.optimize(objective, n_trials=6)
    assert sorted(t.params["x"] for t in study.trials) == [0, 1, 2, 3, 4, 5]
    study.ask().suggest_int("x", 0, 5)
    for ours, theirs in zip(study.sampler._loaded.core.trials, study.trials, strict=False):
        assert [m.value for m in ours.measurements if m.step == 3] == [theirs.params["x"] + 0.5]
        assert (ours.state == "PRUNED") == (theirs.params["x"] > 2)


def test_several_objectives_reach_the_front():
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=SufficeSampler(seed=0, noise="none"))

    def objective(trial):
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        return (x - 0.2) ** 2 + y, -((x - 0.8) ** 2) - y

    study.optimize(objective, n_trials=14)
    assert sum(t.params["y"] < 0.05 and 0.15 < t.params["x"] < 0.85 for t in study.trials[6:]) >= 5


def test_hyperbands_brackets_see_only_their_trials():
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    study = optuna.create_study(sampler=SufficeSampler(seed=0, noise="none"), pruner=pruner)

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in range(9):
            trial.report((x - 0.3) ** 2 + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return (x - 0.3) ** 2

    study.optimize(objective, n_trials=12)
    assert study.best_value < 0.05
