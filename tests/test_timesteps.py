"""Time steps as a parameter, and the known schedules."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from strategies import time_steps

from suffice.optimizer import Categorical, Float, InvalidInput, Space, Stop, Study, TimeSteps, known_schedules
from suffice.optimizer.search import Exclusion, maximise
from suffice.optimizer.timesteps import (
    beta,
    exponential,
    flow,
    karras,
    leading,
    linspace,
    power,
    resample,
    times_at,
    trailing,
)

seeds = st.integers(0, 2**31)
converting = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # how diffusers makes arrays of tensors
BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHA_BAR = np.cumprod(1.0 - BETAS)
SIGMAS = np.sqrt((1.0 - ALPHA_BAR) / ALPHA_BAR)


@given(time_steps(), seeds)
def test_any_point_of_the_cube_means_an_allowed_sequence(p: TimeSteps, seed: int) -> None:
    rng = np.random.default_rng(seed)
    U = rng.random((8, p.width)).round(rng.integers(1, 8))  # rounded: with ties
    for values in (p.from_unit(U), p.from_uniform(U * 0.999), *p.moves(p.from_unit(U), rng)):
        for steps in values:
            native = p.to_native(steps)
            assert p.check(native) == native


@given(time_steps(), seeds)
def test_columns_are_the_sorted_positions(p: TimeSteps, seed: int) -> None:
    steps = p.from_uniform(np.random.default_rng(seed).random((8, p.width)))
    U = p.to_unit(steps)
    assert (np.diff(U, axis=1) < 0).all()
    np.testing.assert_allclose(p.from_unit(U), steps, rtol=1e-9, atol=1e-9)
    shuffled = np.random.default_rng(seed).permutation(U, axis=1)
    np.testing.assert_allclose(p.from_unit(shuffled), steps, rtol=1e-9, atol=1e-9)
    if p.width == p.k and not p.log:
        np.testing.assert_allclose(U, (steps - p.low) / (p.high - p.low), atol=1e-12)


@given(seeds)
def test_what_lies_too_close_is_moved_apart_as_little_as_possible(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = TimeSteps(4, 0.0, 1.0, integer=False, gap=0.15)
    u = -np.sort(-rng.random(4))
    found = p.from_unit(u[None])[0]
    nearest = minimize(
        lambda t: ((t - u) ** 2).sum(),
        np.linspace(0.9, 0.1, 4),
        bounds=[(0, 1)] * 4,
        constraints=[{"type": "ineq", "fun": lambda t: -np.diff(t) - 0.15}],
        options={"ftol": 1e-14},
    ).x
    np.testing.assert_allclose(found, nearest, atol=1e-5)


def test_small_sets_of_sequences_are_counted_and_listed() -> None:
    for k, gap, high in ((1, 1, 4), (2, 1, 5), (3, 2, 8), (4, 1, 6)):
        p = TimeSteps(k, 0, high, gap=gap)
        every = [c for c in itertools.combinations(range(high, -1, -1), k) if all(-np.diff(c) >= gap)]
        assert sorted(map(tuple, p.grid().tolist())) == sorted(every)
        assert p.cardinality == len(every)
    space = Space(times=TimeSteps(2, 0, 3), kind=Categorical("a", "b"))
    listed = list(space.enumerate())
    assert len(listed) == 12
    assert {"times": [3, 1], "kind": "b"} in listed


def test_long_sequences_are_searched_by_control_points() -> None:
    p = TimeSteps(21, 0, 999)
    assert (p.width, p.points) == (5, 5)
    steps = p.from_unit(np.array([[1.0, 0.7, 0.5, 0.2, 0.0]]))[0]
    np.testing.assert_allclose(steps[[0, 5, 10, 15, 20]], [999, 699, 500, 200, 0], atol=1)
    np.testing.assert_allclose(np.diff(steps[:6]), -60, atol=1)
    q = TimeSteps(11, 0, 999)  # of another length, the same curve
    np.testing.assert_allclose(q.to_unit(q.from_unit(p.to_unit(steps[None]))), p.to_unit(steps[None]), atol=2e-3)
    placed = q.place(steps.tolist())
    assert placed is not None
    np.testing.assert_allclose(placed, p.to_unit(steps[None])[0], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": 2.5}, "k"),
        ({"high": 0}, "low"),
        ({"low": 0.5}, "low"),
        ({"gap": 0}, "gap"),
        ({"gap": 500}, "gap"),
        ({"gap": 1.5}, "gap"),
        ({"points": 5}, "points"),
        ({"points": 1}, "points"),
        ({"log": True, "low": 1}, "log"),
        ({"log": True, "integer": False}, "low"),
        ({"integer": "no"}, "integer"),
    ],
)
def test_impossible_sequences_are_refused(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        TimeSteps(**{"k": 4, "low": 0, "high": 999, **arguments})  # type: ignore[arg-type]
    assert error.value.problems[0].field == field


@pytest.mark.parametrize(
    "value",
    [[3, 2], [4, 3, 2, 1], [2, 3, 1], [9, 9, 1], [11, 3, 1], [5, 4, -1], [5.5, 3, 1], "321", 7, [5, "4", 1], None],
)
def test_values_that_are_no_such_sequence_are_refused(value: object) -> None:
    space = Space(times=TimeSteps(3, 0, 10), x=Float(0, 1))
    with pytest.raises(
        InvalidInput, match=r"parameters\.times: expected 3 whole numbers in \[0, 10\], each at least 1"
    ):
        space.check({"times": value, "x": 0.5})
    assert space.check({"times": np.array([9, 3, 1]), "x": 0.5})["times"] == [9, 3, 1]


def test_conditions_cannot_mention_sequences() -> None:
    with pytest.raises(InvalidInput, match=r"no sequence of time steps"):
        Space(times=TimeSteps(3, 0, 10), constraints=["times <= 5"])
    with pytest.raises(InvalidInput, match=r"no sequence of time steps"):
        Space(times=TimeSteps(3, 0, 10), x=Float(0, 1, active_if="times == 3"))


def test_an_inactive_sequence_sits_at_the_centre() -> None:
    space = Space(kind=Categorical("a", "b"), times=TimeSteps(2, 0, 10, active_if="kind == 'b'"))
    np.testing.assert_array_equal(space.encode([{"kind": "a"}]), [[1, 0, 0.5, 0.5, 0]])
    np.testing.assert_array_equal(space.encode([{"kind": "b", "times": [10, 5]}]), [[0, 1, 1, 0.5, 1]])
    assert space.column_names == ["kind=a", "kind=b", "times.0", "times.1", "active[kind == 'b']"]
    assert space.encode([]).shape == (0, 5)


def test_the_definition_survives_json() -> None:
    space = Space(
        t=TimeSteps(4, 0, 999, gap=3), s=TimeSteps(30, 0.002, 80.0, integer=False, log=True, points=4), x=Float(0, 1)
    )
    definition = json.loads(json.dumps(space.to_json()))
    assert definition["parameters"][0] == {
        "name": "t", "type": "time_steps", "k": 4, "low": 0, "high": 999, "integer": True, "log": False, "gap": 3,
        "points": 4,
    }  # fmt: skip
    assert Space.from_json(**definition) == space
    with pytest.raises(InvalidInput, match=r"parameters\.t\.k: expected a value"):
        Space.from_json([{"name": "t", "type": "time_steps", "low": 0, "high": 9}])


def test_the_search_finds_the_ordered_maximum() -> None:
    """The best three times lie at .8, .5 and .45, in whichever order the climb passes through."""
    space = Space(times=TimeSteps(3, 0.0, 1.0, integer=False), x=Float(0, 1))
    goal = np.array([0.8, 0.5, 0.45, 0.3])

    def acquisition(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert (np.diff(X[:, :3], axis=1) <= 1e-12).all()  # never looked at out of order
        return -((X - goal) ** 2).sum(1), -2 * (X - goal)

    found = maximise(acquisition, space, np.random.default_rng(0), space.encode([]), Exclusion(space.encode([])))
    assert found is not None
    np.testing.assert_allclose(found.x, goal, atol=1e-4)


def _distance(times: list[float]) -> float:
    """A made-up error whose best schedule is 600, 300, 120, 40."""
    return float(np.sum((np.sqrt(times) - np.sqrt([600, 300, 120, 40])) ** 2)) / 1000 + 0.01


def test_a_study_improves_on_the_known_schedules() -> None:
    p = TimeSteps(4, 0, 999)
    study = Study(Space(times=p, order=Categorical(1, 2)), seed=1)
    known = list(known_schedules(p, SIGMAS).values())[:4]
    for times in known:
        study.enqueue({"times": times, "order": 1})
    for _ in range(18):
        trial = study.ask()
        assert not isinstance(trial, Stop)
        study.tell(trial, _distance(trial.params["times"]) + 0.002 * trial.params["order"])
    best = study.best
    assert best.trial.value is not None
    assert best.trial.value < 0.6 * min(map(_distance, known))
    importance = study.diagnostics.importance
    assert set(importance) == {"times", "order"}
    assert importance["times"].total > importance["order"].total


def test_studies_of_different_lengths_learn_from_each_other() -> None:
    earlier = Study(Space(times=TimeSteps(12, 0, 999, points=4)), seed=0)
    for _ in range(8):
        trial = earlier.ask()
        assert not isinstance(trial, Stop)
        earlier.tell(trial, _distance(resample(trial.params["times"], 4).tolist()))
    study = Study(Space(times=TimeSteps(4, 0, 999)), seed=0)
    study.learn_from("twelve", earlier)
    first = study.ask()
    assert not isinstance(first, Stop)
    assert first.source.method == "earlier_best"
    with pytest.raises(InvalidInput, match=r"shares some of the parameters"):
        Study(Space(times=TimeSteps(5, 0, 999)), seed=0).learn_from("twelve", earlier)


# --- known schedules --------------------------------------------------------------------------------------------------


@converting
def test_even_schedules_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    for k in (3, 4, 7, 10):
        for spacing, made in (("trailing", trailing), ("leading", leading), ("linspace", linspace)):
            scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
            scheduler.set_timesteps(k)
            np.testing.assert_array_equal(np.round(made(k)), scheduler.timesteps.numpy())


@converting
def test_karras_exponential_and_shifted_levels_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    for flag, made in (("use_karras_sigmas", karras), ("use_exponential_sigmas", exponential)):
        scheduler = diffusers.EulerDiscreteScheduler(beta_end=0.02, **{flag: True})
        scheduler.set_timesteps(6)
        np.testing.assert_allclose(made(6, SIGMAS[0], SIGMAS[-1]), scheduler.sigmas[:-1].numpy(), rtol=2e-4)  # float32
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=flow(5).tolist())
    np.testing.assert_allclose(flow(5, 3.0), scheduler.sigmas[:-1].numpy(), rtol=1e-6)


def test_noise_levels_come_back_as_their_times() -> None:
    np.testing.assert_allclose(times_at(SIGMAS[[900, 500, 3]], SIGMAS), [900, 500, 3], atol=1e-9)
    np.testing.assert_array_equal(power(4), 999 * np.array([1, 9 / 16, 1 / 4, 1 / 16]))
    assert beta(5)[1] + beta(5)[4] == pytest.approx(999)  # quantiles 0.8 and 0.2 of a symmetric density
    assert beta(4, 1001)[2] == pytest.approx(500)  # the median


@given(time_steps())
def test_known_schedules_are_values_of_the_parameter(p: TimeSteps) -> None:
    if p.integer:
        p = TimeSteps(p.k, 0, 999, gap=p.gap, points=p.points)
    for name, steps in known_schedules(p, SIGMAS).items():
        assert p.check(steps) == steps, name
        assert math.isfinite(sum(steps))
