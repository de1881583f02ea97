"""The learner as a Ray actor: it carries out one training at a time and tells how far it is while doing so.

If its process dies, Ray starts it again and repeats the call; the training goes on from its newest checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

OnStep = Callable[[int, int], None]
Training = Callable[..., dict[str, Any]]
CONTROL = "control"


class Learner:
    """Runs trainings. ``progress`` may be asked from another thread."""

    def __init__(self, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._progress = (0, 0)

    def run(self, training: Training, *arguments: Any) -> dict[str, Any]:
        """Calls ``training(*arguments, on_step)`` and returns its figures."""
        self._progress = (0, 0)
        return training(*arguments, self.note)

    def note(self, done: int, total: int) -> None:
        """Takes how far the present training is."""
        self._progress = (done, total)

    def progress(self) -> tuple[int, int]:
        """(updates done, updates in all) of the present training."""
        return self._progress

    def pid(self) -> int:
        """Process id."""
        return os.getpid()
