"""BatchSampler: batches hold what the columns say, resume exactly, and end without leaving a thread behind."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from digiq_ray.core.errors import DeadlineExceededError, InputError
from digiq_ray.store.batch_order import BatchOrder
from digiq_ray.store.features import FeatureKey, FeatureStore, FeatureView, Fingerprint
from digiq_ray.store.sampler import Batch, BatchSampler
from digiq_ray.store.sampler_columns import FeatureRows

_SAMPLES = 53
_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")
_STATE_ROWS = np.arange(_SAMPLES)[:, None] + np.array([0, 1])  # a state and its successor


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> FeatureView:
    store = FeatureStore.create(tmp_path_factory.mktemp("features"))
    for shard, count in (("a", 20), ("b", _SAMPLES + 1 - 20)):
        features = np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
        store.append(shard, [FeatureKey(shard, step, None) for step in range(count)], features, _FINGERPRINT)
    return store.open()


def _sampler(view: FeatureView, **arguments: Any) -> BatchSampler:
    order = BatchOrder(samples=_SAMPLES, batch=arguments.pop("batch", 8), seed=arguments.pop("seed", 3))
    columns = {"reward": np.arange(_SAMPLES) / 2, "states": FeatureRows(view, _STATE_ROWS)}
    return BatchSampler(columns=columns | arguments.pop("more", {}), order=order, **arguments)


def _plain(batches: Iterator[Batch]) -> list[tuple[int, int, list[int], dict[str, bytes]]]:
    return [
        (one.epoch, one.number, one.samples.tolist(), {name: column.tobytes() for name, column in one.columns.items()})
        for one in batches
    ]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_batch_holds_the_columns_of_its_samples(view: FeatureView, prefetch: int) -> None:
    everything = view.rows(range(len(view)))
    with _sampler(view, epochs=2, prefetch=prefetch) as sampler:
        batches = list(sampler)
    assert [(one.epoch, one.number) for one in batches] == [(epoch, number) for epoch in (0, 1) for number in range(7)]
    for one in batches:
        np.testing.assert_array_equal(one.columns["reward"], one.samples / 2)
        np.testing.assert_array_equal(one.columns["states"], everything[_STATE_ROWS[one.samples]])


@given(done=st.integers(0, 30), prefetch=st.integers(0, 3), batch=st.integers(1, 60))
@settings(max_examples=60)
def test_resuming_anywhere_gives_the_batches_that_would_have_followed(
    view: FeatureView, done: int, prefetch: int, batch: int
) -> None:
    with _sampler(view, batch=batch, prefetch=prefetch) as first:
        list(islice(first, done))
        state = json.loads(json.dumps(first.state()))
        expected = _plain(islice(first, 9))
    with _sampler(view, batch=batch) as second:
        list(islice(second, 2))
        second.resume(state)
        assert _plain(islice(second, 9)) == expected


def test_the_state_does_not_count_what_was_only_read_ahead(view: FeatureView) -> None:
    with _sampler(view, prefetch=3) as sampler:
        next(sampler)
        assert (sampler.state()["epoch"], sampler.state()["number"]) == (0, 1)
        list(islice(sampler, 6))
        assert (sampler.state()["epoch"], sampler.state()["number"]) == (1, 0)


def test_a_state_of_one_rank_holds_for_another(view: FeatureView) -> None:
    columns = {"states": FeatureRows(view, _STATE_ROWS)}
    first, second = (
        BatchSampler(columns=columns, order=BatchOrder(samples=_SAMPLES, batch=4, seed=0, rank=rank, world=2))
        for rank in range(2)
    )
    with first, second:
        list(islice(first, 3))
        second.resume(first.state())
        assert second.state() == first.state()


def test_a_state_of_other_data_is_refused_by_the_setting_that_differs(view: FeatureView) -> None:
    state = _sampler(view, seed=3).state()
    with _sampler(view, seed=4) as second, pytest.raises(InputError, match="was taken with seed 3, not 4"):
        second.resume(state)


@pytest.mark.parametrize(
    "change", [{"order": None}, {"order": {"samples": 1}}, {"epoch": None}, {"number": -1}, {"number": "3"}]
)
def test_what_is_no_state_is_refused(view: FeatureView, change: dict[str, Any]) -> None:
    with _sampler(view) as sampler, pytest.raises(InputError, match="not one of a batch sampler"):
        sampler.resume(sampler.state() | change)


def test_a_column_of_another_length_is_refused_by_its_name(view: FeatureView) -> None:
    with pytest.raises(InputError, match="column 'done' has 3 rows, there are 53 samples"):
        _sampler(view, more={"done": np.zeros(3)})


class _Gate:
    """Stands for a view whose disk answers when it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked = 0
        self.error: Exception | None = None

    def __len__(self) -> int:
        return _SAMPLES

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        self.asked += 1
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        return indices


@pytest.fixture
def gate() -> Iterator[_Gate]:
    gate = _Gate()
    yield gate
    gate.open.set()


def _behind(gate: _Gate, **arguments: Any) -> BatchSampler:
    column = FeatureRows(gate, np.arange(_SAMPLES))  # type: ignore[arg-type]
    return BatchSampler(columns={"x": column}, order=BatchOrder(samples=_SAMPLES, batch=5, seed=0), **arguments)


def test_no_more_is_read_ahead_than_was_asked_for(gate: _Gate) -> None:
    gate.open.set()
    sampler = _behind(gate, prefetch=2)
    next(sampler)
    sampler.close()
    assert gate.asked <= 3


def test_what_comes_next_is_read_while_the_consumer_works(gate: _Gate) -> None:
    gate.open.set()
    with _behind(gate, prefetch=1) as sampler:
        next(sampler)
        gate.open.clear()
        threading.Timer(0.05, gate.open.set).start()
        next(sampler)
        assert sampler.state()["number"] == 2


def test_a_batch_that_does_not_come_is_named(gate: _Gate) -> None:
    sampler = _behind(gate, deadline_s=0.05)
    with pytest.raises(DeadlineExceededError, match="batch 0 of epoch 0 was not read after"):
        next(sampler)
    with pytest.raises(DeadlineExceededError, match="was still being read"):
        sampler.close()
    gate.open.set()
    sampler.close()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_of_reading_reaches_the_consumer_and_the_batch_is_tried_again(gate: _Gate, prefetch: int) -> None:
    gate.open.set()
    with _behind(gate, prefetch=prefetch) as sampler:
        gate.error = OSError("the disk is gone")
        with pytest.raises(OSError, match="the disk is gone"):
            next(sampler)
        gate.error = None
        assert (next(sampler).number, next(sampler).number) == (0, 1)


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("batch-sampler")}


def test_a_closed_sampler_gives_nothing_and_leaves_no_thread(view: FeatureView) -> None:
    sampler = _sampler(view)
    next(sampler)
    assert _threads()
    sampler.close()
    sampler.close()
    assert list(sampler) == []
    assert not _threads()


def test_a_sampler_that_is_forgotten_leaves_no_thread(view: FeatureView) -> None:
    sampler = _sampler(view)
    next(sampler)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("batch-sampler")]
    del sampler
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
    assert not _threads()


def test_a_batch_belongs_to_its_receiver(view: FeatureView) -> None:
    reward = np.arange(_SAMPLES) / 2
    with _sampler(view, more={"reward": reward}) as sampler:
        batch = next(sampler)
        batch.columns["reward"][:] = -1
        batch.columns["states"][:] = 0
        batch.samples[:] = 0
        sampler.resume(sampler.state() | {"number": 0})
        assert next(sampler).columns["reward"].min() >= 0
    assert reward.min() == 0
