"""What the processes of one training read and write together: process 0 writes, and the others wait for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from digiq_ray.core.errors import StoreError
from digiq_ray.core.spread import Spread
from digiq_ray.learner.checkpoints import Checkpoints, Restored
from digiq_ray.learner.curves import Curves
from digiq_ray.learner.sharding import Gathered, Loading, whole_state

Modules = Mapping[str, nn.Module]
T = TypeVar("T")


def by_first(spread: Spread, work: Callable[[], None]) -> None:
    """Lets process 0 do ``work``; all go on when it is done."""
    if spread.rank == 0:
        work()
    spread.wait()


def found_by_first(spread: Spread, find: Callable[[], T]) -> T:
    """What ``find`` returns in this process; process 0 is first, and leaves on disk what the others then find."""
    if spread.rank == 0:
        found = find()
        spread.wait()
        return found
    spread.wait()
    return find()


def save_checkpoint(
    spread: Spread, kept: Checkpoints, step: int, modules: Modules, optimizer: torch.optim.Optimizer, curves: Curves
) -> None:
    """See ``Checkpoints.save``. What is sharded is kept whole, so that any number of processes goes on from it."""
    states = {name: Gathered(whole_state(module)) for name, module in modules.items()}
    state = Gathered(whole_state(optimizer))
    if spread.rank == 0:
        kept.save(step, states, state, curves)


def restore_checkpoint(
    spread: Spread, kept: Checkpoints, modules: Modules, optimizer: torch.optim.Optimizer
) -> Restored | None:
    """See ``Checkpoints.restore``.

    Raises:
        StoreError: the processes find different checkpoints.
    """
    restored = kept.restore({name: Loading(module) for name, module in modules.items()}, Loading(optimizer))
    step = restored.step if restored else 0
    if spread.mean({"step": float(step)})["step"] != step:
        raise StoreError(
            f"process {spread.rank} of a training finds a checkpoint of step {step} and others find another: "
            "learner.workers on several machines need one run directory that all of them see"
        )
    return restored
