"""What the critic trains on: features of states and candidates, and which belong together.

States are all ``T + 1`` observations of all episodes, since a truncated episode bootstraps from its last one.
Transitions are the ``T`` actions. Candidates of a state are rows of one table, padded to ``K`` columns with row -1
of weight 0. The features themselves are referred to, not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from digiq_ray.core.errors import StoreError
from digiq_ray.critic.features import Features
from digiq_ray.critic.objectives import n_step


@dataclass(frozen=True, slots=True)
class EpisodeFrame:
    """What the critic needs of an episode: rewards ``[T]``, whether its end is terminal, and where its rows are.

    Attributes:
        rewards: One for each action.
        terminal: Whether the last state ends the task.
        states: Row of each of the ``T + 1`` states in the state features.
        actions: Row of each executed action in the action features.
        candidates: For each of the ``T`` states, rows of its candidates in the action features.
        weights: Their probabilities under the behaviour policy (each list sums to 1).
    """

    rewards: Sequence[float]
    terminal: bool
    states: Sequence[int]
    actions: Sequence[int]
    candidates: Sequence[Sequence[int]]
    weights: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """Tensors of ``n`` transitions with ``K`` candidates at most, in memory or mapped from files.

    Attributes:
        state, action: Rows of each transition's state and executed action in the features, ``[n]``.
        reward, discount, successor: Its n-step reward, and the discount and row of its bootstrap state, ``[n]``.
        returns: The discounted sum of all rewards from it on, ``[n]``.
        candidates, weights: Rows and probabilities of its state's candidates, ``[n, K]``; padding is -1 and 0.
    """

    state: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    successor: torch.Tensor
    returns: torch.Tensor
    candidates: torch.Tensor
    weights: torch.Tensor

    def __len__(self) -> int:
        return len(self.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticData(Transitions):
    """A training set: transitions, and the features that their rows refer to.

    Attributes:
        state_features: f(s), of ``S`` states.
        action_features: f(s, a), of ``A`` states with actions.
    """

    state_features: Features
    action_features: Features


def flatten(frames: Sequence[EpisodeFrame], *, gamma: float, steps: int, truncated_ends: bool = False) -> Transitions:
    """Flattens episodes into transitions with ``steps``-step targets, one episode after the other.

    Args:
        frames: The episodes.
        gamma: Discount.
        steps: See ``n_step``.
        truncated_ends: Whether the last state of a truncated episode is worth nothing, as in the released code.

    Raises:
        StoreError: there is no transition, a state has no candidates, or a reward is not finite.
    """
    if not any(len(frame.rewards) for frame in frames):
        raise StoreError("there is no transition to train a critic on: collect episodes first")
    state: list[int] = []
    action: list[int] = []
    reward: list[float] = []
    discount: list[float] = []
    successor: list[int] = []
    returns: list[float] = []
    rows: list[Sequence[int]] = []
    weights: list[Sequence[float]] = []
    for frame in frames:
        targets = n_step(frame.rewards, terminal=frame.terminal or truncated_ends, gamma=gamma, steps=steps)
        returns += n_step(frame.rewards, terminal=True, gamma=gamma, steps=0).reward
        reward += targets.reward
        discount += targets.discount
        successor += [frame.states[index] for index in targets.successor]
        state += frame.states[:-1]
        action += frame.actions
        rows += frame.candidates
        weights += frame.weights
    rewards = torch.tensor(reward, dtype=torch.float32)
    if not bool(torch.isfinite(rewards).all()):
        raise StoreError("a reward is not a finite number: the judge that gave it is broken; collect again")
    if not all(rows):
        raise StoreError("a state has no candidates: run digiq candidates")
    width = max(len(row) for row in rows)
    padded = torch.full((len(rows), width), -1)
    shares = torch.zeros((len(rows), width))
    for index, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        shares[index, : len(row)] = torch.tensor(weight)
    return Transitions(
        state=torch.tensor(state),
        action=torch.tensor(action),
        reward=rewards,
        discount=torch.tensor(discount, dtype=torch.float32),
        successor=torch.tensor(successor),
        returns=torch.tensor(returns, dtype=torch.float32),
        candidates=padded,
        weights=shares,
    )


def with_features(transitions: Transitions, state_features: Features, action_features: Features) -> CriticData:
    """Transitions with the features that their rows refer to."""
    columns = {field.name: getattr(transitions, field.name) for field in fields(Transitions)}
    return CriticData(**columns, state_features=state_features, action_features=action_features)


def build(
    frames: Sequence[EpisodeFrame],
    state_features: torch.Tensor,
    action_features: torch.Tensor,
    *,
    gamma: float,
    steps: int,
    truncated_ends: bool = False,
) -> CriticData:
    """A training set in memory; see ``flatten``. Features ``[S, state_dim]`` and ``[A, action_dim]`` are not copied.

    Raises:
        StoreError: as ``flatten``, or a feature is not finite.
    """
    for name, features in (("state", state_features), ("action", action_features)):
        if features.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(features))).all()):
            raise StoreError(f"{name} features hold values that are not finite: embed them again")
    transitions = flatten(frames, gamma=gamma, steps=steps, truncated_ends=truncated_ends)
    return with_features(transitions, state_features, action_features)
