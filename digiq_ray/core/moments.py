"""Mean and variance of data that come a block at a time, so that no more than a block is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Moments:
    """Those of all blocks so far; numbers, or arrays or tensors of one shape.

    One block gives back exactly its own figures; several are put together as by Chan, Golub and LeVeque (1983), which
    loses nothing where means are far from 0.

    Attributes:
        count: How many values there were.
        mean, variance: Of these, the variance by ``count``.
    """

    count: int = 0
    mean: Any = 0.0
    variance: Any = 0.0

    def add(self, count: int, mean: Any, variance: Any) -> None:
        """Takes a block of ``count`` values."""
        if not count:
            return
        self.count += count
        share, apart = count / self.count, mean - self.mean
        self.mean = self.mean + share * apart
        self.variance = (1.0 - share) * self.variance + share * variance + share * (1.0 - share) * apart * apart
