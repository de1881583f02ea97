"""How waits for screens ended is stored with them; segments from before that read as if nothing were known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.compaction import compact
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.info import episode_info
from digiq_ray.store.pruning import prune
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows, rows_to_table
from digiq_ray.store.segments import write_segment
from digiq_ray.store.verification import verify

MakeEpisode = Callable[..., Episode]
COLUMN = "settle_tag"


@pytest.fixture
def store(tmp_path) -> EpisodeStore:
    return EpisodeStore.create(tmp_path / "episodes")


def tagged(episode: Episode, *tags: str | None) -> Episode:
    """``episode`` with these tags, one for each observation."""
    steps = (dataclasses.replace(step, settle_tag=tag) for step, tag in zip(episode.steps, tags, strict=True))
    return dataclasses.replace(episode, steps=tuple(steps))


def write_earlier(store: EpisodeStore, episodes: Sequence[Episode]) -> None:
    """A segment as it was written before there was the column; it comes before all others."""
    schema = pa.schema([one for one in EPISODE_SCHEMA if one.name != COLUMN], metadata=EPISODE_SCHEMA.metadata)
    rows = [(one.episode_id, rows_to_table(episode_to_rows(one), EPISODE_SCHEMA)) for one in episodes]
    tables = sorted((name, table.drop_columns([COLUMN])) for name, table in rows)
    with open(store.path / "01J00000000000000000000001.parquet", "wb") as file:
        write_segment(file, tables, schema)


def test_tags_come_back_also_from_a_compacted_store(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    episodes = [tagged(make_episode(number), None, "frozen", None, "blank") for number in range(2)]
    for episode in episodes:
        store.append([episode])
    for _ in range(2):
        assert sorted(store.episodes(), key=lambda one: one.task.seed) == episodes
        assert verify(store.directory).findings == []
        compact(store)
        prune(store)
    assert store.table([COLUMN])[COLUMN].to_pylist() == [None, "frozen", None, "blank"] * 2


def test_segments_without_the_column_read_as_null_beside_others(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    write_earlier(store, [make_episode(0)])
    assert store.table([COLUMN])[COLUMN].null_count == 4
    store.append([tagged(make_episode(1), "unsettled", None, None, None)])
    assert store.table().schema.equals(EPISODE_SCHEMA)
    tags = {one.task.seed: [step.settle_tag for step in one.steps] for one in store.episodes()}
    assert tags == {0: [None] * 4, 1: ["unsettled", None, None, None]}
    assert list(store.episodes([make_episode(0).episode_id])) == [make_episode(0)]
    assert verify(store.directory).findings == []
    assert episode_info(store.directory).settle_tags == {"unsettled": 1}


def test_compaction_gives_every_segment_the_column(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    write_earlier(store, [make_episode(number) for number in range(3)])
    store.append([tagged(make_episode(3), None, None, None, "blank")])
    before = store.table().to_pylist()
    assert len(compact(store)) == 1
    prune(store)
    assert store.table().to_pylist() == before
    assert pq.read_schema(next(iter(store.path.glob("*.parquet")))).names == EPISODE_SCHEMA.names
    assert verify(store.directory).findings == []


def test_candidates_get_no_such_column(tmp_path, make_episode: MakeEpisode) -> None:
    candidates = CandidateStore.create(tmp_path / "candidates")
    shared = {"step": 0, "logprob": -1.0, "policy_version": "v1", "temperature": 1.0, "is_behaviour": True}
    candidates.append(
        "a", [Candidate(episode_id="e", action_text="t", action=tap(0, 0), parse_error=None, multiplicity=1, **shared)]
    )
    assert COLUMN not in candidates.table().column_names
