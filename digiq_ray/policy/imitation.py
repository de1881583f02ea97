"""Imitation: maximise the log-probability of chosen actions. Best-of-N and its controls differ only in the items.

The loss is the mean over the batch of ``-weight * log p(action)``, summed over the action's tokens, without the
original's clamp on probabilities, which takes the gradient away from just the tokens that need it. The loss ends only
where a weight is negative and the action is improbable already: without that end it has no least value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from digiq_ray.core.errors import InputError
from digiq_ray.core.schedules import schedule
from digiq_ray.core.settings import Schedule
from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.finetune import batches
from digiq_ray.vlm.model import Vlm

_UNLIKELY = math.log(1e-3)  # an action of negative weight that is less probable than this is pushed no further


@dataclass(frozen=True, slots=True)
class Item:
    """One state with the action to imitate and its weight; a negative one makes the action less likely."""

    screen: dict[str, torch.Tensor]
    prefix: Sequence[int]
    action: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ImitationSettings:
    """Numbers of a policy's training."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    clip: float
    seed: int
    schedule: Schedule = "linear"
    warmup: int = 10


class ImitationTrainer:
    """Trains ``vlm`` on ``items``; which ones a step takes depends on the seed and its index only.

    Raises:
        InputError: there is no item.
    """

    def __init__(self, vlm: Vlm, items: Sequence[Item], settings: ImitationSettings) -> None:
        if not items:
            raise InputError("there is nothing to imitate: give at least one item")
        self.vlm, self.items, self.settings, self.steps = vlm, items, settings, settings.steps
        self.vlm.model.train()
        self.optimizer = torch.optim.AdamW(
            vlm.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        size = min(settings.batch, len(items))
        self._order = dict(batches(len(items), size, settings.steps, settings.seed))
        self._rate = schedule(settings.schedule, settings.learning_rate, settings.steps, settings.warmup)

    def modules(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds."""
        return {"policy": self.vlm.model}

    def step(self, index: int) -> dict[str, float]:
        """One update; returns the loss of the batch."""
        batch = [self.items[i] for i in self._order[index]]
        prompts = [[*item.prefix, *self.vlm.act_ids()] for item in batch]
        answers = [self.vlm.answer_ids(item.action) for item in batch]
        logprobs, _ = answer_logprobs(self.vlm, [item.screen for item in batch], prompts, answers)
        weights = torch.tensor([item.weight for item in batch], device=logprobs.device)
        loss = weighted_loss(logprobs.sum(1), weights)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vlm.model.parameters(), self.settings.clip)
        self.optimizer.step()
        return {"loss": float(loss.detach())}


def weighted_loss(logprobs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of ``-weight * log p``; where the weight is negative, ``log p`` counts as at least that of 1 in 1,000.

    Args:
        logprobs: log p of whole actions, ``[n]``.
        weights: ``[n]``.
    """
    bounded = torch.where(weights < 0, logprobs.clamp_min(_UNLIKELY), logprobs)
    return -(weights * bounded).mean()
