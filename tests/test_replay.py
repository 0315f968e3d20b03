"""Replay: a rule does on recorded answers what it would have done live."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.optimizer import Draw, InvalidInput, Sampling
from suffice.optimizer.frontier import Frontier
from suffice.optimizer.pool import Pool, in_order_of_appearance, shuffled, traces
from suffice.optimizer.replay import interval, replay, weights
from suffice.optimizer.stopping import RULES, rule


def document(prompts: int = 12, samples: int = 10, seed: int = 0) -> dict[str, Any]:
    """A made-up pool: some prompts easy, some not; scores that know a little."""
    rng = np.random.default_rng(seed)
    entries = []
    for i in range(prompts):
        share = rng.uniform(0, 1)
        drawn = []
        for _ in range(samples):
            right = bool(rng.random() < share)
            answer = "right" if right else ("x", "y", None)[int(rng.integers(3))]
            score = float(np.clip(rng.normal(0.7 if right else 0.5, 0.15), 0.01, 0.99))
            drawn.append({"answer": answer, "correct": int(right), "score": score, "tokens": int(rng.integers(5, 50))})
        entries.append({"id": f"q{i}", "samples": drawn})
    return {"source": "made up", "prompts": entries}


POOL = Pool.of(document())


@pytest.mark.parametrize("name", RULES)
def test_replay_stops_where_sampling_stops(name: str):
    made = rule(name)
    (part,) = traces(POOL, 8, 3, seed=4)
    (outcome,) = replay(POOL, [made], 8, 3, seed=4)
    samples, tokens, right = np.zeros(12), np.zeros(12), np.zeros(12)
    for row, prompt in enumerate(part.prompt):
        sampling = Sampling(made, max_samples=8, price=getattr(made, "price", None), least_gain=0.0)
        a = part.answers
        while isinstance(step := sampling.ask(), Draw):
            for n in step.numbers:
                cluster = int(a.clusters[row, n])
                sampling.tell(None if cluster < 0 else cluster, a.scores[row, n], a.tokens[row, n])
        samples[prompt] += sampling.samples / 3
        tokens[prompt] += a.tokens[row, : sampling.samples].sum() / 3
        if sampling.pick_number is not None:
            right[prompt] += part.truth[row, sampling.pick_number] / 3
    np.testing.assert_allclose(outcome.samples, samples)
    np.testing.assert_allclose(outcome.tokens, tokens)
    np.testing.assert_allclose(outcome.accuracy, right)


def test_rules_that_share_evidence_do_the_same_alone():
    sweep = rule("adaptive_consistency").sweep(8)
    together = replay(POOL, sweep, 8, 4, seed=1)
    for i in (0, 11, 39):
        (alone,) = replay(POOL, [sweep[i]], 8, 4, seed=1)
        np.testing.assert_array_equal(alone.samples, together[i].samples)
        np.testing.assert_array_equal(alone.accuracy, together[i].accuracy)


def test_rows_report_means_and_intervals():
    (outcome,) = replay(POOL, [rule("fixed", samples=5)], 8, 20, seed=0)
    row = outcome.row([p.id for p in POOL.prompts])
    assert row["rule"] == "fixed"
    assert row["setting"] == {"samples": 5, "picked": "majority"}
    assert row["samples"] == 5
    assert row["interval"][0] < row["accuracy"] < row["interval"][1]


def test_prompts_with_fewer_answers_keep_their_own_cap():
    short, long = document(2, 3), document(2, 6)
    pool = Pool.of({"prompts": [*short["prompts"], *long["prompts"]]})
    (outcome,) = replay(pool, [rule("fixed", samples=5)], 8, 2)
    assert outcome.samples.tolist() == [3, 3, 5, 5]


def test_orders_are_the_same_for_the_same_seed():
    (one,), (same,), (other,) = (traces(POOL, 8, 2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.truth, same.truth)
    assert (one.truth != other.truth).any()


@given(st.lists(st.sampled_from([-1, 0, 1, 2, 3]), min_size=1, max_size=8))
def test_clusters_are_numbered_as_they_appear(clusters: list[int]):
    (found,) = in_order_of_appearance(np.array([clusters]))
    seen: dict[int, int] = {}
    assert found.tolist() == [-1 if c < 0 else seen.setdefault(c, len(seen)) for c in clusters]


def test_shuffled_scores_are_the_same_scores():
    dealt = shuffled(POOL, 3)
    for a, b in zip(POOL.prompts, dealt.prompts, strict=True):
        assert sorted(a.scores) == sorted(b.scores)
    assert any((a.scores != b.scores).any() for a, b in zip(POOL.prompts, dealt.prompts, strict=True))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([], "pool"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [{"id": 1}]}, "prompts[0]"),
        ({"prompts": [{"id": 1, "samples": [{"answer": "a"}]}]}, "prompts[0].samples[0].correct"),
        ({"prompts": [{"id": 1, "samples": [{"correct": 1, "score": "good"}]}]}, "prompts[0].samples[0].score"),
        ({"prompts": [{"id": 1, "samples": [{"correct": 2}]}]}, "prompts[0].samples[0].correct"),
        ({"prompts": [{"id": 1, "samples": [{"correct": "yes"}]}]}, "prompts[0].samples[0].correct"),
        ({"prompts": [{"id": 1, "samples": [{"correct": 1}, {"quality": 0.5}]}]}, "prompts.samples"),
        ({"prompts": [{"id": 1, "samples": [{"correct": 1, "answer": ["a"]}]}]}, "prompts[0].samples[0].answer"),
        ({"prompts": [{"id": 1, "samples": [{"correct": 1, "tokens": -1}]}]}, "prompts[0].samples[0].tokens"),
    ],
)
def test_what_is_no_pool_is_told(bad: object, field: str):
    with pytest.raises(InvalidInput) as error:
        Pool.of(bad)
    assert error.value.problems[0].field == field


def test_rules_for_scores_want_scores():
    pool = Pool.of({"prompts": [{"id": 1, "samples": [{"answer": "a", "correct": 1}]}]})
    with pytest.raises(InvalidInput, match="rules"):
        replay(pool, [rule("threshold")], 1, 1)
    samples = [{"answer": "a", "correct": 1, "score": 0.5}, {"answer": "b", "correct": 0}]
    with pytest.raises(InvalidInput, match="rules"):
        replay(Pool.of({"prompts": [{"id": 1, "samples": samples}]}), [rule("fixed", picked="best")], 2, 1)


# --- frontiers --------------------------------------------------------------------------------------------------------


def test_a_frontier_is_the_upper_hull():
    f = Frontier.of(np.array([1.0, 2.0, 3.0, 2.5, 4.0]), np.array([0.5, 0.6, 0.9, 0.55, 0.8]))
    assert f.cost.tolist() == [1.0, 3.0]
    assert f.at(np.array([2.0]))[0] == pytest.approx(0.7)
    assert f.cost_of(0.7) == pytest.approx(2.0)
    assert np.isnan(f.cost_of(0.95))


def test_the_area_is_a_mean_over_log_cost():
    f = Frontier.of(np.array([1.0, np.e]), np.array([0.0, 1.0]))
    # the integral of (e^t - 1) / (e - 1) over t from 0 to 1 is (e - 2) / (e - 1)
    assert f.area(1.0, np.e) == pytest.approx((np.e - 2) / (np.e - 1), abs=1e-5)
    assert f.area(np.e, np.e**2) == pytest.approx(1.0)


def test_the_bootstrap_draws_questions_not_prompts():
    values = np.array([0.0, 0.0, 1.0, 1.0])
    assert interval(values, ["a", "a", "b", "b"], 400, 0) == (0.0, 1.0)
    w = weights(["a", "a", "b", "b"], 50, 0)
    np.testing.assert_allclose(w.sum(1), 1.0)
    np.testing.assert_allclose(w[:, 0], w[:, 1])
