"""Writers that are killed, and writers that race: what was acknowledged is there, once, and every segment is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_fork_writers import make_episode as numbered_episode

import digiq_ray
from digiq_ray.core.episodes import Episode
from digiq_ray.store.episodes import EpisodeStore, episode_segments
from digiq_ray.store.kinds import StoreKind
from digiq_ray.store.verification import verify

MakeEpisode = Callable[..., Episode]
_SCRIPT = Path(__file__).with_name("store_fork_writers.py")
_ROOT = Path(digiq_ray.__file__).parents[1]
_DEADLINE_S = 240
_KILLS = 200
_WRITERS, _EPISODES = 16, 100


@pytest.fixture
def target(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create(tmp_path / "target")


def _run(work: str, target: EpisodeStore, *numbers: int) -> list[str]:
    command = [sys.executable, str(_SCRIPT), work, str(target.path), *map(str, numbers)]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=_DEADLINE_S, check=True, text=True)
    return done.stdout.split()


def _check_once_and_whole(store: EpisodeStore, least: set[int], most: set[int]) -> None:
    """Every episode of ``least`` is in the store, nothing but ``most`` is, each once and as it was written."""
    written = {numbered_episode(number).episode_id: number for number in most}
    read = list(store.episodes())
    counts = Counter(episode.episode_id for episode in read)
    assert set(counts.values()) == {1}
    assert least <= {written[episode_id] for episode_id in counts}
    assert all(episode == numbered_episode(written[episode.episode_id]) for episode in read)
    rows = store.table(["episode_id", "step"])
    assert rows.num_rows == rows.group_by(["episode_id", "step"]).aggregate([]).num_rows == 3 * len(read)
    verified = verify(store.directory, kind=StoreKind.EPISODES)
    assert verified.broken == []
    assert verified.episodes == len(read)


@pytest.mark.slow
def test_writers_killed_two_hundred_times_lose_and_double_nothing(target: EpisodeStore) -> None:
    acknowledged = [int(number) for number in _run("kill", target, _KILLS, 0)]
    assert len(acknowledged) == len(set(acknowledged)) > _KILLS, "the kills must fall into the writing"
    _check_once_and_whole(EpisodeStore(target.path), set(acknowledged), set(range(max(acknowledged) + 4)))


@pytest.mark.slow
def test_sixteen_racing_writers_with_retries_leave_each_episode_once(target: EpisodeStore) -> None:
    _run("race", target, _WRITERS, _EPISODES)
    wanted = set(range(_WRITERS * _EPISODES))
    store = EpisodeStore(target.path)
    assert len(store) == _WRITERS * _EPISODES == 1600
    _check_once_and_whole(store, wanted, wanted)
    sizes = Counter(len(segment.episode_ids) for segment in episode_segments(store.directory).segments())
    assert sizes[1] > 100
    assert sizes[10] > 10


def test_threads_that_share_a_store_leave_each_episode_once(target: EpisodeStore, make_episode: MakeEpisode) -> None:
    episodes = [make_episode(number) for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda episode: target.append([episode]), episodes * 2))
    assert list(target.episodes()) == sorted(episodes, key=lambda episode: episode.episode_id)
