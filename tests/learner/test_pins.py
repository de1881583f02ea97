"""Trainings read their stores as they were when the first of them began, whatever is appended later."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import ENDS, EXECUTED, FINGERPRINT, make_candidate, make_episode, make_run, make_settings

from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import StoreError
from digiq_ray.learner import policy
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.models import load_critic
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.pins import STORES, PinnedStores
from digiq_ray.learner.policy import train_policy
from digiq_ray.learner.stage1 import finetune
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.compaction import compact
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore
from digiq_ray.store.pruning import prune
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm


class Killed(BaseException):
    """Stands for the end of the process."""


def nothing(done: int, total: int) -> None:
    """Nobody wants to know."""


def kill_at(last: int):
    def kill(done: int, total: int) -> None:
        if done == last:
            raise Killed

    return kill


def append_more(paths: RunPaths) -> None:
    """Two more successes in all four stores; their shards come before and after what is there."""
    texts = ("back", "home", "wait")
    for name, shard in (("another", "00"), ("zebra", "zz")):
        EpisodeStore(paths.episodes).append([make_episode(name, ("back", "home"), StopReason.SUCCESS)])
        rows = [
            replace(make_candidate(("win", 1), text, 8), episode_id=name, step=step, is_behaviour=text == executed)
            for step, executed in enumerate(("back", "home"))
            for text in texts
        ]
        CandidateStore(paths.candidates).append(shard, rows)
        keys = {
            "actions": [FeatureKey(name, step, text) for step in range(2) for text in texts],
            "states": [FeatureKey(name, step, None) for step in range(3)],
        }
        for kind, of in keys.items():
            features = np.full((len(of), 2), 0.75, np.float32)
            FeatureStore(paths.features / kind).append(shard, of, features, FINGERPRINT)


def weights(paths) -> dict[str, torch.Tensor]:
    return load_critic(paths.model("critic")).state_dict()


def test_data_appended_meanwhile_change_neither_a_critic_nor_its_resumption(tmp_path):
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = train_critic(whole.root, make_settings(), nothing)
    for moment in (3, 27):  # before the first checkpoint, and after it
        with pytest.raises(Killed):
            train_critic(killed.root, make_settings(), kill_at(moment))
        if moment == 3:
            append_more(killed)
    assert train_critic(killed.root, make_settings(), nothing) == figures
    assert all(torch.equal(value, weights(killed)[key]) for key, value in weights(whole).items())


def test_a_run_that_has_no_training_yet_sees_all(tmp_path):
    paths, more = make_run(tmp_path / "run"), make_run(tmp_path / "more")
    append_more(more)
    rows = [train_critic(one.root, make_settings(), nothing)["rows"] for one in (paths, more)]
    assert rows == [5, 9]


@pytest.fixture
def model(tmp_path) -> str:
    make_vlm(["red", "shop"], hidden=16, layers=2, vision=16, vision_layers=1, seed=1).save(tmp_path / "vlm")
    return str(tmp_path / "vlm")


class KnownCritic:
    def q(self, features):
        return features[:, 0]

    v = q


def test_data_appended_meanwhile_change_no_policy_and_all_methods_learn_from_the_same(tmp_path, model, monkeypatch):
    monkeypatch.setattr(policy, "load_critic", lambda directory: KnownCritic())
    settings = make_settings(vlm={"model": model})
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = {name: train_policy(whole.root, name, settings, nothing) for name in ("filtered_bc", "digi_q")}
    with pytest.raises(Killed):
        train_policy(killed.root, "filtered_bc", settings, kill_at(3))
    append_more(killed)
    assert {name: train_policy(killed.root, name, settings, nothing) for name in figures} == figures
    for name in figures:
        one, other = (Vlm.load(paths.model(name)).model.state_dict() for paths in (whole, killed))
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_data_appended_meanwhile_do_not_change_stage_1(tmp_path, model):
    settings = make_settings(vlm={"model": model})
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = finetune(whole.root, settings, nothing)
    with pytest.raises(Killed):
        finetune(killed.root, settings, kill_at(3))
    append_more(killed)
    assert finetune(killed.root, settings, nothing) == figures


def test_nothing_is_pinned_before_there_is_something_to_learn_from(tmp_path, model):
    paths = make_run(tmp_path / "run", {})
    with pytest.raises(StoreError, match="no episode has candidates"):
        train_critic(paths.root, make_settings(), nothing)
    assert not paths.snapshots.exists()
    append_more(paths)
    assert train_critic(paths.root, make_settings(), nothing)["rows"] == 4


def test_what_a_training_needs_is_not_pruned(tmp_path):
    paths = make_run(tmp_path)
    store = EpisodeStore(paths.episodes)
    store.append([make_episode("later", EXECUTED["win"], ENDS["win"])])
    pinned = PinnedStores.open(paths)
    pinned.keep()
    assert len(compact(store)) == 1
    assert prune(store).removed == ()
    assert len(PinnedStores.open(paths).episodes) == len(EXECUTED) + 1


def test_pins_are_kept_once_and_name_all_stores(tmp_path):
    paths = make_run(tmp_path)
    before = PinnedStores.open(paths)
    before.keep()
    append_more(paths)
    after = PinnedStores.open(paths)
    assert after == before
    after.keep()
    assert set(after.hashes) == set(STORES)
    assert after.hashes != {store: PinnedStores.open(paths, "other").hashes[store] for store in STORES}


def test_two_trainings_that_pin_different_data_at_one_moment_do_not_both_go_on(tmp_path):
    paths = make_run(tmp_path)
    one = PinnedStores.open(paths)
    append_more(paths)
    other = PinnedStores.open(paths)
    one.keep()
    with pytest.raises(StoreError, match="data came while two trainings began; run the same command again"):
        other.keep()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"episodes": {"segments": {"a": "b"}, "snapshot_hash": "c"}}'])
def test_broken_pins_are_a_typed_error(tmp_path, content):
    paths = make_run(tmp_path)
    PinnedStores.open(paths).keep()
    (paths.snapshots / "learner.json").write_bytes(content)
    with pytest.raises(
        StoreError, match=r"learner\.json: does not hold the snapshots .*; restore it from a copy, or rem"
    ):
        PinnedStores.open(paths)


def test_a_pinned_shard_that_was_made_again_is_refused(tmp_path):
    paths = make_run(tmp_path / "run")
    PinnedStores.open(paths).keep()
    kept = json.loads((paths.snapshots / "learner.json").read_text())
    assert list(kept["states"]["segments"]) == ["0.arrow"]
    other = make_run(tmp_path / "other")
    (other.features / "states" / "0.arrow").unlink()
    keys = [FeatureKey("win", step, None) for step in range(3)]
    FeatureStore(other.features / "states").append("0", keys, np.ones((3, 2), np.float32), FINGERPRINT)
    os.replace(other.features / "states" / "0.arrow", paths.features / "states" / "0.arrow")
    with pytest.raises(StoreError, match=r"states/0\.arrow: is not what the snapshot saw; restore it from a copy"):
        train_critic(paths.root, make_settings(), nothing)
