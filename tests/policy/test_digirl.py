"""DigiRL's filters on known values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from digiq_ray.core.errors import StoreError
from digiq_ray.policy.digirl import step_advantages, surprising

UNIT = st.floats(0.0, 1.0)
SCORES = arrays(np.float64, st.integers(1, 40), elements=st.floats(-5.0, 5.0))


def test_the_advantage_of_a_step_is_that_of_the_released_code():
    found = step_advantages(
        value=np.array([0.2, 0.5, 0.9, 0.0]),
        successor=np.array([0.6, 0.54, 0.1, 1.0]),
        reward=np.array([0.0, 0.0, 0.0, 1.0]),
        returns=np.array([0.25, 0.0, 0.0, 1.0]),
        cost=0.05,
    )
    assert found == pytest.approx([0.6, 0.0, 0.0, 1.0])


@given(arrays(np.float64, (4, 10), elements=st.floats(-1e6, 1e6)), UNIT)
def test_advantages_lie_between_0_and_1_and_a_higher_cost_keeps_fewer(parts, cost):
    cheap, dear = (step_advantages(*parts, cost=one) for one in (cost, cost + 0.5))
    assert ((cheap >= 0) & (cheap <= 1)).all()
    assert ((dear > 0) <= (cheap > 0)).all()


@given(SCORES, st.floats(0.01, 1.0))
def test_the_most_surprising_episodes_are_kept_with_their_equals(scores, share):
    kept = surprising(scores, np.zeros(len(scores)), share=share)
    assert kept.sum() >= share * len(scores) * (1 - 1e-9)
    assert kept[scores == scores.max()].all()
    if not kept.all():
        assert scores[kept].min() > scores[~kept].max()


def test_an_expected_success_is_less_surprising_than_one_against_the_odds():
    kept = surprising(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.9, 0.1, 0.1, 0.9]), share=0.25)
    assert kept.tolist() == [False, True, False, False]


def test_values_that_are_not_finite_are_a_typed_error():
    with pytest.raises(StoreError, match="not finite"):
        surprising(np.array([1.0, 0.0]), np.array([np.nan, 0.0]), share=0.5)
    ones = np.ones(2)
    with pytest.raises(StoreError, match="not finite"):
        step_advantages(ones, np.array([np.nan, 1.0]), ones, ones, cost=0.0)


def test_of_no_episode_none_is_kept():
    assert surprising(np.zeros(0), np.zeros(0), share=0.5).shape == (0,)
