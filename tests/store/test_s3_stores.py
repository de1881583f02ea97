"""The stores do the same wherever their files lie, and on a bad network too: one code path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from s3_proxy import FAULTS, Proxy, seeded

import digiq_ray
from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode
from digiq_ray.core.errors import FingerprintMismatchError, StoreError
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.directory import create_directory
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint

MakeEpisode = Callable[..., Episode]
_ROOT = Path(digiq_ray.__file__).parents[1]
_WORKER = Path(__file__).with_name("s3_append_worker.py")
_DEADLINE_S = 1800
_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")


@pytest.fixture(params=["local", "s3", "s3 on a bad network"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    url: str = request.getfixturevalue("s3_url")
    if request.param != "s3":
        request.getfixturevalue("s3_proxy").plan = seeded(7, 0.25)
    return url


def test_episodes_are_appended_found_again_and_counted(place: str, make_episode: MakeEpisode) -> None:
    store = EpisodeStore.create(place)
    episodes = [make_episode(number) for number in range(6)]
    assert store.append(episodes[:4]) is not None
    assert store.append(episodes[2:]) is not None
    assert store.append(episodes) is None
    again = EpisodeStore(place)
    assert list(again.episodes()) == sorted(episodes, key=lambda episode: episode.episode_id)
    assert again.episode_ids() == {episode.episode_id for episode in episodes}
    assert again.summary().episodes == 6
    assert again.summary().steps == sum(len(episode.steps) - 1 for episode in episodes)


def test_a_snapshot_pins_what_was_there(place: str, make_episode: MakeEpisode) -> None:
    store = EpisodeStore.create(place)
    store.append([make_episode(0)])
    snapshot = store.snapshot()
    store.append([make_episode(1)])
    pinned = EpisodeStore(place, snapshot=snapshot)
    assert list(pinned.episodes()) == [make_episode(0)]
    assert len(EpisodeStore(place)) == 2
    assert EpisodeStore(place).snapshot().segments.items() > snapshot.segments.items()


def test_candidates_are_appended_once_and_found_by_state(place: str) -> None:
    store = CandidateStore.create(place)
    rows = [
        Candidate(
            episode_id="e",
            step=number // 3,
            action_text=f"tap {number}",
            action=tap(0.5, 0.25),
            parse_error=None,
            multiplicity=1,
            logprob=-0.5,
            is_behaviour=False,
            policy_version="v1",
            temperature=1.0,
        )
        for number in range(6)
    ]
    assert store.append("a", rows)
    assert not store.append("a", rows)
    again = CandidateStore(place)
    assert again.shards() == {"a"}
    assert again.for_state("e", 1) == rows[3:]
    assert again.table().num_rows == 6


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_are_appended_once_and_mapped(place: str, dtype: str) -> None:
    store = FeatureStore.create(place)
    features = np.random.default_rng(0).standard_normal((500, 64)).astype(dtype)
    keys = [FeatureKey("e", number, None) for number in range(500)]
    assert store.append("a", keys[:300], features[:300], _FINGERPRINT)
    assert store.append("b", keys[300:], features[300:], _FINGERPRINT)
    assert not store.append("b", keys[300:], features[300:], _FINGERPRINT)
    view = FeatureStore(place).open(_FINGERPRINT)
    rows = [499, 0, 299, 300, 0]
    np.testing.assert_array_equal(view.rows(rows), features[rows])
    view.verify()


def test_features_of_another_fingerprint_are_refused(place: str) -> None:
    store = FeatureStore.create(place)
    features = np.ones((3, 4), dtype=np.float32)
    keys = [FeatureKey("e", number, None) for number in range(3)]
    store.append("a", keys, features, _FINGERPRINT)
    other = Fingerprint(model="other", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")
    with pytest.raises(FingerprintMismatchError):
        store.append("b", keys, features, other)
    with pytest.raises(FingerprintMismatchError):
        store.open(other)


@pytest.mark.parametrize("kind", [EpisodeStore, CandidateStore, FeatureStore])
def test_a_store_that_does_not_exist_is_a_store_error(place: str, kind: Callable[[str], object]) -> None:
    with pytest.raises(StoreError, match=f"^{place}: the data set does not exist"):
        kind(place)


def test_damaged_files_are_store_errors_that_name_them(place: str) -> None:
    directory = create_directory(place)
    directory.publish("01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet", b"PAR1" + os.urandom(500) + b"PAR1")
    directory.publish("a.arrow", b"ARROW1" + os.urandom(500))
    with pytest.raises(StoreError, match=r"01ARZ3NDEKTSV4RRFFQ69G5FAV\.parquet: is broken"):
        EpisodeStore(place).table()
    with pytest.raises(StoreError, match=r"a\.arrow: is broken"):
        FeatureStore(place).open()


@pytest.fixture
def start_writer() -> Iterator[Callable[[Path, str, int], subprocess.Popen[str]]]:
    """Starts a process that copies a store into another in batches of the given size, each batch twice."""
    started: list[subprocess.Popen[str]] = []

    def start(source: Path, target: str, batch: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(_WORKER), str(source), target, str(batch)]
        environment = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=_DEADLINE_S)


@pytest.mark.parametrize(
    ("writers", "episodes_each", "own", "share"),
    [
        (4, 5, 3, 0.0),
        (4, 5, 3, 0.25),
        pytest.param(16, 100, 100, 0.25, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_racing_writers_with_retries_leave_each_episode_once(
    tmp_path: Path,
    s3_url: str,
    s3_proxy: Proxy,
    make_episode: MakeEpisode,
    start_writer: Callable[[Path, str, int], subprocess.Popen[str]],
    writers: int,
    episodes_each: int,
    own: int,
    share: float,
) -> None:
    """Each writes every batch twice; what is not a writer's own, the next one writes too."""
    if writers > 4 and "DIGIQ_TEST_MANY_WRITERS" not in os.environ:
        pytest.skip("takes many minutes; set DIGIQ_TEST_MANY_WRITERS to run it")
    target = EpisodeStore.create(s3_url)
    s3_proxy.plan = seeded(writers, share)
    expected: dict[str, Episode] = {}
    processes: list[tuple[subprocess.Popen[str], list[Episode]]] = []
    for writer in range(writers):
        part = [make_episode(number) for number in range(writer * own, writer * own + episodes_each)]
        expected |= {episode.episode_id: episode for episode in part}
        source = tmp_path / f"source {writer}"
        EpisodeStore.create(source).append(part)
        processes.append((start_writer(source, s3_url, 1 + writer % 3), part))
    for process, part in processes:
        output, _ = process.communicate(timeout=_DEADLINE_S)
        assert process.returncode == 0
        assert set(output.split()) == {episode.episode_id for episode in part}, "every episode was acknowledged"
    hurt = sum(s3_proxy.done[fault] for fault in FAULTS)
    assert hurt > 10 if share else hurt == 0
    s3_proxy.reset()
    assert {episode.episode_id: episode for episode in target.episodes()} == expected
    assert len(list(EpisodeStore(s3_url).episodes())) == len(expected)
    assert Counter(target.table(["is_last"])["is_last"].to_pylist())[True] == len(expected)


def test_any_reader_of_parquet_reads_a_segment_in_s3(s3_url: str, s3_server: str, make_episode: MakeEpisode) -> None:
    import pyarrow.fs

    store = EpisodeStore.create(s3_url)
    store.append([make_episode(number) for number in range(3)])
    filesystem = pyarrow.fs.S3FileSystem(
        access_key="a-key-id", secret_key="a-secret", endpoint_override=s3_server, region="eu-central-1"
    )
    table = pq.read_table(s3_url.removeprefix("s3://"), filesystem=filesystem, columns=["episode_id"])
    assert set(table["episode_id"].to_pylist()) == store.episode_ids()
