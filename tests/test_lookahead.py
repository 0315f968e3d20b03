"""What more votes are worth: against enumeration of every way in which votes can fall."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.optimizer import lookahead
from suffice.optimizer.answers import FLAT, TypePrior, vote_posterior
from suffice.optimizer.lookahead import NOTHING, Votes, VoteTable, certain, gains, outlook, partitions, vote_table


def leader(votes: Votes) -> float:
    p, _ = vote_posterior(32).probabilities(np.array([votes]), np.array([0]))
    return float(p.max())


def value(votes: Votes, cap: int, price: float) -> tuple[float, float]:
    """V of the vote, and what drawing on is worth, by plain recursion over sequences of answers."""

    @cache
    def V(v: Votes) -> tuple[float, float]:
        now = leader(v)
        if sum(v) == cap:
            return now, -np.inf
        ahead = -price
        for u in children(v):
            ahead += mass(u) / mass(v) * V(tuple(sorted(u, reverse=True)))[0]
        return max(now, ahead), ahead - now

    return V(votes)


def children(v: Votes) -> list[Votes]:
    """One more answer in each cluster in turn, equal ones too, or in a new one."""
    return [*((*v[:j], v[j] + 1, *v[j + 1 :]) for j in range(len(v))), (*v, 1)]


def mass(v: Votes) -> float:
    """Z(v), up to a factor that all votes share."""
    right, none = vote_posterior(32).weights(np.array([v]), np.array([0]))
    return float((np.exp(right).sum() + np.exp(none[0])) * np.prod([float(factorial(x - 1)) for x in v]))


@pytest.mark.parametrize("votes", [(1,), (2,), (1, 1), (2, 1), (2, 1, 1), (3, 2)])
@pytest.mark.parametrize("cap", [6, 7])
def test_the_index_is_the_price_at_which_drawing_on_is_worth_nothing(votes: Votes, cap: int):
    found = vote_table(cap).outlook(votes)
    free = value(votes, cap, 0.0)[1]
    assert found.attainable == pytest.approx(free, abs=1e-9)
    if found.index > 1e-4:
        assert value(votes, cap, found.index * 0.97)[1] > 0
        assert value(votes, cap, found.index * 1.03)[1] < 0


def test_one_step_does_not_see_what_more_steps_gain():
    # one more vote cannot overtake a lead of one: it can only tie
    one, two, three = gains((2, 1), 3)
    assert one == pytest.approx(0.0, abs=1e-12)
    assert three > two > 0.005
    assert outlook((2, 1), 8).index > 0.01


@given(st.sampled_from([v for n in range(1, 8) for v in partitions(n)]))
def test_what_comes_next_is_certain_to_come(votes: Votes):
    assert sum(p for p, _ in lookahead._Exact(16, FLAT).successors(votes)) == pytest.approx(1.0)


def test_a_lead_that_cannot_be_caught_is_worth_nothing_more():
    table = VoteTable(8, FLAT)
    assert table.outlook((5, 1)) == NOTHING
    assert table.outlook((8,)) == NOTHING
    assert table.outlook((3, 2)).index > 0


@settings(deadline=None)
@given(st.sampled_from([v for n in range(1, 9) for v in partitions(n)]))
def test_a_larger_cap_never_lowers_the_index(votes: Votes):
    indices = [outlook(votes, cap).index for cap in (9, 12, 16, 24, 40)]
    assert all(b >= a - 1e-4 * a - 1e-9 for a, b in pairwise(indices)), indices


def test_compact_states_are_close_to_the_exact_ones(monkeypatch: pytest.MonkeyPatch):
    exact = VoteTable(16, FLAT)
    monkeypatch.setattr(lookahead, "EXACT", 6)
    rough = VoteTable(16, FLAT)
    gaps = [
        (abs(exact.outlook(v).index - rough.outlook(v).index), exact.outlook(v).index)
        for n in range(1, 14)
        for v in partitions(n)
        if len(v) < 5
    ]
    assert max(gap for gap, _ in gaps) < 0.025
    assert np.mean([gap for gap, _ in gaps]) < 0.001


def test_beyond_the_horizon_votes_are_shrunk():
    near, far = outlook((20, 18), 64), outlook((40, 36), 128)
    assert 0 < far.index < near.index
    assert outlook((90, 10), 128) == NOTHING


def test_a_prior_changes_the_outlook():
    sure = TypePrior(theta=(*(0.001,) * 22, 0.978))
    assert outlook((1,), 8, sure).index < outlook((1,), 8).index


def test_answers_that_are_drawn_whatever_they_are_come_at_once():
    price = 0.01
    k = certain((1,), 16, 8, lambda v: outlook(v, 16).index <= price)
    assert k == 1  # two equal answers are enough at this price: (2,)
    assert outlook((2,), 16).index <= price < outlook((1,), 16).index
    assert certain((1,), 16, 8, lambda v: sum(v) >= 5) == 4
    assert certain((1,), 4, 8, lambda v: False) == 3
