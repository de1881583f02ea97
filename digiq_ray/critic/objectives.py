"""The objectives of Digi-Q (arXiv 2502.15760, section 4.1) as pure functions of tensors.

``J_Q = (Q(f(s, a)) - r - gamma (1 - terminal) V_target(f(s')))^2``
``J_V = (V(f(s)) - E_{a' ~ candidates} Q_target(f(s, a')))^2``

A truncated step is no end of the task: it bootstraps. With ``n`` steps the reward is the discounted sum of up to ``n``
rewards and the bootstrap comes from the state after them; ``n = 1`` is the paper's. How an error is measured is in
``losses``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


def q_target(reward: torch.Tensor, discount: torch.Tensor, next_value: torch.Tensor) -> torch.Tensor:
    """``r + discount * V(s')``, all ``[n]``; ``discount`` is ``gamma^n``, or 0 where the episode is terminal.

    ``next_value`` may also be ``[heads, n]``, and then the target is.
    """
    return reward + discount * next_value


def expected_q(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Expectation over candidates: ``[.., n, K]`` values with ``[n, K]`` weights that sum to 1 in each row."""
    return (values * weights).sum(-1)


def best_q(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The highest among candidates of positive weight: Q-learning within what the behaviour policy does."""
    return values.masked_fill(weights <= 0, -torch.inf).amax(-1)


def conservatism(
    values: torch.Tensor, present: torch.Tensor, executed: torch.Tensor, temperature: float
) -> torch.Tensor:
    """How far the candidates' Q lies above that of the executed actions (CQL, arXiv 2006.04779, equation 4).

    Made small, Q of actions that were sampled but never tried cannot stand out by chance.

    Args:
        values: Q of the candidates, ``[heads, n, K]``.
        present: Which of them are candidates and not padding, ``[n, K]``.
        executed: Q of the executed actions, ``[heads, n]``.
        temperature: Of the soft maximum over candidates, in units of Q.

    Returns:
        Sum over the heads of the mean over states.
    """
    logits = (values / temperature).masked_fill(~present, -torch.inf)
    return (temperature * torch.logsumexp(logits, -1) - executed).mean(1).sum()


@dataclass(frozen=True, slots=True)
class NStep:
    """For each step of one episode: discounted reward of the next steps, discount and index of the bootstrap state."""

    reward: list[float]
    discount: list[float]
    successor: list[int]


def n_step(rewards: Sequence[float], *, terminal: bool, gamma: float, steps: int) -> NStep:
    """n-step targets of an episode of ``T = len(rewards)`` actions; states are numbered 0 to ``T``.

    Args:
        rewards: ``r_0 .. r_{T-1}``.
        terminal: Whether state ``T`` ends the task (else the episode was truncated and ``T`` bootstraps).
        gamma: Discount.
        steps: ``n``; 0 means up to the end of the episode (Monte Carlo, with a bootstrap where truncated).

    Raises:
        ValueError: ``steps`` is negative.
    """
    if steps < 0:
        raise ValueError(f"steps={steps}: a target spans 1 step or more, or all that are left (0)")
    length = len(rewards)
    out = NStep([], [], [])
    for t in range(length):
        end = length if steps == 0 else min(t + steps, length)
        out.reward.append(sum(gamma ** (k - t) * rewards[k] for k in range(t, end)))
        out.discount.append(0.0 if end == length and terminal else gamma ** (end - t))
        out.successor.append(end)
    return out
