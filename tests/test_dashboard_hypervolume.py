"""The dominated volume over trials, against BoTorch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from suffice.api.dashboard.hypervolume import PLACES, front_of, over_trials, reference, volume


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_the_volume_is_botorchs(objectives: int):
    import torch
    from botorch.utils.multi_objective.hypervolume import Hypervolume
    from botorch.utils.multi_objective.pareto import is_non_dominated

    Y = np.random.default_rng(objectives).normal(size=(40, objectives))
    front = front_of(Y)
    theirs = torch.from_numpy(Y)
    assert {tuple(row) for row in front} == {tuple(row) for row in theirs[is_non_dominated(theirs)].tolist()}
    for r in (np.full(objectives, -1.5), Y.min(0)):
        assert volume(front, r) == pytest.approx(Hypervolume(torch.from_numpy(r)).compute(torch.from_numpy(front)))


@given(arrays(float, st.tuples(st.integers(1, 30), st.integers(2, 3)), elements=st.integers(-5, 5).map(float)))
def test_it_never_falls_and_ends_at_the_whole_fronts(Y: np.ndarray):
    places, values, r = over_trials(Y, [None] * Y.shape[1])
    assert values == sorted(values)
    assert places[-1] == len(Y)
    assert values[-1] == pytest.approx(volume(front_of(Y), np.array(r)))
    assert (front_of(Y) > r).all()  # every point of the front counts


def test_long_histories_are_looked_at_here_and_there():
    Y = np.random.default_rng(0).normal(size=(10_000, 2))
    places, values, _ = over_trials(Y, [None, None])
    assert len(places) == len(values) == PLACES
    assert places[0] == 1
    assert over_trials(Y[:0], [None, None]) == ([], [], [])


def test_a_reference_that_is_given_is_taken():
    front = np.array([[1.0, 4.0], [3.0, 2.0]])
    assert reference(front, [0.0, None]).tolist() == [0.0, 1.8]
    assert reference(front[:1], [None, None]).tolist() == [0.9, 3.6]  # one point has no range
    assert volume(front, np.array([0.0, 1.8])) == pytest.approx(1 * 2.2 + 2 * 0.2)
