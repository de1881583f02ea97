"""Weights by advantage: what holds for any advantages, and where they are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from digiq_ray.core.errors import StoreError
from digiq_ray.policy.weights import awr_weights, reinforce_weights

LARGE = st.floats(-1e6, 1e6, allow_nan=False)
ADVANTAGES = arrays(np.float64, st.integers(1, 60), elements=LARGE)
TEMPERATURES = st.floats(1e-6, 1e6)
BOUNDS = st.floats(1.0, 1e3)


@given(ADVANTAGES, TEMPERATURES, BOUNDS)
def test_awr_weights_are_finite_bounded_and_of_mean_1(advantages, temperature, most):
    weights = awr_weights(advantages, temperature=temperature, most=most)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert (weights <= most).all()
    assert weights.mean() == pytest.approx(1.0, rel=1e-6)


@given(ADVANTAGES, TEMPERATURES, BOUNDS)
def test_awr_weights_follow_the_advantages(advantages, temperature, most):
    weights = awr_weights(advantages, temperature=temperature, most=most)
    ordered = weights[np.argsort(advantages, kind="stable")]
    assert (np.diff(ordered) >= -1e-9 * most).all()


@given(ADVANTAGES, st.floats(-100.0, 100.0))
def test_awr_weights_do_not_change_with_a_constant(advantages, constant):
    rounded = np.round(advantages / 1e6, 3)
    one, other = (awr_weights(a, temperature=0.5, most=20.0) for a in (rounded, rounded + round(constant)))
    assert np.allclose(one, other, rtol=1e-6)


def test_awr_weights_within_the_bound_are_the_exponentials():
    advantages = np.array([0.1, -0.2, 0.05])
    plain = np.exp(advantages / 0.05)
    assert awr_weights(advantages, temperature=0.05, most=20.0) == pytest.approx(plain / plain.mean())


def test_awr_at_the_bound_leaves_the_rest_to_the_others():
    weights = awr_weights(np.array([1e6, 0.0, 0.0, -1e6]), temperature=0.05, most=2.0)
    assert weights == pytest.approx([2.0, 1.0, 1.0, 0.0])


def test_awr_does_not_overflow_where_the_original_does():
    weights = awr_weights(np.array([0.9, 0.0]), temperature=0.01, most=20.0)
    assert weights == pytest.approx([2.0, 0.0])


@given(ADVANTAGES)
def test_reinforce_weights_keep_the_sign_and_have_mean_square_1(advantages):
    weights = reinforce_weights(advantages)
    assert np.isfinite(weights).all()
    assert ((weights > 0) <= (advantages > 0)).all()
    assert ((weights < 0) <= (advantages < 0)).all()
    if advantages.any():
        assert np.square(weights).mean() == pytest.approx(1.0)
        assert np.abs(weights).max() <= np.sqrt(len(weights)) + 1e-9


@given(ADVANTAGES, st.floats(1e-3, 1e3))
def test_reinforce_weights_do_not_change_with_the_scale(advantages, scale):
    assert np.allclose(reinforce_weights(advantages), reinforce_weights(advantages * scale), rtol=1e-6)


def test_reinforce_weights_are_proportional_and_not_centred():
    assert reinforce_weights(np.array([3.0, 4.0])) == pytest.approx(np.array([3.0, 4.0]) / np.sqrt(12.5))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_advantages_that_are_not_finite_are_a_typed_error(broken):
    advantages = np.array([0.1, broken])
    with pytest.raises(StoreError, match="1 of 2 advantages are not finite: train the critic again"):
        awr_weights(advantages, temperature=1.0, most=2.0)
    with pytest.raises(StoreError, match="1 of 2 advantages are not finite"):
        reinforce_weights(advantages)


def test_nothing_weighs_nothing():
    assert awr_weights(np.zeros(0), temperature=1.0, most=2.0).shape == reinforce_weights(np.zeros(0)).shape == (0,)
    assert reinforce_weights(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]
