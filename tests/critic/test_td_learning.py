"""Does the critic learn Q of the policy? On small decision processes whose Q is the solution of linear equations.

The same acceptance is put to deliberately broken learning, which must fail it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic import dataset, objectives, training
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape
from digiq_ray.critic.training import CriticTrainer

GAMMA = 0.8
STEPS = 500


@dataclass(frozen=True)
class Process:
    """A deterministic decision process: ``next_state`` and ``reward`` are ``[S, A]``, ``policy`` ``[S, A]`` sums to 1.

    States in ``ends`` are terminal. ``policy`` is what the candidates are samples of; data comes from another policy,
    uniform over actions, so that the value of the executed actions is not the value of the policy.
    """

    next_state: np.ndarray
    reward: np.ndarray
    policy: np.ndarray
    ends: frozenset[int]

    def exact(self) -> np.ndarray:
        """Q of ``policy``, ``[S, A]``: the solution of ``Q = r + gamma P pi Q`` with value 0 in terminal states."""
        states, actions = self.reward.shape
        size = states * actions
        onward = np.zeros((size, size))
        for s in range(states):
            for a in range(actions):
                if (after := self.next_state[s, a]) not in self.ends:
                    onward[s * actions + a, after * actions : (after + 1) * actions] = self.policy[after]
        return np.linalg.solve(np.eye(size) - GAMMA * onward, self.reward.ravel()).reshape(states, actions)

    def frames(self, episodes: int, horizon: int) -> list[dataset.EpisodeFrame]:
        """Episodes of uniformly random actions, cut off after ``horizon`` actions."""
        rng = np.random.default_rng(0)
        states, actions = self.reward.shape
        live = [s for s in range(states) if s not in self.ends]
        found = []
        for number in range(episodes):
            visited, taken, rewards = [live[number % len(live)]], [], []
            while len(taken) < horizon and visited[-1] not in self.ends:
                s, a = visited[-1], int(rng.integers(actions))
                taken.append(s * actions + a)
                rewards.append(float(self.reward[s, a]))
                visited.append(int(self.next_state[s, a]))
            options = [[s * actions + a for a in range(actions)] for s in visited[:-1]]
            weights = [self.policy[s].tolist() for s in visited[:-1]]
            found.append(dataset.EpisodeFrame(rewards, visited[-1] in self.ends, visited, taken, options, weights))
        return found


def chain() -> Process:
    """Six states in a line, a goal at the end; one action goes on, the other back. The policy mostly goes on."""
    last = 6
    onward = np.array([[max(0, s - 1), min(last, s + 1)] for s in range(last + 1)])
    reward = np.zeros((last + 1, 2))
    reward[last - 1, 1] = 1.0
    policy = np.tile([0.2, 0.8], (last + 1, 1))
    return Process(onward, reward, policy, frozenset({last}))


def branching() -> Process:
    """Three actions: a good and a bad end, detours, a cost for waiting. The policy differs from state to state."""
    onward = np.array([[1, 2, 0], [3, 0, 1], [4, 1, 2], [5, 6, 2], [2, 6, 4], [5, 5, 5], [6, 6, 6]])
    reward = np.array([[0, 0, -0.1], [0, 0, -0.1], [0, 0.1, -0.1], [1, -0.5, 0], [0, -0.5, -0.1], [0] * 3, [0] * 3])
    policy = np.array([[6, 1, 1], [5, 1, 2], [1, 6, 1], [7, 1, 0], [2, 4, 2], [1, 1, 1], [1, 1, 1]], dtype=float)
    return Process(onward, reward, policy / policy.sum(1, keepdims=True), frozenset({5, 6}))


def learned(process: Process) -> np.ndarray:
    """Q that the critic learns from data of the process, ``[S, A]``."""
    states, actions = process.reward.shape
    data = dataset.build(process.frames(200, 5), torch.eye(states), torch.eye(states * actions), gamma=GAMMA, steps=1)
    head = HeadShape((48,))
    critic = Critic(CriticShape(state_dim=states, action_dim=states * actions, q=head, v=head, aggregate="mean"))
    settings = CriticSettings(
        steps=STEPS, batch=96, learning_rate=4e-3, weight_decay=0.0, tau=0.05, n_step=1, dropout=0.0, conservative=0.0
    )
    trainer = CriticTrainer(critic, data, settings, seed=0)
    for index in range(settings.steps):
        trainer.step(index)
    with torch.no_grad():
        return critic.q(data.action_features).numpy().reshape(states, actions)


def is_accepted(process: Process) -> bool:
    """Whether learned Q is within 3 % of the largest exact Q, for every action of every state that is not an end."""
    live = [s for s in range(len(process.reward)) if s not in process.ends]
    exact = process.exact()[live]
    return bool(np.abs(learned(process)[live] - exact).max() <= 0.03 * np.abs(exact).max())


@pytest.mark.parametrize("process", [chain, branching])
def test_the_critic_learns_q_of_the_policy(process):
    assert is_accepted(process())


def test_exact_q_of_the_chain_without_going_back_is_a_power_of_gamma():
    forward = replace(chain(), policy=np.tile([0.0, 1.0], (7, 1)))
    assert forward.exact()[:6, 1] == pytest.approx([GAMMA ** (5 - s) for s in range(6)])


Break = Callable[[pytest.MonkeyPatch], None]


def no_bootstrap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "q_target", lambda reward, discount, next_value: reward)


def no_discount(patch: pytest.MonkeyPatch) -> None:
    def undiscounted(rewards, *, terminal, gamma, steps):
        return objectives.n_step(rewards, terminal=terminal, gamma=1.0, steps=steps)

    patch.setattr(dataset, "n_step", undiscounted)


def targets_never_move(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "polyak", lambda target, source, tau: None)


def always_ending_as(terminal: bool, patch: pytest.MonkeyPatch) -> None:
    def ending(rewards, *, terminal, gamma, steps, always=terminal):
        return objectives.n_step(rewards, terminal=always, gamma=gamma, steps=steps)

    patch.setattr(dataset, "n_step", ending)


def only_the_executed_action(patch: pytest.MonkeyPatch) -> None:
    build = dataset.build

    def narrowed(frames, *features, **options):
        narrow = [
            replace(one, candidates=[[action] for action in one.actions], weights=[[1.0]] * len(one.actions))
            for one in frames
        ]
        return build(narrow, *features, **options)

    patch.setattr(dataset, "build", narrowed)


def multiplicities_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "expected_q", lambda values, weights: values.mean(-1))


def best_candidate_instead_of_expectation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "expected_q", lambda values, weights: values.amax(-1))


def v_is_not_trained(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "expected_q", lambda values, weights: torch.zeros(len(values)))


BROKEN: dict[str, Break] = {
    "no bootstrap": no_bootstrap,
    "gamma ignored": no_discount,
    "targets never move": targets_never_move,
    "terminal steps bootstrap": functools.partial(always_ending_as, False),
    "truncated steps do not bootstrap": functools.partial(always_ending_as, True),
    "V of the executed action only": only_the_executed_action,
    "multiplicities ignored": multiplicities_ignored,
    "best candidate instead of the expectation": best_candidate_instead_of_expectation,
    "V towards zero": v_is_not_trained,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_learning_is_not_accepted(name, monkeypatch):
    BROKEN[name](monkeypatch)
    assert not is_accepted(branching())
