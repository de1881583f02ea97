"""Verification: every kind of damage is found and named by file, nothing whole is blamed, repair deletes nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode
from digiq_ray.core.errors import StoreError
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.compaction import compact
from digiq_ray.store.directory import open_directory
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint
from digiq_ray.store.kinds import StoreKind
from digiq_ray.store.repair import Repair, repair
from digiq_ray.store.verification import Finding, Severity, Verification, verify

MakeEpisode = Callable[..., Episode]
_FINGERPRINT = Fingerprint(model="m", layer=3, pooling="last", prompt="p", image="i")
_HASHES = (b"digiq.body", b"digiq.seal")
_CANDIDATE = Candidate(
    episode_id="e1",
    step=0,
    action_text="tap 0.50 0.25",
    action=tap(0.5, 0.25),
    parse_error=None,
    multiplicity=3,
    logprob=-1.5,
    is_behaviour=True,
    policy_version="v1",
    temperature=1.0,
)


@pytest.fixture
def episodes(tmp_path: Path, make_episode: MakeEpisode) -> EpisodeStore:
    """Five episodes in two segments."""
    store = EpisodeStore.create(tmp_path / "episodes")
    store.append([make_episode(number) for number in range(3)])
    store.append([make_episode(number) for number in range(3, 5)])
    return store


@pytest.fixture
def candidates(tmp_path: Path) -> CandidateStore:
    store = CandidateStore.create(tmp_path / "candidates")
    store.append("a", [_CANDIDATE, dataclasses.replace(_CANDIDATE, action_text="tap", step=1)])
    store.append("b", [dataclasses.replace(_CANDIDATE, episode_id="e2")])
    return store


@pytest.fixture
def features(tmp_path: Path) -> FeatureStore:
    store = FeatureStore.create(tmp_path / "features")
    for shard in ("a", "b", "c"):
        _append_features(store, shard)
    return store


def _append_features(store: FeatureStore, shard: str, fingerprint: Fingerprint = _FINGERPRINT) -> None:
    keys = [FeatureKey(f"{shard}{i}", i, None if i % 2 else f"tap {i}") for i in range(20)]
    store.append(shard, keys, np.random.default_rng(0).standard_normal((20, 4)).astype(np.float16), fingerprint)


def _verify(path: Path) -> Verification:
    return verify(open_directory(path))


def _the_broken(path: Path) -> Finding:
    (finding,) = _verify(path).broken
    return finding


def _names(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.endswith((".parquet", ".arrow")))


def _put(path: Path, content: bytes) -> None:
    """Replaces a file without touching the pages of the old one, which may be mapped."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Writes a segment again with other rows, as a program would that knows the footer but not the rules."""
    footer = {key: value for key, value in pq.read_metadata(path).metadata.items() if key not in _HASHES}
    table = change(pq.read_table(path))
    pq.write_table(table.replace_schema_metadata(footer), path, write_page_checksum=True)


def _set(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


def test_a_whole_episode_store_has_no_findings(episodes: EpisodeStore) -> None:
    assert _verify(episodes.path) == Verification(StoreKind.EPISODES, files=2, episodes=5, rows=20)


def test_whole_candidates_have_no_findings(candidates: CandidateStore) -> None:
    assert _verify(candidates.path) == Verification(StoreKind.CANDIDATES, files=2, episodes=2, rows=3)


def test_whole_features_have_no_findings(features: FeatureStore) -> None:
    assert _verify(features.path) == Verification(StoreKind.FEATURES, files=3, rows=60)


def test_an_empty_directory_is_an_empty_data_set(tmp_path: Path) -> None:
    assert _verify(tmp_path) == Verification(StoreKind.EMPTY)


def test_files_of_two_kinds_are_refused(episodes: EpisodeStore, features: FeatureStore) -> None:
    shutil.copy(features.path / "a.arrow", episodes.path)
    with pytest.raises(StoreError, match="holds Parquet and Arrow files"):
        _verify(episodes.path)


def test_files_of_other_programs_are_never_blamed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "mine.parquet")
    with pytest.raises(StoreError, match="no file there says what data set it is of"):
        _verify(tmp_path)


def test_a_data_set_of_broken_shards_is_verified_if_its_kind_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"broken")
    assert [f.file for f in verify(open_directory(tmp_path), kind=StoreKind.CANDIDATES).broken] == ["a.parquet"]


@pytest.mark.parametrize(
    ("column", "row", "value", "problem"),
    [
        ("is_terminal", 3, True, "is_terminal is True, which the other columns contradict"),
        ("x", 0, 0.123456, "x is 0.123456, which the other columns contradict"),
        ("action_type", 0, "tip", "'tip' is not a valid ActionType"),
        ("typed_text", 0, "text", "text must be left out"),
        ("stop_reason", 1, "success", "stop_reason is 'success', which the other columns contradict"),
        ("reward", 1, None, "reward is null"),
        ("screen_hash", 1, "0" * 32, "the screen does not have its hash"),
        ("screen", 1, b"other", "the screen does not have its hash"),
        ("goal", 0, "[" * 100_000, "its goal is nested without end"),
        ("goal", 0, "3", "its goal is '3', not a JSON object"),
        ("episode_id", 1, "other", "episode_id is 'other', which the other columns contradict"),
        ("step", 1, 7, "is not whole at step 1"),
    ],
)
def test_a_value_that_contradicts_the_others_is_found(
    episodes: EpisodeStore, column: str, row: int, value: object, problem: str
) -> None:
    name = _names(episodes.path)[0]
    _rewrite(episodes.path / name, lambda table: _set(table, column, row, value))
    finding = _the_broken(episodes.path)
    assert finding.file == name
    assert problem in finding.problem
    assert finding.rows == 12
    assert finding.lost is not None
    assert len(finding.lost) == 3


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [("valid", False, "valid is False"), ("multiplicity", -1, "is impossible"), ("action", "tap", "is there twice")],
)
def test_a_wrong_candidate_is_found(candidates: CandidateStore, column: str, value: object, problem: str) -> None:
    def change(table: pa.Table) -> pa.Table:
        return _set(_set(table, "step", 0, 1) if column == "action" else table, column, 0, value)

    _rewrite(candidates.path / "a.parquet", change)
    finding = _the_broken(candidates.path)
    assert (finding.file, finding.rows) == ("a.parquet", 2)
    assert problem in finding.problem


def test_bytes_that_no_reader_looks_at_are_verified_too(episodes: EpisodeStore) -> None:
    path = episodes.path / _names(episodes.path)[0]
    content = bytearray(path.read_bytes())
    content[2] ^= 255  # the magic bytes at the beginning
    _put(path, bytes(content))
    assert "its content is not what was written" in _the_broken(episodes.path).problem


def test_a_parquet_file_of_another_name_is_broken_in_an_episode_store(episodes: EpisodeStore) -> None:
    shutil.copy(episodes.path / _names(episodes.path)[0], episodes.path / "export.parquet")
    assert "is not a segment of this data set" in _the_broken(episodes.path).problem


def test_a_shard_of_another_fingerprint_is_the_broken_one(features: FeatureStore, tmp_path: Path) -> None:
    other = FeatureStore.create(tmp_path / "other")
    _append_features(other, "aa", dataclasses.replace(_FINGERPRINT, layer=4))
    shutil.copy(other.path / "aa.arrow", features.path)
    finding = _the_broken(features.path)
    assert (finding.file, finding.rows) == ("aa.arrow", 20)
    assert "fingerprint" in finding.problem


def test_features_that_are_there_twice_are_noted(features: FeatureStore) -> None:
    keys = [FeatureKey("a0", 0, "tap 0")]
    features.append("d", keys, np.ones((1, 4), np.float16), _FINGERPRINT)
    (finding,) = _verify(features.path).findings
    assert finding.severity is Severity.NOTE
    assert "1 keys of the data set are there more than once" in finding.problem


def test_episodes_that_are_there_twice_are_noted(
    tmp_path: Path, episodes: EpisodeStore, make_episode: MakeEpisode
) -> None:
    other = EpisodeStore.create(tmp_path / "other")
    other.append([make_episode(0), make_episode(9)])
    shutil.copy(other.path / _names(other.path)[0], episodes.path)
    found = _verify(episodes.path)
    assert [finding.severity for finding in found.findings] == [Severity.NOTE] * 2
    assert all("1 of its episodes are in other segments too" in finding.problem for finding in found.findings)
    assert (found.episodes, found.files) == (6, 3)


def test_replaced_segments_are_noted(episodes: EpisodeStore) -> None:
    small = _names(episodes.path)
    (merge,) = compact(episodes)
    found = _verify(episodes.path)
    assert [finding.file for finding in found.findings] == small
    assert {finding.problem for finding in found.findings} == {f"{merge.name} replaces it; prune deletes it"}


def test_leftovers_of_writers_are_noted(episodes: EpisodeStore) -> None:
    name = f".{_names(episodes.path)[0]}.0123456789abcdef.tmp"
    (episodes.path / name).write_bytes(b"half")
    (finding,) = _verify(episodes.path).findings
    assert (finding.file, finding.severity) == (name, Severity.NOTE)


def test_snapshots_that_cannot_be_opened_any_more_are_broken(episodes: EpisodeStore) -> None:
    first, second = _names(episodes.path)
    episodes.save_snapshot("good")
    (episodes.path / "_bad.snapshot.json").write_text("{}")
    assert [finding.file for finding in _verify(episodes.path).broken] == ["_bad.snapshot.json"]
    (episodes.path / second).unlink()
    problems = {finding.file: finding.problem for finding in _verify(episodes.path).broken}
    assert problems["_good.snapshot.json"] == f"it pins {second}, which is gone"
    _put(episodes.path / first, b"broken")
    problems = {finding.file: finding.problem for finding in _verify(episodes.path).broken}
    assert problems["_good.snapshot.json"] == f"it pins {first}, which is broken"


def test_progress_ends_with_all_files(episodes: EpisodeStore) -> None:
    seen: list[tuple[int, int]] = []
    verify(episodes.directory, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def _repair(path: Path) -> Repair:
    directory = open_directory(path)
    return repair(directory, verify(directory))


def test_repair_sets_the_broken_file_aside_and_says_what_is_lost(
    episodes: EpisodeStore, make_episode: MakeEpisode
) -> None:
    name = _names(episodes.path)[0]
    content = bytearray((episodes.path / name).read_bytes())
    content[40] ^= 255
    _put(episodes.path / name, bytes(content))
    done = _repair(episodes.path)
    assert done.lost == {make_episode(number).episode_id for number in range(3)}
    assert (done.rows, done.unknown) == (12, [])
    assert done.set_aside[name].read_bytes() == bytes(content)
    assert _verify(episodes.path).broken == []
    assert len(EpisodeStore(episodes.path)) == 2


def test_repair_says_when_a_file_cannot_say_what_it_held(episodes: EpisodeStore) -> None:
    name = _names(episodes.path)[0]
    _put(episodes.path / name, b"nothing")
    done = _repair(episodes.path)
    assert (done.lost, done.rows, done.unknown) == (frozenset(), 0, [name])


def test_what_another_segment_has_is_not_lost(
    tmp_path: Path, episodes: EpisodeStore, make_episode: MakeEpisode
) -> None:
    other = EpisodeStore.create(tmp_path / "other")
    other.append([make_episode(0), make_episode(1)])
    shutil.copy(other.path / _names(other.path)[0], episodes.path)
    first = _names(episodes.path)[0]
    _rewrite(episodes.path / first, lambda table: _set(table, "reward", 1, None))
    done = _repair(episodes.path)
    assert (done.lost, done.rows) == ({make_episode(2).episode_id}, 4)


def test_setting_a_merged_segment_aside_brings_back_what_it_replaced(episodes: EpisodeStore) -> None:
    before = list(episodes.episodes())
    (merge,) = compact(episodes)
    content = bytearray((episodes.path / merge.name).read_bytes())
    content[40] ^= 255
    _put(episodes.path / merge.name, bytes(content))
    done = _repair(episodes.path)
    assert list(done.set_aside) == [merge.name]
    assert done.lost == frozenset()
    assert list(EpisodeStore(episodes.path).episodes()) == before


def test_repair_sweeps_old_leftovers_and_leaves_those_of_writers_at_work(episodes: EpisodeStore) -> None:
    old, new = (f".{name}.0123456789abcdef.tmp" for name in _names(episodes.path))
    for name in (old, new):
        (episodes.path / name).write_bytes(b"half")
    os.utime(episodes.path / old, (0, 0))
    assert _repair(episodes.path).swept == [old]
    assert (episodes.path / new).exists()


def test_repairing_a_whole_data_set_changes_nothing(features: FeatureStore) -> None:
    before = sorted(os.listdir(features.path))
    assert _repair(features.path).set_aside == {}
    assert sorted(os.listdir(features.path)) == before


@st.composite
def _damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    kind = draw(st.sampled_from(["random", "cut", "flip", "overwrite"]))
    place = draw(st.integers(0, 10**6)) / 10**6
    if kind == "random":
        noise = draw(st.binary(max_size=300))
        return lambda content: noise
    if kind == "cut":
        return lambda content: content[: int(place * len(content))]
    noise = bytes([1 << draw(st.integers(0, 7))]) if kind == "flip" else draw(st.binary(min_size=1, max_size=16))

    def change(content: bytes) -> bytes:
        start = int(place * (len(content) - len(noise)))
        part = content[start : start + len(noise)]
        new = bytes(a ^ b for a, b in zip(part, noise, strict=True)) if kind == "flip" else noise
        return content[:start] + new + content[start + len(noise) :]

    return change


_FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _check_damage(path: Path, name: str, damage: Callable[[bytes], bytes], kind: StoreKind) -> None:
    good = (path / name).read_bytes()
    bad = damage(good)
    _put(path / name, bad)
    broken = verify(open_directory(path), kind=kind).broken
    _put(path / name, good)
    assert [finding.file for finding in broken] == ([] if bad == good else [name])
    assert all("\n" not in finding.problem for finding in broken)


@_FUZZ
@given(damage=_damage())
def test_any_damage_to_a_segment_of_episodes_is_found(episodes: EpisodeStore, damage: Callable[[bytes], bytes]) -> None:
    _check_damage(episodes.path, _names(episodes.path)[0], damage, StoreKind.EPISODES)


@_FUZZ
@given(damage=_damage())
def test_any_damage_to_candidates_is_found(candidates: CandidateStore, damage: Callable[[bytes], bytes]) -> None:
    _check_damage(candidates.path, "a.parquet", damage, StoreKind.CANDIDATES)


@_FUZZ
@given(damage=_damage())
def test_no_damage_to_features_ends_in_an_untyped_error(
    features: FeatureStore, damage: Callable[[bytes], bytes]
) -> None:
    path = features.path / "b.arrow"
    good = path.read_bytes()
    _put(path, damage(good))
    found = verify(open_directory(features.path), kind=StoreKind.FEATURES)
    _put(path, good)
    assert {finding.file for finding in found.broken} <= {"b.arrow"}
    assert all("\n" not in finding.problem for finding in found.broken)
