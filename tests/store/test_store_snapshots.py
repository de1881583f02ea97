"""Snapshots in a store: published once, opened by name, pinned by hash, cheap to take and to open."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode
from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store import local
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.snapshot import load_snapshot, snapshot_names

MakeEpisode = Callable[..., Episode]


@pytest.fixture
def store(tmp_path: Path, make_episode: MakeEpisode) -> EpisodeStore:
    store = EpisodeStore.create(tmp_path / "episodes")
    store.append([make_episode(0), make_episode(1)])
    return store


def test_a_named_snapshot_lies_in_the_store_and_is_opened_by_its_name(
    store: EpisodeStore, make_episode: MakeEpisode
) -> None:
    saved = store.save_snapshot("run-1")
    store.append([make_episode(2)])
    assert sorted(name for name in os.listdir(store.path) if "snapshot" in name) == ["_run-1.snapshot.json"]
    pinned = EpisodeStore(store.path, snapshot="run-1")
    assert (len(pinned), len(store)) == (2, 3)
    assert pinned.snapshot() == saved == load_snapshot(store.directory, "run-1")


def test_a_store_opened_at_a_named_snapshot_pickles(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    store.save_snapshot("run-1")
    store.append([make_episode(2)])
    assert len(pickle.loads(pickle.dumps(EpisodeStore(store.path, snapshot="run-1")))) == 2


def test_the_snapshots_of_a_store_are_listed(store: EpisodeStore) -> None:
    assert snapshot_names(store.directory) == []
    for name in ("b", "a"):
        store.save_snapshot(name)
    assert snapshot_names(store.directory) == ["a", "b"]


def test_the_same_snapshot_may_be_saved_again(store: EpisodeStore) -> None:
    assert store.save_snapshot("a") == store.save_snapshot("a")


def test_a_snapshot_is_never_overwritten(store: EpisodeStore, make_episode: MakeEpisode) -> None:
    saved = store.save_snapshot("a")
    store.append([make_episode(2)])
    with pytest.raises(StoreError, match="has a snapshot 'a' of other segments already"):
        store.save_snapshot("a")
    assert load_snapshot(store.directory, "a") == saved


def test_an_unknown_snapshot_is_a_store_error_that_lists_those_there_are(store: EpisodeStore) -> None:
    store.save_snapshot("one")
    with pytest.raises(StoreError, match="has no snapshot 'two'; there are: one"):
        EpisodeStore(store.path, snapshot="two")


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a b"])
def test_a_name_that_is_no_file_name_is_refused(store: EpisodeStore, name: str) -> None:
    with pytest.raises(InputError, match="shard name"):
        store.save_snapshot(name)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"segments": {"a": 3}}', "{}"])
def test_a_broken_snapshot_is_a_store_error_that_names_it(store: EpisodeStore, content: str) -> None:
    (store.path / "_a.snapshot.json").write_text(content)
    with pytest.raises(StoreError, match=r"^\S+/_a\.snapshot\.json: "):
        EpisodeStore(store.path, snapshot="a")


def test_a_snapshot_changed_by_hand_is_refused(store: EpisodeStore) -> None:
    store.save_snapshot("a")
    path = store.path / "_a.snapshot.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"segments": {}}))
    with pytest.raises(StoreError, match="does not match its hash"):
        EpisodeStore(store.path, snapshot="a")


def test_a_snapshot_costs_the_footers_only(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_digest(directory: object, name: str) -> str:
        raise AssertionError("the whole segment is read")

    monkeypatch.setattr(local.LocalDirectory, "digest", no_digest)
    snapshot = store.snapshot()
    assert len(EpisodeStore(store.path, snapshot=snapshot)) == 2


def test_segments_that_differ_in_one_byte_of_a_screen_have_different_pins(
    tmp_path: Path, make_episode: MakeEpisode
) -> None:
    episode = make_episode(0)
    first = dataclasses.replace(episode.steps[0], screen=b"?" + episode.steps[0].screen[1:])
    changed = dataclasses.replace(episode, steps=(first, *episode.steps[1:]))
    pins = []
    for name, one in (("a", episode), ("b", episode), ("c", changed)):
        store = EpisodeStore.create(tmp_path / name)
        store.append([one])
        pins += store.snapshot().segments.values()
    assert pins[0] == pins[1] != pins[2]


def test_candidates_have_snapshots_too(tmp_path: Path) -> None:
    store = CandidateStore.create(tmp_path / "candidates")
    candidate = Candidate(
        episode_id="e",
        step=0,
        action_text="tap 0.50 0.50",
        action=tap(0.5, 0.5),
        parse_error=None,
        multiplicity=1,
        logprob=None,
        is_behaviour=True,
        policy_version="v1",
        temperature=None,
    )
    store.append("a", [candidate])
    store.save_snapshot("now")
    store.append("b", [])
    pinned = CandidateStore(store.path, snapshot="now")
    assert (pinned.shards(), store.shards()) == ({"a"}, {"a", "b"})
    assert pinned.for_state("e", 0) == [candidate]
    assert pickle.loads(pickle.dumps(pinned)).shards() == {"a"}
    with pytest.raises(StoreError, match="read-only"):
        pinned.append("c", [])
