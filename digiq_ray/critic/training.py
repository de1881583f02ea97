"""Offline TD training of the critic: one step reads like the paper.

Every batch is drawn from (seed, step), so training that was stopped goes on exactly where it was. A step gathers the
features of one batch of transitions and of all candidates of their states, which is what bounds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from digiq_ray.critic.dataset import CriticData
from digiq_ray.critic.heads import Critic, polyak
from digiq_ray.critic.objectives import expected_q, q_target, twin_mse


@dataclass(frozen=True, slots=True)
class CriticSettings:
    """Numbers of the critic's training."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    tau: float
    seed: int


class CriticTrainer:
    """Trains Q and V together on ``data``; ``target`` is their delayed copy, equal to them at the start."""

    def __init__(self, critic: Critic, data: CriticData, settings: CriticSettings) -> None:
        self.critic, self.target, self.data, self.settings = critic, critic.target(), data, settings
        self.steps = settings.steps
        self.optimizer = torch.optim.AdamW(
            critic.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )

    def modules(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds."""
        return {"critic": self.critic, "target": self.target}

    def step(self, index: int) -> dict[str, float]:
        """One update on one batch; returns that batch's root mean squared errors and mean values."""
        data, target = self.data, self.target
        rng = np.random.default_rng([self.settings.seed, index])
        rows = torch.from_numpy(rng.integers(len(data), size=self.settings.batch))

        with torch.no_grad():
            next_value = target.v(data.state_features[data.successor[rows]])
            y_q = q_target(data.reward[rows], data.discount[rows], next_value)
            candidates = data.candidates[rows]
            used = data.weights[rows] > 0
            values = torch.zeros(candidates.shape)
            values[used] = target.q(data.action_features[candidates[used]])
            y_v = expected_q(values, data.weights[rows])

        q = self.critic.q_heads(data.action_features[data.action[rows]])
        v = self.critic.v_heads(data.state_features[data.state[rows]])
        q_loss, v_loss = twin_mse(q, y_q), twin_mse(v, y_v)

        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * (1.0 - 0.9 * index / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        (q_loss + v_loss).backward()
        self.optimizer.step()
        polyak(self.target, self.critic, self.settings.tau)
        return {
            "td_error": float(q_loss.detach() / 2) ** 0.5,
            "v_error": float(v_loss.detach() / 2) ** 0.5,
            "q_mean": float(q.detach().mean()),
            "v_mean": float(v.detach().mean()),
        }
