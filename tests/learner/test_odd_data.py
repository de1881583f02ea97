"""Data that cannot be learned from, or not well: each says so in one clear line; none ends in a crash or silence."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import EXECUTED, FINGERPRINT, fingerprint_of_settings, make_episode, make_run, make_settings

from digiq_ray.cli.main import main
from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import FingerprintMismatchError, StoreError
from digiq_ray.diagnostics.alarms import critic_alarms
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.policy import train_policy
from digiq_ray.loops.run import Run
from digiq_ray.store import feature_shard
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore
from digiq_ray.store.manifest import write_json
from digiq_ray.vlm.tiny import SHIPPED


def train(root: Path, settings=None):
    return train_critic(root, settings or make_settings(), lambda done, total: None)


def imitate(root: Path, method: str = "digi_q"):
    return train_policy(root, method, make_settings(), lambda done, total: None)


def play_again(paths, change):
    """Replaces the episodes by what ``change`` makes of them."""
    episodes = [change(one) for one in EpisodeStore(paths.episodes).episodes()]
    shutil.rmtree(paths.episodes)
    EpisodeStore.create(paths.episodes).append(episodes)
    return paths


def with_reward(episode, rewards):
    steps = [replace(step, reward=reward) for step, reward in zip(episode.steps, rewards, strict=False)]
    return replace(episode, steps=(*steps, *episode.steps[len(steps) :]))


def embed_again(paths, change, fingerprint=FINGERPRINT):
    """Replaces the features of actions by what ``change`` makes of them."""
    for kind in ("states", "actions"):
        store = FeatureStore(paths.features / kind)
        view = store.open()
        keys, values = [FeatureKey(**key) for key in view.keys.to_pylist()], view.rows(range(len(view)))
        shutil.rmtree(store.path)
        values = change(values) if kind == "actions" else values
        FeatureStore.create(paths.features / kind).append("0", keys, values, fingerprint)
    return paths


# ---- what can only be an error


def nan_reward(paths):
    play_again(paths, lambda one: with_reward(one, [0.0, float("nan")]) if one.episode_id == "cut" else one)


def infinite_reward(paths):
    play_again(paths, lambda one: with_reward(one, [float("-inf")]) if one.episode_id == "win" else one)


def nothing_collected(paths):
    shutil.rmtree(paths.episodes)
    EpisodeStore.create(paths.episodes)


def nothing_done(paths):
    shutil.rmtree(paths.episodes)
    EpisodeStore.create(paths.episodes).append([make_episode("dead", (), StopReason.DEVICE_ERROR)])


def no_candidates(paths):
    shutil.rmtree(paths.candidates)
    CandidateStore.create(paths.candidates)


def no_features(paths):
    for file in (paths.features / "actions").iterdir():
        file.unlink()


def all_failures(paths):
    play_again(paths, lambda one: with_reward(replace(one, stop_reason=StopReason.TIME_LIMIT), [0.0, 0.0]))


def two_models(paths):
    store = FeatureStore(paths.features / "states")
    shutil.rmtree(store.path)
    FeatureStore.create(store.path).append(
        "0", [FeatureKey("win", 0, None)], np.ones((1, 2), np.float32), replace(FINGERPRINT, model="another")
    )


HOPELESS = {
    nan_reward: "episode cut, step 1: the reward is nan, not a finite number",
    infinite_reward: "episode win, step 0: the reward is -inf, not a finite number",
    nothing_collected: "no episode holds an action, so there is nothing to learn from: collect more",
    nothing_done: "no episode holds an action, so there is nothing to learn from: collect more",
    no_candidates: "no episode has candidates and features of all its states: run digiq candidates",
    no_features: "holds no features; embed them first",
    all_failures: "none of 3 episodes has a reward|none of 3 episodes succeeded, or has any other reward",
    two_models: "features were made with model 'm', not 'another'; embed again",
}


@pytest.mark.parametrize("spoil", HOPELESS, ids=lambda spoil: spoil.__name__)
def test_what_nothing_can_be_learned_from_is_a_typed_error_of_both_stages(tmp_path, spoil):
    paths = make_run(tmp_path)
    spoil(paths)
    for stage in (train, imitate):
        with pytest.raises(StoreError, match=HOPELESS[spoil]) as caught:
            stage(tmp_path)
        assert "\n" not in str(caught.value)
    assert not paths.model("critic").exists()
    assert not paths.model("digi_q").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_names_what_it_is_of(tmp_path, monkeypatch, value):
    monkeypatch.setattr(feature_shard, "_check_values", lambda *words: None)  # as another program would write it
    paths = make_run(tmp_path)

    def spoil(values):
        values[3, 1] = value
        return values

    embed_again(paths, spoil)
    key = FeatureStore(paths.features / "actions").open().key(3)
    named = re.escape(f"episode {key.episode_id}, step {key.step}, action {key.action!r}")
    with pytest.raises(StoreError, match=f"{named}: the feature holds a value that is not finite; embed again"):
        train(tmp_path)


# ---- changed features


def test_features_that_were_made_again_are_not_those_of_the_critic(tmp_path):
    paths = make_run(tmp_path)
    train(tmp_path)
    embed_again(paths, lambda values: values + 1)
    with pytest.raises(StoreError, match="is not what the snapshot saw"):
        imitate(tmp_path)


@pytest.fixture(scope="module")
def fingerprint():
    return fingerprint_of_settings()


def test_features_of_the_settings_pass(tmp_path, fingerprint):
    paths = embed_again(make_run(tmp_path), lambda values: values, fingerprint)
    paths.model("feature_vlm").parent.mkdir()
    paths.model("feature_vlm").symlink_to(SHIPPED)
    assert train(tmp_path)["rows"] == 5


@pytest.mark.parametrize(("name", "value"), [("layer", 1), ("pooling", "last"), ("prompt", "0"), ("image", "1x1 RGB")])
def test_features_of_other_settings_are_refused(tmp_path, fingerprint, name, value):
    paths = embed_again(make_run(tmp_path), lambda values: values, replace(fingerprint, **{name: value}))
    paths.model("feature_vlm").parent.mkdir()
    paths.model("feature_vlm").symlink_to(SHIPPED)
    with pytest.raises(FingerprintMismatchError, match=f"features were made with {name} {value!r}, not "):
        train(tmp_path)


# ---- what is learned from, with an alarm


def test_when_all_succeed_an_alarm_says_that_only_the_discount_is_left(tmp_path):
    paths = make_run(tmp_path)
    play_again(
        paths,
        lambda one: (
            with_reward(replace(one, stop_reason=StopReason.SUCCESS), [0.0] * (len(one.steps) - 2) + [1.0])
            if len(one.steps) > 1
            else one
        ),
    )
    figures = train(tmp_path)
    [alarm] = [alarm for alarm in critic_alarms(figures) if alarm.name == "every_return_is_the_same"]
    assert "the rewards of every episode sum to 1" in alarm.sentence
    assert "collect.episodes" in alarm.change


def test_rewards_that_differ_raise_no_such_alarm(tmp_path):
    make_run(tmp_path)
    figures = train(tmp_path)
    assert (figures["least_return"], figures["largest_return"], figures["most_candidates"]) == (0.0, 1.0, 3)
    assert not {alarm.name for alarm in critic_alarms(figures)} & {"every_return_is_the_same", "nothing_to_choose"}


def one_candidate(paths):
    """Whatever was sampled, it was what was done."""
    alone = {
        (name, step): {text: (8, 0.2 + 0.2 * step)}
        for name, texts in EXECUTED.items()
        for step, text in enumerate(texts)
    }
    shutil.rmtree(paths.root)
    make_run(paths.root, alone)


def test_one_candidate_is_an_alarm_of_the_critic_and_an_error_of_best_of_n(tmp_path):
    one_candidate(make_run(tmp_path))
    assert [alarm.name for alarm in critic_alarms(train(tmp_path))] == ["nothing_to_choose"]
    with pytest.raises(StoreError, match=r"digi_q has nothing to choose from: .*candidates\.k"):
        imitate(tmp_path)


# ---- the commands


def whole_run(root: Path) -> Run:
    """A run whose stages before train-critic are done."""
    run = Run(root, make_settings())
    make_run(root)
    for stage in ("collect", "candidates", "finetune", "embed"):
        (root / "stages").mkdir(exist_ok=True)
        write_json(root / "stages" / f"{stage}.json", {"seconds": 0.0, "figures": {}})
    return run


def line_of(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line]
    assert len(lines) == 1, lines
    return lines[0]


def command(stage: str, root: Path) -> int:
    return main([stage, "--serial", "--config", str(root / "config.yaml"), "--out", str(root)])


@pytest.mark.parametrize("spoil", [nan_reward, nothing_done, all_failures], ids=lambda spoil: spoil.__name__)
def test_the_command_ends_with_one_line_and_code_2(tmp_path, capsys, spoil):
    run = whole_run(tmp_path / "run")
    spoil(run.paths)
    assert command("train-critic", run.root) == 2
    assert re.search(HOPELESS[spoil], line_of(capsys))


def test_the_command_says_that_features_changed_since_the_critic_was_trained(tmp_path, capsys):
    run = whole_run(tmp_path / "run")
    assert command("train-critic", run.root) == 0
    embed_again(run.paths, lambda values: values + 1)
    capsys.readouterr()
    assert command("train-policy", run.root) == 2
    assert "is not what the snapshot saw" in line_of(capsys)
