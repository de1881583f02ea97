"""Writers that are killed, and writers that race: what was acknowledged is there, once, and every segment is whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import digiq_ray
from digiq_ray.core.episodes import Episode
from digiq_ray.store.episodes import EpisodeStore

MakeEpisode = Callable[..., Episode]
_WORKER = Path(__file__).with_name("store_append_worker.py")
_ROOT = Path(digiq_ray.__file__).parents[1]
_DEADLINE_S = 60
_KILLS = 10


@pytest.fixture
def target(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create(tmp_path / "target")


@pytest.fixture
def start_writer(tmp_path: Path, target: EpisodeStore) -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Starts a process that copies ``source`` into ``target`` in batches of the given size; it has said ``ready``."""
    started: list[subprocess.Popen[bytes]] = []

    def start(batch: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(_WORKER), str(tmp_path / "source"), str(target.path), str(batch)]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=_DEADLINE_S)


def _acknowledged_before_kill(process: subprocess.Popen[bytes], delay_s: float) -> list[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        output, _ = process.communicate(timeout=delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate(timeout=_DEADLINE_S)
    complete = output[: output.rfind(b"\n") + 1]
    return complete.decode().split()


def test_killed_writers_lose_and_double_nothing(
    tmp_path: Path,
    target: EpisodeStore,
    make_episode: MakeEpisode,
    start_writer: Callable[[int], subprocess.Popen[bytes]],
) -> None:
    episodes = {episode.episode_id: episode for episode in (make_episode(number) for number in range(400))}
    EpisodeStore.create(tmp_path / "source").append(episodes.values())
    rng = random.Random(0)
    acknowledged: set[str] = set()
    for _ in range(_KILLS):
        acknowledged.update(_acknowledged_before_kill(start_writer(1), rng.uniform(0, 0.15)))
        assert acknowledged <= target.episode_ids()
    assert 0 < len(target) < len(episodes), "the kills must fall into the writing"
    names = [name for name in os.listdir(target.path) if not name.startswith(".")]
    raw = Counter(key for name in names for key in set(pq.read_table(target.path / name)["episode_id"].to_pylist()))
    assert set(raw.values()) == {1}
    assert all(episode == episodes[episode.episode_id] for episode in target.episodes())


def test_four_racing_writers_with_retries_leave_each_episode_once(
    tmp_path: Path,
    target: EpisodeStore,
    make_episode: MakeEpisode,
    start_writer: Callable[[int], subprocess.Popen[bytes]],
) -> None:
    episodes = [make_episode(number) for number in range(60)]
    EpisodeStore.create(tmp_path / "source").append(episodes)
    writers = [start_writer(batch) for batch in (1, 2, 3, 5)]
    for writer in writers:
        output, _ = writer.communicate(timeout=_DEADLINE_S)
        assert writer.returncode == 0
        assert len(output.split()) == 61
    assert list(target.episodes()) == sorted(episodes, key=lambda episode: episode.episode_id)
    assert target.table().num_rows == sum(len(episode.steps) for episode in episodes)
    assert target.table().equals(EpisodeStore(target.path).table())


def test_threads_that_share_a_store_leave_each_episode_once(target: EpisodeStore, make_episode: MakeEpisode) -> None:
    episodes = [make_episode(number) for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda episode: target.append([episode]), episodes * 2))
    assert list(target.episodes()) == sorted(episodes, key=lambda episode: episode.episode_id)
