"""The drift alarm: it comes on when scores go bad, keeps quiet while they are good, and finds its own errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_answers import document

from suffice.optimizer.answers import Answers
from suffice.optimizer.calibration import Calibration
from suffice.optimizer.drift import ALLOWANCE, LARGEST, LIMIT, DriftModel, Watch, safe_factor
from suffice.optimizer.pool import Pool, shuffled, traces
from suffice.optimizer.replay import run

CAP = 8
PRICES = (0.03, 0.003, 1e-4)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    found = Calibration.fit(Pool.of(document(80, 0)), CAP, orders=4)
    assert found.drift is not None
    return found


def evidence(calibration: Calibration, pool: Pool, price: float, *, scores: bool) -> np.ndarray:
    """Of each prompt, stopped as it is live."""
    assert calibration.drift is not None
    (part,) = traces(pool, CAP, 1, 3)
    ((stop, _),) = run(part, [calibration.rule(price, scores=scores)])
    found = np.zeros(len(stop))
    for n in np.unique(stop):
        rows = np.flatnonzero(stop == n)
        found[rows] = calibration.drift.evidence(part.rows(rows).answers.first(int(n)), scores=scores)
    return found


def stream(calibration: Calibration, pool: Pool, price: float, prompts: int, start: Watch) -> list[bool]:
    """Whether the alarm is on after each of many prompts, which go by votes while it is."""
    by = {scores: evidence(calibration, pool, price, scores=scores) for scores in (True, False)}
    rows = np.random.default_rng(0).integers(len(by[True]), size=prompts)
    watch, on = start, []
    for row in rows:
        watch = watch.after(float(by[not watch.alarm][row]))
        on.append(watch.alarm)
    return on


@pytest.mark.parametrize("price", PRICES)
def test_it_keeps_quiet_over_thousands_of_prompts_while_scores_are_good(calibration: Calibration, price: float):
    on = stream(calibration, Pool.of(document(400, 7)), price, 5000, Watch())
    assert np.mean(on) < 0.02


@pytest.mark.parametrize("price", PRICES)
def test_it_hears_scores_go_bad(calibration: Calibration, price: float):
    on = stream(calibration, shuffled(Pool.of(document(400, 7)), 1), price, 1000, Watch())
    assert on.index(True) < 80
    assert np.mean(on[80:]) > 0.8


def test_a_false_alarm_is_found_out(calibration: Calibration):
    on = stream(calibration, Pool.of(document(400, 7)), 0.003, 200, Watch(LIMIT, alarm=True))
    assert on.index(False) < 30
    watch, prompts = Watch(LIMIT, alarm=True), 0
    while watch.alarm:  # also where prompts say nothing
        watch, prompts = watch.after(0.0), prompts + 1
    assert prompts == pytest.approx(LIMIT / ALLOWANCE, abs=1)


def test_evidence_is_an_e_value_in_either_case(calibration: Calibration):
    good = Pool.of(document(400, 7))
    for price in PRICES:
        for scores in (True, False):
            found = evidence(calibration, good, price, scores=scores)
            assert np.abs(found).max() <= LARGEST
            error = np.exp(found).std() / np.sqrt(len(found))
            assert np.exp(found).mean() < 1.0 + 3.0 * error + 0.05


def test_one_prompt_alone_raises_no_alarm_and_the_sum_stays_between_its_bounds():
    watch = Watch().after(LARGEST)
    assert not watch.alarm
    on = Watch(LIMIT - 1.0).after(LARGEST)
    assert on == Watch(LIMIT, alarm=True)
    assert on.after(-1.0).alarm
    assert on.after(-LIMIT) == Watch()
    assert Watch().after(-50.0) == Watch()


@given(st.floats(0.2, 2.0), st.integers(0, 5))
def test_a_likelihood_ratio_is_hardly_shrunk_and_what_rises_by_itself_not_used(sd: float, seed: int):
    x = np.random.default_rng(seed).normal(size=4000)
    question = np.arange(4000)
    assert safe_factor(sd * x - 0.5 * sd**2, question) >= 0.7
    assert safe_factor(sd * x + 0.2, question) == 0
    repeated = np.tile(np.arange(8), 500)  # few questions are not trusted
    assert safe_factor(sd * x[repeated] - 0.5 * sd**2, repeated) <= safe_factor(sd * x[:8] - 0.5 * sd**2, np.arange(8))


def test_failures_and_missing_scores_are_no_evidence(calibration: Calibration):
    assert calibration.drift is not None
    assert calibration.drift.evidence(Answers.of(["a"], [0.5]))[0] == 0
    assert calibration.drift_evidence(["a", "a"], [0.5, None], by_score=True) is None
    assert calibration.drift_evidence(["a", None, "a"], [0.5, None, 0.5], by_score=True) is not None
    votes_only = Calibration.fit(shuffled(Pool.of(document(30, 2)), 2), CAP, orders=2)
    if votes_only.drift is None:
        assert votes_only.drift_evidence(["a", "a"], [0.5, 0.5], by_score=True) is None


def test_it_is_kept_with_the_calibration(calibration: Calibration):
    copy = Calibration.from_json(calibration.to_json())
    assert isinstance(copy.drift, DriftModel)
    answers, scores = list("aabab"), [0.7, 0.6, 0.3, 0.7, 0.4]
    for by_score in (True, False):
        found = calibration.drift_evidence(answers, scores, by_score=by_score)
        assert copy.drift_evidence(answers, scores, by_score=by_score) == found
