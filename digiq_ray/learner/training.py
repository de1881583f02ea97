"""The one training loop: steps, checkpoints, curves, progress. What a step does is the trainer's business.

A training that is killed between any two steps and started again ends with the same weights, the same optimiser state
and the same curves as one that was not: the batch and the random numbers of a step depend on its index only, and what a
curve sums up is part of a checkpoint. Steps go on while a checkpoint is written; the next one waits for it, so at most
twice ``every`` steps are done again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from digiq_ray.core.errors import DigiQError
from digiq_ray.core.rng import seed_of
from digiq_ray.core.spread import ALONE, Spread
from digiq_ray.learner.checkpoints import Checkpoints
from digiq_ray.learner.curves import Curves, Figures
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.learner.shared import restore_checkpoint, save_checkpoint
from digiq_ray.store.directory import StorePath

OnStep = Callable[[int, int], None]


class TrainingDivergedError(DigiQError):
    """A figure of a training step is not finite."""


class Trainer(Protocol):
    """One kind of training. ``step(i)`` must depend on ``i``, the modules and the optimiser only."""

    steps: int

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its state is part of a checkpoint."""
        ...

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        ...

    def step(self, index: int) -> dict[str, float]:
        """One update; returns its figures, the same names in each step."""
        ...


def train(
    trainer: Trainer,
    *,
    name: str,
    checkpoints: StorePath,
    logs: Path,
    every: int,
    on_step: OnStep,
    fingerprints: Fingerprints | None = None,
    deadline: float = 600.0,
    points: int = 60,
    stopped: Callable[[], bool] = lambda: False,
    spread: Spread = ALONE,
) -> Figures:
    """Trains to the end, going on from the newest checkpoint.

    Args:
        trainer: What to do.
        name: Tag of the metrics.
        checkpoints: Where checkpoints lie: a directory, or ``s3://BUCKET/PREFIX``.
        logs: Directory of TensorBoard events (one run in it for each ``name``).
        every: Steps between checkpoints.
        on_step: Called with (steps done, steps in all).
        fingerprints: What the training is of; a checkpoint of another one is refused.
        deadline: Seconds that the writing of a checkpoint may take longer than the steps to the next one.
        points: How many points a curve has at most; each is the mean over the steps since the one before.
        stopped: Asked after each step whether to end before the last; must depend on what a checkpoint holds only.
        spread: Over which processes; the first of them writes.

    Returns:
        Curves: ``{figure: [[step, value], ...]}``, up to the last step.

    Raises:
        TrainingDivergedError: a figure is not finite.
        DiskFullError: no space is left for a checkpoint; the one before is whole.
        DeadlineExceededError: a checkpoint was not written in time.
        CheckpointMismatchError: the newest checkpoint is of other data, features or settings.
        StoreError: it is broken, or its place cannot be read or written.
    """
    with ExitStack() as ends:
        kept = ends.enter_context(Checkpoints(checkpoints, fingerprints, deadline=deadline))
        restored = restore_checkpoint(spread, kept, trainer.modules(), trainer.optimizer)
        start, curves = (restored.step, restored.curves) if restored else (0, Curves.of(trainer.steps, points))
        purge = start + 1 if restored else None  # a training that died may have written points past its checkpoint
        ends.enter_context(torch.random.fork_rng(devices=[]))
        first = spread.rank == 0
        writer = ends.enter_context(SummaryWriter(str(logs / name), purge_step=purge)) if first else None
        for index in range(start, trainer.steps):
            torch.manual_seed(seed_of(name, index))  # for dropout, where a model has it
            figures = trainer.step(index)
            _check_finite(name, index, figures)
            done = index + 1
            ended = done == trainer.steps or stopped()
            for figure, value in curves.add(done, figures, last=ended).items():
                if writer is not None:
                    writer.add_scalar(f"{name}/{figure}", value, done)
            kept.check()
            if done % every == 0 and not ended:
                save_checkpoint(spread, kept, done, trainer.modules(), trainer.optimizer, curves)
            on_step(done, trainer.steps)
            if ended:
                break
    return curves.points


def _check_finite(name: str, index: int, figures: dict[str, float]) -> None:
    for figure, value in figures.items():
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"{name}: {figure} became {value} at step {index}; lower the learning rate, or look at the data"
            )
