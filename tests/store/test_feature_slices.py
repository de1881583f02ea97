"""Ranges of features: a view of the mapping where one shard holds them, and never anything that can be written to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from digiq_ray.store.features import FeatureKey, FeatureStore, FeatureView, Fingerprint

_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")
Features = NDArray[np.floating[Any]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureView, Features]:
    store = FeatureStore.create(tmp_path_factory.mktemp("features"))
    whole = np.random.default_rng(0).standard_normal((60, 700)).astype(np.float16)
    for name, (start, stop) in {"a": (0, 25), "b": (25, 25), "c": (25, 60)}.items():
        keys = [FeatureKey(name, i, None) for i in range(stop - start)]
        store.append(name, keys, whole[start:stop], _FINGERPRINT)
    return store.open(), whole


@given(bounds=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_a_range_holds_its_rows_and_cannot_be_written(
    shards: tuple[FeatureView, Features], bounds: tuple[int, int]
) -> None:
    view, whole = shards
    start, stop = sorted(bounds)
    part = view.slice(start, stop)
    np.testing.assert_array_equal(part, whole[start:stop])
    assert part.shape == (stop - start, 700)
    assert not part.flags.writeable


def test_a_range_of_one_shard_shares_the_mapping_and_another_is_a_copy(shards: tuple[FeatureView, Features]) -> None:
    view, _ = shards
    assert view.shard_starts.tolist() == [0, 25, 25]
    assert np.shares_memory(view.slice(25, 60), view.slice(30, 31))
    assert not np.shares_memory(view.slice(20, 30), view.slice(20, 25))


@pytest.mark.parametrize("bounds", [(-1, 3), (3, 61), (4, 3)])
def test_a_range_outside_the_view_is_an_index_error(
    shards: tuple[FeatureView, Features], bounds: tuple[int, int]
) -> None:
    with pytest.raises(IndexError, match=r"must lie in \[0, 60\)"):
        shards[0].slice(*bounds)


@given(
    indices=st.lists(st.lists(st.integers(0, 59), min_size=3, max_size=3), max_size=20),
    cached=st.booleans(),
)
def test_rows_come_in_the_shape_of_their_indices(
    shards: tuple[FeatureView, Features], indices: list[list[int]], cached: bool
) -> None:
    view, whole = shards
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1, 3)
    found = view.rows(wanted, cached=cached)
    np.testing.assert_array_equal(found, whole[wanted])
    assert found.flags.writeable
