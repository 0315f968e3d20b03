"""One budget over many prompts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from suffice.optimizer import InvalidInput, Sampling
from suffice.optimizer.allocation import Batch, frontier_weights, gradient_variance, learnable, marginal_gains

rates = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4).map(np.array)


@given(rates, st.integers(1, 6))
def test_greedy_marginal_gains_are_optimal(solve_rates: np.ndarray, budget: int):
    given_answers = marginal_gains(solve_rates, budget)
    reached = (1 - (1 - solve_rates) ** given_answers).sum()
    every = (n for n in product(range(budget + 1), repeat=len(solve_rates)) if sum(n) <= budget)
    best = max((1 - (1 - solve_rates) ** np.array(n)).sum() for n in every)
    assert reached == pytest.approx(best)
    assert given_answers.sum() <= budget


def test_marginal_gains_keep_to_a_cap():
    assert marginal_gains(np.array([0.01, 0.9]), 20, most=4).tolist() == [4, 4]


def test_gradient_variance_by_hand():
    p, g = np.array([0.5, 0.1, 0.0]), np.array([1.0, 1.0, 5.0])
    share = np.array([1 / np.sqrt(0.5 + 0.001 / 0.5), 1 / np.sqrt(0.1 + 0.001 / 0.1), 0.0])
    np.testing.assert_array_equal(gradient_variance(p, g, 100), np.round(100 * share / share.sum()))
    assert gradient_variance(p, np.zeros(3), 10).tolist() == [0, 0, 0]


@given(rates, st.integers(1, 50))
def test_gradient_variance_spends_the_budget(accept_rates: np.ndarray, budget: int):
    found = gradient_variance(accept_rates, np.ones(len(accept_rates)), budget)
    assert found.sum() == (budget if (accept_rates > 0).any() else 0)
    assert (found >= 0).all()


def test_learnable_prompts_are_solved_half_of_the_time():
    assert learnable(np.array([0.0, 0.45, 1.0, 0.6]), 2).tolist() == [1, 3]


def test_the_frontier_is_a_gaussian_around_one_half():
    rates = np.array([0.5, 0.1, 0.9, 0.7])
    weights = frontier_weights(rates, width=0.25)
    assert weights == pytest.approx(norm(0.5, 0.25).pdf(rates) / norm(0.5, 0.25).pdf(rates).sum())
    assert frontier_weights(np.array([0.0, 0.0]), width=0.001) == pytest.approx([0.5, 0.5]), "nothing underflows"
    with pytest.raises(InvalidInput, match="width"):
        frontier_weights(rates, width=0.0)


def test_a_batch_spends_where_a_token_is_worth_most():
    agreed, split, long = Sampling(max_samples=8), Sampling(max_samples=8), Sampling(max_samples=8)
    batch = Batch([agreed, split, long], tokens=2000, expected_tokens=100)
    assert sorted(batch.ask(3)) == [0, 1, 2]
    for sampling, answers, tokens in ((agreed, "aaa", 100), (split, "ab", 100), (long, "ab", 500)):
        for answer in answers:
            sampling.tell(answer, tokens=tokens)
    assert batch.spent == 300 + 200 + 1000
    assert batch.ask() == [1]
    assert batch.price is not None
    assert batch.price == pytest.approx(split.worth()[0] / 100)
    assert batch.ask(3) == [1, 0]  # 500 are left, and the long one's answer would leave none
    split.tell("b", tokens=500)
    assert batch.ask(3) == []


def test_a_batch_wants_samplings_that_know_what_an_answer_is_worth():
    with pytest.raises(InvalidInput, match="suffice"):
        Batch([Sampling("fixed")], tokens=10, expected_tokens=1).ask()
    with pytest.raises(InvalidInput, match="samplings"):
        Batch([], tokens=10, expected_tokens=1)
