"""The largest value that rewards and discounts allow."""

import numpy as np
import pytest

from digiq_ray.diagnostics.bounds import value_bound


def bound(*transitions: tuple[float, float]) -> float | None:
    rewards, discounts = np.array(transitions, dtype=np.float32).T
    return value_bound(rewards, discounts)


def test_one_reward_at_the_end_bounds_values_by_itself():
    assert bound((0.0, 0.9), (0.0, 0.9), (1.0, 0.0)) == 1.0


def test_a_reward_that_repeats_is_a_geometric_series():
    assert bound((0.1, 0.9), (0.5, 0.0)) == pytest.approx(1.0, rel=1e-5)


def test_costs_bound_like_rewards():
    assert bound((-2.0, 0.0), (1.0, 0.0)) == 2.0


def test_several_steps_in_one_bound_like_single_ones():
    three = 0.1 * (1 + 0.9 + 0.81)
    assert bound((three, 0.9**3)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("transitions", [[(0.0, 0.9)], [(0.1, 1.0)]])
def test_without_a_reward_or_a_discount_there_is_no_bound(transitions):
    assert bound(*transitions) is None
