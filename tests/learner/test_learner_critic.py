"""Training a critic from the stores: what it publishes, and what it says about itself."""

import numpy as np
import pytest
import torch
from small_runs import CANDIDATES, EXECUTED, make_run, make_settings
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from digiq_ray.core.errors import StoreError
from digiq_ray.diagnostics.alarms import critic_alarms
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.data import tensor
from digiq_ray.learner.material import Material
from digiq_ray.learner.models import load_critic, load_novelty


def nothing(done: int, total: int) -> None:
    """Nobody wants to know."""


def weights(paths) -> list[torch.Tensor]:
    return list(load_critic(paths.model("critic")).state_dict().values())


def test_the_figures_are_those_of_the_published_critic(tmp_path):
    paths, settings = make_run(tmp_path), make_settings()
    seen = []
    figures = train_critic(tmp_path, settings, lambda done, total: seen.append((done, total)))
    material, critic = Material.open(tmp_path), load_critic(paths.model("critic"))
    index = material.index
    with torch.no_grad():
        q = critic.q(tensor(material.views.actions)).tolist()
    executed = {
        name: [round(q[index.actions[name, step, text]], 4) for step, text in enumerate(texts)]
        for name, texts in EXECUTED.items()
    }
    assert figures["rows"] == 5
    assert figures["q_success"] == executed["win"]
    assert figures["q_failure"] == executed["cut"] + executed["stop"]
    assert [step for step, *_ in figures["curve"]] == list(range(1, 41))
    assert figures["td_error"] == figures["curve"][-1][1] > 0
    assert figures["action_sensitivity"] == pytest.approx(
        figures["variance_over_actions"] / figures["variance_over_states"]
    )
    assert seen[-1] == (40, 40)


def test_the_seed_decides_the_critic(tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        paths = make_run(tmp_path / name)
        train_critic(paths.root, make_settings(seed=seed), nothing)
        found.append(weights(paths))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))


def test_a_training_that_is_killed_and_repeated_publishes_the_same_critic(tmp_path):
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 27:
            raise Killed

    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = train_critic(whole.root, make_settings(), nothing)
    with pytest.raises(Killed):
        train_critic(killed.root, make_settings(), kill)
    assert not killed.model("critic").exists()
    assert train_critic(killed.root, make_settings(), nothing) == figures
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(killed), strict=True))


def test_the_critic_tells_a_success_from_a_time_limit(tmp_path):
    paths = make_run(tmp_path)
    train_critic(
        tmp_path, make_settings(critic={"steps": 400, "batch": 8, "q_widths": [16], "v_widths": [16]}), nothing
    )
    material, critic = Material.open(tmp_path), load_critic(paths.model("critic"))
    index = material.index
    with torch.no_grad():
        q = critic.q(tensor(material.views.actions)).numpy()
    assert q[index.actions["win", 1, "back"]] > q[index.actions["cut", 0, "home"]] + 0.2
    assert np.isfinite(q).all()


def test_an_episode_with_a_gap_is_left_out_and_counted(tmp_path):
    make_run(tmp_path / "gap", {key: value for key, value in CANDIDATES.items() if key != ("stop", 0)})
    make_run(tmp_path / "whole")
    gap, whole = (train_critic(tmp_path / name, make_settings(), nothing) for name in ("gap", "whole"))
    assert (gap["episodes_left_out"], whole["episodes_left_out"]) == (1, 0)
    assert gap["rows"] == whole["rows"] - 1


def test_features_without_the_action_raise_the_alarm_of_a_blind_critic(tmp_path):
    blind = {
        key: {text: (count, 0.1 * number) for text, (count, _) in options.items()}
        for number, (key, options) in enumerate(CANDIDATES.items())
    }
    make_run(tmp_path, blind)
    figures = train_critic(tmp_path, make_settings(), nothing)
    assert [alarm.name for alarm in critic_alarms(figures)] == ["q_ignores_the_action"]
    assert figures["rank_agreement"] is None


def test_the_novelty_of_states_is_published_with_the_critic_and_logged(tmp_path):
    paths = make_run(tmp_path)
    figures = train_critic(tmp_path, make_settings(policy={"min_support": 1, "max_novelty": 0.5}), nothing)
    material, novelty = Material.open(tmp_path), load_novelty(paths.model("critic"))
    with torch.no_grad():
        found = novelty(tensor(material.views.states))
    assert figures["novelty_beyond_limit"] == pytest.approx(float((found > 0.5).float().mean()))
    assert figures["novelty_distance_most"] >= figures["novelty_distance_median"]
    events = EventAccumulator(str(paths.logs / "critic"))
    events.Reload()
    (point,) = events.Scalars("critic/novelty_beyond_limit")
    assert point.value == pytest.approx(figures["novelty_beyond_limit"])


def test_values_may_leave_out_what_is_hardly_ever_sampled(tmp_path):
    found = {}
    probabilities = {"home": 0.05, "back": 0.6, "enter": 0.3, "wait": 0.9, "tap 0.10 0.10": 0.2, "tap 0.90 0.90": 0.01}
    for least in (0.0, 0.1):
        paths = make_run(tmp_path / str(least), probabilities=probabilities)
        train_critic(paths.root, make_settings(critic={"backup_probability": least, "steps": 5, "batch": 8}), nothing)
        found[least] = weights(paths)
    assert not all(torch.equal(a, b) for a, b in zip(found[0.0], found[0.1], strict=True))


def test_nothing_to_learn_from_is_a_typed_error(tmp_path):
    make_run(tmp_path, {("cut", 0): CANDIDATES["cut", 0]})
    with pytest.raises(StoreError, match="no episode has candidates and features"):
        train_critic(tmp_path, make_settings(), nothing)
