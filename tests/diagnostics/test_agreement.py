"""Rank agreement of heads: 1 for the same order, 0 by chance, nothing where there is nothing to compare."""

import numpy as np
import pytest

from digiq_ray.core.errors import InputError
from digiq_ray.diagnostics.agreement import rank_agreement

EVEN = np.full((2, 3), 1 / 3)
UP = np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])


def test_heads_of_one_order_agree_whatever_their_scale():
    assert rank_agreement(np.stack([UP, 5 * UP - 3]), EVEN) == 1.0


def test_heads_of_opposite_order_disagree():
    assert rank_agreement(np.stack([UP, -UP]), EVEN) == -1.0


def test_one_swap_of_three_costs_two_thirds():
    swapped = np.array([[1.0, 0.0, 2.0], [1.0, 2.0, 3.0]])
    assert rank_agreement(np.stack([UP, swapped]), EVEN) == pytest.approx((1 / 3 + 1) / 2)


def test_independent_heads_agree_by_chance_only():
    values = np.random.default_rng(0).normal(size=(2, 3000, 6))
    assert rank_agreement(values, np.full((3000, 6), 1 / 6)) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf])
def test_what_has_weight_0_does_not_count(padding):
    pad = np.full((2, 2, 1), padding)
    weights = np.hstack([EVEN, np.zeros((2, 1))])
    assert rank_agreement(np.concatenate([np.stack([UP, UP]), pad], 2), weights) == 1.0


def test_one_head_or_equal_candidates_or_single_ones_say_nothing():
    assert rank_agreement(UP[None], EVEN) is None
    assert rank_agreement(np.ones((2, 2, 3)), EVEN) is None
    assert rank_agreement(np.stack([UP, -UP]), np.array([[1.0, 0.0, 0.0]] * 2)) is None
    assert rank_agreement(np.zeros((2, 0, 3)), np.zeros((0, 3))) is None


def test_shapes_that_do_not_fit_are_an_error():
    with pytest.raises(InputError, match=r"must be \[heads, states, K\]"):
        rank_agreement(UP, EVEN)
