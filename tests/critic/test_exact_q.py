"""Q against value iteration, learned from data of a behaviour policy alone, on one-hot and on projected features."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic.dataset import EpisodeFrame, build
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape
from digiq_ray.critic.training import CriticTrainer

GAMMA = 0.9


@dataclass(frozen=True)
class World:
    """Deterministic: ``onward`` and ``reward`` are ``[S, A]``; states in ``ends`` are terminal."""

    onward: np.ndarray
    reward: np.ndarray
    ends: frozenset[int]

    def optimal(self) -> np.ndarray:
        """Q* by value iteration, ``[S, A]``."""
        q = np.zeros(self.reward.shape)
        alive = np.array([after not in self.ends for after in self.onward.ravel()]).reshape(self.onward.shape)
        for _ in range(500):
            q = self.reward + GAMMA * alive * q.max(1)[self.onward]
        return q

    def frames(self, episodes: int, horizon: int) -> list[EpisodeFrame]:
        """Uniformly random behaviour from every state, cut off (and to be bootstrapped) after ``horizon`` actions."""
        rng = np.random.default_rng(0)
        states, actions = self.reward.shape
        live = [state for state in range(states) if state not in self.ends]
        found = []
        for number in range(episodes):
            visited, taken, rewards = [live[number % len(live)]], [], []
            while len(taken) < horizon and visited[-1] not in self.ends:
                state, action = visited[-1], int(rng.integers(actions))
                taken.append(state * actions + action)
                rewards.append(float(self.reward[state, action]))
                visited.append(int(self.onward[state, action]))
            options = [[state * actions + action for action in range(actions)] for state in visited[:-1]]
            weights = [[1 / actions] * actions for _ in taken]
            found.append(EpisodeFrame(rewards, visited[-1] in self.ends, visited, taken, options, weights))
        return found


def chain(depth: int) -> World:
    """A line to a goal that pays 1: one action goes on, the other back."""
    onward = np.array([[max(0, state - 1), min(depth, state + 1)] for state in range(depth + 1)])
    reward = np.zeros((depth + 1, 2))
    reward[depth - 1, 1] = 1.0
    return World(onward, reward, frozenset({depth}))


def branching() -> World:
    """A near goal that pays little, a far one that pays much, a trap, and a cost for standing still."""
    onward = np.array([[1, 4, 0], [2, 0, 1], [3, 6, 2], [5, 2, 3], [5, 0, 4], [5, 5, 5], [6, 6, 6]])
    reward = np.array([[0, 0, -0.1], [0, 0, -0.1], [0, -0.5, -0.1], [1, 0, -0.1], [0.2, 0, -0.1], [0] * 3, [0] * 3])
    return World(onward, reward.astype(float), frozenset({5, 6}))


def features(count: int, kind: str) -> torch.Tensor:
    """One-hot, or a random projection of it to as many dimensions."""
    if kind == "one-hot":
        return torch.eye(count)
    return torch.randn(count, count, generator=torch.Generator().manual_seed(1)) / count**0.5


def learned(world: World, kind: str, steps: int, *, truncated_ends: bool = False) -> np.ndarray:
    """Q that the critic learns by bootstrapping from the best candidate, ``[S, A]``."""
    states, actions = world.reward.shape
    data = build(
        world.frames(60 * states, 6),
        features(states, kind),
        features(states * actions, kind),
        gamma=GAMMA,
        steps=1,
        truncated_ends=truncated_ends,
    )
    head = HeadShape((64,))
    shape = CriticShape(state_dim=states, action_dim=states * actions, q=head, v=head, aggregate="mean")
    settings = CriticSettings(
        steps=steps,
        batch=256,
        learning_rate=4e-3,
        weight_decay=0.0,
        tau=0.1,
        gamma=GAMMA,
        backup="best",
        dropout=0.0,
        conservative=0.0,
    )
    trainer = CriticTrainer(Critic(shape), data, settings, seed=0)
    for index in range(steps):
        trainer.step(index)
    with torch.no_grad():
        return trainer.critic.q(data.action_features).numpy().reshape(states, actions)


def error(world: World, found: np.ndarray) -> float:
    """Largest error over actions of states that are no ends, as a share of the largest Q*."""
    live = [state for state in range(len(world.reward)) if state not in world.ends]
    return float(np.abs(found - world.optimal())[live].max() / np.abs(world.optimal()).max())


@pytest.mark.parametrize("kind", ["one-hot", "projected"])
@pytest.mark.parametrize(("depth", "steps"), [(2, 600), (8, 1200), pytest.param(32, 3500, marks=pytest.mark.slow)])
def test_q_of_a_chain_is_within_2_per_cent_of_the_exact_one(depth, steps, kind):
    world = chain(depth)
    assert world.optimal()[0, 1] == pytest.approx(GAMMA ** (depth - 1))
    assert error(world, learned(world, kind, steps)) < 0.02


@pytest.mark.parametrize("kind", ["one-hot", "projected"])
def test_q_of_a_branching_world_is_within_2_per_cent_of_the_exact_one(kind):
    assert error(branching(), learned(branching(), kind, 1200)) < 0.02


def test_without_a_bootstrap_at_the_step_limit_it_is_not():
    assert error(chain(8), learned(chain(8), "one-hot", 1200, truncated_ends=True)) > 0.05
