"""Early stopping whose state is part of a checkpoint, so that a training that was killed stops at the same update."""

from __future__ import annotations

import torch
from torch import nn


class EarlyStop(nn.Module):
    """Stops a training whose measure has not risen for ``patience`` evaluations. Its state is one buffer.

    Args:
        steps: Updates of the training.
        every: Updates between evaluations.
        patience: Evaluations without a new best after which it stops.
    """

    measures: torch.Tensor

    def __init__(self, steps: int, every: int, patience: int) -> None:
        super().__init__()
        self._every, self._patience = every, patience
        # nan: not evaluated yet. In double precision, so that a measure comes back from a checkpoint as it was.
        self.register_buffer("measures", torch.full((steps // every + 1,), torch.nan, dtype=torch.float64))

    def is_due(self, done: int) -> bool:
        """Whether to evaluate after ``done`` updates."""
        return done % self._every == 0

    def note(self, measure: float) -> None:
        """Takes the next evaluation; larger is better."""
        self.measures[len(self._taken())] = measure

    @property
    def stopped(self) -> bool:
        """Whether the best evaluation lies ``patience`` evaluations back; the first of equal ones counts."""
        taken = self._taken()
        return len(taken) > self._patience and len(taken) - 1 - taken.index(max(taken)) >= self._patience

    def curve(self) -> list[list[float]]:
        """The evaluations so far, ``[[updates, measure], ...]``."""
        return [[self._every * (number + 1), measure] for number, measure in enumerate(self._taken())]

    def _taken(self) -> list[float]:
        return [value for value in self.measures.tolist() if value == value]
