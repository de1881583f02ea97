"""Learning rates over the updates of a training."""

from __future__ import annotations

import math
from collections.abc import Callable

from digiq_ray.core.settings import Schedule

_LAST = 0.1  # share of the peak at the end

LearningRate = Callable[[int], float]


def schedule(kind: Schedule, peak: float, steps: int, warmup: int) -> LearningRate:
    """The rate of update ``i``, counted from 0.

    Args:
        kind: ``constant``, or ``linear`` or ``cosine`` from the peak to a tenth of it.
        peak: Highest rate.
        steps: Updates in all.
        warmup: Over how many of the first it rises from 0, linearly.
    """

    def rate(index: int) -> float:
        rise = min(1.0, (index + 1) / warmup) if warmup else 1.0
        done = index / steps
        fall = {"constant": 0.0, "linear": done, "cosine": (1.0 - math.cos(math.pi * done)) / 2.0}[kind]
        return peak * rise * (1.0 - (1.0 - _LAST) * fall)

    return rate
