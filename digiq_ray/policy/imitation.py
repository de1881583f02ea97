"""Imitation: maximise the log-probability of chosen actions. Best-of-N and its controls differ only in the items.

The loss is the mean over the batch of ``-weight * log p(action)``, summed over the action's tokens, without the
original's clamp on probabilities, which takes the gradient away from just the tokens that need it. The loss ends only
where a weight is negative and the action is improbable already: without that end it has no least value.

Items of one state come in one batch, and their screen and prompt are computed once (``vlm.packing``).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from digiq_ray.core.errors import InputError
from digiq_ray.core.schedules import schedule
from digiq_ray.core.settings import Schedule, TuningSettings
from digiq_ray.core.spread import ALONE, Spread
from digiq_ray.vlm.finetune import batches
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.packing import action_logprobs
from digiq_ray.vlm.tuning import Tuner

_UNLIKELY = math.log(1e-3)  # an action of negative weight that is less probable than this is pushed no further


@dataclass(frozen=True, slots=True)
class Item:
    """One state with the action to imitate and its weight; a negative one makes the action less likely.

    Items are of one state if they have the same prefix and the same prepared screen (the same object).
    """

    screen: dict[str, torch.Tensor]
    prefix: Sequence[int]
    action: str
    weight: float = 1.0

    @property
    def state(self) -> Hashable:
        """The same for items of one state."""
        return id(self.screen), tuple(self.prefix)


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
    tuning: TuningSettings = field(default_factory=TuningSettings)


class ImitationTrainer:
    """Trains ``vlm`` on ``items``; which ones a step takes depends on the seed and its index only.

    Args:
        vlm: What is trained.
        items: What to imitate.
        settings: See there.
        spread: Over which processes; the parameters of the model may be others from here on.

    Raises:
        InputError: there is no item, or a batch has fewer than there are processes.
    """

    def __init__(self, vlm: Vlm, items: Sequence[Item], settings: ImitationSettings, spread: Spread = ALONE) -> None:
        if not items:
            raise InputError("there is nothing to imitate: give at least one item")
        self.vlm, self.items, self.settings, self.steps = vlm, items, settings, settings.steps
        self._spread = spread
        self._tuner = Tuner(
            vlm,
            settings.tuning,
            rate=schedule(settings.schedule, settings.learning_rate, settings.steps, settings.warmup),
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            seed=settings.seed,
            spread=spread,
        )
        self.optimizer = self._tuner.optimizer
        size = min(settings.batch, len(items))
        spread.require(size, "items")
        states = [item.state for item in items]
        self._order = dict(batches(len(items), size, settings.steps, settings.seed, together=states))

    def modules(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds."""
        return {"policy": self._tuner.module()}

    def step(self, index: int) -> dict[str, float]:
        """One update; returns the loss of the batch."""
        batch = self._order[index]
        items = [self.items[i] for i in batch[self._spread.stretch(len(batch))]]
        weight = self._spread.weight(len(items), len(batch))
        loss = weight * self._tuner.run(imitation_loss, self.vlm, items, packing=self.settings.tuning.packing)
        self._tuner.update(index, loss)
        return self._spread.mean({"loss": float(loss.detach())})

    def finish(self) -> None:
        """Ends the training: the model is one like any other again."""
        self._tuner.finish()


def imitation_loss(vlm: Vlm, items: Sequence[Item], *, packing: bool = True) -> torch.Tensor:
    """``weighted_loss`` of items; those of one state share a row if ``packing``."""
    rows: dict[Hashable, list[Item]] = {}
    for item in items:
        rows.setdefault(item.state, []).append(item)
    logprobs = action_logprobs(
        vlm,
        [row[0].screen for row in rows.values()],
        [row[0].prefix for row in rows.values()],
        [[item.action for item in row] for row in rows.values()],
        packing=packing,
    )
    weights = torch.tensor([item.weight for row in rows.values() for item in row], device=logprobs.device)
    return weighted_loss(logprobs, weights)


def weighted_loss(logprobs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of ``-weight * log p``; where the weight is negative, ``log p`` counts as at least that of 1 in 1,000.

    Args:
        logprobs: log p of whole actions, ``[n]``.
        weights: ``[n]``.
    """
    bounded = torch.where(weights < 0, logprobs.clamp_min(_UNLIKELY), logprobs)
    return -(weights * bounded).mean()
