"""Screens that repeat lie once in a row group, are read back everywhere, and can be found by any reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.episodes import Episode, screen_hash
from digiq_ray.core.errors import StoreError
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows, rows_to_table
from digiq_ray.store.screens import resolve_screens, share_screens

MakeEpisode = Callable[..., Episode]
_BYTES = 300_000  # so large that a row group holds a few screens only


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create(tmp_path / "episodes")


def _with_screens(episode: Episode, *screens: bytes) -> Episode:
    """``episode`` with these screens, one for each observation."""
    steps = (dataclasses.replace(step, screen=s) for step, s in zip(episode.steps, screens, strict=True))
    return dataclasses.replace(episode, steps=tuple(steps))


def _screens_table(screens: list[bytes]) -> pa.Table:
    rows = [{"screen": screen or None, "screen_hash": screen_hash(screen) if screen else None} for screen in screens]
    return rows_to_table(rows, EPISODE_SCHEMA.empty_table().select(["screen", "screen_hash"]).schema)


def test_the_bytes_of_a_repeated_screen_lie_in_the_first_row_only(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    name = store.append([_with_screens(make_episode(0), b"one", b"two", b"one", b"one")])
    rows = pq.read_table(store.path / str(name), columns=["screen", "screen_hash"]).to_pydict()
    assert rows["screen"] == [b"one", b"two", None, None]
    assert rows["screen_hash"] == [screen_hash(screen) for screen in (b"one", b"two", b"one", b"one")]


def test_screens_are_shared_between_the_episodes_of_a_row_group(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episodes = [_with_screens(make_episode(number, actions=1), b"home", b"%d" % number) for number in range(5)]
    name = store.append(episodes)
    assert pq.read_table(store.path / str(name))["screen"].null_count == 4
    assert list(store.episodes()) == sorted(episodes, key=lambda episode: episode.episode_id)


def test_no_screen_is_looked_for_in_another_row_group(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    home = b"home" * (_BYTES // 4)
    episodes = []
    for number in range(12):
        others = (bytes([number, step]) * (_BYTES // 2) for step in range(3))
        episodes.append(_with_screens(make_episode(number), home, *others))
    file = pq.ParquetFile(store.path / str(store.append(episodes)))
    assert file.metadata.num_row_groups > 2
    for group in range(file.metadata.num_row_groups):
        rows = file.read_row_group(group, columns=["screen", "screen_hash"])
        stored = {row["screen_hash"] for row in rows.to_pylist() if row["screen"] is not None}
        assert set(rows["screen_hash"].to_pylist()) == stored
    assert list(store.episodes()) == sorted(episodes, key=lambda episode: episode.episode_id)


def test_the_table_has_the_bytes_on_every_row_whichever_columns_are_asked_for(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    store.append([_with_screens(make_episode(0), b"one", b"two", b"one", b"two")])
    assert store.table(["screen"]).to_pydict() == {"screen": [b"one", b"two", b"one", b"two"]}
    assert store.table(["step", "screen"]).column_names == ["step", "screen"]
    assert store.table()["screen"].to_pylist() == [b"one", b"two", b"one", b"two"]


def test_a_lost_screen_is_null_without_a_hash_and_comes_back_empty(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    episode = _with_screens(make_episode(0), b"", b"two", b"", b"two")
    name = store.append([episode])
    rows = pq.read_table(store.path / str(name), columns=["screen", "screen_hash"]).to_pydict()
    assert rows == {"screen": [None, b"two", None, None], "screen_hash": [None, *[screen_hash(b"two"), None] * 2][:4]}
    assert list(store.episodes()) == [episode]
    assert store.table(["screen"])["screen"].to_pylist() == [None, b"two", None, b"two"]


def test_episodes_without_any_screen_are_read(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episode = _with_screens(make_episode(0), b"", b"", b"", b"")
    store.append([episode])
    assert list(store.episodes()) == [episode]


@given(st.lists(st.sampled_from([b"", b"a", b"bb", b"ccc"]), min_size=1, max_size=12), st.data())
def test_any_part_of_shared_screens_is_resolved_to_what_was_there(screens: list[bytes], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(screens)))
    length = data.draw(st.integers(0, len(screens) - start))
    shared = share_screens(_screens_table(screens))
    assert len(shared["screen"].drop_null()) == len(set(screens) - {b""})
    resolved = resolve_screens(shared, start, length)["screen"].to_pylist()
    assert resolved == [screen or None for screen in screens[start : start + length]]


def _write_version_1(path: Path, episode: Episode) -> None:
    """A segment as earlier versions wrote it: the bytes and the hash of every screen on its row."""
    rows = episode_to_rows(episode)
    for row, step in zip(rows, episode.steps, strict=True):
        row |= {"screen": step.screen, "screen_hash": screen_hash(step.screen)}
    table = rows_to_table(rows, EPISODE_SCHEMA)
    footer = {
        b"digiq.schema_version": b"1",
        b"digiq.episode_ids": f'["{episode.episode_id}"]'.encode(),
        b"digiq.episode_rows": f"[{len(rows)}]".encode(),
    }
    pq.write_table(table.replace_schema_metadata(EPISODE_SCHEMA.metadata | footer), path)


def test_a_segment_of_version_1_is_read(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episode = _with_screens(make_episode(0), b"one", b"two", b"one", b"")
    _write_version_1(store.path / "01J00000000000000000000001.parquet", episode)
    store.append([make_episode(1)])
    assert list(store.episodes([episode.episode_id])) == [episode]
    assert store.table(["screen"]).num_rows == 8


def test_a_snapshot_of_a_segment_of_version_1_pins_its_bytes(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    path = store.path / "01J00000000000000000000001.parquet"
    _write_version_1(path, make_episode(0))
    snapshot = store.snapshot()
    assert len(EpisodeStore(store.path, snapshot=snapshot)) == 1
    _write_version_1(path, dataclasses.replace(make_episode(0), device="other"))
    with pytest.raises(StoreError, match="is not what the snapshot saw"):
        EpisodeStore(store.path, snapshot=snapshot)


def test_a_hash_that_no_row_has_the_bytes_of_is_a_store_error(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    path = store.path / str(store.append([make_episode(0)]))
    table = pq.read_table(path)
    nothing = pa.nulls(table.num_rows, pa.large_binary())
    hashes = (b"digiq.body", b"digiq.seal")
    footer = {key: value for key, value in pq.read_metadata(path).metadata.items() if key not in hashes}
    table = table.set_column(table.column_names.index("screen"), "screen", nothing).replace_schema_metadata(footer)
    pq.write_table(table, path)
    with pytest.raises(StoreError, match=f"{path.name}: is broken .no row has the bytes of screen"):
        list(EpisodeStore(store.path).episodes())
    with pytest.raises(StoreError, match=f"{path.name}: is broken .no row has the bytes of screen"):
        EpisodeStore(store.path).table(["screen"])
