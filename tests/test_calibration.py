"""Calibration: scores are used where they are worth something, and not where they are not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scored_answers import document

from suffice.optimizer import Draw, InvalidInput, Sampling
from suffice.optimizer.answers import FLAT, Answers
from suffice.optimizer.calibration import PRICES, VOTES, Calibration
from suffice.optimizer.logit import Choices, fit
from suffice.optimizer.pool import Pool, shuffled, traces
from suffice.optimizer.replay import replay
from suffice.optimizer.scores import ScoreCurve, ScoreModel
from suffice.optimizer.stopping import Suffice

CAP = 8


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool.of(document(80, 0))


@pytest.fixture(scope="module")
def calibration(pool: Pool) -> Calibration:
    return Calibration.fit(pool, CAP, name="made up", orders=4)


def accuracy(pool: Pool, calibration: Calibration, price: float, *, scores: bool = True) -> tuple[float, float]:
    (outcome,) = replay(pool, [calibration.rule(price, scores=scores)], CAP, 6, seed=9)
    return float(outcome.accuracy.mean()), float(outcome.samples.mean())


def test_good_scores_beat_votes(calibration: Calibration):
    unseen = Pool.of(document(80, 1))
    right, samples = accuracy(unseen, calibration, 0.005)
    by_votes, votes_samples = accuracy(unseen, calibration, 0.005, scores=False)
    assert right > by_votes + 0.1
    assert samples < CAP
    assert by_votes > 0.2
    assert votes_samples <= CAP


def test_useless_scores_are_found_out(pool: Pool):
    useless = Calibration.fit(shuffled(pool, 2), CAP, orders=4)
    unseen = shuffled(Pool.of(document(80, 1)), 3)
    right, samples = accuracy(unseen, useless, 0.01)
    by_votes, votes_samples = accuracy(unseen, useless, 0.01, scores=False)
    assert right - 0.01 * samples > by_votes - 0.01 * votes_samples - 0.03


def test_the_stated_confidence_is_honest(calibration: Calibration):
    (part,) = traces(Pool.of(document(150, 4)), CAP, 2, 0)
    way = calibration.way(0.003)
    stated, true = [], []
    for n in (2, 4, 8):
        answers = part.answers.first(n)
        p, none = calibration.probabilities(answers, way)
        np.testing.assert_allclose(p.sum(1) + none, 1.0)
        position = calibration.position(answers, way)
        rows = np.arange(len(position))
        stated.append(p[rows, answers.clusters[rows, position]])
        true.append(part.truth[rows, position])
    p, y = np.concatenate(stated), np.concatenate(true)
    place = np.clip((p * 5).astype(int), 0, 4)
    gaps = [abs(p[place == b].mean() - y[place == b].mean()) * np.mean(place == b) for b in np.unique(place)]
    assert sum(gaps) < 0.08


def test_json_holds_everything(calibration: Calibration):
    copy = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert copy.to_json() == calibration.to_json()
    answers = Answers.of(list("abab"), [0.3, 0.7, 0.35, 0.72])
    for price in (0.1, 0.01, 0.001):
        one, other = calibration.rule(price), copy.rule(price)
        np.testing.assert_allclose(one.evidence(answers, CAP), other.evidence(answers, CAP))
        np.testing.assert_array_equal(one.choose(answers), other.choose(answers))
    with pytest.raises(InvalidInput, match="schema"):
        Calibration.from_json({"schema": 99})


def test_without_scores_votes_decide():
    bare = document(20, 5)
    for prompt in bare["prompts"]:
        for sample in prompt["samples"]:
            del sample["score"]
    found = Calibration.fit(Pool.of(bare), CAP)
    assert found.model is None
    assert {found.way(p) for p in PRICES} == {VOTES}
    assert isinstance(found.rule(0.01), Suffice)
    assert 0 < found.probabilities(Answers.of(list("aab")), VOTES)[0][0, 0] < 1


def test_qualities_are_learned_too():
    rng = np.random.default_rng(0)
    entries = []
    for i in range(40):
        values = rng.uniform(0.2, 0.9, 8)
        samples = [{"quality": float(v), "score": float(np.clip(v + rng.normal(0, 0.05), 0, 1))} for v in values]
        entries.append({"id": i, "samples": samples})
    pool = Pool.of({"prompts": entries})
    found = Calibration.fit(pool, CAP)
    assert found.quality
    (ours,) = replay(pool, [found.rule(0.02)], CAP, 5)
    single = np.mean([p.truth.mean() for p in pool.prompts])
    assert ours.accuracy.mean() > single + 0.1
    assert ours.samples.mean() < 7


def test_a_sampling_uses_the_calibration(calibration: Calibration):
    sampling = Sampling(price=0.01, max_samples=CAP, calibration=calibration)
    for answer, score in (("x", 0.42), ("x", 0.43), ("right", 0.8)):
        sampling.tell(answer, score=score)
    by_votes = Sampling(price=0.01, max_samples=CAP, calibration=calibration, scores=False)
    for answer in ("x", "x", "right"):
        by_votes.tell(answer, score=0.5)
    assert sampling.pick == "right"
    assert by_votes.pick == "x"
    step = sampling.ask()
    assert step.confidence == pytest.approx(sampling.posterior.answers["right"])
    assert isinstance(step, Draw) or step.gain is not None
    copy = Sampling.from_json(json.loads(json.dumps(sampling.to_json())), calibration=calibration)
    assert copy.pick == "right"
    with pytest.raises(InvalidInput, match="calibration"):
        Sampling.from_json(sampling.to_json())
    with pytest.raises(InvalidInput, match="calibration"):
        Sampling("fixed", calibration=calibration)


def test_missing_scores_are_told(calibration: Calibration):
    with pytest.raises(InvalidInput, match="score"):
        Sampling(price=0.01, calibration=calibration).tell("x")
    Sampling(price=0.01, calibration=calibration).tell(None)
    Sampling(price=0.01, calibration=calibration, scores=False).tell("x")
    some = document(8, 0)
    del some["prompts"][0]["samples"][0]["score"]
    with pytest.raises(InvalidInput, match="score"):
        Calibration.fit(Pool.of(some), CAP)


def test_too_few_questions_are_told():
    with pytest.raises(InvalidInput, match="questions"):
        Calibration.fit(Pool.of(document(3, 0)), CAP)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_score_curve_rises_and_keeps_the_mean():
    rng = np.random.default_rng(0)
    scores = np.round(rng.uniform(0, 1, 4000), 2)
    truth = (rng.random(4000) < scores**2).astype(float)
    curve = ScoreCurve.fit(scores, truth, 0.0)
    grid = np.linspace(0, 1, 50)
    assert (np.diff(curve(grid)) >= 0).all()
    assert np.abs(curve(grid) - grid**2).max() < 0.12
    assert curve(scores).mean() == pytest.approx(truth.mean(), abs=1e-9)
    assert (np.diff(curve.normal(grid)) >= 0).all()


def test_a_conditional_logit_finds_the_weights_that_chose():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 4, 2))
    there = np.ones((6000, 4), dtype=bool)
    there[:3000, 3] = False
    w = np.array([1.5, -0.7])
    p = np.exp(Choices(x, there).log_probabilities(w))
    np.testing.assert_allclose(p.sum(1), 1.0)
    chosen = (p.cumsum(1) > rng.random((6000, 1))).argmax(1)
    found = fit([Choices(x, there, np.eye(4)[chosen])], np.zeros(2), 0.0)
    np.testing.assert_allclose(found, w, atol=0.1)


def test_scores_change_who_is_right(pool: Pool):
    model = ScoreModel.fit(traces(pool, CAP, 4, 0), quality=False)
    answers = Answers.of(["x", "x", "right"], [0.4, 0.41, 0.85])
    p, none = model.probabilities(answers)
    assert p[0, 1] > p[0, 0]
    assert p.sum() + none[0] == pytest.approx(1.0)


# --- features of prompts ----------------------------------------------------------------------------------------------


def featured(prompts: int, seed: int, *, scores: bool = True) -> dict[str, Any]:
    """Prompts whose difficulty is told by a feature."""
    entries = document(prompts, seed)["prompts"]
    for entry in entries:
        right = sum(s["correct"] for s in entry["samples"])
        entry["features"] = [float(np.log((right + 1) / (len(entry["samples"]) - right + 1))), 0.5]
        for sample in entry["samples"] if not scores else ():
            del sample["score"]
    return {"prompts": entries}


@pytest.fixture(scope="module", params=[True, False], ids=["scores", "votes"])
def informed(request: pytest.FixtureRequest) -> Calibration:
    return Calibration.fit(Pool.of(featured(80, 0, scores=request.param)), CAP, name="informed", orders=4)


def test_features_become_a_prior_and_its_confidence_is_honest(informed: Calibration):
    easy, hard = informed.prior([2.0, 0.5]), informed.prior([-2.0, 0.5])
    assert easy != hard
    assert informed.prior(None) == FLAT
    with pytest.raises(InvalidInput, match="features"):
        informed.prior([1.0])
    unseen = Pool.of(featured(150, 4, scores=informed.model is not None))
    (part,) = traces(unseen, CAP, 1, 0)
    way = informed.way(0.003)
    stated, true = [], []
    for row, i in enumerate(part.prompt):
        features = unseen.prompts[i].features
        assert features is not None
        prior = informed.prior(features.tolist())
        answers = part.rows(np.array([row])).answers.first(3)
        position = int(informed.rule(0.003, prior=prior).choose(answers)[0])
        p, _ = informed.probabilities(answers, way, prior)
        stated.append(p[0, answers.clusters[0, position]])
        true.append(part.truth[row, position])
    p, y = np.array(stated), np.array(true)
    assert np.mean((p - y) ** 2) < 0.85 * y.var()
    assert abs(p.mean() - y.mean()) < 0.1


def test_a_prior_beside_a_calibration_changes_what_is_decided(informed: Calibration):
    def after(features: list[float] | None) -> Sampling:
        sampling = Sampling(price=0.01, max_samples=CAP, calibration=informed, prior=informed.prior(features))
        sampling.tell("x", score=0.5)
        return sampling

    assert after([3.0, 0.5]).posterior.answers["x"] > after(None).posterior.answers["x"]
    assert after([-3.0, 0.5]).posterior.answers["x"] < after(None).posterior.answers["x"]
    copy = Calibration.from_json(json.loads(json.dumps(informed.to_json())))
    assert copy.prior([1.0, 0.5]) == informed.prior([1.0, 0.5])


def test_without_features_there_is_no_prior(calibration: Calibration):
    assert calibration.prior(None) == FLAT
    with pytest.raises(InvalidInput, match="features"):
        calibration.prior([1.0])
    for wrong in ("abc", [float("nan")], [True], []):
        with pytest.raises(InvalidInput, match="features"):
            Pool.of({"prompts": [{"id": 1, "features": wrong, "samples": [{"answer": "a", "correct": 1}]}]})
    two = [{"id": i, "features": [0.5] * (i + 1), "samples": [{"answer": "a", "correct": 1}]} for i in range(2)]
    with pytest.raises(InvalidInput, match="features"):
        Pool.of({"prompts": two})
