"""The critic's training set on disk: the same numbers as in memory, made once, and again when its data change."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CANDIDATES, EXECUTED, FINGERPRINT, make_episode, make_run, make_settings

from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic.dataset import Transitions, build
from digiq_ray.critic.heads import Critic
from digiq_ray.critic.training import CriticTrainer
from digiq_ray.learner import data as blocks
from digiq_ray.learner import training_data as module
from digiq_ray.learner.critic import shape_of, train_critic
from digiq_ray.learner.data import FeatureViews, frames, tensor
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.learner.likelihood import with_logprobs
from digiq_ray.learner.material import Material
from digiq_ray.learner.models import load_critic
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.learner.training import train
from digiq_ray.learner.training_data import training_data
from digiq_ray.policy.best_of_n import without_unlikely
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore

COLUMNS = [field.name for field in dataclasses.fields(Transitions)]


def opened(run, **settings):
    stores = PinnedStores.open(run)
    views = FeatureViews.open(run.features, stores.snapshots)
    return training_data(run.checkpoints("critic_data"), stores, views, CriticSettings(**settings))


def in_memory(run, chosen: CriticSettings):
    """The same from lists of everything, as it was before there was a training set on disk."""
    material, candidates = Material.open(run.root), Material.open(run.root).candidates
    if chosen.backup_probability:
        known = with_logprobs(candidates, material.stores.candidates)
        candidates = {key: without_unlikely(one, chosen.backup_probability) for key, one in known.items()}
    return build(
        list(frames(material.episodes, candidates, material.index, min_support=chosen.backup_support)),
        tensor(material.views.states),
        tensor(material.views.actions),
        gamma=chosen.gamma,
        steps=chosen.n_step,
        truncated_ends=chosen.truncation == "end",
    )


def made(run) -> list[Path]:
    return sorted(run.checkpoints("critic_data").iterdir())


@pytest.mark.parametrize("most", [1, 2, 64])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gamma": 0.5, "n_step": 2},
        {"truncation": "end", "backup_support": 3},
        {"n_step": 0},
        {"backup_probability": 0.4},
    ],
    ids=str,
)
def test_it_holds_what_lists_in_memory_hold(tmp_path, monkeypatch, most, settings):
    run = make_run(tmp_path, probabilities={text: 0.6 for _, options in CANDIDATES.items() for text in [*options][:1]})
    monkeypatch.setattr(blocks, "_BLOCK_EPISODES", most)
    found, expected = opened(run, **settings), in_memory(run, CriticSettings(**settings))
    for name in COLUMNS:
        one, other = getattr(found.data, name), getattr(expected, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other), name
    for name in ("state_features", "action_features"):
        assert torch.equal(getattr(found.data, name)[:], getattr(expected, name))
    assert found.won.tolist() == [False, False, False, True, True]


def test_it_says_what_it_is_made_of(tmp_path):
    run = make_run(tmp_path, {key: value for key, value in CANDIDATES.items() if key != ("stop", 0)})
    about = opened(run).about
    assert (about.transitions, about.width, about.episodes, about.left_out) == (4, 3, 2, 1)
    assert (about.least_return, about.largest_return, about.rewarded) == (0.0, 1.0, True)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("normalise", ["standardise", "whiten", "none"])
def test_a_critic_learns_the_same_bits_from_disk_as_from_memory(tmp_path, shards, normalise):
    run = make_run(tmp_path)
    if shards > 1:
        for kind in ("states", "actions"):
            store = FeatureStore(run.features / kind)
            keys, values = store.open().keys.to_pylist(), store.open().rows(range(len(store.open())))
            for file in store.path.iterdir():
                file.unlink()
            for number, part in enumerate(np.array_split(np.arange(len(keys)), shards)):
                store.append(str(number), [FeatureKey(**keys[row]) for row in part], values[part], FINGERPRINT)
    settings = make_settings(critic={"steps": 40, "batch": 8, "q_widths": [8], "v_widths": [8], "normalise": normalise})
    train_critic(tmp_path, settings, lambda done, total: None)
    data, seed = in_memory(run, settings.critic), seed_of("critic", settings.seed)
    critic = Critic(shape_of(settings.critic, 2, 2), seed=seed)
    critic.v_heads.normalise.fit(data.state_features)
    critic.q_heads.normalise.fit(data.action_features)
    train(
        CriticTrainer(critic, data, settings.critic, seed=seed),
        name="critic",
        fingerprints=Fingerprints(),
        checkpoints=tmp_path / "apart" / "checkpoints",
        logs=tmp_path / "apart" / "logs",
        every=1000,
        on_step=lambda done, total: None,
    )
    published = load_critic(run.model("critic")).state_dict()
    assert published.keys() == critic.state_dict().keys()
    assert all(torch.equal(published[name], value) for name, value in critic.state_dict().items())


def test_what_is_there_is_taken(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    first = opened(run)
    monkeypatch.setattr(module, "_write", lambda *words: pytest.fail("it was made again"))
    again = opened(run)
    assert torch.equal(first.data.candidates, again.data.candidates)
    assert first.about == again.about


@pytest.mark.parametrize("change", ["settings", "episodes", "candidates", "features"])
def test_what_was_made_of_other_data_is_made_again(tmp_path, change):
    run = make_run(tmp_path)
    before, settings = opened(run), {}
    [old] = made(run)
    if change == "settings":
        settings = {"gamma": 0.5}
    elif change == "episodes":
        EpisodeStore(run.episodes).append([make_episode("late", ("home",), StopReason.TIME_LIMIT)])
    elif change == "candidates":
        CandidateStore(run.candidates).append("late", [])
    else:
        FeatureStore(run.features / "states").append(
            "late", [FeatureKey("late", 0, None)], np.ones((1, 2), np.float32), FINGERPRINT
        )
    opened(run, **settings)
    [new] = made(run)
    assert new != old
    assert before.data.state.tolist() == [0, 1, 4, 6, 7]  # those that a training has open stay


def test_a_file_of_another_length_is_a_typed_error(tmp_path):
    run = make_run(tmp_path)
    opened(run)
    [directory] = made(run)
    (directory / "reward").write_bytes(b"")
    with pytest.raises(StoreError, match=r"is broken \(reward has another length.*remove it"):
        opened(run)
    (directory / "about.json").write_text(json.dumps({"transitions": 5}))
    with pytest.raises(StoreError, match=r"is broken .*remove it"):
        opened(run)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    run = make_run(tmp_path)

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_widen", full)
    with pytest.raises(DiskFullError):
        opened(run)
    assert made(run) == []


def test_the_executed_actions_are_all_there(tmp_path):
    run = make_run(tmp_path)
    found, material = opened(run), Material.open(run.root)
    expected = [
        material.index.actions[name, step, text]
        for name in sorted(EXECUTED)
        for step, text in enumerate(EXECUTED[name])
    ]
    assert found.data.action.tolist() == expected
