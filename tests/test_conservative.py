"""Conservative search: the rule against the joint posterior, what replaces a suggestion, and a study that keeps it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from suffice.optimizer import Categorical, Float, InvalidInput, Objective, Space, Stop, Study, Trial
from suffice.optimizer.conservative import Conservative
from suffice.optimizer.models import Data, GaussianProcess, Hyperparameters
from suffice.optimizer.safe_mixture import STEPS, Ledger, _ledger, guarded
from suffice.optimizer.trial import Source, Suggestion

PLANE = Space(x=Float(0, 1), y=Float(0, 1))
BASELINE = {"x": 0.4, "y": 0.45}
MARGIN = 0.1
RULE = {"baseline": BASELINE, "margin": MARGIN}


def valleys(x: float, y: float) -> float:
    """To be maximised: a small hill around the baseline, a higher one beyond, and two valleys deep enough to hurt."""

    def hill(height: float, cx: float, cy: float, width: float) -> float:
        return height * math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width)

    return hill(0.3, 0.4, 0.45, 0.05) + hill(1, 0.75, 0.7, 0.08) - hill(3, 0.25, 0.8, 0.03) - hill(3, 0.7, 0.2, 0.03)


def study(seed: int = 0, conservative: Any = RULE, **options: Any) -> Study:
    return Study(PLANE, "maximize", conservative=conservative, seed=seed, **options)


def running_sums(study: Study, trials: int, sign: float = 1.0) -> tuple[list[float], float]:
    """What the study has kept above the baseline less the margin after every trial, and the best value."""
    values: list[float] = []
    for _ in range(trials):
        trial = study.ask()
        assert isinstance(trial, Trial)
        values.append(valleys(**trial.params))
        study.tell(trial, sign * values[-1])
    return list(np.cumsum(np.array(values) - valleys(**BASELINE) + MARGIN)), max(values)


# --- the rule ------------------------------------------------------------------------------------------------------


def test_the_probability_is_that_of_the_joint_posterior() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((12, 3))
    data = Data(X, rng.standard_normal(12), np.full(12, 0.5), np.arange(3))
    gp = GaussianProcess(data, Hyperparameters(np.full(3, 0.7), 1.3, 1e-8))
    baseline, past, pending, candidates = X[:1], X[1:6], rng.random((2, 3)), rng.random((5, 3))
    rows = np.concatenate([past, pending, baseline])
    weights = np.array([1.0] * 7 + [-8.0])
    p = Ledger(gp, rows, weights, margin=-0.3).probability(candidates)
    for i, x in enumerate(candidates):
        mean, covariance = gp.joint(np.concatenate([rows, x[None]]))
        w = np.append(weights, 1.0)
        expected = norm.cdf((w @ mean - 8 * 0.3) / math.sqrt(w @ covariance @ w))
        assert p[i] == pytest.approx(expected, abs=1e-7)
    assert 0.01 < p.min() < p.max() < 0.99


def test_after_the_baseline_alone_it_is_allowed_again_and_far_steps_are_not() -> None:
    s = study()
    s.tell(s.ask(), 0.0)  # type: ignore[arg-type]
    ledger = _ledger(s._learned(), [])
    assert ledger is not None
    p = ledger.probability(PLANE.encode([BASELINE, {"x": 0.41, "y": 0.45}, {"x": 1.0, "y": 1.0}]))
    assert p[0] > 0.999
    assert 0.999 > p[1] > 0.95 > p[2] > 0.5  # nothing is known there, so it is a toss with two margins in hand


def test_pending_trials_count() -> None:
    s = study()
    s.tell(s.ask(), 0.0)  # type: ignore[arg-type]
    near = PLANE.encode([{"x": 0.44, "y": 0.47}])
    pending = [{"x": 0.7, "y": 0.2}]
    alone, beside = _ledger(s._learned(), []), _ledger(s._learned(), pending)
    assert alone is not None
    assert beside is not None
    assert alone.probability(near)[0] > beside.probability(near)[0] + 0.1


# --- what is suggested ---------------------------------------------------------------------------------------------


def test_the_baseline_comes_first_unless_it_is_known() -> None:
    first = study().ask()
    assert isinstance(first, Trial)
    assert first.params == BASELINE
    assert first.source.method == "baseline"
    known = study()
    known.add(BASELINE, 0.3)
    assert known.ask().params != BASELINE  # type: ignore[union-attr]


def test_what_is_not_safe_is_cut_back_as_far_as_it_has_to_be() -> None:
    s = study()
    s.tell(s.ask(), 0.0)  # type: ignore[arg-type]
    knowledge = s._learned()
    wish = Suggestion({"x": 0.9, "y": 0.85}, Source("quasi-random", "a start"))
    mixture = guarded(knowledge, [], wish)
    start, end, x = PLANE.encode([BASELINE, wish.params, mixture.params])
    share = float(((x - start) / (end - start)).mean())
    np.testing.assert_allclose(x, start + share * (end - start), atol=1e-12)
    ledger = _ledger(knowledge, [])
    assert ledger is not None
    farther = start + (share + 2.0**-8 / STEPS) * (end - start)
    assert ledger.probability(x[None])[0] >= 0.95 > ledger.probability(farther[None])[0]
    assert mixture.source.method == "safe_mixture"
    assert "quasi-random" in mixture.source.why
    assert f"{100 * share:.3g} %" in mixture.source.why


def test_what_is_safe_is_left_alone() -> None:
    s = study(conservative={"baseline": BASELINE, "margin": 1.0})
    s.tell(s.ask(), 0.0)  # type: ignore[arg-type]
    wish = Suggestion({"x": 0.41, "y": 0.45}, Source("quasi-random", "a start"))
    kept = guarded(s._learned(), [], wish)
    assert kept.params == wish.params
    assert kept.source.method == "quasi-random"
    assert "keeps to the baseline with probability" in kept.source.why


def test_a_margin_beyond_everything_measured_comes_to_allow_everything() -> None:
    s = study(conservative={"baseline": BASELINE, "margin": 5.0})
    rng = np.random.default_rng(0)
    for x, y in rng.random((120, 2)).tolist():
        s.add({"x": x, "y": y}, valleys(x, y) / 100)
    s.tell(s.ask(), 0.0)  # type: ignore[arg-type]
    for x, y in rng.random((20, 2)).tolist():
        wish = Suggestion({"x": x, "y": y}, Source("quasi-random", "a start"))
        assert guarded(s._learned(), [], wish).params == wish.params


def test_choices_switch_half_way() -> None:
    space = Space(x=Float(0, 1), c=Categorical("a", "b", "c"))
    s = Study(space, conservative={"baseline": {"x": 0.0, "c": "a"}, "margin": 1.0}, seed=0)
    s.tell(s.ask(), 0.0)  # type: ignore[arg-type]
    wish = Suggestion({"x": 1.0, "c": "b"}, Source("quasi-random"))
    assert guarded(s._learned(), [], wish).params["c"] == "a"  # the other choice is too far from what is known
    for _ in range(12):
        s.add({"x": 0.5, "c": "b"}, 0.0)
        s.add({"x": 0.5, "c": "a"}, 0.0)
    found = guarded(s._learned(), [], wish).params
    assert found["c"] == "b"
    assert found["x"] >= 0.5


def test_a_batch_keeps_the_rule_as_a_whole() -> None:
    s = study()
    batch = s.ask(count=5)
    assert not isinstance(batch, Stop)
    assert [t.source.method for t in batch] == ["baseline", *["safe_mixture"] * 4]
    ledger = _ledger(Study.from_json(s.to_json())._learned(), [t.params for t in batch[:-1]])
    assert ledger is not None
    assert ledger.probability(PLANE.encode([batch[-1].params]))[0] >= 0.95


def test_minimising_is_maximising_turned_around() -> None:
    up, down = study(seed=1), study(seed=1)
    down = Study(PLANE, "minimize", conservative=up.conservative, seed=1)
    running_sums(up, 9)
    running_sums(down, 9, sign=-1.0)
    for a, b in zip(up.trials, down.trials, strict=True):
        assert a.params == pytest.approx(b.params, abs=1e-6)


def test_a_study_keeps_to_its_baseline_where_a_plain_one_does_not_and_still_improves() -> None:
    for seed in range(3):
        sums, best = running_sums(study(seed), 18)
        assert min(sums) >= 0.0
        assert best > valleys(**BASELINE) + 0.5
        plain, _ = running_sums(study(seed, conservative=None), 8)
        assert min(plain) < -1.0


def test_the_same_trials_give_the_same_suggestion() -> None:
    s = study(seed=3)
    running_sums(s, 7)
    again = Study.from_json(s.to_json())
    again.load(s.trials)
    assert again.ask() == s.ask()


# --- definitions ---------------------------------------------------------------------------------------------------


def test_the_definition_goes_through_json() -> None:
    s = study(conservative=Conservative(BASELINE, MARGIN, 0.9))
    assert s.to_json()["conservative"] == {"baseline": BASELINE, "margin": 0.1, "probability": 0.9}
    assert Study.from_json(s.to_json()).conservative == s.conservative
    assert "conservative" not in study(conservative=None).to_json()


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"margin": 0.1}, "conservative.baseline"),
        ({"baseline": BASELINE}, "conservative.margin"),
        ({"baseline": BASELINE, "margin": 0.0}, "conservative.margin"),
        ({"baseline": BASELINE, "margin": True}, "conservative.margin"),
        ({"baseline": BASELINE, "margin": 0.1, "probability": 1.0}, "conservative.probability"),
        ({"baseline": BASELINE, "margin": 0.1, "probability": 0.4}, "conservative.probability"),
        ({"baseline": {"x": 0.5}, "margin": 0.1}, "conservative.baseline.y"),
        ({"baseline": 3, "margin": 0.1}, "conservative.baseline"),
        ({"baseline": BASELINE, "margin": 0.1, "alpha": 1}, "conservative.alpha"),
        ("careful", "conservative"),
    ],
)
def test_wrong_definitions_are_refused_by_field(rule: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        study(conservative=rule)
    assert error.value.problems[0].field == field


def test_what_it_cannot_be_combined_with_is_refused() -> None:
    with pytest.raises(InvalidInput, match="several objectives"):
        Study(PLANE, [Objective("a"), Objective("b")], conservative={"baseline": BASELINE, "margin": 0.1})
    with pytest.raises(InvalidInput, match="context"):
        study(context=["x"])
    with pytest.raises(InvalidInput, match="outcome constraints"):
        study(outcome_constraints=["weight <= 1"])
