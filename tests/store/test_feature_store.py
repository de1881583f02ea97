"""FeatureStore: rows come back exactly, opening reads nothing, and what does not belong is refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from digiq_ray.core.errors import DiskFullError, FingerprintMismatchError, InputError, StoreError
from digiq_ray.store.features import FeatureKey, FeatureStore, FeatureValueError, FeatureView, Fingerprint
from digiq_ray.store.snapshot import Snapshot

Features = NDArray[np.floating[Any]]
_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")
_MB = 1 << 20


def _keys(count: int, episode: str = "e") -> list[FeatureKey]:
    return [FeatureKey(episode, i, None if i % 3 == 0 else f"tap {i}") for i in range(count)]


def _features(count: int, dim: int = 6, dtype: str = "float16", seed: int = 0) -> Features:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(dtype)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "features")


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureView, Features]:
    store = FeatureStore.create(tmp_path_factory.mktemp("features"))
    parts = {name: _features(count, dim=700, seed=count) for name, count in (("a", 40), ("b", 0), ("c", 61))}
    for name in reversed(parts):
        store.append(name, _keys(len(parts[name]), name), parts[name], _FINGERPRINT)
    return store.open(), np.concatenate(list(parts.values()))


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4"])
def test_features_come_back_exactly_in_their_type(store: FeatureStore, dtype: str) -> None:
    features = _features(10, dtype=dtype)
    assert store.append("a", _keys(10), features, _FINGERPRINT)
    view = FeatureStore(store.path).open()
    assert (len(view), view.dim, view.dtype) == (10, 6, np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(view.rows(range(10)), features)
    assert view.fingerprint == _FINGERPRINT


@settings(max_examples=60, deadline=None)
@given(indices=st.lists(st.integers(0, 100)))
def test_random_access_gives_the_named_rows_in_their_order(
    three_shards: tuple[FeatureView, Features], indices: list[int]
) -> None:
    view, features = three_shards
    np.testing.assert_array_equal(view.rows(indices), features[np.asarray(indices, dtype=int)])


@pytest.mark.parametrize("indices", [[-1], [101], [0.0], [True] * 101])
def test_what_is_no_row_number_is_an_index_error(
    three_shards: tuple[FeatureView, Features], indices: list[object]
) -> None:
    with pytest.raises(IndexError, match="feature rows"):
        three_shards[0].rows(indices)  # type: ignore[arg-type]


def test_keys_come_back_exactly_through_all_shards_in_name_order(
    three_shards: tuple[FeatureView, Features],
) -> None:
    keys = three_shards[0].keys
    expected = _keys(40, "a") + _keys(61, "c")
    assert [FeatureKey(**row) for row in keys.to_pylist()] == expected


@pytest.mark.parametrize("keys", [[], [FeatureKey("", 0, "")], [FeatureKey("é", 1, None)] * 9])
def test_keys_of_any_length_and_text_come_back_exactly(store: FeatureStore, keys: list[FeatureKey]) -> None:
    store.append("a", keys, _features(len(keys)), _FINGERPRINT)
    assert [FeatureKey(**row) for row in store.open().keys.to_pylist()] == keys


def test_features_that_are_not_contiguous_come_back_exactly(store: FeatureStore) -> None:
    features = _features(20, dim=8)[::2, ::-1]
    store.append("a", _keys(10), features, _FINGERPRINT)
    np.testing.assert_array_equal(store.open().rows(range(10)), features)


def test_whole_shards_verify(three_shards: tuple[FeatureView, Features]) -> None:
    three_shards[0].verify()


def test_a_changed_feature_does_not_verify(store: FeatureStore) -> None:
    features = _features(10, dtype="float32")
    store.append("a", _keys(10), features, _FINGERPRINT)
    path = store.path / "a.arrow"
    content = path.read_bytes()
    path.write_bytes(content.replace(features[7].tobytes(), features[6].tobytes()))
    with pytest.raises(StoreError, match=r"a\.arrow: is broken \(its content does not match its digiq.features_hash"):
        store.open().verify()


def test_shards_that_are_done_are_named(store: FeatureStore) -> None:
    assert store.shards() == set()
    store.append("a", _keys(1), _features(1), _FINGERPRINT)
    store.append("b", [], _features(0), _FINGERPRINT)
    (store.path / ".c.arrow.0123456789abcdef.tmp").write_bytes(b"half a shard")
    assert FeatureStore(store.path).shards() == {"a", "b"}


def test_a_repeated_shard_is_dropped(store: FeatureStore) -> None:
    features = _features(4)
    assert store.append("a", _keys(4), features, _FINGERPRINT)
    assert not FeatureStore(store.path).append("a", _keys(4), _features(4, seed=1), _FINGERPRINT)
    np.testing.assert_array_equal(store.open().rows(range(4)), features)


def test_a_view_does_not_change_when_shards_are_added(store: FeatureStore) -> None:
    store.append("b", _keys(4), _features(4), _FINGERPRINT)
    view = store.open()
    store.append("a", _keys(4), _features(4, seed=1), _FINGERPRINT)
    assert len(view) == 4
    np.testing.assert_array_equal(view.rows(range(4)), _features(4))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _bytes_read_from_disk() -> int:
    return int(re.findall(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="what a process reads is told by /proc (Linux)")
def test_opening_200_mb_reads_nothing_and_a_batch_only_its_rows(store: FeatureStore) -> None:
    count, dim = 25_000, 4096
    features = np.full((count, dim), 0.5, dtype=np.float16)
    features[:, 0] = np.arange(1, count + 1) / count
    store.append("a", _keys(count), features, _FINGERPRINT)
    assert os.path.getsize(store.path / "a.arrow") > 195 * _MB
    indices = np.random.default_rng(0).integers(0, count, 100)
    expected = features[indices]
    with open(store.path / "a.arrow", "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    resident, read = _resident_bytes(), _bytes_read_from_disk()
    view = store.open()
    assert _resident_bytes() - resident < 4 * _MB
    assert _bytes_read_from_disk() - read < 4 * _MB
    np.testing.assert_array_equal(view.rows(indices), expected)
    assert _bytes_read_from_disk() - read < 8 * _MB


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_is_refused_by_its_key(store: FeatureStore, bad: float) -> None:
    features = _features(5000, dim=2)
    features[4321, 1] = bad
    with pytest.raises(FeatureValueError, match=r"row 4321 .*step=4321.*: the feature is not finite"):
        store.append("a", _keys(5000), features, _FINGERPRINT)
    assert os.listdir(store.path) == []


def test_a_feature_of_zeros_is_refused_by_its_key(store: FeatureStore) -> None:
    features = _features(5)
    features[2] = -0.0
    with pytest.raises(FeatureValueError, match=r"row 2 .*: the feature is all zeros"):
        store.append("a", _keys(5), features, _FINGERPRINT)
    assert os.listdir(store.path) == []


@pytest.mark.parametrize(
    "features",
    [_features(3), _features(2, dtype="float64"), np.ones((2, 3), np.int32), np.ones(2, np.float32), _features(2, 0)],
)
def test_features_of_another_shape_or_type_are_refused(store: FeatureStore, features: Features) -> None:
    with pytest.raises(InputError, match=r"features must be \[2, dim\] of float16 or float32"):
        store.append("a", _keys(2), features, _FINGERPRINT)


def test_a_shard_name_that_is_no_file_name_is_refused(store: FeatureStore) -> None:
    with pytest.raises(InputError, match="shard name 'a/b'"):
        store.append("a/b", _keys(2), _features(2), _FINGERPRINT)


_OTHER = {"model": "ffff", "layer": 4, "pooling": "mean", "prompt": "eeee", "image": "448x448 RGB"}


@pytest.mark.parametrize("field", _OTHER)
def test_a_fingerprint_other_than_expected_is_refused_by_field_and_values(store: FeatureStore, field: str) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    expected = dataclasses.replace(_FINGERPRINT, **{field: _OTHER[field]})  # type: ignore[arg-type]
    found = getattr(_FINGERPRINT, field)
    with pytest.raises(
        FingerprintMismatchError, match=rf"a\.arrow: .* {field} {found!r}, not {_OTHER[field]!r}"
    ) as caught:
        store.open(expected)
    assert "\n" not in str(caught.value)


def test_the_first_differing_field_is_named(store: FeatureStore) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    expected = dataclasses.replace(_FINGERPRINT, pooling="mean", image="448x448 RGB")
    with pytest.raises(FingerprintMismatchError, match="pooling 'last', not 'mean'"):
        store.open(expected)


def test_the_expected_fingerprint_opens(store: FeatureStore) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    assert store.open(dataclasses.replace(_FINGERPRINT)).fingerprint == _FINGERPRINT


@pytest.mark.parametrize("shard", ["a", "b"])
def test_appending_features_of_another_fingerprint_is_refused(store: FeatureStore, shard: str) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    with pytest.raises(FingerprintMismatchError, match="layer 3, not 4"):
        store.append(shard, _keys(2), _features(2), dataclasses.replace(_FINGERPRINT, layer=4))
    assert store.shards() == {"a"}


def _mix(tmp_path: Path, store: FeatureStore, features: Features, fingerprint: Fingerprint) -> None:
    """Puts a shard ``b`` into ``store`` that ``append`` would have refused, as two racing writers could."""
    other = FeatureStore.create(tmp_path / "other")
    other.append("b", _keys(len(features)), features, fingerprint)
    os.rename(other.path / "b.arrow", store.path / "b.arrow")


def test_shards_of_different_fingerprints_do_not_open(tmp_path: Path, store: FeatureStore) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    _mix(tmp_path, store, _features(2), dataclasses.replace(_FINGERPRINT, model="ffff"))
    with pytest.raises(FingerprintMismatchError, match=r"b\.arrow: .* model 'ffff', not '0a1b'"):
        store.open()


@pytest.mark.parametrize("features", [_features(2, dim=7), _features(2, dtype="float32")])
def test_shards_of_different_shape_or_type_do_not_open(tmp_path: Path, store: FeatureStore, features: Features) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    _mix(tmp_path, store, features, _FINGERPRINT)
    with pytest.raises(StoreError, match=r"b\.arrow: holds .*, a\.arrow holds float16\[6\]"):
        store.open()


def test_a_store_without_shards_does_not_open(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match="holds no features; embed them first"):
        store.open()


def test_a_missing_directory_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        FeatureStore(tmp_path / "nothing")


def test_a_full_disk_leaves_no_trace_of_the_shard(store: FeatureStore, request: pytest.FixtureRequest) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    request.getfixturevalue("full_disk")
    with pytest.raises(DiskFullError):
        store.append("b", _keys(2), _features(2), _FINGERPRINT)
    assert os.listdir(store.path) == ["a.arrow"]
    np.testing.assert_array_equal(store.open().rows([0, 1]), _features(2))


def test_a_feature_store_pickles_as_its_path(store: FeatureStore) -> None:
    store.append("a", _keys(2), _features(2), _FINGERPRINT)
    assert len(pickle.loads(pickle.dumps(store)).open()) == 2


# ---- snapshots


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_store_that_is_open_at_a_snapshot_has_its_shards_and_no_others(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "features" if place == "local" else request.getfixturevalue("s3_url")
    store = FeatureStore.create(path)
    store.append("b", _keys(4, "first"), _features(4), _FINGERPRINT)
    snapshot = store.open().snapshot()
    for shard in ("a", "c"):
        store.append(shard, _keys(3, shard), _features(3, seed=1), _FINGERPRINT)
    pinned = FeatureStore(path, snapshot=Snapshot.from_json(snapshot.to_json())).open()
    assert len(pinned) == 4
    assert np.array_equal(pinned.rows(range(4)), _features(4))
    assert pinned.snapshot() == snapshot
    assert store.open().snapshot().snapshot_hash != snapshot.snapshot_hash
    again = pickle.loads(pickle.dumps(FeatureStore(path, snapshot=snapshot)))
    assert len(again.open()) == 4


def test_snapshots_of_equal_shards_are_equal_and_of_others_not(tmp_path: Path) -> None:
    def snapshot(name: str, **other: Any) -> Snapshot:
        made: dict[str, Any] = {"keys": _keys(4), "features": _features(4), "fingerprint": _FINGERPRINT} | other
        store = FeatureStore.create(tmp_path / name)
        store.append("0", **made)
        return store.open().snapshot()

    first = snapshot("first")
    assert snapshot("same") == first
    changed = (
        {"keys": _keys(4, "another")},
        {"features": _features(4, seed=1)},
        {"fingerprint": dataclasses.replace(_FINGERPRINT, layer=4)},
    )
    assert all(snapshot(str(number), **other) != first for number, other in enumerate(changed))


def test_a_shard_of_a_snapshot_that_is_gone_or_another_now_is_refused(store: FeatureStore) -> None:
    store.append("0", _keys(4), _features(4), _FINGERPRINT)
    snapshot = store.open().snapshot()
    (store.path / "0.arrow").unlink()
    with pytest.raises(StoreError, match=r"0\.arrow: is gone; restore it from a copy"):
        FeatureStore(store.path, snapshot=snapshot).open()
    store.append("0", _keys(4), _features(4, seed=1), _FINGERPRINT)
    with pytest.raises(StoreError, match=r"0\.arrow: is not what the snapshot saw; restore it from a copy"):
        FeatureStore(store.path, snapshot=snapshot).open()


def test_nothing_is_appended_to_a_snapshot(store: FeatureStore) -> None:
    store.append("0", _keys(4), _features(4), _FINGERPRINT)
    with pytest.raises(StoreError, match="is open at a snapshot, which is read-only"):
        FeatureStore(store.path, snapshot=store.open().snapshot()).append("1", _keys(1), _features(1), _FINGERPRINT)
