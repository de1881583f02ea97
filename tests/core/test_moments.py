"""Mean and variance of blocks are those of everything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.moments import Moments


def moments_of(*blocks: np.ndarray) -> Moments:
    found = Moments()
    for block in blocks:
        found.add(len(block), block.mean(0) if len(block) else 0.0, block.var(0) if len(block) else 0.0)
    return found


@given(
    cuts=st.lists(st.integers(0, 50), max_size=6),
    shift=st.sampled_from([0.0, 1e6]),
)
def test_blocks_of_any_lengths_give_the_moments_of_the_whole(cuts, shift):
    whole = np.random.default_rng(0).normal(shift, [1.0, 3.0], (50, 2))
    found = moments_of(*np.split(whole, sorted(cuts)))
    assert found.count == 50
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, whole.var(0), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_one_block_gives_back_exactly_its_own(seed):
    block = np.random.default_rng(seed).normal(0.1, 7.0, (13, 3))
    found = moments_of(block)
    assert np.array_equal(found.mean, block.mean(0))
    assert np.array_equal(found.variance, block.var(0))


def test_of_nothing_there_is_no_count():
    assert moments_of(np.empty((0, 2))).count == 0
