"""Action sensitivity: variance of Q over actions against over states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from digiq_ray.core.errors import InputError
from digiq_ray.diagnostics.sensitivity import ActionSensitivity, action_sensitivity

HALVES = np.full((2, 2), 0.5)


def test_the_variances_of_a_small_table():
    found = action_sensitivity(np.array([[0.0, 2.0], [4.0, 8.0]]), HALVES)
    assert found == {
        "variance_over_actions": pytest.approx((1 + 4) / 2),
        "variance_over_states": pytest.approx(((1 - 3.5) ** 2 + (6 - 3.5) ** 2) / 2),
        "action_sensitivity": pytest.approx(2.5 / 6.25),
        "chance_sensitivity": pytest.approx(1.0),
    }


def test_q_that_depends_on_the_state_only_has_no_sensitivity():
    found = action_sensitivity(np.array([[1.0, 1.0], [5.0, 5.0]]), HALVES)
    assert (found["variance_over_actions"], found["action_sensitivity"]) == (0.0, 0.0)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_states_that_come_in_blocks_have_the_same_figures(size):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(3.0, 0.1, (40, 5)), rng.dirichlet(np.ones(5), 40)
    found = ActionSensitivity()
    for start in range(0, 40, size):
        found.add(values[start : start + size], weights[start : start + size])
    assert found.figures() == pytest.approx(action_sensitivity(values, weights), rel=1e-10)


def test_without_variance_over_states_there_is_no_ratio():
    found = action_sensitivity(np.array([[0.0, 2.0], [2.0, 0.0]]), HALVES)
    assert (found["variance_over_actions"], found["action_sensitivity"]) == (1.0, 0.0)


@pytest.mark.parametrize("padding", [0.0, 1e30, np.inf, np.nan])
def test_what_has_weight_0_does_not_count(padding):
    padded = np.array([[0.0, 2.0, padding], [4.0, 8.0, padding]])
    weights = np.hstack([HALVES, np.zeros((2, 1))])
    assert action_sensitivity(padded, weights) == action_sensitivity(padded[:, :2], HALVES)


def test_a_q_that_is_noise_has_the_sensitivity_of_chance():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([0.7] * 8, 20_000)
    found = action_sensitivity(rng.normal(size=weights.shape), weights)
    assert found["action_sensitivity"] == pytest.approx(found["chance_sensitivity"], rel=0.05)


def test_weights_are_probabilities_of_the_candidates():
    found = action_sensitivity(np.array([[0.0, 4.0], [0.0, 0.0]]), np.array([[0.75, 0.25], [1.0, 0.0]]))
    assert found["variance_over_actions"] == pytest.approx((0.75 * 1 + 0.25 * 9) / 2)


@given(arrays.arrays(np.float32, (4, 3), elements=st.floats(-10, 10, width=32)), st.floats(-5, 5))
def test_a_constant_added_to_q_changes_nothing(values, constant):
    weights = np.full((4, 3), 1 / 3)
    one, other = action_sensitivity(values, weights), action_sensitivity(values.astype(float) + constant, weights)
    assert one["variance_over_actions"] == pytest.approx(other["variance_over_actions"], abs=1e-6)
    assert one["variance_over_states"] == pytest.approx(other["variance_over_states"], abs=1e-6)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (2,)])
def test_nothing_to_measure_is_an_error(shape):
    with pytest.raises(InputError, match="must have one shape"):
        action_sensitivity(np.zeros(shape), np.zeros(shape))


def test_weights_of_another_shape_are_an_error():
    with pytest.raises(InputError, match="must have one shape"):
        action_sensitivity(np.zeros((2, 2)), np.zeros((2, 1)))
