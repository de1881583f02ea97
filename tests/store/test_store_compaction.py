"""Compaction: fewer segments, the same episodes for every reader at every moment, and nothing deleted unasked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from digiq_ray.core.episodes import Episode
from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.store import compaction
from digiq_ray.store.compaction import compact, plan_merges
from digiq_ray.store.episodes import EpisodeStore, episode_segments
from digiq_ray.store.pruning import prune
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows, rows_to_table
from digiq_ray.store.segments import write_segment
from digiq_ray.store.verification import verify

MakeEpisode = Callable[..., Episode]


def _by_id(episodes: list[Episode]) -> list[Episode]:
    return sorted(episodes, key=lambda episode: episode.episode_id)


def _names(store: EpisodeStore) -> list[str]:
    return sorted(name for name in os.listdir(store.path) if name.endswith(".parquet"))


@pytest.fixture
def episodes(make_episode: MakeEpisode) -> list[Episode]:
    return _by_id([make_episode(number, actions=1 + number % 3) for number in range(12)])


@pytest.fixture
def store(tmp_path: Path, episodes: list[Episode]) -> EpisodeStore:
    """Twelve episodes in twelve segments."""
    store = EpisodeStore.create(tmp_path / "episodes")
    for episode in episodes:
        store.append([episode])
    return store


def test_small_segments_become_one_and_the_episodes_stay_the_same(store: EpisodeStore, episodes: list[Episode]) -> None:
    small = _names(store)
    (merge,) = compact(store)
    assert merge.replaces == tuple(small)
    assert list(EpisodeStore(store.path).episodes()) == list(store.episodes()) == episodes
    assert [segment.name for segment in episode_segments(store.directory).segments()] == [merge.name]


def test_the_footer_of_a_merged_segment_names_what_it_replaces(store: EpisodeStore) -> None:
    small = _names(store)
    (merge,) = compact(store)
    footer = pq.read_metadata(store.path / merge.name).metadata
    assert footer[b"digiq.replaces"].decode() == str(small).replace("'", '"')


def test_nothing_is_deleted_until_somebody_prunes(store: EpisodeStore, episodes: list[Episode]) -> None:
    small = _names(store)
    (merge,) = compact(store)
    assert _names(store) == sorted([*small, merge.name])
    assert prune(store).removed == tuple(small)
    assert _names(store) == [merge.name]
    assert list(EpisodeStore(store.path).episodes()) == episodes


def test_a_compacted_store_has_nothing_to_compact(store: EpisodeStore) -> None:
    compact(store)
    assert compact(store) == []


def test_merged_segments_are_about_as_large_as_the_target(store: EpisodeStore, episodes: list[Episode]) -> None:
    size = max((store.path / name).stat().st_size for name in _names(store))
    merges = compact(store, target_bytes=4 * size)
    assert len(merges) >= 3
    assert all(len(merge.replaces) >= 2 for merge in merges)
    prune(store)
    assert all((store.path / name).stat().st_size <= 4 * size for name in _names(store))
    assert list(store.episodes()) == episodes


def test_segments_near_the_target_are_left_alone(store: EpisodeStore) -> None:
    assert compact(store, target_bytes=1000) == []


def test_a_segment_merged_twice_names_all_that_it_replaces(
    store: EpisodeStore, episodes: list[Episode], make_episode: MakeEpisode
) -> None:
    small = _names(store)
    (first,) = compact(store)
    late = store.append([make_episode(99)])
    (second,) = compact(store)
    assert set(second.replaces) == {*small, first.name, str(late)}
    (store.path / first.name).unlink()
    assert list(EpisodeStore(store.path).episodes()) == _by_id([*episodes, make_episode(99)])
    assert [segment.name for segment in episode_segments(store.directory).segments()] == [second.name]


def test_an_episode_in_two_segments_is_kept_once_whatever_their_size(
    tmp_path: Path, store: EpisodeStore, episodes: list[Episode]
) -> None:
    other = EpisodeStore.create(tmp_path / "other")
    name = str(other.append(episodes[:3]))
    shutil.copy(other.path / name, store.path / name)
    assert sum(len(segment.episode_ids) for segment in episode_segments(store.directory).segments()) == 15
    compact(store, target_bytes=2)
    assert sum(len(segment.episode_ids) for segment in episode_segments(store.directory).segments()) == 12
    assert list(store.episodes()) == episodes


def test_an_append_after_compaction_drops_what_is_there(store: EpisodeStore, episodes: list[Episode]) -> None:
    compact(store)
    prune(store)
    assert EpisodeStore(store.path).append(episodes) is None


def test_a_reader_goes_on_when_its_segments_are_pruned(store: EpisodeStore, episodes: list[Episode]) -> None:
    reader = EpisodeStore(store.path)
    reading = reader.episodes()
    read = [next(reading)]
    compact(store)
    prune(store)
    assert [*read, *reading] == episodes
    assert reader.table().num_rows == sum(len(episode.steps) for episode in episodes)


def test_a_reader_goes_on_when_segments_vanish_between_its_look_and_its_read(
    store: EpisodeStore, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = EpisodeStore(store.path)
    holders = type(reader._table).holders

    def holders_then_prune(table: object) -> object:
        found = holders(table)  # type: ignore[arg-type]
        monkeypatch.undo()
        compact(store)
        prune(store)
        return found

    monkeypatch.setattr(type(reader._table), "holders", holders_then_prune)
    assert reader.table(["episode_id"])["episode_id"].unique().to_pylist() == [one.episode_id for one in episodes]


def test_a_compaction_whose_parts_another_one_replaced_writes_nothing(
    store: EpisodeStore, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = compaction.write_segment

    def overtaken(*args: object, **options: object) -> None:
        monkeypatch.undo()
        compact(EpisodeStore(store.path))
        prune(store)
        original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(compaction, "write_segment", overtaken)
    assert compact(store) == []
    assert len(_names(store)) == 1
    assert list(store.episodes()) == episodes


def test_two_compactions_that_publish_at_once_lose_and_double_nothing(
    store: EpisodeStore, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        overtaken: list[list[compaction.Merge]] = []

        def unaware(table: object, parts: object) -> None:
            if not overtaken:
                overtaken.append([])
                overtaken.append(compact(EpisodeStore(store.path)))

        patch.setattr(compaction, "_check_live", unaware)
        assert len(compact(store)) == len(overtaken[1]) == 1
    assert len(episode_segments(store.directory).segments()) == 2
    assert list(store.episodes()) == episodes
    prune(store)
    compact(store)
    prune(store)
    assert len(_names(store)) == 1
    assert list(store.episodes()) == episodes


def test_a_full_disk_leaves_the_store_as_it_was(
    store: EpisodeStore, episodes: list[Episode], request: pytest.FixtureRequest
) -> None:
    small = _names(store)
    request.getfixturevalue("full_disk")
    with pytest.raises(DiskFullError):
        compact(store)
    assert sorted(os.listdir(store.path)) == small
    assert list(EpisodeStore(store.path).episodes()) == episodes


def test_a_broken_segment_is_not_merged_away(store: EpisodeStore) -> None:
    path = store.path / _names(store)[3]
    content = bytearray(path.read_bytes())
    content[40] ^= 255
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{path.name}: is broken"):
        compact(store)
    assert len(_names(store)) == 12


def test_segments_that_a_snapshot_pins_are_kept(store: EpisodeStore, episodes: list[Episode]) -> None:
    small = _names(store)
    store.save_snapshot("before")
    compact(store)
    pruned = prune(store)
    assert pruned.removed == ()
    assert pruned.pinned == dict.fromkeys(small, ("before",))
    assert list(EpisodeStore(store.path, snapshot="before").episodes()) == episodes


def test_nothing_is_pruned_while_a_snapshot_is_broken(store: EpisodeStore) -> None:
    store.save_snapshot("before")
    (store.path / "_before.snapshot.json").write_text("{")
    compact(store)
    with pytest.raises(StoreError, match=r"_before\.snapshot\.json: is no snapshot"):
        prune(store)
    assert len(_names(store)) == 13


def test_a_snapshot_taken_while_its_segments_are_replaced_is_taken_again(
    store: EpisodeStore, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = type(store.directory).publish

    def overtaken(directory: object, name: str, content: bytes) -> bool:
        monkeypatch.undo()
        compact(store)
        prune(store)
        return publish(directory, name, content)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store.directory), "publish", overtaken)
    snapshot = store.save_snapshot("now")
    assert list(snapshot.segments) == _names(store)
    assert list(EpisodeStore(store.path, snapshot="now").episodes()) == episodes


@pytest.mark.parametrize("place", [40, 400])
def test_nothing_is_pruned_for_a_merged_segment_that_is_not_whole(store: EpisodeStore, place: int) -> None:
    (merge,) = compact(store)
    path = store.path / merge.name
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    pruned = prune(store)
    assert pruned.removed == ()
    assert len(pruned.unsure) == 12
    assert all("its content is not what was written" in reason for reason in pruned.unsure.values())


def test_compaction_holds_a_merged_segment_in_memory_not_the_store(tmp_path: Path, make_episode: MakeEpisode) -> None:
    store = EpisodeStore.create(tmp_path / "large")
    for number in range(0, 60, 2):
        store.append([make_episode(n, screen_bytes=100_000) for n in (number, number + 1)])
    total = sum((store.path / name).stat().st_size for name in _names(store))
    before = pa.total_allocated_bytes()
    peaks: list[int] = []
    original = compaction.episode_tables

    def watched(*args: object) -> object:
        for entry in original(*args):  # type: ignore[arg-type]
            peaks.append(pa.total_allocated_bytes() - before)
            yield entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "episode_tables", watched)
        merges = compact(store, target_bytes=total // 10)
    assert len(merges) >= 8
    assert max(peaks) < total / 3


_ULIDS = [f"01J000000000000000000000{number:02d}" for number in range(8)]
_SEGMENTS = st.lists(
    st.tuples(st.sampled_from(_ULIDS), st.sets(st.integers(0, 4), min_size=1)),
    min_size=1,
    max_size=8,
    unique_by=lambda segment: segment[0],
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=_SEGMENTS, data=st.data())
def test_whoever_looks_sees_the_same_copies_with_and_without_compactions(
    tmp_path_factory: pytest.TempPathFactory,
    make_episode: MakeEpisode,
    segments: list[tuple[str, set[int]]],
    data: st.DataObject,
) -> None:
    store = EpisodeStore.create(tmp_path_factory.mktemp("store"))
    first: dict[str, str] = {}
    for ulid, numbers in segments:
        copies = _by_id([make_episode(number, actions=0, policy_version=ulid) for number in numbers])
        tables = [(one.episode_id, rows_to_table(episode_to_rows(one), EPISODE_SCHEMA)) for one in copies]
        with open(store.path / f"{ulid}.parquet", "wb") as file:
            write_segment(file, tables, EPISODE_SCHEMA)
        for one in copies:
            first[one.episode_id] = min(ulid, first.get(one.episode_id, ulid))
        if data.draw(st.booleans(), "compact"):
            compact(store, target_bytes=data.draw(st.sampled_from([2, 30_000, 1 << 20]), "target"))
        if data.draw(st.booleans(), "prune"):
            prune(store)
        for reader in (store, EpisodeStore(store.path)):
            assert {one.episode_id: one.policy_version for one in reader.episodes()} == first
            rows = reader.table(["episode_id", "policy_version"]).to_pylist()
            assert [(row["episode_id"], row["policy_version"]) for row in rows] == sorted(first.items())
    assert verify(store.directory).broken == []


def test_a_plan_puts_small_segments_together_up_to_the_target(store: EpisodeStore) -> None:
    segments = episode_segments(store.directory).segments()
    target = 5 * max(segment.size for segment in segments)
    plans = plan_merges(segments, target)
    assert [segment.name for plan in plans for segment in plan] == [segment.name for segment in segments]
    assert all(sum(segment.size for segment in plan) <= target for plan in plans)
