"""The posterior over answers: against enumeration of the model it states."""

from __future__ import annotations

from math import factorial, gamma, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.optimizer import InvalidInput, Sampling
from suffice.optimizer.answers import (
    ALPHAS,
    FAILURE,
    FLAT,
    TABLED,
    THETAS,
    Answers,
    TypePrior,
    VotePosterior,
    label,
    right_after_failures,
    vote_posterior,
)
from suffice.optimizer.picks import best, majority, member, weighted

SKEWED = TypePrior(
    tuple(float(t) for t in np.arange(1, len(THETAS) + 1) / sum(range(1, len(THETAS) + 1))),
    tuple(float(a) for a in np.arange(len(ALPHAS), 0, -1) / sum(range(1, len(ALPHAS) + 1))),
)


def restaurant(sizes: list[int], alpha: float) -> float:
    """Probability of one labelled seating under a Chinese restaurant process, table by table."""
    p, seated = 1.0, 0
    for size in sizes:
        for k in range(size):
            p *= (alpha if k == 0 else k) / (alpha + seated)
            seated += 1
    return p


def by_enumeration(sizes: list[int], prior: TypePrior) -> tuple[np.ndarray, float]:
    """P(cluster j is right) and P(none is), type by type and cluster by cluster."""
    n = sum(sizes)
    right, none = np.zeros(len(sizes)), 0.0
    for p_theta, theta in zip(prior.theta, THETAS, strict=True):
        for p_alpha, alpha in zip(prior.alpha, ALPHAS, strict=True):
            p = p_theta * p_alpha
            none += p * (1 - theta) ** n * restaurant(sizes, alpha)
            for j, v in enumerate(sizes):
                others = sizes[:j] + sizes[j + 1 :]
                right[j] += p * theta**v * (1 - theta) ** (n - v) * restaurant(others, alpha)
    return right / (right.sum() + none), none / (right.sum() + none)


@pytest.mark.parametrize("prior", [FLAT, SKEWED], ids=["flat", "skewed"])
@pytest.mark.parametrize("sizes", [[1], [2], [1, 1], [3, 1], [2, 2, 1], [5, 1, 1, 1], [7, 4]])
def test_the_posterior_is_the_models(sizes: list[int], prior: TypePrior):
    p, none = vote_posterior(sum(sizes), prior).probabilities(np.array([sizes]), np.array([0]))
    expected, expected_none = by_enumeration(sizes, prior)
    np.testing.assert_allclose(p[0], expected, rtol=1e-10)
    assert none[0] == pytest.approx(expected_none, rel=1e-10)


def test_a_failure_is_a_wrong_answer_that_cannot_be_picked():
    sizes = [3, 1, 1]  # the last two failed
    p, none = vote_posterior(5).probabilities(np.array([[3]]), np.array([2]))
    expected, expected_none = by_enumeration(sizes, FLAT)
    assert p[0, 0] / none[0] == pytest.approx(expected[0] / expected_none, rel=1e-10)
    assert p[0, 0] + none[0] == pytest.approx(1.0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(0, 3))
def test_more_votes_are_better_and_probabilities_sum_to_one(sizes: list[int], failures: int):
    votes = np.array([sorted(sizes, reverse=True)])
    p, none = vote_posterior(80).probabilities(votes, np.array([failures]))
    assert p.sum() + none[0] == pytest.approx(1.0)
    assert (np.diff(p[0]) <= 1e-12).all()


def test_after_failures_the_next_answer_is_right_less_often():
    chances = [right_after_failures(f) for f in range(6)]
    assert chances[0] == pytest.approx(float(np.dot(FLAT.theta, THETAS)))
    assert chances == sorted(chances, reverse=True)


def test_tables_of_any_size_agree():
    small = vote_posterior(10).probabilities(np.array([[6, 3, 1]]), np.array([0]))
    large = vote_posterior(100).probabilities(np.array([[6, 3, 1]]), np.array([0]))
    without = VotePosterior(FLAT).probabilities(np.array([[6, 3, 1]]), np.array([0]))
    np.testing.assert_allclose(small[0], large[0], rtol=1e-12)
    np.testing.assert_allclose(small[0], without[0], rtol=1e-12)
    np.testing.assert_allclose(small[1], without[1], rtol=1e-12)


def test_thousands_of_answers_need_no_tables():
    assert not vote_posterior(5000).tabled
    sampling = Sampling(max_samples=10**9, price=0.001)
    for i in range(TABLED + 1):
        sampling.tell(i % 3)
    assert sampling.pick == 0
    assert sum(sampling.posterior.answers.values()) + sampling.posterior.none == pytest.approx(1.0)


def test_the_partition_probability_counts_orders():
    # over all set partitions of n answers, sizes v occur n! / prod(v_j!) / prod(multiplicities!) times
    n, alpha = 4, 1.7
    total = 0.0
    for sizes in ([4], [3, 1], [2, 2], [2, 1, 1], [1, 1, 1, 1]):
        ways = factorial(n) / prod(factorial(v) for v in sizes)
        ways /= prod(factorial(sizes.count(v)) for v in set(sizes))
        total += ways * restaurant(list(sizes), alpha)
        chinese = alpha ** len(sizes) * gamma(alpha) / gamma(alpha + n) * prod(gamma(v) for v in sizes)
        assert restaurant(list(sizes), alpha) == pytest.approx(chinese)
    assert total == pytest.approx(1.0)


def test_a_prior_is_checked():
    with pytest.raises(InvalidInput, match=r"prior\.theta"):
        TypePrior(theta=(1.0,))


# --- states and picks -------------------------------------------------------------------------------------------------


def test_labels_are_numbers_in_order_of_appearance():
    assert label(["x", None, "y", "x"]).tolist() == [0, FAILURE, 1, 0]


def test_the_first_seen_leads_among_equals():
    answers = Answers.of(["b", "a", "a", "b", None])
    assert answers.leader.tolist() == [0]
    assert answers.ranked.tolist() == [[2, 2]]
    assert majority(answers).tolist() == [0]


def test_picks_by_hand():
    answers = Answers.of(["a", "a", "b", "c", None], [0.2, 0.3, 0.6, 0.4, 0.99])
    assert majority(answers).tolist() == [1]  # of the leader, the member with the best score
    assert best(answers).tolist() == [2]  # a failure's score does not count
    assert weighted(answers).tolist() == [2]
    assert weighted(Answers.of(["a", "a", "b"], [0.4, 0.3, 0.6])).tolist() == [0]


def test_without_scores_all_picks_are_the_majority():
    answers = Answers.of(["a", "b", "b"])
    assert [pick(answers).tolist() for pick in (majority, best, weighted)] == [[1]] * 3


def test_with_failures_only_there_is_nothing_to_pick():
    answers = Answers.of([None, None], [0.9, 0.8])
    assert [pick(answers).tolist() for pick in (majority, best, weighted)] == [[-1]] * 3
    assert member(answers, np.array([0])).tolist() == [-1]
