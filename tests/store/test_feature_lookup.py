"""Finding features by their keys: exact for any keys, without reading them, and broken tables are noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.errors import StoreError
from digiq_ray.store.feature_lookup import find, hash_keys, make_lookup
from digiq_ray.store.feature_shard import MappedShard
from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint

_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")
_KEYS = st.tuples(st.text(max_size=4), st.integers(0, 3), st.none() | st.text(max_size=4))


def _ones(count: int) -> Any:
    return np.ones((count, 2), dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "features")


@given(keys=st.lists(_KEYS, max_size=40), wanted=st.lists(_KEYS, max_size=40))
def test_a_key_is_found_at_its_first_row_or_nowhere(
    keys: list[tuple[str, int, str | None]], wanted: list[tuple[str, int, str | None]]
) -> None:
    asked = keys + wanted
    found = find(make_lookup(hash_keys(keys)), hash_keys(asked))
    assert found.tolist() == [keys.index(key) if key in keys else -1 for key in asked]


def test_keys_that_look_alike_when_joined_have_different_hashes() -> None:
    keys = [
        ("a", 1, None),
        ("a", 1, ""),
        ("a,1", 1, None),
        ("a", 11, None),
        ("a", 1, "1"),
        ("", 1, "a"),
        ("a,1", 1, ""),
    ]
    assert len(set(hash_keys(keys).tolist())) == len(keys)


def test_the_hash_of_a_key_never_changes() -> None:
    assert hash_keys([("épisode", 3, "tap 0.5 0.25")])[0].hex() == "b09d9d1323062d47b52406feacc81d48"
    assert hash_keys([("e", 0, None)])[0].hex() == "db3789da12a734aa3e1725c243df790c"


@pytest.mark.parametrize("seed", range(5))
def test_merged_tables_find_what_the_single_ones_find(seed: int, tmp_path: Path, store: FeatureStore) -> None:
    rng = np.random.default_rng(seed)
    for shard in range(4):
        keys = {FeatureKey(f"e{rng.integers(30)}", int(rng.integers(20)), None) for _ in range(rng.integers(400))}
        store.append(str(shard), sorted(keys), _ones(len(keys)), _FINGERPRINT)
    one, other = store.open(), store.open()
    other.merge_lookups(tmp_path)
    asked = [(f"e{name}", step, None) for name in range(31) for step in range(21)]
    found = one.locate(asked)
    assert found.max() > 100
    assert (found < 0).any()
    assert other.locate(asked).tolist() == found.tolist()
    assert [file.name for file in tmp_path.iterdir()] == [store.path.name]


def test_nothing_is_merged_of_nothing(store: FeatureStore, tmp_path: Path) -> None:
    store.append("a", [], _ones(0), _FINGERPRINT)
    view = store.open()
    view.merge_lookups(tmp_path)
    assert view.locate([("e", 0, None)]).tolist() == [-1]


def test_the_key_of_a_row_is_what_its_feature_is_of(store: FeatureStore) -> None:
    for name, count in (("a", 2), ("b", 0), ("c", 3)):
        store.append(name, [FeatureKey(name, step, "back") for step in range(count)], _ones(count), _FINGERPRINT)
    view = store.open()
    assert [view.key(row) for row in range(5)] == [FeatureKey(**key) for key in view.keys.to_pylist()]


def test_features_are_located_through_all_shards(store: FeatureStore) -> None:
    keys = [FeatureKey(f"e{i % 7}", i, None if i % 2 else f"tap {i}") for i in range(90)]
    for name, part in (("c", keys[60:]), ("a", keys[:25]), ("empty", []), ("b", keys[25:60])):
        store.append(name, part, _ones(len(part)), _FINGERPRINT)
    view = store.open()
    asked = [keys[i] for i in (89, 0, 24, 25, 59, 60, 3)]
    rows = view.locate([*asked, FeatureKey("e0", 5000, None), ("\ud800", 0, None)])
    assert rows[-2:].tolist() == [-1, -1]
    stored = view.keys.to_pylist()
    assert [FeatureKey(**stored[row]) for row in rows[:-2]] == asked


def test_a_key_of_two_shards_is_found_in_the_first(store: FeatureStore) -> None:
    for name in ("b", "a"):
        store.append(name, [FeatureKey(name, 0, None), FeatureKey("both", 0, None)], _ones(2), _FINGERPRINT)
    assert store.open().locate([("both", 0, None), ("b", 0, None)]).tolist() == [1, 2]


def test_nothing_is_located_in_nothing(store: FeatureStore) -> None:
    store.append("a", [], _ones(0), _FINGERPRINT)
    view = store.open()
    assert view.locate([]).tolist() == []
    assert view.locate([("e", 0, None)]).tolist() == [-1]


def test_locating_reads_no_keys(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append("a", [FeatureKey("e", i, None) for i in range(9)], _ones(9), _FINGERPRINT)

    def fail(shard: MappedShard) -> None:
        raise AssertionError(f"the keys of {shard.name} were read")

    monkeypatch.setattr(MappedShard, "keys", fail)
    assert store.open().locate([("e", 8, None)]).tolist() == [8]


Change = Callable[[Any], Any]


def _rewrite(path: Path, change: Change) -> None:
    with pa.OSFile(str(path), "rb") as file:
        batch = pa.ipc.open_file(file).get_batch(0)
    changed = change(batch)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, changed.schema) as writer:
        writer.write_batch(changed)


def _with_rows(batch: Any, rows: list[int]) -> Any:
    index = batch.schema.get_field_index("lookup_row")
    return batch.set_column(index, "lookup_row", pa.array(rows, pa.int32()))


@pytest.fixture
def three(store: FeatureStore) -> Path:
    store.append("a", [FeatureKey("e", i, None) for i in range(3)], _ones(3), _FINGERPRINT)
    return Path(store.path / "a.arrow")


def test_a_shard_that_was_written_without_a_lookup_is_searched_by_its_keys(store: FeatureStore, three: Path) -> None:
    _rewrite(three, lambda batch: batch.drop_columns(["lookup_hash", "lookup_row"]))
    view = store.open()
    assert view.locate([("e", 2, None), ("e", 3, None)]).tolist() == [2, -1]
    view.verify()


def test_a_lookup_that_names_a_row_out_of_range_is_a_broken_shard(store: FeatureStore, three: Path) -> None:
    _rewrite(three, lambda batch: _with_rows(batch, [7, 8, 9]))
    with pytest.raises(StoreError, match=r"a\.arrow: is broken \(its lookup_row names a row"):
        store.open().locate([("e", i, None) for i in range(3)])
    with pytest.raises(StoreError, match=r"a\.arrow: is broken \(its lookup_row names a row"):
        store.open().merge_lookups(store.path)


def test_a_lookup_of_another_type_is_a_broken_shard(store: FeatureStore, three: Path) -> None:
    index = 4
    _rewrite(three, lambda batch: batch.set_column(index, "lookup_row", pa.array([0, 1, 2], pa.int64())))
    with pytest.raises(StoreError, match=r"a\.arrow: is broken \(its lookup_hash is .*, its lookup_row int64"):
        store.open().locate([("e", 0, None)])


def test_a_lookup_that_does_not_fit_the_keys_does_not_verify(store: FeatureStore, three: Path) -> None:
    _rewrite(three, lambda batch: _with_rows(batch, [0, 0, 0]))
    with pytest.raises(StoreError, match=r"a\.arrow: is broken \(its lookup does not match its keys"):
        store.open().verify()
