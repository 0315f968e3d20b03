"""Trust regions: the state against the rules as a loop, the box, searches kept to it, and studies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.optimizer import Bool, Categorical, Float, Int, InvalidInput, Space, Stop, Study, Trial
from suffice.optimizer.choice import choose
from suffice.optimizer.search import Box, Exclusion, maximise
from suffice.optimizer.trust_region import RISE, Rule, TrustRegion, box, follow

RULE = Rule(length=0.8, shortest=0.1, longest=1.6, successes=2, failures=3)


def states(values: list[float], rule: Rule = RULE) -> list[TrustRegion]:
    """The state after each of the region's own trials; the first value is of a trial from elsewhere."""
    own = [False, *[True] * (len(values) - 1)]
    return [follow(np.array(values[:n]), own[:n], rule, 2) for n in range(1, len(values) + 1)]


# --- state ---


def test_successes_in_a_row_double_the_length_up_to_the_longest() -> None:
    lengths = [s.length for s in states([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]
    assert lengths == [0.8, 0.8, 1.6, 1.6, 1.6, 1.6, 1.6]


def test_failures_in_a_row_halve_it_and_a_success_starts_the_count_again() -> None:
    found = states([0.0, -1.0, -1.0, 1.0, 0.5, 0.5, 0.5])
    assert [s.failures for s in found] == [0, 1, 2, 0, 1, 2, 0]
    assert [s.length for s in found] == [0.8] * 6 + [0.4]


def test_a_rise_that_is_hardly_one_is_a_failure() -> None:
    assert states([0.0, 0.5 * RISE])[-1].failures == 1
    assert states([0.0, 2.0 * RISE])[-1].successes == 1


def test_a_region_that_shrinks_away_starts_again_and_forgets_what_was_best() -> None:
    nine = [0.0, *[-1.0] * 9]  # 0.8, 0.4, 0.2, and 0.1 would be allowed
    assert states(nine)[-1].length == 0.1
    restarted = states([*nine, *[-1.0] * 3])[-1]
    assert restarted == TrustRegion(0.8, restarts=1, since=13)
    after = states([*nine, *[-1.0] * 3, -5.0, -4.0, -3.0])[-1]  # two trials to begin with, then a success
    assert (after.begun, after.successes, after.failures) == (3, 1, 0)


def test_trials_from_elsewhere_only_raise_the_best() -> None:
    found = follow(np.array([0.0, 3.0, 2.0]), [False, False, True], RULE, 2)
    assert (found.successes, found.failures) == (0, 1)


def test_infeasible_trials_are_failures() -> None:
    assert follow(np.array([0.0, -np.inf]), [False, True], RULE, 2).failures == 1


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_the_state_is_that_of_the_rules_applied_one_by_one(values: list[float], successes: int, failures: int) -> None:
    """Without restarts: against the counters as the tutorials of TuRBO keep them."""
    rule = Rule(0.8, 1e-30, 1.6, successes, failures)
    length, won, lost, best = 0.8, 0, 0, -math.inf
    for value in values:
        if value > best + RISE:
            won, lost = won + 1, 0
        else:
            won, lost = 0, lost + 1
        if won == successes:
            length, won = min(1.6, 2 * length), 0
        elif lost == failures:
            length, lost = length / 2, 0
        best = max(best, value)
    assert follow(np.array(values), [True] * len(values), rule, 0) == TrustRegion(length, won, lost, begun=len(values))


# --- box ---


def test_the_box_has_the_volume_of_a_cube_and_the_shape_of_the_length_scales() -> None:
    space = Space({f"x{i}": Float(0, 1) for i in range(4)})
    scales = np.array([0.5, 1.0, 1.0, 2.0])
    b = box(space, np.full(4, 0.5), scales, 0.3)
    sides = b.high - b.low
    np.testing.assert_allclose(sides / sides[0], scales / scales[0])
    assert np.prod(sides) == pytest.approx(0.3**4)
    np.testing.assert_allclose(0.5 * (b.high + b.low), 0.5)


def test_the_box_ends_at_the_cube_and_is_not_stretched_without_end() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1))
    b = box(space, np.array([0.1, 0.9]), np.array([1e-3, 1e3]), 0.4)
    assert (b.low >= 0).all()
    assert (b.high <= 1).all()
    assert b.high[0] - 0.1 == pytest.approx(0.2 * math.sqrt(0.05 / 4.0))


def test_steps_of_a_grid_stay_within_reach_and_choices_are_free() -> None:
    space = Space(n=Int(0, 10), c=Categorical("a", "b"), b=Bool(), x=Float(0, 1), y=Float(0, 1, active_if="b"))
    centre = space.encode([{"n": 4, "c": "a", "b": True, "x": 0.5, "y": 0.5}])[0]
    b = box(space, centre, np.ones(space.dimension), 0.01)
    moved = space.encode(
        [{"n": n, "c": c, "b": True, "x": 0.504, "y": 0.9} for n in (3, 5) for c in ("a", "b")]
        + [{"n": 4, "c": "b", "b": False, "x": 0.5}]
    )
    assert b.holds(moved).all()
    far = [{"n": 6, "c": "a", "b": True, "x": 0.5, "y": 0.5}, {"n": 4, "c": "a", "b": True, "x": 0.51, "y": 0.5}]
    assert not b.holds(space.encode(far)).any()


# --- searches in a box ---


def hill(centre: np.ndarray) -> Any:
    return lambda X: (-((X - centre) ** 2).sum(1), -2.0 * (X - centre))


def search(space: Space, centre: np.ndarray, b: Box, start: np.ndarray, taken: np.ndarray | None = None) -> np.ndarray:
    excluded = Exclusion(np.empty((0, space.dimension)) if taken is None else taken)
    found = maximise(hill(centre), space, np.random.default_rng(0), start[None], excluded, b)
    assert found is not None
    return found.x


def test_a_search_ends_at_the_wall_of_its_box() -> None:
    space = Space({f"x{i}": Float(0, 1) for i in range(30)})
    centre = np.full(30, 0.8)
    low, high = np.full(30, 0.3), np.full(30, 0.5)
    high[:3] = 0.9
    x = search(space, centre, Box(low, high), np.full(30, 0.4))
    np.testing.assert_allclose(x, np.minimum(centre, high), atol=1e-4)


def test_a_search_in_a_box_moves_integers_and_choices_and_keeps_constraints() -> None:
    space = Space(x=Float(0, 1), n=Int(0, 100_000), c=Categorical("a", "b", "c"), constraints=["x <= 0.45"])
    start = space.encode([{"x": 0.4, "n": 50_000, "c": "a"}])[0]
    target = space.encode([{"x": 0.9, "n": 56_000, "c": "c"}])[0]
    b = box(space, start, np.ones(space.dimension), 0.2)
    found = space.decode(search(space, target, b, start)[None])[0]
    assert found["c"] == "c"
    assert found["n"] == 56_000
    assert found["x"] == pytest.approx(0.45, abs=1e-6)


def test_a_box_without_anything_new_is_left() -> None:
    space = Space(n=Int(0, 9), b=Bool())
    inside = space.encode([{"n": n, "b": b} for n in (4, 5, 6) for b in (False, True)])
    b = box(space, inside[2], np.ones(2), 0.01)
    assert b.holds(search(space, inside[2], b, inside[2])[None])[0]
    assert not b.holds(search(space, inside[2], b, inside[2], taken=inside)[None])[0]


# --- studies ---

WIDE = Space({f"x{i}": Float(0, 1) for i in range(12)})


def valley(params: dict[str, float]) -> float:
    z = np.array(list(params.values())) - np.linspace(0.2, 0.8, len(params))
    return float(np.sum(np.linspace(1, 30, len(z)) * z**2))


def run(
    acquisition: Any, trials: int, space: Space = WIDE, seed: int = 0, noise: float = 0.0, exact: bool = False
) -> Study:
    study = Study(space, acquisition=acquisition, seed=seed, noise="none" if exact else "auto")
    rng = np.random.default_rng(seed)
    for _ in range(trials):
        trial = study.ask()
        assert isinstance(trial, Trial)
        study.tell(trial, valley(trial.params) + noise * rng.standard_normal())
    return study


def region_of(study: Study) -> tuple[Box, np.ndarray]:
    """The box of the next suggestion, and its centre."""
    knowledge = study._learned()
    assert knowledge.surrogate is not None
    nothing = np.empty((0, study.space.dimension))
    chosen = choose(knowledge.definition, knowledge.surrogate, nothing, 0, knowledge.trials)
    assert chosen.box is not None
    return chosen.box, chosen.incumbents[0]


def test_a_study_gets_far_below_other_samplers() -> None:
    bounded = run("trust_region", 40).best.trial.value
    assert bounded < 0.2 * run({"name": "thompson", "features": 256}, 40).best.trial.value
    anywhere = WIDE.sample(1000, np.random.default_rng(0))
    assert bounded < 0.3 * min(valley(p) for p in WIDE.decode(anywhere))


def test_suggestions_lie_in_the_box_around_the_best_and_say_so() -> None:
    study = run("trust_region", 20)
    b, centre = region_of(study)
    np.testing.assert_allclose(centre, WIDE.encode([study.best.params])[0])
    batch = study.ask(count=3)
    assert not isinstance(batch, Stop)
    for trial in batch:
        assert trial.source.method == "trust_region"
        assert "length" in trial.source.why
        assert b.holds(WIDE.encode([trial.params]))[0]


def test_the_state_is_read_off_the_trials() -> None:
    study = run({"name": "trust_region", "failures": 2, "successes": 2}, 20)
    again = Study.from_json(study.to_json())
    again.load([Trial.from_json(t.to_json()) for t in study.trials])
    first, second = study.ask(), again.ask()
    assert isinstance(first, Trial)
    assert isinstance(second, Trial)
    assert first.params == second.params
    assert first.source.why == second.source.why


def test_after_a_restart_only_what_came_since_counts() -> None:
    space = Space(x0=Float(0, 1), x1=Float(0, 1))
    study = run({"name": "trust_region", "failures": 3, "shortest": 0.2, "successes": 50}, 12, space, exact=True)
    while "a new beginning" not in (trial := study.ask()).source.why:  # type: ignore[union-attr]
        assert isinstance(trial, Trial)
        study.tell(trial, valley(trial.params))
    assert "1 restarts" in trial.source.why  # type: ignore[union-attr]
    since = len(study.trials) - 1
    for _ in range(study._definition.design_size):
        assert isinstance(trial, Trial)
        study.tell(trial, 10.0 + valley(trial.params))  # worse than before, wherever
        trial = study.ask()
    assert "a new beginning" not in trial.source.why  # type: ignore[union-attr]
    _, centre = region_of(study)
    best = min(study.trials[since:-1], key=lambda t: t.value)  # worse than what came before
    np.testing.assert_allclose(centre, space.encode([best.params])[0])


def test_with_noise_the_centre_is_the_best_posterior_mean() -> None:
    study = run("trust_region", 25, Space({f"x{i}": Float(0, 1) for i in range(4)}), noise=3.0)
    _, centre = region_of(study)
    X = study.space.encode([t.params for t in study.trials])
    means = study.predict([t.params for t in study.trials]).mean
    np.testing.assert_allclose(centre, X[int(np.argmin(means))])


def test_outcome_constraints_keep_the_centre_feasible() -> None:
    space = Space({f"x{i}": Float(0, 1) for i in range(4)})
    study = Study(space, outcome_constraints=["load <= 1.5"], acquisition="trust_region", seed=0)
    for _ in range(25):
        trial = study.ask()
        assert isinstance(trial, Trial)
        study.tell(trial, {"objective": -sum(trial.params.values()), "load": 3 * trial.params["x0"]})
    _, centre = region_of(study)
    assert 3 * space.decode(centre[None])[0]["x0"] <= 1.5
    assert study.best.trial.values["load"] <= 1.5
    assert study.best.trial.values["objective"] < -3.3  # -3.5 is the most that the bound leaves


def test_options_are_checked() -> None:
    with pytest.raises(InvalidInput, match=r"acquisition\.failures"):
        Study(WIDE, acquisition={"name": "trust_region", "failures": 0})
    with pytest.raises(InvalidInput, match=r"acquisition\.shortest"):
        Study(WIDE, acquisition={"name": "trust_region", "length": 0.1, "shortest": 0.2})
    assert Study(WIDE, acquisition={"name": "trust_region", "length": 0.1, "shortest": 0.01}).acquisition.options
    with pytest.raises(InvalidInput, match=r"acquisition\.length"):
        Study(WIDE, acquisition={"name": "trust_region", "longest": 0.2})
