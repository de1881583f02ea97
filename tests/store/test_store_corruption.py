"""Broken files: whatever the bytes are, reading ends in a ``StoreError`` that names the file, never in wrong rows."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digiq_ray.core.episodes import Episode
from digiq_ray.core.errors import StoreError
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint

MakeEpisode = Callable[..., Episode]
_FINGERPRINT = Fingerprint(model="m", layer=3, pooling="last", prompt="p", image="i")
_DAMAGES = 150


@pytest.fixture
def segment(tmp_path: Path, make_episode: MakeEpisode) -> Path:
    store = EpisodeStore.create(tmp_path / "episodes")
    return store.path / str(store.append([make_episode(number) for number in range(3)]))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    store = FeatureStore.create(tmp_path / "features")
    keys = [FeatureKey(f"e{i}", i, None if i % 2 else f"tap {i}") for i in range(20)]
    store.append("a", keys, np.random.default_rng(0).standard_normal((20, 4)).astype(np.float16), _FINGERPRINT)
    return store.path / "a.arrow"


def _put(path: Path, content: bytes) -> None:
    """Replaces a file without touching the pages of the old one, which may be mapped."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def _damaged(content: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    length = rng.choice((1, 1, 4, 16))
    start = rng.randrange(len(content) - length)
    return content[:start] + rng.randbytes(length) + content[start + length :]


def _read_episodes(path: Path) -> object:
    store = EpisodeStore(path.parent)
    return store.table().to_pylist(), list(store.episodes())


def _read_features(path: Path) -> object:
    view = FeatureStore(path.parent).open()
    view.verify()
    return view.keys.to_pylist(), view.rows(np.arange(len(view))).tobytes()


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, -8, -1])
def test_a_truncated_segment_is_a_store_error_that_names_it(segment: Path, kept: float) -> None:
    content = segment.read_bytes()
    _put(segment, content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    with pytest.raises(StoreError, match=f"{segment.name}: is broken"):
        _read_episodes(segment)


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, -8, -1])
def test_a_truncated_feature_shard_is_a_store_error_that_names_it(shard: Path, kept: float) -> None:
    content = shard.read_bytes()
    _put(shard, content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    with pytest.raises(StoreError, match=r"a\.arrow: is broken"):
        _read_features(shard)


@pytest.mark.parametrize("size", [1, 12, 5000])
def test_random_bytes_are_a_store_error(segment: Path, shard: Path, size: int) -> None:
    _put(segment, random.Random(size).randbytes(size))
    with pytest.raises(StoreError, match=f"{segment.name}: is broken"):
        _read_episodes(segment)
    _put(shard, random.Random(size).randbytes(size))
    with pytest.raises(StoreError, match=r"a\.arrow: is broken"):
        _read_features(shard)


@pytest.mark.parametrize("kind", ["episodes", "features"])
def test_damage_anywhere_is_found_or_harmless(segment: Path, shard: Path, kind: str) -> None:
    path, read = (segment, _read_episodes) if kind == "episodes" else (shard, _read_features)
    good, whole = path.read_bytes(), read(path)
    messages: list[str] = []
    for seed in range(_DAMAGES):
        _put(path, _damaged(good, seed))
        try:
            outcome = read(path)
        except StoreError as error:
            messages.append(str(error))
        else:
            assert outcome == whole
    assert len(messages) > _DAMAGES / 2
    assert all(path.name in message and "\n" not in message for message in messages)


def test_a_segment_of_another_schema_version_is_a_store_error(segment: Path) -> None:
    table = pq.read_table(segment)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"digiq.schema_version": b"99"}), segment)
    with pytest.raises(StoreError, match=r"its digiq\.schema_version is 99, this program reads 1 and 2"):
        _read_episodes(segment)


def test_a_segment_of_another_kind_is_a_store_error(segment: Path) -> None:
    table = pq.read_table(segment)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"digiq.kind": b"candidates"}), segment)
    with pytest.raises(StoreError, match=r"its digiq\.kind is candidates, this program reads episodes"):
        _read_episodes(segment)


def test_a_segment_that_another_program_wrote_again_is_a_store_error(segment: Path) -> None:
    pq.write_table(pq.read_table(segment), segment)
    with pytest.raises(StoreError, match="its footer does not list its episodes"):
        _read_episodes(segment)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["reward"]), "column reward is missing"),
        (
            lambda table: table.set_column(1, "step", table["step"].cast(pa.int64())),
            "column step is of type int64, not int32",
        ),
    ],
)
def test_a_segment_with_other_columns_is_a_store_error(
    segment: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    pq.write_table(change(pq.read_table(segment)), segment)
    with pytest.raises(StoreError, match=message):
        _read_episodes(segment)


def test_a_parquet_file_of_another_name_is_a_store_error(segment: Path) -> None:
    (segment.parent / "export.parquet").write_bytes(segment.read_bytes())
    with pytest.raises(StoreError, match=r"export\.parquet: is not a segment of this data set"):
        _read_episodes(segment)


def test_a_feature_shard_under_another_name_is_a_store_error(shard: Path) -> None:
    os.rename(shard, shard.with_name("b.arrow"))
    with pytest.raises(StoreError, match=r"b\.arrow: is broken \(it is shard 'a' under another name\)"):
        _read_features(shard)


def test_a_compressed_feature_shard_is_a_store_error(shard: Path) -> None:
    batch = pa.ipc.open_file(shard.read_bytes()).get_batch(0)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(shard), "wb") as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    with pytest.raises(StoreError, match="its features are compressed"):
        _read_features(shard)


def test_a_feature_shard_of_several_batches_is_a_store_error(shard: Path) -> None:
    batch = pa.ipc.open_file(shard.read_bytes()).get_batch(0)
    with pa.OSFile(str(shard), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch.slice(0, 5))
        writer.write_batch(batch.slice(5))
    with pytest.raises(StoreError, match="it has 2 record batches, not one"):
        _read_features(shard)
