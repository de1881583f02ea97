"""EpisodeStore: what is appended is read back whole, once, in one order, by this program and by any Parquet reader."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ulid import ULID

from digiq_ray.core.episodes import Episode, StopReason
from digiq_ray.core.errors import DiskFullError, InputError, StoreError
from digiq_ray.store import segmented
from digiq_ray.store.directory import Directory
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.footers import Segment, read_footer
from digiq_ray.store.schema import EPISODE_SCHEMA
from digiq_ray.store.snapshot import Snapshot

MakeEpisode = Callable[..., Episode]


def _by_id(episodes: list[Episode]) -> list[Episode]:
    return sorted(episodes, key=lambda episode: episode.episode_id)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create(tmp_path / "episodes")


@pytest.fixture
def footers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the segments whose footers are read from now on."""
    names: list[str] = []

    def counted(directory: Directory, name: str, schema: object) -> Segment:
        names.append(name)
        return read_footer(directory, name, schema)

    monkeypatch.setattr(segmented, "read_footer", counted)
    return names


def test_episodes_come_back_exactly_ascending_by_id(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episodes = [make_episode(number, actions=number % 4) for number in range(12)]
    store.append(episodes[:5])
    store.append(episodes[5:])
    assert list(EpisodeStore(store.path).episodes()) == _by_id(episodes)
    assert len(store) == 12


def test_episodes_of_many_row_groups_come_back_exactly(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episodes = [make_episode(number, actions=60, screen_bytes=20_000) for number in range(6)]
    name = store.append(episodes)
    assert pq.ParquetFile(store.path / str(name)).metadata.num_row_groups > 1
    assert list(store.episodes()) == _by_id(episodes)


def test_named_episodes_come_back_ascending_by_id_each_once(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episodes = [make_episode(number) for number in range(4)]
    store.append(episodes)
    wanted = [episodes[2], episodes[0]]
    assert list(store.episodes([e.episode_id for e in wanted] * 2)) == _by_id(wanted)


def test_an_unknown_id_is_a_store_error_at_once(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    with pytest.raises(StoreError, match="there is no episode 'x'"):
        store.episodes(["x"])


def test_an_appended_segment_is_named_by_a_ulid(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    name = store.append([make_episode(0)])
    assert name is not None
    assert os.listdir(store.path) == [name]
    assert str(ULID.from_str(name.removesuffix(".parquet"))) + ".parquet" == name


def test_a_retried_append_writes_nothing(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    name = store.append([make_episode(0), make_episode(1)])
    assert EpisodeStore(store.path).append([make_episode(1), make_episode(0)]) is None
    assert os.listdir(store.path) == [name]


def test_an_append_writes_only_what_is_new(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    store.append([make_episode(0)])
    name = store.append([make_episode(0), make_episode(1), make_episode(1)])
    assert pq.read_table(store.path / str(name))["task"].unique().to_pylist() == ["Find mug 1"]


def test_an_append_drops_what_another_writer_published_meanwhile(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    other = EpisodeStore(store.path)
    assert store.episode_ids() == set()
    other.append([make_episode(0)])
    assert store.append([make_episode(0)]) is None


def test_appending_nothing_writes_nothing(store: EpisodeStore) -> None:
    assert store.append([]) is None
    assert os.listdir(store.path) == []


def _publish_copy(source: Path, target: Path, ulid: str) -> None:
    (name,) = os.listdir(source)
    shutil.copy(source / name, target / f"{ulid}.parquet")


def test_of_an_episode_in_two_segments_the_first_in_ulid_order_is_read(
    tmp_path: Path, make_episode: MakeEpisode
) -> None:
    race = EpisodeStore.create(tmp_path / "race").path
    for version, only_here in (("early", 1), ("late", 2)):
        store = EpisodeStore.create(tmp_path / version)
        store.append([make_episode(number, policy_version=version) for number in (0, only_here)])
    _publish_copy(tmp_path / "late", race, "01J00000000000000000000002")
    reader = EpisodeStore(race)
    assert [episode.policy_version for episode in reader.episodes()] == ["late", "late"]
    _publish_copy(tmp_path / "early", race, "01J00000000000000000000001")
    for opened in (reader, EpisodeStore(race)):
        versions = {"Find mug 0": "early", "Find mug 1": "early", "Find mug 2": "late"}
        assert {episode.task.text: episode.policy_version for episode in opened.episodes()} == versions
        table = opened.table(["task", "policy_version"])
        assert dict(zip(table["task"].to_pylist(), table["policy_version"].to_pylist(), strict=True)) == versions
        assert table.num_rows == 3 * 4
        assert len(opened) == 3


def test_the_table_is_sorted_by_episode_and_step(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    for number in range(5):
        store.append([make_episode(number), make_episode(number + 10)])
    table = store.table()
    keys = list(zip(table["episode_id"].to_pylist(), table["step"].to_pylist(), strict=True))
    assert keys == sorted(set(keys))
    assert len(keys) == 10 * 4
    assert table.schema.equals(EPISODE_SCHEMA)


def test_the_table_holds_the_named_columns_in_their_order(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    store.append([make_episode(0)])
    table = store.table(["reward", "step"])
    assert table.to_pydict() == {"reward": [0.0, 0.125, 0.25, 0.0], "step": [0, 1, 2, 3]}


@pytest.mark.parametrize("columns", [None, ["step", "screen", "reward"], ["settle_tag"]], ids=str)
def test_the_table_of_some_episodes_is_that_part_of_the_whole(
    store: EpisodeStore, make_episode: MakeEpisode, columns: list[str] | None
) -> None:
    for part in (range(0, 9, 2), range(1, 9, 2), range(9, 60)):
        store.append([make_episode(number, actions=number % 4, screen_bytes=50_000) for number in part])
    ids = sorted(store.episode_ids())
    some = [*ids[3:40:5], ids[-1], "none such"]
    whole, key = store.table(columns), store.table(["episode_id"])["episode_id"]
    found = store.table(columns, ids=some)
    assert found.equals(whole.filter(pc.is_in(key, pa.array(some))))
    assert found.schema.equals(whole.schema)
    assert store.table(columns, ids=[]).equals(whole.slice(0, 0))


def test_the_table_of_some_episodes_reads_their_row_groups_only(
    store: EpisodeStore, make_episode: MakeEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([make_episode(number, screen_bytes=400_000) for number in range(12)])
    read: list[int] = []
    original = segmented.read_group_rows

    def counted(*words: Any) -> Any:
        read.append(words[2])
        return original(*words)

    monkeypatch.setattr(segmented, "read_group_rows", counted)
    ids = sorted(store.episode_ids())
    store.table(["reward"], ids=[ids[0], ids[1], ids[-1]])
    assert len(read) == len(set(read)) < 4


def test_an_unknown_column_is_a_store_error(store: EpisodeStore) -> None:
    with pytest.raises(StoreError, match="no column 'rewards'; there are episode_id, "):
        store.table(["rewards"])


def test_an_empty_store_has_an_empty_table_and_summary(store: EpisodeStore) -> None:
    assert store.table().schema.equals(EPISODE_SCHEMA)
    assert store.table().num_rows == 0
    assert (store.summary().episodes, store.summary().success_rate) == (0, None)
    assert list(store.episodes()) == []


def test_any_parquet_reader_reads_a_segment(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episode = make_episode(0)
    name = store.append([episode])
    rows = pq.read_table(store.path / str(name)).to_pylist()
    assert [row["screen"] for row in rows] == [step.screen for step in episode.steps]
    assert [row["action"] for row in rows] == [step.action_text for step in episode.steps]


def test_a_segment_lists_its_episodes_and_compresses_all_but_screens(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    episode = make_episode(0)
    metadata = pq.read_metadata(store.path / str(store.append([episode])))
    assert metadata.metadata[b"digiq.episode_ids"].decode() == f'["{episode.episode_id}"]'
    group = metadata.row_group(0)
    codecs = {group.column(i).path_in_schema: group.column(i).compression for i in range(metadata.num_columns)}
    assert codecs.pop("screen") == "UNCOMPRESSED"
    assert set(codecs.values()) == {"ZSTD"}


def test_the_summary_counts_and_leaves_device_errors_out_of_the_rate(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    reasons = [StopReason.SUCCESS, StopReason.TIME_LIMIT, StopReason.AGENT_STOP, StopReason.DEVICE_ERROR]
    store.append([make_episode(i, stop_reason=r, policy_version=f"v{i // 3}") for i, r in enumerate(reasons)])
    summary = store.summary()
    assert (summary.episodes, summary.steps) == (4, 12)
    assert summary.success_rate == pytest.approx(1 / 3)
    assert summary.stop_reasons == {str(reason): 1 for reason in sorted(reasons)}
    assert summary.tasks == {"general/train/0": 2, "general/train/1": 2}
    assert summary.policy_versions == {"v0": 3, "v1": 1}


def test_footers_are_read_once(store: EpisodeStore, make_episode: MakeEpisode, footers_read: list[str]) -> None:
    names = [store.append([make_episode(number)]) for number in range(3)]
    reader = EpisodeStore(store.path)
    footers_read.clear()
    for _ in range(5):
        assert len(reader.episode_ids()) == 3
    assert sorted(footers_read) == sorted(str(name) for name in names)


def test_segments_that_others_add_and_remove_are_noticed(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    reader = EpisodeStore(store.path)
    first, second = make_episode(0), make_episode(1)
    name = store.append([first])
    assert reader.episode_ids() == {first.episode_id}
    store.append([second])
    assert reader.episode_ids() == {first.episode_id, second.episode_id}
    (store.path / str(name)).unlink()
    assert reader.episode_ids() == {second.episode_id}


def test_files_of_unfinished_writers_are_ignored(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    name = store.append([make_episode(0)])
    (store.path / f".{name}.0123456789abcdef.tmp").write_bytes(b"half a segm")
    (store.path / f".{ULID()}.parquet").write_bytes(b"half a segm")
    assert len(EpisodeStore(store.path)) == 1


def test_a_missing_directory_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing: the data set does not exist; give the directory"):
        EpisodeStore(tmp_path / "nothing")


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"is a file, not a directory"):
        EpisodeStore(tmp_path / "file")
    with pytest.raises(StoreError, match=r"is a file, not a directory"):
        EpisodeStore.create(tmp_path / "file")


def test_an_unknown_scheme_is_refused_and_makes_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="local directories and s3://"):
        EpisodeStore.create("gs://bucket/episodes")
    assert os.listdir(tmp_path) == []


def test_a_store_that_exists_may_be_created_again(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    store.append([make_episode(0)])
    assert len(EpisodeStore.create(store.path)) == 1


def test_a_store_pickles_as_its_path(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    store.append([make_episode(0)])
    copy = pickle.loads(pickle.dumps(store))
    assert list(copy.episodes()) == [make_episode(0)]


def test_an_episode_that_fits_no_column_is_refused_and_nothing_is_written(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    with pytest.raises(InputError, match="does not fit the columns"):
        store.append([make_episode(0), dataclasses.replace(make_episode(1), device="\ud800")])
    assert os.listdir(store.path) == []


def test_a_full_disk_loses_nothing_that_was_published(
    store: EpisodeStore, make_episode: MakeEpisode, request: pytest.FixtureRequest
) -> None:
    name = store.append([make_episode(0)])
    request.getfixturevalue("full_disk")
    with pytest.raises(DiskFullError, match=f"^{store.path}: no space is left"):
        store.append([make_episode(1)])
    assert os.listdir(store.path) == [name]
    assert list(EpisodeStore(store.path).episodes()) == [make_episode(0)]


def test_a_snapshot_names_the_segments_and_changes_with_them(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    first = store.append([make_episode(0)])
    before = store.snapshot()
    assert list(before.segments) == [first]
    assert EpisodeStore(store.path).snapshot() == before
    store.append([make_episode(1)])
    after = store.snapshot()
    assert len(after.segments) == 2
    assert after.snapshot_hash != before.snapshot_hash


def test_a_store_opened_at_a_snapshot_does_not_see_what_came_later(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    store.append([make_episode(0)])
    snapshot = Snapshot.from_json(store.snapshot().to_json())
    store.append([make_episode(1)])
    pinned = EpisodeStore(store.path, snapshot=snapshot)
    assert list(pinned.episodes()) == [make_episode(0)]
    assert pinned.snapshot() == snapshot
    assert list(pickle.loads(pickle.dumps(pinned)).episodes()) == [make_episode(0)]


def test_a_store_opened_at_a_snapshot_misses_a_segment_that_goes_later(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    name = store.append([make_episode(0)])
    pinned = EpisodeStore(store.path, snapshot=store.snapshot())
    (store.path / str(name)).unlink()
    with pytest.raises(StoreError, match=f"{name}: is gone"):
        pinned.table()


def test_a_store_opened_at_a_snapshot_is_read_only(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    pinned = EpisodeStore(store.path, snapshot=store.snapshot())
    with pytest.raises(StoreError, match="read-only"):
        pinned.append([make_episode(0)])


def test_a_snapshot_refuses_another_segment_of_the_same_name(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    path = store.path / str(store.append([make_episode(0)]))
    snapshot = store.snapshot()
    other = EpisodeStore.create(store.path.parent / "other")
    shutil.copy(other.path / str(other.append([make_episode(1)])), path)
    with pytest.raises(StoreError, match=f"{path.name}: is not what the snapshot saw"):
        EpisodeStore(store.path, snapshot=snapshot)


def test_a_snapshot_refuses_a_segment_that_is_gone(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    path = store.path / str(store.append([make_episode(0)]))
    snapshot = store.snapshot()
    path.unlink()
    with pytest.raises(StoreError, match=f"{path.name}: is gone"):
        EpisodeStore(store.path, snapshot=snapshot)


@pytest.mark.parametrize(
    "change", [lambda value: [], lambda value: {}, lambda value: value | {"segments": {"a.parquet": "0" * 32}}]
)
def test_a_changed_snapshot_is_refused(store: EpisodeStore, change: Callable[[dict[str, object]], object]) -> None:
    with pytest.raises(StoreError, match="a snapshot "):
        Snapshot.from_json(change(store.snapshot().to_json()))
