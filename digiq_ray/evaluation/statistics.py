"""How sure a success rate is: Wilson's interval, and Newcombe's interval for the difference of two rates.

Both hold for few episodes and for rates near 0 or 1, where the usual normal approximation gives intervals that are too
short or leave [0, 1]. Pure functions of counts; nothing here reads a store. The default ``z`` gives 95% intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from digiq_ray.core.errors import InputError

Z95 = 1.959964
"""Two-sided 95% quantile of the standard normal distribution."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Proportion:
    """``successes`` of ``n`` trials.

    Raises:
        InputError: there is no trial, or the successes are not between 0 and ``n``.
    """

    successes: int
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"a rate of {self.n} trials has no interval: score at least one episode")
        if not 0 <= self.successes <= self.n:
            raise InputError(f"{self.successes} successes of {self.n} trials cannot be: count again")

    @property
    def rate(self) -> float:
        """Share of successes, in [0, 1]."""
        return self.successes / self.n


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two rates, in [-1, 1], with its interval."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero, so that chance alone is an unlikely cause."""
        return self.low > 0 or self.high < 0


def wilson(successes: int, n: int, z: float = Z95) -> Interval:
    """Wilson's score interval of a rate; it lies in [0, 1] and holds ``successes / n``.

    Args:
        successes: Number of successes.
        n: Number of trials.
        z: Quantile of the standard normal distribution for the wanted confidence.

    Raises:
        InputError: ``n`` is 0, or the successes are not between 0 and ``n``.
    """
    rate = Proportion(successes, n).rate
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else min(rate, centre - half)
    high = 1.0 if successes == n else max(rate, centre + half)
    return low, high


def intervals_apart(a: Interval, b: Interval) -> bool:
    """Whether two intervals have no point in common."""
    return a[1] < b[0] or b[1] < a[0]


def difference(a: Proportion, b: Proportion, z: float = Z95) -> Difference:
    """The rate of ``a`` minus that of ``b``, with Newcombe's interval (1998, method 10).

    The two are taken as independent. Policies that are scored on the same tasks mostly do well on the same ones, so
    for them the interval is, if anything, too wide.
    """
    low_a, high_a = wilson(a.successes, a.n, z)
    low_b, high_b = wilson(b.successes, b.n, z)
    value = a.rate - b.rate
    return Difference(
        value=value,
        low=value - math.hypot(a.rate - low_a, high_b - b.rate),
        high=value + math.hypot(high_a - a.rate, b.rate - low_b),
    )
