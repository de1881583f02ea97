"""BatchOrder: every sample once an epoch, the same on every machine, and fairly divided among ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError
from digiq_ray.store.batch_order import BatchOrder

_SEEDS = st.integers(0, 2**32)


def _epoch(order: BatchOrder, epoch: int) -> list[NDArray[np.int64]]:
    return [order.indices(epoch, number) for number in range(order.batches)]


@given(samples=st.integers(1, 300), batch=st.integers(1, 64), seed=_SEEDS, epoch=st.integers(0, 1000))
def test_an_epoch_holds_every_sample_once(samples: int, batch: int, seed: int, epoch: int) -> None:
    batches = _epoch(BatchOrder(samples=samples, batch=batch, seed=seed), epoch)
    assert all(len(one) == batch for one in batches[:-1])
    assert sorted(np.concatenate(batches)) == list(range(samples))


@given(data=st.data(), batch=st.integers(1, 16), seed=_SEEDS)
def test_without_the_last_every_batch_is_full_and_no_sample_comes_twice(
    data: st.DataObject, batch: int, seed: int
) -> None:
    samples = data.draw(st.integers(batch, 200))
    batches = _epoch(BatchOrder(samples=samples, batch=batch, seed=seed, drop_last=True), 0)
    assert [len(one) for one in batches] == [batch] * (samples // batch)
    assert len(set(np.concatenate(batches).tolist())) == len(batches) * batch


@given(data=st.data(), world=st.integers(1, 7), batch=st.integers(1, 9), drop_last=st.booleans())
def test_ranks_get_equal_disjoint_shares_of_all_but_the_remainder(
    data: st.DataObject, world: int, batch: int, drop_last: bool
) -> None:
    samples = data.draw(st.integers(world * batch, 200))
    ranks = [
        BatchOrder(samples=samples, batch=batch, seed=1, drop_last=drop_last, rank=rank, world=world)
        for rank in range(world)
    ]
    shares = [_epoch(order, 3) for order in ranks]
    assert len({tuple(len(one) for one in share) for share in shares}) == 1
    seen = np.concatenate([one for share in shares for one in share])
    assert len(set(seen.tolist())) == len(seen)
    if not drop_last:
        assert len(seen) == samples // world * world


def test_the_batches_of_all_ranks_together_are_those_of_one_rank_with_a_larger_batch() -> None:
    alone = BatchOrder(samples=240, batch=24, seed=5)
    ranks = [BatchOrder(samples=240, batch=6, seed=5, rank=rank, world=4) for rank in range(4)]
    for number in range(alone.batches):
        together = np.concatenate([order.indices(2, number) for order in ranks])
        assert set(together.tolist()) == set(alone.indices(2, number).tolist())


def test_the_samples_that_are_left_out_differ_between_epochs() -> None:
    ranks = [BatchOrder(samples=11, batch=5, seed=0, rank=rank, world=2) for rank in range(2)]
    left_out = [
        set(range(11)) - {int(i) for order in ranks for one in _epoch(order, epoch) for i in one} for epoch in range(30)
    ]
    assert {len(one) for one in left_out} == {1}
    assert len(set.union(*left_out)) > 5


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = [
        tuple(np.concatenate(_epoch(BatchOrder(samples=50, batch=8, seed=seed), epoch)).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9


def test_the_order_is_fixed_for_all_machines_and_versions() -> None:
    order = BatchOrder(samples=10, batch=10, seed=7)
    assert order.indices(0, 0).tolist() == [4, 3, 2, 1, 5, 7, 8, 9, 6, 0]


def test_every_place_of_a_sample_is_as_likely_as_another() -> None:
    places = np.zeros((6, 6))
    for epoch in range(3000):
        places[np.arange(6), BatchOrder(samples=6, batch=6, seed=0).indices(epoch, 0)] += 1
    assert np.abs(places - 500).max() < 110  # five standard deviations


@pytest.mark.parametrize(("batch", "rank", "world"), [(0, 0, 1), (1, 1, 1), (1, -1, 2)])
def test_impossible_numbers_are_refused(batch: int, rank: int, world: int) -> None:
    with pytest.raises(InputError, match="the batch must be at least 1"):
        BatchOrder(samples=10, batch=batch, seed=0, rank=rank, world=world)


@pytest.mark.parametrize(("samples", "drop_last", "world"), [(0, False, 1), (9, True, 1), (3, False, 4)])
def test_an_epoch_without_a_batch_is_refused(samples: int, drop_last: bool, world: int) -> None:
    with pytest.raises(InputError, match=rf"{samples} samples do not fill one batch of 10 for each of {world} ranks"):
        BatchOrder(samples=samples, batch=10, seed=0, drop_last=drop_last, world=world)
