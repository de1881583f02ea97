"""The one training loop: steps, checkpoints, figures, progress. What a step does is the trainer's business."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from digiq_ray.core.errors import DigiQError
from digiq_ray.learner.checkpoints import Checkpoints, Figures

OnStep = Callable[[int, int], None]


class TrainingDivergedError(DigiQError):
    """A figure of a training step is not finite."""


class Trainer(Protocol):
    """One kind of training. ``step(i)`` must depend on ``i``, the modules and the optimiser only."""

    steps: int
    optimizer: torch.optim.Optimizer

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        ...

    def step(self, index: int) -> dict[str, float]:
        """One update; returns its figures."""
        ...


def train(
    trainer: Trainer, *, name: str, checkpoints: Path, logs: Path, every: int, on_step: OnStep, points: int = 60
) -> Figures:
    """Trains to the end, going on from the newest checkpoint.

    Args:
        trainer: What to do.
        name: Tag of the metrics.
        checkpoints, logs: Directories of checkpoints and of TensorBoard events.
        every: Steps between checkpoints.
        on_step: Called with (steps done, steps in all).
        points: How many points a curve has at most; each is the mean over the steps since the one before.

    Returns:
        Curves: ``{figure: [[step, value], ...]}``.

    Raises:
        TrainingDivergedError: a figure is not finite.
    """
    kept = Checkpoints(checkpoints)
    restored = kept.restore(trainer.modules(), trainer.optimizer)
    start, figures = (restored.step, restored.figures) if restored else (0, {})
    stride = max(1, trainer.steps // points)
    sums: dict[str, float] = {}
    with SummaryWriter(str(logs)) as writer:  # type: ignore[no-untyped-call]
        for index in range(start, trainer.steps):
            for figure, value in trainer.step(index).items():
                if value != value or value in (float("inf"), float("-inf")):
                    raise TrainingDivergedError(
                        f"{name}: {figure} became {value} at step {index}; lower the learning rate, or look at the data"
                    )
                sums[figure] = sums.get(figure, 0.0) + value / stride
            done = index + 1
            if done % stride == 0:
                for figure, value in sums.items():
                    figures.setdefault(figure, []).append([done, value])
                    writer.add_scalar(f"{name}/{figure}", value, done)  # type: ignore[no-untyped-call]
                sums = {}
            if done % (every - every % stride or stride) == 0 and done < trainer.steps:
                kept.save(done, trainer.modules(), trainer.optimizer, figures)
            on_step(done, trainer.steps)
    return figures
