"""How many cores a training may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MOST = 4
"""More threads than this slow small models down."""


@contextmanager
def share_of_cores(trainings: int) -> Iterator[None]:
    """Gives one of ``trainings`` that may run at once its share of this machine's cores, as torch's threads.

    The share depends on their number and not on how many really run beside each other: with another number of threads
    the same training rounds differently.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(MOST, len(os.sched_getaffinity(0)) // trainings)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
