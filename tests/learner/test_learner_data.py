"""From the stores to what the learner trains on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import CANDIDATES, EXECUTED, FINGERPRINT, make_episode, make_run

from digiq_ray.core.actions import parse_action
from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import FingerprintMismatchError, StoreError
from digiq_ray.learner import data
from digiq_ray.learner.data import (
    FeatureViews,
    MappedFeatures,
    blocks_of,
    candidates_by_state,
    frames,
    learnable,
    outlines,
    shares,
    tensor,
    values_of,
)
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.store import feature_shard
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def views_of(run):
    return FeatureViews.open(run.features, PinnedStores.open(run).snapshots)


def stores_of(run):
    return EpisodeStore(run.episodes), CandidateStore(run.candidates), views_of(run)


def read(run):
    """Episodes, candidates, and where their features are."""
    episodes, candidates, views = stores_of(run)
    played, options = outlines(episodes), candidates_by_state(candidates)
    return played, options, views.rows(played, options)


def frames_of(run):
    episodes, candidates, index = read(run)
    return list(frames(episodes, candidates, index)), index


def test_outlines_are_the_episodes_in_which_something_was_done(run):
    found = {one.episode_id: one for one in outlines(EpisodeStore(run.episodes))}
    assert list(found) == ["cut", "stop", "win"]
    assert {name: one.actions for name, one in found.items()} == {name: EXECUTED[name] for name in found}
    assert [(one.terminal, one.success) for one in found.values()] == [(False, False), (True, False), (True, True)]
    assert found["win"].rewards == (0.0, 1.0)
    assert found["cut"].task == "shop red"


def test_candidates_come_back_with_counts_and_parsed_actions(run):
    found = candidates_by_state(CandidateStore(run.candidates))
    assert found.keys() == CANDIDATES.keys()
    for key, options in found.items():
        assert dict(zip(options.texts, options.counts, strict=True)) == {
            text: count for text, (count, _) in CANDIDATES[key].items()
        }
    assert found["cut", 1].texts == ["enter", "tap red"]
    assert found["cut", 1].actions == [parse_action("enter"), None]


def test_a_frame_points_at_the_features_of_its_states_and_actions(run):
    found, index = frames_of(run)
    state_rows = {row: key for key, row in index.states.items()}
    action_rows = {row: key for key, row in index.actions.items()}
    cut = found[0]
    assert [state_rows[row] for row in cut.states] == [("cut", 0), ("cut", 1), ("cut", 2)]
    assert [action_rows[row] for row in cut.actions] == [("cut", 0, "home"), ("cut", 1, "tap red")]
    assert {action_rows[row][2]: weight for row, weight in zip(cut.candidates[1], cut.weights[1], strict=True)} == {
        "tap red": 0.75,
        "enter": 0.25,
    }
    assert (cut.rewards, cut.terminal) == ((0.0, 0.0), False)


def test_features_are_found_under_the_row_of_their_key(run):
    *_, index = read(run)
    actions = views_of(run).actions
    assert index.actions.keys() == {(*key, text) for key, options in CANDIDATES.items() for text in options}
    for (name, step, text), row in index.actions.items():
        assert actions.rows([row])[0, 0] == np.float32(CANDIDATES[name, step][text][1])


def test_a_state_without_candidates_is_a_typed_error(tmp_path):
    run = make_run(tmp_path, {key: value for key, value in CANDIDATES.items() if key != ("win", 1)})
    with pytest.raises(StoreError, match=r"episode win has no candidates or features for .*run digiq candidates"):
        frames_of(run)


def learnable_of(run):
    return learnable(*read(run))


def test_what_is_whole_is_learned_from(run):
    episodes, candidates = learnable_of(run)
    assert [one.episode_id for one in episodes] == ["cut", "stop", "win"]
    assert {key: list(one.texts) for key, one in candidates.items()} == {
        key: sorted(texts) for key, texts in CANDIDATES.items()
    }


@pytest.mark.parametrize("missing", [("win", 0), ("win", 1)])
def test_an_episode_with_a_gap_is_left_out(tmp_path, missing):
    run = make_run(tmp_path, {key: value for key, value in CANDIDATES.items() if key != missing})
    episodes, candidates = learnable_of(run)
    assert [one.episode_id for one in episodes] == ["cut", "stop"]
    assert len(list(frames(episodes, candidates, read(run)[2]))) == 2


def test_candidates_that_were_never_embedded_are_left_out(tmp_path, run):
    more = make_run(tmp_path / "more", CANDIDATES | {("win", 1): {"back": (7, 0.9), "wait": (1, 0.1)}})
    more.features.rename(tmp_path / "unused")
    run.features.rename(more.features)
    episodes, candidates = learnable_of(more)
    assert len(episodes) == 3
    assert list(candidates["win", 1].texts) == ["back"]


def test_nothing_whole_is_a_typed_error(tmp_path):
    run = make_run(tmp_path, {("cut", 0): CANDIDATES["cut", 0]})
    with pytest.raises(StoreError, match="no episode has candidates and features of all its states"):
        list(blocks_of(*stores_of(run), run.root))


def test_a_store_in_which_nothing_was_done_is_a_typed_error(tmp_path):
    run = make_run(tmp_path)
    run.episodes.rename(tmp_path / "unused")
    EpisodeStore.create(run.episodes).append([make_episode("dead", (), StopReason.DEVICE_ERROR)])
    with pytest.raises(StoreError, match=r"no episode holds an action.*collect more"):
        list(blocks_of(*stores_of(run), run.root))


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_blocks_hold_together_what_is_read_at_once(tmp_path, monkeypatch, most):
    run = make_run(tmp_path, {key: value for key, value in CANDIDATES.items() if key != ("stop", 0)})
    whole = read(run)
    monkeypatch.setattr(data, "_BLOCK_EPISODES", most)
    found = list(blocks_of(*stores_of(run), run.root))
    assert len(found) == -(-len(EXECUTED) // most)
    assert [one for block in found for one in block.episodes] == learnable(*whole)[0]
    assert (sum(block.played for block in found), sum(len(block.episodes) for block in found)) == (3, 2)
    for name in ("states", "actions"):
        assert {key: row for block in found for key, row in getattr(block.index, name).items()} == getattr(
            whole[2], name
        )


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_names_its_episode_and_step(tmp_path, reward):
    run = make_run(tmp_path)
    broken = make_episode("zero", ("back", "home"), StopReason.TIME_LIMIT)
    steps = [replace(step, reward=reward if number == 1 else 0.0) for number, step in enumerate(broken.steps)]
    EpisodeStore(run.episodes).append([replace(broken, steps=tuple(steps))])
    with pytest.raises(StoreError, match=f"episode zero, step 1: the reward is {reward}, .*collect the episode again"):
        outlines(EpisodeStore(run.episodes))


def write_unchecked(monkeypatch, store, shard, keys, features):
    """As another program would, which does not look at the values."""
    monkeypatch.setattr(feature_shard, "_check_values", lambda *words: None)
    store.append(shard, keys, features, FINGERPRINT)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("action", [None, "back"])
def test_a_feature_that_is_not_finite_names_what_it_is_of(tmp_path, monkeypatch, value, action):
    store, features = FeatureStore.create(tmp_path), np.ones((3, 2), np.float32)
    store.append("0", [FeatureKey("fine", 0, None)], np.ones((1, 2), np.float32), FINGERPRINT)
    features[2, 1] = value
    write_unchecked(monkeypatch, store, "1", [FeatureKey("odd", step, action) for step in range(3)], features)
    named = "episode odd, step 2" + (", action 'back'" if action else "")
    with pytest.raises(StoreError, match=f"{named}: the feature holds a value that is not finite; embed again"):
        MappedFeatures(store.open()).require_finite()


def test_features_of_two_models_are_refused(run):
    stores = {kind: FeatureStore.create(run.root / "other" / kind) for kind in ("states", "actions")}
    changed = type(FINGERPRINT)(model="another", layer=2, pooling="last", prompt="p", image="i")
    stores["states"].append("0", [FeatureKey("win", 0, None)], np.ones((1, 2), np.float32), changed)
    stores["actions"].append("0", [FeatureKey("win", 0, "back")], np.ones((1, 2), np.float32), FINGERPRINT)
    with pytest.raises(FingerprintMismatchError, match="model"):
        FeatureViews.open(run.root / "other", {kind: store.open().snapshot() for kind, store in stores.items()})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_become_float32_tensors(tmp_path, dtype):
    store = FeatureStore.create(tmp_path)
    rows = np.arange(1, 7, dtype=dtype).reshape(3, 2)
    store.append("0", [FeatureKey("e", step, None) for step in range(3)], rows, FINGERPRINT)
    assert torch.equal(tensor(store.open()), torch.tensor([[1.0, 2], [3, 4], [5, 6]]))
    assert torch.equal(tensor(store.open(), [2, 0]), torch.tensor([[5.0, 6], [1, 2]]))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_values_do_not_depend_on_the_blocks_in_which_features_are_read(run, monkeypatch, block):
    monkeypatch.setattr(data, "_BLOCK_ROWS", block)
    view, sizes = views_of(run).actions, []

    def head(features):
        sizes.append(len(features))
        return features[:, 0] * 2

    values = values_of(head, view)
    assert values.tolist() == (view.rows(np.arange(len(view)))[:, 0] * 2).astype(float).tolist()
    assert max(sizes) == min(block, len(view))


def test_counts_become_probabilities():
    assert shares([1, 3, 0]).tolist() == [0.25, 0.75, 0.0]
    assert shares([0, 0]).tolist() == [0.5, 0.5]
