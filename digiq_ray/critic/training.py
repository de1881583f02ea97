"""Offline training of the critic: one step reads like the paper.

Every batch is drawn from (seed, step), so training that was stopped goes on exactly where it was. A step gathers the
features of one batch of transitions and of all candidates of their states, which is what bounds it. Of several
processes each takes its rows of the batch, and of the dropout masks, which all draw for the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from digiq_ray.core.schedules import schedule
from digiq_ray.core.settings import CriticSettings
from digiq_ray.core.spread import ALONE, Spread
from digiq_ray.critic.dataset import CriticData
from digiq_ray.critic.features import Features
from digiq_ray.critic.heads import Critic, Heads, aggregated, polyak
from digiq_ray.critic.objectives import best_q, conservatism, expected_q, q_target

_BLOCK_ROWS = 512  # of features of 4,096 numbers, so many and what is made of them fit into a processor's cache
_SQUARED = ("td_error", "v_error", "target_change")


class CriticTrainer:
    """Trains Q and V together on ``data``; ``target`` is their delayed copy.

    Args:
        critic: What is trained; it must be built for ``settings.loss``.
        data: Transitions and their candidates.
        settings: See ``core.settings.CriticSettings``.
        seed: Decides the batches.
        spread: Over which processes; it may move the critic to another device.

    Raises:
        InputError: a batch has fewer transitions than there are processes.
    """

    def __init__(
        self, critic: Critic, data: CriticData, settings: CriticSettings, *, seed: int, spread: Spread = ALONE
    ) -> None:
        spread.require(settings.batch, "transitions")
        self.critic, self.data, self.settings, self._seed = critic.train(), data, settings, seed
        self._spread, self._run = spread, spread.replicated(critic)
        self._device = next(critic.parameters()).device
        self.target = critic.target(seed=None if settings.hard_copy else seed + 1).to(self._device)
        self.steps = settings.steps
        self.optimizer = torch.optim.AdamW(  # fused: one pass over the weights, where the default makes ten
            critic.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._rate = schedule(settings.schedule, settings.learning_rate, settings.steps, settings.warmup)

    def modules(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds."""
        return {"critic": self.critic, "target": self.target}

    def step(self, index: int) -> dict[str, float]:
        """One update on one batch; returns that batch's root mean squared errors and mean values.

        ``target_change`` is how far the update moved the batch's targets of Q, root mean squared (0 without bootstrap).
        """
        rng = np.random.default_rng([self._seed, index])
        rows = torch.from_numpy(rng.integers(len(self.data), size=self.settings.batch))
        own = rows[self._spread.every]
        weight = self._spread.weight(len(own), len(rows))
        y_q, y_v = self._targets(own)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            q_out, v_out, conservative = self._run(self._outputs, rows)
        q_heads, v_heads = self.critic.q_heads, self.critic.v_heads
        q_out, v_out = q_out.float(), v_out.float()
        loss = weight * (q_heads.readout.error(q_out, y_q) + v_heads.readout.error(v_out, y_v))
        loss = loss + self.settings.conservative * conservative
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self.settings.clip)
        self.optimizer.step()
        polyak(self.target, self.critic, self.settings.tau)
        moved = self._q_targets(own) - y_q
        with torch.no_grad():
            q, v = q_heads.readout.values(q_out), v_heads.readout.values(v_out)
            means = {
                "td_error": weight * float((q - y_q).square().mean()),
                "v_error": weight * float((v - y_v).square().mean()),
                "q_mean": weight * float(q.mean()),
                "v_mean": weight * float(v.mean()),
                "conservatism": float(conservative),
                "target_change": weight * float(moved.square().mean()),
            }
        means = self._spread.mean(means)
        return {name: mean**0.5 if name in _SQUARED else mean for name, mean in means.items()}

    @torch.no_grad()
    def _targets(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets of Q and V, ``[n]``, or ``[heads, n]`` where each head follows its own target head."""
        data, target, y_q = self.data, self.target, self._q_targets(rows)
        if self.settings.objective == "mc":
            return y_q, y_q
        if self.settings.backup == "executed":
            return y_q, self._one(target.q_heads, self._at(data.action_features, data.action[rows]))
        weights = self._at(data.weights, rows)
        values = self._padded(rows, data.weights[rows] > 0, self._target_q)
        return y_q, (best_q if self.settings.backup == "best" else expected_q)(values, weights)

    @torch.no_grad()
    def _q_targets(self, rows: torch.Tensor) -> torch.Tensor:
        data = self.data
        if self.settings.objective == "mc":
            returns = self._at(data.returns, rows)
            return (returns > 0).float() if self.settings.loss == "logistic" else returns
        next_value = self._one(self.target.v_heads, self._at(data.state_features, data.successor[rows]))
        return q_target(self._at(data.reward, rows), self._at(data.discount, rows), next_value)

    def _outputs(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs of all heads for the executed actions and the states, and how far candidates stand out.

        Of a whole batch, they are those of this process's part; the last is a mean that is weighted already.
        """
        data, q_heads, v_heads, every = self.data, self.critic.q_heads, self.critic.v_heads, self._spread.every
        own, places = rows[every], torch.arange(len(rows))
        q_out = q_heads(self._at(data.action_features, data.action[own]), self._mask(q_heads, places))
        v_out = v_heads(self._at(data.state_features, data.state[own]), self._mask(v_heads, places))
        some = rows[: math.ceil(self.settings.conservative_share * len(rows))]
        looked_at = some[every]
        if not self.settings.conservative or not len(looked_at):
            return q_out, v_out, torch.zeros((), device=self._device)
        present = data.candidates[some] >= 0
        mask = self._mask(q_heads, present.nonzero()[:, 0])
        present = present[every]
        values = self._padded(
            looked_at, present, lambda found: q_heads.values(self._at(data.action_features, found), mask)
        )
        executed = q_heads.readout.values(q_out[:, : len(looked_at)])
        present, temperature = present.to(self._device), self.settings.conservative_temperature
        weight = self._spread.weight(len(looked_at), len(some))
        return q_out, v_out, weight * conservatism(values, present, executed, temperature)

    def _mask(self, heads: Heads, places: torch.Tensor) -> torch.Tensor | None:
        """What dropout leaves of this process's rows: drawn for the rows of all, as one process would.

        Args:
            heads: Whose inputs.
            places: For each row of all, the place in the batch of what it belongs to.
        """
        if self._spread.size == 1:
            return None
        return heads.mask(len(places))[places % self._spread.size == self._spread.rank]

    def _at(self, table: Features, rows: torch.Tensor) -> torch.Tensor:
        """Rows of a table, where the critic is."""
        return table[rows].to(self._device)

    def _one(self, heads: Heads, features: torch.Tensor) -> torch.Tensor:
        values = heads.values(features)
        return values if self.settings.targets == "own" else aggregated(values, self.critic.shape.aggregate)

    def _target_q(self, actions: torch.Tensor) -> torch.Tensor:
        """Target Q of rows of the action features, in blocks: their features at once would be most of the memory."""
        heads, features = self.target.q_heads, self.data.action_features
        return torch.cat([self._one(heads, self._at(features, block)) for block in actions.split(_BLOCK_ROWS)], -1)

    def _padded(
        self, rows: torch.Tensor, present: torch.Tensor, values_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Values of the candidates of ``rows``, ``[.., n, K]``, 0 where ``present`` says that there is none."""
        values = values_of(self.data.candidates[rows][present])
        padded = values.new_zeros((*values.shape[:-1], *present.shape))
        padded[..., present] = values
        return padded
