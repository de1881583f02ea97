"""The methods beside best-of-N: what each imitates with what weight, and that a kill changes nothing."""

import pytest
import torch
from small_runs import EXECUTED, make_run, make_settings

from digiq_ray.core.errors import StoreError
from digiq_ray.learner import baselines, policy
from digiq_ray.learner.material import Extraction, Material
from digiq_ray.learner.models import load_critic
from digiq_ray.learner.policy import extract, train_policy
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm


class KnownCritic:
    """Reads Q and V off the features."""

    def q(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0]

    v = q


class BrokenCritic(KnownCritic):
    """Knows no Q."""

    def q(self, features: torch.Tensor) -> torch.Tensor:
        return torch.full_like(features[:, 0], torch.nan)


class KnownValues:
    """Values of DigiRL that are given: of every state by its row, and of the first states of the episodes."""

    def __init__(self, states, instructions) -> None:
        self._states, self._instructions = torch.tensor(states), torch.tensor(instructions)

    def state(self, features):
        return self._states

    def instruction(self, features):
        return self._instructions


#: The executed actions of the grammar, by state; Q - V of each is -0.3, -0.2, 0.1 and 0.4.
IMITATED = {
    ("cut", 0): "home",
    ("stop", 0): "complete",
    ("win", 0): "tap 0.10 0.10",
    ("win", 1): "back",
}
ADVANTAGES = torch.tensor([-0.3, -0.2, 0.1, 0.4], dtype=torch.float64)


@pytest.fixture
def known_critic(monkeypatch):
    monkeypatch.setattr(policy, "load_critic", lambda directory: KnownCritic())


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Where a small random VLM lies."""
    path = tmp_path_factory.mktemp("vlm")
    make_vlm(["red", "shop"], hidden=16, layers=2, vision=16, vision_layers=1, seed=1).save(path, version="base")
    return str(path)


def nothing(done: int, total: int) -> None:
    """Nobody wants to know."""


def extracted(method: str, root, **policy_settings) -> Extraction:
    settings = make_settings(policy={"min_support": 2, "support_radius": 0.0, **policy_settings})
    return extract(method, Material.open(root), root, settings, nothing)


# By advantage.


def test_awr_imitates_every_valid_executed_action_by_its_advantage(tmp_path, known_critic):
    make_run(tmp_path)
    found = extracted("awr", tmp_path, awr_temperature=0.2)
    assert found.targets == IMITATED, "and not 'tap red', which is no action"
    expected = torch.exp(ADVANTAGES / 0.2)
    expected /= expected.mean()
    assert [found.weight(key) for key in IMITATED] == pytest.approx(expected.tolist(), rel=1e-4)
    assert found.figures == {
        "states": 4,
        "positive_advantage": 0.5,
        "items": 4,
        "mean_weight": pytest.approx(1.0),
    }


def test_awr_has_the_bound_of_the_settings(tmp_path, known_critic):
    make_run(tmp_path)
    found = extracted("awr", tmp_path, awr_temperature=1e-3, awr_max_weight=2.0)
    assert [found.weight(key) for key in IMITATED] == pytest.approx([0.0, 0.0, 2.0, 2.0], abs=1e-6)


def test_reinforce_weighs_by_advantages_of_both_signs(tmp_path, known_critic):
    make_run(tmp_path)
    found = extracted("reinforce", tmp_path)
    assert found.targets == IMITATED
    expected = ADVANTAGES / ADVANTAGES.square().mean().sqrt()
    assert [found.weight(key) for key in IMITATED] == pytest.approx(expected.tolist(), rel=1e-4)
    assert found.figures["mean_weight"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("method", ["awr", "reinforce"])
def test_a_critic_that_says_nothing_is_a_typed_error(method, tmp_path, monkeypatch):
    make_run(tmp_path)
    monkeypatch.setattr(policy, "load_critic", lambda directory: BrokenCritic())
    with pytest.raises(StoreError, match="4 of 4 advantages are not finite: train the critic again"):
        extracted(method, tmp_path)


def test_reinforce_without_any_advantage_has_nothing_to_learn(tmp_path, monkeypatch):
    make_run(tmp_path)

    class Indifferent(KnownCritic):
        v = q = lambda self, features: torch.zeros(len(features))

    monkeypatch.setattr(policy, "load_critic", lambda directory: Indifferent())
    with pytest.raises(StoreError, match="reinforce finds nothing to imitate"):
        extracted("reinforce", tmp_path)


# DigiRL.


def digirl(root, states, instructions, monkeypatch, **chosen) -> Extraction:
    monkeypatch.setattr(policy, "train_values", lambda *arguments: KnownValues(states, instructions))
    return extracted("digirl", root, **chosen)


#: V of all states by their rows: three of cut, one of dead, two of stop, three of win.
STATES = [0.1, 0.5, 0.5, 0.0, 0.2, 0.9, 0.5, 0.4, 0.0]


def test_digirl_imitates_steps_that_raised_the_value_in_the_best_episodes(tmp_path, monkeypatch):
    make_run(tmp_path)
    found = digirl(tmp_path, STATES, [0.5, 0.5, 0.5], monkeypatch, digirl_share=0.3, digirl_gamma=0.5)
    assert found.targets == {("win", 0): "tap 0.10 0.10", ("win", 1): "back"}
    assert found.figures == {
        "states": 5,
        "episodes_kept": pytest.approx(1 / 3),
        "positive_advantage": 0.8,  # all but cut 1: V stays, and no return
        "items": 2,
        "mean_weight": 1.0,
    }


def test_digirl_without_a_return_goes_by_the_value_alone(tmp_path, monkeypatch):
    make_run(tmp_path)
    found = digirl(tmp_path, STATES, [0.5, 0.5, 0.5], monkeypatch, digirl_share=1.0, digirl_gamma=0.1, digirl_cost=0.15)
    assert set(found.targets) == {("cut", 0), ("stop", 0), ("win", 1)}, "V of win falls first, by more than its return"


def test_digirl_takes_the_episode_that_surprises(tmp_path, monkeypatch):
    make_run(tmp_path)
    found = digirl(tmp_path, STATES, [-0.9, 0.0, 0.9], monkeypatch, digirl_share=0.3)
    assert set(found.targets) == {("cut", 0)}


def test_digirl_values_tell_success_from_failure(tmp_path):
    make_run(tmp_path)
    settings, material = (
        make_settings(critic={"steps": 60, "batch": 16, "dropout": 0.0, "v_widths": [8], "learning_rate": 1e-2}),
        Material.open(tmp_path),
    )
    values = baselines.train_values(tmp_path, material, settings, nothing)
    # All states have the same features here: the share of successes is all that there is to learn.
    features = torch.tensor([[0.5, 1.0]])
    assert values.instruction(features).item() == pytest.approx(1 / 3, abs=0.15)
    assert values.state(features).item() == pytest.approx(2 / 5, abs=0.15)


# Monte Carlo.


def test_mc_chooses_the_best_of_n_by_a_critic_of_its_own(tmp_path, monkeypatch):
    paths, asked = make_run(tmp_path), []

    def load(directory):
        asked.append(directory)
        return KnownCritic()

    monkeypatch.setattr(policy, "load_critic", load)
    found, best = extracted("mc", tmp_path), extracted("digi_q", tmp_path)
    assert asked == [paths.model("critic_mc"), paths.model("critic")]
    assert found.targets == best.targets
    assert set(found.figures["critic"]) >= {"td_error", "action_sensitivity"}


def test_the_critic_of_mc_learns_returns_and_leaves_the_other_alone(tmp_path):
    paths = make_run(tmp_path)
    numbers = {"steps": 200, "batch": 16, "gamma": 0.5, "q_widths": [32], "v_widths": [8], "learning_rate": 1e-2}
    settings = make_settings(critic={**numbers, "dropout": 0.0, "conservative": 0.0})
    extract("mc", Material.open(tmp_path), tmp_path, settings, nothing)
    assert not paths.model("critic").exists()
    material, critic = Material.open(tmp_path), load_critic(paths.model("critic_mc"))
    q_values = policy.values_of(critic.q, material.views.actions)
    known = {key: q_values[material.index.actions[(*key, text)]] for key, text in IMITATED.items()}
    # All states look alike here: by TD the first step of win were worth gamma times the mean of all states.
    assert known["win", 0] == pytest.approx(0.5, abs=0.1)
    assert known["win", 1] == pytest.approx(0.5, abs=0.1), "1, but for its twin of return 0, 'tap red'"
    assert known["cut", 0] == pytest.approx(0.0, abs=0.1)


# Whole trainings.


@pytest.mark.parametrize("method", ["awr", "reinforce", "digirl", "mc"])
def test_a_method_that_is_killed_and_repeated_publishes_the_same_weights(method, tmp_path, model, monkeypatch):
    class Killed(BaseException):
        pass

    def kill_at(number: int):
        def kill(done: int, total: int) -> None:
            if done == number:
                raise Killed

        return kill

    if method in ("awr", "reinforce"):
        monkeypatch.setattr(policy, "load_critic", lambda directory: KnownCritic())
    settings = make_settings(
        vlm={"model": model},
        critic={"steps": 25, "batch": 8, "q_widths": [8], "v_widths": [8]},
        policy={"steps": 3, "batch": 4, "min_support": 1, "margin": -9.0, "digirl_share": 1.0},
    )
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = train_policy(whole.root, method, settings, nothing)
    for moment in [15, 27] if method in ("digirl", "mc") else [2]:
        with pytest.raises(Killed):
            train_policy(killed.root, method, settings, kill_at(moment))
    assert train_policy(killed.root, method, settings, nothing) == figures
    assert figures["kl"] >= 0.0
    one, other = (Vlm.load(paths.model(method)) for paths in (whole, killed))
    assert one.version == other.version == f"{method}-1-{one.weights_hash}"
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_executed_actions_are_those_of_the_grammar(tmp_path):
    make_run(tmp_path)
    assert dict(Material.open(tmp_path).executed()) == IMITATED
    assert EXECUTED["cut"][1] == "tap red"
